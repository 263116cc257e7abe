//! Media over real WebSockets: published and heard exactly once and in order, whatever happens to the sockets.

pub(crate) mod client;
mod endings;
mod followed;
mod refreshed;
mod rights;

use client::{Heard, Socket};
use serde_json::json;

use crate::http::client::{Relay, until};

/// A relay with a session, and the places of its English track.
async fn stage() -> (Relay, String, String) {
    let relay = Relay::start().await;
    let id = relay.session().await;
    (relay, format!("{id}/publish/en"), format!("{id}/listen/en"))
}

fn all(positions: std::ops::Range<u64>) -> Vec<u64> {
    positions.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_heard_once_in_order_as_it_was() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (mut listener, heard) = Socket::hello(address, &listen, json!({})).await;
    let (mut publisher, welcome) = Socket::hello(address, &publish, json!({})).await;
    for (said, role) in [(&heard["d"], "listener"), (&welcome["d"], "publisher")] {
        assert_eq!((&said["role"], &said["language"]), (&json!(role), &json!("en")));
        assert_eq!((&said["position"], &said["next"]), (&json!(0), &json!(0)));
        assert_eq!((&said["historyMs"], &said["ackMs"]), (&json!(30_000), &json!(100)));
        assert_eq!(said["ticket"].as_str().unwrap().len(), 43);
    }
    publisher.publish(0..150).await;
    assert_eq!(listener.hear(150).await, all(0..150));
    publisher.acknowledged(150).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_comes_back_by_its_ticket_goes_on_after_what_it_acknowledged() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let (mut listener, welcome) = Socket::hello(address, &listen, json!({})).await;
    publisher.publish(0..50).await;
    listener.hear(50).await;
    listener.say("ack", json!({ "position": 39 })).await;
    // Answered after what was said before it.
    listener.say("heartbeat", json!({})).await;
    listener.said("heartbeatAck").await;
    assert_eq!(listener.vanish(), all(0..50));
    publisher.publish(50..150).await;
    publisher.acknowledged(150).await;
    let ticket = &welcome["d"]["ticket"];
    let (mut again, welcome) = Socket::hello(address, &listen, json!({ "ticket": ticket })).await;
    publisher.publish(150..160).await;
    assert_eq!(again.hear(120).await, all(40..160), "what it did not acknowledge comes again");
    assert_ne!(&welcome["d"]["ticket"], ticket, "a ticket is good once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_acknowledges_nothing_is_sent_all_again() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (mut listener, mut welcome) = Socket::hello(address, &listen, json!({})).await;
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    for round in 1..=4 {
        publisher.publish((round - 1) * 50..round * 50).await;
        assert_eq!(listener.hear(round * 50).await, all(0..round * 50));
        listener.vanish();
        let who = json!({ "ticket": welcome["d"]["ticket"] });
        (listener, welcome) = Socket::hello(address, &listen, who).await;
    }
    assert_eq!(listener.hear(200).await, all(0..200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_says_what_it_has_hears_each_frame_exactly_once() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let (mut listener, mut welcome) = Socket::hello(address, &listen, json!({})).await;
    let mut heard = Vec::new();
    for round in 0..6 {
        let first = round * 40;
        publisher.publish(first..first + 20).await;
        let missing = first + 20 - heard.len() as u64;
        listener.hear(missing).await;
        heard.extend(listener.vanish());
        publisher.publish(first + 20..first + 40).await;
        publisher.acknowledged(first + 40).await;
        let ticket = welcome["d"]["ticket"].clone();
        // By the ticket or without, the position decides.
        let who = match round % 2 {
            0 => json!({ "ticket": ticket, "from": heard.len() }),
            _ => json!({ "from": heard.len() }),
        };
        (listener, welcome) = Socket::hello(address, &listen, who).await;
        assert_eq!(welcome["d"]["position"], heard.len());
    }
    listener.hear(20).await;
    heard.extend(listener.vanish());
    assert_eq!(heard, all(0..240));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_comes_back_sends_again_from_the_first_that_is_missing() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    let (mut publisher, welcome) = Socket::hello(address, &publish, json!({})).await;
    publisher.publish(0..60).await;
    publisher.acknowledged(60).await;
    let ticket = welcome["d"]["ticket"].clone();
    publisher.vanish();
    // The relay need not have noticed: the ticket is its own, and not another's.
    let (mut again, welcome) = Socket::hello(address, &publish, json!({ "ticket": ticket })).await;
    assert_eq!((&welcome["d"]["position"], &welcome["d"]["next"]), (&json!(60), &json!(60)));
    // Some of it is there already.
    again.publish(50..120).await;
    assert_eq!(listener.hear(120).await, all(0..120));
    again.acknowledged(120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_resume_secret_takes_the_place_of_a_socket_that_is_still_there() {
    let relay = Relay::start().await;
    let address = relay.daemon.http_addr();
    let body = json!({ "sourceLanguage": "en" }).to_string();
    let made = relay.send("POST", "/v1/sessions", &[crate::http::client::JSON], body.as_bytes()).await.json();
    let (id, secret) = (made["sessionId"].as_str().unwrap(), &made["resumeSecret"]);
    let publish = format!("{id}/publish/en");
    let (mut listener, _) = Socket::hello(address, &format!("{id}/listen/en"), json!({})).await;
    let (mut first, _) = Socket::hello(address, &publish, json!({})).await;
    first.publish(0..30).await;
    first.acknowledged(30).await;
    let (mut second, welcome) = Socket::hello(address, &publish, json!({ "resumeSecret": secret })).await;
    assert_eq!(welcome["d"]["position"], 30);
    assert_eq!(first.said("bye").await["d"]["reason"], "displaced");
    assert_eq!(first.closed().await.0, 4010);
    // What the older one sends now is nobody's.
    first.publish(30..40).await;
    second.publish(30..60).await;
    assert_eq!(listener.hear(60).await, all(0..60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_reads_nothing_for_a_while_is_held_and_then_has_it_all() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let (mut slow, _) = Socket::hello(address, &listen, json!({})).await;
    let (mut quick, _) = Socket::hello(address, &listen, json!({})).await;
    publisher.publish(0..800).await;
    assert_eq!(quick.hear(800).await, all(0..800), "nobody waits for another");
    publisher.acknowledged(800).await;
    assert_eq!(slow.hear(800).await, all(0..800));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_was_never_sent_is_told_before_the_frame_behind_it() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    publisher.publish((0..10).chain(13..20)).await;
    listener.hear(10).await;
    let lost = listener.said("framesLost").await;
    assert_eq!(lost["d"], json!({ "count": 3, "from": 10, "to": 12 }));
    assert_eq!(listener.hear(7).await, all(13..20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_has_no_hole_and_what_was_said_in_it_is_not_heard() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let id = publish.split('/').next().unwrap();
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    publisher.publish(0..20).await;
    publisher.acknowledged(20).await;
    assert_eq!(relay.send("POST", &format!("/v1/sessions/{id}/pause"), &[], b"").await.status, 200);
    publisher.said("paused").await;
    publisher.publish(20..40).await;
    assert_eq!(relay.send("POST", &format!("/v1/sessions/{id}/resume"), &[], b"").await.status, 200);
    let resumed = publisher.said("resumed").await;
    assert_eq!(resumed["d"]["position"], 20);
    assert!(resumed["d"]["mediaTime"].as_u64() >= Some(20 * 960), "{resumed}");
    // Still on its way when the break ended, by its old number.
    publisher.publish(40..45).await;
    publisher.say("continue", json!({})).await;
    publisher.publish(20..30).await;
    assert_eq!(listener.hear(30).await, all(0..30));
    publisher.acknowledged(30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_has_a_record_of_its_role_for_as_long_as_it_is_there() {
    let (relay, publish, listen) = stage().await;
    let address = relay.daemon.http_addr();
    let (publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let (listener, _) = Socket::hello(address, &listen, json!({})).await;
    let recorded = async |kind: &str, count: usize| {
        let line = format!("relayd_connections{{kind=\"{kind}\"}} {count}");
        until(&line, async || relay.ops("/metrics").await.body.lines().any(|known| known == line)).await;
    };
    recorded("publisher", 1).await;
    recorded("listener", 1).await;
    let view =
        relay.send("GET", &format!("/v1/sessions/{}", publish.split('/').next().unwrap()), &[], b"").await;
    assert_eq!((&view.json()["speakerConnected"], &view.json()["listeners"]), (&json!(true), &json!(1)));
    publisher.vanish();
    listener.vanish();
    until("both are gone", async || {
        let id = publish.split('/').next().unwrap();
        let view = relay.send("GET", &format!("/v1/sessions/{id}"), &[], b"").await.json();
        view["speakerConnected"] == false && view["listeners"] == 0
    })
    .await;
    recorded("publisher", 0).await;
    recorded("listener", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_that_goes_takes_its_sockets_along() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let address = relay.daemon.http_addr();
    let (mut publisher, _) = Socket::hello(address, &format!("{id}/publish/es"), json!({})).await;
    let (mut listener, _) = Socket::hello(address, &format!("{id}/listen/es"), json!({})).await;
    let gone = relay.send("DELETE", &format!("/v1/sessions/{id}/languages/es"), &[], b"").await;
    assert!(gone.status < 300, "{gone:?}");
    for socket in [&mut publisher, &mut listener] {
        assert_eq!(socket.said("bye").await["d"]["reason"], "ended");
        assert!(matches!(socket.heard().await, Heard::Closed(4006, _)));
    }
}
