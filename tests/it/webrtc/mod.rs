//! The connection plane with real peers on real sockets.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod hostile;
mod lifecycle;
pub(crate) mod peer;
mod ports;
mod replay;
mod speaker;
mod tap;

use peer::{Peer, Relay, converse, until, until_snapshot};
use relayd::webrtc::{CloseReason, JoinError, Role};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_says_its_listeners_hear() {
    let relay = Relay::start(|_| {}).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut first = relay.connected(Role::Listener).await;
    let mut second = relay.connected(Role::Listener).await;
    // Both are up at the shard before the first packet: commands precede media there.
    converse(&mut publisher, &mut [&mut first, &mut second], 0..100);
    for listener in [&first, &second] {
        assert_eq!(listener.numbers(), (0..100).collect::<Vec<_>>());
        let (start, ssrc) = (&listener.heard[0], listener.announced_ssrc());
        for (step, heard) in (0..).zip(&listener.heard) {
            assert_eq!(heard.ssrc, ssrc);
            assert_eq!(heard.sequence, start.sequence + step);
            assert_eq!(heard.timestamp, start.timestamp.wrapping_add(960 * step as u32));
        }
    }
    assert_ne!(first.announced_ssrc(), second.announced_ssrc());
    let snapshot = relay.connections.snapshot().await;
    assert_eq!((snapshot.publishers.connected, snapshot.listeners.connected), (1, 2));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_come_before_the_speaker() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    converse(&mut publisher, &mut [&mut listener], 0..20);
    assert_eq!(listener.numbers(), (0..20).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_speaker_is_heard_on_the_same_ssrc() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    converse(&mut publisher, &mut [&mut listener], 0..20);
    let (second, third) = (Peer::new(Role::Publisher), Peer::new(Role::Publisher));
    let second = relay.join(Role::Publisher, second.offer()).await.unwrap();
    let refused = relay.join(Role::Publisher, third.offer()).await;
    assert_eq!(refused, Err(JoinError::PublisherExists));
    relay.connections.close(&second.resource, CloseReason::Deleted).await.unwrap();
    relay.connections.close(&publisher.joined().resource, CloseReason::Deleted).await.unwrap();
    until(&mut [&mut publisher], "the publisher is told", |peers| peers[0].closed);
    let mut publisher = relay.connected(Role::Publisher).await;
    converse(&mut publisher, &mut [&mut listener], 20..40);
    assert_eq!(listener.numbers(), (0..40).collect::<Vec<_>>());
    let ssrc = listener.announced_ssrc();
    assert!(listener.heard.iter().all(|heard| heard.ssrc == ssrc));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_not_announced_is_heard_too() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = Peer::new(Role::Publisher);
    let silent: String =
        publisher.offer().split_inclusive('\n').filter(|line| !line.starts_with("a=ssrc")).collect();
    publisher.offer = silent;
    let joined = relay.join(Role::Publisher, publisher.offer()).await.unwrap();
    publisher.take_answer(joined);
    relay.connect(&mut publisher).await;
    converse(&mut publisher, &mut [&mut listener], 0..20);
    assert_eq!(listener.numbers(), (0..20).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_can_not_be_served_leaves_nothing_behind() {
    let relay = Relay::start(|_| {}).await;
    let good = Peer::new(Role::Listener).offer();
    let malformed = relay.join(Role::Listener, good.replace("v=0", "v=9")).await;
    assert!(matches!(malformed, Err(JoinError::Malformed(_))), "{malformed:?}");
    let unsupported = relay.join(Role::Publisher, good).await;
    assert!(matches!(unsupported, Err(JoinError::Unsupported(_))), "{unsupported:?}");
    assert!(relay.ledger.entries().iter().all(|entry| entry.drops == 1 && entry.reasons.is_empty()));
    assert_eq!(relay.shard.stats().await.unwrap().relay.listeners, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_serves_both_ip_versions() {
    let relay = Relay::start(|config| {
        config.bind = "[::]:0".parse().unwrap();
        config.advertise = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    })
    .await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = Peer::bound_to("[::1]:0", Role::Listener);
    let joined = relay.join(Role::Listener, listener.offer()).await.unwrap();
    listener.take_answer(joined);
    relay.connect(&mut listener).await;
    let mut other = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut listener, &mut other], 0..20);
    assert_eq!(listener.numbers(), (0..20).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn media_follows_a_listener_to_its_new_address() {
    let relay = Relay::start(|_| {}).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut listener], 0..10);
    // What a NAT does that has lost its mapping: another port, same session.
    let before = listener.rebind();
    until_snapshot(&relay, &mut [&mut publisher, &mut listener], "the address is learnt", |s| {
        s.addresses == 3
    })
    .await;
    converse(&mut publisher, &mut [&mut listener], 10..30);
    assert_eq!(listener.numbers(), (0..30).collect::<Vec<_>>());
    drop(before);
    relay.stop().await;
}
