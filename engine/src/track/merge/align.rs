//! How a leg's frames are lined up with those that the track has.

use std::time::{Duration, Instant};

use super::super::arrived::{Arrived, Number, Wire};
use super::super::follow::{Follow, ticks_between};
use super::super::lane::{Bond, Spot};
use super::super::source::{Fit, Source};
use super::super::timeline::Timeline;
use super::{LEAD, Merge, SECOND, Wait};
use crate::frame::Frame;
use crate::history::Place;
use crate::io::Verdict;
use crate::stats::Rule;
use crate::time::MediaTime;

/// The place of one frame of a leg, found by comparing it with what the track has.
#[derive(Clone, Copy, Debug)]
struct Known {
    wire: Wire,
    position: u64,
    media_time: MediaTime,
    rule: Rule,
}

impl Merge {
    /// The first frame of a leg, or of a source of the leg that does not lead.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, wire): (Arrived, Wire),
        timeline: &mut Timeline,
    ) -> Verdict {
        if timeline.newest().is_none() {
            self.start_source(now, slot, (&frame, wire), (Rule::Arrival, MediaTime::default()), timeline);
            return Verdict::Accepted;
        }
        if self.is_from_before(now, slot, wire) {
            return Verdict::BeforeStart;
        }
        let takes_over = slot == SECOND && !self.lead_is_live(now);
        let lane = self.lane_mut(slot);
        let leg = lane.leg;
        let mut follow = Follow::new(wire.ssrc);
        let mut held = std::mem::take(&mut lane.held);
        held.retain(|frame| lane.is_of_run(frame, wire));
        if let Some(source) = lane.source.take() {
            if source.ssrc == wire.ssrc && !lane.restart {
                follow = follow.known(source.offset());
            }
            lane.retire(source);
        }
        lane.runs += 1;
        lane.settled();
        let reports = lane.report.is_some() && timeline.report().is_some();
        lane.bond = Bond::Apart(Box::new(follow));
        let slot = if takes_over {
            self.lanes.swap(LEAD, SECOND);
            LEAD
        } else {
            slot
        };
        if slot == LEAD {
            let captures = frame.capture_time.is_some() && timeline.capture().is_some();
            let seen = self.ghosts.iter().flatten().any(|ghost| may_continue(ghost, &frame, wire, timeline));
            let seen = seen || self.may_be_missing(wire, timeline);
            let until = if captures || reports || seen { now + PROBE } else { now };
            self.wait = Some(Wait { until, probe: true, longer: false });
        }
        // What waited for its position has none now, and is followed before it.
        while let (Some(slot), Some(frame)) = (self.slot(leg), held.pop()) {
            self.place(now, slot, frame, timeline, true);
        }
        match self.slot(leg) {
            Some(slot) if !matches!(self.lane(slot).bond, Bond::Apart(_)) => {
                self.place(now, slot, frame, timeline, true)
            }
            Some(slot) => self.follow(now, slot, (frame, wire), timeline),
            None => Verdict::Fenced,
        }
    }

    /// Whether a packet is sent again from before what the track has of its stream, by another leg that is there or gone.
    fn is_from_before(&mut self, now: Instant, slot: usize, wire: Wire) -> bool {
        let other = self.lanes[1 - slot].as_ref().and_then(|other| other.source.as_ref());
        let sources = || self.ghosts.iter().flatten().map(|ghost| &**ghost).chain(other);
        let just = sources().any(|source| source.is_just_after(wire));
        let long = sources().any(|source| source.ssrc == wire.ssrc && source.is_after(wire));
        just || long && self.lane_mut(slot).sends_again(now, wire.timestamp)
    }

    /// A frame of a leg whose positions are not known.
    pub(super) fn follow(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, wire): (Arrived, Wire),
        timeline: &mut Timeline,
    ) -> Verdict {
        let lane = self.lane_mut(slot);
        match lane.in_retired(wire, timeline) {
            Some(Ok(Spot::Hole(position, media_time))) => {
                timeline.store(now, position, media_time, &frame);
                return Verdict::Accepted;
            }
            Some(Err(verdict)) => return verdict,
            Some(Ok(Spot::Ahead(_) | Spot::Source)) | None => {}
        }
        let (report, leg) = (lane.report, lane.leg);
        let Bond::Apart(follow) = &mut lane.bond else { return Verdict::Suspicious };
        if !follow.continues(wire) {
            if slot == LEAD && lane.held.len() > 0 {
                self.start_alone(now, timeline);
                return self.place(now, slot, frame, timeline, true);
            }
            **follow = Follow::new(wire.ssrc);
            lane.held.clear();
            lane.runs += 1;
        }
        let (number, media_time) = follow.take(wire, &frame, report, timeline);
        let rule = follow.rule;
        let told = (rule != Rule::Arrival).then_some(media_time);
        let known = self.same_stream(slot, (&frame, wire), told, timeline);
        if let Some(known) = known.or_else(|| same_frame((&frame, wire), media_time, rule, timeline)) {
            self.adopt(now, slot, known, timeline);
            let slot = self.slot(leg).unwrap_or(slot);
            if !self.lane(slot).is_aligned() {
                // What it held is of another stream, and began one: the two would be found again for ever.
                return Verdict::Suspicious;
            }
            return self.place(now, slot, frame, timeline, true);
        }
        let splices = slot == LEAD && self.wait.is_some_and(|wait| !wait.probe);
        let covered = media_time.plus(GRACE_TICKS) < timeline.end();
        let fills = rule != Rule::Arrival && timeline.may_fill(media_time);
        let follows = slot == SECOND && rule == Rule::Arrival && self.is_over(now);
        if (slot == SECOND && !follows || splices) && covered && !fills {
            return Verdict::Duplicate;
        }
        let again = covered || self.may_be_missing(wire, timeline);
        let verdict = self.hold(slot, number, frame);
        if slot == LEAD && verdict == Verdict::Held {
            return self.go_on(now, (covered, again), timeline);
        }
        verdict
    }

    /// The leading leg is apart and holds another frame, `covered` by what the track has or not, maybe sent `again`.
    fn go_on(&mut self, now: Instant, (covered, again): (bool, bool), timeline: &mut Timeline) -> Verdict {
        let longer = again && self.waits_longer(now, timeline);
        match self.wait {
            Some(_) if longer => {}
            Some(Wait { probe: false, until, .. }) if now < until => self.splice(now, timeline),
            Some(Wait { probe: true, until, longer }) if now < until && (again || !longer) => {}
            Some(_) | None => {
                let dropped = covered && self.drops_covered();
                self.start_alone(now, timeline);
                if dropped {
                    return Verdict::TooLate;
                }
            }
        }
        if self.lane(LEAD).is_aligned() { Verdict::Accepted } else { Verdict::Held }
    }

    /// Whether a returning leg has brought nothing but what is sent again: nobody waits for that, so that proof of where
    /// it belongs may take the path skew.
    pub(super) fn waits_longer(&mut self, now: Instant, timeline: &Timeline) -> bool {
        let Some(Wait { probe: true, longer: false, until }) = self.wait else { return false };
        if now < until {
            return false;
        }
        let (end, clock) = (timeline.end(), self.drops_covered());
        let Some(lead) = self.lanes[LEAD].as_ref() else { return false };
        let Bond::Apart(follow) = &lead.bond else { return false };
        let again = |frame: &Arrived| match frame.number {
            Number::Wire(wire) => {
                clock && follow.media_time(wire).plus(GRACE_TICKS) < end
                    || self.may_be_missing(wire, timeline)
            }
            Number::Carried { .. } | Number::Placed { .. } => false,
        };
        let until = lead.held.since().map(|since| since + self.skew);
        let longer = until.filter(|&until| now < until && lead.held.iter().all(again));
        if let Some(until) = longer {
            self.wait = Some(Wait { until, probe: true, longer: true });
        }
        longer.is_some()
    }

    /// Whether a packet may be sent again from a source of a leg that is gone, and fill a hole.
    fn may_be_missing(&self, wire: Wire, timeline: &Timeline) -> bool {
        self.ghosts.iter().flatten().any(|ghost| may_be_missing(ghost, wire, timeline))
    }

    /// The place of the first frame that the leading leg holds, which is apart, if all that it holds fits holes of a source
    /// of a leg that is gone.
    fn fills_holes(&self, timeline: &Timeline) -> Option<Known> {
        let lead = self.lanes[LEAD].as_ref().filter(|lead| matches!(lead.bond, Bond::Apart(_)))?;
        let hole = |frame: &Arrived| {
            let Number::Wire(wire) = frame.number else { return None };
            let (position, media_time) =
                self.ghosts.iter().flatten().find_map(|ghost| hole_of(ghost, wire, timeline))?;
            Some(Known { wire, position, media_time, rule: Rule::SameSource })
        };
        let first = hole(lead.held.front()?.1);
        first.filter(|_| lead.held.iter().all(|frame| hole(frame).is_some()))
    }

    /// Continues the timeline with the first held frame of the leading leg that begins where the track ends.
    pub(super) fn splice(&mut self, now: Instant, timeline: &mut Timeline) {
        self.forget_covered(LEAD, Some(now), timeline);
        if self.goes_beyond_the_end(LEAD, timeline) {
            // What waits for proof that it is missing has waited long enough.
            self.forget_covered(LEAD, None, timeline);
            self.start(now, timeline);
        }
    }

    /// Nothing says where the held frames of the leading leg belong: they follow now, unless all are numbered and timed as
    /// what is missing of a stream that is gone.
    pub(super) fn start_alone(&mut self, now: Instant, timeline: &mut Timeline) {
        if let Some(known) = self.fills_holes(timeline) {
            return self.adopt(now, LEAD, known, timeline);
        }
        let splices = self.wait.take().is_some_and(|wait| !wait.probe);
        if splices || self.drops_covered() {
            self.forget_covered(LEAD, None, timeline);
        }
        self.start(now, timeline);
    }

    /// Whether what the leading leg, which is apart, holds from before the end of the track is sent again: it has a
    /// clock that the track knows, of the same owner.
    fn drops_covered(&self) -> bool {
        let lead = self.lanes[LEAD].as_ref();
        let told = lead
            .is_some_and(|lead| matches!(&lead.bond, Bond::Apart(follow) if follow.rule != Rule::Arrival));
        self.same_owner && told
    }

    /// The first frame that the leading leg holds, which is apart, is the next one.
    pub(super) fn start(&mut self, now: Instant, timeline: &mut Timeline) {
        let Some(lead) = self.lanes[LEAD].as_mut() else { return };
        let Bond::Apart(follow) = &lead.bond else { return };
        let Some((_, first)) = lead.held.front() else { return };
        let Number::Wire(wire) = first.number else { return };
        let (told, end) = (follow.media_time(wire), timeline.end());
        let by_arrival = follow.rule == Rule::Arrival;
        let (rule, media_time) = match self.wait {
            // It waited for its place for long enough.
            Some(_) if by_arrival => (follow.rule, seam(told, end, JITTER_TICKS)),
            _ if !by_arrival && told.plus(GRACE_TICKS) >= end => (follow.rule, seam(told, end, SHIFT_TICKS)),
            _ => (Rule::Arrival, timeline.media_time_now(first.at)),
        };
        let Some(first) = lead.held.pop() else { return };
        self.start_source(now, LEAD, (&first, wire), (rule, media_time), timeline);
        self.lane_mut(LEAD).aligned_by(rule, false);
        self.release(now, LEAD, timeline);
    }

    /// Drops what a leg that is apart holds from before the end of the track: another leg has brought that time. What
    /// may be a frame that the track lost waits for proof, if it came less than the path skew before `now`, and so does
    /// what a clock puts after the end.
    pub(super) fn forget_covered(&mut self, slot: usize, now: Option<Instant>, timeline: &Timeline) {
        let (end, skew) = (timeline.end(), self.skew);
        let follows = slot == SECOND && now.is_some_and(|now| self.is_over(now));
        let Some(lane) = self.lanes[slot].as_mut() else { return };
        let (Bond::Apart(follow), report) = (&lane.bond, lane.report) else { return };
        if follows && follow.rule == Rule::Arrival {
            // A switch that waited for long enough begins with it.
            return;
        }
        lane.held.retain(|frame| {
            let Number::Wire(wire) = frame.number else { return false };
            let (ahead, at) = (|at: MediaTime| at.plus(GRACE_TICKS) >= end, follow.media_time(wire));
            let young = now.is_some_and(|now| now.saturating_duration_since(frame.at) < skew);
            if ahead(at) || !young || follow.rule == Rule::Arrival {
                return ahead(at);
            }
            // The leading leg may have set the clocks anew since they told of this leg's last frame.
            let told = || follow.told_now(wire, frame, report, timeline);
            timeline.may_fill(at) || told().is_some_and(|at| ahead(at) || timeline.may_fill(at))
        });
    }

    /// Compares the frame that the track was given last with what a leg holds that is apart.
    pub(super) fn recognise(&mut self, now: Instant, slot: usize, timeline: &mut Timeline) {
        let position = timeline.last_position();
        let Some(lane) = self.lanes[slot].as_ref() else { return };
        let (Bond::Apart(follow), Some(newest)) = (&lane.bond, timeline.history.get(position)) else {
            return;
        };
        if follow.rule == Rule::Arrival {
            return;
        }
        let known = lane.held.iter().find_map(|frame| {
            let Number::Wire(wire) = frame.number else { return None };
            let same = is_same(frame, follow.media_time(wire), &newest);
            let media_time = newest.media_time;
            same.then_some(Known { wire, position, media_time, rule: follow.rule })
        });
        if let Some(known) = known {
            self.adopt(now, slot, known, timeline);
        }
    }

    /// A leg has turned out to bring the frames that the track has: what it held finds its places.
    fn adopt(&mut self, now: Instant, slot: usize, known: Known, timeline: &mut Timeline) {
        let source = through(known, timeline);
        let lane = self.lane_mut(slot);
        let leg = lane.leg;
        lane.source = Some(source);
        lane.bond = Bond::Aligned;
        lane.aligned_by(known.rule, true);
        lane.reach(known.position);
        lane.reached = lane.reached.min(timeline.next_position());
        let mut held = std::mem::take(&mut lane.held);
        if slot == LEAD {
            self.wait = None;
            // It was spliced to before it was known to bring the same: what the other one brings is on the timeline still.
            let (line, _) = timeline.line(timeline.next_position().saturating_sub(1));
            let other = self.lanes[SECOND].as_mut().filter(|lane| lane.is_aligned());
            if let Some(source) = other.and_then(|lane| lane.source.as_mut()) {
                source.reopen(line);
            }
        }
        while let (Some(slot), Some(frame)) = (self.slot(leg), held.pop()) {
            self.place(now, slot, frame, timeline, true);
        }
    }

    /// A packet does not fit what its leg brings: it may be sent again from before that. If the track has it, so is
    /// where those after it belong known; if only its numbers are as old as that, it is refused.
    pub(super) fn stray(
        &mut self,
        now: Instant,
        slot: usize,
        (frame, wire): (&Arrived, Wire),
        timeline: &Timeline,
    ) -> Option<Verdict> {
        let source = self.lane(slot).source.as_ref();
        let source = source.filter(|source| source.ssrc == wire.ssrc && !source.is_before(wire))?;
        let told = match (frame.capture_time, timeline.capture()) {
            (Some(captured), Some((ntp, media_time))) => {
                media_time.plus_signed(ticks_between(ntp, captured.time))
            }
            _ => source.media_time_before(wire.timestamp),
        };
        let before = source.is_after(wire);
        let known = same_frame((frame, wire), told, Rule::SameSource, timeline);
        let lane = self.lane_mut(slot);
        if let Some(known) = known {
            lane.retire(through(known, timeline));
            return Some(Verdict::Duplicate);
        }
        (before && lane.sends_again(now, wire.timestamp)).then_some(Verdict::BeforeStart)
    }

    /// The place of a frame that continues a stream which another leg brings or brought (SMPTE ST 2022-7).
    fn same_stream(
        &self,
        slot: usize,
        (frame, wire): (&Arrived, Wire),
        told: Option<MediaTime>,
        timeline: &Timeline,
    ) -> Option<Known> {
        let other = self.lanes[1 - slot].as_ref().filter(|lane| lane.is_aligned() && !lane.restart);
        let beside = other.into_iter().flat_map(|lane| lane.source.iter().chain(lane.retired()));
        let beside = beside.map(|source| (source, true));
        let before = self.ghosts.iter().flatten().map(|source| (&**source, false));
        beside.chain(before).find_map(|(source, live)| {
            let (position, media_time) = continues(source, (live, told), (frame, wire), timeline)?;
            Some(Known { wire, position, media_time, rule: Rule::SameSource })
        })
    }
}

/// The source of a packet whose place is known. Its numbers mean nothing before the source that it brings began on the
/// track, and after another one took over.
fn through(known: Known, timeline: &Timeline) -> Source {
    let oldest = timeline.history.oldest().unwrap_or(known.position);
    let (begin, end) = timeline.line(known.position);
    let mut source = Source::through(known.wire, known.position, known.media_time, begin.max(oldest));
    if let Some(end) = end {
        source.end_at(end);
    }
    source
}

/// Where a packet belongs on a source of another leg, which is `live` or not any more, if it does; a clock has `told` where.
fn continues(
    source: &Source,
    (live, told): (bool, Option<MediaTime>),
    (frame, wire): (&Arrived, Wire),
    timeline: &Timeline,
) -> Option<(u64, MediaTime)> {
    if source.ssrc != wire.ssrc {
        return None;
    }
    let media_time = source.media_time(wire.timestamp)?;
    let fits = match source.fit(wire.sequence, &timeline.history) {
        Fit::Ahead(position) => {
            // What is sent again is behind the time that passed, unless the track began with it.
            let latest = timeline.latest_media_time(frame.at).plus(LATEST_TICKS);
            let fits = media_time <= latest || live && source.is_in_step(wire);
            (source.is_later(wire.timestamp) && fits).then_some(position)
        }
        Fit::Behind(position) => match timeline.history.get(position) {
            // Numbers alone may agree by chance, or because a publisher begins at the same ones every time.
            Some(held) => {
                let same = held.media_time == media_time && held.payload == &frame.payload[..];
                let telling = live || frame.payload.len() >= TELLING_BYTES;
                (same && telling).then_some(position)
            }
            // A publisher that begins at the same numbers again has another time at them.
            None => {
                let near = |told: MediaTime| told.ticks().abs_diff(media_time.ticks()) <= GRACE_TICKS;
                (live || told.is_some_and(near)).then_some(position)
            }
        },
        Fit::BeforeStart | Fit::PastEnd | Fit::Jump => None,
    };
    fits.map(|position| (position, media_time))
}

/// Whether a packet may be one of a source of a leg that is gone, and only a later one can prove it: the track has the
/// same payload there, and it is too short to tell.
fn may_continue(ghost: &Source, frame: &Arrived, wire: Wire, timeline: &Timeline) -> bool {
    let Fit::Behind(position) = ghost.fit(wire.sequence, &timeline.history) else { return false };
    let held = timeline.history.get(position);
    ghost.ssrc == wire.ssrc && held.is_some_and(|held| held.payload == &frame.payload[..])
}

/// Whether a packet may be one that a source of a leg that is gone has sent, and that the track lost or has no more.
fn may_be_missing(ghost: &Source, wire: Wire, timeline: &Timeline) -> bool {
    let old = match ghost.fit(wire.sequence, &timeline.history) {
        Fit::Behind(position) => match timeline.place(position) {
            Place::Taken => false,
            Place::Hole => true,
            Place::Gone | Place::New => ghost.is_past(wire),
        },
        Fit::Jump => ghost.is_past(wire),
        Fit::Ahead(_) | Fit::BeforeStart | Fit::PastEnd => false,
    };
    ghost.ssrc == wire.ssrc && old
}

/// The hole of a source of a leg that is gone which a packet fits by all of its numbers.
fn hole_of(ghost: &Source, wire: Wire, timeline: &Timeline) -> Option<(u64, MediaTime)> {
    let Fit::Behind(position) = ghost.fit(wire.sequence, &timeline.history) else { return None };
    let media_time = ghost.media_time(wire.timestamp).filter(|_| ghost.ssrc == wire.ssrc)?;
    let hole = timeline.place(position) == Place::Hole && timeline.fits(position, media_time);
    hole.then_some((position, media_time))
}

/// The place of a frame that the track has, if clocks that both sides share say that it is the same one.
fn same_frame(
    (frame, wire): (&Arrived, Wire),
    media_time: MediaTime,
    rule: Rule,
    timeline: &Timeline,
) -> Option<Known> {
    if rule == Rule::Arrival {
        return None;
    }
    let last = timeline.position_at(media_time.plus(WINDOW_TICKS))?;
    let near = (0..=last).rev().take(MAX_WALK).filter_map(|position| timeline.history.get(position));
    near.take_while(|held| held.media_time.plus(WINDOW_TICKS) >= media_time)
        .find(|held| is_same(frame, media_time, held))
        .map(|held| Known { wire, position: held.position, media_time: held.media_time, rule })
}

fn is_same(frame: &Arrived, media_time: MediaTime, held: &Frame<'_>) -> bool {
    let long = frame.payload.len() >= TELLING_BYTES;
    let near = match (frame.capture_time, held.capture_time) {
        (Some(ours), Some(theirs)) => {
            let apart = ticks_between(ours.time, theirs.time).unsigned_abs();
            apart <= GRACE_TICKS && (long || ours.time == theirs.time)
        }
        _ => long && media_time.ticks().abs_diff(held.media_time.ticks()) <= GRACE_TICKS,
    };
    near && held.payload == &frame.payload[..]
}

/// The media time of a frame that is spliced to the end of the track: exactly there, unless more than `shift` has passed
/// between.
fn seam(told: MediaTime, end: MediaTime, shift: u64) -> MediaTime {
    if told > end.plus(shift) { told } else { end }
}

impl Merge {
    /// Whether a leg, which is apart, holds a frame that is not covered by what the track has.
    pub(super) fn goes_beyond_the_end(&self, slot: usize, timeline: &Timeline) -> bool {
        let Some(lane) = self.lanes[slot].as_ref() else { return false };
        let Bond::Apart(follow) = &lane.bond else { return false };
        lane.held.iter().any(|frame| match frame.number {
            Number::Wire(wire) => follow.media_time(wire).plus(GRACE_TICKS) >= timeline.end(),
            Number::Carried { .. } | Number::Placed { .. } => false,
        })
    }

    /// Whether the second leg, which is apart, holds the very frame that follows what the track has.
    pub(super) fn reaches_the_end(&self, timeline: &Timeline) -> bool {
        let Some(lane) = self.lanes[SECOND].as_ref() else { return false };
        let Bond::Apart(follow) = &lane.bond else { return false };
        lane.held.iter().any(|frame| {
            let Number::Wire(wire) = frame.number else { return false };
            let (media_time, end) = (follow.media_time(wire).plus(GRACE_TICKS), timeline.end());
            // One that begins later is not the first that fits behind the end.
            (end..end.plus(u64::from(frame.duration).max(GRACE_TICKS))).contains(&media_time)
        })
    }
}

/// How long a returning leg's frames wait for proof that the track knows them.
const PROBE: Duration = Duration::from_millis(40);
/// Times this close are the same: 2.5 ms, Opus' shortest frame.
const GRACE_TICKS: u64 = 120;
/// A splice moves a frame by at most this, 20 ms.
const SHIFT_TICKS: u64 = 960;
/// By arrival, what is later than the end by this has jittered, 60 ms.
const JITTER_TICKS: u64 = 2_880;
/// Where a frame of the same capture time is looked for, 100 ms to each side: clocks drift while a leg is gone.
const WINDOW_TICKS: u64 = 4_800;
/// Positions looked at, at most: 200 ms of the shortest frames, twice over for holes.
const MAX_WALK: usize = 160;
/// Payloads of at least this many bytes are not equal by chance.
const TELLING_BYTES: usize = 16;
/// A stream goes on at most this much ahead of the time that passed, 2 s.
const LATEST_TICKS: u64 = 96_000;
