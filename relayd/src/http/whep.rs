//! WHEP: a listener's offer. A listener may come before the speaker; audio begins when the speaker does.
//!
//! The short addresses `/whep/…` are for encoders and players that only take a URL.

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
    let role = Role::Listener;
    endpoint::routes(role, "/v1/sessions/{session}/whep/{language}", "", post(listen))
        .merge(endpoint::routes(role, "/whep/{session}/{language}", "Short", post(listen)))
        .merge(endpoint::routes(role, "/whep/{session}", "Source", post(listen_source)))
}

async fn listen(
    State(api): State<Arc<Api>>,
    Segments((session, language)): Segments<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    endpoint::join(&api, Role::Listener, &session, Some(&language), request).await
}

async fn listen_source(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    request: Request,
) -> Result<Response, Problem> {
    endpoint::join(&api, Role::Listener, &session, None, request).await
}
