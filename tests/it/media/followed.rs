//! What the events WebSocket says to whoever has named a media connection: acknowledgements, lines, and nothing of
//! others' connections.

use serde_json::{Value, json};

use super::client::Socket;
use super::stage;
use crate::events::follower::Follower;

/// The next `ack` that says so much.
async fn acknowledged(follower: &mut Follower, recv: u64) -> Value {
    loop {
        let frame = follower.any().await;
        if frame["t"] == "ack" && frame["d"]["recv"].as_u64() >= Some(recv) {
            return frame["d"].clone();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_names_its_connection_hears_what_has_arrived() {
    let (relay, publish, _) = stage().await;
    let address = relay.daemon.http_addr();
    let id = publish.split('/').next().unwrap();
    let (mut publisher, welcome) = Socket::hello(address, &publish, json!({})).await;
    let leg = welcome["d"]["resource"].clone();
    let (mut follower, _) = Follower::hello(address, id, json!({ "leg": leg })).await;
    publisher.publish(0..25).await;
    let ack = acknowledged(&mut follower, 25).await;
    assert_eq!(
        ack,
        json!({ "language": "en", "recv": 25, "safe": 25 }),
        "frames have no sequence numbers here"
    );
    publisher.publish(25..30).await;
    acknowledged(&mut follower, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_be_named_later_and_one_that_is_not_there_is_said_so() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let id = publish.split('/').next().unwrap();
    let (mut follower, _) = Follower::hello(address, id, json!({ "leg": "0".repeat(32) })).await;
    follower.frame("sessionJoined").await;
    assert_eq!(follower.frame("error").await["d"]["code"], "LEG_NOT_FOUND");
    follower.say("leg", json!({ "leg": "junk" })).await;
    assert_eq!(follower.frame("error").await["d"]["code"], "LEG_NOT_FOUND");
    let another = format!("{}/listen/en", relay.session().await);
    let (_other, elsewhere) = Socket::hello(address, &another, json!({})).await;
    follower.say("leg", json!({ "leg": elsewhere["d"]["resource"] })).await;
    assert_eq!(follower.frame("error").await["d"]["code"], "LEG_NOT_FOUND", "of another session");
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let (mut listener, welcome) = Socket::hello(address, &listen, json!({})).await;
    publisher.publish(0..20).await;
    listener.hear(20).await;
    // The line began before anybody asked.
    follower.say("leg", json!({ "leg": welcome["d"]["resource"] })).await;
    let started = loop {
        let frame = follower.any().await;
        if frame["t"] == "mediaStarted" {
            break frame["d"].clone();
        }
    };
    assert_eq!((&started["leg"], &started["position"]), (&welcome["d"]["resource"], &json!(0)));
    assert_eq!(started["mediaTime"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_to_the_events_hears_what_was_for_their_connection_alone() {
    let (relay, _, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let id = listen.split('/').next().unwrap();
    let (mut listener, welcome) = Socket::hello(address, &listen, json!({})).await;
    let path = format!("/v1/sessions/{id}/refresh");
    assert_eq!(relay.send("POST", &path, &[], b"").await.status, 202);
    let told = listener.said("refreshRequired").await["d"].clone();
    let who = json!({ "seq": 0, "leg": welcome["d"]["resource"] });
    let (mut follower, _) = Follower::hello(address, id, who).await;
    let (required, mut numbers) = async {
        let mut numbers = Vec::new();
        loop {
            let frame = follower.any().await;
            numbers.extend(frame["seq"].as_u64());
            if frame["t"] == "connectionRefreshRequired" {
                return (frame["d"].clone(), numbers);
            }
        }
    }
    .await;
    assert_eq!(required, told, "the same order, not a later one");
    let heard = numbers.clone();
    numbers.sort_unstable();
    assert_eq!(heard, numbers, "in the order in which they happened");
}
