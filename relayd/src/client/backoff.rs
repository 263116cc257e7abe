//! How long to wait before another try: exponential with full jitter, from a seed.

use std::time::Duration;

/// The limit of the second wait; the first is none.
const FIRST: Duration = Duration::from_millis(300);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits between tries.
#[derive(Debug)]
pub(super) struct Backoff {
    tries: u32,
    state: u64,
}

impl Backoff {
    /// Before the first try.
    pub(super) fn new(seed: u64) -> Self {
        Self { tries: 0, state: seed }
    }

    /// The wait before the next try: at first none, then up to 0.3, 0.6, 1.2, 2.4, 4.8 and 5 s.
    pub(super) fn next(&mut self) -> Duration {
        let limit = match self.tries {
            0 => Duration::ZERO,
            tries => FIRST.saturating_mul(1 << (tries - 1).min(10)).min(LONGEST),
        };
        self.tries = self.tries.saturating_add(1);
        limit.mul_f64(self.fraction())
    }

    /// It went well: the next wait is none again.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }

    /// From 0 to 1 (SplitMix64).
    fn fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_seconds_with_full_jitter() {
        let mut sums = [Duration::ZERO; 8];
        for seed in 0..1000 {
            let mut backoff = Backoff::new(seed);
            for sum in &mut sums {
                *sum += backoff.next();
            }
            backoff.reset();
            assert_eq!(backoff.next(), Duration::ZERO);
        }
        for (sum, limit_ms) in sums.iter().zip([0, 300, 600, 1200, 2400, 4800, 5000, 5000_u32]) {
            let mean = *sum / 1000;
            let half = Duration::from_millis(limit_ms.into()) / 2;
            assert!(mean.abs_diff(half) <= half / 10, "{mean:?} for a limit of {limit_ms} ms");
        }
    }

    #[test]
    fn equal_seeds_wait_equally() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..8).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_eq!(waits(3), waits(3));
        assert_ne!(waits(3), waits(4));
    }
}
