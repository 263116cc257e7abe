//! Two legs of one publisher, one timeline.
//!
//! One leg leads. The other is there for the time around a switch, or for good over a second path (SMPTE ST 2022-7).
//!
//! | the second leg is | a frame that it brings |
//! |---|---|
//! | a twin: the same encoded frames | fills a hole, or is the next one: taken at once, whichever leg was first |
//! | | ahead of a hole: held until the leading leg has filled it, or [`path_skew`](crate::Config::path_skew) is over |
//! | encoded separately | held until the leading leg has covered its time, then dropped; if that takes longer than the path skew, the second leg leads: a splice |
//!
//! How a leg is lined up with what the track has, best first:
//!
//! | rule | twin if |
//! |---|---|
//! | the transport carries positions | always |
//! | SSRC, sequence and timestamp continue a stream that the track knows | its payloads are those that the track has, or a clock agrees |
//! | capture times | a frame has the capture time (within 2.5 ms) and the payload of one that the track has |
//! | sender reports | a frame has the media time (within 2.5 ms) and the payload of one that the track has |
//! | arrival | never |
//!
//! What becomes of a leg:
//!
//! | leg | on | becomes |
//! |---|---|---|
//! | none | its first frame, on an empty track | leads |
//! | none | its first frame, a twin's | aligned: re-sent frames find their positions and fill holes |
//! | none | its first frame, another leg leading | apart: held, by media time |
//! | none | a frame from before what the track has of its stream, by number and timestamp | none: it is before the start |
//! | none | its first frame, no leg leading, and what is re-sent could be found out | apart for 40 ms: a twin by then, or it goes on at the next position |
//! | none | the same, and all that it brings is from before the end by a clock, or may fill holes of a stream that is gone | apart for the path skew; then it is believed if all of it fits such holes by its numbers |
//! | none | its first frame, no leg leading, no clock in common | leads, at the next position, with the time that passed |
//! | apart | a frame that the track has | aligned |
//! | apart | the leading leg closed, down, or silent for the path skew | leads: spliced at its first frame that begins where the track ends |
//! | apart | `switch`, and it holds the frame that begins where the track ends | the same |
//! | apart | `switch` the path skew ago, and it holds nothing from beyond the end | the same; by arrival, the frame that comes is moved to the end |
//! | aligned | `switch`, the leading leg closed, down, or silent for the path skew | leads; what it held is placed |
//! | leads | `switch` to the other | second; [spent](crate::Event::LegSpent) when nothing before the cut is missing, or the other reached it the path skew ago; or it was silent for that long and the other has not |
//! | leads | down, and the other one is up | second |
//! | any | a leg of a higher epoch is opened | fenced (I8) |
//!
//! A splice is at a frame boundary: the first frame of the new leg that does not begin before the track ends (2.5 ms of
//! grace) is moved to begin exactly there, by at most 20 ms. So media time has no gap and no repeat. By arrival alone
//! nothing says where a frame lies to less than the paths' jitter, 60 ms, and one that begins before the end is as good.
//!
//! Invariant: lane 0 leads, and lane 1 is empty if lane 0 is.

mod align;
mod place;
mod switch;

use std::time::{Duration, Instant};

use self::switch::Cut;
use super::arrived::{Arrived, Number};
use super::lane::{Bond, Lane};
use super::source::Source;
use super::timeline::Timeline;
use crate::id::LegId;
use crate::io::{Event, LegState, Verdict};
use crate::rtp::rtcp;
use crate::stats::Alignment;

/// The legs of one track's publisher.
#[derive(Debug)]
pub(crate) struct Merge {
    lanes: [Option<Box<Lane>>; 2],
    /// Sources of legs that are gone: a leg that comes after them may continue one.
    ghosts: [Option<Box<Source>>; 2],
    epoch: u64,
    /// A leg of this epoch has brought something: clocks are its owner's.
    same_owner: bool,
    /// Legs of lower epochs that are not closed.
    fenced: Vec<LegId>,
    skew: Duration,
    /// A leading leg that is apart waits until then: for proof that it is a twin, or for its frames to reach the end.
    wait: Option<Wait>,
    cut: Option<Cut>,
    /// The leg that was last told of as spent.
    spent: Option<LegId>,
    event: Option<Event>,
    /// How many frames are being placed because of one another.
    nested: u8,
}

/// What a leading leg that is apart waits for.
#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    /// For proof that what it sends is known: it sends nothing on before. Else for a frame that begins at the end.
    probe: bool,
    /// It waits for longer, since all that it has brought is older than the end.
    longer: bool,
}

/// Why a publisher's leg is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are two.
    Full,
    /// The track's epoch is higher.
    Fenced(u64),
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) verdict: Verdict,
    /// It is the first of a run of packets on its leg.
    pub(crate) begins: bool,
}

const LEAD: usize = 0;
const SECOND: usize = 1;
/// What a frame sets free is placed within the placing of it, and so on. So deep is only a publisher that means it; its
/// frame is refused, and the stack of a media thread holds (I3).
const MAX_NESTED: u8 = 16;

impl Merge {
    pub(crate) const fn new(skew: Duration) -> Self {
        Self {
            lanes: [None, None],
            ghosts: [None, None],
            epoch: 0,
            same_owner: false,
            fenced: Vec::new(),
            skew,
            wait: None,
            cut: None,
            spent: None,
            event: None,
            nested: 0,
        }
    }

    /// Whether a leg of this epoch may be opened.
    pub(crate) fn check(&self, epoch: u64) -> Result<(), Refused> {
        if epoch < self.epoch {
            Err(Refused::Fenced(self.epoch))
        } else if epoch == self.epoch && self.lanes[SECOND].is_some() {
            Err(Refused::Full)
        } else {
            Ok(())
        }
    }

    /// Adds a leg that was checked; returns those that it fences.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        leg: LegId,
        epoch: u64,
        timeline: &mut Timeline,
    ) -> [Option<LegId>; 2] {
        let mut fenced = [None, None];
        if epoch > self.epoch {
            // I8: what they brought goes before the first frame of the new one, or never.
            fenced = self.legs();
            for leg in fenced.into_iter().flatten() {
                self.close(now, leg, timeline);
            }
            self.epoch = epoch;
            self.same_owner = false;
            self.fenced.extend(fenced.into_iter().flatten());
        }
        let slot = usize::from(self.lanes[LEAD].is_some());
        self.lanes[slot] = Some(Box::new(Lane::new(leg)));
        fenced
    }

    /// Takes a frame that a leg brought.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        leg: LegId,
        frame: Arrived,
        timeline: &mut Timeline,
    ) -> Taken {
        let Some(slot) = self.slot(leg) else { return Taken { verdict: Verdict::Fenced, begins: false } };
        let (runs, patience) = (self.lane(slot).runs, self.skew / 2);
        let verdict = self.place(now, slot, frame, timeline, true);
        let mut begins = false;
        if let Some(lane) = self.slot(leg).map(|slot| self.lane_mut(slot)) {
            begins = lane.runs != runs;
            if lane.is_aligned() {
                lane.is_heard(now, patience);
            }
            if matches!(verdict, Verdict::Accepted | Verdict::Held | Verdict::Duplicate | Verdict::TooLate) {
                lane.heard = Some(now);
                lane.behind = None;
            }
        }
        self.progress(now, timeline);
        Taken { verdict, begins }
    }

    /// Takes the new state of a leg's transport.
    pub(crate) fn set_state(&mut self, now: Instant, leg: LegId, state: LegState, timeline: &mut Timeline) {
        let Some(slot) = self.slot(leg) else { return };
        self.lane_mut(slot).set_state(state);
        let usable = |lane: &Option<Box<Lane>>| lane.as_ref().is_some_and(|lane| lane.is_usable());
        if !usable(&self.lanes[LEAD]) && usable(&self.lanes[SECOND]) {
            if !self.lane(LEAD).is_aligned() {
                self.start_alone(now, timeline);
            }
            self.lead_second(now, timeline);
        }
        self.progress(now, timeline);
    }

    /// What the leg sends from now on begins a source.
    pub(crate) fn restart(&mut self, leg: LegId) {
        if let Some(slot) = self.slot(leg) {
            let lane = self.lane_mut(slot);
            lane.restart = true;
            lane.held.clear();
            if let Bond::Apart(_) = lane.bond {
                lane.bond = Bond::Fresh;
            }
        }
    }

    /// The leg is gone: what it held is placed, and the other leg leads.
    pub(crate) fn close(&mut self, now: Instant, leg: LegId, timeline: &mut Timeline) {
        self.fenced.retain(|&fenced| fenced != leg);
        let Some(mut slot) = self.slot(leg) else { return };
        if slot == SECOND && !self.lane(slot).is_aligned() && !self.lead_is_live(now) {
            // Nobody else has brought what it holds.
            self.lead_second(now, timeline);
            slot = LEAD;
        }
        if slot == LEAD && !self.lane(slot).is_aligned() {
            self.start_alone(now, timeline);
        } else if self.lane(slot).is_aligned() {
            self.release(now, slot, timeline);
        }
        let Some(slot) = self.slot(leg) else { return };
        if let Some(lane) = self.lanes[slot].take() {
            self.remember(lane.source.filter(|_| matches!(lane.bond, Bond::Aligned)));
        }
        if self.cut.is_some_and(|cut| cut.from == leg || cut.to == leg) {
            self.cut = None;
        }
        if matches!(self.event, Some(Event::LegSpent { leg: spent, .. }) if spent == leg) {
            self.event = None;
        }
        if slot == LEAD {
            self.wait = None;
            self.lanes.swap(LEAD, SECOND);
            self.leads_now(now, timeline);
        }
        self.progress(now, timeline);
    }

    /// Takes a leg's sender report.
    pub(crate) fn note_report(&mut self, leg: LegId, report: &rtcp::SenderReport, timeline: &mut Timeline) {
        let Some(slot) = self.slot(leg) else { return };
        let lane = self.lane_mut(slot);
        lane.note_report(report.ssrc, report.ntp, report.rtp_timestamp);
        if let Some(media_time) = lane.media_time_of(report.ssrc, report.rtp_timestamp) {
            timeline.note_report(report.ntp, media_time);
        }
    }

    /// When [`timeout`](Self::timeout) is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        let held = self.lanes[SECOND].as_ref().and_then(|lane| lane.held.since());
        let waits = self
            .wait
            .filter(|wait| !wait.probe || self.lanes[LEAD].as_ref().is_some_and(|lane| lane.held.len() > 0));
        let held = held.map(|since| since + self.skew);
        [held, waits.map(|wait| wait.until), self.cut_due()].into_iter().flatten().min()
    }

    /// Time has passed: what waited long enough is placed.
    pub(crate) fn timeout(&mut self, now: Instant, timeline: &mut Timeline) {
        if self.wait.is_some_and(|wait| wait.until <= now) && !self.waits_longer(now, timeline) {
            self.start_alone(now, timeline);
        }
        self.give_up(now, timeline);
        self.progress(now, timeline);
    }

    /// Something that the owner is to be told.
    pub(crate) const fn take_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    /// The legs, the leading one first.
    pub(crate) fn legs(&self) -> [Option<LegId>; 2] {
        [LEAD, SECOND].map(|slot| self.lanes[slot].as_ref().map(|lane| lane.leg))
    }

    /// A leg that is open, fenced ones too.
    pub(crate) fn any_leg(&self) -> Option<LegId> {
        self.legs().into_iter().flatten().chain(self.fenced.iter().copied()).next()
    }

    /// How many frames are held.
    pub(crate) fn held(&self) -> usize {
        self.lanes.iter().flatten().map(|lane| lane.held.len()).sum()
    }

    /// How a leg is aligned, and up to where nothing is missing that it may bring: the position, and its sequence
    /// number.
    pub(crate) fn leg(
        &self,
        leg: LegId,
        timeline: &Timeline,
    ) -> (Option<Alignment>, Option<u64>, Option<u16>) {
        let Some(slot) = self.slot(leg) else { return (None, None, None) };
        let lane = self.lane(slot);
        let contiguous = timeline.newest().and_then(|_| lane.missing(timeline).checked_sub(1));
        (lane.alignment, contiguous, lane.contiguous_sequence(timeline))
    }

    fn slot(&self, leg: LegId) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.as_ref().is_some_and(|lane| lane.leg == leg))
    }

    fn lane(&self, slot: usize) -> &Lane {
        self.lanes[slot].as_ref().expect("a slot in use has a lane")
    }

    fn lane_mut(&mut self, slot: usize) -> &mut Lane {
        self.lanes[slot].as_mut().expect("a slot in use has a lane")
    }

    /// Whether the leading leg may still bring what the second one is ahead of.
    fn lead_is_live(&self, now: Instant) -> bool {
        self.lanes[LEAD].as_ref().is_some_and(|lead| {
            let silent = lead.heard.is_none_or(|heard| now.saturating_duration_since(heard) >= self.skew);
            lead.is_usable() && !lead.restart && !silent && !matches!(lead.bond, Bond::Fresh)
        })
    }

    /// Keeps a source in case that a later leg continues it.
    fn remember(&mut self, source: Option<Source>) {
        if let Some(source) = source {
            self.ghosts.swap(0, 1);
            self.ghosts[0] = Some(Box::new(source));
        }
    }

    /// A frame goes where it belongs, if that is known.
    fn place(
        &mut self,
        now: Instant,
        slot: usize,
        frame: Arrived,
        timeline: &mut Timeline,
        hold: bool,
    ) -> Verdict {
        if self.nested >= MAX_NESTED {
            return Verdict::Suspicious;
        }
        self.nested += 1;
        let verdict = match frame.number {
            Number::Wire(wire) => self.place_wire(now, slot, (frame, wire), timeline, hold),
            Number::Carried { position, media_time } => {
                self.place_carried(now, slot, (frame, position, media_time), timeline, hold)
            }
            Number::Placed { position, media_time } => {
                self.place_again(now, slot, (&frame, position, media_time), timeline)
            }
        };
        self.nested -= 1;
        verdict
    }
}

#[cfg(test)]
mod tests;
