//! Live audio relay daemon: one speaker, many listeners, over WebRTC or WebSocket.
//!
//! Three planes: control (`http`, `session`), connection (`webrtc`), media (`shard`).

pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod conversation;
pub mod daemon;
pub mod demo;
pub mod events;
pub mod heap;
pub mod http;
#[cfg(target_os = "linux")]
pub mod load;
pub mod media;
pub mod metrics;
pub mod outbound;
pub mod overload;
pub mod records;
pub mod session;
pub mod shard;
pub mod webhook;
pub mod webrtc;
