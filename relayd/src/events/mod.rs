//! A session's events over a WebSocket, `relay.v1+json`: what is said in which order, without a socket.
//!
//! [`Protocol`] is the pure core: frames and ticks in, frames and a close out, `now` passed in. [`frame`] is what is
//! on the wire, [`close`] how it ends, [`ticket`] how a client comes back. The sockets are in `http::events`.

mod anchors;
pub mod close;
mod followers;
pub mod frame;
pub mod protocol;
mod rate;
mod streams;
mod tally;
pub mod ticket;

pub use anchors::{Anchor, Anchors};
pub use close::{Close, CloseCode};
pub use followers::{Followers, unix_ms};
pub use frame::{ClientFrame, FrameError, ServerFrame, Snapshot};
pub use protocol::{Output, Protocol, Timing, Welcomed};
pub use rate::Rate;
pub use streams::{Listening, Place, Reader, StreamId, Streams, Topic, Topics};
pub use tally::{Sockets, Tally, TallyGuard};
pub use ticket::{Ticket, Tickets};

/// The name of the WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "relay.v1+json";

/// The AsyncAPI document of this protocol.
pub const ASYNCAPI: &str = include_str!("../../../docs/asyncapi.json");

#[cfg(test)]
pub(crate) mod asyncapi_tests;
