//! Whether there is more to do than is done: how late the runtime and the media threads are, and what follows.
//!
//! Twice a second somebody looks ([`Overload::watch`]); the latest of all decides how far the relay is on its ladder
//! (`ladder.rs`): new joins and sessions are refused, then the newest listeners are let go. Who is late decides whose:
//! the listeners of that media thread, since those of the others are in nobody's way.

mod ladder;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep_until, timeout};

use crate::shard::{Shard, Shards};
use ladder::Ladder;
pub use ladder::{Rules, Rung};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// A media thread that takes longer to answer is late by this much, or by twice what listeners are let go for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The state of a daemon's load. Clones share it.
#[derive(Debug, Clone)]
pub struct Overload {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// What lets go, and says how many it were.
    shedder: OnceLock<Shedder>,
    listeners_shed: AtomicU64,
    speakers_shed: AtomicU64,
}

#[derive(Debug)]
struct State {
    ladder: Ladder,
    rung: Rung,
    lag: Lag,
}

type Shedder = Box<dyn Fn(Instant, Shedding) -> Shed + Send + Sync>;

/// How late whoever was asked last was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// The runtime that control and connection planes share.
    pub runtime: Duration,
    /// The latest of the media threads.
    pub shard: Duration,
    /// Which of them that is.
    pub latest: u8,
}

/// Who is to be let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shedding {
    /// So many of a hundred, and one at least.
    pub percent: usize,
    /// Of the listeners of this media thread; of all, if there is none or it has none. Of speakers, only those whose tracks
    /// are at home there.
    pub shard: Option<u8>,
}

/// Who was let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shed {
    /// The newest of them.
    pub listeners: usize,
    /// Only when there was no listener, and a media thread was late.
    pub speakers: usize,
}

impl Overload {
    /// In time, by these rules.
    pub fn new(rules: Rules) -> Self {
        let state = State { ladder: Ladder::new(rules), rung: Rung::Calm, lag: Lag::default() };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                shedder: OnceLock::new(),
                listeners_shed: AtomicU64::new(0),
                speakers_shed: AtomicU64::new(0),
            }),
        }
    }

    /// Whoever is to be let go goes by this. The first call counts.
    pub fn shed_by(&self, shedder: impl Fn(Instant, Shedding) -> Shed + Send + Sync + 'static) {
        let _first = self.shared.shedder.set(Box::new(shedder)).is_ok();
    }

    /// Whether new work is to be refused.
    pub fn is_overloaded(&self) -> bool {
        self.rung() >= Rung::Joins
    }

    /// How far it has come.
    pub fn rung(&self) -> Rung {
        self.state().rung
    }

    /// What the last look saw.
    pub fn lag(&self) -> Lag {
        self.state().lag
    }

    /// Everybody who was let go since the start.
    pub fn shed(&self) -> [(&'static str, u64); 2] {
        let Shared { listeners_shed, speakers_shed, .. } = &*self.shared;
        [("listener", listeners_shed), ("publisher", speakers_shed)]
            .map(|(role, count)| (role, count.load(Ordering::Relaxed)))
    }

    /// Looks, for ever. Runs until its task is dropped.
    pub async fn watch(self, shards: Shards) {
        let patience = PATIENCE.max(self.state().ladder.rules().shed_lag.saturating_mul(2));
        loop {
            let due = Instant::now() + PERIOD;
            sleep_until(due.into()).await;
            let runtime = Instant::now().saturating_duration_since(due);
            let lags = join_all(shards.each().iter().map(|shard| lag_of(shard, patience))).await;
            let latest = (0..=u8::MAX).zip(lags).max_by_key(|(_, lag)| *lag);
            let (latest, shard) = latest.unwrap_or_default();
            self.note(Instant::now(), Lag { runtime, shard, latest });
        }
    }

    /// Somebody has looked, and it was so late: what follows has happened when this comes back.
    pub fn note(&self, now: Instant, lag: Lag) {
        let (verdict, before, rules) = {
            let mut state = self.state();
            let verdict = state.ladder.look(now, lag.runtime.max(lag.shard));
            state.lag = lag;
            (verdict, std::mem::replace(&mut state.rung, verdict.rung), state.ladder.rules())
        };
        match (before, verdict.rung) {
            (Rung::Calm, Rung::Joins | Rung::Shed) => {
                tracing::warn!(?lag, "overloaded: new joins and sessions are refused");
            }
            (Rung::Joins | Rung::Shed, Rung::Calm) => tracing::info!("no longer overloaded"),
            _ => {}
        }
        if verdict.shed
            && let Some(shedder) = self.shared.shedder.get()
        {
            let shard = (lag.shard > rules.shed_lag).then_some(lag.latest);
            let shed = shedder(now, Shedding { percent: rules.shed_percent, shard });
            self.shared.listeners_shed.fetch_add(shed.listeners as u64, Ordering::Relaxed);
            self.shared.speakers_shed.fetch_add(shed.speakers as u64, Ordering::Relaxed);
            let Shed { listeners, speakers } = shed;
            tracing::warn!(?lag, listeners, speakers, "overloaded: let go");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How late a media thread is. One that has ended is not: the daemon is stopping.
async fn lag_of(shard: &Shard, patience: Duration) -> Duration {
    let asked = Instant::now();
    match timeout(patience, shard.ping()).await {
        Ok(_) => asked.elapsed(),
        Err(_) => {
            shard.avoid();
            patience
        }
    }
}

impl Default for Overload {
    /// By the rules that there are without any configuration.
    fn default() -> Self {
        Self::new(Rules::from(&crate::config::Overload::default()))
    }
}

impl From<&crate::config::Overload> for Rules {
    fn from(settings: &crate::config::Overload) -> Self {
        let crate::config::Overload { join_lag, shed_lag, shed_percent } = *settings;
        Self { join_lag, shed_lag, shed_percent }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(runtime: u64, shard: u64) -> Lag {
        Lag { runtime: Duration::from_millis(runtime), shard: Duration::from_millis(shard), latest: 7 }
    }

    /// So many looks, by virtual time: who was told to go.
    fn told(overload: &Overload, lag: Lag, looks: u32) -> Vec<Shedding> {
        let told = Arc::<Mutex<Vec<Shedding>>>::default();
        let list = Arc::clone(&told);
        overload.shed_by(move |_, shedding| {
            list.lock().unwrap().push(shedding);
            Shed { listeners: 3, speakers: 0 }
        });
        let start = Instant::now();
        (0..looks).for_each(|at| overload.note(start + PERIOD * at, lag));
        told.lock().unwrap().clone()
    }

    #[test]
    fn what_was_seen_last_can_be_read() {
        let overload = Overload::default();
        assert_eq!(told(&overload, late(251, 3), 11), []);
        assert_eq!((overload.lag(), overload.rung()), (late(251, 3), Rung::Joins));
        assert!(overload.is_overloaded());
        assert_eq!(overload.shed(), [("listener", 0), ("publisher", 0)]);
    }

    #[test]
    fn the_listeners_of_a_late_media_thread_go_and_any_if_it_is_the_runtime() {
        let percent = crate::config::Overload::default().shed_percent;
        for (lag, shard) in [(late(1, 5_000), Some(7)), (late(5_000, 1), None)] {
            let overload = Overload::default();
            assert_eq!(told(&overload, lag, 21), [Shedding { percent, shard }; 2]);
            assert_eq!(overload.shed(), [("listener", 6), ("publisher", 0)]);
        }
    }
}
