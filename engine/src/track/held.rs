//! Frames of a publisher's leg that wait: sorted by number, bounded.
//!
//! Invariant: at most [`MAX_HELD`] frames, no number twice (I3).

use std::collections::VecDeque;
use std::time::Instant;

use super::arrived::Arrived;

/// The frames that wait on one leg.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By number: the position, or the extended sequence number while positions are not known.
    frames: VecDeque<(u64, Arrived)>,
}

impl Held {
    /// Keeps a frame; `false` if its number is kept already, or there is no room.
    pub(super) fn insert(&mut self, number: u64, frame: Arrived) -> bool {
        // Mostly at the end.
        let after = self.frames.iter().rev().take_while(|(held, _)| *held > number).count();
        let at = self.frames.len() - after;
        let twice = at.checked_sub(1).is_some_and(|before| self.frames[before].0 == number);
        if twice || self.is_full() {
            return false;
        }
        self.frames.insert(at, (number, frame));
        true
    }

    pub(super) fn front(&self) -> Option<(u64, &Arrived)> {
        self.frames.front().map(|(number, frame)| (*number, frame))
    }

    pub(super) fn pop(&mut self) -> Option<Arrived> {
        self.frames.pop_front().map(|(_, frame)| frame)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Arrived) -> bool) {
        self.frames.retain(|(_, frame)| keep(frame));
    }

    /// When the one that has waited longest came.
    pub(super) fn since(&self) -> Option<Instant> {
        self.frames.iter().map(|(_, frame)| frame.at).min()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arrived> {
        self.frames.iter().map(|(_, frame)| frame)
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.frames.len() >= MAX_HELD
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
    }
}

/// 450 ms of 2.5 ms frames are 180; a publisher that sends again what it has kept adds four times real time.
/// Memory: below 192 bytes each beside the payload, while two legs are open.
pub(super) const MAX_HELD: usize = 512;
