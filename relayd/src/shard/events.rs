//! What the media thread tells the other planes: firsts, silences and losses, never packets.
//!
//! Nothing here is on a packet's way: a number per leg says which of its lines was told of, and an event that
//! does not fit its reader's queue is dropped and counted; but the end of something, which its reader waits for, is kept
//! until there is room.

use std::collections::VecDeque;
use std::time::Instant;

use relay_engine::{LegId, ListenerId, MediaTime, TrackId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Something that happened on a [`Shard`](super::Shard).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardEvent {
    /// The first packet of a publisher's leg reached its track; while the track is paused, not before it goes on. Once
    /// per leg, but for a reader that had no room for it: then every packet is said to be the first until all have been
    /// told, since somebody waits for it.
    FirstPacketIn {
        /// The track.
        track: TrackId,
        /// The publisher's leg.
        leg: LegId,
        /// When it was received.
        at: Instant,
    },
    /// The first packet to a listener's leg is on its way. Once per leg. What it says of the packet anchors the leg's
    /// line: index and position grow alike, timestamp and media time too.
    FirstPacketOut {
        /// The listener's leg.
        leg: LegId,
        /// When it was sealed.
        at: Instant,
        /// Rollover counter and sequence number.
        index: u64,
        /// The position that has this index.
        position: u64,
        /// The RTP timestamp.
        timestamp: u32,
        /// The media time that has this timestamp.
        media_time: MediaTime,
    },
    /// Indices and positions of a listener's leg are related anew from this packet on: it hears another track, or its
    /// track went on after a pause or a long way further on.
    LineStarted {
        /// The listener's leg.
        leg: LegId,
        /// Rollover counter and sequence number.
        index: u64,
        /// The position that has this index.
        position: u64,
        /// The RTP timestamp.
        timestamp: u32,
        /// The media time that has this timestamp.
        media_time: MediaTime,
    },
    /// Nothing more comes for a listener's leg, or is needed from a publisher's: another one has taken over. Its owner
    /// closes it.
    LegSpent {
        /// The leg that is not needed any more.
        leg: LegId,
        /// The leg that has taken over.
        to: LegId,
        /// The cut: the first position of the new leg alone.
        position: u64,
        /// Frames that the new leg brought a second time.
        replayed: u64,
        /// Frames that neither of them brought.
        gap_frames: u64,
    },
    /// A leg was closed, and not with its track.
    LegClosed {
        /// The leg.
        leg: LegId,
        /// Its track.
        track: TrackId,
        /// Where the other side may go on: for a listener, the first position that it is not known to have; for a
        /// publisher, the first that is missing. `None` before there was any.
        next: Option<u64>,
    },
    /// Frames of a track that never came, by no leg, and would be too late now.
    FramesLost {
        /// The track.
        track: TrackId,
        /// The position of the first.
        from: u64,
        /// How many.
        count: u64,
    },
    /// A track has media, for the first time or after a silence. Comes before the packets that it is about.
    TrackActive {
        /// The track.
        track: TrackId,
        /// When that was noticed.
        at: Instant,
    },
    /// A track has no media any more.
    TrackSilent {
        /// The track.
        track: TrackId,
    },
    /// A track was closed.
    TrackClosed {
        /// The track.
        track: TrackId,
    },
    /// Frames that a listener should have had and never will. Of the listeners of another shard that has stalled for
    /// longer than the history it is told once: of the one that feeds that shard.
    FramesSkipped {
        /// The listener's track.
        track: TrackId,
        /// The listener.
        listener: ListenerId,
        /// The position of the first.
        from: u64,
        /// How many.
        count: u64,
    },
}

impl ShardEvent {
    /// Somebody waits for it, and it is not told again: a leg that is never said to be spent or closed is kept for ever.
    const fn is_awaited(&self) -> bool {
        matches!(self, Self::LegSpent { .. } | Self::LegClosed { .. } | Self::TrackClosed { .. })
    }
}

/// Events that may wait for one reader; 64 bytes each.
pub const EVENT_QUEUE: usize = 4096;
/// Awaited events that are kept for one reader besides; 64 bytes each. One for each leg that a shard may have, and more.
const MOST_KEPT: usize = 65_536;
/// The most readers: sessions, metrics, and room for a test.
const MAX_READERS: usize = 4;

/// The readers of a shard's events.
#[derive(Debug, Default)]
pub(super) struct Readers {
    readers: Vec<Reader>,
    dropped: u64,
}

#[derive(Debug)]
struct Reader {
    queue: mpsc::Sender<ShardEvent>,
    /// Awaited events for which there was no room, in order. While there are some, no other overtakes them.
    kept: VecDeque<ShardEvent>,
}

impl Readers {
    /// One reader more, unless there are too many.
    pub(super) fn add(&mut self, queue: mpsc::Sender<ShardEvent>) {
        self.readers.retain(|reader| !reader.queue.is_closed());
        if self.readers.len() < MAX_READERS {
            self.readers.push(Reader { queue, kept: VecDeque::new() });
        }
    }

    /// Tells everybody who has room for it, and says whether all had. A reader that is gone misses nothing.
    pub(super) fn tell_all(&mut self, event: ShardEvent) -> bool {
        let before = self.dropped;
        self.tell(event);
        self.dropped == before
    }

    /// Tells everybody who has room for it; the others later, if it is awaited.
    pub(super) fn tell(&mut self, event: ShardEvent) {
        for reader in &mut self.readers {
            if !reader.tell(event) {
                self.dropped += 1;
            }
        }
    }

    /// Tells what was kept, as far as there is room now; whether something is left.
    pub(super) fn catch_up(&mut self) -> bool {
        let left = self.readers.iter_mut().filter_map(|reader| (!reader.catch_up()).then_some(()));
        left.count() > 0
    }

    /// The most that wait for one reader.
    pub(super) fn waiting(&self) -> usize {
        let of = |reader: &Reader| reader.queue.max_capacity() - reader.queue.capacity() + reader.kept.len();
        self.readers.iter().map(of).max().unwrap_or_default()
    }

    /// Events that did not fit a reader's queue.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Reader {
    /// Whether the event is told, or kept, or of no use.
    fn tell(&mut self, event: ShardEvent) -> bool {
        if self.catch_up() && !matches!(self.queue.try_send(event), Err(TrySendError::Full(_))) {
            return true;
        }
        let keeps = event.is_awaited() && self.kept.len() < MOST_KEPT;
        if keeps {
            self.kept.push_back(event);
        }
        keeps
    }

    /// Whether nothing is kept any more.
    fn catch_up(&mut self) -> bool {
        while let Some(&event) = self.kept.front() {
            match self.queue.try_send(event) {
                Ok(()) => drop(self.kept.pop_front()),
                Err(TrySendError::Full(_)) => return false,
                Err(TrySendError::Closed(_)) => self.kept = VecDeque::new(),
            }
        }
        true
    }
}

/// By slot, the line that the leg there is on, or that its first packet is still to be told of.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Vec<u64>,
}

/// What begins with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    Nothing,
    /// The leg's first line, and so the leg.
    Leg,
    /// Another line of the leg.
    Line,
}

impl Lines {
    /// No line: the leg's first packet is still to be told of.
    const WAITING: u64 = u64::MAX;

    /// A leg was opened.
    pub(super) fn open(&mut self, leg: LegId) {
        let slot = leg.slot();
        if slot >= self.lines.len() {
            self.lines.resize(slot + 1, 0);
        }
        self.lines[slot] = Self::WAITING;
    }

    /// Not everybody could be told: the next packet of the leg is a first one too.
    pub(super) fn again(&mut self, leg: LegId) {
        if let Some(line) = self.lines.get_mut(leg.slot()) {
            *line = Self::WAITING;
        }
    }

    /// A packet of the leg, on this line: what begins with it. What is replayed of an older line begins nothing.
    #[inline]
    pub(super) fn take(&mut self, leg: LegId, line: u64) -> Begins {
        let Some(current) = self.lines.get_mut(leg.slot()).filter(|current| **current != line) else {
            return Begins::Nothing;
        };
        if *current == Self::WAITING {
            *current = line;
            return Begins::Leg;
        }
        if line < *current {
            return Begins::Nothing;
        }
        *current = line;
        Begins::Line
    }
}
