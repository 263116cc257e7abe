//! The numbers of one listener's leg: what it is sent must be what one RTP stream, and one SRTP key, may be sent.

use std::collections::HashMap;

use relay_engine::{LegId, LegState};

use super::seen::Handed;
use crate::oracle::{Check, ensure};

/// A leg of a listener.
pub(super) struct EarLeg {
    pub(super) id: LegId,
    pub(super) state: LegState,
    pub(super) resume_from: Option<u64>,
    /// Nothing more may come on it.
    pub(super) spent: bool,
    /// Packets that were marked as replays.
    pub(super) replayed: u64,
    /// The next packet may be of a lower position than the last.
    pub(super) restarts: bool,
    /// One after the last position handed out on it.
    last: u64,
    ssrc: Option<u32>,
    lines: Vec<Line>,
    next_index: u64,
    newest_timestamp: u32,
    /// By index: what it was used for.
    plaintexts: HashMap<u64, u64>,
}

/// What is affine on a leg until it begins another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    line: u64,
    /// Index minus position.
    index: i64,
    /// Timestamp minus media time.
    timestamp: u32,
}

impl std::fmt::Debug for EarLeg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, state, spent, last, .. } = self;
        write!(f, "{id} {state:?}, spent {spent}, next {last}, {:?}", self.lines.last())
    }
}

impl EarLeg {
    pub(super) fn new(id: LegId, resume_from: Option<u64>) -> Self {
        Self {
            id,
            state: LegState::Connecting,
            resume_from,
            spent: false,
            replayed: 0,
            restarts: true,
            last: 0,
            ssrc: None,
            lines: Vec::new(),
            next_index: 0,
            newest_timestamp: 0,
            plaintexts: HashMap::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == LegState::Up
    }

    /// A packet is handed out on it; `floor` is the live edge from which on its listener is owed frames.
    pub(super) fn packet(&mut self, packet: &Handed, ordered: bool, floor: u64) -> Check {
        ensure(self.is_up(), "I6", || format!("{packet:?} on {self:?}"))?;
        ensure(!self.spent, "LegSpent", || format!("{packet:?} on a leg that is spent"))?;
        let ssrc = *self.ssrc.get_or_insert(packet.ssrc);
        ensure(ssrc == packet.ssrc, "one SSRC", || format!("{packet:?} after {ssrc}"))?;
        let ascends = packet.position >= self.last || self.restarts;
        ensure(!ordered || ascends || packet.replay, "I1 order", || {
            format!("{packet:?} after {}, in order", self.last)
        })?;
        (self.last, self.restarts) = (packet.position + 1, false);
        self.check_line(packet, floor)?;
        self.check_plaintext(packet)
    }

    fn check_line(&mut self, packet: &Handed, floor: u64) -> Check {
        let line = Line {
            line: packet.line,
            index: packet.index.cast_signed() - packet.position.cast_signed(),
            timestamp: packet.timestamp.wrapping_sub(packet.media_time as u32),
        };
        let Some(known) = self.lines.iter().find(|known| known.line == packet.line) else {
            return self.begin_line(packet, line, floor);
        };
        ensure(known.index == line.index, "affine seq", || format!("{packet:?}: {known:?}"))?;
        ensure(known.timestamp == line.timestamp, "affine timestamp", || format!("{packet:?}: {known:?}"))?;
        let newest = self.lines.last() == Some(&line);
        ensure(newest, "affine seq", || format!("{packet:?}, and the line is {:?}", self.lines.last()))?;
        if packet.index >= self.next_index {
            self.next_index = packet.index + 1;
            self.newest_timestamp = packet.timestamp;
        }
        Ok(())
    }

    fn begin_line(&mut self, packet: &Handed, line: Line, floor: u64) -> Check {
        if self.lines.is_empty() {
            ensure(packet.index < 1 << 15, "first seq < 2^15", || format!("{packet:?}"))?;
        } else {
            // A hole between the live edge and the first frame stays a hole.
            let hole = packet.position.saturating_sub(floor);
            let next = self.next_index..=self.next_index + hole;
            ensure(next.contains(&packet.index), "affine seq", || {
                format!("{packet:?} begins a line; the next index is {next:?}")
            })?;
            let ahead = packet.timestamp.wrapping_sub(self.newest_timestamp).cast_signed();
            ensure(ahead > 0, "affine timestamp", || {
                format!("{packet:?} begins a line {ahead} ticks after {}", self.newest_timestamp)
            })?;
        }
        self.lines.push(line);
        (self.next_index, self.newest_timestamp) = (packet.index + 1, packet.timestamp);
        Ok(())
    }

    /// RFC 3711 §9.1: a key stream is used once.
    fn check_plaintext(&mut self, packet: &Handed) -> Check {
        let before = self.plaintexts.insert(packet.index, packet.plaintext);
        let same = before.is_none_or(|before| before == packet.plaintext);
        ensure(same, "no index with two plaintexts", || format!("{packet:?}"))?;
        ensure(before.is_none() || packet.replay, "I1", || {
            format!("{packet:?} for the second time, and not said")
        })
    }

    /// The SSRC that it is sent with, if it was sent anything.
    pub(super) const fn ssrc(&self) -> Option<u32> {
        self.ssrc
    }

    /// The index of a position on the newest line.
    pub(super) fn index_of(&self, position: u64) -> Option<u64> {
        let line = self.lines.last()?;
        let index = position.cast_signed() + line.index;
        u64::try_from(index).ok()
    }

    /// The position of an index that a receiver report names. What was not handed out on this leg yet, it cannot have
    /// brought: then a report says nothing.
    pub(super) fn reported(&self, index: u64) -> Option<u64> {
        self.position_of(index).filter(|_| index < self.next_index)
    }

    /// The position of an index on the newest line.
    pub(super) fn position_of(&self, index: u64) -> Option<u64> {
        let line = self.lines.last()?;
        u64::try_from(index.cast_signed() - line.index).ok()
    }
}
