//! WHIP and WHEP clients (RFC 9725): what `relayd publish` and `relayd listen` run, and what tests speak to the daemon with.
//!
//! Connections are replaced without loss where the server is a relay of ours: what is published is kept until it is
//! acknowledged, what is heard is put together by position. See `leg` for one connection, `legs` for which there are,
//! `ring` and `merge` for what goes in and comes out.
//!
//! Both calls block until they are done or stopped; media runs on a small runtime of their own, so that any number of
//! clients can run in one process, a thread each. WebRTC is str0m with full ICE in RTP mode: packets go in and come
//! out as they are on the wire. Not here: the terminal, which is `cli`'s.

mod address;
mod backoff;
mod connections;
mod http;
mod leg;
mod legs;
pub(crate) mod line;
mod listen;
mod merge;
pub mod ogg;
mod order;
pub mod pace;
mod peer;
mod publish;
mod reception;
mod recording;
mod ring;
mod stop;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::media::ByeReason;

pub use self::address::{AddressError, Role};
pub(crate) use self::address::{bind_towards, parse as parse_address, without_userinfo};
pub(crate) use self::http::{Credentials, Endpoint, Resource, keeping_agent};
pub use self::http::{HttpError, Problem};
pub use self::listen::{ListenOptions, ListenReport, Switches, listen};
pub use self::order::{RefreshOrder, order_refresh};
pub use self::peer::PeerError;
pub use self::publish::{PublishOptions, PublishReport, RemoteReport, publish};
pub use self::reception::ReceptionStats;
pub use self::stop::Stop;

/// The largest file that is published: hours of speech, and a bound on memory.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Reads a whole Ogg Opus file.
///
/// # Errors
///
/// [`ClientError::File`] with what is wrong with it.
pub fn read_file(path: &Path) -> Result<Arc<[ogg::Packet]>, ClientError> {
    let io = |error: std::io::Error| ClientError::File(ogg::ReadError::Io(error.kind()));
    let file = std::fs::File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(ClientError::FileTooLarge { bytes });
    }
    let packets = ogg::Reader::new(std::io::BufReader::new(file)).and_then(ogg::Reader::read_all);
    Ok(packets.map_err(ClientError::File)?.into())
}

/// A runtime for one client's sockets and timers, on the caller's thread.
fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let built = builder.enable_io().enable_time().build();
    built.map_err(|error| PeerError::Socket(error.kind()).into())
}

/// What a relay's goodbye means to a person.
fn why(reason: ByeReason) -> &'static str {
    match reason {
        ByeReason::Closed => "it was asked to",
        ByeReason::Refreshed => "another connection of this client has taken over",
        ByeReason::Overloaded => "the relay has more to do than it can",
        ByeReason::Ended => "the session or its language has ended",
        ByeReason::Displaced => "another publisher has taken the place",
        ByeReason::Expired => "the token has expired",
        ByeReason::MaxAge => "it is as old as connections get there",
        ByeReason::Drain => "the relay is stopping",
        ByeReason::Failed => "the relay failed",
    }
}

/// Why publishing or listening did not end well.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is not one to publish or listen at.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The file to publish cannot be used.
    #[error("{0}")]
    File(ogg::ReadError),
    /// The file to publish does not fit in memory as configured.
    #[error("the file has {bytes} bytes; at most {MAX_FILE_BYTES} can be published")]
    FileTooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The signalling failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The media connection failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The file of certificate authorities cannot be used.
    #[error("certificate authorities: {0}")]
    Authorities(String),
    /// The relay has ended the connection, and said why.
    #[error("the relay closed the connection: {}", why(*.0))]
    Bye(ByeReason),
    /// The recording cannot be written.
    #[error("the recording: {0}")]
    Output(#[from] ogg::WriteError),
    /// Connected, and nothing was heard until the end.
    #[error("connected, but no audio was received; is anybody speaking?")]
    NoAudio,
}

#[cfg(test)]
mod connection_tests;
#[cfg(test)]
mod restart_tests;
