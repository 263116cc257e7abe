//! Bodies of the session surface: what is read, checked field by field, and what is told.
//!
//! Whatever is wrong with a body is told with the field's name. The types are the document's schemas, too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::problem::{Code, Problem};
use crate::session::{Language, SessionSpec, SessionView};

/// What a session is to be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateSession {
    /// What the speaker speaks, as a BCP 47 tag.
    #[schema(schema_with = tag)]
    source_language: String,
    /// The other languages of the session.
    #[serde(default)]
    #[schema(required = false, max_items = 31)]
    languages: Vec<String>,
    /// Whether anybody may listen, without a token. Default: what the relay is configured to.
    #[serde(default)]
    #[schema(required = false, nullable = false)]
    anonymous_listeners: Option<bool>,
}

/// A language more.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AddLanguage {
    /// As a BCP 47 tag.
    #[schema(schema_with = tag)]
    language: String,
}

/// Whose connections are to be replaced: those that fit everything that is said here.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RefreshOrder {
    /// `publisher` or `listener`.
    #[serde(default)]
    #[schema(required = false, nullable = false)]
    role: Option<String>,
    /// Those of this language, as a BCP 47 tag.
    #[serde(default)]
    #[schema(required = false, nullable = false)]
    language: Option<String>,
    /// The one of this name, as its `Location` says it.
    #[serde(default)]
    #[schema(required = false, nullable = false)]
    leg: Option<String>,
}

/// Connections are being replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RefreshOrdered {
    /// How many are asked.
    ordered: u64,
}

impl RefreshOrdered {
    pub(super) fn new(ordered: usize) -> Self {
        Self { ordered: ordered as u64 }
    }
}

/// A session.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    /// Its name: two words and a number.
    session_id: String,
    /// `created`: nobody has spoken yet; `active`; `paused`; `ended`.
    status: Status,
    /// What the speaker speaks.
    source_language: String,
    /// All its languages, the source first.
    languages: Vec<String>,
    /// Whether the speaker of the source language is connected.
    speaker_connected: bool,
    /// Connected listeners of all languages.
    listeners: u64,
    /// Whether anybody may listen, without a token.
    anonymous_listeners: bool,
    /// Its languages one by one.
    tracks: Vec<Track>,
    /// Where to publish, by language (WHIP).
    whip: BTreeMap<String, String>,
    /// Where to listen, by language (WHEP).
    whep: BTreeMap<String, String>,
    /// Where its events are: a WebSocket with the subprotocol `relay.v1+json`.
    events: String,
    /// Pages for people.
    pages: Pages,
}

/// A session, as told to who created it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedSession {
    /// The session.
    #[serde(flatten)]
    pub session: Session,
    /// With this in the header `Relay-Resume` a speaker takes the place back that an older connection still has.
    /// Told this once.
    pub resume_secret: String,
}

/// One language of a session.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Track {
    /// The language.
    language: String,
    /// Whether its speaker is connected.
    speaker_connected: bool,
    /// Its connected listeners.
    listeners: u64,
}

/// Pages of a session.
#[derive(Debug, Serialize, ToSchema)]
struct Pages {
    /// For listeners.
    listen: String,
    /// For the speaker.
    speak: String,
}

/// The one status of a session.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum Status {
    Created,
    Active,
    Paused,
    Ended,
}

impl Session {
    /// A session with addresses under this base.
    pub(super) fn new(view: &SessionView, base: &str) -> Self {
        let id = &view.id;
        let addresses = |kind: &str| -> BTreeMap<String, String> {
            let address = |language: &Language| format!("{base}/v1/sessions/{id}/{kind}/{language}");
            view.tracks.iter().map(|track| (track.language.to_string(), address(&track.language))).collect()
        };
        let tracks = view.tracks.iter().map(|track| Track {
            language: track.language.to_string(),
            speaker_connected: track.speaker_connected,
            listeners: track.listeners as u64,
        });
        // http → ws, https → wss.
        let socket = base.strip_prefix("http").map_or_else(|| base.to_owned(), |rest| format!("ws{rest}"));
        Self {
            session_id: id.to_string(),
            status: match view.status {
                crate::session::Status::Created => Status::Created,
                crate::session::Status::Active => Status::Active,
                crate::session::Status::Paused => Status::Paused,
                crate::session::Status::Ended => Status::Ended,
            },
            source_language: view.source.to_string(),
            languages: view.tracks.iter().map(|track| track.language.to_string()).collect(),
            speaker_connected: view.speaker_connected,
            listeners: view.listeners as u64,
            anonymous_listeners: view.anonymous_listeners,
            tracks: tracks.collect(),
            whip: addresses("whip"),
            whep: addresses("whep"),
            events: format!("{socket}/v1/sessions/{id}/events"),
            pages: Pages { listen: format!("{base}/listen/{id}"), speak: format!("{base}/speak/{id}") },
        }
    }
}

/// Reads the body of a create request.
pub(super) fn spec(text: &str, max_languages: usize, anonymous: bool) -> Result<SessionSpec, Problem> {
    let fields = object(text, &["sourceLanguage", "languages", "anonymousListeners"])?;
    let source = required("sourceLanguage", &fields, "what the speaker speaks, e.g. \"en\"")?;
    let languages = others(&source, fields.get("languages"), max_languages)?;
    let anonymous_listeners = match fields.get("anonymousListeners") {
        None => anonymous,
        Some(Value::Bool(value)) => *value,
        Some(other) => {
            let detail = format!("anonymousListeners must be a boolean, but is {}", kind_of(other));
            return Err(Problem::field("anonymousListeners", detail));
        }
    };
    Ok(SessionSpec { source, languages, owner: None, anonymous_listeners })
}

/// Reads the body of a request for one more language.
pub(super) fn added(text: &str) -> Result<Language, Problem> {
    let fields = object(text, &["language"])?;
    required("language", &fields, "the tag to add, e.g. \"fr\"")
}

/// An object with no fields but these.
pub(super) fn object(text: &str, known: &[&str]) -> Result<Map<String, Value>, Problem> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Problem::new(Code::InvalidMessage, format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(Problem::new(
            Code::InvalidMessage,
            format!("the body must be a JSON object, but is {}", kind_of(&value)),
        ));
    };
    if let Some(unknown) = fields.keys().find(|name| !known.contains(&name.as_str())) {
        let name: String = unknown.chars().take(60).collect();
        let detail = format!("there is no field {name:?}; the fields are: {}", known.join(", "));
        return Err(Problem::field(name, detail));
    }
    Ok(fields)
}

fn required(name: &str, fields: &Map<String, Value>, what: &str) -> Result<Language, Problem> {
    let missing = || Problem::field(name, format!("{name} is missing: {what}"));
    language(name, fields.get(name).ok_or_else(missing)?)
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

/// The schema of a language.
fn tag() -> utoipa::openapi::Object {
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .pattern(Some(LANGUAGE))
        .max_length(Some(35))
        .build()
}

/// A BCP 47 tag of the forms that are taken: language, script, region, variants.
const LANGUAGE: &str =
    "^[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?(-([A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*$";

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use proptest::prelude::*;

    use super::*;

    fn languages(text: &str) -> Vec<String> {
        spec(text, 4, false).unwrap().languages.iter().map(Language::to_string).collect()
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
            let problem = spec(text, 4, false).unwrap_err();
            assert!(format!("{problem:?}").contains(word), "{text}: {problem:?}");
            assert_eq!(problem.into_response().status(), StatusCode::from_u16(status).unwrap(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(text in "\\PC{0,200}") {
            std::hint::black_box(spec(&text, 4, false).is_ok());
        }
    }
}
