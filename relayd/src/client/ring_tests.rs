//! The ring in virtual time.

use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

const FRAME: Duration = Duration::from_millis(20);

fn kept(number: u64) -> Kept {
    let stamp = Stamp { timestamp: number as u32 * 960, captured: SystemTime::UNIX_EPOCH, marker: false };
    Kept { stamp, at: number * 960, samples: 960, payload: Bytes::from(number.to_be_bytes().to_vec()) }
}

fn filled(frames: u64) -> Ring {
    let mut ring = Ring::default();
    (0..frames).for_each(|number| assert_eq!(ring.push(kept(number)), number));
    ring
}

fn drain(cursor: &mut Cursor, now: Instant, ring: &Ring) -> Vec<u64> {
    std::iter::from_fn(|| cursor.poll(now, ring)).collect()
}

#[test]
fn thirty_seconds_are_kept_and_what_falls_out_unacknowledged_is_counted() {
    let mut ring = filled(1500);
    assert_eq!((ring.anchor(), ring.end(), ring.dropped(), ring.waiting()), (0, 1500, 0, 1500));
    ring.push(kept(1500));
    assert_eq!((ring.anchor(), ring.dropped(), ring.waiting()), (1, 1, 1500));
    ring.ack(1);
    ring.push(kept(1501));
    assert_eq!((ring.anchor(), ring.dropped()), (2, 1), "what falls out then is safe");
}

#[test]
fn the_last_acknowledged_frames_stay_as_anchors_and_those_before_them_go() {
    let mut ring = filled(100);
    ring.ack(59);
    assert_eq!((ring.anchor(), ring.waiting(), ring.frames.len()), (57, 40, 43));
    ring.ack(40);
    ring.ack(100);
    assert_eq!((ring.safe(), ring.waiting()), (Some(59), 40), "neither backwards nor beyond the end");
    ring.ack(99);
    assert_eq!((ring.anchor(), ring.waiting(), ring.frames.len()), (97, 0, 3));
}

#[test]
fn a_new_connection_catches_up_oldest_first_at_four_times_real_time() {
    let start = Instant::now();
    let mut ring = filled(500);
    ring.ack(99);
    let mut cursor = Cursor::new(start, &ring);
    let (mut now, mut sent, mut pushed) = (start, Vec::new(), start);
    while cursor.behind(&ring) > 0 {
        now = now.max(cursor.wake(&ring).unwrap_or(now));
        while now >= pushed + FRAME {
            pushed += FRAME;
            ring.push(kept(ring.end()));
        }
        let burst = drain(&mut cursor, now, &ring);
        assert!(burst.len() <= 5, "{burst:?}");
        sent.extend(burst);
    }
    assert!(sent.iter().copied().eq(97..ring.end()), "each once, in order, the anchors first");
    // 403 frames and what was said meanwhile: a third more.
    let took = now - start;
    assert!((Duration::from_millis(2_600)..Duration::from_millis(2_700)).contains(&took), "{took:?}");
}

#[test]
fn a_frame_that_is_asked_for_goes_out_before_the_next_and_once() {
    let now = Instant::now();
    let mut ring = filled(3);
    let mut cursor = Cursor::new(now, &ring);
    let later = now + FRAME;
    let sent: Vec<u64> = (0..3).flat_map(|step| drain(&mut cursor, now + FRAME / 4 * step, &ring)).collect();
    assert_eq!(sent, [0, 1, 2]);
    (0..5).for_each(|_| cursor.ask_again(1));
    cursor.ask_again(7);
    ring.push(kept(3));
    assert_eq!(drain(&mut cursor, later + FRAME, &ring), [1, 3]);
    ring.ack(2);
    cursor.ask_again(1);
    assert_eq!(drain(&mut cursor, later + FRAME * 2, &ring), [0_u64; 0], "it is safe meanwhile");
    assert_eq!(cursor.resent(), 1);
}

#[test]
fn silence_counts_only_while_an_answer_is_due() {
    let start = Instant::now();
    let mut ring = filled(3);
    let mut cursor = Cursor::new(start, &ring);
    (0..3).for_each(|step| drop(drain(&mut cursor, start + FRAME / 4 * step, &ring)));
    let at = |ms| start + Duration::from_millis(ms);
    assert_eq!(cursor.silent(at(600), &ring), Duration::from_millis(600));
    ring.ack(2);
    cursor.ack(at(600), 2);
    assert_eq!(cursor.silent(at(5_000), &ring), Duration::ZERO);
    ring.push(kept(3));
    assert_eq!(drain(&mut cursor, at(5_000), &ring), [3]);
    assert_eq!(cursor.silent(at(5_100), &ring), Duration::from_millis(100), "counted from when it was sent");
}

#[test]
fn a_tail_that_is_not_acknowledged_is_sent_again_and_again() {
    let start = Instant::now();
    let mut ring = filled(20);
    let mut cursor = Cursor::new(start, &ring);
    let mut now = start;
    while cursor.poll(now, &ring).is_some() || cursor.behind(&ring) > 0 {
        now += FRAME / 4;
    }
    cursor.repair(now + FRAME * 100, &ring);
    assert_eq!(drain(&mut cursor, now, &ring), [0_u64; 0], "nobody acknowledges here: nothing can be known");
    ring.ack(9);
    cursor.ack(now, 9);
    for round in 1..4 {
        let later = now + REPAIR_AFTER * round;
        cursor.repair(later, &ring);
        cursor.repair(later, &ring);
        assert_eq!(drain(&mut cursor, later, &ring), (10..18).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_lost_before_a_new_connection_hears_anything_is_sent_again() {
    let start = Instant::now();
    let mut ring = filled(20);
    ring.ack(9);
    let mut cursor = Cursor::new(start, &ring);
    let mut now = start;
    while cursor.poll(now, &ring).is_some() || cursor.behind(&ring) > 0 {
        now += FRAME / 4;
    }
    cursor.repair(start + REPAIR_AFTER, &ring);
    assert_eq!(drain(&mut cursor, start + REPAIR_AFTER, &ring), (10..18).collect::<Vec<_>>());
}

#[test]
fn what_was_dropped_is_passed_over() {
    let now = Instant::now();
    let mut ring = filled(10);
    let mut cursor = Cursor::new(now, &ring);
    assert_eq!(cursor.poll(now, &ring), Some(0));
    for number in 10..1600 {
        ring.push(kept(number));
    }
    assert_eq!(cursor.poll(now + FRAME, &ring), Some(100));
    assert_eq!(ring.dropped(), 100);
}

proptest! {
    #[test]
    fn every_frame_is_sent_once_unless_asked_for_or_dropped(acks in proptest::collection::vec(0..40_u64, 0..60)) {
        let start = Instant::now();
        let (mut ring, mut sent) = (Ring::default(), Vec::new());
        let mut cursor = Cursor::new(start, &ring);
        for (step, ack) in (0..).zip(acks) {
            let now = start + FRAME * step;
            ring.push(kept(ring.end()));
            while let Some(number) = cursor.poll(now, &ring) {
                sent.push(number);
            }
            if sent.contains(&ack) {
                ring.ack(ack);
                cursor.ack(now, ack);
            }
            prop_assert!(cursor.wake(&ring).is_none_or(|at| at <= now + FRAME));
        }
        prop_assert!(sent.iter().copied().eq(0..sent.len() as u64), "{:?}", sent);
    }
}
