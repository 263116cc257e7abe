//! Behaviour, one topic per file.

mod auth;
mod cli;
mod corpus;
mod events;
mod http;
mod keys;
#[cfg(target_os = "linux")]
mod load;
mod lossless;
mod media;
mod offers;
mod overload;
mod records;
mod refresh;
mod restarts;
mod sim;
mod tidy;
mod webrtc;
