//! Which joins are first attempts and which are made again after a failure.
//!
//! An attempt is known by who makes it, where and as what. One that follows a failed one of the same within
//! [`WINDOW`] is made again; success forgets the failures before it. People behind one address without tokens are
//! one here: a failure of one may make another's first attempt look like a second.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For how long a failure makes the next attempt one that is made again.
const WINDOW: Duration = Duration::from_secs(60);
/// Failures remembered; 48 bytes each. The oldest goes first.
const MAX_FAILURES: usize = 10_000;

/// Failures of joins, by who failed.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    hasher: RandomState,
    state: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    last: HashMap<u64, Instant>,
    /// In order of time; an entry that is older than what `last` says is void.
    order: VecDeque<(u64, Instant)>,
}

/// Who makes an attempt, where and as what; says nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AttemptKey(u64);

/// Whether an attempt is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Attempt {
    First,
    Retry,
}

impl Attempt {
    /// As a metric's label.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
        }
    }
}

impl Attempts {
    /// The key of whatever tells one who joins from another.
    pub(crate) fn key(&self, who: impl Hash) -> AttemptKey {
        AttemptKey(self.hasher.hash_one(who))
    }

    /// An attempt begins.
    pub(crate) fn begin(&self, now: Instant, key: AttemptKey) -> Attempt {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.forget(now);
        if state.last.contains_key(&key.0) { Attempt::Retry } else { Attempt::First }
    }

    /// It failed.
    pub(crate) fn failed(&self, now: Instant, key: AttemptKey) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last.insert(key.0, now);
        state.order.push_back((key.0, now));
        state.forget(now);
    }

    /// It succeeded.
    pub(crate) fn succeeded(&self, key: AttemptKey) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last.remove(&key.0);
    }
}

impl Failures {
    fn forget(&mut self, now: Instant) {
        while let Some(&(key, at)) = self.order.front()
            && (self.order.len() > MAX_FAILURES || now.saturating_duration_since(at) >= WINDOW)
        {
            self.order.pop_front();
            if self.last.get(&key) == Some(&at) {
                self.last.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_after_a_failure_is_made_again_until_one_succeeds() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let (one, other) = (attempts.key(("demo", 1)), attempts.key(("demo", 2)));
        assert_eq!(attempts.begin(now, one), Attempt::First);
        attempts.failed(now, one);
        assert_eq!(attempts.begin(now + Duration::from_secs(59), one), Attempt::Retry);
        assert_eq!(attempts.begin(now, other), Attempt::First);
        attempts.succeeded(one);
        assert_eq!(attempts.begin(now, one), Attempt::First);
    }

    #[test]
    fn a_failure_counts_for_a_minute_from_the_last_one() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let key = attempts.key("who");
        attempts.failed(now, key);
        attempts.failed(now + Duration::from_secs(30), key);
        assert_eq!(attempts.begin(now + Duration::from_secs(60), key), Attempt::Retry);
        assert_eq!(attempts.begin(now + Duration::from_secs(90), key), Attempt::First);
        let state = attempts.state.lock().unwrap();
        assert!(state.last.is_empty() && state.order.is_empty());
    }

    #[test]
    fn a_storm_of_failures_costs_constant_memory() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..3 * MAX_FAILURES {
            attempts.failed(now, attempts.key(number));
        }
        let state = attempts.state.lock().unwrap();
        assert_eq!((state.last.len(), state.order.len()), (MAX_FAILURES, MAX_FAILURES));
    }
}
