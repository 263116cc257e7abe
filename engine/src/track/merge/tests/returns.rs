//! A publisher that was gone: what it sends again fills its holes, what it does not is told.

use std::time::Duration;

use proptest::prelude::*;

use super::stage::{Encoder, FRAME, Stage};
use crate::Config;
use crate::io::Verdict;
use crate::stats::{Alignment, Rule};

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Carried,
    SameSource,
    Captures,
}

/// So that nothing leaves the history before it is looked at.
fn long() -> Stage {
    Stage::with_history(Config::new().history_duration(Duration::from_secs(300)).history)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Dropped for up to 28 s: the client sends again from the last frame that was acknowledged, oldest first, at four
    /// times real time, live frames between, on a new connection.
    #[test]
    fn what_is_sent_again_is_all_there(
        how in prop::sample::select(vec![How::Carried, How::SameSource, How::Captures]),
        wire in any::<(u16, u32)>(),
        spoken in 10_u64..200,
        acked in 1_u64..10,
        gone in 5_u64..1_400,
        ppm in -100_i64..100,
        reorder in prop::collection::vec(0_u64..30, 16),
        told in any::<bool>(),
    ) {
        let mut stage = long();
        let voice = Encoder { sequence: wire.0, timestamp: wire.1, ppm, captures: how == How::Captures, ..Encoder::new(5) };
        let a = stage.leg();
        let bring = |stage: &mut Stage, leg, encoder: &Encoder, n| {
            if how == How::Carried { stage.carry(leg, n) } else { stage.bring(leg, encoder, n) }
        };
        for n in 0..spoken {
            stage.at_us(voice.captured_us(n) + 30_000);
            bring(&mut stage, a, &voice, n);
        }
        // Whether the relay knows that the old connection is gone, or not.
        if told {
            stage.close(a);
        }
        let returns = spoken + gone;
        let again = if how == How::Captures {
            Encoder { ssrc: 6, sequence: wire.0.wrapping_add(999), timestamp: wire.1.wrapping_mul(7), ..voice }
        } else {
            voice
        };
        stage.at_us(voice.captured_us(returns));
        let b = stage.leg();
        let (mut packets, mut next, mut live) = (Vec::new(), spoken - acked, returns);
        let mut us = voice.captured_us(returns) + 30_000;
        let mut n = 0;
        while next < live {
            packets.push((us + reorder[n % 16] * 1_000, next));
            (next, n, us) = (next + 1, n + 1, us + 5_000);
            if us >= voice.captured_us(live) + 30_000 {
                packets.push((us, live));
                live += 1;
            }
        }
        packets.sort_unstable();
        for (us, n) in packets {
            stage.at_us(us);
            bring(&mut stage, b, &again, n);
        }
        stage.wait(1_000);
        stage.assert_whole(0, live);
        let rule = match how {
            How::Carried => Rule::Carried,
            How::SameSource => Rule::SameSource,
            How::Captures => Rule::CaptureTime,
        };
        prop_assert_eq!(stage.alignment(b), Some(Alignment { rule, twin: true }));
        prop_assert!(stage.media().windows(2).all(|pair| pair[1] - pair[0] == FRAME));
    }

    /// A browser: it goes on with what it says now.
    #[test]
    fn what_was_never_sent_is_a_gap_in_time_and_none_in_numbers(
        captures in any::<bool>(),
        wire in any::<(u16, u32)>(),
        gone_ms in 100_u64..30_000,
    ) {
        let mut stage = long();
        let voice = Encoder { captures, ..Encoder::new(5) };
        let a = stage.leg();
        for n in 0..10 {
            stage.at_us(voice.captured_us(n) + 30_000);
            stage.bring(a, &voice, n);
        }
        stage.close(a);
        let phase_us = 200_000 + gone_ms * 1_000;
        let other = Encoder { ssrc: 6, sequence: wire.0, timestamp: wire.1, sound: 1, phase_us, ..voice };
        let b = stage.leg();
        for n in 0..100 {
            stage.at_us(other.captured_us(n) + 30_000);
            stage.bring(b, &other, n);
        }
        prop_assert_eq!(stage.timeline.next_position(), 110);
        let media = stage.media();
        let gap = (media[10] - media[9]) / 48;
        prop_assert!(gap.abs_diff(20 + gone_ms) <= 1, "{} ms", gap);
        prop_assert!(media[10..].windows(2).all(|pair| pair[1] - pair[0] == FRAME));
        let rule = if captures { Rule::CaptureTime } else { Rule::Arrival };
        prop_assert_eq!(stage.alignment(b), Some(Alignment { rule, twin: false }));
    }
}

#[test]
fn a_returning_leg_waits_40_ms_for_proof_and_only_if_there_can_be_any() {
    for (captures, expected) in [(false, Verdict::Accepted), (true, Verdict::Held)] {
        let mut stage = Stage::new();
        let voice = Encoder { captures, ..Encoder::new(5) };
        let a = stage.leg();
        stage.bring(a, &voice, 0);
        stage.close(a);
        stage.wait(1_000);
        let b = stage.leg();
        let other = Encoder { sound: 1, ssrc: 6, phase_us: 1_000_000, ..voice };
        assert_eq!(stage.bring(b, &other, 0), expected);
        stage.wait(40);
        assert_eq!((stage.timeline.next_position(), stage.merge.held()), (2, 0));
    }
}

#[test]
fn the_same_numbers_with_another_sound_are_another_stream() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let a = stage.leg();
    stage.bring_all(a, &voice, 0..100);
    stage.close(a);
    stage.wait(5_000);
    let b = stage.leg();
    let other = Encoder { sound: 1, ..voice };
    for n in 0..100 {
        assert_eq!(stage.bring(b, &other, n), Verdict::Accepted);
    }
    assert_eq!(stage.timeline.next_position(), 200);
}

#[test]
fn what_is_never_brought_is_told_exactly_when_the_history_goes_past_it() {
    let mut stage = Stage::with_history(Config::new().history_duration(Duration::from_secs(1)).history);
    let voice = Encoder::new(5);
    let a = stage.leg();
    let lost = |n: u64| [3, 4, 5, 20, 120].contains(&n);
    let mut told = Vec::new();
    for n in (0..400).filter(|&n| !lost(n)) {
        stage.at_us(voice.captured_us(n));
        stage.bring(a, &voice, n);
        if n == 30 {
            stage.bring(a, &voice, 4);
        }
        told.extend(std::iter::from_fn(|| stage.timeline.history.lost.take()));
    }
    assert_eq!(told, [(3, 1), (5, 1), (20, 1), (120, 1)]);
    assert_eq!(stage.timeline.history.lost.total(), 4);
    assert_eq!(stage.timeline.contiguous(), Some(399));
}

#[test]
fn contiguous_is_the_last_before_a_hole_that_may_still_be_filled() {
    let mut stage = Stage::with_history(Config::new().history_frames(50).history);
    let voice = Encoder { sequence: 65_530, ..Encoder::new(5) };
    let a = stage.leg();
    assert_eq!(stage.timeline.contiguous(), None);
    let mut contiguous = |n| {
        stage.bring(a, &voice, n);
        (stage.timeline.contiguous().unwrap(), stage.merge.leg(a, &stage.timeline).2.unwrap())
    };
    assert_eq!(contiguous(0), (0, 65_530));
    assert_eq!(contiguous(1), (1, 65_531));
    assert_eq!(contiguous(10), (1, 65_531));
    assert_eq!(contiguous(11), (1, 65_531));
    for n in 3..10 {
        assert_eq!(contiguous(n), (1, 65_531));
    }
    assert_eq!(contiguous(2), (11, 5), "across the wrap");
    assert_eq!(contiguous(13), (11, 5));
    assert_eq!(contiguous(62), (13, 7), "12 is out of the history's reach, and the rest is a hole");
    assert_eq!(contiguous(70), (62, 56), "as are those");
}

#[test]
fn a_leg_that_comes_back_has_acknowledged_what_it_can_no_longer_bring_and_nothing_else() {
    let mut stage = Stage::new();
    let voice = Encoder { captures: true, ..Encoder::new(5) };
    let a = stage.leg();
    stage.bring_live(a, &voice, (0..100).filter(|n| ![42, 43].contains(n)));
    stage.close(a);
    // It begins with what was acknowledged, and what is missing is lost again, for long.
    let again = Encoder { ssrc: 6, sequence: 900, ..voice };
    let b = stage.leg();
    for n in (41..160).filter(|n| ![42, 43].contains(n)) {
        stage.bring(b, &again, n);
        stage.wait(20);
    }
    assert_eq!(acked(&stage, b), (Some(41), Some(941)));
    stage.close(b);
    // It has nothing any more from before the frame that it begins with.
    let late = Encoder { ssrc: 7, sequence: 1_900, ..voice };
    let c = stage.leg();
    stage.bring_all(c, &late, 90..95);
    stage.wait(20);
    assert_eq!(acked(&stage, c), (Some(41), Some(1_941)), "those before may have been overtaken");
    stage.wait(SKEW_MS);
    stage.bring_all(c, &late, 95..162);
    assert_eq!(acked(&stage, c), (Some(161), Some(2_061)));
    assert_eq!(stage.timeline.contiguous(), Some(41), "a hole is a hole");
    stage.bring(c, &late, 163);
    assert_eq!(acked(&stage, c), (Some(161), Some(2_061)), "and this one it may bring");
    // It had it after all.
    assert_eq!(stage.bring(c, &late, 42), Verdict::Accepted);
    assert_eq!(acked(&stage, c), (Some(42), Some(1_942)));
}

fn acked(stage: &Stage, leg: crate::id::LegId) -> (Option<u64>, Option<u16>) {
    let (_, contiguous, sequence) = stage.merge.leg(leg, &stage.timeline);
    (contiguous, sequence)
}

const SKEW_MS: u64 = 450;
