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

/// A STUN binding request for a peer's session, under a password of the caller's.
fn binding(peer: &Peer, password: &str) -> Vec<u8> {
    let line = |text: &str, name: &str| -> String {
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    };
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
    relay.connections.close(&other.joined().resource).await.unwrap();
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
