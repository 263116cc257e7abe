//! Many seeds on many threads: what a campaign and a test have in common.
//!
//! Seeds are handed out in order, in blocks; a seed that fails, by the oracle or by a panic, is kept with what was wrong
//! and the rest goes on.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::switching::script::Script;
use crate::switching::{Report, run};
use crate::world::Honest;

/// What became of a range of seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// All of their reports.
    pub total: Report,
    /// Seeds that failed, and how.
    pub failures: Vec<(u64, String)>,
}

impl Summary {
    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.total.add(&other.total);
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|(seed, _)| *seed);
    }
}

/// Runs a world of switches twice, counted from different instants.
///
/// # Errors
///
/// What broke, as text.
pub fn check_switching(seed: u64) -> Result<Report, String> {
    check_script(&script_of(seed))
}

/// The same with listeners at a second relay, which the speakers' one feeds.
///
/// # Errors
///
/// What broke, as text.
pub fn check_fed(seed: u64) -> Result<Report, String> {
    check_script(&script_of(seed).fed())
}

/// The script of a seed; `RELAY_ONLY=speakers` or `listeners` leaves out what befalls the others, `RELAY_FED` has
/// listeners at a second relay.
#[must_use]
pub fn script_of(seed: u64) -> Script {
    let script = Script::generate(seed);
    let script = if std::env::var_os("RELAY_FED").is_some() { script.fed() } else { script };
    match std::env::var("RELAY_ONLY") {
        Ok(only) => script.only(only == "speakers"),
        Err(_) => script,
    }
}

/// Runs a script twice, counted from different instants; `RELAY_ONCE` leaves out the second run, which is for I5 alone.
///
/// # Errors
///
/// What broke, as text.
pub fn check_script(script: &Script) -> Result<Report, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let first = run(script, Duration::ZERO, &mut Honest).map_err(|failure| failure.to_string())?;
        if std::env::var_os("RELAY_ONCE").is_some() {
            return Ok(first);
        }
        let second =
            run(script, Duration::from_secs(77), &mut Honest).map_err(|failure| failure.to_string())?;
        if first != second {
            return Err("I5: the same seed gave two different runs".to_owned());
        }
        Ok(first)
    }));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Runs `check` on every seed of a range.
pub fn run_seeds<C>(seeds: &Range<u64>, threads: usize, check: C) -> Summary
where
    C: Fn(u64) -> Result<Report, String> + Sync,
{
    const BLOCK: u64 = 16;
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut mine = Summary::default();
                loop {
                    let from = next.fetch_add(BLOCK, Ordering::Relaxed);
                    if from >= seeds.end {
                        break;
                    }
                    for seed in from..(from + BLOCK).min(seeds.end) {
                        mine.seeds += 1;
                        match check(seed) {
                            Ok(report) => mine.total.add(&report),
                            Err(what) => mine.failures.push((seed, what)),
                        }
                    }
                }
                total.lock().expect("no thread panics with it").add(mine);
            });
        }
    });
    total.into_inner().expect("no thread panics with it")
}

/// How many threads to use: `RELAY_THREADS`, else as many as there are cores.
///
/// # Panics
///
/// If the variable is not a number.
#[must_use]
pub fn threads() -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    std::env::var("RELAY_THREADS")
        .map_or_else(|_| cores(), |text| text.parse().expect("RELAY_THREADS is a number"))
}

/// The seeds to run: `RELAY_SEEDS=a..b`, else the given ones.
///
/// # Panics
///
/// If the variable is not a range.
#[must_use]
pub fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("RELAY_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("RELAY_SEEDS is a..b");
    from.parse().expect("a number")..to.parse().expect("a number")
}
