//! `docs/asyncapi.json` against the types, both ways: what the types say is what the document allows, all that it
//! describes is said by some type, and what it gives as examples is read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::frame::{ClientFrame, Hello, LegName, LineAnchor, TokenRefresh, TrackAck, TrackSnapshot};
use super::{SUBPROTOCOL, ServerFrame, Snapshot};
use crate::auth::Role;
use crate::conversation::{CloseCode, Hidden};
use crate::session::{
    Audience, EndReason, Event, Language, LossScope, Numbered, SessionId, Status, WarningReason,
};

pub(crate) fn document() -> Value {
    serde_json::from_str(super::ASYNCAPI).expect("docs/asyncapi.json is JSON")
}

/// As much of JSON Schema as the document uses; a keyword that is not known fails.
pub(crate) fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{at}: {why}: {value}"));
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "description" | "required" | "additionalProperties" => {}
            "$ref" => {
                let pointer =
                    rule.as_str().and_then(|text| text.strip_prefix('#')).expect("a local reference");
                let target = root.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"));
                check(root, target, value, at)?;
            }
            "const" if value != rule => return fail("not the constant"),
            "enum" if !rule.as_array().expect("an enum is a list").contains(value) => {
                return fail("not listed");
            }
            "const" | "enum" => {}
            "type" => {
                let fits = match rule.as_str().expect("a type is a name") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    other => panic!("{at}: unknown type {other}"),
                };
                if !fits {
                    return fail("another type");
                }
            }
            "minimum" if value.as_u64() < rule.as_u64() => return fail("too small"),
            "minLength" if value.as_str().map(str::len) < length(rule) => return fail("too short"),
            "maxLength" if value.as_str().map(str::len) > length(rule) => return fail("too long"),
            "minimum" | "minLength" | "maxLength" => {}
            "pattern" if value.as_str().is_none_or(|text| text.parse::<Language>().is_err()) => {
                return fail("not a language tag");
            }
            "pattern" => {}
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}[{index}]"))?;
                }
            }
            "properties" => check_object(root, schema, value, at)?,
            other => panic!("{at}: unknown keyword {other}"),
        }
    }
    Ok(())
}

fn length(rule: &Value) -> Option<usize> {
    rule.as_u64().and_then(|length| usize::try_from(length).ok())
}

fn check_object(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    assert_eq!(schema["additionalProperties"], false, "{at}: objects are closed");
    let fields = value.as_object().ok_or_else(|| format!("{at}: not an object"))?;
    for name in schema["required"].as_array().expect("required is listed") {
        let name = name.as_str().expect("a name");
        if !fields.contains_key(name) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    for (name, field) in fields {
        let rule = schema["properties"].get(name).ok_or_else(|| format!("{at}: {name} is not described"))?;
        check(root, rule, field, &format!("{at}.{name}"))?;
    }
    Ok(())
}

fn en() -> Language {
    "en".parse().unwrap()
}

fn snapshot() -> Snapshot {
    let track = TrackSnapshot { language: en(), speaker_connected: true, listeners: 3 };
    Snapshot {
        session_id: SessionId::demo(),
        status: Status::Active,
        source_language: en(),
        languages: vec![en(), "pt-BR".parse().unwrap()],
        speaker_connected: true,
        listeners: 3,
        tracks: vec![track],
    }
}

/// One of each frame; the match fails to compile when there is a new one.
fn frames() -> Vec<Value> {
    let welcome = |role: Role| ServerFrame::Welcome {
        session_id: SessionId::demo(),
        node: "n-1".into(),
        epoch: 1,
        heartbeat_ms: 10_000,
        resume: "a".repeat(43),
        seq: 4,
        role: role.as_str(),
        resumed: false,
    };
    let error = |code| ServerFrame::Error { code, detail: "why".into() };
    let mut frames: Vec<ServerFrame> =
        [Role::Speak, Role::Listen, Role::Moderate, Role::Admin].map(welcome).into();
    frames.extend([
        ServerFrame::SessionJoined(snapshot()),
        ServerFrame::Resync { snapshot: snapshot() },
        ServerFrame::Heartbeat {},
        ServerFrame::HeartbeatAck {},
        ServerFrame::TokenRefreshed { expires_at: 1 },
        error("INVALID_MESSAGE"),
        error("UNAUTHORIZED"),
        error("FORBIDDEN"),
        error("RATE_LIMITED"),
        error("UNAVAILABLE"),
        error("SESSION_ENDED"),
        error("LEG_NOT_FOUND"),
        ServerFrame::Ack(TrackAck { language: en(), recv: 1, safe: 2, ssrc: None, sequence: None }),
        ServerFrame::Ack(TrackAck { language: en(), recv: 1, safe: 2, ssrc: Some(3), sequence: Some(4) }),
        ServerFrame::MediaStarted(LineAnchor {
            leg: "a".repeat(32),
            ssrc: 1,
            sequence: 2,
            position: 3,
            timestamp: 4,
            media_time: 5,
        }),
    ]);
    for frame in &frames {
        match frame {
            ServerFrame::Welcome { .. }
            | ServerFrame::SessionJoined(_)
            | ServerFrame::Resync { .. }
            | ServerFrame::Heartbeat {}
            | ServerFrame::HeartbeatAck {}
            | ServerFrame::TokenRefreshed { .. }
            | ServerFrame::Ack(_)
            | ServerFrame::MediaStarted(_)
            | ServerFrame::Error { .. } => {}
        }
    }
    frames.iter().map(|frame| serde_json::from_str(&frame.write(7, 9)).unwrap()).collect()
}

/// One of each event; the match fails to compile when there is a new one.
fn events() -> Vec<Value> {
    let mut events = vec![
        Event::SessionCreated { source_language: en(), languages: vec![en()] },
        Event::SpeakerReady { language: en() },
        Event::SpeakerLeft { language: en(), linger_seconds: 60 },
        Event::ConnectionRefreshComplete { position: 1, replayed: 2, gap_frames: 3, attempts: 4 },
        Event::SessionPaused {},
        Event::SessionResumed {},
        Event::ListenerJoined { language: en(), listeners: 1 },
        Event::ListenerLeft { language: en(), listeners: 0 },
        Event::ListenersShed { language: en(), count: 3 },
        Event::TrackAdded { language: en() },
        Event::TrackRemoved { language: en() },
    ];
    events.extend([LossScope::Track, LossScope::Listeners].map(|scope| Event::FramesLost {
        language: en(),
        count: 2,
        from: 3,
        to: 4,
        scope,
    }));
    let warnings =
        [WarningReason::TokenExpiry, WarningReason::MaxAge, WarningReason::Refresh, WarningReason::Drain];
    events.extend(warnings.map(|reason| Event::ConnectionRefreshRequired {
        url: "/v1/sessions/demo/whep/en".into(),
        ticket: "a".repeat(43),
        deadline: 1,
        reason,
    }));
    events.extend(warnings.map(|reason| Event::ConnectionWarning {
        remaining_minutes: 5,
        expires_at: 1,
        reason,
    }));
    let reasons = [EndReason::Deleted, EndReason::LingerExpired, EndReason::Idle, EndReason::Shutdown];
    events.extend(reasons.map(|reason| Event::SessionEnded { reason }));
    for event in &events {
        match event {
            Event::SessionCreated { .. }
            | Event::SpeakerReady { .. }
            | Event::SpeakerLeft { .. }
            | Event::ConnectionWarning { .. }
            | Event::ConnectionRefreshRequired { .. }
            | Event::ConnectionRefreshComplete { .. }
            | Event::SessionPaused {}
            | Event::SessionResumed {}
            | Event::SessionEnded { .. }
            | Event::ListenerJoined { .. }
            | Event::ListenerLeft { .. }
            | Event::ListenersShed { .. }
            | Event::TrackAdded { .. }
            | Event::TrackRemoved { .. }
            | Event::FramesLost { .. } => {}
        }
    }
    let numbered = |event| Numbered { seq: 1, ts: 2, audience: Audience::Everyone, event };
    events.into_iter().map(|event| serde_json::to_value(numbered(event)).unwrap()).collect()
}

/// The messages of an operation, by the name on the wire.
pub(crate) fn messages(document: &Value, operation: &str) -> BTreeMap<String, Value> {
    let listed = document["operations"][operation]["messages"].as_array().expect("messages are listed");
    let message = |reference: &Value| {
        let mut target = reference;
        while let Some(pointer) = target.get("$ref").and_then(Value::as_str) {
            target = document.pointer(&pointer[1..]).unwrap_or_else(|| panic!("{pointer} leads nowhere"));
        }
        (target["name"].as_str().expect("a message has a name").to_owned(), target.clone())
    };
    listed.iter().map(message).collect()
}

#[test]
fn what_the_types_say_the_document_allows() {
    let document = document();
    let messages = messages(&document, "tell");
    for said in frames().into_iter().chain(events()) {
        let name = said["t"].as_str().unwrap();
        let message = messages.get(name).unwrap_or_else(|| panic!("{name} is not described"));
        check(&document, &message["payload"], &said, name).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn what_the_document_describes_the_types_say() {
    let document = document();
    let mut said: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for frame in frames().into_iter().chain(events()) {
        said.entry(frame["t"].as_str().unwrap().to_owned()).or_default().push(frame);
    }
    for (name, message) in messages(&document, "tell") {
        let samples = said.get(&name).unwrap_or_else(|| panic!("nothing says {name}"));
        covered(&document, &message["payload"], &samples.iter().collect::<Vec<_>>(), &name);
    }
}

/// Every property is in one of the samples, what is required in all, every value of an enum in one of them.
pub(crate) fn covered(root: &Value, schema: &Value, samples: &[&Value], at: &str) {
    assert!(!samples.is_empty(), "{at}: nothing says this");
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str) {
        return covered(root, root.pointer(&pointer[1..]).expect("a target"), samples, at);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array).filter(|_| !at.ends_with("status")) {
        assert!(values.iter().all(|value| samples.contains(&value)), "{at}: {values:?} are not all said");
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, rule) in properties {
            let fields: Vec<&Value> = samples.iter().filter_map(|sample| sample.get(name)).collect();
            let required = schema["required"].as_array().unwrap().contains(&json!(name));
            assert!(!required || fields.len() == samples.len(), "{at}.{name} is not always said");
            covered(root, rule, &fields, &format!("{at}.{name}"));
        }
    }
    if let Some(items) = schema.get("items") {
        let all: Vec<&Value> = samples.iter().flat_map(|sample| sample.as_array().unwrap()).collect();
        covered(root, items, &all, &format!("{at}[]"));
    }
}

#[test]
fn what_clients_may_say_is_read_and_what_they_may_not_is_refused() {
    let document = document();
    let messages = messages(&document, "hear");
    let names: BTreeSet<&str> = messages.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["hello", "heartbeat", "leg", "token.refresh"]));
    for (name, message) in &messages {
        let mut seen = BTreeSet::new();
        for example in message["examples"].as_array().expect("examples") {
            let payload = &example["payload"];
            check(&document, &message["payload"], payload, name).unwrap_or_else(|why| panic!("{why}"));
            let frame =
                ClientFrame::read(&payload.to_string()).unwrap_or_else(|why| panic!("{payload}: {why}"));
            let written: Value = serde_json::from_str(&frame.write()).unwrap();
            assert_eq!(&written, payload, "nothing of it is passed over");
            seen.extend(payload["d"].as_object().unwrap().keys().cloned());
            let mut more = payload.clone();
            more["d"]["another"] = json!(1);
            assert!(ClientFrame::read(&more.to_string()).is_err(), "{more}");
        }
        let described: BTreeSet<String> = message["payload"]["properties"]["d"]["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(seen, described, "{name}: every field has an example");
        let required = message["payload"]["properties"]["d"]["required"].as_array().unwrap();
        let bare = ClientFrame::read(&json!({ "t": name, "d": {} }).to_string());
        assert_eq!(bare.is_ok(), required.is_empty(), "{name}");
    }
}

#[test]
fn what_the_types_of_clients_write_the_document_allows() {
    let document = document();
    let messages = messages(&document, "hear");
    let hidden = || Hidden("x".into());
    for frame in [
        ClientFrame::Hello(Hello { token: Some(hidden()), seq: Some(u64::MAX), ..Hello::default() }),
        ClientFrame::Hello(Hello { resume: Some(hidden()), leg: Some(hidden()), ..Hello::default() }),
        ClientFrame::Leg(LegName { leg: hidden() }),
        ClientFrame::Heartbeat(super::frame::Heartbeat { seq: Some(1) }),
        ClientFrame::TokenRefresh(TokenRefresh { token: hidden() }),
    ] {
        let said: Value = serde_json::from_str(&frame.write()).unwrap();
        let name = said["t"].as_str().unwrap();
        check(&document, &messages[name]["payload"], &said, name).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn the_document_has_our_close_codes_and_our_protocol() {
    let document = document();
    assert_eq!(document["asyncapi"], "3.0.0");
    assert_eq!(document["channels"]["events"]["x-subprotocol"], SUBPROTOCOL);
    let ours: BTreeSet<u16> =
        CloseCode::ALL.iter().map(|code| code.number()).filter(|number| *number != 1000).collect();
    let mut listed = BTreeSet::new();
    for (name, channel) in document["channels"].as_object().unwrap() {
        let described = channel["x-closeCodes"].as_object().unwrap().keys();
        let described: BTreeSet<u16> = described.map(|code| code.parse().unwrap()).collect();
        assert!(described.is_superset(&ours), "{name}");
        assert!(described.iter().all(|code| *code == 1000 || ours.contains(code)), "{name}");
        listed.extend(channel["messages"].as_object().unwrap().keys().cloned());
    }
    let known: BTreeSet<String> =
        document["components"]["messages"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(listed, known);
}

#[test]
fn the_check_fails_where_it_should() {
    let document = document();
    let schema = &messages(&document, "tell")["listenerJoined"]["payload"];
    let good = json!({"t": "listenerJoined", "seq": 1, "ts": 2, "d": {"language": "en", "listeners": 1}});
    assert_eq!(check(&document, schema, &good, ""), Ok(()));
    for (pointer, bad) in [
        ("/t", json!("listenerLeft")),
        ("/seq", json!("1")),
        ("/seq", json!(-1)),
        ("/d/language", json!("english")),
        ("/d/listeners", json!(1.5)),
        ("/d", json!({"language": "en"})),
        ("/d", json!({"language": "en", "listeners": 1, "more": 1})),
    ] {
        let mut value = good.clone();
        *value.pointer_mut(pointer).unwrap() = bad;
        assert!(check(&document, schema, &value, "").is_err(), "{value}");
    }
}
