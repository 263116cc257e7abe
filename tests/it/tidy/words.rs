//! One concept, one word: no synonyms in names, no module that is named after nothing.

use super::scan::{Language, code_only, identifiers, line_of};
use super::{Complaints, files, hold};

const NAMED_AFTER_NOTHING: [&str; 8] =
    ["util", "utils", "common", "types", "prelude", "helper", "helpers", "misc"];
/// The words are listener and session. A function may speak of room, the space; a type is no room.
const PEOPLE: [&str; 4] = ["subscriber", "subscribers", "consumer", "consumers"];
const PLACES: [&str; 2] = ["room", "rooms"];
const ACTS: [&str; 3] = ["fn", "const", "static"];
const TYPES: [&str; 5] = ["struct", "enum", "trait", "type", "mod"];

fn module_name(path: &str) -> Complaints {
    path.split('/')
        .map(|part| part.split('.').next().unwrap_or(part))
        .filter(|stem| NAMED_AFTER_NOTHING.contains(stem))
        .map(|stem| format!("{path}: {stem} says nothing: name the noun"))
        .collect()
}

fn inline_modules(path: &str, text: &str) -> Complaints {
    let code = code_only(text, Language::Rust);
    let words = identifiers(&code);
    words
        .windows(2)
        .filter(|pair| pair[0].1 == "mod" && NAMED_AFTER_NOTHING.contains(&pair[1].1))
        .map(|pair| format!("{path}:{}: mod {}", line_of(&code, pair[1].0), pair[1].1))
        .collect()
}

/// Names that the code declares: after a keyword, or before a colon (fields and arguments).
fn synonyms(path: &str, text: &str) -> Complaints {
    let code = code_only(text, Language::Rust);
    let words = identifiers(&code);
    let mut complaints = Vec::new();
    for (i, (at, name)) in words.iter().enumerate() {
        let after = code[at + name.len()..].trim_start();
        let keyword = if i > 0 { words[i - 1].1 } else { "" };
        let is_type = TYPES.contains(&keyword);
        let is_field = after.starts_with(':') && !after.starts_with("::");
        let declared = is_type || is_field || ACTS.contains(&keyword);
        let names = |list: &[&str]| parts(name).iter().any(|part| list.contains(&part.as_str()));
        if (declared && names(&PEOPLE)) || (is_type && names(&PLACES)) {
            complaints.push(format!("{path}:{}: {name}: use the word of the design", line_of(&code, *at)));
        }
    }
    complaints
}

/// `joinRoom`, `JoinRoom` and `join_room` are all `join`, `room`.
fn parts(name: &str) -> Vec<String> {
    let mut split = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && lower) {
            split.push(String::new());
        }
        lower = c.is_lowercase();
        if c != '_' {
            split.last_mut().expect("never empty").extend(c.to_lowercase());
        }
    }
    split
}

#[test]
fn modules_are_named_after_what_they_hold() {
    let complaints: Complaints = files().iter().flat_map(|path| module_name(path)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    hold(&[".rs"], inline_modules);
    for bad in ["engine/src/util.rs", "relayd/src/common/mod.rs", "relayd/web/helpers.js"] {
        assert_eq!(module_name(bad).len(), 1, "{bad}");
    }
    assert!(module_name("engine/src/history.rs").is_empty());
    assert_eq!(inline_modules("a.rs", "pub mod prelude { }").len(), 1);
}

#[test]
fn one_concept_has_one_word() {
    hold(&[".rs"], |path, text| {
        if path.starts_with("engine/") || path.starts_with("relayd/") {
            synonyms(path, text)
        } else {
            Vec::new()
        }
    });
    for bad in ["pub struct RoomId;", "fn add_subscriber() {}", "struct A { consumer: u8 }", "mod rooms {}"] {
        assert_eq!(synonyms("bad.rs", bad).len(), 1, "{bad}");
    }
    assert!(
        synonyms("good.rs", "use tracing_subscriber::fmt; // a room\nfn no_room() { let room = 1; }")
            .is_empty()
    );
}
