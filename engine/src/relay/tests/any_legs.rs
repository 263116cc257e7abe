//! Any calls about listeners' legs in any order, polled in any portions, against a count of what arrived.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::harness::{Bench, Out, packet};
use crate::rtp::rtcp::{Nack, ReportBlock};
use crate::{
    Config, Event, Feedback, LegId, LegSpec, LegState, ListenerId, OnReturn, Order, Peer, TrackId, Verdict,
};

#[derive(Clone, Debug)]
enum Step {
    Listener {
        track: usize,
        spec: Spec,
    },
    AddLeg(usize, Spec),
    Switch(usize),
    State(usize, LegState),
    CloseLeg(usize),
    Select(usize, usize),
    Pause(usize),
    Resume(usize),
    Replay(usize, Option<u64>),
    Delivered(usize, u64),
    Report(usize, u16),
    Nack(usize, u16, u16),
    /// The newest position plus this, less 12; so many in a row.
    Frames {
        track: usize,
        offset: u64,
        count: u64,
    },
    Poll(usize),
    Drain,
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
struct Spec {
    ordered: bool,
    live: bool,
    resume_from: Option<u64>,
}

impl Spec {
    fn leg(self) -> LegSpec {
        let mut spec = LegSpec::new(96);
        if self.ordered {
            spec = spec.order(Order::Position);
        }
        if self.live {
            spec = spec.on_return(OnReturn::Live);
        }
        self.resume_from.map_or(spec, |from| spec.resume_from(from))
    }
}

fn step() -> impl Strategy<Value = Step> {
    let spec = || {
        (prop::bool::weighted(0.3), prop::bool::weighted(0.15), prop::option::weighted(0.3, 0_u64..120))
            .prop_map(|(ordered, live, resume_from)| Spec { ordered, live, resume_from })
    };
    let state =
        prop_oneof![4 => Just(LegState::Up), 2 => Just(LegState::Down), 1 => Just(LegState::Connecting)];
    let any = any::<usize>;
    prop_oneof![
        2 => (any(), spec()).prop_map(|(track, spec)| Step::Listener { track, spec }),
        4 => (any(), spec()).prop_map(|(at, spec)| Step::AddLeg(at, spec)),
        6 => any().prop_map(Step::Switch),
        10 => (any(), state).prop_map(|(at, state)| Step::State(at, state)),
        2 => any().prop_map(Step::CloseLeg),
        1 => (any(), any()).prop_map(|(at, track)| Step::Select(at, track)),
        1 => any().prop_map(Step::Pause),
        3 => any().prop_map(Step::Resume),
        2 => (any(), prop::option::of(0_u64..150)).prop_map(|(at, from)| Step::Replay(at, from)),
        2 => (any(), 0_u64..200).prop_map(|(at, position)| Step::Delivered(at, position)),
        2 => (any(), 0_u16..40).prop_map(|(at, back)| Step::Report(at, back)),
        3 => (any(), 0_u16..40, proptest::num::u16::ANY).prop_map(|(at, back, mask)| Step::Nack(at, back, mask)),
        16 => (any(), prop_oneof![3 => Just(13_u64), 2 => 0_u64..30], 1_u64..12)
            .prop_map(|(track, offset, count)| Step::Frames { track, offset, count }),
        6 => (0_usize..12).prop_map(Step::Poll),
        4 => Just(Step::Drain),
        5 => prop_oneof![0_u64..30, 0_u64..700].prop_map(Step::Wait),
    ]
}

/// What is known of a listener: since it joined, was last resumed, or got its track.
#[derive(Debug)]
struct Known {
    id: ListenerId,
    track: usize,
    legs: Vec<(LegId, Spec)>,
    /// The leg that it is sent on, and where it is to begin on it.
    on: LegId,
    wish: Option<u64>,
    joined: bool,
    paused: bool,
    /// `None` until it joined.
    base: u64,
    /// How many frames it must have been handed or told of by the end.
    wanted: u64,
    /// Frames that came from before `base`: if they are gone before they are offered, they count as skipped.
    before: u64,
    fresh: BTreeSet<u64>,
    skipped: u64,
}

#[derive(Default)]
struct Sent {
    /// Index to line and position.
    indices: BTreeMap<u64, (u64, u64)>,
    /// Line to offsets of index and timestamp.
    lines: BTreeMap<u64, (u64, u32)>,
    last: Option<u64>,
    /// It may go back once.
    rewound: bool,
    newest_index: u64,
}

struct World {
    bench: Bench,
    tracks: Vec<(TrackId, LegId)>,
    arrived: Vec<BTreeSet<u64>>,
    listeners: Vec<Known>,
    states: BTreeMap<LegId, LegState>,
    sent: BTreeMap<LegId, Sent>,
    spent: BTreeSet<LegId>,
    closed: BTreeSet<Peer>,
}

fn pick<T>(from: &[T], at: usize) -> Option<&T> {
    (!from.is_empty()).then(|| &from[at % from.len()])
}

impl World {
    fn new(config: Config) -> Self {
        let mut bench = Bench::new(config.max_packet_rate(1_000_000).max_bit_rate(1_000_000_000));
        let mut tracks = Vec::new();
        for _ in 0..2 {
            let track = bench.track();
            let publisher = bench.publisher(track);
            tracks.push((track, publisher));
        }
        let mut world = Self {
            bench,
            tracks,
            arrived: vec![BTreeSet::new(), BTreeSet::new()],
            listeners: Vec::new(),
            states: BTreeMap::new(),
            sent: BTreeMap::new(),
            spent: BTreeSet::new(),
            closed: BTreeSet::new(),
        };
        // So that position and sequence number are one.
        for track in 0..2 {
            world.frame(track, 0);
        }
        world
    }

    fn frame(&mut self, track: usize, position: u64) {
        let (_, leg) = self.tracks[track];
        let sequence = position as u16;
        let packet = packet(7, sequence, u32::from(sequence) * 960);
        let verdict = self.bench.relay.handle_packet(self.bench.now, leg, packet);
        if verdict != Verdict::Accepted {
            return;
        }
        assert!(self.arrived[track].insert(position), "{position} accepted twice");
        for listener in &mut self.listeners {
            if listener.track == track && listener.joined && !listener.paused {
                let before = position < listener.base;
                listener.wanted += u64::from(!before);
                listener.before += u64::from(before);
            }
        }
    }

    fn edge(&self, track: usize) -> (u64, u64) {
        let stats = self.bench.relay.track_stats(self.tracks[track].0).unwrap();
        (stats.oldest_position.unwrap(), stats.next_position)
    }

    fn all_legs(&self) -> Vec<LegId> {
        self.listeners.iter().flat_map(|listener| listener.legs.iter().map(|&(leg, _)| leg)).collect()
    }

    fn set_state(&mut self, leg: LegId, state: LegState) {
        self.states.insert(leg, state);
        self.sent.entry(leg).or_default().rewound = true;
        self.bench.relay.handle_leg(self.bench.now, leg, state);
        self.joins();
    }

    /// Notes who joined by what was just done.
    fn joins(&mut self) {
        for at in 0..self.listeners.len() {
            let listener = &mut self.listeners[at];
            let Some(stats) = self.bench.relay.listener_stats(listener.id) else { continue };
            if listener.on != stats.leg {
                // What it came for outlives its leg.
                let spec = listener.legs.iter().find(|&&(leg, _)| leg == stats.leg).unwrap().1;
                (listener.on, listener.wish) = (stats.leg, spec.resume_from.or(listener.wish));
            }
            if listener.joined || listener.paused || stats.state != LegState::Up {
                continue;
            }
            let (track, wish) = (listener.track, listener.wish);
            let (oldest, next) = self.edge(track);
            let base = wish.unwrap_or(next).min(next);
            let held = self.arrived[track].range(base.max(oldest)..).count() as u64;
            let listener = &mut self.listeners[at];
            (listener.joined, listener.base) = (true, base);
            listener.wanted = held + oldest.saturating_sub(base);
        }
    }

    fn begin(&mut self, at: usize) {
        let next = self.edge(self.listeners[at].track).1;
        let listener = &mut self.listeners[at];
        listener.base = next;
        (listener.wanted, listener.before, listener.skipped) = (0, 0, 0);
        listener.fresh.clear();
        for (leg, _) in &listener.legs {
            self.sent.entry(*leg).or_default().last = None;
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Listener { track, spec } => {
                let track = track % 2;
                let (id, leg) =
                    self.bench.relay.open_listener(self.bench.now, self.tracks[track].0, spec.leg()).unwrap();
                self.listeners.push(Known {
                    id,
                    track,
                    legs: vec![(leg, spec)],
                    on: leg,
                    wish: spec.resume_from,
                    joined: false,
                    paused: false,
                    base: 0,
                    wanted: 0,
                    before: 0,
                    fresh: BTreeSet::new(),
                    skipped: 0,
                });
            }
            Step::AddLeg(at, spec) => {
                let Some(listener) = pick(&self.listeners, at).map(|listener| listener.id) else { return };
                if let Ok(leg) = self.bench.relay.add_leg(self.bench.now, listener, spec.leg()) {
                    let known = self.listeners.iter_mut().find(|known| known.id == listener).unwrap();
                    known.legs.push((leg, spec));
                    // Most come up soon.
                    if at % 4 > 0 {
                        self.set_state(leg, LegState::Up);
                    }
                }
            }
            Step::Switch(at) => {
                let legs = self.all_legs();
                if let Some(&leg) = pick(&legs, at) {
                    self.bench.relay.switch(self.bench.now, leg).unwrap_or_default();
                    self.joins();
                }
            }
            Step::State(at, state) => {
                let legs = self.all_legs();
                pick(&legs, at).copied().into_iter().for_each(|leg| self.set_state(leg, state));
            }
            Step::CloseLeg(at) => {
                let legs = self.all_legs();
                if let Some(&leg) = pick(&legs, at) {
                    self.bench.close(Peer::Leg(leg));
                    self.joins();
                }
            }
            Step::Select(at, track) => self.select(at, track % 2),
            Step::Pause(_) | Step::Resume(_) if self.listeners.is_empty() => {}
            Step::Pause(at) => {
                let at = at % self.listeners.len();
                if self.bench.relay.pause(self.bench.now, self.listeners[at].id).is_ok() {
                    self.listeners[at].paused = true;
                }
            }
            Step::Resume(at) => {
                let at = at % self.listeners.len();
                if self.bench.relay.resume(self.bench.now, self.listeners[at].id).is_ok()
                    && std::mem::take(&mut self.listeners[at].paused)
                {
                    if self.listeners[at].joined {
                        self.begin(at);
                    }
                    self.joins();
                }
            }
            _ => self.apply_wire(step),
        }
    }

    fn select(&mut self, at: usize, track: usize) {
        let Some(listener) = pick(&self.listeners, at) else { return };
        if listener.track == track {
            return;
        }
        let (id, to) = (listener.id, self.tracks[track].0);
        if self.bench.relay.select(self.bench.now, id, to).is_ok() {
            let at = at % self.listeners.len();
            let listener = &mut self.listeners[at];
            (listener.track, listener.wish) = (track, None);
            listener.legs.iter_mut().for_each(|(_, spec)| spec.resume_from = None);
            if self.listeners[at].joined {
                self.begin(at);
            }
            self.joins();
        }
    }

    fn apply_wire(&mut self, step: Step) {
        let legs = self.all_legs();
        let now = self.bench.now;
        match step {
            Step::Replay(at, from) => {
                if let Some(&leg) = pick(&legs, at) {
                    self.bench.relay.replay(now, leg, from).unwrap_or_default();
                    self.sent.entry(leg).or_default().rewound = true;
                }
            }
            Step::Delivered(at, position) => {
                if let Some(&leg) = pick(&legs, at) {
                    self.bench.relay.handle_feedback(now, leg, Feedback::Delivered(position));
                }
            }
            Step::Report(at, back) => {
                let Some((leg, ssrc, newest)) = self.far(&legs, at) else { return };
                let highest_sequence = u32::from(newest.wrapping_sub(back));
                let block = ReportBlock { ssrc, highest_sequence, ..ReportBlock::default() };
                self.bench.relay.handle_feedback(now, leg, Feedback::ReceiverReport(block));
            }
            Step::Nack(at, back, following) => {
                let Some((leg, media_ssrc, newest)) = self.far(&legs, at) else { return };
                let nack = Nack { sender_ssrc: 1, media_ssrc, first: newest.wrapping_sub(back), following };
                self.bench.relay.handle_feedback(now, leg, Feedback::Nack(nack));
            }
            Step::Frames { track, offset, count } => {
                let track = track % 2;
                let first = (self.edge(track).1 + offset).saturating_sub(13);
                (first..first + count).for_each(|position| self.frame(track, position));
            }
            Step::Poll(polls) => {
                for _ in 0..polls {
                    let Some(out) = self.bench.poll() else { break };
                    self.check(&out);
                }
            }
            Step::Drain => self.drain(),
            Step::Wait(ms) => {
                self.bench.wait(ms);
                self.bench.relay.handle_timeout(self.bench.now);
            }
            _ => unreachable!("the other half"),
        }
    }

    fn far(&self, legs: &[LegId], at: usize) -> Option<(LegId, u32, u16)> {
        let &leg = pick(legs, at)?;
        let Some(crate::LegStats::Listener(stats)) = self.bench.relay.leg_stats(leg) else { return None };
        let newest = self.sent.get(&leg).map_or(0, |sent| sent.newest_index);
        Some((leg, stats.ssrc, newest as u16))
    }

    fn drain(&mut self) {
        let out = self.bench.drain();
        out.iter().for_each(|out| self.check(out));
    }

    fn check(&mut self, out: &Out) {
        match *out {
            Out::Packet { listener, leg, position, index, line, timestamp, media, replay } => {
                assert_eq!(self.states.get(&leg), Some(&LegState::Up), "I6");
                assert!(!self.spent.contains(&leg), "a spent leg is sent nothing");
                let known = self.listeners.iter_mut().find(|known| known.id == listener).unwrap();
                assert!(!known.paused, "paused");
                let spec = known.legs.iter().find(|&&(id, _)| id == leg).expect("its own leg").1;
                assert!(position >= known.base, "{position} is from before {}", known.base);
                if replay {
                    assert!(known.fresh.contains(&position) || known.skipped > 0, "{position} is no replay");
                } else {
                    assert!(known.fresh.insert(position), "I1: {position} twice");
                }
                let sent = self.sent.entry(leg).or_default();
                let before = sent.indices.insert(index, (line, position));
                assert!(before.is_none_or(|before| before == (line, position)), "index {index} again");
                let offsets = (index.wrapping_sub(position), timestamp.wrapping_sub(media as u32));
                assert_eq!(*sent.lines.entry(line).or_insert(offsets), offsets, "affine");
                sent.newest_index = sent.newest_index.max(index);
                if spec.ordered {
                    let forward = sent.last.is_none_or(|last| position > last);
                    assert!(
                        forward || std::mem::take(&mut sent.rewound),
                        "I1: {position} after {:?}",
                        sent.last
                    );
                    sent.last = Some(position);
                }
            }
            Out::SenderReport(leg, _) => assert_eq!(self.states.get(&leg), Some(&LegState::Up), "I6"),
            Out::Event(Event::FramesSkipped { listener, count, .. }) => {
                let known = self.listeners.iter_mut().find(|known| known.id == listener).unwrap();
                known.skipped += count;
            }
            Out::Event(Event::LegSpent { leg, to, .. }) => {
                assert!(self.spent.insert(leg), "spent twice");
                assert!(!self.closed.contains(&Peer::Leg(leg)), "spent after it was closed");
                let known = self.listeners.iter().find(|known| known.legs.iter().any(|&(id, _)| id == leg));
                assert!(known.unwrap().legs.iter().any(|&(id, _)| id == to));
            }
            Out::Event(Event::Closed { peer }) => {
                assert!(self.closed.insert(peer), "{peer:?} closed twice");
            }
            Out::Event(_) | Out::ReceiverReport(..) => {}
        }
    }

    /// Brings everything up and waits until there is nothing left to hand out.
    fn finish(&mut self) {
        for at in 0..self.listeners.len() {
            self.apply(Step::Resume(at));
        }
        for leg in self.all_legs() {
            if self.states.get(&leg) != Some(&LegState::Up) {
                self.set_state(leg, LegState::Up);
            }
        }
        for _ in 0..400 {
            self.drain();
            self.bench.wait(20);
            self.bench.relay.handle_timeout(self.bench.now);
        }
        // What was skipped is told before the next packet at the latest.
        for track in 0..2 {
            let next = self.edge(track).1;
            self.frame(track, next);
        }
        for _ in 0..40 {
            self.drain();
            self.bench.wait(20);
            self.bench.relay.handle_timeout(self.bench.now);
        }
        for listener in &self.listeners {
            let Some(stats) = self.bench.relay.listener_stats(listener.id) else { continue };
            if stats.state != LegState::Up {
                continue;
            }
            let had = listener.fresh.len() as u64 + listener.skipped;
            let wanted = listener.wanted..=listener.wanted + listener.before;
            assert!(wanted.contains(&had), "L1, L5: {had} {wanted:?} {listener:?} {stats:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn what_arrives_for_a_listener_is_handed_out_once_or_told(
        steps in prop::collection::vec(step(), 1..120),
        frames in prop_oneof![3_usize..40, Just(3_000)],
        rate in 1_u32..10,
        burst in 1_u32..12,
    ) {
        let config = Config::new().history_frames(frames).replay_rate(rate).replay_burst(burst);
        let mut world = World::new(config);
        let spec = Spec { ordered: false, live: false, resume_from: None };
        let first = [Step::Listener { track: 0, spec }, Step::State(0, LegState::Up)];
        for step in first.into_iter().chain(steps) {
            world.apply(step);
        }
        world.finish();
    }
}
