//! The actor's turns, one at a time and without its loop.

use std::net::UdpSocket;
use std::sync::{Arc, Mutex};

use str0m::ice::{StunMessage, TransId};
use tokio::sync::oneshot;

use super::*;
use crate::shard::{ShardConfig, ShardThreads};
use crate::webrtc::connection::Binding;
use crate::webrtc::ingest::{Rest, Said};
use crate::webrtc::ports::Port;
use crate::webrtc::receiver::{Inbound, Receiver};
use crate::webrtc::routes::Pair;
use crate::webrtc::stack::{Publisher, SharedPublisher};
use crate::webrtc::{Accept, Attach, IfMatch, Patched, Record, connection, offer};

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
    a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=recvonly\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n";

/// A plane whose turns the test takes, on a socket and a shard of its own.
struct Stage {
    plane: Plane,
    commands: mpsc::Sender<Command>,
    receiver: Receiver,
    thread: ShardThreads,
}

impl Stage {
    async fn new() -> Self {
        Self::with_ports(1).await
    }

    async fn with_ports(count: usize) -> Self {
        let sockets: Vec<_> = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let [socket, ..] = &sockets[..] else { unreachable!("one at least") };
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        let port = |socket: &UdpSocket| {
            Port::new(socket.try_clone().unwrap(), vec![socket.local_addr().unwrap()]).unwrap()
        };
        let (shard, thread) =
            Shards::spawn(std::slice::from_ref(socket), &ShardConfig::patient().into()).unwrap();
        let (commands, receiver) = mpsc::channel(64);
        let config = WebRtcConfig { stun_burst: 1_000_000, ..WebRtcConfig::default() };
        let (shared, inbounds) = Shared::new(&config);
        let reader = Receiver::new(&config, 0, shared.clone(), shard.clone());
        let parts = Parts {
            config,
            ports: Ports::new(sockets.iter().map(port).collect()),
            shared,
            inbounds,
            identity: Identity::generate().unwrap(),
            shard,
            cname: "name".to_owned(),
            commands: receiver,
        };
        let plane = Plane::new(parts).unwrap();
        Self { plane, commands, receiver: reader, thread }
    }

    fn end(mut self) {
        self.plane.stop();
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_flood_takes_no_more_than_its_share_of_a_turn() {
    let mut stage = Stage::new().await;
    let stranger = SocketAddr::from(([192, 0, 2, 1], 9));
    let sent = DATAGRAMS_PER_TURN + 50;
    for _ in 0..sent {
        stage.receiver.handle_datagram(Instant::now(), stranger, &[0; 20]);
    }
    stage.plane.receive();
    assert_eq!(stage.plane.counters.dropped_stun, DATAGRAMS_PER_TURN as u64);
    stage.plane.receive();
    assert_eq!(stage.plane.counters.dropped_stun, sent as u64);

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
async fn a_join_that_finds_the_handshakes_busy_is_refused_and_what_is_lost_of_one_is_counted() {
    let mut stage = Stage::new().await;
    let (stalled, held) = Handshakes::stalled(1);
    let real = std::mem::replace(&mut stage.plane.handshakes, stalled);
    let told = Arc::new(Mutex::new(Vec::new()));
    let now = Instant::now();
    let (slot, waiting) = join(&mut stage.plane, now, Box::new(Silent));
    let (_, answer) = join(&mut stage.plane, now, Box::new(Diary(told.clone())));
    assert_eq!(answer.await.unwrap(), Err(JoinError::Capacity));
    assert_eq!(*told.lock().unwrap(), ["dropped"]);
    let source = SocketAddr::from(([192, 0, 2, 1], 9));
    let route = stage.plane.connections[slot].route.clone();
    stage.plane.parts.shared.routes.insert(at(source), route);
    stage.plane.handle_datagram(now, at(source), &[22, 254, 253]);
    let snapshot = stage.plane.snapshot();
    assert_eq!((snapshot.counters.dropped_handshakes, snapshot.handshakes_waiting), (1, 1));
    assert_eq!((stage.plane.connections.len(), stage.plane.pending), (1, 1));
    stage.plane.handshakes = real;
    drop((waiting, held));
    stage.end();
}

#[tokio::test]
async fn all_that_a_speaker_says_is_taken_in_a_turn_that_takes_but_a_part_of_a_storm_of_joins() {
    let mut stage = Stage::new().await;
    let (stalled, held) = Handshakes::stalled(64);
    let real = std::mem::replace(&mut stage.plane.handshakes, stalled);
    let now = Instant::now();
    let waiting: Vec<Answer> = (0..40).map(|_| join(&mut stage.plane, now, Box::new(Silent)).1).collect();
    let (joining, speaker): (Vec<_>, _) = ((1..=40).map(address).collect(), address(99));
    for (slot, source) in joining.iter().enumerate() {
        let route = stage.plane.connections[slot].route.clone();
        stage.plane.parts.shared.routes.insert(at(*source), route);
    }
    let route = Arc::new(crate::webrtc::routes::Route::new(now, 0, Role::Publisher));
    stage.plane.parts.shared.routes.insert(at(speaker), route);
    // Hellos of all who join, and checks of strangers, and behind them what the speaker says.
    for round in 0..50 {
        joining.iter().for_each(|source| stage.receiver.handle_datagram(now, *source, &[22, 254, 253]));
        stage.receiver.handle_datagram(now, address(1000 + round), &[0; 20]);
    }
    (0..1000).for_each(|_| stage.receiver.handle_datagram(now, speaker, &[0x80, 111, 0, 0]));
    let before = stage.plane.snapshot();
    assert_eq!((before.media_waiting, before.control_waiting), (1000, 2050));
    stage.plane.receive();
    let after = stage.plane.snapshot();
    assert_eq!((after.media_waiting, after.control_waiting), (0, 2050 - DATAGRAMS_PER_TURN));
    // Nobody has proved to be that speaker; but each was looked at.
    assert_eq!(after.counters.dropped_media, 1000);
    assert!(after.handshakes_waiting <= 64, "{after:?}");
    stage.plane.handshakes = real;
    drop((waiting, held));
    stage.end();
}

#[tokio::test]
async fn a_connection_that_is_gone_has_no_timer() {
    let mut stage = Stage::new().await;
    let now = Instant::now();
    let (slot, answer) = join(&mut stage.plane, now, Box::new(Silent));
    (0..10_000).for_each(|late| stage.plane.schedule(now + Duration::from_millis(late), slot));
    let ice = now + stage.plane.parts.config.ice_timeout;
    let queued = stage.plane.timers.queued(slot).expect("its own");
    assert!((ice..=ice + COARSE + FINE).contains(&queued));
    stage.plane.remove(slot, Some(CloseReason::Deleted));
    assert_eq!((stage.plane.timers.queued(slot), stage.plane.timers.next()), (None, None));
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
    let route = stage.plane.connections[slot].route.clone();
    stage.plane.parts.shared.routes.insert(at(source), route);
    stage.plane.connections[slot].stage = connection::Stage::Up { disconnected: true };
    // RTCP, RTP and DTLS by their first bytes (RFC 7983).
    for first in [[0x80, 201], [0x80, 111], [22, 0xfe]] {
        let mut datagram = [0; 40];
        datagram[..2].copy_from_slice(&first);
        stage.plane.handle_datagram(now, at(source), &datagram);
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
    let (shard, take) = Shards::stalled(1);
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
    let again = stage.plane.timers.queued(slot).unwrap();
    assert!(again <= missed + Duration::from_millis(50) + COARSE + FINE, "{:?}", again - missed);
    stage.plane.handle_timers(again);
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

#[tokio::test]
async fn what_another_publisher_had_said_in_this_slot_ends_no_connection() {
    let mut stage = Stage::new().await;
    let now = Instant::now();
    let (slot, answer) = join_as(Role::Publisher, &mut stage.plane, now, Box::new(Silent));
    let before = Arc::new(crate::webrtc::routes::Route::new(now, slot, Role::Publisher));
    for (route, left) in [(before, 1), (stage.plane.connections[slot].route.clone(), 0)] {
        let rest = Rest { effects: Vec::new(), result: Err(StackError::Panicked) };
        let said = Said { route, rest };
        stage.plane.handle_inbound(Inbound::Said(said));
        assert_eq!(stage.plane.connections.len(), left);
    }
    assert_eq!(stage.plane.counters.panics, 1);
    drop(answer);
    stage.end();
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// At the first port.
fn at(source: SocketAddr) -> Pair {
    Pair { port: 0, source }
}

#[tokio::test]
async fn an_ice_restart_while_the_stack_is_on_its_way_back_is_not_lost() {
    let mut stage = Stage::new().await;
    let (stalled, held) = Handshakes::stalled(64);
    let real = std::mem::replace(&mut stage.plane.handshakes, stalled);
    let now = Instant::now();
    let (slot, answer) = join_as(Role::Publisher, &mut stage.plane, now, Box::new(Silent));
    let Parts { identity, ports, .. } = &stage.plane.parts;
    let (identity, offer) = (identity.clone(), offer_of(Role::Publisher));
    let connection = &stage.plane.connections[slot];
    let stack = Publisher::new(now, &identity, &offer, &connection.ice, ports.of(0).candidates()).unwrap();
    let (resource, key) = (connection.resource, Key { slot, generation: connection.generation });

    let (reply, patched) = oneshot::channel();
    let fragment = "a=ice-ufrag:anew\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui2\r\n".to_owned();
    stage.commands.send(Command::Patch { resource, if_match: IfMatch::Any, fragment, reply }).await.unwrap();
    assert!(stage.plane.handle_commands(None).is_none());
    assert!(matches!(patched.await.unwrap(), Ok(Patched::Restarted { .. })));
    let stack = Some(Stack::Publisher(SharedPublisher::new(stack)));
    stage.plane.handle_news(now, News { key, effects: Vec::new(), result: Ok(()), stack });

    // The stack itself answers a publisher's checks.
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let ice = stage.plane.connections[slot].ice.clone();
    let name = format!("{}:anew", ice.ufrag);
    let message = StunMessage::binding_request(&name, TransId::new(), true, 7, 5, true);
    let mut request = [0; 512];
    let hmac = |key: &[u8], payloads: &[&[u8]]| identity.sha1_hmac(key, payloads);
    let length = message.to_bytes(Some(ice.password.as_bytes()), &mut request, hmac).unwrap();
    stage.plane.handle_datagram(now, at(peer.local_addr().unwrap()), &request[..length]);
    let mut heard = [0; 512];
    let length = peer.recv(&mut heard).expect("the check is answered");
    let reply = StunMessage::parse(&heard[..length]).unwrap();
    assert!(reply.is_successful_binding_response() && reply.trans_id() == message.trans_id());
    stage.plane.handshakes = real;
    drop((answer, held));
    stage.end();
}

fn check(plane: &mut Plane, now: Instant, slot: usize, source: SocketAddr) {
    plane.handle_binding(now, slot, Binding { source, priority: 1, use_candidate: true }, &[0; 20]);
}

fn holder(plane: &Plane, address: SocketAddr) -> Option<usize> {
    plane.parts.shared.routes.get(&at(address)).map(|route| route.slot)
}

/// The id of a listener, the same for the same number.
fn listener_id(number: usize) -> ListenerId {
    let (now, wall) = (Instant::now(), std::time::SystemTime::now());
    let epoch = relay_engine::Epoch { instant: now, wall };
    let mut relay = relay_engine::Relay::new(relay_engine::Config::new(), epoch, 1);
    let track = relay.open_track(now, relay_engine::TrackSpec { name: "en".to_owned() }).unwrap();
    let mut open = || relay.open_listener(now, track, relay_engine::LegSpec::new(96)).unwrap().0;
    (0..number).for_each(|_| _ = open());
    open()
}

#[tokio::test]
async fn an_address_is_let_go_by_who_is_silent_and_at_once_to_the_same_listener() {
    let mut stage = Stage::new().await;
    let (shard, take) = Shards::stalled(64);
    let real = std::mem::replace(&mut stage.plane.parts.shard, shard);
    let now = Instant::now();
    let joined: Vec<_> = (0..3).map(|_| join(&mut stage.plane, now, Box::new(Silent))).collect();
    let [old, stranger, same] = [joined[0].0, joined[1].0, joined[2].0];
    let leg = crate::webrtc::test_support::leg().0;
    for (slot, number) in [(old, 1), (stranger, 2), (same, 1)] {
        stage.plane.connections[slot].listener = Some(listener_id(number));
    }
    while take().is_some() {}
    let source = address(7);
    let set_up = |plane: &mut Plane, now| {
        check(plane, now, old, source);
        (plane.connections[old].leg, plane.connections[old].stage) =
            (Some(leg), connection::Stage::Up { disconnected: false });
    };
    for (claimant, after, gets_it) in [(stranger, 7, false), (stranger, 8, true), (same, 0, true)] {
        set_up(&mut stage.plane, now);
        assert_eq!(holder(&stage.plane, source), Some(old));
        check(&mut stage.plane, now + Duration::from_secs(after), claimant, source);
        assert_eq!(holder(&stage.plane, source) == Some(claimant), gets_it, "after {after} s");
        // What would be sent to the old one is not sent to whoever is there now.
        assert_eq!(stage.plane.connections[old].is_missed(), gets_it);
        assert_eq!(take().is_some_and(|told| told.contains("LegDown")), gets_it);
        stage.plane.connections[old].stage = connection::Stage::Checking;
    }
    assert_eq!(stage.plane.counters.dropped_addresses, 1);
    stage.plane.parts.shard = real;
    drop(joined);
    stage.end();
}

#[tokio::test]
async fn who_may_learn_no_more_addresses_takes_none_from_another() {
    let mut stage = Stage::new().await;
    let now = Instant::now();
    let joined: Vec<_> = (0..2).map(|_| join(&mut stage.plane, now, Box::new(Silent))).collect();
    let [first, greedy] = [joined[0].0, joined[1].0];
    check(&mut stage.plane, now, first, address(7));
    for port in 1000..1300 {
        check(&mut stage.plane, now, greedy, address(port));
    }
    let refused = stage.plane.counters.dropped_addresses;
    assert!(refused > 0, "it has used up what it may learn");
    check(&mut stage.plane, now, greedy, address(7));
    assert_eq!(stage.plane.counters.dropped_addresses, refused + 1);
    assert_eq!(holder(&stage.plane, address(7)), Some(first));
    assert_eq!(stage.plane.connections[first].peer.path(), Some(address(7)));
    drop(joined);
    stage.end();
}

#[tokio::test]
async fn an_address_is_each_connections_own_at_the_port_of_its_shard() {
    let mut stage = Stage::with_ports(2).await;
    let now = Instant::now();
    let joined: Vec<_> = (0..2).map(|_| join(&mut stage.plane, now, Box::new(Silent))).collect();
    // Both behind one NAT, which maps by both ends of a flow.
    let source = address(7);
    let at_port = |stage: &Stage, port| {
        stage.plane.parts.shared.routes.get(&Pair { port, source }).map(|route| route.slot)
    };
    for (number, (slot, _)) in (0..).zip(&joined) {
        stage.plane.connections[*slot].leg = Some(leg_at(number));
        let request = request(&stage.plane, *slot);
        for port in [1 - number, number] {
            assert_eq!(at_port(&stage, number), None);
            stage.plane.handle_datagram(now, Pair { port, source }, &request);
        }
        assert_eq!(at_port(&stage, number), Some(*slot));
    }
    let counters = &stage.plane.counters;
    assert_eq!((counters.dropped_addresses, counters.dropped_ufrag), (0, 2), "at the other's port");
    assert_eq!(at_port(&stage, 0), Some(joined[0].0));
    stage.plane.remove(joined[0].0, Some(CloseReason::Deleted));
    assert_eq!((at_port(&stage, 0), at_port(&stage, 1)), (None, Some(joined[1].0)));
    drop(joined);
    stage.end();
}

/// An authentic check of the peer of a connection.
fn request(plane: &Plane, slot: usize) -> Vec<u8> {
    let (identity, ice) = (&plane.parts.identity, &plane.connections[slot].ice);
    let name = format!("{}:EsAw", ice.ufrag);
    let mut request = vec![0; 512];
    let message = StunMessage::binding_request(&name, TransId::new(), true, 7, 5, true);
    let hmac = |key: &[u8], payloads: &[&[u8]]| identity.sha1_hmac(key, payloads);
    let length = message.to_bytes(Some(ice.password.as_bytes()), &mut request, hmac).unwrap();
    request.truncate(length);
    request
}

/// The id of a leg of the shard of this number.
fn leg_at(number: u8) -> LegId {
    let (now, wall) = (Instant::now(), std::time::SystemTime::now());
    let epoch = relay_engine::Epoch { instant: now, wall };
    let mut relay = relay_engine::Relay::new(relay_engine::Config::new().relay(number), epoch, 1);
    let track = relay.open_track(now, relay_engine::TrackSpec { name: "en".to_owned() }).unwrap();
    relay.open_listener(now, track, relay_engine::LegSpec::new(96)).unwrap().1
}

#[tokio::test]
async fn a_listener_without_a_path_is_sent_nothing_before_it_has_one() {
    let mut stage = Stage::new().await;
    let (shard, take) = Shards::stalled(64);
    let real = std::mem::replace(&mut stage.plane.parts.shard, shard);
    let now = Instant::now();
    let (slot, answer) = join(&mut stage.plane, now, Box::new(Silent));
    check(&mut stage.plane, now, slot, address(7));
    let connection = &mut stage.plane.connections[slot];
    (connection.leg, connection.stage) =
        (Some(crate::webrtc::test_support::leg().0), connection::Stage::Up { disconnected: false });
    connection.lose(now, address(7), &stage.plane.parts.shard);
    while take().is_some() {}
    let unnominated = Binding { source: address(8), priority: 1, use_candidate: false };
    stage.plane.handle_binding(now, slot, unnominated, &[0; 20]);
    assert_eq!(take(), None, "where it was is somebody else");
    check(&mut stage.plane, now, slot, address(8));
    assert!(take().is_some_and(|told| told.contains("LegPath") && told.contains("192.0.2.1:8")));
    stage.plane.connections[slot].stage = connection::Stage::Checking;
    stage.plane.parts.shard = real;
    drop(answer);
    stage.end();
}

type Answer = oneshot::Receiver<Result<crate::webrtc::Joined, JoinError>>;

/// A join that the shard has not been heard of yet; on a track that there is not.
fn join(plane: &mut Plane, now: Instant, record: Box<dyn Record>) -> (usize, Answer) {
    join_as(Role::Listener, plane, now, record)
}

fn offer_of(role: Role) -> offer::Offer {
    let direction = if role == Role::Listener { "recvonly" } else { "sendonly" };
    offer::inspect(&OFFER.replace("recvonly", direction), role).unwrap()
}

fn join_as(role: Role, plane: &mut Plane, now: Instant, record: Box<dyn Record>) -> (usize, Answer) {
    let track = relay_engine::Relay::new(
        relay_engine::Config::new(),
        relay_engine::Epoch { instant: now, wall: std::time::SystemTime::now() },
        1,
    )
    .open_track(now, relay_engine::TrackSpec { name: "en".to_owned() })
    .unwrap();
    let accept = Accept {
        role,
        offer: offer_of(role),
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
