//! Every metric: name, unit and meaning in one place.
//!
//! Each daemon has its own recorder, so that several in one process (tests) do not mix. Counters that other
//! planes keep are copied from their snapshots when somebody scrapes; nothing here is on the packet path.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics::{Unit, with_local_recorder};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::time::timeout;

use crate::records::Records;
use crate::session::{Counts, Service};
use crate::shard::ShardStats;
use crate::webrtc::{CloseReason, Role, Snapshot, StateCounts};

/// The metrics of one daemon.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    records: Records,
}

impl Metrics {
    /// With every metric described.
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(SECONDS)
            .expect("the buckets are not empty")
            .build_recorder();
        let metrics = Self { handle: recorder.handle(), recorder, records: Records::default() };
        metrics.record(describe);
        metrics
    }

    /// The records of open connections.
    pub(crate) fn records(&self) -> &Records {
        &self.records
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
        let reason = match reason {
            CloseReason::Deleted => "deleted",
            CloseReason::TakenOver => "taken_over",
            CloseReason::TokenExpired => "token_expired",
            CloseReason::SessionEnded => "session_ended",
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::IceTimeout => "ice_timeout",
            CloseReason::DtlsTimeout => "dtls_timeout",
            CloseReason::JoinTimeout => "join_timeout",
            CloseReason::ConsentLost => "consent_lost",
            CloseReason::Failed => "failed",
            CloseReason::Panicked => "panicked",
            CloseReason::Shutdown => "shutdown",
        };
        self.record(|| counter!(LEGS_CLOSED, "role" => role_name(role), "reason" => reason).increment(1));
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
    pub(crate) async fn render(&self, service: &Service) -> String {
        let counts = service.directory().counts();
        // A plane that hangs keeps its last figures, and the others are told: now is when they are wanted.
        let (snapshot, shard) = tokio::join!(
            timeout(PATIENCE, service.connections().snapshot()),
            timeout(PATIENCE, service.shard().stats()),
        );
        let shard = shard.ok().and_then(Result::ok);
        self.record(|| {
            refresh_sessions(&counts);
            if let Ok(snapshot) = &snapshot {
                refresh_connections(snapshot);
            }
            if let Some(shard) = &shard {
                refresh_shard(shard);
            }
        });
        self.handle.render()
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

fn refresh_sessions(counts: &Counts) {
    let by_status = [("created", counts.created), ("active", counts.active), ("paused", counts.paused)];
    for (status, count) in by_status {
        gauge!(SESSIONS, "status" => status).set(count as f64);
    }
    gauge!(TRACKS).set(counts.tracks as f64);
    gauge!(SLOTS, "role" => "publisher").set(counts.publishers as f64);
    gauge!(SLOTS, "role" => "listener").set(counts.listeners as f64);
}

fn refresh_connections(snapshot: &Snapshot) {
    let legs = |role: &'static str, counts: &StateCounts| {
        let by_state = [
            ("pending", counts.pending),
            ("connected", counts.connected),
            ("disconnected", counts.disconnected),
        ];
        for (state, count) in by_state {
            gauge!(LEGS, "role" => role, "state" => state).set(count as f64);
        }
    };
    legs("publisher", &snapshot.publishers);
    legs("listener", &snapshot.listeners);
    let count = &snapshot.counters;
    counter!(DATAGRAMS_RECEIVED).absolute(count.received);
    counter!(JOINS, "result" => "accepted").absolute(count.accepted);
    counter!(JOINS, "result" => "refused").absolute(count.refused);
    counter!(DTLS_REBUILT).absolute(count.rebuilt);
    counter!(ICE_RESTARTS).absolute(count.restarted);
    counter!(STACK_FAULTS, "kind" => "panic").absolute(count.panics);
    counter!(STACK_FAULTS, "kind" => "error").absolute(count.stack_errors);
    let dropped = [
        ("class", count.dropped_class),
        ("unknown_source", count.dropped_unknown),
        ("stun_rate", count.dropped_rate),
        ("stun_malformed", count.dropped_stun),
        ("stun_ufrag", count.dropped_ufrag),
        ("stun_integrity", count.dropped_integrity),
        ("address_refused", count.dropped_addresses),
        ("feedback_rate", count.dropped_feedback),
        ("media_unexpected", count.dropped_media),
        ("shard_queue_full", count.dropped_shard),
        ("reply_send", count.dropped_send),
        ("receive_error", count.receive_errors),
    ];
    for (reason, dropped) in dropped {
        counter!(DATAGRAMS_DROPPED, "reason" => reason).absolute(dropped);
    }
}

fn refresh_shard(stats: &ShardStats) {
    counter!(PACKETS_SENT).absolute(stats.egress.packets);
    counter!(BYTES_SENT).absolute(stats.egress.bytes);
    counter!(SEND_CALLS).absolute(stats.egress.calls);
    let unsent = [
        ("buffer_full", stats.egress.full),
        ("unreachable", stats.egress.unreachable),
        ("path_mtu", stats.egress.too_long),
        ("send_failed", stats.egress.failed),
        ("seal_reused", stats.plane.seal_reused),
        ("seal_refused", stats.plane.seal_refused),
        ("no_keys", stats.plane.no_keys),
        ("too_long", stats.plane.too_long),
    ];
    for (reason, unsent) in unsent {
        counter!(PACKETS_UNSENT, "reason" => reason).absolute(unsent);
    }
    for (verdict, packets) in stats.relay.packets_in.iter() {
        counter!(PACKETS_RECEIVED, "verdict" => snake(&format!("{verdict:?}"))).absolute(packets);
    }
    counter!(FRAMES_SKIPPED).absolute(stats.relay.frames_skipped);
    let rtcp = [
        ("taken", stats.plane.rtcp_in),
        ("limited", stats.plane.rtcp_limited),
        ("unknown", stats.plane.rtcp_unknown),
        ("forged", stats.plane.rtcp_forged),
        ("replayed", stats.plane.rtcp_replayed),
        ("malformed", stats.plane.rtcp_malformed),
    ];
    for (verdict, datagrams) in rtcp {
        counter!(RTCP_RECEIVED, "verdict" => verdict).absolute(datagrams);
    }
    gauge!(QUEUE_DEPTH).set(stats.queue.depth as f64);
    gauge!(QUEUE_DEPTH_MAX).set(stats.queue.depth_max as f64);
    gauge!(QUEUE_DELAY_MAX).set(stats.queue.delay_max.as_secs_f64());
    gauge!(TIMER_LAG_MAX).set(stats.queue.timer_lag_max.as_secs_f64());
    counter!(QUEUE_DROPPED).absolute(stats.queue.dropped);
}

/// `TooShort` → `too_short`.
fn snake(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
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
/// Bounds of the histograms, in seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];

macro_rules! metrics_table {
    ($( $name:ident = $text:literal, $describe:ident, $unit:ident, $meaning:literal; )*) => {
        $( const $name: &str = $text; )*
        fn describe() {
            $( $describe!($name, Unit::$unit, $meaning); )*
        }
    };
}

metrics_table! {
    SESSIONS = "relayd_sessions", describe_gauge, Count, "Live sessions by status";
    TRACKS = "relayd_tracks", describe_gauge, Count, "Tracks of live sessions";
    SLOTS = "relayd_slots", describe_gauge, Count, "Places taken in live sessions by role, connected or not";
    LEGS = "relayd_legs", describe_gauge, Count, "Connections by role and state";
    LEGS_CLOSED = "relayd_legs_closed_total", describe_counter, Count, "Connections that ended, by role and reason";
    JOINS = "relayd_joins_total", describe_counter, Count, "Offers answered or refused by the connection plane";
    JOIN_SECONDS = "relayd_join_duration_seconds", describe_histogram, Seconds, "From the request to the connection being up, by role";
    HTTP_REQUESTS = "relayd_http_requests_total", describe_counter, Count, "HTTP requests by route, method and status";
    HTTP_SECONDS = "relayd_http_request_duration_seconds", describe_histogram, Seconds, "From a request's header to its answer, by route";
    DATAGRAMS_RECEIVED = "relayd_datagrams_received_total", describe_counter, Count, "Datagrams that came to the WebRTC port";
    DATAGRAMS_DROPPED = "relayd_datagrams_dropped_total", describe_counter, Count, "Datagrams dropped before they reached a track, by reason";
    DTLS_REBUILT = "relayd_dtls_rebuilt_total", describe_counter, Count, "Handshakes begun anew by the watchdog";
    ICE_RESTARTS = "relayd_ice_restarts_total", describe_counter, Count, "ICE restarts answered";
    STACK_FAULTS = "relayd_stack_faults_total", describe_counter, Count, "Errors and caught panics of the WebRTC stack";
    PACKETS_RECEIVED = "relayd_packets_received_total", describe_counter, Count, "RTP packets of publishers by what the engine made of them";
    PACKETS_SENT = "relayd_packets_sent_total", describe_counter, Count, "Datagrams that the media plane sent";
    BYTES_SENT = "relayd_sent_bytes_total", describe_counter, Bytes, "UDP payload that the media plane sent";
    SEND_CALLS = "relayd_send_calls_total", describe_counter, Count, "System calls that sent it";
    PACKETS_UNSENT = "relayd_packets_unsent_total", describe_counter, Count, "Packets of the media plane that were not sent, by reason";
    FRAMES_SKIPPED = "relayd_frames_skipped_total", describe_counter, Count, "Frames that listeners should have had and did not";
    RTCP_RECEIVED = "relayd_rtcp_received_total", describe_counter, Count, "RTCP datagrams of listeners by what was made of them";
    QUEUE_DEPTH = "relayd_shard_queue_depth", describe_gauge, Count, "Packets that wait for the media plane";
    QUEUE_DEPTH_MAX = "relayd_shard_queue_depth_max", describe_gauge, Count, "The most that ever waited";
    QUEUE_DELAY_MAX = "relayd_shard_queue_delay_max_seconds", describe_gauge, Seconds, "The longest that one waited since the last scrape";
    TIMER_LAG_MAX = "relayd_shard_timer_lag_max_seconds", describe_gauge, Seconds, "The latest that a timer was served since the last scrape";
    QUEUE_DROPPED = "relayd_shard_queue_dropped_total", describe_counter, Count, "Packets dropped because the media plane's queue was full";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_rendered_with_its_meaning() {
        let metrics = Metrics::new();
        metrics.request("/v1/sessions", &Method::POST, StatusCode::CREATED, Duration::from_millis(3));
        metrics.request("none", &Method::from_bytes(b"BREW").unwrap(), StatusCode::NOT_FOUND, Duration::ZERO);
        metrics.joined(Role::Listener, Duration::from_millis(30));
        metrics.record(|| refresh_shard(&ShardStats::default()));
        let text = metrics.handle.render();
        for line in [
            r#"relayd_http_requests_total{route="/v1/sessions",method="POST",status="201"} 1"#,
            r#"relayd_http_requests_total{route="none",method="other",status="404"} 1"#,
            r#"relayd_join_duration_seconds_count{role="listener"} 1"#,
            "relayd_packets_sent_total 0",
            "# HELP relayd_packets_sent_total Datagrams that the media plane sent",
            "# TYPE relayd_join_duration_seconds histogram",
        ] {
            assert!(text.contains(line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn variants_become_label_values() {
        assert_eq!(snake("TooShort"), "too_short");
        assert_eq!(snake("Taken"), "taken");
    }
}
