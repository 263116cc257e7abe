//! The media plane over loopback sockets: what listeners decrypt is what the publisher sent.
//!
//! Most tests drive a [`Plane`] with times of their own; those of the thread and its queues use a [`Shard`].

mod events;
mod faults;
mod feedback;
mod media;
mod queues;
mod ring;
mod shards;
mod switch;
mod threaded;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_engine::{ExtensionIds, LegId, LegSpec, ListenerId, Mid, TrackId, rtp};

use super::*;
use crate::webrtc::srtp::test_support::SrtpOpener;
use crate::webrtc::srtp::{Role, SrtcpReceiver, SrtcpSender, SrtpProfile};

const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::AeadAes256Gcm, SrtpProfile::AeadAes128Gcm, SrtpProfile::Aes128CmSha1_80];

const PUBLISHER_TYPE: u8 = 111;
const LISTENER_TYPE: u8 = 96;

/// A listener's end: a socket and the keys of the DTLS client.
struct Ear {
    socket: UdpSocket,
    ours: KeyingMaterial,
    opener: SrtpOpener,
    reports_in: SrtcpReceiver,
    reports_out: SrtcpSender,
}

/// One RTP packet that a listener decrypted.
#[derive(Debug, PartialEq)]
struct Heard {
    header: rtp::Header,
    payload: Vec<u8>,
}

impl Ear {
    fn new(address: &str, profile: SrtpProfile, seed: u8) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let exported: Vec<u8> =
            (0..profile.exported_len()).map(|i| (i as u8).wrapping_mul(13).wrapping_add(seed)).collect();
        let ours = KeyingMaterial::from_dtls(profile, &exported, Role::Server).unwrap();
        let theirs = KeyingMaterial::from_dtls(profile, &exported, Role::Client).unwrap();
        Ear {
            socket,
            ours,
            opener: SrtpOpener::new(&theirs),
            reports_in: theirs.srtcp_receiver(),
            reports_out: theirs.srtcp_sender(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn egress(&self) -> Egress {
        Egress::Srtp { destination: self.address(), keys: self.ours.clone() }
    }

    fn datagram(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).expect("a datagram within the deadline");
        buffer[..length].to_vec()
    }

    /// The next packet, decrypted under this rollover counter.
    fn hear_at(&self, rollover: u32) -> Heard {
        let datagram = self.datagram();
        let sealed = rtp::Packet::parse(Bytes::from(datagram.clone())).unwrap();
        let header_len = datagram.len() - sealed.payload.len();
        let payload = self.opener.open(rollover, header_len, &datagram).expect("the packet is authentic");
        Heard { header: sealed.header, payload }
    }

    fn hear(&self) -> Heard {
        self.hear_at(0)
    }

    /// Loopback delivers within the sender's call, so what is not there is not coming.
    fn hears_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let nothing = self.socket.recv(&mut [0; 2048]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        nothing
    }

    fn srtcp(&mut self, compound: &[u8]) -> Bytes {
        let mut out = vec![0; compound.len() + 20];
        let length = self.reports_out.seal(compound, &mut out).unwrap();
        out.truncate(length);
        Bytes::from(out)
    }
}

/// A plane with one track, fed by one publisher.
struct Stage {
    plane: Plane,
    now: Instant,
    track: TrackId,
    publisher: LegId,
    sequence: u16,
}

impl Stage {
    fn new(address: &str) -> Self {
        Stage::with(address, ShardConfig { seed: 7, ..ShardConfig::patient() })
    }

    fn with(address: &str, config: ShardConfig) -> Self {
        let mut plane = Plane::new(UdpSocket::bind(address).unwrap(), &config).unwrap();
        let now = Instant::now();
        let track = plane.open_track(now, "en".to_owned()).unwrap();
        let spec = LegSpec::new(PUBLISHER_TYPE).extensions(extensions(1, 2, 3));
        let publisher = plane.open_publisher(now, track, spec).unwrap();
        plane.publisher_up(now, publisher);
        Stage { plane, now, track, publisher, sequence: 100 }
    }

    /// A listener whose leg is up.
    fn join(&mut self, ear: &Ear) -> (ListenerId, LegId) {
        self.join_as(ear, LegSpec::new(LISTENER_TYPE).extensions(extensions(4, 5, 6)))
    }

    fn join_as(&mut self, ear: &Ear, spec: LegSpec) -> (ListenerId, LegId) {
        let (listener, leg) = self.plane.open_listener(self.now, self.track, spec).unwrap();
        self.plane.leg_up(self.now, leg, ear.egress());
        (listener, leg)
    }

    /// Publishes the next frame and sends it to everybody.
    fn speak(&mut self, payload: &[u8]) {
        let packet = spoken(self.sequence, payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.now += Duration::from_millis(20);
        self.plane.handle_packet(self.now, self.publisher, packet);
        self.plane.drain();
    }
}

fn extensions(audio_level: u8, capture_time: u8, mid: u8) -> ExtensionIds {
    ExtensionIds {
        audio_level: Some(audio_level),
        capture_time: Some(capture_time),
        mid: Some((mid, Mid::new("a0").unwrap())),
    }
}

/// A 20 ms packet of a publisher, without extensions.
fn spoken(sequence: u16, payload: &[u8]) -> rtp::Packet {
    let header = rtp::Header {
        payload_type: PUBLISHER_TYPE,
        sequence,
        timestamp: u32::from(sequence) * 960,
        ssrc: 0x1234_5678,
        ..rtp::Header::default()
    };
    rtp::Packet { header, payload: Bytes::copy_from_slice(payload) }
}

/// An Opus packet: one 20 ms CELT frame (RFC 6716 §3.1) of this many bytes in all.
fn opus(length: usize, fill: u8) -> Vec<u8> {
    let mut payload = vec![fill; length];
    payload[0] = 0xf8;
    payload
}

fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}
