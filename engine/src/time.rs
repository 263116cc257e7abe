//! Time as the engine knows it: a monotonic `now` from outside, media time in ticks, wall time as NTP.
//!
//! Nothing here reads a clock. Wall time enters once, as an [`Epoch`]; every NTP time is the epoch's wall time
//! plus the monotonic time since, so a stepped system clock never bends a report.

use std::time::{Duration, Instant, SystemTime};

pub use crate::rtp::NtpTime;

/// One moment on both clocks: the only wall time that the engine ever sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The moment on the monotonic clock.
    pub instant: Instant,
    /// The same moment on the wall clock.
    pub wall: SystemTime,
}

impl Epoch {
    /// The NTP time at `now`; an instant before the epoch counts as the epoch.
    #[must_use]
    pub fn ntp(&self, now: Instant) -> NtpTime {
        NtpTime::from_wall(self.wall).wrapping_add(now.saturating_duration_since(self.instant))
    }
}

/// Media time: 48 kHz ticks since the track's first frame.
///
/// Opus on RTP always counts at 48 kHz (RFC 7587 §4.1), whatever rate it codes at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaTime(pub(crate) u64);

impl MediaTime {
    /// Ticks per second.
    pub const RATE: u32 = 48_000;

    /// The media time `ticks` after the track's start.
    #[must_use]
    pub const fn from_ticks(ticks: u64) -> Self {
        Self(ticks)
    }

    /// Ticks since the track's start.
    #[must_use]
    pub const fn ticks(self) -> u64 {
        self.0
    }

    /// Time since the track's start.
    #[must_use]
    pub fn since_start(self) -> Duration {
        let rate = u64::from(Self::RATE);
        let nanos = (self.0 % rate) * NANOS / rate;
        Duration::from_secs(self.0 / rate) + Duration::from_nanos(nanos)
    }

    /// Whole ticks in `duration`, rounded down.
    #[must_use]
    pub fn ticks_in(duration: Duration) -> u64 {
        let rate = u64::from(Self::RATE);
        duration
            .as_secs()
            .saturating_mul(rate)
            .saturating_add(u64::from(duration.subsec_nanos()) * rate / NANOS)
    }

    pub(crate) const fn plus(self, ticks: u64) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    pub(crate) const fn plus_signed(self, ticks: i64) -> Self {
        Self(self.0.saturating_add_signed(ticks))
    }
}

/// A duration in the 16.16 seconds of reports (DLSR, RFC 3550 §6.4.1), clamped to what fits.
pub(crate) fn to_short(duration: Duration) -> u32 {
    let seconds = duration.as_secs().saturating_mul(1 << 16);
    let fraction = (u64::from(duration.subsec_nanos()) << 16) / NANOS;
    u32::try_from(seconds.saturating_add(fraction)).unwrap_or(u32::MAX)
}

/// 16.16 seconds as a duration.
pub(crate) fn from_short(short: u32) -> Duration {
    Duration::from_nanos((u64::from(short) * NANOS) >> 16)
}

const NANOS: u64 = 1_000_000_000;

/// Ticks of the media clock as a duration.
pub(crate) fn ticks_to_duration(ticks: u32) -> Duration {
    MediaTime::from_ticks(u64::from(ticks)).since_start()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn media_time_counts_48_ticks_in_a_millisecond() {
        assert_eq!(MediaTime::ticks_in(Duration::from_millis(20)), 960);
        assert_eq!(MediaTime::from_ticks(960).since_start(), Duration::from_millis(20));
        assert_eq!(MediaTime::ticks_in(Duration::from_micros(2_500)), 120);
        assert_eq!(MediaTime::ticks_in(Duration::from_nanos(20_832)), 0, "rounded down");
        assert_eq!(MediaTime::ticks_in(Duration::from_nanos(20_834)), 1);
    }

    #[test]
    fn the_longest_times_saturate() {
        assert_eq!(MediaTime::ticks_in(Duration::MAX), u64::MAX);
        assert_eq!(MediaTime(u64::MAX).plus(1), MediaTime(u64::MAX));
        assert!(MediaTime(u64::MAX).since_start() > Duration::from_secs(1 << 48));
    }

    #[test]
    fn an_epoch_before_1970_counts_as_1970() {
        let instant = origin();
        let epoch = Epoch { instant, wall: UNIX_EPOCH - Duration::from_secs(1) };
        assert_eq!(epoch.ntp(instant), NtpTime::from_wall(UNIX_EPOCH));
    }

    #[test]
    fn ntp_runs_with_the_monotonic_clock_from_the_epoch() {
        let instant = origin();
        let epoch = Epoch { instant, wall: UNIX_EPOCH + Duration::from_secs(100) };
        let later = instant + Duration::from_millis(1_250);
        assert_eq!(epoch.ntp(later).0 - epoch.ntp(instant).0, (1 << 32) + (1 << 30));
        assert_eq!(epoch.ntp(instant - Duration::from_millis(1)), epoch.ntp(instant), "before it: the epoch");
    }

    #[test]
    fn short_times_survive_there_and_back() {
        assert_eq!(to_short(Duration::from_millis(1_500)), 0x0001_8000);
        assert_eq!(from_short(0x0001_8000), Duration::from_millis(1_500));
        assert_eq!(to_short(Duration::MAX), u32::MAX);
        assert_eq!(from_short(u32::MAX).as_secs(), 65_535);
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    pub(crate) fn origin() -> Instant {
        Instant::now()
    }
}
