//! Strangers, forgers and broken peers: none may harm anybody else.

use std::net::UdpSocket;

use super::peer::{Peer, Relay, converse, until, until_snapshot};
use relayd::webrtc::{CloseReason, Role};
use str0m::ice::{StunMessage, TransId};

fn stranger(relay: &Relay) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(relay.address()).unwrap();
    socket
}

/// The value of the first line of this name.
fn line(text: &str, name: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

/// A STUN binding request for a peer's session, under a password of the caller's.
fn binding(peer: &Peer, password: &str) -> Vec<u8> {
    let local = line(&peer.joined().answer, "a=ice-ufrag:");
    let username = format!("{local}:{}", line(&peer.offer, "a=ice-ufrag:"));
    let message = StunMessage::binding_request(&username, TransId::new(), true, 7, 1, true);
    let mut buffer = vec![0; 512];
    let provider = str0m::crypto::from_feature_flags().sha1_hmac_provider;
    let hmac = |key: &[u8], payloads: &[&[u8]]| provider.sha1_hmac(key, payloads);
    let length = message.to_bytes(Some(password.as_bytes()), &mut buffer, hmac).unwrap();
    buffer.truncate(length);
    buffer
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_of_every_first_byte_is_dropped_and_counted() {
    let relay = Relay::start(|config| config.stun_burst = 10_000).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let junk = stranger(&relay);
    let before = relay.connections.snapshot().await.counters;
    for first in 0..=255_u8 {
        for length in [1, 2, 20, 100, 1500, 3000] {
            let mut datagram = vec![first; length];
            datagram[length / 2..].fill(0xA5);
            junk.send(&datagram).unwrap();
        }
        listener.turn();
        publisher.turn();
    }
    junk.send(&[]).unwrap();
    let all = 256 * 6 + 1;
    let after = until_snapshot(&relay, &mut [&mut listener, &mut publisher], "junk is counted", |snapshot| {
        let c = snapshot.counters;
        let dropped = |c: relayd::webrtc::Counters| c.dropped_class + c.dropped_unknown + c.dropped_stun;
        dropped(c) - dropped(before) == all
    })
    .await;
    assert_eq!(after.addresses, 2);
    converse(&mut publisher, &mut [&mut listener], 0..20);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_floods_stun_is_limited() {
    let relay = Relay::start(|_| {}).await;
    let junk = stranger(&relay);
    for _ in 0..500 {
        junk.send(&[0; 20]).unwrap();
    }
    let snapshot =
        until_snapshot(&relay, &mut [], "all came", |snapshot| snapshot.counters.received == 500).await;
    assert!(snapshot.counters.dropped_rate >= 400, "{snapshot:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stun_with_bad_integrity_teaches_no_address() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let forger = stranger(&relay);
    for _ in 0..10 {
        forger.send(&binding(&listener, "a-guess-of-the-password")).unwrap();
        forger.send(&binding(&publisher, "a-guess-of-the-password")).unwrap();
    }
    let snapshot =
        until_snapshot(&relay, &mut [&mut listener, &mut publisher], "all are refused", |snapshot| {
            snapshot.counters.dropped_integrity == 20
        })
        .await;
    assert_eq!(snapshot.addresses, 2);
    converse(&mut publisher, &mut [&mut listener], 0..20);
    assert_eq!(listener.numbers(), (0..20).collect::<Vec<_>>());
    forger.set_nonblocking(true).unwrap();
    assert!(forger.recv(&mut [0; 2048]).is_err(), "nothing was sent to the forger");
    relay.stop().await;
}

/// The ClientHello of some other client of this relay.
async fn foreign_hello(relay: &Relay) -> Vec<u8> {
    let other = relay.connected(Role::Listener).await;
    let hello = other.handshake[0].clone();
    assert_eq!((hello[0], hello[13]), (22, 1), "a handshake record with a ClientHello");
    relay.connections.close(&other.joined().resource, CloseReason::Deleted).await.unwrap();
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_from_a_foreign_address_harms_no_join() {
    let relay = Relay::start(|_| {}).await;
    let hello = foreign_hello(&relay).await;
    let attacker = stranger(&relay);
    for _ in 0..10 {
        let mut victim = relay.answered(Role::Listener).await;
        attacker.send(&hello).unwrap();
        until(&mut [&mut victim], "the victim connects", |peers| {
            attacker.send(&hello).unwrap();
            peers[0].connected
        });
    }
    let snapshot = relay.connections.snapshot().await;
    assert_eq!((snapshot.listeners.connected, snapshot.counters.rebuilt), (10, 0));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_forged_from_the_peers_own_address_is_healed() {
    let relay = Relay::start(|config| config.dtls_timeout = std::time::Duration::from_millis(500)).await;
    let hello = foreign_hello(&relay).await;
    let mut victim = relay.answered(Role::Listener).await;
    victim.before_hello = Some(hello);
    // The relay answers the forged hello and takes the real one for its copy.
    victim.deaf_to_dtls = true;
    until_snapshot(&relay, &mut [&mut victim], "the handshake starts over", |s| s.counters.rebuilt == 1)
        .await;
    victim.deaf_to_dtls = false;
    until(&mut [&mut victim], "the victim connects after all", |peers| peers[0].connected);
    let mut publisher = relay.connected(Role::Publisher).await;
    converse(&mut publisher, &mut [&mut victim], 0..20);
    assert_eq!(victim.numbers(), (0..20).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_heard_the_answer_to_a_forged_hello_is_given_up_in_time() {
    let relay = Relay::start(|config| {
        config.dtls_timeout = std::time::Duration::from_millis(300);
        config.join_timeout = std::time::Duration::from_millis(1500);
    })
    .await;
    let hello = foreign_hello(&relay).await;
    let mut victim = relay.answered(Role::Listener).await;
    // The relay's answer is to the forged hello: to the client it is a forgery itself, and ends its handshake.
    victim.before_hello = Some(hello);
    until_snapshot(&relay, &mut [&mut victim], "the join is given up", |s| s.listeners.total() == 0).await;
    let entry = relay.ledger.last();
    assert_eq!((entry.connected, entry.reasons, entry.drops), (0, vec![CloseReason::DtlsTimeout], 1));
    assert!(!victim.connected);
    // What is left to the client is to join again.
    relay.connected(Role::Listener).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_peers_address_is_not_to_be_had_by_another_session() {
    let relay = Relay::start(|_| {}).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = relay.connected(Role::Listener).await;
    let thief = relay.connected(Role::Listener).await;
    let password = line(&thief.joined().answer, "a=ice-pwd:");
    // What a thief sends who forges source addresses: authentic, nominating, for its own session.
    let claim = binding(&thief, &password);
    for victim in [&publisher, &listener] {
        victim.socket.send_to(&claim, relay.address()).unwrap();
    }
    let refused = until_snapshot(&relay, &mut [&mut publisher, &mut listener], "both are refused", |s| {
        s.counters.dropped_addresses == 2
    })
    .await;
    assert_eq!(refused.addresses, 3);
    converse(&mut publisher, &mut [&mut listener], 0..20);
    assert_eq!(listener.numbers(), (0..20).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_session_that_ended_serves_the_next() {
    let relay = Relay::start(|_| {}).await;
    let mut first = relay.connected(Role::Listener).await;
    relay.connections.close(&first.joined().resource, CloseReason::Deleted).await.unwrap();
    let mut second = Peer::new(Role::Listener);
    std::mem::swap(&mut first.socket, &mut second.socket);
    let joined = relay.join(Role::Listener, second.offer()).await.unwrap();
    second.take_answer(joined);
    relay.connect(&mut second).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_junk_costs_a_listener_nothing() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let junk = [stranger(&relay), stranger(&relay), stranger(&relay)];
    let password = "a-guess-of-the-password";
    let floods = [vec![0; 20], vec![0x80; 40], vec![22; 60], vec![0xFF; 80], binding(&listener, password)];
    for number in 0..50 {
        // As much at once as the smallest receive buffer takes beside the speaker's own packet.
        for flood in floods.iter().cycle().take(60) {
            junk.iter().for_each(|socket| assert!(socket.send(flood).is_ok()));
        }
        publisher.speak(number);
        let heard = |peers: &mut [&mut Peer]| peers[0].numbers().last() == Some(&number);
        until(&mut [&mut listener, &mut publisher], "the frame is heard through the flood", heard);
    }
    assert_eq!(listener.numbers(), (0..50).collect::<Vec<_>>());
    let counters = relay.connections.snapshot().await.counters;
    assert!(counters.received >= 9_000, "{counters:?}");
    assert_eq!((counters.dropped_shard, counters.stack_errors), (0, 0));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_floods_reports_fills_nobodys_queue() {
    let relay = Relay::start(|config| config.feedback_rate = 5).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut report = [0; 40];
    (report[0], report[1]) = (0x80, 201);
    for _ in 0..200 {
        listener.socket.send_to(&report, relay.address()).unwrap();
    }
    until_snapshot(&relay, &mut [&mut publisher, &mut listener], "they are limited", |s| {
        s.counters.dropped_feedback >= 180
    })
    .await;
    let taken = relay.shard.stats().await.unwrap().queue.taken;
    assert!(taken <= 20, "{taken} reached the shard");
    converse(&mut publisher, &mut [&mut listener], 0..20);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn media_of_every_length_breaks_nothing() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    converse(&mut publisher, &mut [&mut listener], 0..5);
    let junk = stranger(&relay);
    for length in 0..=1500_usize {
        // RTP of the known payload type, RTCP with and without the E bit, a DTLS record.
        for head in [[0x80, 111], [0x90, 111], [0xB0, 0xEF], [0x80, 200], [0x81, 201], [22, 0xFE]] {
            let mut datagram = vec![0x80; length];
            let head = &head[..length.min(2)];
            datagram[..head.len()].copy_from_slice(head);
            if length > 4 {
                *datagram.last_mut().unwrap() = (length % 256) as u8;
            }
            junk.send(&datagram).unwrap();
            publisher.socket.send_to(&datagram, relay.address()).unwrap();
            listener.socket.send_to(&datagram, relay.address()).unwrap();
        }
        if length % 16 == 0 {
            publisher.turn();
            listener.turn();
        }
    }
    converse(&mut publisher, &mut [&mut listener], 5..25);
    assert_eq!(listener.numbers(), (0..25).collect::<Vec<_>>());
    let snapshot = relay.connections.snapshot().await;
    assert_eq!(snapshot.counters.panics, 0);
    assert_eq!((snapshot.publishers.connected, snapshot.listeners.connected), (1, 1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_the_offers_is_refused() {
    let relay = Relay::start(|_| {}).await;
    let mut peer = Peer::new(Role::Publisher);
    let other = Peer::new(Role::Publisher).offer();
    let fingerprint =
        |offer: &str| offer.lines().find(|line| line.starts_with("a=fingerprint")).unwrap().to_owned();
    peer.offer = peer.offer.replace(&fingerprint(&peer.offer), &fingerprint(&other));
    let joined = relay.join(Role::Publisher, peer.offer()).await.unwrap();
    peer.take_answer(joined);
    until_snapshot(&relay, &mut [&mut peer], "the peer is refused", |s| s.publishers.total() == 0).await;
    let entry = relay.ledger.last();
    assert_eq!((entry.connected, entry.reasons), (0, vec![CloseReason::Failed]));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_with_another_certificate_than_it_offered_is_refused() {
    let relay = Relay::start(|_| {}).await;
    let (mut peer, other) = (Peer::new(Role::Listener), Peer::new(Role::Listener).offer());
    let fingerprint =
        |offer: &str| offer.lines().find(|line| line.starts_with("a=fingerprint")).unwrap().to_owned();
    peer.offer = peer.offer.replace(&fingerprint(&peer.offer), &fingerprint(&other));
    let joined = relay.join(Role::Listener, peer.offer()).await.unwrap();
    peer.take_answer(joined);
    until_snapshot(&relay, &mut [&mut peer], "the peer is refused", |s| s.listeners.total() == 0).await;
    let entry = relay.ledger.last();
    assert_eq!((entry.connected, entry.reasons), (0, vec![CloseReason::Failed]));
    assert!(!peer.connected);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshake_records_in_one_peers_name_harms_no_other_join() {
    let relay = Relay::start(|config| (config.handshake_threads, config.handshake_queue) = (1, 8)).await;
    let mut victim = relay.answered(Role::Listener).await;
    victim.withholds_dtls = true;
    until_snapshot(&relay, &mut [&mut victim], "its address is learnt", |s| s.addresses == 1).await;
    for number in 0..5_000_u32 {
        let mut record = vec![22, 254, 253, 0, 0, 0, 0];
        record.extend(number.to_be_bytes());
        record.extend([0, 40]);
        record.resize(53, 0xA5);
        victim.socket.send_to(&record, relay.address()).unwrap();
    }
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut listener], 0..20);
    let snapshot = relay.connections.snapshot().await;
    assert_eq!((snapshot.counters.panics, snapshot.listeners.pending), (0, 1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_in_a_connected_listeners_name_changes_nothing_for_it() {
    let relay = Relay::start(|_| {}).await;
    let hello = foreign_hello(&relay).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut listener], 0..20);
    let closed = relay.connections.snapshot().await.counters.closed;
    let own = listener.handshake.clone();
    let wrong = binding(&listener, "a-guess-of-the-password");
    let alert = [21, 254, 253, 0, 0, 0, 0, 0, 0, 1, 1, 0, 2, 2, 40];
    let send = |listener: &Peer, datagram: &[u8]| {
        listener.socket.send_to(datagram, relay.address()).unwrap();
    };
    for round in 0..40_usize {
        send(&listener, &hello);
        own.iter().for_each(|datagram| send(&listener, datagram));
        (0..50).for_each(|_| send(&listener, &wrong));
        send(&listener, &alert);
        // Longer than any buffer there, of each class.
        for first in [[0, 1], [22, 254], [23, 254], [0x80, 111], [0x80, 201]] {
            let mut giant = vec![0xA5; 2048 + round * 1500];
            giant[..2].copy_from_slice(&first);
            send(&listener, &giant);
        }
        listener.turn();
        publisher.turn();
    }
    converse(&mut publisher, &mut [&mut listener], 20..40);
    assert_eq!(listener.numbers(), (0..40).collect::<Vec<_>>());
    let mut next = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut listener, &mut next], 40..50);
    let counters = relay.connections.snapshot().await.counters;
    assert_eq!((counters.closed, counters.panics), (closed, 0), "{counters:?}");
    assert!(counters.dropped_integrity > 0 && counters.dropped_class > 0, "{counters:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_socket_serves_all_and_more_share_the_port_with_nobody_else() {
    for receivers in [1, 4] {
        let relay = Relay::start(|config| config.receivers = receivers).await;
        let mut publisher = relay.connected(Role::Publisher).await;
        let mut listeners = Vec::new();
        for _ in 0..6 {
            listeners.push(relay.connected(Role::Listener).await);
        }
        converse(&mut publisher, &mut listeners.iter_mut().collect::<Vec<_>>(), 0..20);
        assert!(listeners.iter().all(|listener| listener.numbers() == (0..20).collect::<Vec<_>>()));
        assert!(UdpSocket::bind(relay.address()).is_err(), "the port is taken");
        relay.stop().await;
    }
}
