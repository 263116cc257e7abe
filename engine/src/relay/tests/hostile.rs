//! Numbers that no honest peer says, from both sides, at any time: nothing panics, and what waits is bounded.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::harness::{Bench, packet};
use crate::rtp::{CaptureTime, NtpTime, rtcp};
use crate::{CarriedFrame, Config, Feedback, LegId, LegSpec, LegState, ListenerId, MediaTime, Order};

/// Numbers at every edge.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..60,
        1 => any::<u64>(),
        1 => (0_u32..64, 0_u64..3).prop_map(|(bit, off)| (1_u64 << bit).wrapping_sub(off)),
        1 => (0_u64..3).prop_map(|off| u64::MAX - off),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Frame(usize, u64, u64, Option<u64>),
    /// A frame of the track's next position, so that it goes on.
    Next(usize, u64),
    Packet(usize, u64, u64, u64),
    Report(usize, u64, u64),
    Delivered(usize, u64),
    ReceiverReport(usize, u64),
    Nack(usize, u16, u16),
    Replay(usize, Option<u64>),
    Resumes(u64, bool),
    Add(usize, u64),
    Switch(usize),
    State(usize, LegState),
    Wait(u64),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let leg = 0_usize..8;
    let state = prop_oneof![Just(LegState::Up), Just(LegState::Up), Just(LegState::Down)];
    prop_oneof![
        4 => (leg.clone(), number(), number(), prop::option::of(number()))
            .prop_map(|(leg, position, media, captured)| Step::Frame(leg, position, media, captured)),
        6 => (leg.clone(), number()).prop_map(|(leg, media)| Step::Next(leg, media)),
        6 => (leg.clone(), number(), number(), number())
            .prop_map(|(leg, ssrc, sequence, timestamp)| Step::Packet(leg, ssrc % 3, sequence, timestamp)),
        2 => (leg.clone(), number(), number()).prop_map(|(leg, ntp, time)| Step::Report(leg, ntp, time)),
        3 => (leg.clone(), number()).prop_map(|(leg, position)| Step::Delivered(leg, position)),
        3 => (leg.clone(), number()).prop_map(|(leg, highest)| Step::ReceiverReport(leg, highest)),
        3 => (leg.clone(), any::<u16>(), any::<u16>()).prop_map(|(leg, first, more)| Step::Nack(leg, first, more)),
        2 => (leg.clone(), prop::option::of(number())).prop_map(|(leg, from)| Step::Replay(leg, from)),
        2 => (number(), any::<bool>()).prop_map(|(from, ordered)| Step::Resumes(from, ordered)),
        2 => (leg.clone(), number()).prop_map(|(listener, from)| Step::Add(listener, from)),
        2 => leg.clone().prop_map(Step::Switch),
        3 => (leg, state).prop_map(|(leg, state)| Step::State(leg, state)),
        4 => prop_oneof![0_u64..50, Just(460), Just(3_600_000), Just(31_536_000_000)].prop_map(Step::Wait),
        6 => Just(Step::Drain),
    ]
}

/// Two publisher's legs and some listeners.
struct Storm {
    bench: Bench,
    track: crate::TrackId,
    publishers: Vec<LegId>,
    listeners: Vec<(ListenerId, LegId)>,
}

impl Storm {
    fn new(frames: usize) -> Self {
        let mut bench = Bench::new(Config::new().history_frames(frames));
        let track = bench.track();
        let publishers = vec![bench.publisher(track), bench.publisher(track)];
        let listeners = vec![bench.listener(track)];
        Self { bench, track, publishers, listeners }
    }

    fn leg(&self, at: usize) -> LegId {
        self.listeners[at % self.listeners.len()].1
    }

    fn carry(&mut self, at: usize, position: u64, media: u64, captured: Option<u64>) {
        let frame = CarriedFrame {
            position,
            media_time: MediaTime::from_ticks(media),
            marker: false,
            capture_time: captured.map(|time| CaptureTime { time: NtpTime(time), offset: Some(i64::MIN) }),
            audio_level: None,
            payload: Bytes::from_static(&[0x78; 40]),
        };
        let Bench { relay, now } = &mut self.bench;
        relay.handle_frame(*now, self.publishers[at % 2], frame);
    }

    fn feed(&mut self, leg: LegId, feedback: Feedback) {
        self.bench.relay.handle_feedback(self.bench.now, leg, feedback);
    }

    fn apply(&mut self, step: Step) {
        let now = self.bench.now;
        match step {
            Step::Frame(at, position, media, captured) => self.carry(at, position, media, captured),
            Step::Next(at, media) => {
                let stats = self.bench.relay.track_stats(self.track).unwrap();
                let after = stats.next_media_time.ticks().saturating_add(media % 4_000);
                self.carry(at, stats.next_position, after, None);
            }
            Step::Packet(at, ssrc, sequence, timestamp) => {
                let packet = packet(ssrc as u32, sequence as u16, timestamp as u32);
                self.bench.relay.handle_packet(now, self.publishers[at % 2], packet);
            }
            Step::Report(at, ntp, time) => {
                let ntp = NtpTime(ntp);
                let report = rtcp::SenderReport { ntp, rtp_timestamp: time as u32, ..Default::default() };
                self.feed(self.publishers[at % 2], Feedback::SenderReport(report));
            }
            Step::Delivered(at, position) => self.feed(self.leg(at), Feedback::Delivered(position)),
            Step::ReceiverReport(at, highest) => {
                let leg = self.leg(at);
                let ssrc = self.ssrc(leg);
                let block = rtcp::ReportBlock {
                    ssrc,
                    highest_sequence: highest as u32,
                    last_sender_report: (highest >> 16) as u32,
                    delay_since_last_sender_report: u32::MAX,
                    ..Default::default()
                };
                self.feed(leg, Feedback::ReceiverReport(block));
            }
            Step::Nack(at, first, following) => {
                let leg = self.leg(at);
                let nack = rtcp::Nack { sender_ssrc: 1, media_ssrc: self.ssrc(leg), first, following };
                self.feed(leg, Feedback::Nack(nack));
            }
            Step::Replay(at, from) => drop(self.bench.relay.replay(now, self.leg(at), from)),
            Step::Resumes(from, ordered) if self.listeners.len() < 12 => {
                let order = if ordered { Order::Position } else { Order::Arrival };
                let spec = LegSpec::new(96).resume_from(from).order(order);
                self.listeners.push(self.bench.listener_of(self.track, spec));
            }
            Step::Resumes(..) => {}
            Step::Add(at, from) => {
                let (listener, _) = self.listeners[at % self.listeners.len()];
                let spec = LegSpec::new(96).resume_from(from);
                if let Ok(leg) = self.bench.relay.add_leg(now, listener, spec) {
                    self.bench.relay.handle_leg(now, leg, LegState::Up);
                    self.listeners.push((listener, leg));
                }
            }
            Step::Switch(at) => drop(self.bench.relay.switch(now, self.any(at))),
            Step::State(at, state) => self.bench.relay.handle_leg(now, self.any(at), state),
            Step::Wait(ms) => {
                self.bench.wait(ms);
                self.bench.relay.handle_timeout(self.bench.now);
            }
            Step::Drain => self.drain(),
        }
    }

    fn any(&self, at: usize) -> LegId {
        if at < 2 { self.publishers[at] } else { self.leg(at) }
    }

    fn ssrc(&self, leg: LegId) -> u32 {
        match self.bench.relay.leg_stats(leg) {
            Some(crate::LegStats::Listener(stats)) => stats.ssrc,
            _ => 0,
        }
    }

    /// I3: what one drain hands out is bounded by what is held and who listens.
    fn drain(&mut self) {
        let held = self.bench.relay.track_stats(self.track).unwrap().history_frames;
        let most = (held + 200) * (self.listeners.len() * 2 + 2);
        let out = std::iter::from_fn(|| self.bench.poll()).take(most + 1).count();
        assert!(out <= most, "more than {most} outputs at once");
        assert!(self.bench.relay.is_drained());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_number_is_too_much(steps in prop::collection::vec(step(), 1..200), frames in 1_usize..60) {
        let mut storm = Storm::new(frames);
        for step in steps {
            storm.apply(step);
        }
        storm.bench.wait(Duration::from_secs(1).as_millis() as u64);
        storm.bench.relay.handle_timeout(storm.bench.now);
        storm.drain();
    }
}
