//! A real `str0m` client on the other end, under each profile.
//!
//! Its DTLS handshake is real; the keys that come out of it are replaced on the way to its SRTP, in both peers, so
//! that every profile is met and not only the one that two `dimpl`s would agree on.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpOffer};
use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{self, DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion};
use str0m::media::{Direction, MediaKind};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpPacket;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use relay_engine::NtpTime;
use relay_engine::rtp::rtcp::{Compound, Packet, SenderReport};

use super::*;

/// Twelve seconds of speech: `str0m` reports every five.
const PACKETS: u16 = 600;

/// Hands out DTLS instances whose keys are `material` for `profile`.
#[derive(Debug)]
struct Provider {
    profile: dtls::SrtpProfile,
    material: Vec<u8>,
}

impl DtlsProvider for Provider {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        str0m::crypto::from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let provider = str0m::crypto::from_feature_flags().dtls_provider;
        let inner = provider.new_dtls(certificate, now, version, mtu)?;
        Ok(Box::new(Swapped { inner, profile: self.profile, material: self.material.clone() }))
    }
}

struct Swapped {
    inner: Box<dyn DtlsInstance>,
    profile: dtls::SrtpProfile,
    material: Vec<u8>,
}

impl fmt::Debug for Swapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Swapped")
    }
}

impl DtlsInstance for Swapped {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        match self.inner.poll_output(buffer) {
            DtlsOutput::KeyingMaterial(..) => {
                DtlsOutput::KeyingMaterial(dtls::KeyingMaterial::new(&self.material), self.profile)
            }
            other => other,
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}

/// One end of a connection between two `str0m`s.
struct End {
    rtc: Rtc,
    address: SocketAddr,
    sent: Vec<Vec<u8>>,
    packets: Vec<RtpPacket>,
    connected: bool,
}

impl End {
    fn new(provider: &Arc<CryptoProvider>, now: Instant, address: &str, lite: bool) -> Self {
        let mut rtc = RtcConfig::new()
            .set_crypto_provider(provider.clone())
            .set_dtls_version(DtlsVersion::Dtls12)
            .clear_codecs()
            .enable_opus(true, false)
            .set_rtp_mode(true)
            .set_ice_lite(lite)
            .build(now);
        let address: SocketAddr = address.parse().unwrap();
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        End { rtc, address, sent: Vec::new(), packets: Vec::new(), connected: false }
    }

    fn receive(&mut self, now: Instant, source: SocketAddr, datagram: &[u8]) {
        let contents = datagram.try_into().unwrap();
        let receive = Receive { proto: Protocol::Udp, source, destination: self.address, contents };
        self.rtc.handle_input(Input::Receive(now, receive)).unwrap();
        self.pump();
    }

    fn time(&mut self, now: Instant) {
        self.rtc.handle_input(Input::Timeout(now)).unwrap();
        self.pump();
    }

    fn pump(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(_) => return,
                Output::Transmit(transmit) => self.sent.push(transmit.contents.to_vec()),
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::RtpPacket(packet)) => self.packets.push(packet),
                Output::Event(_) => {}
            }
        }
    }
}

/// A client that listens, connected, and the header that its server would send with: payload type and SSRC.
fn connected(profile: dtls::SrtpProfile, material: &[u8]) -> (End, SocketAddr, Instant, [u8; 12]) {
    let provider: &'static Provider = Box::leak(Box::new(Provider { profile, material: material.to_vec() }));
    let crypto = Arc::new(CryptoProvider { dtls_provider: provider, ..str0m::crypto::from_feature_flags() });
    let mut now = Instant::now();
    let mut server = End::new(&crypto, now, "192.0.2.1:1000", true);
    let mut client = End::new(&crypto, now, "192.0.2.2:2000", false);
    let mut change = client.rtc.sdp_api();
    let mid = change.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
    let (offer, pending) = change.apply().unwrap();
    let offer = SdpOffer::from_sdp_string(&offer.to_sdp_string()).unwrap();
    let answer = server.rtc.sdp_api().accept_offer(offer).unwrap().to_sdp_string();
    let answer = SdpAnswer::from_sdp_string(&answer).unwrap();
    client.rtc.sdp_api().accept_answer(pending, answer).unwrap();
    for _ in 0..200 {
        now += Duration::from_millis(10);
        server.time(now);
        client.time(now);
        for _ in 0..10 {
            for datagram in std::mem::take(&mut client.sent) {
                server.receive(now, client.address, &datagram);
            }
            for datagram in std::mem::take(&mut server.sent) {
                client.receive(now, server.address, &datagram);
            }
        }
        if server.connected && client.connected {
            break;
        }
    }
    assert!(server.connected && client.connected);
    let payload_type = *server.rtc.media(mid).unwrap().remote_pts()[0];
    let ssrc = *server.rtc.direct_api().stream_tx_by_mid(mid, None).unwrap().ssrc();
    let mut head = header(ssrc, 0);
    head[1] = payload_type;
    (client, server.address, now, head)
}

fn agrees_with_str0m(profile: SrtpProfile, theirs: dtls::SrtpProfile) {
    let material: Vec<u8> = (0..profile.exported_len()).map(|i| (i * 11 + 5) as u8).collect();
    let keys = KeyingMaterial::from_dtls(profile, &material, Role::Server).unwrap();
    let (mut client, server, mut now, mut head) = connected(theirs, &material);
    let ssrc = u32::from_be_bytes(head[8..].try_into().unwrap());
    let (mut sender, mut reporter) = (keys.srtp_sender(ssrc), keys.srtcp_sender());
    let mut out = [0; 256];

    let report =
        SenderReport { ssrc, ntp: NtpTime(0xee00_0000_0000_0000), packet_count: 41, ..Default::default() };
    let mut plain = [0; 64];
    let length = report.write(&[], &mut plain).unwrap();
    let length = reporter.seal(&plain[..length], &mut out).unwrap();
    client.receive(now, server, &out[..length]);

    for number in 0..PACKETS {
        // Starts below 2^15, as a listener's leg does.
        let sequence = 32_700 + number;
        head[2..4].copy_from_slice(&sequence.to_be_bytes());
        head[4..8].copy_from_slice(&(u32::from(number) * 960).to_be_bytes());
        let payload = [0xf8, number as u8, 3, 4];
        let length = sender.seal(sequence.into(), &head, &payload, &mut out).unwrap();
        now += Duration::from_millis(20);
        client.receive(now, server, &out[..length]);
        client.time(now);
    }
    assert_eq!(client.packets.len(), usize::from(PACKETS), "{profile:?}: str0m decrypts every packet");
    for (number, packet) in client.packets.iter().enumerate() {
        assert_eq!(packet.payload[..], [0xf8, number as u8, 3, 4]);
    }
    let info = client.packets[0].last_sender_info.expect("str0m has read our sender report");
    assert_eq!(info.sender_packet_count, 41);

    let mut receiver = keys.srtcp_receiver();
    let mut reports = 0;
    for datagram in client.sent.iter().filter(|datagram| relay_engine::rtp::is_rtcp(datagram)) {
        let mut plain = [0; 1500];
        let length = receiver.open(datagram, &mut plain).expect("we decrypt every report of str0m");
        // str0m says what it received in a sender report of a stream that it never sends.
        let blocks = Compound::parse(&plain[..length]).filter_map(|packet| match packet.unwrap() {
            Packet::SenderReport(_, blocks) => Some(blocks.filter(|block| block.ssrc == ssrc).count()),
            _ => None,
        });
        reports += blocks.sum::<usize>();
    }
    assert!(reports > 0, "{profile:?}: str0m reports on what it heard");
}

#[test]
fn a_str0m_client_decrypts_ours_and_we_its_under_aes_256_gcm() {
    agrees_with_str0m(SrtpProfile::AeadAes256Gcm, dtls::SrtpProfile::AEAD_AES_256_GCM);
}

#[test]
fn a_str0m_client_decrypts_ours_and_we_its_under_aes_128_gcm() {
    agrees_with_str0m(SrtpProfile::AeadAes128Gcm, dtls::SrtpProfile::AEAD_AES_128_GCM);
}

#[test]
fn a_str0m_client_decrypts_ours_and_we_its_under_aes_128_cm_sha1_80() {
    agrees_with_str0m(SrtpProfile::Aes128CmSha1_80, dtls::SrtpProfile::AES128_CM_SHA1_80);
}
