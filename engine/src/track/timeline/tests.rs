//! The timeline beside a history, as a track has them.

use std::time::Duration;

use bytes::Bytes;

use proptest::prelude::*;

use super::super::arrived::{Number, Wire};
use super::super::merge::Merge;
use super::*;
use crate::Config;
use crate::config::HistoryLimits;
use crate::id::{LegId, Slots};
use crate::io::Verdict;
use crate::time::tests::origin;

const FRAME: u32 = 960;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    position: u64,
    media_time: MediaTime,
}

struct Feed {
    timeline: Timeline,
    merge: Merge,
    now: Instant,
    leg: LegId,
    legs: Slots<LegId, ()>,
}

impl Feed {
    fn new() -> Self {
        Self::with_history(Config::new().history)
    }

    fn with_history(limits: HistoryLimits) -> Self {
        let mut legs = Slots::new(0);
        let leg = legs.insert_with(|_| ());
        let mut feed = Self {
            timeline: Timeline::new(limits),
            merge: Merge::new(Duration::from_millis(450)),
            now: origin(),
            leg,
            legs,
        };
        feed.merge.open(feed.now, leg, 0, &mut feed.timeline);
        feed
    }

    /// The leg is gone and another one comes.
    fn another_leg(&mut self) {
        self.merge.close(self.now, self.leg, &mut self.timeline);
        self.leg = self.legs.insert_with(|_| ());
        self.merge.open(self.now, self.leg, 0, &mut self.timeline);
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn place(&mut self, ssrc: u32, sequence: u16, timestamp: u32) -> Result<Placed, Verdict> {
        self.place_long(ssrc, sequence, timestamp, FRAME)
    }

    fn place_long(
        &mut self,
        ssrc: u32,
        sequence: u16,
        timestamp: u32,
        duration: u32,
    ) -> Result<Placed, Verdict> {
        let frame = Arrived {
            at: self.now,
            number: Number::Wire(Wire { ssrc, sequence, timestamp }),
            duration,
            marker: false,
            capture_time: None,
            audio_level: None,
            payload: Bytes::copy_from_slice(&[self.leg.slot() as u8, 1, 2]),
        };
        let taken = self.merge.take(self.now, self.leg, frame, &mut self.timeline);
        if taken.verdict != Verdict::Accepted {
            return Err(taken.verdict);
        }
        let position = self.timeline.history.arrival(self.timeline.history.next_arrival() - 1).unwrap();
        let media_time = self.timeline.history.get(position).unwrap().media_time;
        Ok(Placed { position, media_time })
    }

    /// The n-th packet of SSRC 1, 20 ms after the one before; its position.
    fn nth(&mut self, n: u64) -> Result<u64, Verdict> {
        self.wait(20);
        self.place(1, n as u16, (n as u32).wrapping_mul(FRAME)).map(|placed| placed.position)
    }

    /// Its position and media time.
    fn at(&mut self, ssrc: u32, sequence: u16, timestamp: u32) -> Result<(u64, u64), Verdict> {
        self.place(ssrc, sequence, timestamp).map(|placed| (placed.position, placed.media_time.ticks()))
    }
}

#[test]
fn the_first_packet_is_position_and_time_zero_whatever_it_says() {
    for (sequence, timestamp) in [(0, 0), (u16::MAX, u32::MAX), (12_345, 1 << 31)] {
        assert_eq!(Feed::new().at(9, sequence, timestamp), Ok((0, 0)));
    }
}

#[test]
fn sequence_wraps_every_65536_and_positions_do_not() {
    let mut feed = Feed::new();
    for n in 0..200_000 {
        assert_eq!(feed.nth(n + 65_000), Ok(n));
    }
}

#[test]
fn timestamps_wrap_and_media_time_does_not() {
    let mut feed = Feed::new();
    // The largest step that is still forwards.
    let step = (1_u32 << 31) - 1;
    for n in 0..100_u16 {
        feed.wait(20);
        let (position, media) = feed.at(1, n, u32::from(n).wrapping_mul(step)).unwrap();
        assert_eq!((position, media), (u64::from(n), u64::from(n) * u64::from(step)));
    }
    assert_eq!(feed.timeline.resets, 0);
}

#[test]
fn late_packets_fill_their_holes_across_both_wraps() {
    let mut feed = Feed::new();
    let start = u32::MAX - 1_000;
    assert_eq!(feed.at(1, 65_534, start), Ok((0, 0)));
    assert_eq!(feed.at(1, 2, start.wrapping_add(4 * FRAME)), Ok((4, 3_840)));
    assert_eq!(feed.at(1, 65_535, start.wrapping_add(FRAME)), Ok((1, 960)));
    assert_eq!(feed.at(1, 1, start.wrapping_add(3 * FRAME)), Ok((3, 2_880)));
    assert_eq!(feed.at(1, 0, start.wrapping_add(2 * FRAME)), Ok((2, 1_920)));
    assert_eq!(feed.at(1, 0, start.wrapping_add(2 * FRAME)), Err(Verdict::Duplicate));
}

#[test]
fn a_hole_stays_a_hole_and_a_dtx_gap_a_gap() {
    let mut feed = Feed::new();
    assert_eq!(feed.at(1, 10, 0), Ok((0, 0)));
    assert_eq!(feed.at(1, 15, 5 * FRAME), Ok((5, 4_800)), "four lost");
    assert_eq!(feed.at(1, 16, 25 * FRAME), Ok((6, 24_000)), "none lost, 400 ms of silence");
}

#[test]
fn what_came_before_the_first_is_not_placed() {
    let mut feed = Feed::new();
    feed.nth(500).unwrap();
    assert_eq!(feed.nth(499), Err(Verdict::BeforeStart));
    assert_eq!(feed.nth(400), Err(Verdict::BeforeStart), "100 is reordering");
    assert_eq!(feed.nth(399), Err(Verdict::BeforeStart), "sent again, by its timestamp");
    assert_eq!(feed.at(1, 398, 10_000_000), Err(Verdict::Suspicious), "a jump");
    assert_eq!(feed.nth(501), Ok(1));
}

#[test]
fn a_step_of_3000_is_loss_and_one_of_3001_a_jump() {
    let mut feed = Feed::new();
    feed.nth(0).unwrap();
    assert_eq!(feed.nth(3_000), Ok(3_000));
    assert_eq!(feed.nth(6_001), Err(Verdict::Suspicious));
    assert_eq!(feed.nth(3_001), Ok(3_001));
}

#[test]
fn a_jump_is_believed_at_its_second_packet_in_sequence() {
    let mut feed = Feed::new();
    for n in 0..10 {
        feed.nth(n).unwrap();
    }
    for start in [30_000, 10_000, 50_000] {
        assert_eq!(feed.nth(start), Err(Verdict::Suspicious));
        let position = feed.timeline.next_position();
        assert_eq!(feed.nth(start + 1), Ok(position), "positions go on without a hole");
        assert_eq!(feed.nth(start + 3), Ok(position + 2));
    }
    assert_eq!(feed.timeline.sources, 4);
}

#[test]
fn single_stray_packets_never_restart_a_source() {
    let mut feed = Feed::new();
    for n in 0..1_000_u64 {
        assert_eq!(feed.nth(n), Ok(n));
        assert_eq!(feed.nth(n + 20_000), Err(Verdict::Suspicious), "in sequence with the last stray one");
    }
    assert_eq!(feed.timeline.sources, 1);
}

#[test]
fn a_jump_backwards_into_the_history_is_told_from_duplicates_by_its_timestamps() {
    let mut feed = Feed::new();
    for n in 0..1_000 {
        feed.nth(n).unwrap();
    }
    assert_eq!(feed.nth(500), Err(Verdict::Duplicate));
    assert_eq!(feed.nth(501), Err(Verdict::Duplicate), "an old packet twice is not a restart");
    assert_eq!(feed.at(1, 500, 77), Err(Verdict::Suspicious));
    assert_eq!(feed.at(1, 501, 77 + FRAME).map(|(position, _)| position), Ok(1_000));
}

#[test]
fn a_new_ssrc_goes_on_at_once_and_time_goes_on_with_the_wall_clock() {
    let mut feed = Feed::new();
    feed.at(1, 100, 5_000).unwrap();
    feed.wait(20);
    feed.at(1, 101, 5_960).unwrap();
    feed.wait(1_500);
    assert_eq!(feed.at(2, 60_000, 9), Ok((2, 960 + 72_000)));
    assert_eq!(feed.at(2, 60_001, 9 + FRAME), Ok((3, 960 + 72_000 + 960)));
}

#[test]
fn a_new_source_is_at_least_one_frame_later() {
    let mut feed = Feed::new();
    feed.at(1, 0, 0).unwrap();
    assert_eq!(feed.at(2, 0, 0), Ok((1, u64::from(FRAME))));
    assert_eq!(feed.place_long(3, 0, 0, 0).unwrap().media_time.ticks(), 1_920);
    assert_eq!(feed.place_long(4, 0, 0, 0).unwrap().media_time.ticks(), 2_040);
}

#[test]
fn packets_of_the_source_before_fill_the_holes_it_left() {
    let mut feed = Feed::new();
    feed.at(1, 10, 0).unwrap();
    feed.at(1, 13, 3 * FRAME).unwrap();
    feed.wait(100);
    assert_eq!(feed.at(2, 0, 0).map(|(position, _)| position), Ok(4));
    assert_eq!(feed.at(1, 11, FRAME), Ok((1, 960)));
    assert_eq!(feed.at(1, 13, 3 * FRAME), Err(Verdict::Duplicate));
    assert_eq!(feed.at(1, 9, 0_u32.wrapping_sub(FRAME)), Err(Verdict::BeforeStart));
    assert_eq!(feed.at(1, 14, 4 * FRAME), Err(Verdict::Suspicious), "after its end");
    assert_eq!(feed.at(2, 1, FRAME).map(|(position, _)| position), Ok(5));
    assert_eq!(feed.at(1, 12, 2 * FRAME), Ok((2, 1_920)));
}

#[test]
fn a_retired_ssrc_comes_back_only_by_two_in_sequence_with_none_of_the_current_between() {
    let mut feed = Feed::new();
    feed.at(1, 0, 0).unwrap();
    feed.at(2, 0, 0).unwrap();
    for n in 1..100_u16 {
        let timestamp = u32::from(n) * FRAME;
        assert_eq!(feed.at(1, n, timestamp), Err(Verdict::Suspicious));
        assert_eq!(feed.at(2, n, timestamp).map(|(position, _)| position), Ok(u64::from(n) + 1));
    }
    assert_eq!(feed.timeline.sources, 2);
    assert_eq!(feed.at(1, 100, 100 * FRAME), Err(Verdict::Suspicious));
    assert!(feed.at(1, 101, 101 * FRAME).is_ok_and(|(position, _)| position == 101));
}

#[test]
fn an_ssrc_for_each_packet_takes_a_position_each_and_nothing_else() {
    let mut feed = Feed::new();
    for n in 0..10_000_u32 {
        feed.wait(5);
        let (position, media) =
            feed.at(n, n.wrapping_mul(7_919) as u16, n.wrapping_mul(0x9e37_79b9)).unwrap();
        assert_eq!(position, u64::from(n));
        assert_eq!(media, u64::from(n) * 960, "at least a frame, whatever the wall clock");
    }
}

#[test]
fn a_clock_reset_without_a_new_ssrc_keeps_position_and_moves_time_on() {
    let mut feed = Feed::new();
    feed.at(1, 0, 100_000).unwrap();
    feed.wait(20);
    feed.at(1, 1, 100_960).unwrap();
    feed.wait(60);
    assert_eq!(feed.at(1, 4, 5), Ok((4, 960 + 2_880)), "the hole of two stays");
    assert_eq!(feed.at(1, 5, 965), Ok((5, 960 + 2_880 + 960)));
    assert_eq!(feed.at(1, 3, 102_880), Err(Verdict::Suspicious), "its time is on the old clock");
    assert_eq!(feed.timeline.resets, 1);
}

#[test]
fn a_constant_timestamp_loses_nothing() {
    let mut feed = Feed::new();
    for n in 0..100_u16 {
        feed.wait(20);
        assert_eq!(feed.at(1, n, 42), Ok((u64::from(n), u64::from(n) * 960)));
    }
}

#[test]
fn after_a_leg_is_gone_the_same_numbers_are_new() {
    let mut feed = Feed::new();
    for n in 0..5 {
        feed.nth(n).unwrap();
    }
    feed.another_leg();
    feed.wait(10_000);
    for n in 0..5 {
        assert_eq!(feed.nth(n), Ok(5 + n));
    }
}

#[test]
fn a_history_of_one_frame_is_enough_to_go_on() {
    let mut feed = Feed::with_history(Config::new().history_frames(1).history);
    let verdicts: Vec<_> = [0, 1, 5, 3, 4, 5, 6, 200, 150].map(|n| feed.nth(n)).into_iter().collect();
    let late = Err(Verdict::TooLate);
    assert_eq!(
        verdicts,
        [Ok(0), Ok(1), Ok(5), late, late, Err(Verdict::Duplicate), Ok(6), Ok(200), late],
        "two late ones in sequence are no restart"
    );
}

#[test]
fn years_without_a_packet_do_no_harm() {
    let mut feed = Feed::new();
    feed.nth(0).unwrap();
    feed.now += Duration::from_secs(20 * 365 * 86_400);
    let (position, media) = feed.at(2, 9, 9).unwrap();
    assert_eq!(position, 1);
    assert_eq!(media, 20 * 365 * 86_400 * 48_000);
}

proptest! {
    #[test]
    fn any_packets_keep_positions_unique_and_times_in_order(
        packets in prop::collection::vec((0_u32..3, any::<u16>(), any::<u32>(), 0_u64..100), 0..300),
        frames in 1_usize..50,
    ) {
        let mut feed = Feed::with_history(Config::new().history_frames(frames).history);
        let mut seen = std::collections::BTreeSet::new();
        let mut newest = None;
        for (ssrc, sequence, timestamp, ms) in packets {
            feed.wait(ms);
            // Half of them near each other, so that they fit more often than not.
            let sequence = if sequence % 2 == 0 { sequence % 64 } else { sequence };
            if let Ok((position, media)) = feed.at(ssrc, sequence, timestamp) {
                prop_assert!(seen.insert(position), "{} twice", position);
                if newest.is_none_or(|(highest, _)| position > highest) {
                    prop_assert!(newest.is_none_or(|(_, last)| media > last));
                    newest = Some((position, media));
                }
            }
        }
        prop_assert_eq!(feed.timeline.next_position(), newest.map_or(0, |(highest, _)| highest + 1));
    }

    #[test]
    fn any_order_within_the_window_gives_each_packet_its_own_position(
        start in any::<u16>(),
        timestamp in any::<u32>(),
        shuffle in prop::collection::vec(0_usize..90, 1..200),
    ) {
        let mut order: Vec<u64> = (1..=shuffle.len() as u64).collect();
        for (at, &by) in shuffle.iter().enumerate() {
            let to = (at + by).min(order.len() - 1).min(at + 40);
            order.swap(at, to);
        }
        let mut feed = Feed::new();
        feed.at(1, start, timestamp).unwrap();
        for n in order {
            let sequence = start.wrapping_add(n as u16);
            let result = feed.at(1, sequence, timestamp.wrapping_add(n as u32 * FRAME));
            // Farther behind than RFC 3550's MAX_MISORDER is still placed: the history holds it.
            prop_assert_eq!(result, Ok((n, n * u64::from(FRAME))));
        }
    }
}

#[test]
fn a_leg_that_was_down_leaves_a_gap_in_time_and_none_in_numbers() {
    let mut feed = Feed::new();
    assert_eq!((feed.nth(10), feed.nth(12)), (Ok(0), Ok(2)));
    let before = feed.timeline.newest().unwrap().media_time.ticks();
    feed.merge.restart(feed.leg);
    feed.wait(10_000);
    assert_eq!(feed.at(1, 3_012, 9), Ok((3, before + 10_000 * 48)), "positions go on, time has passed");
    feed.wait(20);
    assert_eq!(
        feed.at(1, 3_013, 9 + FRAME),
        Ok((4, before + 10_020 * 48)),
        "and is the publisher's own again"
    );
    assert_eq!(
        feed.place(1, 11, 11 * FRAME).map(|placed| placed.position),
        Ok(1),
        "from before: its own hole"
    );
    assert_eq!(feed.place(1, 12, 12 * FRAME), Err(Verdict::Duplicate));
}

#[test]
fn a_leg_that_was_down_may_come_back_from_anywhere_ahead_at_once() {
    for sequence in [6, 2_000, 9_000, 32_000] {
        let mut feed = Feed::new();
        assert_eq!(feed.nth(5), Ok(0));
        feed.merge.restart(feed.leg);
        feed.wait(20);
        assert_eq!(feed.place(1, sequence, 77).map(|placed| placed.position), Ok(1), "{sequence}");
        assert!(feed.place(1, sequence.wrapping_add(1), 77 + FRAME).is_ok_and(|placed| placed.position == 2));
    }
}

#[test]
fn a_publishers_slow_clock_moves_no_frame_of_its_own_into_the_past() {
    let mut feed = Feed::new();
    for n in 0..100_000_u32 {
        // 400 ppm slow: 0.8 s by the end.
        feed.now += Duration::from_micros(20_008);
        feed.place(1, n as u16, n.wrapping_mul(FRAME)).unwrap();
    }
    let (now, newest) = (feed.timeline.latest_media_time(feed.now), feed.timeline.newest().unwrap());
    let ahead = now.ticks() - newest.media_time.ticks();
    assert!(ahead <= 2 * u64::from(FRAME), "{ahead} ticks");
}
