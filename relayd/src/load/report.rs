//! The report: what `--json` writes, and what summary and plot are made from. docs/load.md describes each field.
//!
//! Times are milliseconds, rounded to a microsecond. `null` is "not measured", never zero.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::tally::Times;
use super::verdict::Outcome;

/// Of the format: grows when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// What was asked for.
    pub run: RunInfo,
    /// How listeners came in.
    pub joins: Joins,
    /// What they heard, over the whole run.
    pub media: Media,
    /// While listeners joined.
    pub ramp: Phase,
    /// From when the last had joined.
    pub steady: Phase,
    /// What the server used, if its processes were named.
    pub server: Option<ServerUse>,
    /// How listeners came and went, if they did.
    pub churn: Option<ChurnUse>,
    /// What the tester used, and how well it kept up.
    pub tester: OwnUse,
    /// Whether that was good.
    pub outcome: Outcome,
    /// Second by second.
    pub seconds: Vec<Second>,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunInfo {
    /// Addresses of the first session, without user and password.
    pub whip: Option<String>,
    /// See `whip`.
    pub whep: String,
    /// Sessions.
    pub sessions: usize,
    /// Listeners asked for.
    pub listeners: usize,
    /// Joins per second asked for.
    pub ramp_per_second: f64,
    /// Publishers.
    pub publishers: usize,
    /// Seconds asked for, once all have joined.
    pub seconds: f64,
    /// Threads that read.
    pub threads: usize,
    /// Cores of this machine.
    pub cores: usize,
    /// Ended before its time.
    pub stopped_early: bool,
}

/// How listeners came in.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joins {
    /// Joins that were begun.
    pub asked: u64,
    /// Those whose DTLS handshake was completed.
    pub connected: u64,
    /// Those that heard a packet.
    pub heard: u64,
    /// Why others came to nothing.
    pub failed: BTreeMap<String, u64>,
    /// From the POST to its answer.
    pub answered_ms: Percentiles,
    /// From the POST to the end of the DTLS handshake.
    pub connected_ms: Percentiles,
    /// From the POST to the first packet.
    pub first_packet_ms: Percentiles,
    /// SRTP profiles that the server chose.
    pub srtp: BTreeMap<String, u64>,
}

/// What all listeners together have heard.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Media {
    /// Packets that publishers sent.
    pub sent: u64,
    /// Packets received, duplicates not counted.
    pub packets: u64,
    /// Packets sent after a listener's first one that it did not receive.
    pub lost: u64,
    /// The same in percent of what should have come.
    pub loss_percent: f64,
    /// Packets received again.
    pub duplicates: u64,
    /// Packets received after a later one.
    pub reordered: u64,
    /// Packets so late that nobody remembers whether they had come before.
    pub stale: u64,
    /// Payloads that were changed on the way.
    pub damaged: u64,
    /// Packets of other publishers than a load tester's, among `packets`.
    pub foreign: u64,
    /// Packets sent again to listeners that came back, among `packets`; they have no latency.
    pub history: u64,
    /// Datagrams like SRTP that could not be opened.
    pub unopened: u64,
    /// Packets whose arrival the kernel did not stamp, among `packets`; they have no latency.
    pub unstamped: u64,
    /// Packets that came before they were due, as the wall clock was set, among `packets`; they have no latency.
    pub early: u64,
    /// Times of more than 60 ms in which a listener heard nothing.
    pub gaps: u64,
    /// The longest of them.
    pub longest_gap_ms: f64,
    /// Listeners whose connection ended before its time, and why.
    pub disconnects: BTreeMap<String, u64>,
}

/// A part of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// How long it was.
    pub seconds: f64,
    /// Packets received in it.
    pub packets: u64,
    /// Packets found missing in it, less those that came after all.
    pub missing: i64,
    /// Gaps that ended in it.
    pub gaps: u64,
    /// From when a packet was due to be sent to when it came to the listener's socket.
    pub latency_ms: Percentiles,
    /// The same from when it was sent, and so without what the tester was late.
    pub forwarding_ms: Percentiles,
}

/// A distribution of times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Of how many.
    pub count: u64,
    /// Median.
    pub p50: Option<f64>,
    /// 90 % are not above.
    pub p90: Option<f64>,
    /// 99 %.
    pub p99: Option<f64>,
    /// 99.9 %.
    pub p999: Option<f64>,
    /// 99.99 %.
    pub p9999: Option<f64>,
    /// All.
    pub max: Option<f64>,
}

/// What the server's processes used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerUse {
    /// Which processes.
    pub pids: Vec<u32>,
    /// CPU time from when the last listener had joined.
    pub cpu_seconds: f64,
    /// The same in percent of one core.
    pub cpu_percent: f64,
    /// The same for each packet that a listener received.
    pub cpu_us_per_packet: Option<f64>,
    /// CPU time while listeners joined, media of those that were there included.
    pub ramp_cpu_seconds: f64,
    /// Memory before the first listener.
    pub rss_bytes_before: u64,
    /// Memory at the end, with all listeners.
    pub rss_bytes: u64,
    /// What each listener has added.
    pub rss_bytes_per_listener: Option<f64>,
}

/// Listeners that left and came again.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChurnUse {
    /// How long a listener stays on average, in its own time.
    pub stay_seconds: f64,
    /// How long until it comes again on average, in its own time.
    pub away_seconds: f64,
    /// How much faster the run is than that time.
    pub speed: f64,
    /// A tick, in the listeners' time.
    pub tick_seconds: f64,
    /// Listeners that deleted their connection and left.
    pub deleted: u64,
    /// Listeners that left without a word.
    pub vanished: u64,
    /// Joins of those that came again.
    pub joined: u64,
    /// Of these, those with the ticket of the connection they had.
    pub with_ticket: u64,
    /// Tickets that the server did not take any more; those listeners joined without.
    pub tickets_refused: u64,
    /// Tick by tick.
    pub ticks: Vec<Tick>,
    /// Whether the server's memory grows; not known without its processes, or with less than three ticks.
    pub growth: Option<Growth>,
}

/// The end of a tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tick {
    /// Since the first join, in seconds of the run.
    pub at: f64,
    /// Listeners that are connected.
    pub connected: u64,
    /// Joins in it.
    pub joined: u64,
    /// Listeners that left in it.
    pub left: u64,
    /// Joins that failed, so far.
    pub failed: u64,
    /// The server's memory.
    pub server_rss_bytes: Option<u64>,
}

/// The straight line through the server's memory at the ends of ticks, by least squares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Growth {
    /// Ticks at the beginning that are left out.
    pub warm_up_ticks: usize,
    /// Its slope.
    pub bytes_per_tick: f64,
    /// The bound of its noise: with 95 %, the slope is within this of the true one.
    pub noise_bytes_per_tick: f64,
    /// The slope for each join of a tick.
    pub bytes_per_join: Option<f64>,
    /// The slope is above its noise.
    pub grows: bool,
}

/// What the tester itself used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnUse {
    /// CPU time from when the last listener had joined.
    pub cpu_seconds: f64,
    /// The same in percent of one core.
    pub cpu_percent: f64,
    /// The same for each packet received.
    pub cpu_us_per_packet: Option<f64>,
    /// Memory at the end.
    pub rss_bytes: u64,
    /// Seconds in which a thread had no time left.
    pub saturated_seconds: usize,
    /// How much later than due its publishers sent.
    pub late_ms: Percentiles,
    /// From the arrival of each packet at its socket to the read; no part of the latency.
    pub own_ms: Percentiles,
    /// How much later than the ramp says joins began.
    pub join_late_ms: Percentiles,
    /// Receiver reports sent.
    pub reports: u64,
    /// Its sockets.
    pub sockets: SocketUse,
}

/// The listeners' sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketUse {
    /// Datagrams that the kernel dropped before they were read.
    pub dropped: u64,
}

/// One second, or what is left of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// Its end, since the first join.
    pub at: f64,
    /// All have joined.
    pub steady: bool,
    /// Listeners that are connected.
    pub connected: u64,
    /// Joins that failed, so far.
    pub failed: u64,
    /// Connections that ended, so far.
    pub ended: u64,
    /// Packets received in it, per second.
    pub packets_per_second: f64,
    /// Packets found missing in it, less those that came after all.
    pub missing: i64,
    /// Packets received again.
    pub duplicates: u64,
    /// Packets received after a later one.
    pub reordered: u64,
    /// Gaps that ended in it.
    pub gaps: u64,
    /// Latency.
    pub p50_ms: Option<f64>,
    /// Latency.
    pub p99_ms: Option<f64>,
    /// Latency.
    pub max_ms: Option<f64>,
    /// 99th percentile of how much later than due was sent.
    pub late_p99_ms: Option<f64>,
    /// The server's CPU, in percent of one core.
    pub server_cpu_percent: Option<f64>,
    /// The server's memory.
    pub server_rss_bytes: Option<u64>,
    /// The tester's CPU, in percent of one core.
    pub own_cpu_percent: f64,
    /// Of the busiest thread: the share of the time that it did not wait.
    pub busiest: f64,
}

impl Percentiles {
    pub(crate) fn of(times: &Times) -> Self {
        let at = |share: f64| times.at(share).map(ms);
        Self {
            count: times.count(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: times.max().map(ms),
        }
    }
}

/// Milliseconds, to the microsecond.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

/// A share, or none of nothing.
pub(crate) fn per(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

/// To so many digits behind the point.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_null_in_json() {
        let json = serde_json::to_value(Report { version: VERSION, ..Report::default() }).unwrap();
        assert_eq!(json["steady"]["latencyMs"]["p99"], serde_json::Value::Null);
        assert_eq!(json["server"], serde_json::Value::Null);
        assert_eq!(json["outcome"]["couldNotKeepUp"], serde_json::json!([]));
    }

    #[test]
    fn times_are_rounded_to_the_microsecond() {
        let mut times = Times::new();
        times.record(1_234_567);
        assert_eq!(Percentiles::of(&times).p50, Some(1.234));
        assert_eq!((per(3.0, 2), per(3.0, 0), rounded(1.23456, 2)), (Some(1.5), None, 1.23));
    }
}
