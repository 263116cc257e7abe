//! WHIP (RFC 9725): a publisher's offer.
//!
//! The short addresses `/whip/…` are for encoders and players that only take a URL.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;

use super::problem::Problem;
use super::route::Routes;
use super::{Api, Segments, endpoint};
use crate::webrtc::Role;

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    let role = Role::Publisher;
    endpoint::routes(role, "/v1/sessions/{session}/whip/{language}", "", post(publish))
        .merge(endpoint::routes(role, "/whip/{session}/{language}", "Short", post(publish)))
        .merge(endpoint::routes(role, "/whip/{session}", "Source", post(publish_source)))
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
