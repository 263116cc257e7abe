//! What WHIP and WHEP endpoints have in common: an SDP offer in, a connection and its answer out.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use super::Api;
use super::body::{self, Kind};
use super::problem::Problem;
use crate::metrics::Metrics;
use crate::webrtc::{CloseReason, Record, Role};

/// GET, HEAD and OPTIONS, the same on every endpoint.
pub(super) fn probes() -> MethodRouter<Arc<Api>> {
    get(async || StatusCode::NO_CONTENT).options(async || {
        let allow = (header::ALLOW, HeaderValue::from_static("OPTIONS, GET, HEAD, POST"));
        (StatusCode::NO_CONTENT, [(ACCEPT_POST, HeaderValue::from_static(Kind::Sdp.mime())), allow])
    })
}

/// POST: takes the offer and answers it.
pub(super) async fn join(
    api: &Api,
    role: Role,
    session: &str,
    language: Option<&str>,
    request: Request,
) -> Result<Response, Problem> {
    let started = Instant::now();
    body::check_type(request.headers(), Kind::Sdp)?;
    api.check_open()?;
    api.service.directory().track(session, language)?;
    let offer = body::text(request, Kind::Sdp, &api.settings).await?;
    let metrics = api.metrics.clone();
    let measured = move |slot| -> Box<dyn Record> { Box::new(Measured { slot, role, started, metrics }) };
    let joined = api.service.join(role, session, language, offer, measured).await?;
    let headers = [
        (header::CONTENT_TYPE, Kind::Sdp.mime().to_owned()),
        (header::LOCATION, format!("/v1/legs/{}", joined.resource)),
        (header::ETAG, quoted(&joined.etag)),
        (ACCEPT_PATCH, Kind::Fragment.mime().to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, joined.answer).into_response())
}

/// A slot whose connection's way up is measured.
struct Measured {
    slot: Box<dyn Record>,
    role: Role,
    started: Instant,
    metrics: Arc<Metrics>,
}

impl Record for Measured {
    fn connected(&mut self) {
        self.metrics.joined(self.role, self.started.elapsed());
        self.slot.connected();
    }

    fn disconnected(&mut self, reason: CloseReason) {
        self.metrics.closed(self.role, reason);
        self.slot.disconnected(reason);
    }
}

/// The entity tag as it stands in a header.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
pub(super) const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
