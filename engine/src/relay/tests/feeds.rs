//! One relay feeds another: what a listener hears there is what it would hear at home.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::harness::*;
use crate::{Config, LegId, LegSpec, ListenerId, Output, Peer, TrackId, Verdict};

/// A home, a relay that it feeds, and the feed between them.
struct Pair {
    home: Bench,
    there: Bench,
    replica: TrackId,
    leg: LegId,
    feed: ListenerId,
    /// Positions handed out at home, and there.
    heard: [Vec<(u64, u64)>; 2],
}

impl Pair {
    /// `home` has had what it has had; the other is new.
    fn new(mut home: Bench, track: TrackId, config: Config) -> Self {
        let mut there = Bench::new(config.relay(1));
        there.now = home.now;
        let replica = there.track();
        let leg = there.publisher(replica);
        let oldest = home.relay.track_stats(track).unwrap().oldest_position;
        let spec = oldest.into_iter().fold(LegSpec::new(0).reports(false).feed(true), LegSpec::resume_from);
        let (feed, _) = home.listener_of(track, spec);
        Self { home, there, replica, leg, feed, heard: Default::default() }
    }

    /// Hands on what home has for the feed; notes what everybody else is handed.
    fn run(&mut self) {
        self.there.now = self.home.now;
        while let Some(output) = self.home.relay.poll_output() {
            let Output::Packet(packet) = output else { continue };
            let frame = packet.frame;
            if packet.listener != self.feed {
                self.heard[0].push((frame.position, frame.media_time.ticks()));
                continue;
            }
            let carried = frame.carried(Bytes::copy_from_slice(frame.payload));
            let arrived = frame.arrived;
            let verdict = self.there.relay.handle_fed(self.there.now, self.leg, arrived, carried);
            assert!(matches!(verdict, Verdict::Accepted | Verdict::Duplicate), "{verdict:?}");
        }
        while let Some(output) = self.there.relay.poll_output() {
            if let Output::Packet(packet) = output {
                self.heard[1].push((packet.frame.position, packet.frame.media_time.ticks()));
            }
        }
    }
}

#[test]
fn a_whole_history_is_handed_over_at_once_and_resumed_from_there_as_at_home() {
    let mut home = Bench::new(Config::new());
    let track = home.track();
    let publisher = home.publisher(track);
    for n in 0..1_400 {
        // A hole now and then, and a long silence.
        if n == 700 {
            home.wait(200_000);
        }
        if n % 50 != 7 {
            home.wait(20);
            let silence = if n < 700 { 0 } else { 9_600_000 };
            home.send(publisher, n, u32::from(n) * 960 + silence);
        }
    }
    home.drain();
    let mut pair = Pair::new(home, track, Config::new());
    pair.run();
    let (there, here) = (pair.there.relay.track_stats(pair.replica), pair.home.relay.track_stats(track));
    let of = |stats: Option<crate::TrackStats>| {
        let stats = stats.unwrap();
        (stats.oldest_position, stats.next_position, stats.next_media_time, stats.history_frames)
    };
    assert_eq!(of(there), of(here), "no pace, no limit of rate, and the times of home");
    let spec = LegSpec::new(96).resume_from(900);
    pair.home.listener_of(track, spec);
    pair.there.listener_of(pair.replica, spec);
    for n in 1_400..2_000 {
        pair.home.next(publisher, n);
        pair.run();
    }
    assert_eq!(pair.heard[0], pair.heard[1]);
    assert_eq!(pair.heard[0].len(), 1_100 - 10, "all of it but the holes");
    assert_eq!(pair.there.relay.stats().packets_in.total(), 0, "nobody published here");
}

proptest! {
    /// Whatever is lost, late or twice at home, and whenever the feed is opened: both hear the same, in the same order.
    #[test]
    fn both_hear_the_same(
        numbers in vec((0_u16..12, 0_u16..40), 1..300),
        opened in 0_usize..200,
    ) {
        let mut home = Bench::new(Config::new());
        let track = home.track();
        let publisher = home.publisher(track);
        let (early, late) = numbers.split_at(opened.min(numbers.len()));
        let mut last = 0;
        let mut next = |home: &mut Bench, &(back, step): &(u16, u16)| {
            last += step / 10;
            home.wait(20);
            let number = 100 + last - back.min(last);
            home.send(publisher, number, u32::from(number) * 960);
        };
        early.iter().for_each(|number| next(&mut home, number));
        home.drain();
        let mut pair = Pair::new(home, track, Config::new());
        pair.run();
        pair.home.listener(track);
        pair.there.listener(pair.replica);
        for number in late {
            next(&mut pair.home, number);
            pair.run();
        }
        prop_assert_eq!(&pair.heard[0], &pair.heard[1]);
    }

    /// Feeds come before all others, and whoever leaves in the middle of a hand-out takes nobody's frame with them.
    #[test]
    fn feeds_are_first_and_nobody_is_passed_over(
        steps in vec((0_u8..4, any::<u8>(), 0_u8..40), 1..120),
    ) {
        let mut bench = Bench::new(Config::new());
        let track = bench.track();
        let publisher = bench.publisher(track);
        let mut open: Vec<(ListenerId, bool, Vec<u64>)> = Vec::new();
        let mut sent = 0;
        for (what, which, polls) in steps {
            match what {
                0 | 1 => {
                    let (id, _) = bench.listener_of(track, LegSpec::new(96).reports(false).feed(what == 0));
                    open.push((id, what == 0, Vec::new()));
                }
                2 if !open.is_empty() => {
                    let (id, ..) = open.swap_remove(usize::from(which) % open.len());
                    bench.close(Peer::Listener(id));
                }
                _ => {
                    // What was left is handed out first: those who came meanwhile begin here.
                    settle(&mut bench, &mut open, usize::MAX);
                    bench.next(publisher, 100 + sent);
                    sent += 1;
                    let order = settle(&mut bench, &mut open, usize::from(polls));
                    let feeds = |id: &ListenerId| open.iter().any(|(open, feed, _)| open == id && *feed);
                    prop_assert!(order.is_sorted_by_key(|id| !feeds(id)), "{:?}", order);
                }
            }
        }
        settle(&mut bench, &mut open, usize::MAX);
        for (id, _, heard) in open {
            let first = heard.first().copied().unwrap_or_else(|| u64::from(sent));
            prop_assert_eq!(heard, (first..u64::from(sent)).collect::<Vec<_>>(), "{}", id);
        }
        prop_assert_eq!(bench.relay.stats().frames_skipped, 0);
    }
}

/// Hands out so many packets at most; to whom, in order.
fn settle(bench: &mut Bench, open: &mut [(ListenerId, bool, Vec<u64>)], most: usize) -> Vec<ListenerId> {
    let mut order = Vec::new();
    while order.len() < most {
        match bench.poll() {
            Some(Out::Packet { listener, position, .. }) => {
                order.push(listener);
                if let Some((.., heard)) = open.iter_mut().find(|(id, ..)| *id == listener) {
                    heard.push(position);
                }
            }
            Some(_) => {}
            None => break,
        }
    }
    order
}
