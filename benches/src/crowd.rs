//! The engine alone, with one publisher and many listeners: no keys, no sockets.

use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use relay_engine::{
    AudioLevel, Config, Epoch, ExtensionIds, LegId, LegSpec, LegState, ListenerId, Mid, OutboundPacket,
    Output, Relay, TrackSpec, Verdict, rtp,
};

/// A relay, its publisher, and a virtual clock that moves 20 ms with each packet.
#[derive(Debug)]
pub struct Crowd {
    /// The relay that is measured.
    pub relay: Relay,
    /// The listeners and their legs, all up.
    pub listeners: Vec<(ListenerId, LegId)>,
    /// The time of the last packet.
    pub now: Instant,
    publisher: LegId,
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
        let mut crowd = Self {
            relay,
            listeners: Vec::new(),
            now,
            publisher,
            sequence: 65_000,
            timestamp: u32::MAX - 5_000,
            datagram: datagram(),
        };
        for _ in 0..listeners {
            let opened = crowd.relay.open_listener(now, track, Self::spec(ids)).expect("the limits are far");
            crowd.relay.handle_leg(now, opened.1, LegState::Up);
            crowd.listeners.push(opened);
        }
        for _ in 0..300 {
            crowd.publish();
            crowd.drain(|_| {});
        }
        crowd
    }

    fn spec(ids: ExtensionIds) -> LegSpec {
        LegSpec::new(111).extensions(ids)
    }

    /// A new leg of each listener, up and ordered to be switched to.
    ///
    /// # Panics
    /// When a listener has two.
    pub fn switch_all(&mut self) {
        let ids = ExtensionIds { audio_level: Some(1), ..ExtensionIds::default() };
        for (listener, leg) in &mut self.listeners {
            *leg = self.relay.add_leg(self.now, *listener, Self::spec(ids)).expect("it has one leg");
            self.relay.handle_leg(self.now, *leg, LegState::Up);
            self.relay.switch(self.now, *leg).expect("it is up");
        }
    }

    /// Lets so much time pass without a packet and serves what is due.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.relay.handle_timeout(self.now);
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

    /// All that comes out, packets by [`Relay::fan_out`] where that hands them out; returns how many there were.
    pub fn fan_out(&mut self, mut each: impl FnMut(&OutboundPacket<'_>) -> ControlFlow<()>) -> usize {
        let mut packets = 0;
        loop {
            self.relay.fan_out(|packet| {
                packets += 1;
                each(packet)
            });
            match self.relay.poll_output() {
                Some(Output::Packet(packet)) => {
                    packets += 1;
                    // Whoever stops is asked again with what is next.
                    let _stopped = each(&packet).is_break();
                }
                Some(_) => {}
                None => return packets,
            }
        }
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
