//! A listener's second leg: which transition does what, whichever leg comes up or goes down first.

use super::harness::{Bench, Out, events, on, positions, replays};
use crate::{
    Config, Event, Feedback, LegId, LegSpec, LegState, LegStats, ListenerId, OnReturn, OpenError, Order,
    Peer, SwitchError, TrackId,
};

/// A track with a publisher and a listener that heard `frames` frames.
struct Stage {
    bench: Bench,
    track: TrackId,
    publisher: LegId,
    listener: ListenerId,
    old: LegId,
    sent: u16,
}

impl Stage {
    fn new(frames: u16) -> Self {
        Self::with(Config::new(), LegSpec::new(96), frames)
    }

    fn with(config: Config, spec: LegSpec, frames: u16) -> Self {
        let mut bench = Bench::new(config);
        let track = bench.track();
        let publisher = bench.publisher(track);
        let (listener, old) = bench.listener_of(track, spec);
        let mut stage = Self { bench, track, publisher, listener, old, sent: 0 };
        let heard = stage.frames(frames);
        assert_eq!(positions(&heard, listener), (0..u64::from(frames)).collect::<Vec<_>>());
        stage
    }

    /// So many frames in real time, drained.
    fn frames(&mut self, count: u16) -> Vec<Out> {
        let mut out = Vec::new();
        for _ in 0..count {
            self.bench.next(self.publisher, self.sent);
            self.sent += 1;
            out.extend(self.bench.drain());
        }
        out
    }

    /// A frame that is passed over and may come late.
    fn hole(&mut self) -> u16 {
        self.bench.wait(20);
        self.sent += 1;
        self.sent - 1
    }

    fn leg(&mut self, spec: LegSpec) -> LegId {
        let leg = self.bench.relay.add_leg(self.bench.now, self.listener, spec).unwrap();
        self.state(leg, LegState::Up);
        leg
    }

    fn state(&mut self, leg: LegId, state: LegState) {
        self.bench.relay.handle_leg(self.bench.now, leg, state);
    }

    fn switch(&mut self, to: LegId) {
        self.bench.relay.switch(self.bench.now, to).unwrap();
    }

    fn delivered(&mut self, position: u64) {
        self.bench.relay.handle_feedback(self.bench.now, self.old, Feedback::Delivered(position));
    }

    fn live(&self) -> LegId {
        self.bench.relay.listener_stats(self.listener).unwrap().leg
    }
}

fn spent(out: &[Out]) -> Vec<Event> {
    events(out).into_iter().filter(|event| matches!(event, Event::LegSpent { .. })).collect()
}

#[test]
fn what_the_old_leg_is_not_known_to_have_delivered_comes_on_the_new_one_and_there_is_the_cut() {
    let mut stage = Stage::new(50);
    stage.delivered(39);
    let new = stage.leg(LegSpec::new(96));
    assert_eq!(stage.bench.drain(), [], "nothing on the new leg before the switch");
    stage.switch(new);
    stage.switch(new);
    let out = stage.bench.drain();
    assert_eq!(on(&out, new), (40..50).collect::<Vec<_>>());
    assert_eq!(replays(&out), 10);
    let event = Event::LegSpent { leg: stage.old, to: new, position: 50, replayed: 10, gap_frames: 0 };
    assert_eq!(spent(&out), [event]);
    assert_eq!(on(&stage.frames(2), new), [50, 51]);
    assert_eq!(stage.bench.relay.switch(stage.bench.now, new), Ok(()), "again does no harm");
    assert_eq!(stage.bench.relay.switch(stage.bench.now, stage.old), Err(SwitchError::Spent(stage.old)));
    stage.bench.close(Peer::Leg(stage.old));
    assert_eq!(events(&stage.bench.drain()), [Event::Closed { peer: Peer::Leg(stage.old) }]);
    assert_eq!(stage.bench.relay.switch(stage.bench.now, new), Err(SwitchError::OnlyLeg(new)));
    let stats = stage.bench.relay.listener_stats(stage.listener).unwrap();
    assert_eq!((stats.packets_out, stats.replayed, stats.second), (62, 10, None));
}

#[test]
fn what_a_new_leg_is_on_its_way_to_shrinks_with_what_the_old_one_delivers() {
    let mut stage = Stage::new(100);
    let new = stage.leg(LegSpec::new(96));
    stage.delivered(9);
    stage.switch(new);
    assert_eq!(on(&stage.bench.drain(), new), (10..20).collect::<Vec<_>>(), "the burst");
    stage.delivered(97);
    let out = stage.bench.rest(10);
    assert_eq!(on(&out, new), [98, 99]);
    let cut = Event::LegSpent { leg: stage.old, to: new, position: 100, replayed: 12, gap_frames: 0 };
    assert_eq!(spent(&out), [cut]);
}

#[test]
fn the_old_leg_stays_live_until_the_new_one_has_come_to_where_it_is() {
    let mut stage = Stage::new(100);
    stage.delivered(9);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    let mut out = stage.bench.drain();
    assert_eq!(on(&out, new), (10..20).collect::<Vec<_>>(), "the burst");
    let mut frames = 0;
    while spent(&out).is_empty() {
        out.extend(stage.frames(1));
        frames += 1;
        assert!(frames < 40, "80 frames at 4x");
    }
    // 80 behind, gaining three frames in each frame's time.
    assert!((22..28).contains(&frames), "{frames}");
    let cut = 100 + frames;
    assert_eq!(on(&out, stage.old), (100..cut).collect::<Vec<_>>());
    assert_eq!(on(&out, new), (10..cut).collect::<Vec<_>>());
    assert_eq!(replays(&out), usize::try_from(cut).unwrap() - 10);
    assert!(
        out.iter().all(|out| !matches!(out, Out::Packet { leg, replay, .. } if (*leg == new) != *replay))
    );
}

#[test]
fn without_an_acknowledgement_the_new_leg_begins_at_the_first_frame_that_was_not_handed_out() {
    let mut stage = Stage::new(51);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    let event = Event::LegSpent { leg: stage.old, to: new, position: 51, replayed: 0, gap_frames: 0 };
    assert_eq!(events(&stage.bench.drain()), [event]);
    assert_eq!(on(&stage.frames(1), new), [51]);
}

#[test]
fn before_the_first_acknowledgement_what_may_be_under_way_comes_on_the_new_leg() {
    let mut stage = Stage::new(50);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    let out = stage.bench.rest(500);
    let event = Event::LegSpent { leg: stage.old, to: new, position: 50, replayed: 50, gap_frames: 0 };
    assert_eq!((events(&out), replays(&out)), (vec![event], 50));
    assert_eq!(on(&out, new), (0..50).collect::<Vec<_>>());
}

#[test]
fn a_second_leg_says_where_it_wants_to_go_on_or_that_it_wants_no_replay() {
    let mut stage = Stage::new(50);
    stage.delivered(10);
    let new = stage.leg(LegSpec::new(96).resume_from(45));
    stage.switch(new);
    assert_eq!(on(&stage.bench.drain(), new), [45, 46, 47, 48, 49]);
    let mut stage = Stage::new(50);
    stage.delivered(10);
    let new = stage.leg(LegSpec::new(96).on_return(OnReturn::Live));
    stage.switch(new);
    let out = stage.bench.drain();
    assert_eq!((on(&out, new), spent(&out).len()), (vec![], 1));
}

#[test]
fn a_receiver_report_acknowledges_and_the_position_is_told() {
    let mut stage = Stage::new(50);
    let stats = stage.bench.relay.listener_stats(stage.listener).unwrap();
    assert_eq!(stats.acked, None);
    let out = stage.frames(1);
    let Some(&Out::Packet { index, position, .. }) = out.first() else { panic!("{out:?}") };
    let block = crate::rtp::rtcp::ReportBlock {
        ssrc: stats.ssrc,
        highest_sequence: (7 << 16) + u32::from((index - 5) as u16),
        ..Default::default()
    };
    stage.bench.relay.handle_feedback(stage.bench.now, stage.old, Feedback::ReceiverReport(block));
    let stats = stage.bench.relay.listener_stats(stage.listener).unwrap();
    assert_eq!(stats.acked, Some(position - 5));
    stage.delivered(1 << 40);
    let stats = stage.bench.relay.listener_stats(stage.listener).unwrap();
    assert_eq!(stats.acked, Some(position), "all that was handed out, and no more");
}

#[test]
fn a_leg_that_comes_back_goes_on_after_what_was_acknowledged() {
    let mut stage = Stage::new(50);
    stage.delivered(44);
    stage.state(stage.old, LegState::Down);
    assert_eq!(positions(&stage.frames(100), stage.listener), []);
    stage.state(stage.old, LegState::Up);
    let mut out = stage.bench.drain();
    let bursts = (45..60).collect::<Vec<_>>();
    assert_eq!(
        positions(&out, stage.listener),
        bursts,
        "what was handed out before, and a burst of what was not"
    );
    out.extend(stage.bench.rest(5 * 90));
    assert_eq!(positions(&out, stage.listener), (45..150).collect::<Vec<_>>());
    assert_eq!(replays(&out), 5);
    assert_eq!(positions(&stage.frames(1), stage.listener), [150], "live");
    assert_eq!(stage.bench.relay.listener_stats(stage.listener).unwrap().frames_skipped, 0);
}

#[test]
fn what_the_history_lost_of_a_held_leg_is_told_exactly() {
    let mut stage = Stage::with(Config::new().history_frames(30), LegSpec::new(96), 10);
    stage.state(stage.old, LegState::Down);
    stage.frames(20);
    let hole = stage.hole();
    stage.frames(30);
    assert_eq!(hole, 30);
    stage.state(stage.old, LegState::Up);
    let mut out = stage.bench.drain();
    assert_eq!(events(&out), [Event::FramesSkipped { listener: stage.listener, from: 10, count: 20 }]);
    out.extend(stage.bench.rest(200));
    assert_eq!(positions(&out, stage.listener), (31..61).collect::<Vec<_>>());
}

#[test]
fn late_frames_during_a_catch_up_come_once_at_their_place_or_at_once() {
    let mut stage = Stage::new(10);
    stage.delivered(9);
    stage.state(stage.old, LegState::Down);
    let early = stage.hole();
    stage.frames(20);
    let late = stage.hole();
    stage.frames(20);
    stage.state(stage.old, LegState::Up);
    let mut out = stage.bench.drain();
    assert_eq!(positions(&out, stage.listener), (11..21).collect::<Vec<_>>());
    let behind = stage.bench.late(stage.publisher, early);
    assert_eq!(positions(&behind, stage.listener), [10], "behind the cursor: at once");
    assert_eq!(
        positions(&stage.bench.late(stage.publisher, late), stage.listener),
        [],
        "before it: in its place"
    );
    out.extend(stage.bench.rest(300));
    assert_eq!(positions(&out, stage.listener), (11..52).collect::<Vec<_>>());
    assert_eq!(replays(&out), 0);
}

#[test]
fn a_leg_that_goes_down_in_a_catch_up_goes_on_where_it_was() {
    let mut stage = Stage::new(51);
    stage.state(stage.old, LegState::Down);
    stage.frames(60);
    stage.state(stage.old, LegState::Up);
    let mut out = stage.bench.drain();
    for _ in 0..4 {
        stage.state(stage.old, LegState::Down);
        out.extend(stage.bench.rest(10));
        stage.state(stage.old, LegState::Up);
        out.extend(stage.bench.rest(30));
    }
    out.extend(stage.bench.rest(300));
    assert_eq!(positions(&out, stage.listener), (51..111).collect::<Vec<_>>());
    assert_eq!(replays(&out), 0);
}

#[test]
fn a_switch_from_a_leg_that_is_down_is_done_at_once() {
    let mut stage = Stage::new(50);
    stage.delivered(44);
    stage.state(stage.old, LegState::Down);
    stage.frames(10);
    let new = stage.leg(LegSpec::new(96));
    assert_eq!(on(&stage.frames(10), new), [], "not ordered yet");
    stage.switch(new);
    let mut out = stage.bench.drain();
    let event = Event::LegSpent { leg: stage.old, to: new, position: 50, replayed: 5, gap_frames: 0 };
    assert_eq!(out[0], Out::Event(event));
    out.extend(stage.bench.rest(200));
    assert_eq!(on(&out, new), (45..70).collect::<Vec<_>>());
    assert_eq!(replays(&out), 5);
    stage.state(stage.old, LegState::Up);
    assert_eq!(on(&stage.frames(3), new), [70, 71, 72], "the spent leg stays silent");
}

#[test]
fn the_old_leg_may_go_down_before_the_cut() {
    let mut stage = Stage::new(100);
    stage.delivered(9);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    let mut out = stage.bench.drain();
    stage.state(stage.old, LegState::Down);
    out.extend(stage.frames(5));
    let event = Event::LegSpent { leg: stage.old, to: new, position: 100, replayed: 90, gap_frames: 0 };
    assert_eq!(spent(&out), [event]);
    out.extend(stage.bench.rest(1_000));
    assert_eq!(on(&out, new), (10..105).collect::<Vec<_>>());
    assert_eq!(replays(&out), 90);
}

#[test]
fn the_new_leg_may_go_down_before_the_cut_and_the_switch_stays_ordered() {
    let mut stage = Stage::new(100);
    stage.delivered(9);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    stage.bench.drain();
    stage.state(new, LegState::Down);
    assert_eq!(on(&stage.frames(5), stage.old), [100, 101, 102, 103, 104]);
    stage.delivered(99);
    assert_eq!(stage.bench.relay.switch(stage.bench.now, new), Err(SwitchError::NotUp(new)));
    stage.state(new, LegState::Up);
    let out = stage.bench.drain();
    assert_eq!(on(&out, new), [100, 101, 102, 103, 104]);
    assert_eq!(spent(&out).len(), 1);
}

#[test]
fn a_switch_may_be_called_off() {
    let mut stage = Stage::new(100);
    stage.delivered(9);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    stage.bench.drain();
    stage.switch(stage.old);
    let out = stage.frames(30);
    assert_eq!((on(&out, new), on(&out, stage.old).len(), spent(&out).len()), (vec![], 30, 0));
}

#[test]
fn what_a_listener_came_for_outlives_the_leg_that_it_came_with() {
    for close in [true, false] {
        let mut stage = Stage::new(50);
        let spec = LegSpec::new(96).resume_from(45);
        let (listener, old) = stage.bench.relay.open_listener(stage.bench.now, stage.track, spec).unwrap();
        let new = stage.bench.relay.add_leg(stage.bench.now, listener, LegSpec::new(96)).unwrap();
        if close {
            stage.bench.close(Peer::Leg(old));
        }
        stage.state(new, LegState::Up);
        if !close {
            stage.switch(new);
        }
        assert_eq!(on(&stage.bench.drain(), new), [45, 46, 47, 48, 49]);
    }
}

#[test]
fn either_leg_may_be_closed_before_the_cut() {
    for close_new in [true, false] {
        let mut stage = Stage::new(100);
        stage.delivered(9);
        let new = stage.leg(LegSpec::new(96));
        stage.switch(new);
        stage.bench.drain();
        let (gone, left) = if close_new { (new, stage.old) } else { (stage.old, new) };
        stage.bench.close(Peer::Leg(gone));
        let mut out = stage.frames(1);
        assert_eq!(spent(&out).len(), usize::from(!close_new));
        let closed = out.iter().position(|out| *out == Out::Event(Event::Closed { peer: Peer::Leg(gone) }));
        assert_eq!(closed, Some(usize::from(!close_new)), "spent comes before closed");
        out.extend(stage.bench.rest(1_000));
        let all: Vec<u64> = if close_new { vec![100] } else { (20..101).collect() };
        assert_eq!(on(&out, left), all);
        assert_eq!(stage.live(), left);
    }
}

#[test]
fn closing_the_live_leg_moves_to_the_other_when_that_is_up() {
    let mut stage = Stage::new(50);
    stage.delivered(49);
    let new = stage.bench.relay.add_leg(stage.bench.now, stage.listener, LegSpec::new(96)).unwrap();
    stage.bench.close(Peer::Leg(stage.old));
    let out = stage.frames(10);
    assert_eq!(events(&out), [Event::Closed { peer: Peer::Leg(stage.old) }]);
    stage.state(new, LegState::Up);
    assert_eq!(on(&stage.bench.drain(), new), (50..60).collect::<Vec<_>>());
    stage.bench.close(Peer::Leg(new));
    assert!(events(&stage.bench.drain()).contains(&Event::Closed { peer: Peer::Listener(stage.listener) }));
}

#[test]
fn closing_the_live_leg_beside_a_spent_one_closes_the_listener() {
    let mut stage = Stage::new(50);
    stage.delivered(49);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    stage.bench.drain();
    stage.bench.close(Peer::Leg(new));
    let closed = events(&stage.bench.drain());
    assert_eq!(closed.len(), 3, "{closed:?}");
    assert_eq!(stage.bench.relay.stats().legs, 1, "the publisher's");
}

#[test]
fn two_legs_are_the_most_and_stale_ids_are_errors() {
    let mut stage = Stage::new(1);
    let now = stage.bench.now;
    assert_eq!(stage.bench.relay.switch(now, stage.old), Err(SwitchError::OnlyLeg(stage.old)));
    let new = stage.leg(LegSpec::new(96));
    let third = stage.bench.relay.add_leg(now, stage.listener, LegSpec::new(96));
    assert_eq!(third, Err(OpenError::LegExists(stage.listener)));
    let Some(LegStats::Listener(stats)) = stage.bench.relay.leg_stats(new) else { panic!() };
    assert_eq!((stats.leg, stats.second, stats.packets_out), (new, Some(stage.old), 0));
    stage.bench.close(Peer::Track(stage.track));
    let third = stage.bench.relay.add_leg(now, stage.listener, LegSpec::new(96));
    assert_eq!(third, Err(OpenError::UnknownListener(stage.listener)));
    assert_eq!(stage.bench.relay.switch(now, new), Err(SwitchError::UnknownLeg(new)));
    stage.bench.drain();
    assert_eq!(stage.bench.relay.poll_timeout(), None, "I4: nothing of a closed leg is due");
}

#[test]
fn a_switch_while_the_old_leg_catches_up_cuts_where_the_two_meet() {
    let mut stage = Stage::new(20);
    stage.delivered(9);
    stage.state(stage.old, LegState::Down);
    stage.frames(100);
    stage.state(stage.old, LegState::Up);
    let mut out = stage.bench.rest(100);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    out.extend(stage.bench.rest(2_000));
    let [Event::LegSpent { position, replayed, gap_frames: 0, .. }] = spent(&out)[..] else {
        panic!("{:?}", spent(&out))
    };
    let fresh: Vec<_> = out
        .iter()
        .filter_map(|out| match out {
            Out::Packet { position, replay: false, .. } => Some(*position),
            _ => None,
        })
        .collect();
    assert_eq!(fresh, (20..120).collect::<Vec<_>>(), "each once");
    assert_eq!(on(&out, new), (10..120).collect::<Vec<_>>());
    assert_eq!(replayed, position - 10);
}

#[test]
fn a_leg_in_order_of_position_waits_for_holes_and_gives_up_in_time() {
    let mut stage = Stage::with(Config::new(), LegSpec::new(96).order(Order::Position), 10);
    let filled = stage.hole();
    assert_eq!(positions(&stage.frames(5), stage.listener), []);
    let out = stage.bench.late(stage.publisher, filled);
    assert_eq!(positions(&out, stage.listener), [10, 11, 12, 13, 14, 15]);
    let lost = stage.hole();
    let out = stage.frames(22);
    assert_eq!(positions(&out, stage.listener), [], "420 ms");
    let out = stage.bench.rest(31);
    assert_eq!(positions(&out, stage.listener), (17..39).collect::<Vec<_>>(), "450 ms after 17 came");
    let out = stage.bench.late(stage.publisher, lost);
    assert_eq!(events(&out), [Event::FramesSkipped { listener: stage.listener, from: 16, count: 1 }]);
    assert_eq!(positions(&stage.frames(2), stage.listener), [39, 40]);
}

#[test]
fn on_a_leg_in_order_of_position_nothing_acknowledged_means_that_all_comes_again() {
    type Break = fn(&mut Stage, LegId);
    let ways: [Break; 3] = [
        |_, _| {},
        |stage, _| stage.state(stage.old, LegState::Down),
        |stage, _| stage.bench.close(Peer::Leg(stage.old)),
    ];
    for (index, way) in ways.into_iter().enumerate() {
        let spec = LegSpec::new(96).order(Order::Position);
        let mut stage = Stage::with(Config::new(), spec, 20);
        let new = stage.leg(spec);
        stage.switch(new);
        let mut out = stage.bench.drain();
        way(&mut stage, new);
        out.extend(stage.bench.rest(2_000));
        out.extend(stage.frames(5));
        assert_eq!(on(&out, new), (0..25).collect::<Vec<_>>(), "{index}");
        assert_eq!((replays(&out), spent(&out).len()), (20, 1), "{index}");
    }
    let spec = LegSpec::new(96).order(Order::Position);
    let mut stage = Stage::with(Config::new(), spec, 20);
    let new = stage.bench.relay.add_leg(stage.bench.now, stage.listener, spec).unwrap();
    stage.bench.close(Peer::Leg(stage.old));
    stage.state(new, LegState::Up);
    assert_eq!(
        on(&stage.bench.rest(2_000), new),
        (0..20).collect::<Vec<_>>(),
        "closed before the other was up"
    );
    assert_eq!(stage.bench.relay.listener_stats(stage.listener).unwrap().unconfirmed, Some(0));
}

#[test]
fn a_leg_may_change_its_order_with_a_switch() {
    for (from, to) in [(Order::Arrival, Order::Position), (Order::Position, Order::Arrival)] {
        let mut stage = Stage::with(Config::new(), LegSpec::new(96).order(from), 20);
        stage.delivered(15);
        let hole = stage.hole();
        let mut out = stage.frames(5);
        let new = stage.leg(LegSpec::new(96).order(to));
        stage.switch(new);
        out.extend(stage.bench.rest(100));
        out.extend(stage.bench.late(stage.publisher, hole));
        out.extend(stage.frames(5));
        out.extend(stage.bench.rest(600));
        let fresh: std::collections::BTreeSet<_> = out
            .iter()
            .filter_map(|out| match out {
                Out::Packet { position, replay: false, .. } => Some(*position),
                _ => None,
            })
            .collect();
        assert_eq!(fresh, (20..31).collect(), "{from:?}");
        assert_eq!(spent(&out).len(), 1);
        assert_eq!(stage.bench.relay.listener_stats(stage.listener).unwrap().frames_skipped, 0);
    }
}

#[test]
fn two_listeners_switch_at_once_and_neither_minds_the_other() {
    let mut stage = Stage::new(30);
    let (other, old) = stage.bench.listener(stage.track);
    stage.frames(10);
    stage.delivered(20);
    stage.bench.relay.handle_feedback(stage.bench.now, old, Feedback::Delivered(35));
    let new = stage.leg(LegSpec::new(96));
    let second = stage.bench.relay.add_leg(stage.bench.now, other, LegSpec::new(96)).unwrap();
    stage.state(second, LegState::Up);
    stage.switch(new);
    stage.switch(second);
    let mut out = stage.bench.drain();
    out.extend(stage.frames(10));
    assert_eq!(spent(&out).len(), 2);
    let mut first = on(&out, new);
    first.dedup();
    assert_eq!(first, (21..50).collect::<Vec<_>>());
    assert_eq!(on(&out, second), (36..50).collect::<Vec<_>>());
}

#[test]
fn the_deadline_says_what_it_is_for() {
    use crate::Reason;
    let mut stage = Stage::new(50);
    stage.delivered(9);
    let new = stage.leg(LegSpec::new(96));
    stage.switch(new);
    stage.bench.drain();
    assert_eq!(stage.bench.relay.poll_timeout().map(|deadline| deadline.why), Some(Reason::Replay(new)));
    let mut stage = Stage::with(Config::new(), LegSpec::new(96).order(Order::Position), 5);
    stage.hole();
    stage.frames(1);
    assert_eq!(stage.bench.relay.poll_timeout().map(|deadline| deadline.why), Some(Reason::Hole(stage.old)));
}
