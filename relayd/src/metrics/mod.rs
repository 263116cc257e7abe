//! Every metric: name, unit and meaning in one place.
//!
//! Each daemon has its own recorder, so that several in one process (tests) do not mix. Counters that other
//! planes keep are copied from their snapshots when somebody scrapes; nothing here is on the packet path.

mod attempts;
mod first_audio;
mod histogram;
mod join;
mod refresh;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use metrics::{counter, histogram, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::auth::AuthCounts;
use crate::events::Tally;
use crate::overload::Overload;
use crate::records::Records;
use crate::session::{Cause, Outcome, Report, Service};
use crate::shard::ShardEvent;
use crate::webhook::WebhookCounts;
use crate::webrtc::{CloseReason, Role};
use attempts::{Attempt, Attempts};
use first_audio::{FirstAudio, Sample};
use histogram::ShardLags;
pub(crate) use join::JoinAttempt;
use table::*;

/// The metrics of one daemon.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    records: Records,
    overload: Overload,
    sockets: Tally,
    attempts: Attempts,
    first_audio: FirstAudio,
    shard_lags: ShardLags,
}

impl Metrics {
    /// With every metric described, and those whose labels are known beforehand at zero.
    pub(crate) fn new(overload: Overload) -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Full(WEBSOCKET_QUEUE.to_owned()), EVENTS)
            })
            .expect("the buckets are not empty")
            .build_recorder();
        let metrics = Self {
            handle: recorder.handle(),
            recorder,
            records: Records::default(),
            overload,
            sockets: Tally::default(),
            attempts: Attempts::default(),
            first_audio: FirstAudio::default(),
            shard_lags: ShardLags::default(),
        };
        metrics.record(|| {
            describe();
            zero();
        });
        metrics
    }

    /// The records of open connections.
    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// Whether there is more to do than is done.
    pub(crate) fn overload(&self) -> &Overload {
        &self.overload
    }

    /// Follows what a shard tells, until it ends.
    pub(crate) async fn follow(self: Arc<Self>, mut events: mpsc::Receiver<ShardEvent>) {
        while let Some(event) = events.recv().await {
            if let Some(sample) = self.first_audio.handle(&event) {
                self.first_audio_took(sample);
            }
        }
    }

    /// What waits in the sockets of events.
    pub(crate) fn sockets(&self) -> &Tally {
        &self.sockets
    }

    /// A token did not hold. The reason is from a fixed list.
    pub(crate) fn token_failed(&self, reason: &'static str) {
        self.record(|| counter!(TOKEN_FAILURES, "reason" => reason).increment(1));
    }

    /// A request was refused by one of the limits by address or token.
    pub(crate) fn rate_limited(&self, limit: &'static str) {
        self.record(|| counter!(RATE_LIMITED, "limit" => limit).increment(1));
    }

    /// A WebSocket was served that was so many events behind.
    pub(crate) fn websocket_behind(&self, events: usize) {
        self.record(|| histogram!(WEBSOCKET_QUEUE).record(events as f64));
    }

    /// A WebSocket has missed events of its session.
    pub(crate) fn websocket_lost(&self) {
        self.record(|| counter!(FOLLOWERS_LOST).increment(1));
    }

    /// A WebSocket was closed with this code, by whichever side.
    pub(crate) fn websocket_closed(&self, code: u16) {
        // Ours and the registered ones; a peer may send any other.
        let code =
            if matches!(code, 1000..=1015 | 4000..=4015) { code.to_string() } else { "other".to_owned() };
        self.record(|| counter!(WEBSOCKETS_CLOSED, "code" => code.clone()).increment(1));
    }

    /// An HTTP request was answered.
    pub(crate) fn request(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        // Only methods that are routed get a label of their own: the label's values stay bounded.
        let known = [Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS];
        let method = if known.contains(method) { method.as_str() } else { "other" };
        let (route, method) = (route.to_owned(), method.to_owned());
        self.record(|| {
            counter!(HTTP_REQUESTS, "route" => route.clone(), "method" => method, "status" => status.as_str().to_owned())
                .increment(1);
            histogram!(HTTP_SECONDS, "route" => route).record(took);
        });
    }

    /// A connection came up, so long after its request.
    pub(crate) fn joined(&self, role: Role, took: Duration) {
        self.record(|| histogram!(JOIN_SECONDS, "role" => role_name(role)).record(took));
    }

    /// A connection ended.
    pub(crate) fn closed(&self, role: Role, reason: CloseReason) {
        self.record(|| {
            counter!(LEGS_CLOSED, "role" => role_name(role), "reason" => reason_name(reason)).increment(1)
        });
    }

    /// A refresh, or a return with a ticket, ended.
    pub(crate) fn replaced(&self, report: Report) {
        self.record(|| match report {
            Report::Refresh { cause, outcome, took } => {
                let cause = cause.map_or(CLIENT, Cause::name);
                counter!(REFRESHES, "cause" => cause, "result" => outcome.name()).increment(1);
                if outcome == Outcome::Completed {
                    histogram!(REFRESH_SECONDS, "cause" => cause).record(took);
                }
            }
            Report::Spent { replayed, gap_frames } => {
                counter!(REFRESH_REPLAYED).increment(replayed);
                counter!(REFRESH_GAP).increment(gap_frames);
            }
            Report::Resume { role, admitted } => {
                let result = if admitted { "admitted" } else { "refused" };
                counter!(RESUMES, "role" => role_name(role), "result" => result).increment(1);
            }
        });
    }

    fn attempted(&self, role: Role, attempt: Attempt, result: &'static str, reason: &str) {
        let (role, attempt, reason) = (role_name(role), attempt.name(), reason.to_ascii_lowercase());
        self.record(|| {
            counter!(JOIN_ATTEMPTS, "role" => role, "attempt" => attempt, "result" => result, "reason" => reason.clone())
                .increment(1);
        });
    }

    fn first_audio_took(&self, Sample { role, early, took }: Sample) {
        let arrival = if early { "early" } else { "late" };
        self.record(|| histogram!(FIRST_AUDIO, "role" => role_name(role), "arrival" => arrival).record(took));
    }

    /// Folds what the histograms have collected, for ever. They keep every single value until somebody does, and a
    /// relay that nobody scrapes has nobody else. Runs until its task is dropped.
    pub(crate) async fn upkeep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.handle.run_upkeep();
        }
    }

    /// The Prometheus text, with what the planes say now.
    pub(crate) async fn render(
        &self,
        service: &Service,
        tokens: &AuthCounts,
        webhooks: &WebhookCounts,
    ) -> String {
        let counts = service.directory().counts();
        // A plane that hangs keeps its last figures, and the others are told: now is when they are wanted.
        let shards = service.shard().each().iter().map(|shard| timeout(PATIENCE, shard.stats()));
        let (snapshot, shards) =
            tokio::join!(timeout(PATIENCE, service.connections().snapshot()), join_all(shards));
        self.record(|| {
            refresh::sessions(&counts);
            refresh::records(&self.records);
            refresh::overload(&self.overload);
            refresh::sockets(&self.sockets);
            refresh::tokens(tokens);
            refresh::webhooks(webhooks);
            refresh::connection_commands(service.connections().waiting());
            if let Ok(snapshot) = &snapshot {
                refresh::connections(snapshot);
            }
            for (number, shard) in service.shard().each().iter().enumerate() {
                refresh::shard_stalled(number, shard.is_stalled());
            }
            for (number, stats) in shards.iter().enumerate() {
                if let Ok(Ok(stats)) = stats {
                    refresh::shard(number, stats);
                    self.shard_lags.note(number, &stats.queue);
                }
            }
        });
        let mut text = self.handle.render();
        self.shard_lags.render(&mut text);
        text
    }

    fn record(&self, what: impl FnOnce()) {
        with_local_recorder(&self.recorder, what);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// As a metric's label.
fn reason_name(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Deleted => "deleted",
        CloseReason::TakenOver => "taken_over",
        CloseReason::Refreshed => "refreshed",
        CloseReason::MaxAge => "max_age",
        CloseReason::Overloaded => "overloaded",
        CloseReason::TokenExpired => "token_expired",
        CloseReason::SessionEnded => "session_ended",
        CloseReason::PeerClosed => "peer_closed",
        CloseReason::IceTimeout => "ice_timeout",
        CloseReason::DtlsTimeout => "dtls_timeout",
        CloseReason::JoinTimeout => "join_timeout",
        CloseReason::ConsentLost => "consent_lost",
        CloseReason::Failed => "failed",
        CloseReason::Panicked => "panicked",
        CloseReason::MediaFailed => "media_failed",
        CloseReason::Shutdown => "shutdown",
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Publisher => "publisher",
        Role::Listener => "listener",
    }
}

/// How long a plane may take to tell its figures.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long histograms collect single values.
const UPKEEP: Duration = Duration::from_secs(10);
/// Bounds of the histogram of events that wait; as many as the ring of a session holds are the most.
const EVENTS: &[f64] = &[0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Bounds of the histograms, in seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ShardStats;

    #[test]
    fn what_is_recorded_is_rendered_with_its_meaning() {
        let metrics = Metrics::new(Overload::default());
        metrics.request("/v1/sessions", &Method::POST, StatusCode::CREATED, Duration::from_millis(3));
        metrics.request("none", &Method::from_bytes(b"BREW").unwrap(), StatusCode::NOT_FOUND, Duration::ZERO);
        metrics.joined(Role::Listener, Duration::from_millis(30));
        metrics.record(|| refresh::shard(3, &ShardStats::default()));
        metrics.record(|| refresh::shard_stalled(3, true));
        let text = metrics.handle.render();
        for line in [
            r#"relayd_http_requests_total{route="/v1/sessions",method="POST",status="201"} 1"#,
            r#"relayd_http_requests_total{route="none",method="other",status="404"} 1"#,
            r#"relayd_join_duration_seconds_count{role="listener"} 1"#,
            r#"relayd_packets_sent_total{shard="3"} 0"#,
            r#"relayd_feed_depth{shard="3"} 0"#,
            r#"relayd_shard_stalled{shard="3"} 1"#,
            "# HELP relayd_packets_sent_total Datagrams that the media plane sent",
            "# TYPE relayd_join_duration_seconds histogram",
        ] {
            assert!(text.contains(line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn what_may_be_asked_for_before_it_happens_is_there_at_zero() {
        let metrics = Metrics::new(Overload::default());
        metrics.record(|| refresh::records(&metrics.records));
        let text = metrics.handle.render();
        for name in ["relayd_join_attempts_total", "relayd_first_audio_seconds_bucket", "relayd_connections"]
        {
            assert!(text.lines().any(|line| line.starts_with(name)), "no {name} in\n{text}");
        }
    }

    #[test]
    fn an_attempt_is_told_once_and_the_one_after_a_failure_is_a_retry() {
        let metrics = Arc::new(Metrics::new(Overload::default()));
        let join = || JoinAttempt::begin(&metrics, std::time::Instant::now(), Role::Listener, "somebody");
        join().refused("CAPACITY");
        let second = join();
        second.ended(CloseReason::IceTimeout);
        second.refused("too late");
        let third = join();
        third.connected();
        third.ended(CloseReason::Deleted);
        let text = metrics.handle.render();
        for labels in [
            r#"attempt="first",result="refused",reason="capacity""#,
            r#"attempt="retry",result="failed",reason="ice_timeout""#,
            r#"attempt="retry",result="connected",reason="none""#,
        ] {
            let line = format!(r#"relayd_join_attempts_total{{role="listener",{labels}}} 1"#);
            assert!(text.contains(&line), "no {line} in\n{text}");
        }
        assert!(!text.contains("too late"));
    }
}
