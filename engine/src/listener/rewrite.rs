//! A listener leg's own numbers: one SSRC for the leg's life, sequence and timestamp affine in position and media time.
//!
//! The index is the 48-bit SRTP one. It starts below 2^15, so that the far end guesses a rollover counter of 0
//! (RFC 3711 §3.3.1), and grows by exactly what the position grows: a hole stays a hole. One exception: a far end
//! cannot follow a step of 2^15 or more, since it guesses the rollover counter from the sequence number. After such a
//! step the index goes on as after a single lost packet, and the relation is affine again from there.
//!
//! Invariant: no two positions get the same index, and a higher position gets a higher one.

/// Positions to indices, media time to timestamps.
#[derive(Debug)]
pub(crate) struct Rewrite {
    /// The position that `start` stands for; `None` until the first one.
    anchor: Option<u64>,
    start: u64,
    /// One after the highest position so far.
    next: u64,
    timestamp_offset: u32,
}

impl Rewrite {
    /// Random start values, as RFC 3550 §5.1 wants them.
    pub(crate) fn new(random: &mut fastrand::Rng) -> Self {
        Self { anchor: None, start: random.u64(..MAX_STEP), next: 0, timestamp_offset: random.u32(..) }
    }

    /// The index of a position; `None` for one that this leg's numbers do not reach.
    pub(crate) fn index(&mut self, position: u64) -> Option<u64> {
        let anchor = *self.anchor.get_or_insert(position);
        let mut index = self.start + position.checked_sub(anchor)?;
        if position >= self.next {
            if anchor != position && position - self.next >= MAX_STEP - 1 {
                index = self.start + (self.next - 1 - anchor) + STEP_AFTER_GAP;
                (self.anchor, self.start) = (Some(position), index);
            }
            if index >= END {
                return None;
            }
            self.next = position + 1;
        }
        Some(index)
    }

    /// One after the highest position so far, if there was any.
    pub(crate) fn next_position(&self) -> Option<u64> {
        self.anchor.map(|_| self.next)
    }

    /// The timestamp of a media time.
    pub(crate) const fn timestamp(&self, media_ticks: u64) -> u32 {
        self.timestamp_offset.wrapping_add(media_ticks as u32)
    }
}

/// RFC 3711 §3.3.1: a receiver takes a sequence number to be within 2^15 of its highest.
const MAX_STEP: u64 = 1 << 15;
/// As if one packet were lost, so that it is seen as a loss and still as the same stream (RFC 3550 §A.1).
const STEP_AFTER_GAP: u64 = 2;
/// RFC 3711 §3.3.1: the index has 48 bits, and no key outlives them.
const END: u64 = 1 << 48;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn started_at(start: u64) -> Rewrite {
        Rewrite { anchor: None, start, next: 0, timestamp_offset: 0 }
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
            [100, 110, 105, 101, 99, 111].map(|position| rewrite.index(position)).into_iter().collect();
        assert_eq!(indices, [Some(5), Some(15), Some(10), Some(6), None, Some(16)], "99 is before the first");
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
        assert_eq!(rewrite.index(1 << 40), Some(32_773));
    }

    #[test]
    fn an_index_ends_at_48_bits() {
        let mut rewrite = Rewrite { anchor: Some(0), start: 0, next: END - 1, timestamp_offset: 0 };
        assert_eq!(rewrite.index(END - 1), Some(END - 1));
        assert_eq!(rewrite.index(END), None);
        assert_eq!(rewrite.index(END - 2), Some(END - 2));
    }

    #[test]
    fn the_timestamp_is_affine_in_the_media_time_across_wraps() {
        let rewrite = Rewrite { anchor: None, start: 0, next: 0, timestamp_offset: u32::MAX - 10 };
        assert_eq!(rewrite.timestamp(0), u32::MAX - 10);
        assert_eq!(rewrite.timestamp(11), 0);
        assert_eq!(rewrite.timestamp((1 << 40) + 11), 0);
    }

    proptest! {
        #[test]
        fn no_index_is_given_twice_and_a_far_end_can_follow(
            start in 0_u64..1 << 15,
            steps in prop::collection::vec(prop_oneof![1_u64..4, 1_u64..100_000], 1..100),
        ) {
            let mut rewrite = started_at(start);
            let (mut position, mut last) = (0, None);
            for step in steps {
                position += step;
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
