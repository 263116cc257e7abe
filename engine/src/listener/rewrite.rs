//! A listener leg's own numbers: one SSRC for the leg's life, sequence and timestamp affine in position and media time.
//!
//! The index is the 48-bit SRTP one. It starts below 2^15, so that the far end guesses a rollover counter of 0
//! (RFC 3711 §3.3.1), and grows by exactly what the position grows: a hole stays a hole. One exception: a far end
//! cannot follow a step of 2^15 or more, since it guesses the rollover counter from the sequence number. After such a
//! step the index goes on as after a single lost packet, and the relation is affine again from there.
//!
//! Invariant: no two positions get the same index, and a higher position gets a higher one.

/// Positions to indices, media time to timestamps.
#[derive(Debug)]
pub(crate) struct Rewrite {
    /// The position that `start` stands for; `None` until the first one.
    anchor: Option<u64>,
    start: u64,
    /// One after the highest position so far.
    next: u64,
    timestamp_offset: u32,
}

impl Rewrite {
    /// Random start values, as RFC 3550 §5.1 wants them.
    pub(crate) fn new(random: &mut fastrand::Rng) -> Self {
        Self { anchor: None, start: random.u64(..MAX_STEP), next: 0, timestamp_offset: random.u32(..) }
    }

    /// The index of a position; `None` for one that this leg's numbers do not reach.
    pub(crate) fn index(&mut self, position: u64) -> Option<u64> {
        let anchor = *self.anchor.get_or_insert(position);
        let mut index = self.start + position.checked_sub(anchor)?;
        if position >= self.next {
            if anchor != position && position - self.next >= MAX_STEP - 1 {
                index = self.start + (self.next - 1 - anchor) + STEP_AFTER_GAP;
                (self.anchor, self.start) = (Some(position), index);
            }
            if index >= END {
                return None;
            }
            self.next = position + 1;
        }
        Some(index)
    }

    /// One after the highest position so far, if there was any.
    pub(crate) fn next_position(&self) -> Option<u64> {
        self.anchor.map(|_| self.next)
    }

    /// The timestamp of a media time.
    pub(crate) const fn timestamp(&self, media_ticks: u64) -> u32 {
        self.timestamp_offset.wrapping_add(media_ticks as u32)
    }
}

/// RFC 3711 §3.3.1: a receiver takes a sequence number to be within 2^15 of its highest.
const MAX_STEP: u64 = 1 << 15;
/// As if one packet were lost, so that it is seen as a loss and still as the same stream (RFC 3550 §A.1).
const STEP_AFTER_GAP: u64 = 2;
/// RFC 3711 §3.3.1: the index has 48 bits, and no key outlives them.
const END: u64 = 1 << 48;
