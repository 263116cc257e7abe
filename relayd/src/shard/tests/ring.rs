//! Listeners behind a ring: order, holds, and where the far end may go on.

use proptest::prelude::*;
use relay_engine::{LegState, Order};
use tokio::sync::mpsc;

use super::*;

/// A listener behind a ring of this many frames; its leg is up.
fn join(stage: &mut Stage, capacity: usize) -> (ListenerId, LegId, RingReceiver) {
    let spec = LegSpec::new(LISTENER_TYPE).order(Order::Position);
    let (listener, leg) = stage.plane.open_listener(stage.now, stage.track, spec).unwrap();
    let (sender, receiver) = ring(capacity);
    stage.plane.leg_up(stage.now, leg, Egress::Ring(sender));
    (listener, leg, receiver)
}

/// Lets time pass without a word, in small steps, as the thread does.
fn wait(stage: &mut Stage, time: Duration) {
    let until = stage.now + time;
    while stage.now < until {
        stage.now += Duration::from_millis(10);
        while let Some(deadline) = stage.plane.relay().poll_timeout().filter(|due| due.at <= stage.now) {
            stage.plane.handle_timeout(deadline.at);
            stage.plane.drain();
        }
    }
}

fn positions(receiver: &mut RingReceiver) -> Vec<u64> {
    std::iter::from_fn(|| receiver.try_recv().map(|frame| frame.position)).collect()
}

fn state(stage: &Stage, listener: ListenerId) -> LegState {
    stage.plane.relay().listener_stats(listener).unwrap().state
}

#[test]
fn a_ring_brings_each_frame_in_order() {
    let mut stage = Stage::new("127.0.0.1:0");
    let (_, _, mut receiver) = join(&mut stage, 16);
    for number in 0..10 {
        stage.speak(&opus(20, number));
    }
    let frames: Vec<_> = std::iter::from_fn(|| receiver.try_recv()).collect();
    for (number, frame) in frames.iter().enumerate() {
        assert_eq!(frame.payload, opus(20, number as u8));
        assert_eq!((frame.position, frame.media_time), (number as u64, number as u64 * 960));
        assert!(!frame.replay);
    }
    assert_eq!(frames.len(), 10);
}

#[test]
fn a_full_ring_holds_its_leg_and_loses_nothing() {
    let mut stage = Stage::new("127.0.0.1:0");
    let (listener, leg, mut receiver) = join(&mut stage, 8);
    for number in 0..200 {
        stage.speak(&opus(20, number));
    }
    assert_eq!(state(&stage, listener), LegState::Down, "held");
    assert_eq!(receiver.len(), 8);
    let mut heard = Vec::new();
    for _ in 0..200 {
        heard.extend(positions(&mut receiver));
        stage.plane.ring_drained(stage.now, leg);
        stage.plane.drain();
        wait(&mut stage, Duration::from_millis(40));
    }
    assert_eq!(heard, (0..200).collect::<Vec<_>>());
    assert_eq!(state(&stage, listener), LegState::Up);
    stage.speak(&opus(20, 0));
    assert_eq!(positions(&mut receiver), [200], "live again");
}

#[test]
fn what_waits_in_a_ring_is_not_taken_for_delivered() {
    let mut stage = Stage::new("127.0.0.1:0");
    let (listener, leg, mut receiver) = join(&mut stage, 8);
    for number in 0..9 {
        stage.speak(&opus(20, number));
    }
    assert_eq!(state(&stage, listener), LegState::Down);
    assert_eq!((0..4).filter_map(|_| receiver.try_recv()).count(), 4);
    stage.plane.ring_drained(stage.now, leg);
    stage.plane.drain();
    let stats = stage.plane.relay().listener_stats(listener).unwrap();
    assert_eq!((stats.state, stats.acked), (LegState::Up, None), "another leg would begin after it");
}

#[test]
fn a_track_that_is_selected_while_the_ring_is_full_loses_nothing() {
    let mut stage = Stage::new("127.0.0.1:0");
    let (listener, leg, mut receiver) = join(&mut stage, 8);
    let other = stage.plane.open_track(stage.now, "es".to_owned()).unwrap();
    let publisher = stage.plane.open_publisher(stage.now, other, LegSpec::new(PUBLISHER_TYPE)).unwrap();
    stage.plane.publisher_up(stage.now, publisher);
    for number in 0..8 {
        stage.speak(&opus(20, number));
    }
    assert_eq!((receiver.len(), state(&stage, listener)), (8, LegState::Up));
    stage.plane.select(stage.now, listener, other).unwrap();
    stage.publisher = publisher;
    for number in 0..8 {
        stage.speak(&opus(20, number));
    }
    assert_eq!(state(&stage, listener), LegState::Down, "the first of the other track found no room");
    let mut heard = Vec::new();
    for _ in 0..20 {
        heard.extend(positions(&mut receiver));
        stage.plane.ring_drained(stage.now, leg);
        stage.plane.drain();
        wait(&mut stage, Duration::from_millis(40));
    }
    assert_eq!(heard, (0..8).chain(0..8).collect::<Vec<_>>());
}

#[test]
fn a_leg_whose_reader_is_gone_is_no_fault() {
    let mut stage = Stage::new("127.0.0.1:0");
    let (_, _, receiver) = join(&mut stage, 8);
    drop(receiver);
    for number in 0..20 {
        stage.speak(&opus(20, number));
    }
    assert_eq!(stage.plane.stats().plane.no_keys, 20);
}

#[test]
fn a_closed_leg_tells_where_its_far_end_may_go_on() {
    for acked in [None, Some(4)] {
        let mut stage = Stage::new("127.0.0.1:0");
        let (queue, mut events) = mpsc::channel(64);
        stage.plane.listen(queue);
        let (listener, leg, mut receiver) = join(&mut stage, 16);
        for number in 0..10 {
            stage.speak(&opus(20, number));
        }
        for _ in 0..7 {
            receiver.try_recv().unwrap();
        }
        if let Some(position) = acked {
            stage.plane.handle_feedback(stage.now, leg, Feedback::Delivered(position));
        }
        stage.plane.close(stage.now, Peer::Listener(listener));
        stage.plane.drain();
        let next = acked.map_or(0, |acked| acked + 1);
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let closed = ShardEvent::LegClosed { leg, track: stage.track, next: Some(next) };
        assert!(told.contains(&closed), "{told:?}");
        assert_eq!(positions(&mut receiver), [7, 8, 9], "what is in the ring is still to be had");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the reader does, it gets each position once and in order, as long as the history reaches back.
    #[test]
    fn whatever_the_reader_does_it_hears_all_once_and_in_order(
        capacity in 2_usize..20,
        steps in prop::collection::vec((0_usize..4, 0_usize..12, 0_u64..8), 1..80),
    ) {
        let mut stage = Stage::new("127.0.0.1:0");
        let (listener, leg, mut receiver) = join(&mut stage, capacity);
        let (mut spoken, mut heard) = (0, Vec::new());
        for (speak, read, rest) in steps {
            for _ in 0..speak {
                stage.speak(&opus(20, 1));
                spoken += 1;
            }
            heard.extend((0..read).map_while(|_| receiver.try_recv().map(|frame| frame.position)));
            if receiver.len() <= capacity / 2 && state(&stage, listener) == LegState::Down {
                stage.plane.ring_drained(stage.now, leg);
                stage.plane.drain();
            }
            wait(&mut stage, Duration::from_millis(rest * 10));
        }
        for _ in 0..400 {
            heard.extend(positions(&mut receiver));
            stage.plane.ring_drained(stage.now, leg);
            stage.plane.drain();
            wait(&mut stage, Duration::from_millis(20));
        }
        prop_assert_eq!(heard, (0..spoken).collect::<Vec<u64>>());
    }
}
