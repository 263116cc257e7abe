//! The engine in a simulated world: thousands of generated scenarios, each checked after every step.
//!
//! `RELAY_SEEDS=a..b` runs other seeds than the first 2000; `RELAY_SEED=n` with the test `sim::one_seed` replays one and
//! prints its script.

use std::ops::Range;
use std::time::Duration;

use relay_engine::Verdict;
use relay_tests::coverage::{Coverage, Incident};
use relay_tests::scenario::Scenario;
use relay_tests::world::{Failure, Honest, Report, run};

mod mutation;
mod scripted;
mod switching;

/// What each run of the suite goes through.
const SEEDS: Range<u64> = 0..2_000;

/// Runs a seed twice, counted from different instants; panics with the command that replays it.
fn check(seed: u64) -> Report {
    let _replay = PrintReplay(seed);
    let scenario = Scenario::generate(seed);
    let first = run(&scenario, Duration::ZERO, &mut Honest).unwrap_or_else(|failure| fail(&failure));
    let second =
        run(&scenario, Duration::from_secs(77), &mut Honest).unwrap_or_else(|failure| fail(&failure));
    assert_eq!(first, second, "I5: the same seed gave two different runs");
    first
}

fn fail(failure: &Failure) -> ! {
    let Failure { at, step, doing, violation } = failure;
    panic!("{} at {at:?}, step {step} {doing}\n{}", violation.rule, violation.detail)
}

/// Says how to replay a seed if its run panics, the engine's own assertions included.
struct PrintReplay(u64);

impl Drop for PrintReplay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!(
                "\nreplay: RELAY_SEED={seed} cargo test -p relay-tests --test it sim::one_seed -- --nocapture\n"
            );
        }
    }
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("RELAY_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("RELAY_SEEDS is a..b");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn every_generated_world_keeps_every_promise() {
    let mut total = Report::default();
    for seed in seeds() {
        let report = check(seed);
        total.steps += report.steps;
        total.packets += report.packets;
        total.skipped += report.skipped;
        total.coverage.add(&report.coverage);
        for (total, count) in total.verdicts.iter_mut().zip(report.verdicts) {
            *total += count;
        }
    }
    eprintln!("{:?}: {total:?}", seeds());
}

/// A campaign in which something never happens says nothing about it.
#[test]
fn the_generated_worlds_go_everywhere() {
    let mut verdicts = [0; Verdict::ALL.len()];
    let (mut packets, mut skipped) = (0, 0);
    let mut coverage = Coverage::default();
    for seed in 0..300 {
        let report = check(seed);
        coverage.add(&report.coverage);
        packets += report.packets;
        skipped += report.skipped;
        for (total, count) in verdicts.iter_mut().zip(report.verdicts) {
            *total += count;
        }
    }
    assert!(packets > 100_000, "only {packets} packets came out");
    assert!(skipped > 1_000, "only {skipped} frames were skipped");
    for (verdict, count) in Verdict::ALL.into_iter().zip(verdicts) {
        // A packet cannot have feedback's verdict; second legs and carried positions are other worlds' (`switching`).
        let elsewhere =
            [Verdict::WrongSsrc, Verdict::Held, Verdict::Fenced, Verdict::Ahead].contains(&verdict);
        assert!(count > 0 || elsewhere, "{verdict:?} was never given");
    }
    for incident in Incident::ALL {
        assert!(
            coverage.of(incident) >= 10,
            "{incident:?} only {} times: {coverage:?}",
            coverage.of(incident)
        );
    }
}

/// Found the oracle too strict: whether half a drain had already offered such a frame cannot be seen from outside.
#[test]
fn a_frame_from_before_the_first_may_be_passed_over_in_half_a_drain() {
    for seed in [10_460, 22_021] {
        check(seed);
    }
}

#[test]
fn one_seed() {
    let seed = std::env::var("RELAY_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    let scenario = Scenario::generate(seed);
    eprintln!("{:?}, ends at {:?}", scenario.limits, scenario.end);
    for (at, action) in &scenario.actions {
        eprintln!("{at:?} {action:?}");
    }
    eprintln!("{:?}", check(seed));
}
