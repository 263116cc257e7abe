//! How connections end, and how they go on.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::peer::{Peer, Relay, converse, until, until_snapshot};
use relayd::webrtc::{CloseReason, IfMatch, JoinError, PatchError, Patched, Role};
use str0m::IceCreds;

pub(super) fn fragment(ice: &IceCreds) -> String {
    format!(
        "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n",
        ice.ufrag, ice.pass
    )
}

/// Applies the relay's answer to an ICE restart, as a browser does by a synthetic answer.
pub(super) fn take_restart(peer: &mut Peer, ours: IceCreds, reply: &str) {
    let line = |name: &str| reply.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let theirs = IceCreds { ufrag: line("a=ice-ufrag:"), pass: line("a=ice-pwd:") };
    let mut api = peer.rtc.direct_api();
    api.set_local_ice_credentials(ours);
    api.set_remote_ice_credentials(theirs);
    peer.flush();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ice_restart_keeps_ssrc_and_audio() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    converse(&mut publisher, &mut [&mut listener], 0..20);
    for peer in [&mut listener, &mut publisher] {
        let ours = IceCreds::new();
        let resource = peer.joined().resource;
        let patched = relay.connections.patch(&resource, IfMatch::Any, fragment(&ours)).await.unwrap();
        let Patched::Restarted { etag, fragment: reply } = patched else { panic!("{patched:?}") };
        assert_ne!(etag, peer.joined().etag);
        assert!(reply.contains("a=candidate:"), "{reply}");
        let stale = IfMatch::Tag(peer.joined().etag.clone());
        let refused = relay.connections.patch(&resource, stale, fragment(&ours)).await;
        assert_eq!(refused, Err(PatchError::PreconditionFailed));
        let trickled = relay.connections.patch(&resource, IfMatch::Tag(etag), fragment(&ours)).await;
        assert_eq!(trickled, Ok(Patched::Trickled));
        take_restart(peer, ours, &reply);
    }
    converse(&mut publisher, &mut [&mut listener], 20..60);
    assert_eq!(listener.numbers(), (0..60).collect::<Vec<_>>());
    let ssrc = listener.announced_ssrc();
    assert!(listener.heard.iter().all(|heard| heard.ssrc == ssrc));
    assert_eq!(relay.connections.snapshot().await.counters.restarted, 2);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_is_answered_as_the_standards_ask() {
    let relay = Relay::start(|_| {}).await;
    let peer = relay.connected(Role::Listener).await;
    let joined = peer.joined();
    let candidate = "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
    let patch = |if_match, text: &str| relay.connections.patch(&joined.resource, if_match, text.to_owned());
    let tag = || IfMatch::Tag(joined.etag.clone());
    assert_eq!(patch(IfMatch::Missing, candidate).await, Err(PatchError::PreconditionRequired));
    assert_eq!(patch(IfMatch::Tag("x".to_owned()), candidate).await, Err(PatchError::PreconditionFailed));
    assert_eq!(patch(tag(), candidate).await, Ok(Patched::Trickled));
    assert!(matches!(patch(tag(), "a=ice-ufrag:xxxx").await, Err(PatchError::Malformed(_))));
    assert!(matches!(patch(IfMatch::Any, candidate).await, Err(PatchError::Malformed(_))));
    assert!(matches!(patch(IfMatch::Any, "junk").await, Err(PatchError::Malformed(_))));
    let other = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let unknown = relay.connections.patch(&other, IfMatch::Missing, String::new()).await;
    assert_eq!(unknown, Err(PatchError::NotFound));
    assert_eq!(relay.connections.snapshot().await.listeners.connected, 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_delete_finds_nothing() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let resource = listener.joined().resource;
    assert_eq!(relay.connections.close(&resource, CloseReason::Deleted).await, Ok(()));
    assert_eq!(relay.connections.close(&resource, CloseReason::Deleted).await, Err(PatchError::NotFound));
    until(&mut [&mut listener], "the listener is told", |peers| peers[0].closed);
    let entry = relay.ledger.last();
    assert_eq!((entry.connected, entry.reasons, entry.drops), (1, vec![CloseReason::Deleted], 1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_goodbye_is_gone_at_once() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    listener.rtc.close().unwrap();
    until_snapshot(&relay, &mut [&mut listener], "the listener is gone", |s| s.listeners.total() == 0).await;
    let entry = relay.ledger.last();
    assert_eq!((entry.connected, entry.reasons, entry.drops), (1, vec![CloseReason::PeerClosed], 1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_track_closes_its_connections() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    assert_eq!(relay.connections.close_track(relay.track, CloseReason::SessionEnded).await, 2);
    until(&mut [&mut listener, &mut publisher], "both are told", |peers| peers.iter().all(|p| p.closed));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_without_a_peer_are_capped_and_freed() {
    let relay = Relay::start(|config| {
        config.max_pending = 3;
        config.ice_timeout = Duration::from_millis(300);
    })
    .await;
    for _ in 0..3 {
        relay.answered(Role::Listener).await;
    }
    let refused = relay.join(Role::Listener, Peer::new(Role::Listener).offer()).await;
    assert_eq!(refused, Err(JoinError::Capacity));
    until_snapshot(&relay, &mut [], "all are freed", |s| s.listeners.total() == 0).await;
    let entries = relay.ledger.entries();
    assert!(entries[..3].iter().all(|entry| entry.reasons == [CloseReason::IceTimeout]), "{entries:?}");
    assert_eq!((entries[3].drops, entries[3].reasons.len()), (1, 0));
    relay.connected(Role::Listener).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_dtls_is_given_up() {
    let relay = Relay::start(|config| {
        config.dtls_timeout = Duration::from_millis(200);
        config.join_timeout = Duration::from_millis(600);
    })
    .await;
    let mut listener = relay.answered(Role::Listener).await;
    // Its ICE works, its hello never arrives.
    listener.withholds_dtls = true;
    let gone =
        until_snapshot(&relay, &mut [&mut listener], "the join is given up", |s| s.listeners.total() == 0)
            .await;
    assert_eq!(gone.counters.rebuilt, 1);
    assert_eq!(relay.ledger.last().reasons, [CloseReason::DtlsTimeout]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_ends_in_time_whatever_it_waits_for() {
    let relay = Relay::start(|config| config.join_timeout = Duration::from_millis(300)).await;
    let mut listener = relay.answered(Role::Listener).await;
    listener.withholds_dtls = true;
    until_snapshot(&relay, &mut [&mut listener], "the join is given up", |s| s.listeners.total() == 0).await;
    assert_eq!(relay.ledger.last().reasons, [CloseReason::JoinTimeout]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_missed_and_then_closed() {
    let relay = Relay::start(|config| {
        config.disconnected_after = Duration::from_millis(300);
        config.closed_after = Duration::from_millis(900);
    })
    .await;
    let _listener = relay.connected(Role::Listener).await;
    until_snapshot(&relay, &mut [], "it is missed", |s| s.listeners.disconnected == 1).await;
    until_snapshot(&relay, &mut [], "it is closed", |s| s.listeners.total() == 0).await;
    let entry = relay.ledger.last();
    assert_eq!((entry.connected, entry.reasons, entry.drops), (1, vec![CloseReason::ConsentLost], 1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_killed_at_any_stage_leaves_nothing_behind() {
    let relay = Relay::start(|_| {}).await;
    // Nobody waits for the answer.
    let offer = Peer::new(Role::Listener).offer();
    let mut join = Box::pin(relay.join(Role::Listener, offer));
    let asked = poll_fn(|context| Poll::Ready(join.as_mut().poll(context))).await;
    drop(join);
    // On a busy machine the answer may be there before the first look.
    if let Poll::Ready(joined) = asked {
        relay.connections.close(&joined.unwrap().resource, CloseReason::Deleted).await.unwrap();
    }
    // Answered.
    let peer = relay.answered(Role::Listener).await;
    relay.connections.close(&peer.joined().resource, CloseReason::Deleted).await.unwrap();
    // Checked by ICE.
    let mut peer = relay.answered(Role::Publisher).await;
    peer.withholds_dtls = true;
    until_snapshot(&relay, &mut [&mut peer], "an address is learnt", |s| s.addresses == 1).await;
    relay.connections.close(&peer.joined().resource, CloseReason::Deleted).await.unwrap();
    // Connected; the relay stops under another that is only answered.
    relay.connected(Role::Publisher).await;
    relay.answered(Role::Listener).await;
    until_snapshot(&relay, &mut [], "only these are left", |s| {
        (s.publishers.total(), s.listeners.total()) == (1, 1)
    })
    .await;
    let stats = relay.shard.stats().await.unwrap().relay;
    assert_eq!((stats.legs, stats.listeners), (2, 1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_was_moved_to_another_track_hears_it_and_ends_with_it() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let id = listener.joined().listener.expect("a listener's connection says which it is");
    let other = relay.shard.open_track("es").await.unwrap();
    relay.connections.select(id, other).await.unwrap();
    let stats = relay.shard.listener_stats(id).await.unwrap().expect("it is there");
    assert_eq!(stats.track, other);
    assert_eq!(relay.connections.close_track(relay.track, CloseReason::SessionEnded).await, 0);
    assert_eq!(relay.connections.close_track(other, CloseReason::SessionEnded).await, 1);
    until(&mut [&mut listener], "the listener is told", |peers| peers[0].closed);
    assert!(relay.connections.select(id, other).await.is_err());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_relay_says_so() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let connections = relay.connections.clone();
    let (track, ledger) = (relay.track, relay.ledger.clone());
    relay.stop().await;
    assert_eq!(ledger.last().reasons, [CloseReason::Shutdown]);
    until(&mut [&mut listener], "the listener is told", |peers| peers[0].closed);
    let (attach, left_at, epoch) = (relayd::webrtc::Attach::default(), None, 0);
    let (offer, record) = (listener.offer(), ledger.open());
    let join = relayd::webrtc::Join { offer, track, attach, left_at, epoch, record };
    assert_eq!(connections.listen(join).await, Err(JoinError::Closed));
    assert_eq!(
        connections.close(&listener.joined().resource, CloseReason::Deleted).await,
        Err(PatchError::Closed)
    );
    connections.shutdown().await;
}
