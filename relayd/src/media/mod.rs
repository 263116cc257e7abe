//! Media over a WebSocket, `relay.media.v1`, for networks without UDP: frames that carry their position.
//!
//! [`frame`] and [`message`] are what is on the wire, shared with the client.

pub mod frame;
pub mod message;

pub use frame::{MediaFrame, MediaFrameError};
pub use message::{ByeReason, ClientMessage, MediaHello, MediaRole, MediaWelcome, ServerMessage};

/// The name of the WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "relay.media.v1";
