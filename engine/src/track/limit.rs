//! A publisher leg's rate limit: two buckets, of packets and of payload bytes, filled by time.
//!
//! A packet passes if both have room for it, and takes from both; a refused packet takes from neither.

use std::time::{Duration, Instant};

use crate::config::RateLimits;

/// Both limits of one publisher leg.
#[derive(Debug)]
pub(crate) struct RateLimit {
    packets: Bucket,
    bytes: Bucket,
    filled: Instant,
}

impl RateLimit {
    /// Full at `now`. Whatever the limits, one packet of `largest_bytes` has room in it.
    pub(crate) fn new(now: Instant, limits: RateLimits, largest_bytes: usize) -> Self {
        Self {
            packets: Bucket::full(u64::from(limits.packets_per_second), limits.burst, 1),
            bytes: Bucket::full(u64::from(limits.bits_per_second / 8), limits.burst, largest_bytes as u64),
            filled: now,
        }
    }

    /// Adds what would have come in while nothing did: it may come now, above the burst.
    pub(crate) fn credit(&mut self, absent: Duration) {
        self.packets.credit(absent);
        self.bytes.credit(absent);
    }

    /// Whether a packet with so many payload bytes may pass now.
    pub(crate) fn admit(&mut self, now: Instant, payload_bytes: usize) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.packets.fill(passed);
        self.bytes.fill(passed);
        let bytes = payload_bytes as u64;
        let admitted = self.packets.has(1) && self.bytes.has(bytes);
        if admitted {
            self.packets.take(1);
            self.bytes.take(bytes);
        }
        admitted
    }
}

/// Levels are in billionths of a packet or byte, so that a nanosecond adds exactly the rate.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    capacity: u64,
    level: u64,
}

impl Bucket {
    fn full(per_second: u64, burst: Duration, largest: u64) -> Self {
        let nanos = u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX);
        let capacity = per_second.saturating_mul(nanos).max(largest * BILLION);
        Self { per_second, capacity, level: capacity }
    }

    fn fill(&mut self, passed: Duration) {
        let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let level = self.level.saturating_add(self.per_second.saturating_mul(nanos));
        // What is above the capacity was given as credit: it stays, and does not grow.
        self.level = level.min(self.capacity.max(self.level));
    }

    fn credit(&mut self, absent: Duration) {
        let nanos = u64::try_from(absent.as_nanos()).unwrap_or(u64::MAX);
        let credit = self.per_second.saturating_mul(nanos);
        self.level = self.level.saturating_add(credit).min(self.capacity.saturating_add(credit));
    }

    const fn has(&self, amount: u64) -> bool {
        self.level >= amount * BILLION
    }

    const fn take(&mut self, amount: u64) {
        self.level -= amount * BILLION;
    }
}

const BILLION: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::time::tests::origin;

    fn admitted(limit: &mut RateLimit, at: Instant, bytes: usize, of: usize) -> usize {
        (0..of).filter(|_| limit.admit(at, bytes)).count()
    }

    #[test]
    fn two_seconds_of_packets_may_come_at_once_and_then_the_rate() {
        let start = origin();
        let mut limit = RateLimit::new(start, Config::new().rate, 1_400);
        assert_eq!(admitted(&mut limit, start, 10, 1_000), 400);
        assert_eq!(admitted(&mut limit, start + Duration::from_millis(100), 10, 1_000), 20);
        assert_eq!(
            admitted(&mut limit, start + Duration::from_secs(3_600), 10, 1_000),
            400,
            "no more than a burst"
        );
    }

    #[test]
    fn a_steady_stream_at_the_rate_is_never_refused() {
        let mut now = origin();
        let mut limit = RateLimit::new(now, Config::new().rate, 1_400);
        for _ in 0..10_000 {
            assert!(limit.admit(now, 320), "200 packets/s of 320 bytes are 512 kb/s");
            now += Duration::from_millis(5);
        }
    }

    #[test]
    fn bytes_are_limited_beside_packets() {
        let start = origin();
        let mut limit = RateLimit::new(start, Config::new().rate, 1_400);
        assert_eq!(admitted(&mut limit, start, 1_280, 400), 100, "128 000 bytes");
        assert!(!limit.admit(start, 1));
        assert!(limit.admit(start + Duration::from_millis(1), 64));
    }

    #[test]
    fn a_refused_packet_costs_nothing() {
        let start = origin();
        let mut limit = RateLimit::new(start, Config::new().max_bit_rate(8_000).rate, 10);
        assert!(limit.admit(start, 1_999));
        for _ in 0..1_000 {
            assert!(!limit.admit(start, 2));
        }
        assert!(limit.admit(start, 1));
    }

    #[test]
    fn whatever_the_limits_the_largest_packet_passes_alone() {
        let start = origin();
        let rate = Config::new().max_packet_rate(1).max_bit_rate(8).burst(Duration::ZERO).rate;
        let mut limit = RateLimit::new(start, rate, 1_400);
        assert!(limit.admit(start, 1_400));
        assert!(!limit.admit(start + Duration::from_secs(1), 1_400));
        assert!(limit.admit(start + Duration::from_secs(1_400), 1_400));
    }

    #[test]
    fn time_that_stands_still_or_goes_back_fills_nothing() {
        let start = origin() + Duration::from_secs(10);
        let mut limit = RateLimit::new(start, Config::new().rate, 1_400);
        admitted(&mut limit, start, 1, 400);
        assert!(!limit.admit(start - Duration::from_secs(5), 1));
        assert!(!limit.admit(start, 1), "the way back is not counted as time that passed");
    }

    #[test]
    fn the_largest_rates_and_times_saturate() {
        let start = origin();
        let rate = Config::new().max_packet_rate(u32::MAX).max_bit_rate(u32::MAX).burst(Duration::MAX).rate;
        let mut limit = RateLimit::new(start, rate, 65_000);
        assert!(limit.admit(start + Duration::from_secs(1 << 33), 65_000));
    }
}
