//! Histograms that the media threads keep themselves, as Prometheus reads them.
//!
//! The recorder of the others takes single values, which nobody on a media thread hands to it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::shard::{Histogram, QueueStats};

/// What each media thread said last: one that hangs keeps its figures.
#[derive(Debug, Default)]
pub(super) struct ShardLags {
    lags: Mutex<BTreeMap<usize, Lags>>,
}

#[derive(Debug, Clone, Copy)]
struct Lags {
    tick: Histogram,
    timer: Histogram,
}

/// One metric: its name, its meaning, where it is.
type Family = (&'static str, &'static str, fn(&Lags) -> &Histogram);

const FAMILIES: [Family; 2] = [
    (
        "relayd_shard_tick_lag_seconds",
        "From the arrival of a publisher's packet until it had been handed to the kernel for all listeners of the media thread",
        |lags| &lags.tick,
    ),
    ("relayd_shard_timer_lag_seconds", "How late timers of the media thread were served", |lags| &lags.timer),
];

impl ShardLags {
    pub(super) fn note(&self, shard: usize, queue: &QueueStats) {
        let lags = Lags { tick: queue.tick_lag, timer: queue.timer_lag };
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, lags);
    }

    /// Adds the text of them all.
    pub(super) fn render(&self, text: &mut String) {
        let lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, meaning, of) in FAMILIES {
            text.push_str(&format!("# HELP {name} {meaning}\n# TYPE {name} histogram\n"));
            lags.iter().for_each(|(shard, lags)| text.push_str(&series(name, *shard, of(lags))));
            text.push('\n');
        }
    }
}

fn series(name: &str, shard: usize, histogram: &Histogram) -> String {
    let bucket =
        |limit: &str, count: u64| format!("{name}_bucket{{shard=\"{shard}\",le=\"{limit}\"}} {count}\n");
    let (count, sum) = (histogram.count(), histogram.sum().as_secs_f64());
    let buckets =
        histogram.cumulative().map(|(limit, count)| bucket(&limit.as_secs_f64().to_string(), count));
    let totals =
        format!("{name}_sum{{shard=\"{shard}\"}} {sum}\n{name}_count{{shard=\"{shard}\"}} {count}\n");
    buckets.chain([bucket("+Inf", count), totals]).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn buckets_are_cumulative_and_the_last_one_has_all() {
        let (lags, mut queue) = (ShardLags::default(), QueueStats::default());
        for micros in [90, 900, 9_000_000] {
            queue.tick_lag.record(Duration::from_micros(micros));
        }
        lags.note(2, &queue);
        let mut text = String::new();
        lags.render(&mut text);
        for line in [
            "# TYPE relayd_shard_tick_lag_seconds histogram",
            r#"relayd_shard_tick_lag_seconds_bucket{shard="2",le="0.0001"} 1"#,
            r#"relayd_shard_tick_lag_seconds_bucket{shard="2",le="0.0005"} 1"#,
            r#"relayd_shard_tick_lag_seconds_bucket{shard="2",le="0.001"} 2"#,
            r#"relayd_shard_tick_lag_seconds_bucket{shard="2",le="5"} 2"#,
            r#"relayd_shard_tick_lag_seconds_bucket{shard="2",le="+Inf"} 3"#,
            r#"relayd_shard_tick_lag_seconds_sum{shard="2"} 9.00099"#,
            r#"relayd_shard_tick_lag_seconds_count{shard="2"} 3"#,
            r#"relayd_shard_timer_lag_seconds_count{shard="2"} 0"#,
        ] {
            assert!(text.lines().any(|known| known == line), "no {line} in\n{text}");
        }
    }
}
