//! One leg of a publisher, as its track sees it: where its frames belong.
//!
//! | bond | its frames |
//! |---|---|
//! | fresh | none yet, or none of what it sends now |
//! | aligned | have positions: its source is on the timeline |
//! | apart | have media times only: encoded separately, or not yet known to be the same |
//!
//! A packet of an aligned leg:
//!
//! | a packet | is |
//! |---|---|
//! | of the current source, up to 3000 ahead | placed (RFC 3550 §A.1 `MAX_DROPOUT`) |
//! | of the current source, further ahead, after its leg was down | the start of a new source, at once |
//! | of the current source, ahead of it by any number, after a restart | the start of a new source, at once |
//! | of the current source, in the history's span or up to 100 behind | placed in its hole, or a duplicate, or too late |
//! | of the current source, older than the history, with a timestamp as old | too late |
//! | of the current source, past where another one took over | the start of a new source, at once |
//! | of the current source, from before it began, by number and timestamp | sent again: it and those after it are placed if the track has it, else it is before the start; live after all if such come for a second no faster than they were spoken |
//! | of the current source, in a hole whose neighbours' media times it is not between | suspicious, as below |
//! | of the current source, anywhere else, or with a timestamp that cannot be | suspicious: the next one in sequence starts a new source |
//! | of an SSRC not seen lately | the start of a new source, at once |
//! | of the two sources before, from before their end | placed in its hole, as above |
//! | of the two sources before, from after their end | suspicious: it comes back only by two in sequence with none of the current between |
//!
//! Only the current source and the two before are remembered, so any storm of SSRCs costs constant memory and time.

use std::time::{Duration, Instant};

use super::arrived::{Arrived, Number, Wire};
use super::follow::{Follow, Report};
use super::held::{Held, MAX_HELD};
use super::source::{Fit, Source};
use super::timeline::Timeline;
use crate::history::Place;
use crate::id::LegId;
use crate::io::{LegState, Verdict};
use crate::rtp::NtpTime;
use crate::stats::{Alignment, Rule};
use crate::time::MediaTime;

/// One publisher leg of a track.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) leg: LegId,
    pub(super) state: LegState,
    pub(super) bond: Bond,
    pub(super) source: Option<Source>,
    /// The source before; its packets can still fill holes.
    retired: Option<Source>,
    /// The one before that: what is sent again may be of one, and what is late of the other.
    older: Option<Source>,
    suspect: Option<Suspect>,
    /// What it sends next begins a source: the publisher was paused.
    pub(super) restart: bool,
    /// The leg was down: a jump begins a source at once.
    returned: bool,
    pub(super) held: Held,
    pub(super) alignment: Option<Alignment>,
    pub(super) report: Option<Report>,
    /// One after the highest position that it brought, first or not.
    pub(super) reached: u64,
    /// The lowest position that it brought, first or not.
    lowest: Option<u64>,
    /// Since when its frames have positions.
    begun: Option<Instant>,
    /// They have had them for so long that none comes from before the lowest.
    steady: bool,
    /// When it last brought something that could be placed or kept.
    pub(super) heard: Option<Instant>,
    /// Runs of packets that it began.
    pub(super) runs: u64,
    /// Ticks that its carried media times are moved by.
    pub(super) shift: i64,
    /// When it began to bring nothing but what is older than the track, and the timestamp of that.
    pub(super) behind: Option<(Instant, u32)>,
}

/// How its frames lie to the track's.
#[derive(Debug)]
pub(super) enum Bond {
    Fresh,
    Aligned,
    Apart(Box<Follow>),
}

/// Where a packet of an aligned leg belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spot {
    /// In a hole, behind what this leg brought.
    Hole(u64, MediaTime),
    /// Ahead of all that this leg brought.
    Ahead(u64),
    /// At the start of a new source.
    Source,
}

/// A packet that did not fit: if the next one follows it, they are a new source.
#[derive(Debug, PartialEq, Eq)]
struct Suspect {
    ssrc: u32,
    next: u16,
}

impl Lane {
    pub(super) fn new(leg: LegId) -> Self {
        Self {
            leg,
            state: LegState::Connecting,
            bond: Bond::Fresh,
            source: None,
            retired: None,
            older: None,
            suspect: None,
            restart: false,
            returned: false,
            held: Held::default(),
            alignment: None,
            report: None,
            reached: 0,
            lowest: None,
            begun: None,
            steady: false,
            heard: None,
            runs: 0,
            shift: 0,
            behind: None,
        }
    }

    /// Takes the new state of the transport.
    pub(super) fn set_state(&mut self, state: LegState) {
        if self.state == LegState::Down && state != LegState::Down {
            self.returned = true;
            // It sends again from elsewhere.
            self.behind = None;
        }
        self.state = state;
    }

    /// Whether its packets are taken: what was decrypted proves that a leg is usable before it is said to be up.
    pub(super) fn is_usable(&self) -> bool {
        self.state != LegState::Down
    }

    pub(super) const fn is_aligned(&self) -> bool {
        matches!(self.bond, Bond::Aligned)
    }

    /// Whether it is apart, and no clock says where its frames lie to the track's.
    pub(super) fn is_apart_by_arrival(&self) -> bool {
        matches!(&self.bond, Bond::Apart(follow) if follow.rule == Rule::Arrival)
    }

    /// Where a packet belongs, or why nowhere.
    pub(super) fn locate(&mut self, wire: Wire, timeline: &Timeline) -> Result<Spot, Verdict> {
        let Some(source) = self.source.as_ref() else { return Ok(Spot::Source) };
        if source.ssrc != wire.ssrc {
            if !self.retired().any(|retired| retired.ssrc == wire.ssrc) {
                return Ok(Spot::Source);
            }
            return self.in_retired(wire, timeline).unwrap_or_else(|| self.suspicious(wire));
        }
        match source.fit(wire.sequence, &timeline.history) {
            Fit::PastEnd => Ok(Spot::Source),
            // Sent again, and the history has gone past it.
            Fit::Jump if !self.restart && source.is_past(wire) => Err(Verdict::TooLate),
            Fit::Ahead(_) if self.restart => Ok(Spot::Source),
            Fit::Jump if self.restart || self.returned => {
                self.in_retired(wire, timeline).unwrap_or(Ok(Spot::Source))
            }
            Fit::Ahead(position) => {
                self.returned = false;
                Ok(Spot::Ahead(position))
            }
            // It overtook those before it, and waits for them.
            Fit::Behind(position) if position >= timeline.next_position() => Ok(Spot::Ahead(position)),
            Fit::Behind(position) => {
                self.lowest = Some(self.lowest.map_or(position, |lowest| lowest.min(position)));
                let filled = fill(source, wire, position, timeline);
                filled.unwrap_or_else(|| self.suspicious(wire))
            }
            Fit::BeforeStart => self.in_retired(wire, timeline).unwrap_or(Err(Verdict::BeforeStart)),
            Fit::Jump => self.in_retired(wire, timeline).unwrap_or_else(|| self.suspicious(wire)),
        }
    }

    /// Whether a frame that waited for a position is of the same run as a packet that is past the end of its source, or
    /// begins what follows.
    pub(super) fn is_of_run(&self, frame: &Arrived, wire: Wire) -> bool {
        let over = self.source.as_ref().is_some_and(|source| source.ssrc == wire.ssrc && !source.is_open());
        let near = |held: Wire| {
            held.ssrc == wire.ssrc
                && wire.sequence.wrapping_sub(held.sequence).cast_signed().unsigned_abs() <= RUN
        };
        over && !self.restart && matches!(frame.number, Number::Wire(held) if near(held))
    }

    /// The sources before, the last one first.
    pub(super) fn retired(&self) -> impl Iterator<Item = &Source> {
        self.retired.iter().chain(&self.older)
    }

    /// A source is over, or was found among those before: its packets can still fill holes.
    pub(super) fn retire(&mut self, source: Source) {
        self.older = self.retired.replace(source).or_else(|| self.older.take());
    }

    /// Where a packet of the sources before belongs; `None` if it is not from before the end of one.
    pub(super) fn in_retired(&self, wire: Wire, timeline: &Timeline) -> Option<Result<Spot, Verdict>> {
        let mut before = None;
        for retired in self.retired().filter(|retired| retired.ssrc == wire.ssrc) {
            match retired.fit(wire.sequence, &timeline.history) {
                Fit::Behind(position) | Fit::Ahead(position) if position < retired.end() => {
                    if let Some(found) = fill(retired, wire, position, timeline) {
                        return Some(found);
                    }
                }
                Fit::BeforeStart => before = Some(Err(Verdict::BeforeStart)),
                Fit::Ahead(_) | Fit::Behind(_) | Fit::PastEnd | Fit::Jump => {}
            }
        }
        before
    }

    /// Its first packet begins a source at `position`; the one before ends there.
    pub(super) fn begin(&mut self, source: Source, ends: u64) {
        self.settled();
        self.reach(source.base());
        // What was apart has put its source aside before.
        if let Some(over) = self.source.replace(source) {
            self.retire(over);
        }
        if let Some(retired) = &mut self.retired {
            retired.end_at(ends);
        }
        self.bond = Bond::Aligned;
    }

    /// It is not to wait for what the source before would have sent.
    pub(super) fn settled(&mut self) {
        if std::mem::take(&mut self.restart) {
            // What was before a pause is for nobody.
            self.lowest = None;
        }
        self.returned = false;
        self.suspect = None;
    }

    pub(super) fn aligned_by(&mut self, rule: Rule, twin: bool) {
        self.alignment = Some(Alignment { rule, twin });
    }

    /// Notes a packet ahead of all that this leg brought.
    pub(super) fn note(&mut self, wire: Wire, position: u64) {
        self.suspect = None;
        if let Some(source) = &mut self.source {
            source.note(wire);
        }
        self.reach(position);
    }

    /// It brought the frame of a position, first or not.
    pub(super) fn reach(&mut self, position: u64) {
        self.reached = self.reached.max(position + 1);
        self.lowest = Some(self.lowest.map_or(position, |lowest| lowest.min(position)));
    }

    /// Its frames have positions. Those that overtook its first ones are not there for longer than `patience`.
    pub(super) fn is_heard(&mut self, now: Instant, patience: Duration) {
        let begun = *self.begun.get_or_insert(now);
        self.steady |= now.saturating_duration_since(begun) >= patience;
    }

    /// The media time that a report names on the timeline, if this leg's timestamps are on it.
    pub(super) fn media_time_of(&self, ssrc: u32, timestamp: u32) -> Option<MediaTime> {
        let source = self.source.as_ref().filter(|source| source.ssrc == ssrc && self.is_aligned())?;
        source.media_time(timestamp)
    }

    /// Takes note of the publisher's clocks.
    pub(super) fn note_report(&mut self, ssrc: u32, ntp: NtpTime, timestamp: u32) {
        self.report = Some(Report { ssrc, ntp, timestamp });
    }

    /// The first position that is missing and that this leg may bring: who comes back begins with what was acknowledged
    /// last, or the oldest that it still has, so what is before that is not waited for.
    pub(super) fn missing(&self, timeline: &Timeline) -> u64 {
        let edge = timeline.edge();
        let Some(lowest) = self.lowest.filter(|&lowest| self.steady && lowest > edge) else { return edge };
        let whole = (lowest..).take_while(|&position| timeline.place(position) == Place::Taken).count();
        lowest + whole as u64
    }

    /// The sequence number of the last position of its source before which this leg's positions are all there.
    pub(super) fn contiguous_sequence(&self, timeline: &Timeline) -> Option<u16> {
        let source = self.source.as_ref().filter(|_| self.is_aligned())?;
        let next = self.missing(timeline);
        // A later source's frames are not this one's.
        let last = next.min(source.end()).checked_sub(1)?;
        source.sequence_of(last).or_else(|| source.sequence_of(self.reached.checked_sub(1)?.min(last)))
    }

    /// Whether a packet with a timestamp of long ago may be sent again: not if such ones come for a second, and no
    /// faster than they were spoken. Then the clock is what went back.
    pub(super) fn sends_again(&mut self, now: Instant, timestamp: u32) -> bool {
        let (since, first) = *self.behind.get_or_insert((now, timestamp));
        let passed = MediaTime::ticks_in(now.saturating_duration_since(since));
        passed < u64::from(MediaTime::RATE) || u64::from(timestamp.wrapping_sub(first)) > passed + passed / 2
    }

    pub(super) fn suspicious(&mut self, wire: Wire) -> Result<Spot, Verdict> {
        if self.suspect == Some(Suspect { ssrc: wire.ssrc, next: wire.sequence }) {
            return Ok(Spot::Source);
        }
        self.suspect = Some(Suspect { ssrc: wire.ssrc, next: wire.sequence.wrapping_add(1) });
        Err(Verdict::Suspicious)
    }
}

/// Frames that wait are of one run if their numbers are this close: so many are held at most.
const RUN: u16 = MAX_HELD as u16;

/// A packet behind a source's newest fills its hole or is refused; `None` if its timestamp says that it is not of this
/// source after all.
fn fill(source: &Source, wire: Wire, position: u64, timeline: &Timeline) -> Option<Result<Spot, Verdict>> {
    let media_time = source.media_time(wire.timestamp)?;
    match timeline.place(position) {
        Place::Taken => {
            let held = timeline.history.get(position)?;
            (held.media_time == media_time).then_some(Err(Verdict::Duplicate))
        }
        Place::Gone => Some(Err(Verdict::TooLate)),
        Place::New => None,
        Place::Hole => timeline.fits(position, media_time).then_some(Ok(Spot::Hole(position, media_time))),
    }
}
