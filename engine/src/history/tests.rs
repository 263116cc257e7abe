//! The history against a map, its bounds, and its memory.

use proptest::prelude::*;

use super::*;
use crate::Config;
use crate::time::tests::origin;

fn frame(position: u64, arrived: Instant, bytes: usize) -> Frame<'static> {
    Frame {
        position,
        media_time: MediaTime::from_ticks(position * 960),
        arrived,
        marker: false,
        capture_time: None,
        audio_level: None,
        payload: &[0; 1_000][..bytes],
    }
}

fn filled(config: Config, positions: impl IntoIterator<Item = u64>) -> History {
    let mut history = History::new(config.history);
    let start = origin();
    for position in positions {
        history.push(frame(position, start, 10));
    }
    history
}

fn held(history: &History) -> Vec<u64> {
    (0..100_000).filter(|&position| history.get(position).is_some()).collect()
}

#[test]
fn an_empty_history_has_nothing_and_room_for_all() {
    let history = History::new(Config::new().history);
    assert_eq!(history.oldest(), None);
    assert_eq!(history.get(0), None);
    assert_eq!(history.arrival(0), None);
    assert_eq!(history.place(0), Place::New);
    assert_eq!(history.next_arrival(), 0);
}

#[test]
fn it_knows_frames_holes_and_what_is_gone() {
    let history = filled(Config::new().history_frames(4), [0, 1, 2, 3, 4, 7]);
    assert_eq!(held(&history), [4, 7]);
    assert_eq!(history.oldest(), Some(4));
    let places: Vec<_> = [3, 4, 5, 6, 7, 8].into_iter().map(|position| history.place(position)).collect();
    assert_eq!(places, [Place::Gone, Place::Taken, Place::Hole, Place::Hole, Place::Taken, Place::New]);
}

#[test]
fn arrivals_are_in_the_order_they_came() {
    let history = filled(Config::new(), [0, 3, 1, 2]);
    let order: Vec<_> = (0..5).map(|arrival| history.arrival(arrival)).collect();
    assert_eq!(order, [Some(0), Some(3), Some(1), Some(2), None]);
}

#[test]
fn an_arrival_whose_frame_is_gone_cannot_be_read() {
    let mut history = History::new(Config::new().history_payload_bytes(30).history);
    let start = origin();
    for position in [0, 2, 1, 3, 4] {
        history.push(frame(position, start, 10));
    }
    assert_eq!(history.oldest(), Some(2));
    let order: Vec<_> = (0..6).map(|arrival| history.arrival(arrival)).collect();
    assert_eq!(order, [None, Some(2), None, Some(3), Some(4), None], "1 came after 2 and left before it");
}

#[test]
fn what_is_held_is_in_the_arrival_log() {
    let history = filled(Config::new().history_frames(3), [0, 2, 1, 3, 4]);
    let order: Vec<_> = (0..5).map(|arrival| history.arrival(arrival)).collect();
    assert_eq!(order, [None, Some(2), None, Some(3), Some(4)], "2 is held, though three came after it");
    let logged: Vec<_> = (0..6).map(|arrival| history.position_of(arrival)).collect();
    assert_eq!(logged, [Some(0), Some(2), Some(1), Some(3), Some(4), None], "some of what is gone is known");
}

#[test]
fn a_step_past_the_whole_span_leaves_only_the_newest() {
    let history = filled(Config::new().history_frames(10), [0, 1, 2, 50_000]);
    assert_eq!(held(&history), [50_000]);
    assert_eq!((history.frames(), history.payload_bytes()), (1, 10));
    assert_eq!(history.place(49_999), Place::Gone);
}

#[test]
fn one_frame_is_enough() {
    let history = filled(Config::new().history_frames(1), 0..10);
    assert_eq!(held(&history), [9]);
    assert_eq!(history.arrival(9), Some(9));
    assert_eq!(history.first_arrival(), 9);
}

#[test]
fn payload_bytes_are_bounded_and_the_newest_stays() {
    let mut history = History::new(Config::new().history_payload_bytes(100).history);
    let start = origin();
    for position in 0..20 {
        history.push(frame(position, start, 30));
        assert!(history.payload_bytes() <= 100);
    }
    assert_eq!(history.frames(), 3);
    history.push(frame(20, start, 1_000));
    assert_eq!(held(&history), [20]);
}

#[test]
fn frames_leave_with_age() {
    let mut history = History::new(Config::new().history_duration(Duration::from_millis(100)).history);
    let start = origin();
    for position in 0..20 {
        history.push(frame(position, start + Duration::from_millis(20 * position), 1));
    }
    assert_eq!(held(&history), [14, 15, 16, 17, 18, 19]);
    history.push(frame(20, start + Duration::from_secs(3_600), 1));
    assert_eq!(held(&history), [20]);
}

#[test]
fn a_position_costs_what_the_config_says() {
    assert_eq!(size_of::<Entry>() + size_of::<u32>(), 36);
}

#[test]
fn an_unused_history_owns_no_memory() {
    let history = History::new(Config::new().history);
    assert_eq!(history.memory(), 0);
}

#[test]
fn half_a_minute_of_20_ms_frames_costs_64_kib_beside_its_payloads() {
    for config in [Config::new(), Config::new().history_frames(1_500)] {
        let mut history = History::new(config.history);
        let start = origin();
        let payload = [7; 80];
        let mut memory = Vec::new();
        for position in 0..20_000 {
            let arrived = start + Duration::from_millis(20 * position);
            let capture = CaptureTime { time: NtpTime(position), offset: None };
            let frame = Frame {
                position,
                arrived,
                capture_time: Some(capture),
                payload: &payload,
                ..frame(0, start, 0)
            };
            history.push(frame);
            memory.push(history.memory());
        }
        assert!(history.frames() >= 1_500);
        let beside = history.memory() - history.payload_bytes();
        assert!(beside <= 64 * 1_024, "{beside} bytes");
        assert_eq!(memory[1_600..].iter().max(), Some(&memory[1_600]), "the steady state allocates nothing");
    }
}

#[test]
fn a_frame_comes_back_as_it_was() {
    let start = origin();
    let mut history = History::new(Config::new().history);
    let capture = |offset| Some(CaptureTime { time: NtpTime(u64::MAX - 5), offset });
    let level = |voice, level| Some(AudioLevel { voice, level });
    let frames = [
        Frame {
            marker: true,
            capture_time: capture(None),
            audio_level: level(true, 127),
            ..frame(0, start, 3)
        },
        Frame {
            capture_time: capture(Some(i64::MIN)),
            audio_level: level(false, 0),
            ..frame(1, start, 1_000)
        },
        Frame {
            media_time: MediaTime::from_ticks(u64::MAX),
            arrived: start + Duration::from_nanos(1),
            ..frame(3, start, 0)
        },
        Frame {
            capture_time: capture(Some(-1)),
            payload: b"late",
            ..frame(2, start + Duration::from_secs(9), 0)
        },
    ];
    for frame in frames {
        history.push(frame);
    }
    for frame in frames {
        assert_eq!(history.get(frame.position), Some(frame));
    }
    assert_eq!(history.payload_bytes(), 1_007);
}

#[test]
fn frames_without_a_byte_come_and_go_like_others() {
    let mut history = History::new(Config::new().history_frames(200).history);
    let start = origin();
    for position in 0..10_000 {
        // 32 of 128 bytes fill a chunk to its last byte.
        let bytes = if position % 33 == 32 { 0 } else { 128 };
        history.push(frame(position, start, bytes));
        assert_eq!(history.get(position).map(|frame| frame.payload.len()), Some(bytes));
    }
    assert_eq!(history.frames(), 200);
}

#[test]
fn positions_wider_than_the_log_are_told_in_full() {
    let start = origin();
    let mut history = History::new(Config::new().history);
    let base = (1 << 40) - 3;
    for position in [base, base + 4, base + 2, base + 1, base + 8] {
        history.push(frame(position, start, 1));
    }
    let order: Vec<_> =
        (0..5).map(|arrival| history.arrival(arrival).map(|position| position - base)).collect();
    assert_eq!(order, [Some(0), Some(4), Some(2), Some(1), Some(8)]);
    // Further than the log is wide, and to the same low half as the last one.
    history.push(frame(base + 8 + (1 << 32), start, 1));
    assert_eq!(history.arrival(5), Some(base + 8 + (1 << 32)));
    assert_eq!(history.arrival(4), None);
    assert_eq!(history.first_arrival(), 5);
}

#[test]
fn frames_behind_newer_ones_leave_early_when_they_keep_chunks_from_being_used_again() {
    // Every second position at once, then the rest: each chunk holds one half, and they go by turns.
    let config = Config::new().history_frames(4_000).history_payload_bytes(40_000);
    let mut history = History::new(config.history);
    let start = origin();
    for round in 0..20_u64 {
        let base = round * 200;
        for position in (0..200).step_by(2).chain((1..200).step_by(2)) {
            history.push(frame(base + position, start, 100));
            assert!(history.memory() <= 80_000, "I3: {}", history.memory());
            assert!(history.payload_bytes() <= 40_000);
        }
        assert!(history.get(base + 198).is_some() && history.get(base + 199).is_some());
    }
    assert!(history.payload_bytes() > 30_000, "{}", history.payload_bytes());
}

#[test]
fn the_newest_stays_whatever_a_late_one_brings() {
    let config = Config::new().history_payload_bytes(1);
    let mut history = History::new(config.history);
    let start = origin();
    for position in [0, 9, 3, 5, 4, 10, 8] {
        if matches!(history.place(position), Place::Hole | Place::New) {
            history.push(frame(position, start, 1_000));
        }
    }
    assert_eq!(held(&history), [10]);
}

proptest! {
    #[test]
    fn it_agrees_with_a_map(steps in prop::collection::vec((0_u64..12, 0_usize..40), 1..300), frames in 1_usize..20) {
        let limits = Config::new().history_frames(frames).history_payload_bytes(200).history;
        let mut history = History::new(limits);
        let mut model = std::collections::BTreeMap::new();
        let (start, mut newest) = (origin(), 0);
        let mut arrivals = 0;
        for (offset, bytes) in steps {
            // Around the newest: behind, at, or ahead of it.
            let position = (newest + offset).saturating_sub(5);
            let place = history.place(position);
            prop_assert_eq!(place == Place::Taken, model.contains_key(&position));
            if !matches!(place, Place::New | Place::Hole) {
                continue;
            }
            prop_assert_eq!(history.push(frame(position, start, bytes)), arrivals);
            arrivals += 1;
            model.insert(position, bytes);
            newest = newest.max(position);
            model.retain(|&at, _| at + frames as u64 > newest);
            while model.len() > 1 && model.values().sum::<usize>() > 200 {
                model.pop_first();
            }
            prop_assert_eq!(held_near(&history, newest), model.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(history.frames(), model.len());
            prop_assert_eq!(history.payload_bytes(), model.values().sum::<usize>());
            prop_assert!(history.arrivals.len() <= 2 * frames && history.ring.len() <= frames);
            let logged = history.first_arrival()..history.next_arrival();
            let logged: std::collections::BTreeSet<_> = logged.filter_map(|at| history.arrival(at)).collect();
            prop_assert!(model.keys().all(|position| logged.contains(position)));
            prop_assert!(history.oldest() == model.keys().next().copied());
        }
    }
}

fn held_near(history: &History, newest: u64) -> Vec<u64> {
    (newest.saturating_sub(100)..=newest).filter(|&position| history.get(position).is_some()).collect()
}
