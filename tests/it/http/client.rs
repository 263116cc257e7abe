//! A daemon on free ports and an HTTP client that sends exactly what a test says.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use relayd::config::Config;
use relayd::daemon::Daemon;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const SDP: (&str, &str) = ("content-type", "application/sdp");
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const FRAGMENT: (&str, &str) = ("content-type", "application/trickle-ice-sdpfrag");

/// No answer takes this long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A relay of one test.
pub(crate) struct Relay {
    pub daemon: Daemon,
}

impl Relay {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = on_free_ports();
        change(&mut config);
        Self { daemon: Daemon::start(config).await.expect("the relay starts") }
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        send(self.daemon.http_addr(), method, path, headers, body).await
    }

    pub(crate) async fn ops(&self, path: &str) -> Reply {
        send(self.daemon.ops_addr(), "GET", path, &[], b"").await
    }

    /// Creates a session en → es and answers with its id.
    pub(crate) async fn session(&self) -> String {
        let reply = self
            .send("POST", "/v1/sessions", &[JSON], br#"{"sourceLanguage":"en","languages":["es"]}"#)
            .await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["sessionId"].as_str().expect("a session has an id").to_owned()
    }

    /// Joins as a speaker or listener.
    pub(crate) async fn join(&self, path: &str, client: &str) -> Reply {
        self.send("POST", path, &[SDP], &offer(client)).await
    }
}

pub(crate) fn on_free_ports() -> Config {
    let mut config = Config::default();
    for listen in [&mut config.http.listen, &mut config.ops.listen, &mut config.webrtc.listen] {
        listen.set_port(0);
    }
    config
}

/// What a real client offered.
pub(crate) fn offer(client: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/sdp_offer").join(client);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Every value of a header that may come several times.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a problem document of this status and code; answers with its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let document = self.json();
        let text = |name: &str| document[name].as_str().unwrap_or_else(|| panic!("no {name}: {self:?}"));
        assert_eq!(document["status"], status, "{self:?}");
        assert_eq!(document["code"], code, "{self:?}");
        assert!(text("type").starts_with("urn:relay:problem:"), "{self:?}");
        assert!(!text("title").is_empty(), "{self:?}");
        text("detail").to_owned()
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole answer: {text:?}"));
        let mut lines = head.lines();
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(':').expect("a header has a colon");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self {
            status: status.unwrap_or_else(|| panic!("no status: {head:?}")),
            headers: lines.map(header).collect(),
            body: body.to_owned(),
        }
    }
}

/// One request on a connection of its own; `host` may be overridden by a header.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "host") {
        head.push_str(&format!("host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await.expect("the relay accepts");
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let writing = async {
        // A server may answer, and close, before it has read everything.
        let _sent = writer.write_all(head.as_bytes()).await.is_ok() && writer.write_all(body).await.is_ok();
    };
    let reading = async {
        let _closed = reader.read_to_end(&mut answer).await;
    };
    timeout(PATIENCE, async { tokio::join!(writing, reading) }).await.expect("an answer in time");
    Reply::parse(&answer)
}

/// An answer whose body may never end: its head, and the body if its length is told.
pub(crate) async fn head(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await.expect("the relay accepts");
    stream.write_all(request.as_bytes()).await.expect("the relay reads");
    let mut answer = Vec::new();
    let reading = async {
        loop {
            assert!(stream.read_buf(&mut answer).await.expect("an answer") > 0, "the answer breaks off");
            if !answer.windows(4).any(|end| end == b"\r\n\r\n") {
                continue;
            }
            let reply = Reply::parse(&answer);
            if reply.header("content-length").parse().unwrap_or(0) <= reply.body.len() {
                return reply;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer in time")
}

/// Sends raw bytes, then reads until the server closes; what it said.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the relay accepts");
    stream.write_all(bytes).await.expect("the relay reads");
    let mut answer = Vec::new();
    let closed = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the relay must close; it said {:?}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits for something that must come to pass.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "in vain: {what}");
}
