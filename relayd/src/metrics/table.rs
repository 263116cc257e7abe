//! The table of all metrics.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};

macro_rules! metrics_table {
    ($( $name:ident = $text:literal, $describe:ident, $unit:ident, $meaning:literal; )*) => {
        $( pub(super) const $name: &str = $text; )*

        /// Units and meanings.
        pub(super) fn describe() {
            $( $describe!($name, Unit::$unit, $meaning); )*
        }
    };
}

metrics_table! {
    SESSIONS = "relayd_sessions", describe_gauge, Count, "Live sessions by status";
    TRACKS = "relayd_tracks", describe_gauge, Count, "Tracks of live sessions";
    SLOTS = "relayd_slots", describe_gauge, Count, "Places taken in live sessions by role, connected or not";
    LEGS = "relayd_legs", describe_gauge, Count, "Connections by role and state";
    JOIN_ATTEMPTS = "relayd_join_attempts_total", describe_counter, Count, "Requests to join by role, attempt (first, or a retry within 60 s of a failure), result (refused, connected, failed) and reason";
    FIRST_AUDIO = "relayd_first_audio_seconds", describe_histogram, Seconds, "From a join to its first audio packet: from the request or, for listeners that came early, from the speaker's first packet";
    CONNECTIONS = "relayd_connections", describe_gauge, Count, "Records of open connections by kind";
    CONNECTIONS_OPENED = "relayd_connections_opened_total", describe_counter, Count, "Records of connections made, by kind";
    CONNECTIONS_CLOSED = "relayd_connections_closed_total", describe_counter, Count, "Records of connections removed, by kind";
    TOKEN_FAILURES = "relayd_token_failures_total", describe_counter, Count, "Tokens that did not hold, by reason";
    TOKENS = "relayd_tokens_accepted_total", describe_counter, Count, "Tokens that held";
    KEY_SETS = "relayd_key_set_requests_total", describe_counter, Count, "Requests for the key set of auth.jwks_url, by result (ok, failed)";
    RATE_LIMITED = "relayd_rate_limited_total", describe_counter, Count, "Requests refused by a limit per address or token, by limit";
    WEBSOCKET_QUEUE = "relayd_websocket_queue_events", describe_histogram, Count, "Events that waited for a WebSocket when it was served";
    FOLLOWERS_LOST = "relayd_websocket_events_lost_total", describe_counter, Count, "How often a WebSocket had missed events of its session, and got the session as it is instead";
    WEBSOCKET_QUEUED = "relayd_websocket_queued_messages", describe_gauge, Count, "Messages that wait in the relay for WebSocket clients to read";
    WEBSOCKET_QUEUED_BYTES = "relayd_websocket_queued_bytes", describe_gauge, Bytes, "Their bytes";
    WEBSOCKET_QUEUED_BYTES_MAX = "relayd_websocket_queued_max_bytes", describe_gauge, Bytes, "The most bytes that ever waited in one WebSocket; events.write_buffer is the bound";
    WEBSOCKETS_CLOSED = "relayd_websockets_closed_total", describe_counter, Count, "WebSockets closed, by code";
    WEBHOOKS_QUEUED = "relayd_webhook_queue", describe_gauge, Count, "Webhooks that wait to be delivered";
    WEBHOOKS = "relayd_webhooks_total", describe_counter, Count, "Webhooks by what became of them: delivered, tried again, failed for good, dropped because the queue was full";
    OVERLOADED = "relayd_overloaded", describe_gauge, Count, "1 while new joins and sessions are refused because the relay lags";
    OVERLOAD_RUNG = "relayd_overload_rung", describe_gauge, Count, "How far the relay is on the ladder of overload: 0 in time, 1 new joins and sessions are refused, 2 the newest listeners are let go";
    SHED = "relayd_shed_total", describe_counter, Count, "Connections that were let go because the relay lags, by role";
    LAG = "relayd_lag_seconds", describe_gauge, Seconds, "How late the runtime and the media thread were when last asked, by which of them";
    EVENTS_DROPPED = "relayd_shard_events_dropped_total", describe_counter, Count, "Events of the media plane that did not fit a reader's queue";
    REFRESHES = "relayd_refreshes_total", describe_counter, Count, "Refreshes of connections that ended, by cause (age, token_expiry, operator, drain; client: nobody had asked for it) and result (completed, gave_up, dropped)";
    REFRESH_SECONDS = "relayd_refresh_duration_seconds", describe_histogram, Seconds, "From the order of a refresh to its completion, by cause";
    REFRESH_REPLAYED = "relayd_refresh_replayed_frames_total", describe_counter, Count, "Frames that new connections brought a second time as they took over";
    REFRESH_GAP = "relayd_refresh_gap_frames_total", describe_counter, Count, "Frames that nobody had any more when a new connection took over";
    RESUMES = "relayd_resumes_total", describe_counter, Count, "Tickets of connections that were gone that somebody came with, by role and result (admitted, refused)";
    LEGS_CLOSED = "relayd_legs_closed_total", describe_counter, Count, "Connections that ended, by role and reason";
    JOINS = "relayd_joins_total", describe_counter, Count, "Offers answered or refused by the connection plane";
    JOIN_SECONDS = "relayd_join_duration_seconds", describe_histogram, Seconds, "From the request to the connection being up, by role";
    HTTP_REQUESTS = "relayd_http_requests_total", describe_counter, Count, "HTTP requests by route, method and status";
    HTTP_SECONDS = "relayd_http_request_duration_seconds", describe_histogram, Seconds, "From a request's header to its answer, by route";
    DATAGRAMS_RECEIVED = "relayd_datagrams_received_total", describe_counter, Count, "Datagrams that came to the WebRTC port";
    DATAGRAMS_DROPPED = "relayd_datagrams_dropped_total", describe_counter, Count, "Datagrams dropped before they reached a track, by reason";
    CONNECTION_QUEUES = "relayd_connection_queue_depth", describe_gauge, Count, "What waits for the connection plane and its handshake threads, by queue";
    DTLS_REBUILT = "relayd_dtls_rebuilt_total", describe_counter, Count, "Handshakes begun anew by the watchdog";
    PATH_CHANGES = "relayd_listener_path_changes_total", describe_counter, Count, "Listeners that came by another address or ICE session, or back after silence, and were sent again what they may have missed";
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
    ORDERS_DEPTH = "relayd_shard_orders_depth", describe_gauge, Count, "Ends, pauses and drained rings that wait for the media thread; none is ever dropped";
    ORDERS_DEPTH_MAX = "relayd_shard_orders_depth_max", describe_gauge, Count, "The most that ever waited";
    COMMANDS_DEPTH = "relayd_shard_commands_depth", describe_gauge, Count, "Commands that wait for the media thread";
    COMMANDS_REFUSED = "relayd_shard_commands_refused_total", describe_counter, Count, "Commands that the media thread had no room for; those that nobody waits for are given again";
    EVENTS_DEPTH = "relayd_shard_events_depth", describe_gauge, Count, "The most events of the media thread that wait for one reader";
    RINGS_DEPTH = "relayd_ring_depth", describe_gauge, Count, "Frames that wait for listeners over WebSockets";
    RINGS_DEPTH_MAX = "relayd_ring_depth_max", describe_gauge, Count, "Those that wait for the slowest of them";
    RING_STALLS = "relayd_ring_stalls_total", describe_counter, Count, "How often a listener over a WebSocket had no room for a frame, and gets it from the history later";
    CONNECTION_COMMANDS = "relayd_connection_commands_depth", describe_gauge, Count, "Joins, patches and closes that wait for the connection plane";
    EVENT_FEED_LOST = "relayd_event_feed_lost_total", describe_counter, Count, "Events of sessions that webhooks were too slow for";
    QUEUE_DELAY_MAX = "relayd_shard_queue_delay_max_seconds", describe_gauge, Seconds, "The longest that one waited since the last scrape";
    TIMER_LAG_MAX = "relayd_shard_timer_lag_max_seconds", describe_gauge, Seconds, "The latest that a timer was served since the last scrape";
    FED = "relayd_feed_frames_total", describe_counter, Count, "Frames that a media thread took from others, of tracks whose home those are";
    FEED_DEPTH = "relayd_feed_depth", describe_gauge, Count, "Frames of other media threads that wait for this one";
    FEED_DEPTH_MAX = "relayd_feed_depth_max", describe_gauge, Count, "The most that ever waited";
    FEED_STALLS = "relayd_feed_stalls_total", describe_counter, Count, "How often a media thread found the queue of another one full and kept a track's frames for it; nothing is lost by that within the history";
    SHARD_LISTENERS = "relayd_shard_listeners", describe_gauge, Count, "Listeners of a media thread";
    SHARD_TRACKS = "relayd_shard_tracks", describe_gauge, Count, "Tracks of a media thread, by kind: at home there, or a replica of another one's";
    SHARD_STALLED = "relayd_shard_stalled", describe_gauge, Count, "1 while a media thread has not answered in time, and gets nothing new";
    QUEUE_DROPPED = "relayd_shard_queue_dropped_total", describe_counter, Count, "Packets dropped because the media plane's queue was full";
}

/// The cause of what no relay has asked for.
pub(super) const CLIENT: &str = "client";

/// Series whose labels are known beforehand start at zero, so that a rate over the first minutes is one.
pub(super) fn zero() {
    for role in ["publisher", "listener"] {
        for attempt in ["first", "retry"] {
            counter!(JOIN_ATTEMPTS, "role" => role, "attempt" => attempt, "result" => "connected", "reason" => "none")
                .increment(0);
        }
        for result in ["refused", "failed"] {
            counter!(JOIN_ATTEMPTS, "role" => role, "attempt" => "first", "result" => result, "reason" => "capacity")
                .increment(0);
        }
        for result in ["admitted", "refused"] {
            counter!(RESUMES, "role" => role, "result" => result).increment(0);
        }
        counter!(LEGS_CLOSED, "role" => role, "reason" => "deleted").increment(0);
        drop(histogram!(JOIN_SECONDS, "role" => role));
        drop(histogram!(FIRST_AUDIO, "role" => role, "arrival" => "late"));
    }
    for cause in ["age", "token_expiry", "operator", "drain", CLIENT] {
        for result in ["completed", "gave_up", "dropped"] {
            counter!(REFRESHES, "cause" => cause, "result" => result).increment(0);
        }
        drop(histogram!(REFRESH_SECONDS, "cause" => cause));
    }
    counter!(REFRESH_REPLAYED).increment(0);
    counter!(REFRESH_GAP).increment(0);
    drop(histogram!(FIRST_AUDIO, "role" => "listener", "arrival" => "early"));
    drop(histogram!(WEBSOCKET_QUEUE));
    counter!(FOLLOWERS_LOST).increment(0);
    counter!(TOKEN_FAILURES, "reason" => "expired").increment(0);
    counter!(RATE_LIMITED, "limit" => "joins").increment(0);
    counter!(WEBSOCKETS_CLOSED, "code" => "1000").increment(0);
}
