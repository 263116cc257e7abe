//! Where the lines of listeners' legs begin, kept for those who ask later: the newest of each leg.
//!
//! The media plane tells them once, mostly before a client has named its connection on a socket. At most
//! [`MAX_ANCHORS`] legs of 100 bytes are kept; beyond, the leg goes first that was opened longest ago.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_engine::LegId;
use tokio::sync::watch;

use crate::shard::ShardEvent;

/// The anchors of all legs. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Anchors {
    legs: Arc<Mutex<BTreeMap<LegId, watch::Sender<Option<Anchor>>>>>,
}

/// A packet of a listener's leg: what its line is told from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Rollover counter and sequence number.
    pub index: u64,
    /// The position that has this index.
    pub position: u64,
    /// The RTP timestamp.
    pub timestamp: u32,
    /// The media time that has this timestamp, in ticks.
    pub media_time: u64,
}

impl Anchors {
    /// Something happened on the media plane.
    pub fn handle_shard_event(&self, event: &ShardEvent) {
        match *event {
            ShardEvent::FirstPacketOut { leg, index, position, timestamp, media_time, .. }
            | ShardEvent::LineStarted { leg, index, position, timestamp, media_time } => {
                let anchor = Anchor { index, position, timestamp, media_time: media_time.ticks() };
                self.with(leg, |anchors| anchors.send_replace(Some(anchor)));
            }
            ShardEvent::LegClosed { leg, .. } => self.forget(leg),
            _ => {}
        }
    }

    /// The newest anchor of a leg, and those that follow; of several at once only the newest.
    pub fn follow(&self, leg: LegId) -> watch::Receiver<Option<Anchor>> {
        let mut anchors = self.with(leg, watch::Sender::subscribe);
        anchors.mark_changed();
        anchors
    }

    /// A leg is closed: nothing comes of it any more.
    pub fn forget(&self, leg: LegId) {
        self.legs().remove(&leg);
    }

    /// Of how many legs there are some.
    pub fn len(&self) -> usize {
        self.legs().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.legs().is_empty()
    }

    fn with<T>(&self, leg: LegId, then: impl FnOnce(&watch::Sender<Option<Anchor>>) -> T) -> T {
        let mut legs = self.legs();
        if legs.len() >= MAX_ANCHORS && !legs.contains_key(&leg) {
            legs.pop_first();
        }
        then(legs.entry(leg).or_default())
    }

    fn legs(&self) -> MutexGuard<'_, BTreeMap<LegId, watch::Sender<Option<Anchor>>>> {
        // Every change under the lock is complete in itself.
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Legs whose anchors are kept.
const MAX_ANCHORS: usize = 65_536;
