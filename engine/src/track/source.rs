//! A source: a run of packets whose sequence numbers and timestamps belong together.
//!
//! Within it, position and media time are affine in what the wire says, so holes stay holes and DTX gaps stay gaps.
//! A source ends where another one took over: from there on its numbers mean nothing on the track.

use super::arrived::Wire;
use crate::history::{History, Place};
use crate::rtp::seq::{Extend16, Extend32};
use crate::time::MediaTime;

/// One run of packets.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) ssrc: u32,
    sequence: Extend16,
    timestamp: Extend32,
    /// An extended sequence number and its position; older ones are not placed.
    first: (u64, u64),
    /// An extended timestamp and its media time; older ones are not placed.
    anchor: (u64, MediaTime),
    /// The position at which another source took over.
    end: u64,
}

/// How a sequence number lies to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Newer than all it brought.
    Ahead(u64),
    Behind(u64),
    BeforeStart,
    /// In sequence, but at or after the position where another source took over.
    PastEnd,
    Jump,
}

impl Source {
    /// A source whose first packet is at `position`.
    pub(super) fn new(wire: Wire, position: u64, media_time: MediaTime) -> Self {
        let (mut sequence, mut timestamp) = (Extend16::new(), Extend32::new());
        let first = (sequence.extend(wire.sequence), position);
        let anchor = (timestamp.extend(wire.timestamp), media_time);
        Self { ssrc: wire.ssrc, sequence, timestamp, first, anchor, end: u64::MAX }
    }

    /// A source whose next packet's place is known, and with it that of those before, back to position `oldest`.
    pub(super) fn through(wire: Wire, position: u64, media_time: MediaTime, oldest: u64) -> Self {
        let (mut sequence, mut timestamp) = (Extend16::new(), Extend32::new());
        let number = sequence.extend(wire.sequence.wrapping_sub(1)) + 1;
        let ticks = timestamp.extend(wire.timestamp.wrapping_sub(1)) + 1;
        let back = (position - oldest.min(position)).min(u64::from(u16::MAX) / 2);
        let first = (number - back, position - back);
        let back = media_time.ticks().min(ticks);
        let anchor = (ticks - back, MediaTime::from_ticks(media_time.ticks() - back));
        Self { ssrc: wire.ssrc, sequence, timestamp, first, anchor, end: u64::MAX }
    }

    pub(super) fn fit(&self, sequence: u16, history: &History) -> Fit {
        let (first, base) = self.first;
        let highest = self.highest();
        let extended = self.sequence.peek(sequence);
        if extended > highest {
            if extended - highest > MAX_DROPOUT {
                return Fit::Jump;
            }
            let position = base + (extended - first);
            return if position < self.end { Fit::Ahead(position) } else { Fit::PastEnd };
        }
        if extended < first {
            return if first - extended <= MAX_MISORDER { Fit::BeforeStart } else { Fit::Jump };
        }
        let position = base + (extended - first);
        if highest - extended > MAX_MISORDER && history.place(position) == Place::Gone {
            return Fit::Jump;
        }
        Fit::Behind(position)
    }

    /// The media time of a timestamp, unless it is from before the anchor.
    pub(super) fn media_time(&self, timestamp: u32) -> Option<MediaTime> {
        let (anchor, media_time) = self.anchor;
        self.timestamp.peek(timestamp).checked_sub(anchor).map(|ticks| media_time.plus(ticks))
    }

    /// Whether a packet is one of this source from long ago: sequence and timestamp are both behind, and go together.
    pub(super) fn is_past(&self, wire: Wire) -> bool {
        let extended = self.sequence.peek(wire.sequence);
        let ticks = self.timestamp.peek(wire.timestamp);
        let behind = self.highest().saturating_sub(extended);
        let earlier = self.timestamp.highest().unwrap_or(ticks).saturating_sub(ticks);
        extended >= self.first.0 && ticks >= self.anchor.0 && behind > 0 && earlier >= behind * SHORTEST_TICKS
    }

    /// Whether a packet is from before all of this source that is on the track, sequence and timestamp alike.
    pub(super) fn is_after(&self, wire: Wire) -> bool {
        let extended = self.sequence.peek(wire.sequence);
        let behind = self.highest().saturating_sub(extended);
        let ticks = self.timestamp.peek(wire.timestamp);
        let earlier = self.timestamp.highest().unwrap_or(ticks).saturating_sub(ticks);
        extended < self.first.0 && earlier >= behind * SHORTEST_TICKS && earlier <= LONGEST_TICKS
    }

    /// Whether a packet's number is after all that it brought.
    pub(super) fn is_before(&self, wire: Wire) -> bool {
        self.sequence.peek(wire.sequence) > self.highest()
    }

    /// The same as `is_after`, and not long before.
    pub(super) fn is_just_after(&self, wire: Wire) -> bool {
        let behind = self.first.0.saturating_sub(self.sequence.peek(wire.sequence));
        self.ssrc == wire.ssrc && self.is_after(wire) && behind <= MAX_MISORDER
    }

    /// The media time of a timestamp, also of one from before the anchor.
    pub(super) fn media_time_before(&self, timestamp: u32) -> MediaTime {
        let (anchor, media_time) = self.anchor;
        let ticks = i128::from(self.timestamp.peek(timestamp)) - i128::from(anchor);
        media_time.plus_signed(i64::try_from(ticks).unwrap_or(i64::MAX))
    }

    /// Whether a timestamp is after all that it brought.
    pub(super) fn is_later(&self, timestamp: u32) -> bool {
        self.timestamp.highest().is_none_or(|highest| self.timestamp.peek(timestamp) > highest)
    }

    /// Whether a packet is ahead by as much time as by numbers, at what one packet may hold.
    pub(super) fn is_in_step(&self, wire: Wire) -> bool {
        let ahead = self.sequence.peek(wire.sequence).saturating_sub(self.highest());
        let ticks = self.timestamp.peek(wire.timestamp);
        let later = ticks.saturating_sub(self.timestamp.highest().unwrap_or(ticks));
        (ahead * SHORTEST_TICKS..=ahead * MOST_TICKS).contains(&later)
    }

    /// Takes note of a packet of it.
    pub(super) fn note(&mut self, wire: Wire) {
        self.sequence.extend(wire.sequence);
        self.timestamp.extend(wire.timestamp);
    }

    /// From here on this timestamp is this media time: the publisher's clock was set anew.
    pub(super) fn anchor(&mut self, wire: Wire, media_time: MediaTime) {
        self.timestamp = Extend32::new();
        self.anchor = (self.timestamp.extend(wire.timestamp), media_time);
    }

    /// Another source takes over at `position`.
    pub(super) fn end_at(&mut self, position: u64) {
        self.end = self.end.min(position);
    }

    /// No other source has taken over after all, unless one did at `line`, where the newest on the track began.
    pub(super) fn reopen(&mut self, line: u64) {
        if self.end > line {
            self.end = u64::MAX;
        }
    }

    /// The sequence number of a position, if it is one of this source's.
    pub(super) fn sequence_of(&self, position: u64) -> Option<u16> {
        let (first, base) = self.first;
        let extended = first + position.checked_sub(base)?;
        (position < self.end && extended <= self.highest()).then_some(extended as u16)
    }

    /// The position of its first packet.
    pub(super) const fn base(&self) -> u64 {
        self.first.1
    }

    /// Whether no other source has taken over.
    pub(super) const fn is_open(&self) -> bool {
        self.end == u64::MAX
    }

    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// (media time − timestamp) in ticks, modulo 2^64, with the timestamp extended as in [`Extend32`].
    pub(super) fn offset(&self) -> (Extend32, i64) {
        let (timestamp, media_time) = self.anchor;
        (self.timestamp, media_time.ticks().wrapping_sub(timestamp).cast_signed())
    }

    fn highest(&self) -> u64 {
        self.sequence.highest().unwrap_or(self.first.0)
    }
}

/// RFC 3550 §A.1: a jump ahead up to this is loss.
pub(super) const MAX_DROPOUT: u64 = 3_000;
/// Opus' shortest frame, 2.5 ms.
const SHORTEST_TICKS: u64 = 120;
/// The longest packet, 120 ms.
const MOST_TICKS: u64 = 5_760;
/// What is sent again is at most this old, 60 s.
const LONGEST_TICKS: u64 = 2_880_000;
/// RFC 3550 §A.1: a step back up to this is reordering.
const MAX_MISORDER: u64 = 100;
