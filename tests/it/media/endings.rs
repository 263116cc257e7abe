//! How a media socket ends: every close code that a relay of one node has, over a real socket.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Socket, frame, torn};
use super::stage;
use crate::events::follower::shake_at;
use crate::http::client::Relay;

#[tokio::test(flavor = "multi_thread")]
async fn hello_comes_first_once_and_in_time() {
    let relay = Relay::with(|config| config.events.hello_timeout = Duration::from_millis(50)).await;
    let (id, address) = (relay.session().await, relay.daemon.http_addr());
    let (publish, listen) = (format!("{id}/publish/en"), format!("{id}/listen/en"));
    for place in [&publish, &listen] {
        assert_eq!(Socket::open(address, place).await.closed().await.0, 4003, "nothing is said");
        let mut socket = Socket::open(address, place).await;
        socket.say("heartbeat", json!({})).await;
        assert_eq!(socket.closed().await.0, 4003, "something else is said");
        let mut socket = Socket::open(address, place).await;
        socket.publish(0..1).await;
        assert_eq!(socket.closed().await.0, 4003, "a frame comes first");
        let mut socket = Socket::open(address, place).await;
        socket.send(Message::text("{")).await;
        assert_eq!(socket.closed().await.0, 4001);
    }
    let (mut socket, _) = Socket::hello(address, &listen, json!({})).await;
    socket.say("hello", json!({})).await;
    assert_eq!(socket.closed().await.0, 4005);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_and_those_of_listeners_are_4001_and_what_is_too_long_is_1009() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let mut long = frame(0);
    long.payload = vec![0xf8; 1401].into();
    for (bad, code) in [
        (torn(), 4001),
        (Message::binary(vec![2; 60]), 4001),
        (Message::binary(Vec::new()), 4001),
        (Message::Binary(long.write()), 1009),
        (Message::binary(vec![1; 2_000_000]), 1009),
        (Message::text("a".repeat(2_000_000)), 1009),
    ] {
        let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
        publisher.send(bad).await;
        assert_eq!(publisher.closed().await.0, code);
    }
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    listener.publish(0..1).await;
    assert_eq!(listener.closed().await.0, 4001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_taken_is_answered_and_too_many_are_4008() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    for (name, data) in [("ack", json!({ "position": 0 })), ("nonsense", json!({})), ("continue", json!({}))]
    {
        publisher.say(name, data).await;
        assert_eq!(publisher.said("error").await["d"]["code"], "INVALID_MESSAGE");
    }
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    listener.say("ack", json!({ "position": 7 })).await;
    assert_eq!(listener.said("error").await["d"]["code"], "INVALID_MESSAGE");
    for _ in 0..150 {
        listener.say("heartbeat", json!({})).await;
    }
    assert_eq!(listener.closed().await.0, 4008);
    publisher.publish(0..10).await;
    publisher.acknowledged(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_4009_and_frames_are_not_silence() {
    let relay = Relay::with(|config| {
        config.events.heartbeat = Duration::from_millis(100);
        config.events.dead_after = Duration::from_millis(400);
    })
    .await;
    let id = relay.session().await;
    let (mut listener, _) =
        Socket::hello(relay.daemon.http_addr(), &format!("{id}/listen/en"), json!({})).await;
    let (mut publisher, _) =
        Socket::hello(relay.daemon.http_addr(), &format!("{id}/publish/en"), json!({})).await;
    // Until the listener is given up the publisher says nothing but frames.
    let mut next = 0;
    let speaking = async {
        loop {
            publisher.publish(next..next + 1).await;
            next += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        (code, _) = listener.closed() => assert_eq!(code, 4009),
        () = speaking => unreachable!("it speaks on"),
    }
    publisher.acknowledged(next).await;
    assert_eq!(publisher.closed().await.0, 4009);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_taken_is_4010_and_what_is_not_there_4006() {
    let (relay, publish, _) = stage().await;
    let address = relay.daemon.http_addr();
    let (_publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let refused = async |place: &str| Socket::refused(address, place, json!({})).await;
    assert_eq!(refused(&publish).await, (json!("SPEAKER_EXISTS"), 4010));
    assert_eq!(refused(&publish.replace("/en", "/tlh")).await, (json!("LANGUAGE_NOT_FOUND"), 4006));
    assert_eq!(refused("silent-owl-123/listen/en").await, (json!("SESSION_NOT_FOUND"), 4006));
    let id = publish.split('/').next().unwrap();
    assert_eq!(relay.send("DELETE", &format!("/v1/sessions/{id}"), &[], b"").await.status, 204);
    assert_eq!(refused(&publish).await, (json!("SESSION_ENDED"), 4006));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_session_is_4006_and_of_the_relay_4013() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let id = publish.split('/').next().unwrap();
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    let elsewhere = format!("{}/listen/en", relay.session().await);
    let (mut other, _) = Socket::hello(address, &elsewhere, json!({})).await;
    assert_eq!(relay.send("DELETE", &format!("/v1/sessions/{id}"), &[], b"").await.status, 204);
    assert_eq!(publisher.said("bye").await["d"]["reason"], "ended");
    assert_eq!((publisher.closed().await.0, listener.closed().await.0), (4006, 4006));
    let stopping = tokio::spawn(relay.daemon.shutdown());
    assert_eq!(other.closed().await.0, 4013);
    drop(other);
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_subprotocols_are_4012_and_no_websocket_is_a_problem() {
    let (relay, publish, _) = stage().await;
    let address = relay.daemon.http_addr();
    let path = format!("/v1/sessions/{publish}");
    let (head, stream) = shake_at(address, &path, &[("sec-websocket-protocol", "relay.v1+json")]).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let mut socket = Socket {
        socket: tokio_tungstenite::WebSocketStream::from_raw_socket(
            stream,
            tokio_tungstenite::tungstenite::protocol::Role::Client,
            None,
        )
        .await,
        positions: Vec::new(),
    };
    assert_eq!(socket.closed().await.0, 4012);
    relay.send("GET", &path, &[], b"").await.problem(426, "UPGRADE_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_goodbye_leaves_its_place_at_once() {
    let (relay, publish, _) = stage().await;
    let address = relay.daemon.http_addr();
    for _ in 0..3 {
        let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
        publisher.socket.close(None).await.unwrap();
        publisher.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_closed_by_its_name_like_any_other_connection() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    for place in [&publish, &listen] {
        let (mut socket, welcome) = Socket::hello(address, place, json!({})).await;
        let leg = format!("/v1/legs/{}", welcome["d"]["resource"].as_str().unwrap());
        let deleted = relay.send("DELETE", &leg, &[], b"");
        let ((), reply) = tokio::join!(
            async { assert_eq!(socket.said("bye").await["d"]["reason"], "closed", "{place}") },
            deleted
        );
        assert_eq!((reply.status, socket.closed().await.0), (200, 1000), "{place}");
        // Its place is free.
        Socket::hello(address, place, json!({})).await;
        relay.send("DELETE", &leg, &[], b"").await.problem(404, "LEG_NOT_FOUND");
    }
}
