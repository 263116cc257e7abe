//! What WHIP and WHEP endpoints have in common: an SDP offer in, a connection and its answer out.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde_json::{Value, json};
use utoipa::openapi::HttpMethod;
use utoipa::openapi::path::Operation;

use super::Api;
use super::body::{self, Kind};
use super::connecting::Connecting;
use super::document::declared;
use super::problem::{Code, Problem};
use super::route::{Policy, Routes, described};
use crate::auth::Caller;
use crate::session::{Claim, JoinRequest};
use crate::webrtc::Role;

/// POST with its handler, and GET, on one path of an endpoint. The id of its operation ends with `form`.
pub(super) fn routes(role: Role, path: &str, form: &str, post: MethodRouter<Arc<Api>>) -> Routes {
    let (policy, id, summary, audio) = match role {
        Role::Publisher => (Policy::Publish, "publish", "Speak (WHIP)", "sends"),
        Role::Listener => (Policy::Listen, "listen", "Listen (WHEP)", "receives"),
    };
    let joining: Operation = declared(json!({
        "operationId": format!("{id}{form}"),
        "tags": ["media"],
        "summary": summary,
        "description": "An SDP offer with one audio section that is bundled and has Opus.",
        "requestBody": {
            "required": true,
            "description": format!("The offer of a peer that {audio} audio."),
            "content": { (Kind::Sdp.mime()): { "schema": { "type": "string" } } },
        },
        "responses": { "201": {
            "description": "The answer. The connection's own address is in `Location`.",
            "headers": {
                "Location": text("The connection's own address, for PATCH and DELETE."),
                "ETag": text("The ICE session, for `If-Match`."),
                "Accept-Patch": text("The content type that PATCH takes there."),
                "Link": text("Of ICE servers and extensions."),
            },
            "content": { (Kind::Sdp.mime()): { "schema": { "type": "string" } } },
        } },
    }));
    let probing: Operation = declared(json!({
        "operationId": format!("{id}{form}Probe"),
        "tags": ["media"],
        "summary": "Whether an endpoint is here",
        "responses": { "204": { "description": "It is; POST an offer to it." } },
    }));
    let probe = get(async || StatusCode::NO_CONTENT);
    Routes::new()
        .add(policy, described(path, HttpMethod::Post, joining, post))
        .refuses(&[
            Code::LanguageNotFound,
            Code::RequestTimeout,
            Code::BodyTooLarge,
            Code::WrongContentType,
            Code::UnsupportedMedia,
            Code::Draining,
        ])
        .refuses(if role == Role::Publisher { &[Code::SpeakerExists] } else { &[] })
        .add(Policy::Public, described(path, HttpMethod::Get, probing, probe))
}

fn text(description: &str) -> Value {
    json!({ "description": description, "schema": { "type": "string" } })
}

/// POST: takes the offer and answers it.
pub(super) async fn join(
    api: &Api,
    role: Role,
    session: &str,
    language: Option<&str>,
    request: Request,
) -> Result<Response, Problem> {
    let connecting = Connecting::begin(api, role, (session, language), &request);
    let answered = answer(api, &connecting, (role, session, language), request).await;
    if let Err(problem) = &answered {
        connecting.refused(problem);
    }
    answered
}

async fn answer(
    api: &Api,
    connecting: &Connecting,
    (role, session, language): (Role, &str, Option<&str>),
    request: Request,
) -> Result<Response, Problem> {
    body::check_type(request.headers(), Kind::Sdp)?;
    api.check_open()?;
    api.check_load()?;
    api.service.directory().track(session, language)?;
    let offer = body::text(request, Kind::Sdp, &api.settings).await?;
    // Again: a body takes its time, and sessions that end because the relay stops are not what the client asked for.
    api.check_open()?;
    let id = api.service.directory().view(session)?.id;
    let recorded = |slot| connecting.record(id, slot);
    let (caller, claim) = (&Caller::Open, Claim::None);
    let request = JoinRequest { role, session, language, caller, claim, offer };
    let joined = api.service.join(request, recorded).await?;
    connecting.answered(&joined);
    let headers = [
        (header::CONTENT_TYPE, Kind::Sdp.mime().to_owned()),
        (header::LOCATION, format!("/v1/legs/{}", joined.resource)),
        (header::ETAG, quoted(&joined.etag)),
        (ACCEPT_PATCH, Kind::Fragment.mime().to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, joined.answer).into_response())
}

/// The entity tag as it stands in a header.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
