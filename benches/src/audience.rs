//! A media plane with one publisher and many listeners on loopback sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_engine::{ExtensionIds, LegId, LegSpec, LegStats, Mid, Peer, TrackId, rtp};
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
    track: TrackId,
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
        let ear = || {
            let ear = UdpSocket::bind("127.0.0.1:0").expect("a socket per listener: see ulimit -n");
            ear.set_nonblocking(true).expect("a socket can be non-blocking");
            ear
        };
        Self::with_ears(listeners, profiles, (0..listeners).map(|_| ear()).collect())
    }

    /// `listeners` at a port that there is none of: the kernel takes one look at each packet and refuses it.
    #[must_use]
    pub fn nowhere(listeners: usize, profiles: &[SrtpProfile]) -> Self {
        Self::with_ears(listeners, profiles, Vec::new())
    }

    fn with_ears(listeners: usize, profiles: &[SrtpProfile], ears: Vec<UdpSocket>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let config = ShardConfig { seed: 1, ..ShardConfig::default() };
        let mut plane = Plane::new(socket, &config).expect("the socket is bound");
        let now = Instant::now();
        let track = plane.open_track(now, "en".to_owned()).expect("the first track");
        let publisher = plane.open_publisher(now, track, LegSpec::new(111)).expect("the first publisher");
        plane.publisher_up(now, publisher);
        let mut payload = vec![0x5a; 120];
        payload[0] = 0xf8;
        let mut audience = Audience {
            plane,
            ears,
            legs: Vec::with_capacity(listeners),
            now,
            profiles: profiles.to_vec(),
            track,
            publisher,
            sequence: 1000,
            payload: payload.into(),
        };
        for number in 0..listeners {
            let leg = audience.admit(number);
            audience.legs.push(leg);
        }
        audience
    }

    /// A listener comes; its leg.
    fn admit(&mut self, number: usize) -> LegId {
        let mid = Mid::new("0").expect("a short name");
        let extensions = ExtensionIds { audio_level: Some(1), capture_time: None, mid: Some((4, mid)) };
        let spec = LegSpec::new(111).extensions(extensions);
        let (_, leg) = self.plane.open_listener(self.now, self.track, spec).expect("the limits are far");
        let address = |ear: &UdpSocket| ear.local_addr().expect("the socket is bound");
        let destination = self.ears.get(number).map_or(NOWHERE, address);
        let keys = keys(self.profiles[number % self.profiles.len()], number as u64);
        self.plane.leg_up(self.now, leg, Egress::Srtp { destination, keys });
        leg
    }

    /// Listeners leave and come again, a few times each and never more than two at a time: as after hours of a live event.
    pub fn mingle(&mut self) {
        let many = self.legs.len();
        for step in 0..2 * many {
            let leaving = [step * 7_919 % many, (step * 104_729 + 1) % many];
            if leaving[0] == leaving[1] {
                continue;
            }
            for number in leaving {
                self.plane.close(self.now, Peer::Leg(self.legs[number]));
            }
            self.plane.drain();
            for number in leaving {
                self.legs[number] = self.admit(number);
            }
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

/// Port 0 is no address.
pub const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

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
