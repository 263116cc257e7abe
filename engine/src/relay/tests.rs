//! Behaviour of the relay as its owner sees it.

mod any_legs;
mod anything;
mod drain;
mod fan_out;
mod feeds;
mod harness;
mod hostile;
mod late;
mod lifecycle;
mod reports;
mod storms;
mod switching;
mod wants;
