//! What proves where the frames of a leg belong, and what becomes of them without proof.

use super::stage::{Encoder, Stage};
use crate::io::{LegState, Verdict};
use crate::stats::Rule;

/// A leg that is gone brought frames 0 to 49 but for 10 to 39.
fn with_holes(voice: &Encoder) -> Stage {
    let mut stage = Stage::new();
    let a = stage.leg();
    stage.bring_live(a, voice, (0..10).chain(40..50));
    stage.close(a);
    stage.wait(1_000);
    stage
}

#[test]
fn what_fits_holes_of_a_stream_that_is_gone_fills_them_when_nothing_better_is_known() {
    let voice = Encoder::new(5);
    let mut stage = with_holes(&voice);
    let b = stage.leg();
    assert_eq!(stage.bring(b, &voice, 10), Verdict::Held);
    stage.close(b);
    assert_eq!(stage.heard()[10], Some((0, 10)));
    assert_eq!(stage.timeline.next_position(), 50);
}

#[test]
fn a_clock_that_agrees_with_the_numbers_is_proof() {
    let voice = Encoder { captures: true, ..Encoder::new(5) };
    let mut stage = with_holes(&voice);
    let b = stage.leg();
    assert_eq!(stage.bring(b, &voice, 10), Verdict::Accepted);
    let mut stage = with_holes(&voice);
    let b = stage.leg();
    let other = Encoder { sound: 1, phase_us: 1_000_000, ..voice };
    assert_eq!(stage.bring(b, &other, 10), Verdict::Held, "another time at the same numbers");
}

#[test]
fn a_live_frame_is_of_the_stream_that_another_leg_sends_again() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring(a, &voice, 0);
    stage.at_us(voice.captured_us(650));
    stage.bring_all(a, &voice, 1..10);
    assert_eq!(stage.bring(b, &voice, 650), Verdict::Held);
    assert_eq!(stage.alignment(b).map(|alignment| alignment.rule), Some(Rule::SameSource));
    stage.close(b);
    assert_eq!(stage.timeline.next_position(), 651, "what it held has its place");
}

#[test]
fn a_live_frame_is_of_the_stream_with_which_the_track_began_though_that_was_old() {
    for (number, rule) in [(400, Some(Rule::SameSource)), (3_100, None)] {
        let mut stage = Stage::new();
        let voice = Encoder::new(5);
        let (a, b) = (stage.leg(), stage.leg());
        stage.at_us(voice.captured_us(number) - 10_000);
        stage.bring_all(a, &voice, 0..2);
        stage.at_us(voice.captured_us(number));
        assert_eq!(stage.bring(b, &voice, number) == Verdict::Held, rule.is_some());
        assert_eq!(stage.alignment(b).map(|alignment| alignment.rule), rule);
        stage.close(b);
        assert_eq!(stage.timeline.next_position(), if rule.is_some() { number + 1 } else { 2 });
    }
}

#[test]
fn a_leading_leg_is_known_by_what_the_other_one_brings() {
    let mut stage = Stage::new();
    let voice = Encoder { captures: true, ..Encoder::new(5) };
    let twin = Encoder { ssrc: 6, sequence: 700, timestamp: 9, ..voice };
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring_live(a, &voice, 0..10);
    // As after a rest: numbers go on, time has passed.
    let (voice, twin) = (rested(voice), rested(twin));
    stage.at_us(voice.captured_us(10));
    assert_eq!(stage.bring(b, &twin, 10), Verdict::Held, "it leads, since the other one is silent");
    assert_eq!(stage.bring(a, &voice, 10), Verdict::Accepted);
    assert_eq!(stage.bring(b, &twin, 12), Verdict::Accepted);
    assert_eq!(stage.bring(b, &twin, 11), Verdict::Accepted);
    stage.assert_whole(0, 13);
}

fn rested(of: Encoder) -> Encoder {
    Encoder { phase_us: 600_000, timestamp: of.timestamp.wrapping_add(28_800), ..of }
}

#[test]
fn what_waited_for_a_position_that_another_leg_took_is_not_lost() {
    let mut stage = Stage::new();
    let voice = Encoder { captures: true, ..Encoder::new(5) };
    let twin = Encoder { ssrc: 6, sequence: 700, timestamp: 9, ..voice };
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring_live(a, &voice, 0..10);
    stage.at_us(voice.captured_us(40));
    stage.bring(b, &twin, 40);
    assert_eq!(stage.bring(a, &voice, 40), Verdict::Held);
    stage.at_us(voice.captured_us(41));
    assert_eq!(stage.bring(a, &voice, 41), Verdict::Held);
    stage.wait(30);
    assert_eq!(stage.timeline.next_position(), 11, "nothing proved the two to be twins");
    stage.bring(b, &twin, 43);
    stage.bring(a, &voice, 42);
    stage.bring(a, &voice, 43);
    let heard: Vec<_> = stage.heard().into_iter().flatten().map(|(_, n)| n).collect();
    assert_eq!(heard, (0..10).chain(40..44).collect::<Vec<_>>());
}

#[test]
fn what_is_from_before_the_first_frame_is_not_appended() {
    let mut stage = Stage::new();
    let voice = Encoder { captures: true, ..Encoder::new(5) };
    let twin = Encoder { ssrc: 6, sequence: 700, timestamp: 9, ..voice };
    let a = stage.leg();
    stage.at_us(voice.captured_us(15));
    stage.bring(a, &voice, 15);
    stage.close(a);
    let b = stage.leg();
    for n in 0..12 {
        stage.wait(20);
        stage.bring(b, &twin, n);
    }
    stage.wait(1_000);
    assert_eq!(stage.heard(), [Some((0, 15))]);
}

#[test]
fn a_leg_that_leads_again_because_the_new_one_is_down_is_told_of_as_spent_once() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring_all(a, &voice, 0..10);
    stage.bring_all(b, &voice, 0..10);
    stage.switch(b).unwrap();
    assert_eq!(stage.spent.len(), 1);
    stage.state(b, LegState::Down);
    stage.state(b, LegState::Up);
    stage.switch(b).unwrap();
    stage.bring_all(b, &voice, 10..12);
    stage.wait(1_000);
    assert_eq!(stage.spent.len(), 1);
    stage.switch(a).unwrap();
    stage.bring_all(a, &voice, 10..13);
    assert_eq!(stage.spent.len(), 2, "the other one is another leg");
}
