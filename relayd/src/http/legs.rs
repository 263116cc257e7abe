//! A connection's own address: trickle ICE and ICE restart by PATCH, end by DELETE (RFC 9725 §4.3).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::routes;

use super::body::{self, Kind};
use super::endpoint::quoted;
use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::{Api, Segments};
use crate::webrtc::{IfMatch, Patched, ResourceId};

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    let refusals = &[
        Code::RequestTimeout,
        Code::PreconditionFailed,
        Code::BodyTooLarge,
        Code::WrongContentType,
        Code::UnsupportedMedia,
        Code::PreconditionRequired,
        Code::Draining,
    ];
    Routes::new()
        .add(Policy::Leg, routes!(patch))
        .refuses(refusals)
        .add(Policy::Leg, routes!(delete))
        .refuses(&[Code::Draining])
        .add(Policy::Public, routes!(probe))
        .refuses(&[Code::LegNotFound])
}

/// Whether this is a connection's address
#[utoipa::path(
    get,
    path = "/v1/legs/{leg}",
    tag = "legs",
    operation_id = "probeLeg",
    responses((status = 204, description = "It could be one; this does not say that the connection is there."))
)]
async fn probe(Segments(resource): Segments<String>) -> Result<StatusCode, Problem> {
    resource_id(&resource)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Trickle ICE, or ICE restart
///
/// Candidates of the ICE session that `If-Match` names; or new credentials, with `If-Match: *`.
#[utoipa::path(
    patch,
    path = "/v1/legs/{leg}",
    tag = "legs",
    operation_id = "patchLeg",
    params(("If-Match" = Option<String>, Header, description = "The `ETag` of the ICE session, or `*`.")),
    request_body(content = String, content_type = "application/trickle-ice-sdpfrag", description = "RFC 8840."),
    responses(
        (status = 204, description = "The candidates are taken."),
        (
            status = 200,
            description = "ICE is restarted: our new credentials and candidates.",
            body = String,
            content_type = "application/trickle-ice-sdpfrag",
            headers(("ETag" = String, description = "The new ICE session."))
        ),
    )
)]
async fn patch(
    State(api): State<Arc<Api>>,
    Segments(resource): Segments<String>,
    request: Request,
) -> Result<Response, Problem> {
    body::check_type(request.headers(), Kind::Fragment)?;
    let resource = resource_id(&resource)?;
    let if_match = if_match(request.headers())?;
    let fragment = body::text(request, Kind::Fragment, &api.settings).await?;
    Ok(match api.service.connections().patch(&resource, if_match, fragment).await? {
        Patched::Trickled => StatusCode::NO_CONTENT.into_response(),
        Patched::Restarted { etag, fragment } => {
            let headers =
                [(header::CONTENT_TYPE, Kind::Fragment.mime().to_owned()), (header::ETAG, quoted(&etag))];
            (StatusCode::OK, headers, fragment).into_response()
        }
    })
}

/// Close a connection
///
/// Or a WebSocket with media, by the `resource` of its `welcome`: it hears `bye` with the reason `closed`.
#[utoipa::path(
    delete,
    path = "/v1/legs/{leg}",
    tag = "legs",
    operation_id = "closeLeg",
    responses((status = 200, description = "It is closed."))
)]
async fn delete(
    State(api): State<Arc<Api>>,
    Segments(resource): Segments<String>,
) -> Result<StatusCode, Problem> {
    api.service.close_leg(&resource_id(&resource)?).await?;
    Ok(StatusCode::OK)
}

fn resource_id(text: &str) -> Result<ResourceId, Problem> {
    text.parse().map_err(|_| Problem::new(Code::LegNotFound, "no connection has such a name"))
}

/// `If-Match` as one strong entity tag, `*`, or nothing. A list or a weak tag never matches an ICE session.
fn if_match(headers: &HeaderMap) -> Result<IfMatch, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(IfMatch::Missing) };
    let text = value.to_str().map_err(|_| Problem::new(Code::InvalidMessage, "If-Match is not text"))?.trim();
    Ok(match text {
        // The examples of RFC 9725 put it in quotes; no tag of ours is a star.
        "*" | "\"*\"" => IfMatch::Any,
        _ => IfMatch::Tag(
            text.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(text).to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Option<&str>) -> IfMatch {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::IF_MATCH, value.parse().unwrap());
        }
        if_match(&headers).unwrap()
    }

    #[test]
    fn if_match_is_missing_any_or_one_tag() {
        assert_eq!(read(None), IfMatch::Missing);
        assert_eq!(read(Some("*")), IfMatch::Any);
        assert_eq!(read(Some(" \"abc\" ")), IfMatch::Tag("abc".into()));
        assert_eq!(read(Some("abc")), IfMatch::Tag("abc".into()));
        assert_eq!(read(Some("W/\"abc\"")), IfMatch::Tag("W/\"abc\"".into()));
        assert_eq!(read(Some("\"*\"")), IfMatch::Any);
    }
}
