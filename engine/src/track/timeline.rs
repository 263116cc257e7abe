//! Wire numbers to positions and media times.
//!
//! A *source* is a run of packets whose sequence numbers and timestamps belong together: one SSRC, until it jumps or
//! another takes over. Within a source, position and media time are affine in what the wire says, so holes stay holes
//! and DTX gaps stay gaps. A new source goes on at the next position, and its media time is the last one plus the time
//! that passed since, at least one frame.
//!
//! | a packet | is |
//! |---|---|
//! | of the current source, up to 3000 ahead | placed (RFC 3550 §A.1 `MAX_DROPOUT`) |
//! | of the current source, ahead of it by any number, once its leg was down | the start of a new source, at once |
//! | of the current source, in the history's span or up to 100 behind | placed in its hole, or a duplicate, or too late |
//! | of the current source, anywhere else, or with a timestamp that cannot be | suspicious: the next one in sequence starts a new source |
//! | of an SSRC not seen lately | the start of a new source, at once |
//! | of the source before, from before its end | placed in its hole, as above |
//! | of the source before, from after its end | suspicious: it comes back only by two in sequence with none of the current between |
//!
//! Only the current source and the one before are remembered, so any storm of SSRCs costs constant memory and time.
//!
//! Invariant: positions given out as new strictly increase, and so do their media times.

use std::time::Instant;

use crate::history::{History, Place};
use crate::io::{CarriedFrame, Verdict};
use crate::rtp::opus::Toc;
use crate::rtp::seq::{Extend16, Extend32};
use crate::time::MediaTime;

/// What the timeline reads of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) ssrc: u32,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    /// How long it plays, ticks.
    pub(crate) duration: u32,
}

/// Where a packet belongs on its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) position: u64,
    pub(crate) media_time: MediaTime,
    /// It is the first of a new source.
    pub(crate) starts_source: bool,
}

/// The newest position's times, from which a new source goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) media_time: MediaTime,
    pub(crate) arrived: Instant,
    duration: u32,
}

/// One track's mapping from the wire.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    source: Option<Source>,
    /// The source before; its packets can still fill holes.
    retired: Option<Source>,
    suspect: Option<Suspect>,
    /// What the source sends next begins a new one.
    restart: bool,
    next_position: u64,
    newest: Option<Newest>,
    sources: u64,
    resets: u64,
}

#[derive(Debug)]
struct Source {
    ssrc: u32,
    sequence: Extend16,
    timestamp: Extend32,
    /// The first extended sequence number, and its position.
    first: (u64, u64),
    /// An extended timestamp, and its media time. Older timestamps are not placed.
    anchor: (u64, MediaTime),
}

/// A packet that did not fit: if the next one follows it, they are a new source.
#[derive(Debug, PartialEq, Eq)]
struct Suspect {
    ssrc: u32,
    next: u16,
}

/// How a sequence number lies to a source.
enum Fit {
    Ahead(u64),
    Behind(u64),
    BeforeStart,
    Jump,
}

impl Timeline {
    /// Places a packet, or says why not. `history` is the track's own, to which every placed frame was pushed.
    pub(crate) fn place(&mut self, now: Instant, wire: Wire, history: &History) -> Result<Placed, Verdict> {
        let fit = match &self.source {
            None => return Ok(self.start_source(now, wire)),
            Some(source) if source.ssrc == wire.ssrc => Some(source.fit(wire.sequence, history)),
            Some(_) => None,
        };
        match fit {
            Some(Fit::Ahead(_)) if self.restart => Ok(self.start_source(now, wire)),
            Some(Fit::Jump) if self.restart => {
                self.fill_retired(wire, history).unwrap_or_else(|| Ok(self.start_source(now, wire)))
            }
            Some(Fit::Ahead(position)) => Ok(self.ahead(now, wire, position)),
            Some(Fit::Behind(position)) => {
                let filled = self.source.as_ref().and_then(|source| source.fill(wire, position, history));
                filled.unwrap_or_else(|| self.suspicious(now, wire))
            }
            Some(Fit::BeforeStart) => self.fill_retired(wire, history).unwrap_or(Err(Verdict::BeforeStart)),
            Some(Fit::Jump) => self.fill_retired(wire, history).unwrap_or_else(|| self.suspicious(now, wire)),
            None => self.foreign(now, wire, history),
        }
    }

    /// Places a frame that carries its position, or says why not.
    pub(crate) fn place_carried(
        &mut self,
        now: Instant,
        frame: &CarriedFrame,
        history: &History,
    ) -> Result<(), Verdict> {
        match history.place(frame.position) {
            Place::Taken => Err(Verdict::Duplicate),
            Place::Gone => Err(Verdict::TooLate),
            Place::Hole => Ok(()),
            Place::New if frame.position - self.next_position.min(frame.position) > MAX_DROPOUT => {
                Err(Verdict::Ahead)
            }
            Place::New => {
                self.next_position = frame.position + 1;
                let duration = Toc::parse(&frame.payload).map_or(0, Toc::duration).max(SHORTEST_TICKS);
                self.newest = Some(Newest { media_time: frame.media_time, arrived: now, duration });
                Ok(())
            }
        }
    }

    /// The publisher's leg is gone: whatever comes next is a new source, even under the same SSRC.
    pub(crate) fn detach(&mut self) {
        self.source = None;
        self.retired = None;
        self.suspect = None;
        self.restart = false;
    }

    /// The publisher's leg was down and what it sent meanwhile was not wanted: the first packet from after that begins
    /// a source, so that it leaves no hole. Packets from before are placed as ever.
    pub(crate) fn restart(&mut self) {
        self.restart = true;
    }

    /// The next position: one after the highest so far.
    pub(crate) const fn next_position(&self) -> u64 {
        self.next_position
    }

    /// The newest position's times.
    pub(crate) const fn newest(&self) -> Option<Newest> {
        self.newest
    }

    /// How many sources there were.
    pub(crate) const fn sources(&self) -> u64 {
        self.sources
    }

    /// How often a source's media time was anchored anew.
    pub(crate) const fn resets(&self) -> u64 {
        self.resets
    }

    /// A packet of another SSRC than the current one.
    fn foreign(&mut self, now: Instant, wire: Wire, history: &History) -> Result<Placed, Verdict> {
        if self.retired.as_ref().is_none_or(|retired| retired.ssrc != wire.ssrc) {
            return Ok(self.start_source(now, wire));
        }
        self.fill_retired(wire, history).unwrap_or_else(|| self.suspicious(now, wire))
    }

    /// Places or refuses a packet of the source before; `None` if it is not from before that source's end.
    fn fill_retired(&self, wire: Wire, history: &History) -> Option<Result<Placed, Verdict>> {
        let retired = self.retired.as_ref().filter(|retired| retired.ssrc == wire.ssrc)?;
        match retired.fit(wire.sequence, history) {
            Fit::Behind(position) => retired.fill(wire, position, history),
            Fit::BeforeStart => Some(Err(Verdict::BeforeStart)),
            Fit::Ahead(_) | Fit::Jump => None,
        }
    }

    fn ahead(&mut self, now: Instant, wire: Wire, position: u64) -> Placed {
        let media_time_now = self.media_time_now(now);
        let source = self.source.as_mut().expect("only a packet of the current source is ahead of it");
        source.sequence.extend(wire.sequence);
        let timestamp = source.timestamp.peek(wire.timestamp);
        if source.timestamp.highest().is_some_and(|highest| timestamp <= highest) {
            // A later packet with an earlier timestamp: the clock was reset without a new SSRC. The sequence says that
            // nothing is lost, so the position stands and only the media time is anchored anew.
            source.timestamp = Extend32::new();
            source.anchor = (source.timestamp.extend(wire.timestamp), media_time_now);
            self.resets += 1;
        }
        let timestamp = source.timestamp.extend(wire.timestamp);
        let media_time = source.media_time(timestamp).unwrap_or(media_time_now);
        self.advance(now, wire, Placed { position, media_time, starts_source: false })
    }

    fn suspicious(&mut self, now: Instant, wire: Wire) -> Result<Placed, Verdict> {
        if self.suspect == Some(Suspect { ssrc: wire.ssrc, next: wire.sequence }) {
            return Ok(self.start_source(now, wire));
        }
        self.suspect = Some(Suspect { ssrc: wire.ssrc, next: wire.sequence.wrapping_add(1) });
        Err(Verdict::Suspicious)
    }

    fn start_source(&mut self, now: Instant, wire: Wire) -> Placed {
        let position = self.next_position;
        let media_time = self.media_time_now(now);
        let (mut sequence, mut timestamp) = (Extend16::new(), Extend32::new());
        let first = (sequence.extend(wire.sequence), position);
        let anchor = (timestamp.extend(wire.timestamp), media_time);
        self.retired = self.source.replace(Source { ssrc: wire.ssrc, sequence, timestamp, first, anchor });
        self.restart = false;
        self.sources += 1;
        self.advance(now, wire, Placed { position, media_time, starts_source: true })
    }

    fn advance(&mut self, now: Instant, wire: Wire, placed: Placed) -> Placed {
        debug_assert!(placed.position >= self.next_position, "positions given out as new strictly increase");
        self.suspect = None;
        self.next_position = placed.position + 1;
        self.newest = Some(Newest {
            media_time: placed.media_time,
            arrived: now,
            duration: wire.duration.max(SHORTEST_TICKS),
        });
        placed
    }

    /// The media time of a frame that follows the newest one and arrives at `now`, whatever its timestamp says.
    pub(crate) fn media_time_now(&self, now: Instant) -> MediaTime {
        let Some(newest) = self.newest else { return MediaTime::default() };
        let passed = MediaTime::ticks_in(now.saturating_duration_since(newest.arrived));
        newest.media_time.plus(passed.max(u64::from(newest.duration)))
    }
}

impl Source {
    fn fit(&self, sequence: u16, history: &History) -> Fit {
        let (first, base) = self.first;
        let highest = self.sequence.highest().unwrap_or(first);
        let extended = self.sequence.peek(sequence);
        if extended > highest {
            let ahead = extended - highest;
            return if ahead <= MAX_DROPOUT { Fit::Ahead(base + (extended - first)) } else { Fit::Jump };
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

    /// A packet behind this source's newest fills its hole or is refused; `None` if its timestamp says that it is not
    /// of this source after all.
    fn fill(&self, wire: Wire, position: u64, history: &History) -> Option<Result<Placed, Verdict>> {
        let timestamp = self.timestamp.peek(wire.timestamp);
        let media_time = self.media_time(timestamp)?;
        match history.place(position) {
            Place::Taken => {
                (history.get(position)?.media_time == media_time).then_some(Err(Verdict::Duplicate))
            }
            Place::Gone => Some(Err(Verdict::TooLate)),
            Place::Hole | Place::New => {
                let older = self.timestamp.highest().is_some_and(|highest| timestamp < highest);
                older.then_some(Ok(Placed { position, media_time, starts_source: false }))
            }
        }
    }

    /// The media time of an extended timestamp, unless it is from before the anchor.
    fn media_time(&self, timestamp: u64) -> Option<MediaTime> {
        let (anchor, media_time) = self.anchor;
        timestamp.checked_sub(anchor).map(|ticks| media_time.plus(ticks))
    }
}

/// RFC 3550 §A.1: a jump ahead up to this is loss.
pub(super) const MAX_DROPOUT: u64 = 3_000;
/// RFC 3550 §A.1: a step back up to this is reordering.
const MAX_MISORDER: u64 = 100;
/// Opus' shortest frame, 2.5 ms: time advances at least this much even after a packet that cannot be read.
const SHORTEST_TICKS: u32 = 120;

#[cfg(test)]
mod tests;
