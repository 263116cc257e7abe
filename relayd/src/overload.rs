//! Whether there is more to do than is done: how late the runtime and the media thread are.
//!
//! While one of them is late by more than the limit, for `PERSISTENCE`, new joins and sessions are refused and who
//! is connected keeps what there is. A single late moment refuses nobody, and a single quiet one ends nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use crate::shard::Shards;

/// How long it must be late, or be in time again.
const PERSISTENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// A media thread that takes longer to answer is late by this much.
const PATIENCE: Duration = Duration::from_secs(2);

/// The state of a daemon's load. Clones share it.
#[derive(Debug, Clone)]
pub struct Overload {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    overloaded: AtomicBool,
    runtime_micros: AtomicU64,
    shard_micros: AtomicU64,
    judge: Mutex<Judge>,
}

/// How late whoever was asked last was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// The runtime that control and connection planes share.
    pub runtime: Duration,
    /// The media thread.
    pub shard: Duration,
}

impl Overload {
    /// Late is later than `max_lag`.
    pub fn new(max_lag: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                overloaded: AtomicBool::new(false),
                runtime_micros: AtomicU64::new(0),
                shard_micros: AtomicU64::new(0),
                judge: Mutex::new(Judge { max_lag, overloaded: false, otherwise_since: None }),
            }),
        }
    }

    /// Whether new work is to be refused.
    pub fn is_overloaded(&self) -> bool {
        self.shared.overloaded.load(Ordering::Relaxed)
    }

    /// What the last look saw.
    pub fn lag(&self) -> Lag {
        let read = |micros: &AtomicU64| Duration::from_micros(micros.load(Ordering::Relaxed));
        Lag { runtime: read(&self.shared.runtime_micros), shard: read(&self.shared.shard_micros) }
    }

    /// Looks, for ever. Runs until its task is dropped.
    pub async fn watch(self, shard: Shards) {
        loop {
            let due = Instant::now() + PERIOD;
            sleep_until(due.into()).await;
            let asked = Instant::now();
            let runtime = asked.saturating_duration_since(due);
            // A shard that has ended is not late: the daemon is stopping.
            let shard = match timeout(PATIENCE, shard.ping()).await {
                Ok(_) => asked.elapsed(),
                Err(_) => PATIENCE,
            };
            self.note(Instant::now(), Lag { runtime, shard });
        }
    }

    fn note(&self, now: Instant, lag: Lag) {
        let micros = |lag: Duration| u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
        self.shared.runtime_micros.store(micros(lag.runtime), Ordering::Relaxed);
        self.shared.shard_micros.store(micros(lag.shard), Ordering::Relaxed);
        let mut judge = self.shared.judge.lock().unwrap_or_else(PoisonError::into_inner);
        let before = judge.overloaded;
        let overloaded = judge.sample(now, lag.runtime.max(lag.shard));
        self.shared.overloaded.store(overloaded, Ordering::Relaxed);
        match (before, overloaded) {
            (false, true) => tracing::warn!(?lag, "overloaded: new joins and sessions are refused"),
            (true, false) => tracing::info!("no longer overloaded"),
            _ => {}
        }
    }
}

impl Default for Overload {
    fn default() -> Self {
        Self::new(Duration::from_millis(250))
    }
}

/// The rule itself.
#[derive(Debug)]
struct Judge {
    max_lag: Duration,
    overloaded: bool,
    /// Since when all looks have said the opposite.
    otherwise_since: Option<Instant>,
}

impl Judge {
    fn sample(&mut self, now: Instant, lag: Duration) -> bool {
        if (lag > self.max_lag) == self.overloaded {
            self.otherwise_since = None;
            return self.overloaded;
        }
        let since = *self.otherwise_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= PERSISTENCE {
            self.overloaded = !self.overloaded;
            self.otherwise_since = None;
        }
        self.overloaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_millis(251);
    const FINE: Duration = Duration::from_millis(250);

    /// One look per half second, starting at `from` of them.
    fn feed(judge: &mut Judge, start: Instant, from: u32, lags: &[(Duration, u32)]) -> (u32, bool) {
        let mut at = from;
        for (lag, times) in lags {
            for _ in 0..*times {
                judge.sample(start + PERIOD * at, *lag);
                at += 1;
            }
        }
        (at, judge.overloaded)
    }

    fn judge() -> Judge {
        Judge { max_lag: FINE, overloaded: false, otherwise_since: None }
    }

    #[test]
    fn five_seconds_late_in_a_row_are_overload_and_less_is_not() {
        let start = Instant::now();
        assert!(!feed(&mut judge(), start, 0, &[(LATE, 10)]).1);
        assert!(feed(&mut judge(), start, 0, &[(LATE, 11)]).1);
        assert!(!feed(&mut judge(), start, 0, &[(LATE, 10), (FINE, 1), (LATE, 10), (FINE, 1)]).1);
    }

    #[test]
    fn five_seconds_in_time_end_it_and_less_does_not() {
        let (start, mut judge) = (Instant::now(), judge());
        let (at, _) = feed(&mut judge, start, 0, &[(LATE, 20)]);
        let (at, overloaded) = feed(&mut judge, start, at, &[(FINE, 10), (LATE, 1), (FINE, 10)]);
        assert!(overloaded);
        assert!(!feed(&mut judge, start, at, &[(FINE, 1)]).1);
    }

    #[test]
    fn what_was_seen_last_can_be_read() {
        let overload = Overload::default();
        let lag = Lag { runtime: LATE, shard: FINE };
        let start = Instant::now();
        (0..11).for_each(|at| overload.note(start + PERIOD * at, lag));
        assert_eq!((overload.lag(), overload.is_overloaded()), (lag, true));
    }
}
