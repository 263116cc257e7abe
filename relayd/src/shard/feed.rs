//! The way of a track's frames from its home to another shard.
//!
//! Each shard has one bounded queue for all that other shards feed it. A feed is a listener of the home whose frames go
//! into that queue with position, media time and time of arrival, and come out as those of a publisher's leg. A frame
//! that finds the queue full is not taken: the feed's leg is held, the home's history keeps its place, and it goes on
//! when the queue is drained to half. So a shard that stalls holds up nobody, and has lost nothing when it goes on
//! within the history.
//!
//! Invariants: a stall that has ended is always told (I4); a feed that ends ends its replica, after what it had handed in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use relay_engine::{CarriedFrame, LegId, OutboundPacket, TrackId};

use super::command::Order;
use super::ring::Pushed;

/// A frame for a replica.
#[derive(Debug)]
pub(super) struct Fed {
    /// The replica's publisher leg.
    pub(super) leg: LegId,
    /// When the home received it.
    pub(super) arrived: Instant,
    /// It came since the feed was opened: it is not handed over with the history.
    pub(super) live: bool,
    pub(super) frame: CarriedFrame,
}

/// What other shards hold of a shard's queue.
#[derive(Debug, Clone)]
pub(super) struct Inlet {
    queue: Sender<Fed>,
    stalled: Arc<AtomicBool>,
}

/// What the shard holds of it.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) queue: Receiver<Fed>,
    /// Some feed waits for room.
    stalled: Arc<AtomicBool>,
    half: usize,
}

/// A queue for at most `capacity` frames (at least 2): some 150 bytes each and their payloads.
pub(super) fn inlet(capacity: usize) -> (Inlet, Outlet) {
    let capacity = capacity.max(2);
    let (sender, queue) = bounded(capacity);
    let stalled = Arc::<AtomicBool>::default();
    let outlet = Outlet { queue, stalled: Arc::clone(&stalled), half: capacity / 2 };
    (Inlet { queue: sender, stalled }, outlet)
}

impl Outlet {
    /// Whether feeds that wait for room are to be told now that there is some.
    pub(super) fn has_room_again(&self) -> bool {
        self.stalled.load(Ordering::SeqCst)
            && self.queue.len() <= self.half
            && self.stalled.swap(false, Ordering::SeqCst)
    }
}

/// What both ends know of one feed.
#[derive(Debug)]
pub(super) struct FeedLink {
    stalled: AtomicBool,
    /// Of the home.
    orders: Sender<Order>,
    /// The feed's leg there.
    leg: OnceLock<LegId>,
}

impl FeedLink {
    pub(super) fn new(orders: Sender<Order>) -> Arc<Self> {
        Arc::new(Self { stalled: AtomicBool::new(false), orders, leg: OnceLock::new() })
    }

    /// There is room again: the home is told, once, if the feed waits for it.
    pub(super) fn go_on(&self) {
        if self.stalled.swap(false, Ordering::SeqCst)
            && let Some(&leg) = self.leg.get()
        {
            // A home that has ended feeds nobody.
            drop(self.orders.send(Order::Drained { leg }));
        }
    }
}

/// The home's end of a feed. Dropped, it ends the replica.
#[derive(Debug)]
pub(super) struct FeedSender {
    link: Arc<FeedLink>,
    inlet: Inlet,
    /// The replica's publisher leg.
    leg: LegId,
    replica: TrackId,
    /// Of the replica's shard.
    orders: Sender<Order>,
    /// Since when it feeds.
    opened: Option<Instant>,
    /// The position that found no room since the last stall ended.
    refused: Option<u64>,
    /// Payloads are cut off its front; it is used again when they are gone.
    chunk: BytesMut,
}

impl FeedSender {
    /// The feed of a replica, its track and publisher leg, by the inlet and the orders of its shard.
    pub(super) fn new(
        link: Arc<FeedLink>,
        (replica, leg): (TrackId, LegId),
        inlet: Inlet,
        orders: Sender<Order>,
    ) -> Self {
        Self { link, inlet, leg, replica, orders, opened: None, refused: None, chunk: BytesMut::new() }
    }

    /// It is fed by this leg at home from now on.
    pub(super) fn open(&mut self, now: Instant, leg: LegId) {
        self.opened = Some(now);
        self.link.leg.get_or_init(|| leg);
    }

    /// Hands in a frame.
    pub(super) fn push(&mut self, packet: &OutboundPacket<'_>) -> Pushed {
        let frame = &packet.frame;
        if self.inlet.queue.is_full() {
            return self.stall(frame.position);
        }
        let carried = frame.carried(self.copy(frame.payload));
        let live = self.opened.is_some_and(|opened| opened <= frame.arrived);
        match self.inlet.queue.try_send(Fed { leg: self.leg, arrived: frame.arrived, live, frame: carried }) {
            Ok(()) => Pushed::Taken,
            Err(TrySendError::Full(_)) => self.stall(frame.position),
            Err(TrySendError::Disconnected(_)) => Pushed::Closed,
        }
    }

    /// The stall has ended: the position that found no room.
    pub(super) fn take_refused(&mut self) -> Option<u64> {
        self.refused.take()
    }

    fn stall(&mut self, position: u64) -> Pushed {
        self.refused.get_or_insert(position);
        self.link.stalled.store(true, Ordering::SeqCst);
        self.inlet.stalled.store(true, Ordering::SeqCst);
        // The shard may have taken it all before it could see that.
        let half = self.inlet.queue.capacity().map_or(0, |capacity| capacity / 2);
        if self.inlet.queue.len() <= half {
            self.link.go_on();
        }
        Pushed::Full
    }

    /// One allocation for many payloads.
    fn copy(&mut self, payload: &[u8]) -> Bytes {
        if self.chunk.capacity() < payload.len() {
            self.chunk.reserve(payload.len().max(CHUNK));
        }
        self.chunk.extend_from_slice(payload);
        self.chunk.split().freeze()
    }
}

impl Drop for FeedSender {
    fn drop(&mut self) {
        // A shard that has ended has ended its replicas.
        drop(self.orders.send(Order::EndReplica { track: self.replica }));
    }
}

/// Bytes of payloads that are allocated at once.
const CHUNK: usize = 32 * 1024;
