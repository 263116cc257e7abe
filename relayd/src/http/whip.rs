//! WHIP (RFC 9725): a publisher's offer.
//!
//! The short addresses `/whip/…` are for encoders and players that only take a URL.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;

use super::problem::Problem;
use super::{Api, Segments, endpoint};
use crate::webrtc::Role;

/// The routes of this surface.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/sessions/{session}/whip/{language}", endpoint::probes().post(publish))
        .route("/whip/{session}/{language}", endpoint::probes().post(publish))
        .route("/whip/{session}", endpoint::probes().post(publish_source))
}

async fn publish(
    State(api): State<Arc<Api>>,
    Segments((session, language)): Segments<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    endpoint::join(&api, Role::Publisher, &session, Some(&language), request).await
}

async fn publish_source(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    request: Request,
) -> Result<Response, Problem> {
    endpoint::join(&api, Role::Publisher, &session, None, request).await
}
