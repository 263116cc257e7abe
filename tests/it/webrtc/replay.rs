//! What a lost path, a second connection and a lost packet cost a listener: nothing.

use std::ops::Range;
use std::time::Duration;

use super::lifecycle::{fragment, take_restart};
use super::peer::{Peer, Relay, converse, until, until_snapshot};
use relay_engine::rtp::rtcp::{Compound, Packet};
use relayd::shard::ShardEvent;
use relayd::webrtc::{Attach, CloseReason, IfMatch, JoinError, Patched, Role};
use str0m::IceCreds;

/// Speaks while the listener hears nothing.
fn speak_in_vain(publisher: &mut Peer, listener: &mut Peer, numbers: Range<u32>) {
    let before = listener.heard.len();
    for number in numbers {
        publisher.speak(number);
        publisher.turn();
        listener.turn();
    }
    assert_eq!(listener.heard.len(), before);
}

/// One SSRC, and sequence numbers that count what was spoken.
fn assert_one_stream(listener: &Peer) {
    let (first, ssrc) = (&listener.heard[0], listener.announced_ssrc());
    for (heard, number) in listener.heard.iter().zip(listener.numbers()) {
        assert_eq!(heard.ssrc, ssrc);
        assert_eq!(heard.sequence, first.sequence + u64::from(number));
        assert_eq!(heard.timestamp, first.timestamp.wrapping_add(960 * number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ice_restart_brings_what_a_dead_path_has_lost_in_order() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    converse(&mut publisher, &mut [&mut listener], 0..20);
    listener.cut_off = true;
    speak_in_vain(&mut publisher, &mut listener, 20..80);
    // What is on its way on the old path when that is no longer dead would be heard before what it has lost.
    until(&mut [&mut publisher, &mut listener], "the dead path has lost all of it", |peers| {
        peers[1].swallowed == 60
    });
    listener.cut_off = false;
    let ours = IceCreds::new();
    let resource = listener.joined().resource;
    let patched = relay.connections.patch(&resource, IfMatch::Any, fragment(&ours)).await.unwrap();
    let Patched::Restarted { fragment: reply, .. } = patched else { panic!("{patched:?}") };
    take_restart(&mut listener, ours, &reply);
    until_snapshot(&relay, &mut [&mut publisher, &mut listener], "the path is proved", |s| {
        s.counters.path_changes >= 1
    })
    .await;
    converse(&mut publisher, &mut [&mut listener], 80..120);
    assert_eq!(listener.numbers(), (0..120).collect::<Vec<_>>());
    assert_one_stream(&listener);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_a_listener_had_the_keys_comes_again() {
    let relay = Relay::start(|_| {}).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = relay.answered(Role::Listener).await;
    listener.deaf_to_finished = true;
    until_snapshot(&relay, &mut [&mut publisher, &mut listener], "the relay has finished", |s| {
        s.counters.connected >= 2
    })
    .await;
    speak_in_vain(&mut publisher, &mut listener, 0..20);
    assert!(!listener.connected);
    listener.deaf_to_finished = false;
    converse(&mut publisher, &mut [&mut listener], 20..60);
    assert_eq!(listener.numbers(), (0..60).collect::<Vec<_>>());
    assert_one_stream(&listener);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nat_that_forgets_its_mapping_costs_nothing() {
    let relay = Relay::start(|_| {}).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut listener], 0..10);
    let _forgotten = listener.rebind();
    // The relay sends these to the old port.
    for number in 10..40 {
        publisher.speak(number);
        publisher.turn();
    }
    until_snapshot(&relay, &mut [&mut publisher, &mut listener], "the new port is learnt", |s| {
        s.counters.path_changes >= 1
    })
    .await;
    converse(&mut publisher, &mut [&mut listener], 40..60);
    assert_eq!(listener.numbers(), (0..60).collect::<Vec<_>>());
    assert_one_stream(&listener);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_was_not_heard_of_is_held_and_comes_back_to_all_of_it() {
    let relay = Relay::start(|config| config.disconnected_after = Duration::from_millis(300)).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut listener = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut listener], 0..10);
    listener.cut_off = true;
    speak_in_vain(&mut publisher, &mut listener, 10..40);
    until_snapshot(&relay, &mut [&mut publisher, &mut listener], "the listener is missed", |s| {
        s.listeners.disconnected == 1
    })
    .await;
    speak_in_vain(&mut publisher, &mut listener, 40..80);
    listener.cut_off = false;
    until_snapshot(&relay, &mut [&mut publisher, &mut listener], "the listener is back", |s| {
        s.counters.returns >= 1
    })
    .await;
    converse(&mut publisher, &mut [&mut listener], 80..100);
    assert_eq!(listener.numbers(), (0..100).collect::<Vec<_>>());
    assert_one_stream(&listener);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_takes_over_from_the_first() {
    let relay = Relay::start(|_| {}).await;
    let mut events = relay.shard.events();
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut first = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut first], 0..20);
    let listener = first.joined().listener.expect("a listener's connection says which it is");
    let mut second = Peer::new(Role::Listener);
    let attach = Attach::Second { listener };
    let joined = relay.join_as(Role::Listener, second.offer(), attach, None).await.unwrap();
    assert_eq!(joined.listener, Some(listener));
    second.take_answer(joined);
    let third = relay.join_as(Role::Listener, Peer::new(Role::Listener).offer(), attach, None).await;
    assert_eq!(third, Err(JoinError::LegExists));
    relay.connect(&mut second).await;
    relay.shard.switch(second.joined().leg).await.unwrap();
    for number in 20..60 {
        publisher.speak(number);
        [&mut publisher, &mut first, &mut second].into_iter().for_each(|peer| peer.turn());
    }
    until(&mut [&mut publisher, &mut first, &mut second], "the last number is heard", |peers| {
        peers[2].numbers().last() == Some(&59)
    });
    let spent = loop {
        match events.recv().await.unwrap() {
            ShardEvent::LegSpent { leg, to, position, gap_frames, .. } => {
                break (leg, to, position, gap_frames);
            }
            _ => continue,
        }
    };
    let (leg, to, cut, gap_frames) = spent;
    assert_eq!((leg, to, gap_frames), (first.joined().leg, second.joined().leg, 0));
    relay.connections.close(&first.joined().resource, CloseReason::Refreshed).await.unwrap();
    converse(&mut publisher, &mut [&mut second], 60..80);
    let (old, new) = (first.numbers(), second.numbers());
    assert_eq!(old, (0..cut as u32).collect::<Vec<_>>(), "up to the cut");
    assert!(new[0] <= cut as u32 && new == (new[0]..80).collect::<Vec<_>>(), "{new:?}");
    assert_ne!(first.announced_ssrc(), second.announced_ssrc());
    relay.connections.close(&second.joined().resource, CloseReason::Deleted).await.unwrap();
    assert_eq!(relay.shard.listener_stats(listener).await.unwrap(), None, "it goes with its last leg");
    let gone = relay.join_as(Role::Listener, Peer::new(Role::Listener).offer(), attach, None).await;
    assert_eq!(gone, Err(JoinError::ListenerGone));
    // If it is known where it was, whoever comes for its second leg gets the first one of a new listener.
    let mut third = Peer::new(Role::Listener);
    let joined = relay.join_as(Role::Listener, third.offer(), attach, Some(70)).await.unwrap();
    assert!(joined.listener.is_some_and(|new| new != listener));
    third.take_answer(joined);
    relay.connect(&mut third).await;
    converse(&mut publisher, &mut [&mut third], 80..90);
    assert_eq!(third.numbers(), (70..90).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_comes_again_goes_on_where_the_old_one_was() {
    let relay = Relay::start(|_| {}).await;
    let mut events = relay.shard.events();
    let mut publisher = relay.connected(Role::Publisher).await;
    let mut old = relay.connected(Role::Listener).await;
    converse(&mut publisher, &mut [&mut old], 0..20);
    relay.connections.close(&old.joined().resource, CloseReason::Deleted).await.unwrap();
    let next = loop {
        match events.recv().await.unwrap() {
            ShardEvent::LegClosed { leg, next, .. } if leg == old.joined().leg => break next,
            _ => continue,
        }
    };
    assert!(next.is_some_and(|next| next <= 20), "{next:?}");
    for number in 20..50 {
        publisher.speak(number);
        publisher.turn();
    }
    let mut new = Peer::new(Role::Listener);
    let attach = Attach::New { resume_from: next };
    new.take_answer(relay.join_as(Role::Listener, new.offer(), attach, None).await.unwrap());
    relay.connect(&mut new).await;
    converse(&mut publisher, &mut [&mut new], 50..70);
    assert_eq!(new.numbers(), (next.unwrap() as u32..70).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publishers_lost_packet_is_asked_for_and_fills_its_hole() {
    let relay = Relay::start(|_| {}).await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut publisher = Peer::new(Role::Publisher);
    publisher.offer = publisher.offer().replace("a=rtcp-mux\r\n", "a=rtcp-mux\r\na=rtcp-fb:* nack\r\n");
    let joined = relay.join(Role::Publisher, publisher.offer()).await.unwrap();
    assert!(joined.answer.contains(" nack\r\n"), "{}", joined.answer);
    publisher.take_answer(joined);
    relay.connect(&mut publisher).await;
    converse(&mut publisher, &mut [&mut listener], 0..10);
    publisher.loses = 1;
    converse(&mut publisher, &mut [&mut listener], 10..20);
    assert_eq!(listener.numbers(), (0..20).filter(|number| *number != 10).collect::<Vec<_>>());
    let (datagram, to) = publisher.lost.pop().unwrap();
    let sequence = u16::from_be_bytes([datagram[2], datagram[3]]);
    until(&mut [&mut publisher], "the relay asks for it", |peers| asked_for(peers[0]).contains(&sequence));
    publisher.socket.send_to(&datagram, to).unwrap();
    until(&mut [&mut listener], "it is heard", |peers| peers[0].numbers().contains(&10));
    assert_one_stream(&listener);
    relay.stop().await;
}

/// The sequence numbers that the relay asked a publisher for.
fn asked_for(publisher: &Peer) -> Vec<u16> {
    let keys = publisher.keys.lock().unwrap().clone().unwrap();
    let mut receiver = keys.srtcp_receiver();
    let mut plain = [0; 2048];
    let mut asked = Vec::new();
    for report in &publisher.reports {
        let Ok(length) = receiver.open(report, &mut plain) else { continue };
        for packet in Compound::parse(&plain[..length]).flatten() {
            if let Packet::Nack(nacks) = packet {
                asked.extend(nacks.flat_map(|nack| nack.sequences().collect::<Vec<_>>()));
            }
        }
    }
    asked
}
