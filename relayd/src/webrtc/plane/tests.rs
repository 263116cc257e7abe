//! The actor's turns, one at a time and without its loop.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::*;
use crate::shard::{ShardConfig, ShardThread};
use crate::webrtc::{Accept, Attach, Record, connection, offer};

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
    a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=recvonly\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n";

/// A plane whose turns the test takes, on a socket and a shard of its own.
struct Stage {
    plane: Plane,
    commands: mpsc::Sender<Command>,
    address: SocketAddr,
    thread: ShardThread,
}

impl Stage {
    async fn new() -> Self {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (shard, thread) = Shard::spawn(socket.try_clone().unwrap(), ShardConfig::default()).unwrap();
        let (commands, receiver) = mpsc::channel(64);
        let parts = Parts {
            config: WebRtcConfig::default(),
            socket: UdpSocket::from_std(socket).unwrap(),
            identity: Identity::generate().unwrap(),
            shard,
            candidates: vec![address],
            cname: "name".to_owned(),
            commands: receiver,
        };
        let plane = Plane::new(Instant::now(), parts).unwrap();
        Self { plane, commands, address, thread }
    }

    fn end(mut self) {
        self.plane.stop();
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_flood_takes_no_more_than_its_share_of_a_turn() {
    let mut stage = Stage::new().await;
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // As many as the smallest receive buffer holds, and not a multiple of a turn's share.
    let sent = DATAGRAMS_PER_TURN + 50;
    for _ in 0..sent {
        stranger.send_to(&[0xFF; 20], stage.address).unwrap();
    }
    stage.plane.parts.socket.readable().await.unwrap();
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES + 1];
    stage.plane.receive(&mut buffer);
    assert_eq!(stage.plane.counters.received, DATAGRAMS_PER_TURN as u64);
    stage.plane.receive(&mut buffer);
    assert_eq!(stage.plane.counters.received, sent as u64);

    let mut replies = Vec::new();
    for _ in 0..COMMANDS_PER_TURN + 1 {
        let (reply, answer) = oneshot::channel();
        stage.commands.send(Command::Snapshot { reply }).await.unwrap();
        replies.push(answer);
    }
    assert!(stage.plane.handle_commands(None).is_none());
    let answered = replies.iter_mut().filter_map(|answer| answer.try_recv().ok()).count();
    assert_eq!(answered, COMMANDS_PER_TURN);
    stage.end();
}

#[tokio::test]
async fn timers_that_no_longer_count_are_swept_out() {
    let mut stage = Stage::new().await;
    let now = Instant::now();
    let (_reply, answer) = join(&mut stage.plane, now, Box::new(Silent));
    for late in 0..10_000 {
        // As if a connection's next deadline came ever closer.
        stage.plane.timers.push(Reverse((now + Duration::from_secs(3600 + late), 0, 1)));
        stage.plane.sweep_timers();
        assert!(stage.plane.timers.len() <= TIMERS_SPARE + TIMERS_PER_CONNECTION);
    }
    let first = stage.plane.timers.peek().expect("the connection's own").0;
    assert_eq!(stage.plane.connections[0].queued, Some(first.0));
    drop(answer);
    stage.end();
}

#[tokio::test]
async fn a_join_whose_track_ends_first_is_refused_and_its_record_only_dropped() {
    let mut stage = Stage::new().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let (slot, answer) = join(&mut stage.plane, Instant::now(), Box::new(Diary(told.clone())));
    stage.plane.remove(slot, Some(CloseReason::Deleted));
    assert_eq!(answer.await.unwrap(), Err(JoinError::TrackNotFound));
    assert_eq!(*told.lock().unwrap(), ["dropped"]);
    let Counters { accepted, refused, closed, .. } = stage.plane.counters;
    assert_eq!((accepted, refused, closed, stage.plane.pending), (0, 1, 0, 0));
    stage.end();
}

#[tokio::test]
async fn a_missed_listener_is_not_brought_back_by_what_anybody_may_send() {
    let mut stage = Stage::new().await;
    let now = Instant::now();
    let (slot, answer) = join(&mut stage.plane, now, Box::new(Silent));
    let source = SocketAddr::from(([192, 0, 2, 1], 9));
    stage.plane.addresses.insert(source, slot);
    stage.plane.connections[slot].stage = connection::Stage::Up { disconnected: true };
    // RTCP, RTP and DTLS by their first bytes (RFC 7983).
    for first in [[0x80, 201], [0x80, 111], [22, 0xfe]] {
        let mut datagram = [0; 40];
        datagram[..2].copy_from_slice(&first);
        stage.plane.handle_datagram(now, source, &datagram);
        let connection = stage.plane.connections.get(slot).expect("it is not closed by that either");
        assert!(connection.is_missed(), "{first:?}");
    }
    assert_eq!(stage.plane.counters.returns, 0);
    stage.plane.connections[slot].stage = connection::Stage::Checking;
    drop(answer);
    stage.end();
}

#[tokio::test]
async fn what_a_stalled_shard_does_not_take_of_a_path_is_told_later() {
    let mut stage = Stage::new().await;
    let (shard, take) = Shard::stalled(1);
    let real = std::mem::replace(&mut stage.plane.parts.shard, shard.clone());
    let now = Instant::now();
    let (slot, answer) = join(&mut stage.plane, now, Box::new(Silent));
    let leg = crate::webrtc::test_support::leg().0;
    while take().is_some() {}
    assert!(shard.publisher_up(leg), "the queue is full");
    let listening = &mut stage.plane.connections[slot];
    (listening.leg, listening.stage) = (Some(leg), connection::Stage::Up { disconnected: false });
    let missed = now + stage.plane.parts.config.disconnected_after;
    stage.plane.handle_due(missed, slot);
    stage.plane.schedule(missed, slot);
    assert!(take().unwrap().contains("PublisherUp"));
    assert_eq!(take(), None);
    let again = stage.plane.connections[slot].queued.unwrap();
    assert!(again <= missed + Duration::from_millis(50), "{:?}", again - missed);
    stage.plane.handle_timers(missed + Duration::from_millis(50));
    assert!(take().unwrap().contains("LegDown"));
    stage.plane.connections[slot].stage = connection::Stage::Checking;
    stage.plane.parts.shard = real;
    drop(answer);
    stage.end();
}

#[tokio::test]
async fn a_connection_ends_with_the_track_that_it_hears_now() {
    let mut stage = Stage::new().await;
    let now = Instant::now();
    let mut relay = relay_engine::Relay::new(
        relay_engine::Config::new(),
        relay_engine::Epoch { instant: now, wall: std::time::SystemTime::now() },
        1,
    );
    let mut open =
        |name: &str| relay.open_track(now, relay_engine::TrackSpec { name: name.to_owned() }).unwrap();
    let (first, second) = (open("en"), open("es"));
    let (listener, _) = relay.open_listener(now, first, relay_engine::LegSpec::new(96)).unwrap();
    let (slot, answer) = join(&mut stage.plane, now, Box::new(Silent));
    (stage.plane.connections[slot].track, stage.plane.connections[slot].listener) = (first, Some(listener));
    stage.commands.send(Command::Selected { listener, track: second }).await.unwrap();
    for (track, closed) in [(first, 0), (second, 1)] {
        let (reply, mut count) = oneshot::channel();
        let command = Command::CloseTrack { track, reason: CloseReason::SessionEnded, reply };
        stage.commands.send(command).await.unwrap();
        assert!(stage.plane.handle_commands(None).is_none());
        assert_eq!(count.try_recv(), Ok(closed));
    }
    drop(answer);
    stage.end();
}

type Answer = oneshot::Receiver<Result<crate::webrtc::Joined, JoinError>>;

/// A join that the shard has not been heard of yet; on a track that there is not.
fn join(plane: &mut Plane, now: Instant, record: Box<dyn Record>) -> (usize, Answer) {
    let track = relay_engine::Relay::new(
        relay_engine::Config::new(),
        relay_engine::Epoch { instant: now, wall: std::time::SystemTime::now() },
        1,
    )
    .open_track(now, relay_engine::TrackSpec { name: "en".to_owned() })
    .unwrap();
    let offer = offer::inspect(OFFER, Role::Listener).unwrap();
    let accept = Accept {
        role: Role::Listener,
        offer,
        track,
        attach: Attach::default(),
        left_at: None,
        epoch: 0,
        record,
    };
    let slot = plane.connections.vacant_key();
    let (reply, answer) = oneshot::channel();
    plane.handle_join(now, Box::new(accept), reply);
    (slot, answer)
}

struct Silent;

impl Record for Silent {}

struct Diary(Arc<Mutex<Vec<&'static str>>>);

impl Record for Diary {
    fn disconnected(&mut self, _reason: CloseReason) {
        self.0.lock().unwrap().push("disconnected");
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("dropped");
    }
}
