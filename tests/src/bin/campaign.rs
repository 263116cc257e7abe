//! A campaign of the simulator: many seeds of worlds of switches, on all cores, in steps that are told as they are done.
//!
//! ```text
//! RELAY_SEEDS=0..1000000 RELAY_THREADS=2 cargo run --release -p relay-tests --bin campaign
//! ```
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RELAY_SEEDS` | `a..b` | `0..10000` |
//! | `RELAY_THREADS` | threads | cores |
//! | `RELAY_SECONDS` | no new step after so many seconds | none |
//! | `RELAY_STATE` | file that keeps the next seed, to go on after a stop | none |
//! | `RELAY_ONCE` | one run of each seed, not the second one that I5 compares with | two |
//! | `RELAY_ONLY` | `speakers` or `listeners`: nothing befalls the others | all |
//! | `RELAY_FED` | listeners are at a second relay, which the speakers' one feeds | one relay |
//! | `RELAY_SEED` | one seed: prints its script and what became of it | |
//! | `RELAY_TRACE` | with it: prints all that goes in and comes out | |
//!
//! Ends with a failure if a seed failed; each is printed with the command that replays it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use relay_tests::campaign::{Summary, check_switching, run_seeds, script_of, seeds, threads};
use relay_tests::switching::seen::Seen;
use relay_tests::switching::{Count, Tamper, run};

/// Seeds between two lines of progress.
const STEP: u64 = 5_000;
/// Failures that are printed in full.
const SHOWN: usize = 40;

fn main() -> ExitCode {
    if let Ok(seed) = std::env::var("RELAY_SEED") {
        return one_seed(seed.parse().expect("RELAY_SEED is a number"));
    }
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let limit =
        std::env::var("RELAY_SECONDS").ok().map(|text| Duration::from_secs(text.parse().expect("seconds")));
    let state = std::env::var("RELAY_STATE").ok();
    let mut range = seeds(0..10_000);
    if let Some(text) = state.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) {
        range.start = text.trim().parse().expect("the state is a number");
    }
    let first = range.start;
    let mut total = Summary::default();
    while range.start < range.end && limit.is_none_or(|limit| started.elapsed() < limit) {
        let step = range.start..(range.start + STEP).min(range.end);
        let done = run_seeds(&step, threads(), check_switching);
        range.start = step.end;
        if let Some(path) = &state {
            std::fs::write(path, step.end.to_string()).expect("the state can be written");
        }
        for (seed, what) in done.failures.iter().take(SHOWN.saturating_sub(total.failures.len())) {
            let fed = if std::env::var_os("RELAY_FED").is_some() { "RELAY_FED=1 " } else { "" };
            eprintln!(
                "seed {seed}: {what}\n  replay: {fed}RELAY_SEED={seed} cargo run --release -p relay-tests --bin campaign"
            );
        }
        total.seeds += done.seeds;
        total.total.add(&done.total);
        total.failures.extend(done.failures);
        let rate = total.seeds as f64 / started.elapsed().as_secs_f64();
        eprintln!("{first}..{}: {} failed, {rate:.0} seeds/s", step.end, total.failures.len());
    }
    summarise(&total, first, range.start, started.elapsed())
}

fn summarise(total: &Summary, first: u64, next: u64, took: Duration) -> ExitCode {
    let counts = Count::ALL.into_iter().map(|what| format!("{what:?} {}", total.total.of(what)));
    eprintln!(
        "seeds {first}..{next} in {took:.0?}: {} steps, {} packets",
        total.total.steps, total.total.packets
    );
    eprintln!("{}", counts.collect::<Vec<_>>().join(", "));
    let mut rules: std::collections::BTreeMap<&str, Vec<u64>> = std::collections::BTreeMap::new();
    for (seed, what) in &total.failures {
        rules.entry(what.split(" at ").next().unwrap_or(what)).or_default().push(*seed);
    }
    for (rule, seeds) in &rules {
        eprintln!("{rule}: {} seeds, as {:?}", seeds.len(), &seeds[..seeds.len().min(12)]);
    }
    eprintln!("{} of {} failed", total.failures.len(), total.seeds);
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one_seed(seed: u64) -> ExitCode {
    let script = script_of(seed);
    eprintln!("{:?}\n{:?}\n{:?}", script.terms, script.tracks, script.listeners);
    for (at, action) in &script.actions {
        eprintln!("{at:?} {action:?}");
    }
    eprintln!("calm at {:?}, ends at {:?}", script.calm, script.end);
    if std::env::var("RELAY_TRACE").is_ok()
        && let Err(failure) = run(&script, Duration::ZERO, &mut Trace)
    {
        eprintln!("{failure}");
    }
    match check_switching(seed) {
        Ok(report) => {
            eprintln!("{report:?}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// Prints all that goes in and comes out.
struct Trace;

impl Tamper for Trace {
    fn tamper(&mut self, outputs: &mut Vec<Seen>) {
        for seen in outputs {
            match seen {
                Seen::Packet(of) => eprintln!(
                    "    {} {} position {} index {} line {} media {} replay {} {:?}",
                    of.listener, of.leg, of.position, of.index, of.line, of.media_time, of.replay, of.id
                ),
                Seen::Event(event) => eprintln!("    {event:?}"),
                Seen::Report(..) => {}
            }
        }
    }

    fn input(&mut self, now: Duration, what: std::fmt::Arguments<'_>) {
        eprintln!("{now:?} {what}");
    }
}
