//! The 64-bit time of RFC 5905: seconds since 1900 and their fraction, 32 bits each.
//!
//! It is what sender reports and capture times carry. Arithmetic wraps: the era ends in 2036.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds from 1900 (NTP's start) to 1970 (Unix's start).
const UNIX_OFFSET_SECONDS: u64 = 2_208_988_800;

/// A point in wall time, as seconds since 1900 in the upper 32 bits and their fraction in the lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// The wall time `at`; times before 1970 count as 1970.
    #[must_use]
    pub fn from_wall(at: SystemTime) -> Self {
        let since_unix = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since_unix.as_secs().wrapping_add(UNIX_OFFSET_SECONDS);
        Self((seconds << 32) | fraction(since_unix))
    }

    /// The middle 32 bits: what a receiver report calls `LSR` (RFC 3550 §6.4.1).
    #[must_use]
    pub const fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// This time and `after` added, wrapping at the era's end.
    #[must_use]
    pub fn wrapping_add(self, after: Duration) -> Self {
        Self(self.0.wrapping_add((after.as_secs() << 32) | fraction(after)))
    }
}

/// The part of a duration below a second, in units of 2⁻³² s.
fn fraction(of: Duration) -> u64 {
    (u64::from(of.subsec_nanos()) << 32) / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_time_starts_seventy_years_in() {
        assert_eq!(NtpTime::from_wall(UNIX_EPOCH).0, 2_208_988_800 << 32);
    }

    #[test]
    fn half_a_second_is_half_of_the_fraction() {
        let at = UNIX_EPOCH + Duration::from_millis(500);
        assert_eq!(NtpTime::from_wall(at).0 & 0xffff_ffff, 1 << 31);
    }

    #[test]
    fn the_middle_is_the_low_seconds_and_the_high_fraction() {
        assert_eq!(NtpTime(0x1122_3344_5566_7788).middle(), 0x3344_5566);
    }

    #[test]
    fn adding_agrees_with_adding_before_the_conversion() {
        let start = UNIX_EPOCH + Duration::new(1_700_000_000, 250_000_000);
        let added = NtpTime::from_wall(start).wrapping_add(Duration::from_millis(1_750));
        assert_eq!(added, NtpTime::from_wall(start + Duration::from_millis(1_750)));
    }

    #[test]
    fn the_era_wraps_in_2036_and_does_not_panic() {
        let late = UNIX_EPOCH + Duration::from_secs(2_085_978_496);
        assert_eq!(NtpTime::from_wall(late).0 >> 32, 0);
        assert_eq!(NtpTime(u64::MAX).wrapping_add(Duration::from_secs(1)).0 >> 32, 0);
    }
}
