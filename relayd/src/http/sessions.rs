//! Sessions: create, look at, end.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa_axum::routes;

use super::body::{self, Kind};
use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::{Api, Segments};
use crate::session::{EndReason, Language, SessionSpec, SessionView};

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    Routes::new()
        .add(Policy::Create, routes!(create))
        .refuses(&[
            Code::RequestTimeout,
            Code::BodyTooLarge,
            Code::WrongContentType,
            Code::InvalidField,
            Code::Draining,
        ])
        .add(Policy::Read, routes!(show))
        .refuses(&[Code::SessionEnded])
        .add(Policy::Manage, routes!(end))
}

/// Create a session
#[utoipa::path(
    post,
    path = "/v1/sessions",
    tag = "sessions",
    operation_id = "createSession",
    responses((status = 201, description = "The session, and where everything of it is."))
)]
async fn create(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    body::check_type(request.headers(), Kind::Json)?;
    api.check_open()?;
    api.check_load()?;
    let base = api.base_url(request.headers());
    let text = body::text(request, Kind::Json, &api.settings).await?;
    let view = api.service.create(spec(&text, api.max_languages)?).await?.view;
    tracing::info!(session = %view.id, source = %view.source, "session created");
    let location = [(header::LOCATION, format!("/v1/sessions/{}", view.id))];
    Ok((StatusCode::CREATED, location, Json(document(&view, &base))).into_response())
}

/// Look at a session
#[utoipa::path(
    get,
    path = "/v1/sessions/{session}",
    tag = "sessions",
    operation_id = "showSession",
    responses((status = 200, description = "The session as it is now."))
)]
async fn show(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let view = api.service.directory().view(&session)?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((no_store, Json(document(&view, &api.base_url(&headers)))).into_response())
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

/// A session as clients see it.
fn document(view: &SessionView, base: &str) -> Value {
    let id = &view.id;
    let addresses = |kind: &str| -> Map<String, Value> {
        let address = |language: &Language| json!(format!("{base}/v1/sessions/{id}/{kind}/{language}"));
        view.tracks.iter().map(|track| (track.language.to_string(), address(&track.language))).collect()
    };
    let tracks: Vec<Value> = view
        .tracks
        .iter()
        .map(|track| {
            json!({
                "language": track.language,
                "speakerConnected": track.speaker_connected,
                "listeners": track.listeners,
            })
        })
        .collect();
    json!({
        "sessionId": id,
        "status": view.status,
        "sourceLanguage": view.source,
        "languages": view.tracks.iter().map(|track| &track.language).collect::<Vec<_>>(),
        "speakerConnected": view.speaker_connected,
        "listeners": view.listeners,
        "tracks": tracks,
        "whip": addresses("whip"),
        "whep": addresses("whep"),
        "pages": { "listen": format!("{base}/listen/{id}"), "speak": format!("{base}/speak/{id}") },
    })
}

/// Reads the body of a create request; whatever is wrong is told with the field's name.
fn spec(text: &str, max_languages: usize) -> Result<SessionSpec, Problem> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Problem::new(Code::InvalidMessage, format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(Problem::new(
            Code::InvalidMessage,
            format!("the body must be a JSON object, but is {}", kind_of(&value)),
        ));
    };
    if let Some(unknown) =
        fields.keys().find(|name| !["sourceLanguage", "languages"].contains(&name.as_str()))
    {
        let name: String = unknown.chars().take(60).collect();
        let known = "the fields are sourceLanguage and languages";
        return Err(Problem::field(name.clone(), format!("there is no field {name:?}; {known}")));
    }
    let source = match fields.get("sourceLanguage") {
        None => {
            return Err(Problem::field(
                "sourceLanguage",
                "sourceLanguage is missing: what the speaker speaks, e.g. \"en\"",
            ));
        }
        Some(value) => language("sourceLanguage", value)?,
    };
    let languages = others(&source, fields.get("languages"), max_languages)?;
    Ok(SessionSpec { source, languages, owner: None, anonymous_listeners: false })
}

/// The source language and the others, none twice. The source may be listed among the others, once.
fn others(source: &Language, listed: Option<&Value>, max: usize) -> Result<Vec<Language>, Problem> {
    let empty = Vec::new();
    let listed = match listed {
        None => &empty,
        Some(Value::Array(listed)) => listed,
        Some(other) => {
            let detail = format!("languages must be an array of language tags, but is {}", kind_of(other));
            return Err(Problem::field("languages", detail));
        }
    };
    let mut languages = vec![source.clone()];
    let mut source_listed = false;
    for (index, value) in listed.iter().enumerate() {
        let field = format!("languages[{index}]");
        let language = language(&field, value)?;
        let again = if language == *source {
            std::mem::replace(&mut source_listed, true)
        } else {
            languages.contains(&language)
        };
        if again {
            return Err(Problem::field(field, format!("{language} is listed twice")));
        }
        if language != *source {
            languages.push(language);
        }
        if languages.len() > max {
            let detail = format!(
                "a session has at most {max} languages (sessions.max_languages), the source included"
            );
            return Err(Problem::field("languages", detail));
        }
    }
    Ok(languages)
}

fn language(field: &str, value: &Value) -> Result<Language, Problem> {
    let Value::String(text) = value else {
        return Err(Problem::field(
            field,
            format!("{field} must be a language tag, but is {}", kind_of(value)),
        ));
    };
    text.parse().map_err(|error| {
        let shown: String = text.chars().take(40).collect();
        Problem::field(field, format!("{field}: {shown:?} is {error}"))
    })
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use proptest::prelude::*;

    use super::*;

    fn languages(text: &str) -> Vec<String> {
        spec(text, 4).unwrap().languages.iter().map(Language::to_string).collect()
    }

    #[test]
    fn the_source_comes_first_and_once() {
        assert_eq!(languages(r#"{"sourceLanguage":"EN"}"#), ["en"]);
        assert_eq!(languages(r#"{"sourceLanguage":"en","languages":["es","pt-br"]}"#), ["en", "es", "pt-BR"]);
        assert_eq!(languages(r#"{"sourceLanguage":"en","languages":["es","en"]}"#), ["en", "es"]);
    }

    #[test]
    fn bad_requests_are_refused_with_their_field() {
        for (text, status, word) in [
            ("", 400, "not JSON"),
            ("{", 400, "not JSON"),
            ("[]", 400, "an array"),
            ("{}", 422, "sourceLanguage"),
            (r#"{"sourceLanguage":1}"#, 422, "a number"),
            (r#"{"sourceLanguage":"english"}"#, 422, "english"),
            (r#"{"sourceLanguage":"en","languages":"es"}"#, 422, "a string"),
            (r#"{"sourceLanguage":"en","languages":["es",null]}"#, 422, "languages[1]"),
            (r#"{"sourceLanguage":"en","languages":["es","ES"]}"#, 422, "twice"),
            (r#"{"sourceLanguage":"en","languages":["en","EN"]}"#, 422, "twice"),
            (r#"{"sourceLanguage":"en","languages":["de","es","fr","it"]}"#, 422, "at most 4"),
            (r#"{"sourceLanguage":"en","sessionId":"mine"}"#, 422, "sessionId"),
        ] {
            let problem = spec(text, 4).unwrap_err();
            assert!(format!("{problem:?}").contains(word), "{text}: {problem:?}");
            assert_eq!(problem.into_response().status(), StatusCode::from_u16(status).unwrap(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(text in "\\PC{0,200}") {
            std::hint::black_box(spec(&text, 4).is_ok());
        }
    }
}
