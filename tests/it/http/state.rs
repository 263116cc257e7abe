//! What a session's status lets happen, who takes a speaker's place, and what each answer is called.

use relayd::webrtc::Role;
use serde_json::Value;

use super::client::{JSON, Relay, Reply, SDP, offer, until};
use super::{LISTENER, SPEAKER};
use crate::webrtc::peer::{self, Peer};

/// A session en → es: its id and its resume secret.
async fn session(relay: &Relay) -> (String, String) {
    let body = br#"{"sourceLanguage":"en","languages":["es"]}"#;
    let made = relay.send("POST", "/v1/sessions", &[JSON], body).await.json();
    let text = |name: &str| made[name].as_str().expect("text").to_owned();
    (text("sessionId"), text("resumeSecret"))
}

/// A publisher whose media is up, and its leg.
async fn live(relay: &Relay, path: &str, headers: &[(&str, &str)]) -> (Peer, Reply) {
    let mut speaker = Peer::new(Role::Publisher);
    let mut all = vec![SDP];
    all.extend_from_slice(headers);
    let reply = relay.send("POST", path, &all, speaker.offer().as_bytes()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    speaker.take_sdp(&reply.body);
    peer::until(&mut [&mut speaker], "the speaker connects", |peers| peers[0].connected);
    (speaker, reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_speaker_gives_way_to_who_knows_the_secret() {
    let relay = Relay::start().await;
    let (id, secret) = session(&relay).await;
    let whip = format!("/whip/{id}");
    let (mut old, first) = live(&relay, &whip, &[]).await;
    relay.send("POST", &whip, &[SDP], &offer(SPEAKER)).await.problem(409, "SPEAKER_EXISTS");
    // Nor where nobody has the place: whoever thinks that they resume is told that they do not.
    for place in [&whip, &format!("/whip/{id}/es")] {
        for wrong in ["0123456789abcdef0123456789abcdef", &secret[1..], &secret.to_uppercase()] {
            let reply = relay.send("POST", place, &[SDP, ("relay-resume", wrong)], &offer(SPEAKER)).await;
            assert!(reply.problem(403, "TICKET_INVALID").contains("resume secret"), "{reply:?}");
        }
    }
    let twice = [SDP, ("relay-resume", secret.as_str()), ("relay-resume", secret.as_str())];
    relay.send("POST", &whip, &twice, &offer(SPEAKER)).await.problem(422, "INVALID_FIELD");
    let (_new, second) = live(&relay, &whip, &[("relay-resume", &secret)]).await;
    assert_ne!(first.header("location"), second.header("location"));
    peer::until(&mut [&mut old], "the old one is told", |peers| peers[0].closed);
    relay.send("DELETE", first.header("location"), &[], b"").await.problem(404, "LEG_NOT_FOUND");
    let shown = relay.send("GET", &format!("/v1/sessions/{id}"), &[], b"").await.json();
    assert_eq!((&shown["status"], &shown["speakerConnected"]), (&"active".into(), &true.into()));
    assert_eq!(relay.send("DELETE", second.header("location"), &[], b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_and_resuming_name_the_status_they_find() {
    let relay = Relay::start().await;
    let (id, _) = session(&relay).await;
    let send = async |what: &str| relay.send("POST", &format!("/v1/sessions/{id}/{what}"), &[], b"").await;
    for (what, wanted) in [("pause", "active"), ("resume", "paused")] {
        let detail = send(what).await.problem(409, "INVALID_STATUS");
        assert!(detail.contains("status created") && detail.contains(wanted), "{detail}");
    }
    let (_speaker, _) = live(&relay, &format!("/whip/{id}"), &[]).await;
    let shown = async || relay.send("GET", &format!("/v1/sessions/{id}"), &[], b"").await.json();
    until("the session is active", async || shown().await["status"] == "active").await;
    let detail = send("resume").await.problem(409, "INVALID_STATUS");
    assert!(detail.contains("status active"), "{detail}");
    let paused = send("pause").await;
    assert_eq!((paused.status, &paused.json()["status"]), (200, &"paused".into()));
    let detail = send("pause").await.problem(409, "INVALID_STATUS");
    assert!(detail.contains("status paused"), "{detail}");
    let resumed = send("resume").await;
    assert_eq!((resumed.status, &resumed.json()["status"]), (200, &"active".into()));
    assert_eq!(relay.send("DELETE", &format!("/v1/sessions/{id}"), &[], b"").await.status, 204);
    for what in ["pause", "resume"] {
        let detail = send(what).await.problem(410, "SESSION_ENDED");
        assert!(detail.contains("status ended"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn languages_come_and_go_while_a_session_lives() {
    let relay = Relay::with(|config| config.sessions.max_languages = 3).await;
    let (id, _) = session(&relay).await;
    let path = format!("/v1/sessions/{id}/languages");
    let add = async |tag: &str| {
        relay.send("POST", &path, &[JSON], format!(r#"{{"language":"{tag}"}}"#).as_bytes()).await
    };
    let added = add("PT-br").await;
    assert_eq!((added.status, added.header("location")), (201, format!("{path}/pt-BR").as_str()));
    assert_eq!(added.json()["languages"], serde_json::json!(["en", "es", "pt-BR"]));
    add("pt-BR").await.problem(409, "LANGUAGE_EXISTS");
    add("fr").await.problem(422, "INVALID_FIELD");
    add("klingon!").await.problem(422, "INVALID_FIELD");
    let listener = relay.join(&format!("/whep/{id}/pt-br"), LISTENER).await;
    assert_eq!(listener.status, 201, "{listener:?}");
    assert_eq!(relay.send("DELETE", added.header("location"), &[], b"").await.status, 204);
    relay.send("DELETE", added.header("location"), &[], b"").await.problem(404, "LANGUAGE_NOT_FOUND");
    until("its listener is gone, too", async || {
        relay.send("DELETE", listener.header("location"), &[], b"").await.status == 404
    })
    .await;
    relay.send("DELETE", &format!("{path}/EN"), &[], b"").await.problem(409, "SOURCE_LANGUAGE");
    assert_eq!(add("fr").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_makes_one_session_and_another_body_none() {
    let relay = Relay::start().await;
    let create = async |key: &str, body: &str| {
        relay.send("POST", "/v1/sessions", &[JSON, ("idempotency-key", key)], body.as_bytes()).await
    };
    let body = r#"{"sourceLanguage":"en"}"#;
    let (first, again) = (create("a", body).await, create("a", body).await);
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(first.body, again.body);
    assert_ne!(first.header("x-request-id"), again.header("x-request-id"), "two requests all the same");
    create("a", r#"{"sourceLanguage":"es"}"#).await.problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_ne!(create("b", body).await.header("location"), first.header("location"));
    // What came to nothing may be tried again with the same key.
    create("c", "{}").await.problem(422, "INVALID_FIELD");
    assert_eq!(create("c", body).await.status, 201);
    for bad in ["", &"x".repeat(256)] {
        create(bad, body).await.problem(422, "INVALID_FIELD");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_link_to_what_comes_next() {
    let relay = Relay::with(|config| config.webrtc.ice_servers = vec!["stun:stun.example:3478".into()]).await;
    let (id, _) = session(&relay).await;
    for (kind, client) in [("whip", SPEAKER), ("whep", LISTENER)] {
        let joined = relay.join(&format!("/{kind}/{id}"), client).await;
        let links: Vec<&str> = joined.headers("link").collect();
        assert!(links.contains(&"<stun:stun.example:3478>; rel=\"ice-server\""), "{joined:?}");
        let events = format!(
            "<{}/sse>; rel=\"urn:ietf:params:whep:ext:core:server-sent-events\"",
            joined.header("location")
        );
        let linked = links.iter().any(|link| link.starts_with(&events));
        assert_eq!(linked, kind == "whep", "{joined:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_name_and_a_problem_repeats_it() {
    let relay = Relay::start().await;
    let mut seen = std::collections::BTreeSet::new();
    for (method, path) in [("GET", "/"), ("GET", "/v1/sessions/none"), ("POST", "/"), ("GET", "/none?a=b")] {
        // The client's own name for it is not taken over.
        let reply = relay.send(method, path, &[("x-request-id", "mine")], b"").await;
        let id = reply.header("x-request-id").to_owned();
        assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{reply:?}");
        if reply.status >= 400 {
            let document: Value = reply.json();
            assert_eq!(document["requestId"], id.as_str());
            assert_eq!(document["instance"], path.split('?').next().unwrap());
        }
        assert!(seen.insert(id), "{path} has another's name");
    }
}
