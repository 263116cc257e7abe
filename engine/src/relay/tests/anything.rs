//! Any calls in any order, polled in any portions: what must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::harness::{Bench, Out, packet};
use crate::{Config, Event, LegId, LegState, ListenerId, Peer, TrackId};

#[derive(Clone, Debug)]
enum Step {
    Track,
    Publisher(usize, u64),
    Listener(usize),
    State(usize, LegState),
    Close(usize, u8),
    PublisherState(usize, LegState),
    Switch(usize),
    Restart(usize),
    Frames { leg: usize, position: u64, count: u64 },
    Packets { leg: usize, ssrc: u32, sequence: u16, count: u16, every: u16 },
    Poll(usize),
    Drain,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let state =
        prop_oneof![Just(LegState::Up), Just(LegState::Up), Just(LegState::Down), Just(LegState::Connecting)];
    let packets = (0_usize..4, 0_u32..3, any::<u16>(), 1_u16..20, 0_u16..3);
    prop_oneof![
        1 => Just(Step::Track),
        3 => (any::<usize>(), 0_u64..12).prop_map(|(track, epoch)| Step::Publisher(track, epoch / 10)),
        3 => (0_usize..4, state.clone()).prop_map(|(leg, state)| Step::PublisherState(leg, state)),
        2 => (0_usize..4).prop_map(Step::Switch),
        1 => (0_usize..4).prop_map(Step::Restart),
        3 => (0_usize..4, 0_u64..60, 1_u64..8)
            .prop_map(|(leg, position, count)| Step::Frames { leg, position, count }),
        4 => any::<usize>().prop_map(Step::Listener),
        6 => (any::<usize>(), state).prop_map(|(leg, state)| Step::State(leg, state)),
        2 => (any::<usize>(), 0_u8..12).prop_map(|(id, kind)| Step::Close(id, kind)),
        8 => packets.prop_map(|(leg, ssrc, sequence, count, every)| {
            // Mostly near the start, so that streams continue.
            let sequence = if sequence % 4 == 0 { sequence } else { sequence % 40 };
            Step::Packets { leg, ssrc, sequence, count, every }
        }),
        6 => (0_usize..20).prop_map(Step::Poll),
        2 => Just(Step::Drain),
        3 => (0_u64..9_000).prop_map(Step::Wait),
    ]
}

/// What the checks remember.
#[derive(Default)]
struct Seen {
    tracks: Vec<TrackId>,
    publishers: Vec<LegId>,
    listeners: Vec<(ListenerId, LegId)>,
    states: BTreeMap<LegId, LegState>,
    handed: BTreeMap<ListenerId, BTreeMap<u64, (u64, u32)>>,
    closed: BTreeSet<Peer>,
    /// Takes outputs by `fan_out` too.
    fans_out: bool,
    out: Vec<Out>,
}

fn pick<T: Copy>(from: &[T], at: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[at % from.len()])
}

impl Seen {
    fn apply(&mut self, bench: &mut Bench, step: Step) {
        match step {
            Step::Track => self.tracks.push(bench.track()),
            Step::Publisher(at, epoch) => {
                let spec = crate::LegSpec::new(111).epoch(epoch);
                let opened = pick(&self.tracks, at)
                    .map(|track| bench.relay.open_publisher_leg(bench.now, track, spec));
                self.publishers.extend(opened.and_then(Result::ok));
            }
            Step::Listener(at) => {
                let opened = pick(&self.tracks, at).map(|track| bench.try_listener(track));
                self.listeners.extend(opened.and_then(Result::ok));
            }
            Step::State(at, state) => {
                let legs: Vec<_> = self.listeners.iter().map(|&(_, leg)| leg).collect();
                if let Some(leg) = pick(&legs, at) {
                    bench.relay.handle_leg(bench.now, leg, state);
                    self.states.insert(leg, state);
                }
            }
            Step::PublisherState(at, state) => {
                if let Some(leg) = pick(&self.publishers, at) {
                    bench.relay.handle_leg(bench.now, leg, state);
                    self.states.insert(leg, state);
                }
            }
            Step::Switch(at) => {
                if let Some(leg) = pick(&self.publishers, at) {
                    let again = bench.relay.switch(bench.now, leg);
                    assert_eq!(bench.relay.switch(bench.now, leg), again, "idempotent");
                }
            }
            Step::Restart(at) => {
                if let Some(leg) = pick(&self.publishers, at) {
                    bench.relay.restart(bench.now, leg);
                }
            }
            Step::Frames { leg, position, count } => {
                let Some(leg) = pick(&self.publishers, leg) else { return };
                for position in position..position + count {
                    let frame = crate::CarriedFrame {
                        position,
                        media_time: crate::MediaTime::from_ticks(position * 960),
                        marker: false,
                        capture_time: None,
                        audio_level: None,
                        payload: packet(0, 0, 0).payload,
                    };
                    bench.relay.handle_frame(bench.now, leg, frame);
                }
            }
            Step::Close(at, kind) => self.close(bench, at, kind),
            Step::Packets { leg, ssrc, sequence, count, every } => {
                let Some(leg) = pick(&self.publishers, leg) else { return };
                for n in 0..count {
                    let sequence = sequence.wrapping_add(n * every);
                    let packet = packet(ssrc, sequence, u32::from(sequence) * 960);
                    bench.relay.handle_packet(bench.now, leg, packet);
                }
            }
            Step::Poll(polls) => self.poll(bench, polls),
            Step::Drain => self.drain(bench),
            Step::Wait(ms) => {
                bench.now += Duration::from_millis(ms);
                bench.relay.handle_timeout(bench.now);
            }
        }
    }

    fn close(&self, bench: &mut Bench, at: usize, kind: u8) {
        let peer = match kind {
            0 => pick(&self.tracks, at).map(Peer::Track),
            1..4 => pick(&self.publishers, at).map(Peer::Leg),
            4..8 => pick(&self.listeners, at).map(|(_, leg)| Peer::Leg(leg)),
            _ => pick(&self.listeners, at).map(|(listener, _)| Peer::Listener(listener)),
        };
        if let Some(peer) = peer {
            bench.close(peer);
        }
    }

    fn poll(&mut self, bench: &mut Bench, most: usize) {
        let out =
            if self.fans_out { bench.fan_out(most) } else { (0..most).map_while(|_| bench.poll()).collect() };
        self.take(out);
    }

    fn drain(&mut self, bench: &mut Bench) {
        if self.fans_out {
            self.poll(bench, usize::MAX);
        }
        self.take(bench.drain());
    }

    fn take(&mut self, out: Vec<Out>) {
        out.iter().for_each(|out| self.check(out));
        self.out.extend(out);
    }

    fn check(&mut self, out: &Out) {
        match *out {
            Out::Packet { listener, position, index, timestamp, media, replay, .. } => {
                let leg =
                    self.listeners.iter().find(|&&(id, _)| id == listener).map(|&(_, leg)| leg).unwrap();
                assert_eq!(self.states.get(&leg), Some(&LegState::Up), "I6");
                assert!(!self.closed.contains(&Peer::Listener(listener)), "I6");
                let handed = self.handed.entry(listener).or_default();
                let offset = timestamp.wrapping_sub(media as u32);
                let again = handed.insert(position, (index, offset));
                assert!(again.is_none() || replay, "I1: position {position} twice");
                let (first, (first_index, first_offset)) = handed.first_key_value().unwrap();
                assert!(*first_index < 1 << 15);
                assert_eq!((index - first_index, offset), (position - first, *first_offset), "affine");
            }
            Out::SenderReport(leg, _) => assert_eq!(self.states.get(&leg), Some(&LegState::Up), "I6"),
            Out::ReceiverReport(leg, _) => assert_eq!(self.states.get(&leg), Some(&LegState::Up), "I6"),
            Out::Event(Event::Closed { peer }) => assert!(self.closed.insert(peer), "{peer:?} closed twice"),
            Out::Event(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_calls_keep_the_invariants(steps in prop::collection::vec(step(), 1..150), frames in 1_usize..60) {
        let mut bench = Bench::new(Config::new().history_frames(frames).max_packet_rate(100_000));
        let mut seen = Seen::default();
        for step in [Step::Track, Step::Publisher(0, 0), Step::Listener(0), Step::Listener(0)].into_iter().chain(steps) {
            seen.apply(&mut bench, step);
        }
        for track in seen.tracks.clone() {
            bench.close(Peer::Track(track));
        }
        seen.apply(&mut bench, Step::Drain);
        let opened = seen.tracks.len() + seen.publishers.len() + 2 * seen.listeners.len();
        prop_assert_eq!(seen.closed.len(), opened, "each id is told of once");
        prop_assert_eq!(bench.relay.poll_timeout(), None, "I4: nothing is left to wake up for");
        let stats = bench.relay.stats();
        prop_assert_eq!((stats.tracks, stats.legs, stats.listeners), (0, 0, 0));
    }

    #[test]
    fn fanning_out_gives_what_polling_gives(steps in prop::collection::vec(step(), 1..150), frames in 1_usize..60) {
        let outputs = [false, true].map(|fans_out| {
            let mut bench = Bench::new(Config::new().history_frames(frames).max_packet_rate(100_000));
            let mut seen = Seen { fans_out, ..Seen::default() };
            let begin = [Step::Track, Step::Publisher(0, 0), Step::Listener(0), Step::Listener(0), Step::Listener(0)];
            let up = [0, 1].map(|at| Step::State(at, LegState::Up));
            for step in begin.into_iter().chain(up).chain(steps.clone()).chain([Step::Drain]) {
                seen.apply(&mut bench, step);
            }
            (seen.out, bench.relay.stats())
        });
        prop_assert_eq!(&outputs[0], &outputs[1]);
    }
}
