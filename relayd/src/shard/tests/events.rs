//! What the plane tells, and pauses.

use relay_engine::{OnReturn, Verdict};
use tokio::sync::mpsc;

use super::*;

fn reader(stage: &mut Stage, room: usize) -> mpsc::Receiver<ShardEvent> {
    let (queue, events) = mpsc::channel(room);
    stage.plane.listen(queue);
    events
}

fn told(events: &mut mpsc::Receiver<ShardEvent>) -> Vec<ShardEvent> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}

#[test]
fn firsts_are_told_once_and_activity_before_what_it_brings() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let mut events = reader(&mut stage, 16);
    let (_, leg) = stage.join(&ear);
    for number in 0..3 {
        stage.speak(&opus(20, number));
    }
    let (track, publisher) = (stage.track, stage.publisher);
    let told = told(&mut events);
    assert!(
        matches!(told[..], [
            ShardEvent::FirstPacketIn { track: fed, leg: from, .. },
            ShardEvent::TrackActive { track: active, .. },
            ShardEvent::FirstPacketOut { leg: to, .. },
        ] if (fed, active, from, to) == (track, track, publisher, leg)),
        "{told:?}"
    );
}

#[test]
fn a_leg_in_a_slot_used_again_has_a_first_packet_of_its_own() {
    let (old, new) = (Ear::new("127.0.0.1:0", PROFILES[0], 1), Ear::new("127.0.0.1:0", PROFILES[0], 2));
    let mut stage = Stage::new("127.0.0.1:0");
    let (_, closed) = stage.join(&old);
    stage.speak(&opus(20, 1));
    stage.plane.close(stage.now, Peer::Leg(closed));
    let mut events = reader(&mut stage, 16);
    let (_, leg) = stage.join(&new);
    assert_eq!(leg.slot(), closed.slot());
    stage.speak(&opus(20, 2));
    let told = told(&mut events);
    assert!(matches!(told[..], [ShardEvent::FirstPacketOut { leg: to, .. }] if to == leg), "{told:?}");
}

#[test]
fn an_end_is_told_in_order_to_a_reader_that_had_no_room_for_it() {
    let ear = Ear::new("127.0.0.1:0", PROFILES[0], 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let legs: Vec<LegId> = (0..3).map(|_| stage.join(&ear).1).collect();
    let mut events = reader(&mut stage, 2);
    stage.speak(&opus(20, 1));
    for leg in &legs {
        stage.plane.close(stage.now, Peer::Leg(*leg));
    }
    assert!(stage.plane.catch_up(), "three wait, and nobody reads");
    let mut told_of = Vec::new();
    while stage.plane.catch_up() {
        told_of.extend(told(&mut events));
        // Must not overtake what waits.
        stage.speak(&opus(20, 1));
    }
    told_of.extend(told(&mut events));
    let ends = told_of.iter().filter_map(|event| match event {
        ShardEvent::LegClosed { leg, .. } => Some(*leg),
        _ => None,
    });
    assert_eq!(ends.collect::<Vec<_>>(), legs);
}

#[test]
fn what_a_listener_missed_is_told_with_its_track() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let (listener, leg) = stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).on_return(OnReturn::Live));
    stage.speak(&opus(20, 1));
    let mut events = reader(&mut stage, 16);
    stage.plane.leg_down(stage.now, leg);
    stage.speak(&opus(20, 2));
    stage.speak(&opus(20, 3));
    stage.plane.leg_up(stage.now, leg, ear.egress());
    stage.speak(&opus(20, 4));
    let track = stage.track;
    assert_eq!(told(&mut events), [ShardEvent::FramesSkipped { track, listener, from: 1, count: 2 }]);
}

#[test]
fn events_that_do_not_fit_are_dropped_and_counted_and_a_reader_that_left_is_not() {
    let mut stage = Stage::new("127.0.0.1:0");
    let mut narrow = reader(&mut stage, 1);
    drop(reader(&mut stage, 1));
    stage.speak(&opus(20, 1));
    assert_eq!((told(&mut narrow).len(), stage.plane.stats().plane.events_dropped), (1, 1));
}

#[test]
fn a_first_packet_that_could_not_be_told_is_told_by_the_next() {
    let mut stage = Stage::new("127.0.0.1:0");
    let mut full = reader(&mut stage, 1);
    let other = stage.plane.open_track(stage.now, "es".to_owned()).unwrap();
    stage.plane.close(stage.now, Peer::Track(other));
    stage.plane.drain();
    stage.speak(&opus(20, 1));
    stage.speak(&opus(20, 2));
    assert_eq!(told(&mut full), [ShardEvent::TrackClosed { track: other }], "there was no room");
    stage.speak(&opus(20, 3));
    let first = told(&mut full);
    let (fed, by) = (stage.track, stage.publisher);
    assert!(
        matches!(first[..], [ShardEvent::FirstPacketIn { track, leg, .. }] if (track, leg) == (fed, by)),
        "{first:?}"
    );
    stage.speak(&opus(20, 4));
    assert!(told(&mut full).is_empty());
}

#[test]
fn a_paused_track_is_silent_and_goes_on_with_the_next_number_and_the_time_of_day() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    stage.join(&ear);
    stage.speak(&opus(20, 1));
    let before = ear.hear().header;
    stage.plane.pause_track(stage.now, stage.track, true);
    stage.plane.pause_track(stage.now, stage.track, true);
    for _ in 0..50 {
        stage.speak(&opus(20, 2));
    }
    assert!(ear.hears_nothing());
    assert_eq!(stage.plane.stats().relay.packets_in[Verdict::LegDown], 50, "dropped and counted");
    stage.plane.pause_track(stage.now, stage.track, false);
    stage.speak(&opus(20, 3));
    let after = ear.hear();
    assert_eq!(after.payload, opus(20, 3));
    assert_eq!(after.header.sequence, before.sequence + 1);
    assert_eq!(after.header.timestamp, before.timestamp.wrapping_add(51 * 960));
}

#[test]
fn a_publisher_that_comes_while_its_track_is_paused_is_heard_when_that_ends() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    stage.join(&ear);
    stage.plane.pause_track(stage.now, stage.track, true);
    stage.plane.close(stage.now, Peer::Leg(stage.publisher));
    stage.publisher =
        stage.plane.open_publisher(stage.now, stage.track, LegSpec::new(PUBLISHER_TYPE)).unwrap();
    let mut events = reader(&mut stage, 16);
    stage.speak(&opus(20, 1));
    stage.plane.publisher_up(stage.now, stage.publisher);
    stage.speak(&opus(20, 2));
    assert!(ear.hears_nothing() && told(&mut events).is_empty());
    stage.plane.pause_track(stage.now, stage.track, false);
    stage.speak(&opus(20, 3));
    assert_eq!(ear.hear().payload, opus(20, 3));
    assert!(matches!(told(&mut events)[..], [ShardEvent::FirstPacketIn { .. }, ..]));
    let Some(LegStats::Publisher(stats)) = stage.plane.relay().leg_stats(stage.publisher) else {
        panic!("the publisher's leg is open")
    };
    assert_eq!(stats.state, relay_engine::LegState::Up);
}

#[test]
fn a_pause_of_a_track_that_is_gone_is_nothing() {
    let mut stage = Stage::new("127.0.0.1:0");
    stage.plane.close(stage.now, Peer::Track(stage.track));
    stage.plane.pause_track(stage.now, stage.track, true);
    stage.plane.drain();
    let track = stage.plane.open_track(stage.now, "en".to_owned()).unwrap();
    assert_ne!(track, stage.track);
    stage.plane.pause_track(stage.now, stage.track, false);
}
