//! Media over a WebSocket, `relay.media.v1`, for networks without UDP: frames that carry their position.
//!
//! [`frame`] and [`message`] are what is on the wire, shared with the client; [`Protocol`] is the relay's side of the
//! conversation, pure: messages and ticks in, messages and a close out, `now` passed in. The sockets are in
//! `http::media`.

pub mod frame;
pub mod message;
pub mod protocol;

pub use frame::{MediaFrame, MediaFrameError};
pub use message::{ByeReason, ClientMessage, MediaHello, MediaRole, MediaWelcome, ServerMessage};
pub use protocol::{Media, Output, Protocol, Task};

/// The name of the WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "relay.media.v1";

#[cfg(test)]
mod asyncapi_tests;
