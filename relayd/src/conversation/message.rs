//! What messages of all subprotocols are made of: `{"t": name, "d": {…}}`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// Text that is nobody's to see.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    t: String,
    d: Option<Map<String, Value>>,
}

/// A message's name and its data; none is an object without fields.
pub(crate) fn envelope(text: &str) -> Result<(String, Value), FrameError> {
    let Envelope { t, d } = serde_json::from_str(text).map_err(|error| FrameError::new(&error))?;
    Ok((t, Value::Object(d.unwrap_or_default())))
}

/// The data of a message of a known name.
pub(crate) fn within<T: serde::de::DeserializeOwned>(data: Value) -> Result<T, FrameError> {
    serde_json::from_value(data).map_err(|error| FrameError::new(&error))
}

/// Why a message is no frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct FrameError(String);

impl FrameError {
    /// For a reason of our own.
    pub(crate) fn of(why: &str) -> Self {
        Self(why.to_owned())
    }

    /// serde's messages name fields and types; of what was sent they repeat at most one value, which is cut.
    pub(crate) fn new(error: &serde_json::Error) -> Self {
        let text = match error.classify() {
            serde_json::error::Category::Data => {
                let text = error.to_string();
                // A string of the wrong place may be a token.
                if text.contains("string \"") { "a field has the wrong type".to_owned() } else { text }
            }
            _ => format!("the message is not JSON: line {}, column {}", error.line(), error.column()),
        };
        Self(text.chars().take(MAX_DETAIL).collect())
    }
}

/// Characters of the detail of an error.
const MAX_DETAIL: usize = 200;
