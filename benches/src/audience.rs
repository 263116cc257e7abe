//! A media plane with one publisher and many listeners on loopback sockets.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_engine::{ExtensionIds, LegId, LegSpec, LegStats, Mid, rtp};
use relayd::shard::{Egress, Plane, ShardConfig};
use relayd::webrtc::srtp::{KeyingMaterial, Role, SrtpProfile};

/// All protection profiles.
pub const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::AeadAes256Gcm, SrtpProfile::AeadAes128Gcm, SrtpProfile::Aes128CmSha1_80];

/// A plane, its publisher and its listeners' sockets.
#[derive(Debug)]
pub struct Audience {
    /// The plane that is measured.
    pub plane: Plane,
    /// One socket per listener, non-blocking.
    pub ears: Vec<UdpSocket>,
    /// Their legs.
    pub legs: Vec<LegId>,
    /// The time of the last packet.
    pub now: Instant,
    profiles: Vec<SrtpProfile>,
    publisher: LegId,
    sequence: u16,
    payload: Bytes,
}

impl Audience {
    /// `listeners` on sockets of their own, with profiles from `profiles` in turn; 120-byte Opus packets.
    ///
    /// # Panics
    /// When a socket cannot be had: each listener takes a file descriptor (`ulimit -n`).
    pub fn new(listeners: usize, profiles: &[SrtpProfile]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let config = ShardConfig { seed: 1, ..ShardConfig::default() };
        let mut plane = Plane::new(socket, &config).expect("the socket is bound");
        let now = Instant::now();
        let track = plane.open_track(now, "en".to_owned()).expect("the first track");
        let publisher = plane.open_publisher(now, track, LegSpec::new(111)).expect("the first publisher");
        plane.publisher_up(now, publisher);
        let mid = Mid::new("0").expect("a short name");
        let extensions = ExtensionIds { audio_level: Some(1), capture_time: None, mid: Some((4, mid)) };
        let (mut ears, mut legs) = (Vec::with_capacity(listeners), Vec::with_capacity(listeners));
        for number in 0..listeners {
            let ear = UdpSocket::bind("127.0.0.1:0").expect("a socket per listener: see ulimit -n");
            ear.set_nonblocking(true).expect("a socket can be non-blocking");
            let spec = LegSpec::new(111).extensions(extensions);
            let (_, leg) = plane.open_listener(now, track, spec).expect("the limits are far");
            let destination = ear.local_addr().expect("the socket is bound");
            let keys = keys(profiles[number % profiles.len()], number as u64);
            plane.leg_up(now, leg, Egress::Srtp { destination, keys });
            ears.push(ear);
            legs.push(leg);
        }
        let mut payload = vec![0x5a; 120];
        payload[0] = 0xf8;
        Audience {
            plane,
            ears,
            legs,
            now,
            profiles: profiles.to_vec(),
            publisher,
            sequence: 1000,
            payload: payload.into(),
        }
    }

    /// Hands the next packet to the engine; what it means for the listeners waits for [`Plane::drain`].
    pub fn publish(&mut self) {
        let header = rtp::Header {
            payload_type: 111,
            sequence: self.sequence,
            timestamp: u32::from(self.sequence).wrapping_mul(960),
            ssrc: 7,
            ..rtp::Header::default()
        };
        self.now += Duration::from_millis(20);
        self.sequence = self.sequence.wrapping_add(1);
        let packet = rtp::Packet { header, payload: self.payload.clone() };
        self.plane.handle_packet(self.now, self.publisher, packet);
    }

    /// The SSRC of a leg.
    ///
    /// # Panics
    /// When there is no such leg of a listener.
    #[must_use]
    pub fn ssrc(&self, leg: LegId) -> u32 {
        match self.plane.relay().leg_stats(leg) {
            Some(LegStats::Listener(stats)) => stats.ssrc,
            other => panic!("no listener's leg: {other:?}"),
        }
    }

    /// The keys of a listener, as its own end has them.
    #[must_use]
    pub fn far_keys(&self, number: usize) -> KeyingMaterial {
        material(self.profiles[number % self.profiles.len()], number as u64, Role::Client)
    }

    /// Empties the listeners' sockets; the sequence numbers of the last media packets that they got.
    pub fn latest(&self, sequences: &mut Vec<u16>) {
        sequences.resize(self.ears.len(), 0);
        let mut buffer = [0; 2048];
        for (ear, latest) in self.ears.iter().zip(sequences) {
            while let Ok(length) = ear.recv(&mut buffer) {
                if length > 12 && !rtp::is_rtcp(&buffer[..length]) {
                    *latest = u16::from_be_bytes([buffer[2], buffer[3]]);
                }
            }
        }
    }

    /// Empties the listeners' sockets; returns how many datagrams there were.
    pub fn empty(&self) -> usize {
        let mut buffer = [0; 2048];
        self.ears.iter().map(|ear| std::iter::from_fn(|| ear.recv(&mut buffer).ok()).count()).sum()
    }
}

/// Keys that no other number has.
///
/// # Panics
/// Never: the material has the profile's length.
pub fn keys(profile: SrtpProfile, number: u64) -> KeyingMaterial {
    material(profile, number, Role::Server)
}

fn material(profile: SrtpProfile, number: u64, role: Role) -> KeyingMaterial {
    let mut exported = vec![0x42; profile.exported_len()];
    exported[..8].copy_from_slice(&number.to_be_bytes());
    exported[profile.key_len()..profile.key_len() + 8].copy_from_slice(&number.to_be_bytes());
    KeyingMaterial::from_dtls(profile, &exported, role).expect("the length is the profile's")
}
