//! Who may follow: tokens in the hello, renewed in band, and over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use relayd::config::{AuthMode, Secret};
use serde_json::{Value, json};

use super::follower::Follower;
use crate::http::client::{JSON, Relay};

const SECRET: &str = "a secret of at least thirty-two bytes";

pub(crate) async fn relay(change: impl FnOnce(&mut relayd::config::Config)) -> Relay {
    Relay::with(|config| {
        config.auth.mode = AuthMode::Token;
        config.auth.secret = Secret::new(SECRET);
        change(config);
    })
    .await
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token that is good for so long.
pub(crate) fn token(subject: &str, role: &str, session: &str, seconds: u64) -> String {
    let claims = json!({
        "iss": "tests",
        "sub": subject,
        "aud": "relay:default",
        "exp": now() + seconds,
        "relay": { "role": role, "session": session },
    });
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A session of the subject `owner`.
pub(crate) async fn session(relay: &Relay, body: &Value) -> String {
    let bearer = format!("Bearer {}", token("owner", "speak", "*", 600));
    let headers = [JSON, ("authorization", bearer.as_str())];
    let reply = relay.send("POST", "/v1/sessions", &headers, body.to_string().as_bytes()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()["sessionId"].as_str().unwrap().to_owned()
}

fn english() -> Value {
    json!({ "sourceLanguage": "en" })
}

async fn refused(relay: &Relay, id: &str, who: Value) -> (u16, String) {
    let mut follower = Follower::open(relay.daemon.http_addr(), id).await;
    follower.say("hello", who).await;
    follower.closed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_session_is_let_in_and_others_are_not() {
    let relay = relay(|_| {}).await;
    let id = session(&relay, &english()).await;
    let address = relay.daemon.http_addr();
    for role in ["speak", "listen", "moderate", "admin"] {
        let who = json!({ "token": token("somebody", role, &id, 60) });
        let (_, welcome) = Follower::hello(address, &id, who).await;
        assert_eq!(welcome["d"]["role"], role);
    }
    assert_eq!(refused(&relay, &id, json!({})).await.0, 4004, "anonymous");
    assert_eq!(refused(&relay, &id, json!({ "token": "a.b.c" })).await.0, 4004, "junk");
    let expired = jsonwebtoken::encode(
        &Header::default(),
        &json!({ "iss": "tests", "sub": "a", "aud": "relay:default", "exp": now() - 60, "relay": { "role": "admin" } }),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    );
    assert_eq!(refused(&relay, &id, json!({ "token": expired.unwrap() })).await.0, 4004, "expired");
    let other = json!({ "token": token("somebody", "admin", "silent-owl-123", 60) });
    assert_eq!(refused(&relay, &id, other.clone()).await.0, 4006, "of another session");
    assert_eq!(refused(&relay, "silent-owl-999", other).await.0, 4006, "which does not exist");
    assert_eq!(refused(&relay, "silent-owl-999", json!({})).await.0, 4004, "strangers cannot tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_in_band_by_the_same_subject_and_role_only() {
    let relay = relay(|_| {}).await;
    let id = session(&relay, &english()).await;
    let who = json!({ "token": token("anna", "listen", &id, 400) });
    let (mut anna, _) = Follower::hello(relay.daemon.http_addr(), &id, who).await;
    anna.frame("sessionJoined").await;
    for (newer, code) in [
        (token("berta", "listen", &id, 600), "FORBIDDEN"),
        (token("anna", "admin", &id, 600), "FORBIDDEN"),
        (token("anna", "listen", "silent-owl-123", 600), "FORBIDDEN"),
        ("a.b.c".to_owned(), "UNAUTHORIZED"),
    ] {
        anna.say("token.refresh", json!({ "token": newer })).await;
        assert_eq!(anna.frame("error").await["d"]["code"], code);
    }
    anna.say("token.refresh", json!({ "token": token("anna", "listen", &id, 600) })).await;
    let expires = anna.frame("tokenRefreshed").await["d"]["expiresAt"].as_u64().unwrap();
    assert!(expires.abs_diff((now() + 600) * 1000) < 30_000, "{expires}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_ends_the_socket_and_its_ticket() {
    let relay = relay(|config| config.auth.grace = Duration::ZERO).await;
    let id = session(&relay, &english()).await;
    let who = json!({ "token": token("anna", "listen", &id, 2) });
    let (mut anna, welcome) = Follower::hello(relay.daemon.http_addr(), &id, who).await;
    let (code, reason) = anna.closed().await;
    assert_eq!(code, 4004);
    assert!(reason.contains("expired"), "{reason}");
    let again = refused(&relay, &id, json!({ "resume": welcome["d"]["resume"] })).await;
    assert_eq!(again.0, 4004);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_warned_renews_in_time_and_stays() {
    let relay = relay(|config| {
        config.auth.grace = Duration::from_secs(3600);
        config.auth.warn_before = Duration::from_secs(300);
    })
    .await;
    let id = session(&relay, &english()).await;
    let address = relay.daemon.http_addr();
    let (mut anna, _) =
        Follower::hello(address, &id, json!({ "token": token("anna", "listen", &id, 60) })).await;
    let (mut berta, _) =
        Follower::hello(address, &id, json!({ "token": token("berta", "admin", &id, 600) })).await;
    anna.frame("sessionJoined").await;
    berta.frame("sessionJoined").await;
    let warning = anna.frame("connectionWarning").await;
    assert_eq!(warning["d"]["reason"], "tokenExpiry");
    anna.say("token.refresh", json!({ "token": token("anna", "listen", &id, 600) })).await;
    anna.frame("tokenRefreshed").await;
    berta.say("heartbeat", json!({})).await;
    berta.frame("heartbeatAck").await;
}
