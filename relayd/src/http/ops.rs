//! The operator's surface, on its own listener: metrics, connections, liveness, readiness.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::time::timeout;

use super::{Api, finish};

/// The operator's router.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/connections", get(connections));
    finish(routes, api)
}

async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let text = api.metrics.render(&api.service, &api.authority().counts(), &api.webhook_counts()).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Who is connected, the oldest first: for the operator's eyes, so without anything that opens a connection.
async fn connections(State(api): State<Arc<Api>>) -> Response {
    let records = api.metrics.records();
    let counts: serde_json::Map<_, _> = records
        .counts()
        .into_iter()
        .map(|(kind, of)| {
            let of = serde_json::json!({ "live": of.live, "opened": of.opened, "closed": of.closed });
            (kind.name().to_owned(), of)
        })
        .collect();
    let list = records.list(Instant::now(), MAX_LISTED);
    Json(serde_json::json!({ "counts": counts, "connections": list })).into_response()
}

async fn healthy() -> &'static str {
    "ok\n"
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    if api.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    // Both planes must be there, or joins would be taken for nothing.
    let ready = match timeout(PATIENCE, api.service.shard().ping()).await {
        _ if api.service.connections().is_closed() => Err("the connection plane has ended".to_owned()),
        Ok(answered) => answered.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the media plane has not answered for {PATIENCE:?}")),
    };
    match ready {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// A media thread that takes longer is not ready for anybody.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections in one answer; some 200 bytes each.
const MAX_LISTED: usize = 10_000;
