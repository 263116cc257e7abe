//! How late something was, counted in buckets that are fixed: neither counting nor copying allocates.

use std::time::Duration;

/// Times by bucket, and their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Those up to each limit and above the one before; the last for those beyond all.
    counts: [u64; Histogram::LIMITS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// The upper limits of the buckets but for the last, which has none.
    pub const LIMITS: [Duration; 15] = [
        Duration::from_micros(100),
        Duration::from_micros(250),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_millis(2),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(20),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(5),
    ];

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let bucket = Self::LIMITS.iter().take_while(|limit| took > **limit).count();
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many took no longer than each limit.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut count = 0;
        Self::LIMITS.into_iter().zip(self.counts).map(move |(limit, more)| {
            count += more;
            (limit, count)
        })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_limit_it_does_not_exceed() {
        let mut histogram = Histogram::default();
        for (index, limit) in Histogram::LIMITS.into_iter().enumerate() {
            histogram.record(limit);
            assert_eq!(histogram.counts[index], 1, "{limit:?}");
            histogram.record(limit + Duration::from_nanos(1));
            assert_eq!(histogram.counts[index + 1], 1, "{limit:?}");
            histogram.counts[index + 1] = 0;
        }
        assert!(Histogram::LIMITS.is_sorted());
    }

    #[test]
    fn what_is_counted_is_told_by_limit_and_added_up() {
        let mut all = Histogram::default();
        for millis in [0, 1, 1, 30, 60_000] {
            let mut one = Histogram::default();
            one.record(Duration::from_millis(millis));
            all.merge(&one);
        }
        assert_eq!((all.count(), all.sum()), (5, Duration::from_millis(60_032)));
        let told: Vec<u64> = all.cumulative().map(|(_, count)| count).collect();
        assert_eq!(told, [1, 1, 1, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4], "the last is beyond all limits");
    }
}
