//! What goes through the queues into the media thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use relay_engine::{
    CarriedFrame, Feedback, LegId, LegSpec, LegStats, ListenerId, ListenerStats, OpenError, Peer,
    ReplayError, SelectError, SwitchError, TrackId, TrackStats, UnknownListener, rtp,
};
use tokio::sync::{mpsc, oneshot};

use super::feed::{FeedLink, FeedSender};
use super::seat::Seat;
use super::{Egress, ShardEvent, ShardStats};

/// What is obeyed before any other command and is never lost: ends, pauses, and rings that are drained.
///
/// The queue has no bound of its own, since an order is never lost and nobody waits for it. What bounds it, however long
/// the shard takes none: a peer is closed once by whoever owns it, and while the shard stalls nothing new is opened; of
/// each track one pause waits, whose wish is read when it is obeyed; a ring or feed is drained once after each time that
/// the shard has found it full; a replica ends once. So there are at most two for each open track and replica, two for
/// each leg, one for each listener; 32 bytes each.
#[derive(Debug)]
pub(super) enum Order {
    Close {
        peer: Peer,
    },
    Pause {
        track: TrackId,
        wish: Arc<PauseWish>,
    },
    /// A ring or feed that was full has been drained to half.
    Drained {
        leg: LegId,
    },
    /// A replica gets nothing more from its home: it is closed after what it was fed.
    EndReplica {
        track: TrackId,
    },
}

/// Whether a track is to be paused, as was said last: however often that changes, one order waits for the shard.
#[derive(Debug, Default)]
pub(super) struct PauseWish {
    paused: AtomicBool,
    waiting: AtomicBool,
}

impl PauseWish {
    /// Says it; whether an order is to be given, because none waits.
    pub(super) fn say(&self, paused: bool) -> bool {
        self.paused.store(paused, Ordering::SeqCst);
        !self.waiting.swap(true, Ordering::SeqCst)
    }

    /// The order is obeyed: what is wished now. Who says something else from here on gives another one.
    pub(super) fn take(&self) -> bool {
        self.waiting.store(false, Ordering::SeqCst);
        self.paused.load(Ordering::SeqCst)
    }
}

/// Whether a command is done or given up, which the first to ask decides: so both sides know.
#[derive(Debug, Default)]
pub(super) struct Turn {
    taken: AtomicBool,
}

impl Turn {
    /// Whether it is the caller's: the thread does it then, or whoever asked gives it up.
    pub(super) fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::SeqCst)
    }
}

/// What the control and connection planes want. Waited for, not dropped.
#[derive(Debug)]
pub(super) enum Command {
    OpenTrack {
        name: String,
        reply: oneshot::Sender<Result<TrackId, OpenError>>,
    },
    OpenPublisher {
        track: TrackId,
        spec: LegSpec,
        reply: oneshot::Sender<Result<LegId, OpenError>>,
    },
    OpenListener {
        track: TrackId,
        spec: LegSpec,
        seat: Option<Seat>,
        reply: OpenedListener,
    },
    OpenReplica {
        name: String,
        of: TrackId,
        link: Arc<FeedLink>,
        reply: OpenedReplica,
    },
    OpenFeed {
        track: TrackId,
        sender: Box<FeedSender>,
        reply: OpenedFeed,
    },
    AwaitFed {
        track: TrackId,
        position: u64,
        reply: oneshot::Sender<()>,
    },
    LegUp {
        leg: LegId,
        egress: Box<Egress>,
    },
    PublisherUp {
        leg: LegId,
    },
    LegDown {
        leg: LegId,
    },
    LegPath {
        leg: LegId,
        destination: SocketAddr,
    },
    LegReturned {
        leg: LegId,
    },
    Listen {
        queue: mpsc::Sender<ShardEvent>,
    },
    Ping {
        reply: oneshot::Sender<()>,
    },
    Stats {
        reply: oneshot::Sender<ShardStats>,
    },
    TrackStats {
        track: TrackId,
        reply: oneshot::Sender<Option<TrackStats>>,
    },
    ListenerStats {
        listener: ListenerId,
        reply: oneshot::Sender<Option<ListenerStats>>,
    },
    LegStats {
        leg: LegId,
        reply: oneshot::Sender<Option<LegStats>>,
    },
    AddLeg {
        listener: ListenerId,
        spec: LegSpec,
        reply: oneshot::Sender<Result<LegId, OpenError>>,
    },
    Switch {
        leg: LegId,
        reply: oneshot::Sender<Result<(), SwitchError>>,
    },
    Select {
        listener: ListenerId,
        track: TrackId,
        seat: Option<Seat>,
        turn: Arc<Turn>,
        reply: oneshot::Sender<Result<(), SelectError>>,
    },
    PauseListener {
        listener: ListenerId,
        paused: bool,
        reply: oneshot::Sender<Result<(), UnknownListener>>,
    },
    Replay {
        leg: LegId,
        from: Option<u64>,
        reply: oneshot::Sender<Result<u64, ReplayError>>,
    },
    Shutdown,
    /// Takes nothing until the other end is dropped.
    #[cfg(test)]
    Stall {
        until: std::sync::mpsc::Receiver<()>,
    },
    /// Panics.
    #[cfg(test)]
    Fail,
}

type OpenedListener = oneshot::Sender<Result<(ListenerId, LegId), OpenError>>;
type OpenedReplica = oneshot::Sender<Result<(TrackId, LegId), OpenError>>;
type OpenedFeed = oneshot::Sender<Result<(ListenerId, Option<u64>), OpenError>>;

/// What an open command answers with.
pub(super) trait Opened {
    /// What to close when nobody wants it.
    fn peer(&self) -> Peer;
}

impl Opened for TrackId {
    fn peer(&self) -> Peer {
        Peer::Track(*self)
    }
}

impl Opened for LegId {
    fn peer(&self) -> Peer {
        Peer::Leg(*self)
    }
}

impl Opened for (ListenerId, LegId) {
    fn peer(&self) -> Peer {
        Peer::Listener(self.0)
    }
}

impl Opened for (TrackId, LegId) {
    fn peer(&self) -> Peer {
        Peer::Track(self.0)
    }
}

impl Opened for (ListenerId, Option<u64>) {
    fn peer(&self) -> Peer {
        Peer::Listener(self.0)
    }
}

/// What came from a peer. Dropped if the queue is full.
#[derive(Debug)]
pub(super) struct Media {
    pub(super) leg: LegId,
    pub(super) arrived: Instant,
    pub(super) payload: Payload,
}

#[derive(Debug)]
pub(super) enum Payload {
    Packet(rtp::Packet),
    Frame(CarriedFrame),
    Srtcp(Bytes),
    Feedback(Feedback),
    /// All that was handed in before is taken.
    Mark(oneshot::Sender<()>),
}
