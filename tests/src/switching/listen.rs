//! The listener's half of a world: far ends that merge their legs by position, acknowledge, and ask for what they miss.

use std::time::Duration;

use relay_engine::rtp::rtcp;
use relay_engine::{
    Feedback, LegId, LegSpec, LegState, OnReturn, OpenError, Order, Peer, SwitchError, UnknownListener,
    Verdict,
};

use super::Count;
use super::ear::Ear;
use super::script::{Acks, Hear, ListenerPlan, Script, Slot};
use super::seen::Handed;
use super::truth::Truth;
use super::world::{Happening, PAYLOAD_TYPE, World};
use crate::link::{Link, LinkSpec};
use crate::oracle::{Check, ensure};

/// How often a far end acknowledges and asks.
const FAR: Duration = Duration::from_millis(100);
/// How many packets it asks for at once.
const ASKS: usize = 40;

/// A listener and its player.
#[derive(Debug)]
pub(super) struct Seat {
    plan: ListenerPlan,
    pub(super) ear: Option<Ear>,
    ways: Vec<Way>,
    /// By position, of the track that it listens to.
    heard: Vec<bool>,
    /// All before it are heard, from the first on.
    next: Option<u64>,
    top: u64,
    /// Frames that it was told it missed, or could not ask for.
    told: u64,
    /// Its first position, if it came back with what it has.
    since: Option<u64>,
}

/// The way to a listener on one leg.
#[derive(Debug)]
struct Way {
    leg: LegId,
    link: Link,
    /// What was sent in another era is lost.
    era: u32,
    highest_index: Option<u64>,
}

impl Seat {
    pub(super) fn new(plan: ListenerPlan) -> Self {
        let (ways, heard) = (Vec::new(), Vec::new());
        Self { plan, ear: None, ways, heard, next: None, top: 0, told: 0, since: None }
    }

    pub(super) fn has(&self, leg: LegId) -> bool {
        self.ways.iter().any(|way| way.leg == leg)
    }

    fn slot(&self, slot: Slot) -> Option<LegId> {
        let place = usize::from(slot == Slot::New);
        self.ways.get(place).map(|way| way.leg)
    }

    fn way(&mut self, leg: LegId) -> Option<&mut Way> {
        self.ways.iter_mut().find(|way| way.leg == leg)
    }

    /// It begins again at the live edge.
    fn forget(&mut self) {
        self.heard.clear();
        (self.next, self.top, self.since) = (None, 0, None);
    }

    fn has_heard(&self, position: u64) -> bool {
        self.heard.get(position as usize).copied().unwrap_or(false)
    }

    /// The last position of an ordered leg before the first frame that is missing: holes are passed over.
    fn in_order(&self, truth: &Truth) -> Option<u64> {
        let missing = |position: &u64| truth.get(*position).is_some() && !self.has_heard(*position);
        let end = (self.next?..self.top).find(missing).unwrap_or(self.top);
        end.checked_sub(1)
    }

    /// A packet arrives.
    fn hear(&mut self, position: u64, begins: u64) {
        if self.heard.len() <= position as usize {
            self.heard.resize(position as usize + 1, false);
        }
        self.heard[position as usize] = true;
        self.top = self.top.max(position + 1);
        let mut next = self.next.unwrap_or(begins);
        while self.has_heard(next) {
            next += 1;
        }
        self.next = Some(next);
    }

    /// The world is over: it has everything, if it ever said what it has.
    pub(super) fn end(&self, truth: &Truth, script: &Script) -> Check {
        let whole = script.terms.history_frames >= 3_000 && script.terms.history >= Duration::from_secs(30);
        let Some(ear) = self.ear.as_ref().filter(|_| whole && self.plan.acks == Acks::Contiguous) else {
            return Ok(());
        };
        let long = script.tracks.iter().any(|track| track.frame_ticks != 960);
        let Some(first) =
            self.since.or_else(|| ear.first()).filter(|_| !self.plan.live && !ear.is_unknown() && !long)
        else {
            return Ok(());
        };
        let missing = (first..truth.next())
            .filter(|position| truth.get(*position).is_some() && !self.has_heard(*position));
        let count = missing.clone().count() as u64;
        ensure(count <= self.told, "L1", || {
            format!(
                "{:?} of {first}.. never reached the far end: {ear:?}",
                missing.take(10).collect::<Vec<_>>()
            )
        })
    }
}

impl World<'_> {
    pub(super) fn hear(&mut self, n: usize, what: Hear) -> Check {
        let slot = |world: &Self, slot| world.seats[n].slot(slot);
        match what {
            Hear::Join(resumes) => self.join(n, resumes)?,
            Hear::Add => self.add_leg(n)?,
            Hear::Up(of) => {
                if let Some(leg) = slot(self, of) {
                    self.seat_state(n, leg, LegState::Up);
                }
            }
            Hear::Down(of) => {
                if let Some(leg) = slot(self, of) {
                    self.seat_state(n, leg, LegState::Down);
                }
            }
            Hear::Switch => self.switch_listener(n)?,
            Hear::Close(of) => {
                // The only leg of a listener is the listener, and one that is spent is none.
                let spent =
                    self.seats[n].ear.as_ref().is_some_and(|ear| ear.legs.iter().any(|leg| leg.spent));
                if self.seats[n].ways.len() == 2
                    && !spent
                    && let Some(leg) = slot(self, of)
                {
                    self.close_seat_leg(n, leg);
                }
            }
            Hear::Leave => {
                if let Some(ear) = self.seats[n].ear.take() {
                    self.seats[n].ways.clear();
                    let now = self.now();
                    self.relay.close(now, Peer::Listener(ear.id));
                }
            }
            Hear::Select(track) => self.select(n, track)?,
            Hear::Pause => self.pause(n, true)?,
            Hear::Resume => self.pause(n, false)?,
            Hear::Replay => self.replay(n),
        }
        Ok(())
    }

    fn spec_of(&self, n: usize) -> LegSpec {
        let plan = &self.seats[n].plan;
        let order = if plan.ordered { Order::Position } else { Order::Arrival };
        let on_return = if plan.live { OnReturn::Live } else { OnReturn::Replay };
        LegSpec::new(PAYLOAD_TYPE).order(order).on_return(on_return).reports(false)
    }

    fn way_of(&mut self, n: usize, leg: LegId) -> Way {
        let plan = &self.seats[n].plan;
        let spec = if plan.ordered {
            LinkSpec::perfect().delay(Duration::from_millis(30))
        } else {
            plan.link.clone()
        };
        Way { leg, link: Link::new(&spec, self.random.u64(..)), era: 0, highest_index: None }
    }

    fn join(&mut self, n: usize, resumes: bool) -> Check {
        if self.seats[n].ear.is_some() {
            return Ok(());
        }
        let seat = &mut self.seats[n];
        let resume_from = seat.next.filter(|_| resumes);
        let track = seat.plan.track;
        if resume_from.is_none() {
            seat.forget();
        }
        let mut spec = self.spec_of(n);
        if let Some(from) = resume_from {
            spec = spec.resume_from(from);
            self.report.count(Count::Resumed);
        }
        let (now, id) = (self.now(), self.tracks[track]);
        let opened = self.relay.open_listener(now, id, spec);
        let (listener, leg) = opened.map_err(|error| crate::oracle::broken("I3", error.to_string()))?;
        let terms = (self.script.terms, self.truths[track].frame());
        let plan = &self.seats[n].plan;
        let ear = Ear::new((listener, leg, track), (plan.ordered, plan.live), resume_from, terms);
        let way = self.way_of(n, leg);
        let seat = &mut self.seats[n];
        (seat.ear, seat.ways, seat.since) = (Some(ear), vec![way], resume_from);
        Ok(())
    }

    fn add_leg(&mut self, n: usize) -> Check {
        let Some(id) = self.seats[n].ear.as_ref().map(|ear| ear.id) else { return Ok(()) };
        let (now, spec) = (self.now(), self.spec_of(n));
        let full = self.seats[n].ways.len() >= 2;
        let added = self.relay.add_leg(now, id, spec);
        let right = match &added {
            Ok(_) => !full,
            Err(error) => full && *error == OpenError::LegExists(id),
        };
        ensure(right, "I3", || format!("two legs: {full}, and {added:?}"))?;
        let Ok(leg) = added else { return Ok(()) };
        let way = self.way_of(n, leg);
        self.seats[n].ways.push(way);
        self.seats[n].ear.iter_mut().for_each(|ear| ear.added(leg, None));
        Ok(())
    }

    fn seat_state(&mut self, n: usize, leg: LegId, state: LegState) {
        let now = self.now();
        self.relay.handle_leg(now, leg, state);
        let told = self.told;
        let seat = &mut self.seats[n];
        if state == LegState::Down {
            seat.way(leg).into_iter().for_each(|way| way.era += 1);
        }
        if let Some(ear) = &mut seat.ear {
            ear.leg_changed(leg, state, &self.truths[ear.track], told);
        }
    }

    fn switch_listener(&mut self, n: usize) -> Check {
        let seat = &self.seats[n];
        let Some(to) = seat.slot(Slot::New).or_else(|| seat.slot(Slot::Old)) else { return Ok(()) };
        self.report.count(Count::ListenerSwitch);
        let now = self.now();
        let result = self.relay.switch(now, to);
        let told = self.told;
        let Some(ear) = &mut self.seats[n].ear else { return Ok(()) };
        let (two, spent) = (ear.legs.len() == 2, ear.legs.iter().any(|leg| leg.spent));
        let taken = ear.switched(to, told);
        let expected = match (two, taken) {
            (_, true) => Ok(()),
            (false, _) => Err(SwitchError::OnlyLeg(to)),
            (true, false) => Err(SwitchError::NotUp(to)),
        };
        ensure(spent || result == expected, "switch", || format!("{result:?}, not {expected:?}: {ear:?}"))
    }

    pub(super) fn close_seat_leg(&mut self, n: usize, leg: LegId) {
        let now = self.now();
        self.relay.close(now, Peer::Leg(leg));
        let told = self.told;
        let seat = &mut self.seats[n];
        seat.ways.retain(|way| way.leg != leg);
        let Some(ear) = &mut seat.ear else { return };
        if !ear.leg_closed(leg, &self.truths[ear.track], told) {
            seat.ear = None;
        }
    }

    fn select(&mut self, n: usize, track: usize) -> Check {
        let Some(ear) = &self.seats[n].ear else { return Ok(()) };
        self.report.count(Count::Select);
        let (id, same) = (ear.id, ear.track == track);
        let (now, to) = (self.now(), self.tracks[track]);
        let selected = self.relay.select(now, id, to);
        ensure(selected.is_ok(), "select", || format!("{selected:?}"))?;
        let seat = &mut self.seats[n];
        seat.plan.track = track;
        if !same {
            seat.forget();
        }
        let frame = self.truths[track].frame();
        seat.ear.iter_mut().for_each(|ear| ear.selected(track, &self.truths[track], frame));
        Ok(())
    }

    fn pause(&mut self, n: usize, paused: bool) -> Check {
        let Some(id) = self.seats[n].ear.as_ref().map(|ear| ear.id) else { return Ok(()) };
        self.report.count(Count::Pause);
        let now = self.now();
        let done: Result<(), UnknownListener> =
            if paused { self.relay.pause(now, id) } else { self.relay.resume(now, id) };
        ensure(done.is_ok(), "pause", || format!("{done:?}"))?;
        let told = self.told;
        let seat = &mut self.seats[n];
        if let Some(ear) = &mut seat.ear
            && ear.paused(paused, &self.truths[ear.track], told)
        {
            seat.forget();
        }
        Ok(())
    }

    fn replay(&mut self, n: usize) {
        let Some(ear) = &mut self.seats[n].ear else { return };
        let leg = ear.current;
        let now = self.now();
        let told = self.told;
        if self.relay.replay(now, leg, None).is_ok()
            && let Some(ear) = &mut self.seats[n].ear
        {
            ear.replays(told);
        }
    }

    /// A packet enters a listener's path.
    pub(super) fn send(&mut self, n: usize, packet: &Handed) {
        let (now, calm) = (self.clock, self.is_calm);
        let Some(way) = self.seats[n].way(packet.leg) else { return };
        let era = way.era;
        let mut arrivals = way.link.carry(now, 60);
        if calm && arrivals.is_empty() {
            arrivals.push(now + Duration::from_millis(20));
        }
        for at in arrivals {
            self.schedule(at, Happening::Out(n, packet.leg, era, *packet));
        }
    }

    pub(super) fn heard(&mut self, n: usize, leg: LegId, era: u32, packet: &Handed) {
        let seat = &mut self.seats[n];
        let Some(ear) = &seat.ear else { return };
        let same_track = packet.id.is_some_and(|id| usize::from(id.track) == ear.track);
        let Some(begins) = seat.since.or_else(|| ear.first()) else { return };
        let Some(way) = seat.ways.iter_mut().find(|way| way.leg == leg && way.era == era) else { return };
        if !same_track || packet.position < begins {
            return;
        }
        way.highest_index = way.highest_index.max(Some(packet.index));
        seat.hear(packet.position, begins);
    }

    pub(super) fn far(&mut self, n: usize) {
        let now = self.clock;
        self.schedule(now + FAR, Happening::Far(n));
        let seat = &self.seats[n];
        let Some(ear) = &seat.ear else { return };
        let leg = ear.current;
        let Some(way) = seat.ways.iter().find(|way| way.leg == leg) else { return };
        let Some(current) = ear.legs.iter().find(|known| known.id == leg && known.is_up()) else { return };
        let mut feedback = Vec::new();
        let ssrc = current.ssrc();
        let acked = match seat.plan.acks {
            Acks::Never => None,
            Acks::Contiguous if seat.plan.ordered => seat.in_order(&self.truths[ear.track]),
            Acks::Contiguous => seat.next.and_then(|next| next.checked_sub(1)),
            Acks::Highest => way.highest_index.and_then(|index| current.position_of(index)),
        };
        if let Some(acked) = acked {
            let index = current.index_of(acked);
            match (seat.plan.ordered, index, ssrc) {
                (true, ..) => feedback.push(Feedback::Delivered(acked)),
                (false, Some(index), Some(ssrc)) => {
                    let highest_sequence = index as u32;
                    let block = rtcp::ReportBlock { ssrc, highest_sequence, ..Default::default() };
                    feedback.push(Feedback::ReceiverReport(block));
                }
                _ => {}
            }
        }
        if let (false, Some(next), Some(ssrc)) = (seat.plan.ordered, seat.next, ssrc) {
            // A hole that the relay has too is asked for only while it is new.
            let truth = &self.truths[ear.track];
            let asks = |position: &u64| truth.get(*position).is_some() || position + 50 > seat.top;
            let missing = (next..seat.top).filter(|position| !seat.has_heard(*position) && asks(position));
            for index in missing.filter_map(|position| current.index_of(position)).take(ASKS) {
                let nack = rtcp::Nack { sender_ssrc: 1, media_ssrc: ssrc, first: index as u16, following: 0 };
                feedback.push(Feedback::Nack(nack));
            }
        }
        for feedback in feedback {
            self.schedule(now + Duration::from_millis(15), Happening::Feedback(leg, feedback));
        }
    }

    pub(super) fn feedback(&mut self, leg: LegId, feedback: Feedback) -> Check {
        self.doing.clear();
        let now = self.now();
        let verdict = self.relay.handle_feedback(now, leg, feedback);
        self.report.digest.number(verdict as u64);
        self.tamper.input(self.told, format_args!("{leg} {feedback:?}: {verdict:?}"));
        let told = self.told;
        let seat = self.seats.iter_mut().find(|seat| seat.has(leg));
        if let Some(ear) = seat.and_then(|seat| seat.ear.as_mut()) {
            ensure(verdict == Verdict::Accepted, "verdict", || format!("{feedback:?} was {verdict:?}"))?;
            let known = ear.leg(leg);
            match feedback {
                Feedback::Delivered(position) => ear.acknowledged(position),
                Feedback::ReceiverReport(block) => {
                    let position = known.and_then(|leg| leg.reported(u64::from(block.highest_sequence)));
                    position.into_iter().for_each(|position| ear.acknowledged(position));
                }
                Feedback::Nack(_) => {
                    self.report.count(Count::Nack);
                    ear.asked(told);
                }
                _ => {}
            }
        }
        self.step()
    }

    /// Frames that a listener was told it missed need not reach its far end.
    pub(super) fn told_skipped(&mut self, listener: relay_engine::ListenerId, count: u64) {
        let mut seats = self.seats.iter_mut();
        let seat = seats.find(|seat| seat.ear.as_ref().is_some_and(|ear| ear.id == listener));
        seat.into_iter().for_each(|seat| seat.told += count);
    }

    /// All troubles end: what is not up comes up, and who paused wants to hear again.
    pub(super) fn calm_seat(&mut self, n: usize) -> Check {
        self.pause(n, false)?;
        for slot in [Slot::Old, Slot::New] {
            if let Some(leg) = self.seats[n].slot(slot) {
                self.seat_state(n, leg, LegState::Up);
            }
        }
        Ok(())
    }
}
