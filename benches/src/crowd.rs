//! The engine alone, with one publisher and many listeners: no keys, no sockets.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use relay_engine::{
    AudioLevel, Config, Epoch, ExtensionIds, LegId, LegSpec, LegState, Mid, Output, Relay, TrackSpec,
    Verdict, rtp,
};

/// A relay, its publisher, and a virtual clock that moves 20 ms with each packet.
#[derive(Debug)]
pub struct Crowd {
    /// The relay that is measured.
    pub relay: Relay,
    publisher: LegId,
    now: Instant,
    sequence: u16,
    timestamp: u32,
    datagram: Bytes,
}

/// Payload of each packet, bytes: 20 ms at 48 kb/s.
pub const PAYLOAD_BYTES: usize = 120;

impl Crowd {
    /// `listeners` on one track, all up, with audio level and mid; a full history of 200 frames.
    ///
    /// # Panics
    /// Never: the limits are far.
    pub fn new(listeners: usize) -> Self {
        let now = Instant::now();
        let epoch = Epoch { instant: now, wall: SystemTime::now() };
        let mut relay = Relay::new(Config::new().history_frames(200), epoch, 1);
        let track = relay.open_track(now, TrackSpec { name: "en".to_owned() }).expect("the first track");
        let ids = ExtensionIds { audio_level: Some(1), ..ExtensionIds::default() };
        let publisher = relay
            .open_publisher_leg(now, track, LegSpec::new(111).extensions(ids))
            .expect("the first publisher");
        let mid = Mid::new("0").expect("a short name");
        let ids = ExtensionIds { audio_level: Some(1), capture_time: None, mid: Some((4, mid)) };
        for _ in 0..listeners {
            let (_, leg) = relay
                .open_listener(now, track, LegSpec::new(111).extensions(ids))
                .expect("the limits are far");
            relay.handle_leg(now, leg, LegState::Up);
        }
        let mut crowd = Self {
            relay,
            publisher,
            now,
            sequence: 65_000,
            timestamp: u32::MAX - 5_000,
            datagram: datagram(),
        };
        for _ in 0..300 {
            crowd.publish();
            crowd.drain(|_| {});
        }
        crowd
    }

    /// The next packet, into the timeline and the history.
    ///
    /// # Panics
    /// When the relay does not take it.
    pub fn publish(&mut self) {
        self.now += Duration::from_millis(20);
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(960);
        let mut packet =
            rtp::Packet::parse(self.datagram.clone()).expect("it was written by the same module");
        packet.header.sequence = self.sequence;
        packet.header.timestamp = self.timestamp;
        let verdict = self.relay.handle_packet(self.now, self.publisher, packet);
        assert_eq!(verdict, Verdict::Accepted);
    }

    /// All that comes out; returns how many packets there were.
    pub fn drain(&mut self, mut each: impl FnMut(&Output<'_>)) -> usize {
        let mut packets = 0;
        while let Some(output) = self.relay.poll_output() {
            packets += usize::from(matches!(output, Output::Packet(_)));
            each(&output);
        }
        packets
    }
}

/// An RTP packet with an audio level and [`PAYLOAD_BYTES`] of payload.
///
/// # Panics
/// Never: it fits.
#[must_use]
pub fn datagram() -> Bytes {
    let mut payload = [0x5a; PAYLOAD_BYTES];
    payload[0] = 0xf8;
    let level = AudioLevel { voice: true, level: 30 };
    let extensions = rtp::Values { audio_level: Some((1, level)), ..rtp::Values::default() };
    let emit =
        rtp::Emit { payload_type: 111, sequence: 1, timestamp: 960, ssrc: 7, marker: false, extensions };
    let mut datagram = vec![0; 1_500];
    let length = emit.write(&payload, &mut datagram).expect("it fits");
    Bytes::copy_from_slice(&datagram[..length])
}
