//! The relay of a world: one, or two of which the first feeds the second, where all who listen are.
//!
//! Speakers are at home, listeners and witnesses at the edge, so that the oracle, which knows of one relay alone, holds
//! the two to what one promises. Ids of tracks are home's.

use std::time::Instant;

use bytes::Bytes;
use relay_engine::{
    CarriedFrame, Config, Epoch, Event, Feedback, LegId, LegSpec, LegState, ListenerId, OpenError, Output,
    Peer, Relay, ReplayError, SelectError, SwitchError, TrackId, TrackSpec, TrackStats, UnknownListener,
    Verdict, rtp,
};

use super::seen::Seen;
use crate::oracle::{Check, ensure};
use crate::seen::drain;

/// One relay, or two.
pub(super) struct Pair {
    home: Relay,
    edge: Option<Edge>,
}

/// The relay that is fed.
struct Edge {
    relay: Relay,
    feeds: Vec<Feed>,
}

/// What one track is at the edge.
struct Feed {
    track: TrackId,
    replica: TrackId,
    /// The replica's publisher.
    to: LegId,
    /// The feed's leg at home.
    from: LegId,
}

/// What comes out of home.
enum Out {
    Seen(Seen),
    Fed(LegId, Instant, CarriedFrame),
}

impl Pair {
    pub(super) fn new(config: Config, epoch: Epoch, seed: u64, fed: bool) -> Self {
        let relay = || Relay::new(config.clone().relay(1), epoch, seed ^ 1);
        let edge = fed.then(|| Edge { relay: relay(), feeds: Vec::new() });
        Self { home: Relay::new(config, epoch, seed), edge }
    }

    pub(super) fn open_track(&mut self, now: Instant, spec: TrackSpec) -> Result<TrackId, OpenError> {
        let track = self.home.open_track(now, spec.clone())?;
        if let Some(edge) = &mut self.edge {
            let replica = edge.relay.open_track(now, spec)?;
            let to = edge.relay.open_publisher_leg(now, replica, LegSpec::new(0).reports(false))?;
            edge.relay.handle_leg(now, to, LegState::Up);
            let spec = LegSpec::new(0).reports(false).feed(true);
            let (_, from) = self.home.open_listener(now, track, spec)?;
            self.home.handle_leg(now, from, LegState::Up);
            edge.feeds.push(Feed { track, replica, to, from });
        }
        Ok(track)
    }

    pub(super) fn open_publisher_leg(
        &mut self,
        now: Instant,
        track: TrackId,
        spec: LegSpec,
    ) -> Result<LegId, OpenError> {
        self.home.open_publisher_leg(now, track, spec)
    }

    pub(super) fn open_listener(
        &mut self,
        now: Instant,
        track: TrackId,
        spec: LegSpec,
    ) -> Result<(ListenerId, LegId), OpenError> {
        match &mut self.edge {
            Some(edge) => edge.relay.open_listener(now, edge.replica(track), spec),
            None => self.home.open_listener(now, track, spec),
        }
    }

    pub(super) fn add_leg(
        &mut self,
        now: Instant,
        listener: ListenerId,
        spec: LegSpec,
    ) -> Result<LegId, OpenError> {
        self.listeners().add_leg(now, listener, spec)
    }

    pub(super) fn select(
        &mut self,
        now: Instant,
        listener: ListenerId,
        track: TrackId,
    ) -> Result<(), SelectError> {
        let track = self.edge.as_ref().map_or(track, |edge| edge.replica(track));
        self.listeners().select(now, listener, track)
    }

    pub(super) fn pause(&mut self, now: Instant, listener: ListenerId) -> Result<(), UnknownListener> {
        self.listeners().pause(now, listener)
    }

    pub(super) fn resume(&mut self, now: Instant, listener: ListenerId) -> Result<(), UnknownListener> {
        self.listeners().resume(now, listener)
    }

    pub(super) fn replay(&mut self, now: Instant, leg: LegId, from: Option<u64>) -> Result<u64, ReplayError> {
        self.of(leg).replay(now, leg, from)
    }

    pub(super) fn switch(&mut self, now: Instant, to: LegId) -> Result<(), SwitchError> {
        self.of(to).switch(now, to)
    }

    pub(super) fn handle_leg(&mut self, now: Instant, leg: LegId, state: LegState) {
        self.of(leg).handle_leg(now, leg, state);
    }

    pub(super) fn handle_feedback(&mut self, now: Instant, leg: LegId, feedback: Feedback) -> Verdict {
        self.of(leg).handle_feedback(now, leg, feedback)
    }

    pub(super) fn handle_packet(&mut self, now: Instant, leg: LegId, packet: rtp::Packet) -> Verdict {
        self.home.handle_packet(now, leg, packet)
    }

    pub(super) fn handle_frame(&mut self, now: Instant, leg: LegId, frame: CarriedFrame) -> Verdict {
        self.home.handle_frame(now, leg, frame)
    }

    pub(super) fn close(&mut self, now: Instant, peer: Peer) {
        match peer {
            Peer::Leg(leg) => self.of(leg).close(now, peer),
            Peer::Listener(_) => self.listeners().close(now, peer),
            Peer::Track(_) => self.home.close(now, peer),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.home.handle_timeout(now);
        self.edge.iter_mut().for_each(|edge| edge.relay.handle_timeout(now));
    }

    /// When the first of them has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let edge = self.edge.as_ref().map(|edge| &edge.relay);
        let deadlines = edge.into_iter().chain([&self.home]).filter_map(Relay::poll_timeout);
        deadlines.map(|deadline| deadline.at).min()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.home.is_drained() && self.edge.as_ref().is_none_or(|edge| edge.relay.is_drained())
    }

    pub(super) fn track_stats(&self, track: TrackId) -> Option<TrackStats> {
        self.home.track_stats(track)
    }

    /// Takes down all outputs; what home feeds goes to the edge, as of `now`.
    pub(super) fn drain(
        &mut self,
        now: Instant,
        fans_out: bool,
        outputs: &mut Vec<Seen>,
        mut take_down: impl FnMut(&Output<'_>) -> Check<Seen>,
    ) -> Check {
        let Some(edge) = &mut self.edge else {
            return drain(&mut self.home, fans_out, usize::MAX, outputs, take_down);
        };
        // Each of them was told of the time only by what came to it.
        self.home.handle_timeout(now);
        edge.relay.handle_timeout(now);
        let mut out = Vec::new();
        drain(&mut self.home, fans_out, usize::MAX, &mut out, |output| {
            edge.fed(output).map_or_else(|| take_down(output).map(Out::Seen), Ok)
        })?;
        for out in out {
            match out {
                Out::Seen(seen) => outputs.push(seen),
                Out::Fed(leg, arrived, frame) => {
                    let verdict = edge.relay.handle_fed(now, leg, arrived, frame);
                    ensure(verdict == Verdict::Accepted, "feed", || format!("fed and {verdict:?}"))?;
                }
            }
        }
        let mut at_edge = Vec::new();
        drain(&mut edge.relay, fans_out, usize::MAX, &mut at_edge, take_down)?;
        // Its home tells.
        at_edge.retain(|seen| !matches!(seen, Seen::Event(Event::FramesLost { .. })));
        outputs.append(&mut at_edge);
        Ok(())
    }

    /// Where a leg is.
    fn of(&mut self, leg: LegId) -> &mut Relay {
        if leg.relay() == 0 { &mut self.home } else { self.listeners() }
    }

    /// Where listeners are.
    fn listeners(&mut self) -> &mut Relay {
        self.edge.as_mut().map_or(&mut self.home, |edge| &mut edge.relay)
    }
}

impl Edge {
    fn replica(&self, track: TrackId) -> TrackId {
        self.feeds.iter().find(|feed| feed.track == track).map_or(track, |feed| feed.replica)
    }

    /// What an output of home is at the edge, if it is for there.
    fn fed(&self, output: &Output<'_>) -> Option<Out> {
        let Output::Packet(packet) = output else { return None };
        let feed = self.feeds.iter().find(|feed| feed.from == packet.leg)?;
        let frame = &packet.frame;
        let carried = frame.carried(Bytes::copy_from_slice(frame.payload));
        Some(Out::Fed(feed.to, frame.arrived, carried))
    }
}
