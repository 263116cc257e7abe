//! Sessions: create, look at, pause, resume, change, end.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::routes;

use super::body::{self, Kind};
use super::endpoint::caller_of;
use super::idempotency::{self, Answer, Begun};
use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::session_body::{self, AddLanguage, CreateSession, CreatedSession, Session};
use super::{Api, Segments};
use crate::auth::Caller;
use crate::session::{EndReason, SessionSpec, SessionView};

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    let of_body = &[
        Code::RequestTimeout,
        Code::BodyTooLarge,
        Code::WrongContentType,
        Code::InvalidField,
        Code::Draining,
        Code::Unavailable,
    ];
    Routes::new()
        .add(Policy::Create, routes!(create))
        .refuses(of_body)
        .refuses(&[Code::RequestInFlight, Code::IdempotencyKeyReused])
        .add(Policy::Read, routes!(show))
        .refuses(&[Code::SessionEnded])
        .add(Policy::Manage, routes!(end))
        .add(Policy::Manage, routes!(pause))
        .refuses(&[Code::InvalidStatus])
        .add(Policy::Manage, routes!(resume))
        .refuses(&[Code::InvalidStatus])
        .add(Policy::Manage, routes!(add_language))
        .refuses(of_body)
        .refuses(&[Code::LanguageExists])
        .add(Policy::Manage, routes!(remove_language))
        .refuses(&[Code::LanguageNotFound, Code::SourceLanguage])
}

/// Create a session
///
/// The same `Idempotency-Key` with the same body gets the same answer for ten minutes, and makes no second session.
#[utoipa::path(
    post,
    path = "/v1/sessions",
    tag = "sessions",
    operation_id = "createSession",
    params((
        "Idempotency-Key" = Option<String>,
        Header,
        description = "Any text that is the client's own for this request.",
        min_length = 1,
        max_length = 255
    )),
    request_body(content = CreateSession, example = json!({ "sourceLanguage": "en", "languages": ["es"] })),
    responses((
        status = 201,
        description = "The session, and where everything of it is.",
        body = CreatedSession,
        headers(("Location" = String, description = "The session's address."))
    ))
)]
async fn create(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    body::check_type(request.headers(), Kind::Json)?;
    api.check_open()?;
    api.check_load()?;
    let key = idempotency::key(request.headers())?;
    let (base, caller) = (api.base_url(request.headers()), caller_of(&request));
    let text = body::text(request, Kind::Json, &api.settings).await?;
    let Some(key) = key else {
        let spec = session_body::spec(&text, api.max_languages, api.anonymous_listeners)?;
        return Ok(created(make(&api, spec, &caller, &base).await?));
    };
    let work = match api.idempotency.begin(Instant::now(), &caller, &key, text.as_bytes())? {
        Begun::Again(answer) => return Ok(created(answer)),
        Begun::Fresh(work) => work,
    };
    let spec = session_body::spec(&text, api.max_languages, api.anonymous_listeners)?;
    // To the end, even if the client hangs up: it will come again with the key.
    let making = tokio::spawn(async move {
        let answer = make(&api, spec, &caller, &base).await?;
        work.done(Instant::now(), answer.clone());
        Ok::<_, Problem>(answer)
    });
    let lost = |_| Problem::new(Code::Unavailable, "the session could not be made; try again");
    Ok(created(making.await.map_err(lost)??))
}

async fn make(api: &Api, spec: SessionSpec, caller: &Caller, base: &str) -> Result<Answer, Problem> {
    let spec = SessionSpec { owner: caller.subject().cloned(), ..spec };
    let made = api.service.create(spec).await?;
    tracing::info!(session = %made.view.id, source = %made.view.source, %caller, "session created");
    let location = format!("/v1/sessions/{}", made.view.id);
    let document =
        CreatedSession { session: Session::new(&made.view, base), resume_secret: made.resume_secret };
    let body = serde_json::to_vec(&document).expect("a session's document is JSON");
    Ok(Answer { location, body: Bytes::from(body) })
}

fn created(answer: Answer) -> Response {
    let headers = [
        (header::LOCATION, answer.location),
        (header::CONTENT_TYPE, Kind::Json.mime().to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (StatusCode::CREATED, headers, answer.body).into_response()
}

/// Look at a session
#[utoipa::path(
    get,
    path = "/v1/sessions/{session}",
    tag = "sessions",
    operation_id = "showSession",
    responses((status = 200, description = "The session as it is now.", body = Session))
)]
async fn show(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(shown(&api, &headers, &api.service.directory().view(&session)?))
}

/// End a session
///
/// Its connections are closed, and its id answers 410 for a while.
#[utoipa::path(
    delete,
    path = "/v1/sessions/{session}",
    tag = "sessions",
    operation_id = "endSession",
    responses((status = 204, description = "The session has ended."))
)]
async fn end(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
) -> Result<StatusCode, Problem> {
    api.service.end(&session, EndReason::Deleted).await?;
    tracing::info!(session, "session ended");
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a session
///
/// What is spoken is not heard until it is resumed. Everybody stays connected. The session must be `active`.
#[utoipa::path(
    post,
    path = "/v1/sessions/{session}/pause",
    tag = "sessions",
    operation_id = "pauseSession",
    responses((status = 200, description = "The session is paused.", body = Session))
)]
async fn pause(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let view = api.service.pause(&session).await?;
    tracing::info!(session, "session paused");
    Ok(shown(&api, &headers, &view))
}

/// Resume a session
///
/// The session must be `paused`.
#[utoipa::path(
    post,
    path = "/v1/sessions/{session}/resume",
    tag = "sessions",
    operation_id = "resumeSession",
    responses((status = 200, description = "The session is active again.", body = Session))
)]
async fn resume(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let view = api.service.resume(&session).await?;
    tracing::info!(session, "session resumed");
    Ok(shown(&api, &headers, &view))
}

/// Add a language
#[utoipa::path(
    post,
    path = "/v1/sessions/{session}/languages",
    tag = "sessions",
    operation_id = "addLanguage",
    request_body(content = AddLanguage, example = json!({ "language": "fr" })),
    responses((
        status = 201,
        description = "The session with the language.",
        body = Session,
        headers(("Location" = String, description = "The language's address, for DELETE."))
    ))
)]
async fn add_language(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    request: Request,
) -> Result<Response, Problem> {
    body::check_type(request.headers(), Kind::Json)?;
    api.check_open()?;
    let headers = request.headers().clone();
    let text = body::text(request, Kind::Json, &api.settings).await?;
    let language = session_body::added(&text)?;
    let location = format!("/v1/sessions/{session}/languages/{language}");
    let view = api.service.add_language(&session, language).await?;
    tracing::info!(session, location, "language added");
    let mut response = shown(&api, &headers, &view);
    *response.status_mut() = StatusCode::CREATED;
    let location = HeaderValue::from_str(&location).expect("ids and tags are visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Remove a language
///
/// Whoever is connected to it is disconnected. The source language stays.
#[utoipa::path(
    delete,
    path = "/v1/sessions/{session}/languages/{language}",
    tag = "sessions",
    operation_id = "removeLanguage",
    responses((status = 204, description = "The session has it no more."))
)]
async fn remove_language(
    State(api): State<Arc<Api>>,
    Segments((session, language)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    api.service.remove_language(&session, &language).await?;
    tracing::info!(session, language, "language removed");
    Ok(StatusCode::NO_CONTENT)
}

fn shown(api: &Api, headers: &HeaderMap, view: &SessionView) -> Response {
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (no_store, Json(Session::new(view, &api.base_url(headers)))).into_response()
}
