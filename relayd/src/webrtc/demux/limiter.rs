//! Token buckets for unknown sources in a table of fixed size.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Limits packets per unknown source; sources that fall on the same entry share its bucket.
///
/// Memory: 16 bytes × entries, allocated once. The hash is keyed, so that nobody can aim at another's bucket.
#[derive(Debug)]
pub(in crate::webrtc) struct Limiter {
    buckets: Vec<Bucket>,
    hasher: RandomState,
    start: Instant,
    interval: Duration,
    burst: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// When the bucket would be full again, since the limiter's start (GCRA).
    full_at: Duration,
}

impl Limiter {
    /// `rate` packets per second, `burst` at once, `entries` buckets; zeros count as one.
    pub(in crate::webrtc) fn new(now: Instant, rate: u32, burst: u32, entries: usize) -> Self {
        Self {
            buckets: vec![Bucket::default(); entries.max(1)],
            hasher: RandomState::new(),
            start: now,
            interval: Duration::from_secs(1) / rate.max(1),
            burst: burst.max(1),
        }
    }

    /// Whether one more packet of this source may be looked at.
    pub(in crate::webrtc) fn admit(&mut self, now: Instant, source: SocketAddr) -> bool {
        let now = now.saturating_duration_since(self.start);
        let index = self.hasher.hash_one(source) as usize % self.buckets.len();
        let bucket = &mut self.buckets[index];
        let full_at = bucket.full_at.max(now) + self.interval;
        if full_at - now > self.interval * self.burst {
            return false;
        }
        bucket.full_at = full_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let source = SocketAddr::from(([192, 0, 2, 1], 9));
        let mut limiter = Limiter::new(start, 20, 50, 1024);
        let admitted = (0..100).filter(|_| limiter.admit(start, source)).count();
        assert_eq!(admitted, 50);
        let later = start + Duration::from_secs(1);
        let admitted = (0..100).filter(|_| limiter.admit(later, source)).count();
        assert_eq!(admitted, 20);
        let much_later = start + Duration::from_secs(3600);
        let admitted = (0..100).filter(|_| limiter.admit(much_later, source)).count();
        assert_eq!(admitted, 50);
    }

    #[test]
    fn zeros_do_not_panic() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now, 0, 0, 0);
        assert!(limiter.admit(now, SocketAddr::from(([192, 0, 2, 1], 9))));
        assert!(!limiter.admit(now, SocketAddr::from(([192, 0, 2, 1], 9))));
    }
}
