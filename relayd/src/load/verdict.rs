//! Whether a run says anything, and whether it went well.
//!
//! Pure. Two questions, in this order: could the tester keep up (if not, the figures are about the tester), and did the server
//! do what was asked of it. Each "no" is a sentence for a person.

use std::time::Duration;

use serde::Serialize;

use super::report::Growth;

/// Sends later than this are the tester's fault, not the server's.
const MAX_LATE: Duration = Duration::from_millis(5);
/// Packets that waited longer than this at the tester's sockets, of which each has its turn every 20 ms. No figure has that wait
/// in it, but a tester that falls behind shows here before its sockets overflow.
const MAX_OWN: Duration = Duration::from_millis(250);
/// The share of packets that may come at a time that is not known: as many as the 99th percentile leaves out.
const MAX_UNTIMED: f64 = 0.01;
/// Joins that began later than this make no even ramp.
const MAX_JOIN_LATE: Duration = Duration::from_secs(1);
/// A thread that waits less than this share of its time has none left.
pub(crate) const SATURATED: f64 = 0.95;
/// The share of seconds in which that may happen.
const MAX_SATURATED: f64 = 0.05;

/// A listener that hears nothing for so long, until the end, has gone silent: fifty frames, or the longest that a codec which
/// leaves silence out says nothing, twice over.
const SILENT: Duration = Duration::from_secs(1);
/// More than this is no good stream to anybody, whatever was asked for: percent.
const BEARABLE_LOSS: f64 = 1.0;

/// What the server has to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// The most packets that may be lost, in percent of those sent; 1, unless it is said.
    pub max_loss_percent: Option<f64>,
    /// The longest that the 99th percentile of latency may be.
    pub max_p99: Option<Duration>,
    /// The most bytes that the server's memory may grow by from tick to tick of a churn, noise taken off.
    pub max_growth: Option<f64>,
}

/// What the tester did not manage itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Own {
    pub(crate) late_p99: Option<Duration>,
    pub(crate) own_p99: Option<Duration>,
    pub(crate) join_late_p99: Option<Duration>,
    pub(crate) socket_drops: u64,
    /// Packets whose time of arrival is not known, or cannot be, of all.
    pub(crate) untimed: u64,
    pub(crate) packets: u64,
    pub(crate) saturated_seconds: usize,
    pub(crate) seconds: usize,
}

/// Listeners that had heard something, and at the end of the run heard nothing any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Silenced {
    /// How many.
    pub(crate) listeners: u64,
    /// Of the one that was silent the longest.
    pub(crate) longest: Duration,
    /// Of the one that was silent the shortest.
    pub(crate) shortest: Duration,
}

impl Silenced {
    /// A listener has heard nothing for so long, at the end.
    pub(crate) fn count(&mut self, silence: Duration) {
        if silence >= SILENT {
            self.add(Self { listeners: 1, longest: silence, shortest: silence });
        }
    }

    /// Adds those of another thread.
    pub(crate) fn add(&mut self, other: Self) {
        self.shortest = match (self.listeners, other.listeners) {
            (0, _) => other.shortest,
            (_, 0) => self.shortest,
            _ => self.shortest.min(other.shortest),
        };
        self.listeners += other.listeners;
        self.longest = self.longest.max(other.longest);
    }

    fn told(self, connected: u64) -> Option<String> {
        let tenths = |time: Duration| time.as_millis() / 100;
        let seconds = |time: Duration| format!("{}.{}", tenths(time) / 10, tenths(time) % 10);
        let time = match tenths(self.shortest) == tenths(self.longest) {
            true => seconds(self.shortest),
            false => format!("{} to {}", seconds(self.shortest), seconds(self.longest)),
        };
        (self.listeners > 0).then(|| {
            format!("{} of {connected} listeners heard nothing for the last {time} s", self.listeners)
        })
    }
}

/// How the server did.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Server {
    pub(crate) joins_failed: u64,
    /// Listeners that are still connected at the end.
    pub(crate) connected: u64,
    /// Of those, the ones that never heard anything.
    pub(crate) silent: u64,
    pub(crate) silenced: Silenced,
    pub(crate) disconnected: u64,
    pub(crate) publishers_ended: u64,
    pub(crate) loss_percent: f64,
    pub(crate) p99: Option<Duration>,
    pub(crate) growth: Option<Growth>,
}

/// The answer to both questions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Why the tester could not keep up; empty if it could.
    pub could_not_keep_up: Vec<String>,
    /// What failed; empty if nothing did.
    pub failed: Vec<String>,
}

impl Outcome {
    pub(crate) fn judge(own: &Own, server: &Server, limits: &Limits) -> Self {
        Self { could_not_keep_up: keeping_up(own), failed: failures(server, limits) }
    }

    /// Nothing to complain of.
    pub fn is_good(&self) -> bool {
        self.could_not_keep_up.is_empty() && self.failed.is_empty()
    }
}

fn keeping_up(own: &Own) -> Vec<String> {
    let mut said = Vec::new();
    let mut longer = |time: Option<Duration>, limit: Duration, what: &str| {
        if let Some(time) = time.filter(|time| *time > limit) {
            said.push(format!("{what}: p99 {} ms, above {} ms", ms(time), limit.as_millis()));
        }
    };
    longer(own.late_p99, MAX_LATE, "its publishers sent later than was due");
    longer(own.own_p99, MAX_OWN, "packets that had come waited for their turn to be read");
    longer(own.join_late_p99, MAX_JOIN_LATE, "joins began later than the ramp says");
    if own.socket_drops > 0 {
        said.push(format!("{} datagrams were dropped at its sockets before it read them", own.socket_drops));
    }
    if own.untimed as f64 > MAX_UNTIMED * own.packets as f64 {
        said.push(format!(
            "of {} of {} packets it does not know when they came (no stamp of the kernel, or the wall clock was set)",
            own.untimed, own.packets
        ));
    }
    let share = own.saturated_seconds as f64 / own.seconds.max(1) as f64;
    if own.saturated_seconds > 1 && share > MAX_SATURATED {
        said.push(format!(
            "a thread had no time left in {} of {} seconds (more --threads, fewer --listeners, another machine)",
            own.saturated_seconds, own.seconds
        ));
    }
    said
}

fn failures(server: &Server, limits: &Limits) -> Vec<String> {
    let mut said = Vec::new();
    let mut some = |count: u64, what: &str| {
        if count > 0 {
            said.push(format!("{count} {what}"));
        }
    };
    some(server.joins_failed, "joins failed");
    some(server.silent, "listeners connected and heard nothing");
    some(server.disconnected, "listeners lost their connection");
    some(server.publishers_ended, "publishers lost their connection");
    said.extend(server.silenced.told(server.connected));
    let limit = limits.max_loss_percent.unwrap_or(BEARABLE_LOSS);
    if server.loss_percent > limit {
        said.push(format!("{:.4} % of the packets were lost, above {limit} %", server.loss_percent));
    }
    match (limits.max_p99, server.p99) {
        (Some(limit), Some(p99)) if p99 > limit => {
            said.push(format!("p99 of latency is {} ms, above {} ms", ms(p99), ms(limit)));
        }
        (Some(_), None) => said.push("no latency was measured, and --max-p99 asks for one".to_owned()),
        _ => {}
    }
    match (limits.max_growth, server.growth) {
        (Some(limit), Some(growth)) if growth.bytes_per_tick - growth.noise_bytes_per_tick > limit => {
            said.push(format!(
                "the server grows by {} ± {} KiB a tick, above {} KiB",
                kib(growth.bytes_per_tick),
                kib(growth.noise_bytes_per_tick),
                kib(limit)
            ));
        }
        (Some(_), None) => said.push("its growth is not known, and --max-growth asks for it".to_owned()),
        _ => {}
    }
    said
}

fn kib(bytes: f64) -> f64 {
    (bytes / 102.4).round() / 10.0
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    fn own(own: Own) -> usize {
        Outcome::judge(&own, &Server::default(), &Limits::default()).could_not_keep_up.len()
    }

    fn server(server: Server, limits: Limits) -> usize {
        Outcome::judge(&Own::default(), &server, &limits).failed.len()
    }

    #[test]
    fn a_quiet_run_is_good() {
        let own = Own {
            late_p99: millis(5),
            own_p99: Some(MAX_OWN),
            join_late_p99: millis(1_000),
            socket_drops: 0,
            untimed: 1,
            packets: 100,
            saturated_seconds: 1,
            seconds: 10,
        };
        let server = Server { connected: 9, loss_percent: 1.0, p99: millis(900), ..Server::default() };
        assert!(Outcome::judge(&own, &server, &Limits::default()).is_good(), "nobody has set a limit");
    }

    #[test]
    fn each_way_to_fall_behind_is_said() {
        let quiet = Own { seconds: 30, ..Own::default() };
        assert_eq!(own(Own { late_p99: millis(6), ..quiet }), 1);
        assert_eq!(own(Own { own_p99: Some(MAX_OWN + Duration::from_millis(1)), ..quiet }), 1);
        assert_eq!(own(Own { join_late_p99: millis(1_001), ..quiet }), 1);
        assert_eq!(own(Own { socket_drops: 1, ..quiet }), 1);
        assert_eq!(own(Own { untimed: 2, packets: 100, ..quiet }), 1);
        assert_eq!(own(Own { saturated_seconds: 2, ..quiet }), 1);
        assert_eq!(own(Own { saturated_seconds: 1, seconds: 1, ..quiet }), 0, "a single second is a start");
        assert_eq!(own(Own { saturated_seconds: 5, seconds: 100, ..quiet }), 0);
    }

    #[test]
    fn each_way_to_fail_is_said() {
        let none = Limits::default();
        assert_eq!(server(Server { joins_failed: 1, ..Server::default() }, none), 1);
        assert_eq!(server(Server { silent: 1, ..Server::default() }, none), 1);
        assert_eq!(server(Server { disconnected: 1, publishers_ended: 1, ..Server::default() }, none), 2);
    }

    #[test]
    fn whoever_is_silent_at_the_end_fails_the_run_and_is_told_for_how_long() {
        let told = |silences: &[u64]| {
            let mut silenced = Silenced::default();
            silences.iter().for_each(|ms| silenced.count(Duration::from_millis(*ms)));
            let server = Server { connected: 7, silenced, ..Server::default() };
            Outcome::judge(&Own::default(), &server, &Limits::default()).failed
        };
        assert_eq!(told(&[]), [""; 0]);
        assert_eq!(told(&[0, 20, 999]), [""; 0], "a frame, or a stall that is over");
        assert_eq!(told(&[20, 1_000, 1_050]), ["2 of 7 listeners heard nothing for the last 1.0 s"]);
        assert_eq!(
            told(&[9_870, 4_210, 12_000]),
            ["3 of 7 listeners heard nothing for the last 4.2 to 12.0 s"]
        );
    }

    #[test]
    fn the_silent_ones_of_several_threads_are_summed() {
        let silenced = |listeners, shortest: u64, longest: u64| Silenced {
            listeners,
            shortest: Duration::from_secs(shortest),
            longest: Duration::from_secs(longest),
        };
        let mut sum = silenced(0, 0, 0);
        for other in [silenced(2, 3, 4), silenced(0, 0, 0), silenced(1, 2, 2)] {
            sum.add(other);
        }
        assert_eq!(sum, silenced(3, 2, 4));
    }

    #[test]
    fn a_loss_that_nobody_would_call_good_needs_no_limit() {
        let lost = |loss_percent| Server { loss_percent, ..Server::default() };
        assert_eq!(server(lost(35.0), Limits::default()), 1);
        assert_eq!(server(lost(1.001), Limits::default()), 1);
        let most = |percent| Limits { max_loss_percent: Some(percent), ..Limits::default() };
        assert_eq!(server(lost(35.0), most(40.0)), 0, "whoever sets a limit means it");
    }

    #[test]
    fn limits_are_kept_up_to_the_limit() {
        let limits = Limits { max_loss_percent: Some(0.0), max_p99: millis(10), max_growth: None };
        let good = Server { p99: millis(10), ..Server::default() };
        assert_eq!(server(good.clone(), limits), 0);
        assert_eq!(server(Server { loss_percent: 1e-9, ..good.clone() }, limits), 1);
        assert_eq!(server(Server { p99: millis(11), ..good.clone() }, limits), 1);
        assert_eq!(server(Server { p99: None, ..good }, limits), 1, "what was not measured is not kept");
    }

    #[test]
    fn growth_counts_once_it_is_above_its_noise() {
        let limits = Limits { max_growth: Some(1_024.0), ..Limits::default() };
        let grown = |bytes_per_tick, noise_bytes_per_tick| {
            let growth = Growth { bytes_per_tick, noise_bytes_per_tick, ..Growth::default() };
            server(Server { growth: Some(growth), ..Server::default() }, limits)
        };
        assert_eq!([grown(0.0, 0.0), grown(9_000.0, 8_000.0), grown(-9_000.0, 0.0)], [0, 0, 0]);
        assert_eq!(grown(9_000.0, 7_000.0), 1);
        assert_eq!(server(Server::default(), limits), 1, "what was not measured is not kept");
    }
}
