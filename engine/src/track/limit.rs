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
        self.level = level.min(self.capacity);
    }

    const fn has(&self, amount: u64) -> bool {
        self.level >= amount * BILLION
    }

    const fn take(&mut self, amount: u64) {
        self.level -= amount * BILLION;
    }
}

const BILLION: u64 = 1_000_000_000;
