//! JSON bodies of the HTTP API.

use std::collections::BTreeSet;

use relayd::http::JsonBody;
use serde_json::Value;

const MAX_LANGUAGES: usize = 4;
const BODIES: [JsonBody; 3] =
    [JsonBody::CreateSession { max_languages: MAX_LANGUAGES }, JsonBody::AddLanguage, JsonBody::EventStream];

/// What is taken says what an independent reading of it says, and reading that again says the same; what is refused
/// is told in a short problem document.
pub(super) fn json_bodies(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let plain: Option<Value> = serde_json::from_str(text).ok();
    let mut taken = 0;
    for body in BODIES {
        match body.read(text) {
            Ok(said) => {
                taken += 1;
                means(body, &said, plain.as_ref().expect("what is taken is JSON"));
                assert_eq!(body.read(&said.to_string()), Ok(said), "{text}");
            }
            Err((status, problem)) => {
                let (expected, code) = match problem["code"].as_str() {
                    Some("INVALID_MESSAGE") => (400, "INVALID_MESSAGE"),
                    _ => (422, "INVALID_FIELD"),
                };
                assert_eq!((status.as_u16(), &problem["status"]), (expected, &expected.into()), "{problem}");
                assert_eq!(problem["code"], code);
                assert_eq!(problem["field"].is_string(), code == "INVALID_FIELD", "{problem}");
                assert!(plain.is_some() || status == 400, "what is not JSON has no fields: {problem}");
                // Escapes make one character up to twelve bytes long.
                assert!(problem.to_string().len() < 3_000, "{problem}");
            }
        }
    }
    assert!(taken <= 1, "no body is two things: {text}");
}

fn means(body: JsonBody, said: &Value, plain: &Value) {
    match body {
        JsonBody::CreateSession { .. } => {
            let source = text(&said["sourceLanguage"]);
            assert!(source.eq_ignore_ascii_case(text(&plain["sourceLanguage"])));
            let others = said["languages"].as_array().expect("a list");
            let all: BTreeSet<&str> = others.iter().map(text).chain([source]).collect();
            assert!(all.len() == others.len() + 1 && all.len() <= MAX_LANGUAGES, "{said}");
            let asked = plain.get("languages").map_or(0, |asked| asked.as_array().expect("a list").len());
            assert!(asked == others.len() || asked == others.len() + 1, "{said} of {plain}");
            let anybody = plain.get("anonymousListeners").is_some_and(|value| *value == true);
            assert_eq!(said["anonymousListeners"], anybody);
        }
        JsonBody::AddLanguage => {
            assert!(text(&said["language"]).eq_ignore_ascii_case(text(&plain["language"])));
        }
        JsonBody::EventStream => {
            let set = |value: &Value| -> BTreeSet<String> {
                value.as_array().expect("a list").iter().map(|name| text(name).to_owned()).collect()
            };
            assert_eq!(set(said), set(plain));
            assert!(!set(said).is_empty());
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}
