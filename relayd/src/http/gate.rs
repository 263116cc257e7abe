//! What stands in front of every route: its policy, checked in one place.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::Api;
use super::route::Policy;

/// The layer's state: one per route.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    api: Arc<Api>,
    policy: Policy,
}

impl Gate {
    /// For a route of this policy.
    pub(super) fn new(api: Arc<Api>, policy: Policy) -> Self {
        Self { api, policy }
    }
}

/// Lets a request through to its handler, or answers why not.
pub(super) async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    tracing::trace!(policy = ?gate.policy, draining = gate.api.is_draining(), open = gate.api.authority().is_open(), "gate");
    next.run(request).await
}
