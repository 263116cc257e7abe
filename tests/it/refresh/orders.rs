//! Refreshes: by an operator, by age, by the end of a token; those that fail, and those that come together.

use std::time::{Duration, Instant};

use relayd::webrtc::Role;
use serde_json::json;

use super::{Ears, TICKET, Talk, answered, assert_whole, offered};
use crate::auth::issuer::Issuer;
use crate::events::follower::Follower;
use crate::http::client::Relay;
use crate::webrtc::peer::Peer;

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_who_is_refreshed_hears_every_frame_and_is_one_listener() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    let ears = talk.ears(&leg).await;
    talk.speak_on(&mut [&mut old], 30);
    assert_eq!(talk.order(json!({ "leg": leg.name() })).await, 1);
    talk.until(&mut [&mut old], "it is asked for", |_| ears.count("connectionRefreshRequired") == 1).await;
    let warning = ears.last("connectionWarning");
    assert_eq!((&warning["reason"], &warning["remainingMinutes"]), (&json!("refresh"), &json!(1)));
    let required = ears.last("connectionRefreshRequired");
    assert_eq!(required["url"], format!("/v1/sessions/{}/whep/en", talk.id));
    assert_eq!(required["reason"], "refresh");
    let (mut new, next) = answered(&talk.relay, &talk.id, Role::Listener, &[(TICKET, &ears.ticket())]).await;
    assert_ne!(next.name(), leg.name());
    assert_eq!(talk.listeners().await, 1);
    talk.until(&mut [&mut old, &mut new], "it has taken over", |_| {
        ears.count("connectionRefreshComplete") == 1
    })
    .await;
    talk.until(&mut [&mut old, &mut new], "the old one is closed", |peers| peers[0].closed).await;
    assert_eq!(talk.listeners().await, 1);
    talk.speak_on(&mut [&mut new], 30);
    talk.hear_out(&mut new);
    assert_whole(&[&old, &new]);
    let complete = ears.last("connectionRefreshComplete");
    assert_eq!((&complete["gapFrames"], &complete["attempts"]), (&json!(0), &json!(1)));
    talk.metric(r#"relayd_refreshes_total{cause="operator",result="completed"} 1"#).await;
    talk.metric(r#"relayd_legs_closed_total{role="listener",reason="refreshed"} 1"#).await;

    // The socket that has shown the first connection's name hears of the holder still.
    assert_eq!(talk.order(json!({ "role": "listener", "language": "en" })).await, 1);
    talk.until(&mut [&mut new], "it is asked for again", |_| ears.count("connectionRefreshRequired") == 2)
        .await;
    // Nobody else hears any of it.
    let stranger = Ears::open(&talk.relay, &talk.id, json!({ "seq": 0 })).await;
    talk.until(&mut [&mut new], "a stranger hears of others", |_| stranger.count("listenerJoined") > 0).await;
    assert_eq!(stranger.count("connectionRefreshRequired"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_told_while_nobody_follows_is_told_to_whoever_comes_back() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut listener, leg) = talk.listener(&[]).await;
    let ears = talk.ears(&leg).await;
    talk.until(&mut [&mut listener], "it is bound", |_| ears.count("mediaStarted") == 1).await;
    let seq = ears.seq();
    drop(ears);
    assert_eq!(talk.order(json!({ "leg": leg.name() })).await, 1);
    let (_, welcome) = Follower::hello(talk.relay.daemon.http_addr(), &talk.id, json!({})).await;
    let head = welcome["seq"].as_u64().unwrap();
    let ears = Ears::open(&talk.relay, &talk.id, json!({ "leg": leg.name(), "seq": seq })).await;
    talk.until(&mut [&mut listener], "it hears all that is told", |_| ears.seq() >= head).await;
    assert_eq!(ears.count("connectionRefreshRequired"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speaker_who_is_refreshed_is_heard_throughout() {
    let mut talk = Talk::begin(Relay::start().await).await;
    talk.pace = Duration::from_millis(20);
    let (mut listener, _) = talk.listener(&[]).await;
    let ears = talk.ears(&talk.speaking).await;
    talk.speak_on(&mut [&mut listener], 30);
    assert_eq!(talk.order(json!({ "role": "publisher" })).await, 1);
    talk.until(&mut [&mut listener], "it is asked for", |_| ears.count("connectionRefreshRequired") == 1)
        .await;
    let ready = ears.count("speakerReady");
    let required = ears.last("connectionRefreshRequired");
    assert_eq!(required["url"], format!("/v1/sessions/{}/whip/en", talk.id));
    let headers = [(TICKET, &*ears.ticket())];
    let (mut new, _) = answered(&talk.relay, &talk.id, Role::Publisher, &headers).await;
    talk.until(&mut [&mut listener, &mut new], "the new one connects", |peers| peers[1].connected).await;
    // The two encode separately and share no clock: what the relay gets from the new one before the last frame of the old
    // one is over is of the same time to it. Nobody speaks so soon, but a relay that is slow may get both at once.
    talk.hear_out(&mut listener);
    talk.spoken = Instant::now();
    std::mem::swap(&mut talk.speaker, &mut new);
    talk.until(&mut [&mut listener, &mut new], "it has taken over", |_| {
        ears.count("connectionRefreshComplete") == 1
    })
    .await;
    talk.until(&mut [&mut listener, &mut new], "the old one is closed", |peers| peers[1].closed).await;
    talk.speak_on(&mut [&mut listener], 30);
    talk.hear_out(&mut listener);
    assert_whole(&[&listener]);
    assert_eq!(ears.count("speakerLeft"), 0);
    assert_eq!(ears.count("speakerReady"), ready, "it was ready before, and is so still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_gets_old_is_replaced_or_closed() {
    let aging = Relay::with(|config| {
        config.refresh.max_age = Duration::from_secs(4);
        config.refresh.warn_before = Duration::from_millis(3500);
        config.refresh.refresh_before = Duration::from_secs(3);
    });
    let mut talk = Talk::begin(aging.await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    let ears = talk.ears(&leg).await;
    talk.until(&mut [&mut old], "it is asked for", |_| ears.count("connectionRefreshRequired") == 1).await;
    assert_eq!(ears.last("connectionWarning")["reason"], "maxAge");
    assert_eq!(ears.last("connectionRefreshRequired")["reason"], "maxAge");
    let (mut new, _) = answered(&talk.relay, &talk.id, Role::Listener, &[(TICKET, &ears.ticket())]).await;
    talk.until(&mut [&mut old, &mut new], "it has taken over", |peers| {
        ears.count("connectionRefreshComplete") == 1 && peers[0].closed
    })
    .await;
    assert_whole(&[&old, &new]);
    // Nobody comes for the second time.
    talk.until(&mut [&mut new], "it is too old", |peers| peers[0].closed).await;
    talk.metric(r#"relayd_legs_closed_total{role="listener",reason="max_age"} 1"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_token_ends_is_replaced_with_a_newer_token() {
    let issuer = Issuer::new("refresh");
    let relay = Relay::with(|config| {
        issuer.configure(config);
        config.auth.warn_before = Duration::ZERO;
    })
    .await;
    let grants = |id: &str| json!({ "role": "speak", "session": id });
    let owner = issuer.token("ann", json!({ "role": "admin" }));
    let bearer = format!("Bearer {owner}");
    let headers = [("authorization", &*bearer), crate::http::client::JSON];
    let reply = relay.send("POST", "/v1/sessions", &headers, br#"{"sourceLanguage":"en"}"#).await;
    let id = reply.json()["sessionId"].as_str().unwrap().to_owned();
    let ends = |seconds: i64| {
        let at = issuer.with("ann", grants(&id), |claims| {
            // Good for ten minutes otherwise.
            let exp = claims["exp"].as_i64().unwrap();
            claims["exp"] = (exp - 600 + seconds).into();
        });
        format!("Bearer {at}")
    };
    let short = ends(2);
    let (mut old, leg) = answered(&relay, &id, Role::Publisher, &[("authorization", &*short)]).await;
    crate::webrtc::peer::until(&mut [&mut old], "it connects", |peers| peers[0].connected);
    let ears = Ears::open(&relay, &id, json!({ "token": owner, "leg": leg.name() })).await;
    crate::webrtc::peer::until(&mut [&mut old], "it is asked for", |_| {
        ears.count("connectionRefreshRequired") == 1
    });
    assert_eq!(ears.last("connectionRefreshRequired")["reason"], "tokenExpiry");
    let longer = ends(600);
    let headers = [("authorization", &*longer), (TICKET, &*ears.ticket())];
    let (mut new, _) = answered(&relay, &id, Role::Publisher, &headers).await;
    let mut number = 0;
    crate::webrtc::peer::until(&mut [&mut old, &mut new], "the new one takes over", |peers| {
        if peers[1].connected {
            peers[1].speak(number);
            number += 1;
        }
        ears.count("connectionRefreshComplete") == 1 && peers[0].closed
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_fails_keeps_the_old_connection_and_is_asked_for_again() {
    let relay = Relay::with(|config| {
        config.webrtc.ice_timeout = Duration::from_millis(500);
        config.refresh.retry_min = Duration::from_millis(100);
        config.refresh.retry_max = Duration::from_millis(400);
    });
    let mut talk = Talk::begin(relay.await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    let ears = talk.ears(&leg).await;
    assert_eq!(talk.order(json!({ "role": "listener" })).await, 1);
    for attempt in 1..=2 {
        talk.until(&mut [&mut old], "it is asked for", |_| {
            ears.count("connectionRefreshRequired") == attempt
        })
        .await;
        // It is answered, and never heard of again.
        let silent = Peer::new(Role::Listener);
        let reply =
            offered(&talk.relay, &talk.id, Role::Listener, &silent, &[(TICKET, &ears.ticket())]).await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    talk.until(&mut [&mut old], "it is asked for again", |_| ears.count("connectionRefreshRequired") == 3)
        .await;
    assert!(!old.closed);
    let (mut new, _) = answered(&talk.relay, &talk.id, Role::Listener, &[(TICKET, &ears.ticket())]).await;
    talk.until(&mut [&mut old, &mut new], "it has taken over", |peers| {
        ears.count("connectionRefreshComplete") == 1 && peers[0].closed
    })
    .await;
    // The old one may have brought all that was spoken until then.
    talk.speak_on(&mut [&mut new], 30);
    talk.hear_out(&mut new);
    assert_whole(&[&old, &new]);
    assert_eq!(ears.last("connectionRefreshComplete")["attempts"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_comes_keeps_the_old_connection_and_several_orders_are_one() {
    let relay = Relay::with(|config| config.refresh.deadline = Duration::from_secs(2));
    let mut talk = Talk::begin(relay.await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    let ears = talk.ears(&leg).await;
    for _ in 0..5 {
        assert_eq!(talk.order(json!({ "leg": leg.location })).await, 1);
    }
    talk.until(&mut [&mut old], "it is asked for", |_| ears.count("connectionRefreshRequired") > 0).await;
    let gave_up = r#"relayd_refreshes_total{cause="operator",result="gave_up"} 1"#;
    crate::http::client::until("it is given up", async || {
        talk.speak(&mut [&mut old]);
        talk.relay.ops("/metrics").await.body.contains(gave_up)
    })
    .await;
    assert_eq!(ears.count("connectionRefreshRequired"), 1, "five orders are one");
    let late = Peer::new(Role::Listener);
    let reply = offered(&talk.relay, &talk.id, Role::Listener, &late, &[(TICKET, &ears.ticket())]).await;
    reply.problem(403, "TICKET_INVALID");
    talk.hear_out(&mut old);
    assert_whole(&[&old]);
    assert!(!old.closed);
}
