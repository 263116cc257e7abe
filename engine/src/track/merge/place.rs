//! Frames whose position is known go into the timeline, or wait for those before them.

use std::time::Instant;

use super::super::arrived::{Arrived, Wire};
use super::super::lane::{Bond, Spot};
use super::super::source::Source;
use super::super::timeline::Timeline;
use super::{LEAD, Merge, SECOND};
use crate::history::Place;
use crate::io::Verdict;
use crate::stats::Rule;
use crate::time::MediaTime;

impl Merge {
    pub(super) fn place_wire(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, wire): (Arrived, Wire),
        timeline: &mut Timeline,
        hold: bool,
    ) -> Verdict {
        match self.lane(slot).bond {
            Bond::Fresh => self.begin(now, slot, (frame, wire), timeline),
            Bond::Apart(_) => self.follow(now, slot, (frame, wire), timeline),
            Bond::Aligned => match self.lane_mut(slot).locate(wire, timeline) {
                Err(verdict @ (Verdict::Suspicious | Verdict::BeforeStart)) => {
                    self.stray(now, slot, (&frame, wire), timeline).unwrap_or(verdict)
                }
                Err(verdict) => verdict,
                Ok(Spot::Hole(position, media_time)) => {
                    timeline.store(now, position, media_time, &frame);
                    Verdict::Accepted
                }
                Ok(Spot::Ahead(position)) => self.ahead(now, slot, (frame, wire, position), timeline, hold),
                Ok(Spot::Source) => match self.stray(now, slot, (&frame, wire), timeline) {
                    Some(verdict) => verdict,
                    None => self.new_source(now, slot, (frame, wire), timeline),
                },
            },
        }
    }

    /// A frame begins a source on a leg that had one.
    fn new_source(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, wire): (Arrived, Wire),
        timeline: &mut Timeline,
    ) -> Verdict {
        let alone = slot == LEAD && self.lane(slot).source.as_ref().is_some_and(|source| source.is_open());
        if alone || timeline.newest().is_none() {
            let media_time = timeline.media_time_now(frame.at);
            self.start_source(now, slot, (&frame, wire), (Rule::Arrival, media_time), timeline);
            return Verdict::Accepted;
        }
        self.lane_mut(slot).bond = Bond::Fresh;
        self.begin(now, slot, (frame, wire), timeline)
    }

    /// A frame is the first of its source, at the next position, and its media time is by this rule; the leg leads.
    pub(super) fn start_source(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, wire): (&Arrived, Wire),
        (rule, media_time): (Rule, MediaTime),
        timeline: &mut Timeline,
    ) {
        let position = timeline.next_position();
        let lane = self.lane_mut(slot);
        // What was followed has begun before.
        lane.runs += u64::from(!matches!(lane.bond, Bond::Apart(_)));
        lane.begin(Source::new(wire, position, media_time), position);
        if let Some(source) = self.lanes[1 - slot].as_mut().and_then(|other| other.source.as_mut()) {
            source.end_at(position);
        }
        for ghost in self.ghosts.iter_mut().flatten() {
            ghost.end_at(position);
        }
        timeline.begin_source(rule != Rule::Arrival);
        self.same_owner = true;
        timeline.store(now, position, media_time, frame);
        self.wait = None;
        self.lanes.swap(LEAD, slot);
    }

    /// A frame is ahead of all that its leg brought.
    fn ahead(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, wire, position): (Arrived, Wire, u64),
        timeline: &mut Timeline,
        hold: bool,
    ) -> Verdict {
        if position < timeline.next_position() {
            return self.beside(now, slot, (frame, wire, position), timeline);
        }
        if slot == SECOND && !self.lead_is_live(now) {
            // Whoever brings the next frame leads.
            self.lead_second(now, timeline);
            return self.place(now, LEAD, frame, timeline, hold);
        }
        if hold && must_wait(slot, position, timeline) {
            return self.hold(slot, position, frame);
        }
        let lane = self.lane_mut(slot);
        let Some(source) = &mut lane.source else { return Verdict::Suspicious };
        let newest = timeline.newest().map(|newest| newest.media_time);
        let told = source.media_time(wire.timestamp);
        let media_time = match told.filter(|_| told > newest) {
            Some(media_time) => media_time,
            None => {
                // A later packet with an earlier timestamp: the clock was reset without a new SSRC. The sequence says
                // that nothing is lost, so the position stands and only the media time is anchored anew.
                let media_time = timeline.media_time_now(frame.at);
                source.anchor(wire, media_time);
                timeline.resets += 1;
                media_time
            }
        };
        lane.note(wire, position);
        timeline.store(now, position, media_time, &frame);
        Verdict::Accepted
    }

    /// A frame that is new to its leg and not to the track: the other leg was there before it.
    fn beside(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, wire, position): (Arrived, Wire, u64),
        timeline: &mut Timeline,
    ) -> Verdict {
        let place = timeline.place(position);
        let held = timeline.history.get(position);
        let same = held.as_ref().is_none_or(|held| held.payload == &frame.payload[..]);
        let lane = self.lane_mut(slot);
        let Some(source) = &mut lane.source else { return Verdict::Suspicious };
        let told = source.media_time(wire.timestamp);
        match (place, told) {
            (Place::Gone, _) => {
                lane.note(wire, position);
                Verdict::TooLate
            }
            (Place::Hole, Some(media_time)) if timeline.fits(position, media_time) => {
                lane.note(wire, position);
                timeline.store(now, position, media_time, &frame);
                Verdict::Accepted
            }
            (Place::Taken, told) if same => {
                // The same frame at another time: the clock was reset, and the other leg told so first.
                if let Some(held) = held.filter(|held| told != Some(held.media_time)) {
                    source.anchor(wire, held.media_time);
                }
                lane.note(wire, position);
                Verdict::Duplicate
            }
            // Not the same stream after all.
            _ => match lane.suspicious(wire) {
                Err(verdict) => verdict,
                Ok(_) => {
                    lane.bond = Bond::Fresh;
                    self.begin(now, slot, (frame, wire), timeline)
                }
            },
        }
    }

    pub(super) fn place_carried(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, position, media_time): (Arrived, u64, MediaTime),
        timeline: &mut Timeline,
        hold: bool,
    ) -> Verdict {
        let next = timeline.next_position();
        let empty = timeline.newest().is_none();
        let reach = if empty { FURTHEST_START } else { timeline.span() };
        if position.saturating_sub(next) > reach || empty && media_time > LATEST_START {
            return Verdict::Ahead;
        }
        let lane = self.lane_mut(slot);
        if !lane.is_aligned() {
            // What it holds, if it brought RTP before, is not numbered by position.
            lane.held.clear();
            lane.bond = Bond::Aligned;
            lane.aligned_by(Rule::Carried, true);
        }
        lane.settled();
        let told = media_time.plus_signed(lane.shift);
        match timeline.place(position) {
            Place::Taken => {
                lane.reach(position);
                Verdict::Duplicate
            }
            Place::Gone => {
                lane.reach(position);
                Verdict::TooLate
            }
            Place::Hole if timeline.fits(position, told) => {
                lane.reach(position);
                timeline.store(now, position, told, &frame);
                Verdict::Accepted
            }
            Place::Hole => Verdict::Suspicious,
            Place::New if slot == SECOND && !self.lead_is_live(now) => {
                self.lead_second(now, timeline);
                self.place(now, LEAD, frame, timeline, hold)
            }
            Place::New if hold && must_wait(slot, position, timeline) => self.hold(slot, position, frame),
            Place::New => {
                let lane = self.lane_mut(slot);
                let latest = timeline.media_time_now(frame.at).plus(LATEST_TICKS);
                let later = timeline.newest().is_none_or(|newest| told > newest.media_time);
                let told = if later && (told <= latest || timeline.newest().is_none()) {
                    told
                } else {
                    let anew = timeline.media_time_now(frame.at);
                    let shift = i128::from(anew.ticks()) - i128::from(media_time.ticks());
                    lane.shift = i64::try_from(shift).unwrap_or(0);
                    timeline.resets += 1;
                    anew
                };
                lane.reach(position);
                timeline.store(now, position, told, &frame);
                Verdict::Accepted
            }
        }
    }

    /// A frame that another relay has placed goes where it was there, whatever came before it here: what was checked is
    /// not checked again.
    pub(super) fn place_again(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, position, media_time): (&Arrived, u64, MediaTime),
        timeline: &mut Timeline,
    ) -> Verdict {
        let lane = self.lane_mut(slot);
        if !lane.is_aligned() {
            lane.bond = Bond::Aligned;
            lane.aligned_by(Rule::Carried, true);
        }
        lane.settled();
        lane.reach(position);
        match timeline.place(position) {
            Place::Taken => Verdict::Duplicate,
            Place::Gone => Verdict::TooLate,
            Place::Hole => {
                timeline.store(now, position, media_time, frame);
                Verdict::Accepted
            }
            Place::New => {
                // What came late there may be the newest here for a moment.
                let least = timeline.newest().map(|newest| newest.media_time.plus(1));
                let media_time = least.map_or(media_time, |least| least.max(media_time));
                timeline.store(now, position, media_time, frame);
                Verdict::Accepted
            }
        }
    }

    pub(super) fn hold(&mut self, slot: usize, number: u64, frame: Arrived) -> Verdict {
        let held = &mut self.lane_mut(slot).held;
        if held.is_full() {
            // I3: a flood; what the rate limit lets through in the path skew fits.
            return Verdict::RateLimited;
        }
        if held.insert(number, frame) { Verdict::Held } else { Verdict::Duplicate }
    }

    /// Places all that an aligned leg holds.
    pub(super) fn release(&mut self, now: Instant, slot: usize, timeline: &mut Timeline) {
        let leg = self.lane(slot).leg;
        // One that is no longer aligned would hold it again.
        while let Some(slot) = self.slot(leg).filter(|&slot| self.lane(slot).is_aligned()) {
            let Some(frame) = self.lane_mut(slot).held.pop() else { return };
            self.place(now, slot, frame, timeline, false);
        }
    }
}

/// Whether a frame of the second leg is ahead of a hole that the leading leg may yet fill.
const fn must_wait(slot: usize, position: u64, timeline: &Timeline) -> bool {
    slot == SECOND && position > timeline.next_position()
}

/// The highest position at which a track may begin, 2^40.
const FURTHEST_START: u64 = 1 << 40;
/// The highest media time at which a track may begin: none of 2^32 frames after it is beyond what can be told.
const LATEST_START: MediaTime = MediaTime::from_ticks(1 << 56);
/// A carried media time may be this far ahead of the time that passed, 60 s; else it is anchored anew.
const LATEST_TICKS: u64 = 2_880_000;
