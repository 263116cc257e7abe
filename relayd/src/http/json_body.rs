//! The JSON bodies that the API takes, read as the API reads them, for those who check what it takes.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::problem::Problem;
use super::{session_body, sse};
use crate::events::Topic;

/// A JSON body of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonBody {
    /// `POST /v1/sessions`, where a session has at most so many languages.
    CreateSession {
        /// The source language included.
        max_languages: usize,
    },
    /// `POST /v1/sessions/{session}/languages`.
    AddLanguage,
    /// `POST /v1/legs/{leg}/sse`.
    EventStream,
}

impl JsonBody {
    /// What a body says, with every default and in one form; reading that says the same.
    ///
    /// # Errors
    ///
    /// The status and the problem document that the API answers with.
    pub fn read(self, text: &str) -> Result<Value, (StatusCode, Value)> {
        let read = match self {
            Self::CreateSession { max_languages } => {
                session_body::spec(text, max_languages, false).map(|spec| {
                    let others: Vec<String> = spec.languages[1..].iter().map(ToString::to_string).collect();
                    json!({
                        "sourceLanguage": spec.source.to_string(),
                        "languages": others,
                        "anonymousListeners": spec.anonymous_listeners,
                    })
                })
            }
            Self::AddLanguage => {
                session_body::added(text).map(|language| json!({ "language": language.to_string() }))
            }
            Self::EventStream => sse::topics(text).map(|topics| {
                let named = Topic::ALL.into_iter().filter(|topic| topics.has(*topic));
                named.map(Topic::name).collect()
            }),
        };
        read.map_err(|problem| refusal(&problem))
    }
}

fn refusal(problem: &Problem) -> (StatusCode, Value) {
    let text = problem.document(None, super::RequestId::random());
    (problem.status(), serde_json::from_str(&text).expect("a problem document is JSON"))
}
