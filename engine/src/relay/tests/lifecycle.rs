//! Opening and closing: ids, limits, and who is told.

use super::harness::{Bench, Out, events};
use crate::{Config, Event, ExtensionIds, LegSpec, LegState, Limit, OpenError, Peer, TrackSpec, Verdict};

fn closed(out: &[Out]) -> Vec<Peer> {
    events(out)
        .into_iter()
        .filter_map(|event| if let Event::Closed { peer } = event { Some(peer) } else { None })
        .collect()
}

#[test]
fn a_closed_track_takes_all_that_is_on_it_and_tells_of_each_id_once() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let listeners: Vec<_> = (0..3).map(|_| bench.listener(track)).collect();
    bench.next(publisher, 0);
    bench.drain();
    assert!(bench.relay.poll_timeout().is_some(), "silence and reports");
    bench.close(Peer::Track(track));
    let mut told = closed(&bench.drain());
    told.sort();
    let mut expected = vec![Peer::Track(track), Peer::Leg(publisher)];
    expected.extend(listeners.iter().flat_map(|&(listener, leg)| [Peer::Listener(listener), Peer::Leg(leg)]));
    expected.sort();
    assert_eq!(told, expected);
    let stats = bench.relay.stats();
    assert_eq!((stats.tracks, stats.legs, stats.listeners), (0, 0, 0));
    bench.close(Peer::Track(track));
    bench.close(Peer::Leg(publisher));
    assert_eq!(bench.drain(), [], "closed is closed");
    assert_eq!(bench.relay.poll_timeout(), None);
}

#[test]
fn a_listener_lives_as_long_as_its_leg() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let (listener, leg) = bench.listener(track);
    bench.close(Peer::Leg(leg));
    assert_eq!(closed(&bench.drain()), [Peer::Leg(leg), Peer::Listener(listener)]);
    assert_eq!(bench.relay.listener_stats(listener), None);
    assert_eq!(bench.relay.leg_stats(leg), None);
}

#[test]
fn stale_ids_are_errors_for_the_owner_and_verdicts_for_the_world() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    bench.close(Peer::Track(track));
    let again = bench.track();
    assert_eq!(again.slot(), track.slot());
    let leg = bench.publisher(again);
    assert_eq!(leg.slot(), publisher.slot());
    assert_eq!(bench.next(publisher, 0), Verdict::UnknownLeg);
    let unknown = OpenError::UnknownTrack(track);
    assert_eq!(bench.try_listener(track), Err(unknown.clone()));
    assert_eq!(bench.relay.open_publisher_leg(bench.now, track, LegSpec::new(1)), Err(unknown));
    bench.relay.handle_leg(bench.now, publisher, LegState::Down);
    assert_eq!(bench.next(leg, 0), Verdict::Accepted, "the stale id's state is nobody's");
    assert_eq!(bench.relay.track_stats(track), None);
}

#[test]
fn a_track_has_two_publisher_legs_at_most() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let leg = bench.publisher(track);
    bench.publisher(track);
    let second = bench.relay.open_publisher_leg(bench.now, track, LegSpec::new(111));
    assert_eq!(second, Err(OpenError::PublisherExists(track)));
    bench.close(Peer::Leg(leg));
    bench.publisher(track);
}

#[test]
fn every_limit_is_an_error_that_names_it() {
    let config = Config::new()
        .max_tracks(2)
        .max_listeners(3)
        .max_listeners_per_track(2)
        .max_legs(4)
        .max_closed_events(100);
    let mut bench = Bench::new(config);
    let (first, second) = (bench.track(), bench.track());
    let limit = |what, limit| OpenError::Limit { what, limit };
    let third = bench.relay.open_track(bench.now, TrackSpec { name: "fr".to_owned() });
    assert_eq!(third, Err(limit(Limit::Tracks, 2)));
    bench.listener(first);
    bench.listener(first);
    assert_eq!(bench.try_listener(first), Err(limit(Limit::ListenersPerTrack, 2)));
    bench.publisher(first);
    bench.listener(second);
    let publisher = bench.relay.open_publisher_leg(bench.now, second, LegSpec::new(111));
    assert_eq!(publisher, Err(limit(Limit::Legs, 4)));
    assert_eq!(bench.try_listener(second), Err(limit(Limit::Listeners, 3)));
    assert_eq!(limit(Limit::Legs, 4).to_string(), "the limit of 4 legs is reached");
}

#[test]
fn opening_and_closing_without_draining_ends_in_an_error() {
    let mut bench = Bench::new(Config::new().max_closed_events(10));
    let track = bench.track();
    let mut opened = 0;
    while let Ok((listener, _)) = bench.try_listener(track) {
        bench.close(Peer::Listener(listener));
        opened += 1;
        assert!(opened < 100);
    }
    assert_eq!(bench.try_listener(track), Err(OpenError::Undrained(10)));
    assert_eq!(bench.drain().len(), 10);
    bench.listener(track);
}

#[test]
fn a_spec_that_cannot_be_is_refused() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    for length in [0, 65] {
        let spec = TrackSpec { name: "x".repeat(length) };
        assert_eq!(bench.relay.open_track(bench.now, spec), Err(OpenError::TrackName(length)));
    }
    assert_eq!(
        bench.relay.open_listener(bench.now, track, LegSpec::new(128)),
        Err(OpenError::PayloadType(128))
    );
    let ids = |level, time| ExtensionIds { audio_level: level, capture_time: time, mid: None };
    for (ids, bad) in [(ids(Some(0), None), 0), (ids(None, Some(15)), 15), (ids(Some(3), Some(3)), 3)] {
        let spec = LegSpec::new(111).extensions(ids);
        assert_eq!(bench.relay.open_listener(bench.now, track, spec), Err(OpenError::ExtensionId(bad)));
        assert_eq!(bench.relay.open_publisher_leg(bench.now, track, spec), Err(OpenError::ExtensionId(bad)));
    }
    let stats = bench.relay.stats();
    assert_eq!((stats.legs, stats.listeners), (0, 0), "nothing is half open");
}

#[test]
fn the_same_seed_and_calls_give_the_same_outputs() {
    let run = |seed| {
        let mut bench = Bench::with_seed(Config::new(), seed);
        let start = bench.now;
        let track = bench.track();
        let publisher = bench.publisher(track);
        let mut out = Vec::new();
        for n in 0..600 {
            if n % 7 == 0 {
                let (listener, _) = bench.listener(track);
                if n % 3 == 0 {
                    bench.close(Peer::Listener(listener));
                }
            }
            bench.next(publisher, n);
            out.extend(bench.drain());
        }
        // Two runs start at two instants; reports carry none.
        let deadline = bench.relay.poll_timeout().map(|deadline| (deadline.at - start, deadline.why));
        (format!("{out:?}"), deadline)
    };
    assert!(run(1) == run(1), "I5");
    assert!(run(1) != run(2));
}

#[test]
fn an_older_now_counts_as_the_last_one() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    bench.listener(track);
    bench.wait(100_000);
    bench.relay.handle_timeout(bench.now);
    let last = bench.now;
    bench.now -= std::time::Duration::from_secs(90);
    bench.next(publisher, 0);
    assert_eq!(bench.drain().len(), 2, "active, and the packet");
    let deadline = bench.relay.poll_timeout().unwrap();
    assert!(deadline.at > last, "I7: what is scheduled is scheduled from the last one");
    bench.relay.handle_timeout(bench.now + std::time::Duration::from_secs(50));
    assert_eq!(bench.drain(), [], "nothing is due by a clock that went back");
    assert_eq!(bench.relay.poll_timeout(), Some(deadline));
}

#[test]
fn a_relay_may_be_moved_to_the_thread_that_drives_it() {
    fn moved<T: Send + 'static>(_: T) {}
    moved(Bench::new(Config::new()).relay);
}

#[test]
fn what_is_open_costs_what_the_config_says() {
    use crate::listener::Listener;
    use crate::track::{PublisherLeg, Track};

    // With 28 bytes for each of two deadlines and 24 for the leg's place it is below 512.
    assert!(size_of::<Option<Listener>>() <= 424, "{}", size_of::<Option<Listener>>());
    assert!(size_of::<Option<crate::relay::Leg>>() <= 16);
    assert!(size_of::<Peer>() <= 12);
    assert!(size_of::<PublisherLeg>() <= 512, "{}", size_of::<PublisherLeg>());
    assert!(size_of::<Option<Track>>() <= 768, "{}", size_of::<Option<Track>>());
}

#[test]
fn what_a_publisher_sends_while_it_is_paused_is_time_that_passed_and_nothing_else() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    bench.listener(track);
    let mut last = None;
    for n in 0..300 {
        match n {
            100 => bench.relay.handle_leg(bench.now, publisher, LegState::Down),
            200 => {
                bench.relay.restart(bench.now, publisher);
                bench.relay.handle_leg(bench.now, publisher, LegState::Up);
            }
            _ => {}
        }
        let expected = if (100..200).contains(&n) { Verdict::LegDown } else { Verdict::Accepted };
        assert_eq!(bench.next(publisher, n), expected);
        for out in bench.drain() {
            let Out::Packet { index, timestamp, .. } = out else { continue };
            if let Some((last_index, last_timestamp)) = last.replace((index, timestamp)) {
                let frames = if n == 200 { 101 } else { 1 };
                assert_eq!(index, last_index + 1, "no hole");
                assert_eq!(timestamp, u32::wrapping_add(last_timestamp, frames * 960));
            }
        }
    }
    assert_eq!(bench.relay.track_stats(track).unwrap().next_position, 200);
}
