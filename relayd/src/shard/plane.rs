//! The media plane without its thread: the engine, the listeners' keys and the batch.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::ControlFlow;
use std::time::{Instant, SystemTime};

use relay_engine::{
    CarriedFrame, Epoch, Event, Feedback, LegId, LegSpec, LegState, LegStats, ListenerId, OpenError, Peer,
    Relay, ReplayError, SelectError, SwitchError, TrackId, TrackSpec, UnknownListener, Verdict, rtp,
};
use socket2::SockRef;
use tokio::sync::mpsc;

use super::branches::Branches;
use super::events::{Begins, Lines, Readers, ShardEvent};
use super::legs::Legs;
use super::outbound::{Outbound, Outcome};
use super::pauses::Pauses;
use super::stats::{PlaneCounters, ShardStats};
use super::{Egress, ShardConfig, rtcp};
use crate::webrtc::egress::Batch;

/// A shard's state, driven by whoever owns it: the thread of a [`Shard`](super::Shard), or a bench.
///
/// Methods take time as an argument, in the engine's order: inputs, then [`Plane::drain`].
#[derive(Debug)]
pub struct Plane {
    pub(super) relay: Relay,
    pub(super) outbound: Outbound,
    pub(super) branches: Branches,
    pauses: Pauses,
    rtcp_rate: u32,
}

impl Plane {
    /// A media plane that sends on `socket`. Wall time is read here, once.
    ///
    /// # Errors
    /// When the socket has no local address.
    pub fn new(socket: UdpSocket, config: &ShardConfig) -> io::Result<Self> {
        // A whole tick of many listeners waits in it while the device drains. The kernel may grant less: not an error.
        if let Err(error) = SockRef::from(&socket).set_send_buffer_size(config.send_buffer_bytes) {
            tracing::warn!(%error, "the send buffer keeps its size");
        }
        let epoch = Epoch { instant: Instant::now(), wall: SystemTime::now() };
        Ok(Plane {
            relay: Relay::new(config.relay.clone(), epoch, config.seed),
            outbound: Outbound {
                legs: Legs::new(config.relay.kept_for()),
                batch: Batch::new(socket)?,
                counters: PlaneCounters::default(),
                cname: config.cname.clone(),
                lines: Lines::default(),
                readers: Readers::default(),
            },
            branches: Branches::default(),
            pauses: Pauses::default(),
            rtcp_rate: config.rtcp_rate,
        })
    }

    /// The engine, to be asked.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// See [`Shard::open_track`](super::Shard::open_track).
    ///
    /// # Errors
    /// What the engine says.
    pub fn open_track(&mut self, now: Instant, name: String) -> Result<TrackId, OpenError> {
        self.relay.open_track(now, TrackSpec { name })
    }

    /// See [`Shard::open_publisher`](super::Shard::open_publisher).
    ///
    /// # Errors
    /// What the engine says.
    pub fn open_publisher(
        &mut self,
        now: Instant,
        track: TrackId,
        spec: LegSpec,
    ) -> Result<LegId, OpenError> {
        let leg = self.relay.open_publisher_leg(now, track, spec)?;
        self.outbound.lines.open(leg);
        self.publisher_state(now, track, leg, LegState::Connecting);
        Ok(leg)
    }

    /// See [`Shard::open_listener`](super::Shard::open_listener).
    ///
    /// # Errors
    /// What the engine says.
    pub fn open_listener(
        &mut self,
        now: Instant,
        track: TrackId,
        spec: LegSpec,
    ) -> Result<(ListenerId, LegId), OpenError> {
        let (listener, leg) = self.relay.open_listener(now, track, spec)?;
        self.outbound.legs.open(leg, spec.payload_type(), spec.extension_ids());
        self.outbound.lines.open(leg);
        Ok((listener, leg))
    }

    /// See [`Shard::leg_up`](super::Shard::leg_up).
    pub fn leg_up(&mut self, now: Instant, leg: LegId, egress: Egress) {
        let Some(LegStats::Listener(stats)) = self.relay.leg_stats(leg) else { return };
        let Outbound { legs, batch, .. } = &mut self.outbound;
        let known = match egress {
            Egress::Srtp { destination, keys } => {
                legs.connect(leg, stats.ssrc, &keys, batch.destination(destination))
            }
            Egress::Ring(ring) => legs.attach(leg, ring),
        };
        if known {
            self.relay.handle_leg(now, leg, LegState::Up);
        }
    }

    /// The ring or feed of a leg, which was full, is drained to half: the leg goes on with the frame that found no room.
    ///
    /// What is in the ring is on its way and yet not delivered: should the transport end now, it is still owed.
    pub fn ring_drained(&mut self, now: Instant, leg: LegId) {
        let Some(refused) = self.outbound.legs.take_refused(leg) else { return };
        if let Some(refused) = refused {
            // A leg that is only being switched to begins anew by itself.
            let _not_live = self.relay.replay(now, leg, Some(refused)).is_err();
        }
        self.relay.handle_leg(now, leg, LegState::Up);
    }

    /// See [`Shard::add_leg`](super::Shard::add_leg).
    ///
    /// # Errors
    /// What the engine says.
    pub fn add_leg(&mut self, now: Instant, listener: ListenerId, spec: LegSpec) -> Result<LegId, OpenError> {
        let leg = self.relay.add_leg(now, listener, spec)?;
        self.outbound.legs.open(leg, spec.payload_type(), spec.extension_ids());
        self.outbound.lines.open(leg);
        Ok(leg)
    }

    /// Has a listener hear another track from now on, on the same legs.
    ///
    /// # Errors
    /// What the engine says.
    pub fn select(&mut self, now: Instant, listener: ListenerId, track: TrackId) -> Result<(), SelectError> {
        self.relay.select(now, listener, track)
    }

    /// See [`Shard::pause_listener`](super::Shard::pause_listener) and `resume_listener`.
    ///
    /// # Errors
    /// What the engine says.
    pub fn pause_listener(
        &mut self,
        now: Instant,
        listener: ListenerId,
        paused: bool,
    ) -> Result<(), UnknownListener> {
        if paused { self.relay.pause(now, listener) } else { self.relay.resume(now, listener) }
    }

    /// See [`Shard::replay`](super::Shard::replay).
    ///
    /// # Errors
    /// What the engine says.
    pub fn replay(&mut self, now: Instant, leg: LegId, from: Option<u64>) -> Result<u64, ReplayError> {
        self.relay.replay(now, leg, from)
    }

    /// See [`Shard::switch`](super::Shard::switch).
    ///
    /// # Errors
    /// What the engine says.
    pub fn switch(&mut self, now: Instant, leg: LegId) -> Result<(), SwitchError> {
        self.relay.switch(now, leg)
    }

    /// See [`Shard::publisher_up`](super::Shard::publisher_up). A listener's leg comes up by its keys only.
    pub fn publisher_up(&mut self, now: Instant, leg: LegId) {
        if let Some(LegStats::Publisher(stats)) = self.relay.leg_stats(leg) {
            self.publisher_state(now, stats.track, leg, LegState::Up);
        }
    }

    /// See [`Shard::leg_down`](super::Shard::leg_down).
    pub fn leg_down(&mut self, now: Instant, leg: LegId) {
        match self.relay.leg_stats(leg) {
            Some(LegStats::Publisher(stats)) => {
                self.publisher_state(now, stats.track, leg, LegState::Down);
            }
            _ => self.relay.handle_leg(now, leg, LegState::Down),
        }
    }

    /// See [`Shard::leg_path`](super::Shard::leg_path).
    pub fn leg_path(&mut self, now: Instant, leg: LegId, destination: SocketAddr) {
        let destination = self.outbound.batch.destination(destination);
        self.outbound.legs.redirect(leg, destination);
        self.leg_returned(now, leg);
    }

    /// See [`Shard::leg_returned`](super::Shard::leg_returned).
    pub fn leg_returned(&mut self, now: Instant, leg: LegId) {
        let Some(LegStats::Listener(stats)) = self.relay.leg_stats(leg) else { return };
        let unreported = stats.next_position.map(|next| next.saturating_sub(UNREPORTED_FRAMES));
        let from = if stats.acked.is_some() { None } else { unreported };
        // While its listener is on another leg there is nothing to replay on it.
        let _none_there = self.relay.replay(now, leg, from).is_err();
        if self.outbound.legs.is_connected(leg) {
            self.relay.handle_leg(now, leg, LegState::Up);
        }
    }

    /// See [`Shard::pause_track`](super::Shard::pause_track). The engine counts what is dropped: its legs are down.
    pub fn pause_track(&mut self, now: Instant, track: TrackId, paused: bool) {
        if paused {
            for leg in self.pauses.pause(&self.relay, track) {
                self.relay.handle_leg(now, leg, LegState::Down);
            }
        } else {
            for (leg, state) in self.pauses.resume(track) {
                self.relay.handle_leg(now, leg, state);
                // What came meanwhile was not wanted: no hole.
                self.relay.restart(now, leg);
            }
        }
    }

    /// See [`Shard::events`](super::Shard::events).
    pub(super) fn listen(&mut self, queue: mpsc::Sender<ShardEvent>) {
        self.outbound.readers.add(queue);
    }

    /// See [`Shard::close`](super::Shard::close).
    pub fn close(&mut self, now: Instant, peer: Peer) {
        let legs = match peer {
            Peer::Leg(leg) => [Some(leg), None],
            Peer::Listener(listener) if self.branches.is_feed(listener) => [None; 2],
            Peer::Listener(listener) => {
                self.relay.listener_stats(listener).map_or([None; 2], |stats| [Some(stats.leg), stats.second])
            }
            Peer::Track(_) => [None; 2],
        };
        let closed = legs.map(|leg| self.resume_point(leg?));
        self.branches.closing(peer);
        self.relay.close(now, peer);
        for event in closed.into_iter().flatten() {
            self.outbound.readers.tell(event);
        }
    }

    /// What is told of a leg when it closes: where its far end may go on.
    fn resume_point(&self, leg: LegId) -> Option<ShardEvent> {
        let (track, next) = match self.relay.leg_stats(leg)? {
            LegStats::Publisher(stats) => {
                let contiguous = self.relay.track_stats(stats.track)?.contiguous;
                (stats.track, contiguous.map(|position| position + 1))
            }
            LegStats::Listener(stats) => {
                (self.branches.home_of(stats.track), stats.unconfirmed.or(stats.next_position))
            }
            _ => return None,
        };
        Some(ShardEvent::LegClosed { leg, track, next })
    }

    /// See [`Shard::packet`](super::Shard::packet). The engine counts its verdict.
    pub fn handle_packet(&mut self, now: Instant, leg: LegId, packet: rtp::Packet) {
        let verdict = self.relay.handle_packet(now, leg, packet);
        self.note_verdict(now, leg, verdict);
    }

    /// See [`Shard::frame`](super::Shard::frame). The engine counts its verdict.
    pub fn handle_frame(&mut self, now: Instant, leg: LegId, frame: CarriedFrame) {
        let verdict = self.relay.handle_frame(now, leg, frame);
        self.note_verdict(now, leg, verdict);
    }

    fn note_verdict(&mut self, now: Instant, leg: LegId, verdict: Verdict) {
        if verdict == Verdict::Accepted
            && self.outbound.lines.take(leg, 0) == Begins::Leg
            && let Some(LegStats::Publisher(stats)) = self.relay.leg_stats(leg)
        {
            let (track, at) = (stats.track, now);
            if !self.outbound.readers.tell_all(ShardEvent::FirstPacketIn { track, leg, at }) {
                self.outbound.lines.again(leg);
            }
        }
    }

    /// See [`Shard::feedback`](super::Shard::feedback). The engine counts its verdict.
    pub fn handle_feedback(&mut self, now: Instant, leg: LegId, feedback: Feedback) {
        self.relay.handle_feedback(now, leg, feedback);
    }

    /// See [`Shard::srtcp`](super::Shard::srtcp).
    ///
    /// A leg that is down is up again with the first report that is authentic: its listener is there.
    pub fn handle_srtcp(&mut self, now: Instant, leg: LegId, datagram: &[u8]) {
        let Outbound { legs, counters, .. } = &mut self.outbound;
        let authentic = rtcp::receive(legs, &mut self.relay, counters, self.rtcp_rate, now, leg, datagram);
        if authentic
            && let Some(LegStats::Listener(stats)) = self.relay.leg_stats(leg)
            && stats.state == LegState::Down
        {
            self.leg_returned(now, leg);
        }
    }

    /// A deadline of [`Relay::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
    }

    /// Seals and sends everything that the engine has to say. Neither waits nor allocates.
    pub fn drain(&mut self) {
        loop {
            let mut stalled = None;
            let (relay, outbound) = (&mut self.relay, &mut self.outbound);
            relay.fan_out(|packet| {
                stalled = outbound.send(packet);
                if stalled.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let outcome = match stalled {
                Some(leg) => Outcome::Stalled(leg),
                None => match relay.poll_output() {
                    Some(output) => outbound.handle(output),
                    None => break,
                },
            };
            match outcome {
                Outcome::Done => {}
                Outcome::Event(event) => self.note(event),
                Outcome::Stalled(leg) => self.relay.handle_leg(Instant::now(), leg, LegState::Down),
            }
        }
        self.outbound.batch.flush();
    }

    /// Tells readers what was kept for want of room; whether something still is, and this is to be called again soon.
    pub(super) fn catch_up(&mut self) -> bool {
        self.outbound.readers.catch_up()
    }

    /// Counters; the queue's are zero, since there is no queue here.
    pub fn stats(&self) -> ShardStats {
        let (outbound, (replicas, feeds)) = (&self.outbound, self.branches.counts());
        let relay = self.relay.stats();
        ShardStats {
            // What is open for other shards is not counted twice.
            relay: relay_engine::Stats {
                tracks: relay.tracks.saturating_sub(replicas),
                listeners: relay.listeners.saturating_sub(feeds),
                legs: relay.legs.saturating_sub(replicas + feeds),
                ..relay
            },
            replicas,
            egress: outbound.batch.counters(),
            plane: PlaneCounters { events_dropped: outbound.readers.dropped(), ..outbound.counters },
            ..ShardStats::default()
        }
    }

    /// The state of a publisher's leg, unless its track is paused: then later.
    fn publisher_state(&mut self, now: Instant, track: TrackId, leg: LegId, state: LegState) {
        let state = self.pauses.state(track, leg, state);
        self.relay.handle_leg(now, leg, state);
    }

    fn note(&mut self, event: Event) {
        let readers = &mut self.outbound.readers;
        match event {
            Event::Closed { peer: Peer::Leg(leg) } => {
                self.pauses.forget(leg);
                self.outbound.legs.close(leg);
            }
            Event::Closed { peer: Peer::Listener(listener) } => self.branches.leave(listener),
            Event::Closed { peer: Peer::Track(track) } => {
                self.pauses.close(track);
                if !self.branches.forget(track) {
                    readers.tell(ShardEvent::TrackClosed { track });
                }
            }
            // Its home tells.
            Event::TrackActive { track } | Event::TrackSilent { track } | Event::FramesLost { track, .. }
                if self.branches.is_replica(track) => {}
            Event::TrackActive { track } => {
                readers.tell(ShardEvent::TrackActive { track, at: Instant::now() });
            }
            Event::TrackSilent { track } => readers.tell(ShardEvent::TrackSilent { track }),
            Event::LegSpent { leg, to, position, replayed, gap_frames } => {
                readers.tell(ShardEvent::LegSpent { leg, to, position, replayed, gap_frames });
            }
            Event::FramesLost { track, from, count } => {
                readers.tell(ShardEvent::FramesLost { track, from, count });
            }
            Event::FramesSkipped { listener, from, count } => {
                if let Some(track) = self.relay.listener_stats(listener).map(|stats| stats.track) {
                    let track = self.branches.home_of(track);
                    readers.tell(ShardEvent::FramesSkipped { track, listener, from, count });
                }
            }
            _ => {}
        }
    }
}

/// What may be lost of a listener that has not reported yet: reports come every 5 s, here of 20 ms frames.
const UNREPORTED_FRAMES: u64 = 250;
