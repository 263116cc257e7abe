//! Why the connection plane refuses.

use std::net::SocketAddr;

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The socket could not be bound.
    #[error("cannot bind udp {address}: {error}")]
    Socket {
        /// What was to be bound.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// Bound to an unspecified address and nothing was configured to advertise.
    #[error("webrtc is bound to an unspecified address: set the addresses to advertise to peers")]
    NothingToAdvertise,
    /// An advertised address is unspecified or has another IP version than the socket.
    #[error("cannot advertise {0} to peers")]
    Advertise(SocketAddr),
    /// The certificate or the DTLS configuration could not be made.
    #[error("cannot set up dtls: {0}")]
    Dtls(String),
    /// The shard's thread could not be started.
    #[error("cannot start the media thread: {0}")]
    Shard(std::io::Error),
}

/// Why a peer may not join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The offer is not valid SDP, or lacks what every offer has: 400.
    #[error("malformed offer: {0}")]
    Malformed(String),
    /// The offer is valid but asks for what the relay does not do: 422.
    #[error("unsupported offer: {0}")]
    Unsupported(String),
    /// Too many joins are pending, or too many connections are open: 503.
    #[error(
        "there are as many connections, or joins not yet connected, as webrtc.max_connections or webrtc.max_pending allows"
    )]
    Capacity,
    /// The track is gone: 404.
    #[error("the track is gone")]
    TrackNotFound,
    /// The track has a publisher: 409.
    #[error("the track has a publisher")]
    PublisherExists,
    /// The listener that it was to be one more connection of is gone: 503, since asked again it comes as a new one.
    #[error("the listener is gone")]
    ListenerGone,
    /// The listener has two connections, one of which is about to go: 503.
    #[error("the listener has two connections already")]
    LegExists,
    /// Another speaker owns the track by now: 409.
    #[error("another speaker has taken over")]
    Fenced,
    /// The relay is stopping: 503.
    #[error("the relay is stopping")]
    Closed,
}

/// Why a PATCH or DELETE was refused; the connection goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// There is no such connection (any more): 404.
    #[error("no such connection")]
    NotFound,
    /// There was no `If-Match`: 428.
    #[error("if-match is required")]
    PreconditionRequired,
    /// The `If-Match` names another ICE session: 412.
    #[error("stale entity tag")]
    PreconditionFailed,
    /// The fragment does not parse, or does not fit the connection: 400.
    #[error("malformed fragment: {0}")]
    Malformed(String),
    /// ICE could not be restarted; the old ICE session goes on: 422.
    #[error("ice restart failed: {0}")]
    RestartFailed(String),
    /// The relay is stopping: 503.
    #[error("the relay is stopping")]
    Closed,
}
