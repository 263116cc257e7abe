//! The media plane without its thread: the engine, the listeners' keys and the batch.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Instant, SystemTime};

use relay_engine::{
    Epoch, Event, Feedback, LegId, LegSpec, LegState, LegStats, ListenerId, OpenError, OutboundPacket,
    Output, Peer, Relay, TrackId, TrackSpec, Verdict, rtp,
};
use socket2::SockRef;
use tokio::sync::mpsc;

use super::events::{Firsts, Readers, ShardEvent};
use super::legs::Legs;
use super::pauses::Pauses;
use super::stats::{PlaneCounters, ShardStats};
use super::{Egress, ShardConfig, rtcp};
use crate::webrtc::egress::Batch;
use crate::webrtc::srtp::SealError;

/// A shard's state, driven by whoever owns it: the thread of a [`Shard`](super::Shard), or a bench.
///
/// Methods take time as an argument, in the engine's order: inputs, then [`Plane::drain`].
#[derive(Debug)]
pub struct Plane {
    relay: Relay,
    outbound: Outbound,
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
                legs: Legs::default(),
                batch: Batch::new(socket)?,
                counters: PlaneCounters::default(),
                cname: config.cname.clone(),
                firsts: Firsts::default(),
                readers: Readers::default(),
            },
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
        self.outbound.firsts.open(leg);
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
        self.outbound.firsts.open(leg);
        Ok((listener, leg))
    }

    /// See [`Shard::leg_up`](super::Shard::leg_up).
    pub fn leg_up(&mut self, now: Instant, leg: LegId, egress: &Egress) {
        let Some(LegStats::Listener(stats)) = self.relay.leg_stats(leg) else { return };
        let destination = self.outbound.batch.destination(egress.destination);
        if self.outbound.legs.connect(leg, stats.ssrc, &egress.keys, destination) {
            self.relay.handle_leg(now, leg, LegState::Up);
        }
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
    pub fn leg_path(&mut self, leg: LegId, destination: SocketAddr) {
        let destination = self.outbound.batch.destination(destination);
        self.outbound.legs.redirect(leg, destination);
    }

    /// See [`Shard::pause_track`](super::Shard::pause_track). The engine counts what is dropped: its leg is down.
    pub fn pause_track(&mut self, now: Instant, track: TrackId, paused: bool) {
        if paused {
            if let Some(leg) = self.pauses.pause(&self.relay, track) {
                self.relay.handle_leg(now, leg, LegState::Down);
            }
        } else if let Some((leg, state)) = self.pauses.resume(track) {
            self.relay.handle_leg(now, leg, state);
        }
    }

    /// See [`Shard::events`](super::Shard::events).
    pub(super) fn listen(&mut self, queue: mpsc::Sender<ShardEvent>) {
        self.outbound.readers.add(queue);
    }

    /// See [`Shard::close`](super::Shard::close).
    pub fn close(&mut self, now: Instant, peer: Peer) {
        self.relay.close(now, peer);
    }

    /// See [`Shard::packet`](super::Shard::packet). The engine counts its verdict.
    pub fn handle_packet(&mut self, now: Instant, leg: LegId, packet: rtp::Packet) {
        let verdict = self.relay.handle_packet(now, leg, packet);
        if verdict == Verdict::Accepted
            && self.outbound.firsts.take(leg)
            && let Some(LegStats::Publisher(stats)) = self.relay.leg_stats(leg)
        {
            let (track, at) = (stats.track, now);
            if !self.outbound.readers.tell_all(ShardEvent::FirstPacketIn { track, leg, at }) {
                self.outbound.firsts.again(leg);
            }
        }
    }

    /// See [`Shard::feedback`](super::Shard::feedback). The engine counts its verdict.
    pub fn handle_feedback(&mut self, now: Instant, leg: LegId, feedback: Feedback) {
        self.relay.handle_feedback(now, leg, feedback);
    }

    /// See [`Shard::srtcp`](super::Shard::srtcp).
    pub fn handle_srtcp(&mut self, now: Instant, leg: LegId, datagram: &[u8]) {
        let Outbound { legs, counters, .. } = &mut self.outbound;
        rtcp::receive(legs, &mut self.relay, counters, self.rtcp_rate, now, leg, datagram);
    }

    /// A deadline of [`Relay::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
    }

    /// Seals and sends everything that the engine has to say. Neither waits nor allocates.
    pub fn drain(&mut self) {
        while let Some(output) = self.relay.poll_output() {
            if let Some(event) = self.outbound.handle(output) {
                self.note(event);
            }
        }
        self.outbound.batch.flush();
    }

    /// Counters; the queue's are zero, since there is no queue here.
    pub fn stats(&self) -> ShardStats {
        let outbound = &self.outbound;
        ShardStats {
            relay: self.relay.stats(),
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
            Event::Closed { peer: Peer::Leg(leg) } => self.outbound.legs.close(leg),
            Event::Closed { peer: Peer::Track(track) } => {
                self.pauses.close(track);
                readers.tell(ShardEvent::TrackClosed { track });
            }
            Event::TrackActive { track } => {
                readers.tell(ShardEvent::TrackActive { track, at: Instant::now() });
            }
            Event::TrackSilent { track } => readers.tell(ShardEvent::TrackSilent { track }),
            Event::FramesSkipped { listener, from, count } => {
                if let Some(track) = self.relay.listener_stats(listener).map(|stats| stats.track) {
                    readers.tell(ShardEvent::FramesSkipped { track, listener, from, count });
                }
            }
            _ => {}
        }
    }
}

/// Everything but the engine, so that an output may borrow from that.
#[derive(Debug)]
struct Outbound {
    legs: Legs,
    batch: Batch,
    counters: PlaneCounters,
    cname: String,
    firsts: Firsts,
    readers: Readers,
}

impl Outbound {
    /// Does what goes to a peer; an event is the plane's.
    fn handle(&mut self, output: Output<'_>) -> Option<Event> {
        match output {
            Output::Packet(packet) => self.send(&packet),
            Output::SenderReport { leg, report } => {
                let Outbound { legs, batch, counters, cname, .. } = self;
                rtcp::send_report(legs, batch, counters, leg, &report, cname);
            }
            // Publishers are reported to by `str0m`, which owns their SRTP.
            Output::ReceiverReport { .. } => {}
            Output::Event(event) => return Some(event),
        }
        None
    }

    fn send(&mut self, packet: &OutboundPacket<'_>) {
        let Some(hot) = self.legs.hot(packet.leg) else {
            self.counters.no_keys += 1;
            return;
        };
        let template = hot.templates.template(hot.group, packet);
        let payload = &packet.frame.payload[..];
        let length = template.len() + payload.len() + hot.sender.overhead();
        let Some(out) = self.batch.slot(length) else {
            self.counters.too_long += 1;
            return;
        };
        template.write(packet, out);
        match hot.sender.seal_behind(packet.index, template.len(), payload, out) {
            Ok(length) => {
                self.batch.commit(length, hot.destination);
                if self.firsts.take(packet.leg) {
                    let (leg, at) = (packet.leg, Instant::now());
                    self.readers.tell(ShardEvent::FirstPacketOut { leg, at });
                }
            }
            Err(error) => self.refuse(error, packet.replay),
        }
    }

    /// A packet that may not be sealed is not sent.
    fn refuse(&mut self, error: SealError, replay: bool) {
        match error {
            SealError::Reused => {
                debug_assert!(replay, "a sequence number is used twice under one key");
                self.counters.seal_reused += 1;
            }
            _ => self.counters.seal_refused += 1,
        }
    }
}
