//! Figures that other parts keep, copied when somebody scrapes.

use metrics::{counter, gauge};

use super::table::*;
use crate::auth::AuthCounts;
use crate::events::Tally;
use crate::overload::{Overload, Rung};
use crate::records::Records;
use crate::session::Counts;
use crate::shard::ShardStats;
use crate::webhook::WebhookCounts;
use crate::webrtc::{Snapshot, StateCounts};

pub(super) fn records(records: &Records) {
    for (kind, counts) in records.counts() {
        gauge!(CONNECTIONS, "kind" => kind.name()).set(counts.live as f64);
        counter!(CONNECTIONS_OPENED, "kind" => kind.name()).absolute(counts.opened);
        counter!(CONNECTIONS_CLOSED, "kind" => kind.name()).absolute(counts.closed);
    }
}

pub(super) fn tokens(counts: &AuthCounts) {
    counter!(TOKENS).absolute(counts.accepted);
    counter!(KEY_SETS, "result" => "ok").absolute(counts.key_refreshes);
    counter!(KEY_SETS, "result" => "failed").absolute(counts.key_refresh_failures);
}

pub(super) fn webhooks(counts: &WebhookCounts) {
    gauge!(WEBHOOKS_QUEUED).set(counts.queued as f64);
    let results = [
        ("delivered", counts.delivered),
        ("retried", counts.retried),
        ("failed", counts.failed),
        ("dropped", counts.dropped),
    ];
    for (result, webhooks) in results {
        counter!(WEBHOOKS, "result" => result).absolute(webhooks);
    }
}

pub(super) fn overload(overload: &Overload) {
    gauge!(OVERLOADED).set(if overload.is_overloaded() { 1.0 } else { 0.0 });
    let rung = match overload.rung() {
        Rung::Calm => 0.0,
        Rung::Joins => 1.0,
        Rung::Shed => 2.0,
    };
    gauge!(OVERLOAD_RUNG).set(rung);
    for (role, count) in overload.shed() {
        counter!(SHED, "role" => role).absolute(count);
    }
    gauge!(LAG, "of" => "runtime").set(overload.lag().runtime.as_secs_f64());
    gauge!(LAG, "of" => "shard").set(overload.lag().shard.as_secs_f64());
}

pub(super) fn sockets(tally: &Tally) {
    let sockets = tally.sockets();
    gauge!(WEBSOCKET_QUEUED).set(sockets.queued_messages as f64);
    gauge!(WEBSOCKET_QUEUED_BYTES).set(sockets.queued_bytes as f64);
    gauge!(WEBSOCKET_QUEUED_BYTES_MAX).set(sockets.queued_bytes_max as f64);
}

pub(super) fn sessions(counts: &Counts) {
    let by_status = [("created", counts.created), ("active", counts.active), ("paused", counts.paused)];
    for (status, count) in by_status {
        gauge!(SESSIONS, "status" => status).set(count as f64);
    }
    gauge!(TRACKS).set(counts.tracks as f64);
    counter!(EVENT_FEED_LOST).absolute(counts.feed_lost);
    gauge!(SLOTS, "role" => "publisher").set(counts.publishers as f64);
    gauge!(SLOTS, "role" => "listener").set(counts.listeners as f64);
}

/// Commands that wait for the connection plane.
pub(super) fn connection_commands(waiting: usize) {
    gauge!(CONNECTION_COMMANDS).set(waiting as f64);
}

pub(super) fn connections(snapshot: &Snapshot) {
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
    let queues = [
        ("media", snapshot.media_waiting),
        ("control", snapshot.control_waiting),
        ("handshakes", snapshot.handshakes_waiting),
    ];
    for (queue, waiting) in queues {
        gauge!(CONNECTION_QUEUES, "queue" => queue).set(waiting as f64);
    }
    let count = &snapshot.counters;
    counter!(DATAGRAMS_RECEIVED).absolute(count.received);
    counter!(JOINS, "result" => "accepted").absolute(count.accepted);
    counter!(JOINS, "result" => "refused").absolute(count.refused);
    counter!(DTLS_REBUILT).absolute(count.rebuilt);
    counter!(ICE_RESTARTS).absolute(count.restarted);
    counter!(PATH_CHANGES, "kind" => "address").absolute(count.path_changes);
    counter!(PATH_CHANGES, "kind" => "return").absolute(count.returns);
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
        ("media_rate", count.dropped_media_rate),
        ("shard_queue_full", count.dropped_shard),
        ("receive_queue_full", count.dropped_queue),
        ("notice_queue_full", count.dropped_notices),
        ("handshake_queue_full", count.dropped_handshakes),
        ("reply_send", count.dropped_send),
        ("receive_error", count.receive_errors),
    ];
    for (reason, dropped) in dropped {
        counter!(DATAGRAMS_DROPPED, "reason" => reason).absolute(dropped);
    }
}

/// Of a media thread that may not tell anything else.
pub(super) fn shard_stalled(number: usize, stalled: bool) {
    gauge!(SHARD_STALLED, "shard" => number.to_string()).set(f64::from(u8::from(stalled)));
}

/// What the shard of this number tells.
pub(super) fn shard(number: usize, stats: &ShardStats) {
    let shard = number.to_string();
    counter!(PACKETS_SENT, "shard" => shard.clone()).absolute(stats.egress.packets);
    counter!(BYTES_SENT, "shard" => shard.clone()).absolute(stats.egress.bytes);
    counter!(SEND_CALLS, "shard" => shard.clone()).absolute(stats.egress.calls);
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
        counter!(PACKETS_UNSENT, "shard" => shard.clone(), "reason" => reason).absolute(unsent);
    }
    for (verdict, packets) in stats.relay.packets_in.iter() {
        counter!(PACKETS_RECEIVED, "shard" => shard.clone(), "verdict" => snake(&format!("{verdict:?}")))
            .absolute(packets);
    }
    counter!(FRAMES_SKIPPED, "shard" => shard.clone()).absolute(stats.relay.frames_skipped);
    let rtcp = [
        ("taken", stats.plane.rtcp_in),
        ("limited", stats.plane.rtcp_limited),
        ("unknown", stats.plane.rtcp_unknown),
        ("forged", stats.plane.rtcp_forged),
        ("replayed", stats.plane.rtcp_replayed),
        ("malformed", stats.plane.rtcp_malformed),
    ];
    for (verdict, datagrams) in rtcp {
        counter!(RTCP_RECEIVED, "shard" => shard.clone(), "verdict" => verdict).absolute(datagrams);
    }
    gauge!(QUEUE_DELAY_MAX, "shard" => shard.clone()).set(stats.queue.delay_max.as_secs_f64());
    gauge!(TIMER_LAG_MAX, "shard" => shard.clone()).set(stats.queue.timer_lag_max.as_secs_f64());
    counter!(FED, "shard" => shard.clone()).absolute(stats.queue.fed);
    gauge!(SHARD_LISTENERS, "shard" => shard.clone()).set(stats.relay.listeners as f64);
    gauge!(SHARD_TRACKS, "shard" => shard.clone(), "kind" => "home").set(stats.relay.tracks as f64);
    gauge!(SHARD_TRACKS, "shard" => shard.clone(), "kind" => "replica").set(stats.replicas as f64);
    queues(&shard, stats);
}

/// What waits for a shard and behind it, and what found no room.
fn queues(shard: &str, ShardStats { queue, plane, .. }: &ShardStats) {
    let depths = [
        (QUEUE_DEPTH, queue.depth),
        (QUEUE_DEPTH_MAX, queue.depth_max),
        (ORDERS_DEPTH, queue.orders_depth),
        (ORDERS_DEPTH_MAX, queue.orders_depth_max),
        (COMMANDS_DEPTH, queue.commands_depth),
        (FEED_DEPTH, queue.fed_depth),
        (FEED_DEPTH_MAX, queue.fed_depth_max),
        (EVENTS_DEPTH, queue.events_depth),
        (RINGS_DEPTH, queue.rings_depth),
        (RINGS_DEPTH_MAX, queue.rings_depth_max),
    ];
    for (name, depth) in depths {
        gauge!(name, "shard" => shard.to_owned()).set(depth as f64);
    }
    let refused = [
        (QUEUE_DROPPED, queue.dropped),
        (COMMANDS_REFUSED, queue.commands_refused),
        (FEED_STALLS, plane.feed_stalls),
        (EVENTS_DROPPED, plane.events_dropped),
        (RING_STALLS, plane.ring_stalls),
    ];
    for (name, count) in refused {
        counter!(name, "shard" => shard.to_owned()).absolute(count);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_become_label_values() {
        assert_eq!(snake("TooShort"), "too_short");
        assert_eq!(snake("Taken"), "taken");
    }
}
