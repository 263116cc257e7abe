//! The oracle: an independent model of what a relay owes, fed with the same calls, that checks every output.
//!
//! It shares no code with the engine but the types of its interface. It knows every frame that was taken in, where it
//! belongs (`track`) and which legs it is owed to (`leg`); after every step all debts must be paid, in order, and
//! nothing else may have come. What is wrong comes back as a [`Violation`] that names the invariant.

mod leg;
mod reception;
mod track;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use relay_engine::rtp::rtcp;
use relay_engine::{
    Event, Feedback, LegId, LegState, ListenerId, OpenError, Peer, TrackId, TrackStats, Verdict,
};

pub use self::leg::LegTerms;
use self::leg::ListenerLeg;
use self::reception::{Heard, Reception};
pub use self::track::Packet;
use self::track::{Start, Track};
use crate::coverage::{Coverage, Incident};
use crate::seen::{Seen, SeenPacket};
use crate::stream::Sent;

/// What the relay under test was configured with: the limits that the oracle holds it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open tracks.
    pub tracks: usize,
    /// Open listeners.
    pub listeners: usize,
    /// Open listeners of one track.
    pub listeners_per_track: usize,
    /// Open legs.
    pub legs: usize,
    /// Positions that a history spans.
    pub history_frames: usize,
    /// Age of the frames that a history keeps.
    pub history_duration: Duration,
    /// Payload bytes that a history keeps.
    pub history_bytes: usize,
    /// Largest payload.
    pub payload_bytes: usize,
    /// Time after which a track is silent.
    pub silence_after: Duration,
    /// Packets may be refused for their rate.
    pub rate_limited: bool,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which: an invariant of the design, or what else the engine's documents say.
    pub rule: &'static str,
    /// What happened.
    pub detail: String,
}

pub(crate) type Check<T = ()> = Result<T, Violation>;

pub(crate) fn ensure(holds: bool, rule: &'static str, detail: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Violation { rule, detail: detail() }) }
}

pub(crate) fn broken(rule: &'static str, detail: String) -> Violation {
    Violation { rule, detail }
}

/// The model.
#[derive(Debug)]
pub struct Oracle {
    limits: Limits,
    /// NTP time of the world's start.
    epoch_ntp: u64,
    /// I7: the latest `now` that the relay was told.
    now: Duration,
    tracks: BTreeMap<TrackId, Track>,
    publishers: BTreeMap<LegId, PublisherLeg>,
    legs: BTreeMap<LegId, ListenerLeg>,
    /// Closed, and not yet told.
    closing: BTreeSet<Peer>,
    /// Every id that was ever given out.
    known: BTreeSet<Peer>,
    /// Tracks that a listener has left.
    left: BTreeSet<TrackId>,
    checked: u64,
    coverage: Coverage,
}

#[derive(Debug)]
struct PublisherLeg {
    track: TrackId,
    state: LegState,
    reports: bool,
    reception: Option<Reception>,
    heard: Option<Heard>,
}

impl PublisherLeg {
    /// A packet of the publisher met a verdict.
    fn received(&mut self, sent: &Sent, verdict: Verdict, current: Option<Start>, now: Duration) {
        let counts = matches!(verdict, Verdict::Accepted | Verdict::Duplicate | Verdict::TooLate);
        let Some(current) = current.filter(|current| counts && current.leads_to(sent)) else { return };
        match &mut self.reception {
            Some(reception) if reception.segment == current => reception.packet(sent, current.at, now),
            reception => *reception = Some(Reception::new(current, sent, now)),
        }
    }
}

impl Oracle {
    /// A model of a relay without tracks.
    #[must_use]
    pub fn new(limits: Limits, epoch_ntp: u64) -> Self {
        Self {
            limits,
            epoch_ntp,
            now: Duration::ZERO,
            tracks: BTreeMap::new(),
            publishers: BTreeMap::new(),
            legs: BTreeMap::new(),
            closing: BTreeSet::new(),
            known: BTreeSet::new(),
            left: BTreeSet::new(),
            checked: 0,
            coverage: Coverage::default(),
        }
    }

    /// The relay was told a time; an older one counts as the last (I7).
    pub fn told(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Packets checked so far.
    #[must_use]
    pub const fn checked(&self) -> u64 {
        self.checked
    }

    /// What happened so far.
    #[must_use]
    pub const fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// A track was opened, or not.
    ///
    /// # Errors
    ///
    /// The answer contradicts the limits.
    pub fn track_opened(&mut self, result: &Result<TrackId, OpenError>) -> Check {
        let full = self.tracks.len() >= self.limits.tracks;
        if let Some(id) = self.opened(result.as_ref().ok().copied(), full, Peer::Track)? {
            self.tracks.insert(id, Track::new(self.limits));
        }
        Ok(())
    }

    /// A publisher leg was opened, or not.
    ///
    /// # Errors
    ///
    /// The answer contradicts the limits or the open ids.
    pub fn publisher_opened(
        &mut self,
        track: TrackId,
        reports: bool,
        result: &Result<LegId, OpenError>,
    ) -> Check {
        let exists = self.publishers.values().any(|leg| leg.track == track);
        let refused = !self.tracks.contains_key(&track) || exists || self.legs_are_full();
        if let Some(id) = self.opened(result.as_ref().ok().copied(), refused, Peer::Leg)? {
            self.publishers.insert(
                id,
                PublisherLeg { track, state: LegState::Connecting, reports, reception: None, heard: None },
            );
        }
        Ok(())
    }

    /// A listener was opened, or not.
    ///
    /// # Errors
    ///
    /// The answer contradicts the limits or the open ids.
    pub fn listener_opened(
        &mut self,
        track: TrackId,
        terms: LegTerms,
        result: &Result<(ListenerId, LegId), OpenError>,
    ) -> Check {
        let on_track = self.legs.values().filter(|leg| leg.track == track).count();
        let refused = !self.tracks.contains_key(&track)
            || on_track >= self.limits.listeners_per_track
            || self.legs.len() >= self.limits.listeners
            || self.legs_are_full();
        let ids = result.as_ref().ok().copied();
        let leg = self.opened(ids.map(|(_, leg)| leg), refused, Peer::Leg)?;
        self.opened(ids.map(|(listener, _)| listener), refused, Peer::Listener)?;
        if let (Some(leg), Some((listener, _))) = (leg, ids) {
            self.legs.insert(leg, ListenerLeg::new(listener, track, terms));
            self.coverage.count_if(self.left.contains(&track), Incident::Rejoin);
        }
        Ok(())
    }

    /// An id was closed by the owner; a stale one is nothing.
    pub fn closed(&mut self, peer: Peer) {
        match peer {
            Peer::Track(track) => {
                if self.tracks.remove(&track).is_none() {
                    return;
                }
                self.closing.insert(peer);
                let publishers = self.publishers.iter().filter(|(_, leg)| leg.track == track);
                let listeners = self.legs.iter().filter(|(_, leg)| leg.track == track);
                let legs: Vec<LegId> =
                    publishers.map(|(id, _)| *id).chain(listeners.map(|(id, _)| *id)).collect();
                legs.into_iter().for_each(|leg| self.leg_closed(leg));
            }
            Peer::Listener(listener) => {
                let leg = self.legs.iter().find(|(_, leg)| leg.listener == listener).map(|(id, _)| *id);
                leg.into_iter().for_each(|leg| self.leg_closed(leg));
            }
            Peer::Leg(leg) => self.leg_closed(leg),
        }
    }

    /// A leg's transport changed; a stale id is nothing.
    pub fn leg_changed(&mut self, id: LegId, state: LegState) {
        if let Some(leg) = self.publishers.get_mut(&id) {
            if leg.state == LegState::Down && state != LegState::Down {
                self.tracks.get_mut(&leg.track).into_iter().for_each(Track::leg_returned);
            }
            leg.state = state;
        }
        if let Some(leg) = self.legs.get_mut(&id) {
            leg.changed(state, &self.tracks[&leg.track]);
        }
    }

    /// A packet was handed in, and this was the verdict.
    ///
    /// # Errors
    ///
    /// The verdict is not one that the packet deserves.
    pub fn packet(&mut self, from: LegId, packet: &Packet, verdict: Verdict) -> Check {
        let deserved = self.refusal(from, packet);
        if verdict == Verdict::RateLimited {
            return ensure(self.limits.rate_limited, "verdict", || format!("{verdict:?} for {packet:?}"));
        }
        if let Some(deserved) = deserved {
            return ensure(verdict == deserved, "verdict", || {
                format!("{packet:?} was {verdict:?} and deserves {deserved:?}")
            });
        }
        let Packet::Frame(sent) = packet else { return Ok(()) };
        let leg = self.publishers.get_mut(&from).expect("an unknown leg deserves a refusal");
        let track = self.tracks.get_mut(&leg.track).expect("a track's legs close with it");
        let arrival = track.judge(sent, verdict, self.now, &mut self.coverage)?;
        leg.received(sent, verdict, track.segment(), self.now);
        if let Some(arrival) = arrival {
            let id = leg.track;
            self.legs.values_mut().filter(|leg| leg.track == id).for_each(|leg| leg.owe(arrival, track));
        }
        Ok(())
    }

    /// Feedback was handed in, and this was the verdict.
    ///
    /// # Errors
    ///
    /// The verdict is not the one that the feedback deserves.
    pub fn feedback(&mut self, from: LegId, feedback: &Feedback, verdict: Verdict) -> Check {
        let from_sender = matches!(feedback, Feedback::SenderReport(_));
        let deserved = match (self.publishers.contains_key(&from), self.legs.contains_key(&from)) {
            (false, false) => Verdict::UnknownLeg,
            (true, _) if !from_sender => Verdict::WrongDirection,
            (false, true) if from_sender => Verdict::WrongDirection,
            _ => Verdict::Accepted,
        };
        let asked = matches!(feedback, Feedback::Nack(_)) && verdict == Verdict::Accepted;
        self.coverage.count_if(asked, Incident::Nack);
        if let (Some(leg), Feedback::SenderReport(report)) = (self.publishers.get_mut(&from), feedback) {
            leg.heard = Some(Heard { report: *report, at: self.now });
        }
        ensure(verdict == deserved, "verdict", || {
            format!("{feedback:?} on {from} was {verdict:?} and deserves {deserved:?}")
        })
    }

    /// Something came out.
    ///
    /// # Errors
    ///
    /// It should not have, or not like that.
    pub fn output(&mut self, seen: &Seen) -> Check {
        match seen {
            Seen::Packet(packet) => self.packet_out(packet),
            Seen::SenderReport(leg, report) => self.sender_report(*leg, report),
            Seen::ReceiverReport(leg, block) => self.receiver_report(*leg, block),
            Seen::Event(event) => self.event(*event),
        }
    }

    /// The relay was drained, and this is its deadline.
    ///
    /// # Errors
    ///
    /// Something is owed still, or the deadline is not in the future.
    pub fn drained(&mut self, deadline: Option<Duration>) -> Check {
        ensure(deadline.is_none_or(|at| at > self.now), "I4", || {
            format!("drained at {:?}, and the deadline is {deadline:?}", self.now)
        })?;
        ensure(self.closing.is_empty(), "Closed for each id", || format!("{:?} never told", self.closing))?;
        for (id, leg) in &mut self.legs {
            leg.settle(*id, &self.tracks[&leg.track])?;
        }
        for (id, track) in &self.tracks {
            track.drained(*id, self.now, deadline)?;
        }
        Ok(())
    }

    /// The relay's own figures of a track, to be held against the model and the limits (I3).
    ///
    /// # Errors
    ///
    /// They contradict the model.
    pub fn track_stats(&self, id: TrackId, stats: Option<&TrackStats>) -> Check {
        let model = self.tracks.get(&id);
        ensure(model.is_some() == stats.is_some(), "ids", || format!("stats of {id}: {stats:?}"))?;
        let (Some(model), Some(stats)) = (model, stats) else { return Ok(()) };
        let listeners = self.legs.values().filter(|leg| leg.track == id).count();
        ensure(stats.listeners == listeners, "I3", || format!("{id}: {stats:?}, open are {listeners}"))?;
        model.check_stats(id, stats)
    }

    /// How much the relay says is open.
    ///
    /// # Errors
    ///
    /// It contradicts the model.
    pub fn counts(&self, tracks: usize, listeners: usize, legs: usize) -> Check {
        let model = (self.tracks.len(), self.legs.len(), self.legs.len() + self.publishers.len());
        ensure((tracks, listeners, legs) == model, "I3", || {
            format!("tracks, listeners, legs: {:?}, open are {model:?}", (tracks, listeners, legs))
        })
    }

    /// A listener's leg that is up, if there is any but this one; for deliberate misdelivery.
    pub fn legs(&self) -> impl Iterator<Item = (LegId, ListenerId, LegState)> {
        self.legs.iter().map(|(id, leg)| (*id, leg.listener, leg.state()))
    }

    fn legs_are_full(&self) -> bool {
        self.legs.len() + self.publishers.len() >= self.limits.legs
    }

    fn opened<I: Copy>(
        &mut self,
        id: Option<I>,
        refused: bool,
        peer: impl Fn(I) -> Peer,
    ) -> Check<Option<I>> {
        ensure(id.is_some() != refused, "I3", || {
            format!("opened: {}, should be refused: {refused}", id.is_some())
        })?;
        if let Some(id) = id {
            let fresh = self.known.insert(peer(id));
            ensure(fresh, "ids", || format!("{:?} was given out before", peer(id)))?;
        }
        Ok(id)
    }

    fn leg_closed(&mut self, id: LegId) {
        if let Some(leg) = self.publishers.remove(&id) {
            self.closing.insert(Peer::Leg(id));
            if let Some(track) = self.tracks.get_mut(&leg.track) {
                track.detach();
            }
        }
        if let Some(leg) = self.legs.remove(&id) {
            self.closing.insert(Peer::Leg(id));
            self.closing.insert(Peer::Listener(leg.listener));
            self.left.insert(leg.track);
        }
    }

    /// The verdict that a packet deserves before its numbers are looked at.
    fn refusal(&self, from: LegId, packet: &Packet) -> Option<Verdict> {
        if self.legs.contains_key(&from) {
            return Some(Verdict::WrongDirection);
        }
        let Some(leg) = self.publishers.get(&from) else { return Some(Verdict::UnknownLeg) };
        match packet {
            _ if leg.state == LegState::Down => Some(Verdict::LegDown),
            Packet::Refused(verdict) => Some(*verdict),
            Packet::Frame(_) => None,
        }
    }

    fn packet_out(&mut self, packet: &SeenPacket) -> Check {
        self.checked += 1;
        let leg = self.legs.get_mut(&packet.leg);
        let leg =
            leg.ok_or_else(|| broken("I6", format!("{} is not a listener's leg: {packet:?}", packet.leg)))?;
        let track = self.tracks.get(&leg.track).expect("a track's legs close with it");
        ensure(track.is_active() || packet.replay, "TrackActive comes before the frames", || {
            format!("{packet:?}")
        })?;
        leg.packet(packet, track, &mut self.coverage)
    }

    fn sender_report(&mut self, id: LegId, report: &rtcp::SenderReport) -> Check {
        let leg = self.legs.get(&id);
        let leg = leg.ok_or_else(|| broken("I6", format!("{report:?} on {id}, not a listener's leg")))?;
        let ntp = self.epoch_ntp.wrapping_add(to_ntp(self.now));
        // Conversions may round differently, by less than a microsecond.
        ensure(report.ntp.0.abs_diff(ntp) < 1 << 13, "reports", || {
            format!("{report:?} on {id}; by the epoch it is {ntp}")
        })?;
        self.coverage.count(Incident::SenderReport);
        leg.report(id, report, &self.tracks[&leg.track], self.now)
    }

    fn receiver_report(&mut self, id: LegId, block: &rtcp::ReportBlock) -> Check {
        let leg = self.publishers.get_mut(&id);
        let leg = leg.ok_or_else(|| broken("I6", format!("{block:?} on {id}, not a publisher's leg")))?;
        ensure(leg.state == LegState::Up && leg.reports, "I6", || format!("{block:?} on {leg:?}"))?;
        let reception = leg.reception.as_mut();
        let reception =
            reception.ok_or_else(|| broken("reports", format!("{block:?} on {id}, which heard nothing")))?;
        let loss = reception.report(block, leg.heard, self.now)?;
        self.coverage.count(Incident::ReceiverReport);
        self.coverage.count_if(loss, Incident::ReportedLoss);
        let answers = block.last_sender_report != 0;
        self.coverage.count_if(answers, Incident::AnsweredReport);
        Ok(())
    }

    fn event(&mut self, event: Event) -> Check {
        match event {
            Event::Closed { peer } => {
                let owed = self.closing.remove(&peer);
                ensure(owed, "Closed for each id", || format!("{peer:?} is not closed, or was told before"))
            }
            Event::FramesSkipped { listener, from, count } => {
                let leg = self.legs.values_mut().find(|leg| leg.listener == listener);
                let leg = leg.ok_or_else(|| broken("I6", format!("{event:?}: no such listener")))?;
                self.coverage.count(Incident::Skipped);
                leg.skipped(from, count, &self.tracks[&leg.track])
            }
            Event::TrackActive { track } | Event::TrackSilent { track } => {
                let model = self.tracks.get_mut(&track);
                let model = model.ok_or_else(|| broken("ids", format!("{event:?}: no such track")))?;
                self.coverage.count_if(matches!(event, Event::TrackSilent { .. }), Incident::Silence);
                model.activity(track, matches!(event, Event::TrackActive { .. }), self.now)
            }
            // Held against what a track holds by the worlds of switches.
            Event::FramesLost { track, .. } => {
                ensure(self.tracks.contains_key(&track), "ids", || format!("{event:?}: no such track"))
            }
            _ => Err(broken("events", format!("{event:?} is not one that the oracle knows"))),
        }
    }
}

/// A duration in units of 2⁻³² s.
fn to_ntp(duration: Duration) -> u64 {
    ((duration.as_nanos() << 32) / 1_000_000_000) as u64
}
