//! Behaviour of the relay as its owner sees it.

mod fan_out;
mod harness;
