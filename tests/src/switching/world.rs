//! A world of switches in virtual time: speakers and listeners whose legs are replaced, one relay or two, and the oracle.
//!
//! As in the other world, each step hands the relay one input, drains it and checks all that came out; nothing sleeps
//! and nothing reads a real clock. Here far ends are part of the proof: they merge their legs by position, acknowledge,
//! ask for what they miss, and at the end must have every frame.

use std::collections::BinaryHeap;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use relay_engine::{
    CarriedFrame, Epoch, Event, Feedback, LegId, LegSpec, LegState, ListenerId, MediaTime, Output, Peer,
    TrackId, TrackSpec, Verdict, rtp,
};

use super::frames::FrameId;
use super::listen::Seat;
use super::pair::Pair;
use super::script::{Action, Script};
use super::seen::{Handed, Seen};
use super::speak::Speaker;
use super::truth::{Standing, Truth};
use super::{Count, Report, Tamper};
use crate::oracle::{Check, Violation, broken, ensure};
use crate::seen::Digest;

/// Wall time of the world's start: 2023-11-14T22:13:20Z.
const WALL_SECONDS: u64 = 1_700_000_000;
/// How long speakers go on when all is calm.
const CODA: Duration = Duration::from_millis(500);
/// The payload type of every leg.
pub(super) const PAYLOAD_TYPE: u8 = 111;

/// What happens at a time.
#[derive(Debug)]
pub(super) enum Happening {
    Act(usize),
    Calm,
    /// Speakers stop.
    Stop,
    /// A track's encoder has its next frame.
    Say(usize, usize),
    /// A leg sends the next frame again.
    Again(usize, LegId),
    /// A packet comes out of a speaker's path.
    In(usize, LegId, FrameId, Bytes),
    /// A frame that carries its position does.
    Carried(usize, LegId, FrameId, CarriedFrame),
    /// A packet comes out of a listener's path, if its leg was not lost meanwhile.
    Out(usize, LegId, u32, Handed),
    /// A listener acknowledges and asks.
    Far(usize),
    Feedback(LegId, Feedback),
    /// The owner closes a leg that is spent.
    CloseSpent(LegId),
}

/// A happening in its place: the earliest is the greatest.
#[derive(Debug)]
struct Pending {
    at: Duration,
    serial: u64,
    happening: Happening,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

/// The world.
pub(super) struct World<'a> {
    pub(super) script: &'a Script,
    pub(super) tamper: &'a mut dyn Tamper,
    base: Instant,
    /// Takes outputs by [`Relay::fan_out`] too.
    fans_out: bool,
    pub(super) clock: Duration,
    /// I7: the latest time that the relay was told.
    pub(super) told: Duration,
    queue: BinaryHeap<Pending>,
    serial: u64,
    pub(super) relay: Pair,
    pub(super) tracks: Vec<TrackId>,
    /// By track, its witness's leg.
    witnesses: Vec<LegId>,
    witness_ids: Vec<ListenerId>,
    pub(super) truths: Vec<Truth>,
    pub(super) speakers: Vec<Speaker>,
    pub(super) seats: Vec<Seat>,
    pub(super) random: fastrand::Rng,
    pub(super) is_calm: bool,
    lag: (u8, Duration),
    pub(super) doing: String,
    pub(super) report: Report,
    wire: Vec<u8>,
    outputs: Vec<Seen>,
}

impl<'a> World<'a> {
    pub(super) fn new(script: &'a Script, shift: Duration, tamper: &'a mut dyn Tamper) -> Self {
        let base = Instant::now() + shift;
        let epoch = Epoch { instant: base, wall: UNIX_EPOCH + Duration::from_secs(WALL_SECONDS) };
        let mut world = Self {
            script,
            tamper,
            base,
            fans_out: !shift.is_zero(),
            clock: Duration::ZERO,
            told: Duration::ZERO,
            queue: BinaryHeap::new(),
            serial: 0,
            relay: Pair::new(script.config(), epoch, script.seed, script.fed),
            tracks: Vec::new(),
            witnesses: Vec::new(),
            witness_ids: Vec::new(),
            truths: Vec::new(),
            speakers: Vec::new(),
            seats: Vec::new(),
            random: fastrand::Rng::with_seed(script.seed ^ 0x5eed),
            is_calm: false,
            lag: (0, Duration::ZERO),
            doing: String::new(),
            report: Report::default(),
            wire: vec![0; 256],
            outputs: Vec::new(),
        };
        for (n, (at, _)) in script.actions.iter().enumerate() {
            world.schedule(*at, Happening::Act(n));
        }
        world.schedule(script.calm, Happening::Calm);
        world.schedule(script.calm + CODA, Happening::Stop);
        world
    }

    pub(super) fn run(&mut self) -> Check {
        self.populate()?;
        loop {
            let next = self.queue.peek().map(|pending| pending.at);
            let deadline = self.deadline();
            let at = match (next, deadline) {
                (None, None) => break,
                (Some(next), None) => next,
                (None, Some(deadline)) => deadline,
                (Some(next), Some(deadline)) => next.min(deadline),
            };
            if at > self.script.end {
                break;
            }
            self.clock = self.clock.max(at);
            if deadline.is_some_and(|deadline| deadline < next.unwrap_or(Duration::MAX)) {
                let now = self.now();
                self.relay.handle_timeout(now);
                self.step()?;
            } else if let Some(pending) = self.queue.pop() {
                self.happen(pending.happening)?;
            }
        }
        self.finish()
    }

    /// Tracks, their witnesses, and seats for listeners.
    fn populate(&mut self) -> Check {
        let script = self.script;
        for (n, plan) in script.tracks.iter().enumerate() {
            let now = self.now();
            let opened = self.relay.open_track(now, TrackSpec { name: format!("t{n}") });
            let track = opened.map_err(|error| broken("I3", error.to_string()))?;
            let opened = self.relay.open_listener(now, track, LegSpec::new(PAYLOAD_TYPE).reports(false));
            let (witness, leg) = opened.map_err(|error| broken("I3", error.to_string()))?;
            self.relay.handle_leg(now, leg, LegState::Up);
            self.tracks.push(track);
            self.witnesses.push(leg);
            self.witness_ids.push(witness);
            self.truths.push(Truth::new(*plan, script.terms));
            self.speakers.push(Speaker::new(*plan));
        }
        for (n, plan) in script.listeners.iter().enumerate() {
            self.seats.push(Seat::new(plan.clone()));
            self.schedule(Duration::ZERO, Happening::Far(n));
        }
        self.step()
    }

    fn happen(&mut self, happening: Happening) -> Check {
        match happening {
            Happening::Act(n) => {
                let script = self.script;
                let action = &script.actions[n].1;
                self.doing = format!("{action:?}");
                self.tamper.input(self.clock, format_args!("{action:?}"));
                match action {
                    Action::Speak(track, what) => self.speak(*track, what)?,
                    Action::Hear(seat, what) => self.hear(*seat, *what)?,
                    Action::Lag(calls, by) => self.lag = (*calls, *by),
                }
                self.step()
            }
            Happening::Calm => {
                self.is_calm = true;
                (0..self.speakers.len()).try_for_each(|track| self.calm_speaker(track))?;
                // What comes of that is from before the live edge of those who are resumed.
                self.step()?;
                (0..self.seats.len()).try_for_each(|seat| self.calm_seat(seat))?;
                self.step()
            }
            Happening::Stop => {
                self.speakers.iter_mut().for_each(|speaker| speaker.stopped = true);
                Ok(())
            }
            Happening::Say(track, encoder) => {
                self.say(track, encoder);
                Ok(())
            }
            Happening::Again(track, leg) => {
                self.again(track, leg);
                Ok(())
            }
            Happening::In(track, leg, id, datagram) => {
                let Ok(packet) = rtp::Packet::parse(datagram) else { return Ok(()) };
                let now = self.now();
                let verdict = self.relay.handle_packet(now, leg, packet);
                self.came(track, leg, id, verdict)
            }
            Happening::Carried(track, leg, id, frame) => {
                let now = self.now();
                let verdict = self.relay.handle_frame(now, leg, frame);
                self.came(track, leg, id, verdict)
            }
            Happening::Out(seat, leg, era, packet) => {
                self.heard(seat, leg, era, &packet);
                Ok(())
            }
            Happening::Far(seat) => {
                self.far(seat);
                Ok(())
            }
            Happening::Feedback(leg, feedback) => self.feedback(leg, feedback),
            Happening::CloseSpent(leg) => self.close_spent(leg),
        }
    }

    fn came(&mut self, track: usize, leg: LegId, id: FrameId, verdict: Verdict) -> Check {
        self.doing.clear();
        self.report.digest.number(verdict as u64);
        self.report.verdicts[verdict as usize] += 1;
        self.tamper.input(self.told, format_args!("{leg} {id:?}: {verdict:?}"));
        let (truth, told) = (&mut self.truths[track], self.told);
        truth.brought(leg, id, verdict, told);
        let skew = self.script.terms.path_skew;
        match self.speakers[track].standing(leg) {
            // What is sent again is sent again on the leg that took over.
            Some(Standing::Spent(_)) if told > self.speakers[track].said_at(id) + skew => {}
            Some(standing) => truth.judge(id, verdict, standing, told)?,
            None => truth.meet(id, verdict, told),
        }
        self.step()
    }

    /// The `now` of the next call: sometimes an older one, on purpose.
    pub(super) fn now(&mut self) -> Instant {
        let (calls, by) = self.lag;
        let said = if calls > 0 { self.clock.saturating_sub(by) } else { self.clock };
        self.lag.0 = calls.saturating_sub(1);
        self.told = self.told.max(said);
        self.base + said
    }

    /// After each input: drain, check, and send what came out.
    pub(super) fn step(&mut self) -> Check {
        self.report.steps += 1;
        self.evictions();
        let mut outputs = std::mem::take(&mut self.outputs);
        let (base, wire) = (self.base, &mut self.wire);
        let take_down = |output: &Output<'_>| Seen::take_down(output, base, wire);
        let now = base + self.told;
        self.relay.drain(now, self.fans_out, &mut outputs, take_down)?;
        // What was due may have brought frames too.
        self.evictions();
        self.tamper.tamper(&mut outputs);
        self.fill_in(&mut outputs);
        for (track, truth) in self.tracks.iter().zip(&mut self.truths) {
            let stats = self.relay.track_stats(*track);
            truth.begins_at(stats.and_then(|stats| stats.oldest_position).unwrap_or(0));
        }
        // The witnesses first: what they are handed is what the others are owed.
        for seen in &outputs {
            if let Seen::Packet(packet) = seen {
                self.witness(packet)?;
            }
        }
        for seen in &outputs {
            self.report.digest.number(seen.digest());
            match seen {
                Seen::Packet(packet) => self.hand(packet)?,
                Seen::Event(event) => self.event(*event)?,
                Seen::Report(..) => {}
            }
        }
        outputs.clear();
        self.outputs = outputs;
        self.check_drained()
    }

    fn fill_in(&self, outputs: &mut [Seen]) {
        for seen in outputs {
            if let Seen::Packet(packet) = seen {
                packet.ticks_said = packet.id.map_or(0, |id| self.ticks_of(id));
            }
        }
    }

    fn ticks_of(&self, id: FrameId) -> u64 {
        self.speakers.get(usize::from(id.track)).map_or(0, |speaker| speaker.ticks_of(id))
    }

    fn witness(&mut self, packet: &Handed) -> Check {
        let Some(track) = self.witnesses.iter().position(|leg| *leg == packet.leg) else {
            return Ok(());
        };
        let same = packet.id.is_none_or(|id| usize::from(id.track) == track);
        ensure(same, "frame", || format!("{packet:?} is of another track"))?;
        let position = self.truths[track].hold(packet, self.told)?;
        let ears = self.seats.iter_mut().filter_map(|seat| seat.ear.as_mut());
        ears.filter(|ear| ear.track == track).for_each(|ear| ear.arrived(position));
        Ok(())
    }

    fn hand(&mut self, packet: &Handed) -> Check {
        if self.witnesses.contains(&packet.leg) {
            return Ok(());
        }
        self.report.packets += 1;
        self.report.count_if(packet.replay, Count::Replayed);
        let seat = self.seats.iter_mut().position(|seat| {
            seat.ear.as_ref().is_some_and(|ear| {
                ear.id == packet.listener && ear.legs.iter().any(|leg| leg.id == packet.leg)
            })
        });
        let seat = seat.ok_or_else(|| broken("I6", format!("{packet:?} is for nobody")))?;
        let Some(ear) = self.seats[seat].ear.as_mut() else { return Ok(()) };
        ear.packet(packet, &self.truths[ear.track])?;
        self.send(seat, packet);
        Ok(())
    }

    fn event(&mut self, event: Event) -> Check {
        match event {
            Event::FramesSkipped { listener, count, .. } if self.witness_ids.contains(&listener) => {
                let track = self.witness_ids.iter().position(|witness| *witness == listener);
                let Some(track) = track else { return Ok(()) };
                let ears = self.seats.iter_mut().filter_map(|seat| seat.ear.as_mut());
                ears.filter(|ear| ear.track == track).for_each(|ear| ear.forgive(count));
                self.truths[track].missed(count)
            }
            Event::FramesSkipped { listener, from, count } => {
                self.report.count(Count::Skipped);
                let seat = self.seats.iter_mut();
                let ear = seat.filter_map(|seat| seat.ear.as_mut()).find(|ear| ear.id == listener);
                let ear = ear.ok_or_else(|| broken("I6", format!("{event:?}: no such listener")))?;
                ear.skipped(from, count, &self.truths[ear.track])?;
                self.told_skipped(listener, count);
                Ok(())
            }
            Event::FramesLost { track, from, count } => {
                self.report.count(Count::Lost);
                let track = self.tracks.iter().position(|known| *known == track);
                let track = track.ok_or_else(|| broken("ids", format!("{event:?}: no such track")))?;
                self.truths[track].lost(from, count)
            }
            Event::LegSpent { leg, to, position, replayed, gap_frames } => {
                self.spent((leg, to), position, (replayed, gap_frames))
            }
            _ => Ok(()),
        }
    }

    fn spent(&mut self, (leg, to): (LegId, LegId), cut: u64, (replayed, gap): (u64, u64)) -> Check {
        self.report.count(Count::Spent);
        if let Some(track) = self.speakers.iter().position(|speaker| speaker.has(leg)) {
            return self.speaker_spent(track, (leg, to), cut);
        }
        let told = self.told;
        let ears = self.seats.iter_mut().filter_map(|seat| seat.ear.as_mut());
        let ear = ears.into_iter().find(|ear| ear.knows(leg));
        let ear = ear.ok_or_else(|| broken("I6", format!("{leg} is spent, and nobody's")))?;
        let short = ear.leg(leg).is_some_and(|leg| !leg.is_up());
        ear.spent((leg, to), cut, replayed, gap)?;
        if short {
            ear.cut_short(&self.truths[ear.track], told);
        }
        let linger = Duration::from_micros(self.random.u64(0..60_000));
        self.schedule(self.clock + linger, Happening::CloseSpent(leg));
        Ok(())
    }

    fn close_spent(&mut self, leg: LegId) -> Check {
        if let Some(track) = self.speakers.iter().position(|speaker| speaker.has(leg)) {
            self.truths[track].leg_lost(leg);
            self.speakers[track].close_spent(leg);
        } else {
            let Some(seat) = self.seats.iter().position(|seat| seat.has(leg)) else { return Ok(()) };
            self.close_seat_leg(seat, leg);
            return self.step();
        }
        let now = self.now();
        self.relay.close(now, Peer::Leg(leg));
        self.step()
    }

    fn check_drained(&mut self) -> Check {
        let deadline = self.tamper.deadline(self.deadline(), self.told);
        self.report.digest.number(deadline.map_or(0, |at| at.as_nanos() as u64));
        ensure(deadline.is_none_or(|at| at > self.told), "I4", || {
            format!("drained at {:?}, and the deadline is {:?}", self.told, self.relay.poll_timeout())
        })?;
        ensure(self.relay.is_drained(), "I4", || "drained, and says that it is not".to_owned())?;
        self.figures()?;
        for truth in &mut self.truths {
            truth.drained(self.told)?;
        }
        for seat in &mut self.seats {
            if let Some(ear) = &mut seat.ear {
                ear.drained(&self.truths[ear.track], self.told)?;
            }
        }
        Ok(())
    }

    /// What left the histories, before those who are told of it are.
    fn evictions(&mut self) {
        for (track, truth) in self.tracks.iter().zip(&mut self.truths) {
            if let Some(oldest) = self.relay.track_stats(*track).and_then(|stats| stats.oldest_position) {
                truth.left(oldest);
            }
        }
    }

    /// What the relay says of its tracks.
    fn figures(&mut self) -> Check {
        for (track, truth) in self.tracks.iter().zip(&mut self.truths) {
            let stats = self.relay.track_stats(*track);
            let stats = stats.ok_or_else(|| broken("ids", format!("no stats of {track}")))?;
            truth.figures(&stats)?;
        }
        Ok(())
    }

    fn finish(&self) -> Check {
        for track in 0..self.truths.len() {
            self.truths[track].end()?;
            self.speakers[track].end(self.clock)?;
        }
        for seat in &self.seats {
            let Some(ear) = &seat.ear else { continue };
            ear.end()?;
            seat.end(&self.truths[ear.track], self.script)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        self.relay.poll_timeout().map(|at| at.saturating_duration_since(self.base))
    }

    pub(super) fn schedule(&mut self, at: Duration, happening: Happening) {
        self.serial += 1;
        self.queue.push(Pending { at, serial: self.serial, happening });
    }

    /// A frame with its position.
    pub(super) fn carried(position: u64, media_time: u64, payload: &Bytes) -> CarriedFrame {
        CarriedFrame {
            position,
            media_time: MediaTime::from_ticks(media_time),
            marker: false,
            capture_time: None,
            audio_level: None,
            payload: payload.clone(),
        }
    }

    /// What broke, and when.
    pub(super) fn failure(&self, violation: Violation) -> crate::world::Failure {
        crate::world::Failure {
            at: self.clock,
            step: self.report.steps,
            doing: self.doing.clone(),
            violation,
        }
    }
}

impl Report {
    pub(super) const fn count(&mut self, what: Count) {
        self.counts[what as usize] += 1;
    }

    pub(super) const fn count_if(&mut self, happened: bool, what: Count) {
        self.counts[what as usize] += happened as u64;
    }
}

/// Equal runs have equal digests (I5).
pub(super) type RunDigest = Digest;
