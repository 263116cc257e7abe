//! The media channels of `docs/asyncapi.json` against the types, both ways, as the events' are.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::frame::MediaFrame;
use super::message::{
    ByeReason, ClientMessage, Empty, ListenerAck, MediaHello, MediaRole, MediaToken, MediaWelcome,
    ServerMessage,
};
use crate::conversation::Hidden;
use crate::events::asyncapi_tests::{check, covered, document, messages};
use crate::session::WarningReason;

const TELL: [&str; 2] = ["tellPublisher", "tellListener"];
const HEAR: [&str; 2] = ["hearPublisher", "hearListener"];

/// One of each message, in all of its forms; the match fails to compile when there is a new one.
fn said() -> Vec<Value> {
    let mut all = vec![
        ServerMessage::Ack { recv: 1, safe: 2 },
        ServerMessage::Paused {},
        ServerMessage::Resumed { position: 1, media_time: 2 },
        ServerMessage::RefreshComplete { seq: 9, position: 1, replayed: 2, gap_frames: 3, attempts: 4 },
        ServerMessage::FramesLost { count: 1, from: 2, to: 3 },
        ServerMessage::Heartbeat {},
        ServerMessage::HeartbeatAck {},
        ServerMessage::TokenRefreshed { expires_at: 1 },
        ServerMessage::Error { code: "FORBIDDEN".into(), detail: "why".into() },
    ];
    all.extend([MediaRole::Publisher, MediaRole::Listener].map(|role| {
        ServerMessage::Welcome(MediaWelcome {
            role,
            session_id: "demo".into(),
            language: "en".parse().unwrap(),
            resource: "a".repeat(32),
            ticket: "a".repeat(43),
            position: 1,
            next: 2,
            media_time: 3,
            history_ms: 30_000,
            ack_ms: 100,
            heartbeat_ms: 10_000,
        })
    }));
    use WarningReason::{Drain, MaxAge, Refresh, TokenExpiry};
    all.extend([TokenExpiry, MaxAge, Refresh, Drain].map(|reason| ServerMessage::RefreshRequired {
        url: "/v1/sessions/demo/listen/en".into(),
        ticket: "a".repeat(43),
        deadline: 1,
        reason,
    }));
    use ByeReason::{Closed, Displaced, Ended, Expired, Failed, Refreshed};
    let reasons = [
        Closed,
        Refreshed,
        Ended,
        Displaced,
        Expired,
        ByeReason::MaxAge,
        ByeReason::Overloaded,
        ByeReason::Drain,
        Failed,
    ];
    all.extend(reasons.map(|reason| ServerMessage::Bye { reason }));
    for message in &all {
        match message {
            ServerMessage::Welcome(_)
            | ServerMessage::Ack { .. }
            | ServerMessage::Paused {}
            | ServerMessage::Resumed { .. }
            | ServerMessage::RefreshRequired { .. }
            | ServerMessage::RefreshComplete { .. }
            | ServerMessage::FramesLost { .. }
            | ServerMessage::Heartbeat {}
            | ServerMessage::HeartbeatAck {}
            | ServerMessage::TokenRefreshed { .. }
            | ServerMessage::Error { .. }
            | ServerMessage::Bye { .. } => {}
        }
        assert_eq!(ServerMessage::read(&message.write()).as_ref(), Ok(message), "it reads back");
    }
    all.iter().map(|message| serde_json::from_str(&message.write()).unwrap()).collect()
}

/// The messages of both roles; which are the same for both.
fn both(document: &Value, operations: [&str; 2]) -> BTreeMap<String, Value> {
    operations.into_iter().flat_map(|operation| messages(document, operation)).collect()
}

#[test]
fn what_the_types_say_the_document_allows_and_what_it_describes_they_say() {
    let document = document();
    let mut described = both(&document, TELL);
    assert!(described.remove("frame").is_some());
    let mut by_name: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for message in said() {
        let name = message["t"].as_str().unwrap();
        let rule = described.get(name).unwrap_or_else(|| panic!("{name} is not described"));
        check(&document, &rule["payload"], &message, name).unwrap_or_else(|why| panic!("{why}"));
        by_name.entry(name.to_owned()).or_default().push(message);
    }
    for (name, message) in described {
        let samples = by_name.get(&name).unwrap_or_else(|| panic!("nothing says {name}"));
        covered(&document, &message["payload"], &samples.iter().collect::<Vec<_>>(), &name);
    }
}

#[test]
fn what_clients_may_say_is_read_and_what_they_may_not_is_refused() {
    let document = document();
    let mut described = both(&document, HEAR);
    assert!(described.remove("frame").is_some());
    assert_eq!(
        described.keys().map(String::as_str).collect::<Vec<_>>(),
        ["ack", "continue", "heartbeat", "hello", "token.refresh"]
    );
    for (name, message) in &described {
        let mut seen = std::collections::BTreeSet::new();
        for example in message["examples"].as_array().expect("examples") {
            let payload = &example["payload"];
            check(&document, &message["payload"], payload, name).unwrap_or_else(|why| panic!("{why}"));
            let read =
                ClientMessage::read(&payload.to_string()).unwrap_or_else(|why| panic!("{payload}: {why}"));
            let written: Value = serde_json::from_str(&read.write()).unwrap();
            assert_eq!(&written, payload, "nothing of it is passed over");
            seen.extend(payload["d"].as_object().unwrap().keys().cloned());
            let mut more = payload.clone();
            more["d"]["another"] = json!(1);
            assert!(ClientMessage::read(&more.to_string()).is_err(), "{more}");
        }
        let data = &message["payload"]["properties"]["d"];
        let properties = data["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(seen, properties, "{name}: every field has an example");
        let bare = ClientMessage::read(&json!({ "t": name, "d": {} }).to_string());
        assert_eq!(bare.is_ok(), data["required"].as_array().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn what_the_types_of_clients_write_the_document_allows() {
    let document = document();
    let described = both(&document, HEAR);
    let hidden = || Some(Hidden("x".into()));
    for message in [
        ClientMessage::Hello(MediaHello {
            token: hidden(),
            ticket: hidden(),
            from: Some(1),
            ..MediaHello::default()
        }),
        ClientMessage::Hello(MediaHello { resume_secret: hidden(), ..MediaHello::default() }),
        ClientMessage::Ack(ListenerAck { position: 1 }),
        ClientMessage::Heartbeat(Empty {}),
        ClientMessage::Continue(Empty {}),
        ClientMessage::TokenRefresh(MediaToken { token: Hidden("x".into()) }),
    ] {
        let said: Value = serde_json::from_str(&message.write()).unwrap();
        let name = said["t"].as_str().unwrap();
        check(&document, &described[name]["payload"], &said, name).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(ClientMessage::read(&message.write()), Ok(message), "it reads back");
    }
}

#[test]
fn what_is_no_message_is_refused_and_not_repeated() {
    for text in [
        "",
        "[]",
        r#"{"t":"welcome"}"#,
        r#"{"t":"hello","d":{"geheim":1}}"#,
        r#"{"t":"hello","d":{"token":7}}"#,
        r#"{"t":"hello","d":{"from":"geheim"}}"#,
        r#"{"t":"hello","d":{"from":-1}}"#,
        r#"{"t":"hello","d":{"ticket":"geheim","resumeSecret":"geheim"}}"#,
        r#"{"t":"ack"}"#,
        r#"{"t":"ack","d":{"position":1.5}}"#,
        r#"{"t":"continue","d":{"position":1}}"#,
        r#"{"t":"token.refresh","d":{}}"#,
    ] {
        let error = ClientMessage::read(text).expect_err(text).to_string();
        // A field's name is repeated, what it holds is not.
        assert!(!error.is_empty() && error.chars().count() <= 200, "{error}");
        assert!(text.contains(r#""geheim":"#) || !error.contains("geheim"), "{error}");
    }
}

#[test]
fn the_frames_of_the_document_are_read_and_written_the_same() {
    let document = document();
    let frame = &document["components"]["messages"]["frame"];
    let read = |index: usize| {
        let text = frame["examples"][index]["payload"].as_str().unwrap();
        let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        let bytes: Bytes = (0..text.len()).step_by(2).map(digits).collect();
        let frame = MediaFrame::read(&bytes).unwrap();
        assert_eq!(frame.write(), bytes);
        frame
    };
    let (bare, full) = (read(0), read(1));
    assert_eq!((bare.position, bare.media_time.ticks(), bare.payload.len()), (42, 42 * 960, 3));
    assert!(!bare.marker && !bare.replay && bare.capture_time.is_none() && bare.audio_level.is_none());
    assert_eq!((full.position, full.marker, full.replay), (43, true, true));
    assert_eq!(full.capture_time.unwrap().offset, Some(1 << 28));
    assert_eq!(full.audio_level.map(|level| (level.voice, level.level)), Some((true, 30)));
    for channel in ["publish", "listen"] {
        assert_eq!(document["channels"][channel]["x-subprotocol"], super::SUBPROTOCOL);
    }
}
