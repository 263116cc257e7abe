//! Server-sent events of a listener's connection: who speaks, how many listen, and when to join again.

use std::time::Duration;

use relayd::records::Kind;
use relayd::webrtc::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::client::{JSON, Relay, SDP, until};
use crate::webrtc::peer::{self, Peer};

/// A stream that is read as it comes.
struct Reading {
    stream: TcpStream,
    text: String,
}

impl Reading {
    async fn begin(relay: &Relay, path: &str) -> Self {
        let mut stream = TcpStream::connect(relay.daemon.http_addr()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reading = Self { stream, text: String::new() };
        reading.until("\r\n\r\n").await;
        reading
    }

    /// Reads on until this has been said; forgets what was said before it.
    async fn until(&mut self, what: &str) {
        let reading = async {
            while !self.text.contains(what) {
                let mut bytes = [0; 4096];
                let length = self.stream.read(&mut bytes).await.unwrap();
                assert!(length > 0, "it ended before {what:?}: {}", self.text);
                self.text.push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        };
        let said = timeout(Duration::from_secs(20), reading).await.is_ok();
        assert!(said, "never {what:?}: {}", self.text);
        let end = self.text.find(what).unwrap() + what.len();
        self.text.drain(..end);
    }

    /// Reads to the end of the answer.
    async fn ends(mut self) -> String {
        self.until("0\r\n\r\n").await;
        self.text
    }
}

async fn joined(relay: &Relay, id: &str, kind: &str, role: Role) -> (Peer, String) {
    let mut peer = Peer::new(role);
    let path = format!("/v1/sessions/{id}/{kind}/en");
    let reply = relay.send("POST", &path, &[SDP], peer.offer().as_bytes()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    peer.take_sdp(&reply.body);
    peer::until(&mut [&mut peer], "the peer connects", |peers| peers[0].connected);
    (peer, reply.header("location").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_hears_when_somebody_speaks_and_how_many_listen() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (_listener, leg) = joined(&relay, &id, "whep", Role::Listener).await;
    let body = br#"["active","inactive","viewercount"]"#;
    let created = relay.send("POST", &format!("{leg}/sse"), &[JSON], body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let address = created.header("location").to_owned();
    let mut reading = Reading::begin(&relay, &address).await;
    reading.until("event: viewercount\ndata: {\"viewercount\":1}\n\n").await;
    let (mut speaker, speaking) = joined(&relay, &id, "whip", Role::Publisher).await;
    speaker.speak(0);
    reading.until("event: active\ndata: {}\n\n").await;
    assert!(!reading.text.contains("inactive"), "nobody had spoken before");
    assert_eq!(relay.send("DELETE", &speaking, &[], b"").await.status, 200);
    reading.until("event: inactive\ndata: {}\n\n").await;
    let (_other, _) = joined(&relay, &id, "whep", Role::Listener).await;
    reading.until("event: viewercount\ndata: {\"viewercount\":2}\n\n").await;
    assert_eq!(relay.send("DELETE", &leg, &[], b"").await.status, 200);
    reading.ends().await;
    relay.send("GET", &address, &[], b"").await.problem(404, "LEG_NOT_FOUND");
    until("no record is left", async || {
        relay.daemon.records().counts()[Kind::ServerSentEvents as usize].1.live == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_reader_takes_over_and_a_deleted_stream_is_gone() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (_listener, leg) = joined(&relay, &id, "whep", Role::Listener).await;
    let created = relay.send("POST", &format!("{leg}/sse"), &[], b"").await;
    let address = created.header("location").to_owned();
    let first = Reading::begin(&relay, &address).await;
    let second = Reading::begin(&relay, &address).await;
    first.ends().await;
    assert_eq!(relay.send("DELETE", &address, &[], b"").await.status, 200);
    second.ends().await;
    relay.send("DELETE", &address, &[], b"").await.problem(404, "LEG_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_limited_and_what_is_no_stream_is_refused() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (_listener, leg) = joined(&relay, &id, "whep", Role::Listener).await;
    let path = format!("{leg}/sse");
    for body in ["", "{}", "[]", r#"["layers"]"#] {
        let reply = relay.send("POST", &path, &[JSON], body.as_bytes()).await;
        assert!([400, 422].contains(&reply.status), "{reply:?}");
    }
    let direct = Reading::begin(&relay, &path).await;
    assert_eq!(relay.send("POST", &path, &[], b"").await.status, 201);
    relay.send("POST", &path, &[], b"").await.problem(503, "CAPACITY");
    drop(direct);
    until("its place is free", async || relay.send("POST", &path, &[], b"").await.status == 201).await;
    let (_speaker, speaking) = joined(&relay, &id, "whip", Role::Publisher).await;
    for leg in [speaking.as_str(), "/v1/legs/0123456789abcdef0123456789abcdef", "/v1/legs/x"] {
        relay.send("POST", &format!("{leg}/sse"), &[], b"").await.problem(404, "LEG_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_tells_players_to_join_again() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let (_listener, leg) = joined(&relay, &id, "whep", Role::Listener).await;
    let mut reading = Reading::begin(&relay, &format!("{leg}/sse")).await;
    reading.until("viewercount").await;
    let stopping = tokio::spawn(relay.daemon.shutdown());
    reading.until("event: reconnect\ndata: {}\n\n").await;
    reading.ends().await;
    assert!(stopping.await.unwrap(), "within daemon.shutdown_timeout");
}
