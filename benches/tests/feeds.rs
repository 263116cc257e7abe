//! A frame goes to listeners of other shards without an allocation for it. Alone in its process: it counts all threads.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_benches::allocations::{Counting, everywhere};
use relay_benches::audience::keys;
use relay_engine::{Config, LegId, LegSpec, rtp};
use relayd::shard::{Egress, ShardConfig, Shards, ShardsConfig};
use relayd::webrtc::srtp::SrtpProfile;

#[global_allocator]
static COUNTING: Counting = Counting;

const SHARDS: usize = 3;
const LISTENERS: usize = 12;
const WARM: u16 = 2_000;
const COUNTED: u16 = 2_000;

#[test]
fn what_is_fed_to_other_shards_is_not_allocated_for_each_frame() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
    // It speaks as fast as it is heard, and histories are full before frames count.
    let relay = Config::default().history_frames(200).max_packet_rate(1_000_000).max_bit_rate(u32::MAX);
    let shard = ShardConfig { relay, seed: 1, ..ShardConfig::default() };
    let config = ShardsConfig { count: SHARDS, spill: 0, ..shard.into() };
    let (shards, threads) = Shards::spawn(&[socket], &config).expect("the socket is bound");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (publisher, ears) = runtime.block_on(open(&shards));

    let payload = Bytes::from(vec![0x5a; 120]);
    let mut speak = |sequence: u16| {
        let header = rtp::Header {
            payload_type: 111,
            sequence,
            timestamp: u32::from(sequence) * 960,
            ssrc: 7,
            ..rtp::Header::default()
        };
        assert!(shards.packet(publisher, rtp::Packet { header, payload: payload.clone() }));
        // Nobody is ever behind, so that every frame takes the plain way.
        ears.iter().for_each(hear);
    };
    // Histories and queues grow to their sizes.
    (0..WARM).for_each(&mut speak);
    let before = everywhere();
    (WARM..WARM + COUNTED).for_each(&mut speak);
    let allocated = everywhere() - before;
    // A feed's payloads are cut off a chunk, which is used again or is the next one: 273 of them fit.
    let chunks = u64::from(COUNTED) / 250 * (SHARDS as u64 - 1);
    assert!(allocated <= chunks, "{allocated} for {COUNTED} frames");

    let stats = runtime.block_on(shards.stats()).expect("they are alive");
    assert_eq!(stats.queue.fed, u64::from(WARM + COUNTED) * (SHARDS as u64 - 1), "they are fed");
    shards.shutdown();
    threads.join().expect("no shard panics");
}

/// A publisher, and as many listeners on each shard.
async fn open(shards: &Shards) -> (LegId, Vec<UdpSocket>) {
    let track = shards.open_track("en").await.expect("the first track");
    let publisher = shards.open_publisher(track, LegSpec::new(111)).await.expect("the first publisher");
    assert!(shards.publisher_up(publisher));
    let mut ears = Vec::new();
    for number in 0..LISTENERS {
        let ear = UdpSocket::bind("127.0.0.1:0").expect("a socket per listener");
        ear.set_nonblocking(true).expect("a socket can be non-blocking");
        let spec = LegSpec::new(111).reports(false);
        let (listener, leg) = shards.open_listener(track, spec).await.expect("the limits are far");
        assert_eq!(usize::from(listener.relay()), number % SHARDS, "all shards have as many");
        let destination = ear.local_addr().expect("the socket is bound");
        let keys = keys(SrtpProfile::AeadAes256Gcm, number as u64);
        assert!(shards.leg_up(leg, Egress::Srtp { destination, keys }));
        ears.push(ear);
    }
    shards.ping().await.expect("all legs are up");
    (publisher, ears)
}

/// Waits for one datagram.
fn hear(ear: &UdpSocket) {
    let (mut buffer, until) = ([0; 2048], Instant::now() + Duration::from_secs(20));
    while ear.recv(&mut buffer).is_err() {
        assert!(Instant::now() < until, "a frame is missing");
        thread::yield_now();
    }
}
