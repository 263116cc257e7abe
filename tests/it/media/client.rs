//! A media WebSocket that says exactly what a test says.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use relay_engine::rtp::NtpTime;
use relay_engine::{AudioLevel, CaptureTime, MediaTime};
use relayd::media::MediaFrame;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::events::follower::{ask, request, shake_at};

const PATIENCE: Duration = Duration::from_secs(20);

/// The offer of the subprotocol.
pub(crate) const PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "relay.media.v1");

/// Frame number so and so of what is published, different from all others.
pub(crate) fn frame(position: u64) -> MediaFrame {
    let mut payload = vec![0xf8];
    payload.extend_from_slice(&position.to_be_bytes());
    payload.resize(20 + usize::try_from(position % 60).expect("small"), 7);
    MediaFrame {
        position,
        media_time: MediaTime::from_ticks(position * 960),
        marker: position == 0,
        capture_time: Some(CaptureTime { time: NtpTime((1 << 40) + position), offset: None }),
        audio_level: Some(AudioLevel { voice: true, level: (position % 128) as u8 }),
        replay: false,
        payload: payload.into(),
    }
}

/// What came on a socket.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    Said(Value),
    Frame(MediaFrame),
    Closed(u16, String),
}

/// A publisher or listener.
pub(crate) struct Socket {
    pub socket: WebSocketStream<TcpStream>,
    /// Positions that a listener was sent, in order.
    pub positions: Vec<u64>,
}

impl Socket {
    /// Opens the socket and says nothing. `place` is as in `demo/publish/en`.
    pub(crate) async fn open(address: SocketAddr, place: &str) -> Self {
        let (head, stream) = shake_at(address, &format!("/v1/sessions/{place}"), &[PROTOCOL]).await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-protocol: relay.media.v1"), "{head}");
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        Self { socket, positions: Vec::new() }
    }

    /// As [`Socket::hello`], on a connection for which the system keeps next to nothing that is not read.
    pub(crate) async fn hello_narrow(address: SocketAddr, place: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a size");
        let mut stream = socket.connect(address).await.expect("the relay accepts");
        let head = ask(&mut stream, &request(address, &format!("/v1/sessions/{place}"), &[PROTOCOL])).await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        let mut socket = Self { socket, positions: Vec::new() };
        socket.say("hello", json!({})).await;
        socket.said("welcome").await;
        socket
    }

    /// Opens the socket, says hello with this, and hears welcome.
    pub(crate) async fn hello(address: SocketAddr, place: &str, who: Value) -> (Self, Value) {
        let mut socket = Self::open(address, place).await;
        socket.say("hello", who).await;
        let welcome = socket.said("welcome").await;
        (socket, welcome)
    }

    /// Opens the socket, says hello with this, and is refused: the code of the error, and of the close.
    pub(crate) async fn refused(address: SocketAddr, place: &str, who: Value) -> (Value, u16) {
        let mut socket = Self::open(address, place).await;
        socket.say("hello", who).await;
        let code = match socket.heard().await {
            Heard::Said(said) if said["t"] == "error" => said["d"]["code"].clone(),
            Heard::Closed(code, _) => return (Value::Null, code),
            other => panic!("let in: {other:?}"),
        };
        (code, socket.closed().await.0)
    }

    pub(crate) async fn say(&mut self, name: &str, data: Value) {
        self.send(Message::text(json!({ "t": name, "d": data }).to_string())).await;
    }

    /// Sends; a relay that has hung up already is no failure.
    pub(crate) async fn send(&mut self, message: Message) {
        let _hung_up = self.socket.send(message).await.is_err();
    }

    pub(crate) async fn publish(&mut self, positions: impl IntoIterator<Item = u64>) {
        for position in positions {
            self.send(Message::Binary(frame(position).write())).await;
        }
    }

    /// What comes next, heartbeats passed over; positions of frames are noted.
    pub(crate) async fn heard(&mut self) -> Heard {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("something is said in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let said: Value = serde_json::from_str(&text).expect("JSON");
                    if said["t"] != "heartbeat" {
                        return Heard::Said(said);
                    }
                }
                Some(Ok(Message::Binary(bytes))) => {
                    let frame = MediaFrame::read(&bytes).expect("a frame");
                    self.positions.push(frame.position);
                    return Heard::Frame(frame);
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Heard::Closed(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Heard::Closed(0, String::new()),
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next message of this name; acknowledgements are passed over, but when asked for.
    #[track_caller]
    pub(crate) fn said(&mut self, name: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            loop {
                match self.heard().await {
                    Heard::Said(said) if said["t"] == "ack" && name != "ack" => {}
                    Heard::Said(said) if said["t"] == name => return said,
                    other => panic!("not {name} but {other:?}, at {caller}"),
                }
            }
        }
    }

    /// Waits until all positions below this one are acknowledged.
    pub(crate) async fn acknowledged(&mut self, position: u64) {
        while self.said("ack").await["d"]["recv"].as_u64() < Some(position) {}
    }

    /// The next so many frames, which must be those that were published. Whether a relay has noticed that an older
    /// socket is gone, whose place this one has taken then, is no matter.
    pub(crate) async fn hear(&mut self, count: u64) -> Vec<u64> {
        let from = self.positions.len();
        while self.positions.len() < from + usize::try_from(count).expect("small") {
            match self.heard().await {
                Heard::Frame(heard) => {
                    let sent = frame(heard.position);
                    assert_eq!(MediaFrame { replay: sent.replay, ..heard }, sent);
                }
                Heard::Said(said) if said["t"] == "refreshComplete" => {}
                other => panic!("no frame after {:?} but {other:?}", self.positions.last()),
            }
        }
        self.positions[from..].to_vec()
    }

    /// The close, with what comes before it passed over.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Heard::Closed(code, reason) = self.heard().await {
                return (code, reason);
            }
        }
    }

    /// Goes away without a word.
    pub(crate) fn vanish(self) -> Vec<u64> {
        self.positions
    }
}

/// A frame that is none: what is left of one.
pub(crate) fn torn() -> Message {
    Message::Binary(Bytes::copy_from_slice(&frame(0).write()[..10]))
}
