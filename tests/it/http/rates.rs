//! How much one address may ask for, and who says what its address is.

use std::time::Duration;

use relayd::config::Config;

use super::LISTENER;
use super::client::{JSON, Relay, Reply, SDP, offer, until};
use crate::events::tokens;

/// Nobody is exempt, so that this machine's own clients are limited, too.
fn strict(config: &mut Config) {
    config.limits.exempt = Vec::new();
}

/// 429, and how long to wait in whole seconds.
#[track_caller]
fn limited(reply: &Reply) -> u64 {
    reply.problem(429, "RATE_LIMITED");
    let wait = reply.header("retry-after").parse().expect("whole seconds");
    let told = reply.json()["retryAfterMs"].as_u64().expect("milliseconds");
    assert!(wait >= 1 && told <= wait * 1000 && told + 1000 >= wait * 1000, "{reply:?}");
    wait
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_joins_have_a_rate_of_their_own() {
    let relay = Relay::with(|config| {
        strict(config);
        // One in a while: what is used up stays used up for as long as this takes.
        (config.limits.creates_per_second, config.limits.creates_burst) = (1, 2);
        (config.limits.joins_per_second, config.limits.joins_burst) = (1, 2);
    })
    .await;
    let id = relay.session().await;
    let body = br#"{"sourceLanguage":"en"}"#;
    until("creating is limited", async || {
        let reply = relay.send("POST", "/v1/sessions", &[JSON], body).await;
        if reply.status == 201 {
            return false;
        }
        limited(&reply);
        true
    })
    .await;
    until("joining is limited", async || {
        let reply = relay.join(&format!("/whep/{id}"), LISTENER).await;
        if reply.status == 201 {
            return false;
        }
        limited(&reply);
        true
    })
    .await;
    let looked = relay.send("GET", &format!("/v1/sessions/{id}"), &[], b"").await;
    assert_eq!(looked.status, 200, "looking is not joining: {looked:?}");
    let metrics = relay.ops("/metrics").await.body;
    for limit in ["joins", "creates"] {
        let counted = metrics
            .lines()
            .any(|line| line.contains("rate_limited") && line.contains(limit) && !line.ends_with(" 0"));
        assert!(counted, "{limit}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_whose_tokens_do_not_hold_is_not_asked_again_for_a_while() {
    let relay = tokens::relay(|config| {
        strict(config);
        config.limits.failed_auth_per_minute = 3;
        config.limits.failed_auth_ban = Duration::from_secs(600);
        config.http.trusted_proxies = vec!["127.0.0.0/8".into()];
    })
    .await;
    let id = tokens::session(&relay, &serde_json::json!({ "sourceLanguage": "en" })).await;
    let path = format!("/v1/sessions/{id}");
    let good = format!("Bearer {}", tokens::token("owner", "speak", "*", 600));
    let ask = async |token: &str, from: &str| {
        relay.send("GET", &path, &[("authorization", token), ("x-forwarded-for", from)], b"").await
    };
    for _ in 0..4 {
        ask("Bearer nonsense", "192.0.2.7").await.problem(401, "UNAUTHORIZED");
    }
    for token in ["Bearer nonsense", good.as_str()] {
        let wait = limited(&ask(token, "192.0.2.7").await);
        assert!((500..=610).contains(&wait), "{wait}");
    }
    assert_eq!(ask(&good, "192.0.2.8").await.status, 200, "another address is another client");
    assert_eq!(relay.send("GET", "/", &[("x-forwarded-for", "192.0.2.7")], b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_are_too_old_cost_joins_and_lock_nobody_out() {
    let relay = Relay::with(|config| {
        strict(config);
        config.limits.failed_auth_per_minute = 1;
        config.limits.failed_auth_ban = Duration::from_secs(600);
        (config.limits.joins_per_second, config.limits.joins_burst) = (1, 10);
    })
    .await;
    let path = format!("/whep/{}", relay.session().await);
    let ticket = "A".repeat(43);
    let headers = [("relay-ticket", &*ticket), SDP];
    for _ in 0..5 {
        relay.send("POST", &path, &headers, &offer(LISTENER)).await.problem(403, "TICKET_INVALID");
    }
    assert_eq!(relay.join(&path, LISTENER).await.status, 201, "the address is as good as before");
    until("tickets are limited as joins are", async || {
        let reply = relay.send("POST", &path, &headers, &offer(LISTENER)).await;
        reply.status != 403 && limited(&reply) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_that_are_being_set_up() {
    let relay = Relay::with(|config| {
        strict(config);
        config.limits.pending_per_address = 2;
        config.webrtc.ice_timeout = Duration::from_secs(600);
        config.webrtc.join_timeout = Duration::from_secs(600);
    })
    .await;
    let path = format!("/whep/{}", relay.session().await);
    let first = relay.join(&path, LISTENER).await;
    let second = relay.join(&path, LISTENER).await;
    assert_eq!((first.status, second.status), (201, 201));
    limited(&relay.join(&path, LISTENER).await);
    assert_eq!(relay.send("DELETE", first.header("location"), &[], b"").await.status, 200);
    until("the place is free", async || relay.join(&path, LISTENER).await.status == 201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_so_many_connections_that_are_being_set_up() {
    let relay = tokens::relay(|config| {
        strict(config);
        config.limits.pending_per_token = 1;
        config.webrtc.ice_timeout = Duration::from_secs(600);
        config.webrtc.join_timeout = Duration::from_secs(600);
    })
    .await;
    let id = tokens::session(&relay, &serde_json::json!({ "sourceLanguage": "en" })).await;
    let join = async |subject: &str| {
        let bearer = format!("Bearer {}", tokens::token(subject, "listen", &id, 600));
        let headers = [SDP, ("authorization", bearer.as_str())];
        relay.send("POST", &format!("/whep/{id}"), &headers, &offer(LISTENER)).await
    };
    assert_eq!(join("ann").await.status, 201);
    let second = join("ann").await;
    second.problem(409, "TOO_MANY_PENDING");
    assert!(second.header("retry-after").parse::<u64>().is_ok_and(|wait| wait >= 1), "{second:?}");
    assert_eq!(join("bob").await.status, 201);
}

/// How many of ten joins are let through, each of which says that it comes from elsewhere.
async fn let_through(change: impl FnOnce(&mut Config)) -> usize {
    let relay = Relay::with(|config| {
        strict(config);
        (config.limits.joins_per_second, config.limits.joins_burst) = (1, 1);
        change(config);
    })
    .await;
    let path = format!("/whep/{}", relay.session().await);
    let mut through = 0;
    for n in 0..10 {
        let from = format!("192.0.2.{n}");
        // Too short for an offer: what is let through is refused without work, and so at once.
        let reply = relay.send("POST", &path, &[SDP, ("x-forwarded-for", &from)], b"v=0").await;
        through += usize::from(reply.status == 400);
        assert!([400, 429].contains(&reply.status), "{reply:?}");
    }
    through
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_its_address_counts_from_a_trusted_proxy_alone() {
    assert_eq!(let_through(|config| config.http.trusted_proxies = vec!["127.0.0.0/8".into()]).await, 10);
    for trusted in [vec![], vec!["10.0.0.0/8".to_owned()]] {
        let through = let_through(|config| config.http.trusted_proxies = trusted).await;
        // The rate goes on meanwhile; without it only the first would be let through.
        assert!((1..8).contains(&through), "{through} of ten invented addresses were believed");
    }
}
