//! Switches that the owner asks for, and fencing.

use super::stage::{Encoder, FRAME, Stage};
use crate::io::{Event, LegState, SwitchError, Verdict};
use crate::track::merge::Refused;

fn spent(stage: &mut Stage) -> Vec<(u64, u64)> {
    let told = std::mem::take(&mut stage.spent).into_iter();
    told.map(|event| match event {
        Event::LegSpent { position, gap_frames, .. } => (position, gap_frames),
        event => panic!("{event:?}"),
    })
    .collect()
}

#[test]
fn a_leg_cannot_be_switched_to_unless_it_is_there_up_and_not_alone() {
    let mut stage = Stage::new();
    let a = stage.leg();
    assert_eq!(stage.switch(a), Err(SwitchError::OnlyLeg(a)));
    let b = stage.leg();
    stage.state(b, LegState::Connecting);
    assert_eq!(stage.switch(b), Err(SwitchError::NotUp(b)));
    stage.close(b);
    assert_eq!(stage.switch(b), Err(SwitchError::UnknownLeg(b)));
}

#[test]
fn a_twin_takes_over_and_the_old_leg_is_spent_once_all_before_the_cut_is_there() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let (a, b) = (stage.leg(), stage.leg());
    for n in 0..10 {
        stage.bring(a, &voice, n);
    }
    // The new path is 100 ms behind.
    stage.bring_all(b, &voice, 0..5);
    assert_eq!(stage.switch(b), Ok(()));
    assert_eq!(stage.switch(b), Ok(()), "idempotent");
    assert_eq!(spent(&mut stage), [], "what the new leg has not reached is still the old one's");
    assert_eq!(stage.bring(a, &voice, 10), Verdict::Accepted);
    stage.bring_all(b, &voice, 5..11);
    assert_eq!(spent(&mut stage), [(10, 0)]);
    assert_eq!(stage.switch(b), Ok(()));
    assert_eq!(spent(&mut stage), [], "told once");
    stage.close(a);
    assert_eq!(stage.bring(b, &voice, 11), Verdict::Accepted);
    stage.assert_whole(0, 12);
}

#[test]
fn holes_before_the_cut_are_waited_for_as_long_as_the_skew_and_then_told() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let (a, b) = (stage.leg(), stage.leg());
    for n in [0, 1, 4, 5] {
        stage.bring(a, &voice, n);
        stage.bring(b, &voice, n);
    }
    stage.switch(b).unwrap();
    assert_eq!(spent(&mut stage), []);
    stage.bring(a, &voice, 2);
    for _ in 0..5 {
        stage.wait(90);
        stage.bring(a, &voice, 5);
    }
    assert_eq!(spent(&mut stage), [(6, 1)]);
}

#[test]
fn a_leg_that_has_brought_nothing_is_switched_to_when_it_does() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let other = Encoder { sound: 1, ..Encoder::new(6) };
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring(a, &voice, 0);
    stage.switch(b).unwrap();
    for n in 1..50 {
        stage.wait(20);
        assert_eq!(stage.bring(a, &voice, n), Verdict::Accepted, "the old leg goes on");
    }
    for n in 0..5 {
        stage.wait(20);
        stage.bring(a, &voice, 50 + n);
        stage.bring(b, &other, n);
    }
    assert_eq!(spent(&mut stage).len(), 1);
    assert_eq!(stage.merge.legs()[0], Some(b));
    let heard = stage.heard();
    assert_eq!(heard.last(), Some(&Some((1, 4))));
    assert!(heard.iter().all(Option::is_some));
}

#[test]
fn when_nobody_speaks_the_old_leg_is_spent_after_the_skew() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring(a, &voice, 0);
    stage.wait(60_000);
    stage.switch(b).unwrap();
    assert_eq!(spent(&mut stage), []);
    stage.wait(450);
    assert_eq!(spent(&mut stage), [(1, 0)]);
    stage.close(a);
    assert_eq!(stage.bring(b, &Encoder::new(6), 0), Verdict::Accepted);
}

#[test]
fn an_old_leg_that_rests_may_still_bring_what_the_new_one_lost() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let (a, b) = (stage.leg(), stage.leg());
    stage.bring(a, &voice, 0);
    stage.switch(b).unwrap();
    stage.wait(440);
    stage.bring(b, &voice, 2);
    stage.wait(20);
    assert_eq!(spent(&mut stage), [], "silent for the skew, and 1 is on its way");
    assert_eq!(stage.bring(a, &voice, 1), Verdict::Accepted);
    assert_eq!(stage.bring(a, &voice, 2), Verdict::Duplicate);
    assert_eq!(spent(&mut stage).len(), 1);
    stage.assert_whole(0, 3);
}

#[test]
fn a_switch_to_a_leg_that_is_ahead_waits_for_the_old_one() {
    let mut stage = Stage::new();
    let voice = Encoder { captures: true, ..Encoder::new(5) };
    let other = Encoder { captures: true, sound: 1, ..Encoder::new(6) };
    let (a, b) = (stage.leg(), stage.leg());
    // The old path is 200 ms behind the new one, which comes up when time is nearly over.
    for n in 0..60 {
        stage.at_us(voice.captured_us(n + 10));
        stage.bring(a, &voice, n);
        if n == 20 {
            stage.switch(b).unwrap();
        }
        if n >= 40 {
            stage.bring(b, &other, n + 10);
        }
    }
    let media = stage.media();
    assert!(media.windows(2).all(|pair| pair[1] - pair[0] == FRAME), "{media:?}");
    assert_eq!(stage.merge.legs()[0], Some(b));
}

#[test]
fn an_old_leg_that_is_down_and_owes_nothing_is_spent_at_once() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let (a, b) = (stage.leg(), stage.leg());
    for n in 0..3 {
        stage.bring(a, &voice, n);
        stage.bring(b, &voice, n);
    }
    stage.state(a, LegState::Down);
    assert_eq!(stage.merge.legs()[0], Some(b));
    stage.switch(b).unwrap();
    assert_eq!(spent(&mut stage), [(3, 0)]);
}

#[test]
fn a_new_leg_that_dies_before_the_cut_leaves_the_old_one_leading() {
    let mut stage = Stage::new();
    let (voice, other) = (Encoder::new(5), Encoder { sound: 1, ..Encoder::new(6) });
    for closed in [false, true] {
        let (a, b) = (stage.leg(), stage.leg());
        let start = stage.timeline.next_position();
        for n in start..start + 10 {
            stage.wait(20);
            stage.bring(a, &voice, n);
            stage.bring(b, &other, n);
        }
        stage.switch(b).unwrap();
        if closed {
            stage.close(b)
        } else {
            stage.state(b, LegState::Down)
        }
        for n in start + 10..start + 60 {
            stage.bring(a, &voice, n);
            stage.wait(20);
        }
        stage.close(a);
        if !closed {
            stage.close(b);
        }
        assert_eq!(stage.timeline.next_position(), start + 60);
        assert_eq!(spent(&mut stage), []);
    }
}

#[test]
fn an_epoch_fences_those_before_it() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let (a, b) = (stage.leg(), stage.leg());
    assert_eq!(stage.leg_of(0), Err(Refused::Full));
    for n in 0..3 {
        stage.bring(a, &voice, n);
        stage.bring(b, &voice, n);
    }
    assert_eq!(stage.bring(b, &voice, 4), Verdict::Held);
    let c = stage.leg_of(7).unwrap();
    assert_eq!(stage.timeline.next_position(), 5, "what was there before it is heard before it");
    assert_eq!(stage.bring(a, &voice, 5), Verdict::Fenced);
    assert_eq!(stage.bring(b, &voice, 3), Verdict::Fenced, "I8: nor into a hole");
    assert_eq!(stage.leg_of(6), Err(Refused::Fenced(7)));
    stage.wait(1_000);
    let other = Encoder { sound: 1, ..Encoder::new(6) };
    assert_eq!(stage.bring(c, &other, 0), Verdict::Accepted);
    stage.close(c);
    assert_eq!(stage.leg_of(0), Err(Refused::Fenced(7)), "an epoch outlives its legs");
    assert_eq!(stage.merge.any_leg(), Some(a), "its legs are still the owner's to close");
    stage.close(a);
    stage.close(b);
    assert_eq!(stage.merge.any_leg(), None);
}

#[test]
fn a_leg_that_proves_to_be_a_twin_after_the_splice_leaves_the_other_ones_frames_where_they_are() {
    let mut stage = Stage::new();
    let voice = Encoder { captures: true, ..Encoder::new(5) };
    let again = Encoder { ssrc: 6, sequence: 900, timestamp: 77_000, ..voice };
    let (a, b) = (stage.leg(), stage.leg());
    let lost = [42, 43];
    stage.bring_live(a, &voice, (0..100).filter(|n| !lost.contains(n)));
    assert_eq!(stage.bring(b, &again, 42), Verdict::Held, "nothing proves yet where it belongs");
    stage.switch(b).unwrap();
    stage.bring_live(a, &voice, 100..125);
    stage.bring(b, &again, 43);
    for n in 44..135 {
        stage.bring(b, &again, n);
        if n % 4 == 0 {
            stage.at_us(voice.captured_us(125 + (n - 44) / 4));
            assert_eq!(stage.bring(a, &voice, 125 + (n - 44) / 4), Verdict::Accepted, "{n}");
        }
    }
    for n in [42, 43] {
        stage.bring(b, &again, n);
    }
    stage.wait(1_000);
    stage.bring(b, &again, 148);
    stage.assert_whole(0, 149);
    assert_eq!(stage.timeline.sources, 1, "it is one stream throughout");
}
