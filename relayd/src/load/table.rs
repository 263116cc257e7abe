//! The report for people: a line each second while it runs, a summary at the end.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::{Percentiles, Report, Second};

/// Columns of the table: what is in them, and how wide they are.
const COLUMNS: [(&str, usize); 14] = [
    ("time s", 6),
    ("joined", 7),
    ("failed", 6),
    ("ended", 6),
    ("packets/s", 9),
    ("missing", 7),
    ("gaps", 5),
    ("double", 6),
    ("p50 ms", 8),
    ("p99 ms", 8),
    ("max ms", 8),
    ("server %", 8),
    ("server MB", 9),
    ("own %", 7),
];

/// The head of the table that [`table_line`] writes lines of.
pub fn table_head() -> String {
    row(COLUMNS.map(|(name, _)| name.to_owned()))
}

/// One second.
pub fn table_line(second: &Second) -> String {
    row([
        format!("{:.1}", second.at),
        second.connected.to_string(),
        second.failed.to_string(),
        second.ended.to_string(),
        format!("{:.0}", second.packets_per_second),
        second.missing.to_string(),
        second.gaps.to_string(),
        second.duplicates.to_string(),
        fixed(second.p50_ms, 2),
        fixed(second.p99_ms, 2),
        fixed(second.max_ms, 2),
        fixed(second.server_cpu_percent, 0),
        fixed(second.server_rss_bytes.map(|bytes| bytes as f64 / MEGABYTE), 1),
        format!("{:.0}", second.own_cpu_percent),
    ])
}

fn row(cells: [String; COLUMNS.len()]) -> String {
    let cell = |(cell, (_, width)): (&String, (&str, usize))| format!("{cell:>width$}");
    cells.iter().zip(COLUMNS).map(cell).collect::<Vec<_>>().join(" ")
}

/// The whole run.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _infallible = writeln!(text, "{name:<15} {value}");
    };
    joins(report, &mut line);
    media(report, &mut line);
    resources(report, &mut line);
    churn(report, &mut line);
    if report.run.stopped_early {
        let (done, asked) = (report.steady.seconds, report.run.seconds);
        line("stopped early", format!("{done:.1} of {asked:.1} s after the ramp: the figures are of these"));
    }
    for reason in &report.outcome.failed {
        line("FAILED", reason.clone());
    }
    for reason in &report.outcome.could_not_keep_up {
        line("NOT VALID", format!("the tester could not keep up: {reason}"));
    }
    if report.outcome.is_good() {
        let how_far = if report.run.stopped_early { ", up to where it was stopped" } else { "" };
        line("outcome", format!("good{how_far}"));
    }
    text
}

fn joins(report: &Report, line: &mut impl FnMut(&str, String)) {
    let joins = &report.joins;
    line(
        "joins",
        format!(
            "{} of {} connected, {} heard something ({} a second)",
            joins.connected, joins.asked, joins.heard, report.run.ramp_per_second
        ),
    );
    line("  answered", percentiles(&joins.answered_ms));
    line("  connected", percentiles(&joins.connected_ms));
    line("  first packet", percentiles(&joins.first_packet_ms));
    reasons("  failed", &joins.failed, line);
    reasons("  srtp", &joins.srtp, line);
}

fn media(report: &Report, line: &mut impl FnMut(&str, String)) {
    let media = &report.media;
    line(
        "packets",
        format!(
            "{} received, {} lost ({:.4} %), {} twice, {} out of order",
            media.packets, media.lost, media.loss_percent, media.duplicates, media.reordered
        ),
    );
    line("gaps", format!("{} of more than 60 ms, the longest {:.1} ms", media.gaps, media.longest_gap_ms));
    let odd = [
        (media.foreign, "of other publishers"),
        (media.history, "sent again to who came back"),
        (media.damaged, "damaged"),
        (media.unopened, "not to be opened"),
        (media.unstamped, "without a time of arrival"),
        (media.early, "there before they were due"),
        (media.stale, "too late to tell"),
    ];
    let odd: Vec<String> =
        odd.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if !odd.is_empty() {
        line("  of them", odd.join(", "));
    }
    reasons("  ended", &media.disconnects, line);
    line("latency, ramp", percentiles(&report.ramp.latency_ms));
    line("latency, steady", percentiles(&report.steady.latency_ms));
    line("  forwarding", percentiles(&report.steady.forwarding_ms));
}

fn resources(report: &Report, line: &mut impl FnMut(&str, String)) {
    let used = |cpu_seconds: f64, cpu_percent: f64, cpu_us_per_packet: Option<f64>, rss_bytes: u64| {
        let (us, memory) = (fixed(cpu_us_per_packet, 2), rss_bytes as f64 / MEGABYTE);
        format!("{cpu_seconds:.2} s CPU ({cpu_percent:.1} %), {us} µs for each packet, {memory:.1} MB")
    };
    if let Some(server) = &report.server {
        let used = used(server.cpu_seconds, server.cpu_percent, server.cpu_us_per_packet, server.rss_bytes);
        let each = fixed(server.rss_bytes_per_listener.map(|bytes| bytes / 1_024.0), 1);
        line("server", format!("{used}, {each} KiB for each listener"));
    }
    let own = &report.tester;
    let used = used(own.cpu_seconds, own.cpu_percent, own.cpu_us_per_packet, own.rss_bytes);
    line("tester", format!("{used}, {} dropped at its sockets", own.sockets.dropped));
    line("  sent late", percentiles(&own.late_ms));
    line("  read late", percentiles(&own.own_ms));
}

fn churn(report: &Report, line: &mut impl FnMut(&str, String)) {
    let Some(churn) = &report.churn else { return };
    line(
        "churn",
        format!(
            "{} said goodbye, {} vanished; {} came again, {} of them with a ticket, {} tickets refused",
            churn.deleted, churn.vanished, churn.joined, churn.with_ticket, churn.tickets_refused
        ),
    );
    for (at, tick) in churn.ticks.iter().enumerate() {
        let memory = fixed(tick.server_rss_bytes.map(|bytes| bytes as f64 / MEGABYTE), 3);
        line(
            &format!("  tick {}", at + 1),
            format!(
                "{:.1} s: {} connected, {} left, {} came, {memory} MB",
                tick.at, tick.connected, tick.left, tick.joined
            ),
        );
    }
    if let Some(growth) = &churn.growth {
        let kib = |bytes: f64| bytes / 1_024.0;
        line(
            "  growth",
            format!(
                "{:.1} ± {:.1} KiB a tick ({} bytes for each join) without the first {}: {}",
                kib(growth.bytes_per_tick),
                kib(growth.noise_bytes_per_tick),
                fixed(growth.bytes_per_join, 1),
                growth.warm_up_ticks,
                if growth.grows { "it grows" } else { "none above the noise" }
            ),
        );
    }
}

fn reasons(name: &str, reasons: &BTreeMap<String, u64>, line: &mut impl FnMut(&str, String)) {
    for (reason, count) in reasons {
        line(name, format!("{count}: {reason}"));
    }
}

fn percentiles(times: &Percentiles) -> String {
    if times.count == 0 {
        return "-".to_owned();
    }
    let at = |time: Option<f64>| fixed(time, 2);
    format!(
        "p50 {}  p90 {}  p99 {}  p99.9 {}  max {} ms",
        at(times.p50),
        at(times.p90),
        at(times.p99),
        at(times.p999),
        at(times.max)
    )
}

fn fixed(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

const MEGABYTE: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::report::{ChurnUse, Growth, Tick};
    use crate::load::verdict::Outcome;

    #[test]
    fn lines_stand_under_their_heads() {
        let head = table_head();
        let full = Second {
            at: 12.0,
            connected: 100_000,
            packets_per_second: 1e8,
            p50_ms: Some(1.234),
            p99_ms: Some(59_999.99),
            server_rss_bytes: Some(123_456_789),
            ..Second::default()
        };
        for second in [Second::default(), full] {
            assert_eq!(table_line(&second).chars().count(), head.chars().count());
        }
        assert!(table_line(&full).contains("59999.99") && table_line(&full).contains("123.5"));
        assert!(table_line(&full).contains(" - "), "what was not measured is a dash");
    }

    #[test]
    fn a_summary_says_what_went_wrong_and_what_is_not_valid() {
        let mut report = Report::default();
        report.joins.failed.insert("HTTP 503 CAPACITY".into(), 7);
        report.outcome = Outcome { could_not_keep_up: vec!["late".into()], failed: vec!["7 joins".into()] };
        let text = summary(&report);
        for expected in ["7: HTTP 503 CAPACITY", "FAILED          7 joins", "could not keep up: late"] {
            assert!(text.contains(expected), "{text}");
        }
        report.outcome = Outcome::default();
        assert!(summary(&report).ends_with("outcome         good\n"));
        (report.run.stopped_early, report.run.seconds, report.steady.seconds) = (true, 30.0, 4.25);
        let text = summary(&report);
        assert!(text.contains("stopped early   4.2 of 30.0 s after the ramp"), "{text}");
        assert!(text.ends_with("outcome         good, up to where it was stopped\n"), "{text}");
        let growth = Growth { bytes_per_tick: 2_048.0, noise_bytes_per_tick: 512.0, ..Growth::default() };
        let tick = Tick { server_rss_bytes: Some(12_345_678), ..Tick::default() };
        report.churn = Some(ChurnUse { ticks: vec![tick], growth: Some(growth), ..ChurnUse::default() });
        let text = summary(&report);
        assert!(text.contains("12.346 MB") && text.contains("2.0 ± 0.5 KiB a tick"), "{text}");
    }
}
