//! `listen` against a relay of this file's own that is restarted: it counts from the start, and knows no ticket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;

use super::*;
use crate::media::{MediaFrame, SUBPROTOCOL};

/// Long past what a machine under load needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the relay does with one connection.
enum Act {
    /// Sends the frames at these positions, and cuts the connection.
    Speak(Vec<u64>),
    /// The same, and stays.
    SpeakOn(Vec<u64>),
    /// Says `bye` for this reason after these frames.
    Bye(Vec<u64>, &'static str),
    /// Does not know the ticket.
    Forget,
    /// Has no room just now.
    Full,
}

/// Plays one act for each connection; tells every `hello`.
struct Relay {
    address: SocketAddr,
    hellos: mpsc::Receiver<Value>,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    fn start(acts: Vec<Act>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, hellos) = mpsc::channel();
        runtime.spawn(async move {
            let mut stays = Vec::new();
            for (act, number) in acts.into_iter().zip(1_u64..) {
                let (stream, _) = listener.accept().await.unwrap();
                let mut socket = accept(stream).await;
                let Some(Ok(Message::Text(hello))) = socket.next().await else { panic!("no hello") };
                tell.send(serde_json::from_str::<Value>(&hello).unwrap()["d"].take()).unwrap();
                let closes = play(&mut socket, act, number).await;
                if !closes {
                    // Read on, so that its goodbye is answered.
                    stays.push(tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} }));
                }
            }
            std::future::pending::<()>().await;
        });
        Self { address, hellos, _runtime: runtime }
    }

    /// Listens until so many packets came; the report and the frames of the recording.
    fn heard(&self, name: &str, packets: u64) -> (ListenReport, Vec<ogg::Packet>) {
        let out: PathBuf = std::env::temp_dir().join(format!("relayd-{}-{name}.ogg", std::process::id()));
        let options = ListenOptions {
            url: format!("ws://{}/v1/sessions/demo/listen/en", self.address),
            out: Some(out.clone()),
            time: Some(PATIENCE),
            ..ListenOptions::default()
        };
        let report = listen(&options, |report| {
            if report.reception.packets >= packets {
                options.stop.stop();
            }
        });
        let frames = read_file(&out).unwrap().to_vec();
        std::fs::remove_file(&out).unwrap();
        (report.unwrap(), frames)
    }

    fn hello(&self) -> Value {
        self.hellos.recv_timeout(PATIENCE).unwrap()
    }
}

async fn accept(stream: TcpStream) -> WebSocketStream<TcpStream> {
    #[expect(clippy::result_large_err, reason = "as the library's callback is")]
    let answer = |_: &Request, mut response: Response| {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        Ok(response)
    };
    tokio_tungstenite::accept_hdr_async(stream, answer).await.unwrap()
}

/// Whether the connection is to be cut then.
async fn play(socket: &mut WebSocketStream<TcpStream>, act: Act, number: u64) -> bool {
    let (frames, then) = match act {
        Act::Speak(frames) => (frames, Some(None)),
        Act::SpeakOn(frames) => (frames, None),
        Act::Bye(frames, reason) => (frames, Some(Some(json!({ "t": "bye", "d": { "reason": reason } })))),
        Act::Forget => return refuse(socket, "TICKET_INVALID", 4004).await,
        Act::Full => return refuse(socket, "CAPACITY", 4008).await,
    };
    let welcome = json!({ "t": "welcome", "d": {
        "role": "listener", "sessionId": "demo", "language": "en", "resource": "r", "ticket": format!("t{number}"),
        "position": frames[0], "next": frames[0], "mediaTime": frames[0] * 960, "historyMs": 30_000, "ackMs": 100,
        "heartbeatMs": 60_000,
    } });
    socket.send(Message::text(welcome.to_string())).await.unwrap();
    for position in frames {
        socket.send(Message::binary(frame(position).write())).await.unwrap();
    }
    match then {
        None => false,
        Some(None) => true,
        Some(Some(bye)) => {
            socket.send(Message::text(bye.to_string())).await.unwrap();
            true
        }
    }
}

async fn refuse(socket: &mut WebSocketStream<TcpStream>, code: &str, number: u16) -> bool {
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    let error = json!({ "t": "error", "d": { "code": code, "detail": "no" } });
    socket.send(Message::text(error.to_string())).await.unwrap();
    let close = CloseFrame { code: number.into(), reason: "no".into() };
    socket.send(Message::Close(Some(close))).await.unwrap();
    true
}

/// 20 ms that say their position.
fn frame(position: u64) -> MediaFrame {
    let mut payload = vec![31 << 3];
    payload.extend(position.to_be_bytes());
    MediaFrame::plain(position, Bytes::from(payload))
}

/// The positions in a recording.
fn positions(frames: &[ogg::Packet]) -> Vec<u64> {
    frames.iter().map(|frame| u64::from_be_bytes(frame.data[1..9].try_into().unwrap())).collect()
}

#[test]
fn a_relay_that_knows_its_listener_no_more_is_heard_from_its_first_frame() {
    let before: Vec<u64> = (5000..5010).collect();
    let after: Vec<u64> = (3..13).collect();
    let relay = Relay::start(vec![
        Act::Speak(before.clone()),
        Act::Forget,
        // Whoever was forgotten is as new as any other, and waits like any other.
        Act::Full,
        Act::SpeakOn(after.clone()),
    ]);
    let (report, recorded) = relay.heard("forgotten", 20);
    let stats = report.reception;
    assert_eq!((stats.packets, stats.lost, stats.out_of_order, stats.duplicates), (20, 0, 0, 0));
    let Switches { resumes, restarts, gap_frames, missing, .. } = report.switches;
    assert_eq!((resumes, restarts, gap_frames, missing), (0, 1, 0, 0));
    assert_eq!(positions(&recorded), [before, after].concat(), "one behind the other, without a silence");
    assert_eq!(
        (relay.hello()["ticket"].clone(), relay.hello()["ticket"].clone()),
        (Value::Null, "t1".into())
    );
    for _ in 0..2 {
        assert_eq!(relay.hello(), json!({}), "as somebody new, from no position of before");
    }
}

#[test]
fn what_is_missing_before_a_restart_is_counted_and_what_was_lost_in_it_is_not() {
    let relay = Relay::start(vec![
        Act::Speak(vec![100, 101, 104, 105]),
        Act::Forget,
        Act::Speak((7000..7010).collect()),
        Act::Forget,
        Act::SpeakOn((0..10).collect()),
    ]);
    let (report, recorded) = relay.heard("twice", 24);
    assert_eq!((report.reception.packets, report.reception.lost), (24, 2));
    assert_eq!((report.switches.restarts, report.switches.missing), (2, 2));
    let heard: Vec<u64> = recorded
        .iter()
        .filter(|it| !it.is_empty())
        .flat_map(|it| positions(std::slice::from_ref(it)))
        .collect();
    assert_eq!(heard, [vec![100, 101, 104, 105], (7000..7010).collect(), (0..10).collect()].concat());
}

#[test]
fn a_relay_that_knows_the_ticket_is_heard_on_from_where_it_was() {
    let relay = Relay::start(vec![Act::Speak((10..20).collect()), Act::SpeakOn((18..30).collect())]);
    let (report, recorded) = relay.heard("resumed", 20);
    let Switches { resumes, restarts, .. } = report.switches;
    assert_eq!((resumes, restarts, report.reception.duplicates), (1, 0, 2));
    assert_eq!(positions(&recorded), (10..30).collect::<Vec<u64>>());
    let _first = relay.hello();
    assert_eq!(relay.hello(), json!({ "ticket": "t1", "from": 20 }));
}

#[test]
fn whoever_is_sent_away_for_want_of_room_goes_on_by_position() {
    let relay =
        Relay::start(vec![Act::Bye((10..20).collect(), "overloaded"), Act::SpeakOn((20..30).collect())]);
    let (report, recorded) = relay.heard("overloaded", 20);
    assert_eq!((report.switches.resumes, report.switches.restarts), (1, 0));
    assert_eq!(positions(&recorded), (10..30).collect::<Vec<u64>>());
    let _first = relay.hello();
    assert_eq!(relay.hello(), json!({ "from": 20 }));
}

#[test]
fn a_relay_that_stops_is_waited_for_and_one_that_ends_the_session_is_not() {
    let relay = Relay::start(vec![
        Act::Bye((50..60).collect(), "drain"),
        Act::Forget,
        Act::Bye((0..10).collect(), "ended"),
    ]);
    let options = ListenOptions {
        url: format!("ws://{}/v1/sessions/demo/listen/en", relay.address),
        ..ListenOptions::default()
    };
    let mut last = ListenReport::default();
    let result = listen(&options, |report| last = *report);
    assert_eq!(result, Err(ClientError::Bye(ByeReason::Ended)));
    assert_eq!((last.reception.packets, last.switches.restarts), (20, 1));
}
