//! Speakers who are who they say and send what nobody should: their listeners' streams stay whole.

use std::collections::HashMap;

use relay_engine::Config;
use relayd::shard::ShardConfig;
use relayd::webrtc::srtp::{KeyingMaterial, SrtpSender};
use relayd::webrtc::{CloseReason, Role};

use super::peer::{Heard, Peer, Relay, converse, until, until_snapshot};

/// A connected publisher whose packets the test writes and seals itself.
struct Speaker {
    peer: Peer,
    keys: KeyingMaterial,
    senders: HashMap<u32, SrtpSender>,
    to: std::net::SocketAddr,
}

impl Speaker {
    async fn connect(relay: &Relay) -> Self {
        let peer = relay.connected(Role::Publisher).await;
        let keys = peer.keys.lock().unwrap().clone().unwrap();
        Self { peer, keys, senders: HashMap::new(), to: relay.address() }
    }

    /// Sends one packet; `index` is its extended sequence number, padding the payload's own last byte.
    fn send(&mut self, ssrc: u32, index: u64, timestamp: u32, padding: bool, payload: &[u8]) {
        let mut header = vec![0x80 | u8::from(padding) << 5, 111];
        header.extend((index as u16).to_be_bytes());
        header.extend(timestamp.to_be_bytes());
        header.extend(ssrc.to_be_bytes());
        let sender = self.senders.entry(ssrc).or_insert_with(|| self.keys.srtp_sender(ssrc));
        let mut packet = vec![0; header.len() + payload.len() + sender.overhead()];
        let length = sender.seal(index, &header, payload, &mut packet).unwrap();
        self.peer.socket.send_to(&packet[..length], self.to).unwrap();
    }
}

/// 20 ms of Opus that holds a number.
fn frame(number: u32) -> Vec<u8> {
    let mut payload = vec![0xFC];
    payload.extend(number.to_be_bytes());
    payload
}

async fn relay() -> Relay {
    // Room for floods: what the engine refuses for its rate would hide what it does with the rest.
    let limits = Config::new().max_packet_rate(1_000_000).max_bit_rate(1_000_000_000);
    Relay::start_with(|_| {}, ShardConfig { relay: limits, ..ShardConfig::default() }).await
}

async fn settled(relay: &Relay, speaker: &mut Speaker, listener: &mut Peer) {
    let sent = relay.connections.snapshot().await.counters.received;
    let mut speaker = [&mut speaker.peer, listener];
    until_snapshot(relay, &mut speaker, "everything is taken", |s| s.counters.received >= sent).await;
}

/// One SSRC, no position twice, and time that goes on with the positions.
fn assert_affine(heard: &[Heard], ssrc: u32) {
    assert!(heard.iter().all(|heard| heard.ssrc == ssrc));
    for pair in heard.windows(2) {
        let (seq, ticks) =
            (pair[1].sequence - pair[0].sequence, pair[1].timestamp.wrapping_sub(pair[0].timestamp));
        assert!((1..1000).contains(&seq), "{pair:?}");
        assert!(ticks > 0 && ticks < 60 * 48_000, "{pair:?}");
    }
}

/// The speaker says these numbers well-formed on this SSRC, from this index and timestamp on; each comes out 20 ms
/// after the last.
fn assert_heard(
    speaker: &mut Speaker,
    listener: &mut Peer,
    ssrc: u32,
    (first, timestamp): (u64, u32),
    numbers: std::ops::Range<u32>,
) {
    for (step, number) in (0..).zip(numbers.clone()) {
        let timestamp = timestamp.wrapping_add(step * 960);
        speaker.send(ssrc, first + u64::from(step), timestamp, false, &frame(number));
    }
    let wanted: Vec<Vec<u8>> = numbers.map(frame).collect();
    let last = wanted.last().unwrap();
    until(&mut [listener], "the last frame is heard", |peers| {
        speaker.peer.turn();
        peers[0].heard.last().is_some_and(|heard| heard.payload == *last)
    });
    let heard = &listener.heard[listener.heard.len() - wanted.len()..];
    assert!(heard.iter().map(|heard| &heard.payload).eq(&wanted));
    for pair in heard.windows(2) {
        assert_eq!(pair[1].sequence - pair[0].sequence, 1);
        assert_eq!(pair[1].timestamp.wrapping_sub(pair[0].timestamp), 960);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn padding_of_any_length_in_a_payload_of_any_length_breaks_nothing() {
    let relay = relay().await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut speaker = Speaker::connect(&relay).await;
    let mut index = 0;
    let mut left = Vec::new();
    for padding in 0..=255_u8 {
        for length in [0_usize, 1, 2, 3, 20, 254, 255] {
            let mut payload = vec![0xFC; length];
            if let Some(last) = payload.last_mut() {
                *last = padding;
            }
            speaker.send(7, index, index as u32 * 960, true, &payload);
            left.push(length.saturating_sub(padding.into()));
            index += 1;
        }
        if padding % 8 == 0 {
            speaker.peer.turn();
            listener.turn();
        }
    }
    assert_heard(&mut speaker, &mut listener, 7, (index, index as u32 * 960), 0..20);
    assert_affine(&listener.heard, listener.announced_ssrc());
    // What is more padding than packet, or nothing else, is a hole; of the rest not a byte too many or too few.
    let heard = listener.heard.iter().map(|heard| heard.payload.len());
    assert!(heard.take(listener.heard.len() - 20).eq(left.into_iter().filter(|left| *left > 0)));
    let snapshot = relay.connections.snapshot().await;
    assert_eq!((snapshot.counters.panics, snapshot.publishers.connected), (0, 1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jumps_and_wraps_keep_a_listeners_stream_affine() {
    let relay = relay().await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut speaker = Speaker::connect(&relay).await;
    // Timestamp and sequence number wrap in mid-stream.
    for step in 0..40_u64 {
        let timestamp = 0_u32.wrapping_sub(20 * 960).wrapping_add(step as u32 * 960);
        speaker.send(1, 65_516 + step, timestamp, false, &frame(step as u32));
    }
    until(&mut [&mut listener], "the wraps are heard", |peers| peers[0].heard.len() == 40);
    for pair in listener.heard.windows(2) {
        assert_eq!(pair[1].sequence - pair[0].sequence, 1);
        assert_eq!(pair[1].timestamp.wrapping_sub(pair[0].timestamp), 960);
    }
    // Half the sequence space at once, again and again, and timestamps that fit nothing.
    for step in 0..200_u64 {
        let timestamp = (step as u32).wrapping_mul(0x9E37_79B9);
        speaker.send(2, step * 32_768, timestamp, false, &frame(step as u32));
        if step % 20 == 0 {
            speaker.peer.turn();
            listener.turn();
        }
    }
    assert_heard(&mut speaker, &mut listener, 3, (100, 0), 0..20);
    assert_affine(&listener.heard, listener.announced_ssrc());
    assert_eq!(relay.connections.snapshot().await.counters.panics, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speaker_with_an_ssrc_for_each_packet_is_heard_until_it_has_had_enough() {
    let relay = relay().await;
    let mut listener = relay.connected(Role::Listener).await;
    let mut speaker = Speaker::connect(&relay).await;
    let scatter = |step: u32| step.wrapping_mul(0x9E37_79B9);
    for step in 0..600 {
        let scattered = scatter(step);
        speaker.send(1000 + step, u64::from(scattered >> 16), scattered, false, &frame(step));
        if step % 20 == 0 {
            speaker.peer.turn();
            listener.turn();
        }
    }
    settled(&relay, &mut speaker, &mut listener).await;
    // The last one that was let in goes on, from where it was.
    let next = (u64::from(scatter(255) >> 16) + 1, scatter(255).wrapping_add(960));
    assert_heard(&mut speaker, &mut listener, 1255, next, 0..20);
    assert!(listener.heard.len() >= 256, "{}", listener.heard.len());
    assert_affine(&listener.heard, listener.announced_ssrc());
    let before = listener.heard.len();
    let refused = relay.connections.snapshot().await.counters.dropped_media;
    speaker.send(9999, 1, 1, false, &frame(1));
    until_snapshot(&relay, &mut [&mut listener], "a new one is refused", |snapshot| {
        snapshot.counters.dropped_media > refused
    })
    .await;
    assert_eq!(listener.heard.len(), before);
    // Its successor, on the same track, is heard on the same stream.
    relay.connections.close(&speaker.peer.joined().resource, CloseReason::Deleted).await.unwrap();
    let mut publisher = relay.connected(Role::Publisher).await;
    listener.heard.retain(|heard| heard.payload.len() == 5);
    converse(&mut publisher, &mut [&mut listener], 1000..1020);
    assert_affine(&listener.heard, listener.announced_ssrc());
    relay.stop().await;
}
