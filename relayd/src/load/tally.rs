//! What threads count, and how it comes to whoever reports: each interval's tally is swapped for an empty one.
//!
//! A thread holds its own lock while it works through what one wake-up brought; the reporter takes it once a second for the
//! time of a swap. Times are in microseconds, to three digits, up to a minute.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::cause::{Cause, Failure};
use super::hearing::Counts;

/// Longer times count as this long.
const LONGEST_US: u64 = 60_000_000;
/// Different reasons that are told; the others count as one.
const MAX_REASONS: usize = 16;

/// A histogram of times. Memory: 140 KiB.
#[derive(Debug, Clone)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("constant bounds that fit each other"))
    }

    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record((ns / 1_000).max(1));
    }

    pub(crate) fn record_duration(&mut self, time: Duration) {
        self.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn add(&mut self, other: &Times) {
        self.0.add(&other.0).expect("the same bounds");
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share (0 to 1) of all is not above; `None` if there is none at all.
    pub(crate) fn at(&self, share: f64) -> Option<Duration> {
        let micros = || Duration::from_micros(self.0.value_at_quantile(share));
        (!self.0.is_empty()).then(micros)
    }

    pub(crate) fn max(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_micros(self.0.max()))
    }
}

/// Why things went wrong, and how often; sorted, and bounded in what is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    pub(crate) fn count(&mut self, reason: &str) {
        let full = self.0.len() >= MAX_REASONS && !self.0.contains_key(reason);
        *self.0.entry(if full { "other reasons" } else { reason }.to_owned()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Reasons) {
        for (reason, times) in &other.0 {
            let full = self.0.len() >= MAX_REASONS && !self.0.contains_key(reason);
            *self.0.entry(if full { "other reasons" } else { reason }.to_owned()).or_default() += times;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn map(&self) -> &BTreeMap<String, u64> {
        &self.0
    }
}

/// One interval of one thread, or of all.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// From the time a packet was due to be sent to the time it came to its socket.
    pub(crate) latency: Times,
    /// The same from the time it was sent.
    pub(crate) forwarding: Times,
    /// From the arrival to the read: the tester's own.
    pub(crate) own: Times,
    /// How much later than due packets were sent.
    pub(crate) late: Times,
    /// From the POST to the first packet.
    pub(crate) first_packet: Times,
    /// Connections that ended, and why.
    pub(crate) ended: Reasons,
    /// Time not spent waiting.
    pub(crate) busy: Duration,
    /// Reports that were sent.
    pub(crate) reports: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            counts: Counts::default(),
            latency: Times::new(),
            forwarding: Times::new(),
            own: Times::new(),
            late: Times::new(),
            first_packet: Times::new(),
            ended: Reasons::default(),
            busy: Duration::ZERO,
            reports: 0,
        }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.counts.add(&other.counts);
        self.latency.add(&other.latency);
        self.forwarding.add(&other.forwarding);
        self.own.add(&other.own);
        self.late.add(&other.late);
        self.first_packet.add(&other.first_packet);
        self.ended.add(&other.ended);
        self.busy += other.busy;
        self.reports += other.reports;
    }

    pub(crate) fn clear(&mut self) {
        self.counts = Counts::default();
        let Self { latency, forwarding, own, late, first_packet, .. } = self;
        [latency, forwarding, own, late, first_packet].into_iter().for_each(Times::clear);
        self.ended = Reasons::default();
        (self.busy, self.reports) = (Duration::ZERO, 0);
    }
}

/// A tally between the thread that counts and the one that reports.
#[derive(Debug)]
pub(crate) struct Shared {
    tally: Mutex<Tally>,
    /// Listeners of this thread that have heard something, since the start, or are gone: nobody waits for them.
    pub(crate) heard: AtomicU64,
    /// Listeners of this thread that came back, and hear what they missed.
    pub(crate) behind: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self { tally: Mutex::new(Tally::new()), heard: AtomicU64::new(0), behind: AtomicU64::new(0) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listener was behind, and is.
    pub(crate) fn moved(&self, was_behind: bool, is_behind: bool) {
        match (was_behind, is_behind) {
            (false, true) => drop(self.behind.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.behind.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// Puts an empty tally in the place of the one there is.
    pub(crate) fn swap(&self, empty: &mut Tally) {
        std::mem::swap(&mut *self.lock(), empty);
    }
}

/// How joins went, over all.
#[derive(Debug, Clone)]
pub(crate) struct Joins {
    /// Later than the ramp says.
    pub(crate) late: Times,
    /// From the POST to its answer.
    pub(crate) answered: Times,
    /// From the POST to the end of the DTLS handshake.
    pub(crate) connected: Times,
    /// Joins that came to nothing, and why.
    pub(crate) failed: Reasons,
    /// What those have in common; `None` as long as there is none.
    pub(crate) cause: Option<Cause>,
    /// The SRTP profiles that servers chose.
    pub(crate) profiles: Reasons,
}

impl Joins {
    pub(crate) fn new() -> Self {
        let times = Times::new;
        let (failed, profiles) = (Reasons::default(), Reasons::default());
        Self { late: times(), answered: times(), connected: times(), failed, cause: None, profiles }
    }

    /// A join came to nothing.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        self.failed.count(&failure.reason);
        self.cause = Some(self.cause.map_or(failure.cause, |cause| cause.and(failure.cause)));
    }

    /// Of those that failed: one of the reasons, and what they have in common.
    pub(crate) fn why(&self) -> Option<(String, Cause)> {
        self.failed.map().keys().next().cloned().zip(self.cause)
    }

    /// Joins that are over, one way or the other.
    pub(crate) fn settled(&self) -> u64 {
        self.connected.count() + self.failed.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut times = Times::new();
        assert_eq!((times.at(0.5), times.max()), (None, None));
        (1..=1_000).for_each(|ms| times.record(ms * 1_000_000));
        let close = |time: Option<Duration>, ms: u64| {
            let micros = time.unwrap().as_micros() as f64;
            assert!((micros / (ms as f64 * 1_000.0) - 1.0).abs() < 0.002, "{micros} is not {ms} ms");
        };
        close(times.at(0.5), 500);
        close(times.at(0.99), 990);
        close(times.at(0.999), 999);
        close(times.max(), 1_000);
        assert_eq!(times.count(), 1_000);
    }

    #[test]
    fn times_beyond_a_minute_and_below_a_microsecond_are_kept() {
        let mut times = Times::new();
        times.record(0);
        times.record_duration(Duration::from_secs(3_600));
        assert_eq!(times.at(0.0), Some(Duration::from_micros(1)));
        assert!(times.max().unwrap() >= Duration::from_secs(60));
    }

    #[test]
    fn an_interval_is_handed_over_whole() {
        let (shared, mut total, mut interval) = (Shared::new(), Tally::new(), Tally::new());
        for _ in 0..3 {
            shared.lock().counts.packets += 5;
            shared.lock().latency.record(7_000_000);
            shared.lock().ended.count("gone");
            interval.clear();
            shared.swap(&mut interval);
            assert_eq!((interval.counts.packets, interval.latency.count()), (5, 1));
            total.add(&interval);
        }
        assert_eq!((total.counts.packets, total.latency.count(), total.ended.total()), (15, 3, 3));
        assert_eq!(shared.lock().counts.packets, 0);
    }

    #[test]
    fn reasons_are_bounded() {
        let mut reasons = Reasons::default();
        (0..100).for_each(|n| reasons.count(&format!("reason {n}")));
        let mut twice = reasons.clone();
        twice.add(&reasons);
        assert_eq!((reasons.total(), reasons.map().len()), (100, MAX_REASONS + 1));
        assert_eq!((twice.total(), twice.map().len()), (200, MAX_REASONS + 1));
    }
}
