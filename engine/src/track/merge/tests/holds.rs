//! Twins: the first copy wins, holes are waited for, nothing else is.

use proptest::prelude::*;

use super::stage::{Encoder, Stage};
use crate::io::{LegState, Verdict};
use crate::stats::{Alignment, Rule};

fn twins() -> (Stage, Encoder) {
    let mut stage = Stage::new();
    stage.wait(1);
    (stage, Encoder { sequence: 65_500, timestamp: u32::MAX - 5_000, ..Encoder::new(7) })
}

#[test]
fn the_next_frame_is_taken_from_whichever_leg_brings_it_first() {
    let (mut stage, voice) = twins();
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring(a, &voice, 0);
    for n in 1..1_000 {
        stage.wait(20);
        let (first, second) = if n % 7 < 3 { (a, b) } else { (b, a) };
        assert_eq!(stage.bring(first, &voice, n), Verdict::Accepted, "{n}");
        assert_eq!(stage.bring(second, &voice, n), Verdict::Duplicate, "{n}");
        assert_eq!(stage.timeline.next_position(), n + 1, "no frame waits");
    }
    assert_eq!(stage.alignment(b), Some(Alignment { rule: Rule::SameSource, twin: true }));
    stage.assert_whole(0, 1_000);
}

#[test]
fn a_frame_ahead_of_a_hole_waits_for_the_leading_leg_and_not_longer_than_the_skew() {
    let (mut stage, voice) = twins();
    let (a, b) = (stage.leg(), stage.leg());
    for n in 0..10 {
        stage.bring(a, &voice, n);
        stage.bring(b, &voice, n);
        stage.wait(20);
    }
    assert_eq!(stage.bring(b, &voice, 11), Verdict::Held);
    assert_eq!(stage.bring(b, &voice, 11), Verdict::Duplicate);
    assert_eq!(stage.bring(b, &voice, 12), Verdict::Held);
    assert_eq!(stage.bring(a, &voice, 10), Verdict::Accepted, "and with it what waited");
    assert_eq!((stage.timeline.next_position(), stage.merge.held()), (13, 0));
    assert_eq!(stage.bring(a, &voice, 11), Verdict::Duplicate);

    assert_eq!(stage.bring(b, &voice, 14), Verdict::Held);
    for _ in 0..22 {
        stage.wait(20);
        stage.bring(a, &voice, 12);
    }
    assert_eq!(stage.timeline.next_position(), 13);
    stage.wait(20);
    assert_eq!(stage.timeline.next_position(), 15, "neither leg brought 13 in 450 ms");
    assert_eq!(stage.bring(a, &voice, 13), Verdict::Accepted, "late, and still wanted");
    stage.assert_whole(0, 15);
}

#[test]
fn what_the_leading_leg_brings_never_waits() {
    let (mut stage, voice) = twins();
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring(a, &voice, 0);
    stage.bring(b, &voice, 0);
    assert_eq!(stage.bring(a, &voice, 5), Verdict::Accepted);
    for n in 1..5 {
        assert_eq!(stage.bring(b, &voice, n), Verdict::Accepted);
    }
    stage.assert_whole(0, 6);
}

#[test]
fn nothing_waits_for_a_leading_leg_that_is_down_closed_or_silent() {
    for way in 0..3 {
        let (mut stage, voice) = twins();
        let (a, b) = (stage.leg(), stage.leg());
        for n in 0..3 {
            stage.bring(a, &voice, n);
            stage.bring(b, &voice, n);
        }
        assert_eq!(stage.bring(b, &voice, 4), Verdict::Held);
        match way {
            0 => stage.state(a, LegState::Down),
            1 => stage.close(a),
            _ => stage.wait(450),
        }
        assert_eq!(stage.timeline.next_position(), 5, "{way}: what waited goes on");
        assert_eq!(stage.bring(b, &voice, 6), Verdict::Accepted, "{way}: and the leg leads");
        assert_eq!(stage.merge.legs()[0], Some(b));
    }
}

#[test]
fn a_leg_that_was_down_finds_its_holes_again() {
    let (mut stage, voice) = twins();
    let a = stage.leg();
    for n in 0..10 {
        stage.bring(a, &voice, n);
    }
    stage.state(a, LegState::Down);
    stage.wait(20_000);
    stage.state(a, LegState::Up);
    assert_eq!(stage.bring(a, &voice, 1_010), Verdict::Accepted);
    assert_eq!(stage.timeline.next_position(), 1_011, "a hole of a thousand");
    for n in 9..1_010 {
        stage.wait(5);
        let expected = if n == 9 { Verdict::Duplicate } else { Verdict::Accepted };
        assert_eq!(stage.bring(a, &voice, n), expected, "{n}");
    }
    stage.assert_whole(0, 1_011);
}

#[test]
fn carried_positions_need_no_alignment_and_hold_like_any_twins() {
    let (mut stage, _) = twins();
    let (a, b) = (stage.leg(), stage.leg());
    assert_eq!(stage.carry(a, 70_000), Verdict::Accepted, "a track begins where it begins");
    assert_eq!(stage.carry(b, 70_001), Verdict::Accepted);
    assert_eq!(stage.carry(a, 70_001), Verdict::Duplicate);
    assert_eq!(stage.carry(b, 70_003), Verdict::Held);
    assert_eq!(stage.carry(a, 70_002), Verdict::Accepted);
    assert_eq!(stage.timeline.next_position(), 70_004);
    assert_eq!(stage.carry(a, 70_004 + 3_001), Verdict::Ahead);
    assert_eq!(stage.carry(a, u64::MAX), Verdict::Ahead);
    assert_eq!(stage.carry(a, 69_999), Verdict::TooLate);
    assert_eq!(stage.alignment(b), Some(Alignment { rule: Rule::Carried, twin: true }));
}

#[test]
fn a_carried_media_time_that_cannot_be_is_anchored_anew() {
    let (mut stage, _) = twins();
    let a = stage.leg();
    stage.carry(a, 1_000);
    stage.close(a);
    stage.wait(1_000);
    let b = stage.leg();
    // It counts media time from its own start.
    let frame = |position: u64, ticks| crate::frame::CarriedFrame {
        position,
        media_time: crate::time::MediaTime::from_ticks(ticks),
        marker: false,
        capture_time: None,
        audio_level: None,
        payload: Encoder::new(1).payload(position),
    };
    let mut carry = |position, ticks| {
        let frame = crate::track::Arrived::carried(stage.now, frame(position, ticks));
        stage.merge.take(stage.now, b, frame, &mut stage.timeline).verdict
    };
    assert_eq!(carry(1_001, 5), Verdict::Accepted);
    assert_eq!(carry(1_003, 5 + 1_920), Verdict::Accepted);
    assert_eq!(carry(1_002, 5 + 960), Verdict::Accepted);
    let start = 960_000 + 48_000;
    assert_eq!(stage.media(), [960_000, start, start + 960, start + 1_920]);
}

#[test]
fn a_flood_ahead_of_a_hole_is_bounded() {
    let (mut stage, _) = twins();
    let (a, b) = (stage.leg(), stage.leg());
    stage.carry(a, 0);
    let verdicts: Vec<_> = (2..2_000).map(|position| stage.carry(b, position)).collect();
    let held = verdicts.iter().filter(|&&verdict| verdict == Verdict::Held).count();
    assert_eq!(held, super::super::super::held::MAX_HELD);
    assert!(verdicts[held..].iter().all(|&verdict| verdict == Verdict::RateLimited));
}

#[test]
fn a_leg_that_turns_out_to_be_no_twin_is_one_no_more() {
    let (mut stage, voice) = twins();
    let (a, b) = (stage.leg(), stage.leg());
    for n in 0..5 {
        stage.bring(a, &voice, n);
        stage.bring(b, &voice, n);
        stage.wait(20);
    }
    let other = Encoder { sound: 1, ..voice };
    for n in 5..50 {
        assert_eq!(stage.bring(a, &voice, n), Verdict::Accepted);
        assert_ne!(
            stage.bring(b, &other, n),
            Verdict::Accepted,
            "{n}: its sound has no place among the other's"
        );
        stage.wait(20);
    }
    assert!(stage.heard().into_iter().all(|heard| heard.is_some_and(|(sound, _)| sound == 0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// ST 2022-7: what either path delivers is on the track, once, whatever the skew, and whoever leads.
    #[test]
    fn what_either_path_delivers_is_heard(
        start in any::<u16>(),
        timestamp in any::<u32>(),
        skew_ms in 0_u64..440,
        slow in 0_usize..2,
        losses in prop::collection::vec((prop::bool::weighted(0.1), prop::bool::weighted(0.1)), 150),
        carried in any::<bool>(),
    ) {
        let mut stage = Stage::new();
        let voice = Encoder { sequence: start, timestamp, ..Encoder::new(7) };
        let legs = [stage.leg(), stage.leg()];
        let mut packets = Vec::new();
        for (n, &(first, second)) in losses.iter().enumerate() {
            let n = n as u64;
            for (leg, lost) in [(0, first), (1, second)] {
                let late = if leg == slow { skew_ms * 1_000 } else { 0 };
                if !lost || n == 0 {
                    packets.push((n * 20_000 + late, leg, n));
                }
            }
        }
        packets.sort_unstable();
        for (us, leg, n) in packets {
            stage.at_us(us);
            if carried { stage.carry(legs[leg], n) } else { stage.bring(legs[leg], &voice, n) };
        }
        stage.wait(500);
        let heard = stage.heard();
        for (n, &(first, second)) in losses.iter().enumerate() {
            let delivered = !(first && second) || n == 0;
            let expected = delivered.then_some((0, n as u64));
            if n < heard.len() || delivered {
                prop_assert_eq!(heard[n], expected, "{}", n);
            }
        }
        prop_assert_eq!(stage.merge.held(), 0);
    }
}
