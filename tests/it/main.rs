//! Behaviour, one topic per file.

mod cli;
mod corpus;
mod offers;
mod sim;
mod tidy;
mod webrtc;
