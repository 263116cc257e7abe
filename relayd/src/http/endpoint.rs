//! What WHIP and WHEP endpoints have in common: an SDP offer in, a connection and its answer out.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde_json::{Value, json};
use utoipa::openapi::HttpMethod;
use utoipa::openapi::path::Operation;

use super::body::{self, Kind};
use super::connecting::Connecting;
use super::document::declared;
use super::openers::Opened;
use super::peer::Peer;
use super::problem::{Code, Problem};
use super::route::{Policy, Routes, described};
use super::{Api, link};
use crate::auth::Caller;
use crate::session::{Admitted, Claim, JoinRequest, SessionError};
use crate::webrtc::Role;

/// POST with its handler, and GET, on one path of an endpoint. The id of its operation ends with `form`.
pub(super) fn routes(role: Role, path: &str, form: &str, post: MethodRouter<Arc<Api>>) -> Routes {
    let (policy, id, summary, audio) = match role {
        Role::Publisher => (Policy::Publish, "publish", "Speak (WHIP)", "sends"),
        Role::Listener => (Policy::Listen, "listen", "Listen (WHEP)", "receives"),
    };
    let offer = if role == Role::Publisher { OFFER_TO_SEND } else { OFFER_TO_RECEIVE };
    let resume = json!({
        "name": "Relay-Resume",
        "in": "header",
        "required": false,
        "description": "The session's `resumeSecret`: takes the place of a publisher that is still there. One that is not the session's is refused, also where nobody has the place.",
        "schema": { "type": "string" },
    });
    let ticket = json!({
        "name": "Relay-Ticket",
        "in": "header",
        "required": false,
        "description": "The ticket of another connection: of `connectionRefreshRequired`, to take over from it while it goes on, or of its answer, to do that unasked or to go on where it was. Good for one connection, while that one is there and 60 s longer; and again, within 60 s of its first use, if the answer was lost: what it opened before is closed then. No token is needed with it.",
        "schema": { "type": "string" },
    });
    let joining: Operation = declared(json!({
        "operationId": format!("{id}{form}"),
        "tags": ["media"],
        "summary": summary,
        "description": "An SDP offer with one audio section that is bundled and has Opus.",
        "parameters": if role == Role::Publisher { json!([ticket, resume]) } else { json!([ticket]) },
        "requestBody": {
            "required": true,
            "description": format!("The offer of a peer that {audio} audio."),
            "content": { (Kind::Sdp.mime()): { "schema": { "type": "string" }, "example": offer } },
        },
        "responses": { "201": {
            "description": "The answer. The connection's own address is in `Location`.",
            "headers": {
                "Location": text("The connection's own address, for PATCH and DELETE."),
                "ETag": text("The ICE session, for `If-Match`."),
                "Relay-Ticket": text("What to come back with; see the header of the request."),
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
            Code::TooManyPending,
            Code::Draining,
            Code::Unavailable,
            Code::TicketInvalid,
            Code::InvalidField,
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
    if ticket(request.headers())?.is_none() {
        api.check_load()?;
    }
    api.service.directory().track(session, language)?;
    let (peer, caller) = (Peer::of(request.extensions()), caller_of(&request));
    let claim = claim(&caller, request.headers())?;
    let gone = || SessionError::NotFound { id: session.to_owned() };
    let session_id = api.service.directory().access(session).ok_or_else(gone)?.id;
    let pending = api.limits.pending(peer, &session_id, &caller).map_err(|crowded| api.crowded(crowded))?;
    let offer = body::text(request, Kind::Sdp, &api.settings).await?;
    // Again: a body takes its time, and sessions that end because the relay stops are not what the client asked for.
    api.check_open()?;
    let opened = Opened::new(api, &session_id, &caller, pending);
    let recorded = |slot| connecting.record(session_id, opened.holding(slot));
    let request = JoinRequest { role, session, language, caller: &caller, claim, offer };
    let Admitted { joined, ticket } = api.service.join(request, recorded).await?;
    connecting.answered(&joined);
    let plain = [
        (header::CONTENT_TYPE, Kind::Sdp.mime().to_owned()),
        (header::LOCATION, format!("/v1/legs/{}", joined.resource)),
        (header::ETAG, quoted(&joined.etag)),
        (ACCEPT_PATCH, Kind::Fragment.mime().to_owned()),
        (RELAY_TICKET, ticket),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let mut response = (StatusCode::CREATED, plain, joined.answer).into_response();
    let headers = response.headers_mut();
    if !matches!(caller, Caller::Anonymous) {
        // Credentials of TURN servers are not for everybody.
        for server in &api.ice_servers {
            headers.append(header::LINK, server.clone());
        }
    }
    if role == Role::Listener {
        headers.append(header::LINK, link::server_sent_events(&joined.resource));
    }
    Ok(response)
}

/// Who makes a request that has passed a route's policy.
pub(super) fn caller_of(request: &Request) -> Caller {
    request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous)
}

/// With what right the caller asks for a place that may be taken.
fn claim(caller: &Caller, headers: &HeaderMap) -> Result<Claim, Problem> {
    if let Some(ticket) = ticket(headers)? {
        return Ok(Claim::Ticket(ticket.to_owned()));
    }
    let mut values = headers.get_all(RELAY_RESUME).iter();
    if let Some(value) = values.next() {
        let secret = value.to_str().ok().filter(|secret| !secret.is_empty() && values.next().is_none());
        let bad = || Problem::field("Relay-Resume", "Relay-Resume must be the session's resumeSecret, once");
        return Ok(Claim::ResumeSecret(secret.ok_or_else(bad)?.to_owned()));
    }
    let granted = caller.grant().is_some_and(|grant| grant.takeover);
    Ok(if granted { Claim::TakeoverGrant } else { Claim::None })
}

/// The ticket that a request comes with.
pub(super) fn ticket(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(RELAY_TICKET).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let ticket = value.to_str().ok().filter(|ticket| !ticket.is_empty() && values.next().is_none());
    let bad = || Problem::field("Relay-Ticket", "Relay-Ticket must be a ticket, once");
    ticket.map(Some).ok_or_else(bad)
}

/// The entity tag as it stands in a header.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
/// The session's resume secret: with it a speaker takes the place back that an older connection of theirs has.
pub(super) const RELAY_RESUME: HeaderName = HeaderName::from_static("relay-resume");
/// A connection's ticket: in an answer to come back with, in a request to go on beside or after the one that had it.
pub(super) const RELAY_TICKET: HeaderName = HeaderName::from_static("relay-ticket");
const OFFER_TO_SEND: &str = include_str!("../../../fuzz/corpus/sdp_offer/str0m_sendonly");
const OFFER_TO_RECEIVE: &str = include_str!("../../../fuzz/corpus/sdp_offer/str0m_recvonly");
