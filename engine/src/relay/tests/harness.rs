//! A relay under a hand-wound clock, a publisher that counts for itself, and what came out, in the order it came.

use std::ops::ControlFlow;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;

use crate::rtp::{Header, Packet};
use crate::time::tests::origin;
use crate::{
    Config, Epoch, Event, LegId, LegSpec, LegState, ListenerId, OpenError, Output, Peer, Relay, TrackId,
    TrackSpec, Verdict, rtp,
};

pub(super) struct Bench {
    pub(super) relay: Relay,
    pub(super) now: Instant,
}

/// An output, without its borrow.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Out {
    Packet {
        listener: ListenerId,
        leg: LegId,
        position: u64,
        index: u64,
        line: u64,
        timestamp: u32,
        media: u64,
        replay: bool,
    },
    SenderReport(LegId, rtp::rtcp::SenderReport),
    ReceiverReport(LegId, rtp::rtcp::ReportBlock),
    Event(Event),
}

impl Out {
    fn of(output: &Output<'_>) -> Self {
        match output {
            Output::Packet(packet) => Self::Packet {
                listener: packet.listener,
                leg: packet.leg,
                line: packet.line,
                replay: packet.replay,
                position: packet.frame.position,
                index: packet.index,
                timestamp: packet.timestamp,
                media: packet.frame.media_time.ticks(),
            },
            &Output::SenderReport { leg, report } => Self::SenderReport(leg, report),
            &Output::ReceiverReport { leg, report } => Self::ReceiverReport(leg, report),
            Output::Event(event) => Self::Event(*event),
        }
    }
}

impl Bench {
    pub(super) fn new(config: Config) -> Self {
        Self::with_seed(config, 1)
    }

    pub(super) fn with_seed(config: Config, seed: u64) -> Self {
        let start = origin();
        let epoch = Epoch { instant: start, wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000) };
        Self { relay: Relay::new(config, epoch, seed), now: start }
    }

    pub(super) fn track(&mut self) -> TrackId {
        self.relay.open_track(self.now, TrackSpec { name: "en".to_owned() }).unwrap()
    }

    pub(super) fn publisher(&mut self, track: TrackId) -> LegId {
        let leg = self.relay.open_publisher_leg(self.now, track, LegSpec::new(111)).unwrap();
        self.relay.handle_leg(self.now, leg, LegState::Up);
        leg
    }

    pub(super) fn listener(&mut self, track: TrackId) -> (ListenerId, LegId) {
        let (listener, leg) = self.try_listener(track).unwrap();
        self.relay.handle_leg(self.now, leg, LegState::Up);
        (listener, leg)
    }

    pub(super) fn listener_of(&mut self, track: TrackId, spec: LegSpec) -> (ListenerId, LegId) {
        let (listener, leg) = self.relay.open_listener(self.now, track, spec).unwrap();
        self.relay.handle_leg(self.now, leg, LegState::Up);
        (listener, leg)
    }

    pub(super) fn try_listener(&mut self, track: TrackId) -> Result<(ListenerId, LegId), OpenError> {
        self.relay.open_listener(self.now, track, LegSpec::new(96))
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    /// Lets time pass in steps of a millisecond, without frames; what is handed out meanwhile.
    pub(super) fn rest(&mut self, ms: u64) -> Vec<Out> {
        let mut out = Vec::new();
        for _ in 0..ms {
            self.wait(1);
            self.relay.handle_timeout(self.now);
            out.extend(self.drain());
        }
        out
    }

    /// A frame of the voice that has begun at timestamp 0, now, whenever it was due; what is handed out for it.
    pub(super) fn late(&mut self, leg: LegId, n: u16) -> Vec<Out> {
        self.send(leg, n, u32::from(n) * 960);
        self.drain()
    }

    /// A 20 ms packet of SSRC 7.
    pub(super) fn send(&mut self, leg: LegId, sequence: u16, timestamp: u32) -> Verdict {
        self.send_as(leg, 7, sequence, timestamp)
    }

    pub(super) fn send_as(&mut self, leg: LegId, ssrc: u32, sequence: u16, timestamp: u32) -> Verdict {
        self.relay.handle_packet(self.now, leg, packet(ssrc, sequence, timestamp))
    }

    /// The n-th packet of a plain stream, 20 ms after the one before.
    pub(super) fn next(&mut self, leg: LegId, n: u16) -> Verdict {
        self.wait(20);
        self.send(leg, n, u32::from(n) * 960)
    }

    pub(super) fn poll(&mut self) -> Option<Out> {
        self.relay.poll_output().map(|output| Out::of(&output))
    }

    /// Up to `most` outputs, by [`Relay::fan_out`] where it hands out anything.
    pub(super) fn fan_out(&mut self, most: usize) -> Vec<Out> {
        let mut out = Vec::new();
        while out.len() < most {
            self.relay.fan_out(|packet| {
                out.push(Out::of(&Output::Packet(*packet)));
                if out.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            if out.len() < most {
                let Some(polled) = self.poll() else { break };
                out.push(polled);
            }
        }
        out
    }

    pub(super) fn drain(&mut self) -> Vec<Out> {
        let out: Vec<_> = std::iter::from_fn(|| self.poll()).collect();
        assert!(self.relay.is_drained());
        let deadline = self.relay.poll_timeout();
        assert!(deadline.is_none_or(|deadline| deadline.at > self.now), "I4: {deadline:?}");
        out
    }

    /// The positions that each drained packet of a listener had.
    pub(super) fn heard(&mut self, listener: ListenerId) -> Vec<u64> {
        positions(&self.drain(), listener)
    }

    pub(super) fn close(&mut self, peer: Peer) {
        self.relay.close(self.now, peer);
    }
}

pub(super) fn positions(out: &[Out], of: ListenerId) -> Vec<u64> {
    out.iter()
        .filter_map(|out| match out {
            Out::Packet { listener, position, .. } if *listener == of => Some(*position),
            _ => None,
        })
        .collect()
}

pub(super) fn events(out: &[Out]) -> Vec<Event> {
    out.iter().filter_map(|out| if let Out::Event(event) = out { Some(*event) } else { None }).collect()
}

pub(super) fn packet(ssrc: u32, sequence: u16, timestamp: u32) -> Packet {
    let header = Header { payload_type: 111, sequence, timestamp, ssrc, ..Header::default() };
    // TOC 0x78: CELT, full band, 20 ms, one frame.
    Packet { header, payload: Bytes::from_static(&[0x78, 1, 2, 3]) }
}

/// The positions that were handed out on a leg.
pub(super) fn on(out: &[Out], of: LegId) -> Vec<u64> {
    out.iter()
        .filter_map(|out| match out {
            Out::Packet { leg, position, .. } if *leg == of => Some(*position),
            _ => None,
        })
        .collect()
}

/// How many packets were marked as replays.
pub(super) fn replays(out: &[Out]) -> usize {
    out.iter().filter(|out| matches!(out, Out::Packet { replay: true, .. })).count()
}
