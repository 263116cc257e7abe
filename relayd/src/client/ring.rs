//! What a publisher keeps until the relay has it: the newest 30 s of frames, and where each connection is in them.
//!
//! The ring is trimmed at what the relay says is safe, and at its bound. The last frames that are safe stay: a new
//! connection begins with them, so that the relay finds the place where the stream goes on, though one is lost. A [`Cursor`] is one
//! connection's place: what is behind goes out oldest first at four times real time at most, and the newest frames take
//! their turn after it: nobody who listens gets them out of order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ogg::CLOCK_HZ;
use super::pace::{Stamp, duration};

/// Audio kept at most.
pub(super) const KEPT: Duration = Duration::from_secs(30);
/// The same in samples.
const KEPT_SAMPLES: u64 = KEPT.as_secs() * CLOCK_HZ as u64;
/// Frames kept at most, whatever their length: 30 s of 2.5 ms frames.
const MAX_FRAMES: usize = 12_000;
/// Frames that a new connection sends again though they are safe: their places are known to the relay, and tell it those
/// of the frames after them.
const ANCHORS: u64 = 3;
/// How much faster than real time a connection catches up.
const CATCH_UP: u32 = 4;
/// Acknowledgements come each 100 ms: this long without one, while some are due, is a packet lost without a successor.
const REPAIR_AFTER: Duration = Duration::from_millis(250);
/// Frames sent again at once for that.
const REPAIRED: u64 = 8;

/// A frame that is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// Its times.
    pub stamp: Stamp,
    /// Samples from the start of the stream to its first one.
    pub at: u64,
    /// Its samples.
    pub samples: u32,
    /// The Opus packet.
    pub payload: Bytes,
}

/// Frames by their number, which counts from the start of publishing.
#[derive(Debug, Default)]
pub(super) struct Ring {
    frames: VecDeque<Kept>,
    /// Number of the first frame kept.
    first: u64,
    /// All frames up to and with this one are where they should be.
    safe: Option<u64>,
    dropped: u64,
}

impl Ring {
    /// Adds the newest frame; returns its number.
    pub(super) fn push(&mut self, frame: Kept) -> u64 {
        let end = frame.at + u64::from(frame.samples);
        self.frames.push_back(frame);
        while self.frames.front().is_some_and(|oldest| end - oldest.at > KEPT_SAMPLES)
            || self.frames.len() > MAX_FRAMES
        {
            // The anchors are no loss: they are safe.
            self.dropped += u64::from(self.safe.is_none_or(|safe| safe < self.first));
            self.frames.pop_front();
            self.first += 1;
        }
        self.end() - 1
    }

    /// The relay has everything up to and with this frame.
    pub(super) fn ack(&mut self, number: u64) {
        // A frame that does not exist is nobody's to acknowledge.
        if number >= self.end() || self.safe.is_some_and(|safe| safe >= number) {
            return;
        }
        self.safe = Some(number);
        while self.first + ANCHORS <= number && self.frames.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// A frame, if it is still kept.
    pub(super) fn get(&self, number: u64) -> Option<&Kept> {
        self.frames.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Where a new connection begins: with the last safe frames, which tell the relay where it is.
    pub(super) fn anchor(&self) -> u64 {
        self.safe.map_or(0, |safe| (safe + 1).saturating_sub(ANCHORS)).max(self.first)
    }

    /// One past the newest frame.
    pub(super) fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    /// The last frame that is safe.
    pub(super) fn safe(&self) -> Option<u64> {
        self.safe
    }

    /// Frames that are not safe yet.
    pub(super) fn waiting(&self) -> u64 {
        self.end() - self.safe.map_or(self.first, |safe| safe + 1).max(self.first)
    }

    /// Frames that were dropped before they were safe.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// One connection's place in the ring.
#[derive(Debug)]
pub(super) struct Cursor {
    next: u64,
    /// When the next frame may go out.
    due: Option<Instant>,
    /// Asked for again, by number.
    again: VecDeque<u64>,
    /// When something was acknowledged last, or everything was.
    progress: Instant,
    /// The last acknowledged frame of this connection.
    acked: Option<u64>,
    repaired: Option<Instant>,
    resent: u64,
}

impl Cursor {
    /// A connection that has just come up.
    pub(super) fn new(now: Instant, ring: &Ring) -> Self {
        Self {
            next: ring.anchor(),
            due: None,
            again: VecDeque::new(),
            progress: now,
            acked: None,
            repaired: None,
            resent: 0,
        }
    }

    /// The relay asks for a frame again.
    pub(super) fn ask_again(&mut self, number: u64) {
        if number < self.next && self.again.len() < 256 && !self.again.contains(&number) {
            self.again.push_back(number);
        }
    }

    /// The relay has everything up to and with this frame of this connection.
    pub(super) fn ack(&mut self, now: Instant, number: u64) {
        if number < self.next && self.acked.is_none_or(|acked| acked < number) {
            self.acked = Some(number);
            self.progress = now;
        }
    }

    /// The next frame to send, if one may go out now.
    pub(super) fn poll(&mut self, now: Instant, ring: &Ring) -> Option<u64> {
        while let Some(number) = self.again.pop_front() {
            if ring.get(number).is_some() && ring.safe().is_none_or(|safe| safe < number) {
                self.resent += 1;
                return Some(number);
            }
        }
        // What was dropped cannot be sent: it was counted.
        self.next = self.next.max(ring.anchor().min(ring.end()));
        let frame = ring.get(self.next)?;
        if self.due.is_some_and(|due| now < due) {
            return None;
        }
        if self.acked.is_some_and(|acked| acked + 1 == self.next) {
            // Nothing was outstanding: the time to answer begins now.
            self.progress = now;
        }
        self.due = Some(self.due.map_or(now, |due| due.max(now.checked_sub(STEP).unwrap_or(due))))
            .map(|due| due + duration(frame.samples.into()) / CATCH_UP);
        self.next += 1;
        Some(self.next - 1)
    }

    /// When [`poll`](Self::poll) has something.
    pub(super) fn wake(&self, ring: &Ring) -> Option<Instant> {
        ring.get(self.next.max(ring.anchor())).and(self.due)
    }

    /// How long answers have been due on this connection; zero if none is.
    pub(super) fn silent(&self, now: Instant, ring: &Ring) -> Duration {
        if ring.safe().is_some_and(|safe| safe + 1 >= self.next) {
            return Duration::ZERO;
        }
        now.saturating_duration_since(self.progress)
    }

    /// Sends the first frames that are not acknowledged again, if that has been due for long: the last of a run of
    /// packets has no successor by which the relay would miss it.
    pub(super) fn repair(&mut self, now: Instant, ring: &Ring) {
        let due = self.repaired.is_none_or(|at| now >= at + REPAIR_AFTER);
        // What is safe was acknowledged too, on the connection before.
        let Some(acked) = self.acked.max(ring.safe()) else { return };
        if due && self.silent(now, ring) >= REPAIR_AFTER {
            self.repaired = Some(now);
            let first = acked + 1;
            (first..self.next.min(first + REPAIRED)).for_each(|number| self.ask_again(number));
        }
    }

    /// Frames behind the newest.
    #[cfg(test)]
    fn behind(&self, ring: &Ring) -> u64 {
        ring.end().saturating_sub(self.next)
    }

    /// Frames sent again on this connection because they were asked for or not acknowledged.
    pub(super) fn resent(&self) -> u64 {
        self.resent
    }
}

/// How late a frame may be sent without its successor being late for it.
const STEP: Duration = Duration::from_millis(20);

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
