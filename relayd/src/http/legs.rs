//! A connection's own address: trickle ICE and ICE restart by PATCH, end by DELETE (RFC 9725 §4.3).

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::body::{self, Kind};
use super::endpoint::{ACCEPT_PATCH, quoted};
use super::problem::{Code, Problem};
use super::{Api, Segments};
use crate::webrtc::{CloseReason, IfMatch, Patched, ResourceId};

/// The routes of this surface.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/legs/{resource}", get(probe).options(options).patch(patch).delete(delete))
}

async fn probe(Segments(resource): Segments<String>) -> Result<StatusCode, Problem> {
    resource_id(&resource)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn options() -> impl IntoResponse {
    let allow = HeaderValue::from_static("OPTIONS, GET, HEAD, PATCH, DELETE");
    let patch = HeaderValue::from_static(Kind::Fragment.mime());
    (StatusCode::NO_CONTENT, [(header::ALLOW, allow), (ACCEPT_PATCH, patch)])
}

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

async fn delete(
    State(api): State<Arc<Api>>,
    Segments(resource): Segments<String>,
) -> Result<StatusCode, Problem> {
    api.service.connections().close(&resource_id(&resource)?, CloseReason::Deleted).await?;
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
