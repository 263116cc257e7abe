//! Positions that left a history as holes, to be told of.
//!
//! Invariant: the sum of what is told is exact, whatever happens; so is each range, as long as the owner drains.

use std::collections::VecDeque;

/// Runs of lost positions that wait to be told, and how many there were in all.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    runs: VecDeque<(u64, u64)>,
    total: u64,
}

impl Lost {
    pub(super) const fn new() -> Self {
        Self { runs: VecDeque::new(), total: 0 }
    }

    /// Positions `from .. to` are gone.
    pub(super) fn add(&mut self, from: u64, to: u64) {
        let count = to.saturating_sub(from);
        if count == 0 {
            return;
        }
        self.total += count;
        let full = self.runs.len() >= MAX_RUNS;
        match self.runs.back_mut() {
            Some((start, run)) if *start + *run == from => *run += count,
            // I3: an owner that does not drain hears of the rest as one, counted right.
            Some((_, run)) if full => *run += count,
            _ => self.runs.push_back((from, count)),
        }
    }

    /// The next run: its first position and its length.
    pub(crate) fn take(&mut self) -> Option<(u64, u64)> {
        self.runs.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All of them since the start.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }
}

/// Memory: 16 bytes each, while they wait.
const MAX_RUNS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_touch_are_told_as_one() {
        let mut lost = Lost::new();
        lost.add(5, 7);
        lost.add(7, 8);
        lost.add(8, 8);
        lost.add(10, 11);
        let told: Vec<_> = std::iter::from_fn(|| lost.take()).collect();
        assert_eq!((told, lost.total()), (vec![(5, 3), (10, 1)], 4));
    }

    #[test]
    fn an_owner_that_never_drains_costs_a_bounded_queue_and_no_count() {
        let mut lost = Lost::new();
        (0..10_000).for_each(|n| lost.add(2 * n, 2 * n + 1));
        assert_eq!(lost.runs.len(), MAX_RUNS);
        let told: u64 = std::iter::from_fn(|| lost.take()).map(|(_, count)| count).sum();
        assert_eq!((told, lost.total()), (10_000, 10_000));
    }
}
