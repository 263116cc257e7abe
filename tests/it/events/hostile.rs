//! Clients that mean harm or know no better: huge frames, endless messages, other pages, other protocols.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::follower::{Follower, PROTOCOL, shake};
use crate::http::client::{Relay, until};

/// Reads what a relay says until it hangs up; the code of its close, 0 if there was none.
async fn close_code(stream: &mut TcpStream) -> u16 {
    let mut bytes = Vec::new();
    let reading = timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    // The relay may hang up on what it has not read: then the system tells us so.
    assert!(reading.is_ok(), "the relay must hang up; it said {bytes:?}");
    let mut rest = bytes.as_slice();
    while let [head, length, tail @ ..] = rest {
        let length = usize::from(*length);
        assert!(length < 126 && head & 0x70 == 0, "no long frame, no extension: {bytes:?}");
        if head & 0x0F == 8 {
            return u16::from_be_bytes([tail[0], tail[1]]);
        }
        rest = &tail[length..];
    }
    0
}

/// A client's frame with this first byte and an announced length, masked with zeros.
fn header(first: u8, length: u64) -> Vec<u8> {
    let mut frame = vec![first];
    match length {
        0..126 => frame.push(0x80 | length as u8),
        126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_announced_as_huge_is_1009_before_it_is_sent() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    for length in [u64::MAX >> 1, 1 << 63, u64::MAX, 16 << 20, 65_537] {
        let (_, mut stream) = shake(relay.daemon.http_addr(), &id, &[PROTOCOL]).await;
        stream.write_all(&header(0x81, length)).await.unwrap();
        let code = close_code(&mut stream).await;
        assert!(code == 1009 || code == 4001, "{length}: {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_endless_fragments_is_cut_off() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (_, mut stream) = shake(relay.daemon.http_addr(), &id, &[PROTOCOL]).await;
    let mut fragment = header(0x01, 16 * 1024);
    fragment.extend([b'a'; 16 * 1024]);
    let mut sent = 0_usize;
    // 64 MiB in all; the relay hangs up long before.
    while sent < 64 << 20 && stream.write_all(&fragment).await.is_ok() {
        sent += fragment.len();
        fragment[0] = 0x00;
    }
    assert!(sent < 64 << 20, "it took everything");
    let (mut good, _) = Follower::hello(relay.daemon.http_addr(), &id, json!({})).await;
    good.frame("sessionJoined").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_fragments_that_are_too_much_together_are_1009() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (_, mut stream) = shake(relay.daemon.http_addr(), &id, &[PROTOCOL]).await;
    for index in 0..5 {
        let mut fragment = header(u8::from(index == 0), 16 * 1024 - 1);
        fragment.extend([b'a'; 16 * 1024 - 1]);
        stream.write_all(&fragment).await.unwrap();
    }
    assert_eq!(close_code(&mut stream).await, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_protocol_are_4001() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let unmasked = vec![0x81, 2, b'{', b'}'];
    let compressed = header(0xC1, 0);
    let reserved = header(0x83, 0);
    let fragmented_ping = header(0x09, 0);
    let mut not_text = header(0x81, 2);
    not_text.extend([0xFF, 0xFE]);
    for frame in [unmasked, compressed, reserved, fragmented_ping, not_text] {
        let (_, mut stream) = shake(relay.daemon.http_addr(), &id, &[PROTOCOL]).await;
        stream.write_all(&frame).await.unwrap();
        assert_eq!(close_code(&mut stream).await, 4001, "{frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_is_not_agreed_to() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let offer = ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits");
    let (head, _) = shake(relay.daemon.http_addr(), &id, &[PROTOCOL, offer]).await;
    assert!(head.starts_with("http/1.1 101 ") && !head.contains("sec-websocket-extensions"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_subprotocol_is_4012_and_none_is_fine() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let other = ("sec-websocket-protocol", "graphql-ws, relay.v2+json");
    let (head, mut stream) = shake(relay.daemon.http_addr(), &id, &[other]).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert_eq!(close_code(&mut stream).await, 4012);
    let (head, mut stream) = shake(relay.daemon.http_addr(), &id, &[]).await;
    assert!(head.starts_with("http/1.1 101 ") && !head.contains("sec-websocket-protocol"), "{head}");
    stream.write_all(&header(0x88, 0)).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&0x88), "a close is answered: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_cannot_follow() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (head, _) =
        shake(relay.daemon.http_addr(), &id, &[PROTOCOL, ("origin", "https://evil.example")]).await;
    assert!(head.starts_with("http/1.1 403 "), "{head}");
    let (head, _) =
        shake(relay.daemon.http_addr(), &id, &[PROTOCOL, ("origin", "http://localhost:3000")]).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_upgrade_is_told_what_this_is() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let path = format!("/v1/sessions/{id}/events");
    relay.send("GET", &path, &[], b"").await.problem(426, "UPGRADE_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_neither_reads_nor_answers_is_gone_when_it_is_dead() {
    let relay = Relay::with(|config| {
        config.events.heartbeat = Duration::from_millis(50);
        config.events.dead_after = Duration::from_millis(300);
        config.events.close_timeout = Duration::from_millis(100);
        config.http.max_connections_per_address = 1;
    })
    .await;
    let id = relay.session().await;
    let (_, mut mute) = shake(relay.daemon.http_addr(), &id, &[PROTOCOL]).await;
    let hello = br#"{"t":"hello","d":{}}"#;
    let mut frame = header(0x81, hello.len() as u64);
    frame.extend(hello);
    mute.write_all(&frame).await.unwrap();
    // The connection is open still, but the relay has let go of it.
    until("its place is free", async || relay.send("GET", "/", &[], b"").await.status == 200).await;
}
