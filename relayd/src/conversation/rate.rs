//! How often something may happen: so many at once, then so many per second (GCRA). One number of state.

use std::time::{Duration, Instant};

/// A limiter of one socket's messages.
#[derive(Debug)]
pub struct Rate {
    every: Duration,
    burst: Duration,
    /// When all that was let through would have come at the steady rate.
    full: Option<Instant>,
}

impl Rate {
    /// `per_second` and `burst` are at least 1.
    pub fn new(per_second: usize, burst: usize) -> Self {
        let every = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        Self { every, burst: every * u32::try_from(burst.max(1)).unwrap_or(u32::MAX), full: None }
    }

    /// Whether one more may happen now; if so, it has.
    pub fn admits(&mut self, now: Instant) -> bool {
        let full = self.full.map_or(now, |full| full.max(now)) + self.every;
        let admitted = full.saturating_duration_since(now) <= self.burst;
        if admitted {
            self.full = Some(full);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_steady_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(20, 100);
        assert_eq!((0..150).filter(|_| rate.admits(start)).count(), 100);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..150).filter(|_| rate.admits(later)).count(), 20);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..150).filter(|_| rate.admits(much_later)).count(), 100);
    }

    #[test]
    fn one_that_keeps_to_the_rate_is_never_refused() {
        let start = Instant::now();
        let mut rate = Rate::new(20, 1);
        assert!((0..1000).all(|index| rate.admits(start + Duration::from_millis(50) * index)));
    }
}
