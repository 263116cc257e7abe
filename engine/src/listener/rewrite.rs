//! A listener leg's own numbers: one SSRC for the leg's life, sequence and timestamp affine in position and media time.
//!
//! The index is the 48-bit SRTP one. It starts below 2^15, so that the far end guesses a rollover counter of 0
//! (RFC 3711 §3.3.1), and grows by exactly what the position grows: a hole stays a hole. Where that cannot be, a new
//! *line* begins, on which the relation is affine again:
//!
//! | a new line begins | its first index is |
//! |---|---|
//! | when the listener selects another track | the next |
//! | when the listener is resumed after a pause | the next |
//! | at a step of 2^15 positions or more, which a far end's rollover counter cannot follow | the next but one, as after a loss |
//!
//! Invariant: no two positions get the same index on any lines, and on a line a higher position gets a higher one.

/// Positions to indices, media time to timestamps.
#[derive(Debug)]
pub(crate) struct Rewrite {
    /// The position that `start` stands for; `None` until the line's first one.
    anchor: Option<u64>,
    start: u64,
    /// The line's lowest index: those below are other lines'.
    least: u64,
    /// One after the highest position so far; the anchor before the first.
    next: u64,
    line: u64,
    timestamp_offset: u32,
    /// An index was given out: on this line, on any.
    used: bool,
    used_ever: bool,
}

impl Rewrite {
    /// Random start values, as RFC 3550 §5.1 wants them. There is room below the start for what comes late.
    pub(crate) fn new(random: &mut fastrand::Rng) -> Self {
        Self::starting(random.u64(ROOM..MAX_STEP), random.u32(..))
    }

    const fn starting(start: u64, timestamp_offset: u32) -> Self {
        Self {
            anchor: None,
            start,
            least: 0,
            next: 0,
            line: 0,
            timestamp_offset,
            used: false,
            used_ever: false,
        }
    }

    /// Begins the line at a position, if it has not begun: positions before it come before it on the wire too.
    pub(crate) const fn begin(&mut self, position: u64) {
        if self.anchor.is_none() {
            self.anchor = Some(position);
            self.next = position;
        }
    }

    /// Ends the line: the next position, whichever it is, gets the next index.
    pub(crate) const fn end_line(&mut self) {
        if self.used {
            self.start = self.high() + 1;
            self.least = self.start;
            self.line += 1;
            self.used = false;
        }
        self.anchor = None;
    }

    /// The index of a position; `None` for one that this line does not reach.
    #[inline]
    pub(crate) fn index(&mut self, position: u64) -> Option<u64> {
        self.begin(position);
        let anchor = self.anchor.unwrap_or(position);
        let mut index = if position < anchor {
            self.start.checked_sub(anchor - position).filter(|&index| index >= self.least)?
        } else {
            self.start + (position - anchor)
        };
        if position >= self.next || !self.used {
            let step = position.saturating_sub(self.next);
            if step >= MAX_STEP - 1 || (!self.used_ever && index >= MAX_STEP) {
                index = self.step(position);
            }
            if index >= END {
                return None;
            }
            self.next = position + 1;
            (self.used, self.used_ever) = (true, true);
        }
        Some(index)
    }

    /// The same for a position that just follows what this line has given out; `None` for any other, which changes nothing.
    #[inline]
    pub(crate) const fn index_in_line(&mut self, position: u64) -> Option<u64> {
        let Some(anchor) = self.anchor else { return None };
        // The highest index on the line is below the next one, so nothing overflows.
        if !self.used || position < self.next || position < anchor || position - self.next >= MAX_STEP - 1 {
            return None;
        }
        let index = self.start + (position - anchor);
        if index >= END {
            return None;
        }
        self.next = position + 1;
        Some(index)
    }

    /// A step that a rollover counter cannot follow.
    const fn step(&mut self, position: u64) -> u64 {
        let index = if self.used_ever { self.high() + STEP_AFTER_GAP } else { self.start };
        if self.used {
            self.line += 1;
            self.least = index;
        }
        (self.anchor, self.start) = (Some(position), index);
        index
    }

    /// The highest index so far on this line, or the one before its first.
    const fn high(&self) -> u64 {
        match self.anchor {
            Some(anchor) => (self.start + self.next - anchor).saturating_sub(1),
            None => self.start.saturating_sub(1),
        }
    }

    /// The position that a sequence number stands for, if it can be one of this line that was given out.
    pub(crate) fn position(&self, sequence: u16) -> Option<u64> {
        let anchor = self.anchor.filter(|_| self.used)?;
        let high = self.high();
        let index = high.checked_sub(u64::from((high as u16).wrapping_sub(sequence)))?;
        (index >= self.least).then_some(())?;
        (anchor + index).checked_sub(self.start)
    }

    /// One after the highest position so far on this line, if there was any.
    pub(crate) fn next_position(&self) -> Option<u64> {
        self.anchor.filter(|_| self.used).map(|_| self.next)
    }

    /// Which line it is.
    pub(crate) const fn line(&self) -> u64 {
        self.line
    }

    /// An index was given out, on whichever line.
    pub(crate) const fn is_used(&self) -> bool {
        self.used_ever
    }

    /// The timestamp of a media time.
    pub(crate) const fn timestamp(&self, media_ticks: u64) -> u32 {
        self.timestamp_offset.wrapping_add(media_ticks as u32)
    }

    /// From now on media time counts from elsewhere: what was `from` is `to`.
    pub(crate) const fn shift(&mut self, from: u64, to: u64) {
        self.timestamp_offset = self.timestamp_offset.wrapping_add((from as u32).wrapping_sub(to as u32));
    }
}

/// RFC 3711 §3.3.1: a receiver takes a sequence number to be within 2^15 of its highest.
const MAX_STEP: u64 = 1 << 15;
/// As if one packet were lost, so that it is seen as a loss and still as the same stream (RFC 3550 §A.1).
const STEP_AFTER_GAP: u64 = 2;
/// RFC 3711 §3.3.1: the index has 48 bits, and no key outlives them.
const END: u64 = 1 << 48;
/// How many positions before the first one a leg's numbers reach at least. RFC 3550 §A.1 puts up with 100.
const ROOM: u64 = 1_024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn started_at(start: u64) -> Rewrite {
        Rewrite::starting(start, 0)
    }

    #[test]
    fn the_first_index_is_below_two_to_the_fifteenth_with_a_rollover_counter_of_zero() {
        for seed in 0..1_000 {
            let mut rewrite = Rewrite::new(&mut fastrand::Rng::with_seed(seed));
            assert!(rewrite.index(seed * 1_000_003).is_some_and(|index| index < 1 << 15));
        }
    }

    #[test]
    fn the_index_is_affine_in_the_position_across_wraps() {
        let mut rewrite = started_at(32_000);
        for n in 0..200_000 {
            assert_eq!(rewrite.index(70 + n), Some(32_000 + n));
        }
        assert_eq!(rewrite.next_position(), Some(200_070));
    }

    #[test]
    fn holes_stay_and_late_ones_fit_in() {
        let mut rewrite = started_at(5);
        let indices: Vec<_> =
            [100, 110, 105, 101, 95, 94, 111].map(|position| rewrite.index(position)).into_iter().collect();
        assert_eq!(
            indices,
            [Some(5), Some(15), Some(10), Some(6), Some(0), None, Some(16)],
            "94 is below zero"
        );
    }

    #[test]
    fn a_step_that_a_rollover_counter_cannot_follow_goes_on_as_after_one_loss() {
        let mut rewrite = started_at(0);
        assert_eq!(rewrite.index(0), Some(0));
        assert_eq!(rewrite.index(32_767), Some(32_767), "2^15 - 1 can be followed");
        assert_eq!(rewrite.index(65_535), Some(32_769), "2^15 cannot");
        assert_eq!(rewrite.index(65_537), Some(32_771), "affine from there");
        assert_eq!(rewrite.index(65_536), Some(32_770));
        assert_eq!(rewrite.index(65_534), None, "from before the step");
        assert_eq!(rewrite.line(), 1);
        assert_eq!(rewrite.index(1 << 40), Some(32_773));
        assert_eq!(rewrite.line(), 2);
    }

    #[test]
    fn what_follows_in_line_gets_the_same_index_either_way() {
        let (mut rewrite, mut either) = (started_at(32_000), started_at(32_000));
        assert_eq!(rewrite.index_in_line(7), None, "nothing was given out yet");
        for position in [7, 8, 9, 20, 15, 21, 40_000, 90_000, 90_001] {
            let in_line = rewrite.index_in_line(position);
            let index = if in_line.is_some() { in_line } else { rewrite.index(position) };
            assert_eq!(index, either.index(position), "{position}");
            assert_eq!(in_line.is_some(), ![7, 15, 40_000, 90_000].contains(&position), "{position}");
            assert_eq!((rewrite.next_position(), rewrite.line()), (either.next_position(), either.line()));
        }
        (rewrite.anchor, rewrite.start, rewrite.next) = (Some(0), 0, END - 1);
        assert_eq!(rewrite.index_in_line(END - 1), Some(END - 1));
        assert_eq!(rewrite.index_in_line(END), None);
    }

    #[test]
    fn a_line_goes_on_at_the_next_index_and_reaches_none_of_the_line_before() {
        let mut rewrite = started_at(5);
        rewrite.end_line();
        assert_eq!((rewrite.index(100), rewrite.index(103), rewrite.line()), (Some(5), Some(8), 0));
        rewrite.end_line();
        rewrite.end_line();
        assert_eq!(rewrite.next_position(), None);
        rewrite.begin(40);
        assert_eq!((rewrite.index(41), rewrite.index(40), rewrite.line()), (Some(10), Some(9), 1));
        assert_eq!(rewrite.index(39), None, "8 is of the line before");
        assert_eq!(rewrite.next_position(), Some(42));
    }

    #[test]
    fn a_line_that_begins_far_before_its_first_position_starts_low_all_the_same() {
        let mut rewrite = started_at(30_000);
        rewrite.begin(1_000);
        assert_eq!(rewrite.index(9_000), Some(30_000), "38 000 would need a rollover counter of 0 or 1");
        assert_eq!((rewrite.index(9_001), rewrite.line()), (Some(30_001), 0));
        let mut rewrite = started_at(30_000);
        rewrite.begin(1_000);
        assert_eq!((rewrite.index(1_003), rewrite.index(1_000)), (Some(30_003), Some(30_000)));
    }

    #[test]
    fn a_line_that_ends_before_its_anchor_leaves_no_hole() {
        let mut rewrite = started_at(5_000);
        rewrite.begin(232);
        assert_eq!((rewrite.index(105), rewrite.next_position()), (Some(4_873), Some(106)));
        assert_eq!((rewrite.index(104), rewrite.next_position()), (Some(4_872), Some(106)));
        assert_eq!((rewrite.position(4_872), rewrite.position(4_873)), (Some(104), Some(105)));
        rewrite.end_line();
        assert_eq!((rewrite.index(240), rewrite.line()), (Some(4_874), 1));
    }

    #[test]
    fn a_sequence_number_is_found_again_on_its_line() {
        let mut rewrite = started_at(32_000);
        assert_eq!(rewrite.position(32_000), None);
        for n in 0..100_000 {
            rewrite.index(70 + n);
        }
        let last = (32_000 + 99_999_u64) as u16;
        assert_eq!(rewrite.position(last), Some(70 + 99_999));
        assert_eq!(rewrite.position(last.wrapping_sub(500)), Some(70 + 99_499));
        assert_eq!(rewrite.position(last.wrapping_add(1)), Some(70 + 99_999 - 65_535), "a lap behind");
        rewrite.end_line();
        rewrite.begin(7);
        assert_eq!(rewrite.position(last), None);
        rewrite.index(9);
        assert_eq!(rewrite.position(last.wrapping_add(1)), Some(7));
        assert_eq!(rewrite.position(last.wrapping_add(3)), Some(9));
        assert_eq!(rewrite.position(last), None, "of the line before");
    }

    #[test]
    fn a_shift_moves_timestamps_to_another_media_time() {
        let mut rewrite = Rewrite::starting(0, 1_000);
        let before = rewrite.timestamp(50_000);
        rewrite.shift(50_000, 7);
        assert_eq!(rewrite.timestamp(7), before);
        assert_eq!(rewrite.timestamp(967), before + 960);
        rewrite.shift(967, 1 << 50);
        assert_eq!(rewrite.timestamp(1 << 50), before + 960);
    }

    #[test]
    fn an_index_ends_at_48_bits() {
        let mut rewrite = started_at(0);
        (rewrite.anchor, rewrite.next, rewrite.used, rewrite.used_ever) = (Some(0), END - 1, true, true);
        assert_eq!(rewrite.index(END - 1), Some(END - 1));
        assert_eq!(rewrite.index(END), None);
        assert_eq!(rewrite.index(END - 2), Some(END - 2));
    }

    #[test]
    fn the_timestamp_is_affine_in_the_media_time_across_wraps() {
        let rewrite = Rewrite::starting(0, u32::MAX - 10);
        assert_eq!(rewrite.timestamp(0), u32::MAX - 10);
        assert_eq!(rewrite.timestamp(11), 0);
        assert_eq!(rewrite.timestamp((1 << 40) + 11), 0);
    }

    proptest! {
        #[test]
        fn no_index_is_given_twice_and_a_far_end_can_follow(
            start in 0_u64..1 << 15,
            steps in prop::collection::vec((prop_oneof![1_u64..4, 1_u64..100_000], 0_u8..10), 1..100),
        ) {
            let mut rewrite = started_at(start);
            let (mut position, mut last) = (0, None);
            for (step, line) in steps {
                position += step;
                if line == 0 {
                    rewrite.end_line();
                    position /= 2;
                }
                if line == 1 {
                    rewrite.begin(position.saturating_sub(20));
                }
                let index = rewrite.index(position);
                prop_assert!(index > last);
                if let (Some(index), Some(last)) = (index, last) {
                    prop_assert!(index - last < 1 << 15, "RFC 3711 §3.3.1");
                }
                last = index;
            }
        }
    }
}
