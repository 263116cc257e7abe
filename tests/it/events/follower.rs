//! A WebSocket client that says exactly what a test says, on a handshake written by hand.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const PATIENCE: Duration = Duration::from_secs(20);

/// The handshake for a session's events; see [`shake_at`].
pub(crate) async fn shake(
    address: SocketAddr,
    session: &str,
    headers: &[(&str, &str)],
) -> (String, TcpStream) {
    shake_at(address, &format!("/v1/sessions/{session}/events"), headers).await
}

/// Sends the handshake; what was answered, and the connection. A relay that is full, because connections before this
/// one are not quite gone, is asked again.
pub(crate) async fn shake_at(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> (String, TcpStream) {
    let request = request(address, path, headers);
    let shaking = async {
        loop {
            let mut stream = TcpStream::connect(address).await.expect("the relay accepts");
            let head = ask(&mut stream, &request).await;
            if !head.is_empty() && !head.starts_with("http/1.1 503 ") {
                return (head, stream);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, shaking).await.expect("an answer in time")
}

/// The request of a handshake.
pub(crate) fn request(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\n\
         connection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request
}

/// Sends a handshake; the head of the answer, as far as there is one.
pub(crate) async fn ask(stream: &mut TcpStream, request: &str) -> String {
    let sent = stream.write_all(request.as_bytes()).await.is_ok();
    let mut head = Vec::new();
    while sent && !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
    }
    String::from_utf8(head).expect("a head is text").to_ascii_lowercase()
}

/// The offer of our subprotocol.
pub(crate) const PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "relay.v1+json");

/// Somebody who follows a session.
pub(crate) struct Follower {
    pub socket: WebSocketStream<TcpStream>,
}

impl Follower {
    /// Opens the socket and says nothing.
    pub(crate) async fn open(address: SocketAddr, session: &str) -> Self {
        let (head, stream) = shake(address, session, &[PROTOCOL]).await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-protocol: relay.v1+json"), "{head}");
        Self { socket: WebSocketStream::from_raw_socket(stream, Role::Client, None).await }
    }

    /// Opens the socket, says hello with this, and hears welcome.
    pub(crate) async fn hello(address: SocketAddr, session: &str, who: Value) -> (Self, Value) {
        let mut follower = Self::open(address, session).await;
        follower.say("hello", who).await;
        let welcome = follower.frame("welcome").await;
        (follower, welcome)
    }

    pub(crate) async fn say(&mut self, name: &str, data: Value) {
        self.text(&json!({ "t": name, "d": data }).to_string()).await;
    }

    /// Sends; a relay that has hung up already is no failure.
    pub(crate) async fn text(&mut self, text: &str) {
        let _hung_up = self.socket.send(Message::text(text)).await.is_err();
    }

    /// The next frame, which is of this name. Heartbeats are passed over, but when asked for.
    #[track_caller]
    pub(crate) fn frame(&mut self, name: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            loop {
                match self.heard().await {
                    Ok(frame) if frame["t"] == "heartbeat" && name != "heartbeat" => {}
                    Ok(frame) if frame["t"] == name => return frame,
                    other => panic!("not {name} but {other:?}, at {caller}"),
                }
            }
        }
    }

    /// The next frame, whatever it is.
    pub(crate) async fn any(&mut self) -> Value {
        self.heard().await.expect("the socket is there")
    }

    /// The close, with frames before it passed over.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Err(closed) = self.heard().await {
                return closed;
            }
        }
    }

    async fn heard(&mut self) -> Result<Value, (u16, String)> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("something is said in time");
            match message {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err((frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Err((0, String::new())),
                Some(Ok(_)) => {}
            }
        }
    }
}
