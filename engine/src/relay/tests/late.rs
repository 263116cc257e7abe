//! What may not have come though it was handed out: late frames, and the last packet before a rest.

use super::harness::{Bench, Out, events, on, positions, replays};
use crate::config::Config;
use crate::id::{LegId, ListenerId};
use crate::io::{Event, Feedback, LegSpec, LegState, Order};

/// A listener with one leg, and its track's publisher.
struct Stage {
    bench: Bench,
    publisher: LegId,
    listener: ListenerId,
    leg: LegId,
    /// The last index that it was handed.
    last: u64,
}

impl Stage {
    fn new(order: Order, frames: u16) -> Self {
        Self::with(Config::new(), order, frames)
    }

    fn with(config: Config, order: Order, frames: u16) -> Self {
        let mut bench = Bench::new(config);
        let track = bench.track();
        let publisher = bench.publisher(track);
        let (listener, leg) = bench.listener_of(track, LegSpec::new(96).order(order));
        let mut stage = Self { bench, publisher, listener, leg, last: 0 };
        stage.frames(0..frames);
        stage
    }

    fn frames(&mut self, range: std::ops::Range<u16>) -> Vec<Out> {
        let mut out = Vec::new();
        for n in range {
            self.bench.next(self.publisher, n);
            out.extend(self.bench.drain());
        }
        let last = out.iter().rev().find_map(|out| match out {
            Out::Packet { index, .. } => Some(*index),
            _ => None,
        });
        self.last = last.unwrap_or(self.last);
        out
    }

    fn state(&mut self, leg: LegId, state: LegState) {
        self.bench.relay.handle_leg(self.bench.now, leg, state);
    }

    fn delivered(&mut self, leg: LegId, position: u64) {
        self.bench.relay.handle_feedback(self.bench.now, leg, Feedback::Delivered(position));
    }

    /// The leg goes down, another takes its place; what that is handed within 100 ms.
    fn replace(&mut self) -> Vec<u64> {
        self.state(self.leg, LegState::Down);
        let new =
            self.bench.relay.add_leg(self.bench.now, self.listener, LegSpec::new(96).order(Order::Position));
        let old = std::mem::replace(&mut self.leg, new.unwrap());
        self.state(self.leg, LegState::Up);
        self.bench.relay.switch(self.bench.now, self.leg).unwrap();
        let out = self.bench.rest(100);
        self.bench.relay.close(self.bench.now, crate::id::Peer::Leg(old));
        self.bench.drain();
        on(&out, self.leg)
    }

    fn report(&mut self, behind: u64) -> Vec<Out> {
        let stats = self.bench.relay.listener_stats(self.listener).unwrap();
        let index = self.last - behind;
        let block = crate::rtp::rtcp::ReportBlock {
            ssrc: stats.ssrc,
            highest_sequence: u32::from(index as u16),
            ..Default::default()
        };
        self.bench.relay.handle_feedback(self.bench.now, self.leg, Feedback::ReceiverReport(block));
        self.bench.drain()
    }
}

#[test]
fn a_late_frame_below_an_acknowledged_position_is_repeated_until_what_followed_it_is_acknowledged() {
    let mut stage = Stage::new(Order::Position, 10);
    stage.frames(11..60);
    stage.bench.rest(500);
    stage.delivered(stage.leg, 59);
    stage.state(stage.leg, LegState::Down);
    stage.bench.late(stage.publisher, 10);
    assert_eq!(stage.replace(), [10], "it was a hole when 59 was acknowledged");
    stage.delivered(stage.leg, 59);
    assert_eq!(stage.replace(), [10], "that may be of before");
    stage.frames(60..62);
    stage.delivered(stage.leg, 60);
    assert_eq!(stage.replace(), [61], "60 came behind it");
}

#[test]
fn what_was_told_as_skipped_is_not_handed_out_unless_it_is_asked_for() {
    let mut stage = Stage::new(Order::Position, 10);
    stage.frames(11..60);
    stage.bench.rest(500);
    let out = stage.bench.late(stage.publisher, 10);
    let told = Event::FramesSkipped { listener: stage.listener, from: 10, count: 1 };
    assert_eq!(out, [Out::Event(told)]);
    stage.delivered(stage.leg, 8);
    stage.state(stage.leg, LegState::Down);
    stage.state(stage.leg, LegState::Up);
    let out = stage.bench.rest(200);
    assert_eq!(positions(&out, stage.listener), [9].into_iter().chain(11..60).collect::<Vec<_>>());
    assert_eq!(replays(&out), 50);
    assert_eq!(stage.bench.relay.replay(stage.bench.now, stage.leg, Some(9)), Ok(51));
    assert_eq!(positions(&stage.bench.rest(200), stage.listener), (9..60).collect::<Vec<_>>());
}

#[test]
fn what_is_late_for_the_old_leg_is_late_for_the_new_one_and_takes_nothing_of_its_pace() {
    let mut stage = Stage::new(Order::Position, 10);
    stage.frames(40..60);
    stage.bench.rest(500);
    stage.delivered(stage.leg, 59);
    let spec = LegSpec::new(96).order(Order::Position);
    stage.leg = stage.bench.relay.add_leg(stage.bench.now, stage.listener, spec).unwrap();
    stage.state(stage.leg, LegState::Up);
    stage.bench.relay.switch(stage.bench.now, stage.leg).unwrap();
    assert_eq!(positions(&stage.bench.drain(), stage.listener), [], "all is there");
    let told = Event::FramesSkipped { listener: stage.listener, from: 10, count: 1 };
    assert_eq!(stage.bench.late(stage.publisher, 10), [Out::Event(told)]);
    assert_eq!(on(&stage.frames(60..62), stage.leg), [60, 61]);
}

#[test]
fn what_came_late_from_before_a_listener_began_is_not_told_as_skipped() {
    for order in [Order::Arrival, Order::Position] {
        let mut stage = Stage::with(Config::new().history_frames(30), order, 10);
        stage.frames(11..20);
        stage.bench.relay.pause(stage.bench.now, stage.listener).unwrap();
        stage.bench.relay.resume(stage.bench.now, stage.listener).unwrap();
        stage.state(stage.leg, LegState::Down);
        stage.bench.late(stage.publisher, 10);
        stage.frames(20..200);
        stage.state(stage.leg, LegState::Up);
        let out = stage.bench.rest(500);
        let told = Event::FramesSkipped { listener: stage.listener, from: 20, count: 150 };
        assert_eq!(events(&out), [told], "{order:?}: the log forgot which");
        assert_eq!(positions(&out, stage.listener), (170..200).collect::<Vec<_>>());
    }
}

#[test]
fn a_late_frame_from_before_a_listener_began_that_leaves_before_it_is_offered_takes_nothing_with_it() {
    for order in [Order::Arrival, Order::Position] {
        let mut stage = Stage::with(Config::new().history_frames(30), order, 10);
        stage.frames(11..20);
        stage.bench.relay.pause(stage.bench.now, stage.listener).unwrap();
        stage.bench.relay.resume(stage.bench.now, stage.listener).unwrap();
        stage.frames(20..22);
        stage.bench.send(stage.publisher, 10, 10 * 960);
        stage.bench.send(stage.publisher, 45, 45 * 960);
        let mut out = stage.bench.drain();
        if order == Order::Arrival {
            assert_eq!(positions(&out, stage.listener), [45], "it need not wait for another");
        }
        out.extend(stage.bench.rest(500));
        out.extend(stage.frames(46..48));
        assert_eq!((positions(&out, stage.listener), events(&out)), (vec![45, 46, 47], vec![]), "{order:?}");
    }
}

#[test]
fn the_last_packet_is_sent_again_when_reports_stay_behind_it() {
    let mut stage = Stage::new(Order::Arrival, 60);
    assert_eq!(stage.report(0), []);
    assert_eq!(positions(&stage.bench.rest(1_000), stage.listener), [], "it is there");
    stage.frames(60..63);
    for _ in 0..3 {
        let out: Vec<_> = stage.report(3).into_iter().chain(stage.bench.rest(500)).collect();
        assert_eq!((positions(&out, stage.listener), replays(&out)), (vec![62], 1), "once for a report");
    }
    assert_eq!(stage.report(3), []);
    assert_eq!(
        positions(&stage.bench.rest(500), stage.listener),
        [],
        "who does not have it now does not want it"
    );
    stage.frames(63..64);
    let out: Vec<_> = stage.report(1).into_iter().chain(stage.frames(64..74)).collect();
    assert_eq!(
        (positions(&out, stage.listener), replays(&out)),
        ((64..74).collect(), 0),
        "something newer was sent"
    );
}
