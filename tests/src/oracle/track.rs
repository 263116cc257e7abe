//! The model of a track: where each frame belongs, and which ones a history must still hold.
//!
//! A *segment* is a stretch of one run of a publisher, as long as the relay sees it go on: within it, position and
//! media time are affine in what the publisher sent. A new segment goes on at the next position; its media time is
//! that of the newest frame plus the time since, at least that frame's duration.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use relay_engine::{TrackId, TrackStats, Verdict};

use super::{Check, Limits, broken, ensure};
use crate::coverage::{Coverage, Incident};
use crate::seen::Fields;
use crate::stream::{FrameId, Sent};

/// What is handed to the relay as a packet.
#[derive(Clone, Debug)]
pub enum Packet {
    /// A healthy one, as a publisher sent it.
    Frame(Sent),
    /// One that deserves this verdict, whatever its numbers.
    Refused(Verdict),
}

/// A frame that the relay took in.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) sent: Sent,
    pub(crate) position: u64,
    pub(crate) media_time: u64,
    pub(crate) arrived: Duration,
}

/// A stretch of one run.
#[derive(Clone, Copy, Debug)]
struct Segment {
    run: (usize, u32),
    ssrc: u32,
    /// Number, position, ticks and media time of its first frame.
    first: (u32, u64, u64, u64),
    highest: u32,
    started: Duration,
}

impl Segment {
    fn place(&self, sent: &Sent) -> (u64, u64) {
        let (number, position, ticks, media_time) = self.first;
        (position + u64::from(sent.id.number - number), media_time + sent.ticks.saturating_sub(ticks))
    }

    fn covers(&self, sent: &Sent) -> bool {
        self.run == run(sent) && (self.first.0..=self.highest).contains(&sent.id.number)
    }
}

/// Where a segment starts: which run, its first frame's number, and when that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    run: (usize, u32),
    pub(crate) number: u32,
    pub(crate) at: Duration,
}

impl Start {
    /// Whether a frame is of this segment, if it is the current one.
    pub(crate) fn leads_to(&self, sent: &Sent) -> bool {
        self.run == run(sent) && sent.id.number >= self.number
    }
}

/// One track.
#[derive(Debug)]
pub(crate) struct Track {
    limits: Limits,
    taken: Vec<Taken>,
    seen: BTreeSet<FrameId>,
    current: Option<Segment>,
    /// Those before it, the newer one first.
    retired: [Option<Segment>; 2],
    /// The last suspicious frame since one of the current segment: the one after it must be taken.
    suspicious: Option<FrameId>,
    /// A hole was filled since: whether that is still in sequence is the relay's to say.
    filled: bool,
    /// The publisher's leg was down: a jump of what it sends next needs no confirmation.
    returned: bool,
    next_position: u64,
    /// Arrival number of the highest position.
    newest: Option<usize>,
    /// What the history holds: arrival numbers by position.
    held: BTreeMap<u64, usize>,
    held_bytes: usize,
    active: bool,
    last_arrival: Option<Duration>,
}

impl Track {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            taken: Vec::new(),
            seen: BTreeSet::new(),
            current: None,
            retired: [None; 2],
            suspicious: None,
            filled: false,
            returned: false,
            next_position: 0,
            newest: None,
            held: BTreeMap::new(),
            held_bytes: 0,
            active: false,
            last_arrival: None,
        }
    }

    /// Checks the verdict on a frame; returns its arrival number if it was taken.
    pub(crate) fn judge(
        &mut self,
        sent: &Sent,
        verdict: Verdict,
        now: Duration,
        coverage: &mut Coverage,
    ) -> Check<Option<usize>> {
        let (must, may) = self.expectation(sent);
        let allowed = verdict == must || may.contains(&verdict);
        ensure(allowed, "verdict", || {
            let (id, current, retired) = (sent.id, self.current, self.retired);
            format!("{id:?} was {verdict:?}, not {must:?} or {may:?}; {current:?}, before it {retired:?}")
        })?;
        match verdict {
            Verdict::Accepted => {
                let newest = self.newest;
                let arrival = self.take(sent, now)?;
                // What fills a hole says nothing of what comes next.
                self.returned &= newest == self.newest;
                newest.into_iter().for_each(|newest| self.note(newest, arrival, coverage));
                Ok(Some(arrival))
            }
            Verdict::Suspicious => {
                self.suspicious = Some(sent.id);
                self.filled = false;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// The publisher's leg is back after it was down.
    pub(crate) const fn leg_returned(&mut self) {
        self.returned = true;
    }

    /// The publisher's leg is gone: whatever comes next starts a segment.
    pub(crate) fn detach(&mut self) {
        self.current = None;
        self.retired = [None; 2];
        self.suspicious = None;
    }

    /// The track says that it became active or silent.
    pub(crate) fn activity(&mut self, id: TrackId, active: bool, now: Duration) -> Check {
        ensure(self.active != active, "activity", || {
            format!("{id} is active: {active}, for the second time")
        })?;
        let last = self.last_arrival.ok_or_else(|| broken("activity", format!("{id} never had a frame")))?;
        let silent = now >= last + self.limits.silence_after;
        ensure(active || silent, "activity", || {
            format!("{id} is silent at {now:?}; last frame at {last:?}")
        })?;
        self.active = active;
        Ok(())
    }

    /// I4: an active track must have a deadline at which it may fall silent.
    pub(crate) fn drained(&self, id: TrackId, now: Duration, deadline: Option<Duration>) -> Check {
        let Some(last) = self.last_arrival.filter(|_| self.active) else { return Ok(()) };
        let due = last + self.limits.silence_after;
        ensure(due > now, "activity", || {
            format!("{id} had its last frame at {last:?}, and is active at {now:?}")
        })?;
        ensure(deadline.is_some_and(|at| at <= due), "I4", || {
            format!("{id} falls silent at {due:?}; the deadline is {deadline:?}")
        })
    }

    pub(crate) fn check_stats(&self, id: TrackId, stats: &TrackStats) -> Check {
        let model = (self.next_position, self.taken.len() as u64, self.held.keys().next().copied());
        let claimed = (stats.next_position, stats.frames, stats.oldest_position);
        ensure(claimed == model, "I2", || {
            format!("{id}: next position, frames, oldest position are {claimed:?}, not {model:?}")
        })?;
        let model = (self.held.len(), self.held_bytes);
        let claimed = (stats.history_frames, stats.history_payload_bytes);
        ensure(claimed == model, "I3", || format!("{id}: history holds {claimed:?}, not {model:?}"))?;
        ensure(stats.history_frames <= self.limits.history_frames, "I3", || format!("{id}: {stats:?}"))?;
        ensure(stats.active == self.active, "activity", || format!("{id}: {stats:?}"))
    }

    /// The arrival number of the frame that is held at a position.
    pub(crate) fn arrival_at(&self, position: u64) -> Option<usize> {
        self.held.get(&position).copied()
    }

    /// The frame that is held at a position.
    pub(crate) fn at(&self, position: u64) -> Option<&Taken> {
        self.held.get(&position).map(|arrival| &self.taken[*arrival])
    }

    pub(crate) fn frame(&self, arrival: usize) -> &Taken {
        &self.taken[arrival]
    }

    /// Whether a frame can still be handed out.
    pub(crate) fn is_held(&self, arrival: usize) -> bool {
        self.held.get(&self.taken[arrival].position) == Some(&arrival)
    }

    /// The current segment.
    pub(crate) fn segment(&self) -> Option<Start> {
        self.current.map(|Segment { run, first, started, .. }| Start { run, number: first.0, at: started })
    }

    pub(crate) const fn next_position(&self) -> u64 {
        self.next_position
    }

    pub(crate) const fn is_active(&self) -> bool {
        self.active
    }

    pub(crate) fn newest(&self) -> Option<&Taken> {
        self.newest.map(|arrival| &self.taken[arrival])
    }

    /// The verdict that a frame must get, or may.
    fn expectation(&self, sent: &Sent) -> (Verdict, &'static [Verdict]) {
        use Verdict::{Accepted, BeforeStart, Duplicate, Suspicious, TooLate};
        let known = self.seen.contains(&sent.id);
        let segment =
            self.current.filter(|segment| segment.run == run(sent) && sent.id.number >= segment.first.0);
        let segment = segment.or_else(|| self.past(sent));
        if let Some(segment) = segment {
            let (position, _) = segment.place(sent);
            let gone = self.held.keys().next().is_some_and(|oldest| position < *oldest);
            return match (known, gone) {
                (_, true) => (TooLate, &[Suspicious]),
                (true, false) => (Duplicate, &[]),
                (false, false) => (Accepted, &[]),
            };
        }
        if known {
            return (Suspicious, &[Duplicate, TooLate, BeforeStart]);
        }
        let confirms = self.suspicious.is_some_and(|before| {
            run(sent) == (before.publisher, before.run) && sent.id.number == before.number + 1
        });
        let fresh = |segment: &Segment| segment.ssrc != sent.ssrc;
        let mut segments = self.current.iter().chain(self.retired.iter().flatten());
        if segments.clone().all(fresh) {
            return (Accepted, &[]);
        }
        match segments.any(|segment| segment.run == run(sent)) {
            true => (BeforeStart, &[Suspicious, Accepted]),
            false if confirms && self.filled => (Accepted, &[Suspicious]),
            false if confirms => (Accepted, &[]),
            false if self.returned => (Suspicious, &[Accepted]),
            false => (Suspicious, &[]),
        }
    }

    /// The segment before the current one that a frame is of.
    fn past(&self, sent: &Sent) -> Option<Segment> {
        self.retired.into_iter().flatten().find(|segment| segment.covers(sent))
    }

    fn take(&mut self, sent: &Sent, now: Duration) -> Check<usize> {
        ensure(self.seen.insert(sent.id), "I1", || format!("{:?} was taken in twice", sent.id))?;
        let current =
            self.current.filter(|segment| segment.run == run(sent) && sent.id.number >= segment.first.0);
        let (position, media_time) = match (current, self.past(sent)) {
            (Some(segment), _) | (None, Some(segment)) => segment.place(sent),
            (None, None) => self.start(sent, now),
        };
        if let Some(current) = self.current.as_mut().filter(|segment| segment.run == run(sent)) {
            current.highest = current.highest.max(sent.id.number);
        }
        let arrival = self.taken.len();
        self.taken.push(Taken { sent: sent.clone(), position, media_time, arrived: now });
        if position >= self.next_position {
            self.next_position = position + 1;
            self.newest = Some(arrival);
            self.suspicious = None;
        }
        self.filled = true;
        self.last_arrival = Some(now);
        self.hold(arrival, now);
        Ok(arrival)
    }

    /// Counts how a frame follows the one that was the newest before it.
    fn note(&self, newest: usize, arrival: usize, coverage: &mut Coverage) {
        let (before, taken) = (&self.taken[newest], &self.taken[arrival]);
        if taken.position < before.position {
            coverage.count_if(run(&before.sent) != run(&taken.sent), Incident::Straggler);
            return coverage.count(Incident::Overtaken);
        }
        coverage.count_if(taken.position > before.position + 1, Incident::Hole);
        let (old, new) = (&before.sent, &taken.sent);
        if run(old) == run(new) {
            let read = |sent: &Sent| Fields::read(&sent.datagram).map(|of| (of.sequence, of.timestamp));
            let ((old_sequence, old_timestamp), (sequence, timestamp)) =
                read(old).zip(read(new)).expect("a publisher writes RTP");
            coverage.count_if(sequence < old_sequence, Incident::SequenceWrap);
            coverage.count_if(timestamp < old_timestamp, Incident::TimestampWrap);
            let frames = u64::from(new.id.number - old.id.number);
            coverage.count_if(new.ticks - old.ticks > frames * u64::from(old.frame_ticks), Incident::Gap);
        } else if old.id.publisher != new.id.publisher {
            coverage.count(Incident::Return);
        } else {
            let jumped = old.ssrc == new.ssrc;
            coverage.count(if jumped { Incident::Jump } else { Incident::NewSource });
        }
    }

    fn start(&mut self, sent: &Sent, now: Duration) -> (u64, u64) {
        let media_time = self.newest().map_or(0, |newest| {
            let passed = ticks_in(now.saturating_sub(newest.arrived));
            newest.media_time + passed.max(u64::from(newest.sent.frame_ticks))
        });
        let place = (self.next_position, media_time);
        let first = (sent.id.number, place.0, sent.ticks, place.1);
        let segment =
            Segment { run: run(sent), ssrc: sent.ssrc, first, highest: sent.id.number, started: now };
        if let Some(before) = self.current.replace(segment) {
            self.retired = [Some(before), self.retired[0]];
        }
        place
    }

    /// The history as its settings describe it.
    fn hold(&mut self, arrival: usize, now: Duration) {
        let Taken { position, sent, .. } = &self.taken[arrival];
        self.held_bytes += sent.payload.len();
        self.held.insert(*position, arrival);
        while let Some(entry) = self.held.first_entry() {
            let oldest = &self.taken[*entry.get()];
            let too_far = self.next_position - oldest.position > self.limits.history_frames as u64;
            let too_old = now.saturating_sub(oldest.arrived) > self.limits.history_duration;
            let too_much = self.held_bytes > self.limits.history_bytes;
            let newest = oldest.position + 1 == self.next_position;
            if newest || !(too_far || too_old || too_much) {
                break;
            }
            self.held_bytes -= oldest.sent.payload.len();
            entry.remove();
        }
    }
}

fn run(sent: &Sent) -> (usize, u32) {
    (sent.id.publisher, sent.id.run)
}

/// Whole 48 kHz ticks.
pub(crate) fn ticks_in(duration: Duration) -> u64 {
    (duration.as_nanos() * 48_000 / 1_000_000_000) as u64
}
