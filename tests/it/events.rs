//! A session's events over real WebSockets: what is told to whom, how it begins, goes on and ends.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

pub(crate) mod follower;
mod hostile;
mod sse;
pub(crate) mod tokens;

use std::time::Duration;

use follower::{Follower, PROTOCOL, shake};
use serde_json::json;

use crate::http::client::{Relay, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_welcomed_and_sees_the_session_and_its_end() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (mut follower, welcome) = Follower::hello(relay.daemon.http_addr(), &id, json!({})).await;
    let said = &welcome["d"];
    assert_eq!((&said["sessionId"], &said["role"]), (&json!(id), &json!("admin")));
    assert_eq!((&said["heartbeatMs"], &said["resumed"]), (&json!(10_000), &json!(false)));
    assert_eq!(said["resume"].as_str().unwrap().len(), 43);
    let joined = follower.frame("sessionJoined").await;
    assert_eq!(joined["d"]["sessionId"], id);
    assert_eq!(joined["d"]["status"], "created");
    assert_eq!(joined["d"]["speakerConnected"], false);
    assert_eq!(joined["d"]["languages"], json!(["en", "es"]));
    assert_eq!(joined["seq"], welcome["seq"]);
    assert_eq!(relay.send("DELETE", &format!("/v1/sessions/{id}"), &[], b"").await.status, 204);
    let ended = follower.frame("sessionEnded").await;
    assert_eq!(ended["d"]["reason"], "deleted");
    assert!(ended["seq"].as_u64() > welcome["seq"].as_u64());
    assert_eq!(follower.closed().await.0, 4006);
    let mut late = Follower::open(relay.daemon.http_addr(), &id).await;
    late.say("hello", json!({})).await;
    let (code, reason) = late.closed().await;
    assert_eq!(code, 4006);
    assert!(reason.contains("ended"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_session_is_4006_and_only_after_hello() {
    let relay = Relay::start().await;
    let mut follower = Follower::open(relay.daemon.http_addr(), "silent-owl-123").await;
    follower.say("hello", json!({})).await;
    assert_eq!(follower.closed().await.0, 4006);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_back_hears_what_it_missed() {
    let relay = Relay::start().await;
    let address = relay.daemon.http_addr();
    let id = relay.session().await;
    let (follower, welcome) = Follower::hello(address, &id, json!({})).await;
    let ticket = welcome["d"]["resume"].clone();
    let seq = welcome["d"]["seq"].clone();
    drop(follower);
    assert_eq!(
        relay.send("DELETE", &format!("/v1/sessions/{}", relay.session().await), &[], b"").await.status,
        204
    );
    let (mut again, welcome) = Follower::hello(address, &id, json!({ "resume": ticket, "seq": seq })).await;
    assert_eq!((&welcome["d"]["resumed"], &welcome["d"]["resume"]), (&json!(true), &ticket));
    assert_eq!(relay.send("DELETE", &format!("/v1/sessions/{id}"), &[], b"").await.status, 204);
    let ended = again.frame("sessionEnded").await;
    assert_eq!(ended["seq"].as_u64(), seq.as_u64().map(|seq| seq + 1), "no snapshot in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_beginning_is_a_replay_and_from_the_future_a_resync() {
    let relay = Relay::start().await;
    let address = relay.daemon.http_addr();
    let id = relay.session().await;
    let (mut replayed, welcome) = Follower::hello(address, &id, json!({ "seq": 0 })).await;
    assert!(welcome["d"]["seq"].as_u64() >= Some(1));
    let created = replayed.frame("sessionCreated").await;
    assert_eq!((&created["seq"], &created["d"]["sourceLanguage"]), (&json!(1), &json!("en")));
    let (mut lost, _) = Follower::hello(address, &id, json!({ "seq": 9_000 })).await;
    let resync = lost.frame("resync").await;
    assert_eq!(resync["d"]["snapshot"]["sessionId"], id);
    assert_eq!(resync["seq"], created["seq"]);
    let told = relay.ops("/metrics").await.body;
    assert!(told.contains("relayd_websocket_events_lost_total 1\n"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_used_again_takes_the_older_sockets_place() {
    let relay = Relay::start().await;
    let address = relay.daemon.http_addr();
    let id = relay.session().await;
    let (mut first, welcome) = Follower::hello(address, &id, json!({})).await;
    let who = json!({ "resume": welcome["d"]["resume"] });
    let (mut second, _) = Follower::hello(address, &id, who.clone()).await;
    assert_eq!(first.closed().await.0, 4010);
    second.frame("sessionJoined").await;
    let other = relay.session().await;
    let mut stranger = Follower::open(address, &other).await;
    stranger.say("hello", who).await;
    assert_eq!(stranger.closed().await.0, 4004, "a ticket is for one session");
    second.say("heartbeat", json!({})).await;
    second.frame("heartbeatAck").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_ticket_is_4004_and_a_hello_without_it_is_welcome() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let mut follower = Follower::open(relay.daemon.http_addr(), &id).await;
    follower.say("hello", json!({ "resume": "AAAA", "seq": 3 })).await;
    let (code, reason) = follower.closed().await;
    assert_eq!(code, 4004);
    assert!(reason.contains("ticket"), "{reason}");
    Follower::hello(relay.daemon.http_addr(), &id, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_get_an_error_and_it_goes_on_until_there_are_too_many() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (mut follower, _) = Follower::hello(relay.daemon.http_addr(), &id, json!({})).await;
    follower.frame("sessionJoined").await;
    for text in ["", "nonsense", "{}", r#"{"t":"dance","d":{}}"#] {
        follower.text(text).await;
        assert_eq!(follower.frame("error").await["d"]["code"], "INVALID_MESSAGE");
    }
    follower.say("heartbeat", json!({ "seq": 0 })).await;
    follower.frame("heartbeatAck").await;
    for _ in 0..200 {
        follower.text("nonsense").await;
    }
    assert_eq!(follower.closed().await.0, 4008);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_instead_of_hello_decides_the_code() {
    let relay = Relay::with(|config| config.events.hello_timeout = Duration::from_millis(300)).await;
    let id = relay.session().await;
    let address = relay.daemon.http_addr();
    for (text, code) in [("nonsense", 4001), (r#"{"t":"heartbeat"}"#, 4003)] {
        let mut follower = Follower::open(address, &id).await;
        follower.text(text).await;
        assert_eq!(follower.closed().await.0, code, "{text}");
    }
    let mut silent = Follower::open(address, &id).await;
    assert_eq!(silent.closed().await.0, 4003);
    let (mut twice, _) = Follower::hello(address, &id, json!({})).await;
    twice.say("hello", json!({})).await;
    assert_eq!(twice.closed().await.0, 4005);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_and_one_that_never_answers_is_dead() {
    let relay = Relay::with(|config| {
        config.events.heartbeat = Duration::from_millis(100);
        config.events.dead_after = Duration::from_millis(700);
    })
    .await;
    let id = relay.session().await;
    let (mut follower, welcome) = Follower::hello(relay.daemon.http_addr(), &id, json!({})).await;
    assert_eq!(welcome["d"]["heartbeatMs"], 100);
    follower.frame("sessionJoined").await;
    follower.frame("heartbeat").await;
    assert_eq!(follower.closed().await.0, 4009);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_sends_its_followers_elsewhere() {
    let relay = Relay::with(|config| config.events.drain_url = "wss://other.example/".into()).await;
    let id = relay.session().await;
    let address = relay.daemon.http_addr();
    let (mut follower, _) = Follower::hello(address, &id, json!({})).await;
    let mut silent = Follower::open(address, &id).await;
    let stopping = tokio::spawn(relay.daemon.shutdown());
    assert_eq!(follower.closed().await, (4013, "wss://other.example/".to_owned()));
    assert_eq!(silent.closed().await.0, 4013);
    assert!(stopping.await.unwrap(), "within daemon.shutdown_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_client_that_does_not_say_goodbye() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (_head, _mute) = shake(relay.daemon.http_addr(), &id, &[PROTOCOL]).await;
    assert!(relay.daemon.shutdown().await, "within daemon.shutdown_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_keeps_its_place_among_the_connections_until_it_is_gone() {
    let relay = Relay::with(|config| config.http.max_connections_per_address = 2).await;
    let id = relay.session().await;
    let address = relay.daemon.http_addr();
    let (follower, _) = Follower::hello(address, &id, json!({})).await;
    let (other, _) = Follower::hello(address, &id, json!({})).await;
    until("no place is left", async || relay.send("GET", "/", &[], b"").await.status == 503).await;
    drop((follower, other));
    until("both are free again", async || relay.send("GET", "/", &[], b"").await.status == 200).await;
}
