//! One stream out of one or two connections that bring it: frames by ascending position, each once.
//!
//! At a hole the later frames wait until it is filled, or for as long as it can still be: then it stays a hole. Nobody
//! waits for a file, so the wait is long where a missing frame can be had again, and short where it cannot. Frames also
//! wait until it is known that none comes before them: the newer of two connections may be heard first.
//!
//! Invariants: positions that come out strictly increase; at most [`MAX_HELD`] frames wait.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Frames that wait at a hole at most: more than a minute of 20 ms frames. About 200 bytes each.
pub(super) const MAX_HELD: usize = 4096;

/// Whether a frame is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It is the first of its position.
    First,
    /// Its position was there before.
    Again,
    /// It was given up before it came.
    Late,
}

/// Puts frames in order.
#[derive(Debug)]
pub(super) struct Merge<T> {
    /// Once the stream has begun.
    next: Option<u64>,
    /// The first position that was heard of before that.
    earliest: Option<u64>,
    held: BTreeMap<u64, T>,
    /// How long a hole is waited for.
    patience: Duration,
    /// How many frames may come after it meanwhile.
    most: usize,
    /// Since when the first hole is one.
    hole: Option<Instant>,
    given_up: u64,
    /// Ranges that were given up, for telling late frames from repeated ones; the newest few.
    lost: Vec<(u64, u64)>,
}

impl<T> Merge<T> {
    /// Waits for a hole so long, and while so many frames come after it.
    pub(super) fn new(patience: Duration, most: usize) -> Self {
        let (held, lost) = (BTreeMap::new(), Vec::new());
        let most = most.min(MAX_HELD);
        Self { next: None, earliest: None, held, patience, most, hole: None, given_up: 0, lost }
    }

    /// There is a frame at this position, which may or may not come.
    pub(super) fn expect(&mut self, position: u64) {
        self.earliest = Some(self.earliest.map_or(position, |earliest| earliest.min(position)));
    }

    /// Nothing comes before what was heard of by now: the stream begins, if it has not begun.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.next.is_none() {
            self.next = self.earliest;
            self.look(now);
        }
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, now: Instant, position: u64, frame: T) -> News {
        self.expect(position);
        if self.next.is_some_and(|next| position < next) {
            let lost = self.lost.iter().any(|(from, to)| (*from..*to).contains(&position));
            return if lost { News::Late } else { News::Again };
        }
        if self.held.contains_key(&position) {
            return News::Again;
        }
        self.held.insert(position, frame);
        self.look(now);
        News::First
    }

    /// The next frame in order, if it is there, or what comes after a hole that was given up.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(u64, T)> {
        let (&first, _) = self.held.first_key_value()?;
        if Some(first) != self.next {
            let over = self.hole.is_some_and(|since| now >= since + self.patience);
            if !over && self.held.len() <= self.most {
                return None;
            }
        }
        Some(self.take(now, first))
    }

    /// The next frame whether or not something is missing before it: at the end.
    pub(super) fn pop_any(&mut self, now: Instant) -> Option<(u64, T)> {
        let (&first, _) = self.held.first_key_value()?;
        Some(self.take(now, first))
    }

    /// The first hole and since when it is there.
    pub(super) fn hole(&self) -> Option<(std::ops::Range<u64>, Instant)> {
        let (&first, _) = self.held.first_key_value()?;
        Some((self.next?..first, self.hole?))
    }

    /// The position that is waited for.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Positions that were given up.
    pub(super) fn given_up(&self) -> u64 {
        self.given_up
    }

    fn take(&mut self, now: Instant, position: u64) -> (u64, T) {
        let next = self.next.or(self.earliest).unwrap_or(position);
        self.next = Some(position.saturating_add(1));
        if position > next {
            self.given_up += position - next;
            self.lost.push((next, position));
            if self.lost.len() > 16 {
                self.lost.remove(0);
            }
            self.hole = None;
        }
        let frame = self.held.remove(&position).expect("it is the first key");
        self.look(now);
        (position, frame)
    }

    /// Notes since when there is a hole in front.
    fn look(&mut self, now: Instant) {
        let first = self.held.first_key_value().map(|(first, _)| *first);
        let waits = self.next.is_some() && first.is_some() && first != self.next;
        if !waits {
            self.hole = None;
        } else if self.hole.is_none() {
            self.hole = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Run {
        merge: Merge<u64>,
        now: Instant,
        out: Vec<u64>,
    }

    impl Run {
        fn new(patience: Duration, most: usize) -> Self {
            Self { merge: Merge::new(patience, most), now: Instant::now(), out: Vec::new() }
        }

        fn push(&mut self, position: u64) -> News {
            let news = self.merge.push(self.now, position, position);
            self.merge.begin(self.now);
            self.drain();
            news
        }

        fn drain(&mut self) {
            while let Some((position, frame)) = self.merge.pop(self.now) {
                assert_eq!(position, frame);
                self.out.push(position);
            }
        }
    }

    #[test]
    fn frames_in_order_are_not_held() {
        let mut run = Run::new(PATIENCE, MAX_HELD);
        (5..10).for_each(|position| assert_eq!(run.push(position), News::First));
        assert_eq!(run.out, [5, 6, 7, 8, 9]);
        assert_eq!(run.merge.hole(), None);
    }

    #[test]
    fn two_connections_make_one_stream() {
        let mut run = Run::new(PATIENCE, MAX_HELD);
        let old = [0, 1, 3, 2, 5];
        let new = [3, 4, 5, 6, 7];
        let mut again = 0;
        for position in old.iter().zip(&new).flat_map(|(old, new)| [*old, *new]) {
            again += u32::from(run.push(position) == News::Again);
        }
        assert_eq!((run.out, again), ((0..8).collect(), 2));
    }

    #[test]
    fn a_hole_is_waited_for_for_its_time_and_then_declared() {
        let mut run = Run::new(PATIENCE, MAX_HELD);
        let start = run.now;
        [0, 1, 5, 6].into_iter().for_each(|position| {
            run.push(position);
        });
        assert_eq!(run.merge.hole(), Some((2..5, start)));
        run.now += PATIENCE - Duration::from_nanos(1);
        assert_eq!(run.push(3), News::First);
        assert_eq!((run.out.len(), run.merge.hole()), (2, Some((2..3, start))));
        run.now += Duration::from_nanos(1);
        run.drain();
        assert_eq!(run.out, [0, 1, 3]);
        assert_eq!(run.merge.hole(), Some((4..5, run.now)), "the next hole has its own time");
        assert_eq!(run.push(2), News::Late);
        assert_eq!(run.push(1), News::Again);
        assert_eq!(run.push(4), News::First);
        assert_eq!((run.out.clone(), run.merge.given_up()), (vec![0, 1, 3, 4, 5, 6], 1));
    }

    #[test]
    fn many_frames_after_a_hole_end_the_wait() {
        let mut run = Run::new(PATIENCE, 32);
        (0..5).chain(6..6 + 32).for_each(|position| assert_eq!(run.push(position), News::First));
        assert_eq!(run.out.len(), 5, "one short of giving up");
        run.push(38);
        assert!(run.out.iter().copied().eq((0..5).chain(6..39)));
        assert_eq!(run.merge.given_up(), 1);
    }

    #[test]
    fn the_beginning_may_be_known_before_the_first_frame() {
        let mut run = Run::new(PATIENCE, 32);
        run.merge.expect(7);
        run.merge.begin(run.now);
        run.merge.expect(3);
        run.push(8);
        assert!(run.out.is_empty());
        run.push(7);
        assert_eq!(run.out, [7, 8]);
    }

    #[test]
    fn frames_wait_until_the_beginning_is_known() {
        let mut run = Run::new(PATIENCE, 32);
        run.merge.expect(7);
        for position in [8, 9, 3, 4] {
            assert_eq!(run.merge.push(run.now, position, position), News::First);
            run.drain();
        }
        assert_eq!((run.out.len(), run.merge.next(), run.merge.hole()), (0, None, None));
        run.merge.expect(2);
        run.merge.begin(run.now);
        run.drain();
        assert_eq!((run.out.len(), run.merge.hole()), (0, Some((2..3, run.now))));
        for position in [2, 5, 6, 7] {
            run.push(position);
        }
        assert!(run.out.iter().copied().eq(2..10));
    }

    #[test]
    fn a_beginning_that_nobody_tells_is_not_waited_for_for_ever() {
        let mut run = Run::new(PATIENCE, 32);
        run.merge.expect(5);
        for position in 6..6 + 33 {
            run.merge.push(run.now, position, position);
            run.drain();
        }
        assert!(run.out.iter().copied().eq(6..39));
        assert_eq!(run.merge.given_up(), 1, "what was expected is declared");
    }

    #[test]
    fn the_end_hands_out_what_is_held() {
        let mut run = Run::new(PATIENCE, 32);
        [5, 7, 9].into_iter().for_each(|position| {
            run.push(position);
        });
        let now = run.now;
        let rest: Vec<u64> =
            std::iter::from_fn(|| run.merge.pop_any(now)).map(|(position, _)| position).collect();
        assert_eq!((run.out, rest, run.merge.given_up()), (vec![5], vec![7, 9], 2));
    }

    proptest! {
        #[test]
        fn what_comes_twice_and_shuffled_comes_out_once_and_in_order(
            order in Just((0..200_u64).chain(0..200).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut run = Run::new(PATIENCE, MAX_HELD);
            run.merge.expect(0);
            run.merge.begin(run.now);
            let first = order.iter().filter(|position| run.push(**position) == News::First).count();
            prop_assert_eq!(first, 200);
            prop_assert!(run.out.iter().copied().eq(0..200));
        }
    }
}
