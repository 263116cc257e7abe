//! A track's newest frames: a ring by position, and the order in which they arrived.
//!
//! A frame is stored once and read by every listener. The ring runs from the oldest position held to the newest,
//! holes included, so a position is found by subtraction. Beside it an arrival log says which position came as the
//! n-th: pass-through listeners run over arrivals, so what came out of order goes out so.
//!
//! Invariants: the ring's front is never a hole; no position is stored twice (I1 rests on it); frames, duration and
//! payload bytes stay within their limits, except that the newest position always stays (I3). Both rings start
//! empty, grow by doubling to their bound and never beyond, so the steady state allocates nothing.

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::HistoryLimits;
use crate::io::Frame;

/// The frames of one track.
#[derive(Debug)]
pub(crate) struct History {
    limits: HistoryLimits,
    /// Positions `oldest ..`, `None` for a hole. Front and back are frames.
    ring: VecDeque<Option<Frame>>,
    /// The position of the front; of the next frame while nothing is held.
    oldest: u64,
    /// The positions of arrivals `first_arrival ..`, in the order they came.
    arrivals: VecDeque<u64>,
    first_arrival: u64,
    frames: usize,
    payload_bytes: usize,
}

/// What the history says of a position before a frame is pushed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At or before the newest, and not held: a late frame may fill it.
    Hole,
    /// After the newest.
    New,
    /// Held already.
    Taken,
    /// Before the oldest: gone, or never came.
    Gone,
}

impl History {
    pub(crate) const fn new(limits: HistoryLimits) -> Self {
        Self {
            limits,
            ring: VecDeque::new(),
            oldest: 0,
            arrivals: VecDeque::new(),
            first_arrival: 0,
            frames: 0,
            payload_bytes: 0,
        }
    }

    /// Stores a frame whose place is [`Place::Hole`] or [`Place::New`] and returns its arrival number.
    pub(crate) fn push(&mut self, frame: Frame) -> u64 {
        let position = frame.position;
        let arrived = frame.arrived;
        debug_assert!(matches!(self.place(position), Place::Hole | Place::New), "I1: {position} twice");
        if position >= self.end() {
            self.make_room(position);
        }
        self.payload_bytes += frame.payload.len();
        self.frames += 1;
        let index =
            usize::try_from(position - self.oldest).expect("make_room keeps the span within its limit");
        while self.ring.len() <= index {
            self.ring.push_back(None);
        }
        self.ring[index] = Some(frame);
        self.log(position);
        self.evict(arrived);
        self.next_arrival() - 1
    }

    /// What is known of a position.
    pub(crate) fn place(&self, position: u64) -> Place {
        if position >= self.end() {
            Place::New
        } else if position < self.oldest {
            Place::Gone
        } else if self.get(position).is_some() {
            Place::Taken
        } else {
            Place::Hole
        }
    }

    /// The frame at a position, if it is held.
    pub(crate) fn get(&self, position: u64) -> Option<&Frame> {
        let index = usize::try_from(position.checked_sub(self.oldest)?).ok()?;
        self.ring.get(index)?.as_ref()
    }

    /// The position that came as the `arrival`-th, if its frame is still held.
    pub(crate) fn arrival(&self, arrival: u64) -> Option<u64> {
        let index = usize::try_from(arrival.checked_sub(self.first_arrival)?).ok()?;
        let &position = self.arrivals.get(index)?;
        (position >= self.oldest).then_some(position)
    }

    /// The oldest arrival that may still be read.
    pub(crate) const fn first_arrival(&self) -> u64 {
        self.first_arrival
    }

    /// The number that the next arrival will have.
    pub(crate) fn next_arrival(&self) -> u64 {
        self.first_arrival + self.arrivals.len() as u64
    }

    /// The oldest position held.
    pub(crate) fn oldest(&self) -> Option<u64> {
        (!self.ring.is_empty()).then_some(self.oldest)
    }

    /// Frames held.
    pub(crate) const fn frames(&self) -> usize {
        self.frames
    }

    /// Payload bytes held.
    pub(crate) const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// One after the newest position held.
    fn end(&self) -> u64 {
        self.oldest + self.ring.len() as u64
    }

    fn span_limit(&self) -> u64 {
        self.limits.frames as u64
    }

    /// Drops what is too old to be held together with `position`, before the ring grows to it.
    fn make_room(&mut self, position: u64) {
        let oldest = (position + 1).saturating_sub(self.span_limit());
        while self.oldest < oldest && !self.ring.is_empty() {
            self.drop_oldest();
        }
        if self.ring.is_empty() {
            self.oldest = position;
        }
    }

    fn evict(&mut self, now: Instant) {
        while self.ring.len() > 1 && self.over_limit(now) {
            self.drop_oldest();
        }
    }

    fn over_limit(&self, now: Instant) -> bool {
        let oldest = self.ring.front().and_then(Option::as_ref).expect("the front is never a hole");
        self.payload_bytes > self.limits.payload_bytes
            || now.saturating_duration_since(oldest.arrived) > self.limits.duration
    }

    /// Drops the oldest frame and the holes after it.
    fn drop_oldest(&mut self) {
        if let Some(frame) = self.ring.pop_front().flatten() {
            self.frames -= 1;
            self.payload_bytes -= frame.payload.len();
        }
        self.oldest += 1;
        while let Some(None) = self.ring.front() {
            self.ring.pop_front();
            self.oldest += 1;
        }
    }

    fn log(&mut self, position: u64) {
        // I3. What is popped is gone from the ring, or is the oldest of more arrivals than the ring has places.
        while self.arrivals.len() >= self.limits.frames
            || self.arrivals.front().is_some_and(|&oldest| oldest < self.oldest)
        {
            self.arrivals.pop_front();
            self.first_arrival += 1;
        }
        self.arrivals.push_back(position);
    }
}
