//! The connection plane: every WebRTC peer's ICE, DTLS and SDP, and the one UDP port they all talk to.
//!
//! [`Connections`] is a cheap handle on one actor (a thread of its own) that owns every connection. Receivers, a thread
//! for each socket on the port, say whose a datagram is and hand it on; handshakes run on threads of theirs and come
//! back when they are done. A listener's media does not pass here: when a connection is up its keys and address go to
//! the shard, which sends SRTP itself on a clone of the socket. What a publisher sends is decrypted by its `str0m::Rtc`, on the
//! thread that reads it, and handed to the shard as plaintext RTP.
//!
//! Invariants: a datagram reaches a stack only as an authenticated STUN binding or from an address that one has
//! validated; a connection's [`Record`] is made when it is accepted and dropped in exactly one place.

mod answer;
mod bind;
mod config;
mod connection;
pub mod demux;
pub mod dry_run;
pub mod egress;
mod error;
mod fragment;
mod handshakes;
mod ingest;
pub(crate) mod keys;
mod offer;
mod plane;
mod ports;
mod receiver;
mod routes;
mod snapshot;
pub mod srtp;
mod stack;
mod stun;
mod untold;
mod wheel;

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use relay_engine::{LegId, ListenerId, SelectError, TrackId};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::shard::{ShardError, Shards};
pub use bind::ConnectionsTask;
pub use config::WebRtcConfig;
pub use error::{BindError, JoinError, PatchError};
pub use fragment::MAX_FRAGMENT_BYTES;
pub use offer::MAX_OFFER_BYTES;
pub use snapshot::{Counters, Snapshot, StateCounts};

/// Handle on the connection plane; clones share one actor.
#[derive(Clone, Debug)]
pub struct Connections {
    commands: mpsc::Sender<Command>,
    local: SocketAddr,
    shard: Shards,
    /// By shard, held while a listener there is moved to another track.
    selecting: Arc<[Mutex<()>]>,
}

impl Connections {
    /// The address that the UDP port is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Answers a WHIP offer: the peer becomes the publisher of `join.track`.
    ///
    /// # Errors
    /// See [`JoinError`]; the record is dropped on every failure.
    pub async fn publish(&self, join: Join) -> Result<Joined, JoinError> {
        self.join(Role::Publisher, join).await
    }

    /// Answers a WHEP offer: the peer becomes a listener of `join.track`.
    ///
    /// # Errors
    /// See [`JoinError`]; the record is dropped on every failure.
    pub async fn listen(&self, join: Join) -> Result<Joined, JoinError> {
        self.join(Role::Listener, join).await
    }

    /// Takes a trickle or ICE restart fragment (RFC 8840, RFC 9725 §4.3) for a connection.
    ///
    /// # Errors
    /// See [`PatchError`]; none of them ends the connection.
    pub async fn patch(
        &self,
        leg: &ResourceId,
        if_match: IfMatch,
        fragment: String,
    ) -> Result<Patched, PatchError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Patch { resource: *leg, if_match, fragment, reply };
        self.commands.send(command).await.map_err(|_| PatchError::Closed)?;
        answer.await.map_err(|_| PatchError::Closed)?
    }

    /// Closes a connection with a DTLS `close_notify`; its record is told `reason`.
    ///
    /// # Errors
    /// [`PatchError::NotFound`] when there is no such connection (any more).
    pub async fn close(&self, leg: &ResourceId, reason: CloseReason) -> Result<(), PatchError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Close { resource: *leg, reason, reply };
        self.commands.send(command).await.map_err(|_| PatchError::Closed)?;
        answer.await.map_err(|_| PatchError::Closed)?
    }

    /// Closes every connection that feeds or hears a track, and tells how many there were; their records are told `reason`.
    pub async fn close_track(&self, track: TrackId, reason: CloseReason) -> usize {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::CloseTrack { track, reason, reply }).await.is_err() {
            return 0;
        }
        answer.await.unwrap_or(0)
    }

    /// Closes every connection whose leg or track is on the shard of this number, and tells how many there were; their
    /// records are told `reason`.
    pub async fn close_shard(&self, number: u8, reason: CloseReason) -> usize {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::CloseShard { number, reason, reply }).await.is_err() {
            return 0;
        }
        answer.await.unwrap_or(0)
    }

    /// Has a listener hear another track from now on, on the same connections: they are closed with that one, and no
    /// longer with the one that it joined. Done to the end even if the caller goes away.
    ///
    /// # Errors
    /// [`ShardError::Select`] if the engine refuses it, otherwise see [`ShardError`].
    pub async fn select(&self, listener: ListenerId, track: TrackId) -> Result<(), ShardError> {
        let this = self.clone();
        let selected = tokio::spawn(async move {
            // Of two at once, the same one is the last to both planes.
            let turn = this.selecting.get(usize::from(listener.relay()));
            let _turn = turn.ok_or(SelectError::UnknownListener(listener))?.lock().await;
            this.shard.select(listener, track).await?;
            // An actor that is gone has closed them all.
            let _gone = this.commands.send(Command::Selected { listener, track }).await.is_err();
            Ok(())
        });
        selected.await.unwrap_or(Err(ShardError::Closed))
    }

    /// Closes every connection with a DTLS `close_notify`, then the shard; a second call does nothing.
    pub async fn shutdown(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Shutdown { reply }).await.is_ok() {
            // A dropped reply means that the actor is gone: what was asked for.
            let _gone = answer.await;
        }
    }

    /// Whether the actor is gone: no join will ever be answered again.
    pub fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// Commands that wait for the actor.
    pub fn waiting(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    /// Counts by role and state, and every counter; all zero once the actor is gone.
    pub async fn snapshot(&self) -> Snapshot {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Snapshot { reply }).await.is_err() {
            return Snapshot::default();
        }
        answer.await.unwrap_or_default()
    }

    async fn join(&self, role: Role, join: Join) -> Result<Joined, JoinError> {
        // Read on the caller's task: a stranger's text costs the actor nothing.
        let offer = offer::inspect(&join.offer, role)?;
        let Join { offer: _, track, attach, left_at, epoch, record } = join;
        let accept = Accept { role, offer, track, attach, left_at, epoch, record };
        let (reply, answer) = oneshot::channel();
        let command = Command::Join { accept: Box::new(accept), reply };
        self.commands.send(command).await.map_err(|_| JoinError::Closed)?;
        answer.await.map_err(|_| JoinError::Closed)?
    }
}

/// What a peer asks to join with.
pub struct Join {
    /// The SDP offer as it came, unchecked.
    pub offer: String,
    /// The track to publish or to listen to.
    pub track: TrackId,
    /// What a listener's connection is to its listener; means nothing for a publisher.
    pub attach: Attach,
    /// Where the listener of [`Attach::Second`] was, should it be gone when the leg is opened: then the leg is the first of a
    /// new one that goes on from there. Without this the join is refused.
    pub left_at: Option<LeftAt>,
    /// The ownership that a publisher has of its track: those of lower ones are fenced. Means nothing for a listener.
    pub epoch: u64,
    /// Told of the connection's life, dropped when the connection is gone.
    pub record: Box<dyn Record>,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("track", &self.track).finish_non_exhaustive()
    }
}

/// Tells the first position that a listener who is gone is not known to have.
pub type LeftAt = Pin<Box<dyn Future<Output = Option<u64>> + Send>>;

/// What a connection is to its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// The first of a new listener.
    New {
        /// The first position that it wants; `None` for the live edge.
        resume_from: Option<u64>,
    },
    /// One more of a listener that has one: [`Shards::switch`](crate::shard::Shards::switch) moves it over, and the first
    /// may be closed once it is spent.
    Second {
        /// The listener, as the first one's [`Joined::listener`] says.
        listener: ListenerId,
    },
}

impl Default for Attach {
    fn default() -> Self {
        Self::New { resume_from: None }
    }
}

/// Whoever opened the connection learns of its life here; dropped exactly once, when the connection is gone,
/// however it ends.
pub trait Record: Send {
    /// The offer is taken and the connection exists: from now on it can be closed by this name. Called once, before
    /// anything else, unless the join is refused first.
    ///
    /// # Errors
    /// Why it is over already, if its place was taken away meanwhile: then the join is refused before it opens a leg.
    fn accepted(&mut self, resource: ResourceId) -> Result<(), CloseReason> {
        let _ = resource;
        Ok(())
    }

    /// The peer is connected: media may flow. Called at most once.
    fn connected(&mut self) {}

    /// The connection is over; the drop follows at once. Not called for a join that was refused.
    fn disconnected(&mut self, reason: CloseReason) {
        let _ = reason;
    }
}

/// A connection was accepted.
#[derive(Clone, PartialEq, Eq)]
pub struct Joined {
    /// Names the connection from now on; unguessable.
    pub resource: ResourceId,
    /// The SDP answer.
    pub answer: String,
    /// What the shard calls it, as in its events.
    pub leg: LegId,
    /// Its listener, unless it is a publisher's.
    pub listener: Option<ListenerId>,
    /// The track that it feeds or hears.
    pub track: TrackId,
    /// Entity tag of the ICE session, without quotes.
    pub etag: String,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The answer holds the ICE password.
        f.debug_struct("Joined").field("resource", &self.resource).finish_non_exhaustive()
    }
}

/// Names one connection: 128 random bits, written as 32 lower-case hex digits.
///
/// Whoever knows it may end the connection, so it is written whole to its owner alone: logs and `Debug` show the
/// first eight digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId(u128);

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceId({}…)", self.prefix())
    }
}

impl ResourceId {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// Enough of it to follow one connection through a log, and too little to PATCH or DELETE it.
    fn prefix(self) -> impl fmt::Display {
        fmt::from_fn(move |f| write!(f, "{:08x}", self.0 >> 96))
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ResourceId {
    type Err = ResourceIdError;

    fn from_str(text: &str) -> Result<Self, ResourceIdError> {
        let lower_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 32 || !lower_hex {
            return Err(ResourceIdError);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| ResourceIdError)
    }
}

/// The text is not a resource id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a resource id")]
pub struct ResourceIdError;

/// The `If-Match` header of a PATCH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// There was none.
    Missing,
    /// `*`: an ICE restart.
    Any,
    /// One entity tag, without quotes.
    Tag(String),
}

/// A PATCH was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patched {
    /// Candidates were taken: 204.
    Trickled,
    /// ICE was restarted: 200.
    Restarted {
        /// Entity tag of the new ICE session, without quotes.
        etag: String,
        /// Our new credentials and candidates, `application/trickle-ice-sdpfrag`.
        fragment: String,
    },
}

/// Which way a connection's media goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Media comes from the peer.
    Publisher,
    /// Media goes to the peer.
    Listener,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CloseReason {
    /// Its owner closed it (DELETE), or went away before it was answered.
    Deleted,
    /// Another speaker has taken its place.
    TakenOver,
    /// A newer connection of the same publisher or listener has taken over, as was asked for.
    Refreshed,
    /// It is older than connections get, and was not replaced.
    MaxAge,
    /// The relay has more to do than it can: it was one of the newest listeners.
    Overloaded,
    /// The token that it was opened with has expired and was not renewed.
    TokenExpired,
    /// Its session, or its language of the session, is over.
    SessionEnded,
    /// The peer closed it (DTLS `close_notify` or fatal alert).
    PeerClosed,
    /// No authenticated STUN binding came in time.
    IceTimeout,
    /// The DTLS handshake did not complete in time, although it was started over once: nothing of it arrived, or a
    /// forged hello ended the client's side of it.
    DtlsTimeout,
    /// The join as a whole took too long, or what was to take over from another connection has not done so in time.
    JoinTimeout,
    /// The peer was not heard of any more (ICE consent).
    ConsentLost,
    /// The peer broke the protocol (wrong certificate fingerprint, for one).
    Failed,
    /// A bug in the stack below; only this connection is lost.
    Panicked,
    /// The media thread that it was on, or that its track had its home on, has failed.
    MediaFailed,
    /// The relay is stopping.
    Shutdown,
}

enum Command {
    Join {
        accept: Box<Accept>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
    },
    Patch {
        resource: ResourceId,
        if_match: IfMatch,
        fragment: String,
        reply: oneshot::Sender<Result<Patched, PatchError>>,
    },
    Close {
        resource: ResourceId,
        reason: CloseReason,
        reply: oneshot::Sender<Result<(), PatchError>>,
    },
    CloseTrack {
        track: TrackId,
        reason: CloseReason,
        reply: oneshot::Sender<usize>,
    },
    CloseShard {
        number: u8,
        reason: CloseReason,
        reply: oneshot::Sender<usize>,
    },
    Selected {
        listener: ListenerId,
        track: TrackId,
    },
    Snapshot {
        reply: oneshot::Sender<Snapshot>,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// A join whose offer has been read.
struct Accept {
    role: Role,
    offer: offer::Offer,
    track: TrackId,
    attach: Attach,
    left_at: Option<LeftAt>,
    epoch: u64,
    record: Box<dyn Record>,
}

#[cfg(test)]
mod test_support {
    use std::time::{Instant, SystemTime};

    use relay_engine::{Config, Epoch, LegId, LegSpec, Relay, TrackId, TrackSpec};

    /// Some leg's id, and its track's.
    pub(super) fn leg() -> (LegId, TrackId) {
        let now = Instant::now();
        let mut relay = Relay::new(Config::default(), Epoch { instant: now, wall: SystemTime::now() }, 0);
        let track = relay.open_track(now, TrackSpec { name: "en".to_owned() }).unwrap();
        (relay.open_publisher_leg(now, track, LegSpec::new(111)).unwrap(), track)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_a_connection_stays_out_of_logs() {
        let resource = ResourceId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(resource.to_string(), "0123456789abcdef0123456789abcdef");
        assert_eq!(resource.to_string().parse(), Ok(resource));
        assert_eq!(resource.prefix().to_string(), "01234567");
        let (answer, etag) = ("a=ice-pwd:secret".to_owned(), "etag".to_owned());
        let (leg, track) = test_support::leg();
        let joined = Joined { resource, answer, etag, leg, listener: None, track };
        assert_eq!(format!("{joined:?}"), "Joined { resource: ResourceId(01234567…), .. }");
        let ice = offer::IceCredentials::new("user", "0123456789abcdefSECRET").unwrap();
        assert!(!format!("{ice:?}").contains("SECRET"));
    }
}
