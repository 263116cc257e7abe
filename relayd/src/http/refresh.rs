//! An operator's order to replace connections, without a gap for whoever is on them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use utoipa_axum::routes;

use super::body::{self, Kind};
use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::session_body::{RefreshOrder, RefreshOrdered, object};
use super::{Api, Segments};
use crate::session::RefreshTarget;
use crate::webrtc::Role;

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    Routes::new().add(Policy::Manage, routes!(refresh)).refuses(&[
        Code::RequestTimeout,
        Code::BodyTooLarge,
        Code::WrongContentType,
        Code::InvalidField,
        Code::InvalidMessage,
        Code::LanguageNotFound,
        Code::Draining,
    ])
}

/// Replace connections
///
/// Whoever is meant is asked by `connectionRefreshRequired` to open another connection beside the one that they have, which
/// goes on until the new one has taken over. Those who do not come within `refresh.deadline` keep the old one. Without
/// a body all connections of the session are meant.
#[utoipa::path(
    post,
    path = "/v1/sessions/{session}/refresh",
    tag = "sessions",
    operation_id = "refreshConnections",
    request_body(content = Option<RefreshOrder>, content_type = "application/json", example = json!({ "role": "listener", "language": "en" })),
    responses((status = 202, description = "So many are asked.", body = RefreshOrdered))
)]
async fn refresh(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    request: Request,
) -> Result<Response, Problem> {
    api.check_open()?;
    let target = if request.headers().contains_key(header::CONTENT_TYPE) {
        body::check_type(request.headers(), Kind::Json)?;
        target(&body::text(request, Kind::Json, &api.settings).await?)?
    } else {
        RefreshTarget::default()
    };
    let ordered = api.service.refresh(&session, &target)?;
    tracing::info!(session, ordered, "refresh ordered");
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::ACCEPTED, no_store, Json(RefreshOrdered::new(ordered))).into_response())
}

/// Reads the body.
pub(super) fn target(text: &str) -> Result<RefreshTarget, Problem> {
    let fields = object(text, &["role", "language", "leg"])?;
    let role = string(&fields, "role")?.map(|role| match role {
        "publisher" => Ok(Role::Publisher),
        "listener" => Ok(Role::Listener),
        _ => Err(Problem::field("role", "role must be publisher or listener")),
    });
    let leg = string(&fields, "leg")?.map(|leg| {
        let name = leg.rsplit('/').next().unwrap_or(leg);
        name.parse()
            .map_err(|_| Problem::field("leg", "leg must be the name of a connection, as in its Location"))
    });
    let language = string(&fields, "language")?.map(str::to_owned);
    Ok(RefreshTarget { role: role.transpose()?, language, leg: leg.transpose()? })
}

fn string<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Problem> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Problem::field(name, format!("{name} must be a string"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_what_all_that_is_said_fits() {
        assert_eq!(target("{}").unwrap(), RefreshTarget::default());
        let name = "0123456789abcdef0123456789abcdef";
        let text = format!(r#"{{"role":"listener","language":"en","leg":"/v1/legs/{name}"}}"#);
        let all = target(&text).unwrap();
        assert_eq!((all.role, all.language.as_deref()), (Some(Role::Listener), Some("en")));
        assert_eq!(all.leg, name.parse().ok());
        for (text, status) in [
            ("", 400),
            ("[]", 400),
            (r#"{"role":"speaker"}"#, 422),
            (r#"{"role":1}"#, 422),
            (r#"{"leg":"x"}"#, 422),
            (r#"{"legs":[]}"#, 422),
        ] {
            assert_eq!(target(text).unwrap_err().status().as_u16(), status, "{text}");
        }
    }
}
