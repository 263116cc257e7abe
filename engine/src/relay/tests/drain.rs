//! What happens to a relay in the middle of a drain, or that is not drained at all.

use super::harness::{Bench, Out, events, positions};
use crate::{Config, Event, LegState, ListenerId, Peer};

/// A track with listeners and frames waiting, and what the first `polls` polls gave.
fn half_drained(
    listeners: usize,
    frames: u16,
    polls: usize,
) -> (Bench, Vec<(ListenerId, crate::LegId)>, crate::TrackId, Vec<Out>) {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let listeners: Vec<_> = (0..listeners).map(|_| bench.listener(track)).collect();
    for n in 0..frames {
        bench.next(publisher, n);
    }
    let out = (0..polls).filter_map(|_| bench.poll()).collect();
    (bench, listeners, track, out)
}

#[test]
fn closing_any_listener_at_any_point_skips_and_repeats_nobody() {
    for polls in 0..14 {
        for closed in 0..4 {
            let (mut bench, listeners, _, mut out) = half_drained(4, 3, polls);
            bench.close(Peer::Listener(listeners[closed].0));
            out.extend(bench.drain());
            for (n, (listener, _)) in listeners.iter().enumerate() {
                let heard = positions(&out, *listener);
                if n == closed {
                    assert!(heard.iter().copied().eq(0..heard.len() as u64));
                } else {
                    assert_eq!(heard, [0, 1, 2], "after {polls} polls, {closed} closed, {n}");
                }
            }
        }
    }
}

#[test]
fn closing_two_listeners_at_any_point_skips_and_repeats_nobody() {
    for polls in 0..22 {
        for (first, second) in (0..6).flat_map(|a| (0..6).map(move |b| (a, b))) {
            let (mut bench, listeners, _, mut out) = half_drained(6, 3, polls);
            bench.close(Peer::Leg(listeners[first].1));
            bench.close(Peer::Leg(listeners[second].1));
            out.extend(bench.drain());
            for (n, (listener, _)) in listeners.iter().enumerate().filter(|&(n, _)| n != first && n != second)
            {
                assert_eq!(
                    positions(&out, *listener),
                    [0, 1, 2],
                    "{polls} polls, {first} and {second} closed, {n}"
                );
            }
        }
    }
}

#[test]
fn a_listener_that_joins_in_the_middle_hears_only_what_comes_after() {
    for polls in 0..10 {
        let (mut bench, listeners, track, mut out) = half_drained(3, 3, polls);
        let (late, _) = bench.listener(track);
        out.extend(bench.drain());
        assert_eq!(positions(&out, late), []);
        for (listener, _) in listeners {
            assert_eq!(positions(&out, listener), [0, 1, 2]);
        }
    }
}

#[test]
fn a_leg_that_goes_down_in_the_middle_gets_nothing_more_until_it_is_back() {
    let (mut bench, listeners, track, out) = half_drained(1, 4, 3);
    let (listener, leg) = listeners[0];
    assert_eq!(positions(&out, listener), [0, 1]);
    bench.relay.handle_leg(bench.now, leg, LegState::Down);
    assert_eq!(bench.heard(listener), []);
    bench.relay.handle_leg(bench.now, leg, LegState::Up);
    assert_eq!(bench.heard(listener), [0, 1, 2, 3], "two may have been under way, two were held for it");
    let publisher = bench.relay.track_stats(track).unwrap().publisher.unwrap();
    bench.next(publisher, 4);
    let out = bench.drain();
    assert_eq!((events(&out), positions(&out, listener)), (vec![], vec![4]));
}

#[test]
fn a_relay_that_is_not_drained_is_lapped_and_says_so_to_each_listener() {
    let mut bench = Bench::new(Config::new().history_frames(10));
    let track = bench.track();
    let publisher = bench.publisher(track);
    let listeners = [bench.listener(track).0, bench.listener(track).0];
    for n in 0..100 {
        bench.next(publisher, n);
    }
    let out = bench.drain();
    for listener in listeners {
        assert_eq!(positions(&out, listener), (90..100).collect::<Vec<_>>());
        assert!(events(&out).contains(&Event::FramesSkipped { listener, from: 0, count: 90 }));
        assert_eq!(bench.relay.listener_stats(listener).unwrap().frames_skipped, 90);
    }
    assert_eq!(bench.relay.stats().frames_skipped, 180);
}

#[test]
fn being_lapped_in_the_middle_of_a_frame_tells_each_listener_its_own_count() {
    let mut bench = Bench::new(Config::new().history_frames(2));
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (first, second) = (bench.listener(track).0, bench.listener(track).0);
    bench.next(publisher, 0);
    let mut out = vec![bench.poll().unwrap(), bench.poll().unwrap()];
    for n in 1..6 {
        bench.next(publisher, n);
    }
    out.extend(bench.drain());
    assert_eq!(positions(&out, first), [0, 4, 5]);
    assert_eq!(positions(&out, second), [4, 5]);
    let told = events(&out);
    assert!(told.contains(&Event::FramesSkipped { listener: first, from: 1, count: 3 }));
    assert!(told.contains(&Event::FramesSkipped { listener: second, from: 0, count: 4 }));
}

#[test]
fn a_history_of_one_frame_forwards_all_if_it_is_drained() {
    let mut bench = Bench::new(Config::new().history_frames(1));
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, _) = bench.listener(track);
    for n in 0..50 {
        bench.next(publisher, n);
        assert_eq!(bench.heard(listener), [u64::from(n)]);
    }
}

#[test]
fn tracks_are_served_in_the_order_they_got_frames() {
    let mut bench = Bench::new(Config::new());
    let tracks: Vec<_> = (0..3).map(|_| bench.track()).collect();
    let publishers: Vec<_> = tracks.iter().map(|&track| bench.publisher(track)).collect();
    let listeners: Vec<_> = tracks.iter().map(|&track| bench.listener(track).0).collect();
    for n in [2, 0, 1, 2] {
        bench.next(publishers[n], n as u16);
    }
    let order: Vec<_> = bench
        .drain()
        .into_iter()
        .filter_map(|out| if let Out::Packet { listener, .. } = out { Some(listener) } else { None })
        .collect();
    assert_eq!(order, [listeners[2], listeners[0], listeners[1]], "the second 2 is a duplicate");
}

#[test]
fn closing_a_track_in_the_middle_ends_its_packets_and_no_others() {
    for polls in 0..8 {
        let mut bench = Bench::new(Config::new());
        let (gone, stays) = (bench.track(), bench.track());
        let publishers = [bench.publisher(gone), bench.publisher(stays)];
        bench.listener(gone);
        let (listener, _) = bench.listener(stays);
        for n in 0..2 {
            bench.next(publishers[0], n);
            bench.next(publishers[1], n);
        }
        let mut out: Vec<_> = (0..polls).filter_map(|_| bench.poll()).collect();
        bench.close(Peer::Track(gone));
        out.extend(bench.drain());
        assert_eq!(positions(&out, listener), [0, 1]);
    }
}
