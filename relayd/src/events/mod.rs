//! A session's events over a WebSocket, `relay.v1+json`: what is said in which order, without a socket.
//!
//! [`Protocol`] is the pure core: frames and ticks in, frames and a close out, `now` passed in. [`frame`] is what is
//! on the wire, [`ticket`] how a client comes back. The sockets are in `http::events`.

mod anchors;
mod followers;
pub mod frame;
pub mod protocol;
mod streams;
mod tally;
pub mod ticket;

pub use anchors::{Anchor, Anchors};
pub use followers::{Followers, unix_ms};
pub use frame::{ClientFrame, ServerFrame, Snapshot};
pub use protocol::{Following, Output, Protocol, Task, Welcomed};
pub use streams::{Listening, Place, Reader, StreamId, Streams, Topic, Topics};
pub use tally::{Sockets, Tally, TallyGuard};
pub use ticket::{Ticket, Tickets};

/// The name of the WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "relay.v1+json";

/// The AsyncAPI document of this protocol.
pub const ASYNCAPI: &str = include_str!("../../../docs/asyncapi.json");

#[cfg(test)]
pub(crate) mod asyncapi_tests;
