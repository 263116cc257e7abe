//! Refreshes: another socket beside the one that is there, by the relay's order, and nothing lost, repeated or reordered.

use serde_json::{Value, json};

use super::client::{Heard, Socket};
use super::{all, stage};
use crate::http::client::{JSON, Relay};

async fn order(relay: &Relay, id: &str, role: &str) {
    let body = json!({ "role": role }).to_string();
    let reply = relay.send("POST", &format!("/v1/sessions/{id}/refresh"), &[JSON], body.as_bytes()).await;
    assert_eq!((reply.status, reply.json()["ordered"].as_u64()), (202, Some(1)), "{reply:?}");
}

/// Reads until this is said; frames before it are noted.
async fn until_said(socket: &mut Socket, name: &str) -> Value {
    loop {
        match socket.heard().await {
            Heard::Said(said) if said["t"] == name => return said["d"].clone(),
            Heard::Closed(code, reason) => panic!("closed with {code} {reason} before {name}"),
            Heard::Said(said) if said["t"] == "framesLost" => panic!("{said}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_refreshed_and_misses_nothing() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let id = publish.split('/').next().unwrap();
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    let mut heard: Vec<u64> = Vec::new();
    for round in 0..5 {
        let first = round * 60;
        publisher.publish(first..first + 20).await;
        order(&relay, id, "listener").await;
        let required = until_said(&mut listener, "refreshRequired").await;
        assert_eq!(
            (&required["reason"], &required["url"]),
            (&json!("refresh"), &json!(format!("/v1/sessions/{listen}")))
        );
        publisher.publish(first + 20..first + 40).await;
        let from = heard.len() + listener.positions.len();
        if let Some(newest) = from.checked_sub(1) {
            listener.say("ack", json!({ "position": newest })).await;
        }
        let (mut newer, _) =
            Socket::hello(address, &listen, json!({ "ticket": required["ticket"], "from": from })).await;
        publisher.publish(first + 40..first + 60).await;
        let complete = until_said(&mut newer, "refreshComplete").await;
        assert_eq!((&complete["gapFrames"], &complete["attempts"]), (&json!(0), &json!(1)));
        // The older one goes on until it is told to go. What it has brought beyond what it had when the newer one
        // came, that one brings, too.
        assert_eq!(until_said(&mut listener, "bye").await["reason"], "refreshed");
        assert_eq!(listener.closed().await.0, 1000);
        let older = listener.vanish();
        assert!(
            older.iter().copied().eq(heard.len() as u64..(heard.len() + older.len()) as u64),
            "{older:?}"
        );
        heard.extend(older.into_iter().take_while(|position| *position < from as u64));
        assert_eq!(heard.len(), from);
        listener = newer;
    }
    publisher.publish(300..310).await;
    while listener.positions.last() != Some(&309) {
        match listener.heard().await {
            Heard::Frame(_) => {}
            // Answered beside the frames.
            Heard::Said(said) if said["t"] == "refreshComplete" => {}
            other => panic!("{other:?} after {:?}", listener.positions.last()),
        }
    }
    heard.extend(listener.vanish());
    assert_eq!(heard, all(0..310));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_acknowledges_nothing_has_it_all_on_the_newer_socket() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let id = publish.split('/').next().unwrap();
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    for round in 1..=3 {
        publisher.publish((round - 1) * 50..round * 50).await;
        while listener.positions.last() != Some(&(round * 50 - 1)) {
            assert!(matches!(listener.heard().await, Heard::Frame(_) | Heard::Said(_)));
        }
        assert_eq!(listener.positions, all(0..round * 50));
        order(&relay, id, "listener").await;
        let required = until_said(&mut listener, "refreshRequired").await;
        // What the older one was sent may have got lost with it.
        let who = json!({ "ticket": required["ticket"] });
        let (mut newer, _) = Socket::hello(address, &listen, who).await;
        let complete = until_said(&mut newer, "refreshComplete").await;
        assert_eq!((&complete["gapFrames"], &complete["replayed"]), (&json!(0), &json!(round * 50)));
        assert_eq!(listener.closed().await.0, 1000);
        listener = newer;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_is_refreshed_and_every_frame_is_heard_once() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let id = publish.split('/').next().unwrap();
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let mut numbers: Vec<u64> = Vec::new();
    for round in 0..5 {
        let first = round * 60;
        publisher.publish(first..first + 20).await;
        order(&relay, id, "publisher").await;
        let required = until_said(&mut publisher, "refreshRequired").await;
        let (mut newer, welcome) =
            Socket::hello(address, &publish, json!({ "ticket": required["ticket"] })).await;
        let missing = welcome["d"]["position"].as_u64().unwrap();
        assert!((first..=first + 20).contains(&missing), "{welcome}");
        // For a while both send the same.
        newer.publish(missing..first + 40).await;
        publisher.publish(first + 20..first + 50).await;
        let complete = until_said(&mut publisher, "refreshComplete").await;
        assert_eq!(complete["gapFrames"], 0);
        assert!(numbers.last() < Some(&complete["seq"].as_u64().unwrap()), "{complete} after {numbers:?}");
        numbers.extend(complete["seq"].as_u64());
        assert_eq!(until_said(&mut publisher, "bye").await["reason"], "refreshed");
        assert_eq!(publisher.closed().await.0, 1000);
        newer.publish(first + 40..first + 60).await;
        assert_eq!(until_said(&mut newer, "refreshComplete").await, complete, "the same, told to both");
        while until_said(&mut newer, "ack").await["recv"].as_u64() < Some(first + 60) {}
        publisher = newer;
    }
    assert_eq!(listener.hear(300).await, all(0..300));
}
