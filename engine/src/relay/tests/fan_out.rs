//! Who is sent what, and in which order.

use super::harness::{Bench, Out, events, positions};
use crate::{Config, Event, LegSpec, LegState, OnReturn, Peer, Verdict};

#[test]
fn each_frame_goes_once_to_each_listener_that_is_up() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let listeners: Vec<_> = (0..5).map(|_| bench.listener(track).0).collect();
    let (waiting, _) = bench.try_listener(track).unwrap();
    for n in 0..10 {
        assert_eq!(bench.next(publisher, n), Verdict::Accepted);
    }
    let out = bench.drain();
    for listener in listeners {
        assert_eq!(positions(&out, listener), (0..10).collect::<Vec<_>>());
    }
    assert_eq!(positions(&out, waiting), [], "I6");
    assert_eq!(events(&out), [Event::TrackActive { track }]);
}

/// Neighbours in memory are neighbours in time, also when listeners come and go between two frames and in the middle of one.
#[test]
fn a_frame_goes_to_listeners_in_the_order_of_their_slots_whoever_left_and_came() {
    for by_fan_out in [false, true] {
        let mut bench = Bench::new(Config::new());
        let track = bench.track();
        let publisher = bench.publisher(track);
        let mut listeners: Vec<_> = (0..20).map(|_| bench.listener(track).0).collect();
        let take = |bench: &mut Bench, most| {
            let out = if by_fan_out {
                bench.fan_out(most)
            } else {
                std::iter::from_fn(|| bench.poll()).take(most).collect()
            };
            let slots = out.iter().filter_map(|out| match out {
                Out::Packet { listener, .. } => Some(listener.slot()),
                _ => None,
            });
            slots.collect::<Vec<_>>()
        };
        for n in 0..50_usize {
            for leaving in [n * 7 % 20, n * 3 % 20] {
                bench.close(Peer::Listener(listeners[leaving]));
                listeners[leaving] = bench.listener(track).0;
            }
            bench.next(publisher, n as u16);
            let mut heard = take(&mut bench, n % 15);
            if n % 4 == 0 {
                bench.close(Peer::Listener(listeners[n % 20]));
                heard.extend(take(&mut bench, 100));
                assert_eq!(heard.len(), 20 - usize::from(!heard.contains(&listeners[n % 20].slot())), "{n}");
                listeners[n % 20] = bench.listener(track).0;
                continue;
            }
            heard.extend(take(&mut bench, 100));
            assert_eq!(heard, (0..20).collect::<Vec<_>>(), "{n}");
        }
    }
}

#[test]
fn out_of_order_stays_out_of_order_and_a_duplicate_goes_once() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, _) = bench.listener(track);
    let verdicts: Vec<_> = [0, 1, 4, 3, 3, 4, 6].map(|n| bench.next(publisher, n)).into_iter().collect();
    assert_eq!(verdicts.iter().filter(|&&verdict| verdict == Verdict::Duplicate).count(), 2);
    assert_eq!(bench.heard(listener), [0, 1, 4, 3, 6], "2 and 5 stay holes");
    assert_eq!(bench.relay.stats().packets_in[Verdict::Duplicate], 2);
}

#[test]
fn index_and_timestamp_are_affine_in_position_and_media_time() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    bench.listener(track);
    for n in [65_530_u16, 65_531, 65_535, 2, 1, 9] {
        bench.wait(20);
        bench.send(
            publisher,
            n,
            u32::MAX.wrapping_sub(3_000).wrapping_add(u32::from(n.wrapping_sub(65_530)) * 960),
        );
    }
    let packets: Vec<_> = bench
        .drain()
        .into_iter()
        .filter_map(|out| match out {
            Out::Packet { position, index, timestamp, media, .. } => {
                Some((position, index, timestamp, media))
            }
            _ => None,
        })
        .collect();
    assert_eq!(packets.iter().map(|packet| packet.0).collect::<Vec<_>>(), [0, 1, 5, 8, 7, 15]);
    let (_, first_index, first_timestamp, _) = packets[0];
    assert!(first_index < 1 << 15);
    for (position, index, timestamp, media) in packets {
        assert_eq!(index, first_index + position);
        assert_eq!(media, position * 960);
        assert_eq!(timestamp, first_timestamp.wrapping_add(media as u32));
    }
}

#[test]
fn a_listener_that_comes_up_starts_at_the_live_edge() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    bench.next(publisher, 0);
    bench.drain();
    bench.next(publisher, 1);
    let (listener, leg) = bench.try_listener(track).unwrap();
    bench.next(publisher, 2);
    bench.relay.handle_leg(bench.now, leg, LegState::Up);
    bench.next(publisher, 3);
    assert_eq!(bench.heard(listener), [3]);
}

#[test]
fn a_listener_that_wants_no_replay_is_told_what_it_missed_while_it_was_down() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, leg) = bench.listener_of(track, LegSpec::new(96).on_return(OnReturn::Live));
    for n in 0..10 {
        match n {
            3 => bench.relay.handle_leg(bench.now, leg, LegState::Down),
            8 => bench.relay.handle_leg(bench.now, leg, LegState::Up),
            _ => {}
        }
        bench.next(publisher, n);
        let out = bench.drain();
        assert_eq!(positions(&out, listener).len(), usize::from(!(3..8).contains(&n)));
        if n == 8 {
            assert_eq!(events(&out), [Event::FramesSkipped { listener, from: 3, count: 5 }]);
            assert!(matches!(out[0], Out::Event(_)), "before the packet");
        }
    }
    assert_eq!(bench.relay.listener_stats(listener).unwrap().frames_skipped, 5);
}

#[test]
fn a_listener_may_come_before_the_publisher_and_outlives_it() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let (listener, _) = bench.listener(track);
    assert_eq!(bench.drain(), []);
    let first = bench.publisher(track);
    bench.next(first, 100);
    assert_eq!(bench.heard(listener), [0]);
    bench.close(Peer::Leg(first));
    bench.wait(1_000);
    assert_eq!(bench.send(first, 101, 0), Verdict::UnknownLeg);
    let second = bench.publisher(track);
    assert_eq!(
        bench.send(second, 100, 100 * 960),
        Verdict::Held,
        "it may be the same frame again, and is too short to tell"
    );
    bench.wait(40);
    bench.relay.handle_timeout(bench.now);
    let out = bench.drain();
    let indices: Vec<_> = out
        .iter()
        .filter_map(
            |out| if let Out::Packet { index, media, .. } = out { Some((*index, *media)) } else { None },
        )
        .collect();
    assert_eq!(positions(&out, listener), [1]);
    assert_eq!(indices[0].1, 48_000, "media time went on with the wall clock");
}
