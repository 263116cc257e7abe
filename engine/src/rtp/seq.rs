//! Wrapping wire numbers made into numbers that never wrap.
//!
//! RTP counts packets in 16 bits and time in 32. [`Extend16`] and [`Extend32`] give each value the 64-bit number
//! that is nearest to the highest one seen so far (RFC 3550 §A.1), so a late packet gets the smaller number it
//! had before the wrap. The first value starts in the second cycle: an older one then still has a number.
//!
//! Invariant: the highest never decreases, and every result is congruent to its input.

/// Extends 16-bit sequence numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extend16 {
    highest: Option<u64>,
}

impl Extend16 {
    /// An extender that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { highest: None }
    }

    /// The 64-bit number of `raw`; remembers it if it is the highest so far.
    pub fn extend(&mut self, raw: u16) -> u64 {
        let extended = self.peek(raw);
        self.highest = self.highest.max(Some(extended));
        extended
    }

    /// The 64-bit number of `raw`, without remembering it.
    ///
    /// Exactly half a cycle away counts as older.
    #[must_use]
    pub fn peek(&self, raw: u16) -> u64 {
        match self.highest {
            None => (1 << 16) + u64::from(raw),
            Some(highest) => highest.wrapping_add_signed(i64::from(distance16(highest as u16, raw))),
        }
    }

    /// The highest number so far, if there was any.
    #[must_use]
    pub const fn highest(&self) -> Option<u64> {
        self.highest
    }
}

/// Extends 32-bit timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extend32 {
    highest: Option<u64>,
}

impl Extend32 {
    /// An extender that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { highest: None }
    }

    /// The 64-bit number of `raw`; remembers it if it is the highest so far.
    pub fn extend(&mut self, raw: u32) -> u64 {
        let extended = self.peek(raw);
        self.highest = self.highest.max(Some(extended));
        extended
    }

    /// The 64-bit number of `raw`, without remembering it.
    ///
    /// Exactly half a cycle away counts as older.
    #[must_use]
    pub fn peek(&self, raw: u32) -> u64 {
        match self.highest {
            None => (1 << 32) + u64::from(raw),
            Some(highest) => highest.wrapping_add_signed(i64::from(distance32(highest as u32, raw))),
        }
    }

    /// The highest number so far, if there was any.
    #[must_use]
    pub const fn highest(&self) -> Option<u64> {
        self.highest
    }
}

/// How far `to` is ahead of `from` (negative: behind), on the shorter way round the 16-bit circle.
#[must_use]
pub const fn distance16(from: u16, to: u16) -> i16 {
    to.wrapping_sub(from).cast_signed()
}

/// How far `to` is ahead of `from` (negative: behind), on the shorter way round the 32-bit circle.
#[must_use]
pub const fn distance32(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_value_starts_in_the_second_cycle() {
        assert_eq!(Extend16::new().extend(7), 65_543);
        assert_eq!(Extend32::new().extend(7), (1 << 32) + 7);
    }

    #[test]
    fn a_wrap_goes_on_counting() {
        let mut seq = Extend16::new();
        let numbers: Vec<u64> = [65_534, 65_535, 0, 1].map(|raw| seq.extend(raw)).into();
        assert_eq!(numbers, [131_070, 131_071, 131_072, 131_073]);
    }

    #[test]
    fn a_late_packet_from_before_the_wrap_gets_its_old_number() {
        let mut seq = Extend16::new();
        seq.extend(65_535);
        seq.extend(2);
        assert_eq!(seq.extend(65_533), 131_069);
        assert_eq!(seq.highest(), Some(131_074), "a late packet does not move the highest");
    }

    #[test]
    fn a_packet_older_than_the_very_first_has_a_number() {
        let mut seq = Extend16::new();
        assert_eq!(seq.extend(0), 65_536);
        assert_eq!(seq.extend(65_535), 65_535);
        assert_eq!(seq.extend(32_768), 32_768);
        let mut time = Extend32::new();
        assert_eq!(time.extend(0), 1 << 32);
        assert_eq!(time.extend(u32::MAX), u64::from(u32::MAX));
    }

    #[test]
    fn exactly_half_a_cycle_away_counts_as_older() {
        let mut seq = Extend16::new();
        seq.extend(0);
        assert_eq!(seq.peek(32_767), 65_536 + 32_767);
        assert_eq!(seq.peek(32_768), 65_536 - 32_768);
        let mut time = Extend32::new();
        time.extend(0);
        assert_eq!(time.peek(0x7fff_ffff), (1 << 32) + 0x7fff_ffff);
        assert_eq!(time.peek(0x8000_0000), (1 << 32) - 0x8000_0000);
    }

    #[test]
    fn peeking_changes_nothing() {
        let mut seq = Extend16::new();
        seq.extend(10);
        let before = seq;
        let _number = seq.peek(500);
        assert_eq!(seq, before);
    }

    #[test]
    fn distances_are_signed_and_take_the_shorter_way() {
        assert_eq!(distance16(65_535, 0), 1);
        assert_eq!(distance16(0, 65_535), -1);
        assert_eq!(distance16(5, 5), 0);
        assert_eq!(distance16(0, 32_768), i16::MIN);
        assert_eq!(distance32(u32::MAX, 1), 2);
        assert_eq!(distance32(1, u32::MAX), -2);
    }

    proptest! {
        #[test]
        fn a_walk_in_steps_below_half_a_cycle_is_followed_exactly(
            start in any::<u16>(), steps in prop::collection::vec(-32_768i64..32_768, 0..400),
        ) {
            let mut seq = Extend16::new();
            let mut highest = seq.extend(start);
            for step in steps {
                let target = highest.wrapping_add_signed(step);
                prop_assert_eq!(seq.extend(target as u16), target);
                highest = highest.max(target);
                prop_assert_eq!(seq.highest(), Some(highest));
            }
        }

        #[test]
        fn a_walk_of_timestamps_is_followed_exactly(
            start in any::<u32>(), steps in prop::collection::vec(-0x8000_0000i64..0x8000_0000, 0..400),
        ) {
            let mut time = Extend32::new();
            let mut highest = time.extend(start);
            for step in steps {
                let target = highest.wrapping_add_signed(step);
                prop_assert_eq!(time.extend(target as u32), target);
                highest = highest.max(target);
                prop_assert_eq!(time.highest(), Some(highest));
            }
        }

        #[test]
        fn any_input_is_congruent_near_and_never_lowers_the_highest(
            raws in prop::collection::vec(any::<u16>(), 1..400),
        ) {
            let mut seq = Extend16::new();
            for raw in raws {
                let before = seq.highest();
                let extended = seq.extend(raw);
                prop_assert_eq!(extended as u16, raw);
                prop_assert!(seq.highest() >= before);
                if let Some(before) = before {
                    prop_assert!(extended.abs_diff(before) <= 32_768);
                }
            }
        }

        #[test]
        fn any_timestamp_is_congruent_near_and_never_lowers_the_highest(
            raws in prop::collection::vec(any::<u32>(), 1..400),
        ) {
            let mut time = Extend32::new();
            for raw in raws {
                let before = time.highest();
                let extended = time.extend(raw);
                prop_assert_eq!(extended as u32, raw);
                prop_assert!(time.highest() >= before);
                if let Some(before) = before {
                    prop_assert!(extended.abs_diff(before) <= 0x8000_0000);
                }
            }
        }

        #[test]
        fn distances_are_opposite_except_at_half_a_cycle(from in any::<u16>(), to in any::<u16>()) {
            let there = distance16(from, to);
            prop_assume!(there != i16::MIN);
            prop_assert_eq!(distance16(to, from), -there);
            prop_assert_eq!(from.wrapping_add_signed(there), to);
        }
    }
}
