//! One WebRTC connection of the load tester: str0m does SDP, ICE and DTLS; what listeners hear passes it by.
//!
//! Sans-IO but for its sends: whoever owns the link reads its socket, and calls [`Link::handle_timeout`] when it is time.
//! All links share one certificate and one validated DTLS configuration, and give their SRTP keys out.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::crypto::dtls::SrtpProfile as DtlsProfile;
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, ExtensionValues, RtpWrite};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig};

use crate::client::{PeerError, Role};
use crate::webrtc::keys::{Identity, Tap};
use crate::webrtc::srtp::{self, KeyingMaterial, SrtpProfile};

/// A server that no longer answers is given up after about ten seconds.
const STUN_RTO: Duration = Duration::from_millis(1_500);
const STUN_RETRANSMITS: usize = 6;

/// A connection that was offered, then answered.
pub(crate) struct Link {
    rtc: Rtc,
    tap: Arc<Tap>,
    pub(crate) socket: UdpSocket,
    local: SocketAddr,
    /// Where the last datagram went: the far end, as far as it is known.
    far_end: Option<SocketAddr>,
    mid: Mid,
    payload_type: Option<Pt>,
    pending: Option<SdpPendingOffer>,
    connected: bool,
    ended: Option<PeerError>,
    /// When [`Link::handle_timeout`] is wanted.
    pub(crate) wake_at: Instant,
}

impl Link {
    /// Makes the offer: one audio line, Opus only.
    pub(crate) fn offer(
        identity: &Identity,
        now: Instant,
        socket: UdpSocket,
        role: Role,
    ) -> Result<(Self, String), PeerError> {
        let socket_error = |error: io::Error| PeerError::Socket(error.kind());
        let local = socket.local_addr().map_err(socket_error)?;
        socket.set_nonblocking(true).map_err(socket_error)?;
        let mut config = RtcConfig::new()
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .clear_extension_map()
            .set_extension(1, Extension::AudioLevel)
            .set_extension(3, Extension::RtpMid);
        config.set_max_stun_rto(STUN_RTO);
        config.set_max_stun_retransmits(STUN_RETRANSMITS);
        let (mut rtc, tap) = identity.build(config, now);
        rtc.add_local_candidate(Candidate::host(local, "udp").map_err(|error| protocol(&error))?);
        let direction = match role {
            Role::Publisher => Direction::SendOnly,
            Role::Listener => Direction::RecvOnly,
        };
        let mut change = rtc.sdp_api();
        let mid = change.add_media(MediaKind::Audio, direction, None, None, None);
        let (offer, pending) = change.apply().expect("an added line is a change");
        let mut link = Self {
            rtc,
            tap,
            socket,
            local,
            far_end: None,
            mid,
            payload_type: None,
            pending: Some(pending),
            connected: false,
            ended: None,
            wake_at: now,
        };
        link.drain()?;
        Ok((link, offer.to_sdp_string()))
    }

    /// Takes the server's answer.
    pub(crate) fn answer(&mut self, sdp: &str) -> Result<(), PeerError> {
        let unusable = |error: String| PeerError::Answer(error);
        let answer = SdpAnswer::from_sdp_string(sdp).map_err(|error| unusable(error.to_string()))?;
        let pending = self.pending.take().expect("an offer is answered once");
        let accepted = self.rtc.sdp_api().accept_answer(pending, answer);
        accepted.map_err(|error| unusable(error.to_string()))?;
        let accepted = self.rtc.media(self.mid).map(|media| media.remote_pts().to_vec());
        let opus = |pt: &Pt| {
            let mut known = self.rtc.codec_config().iter();
            known.any(|params| params.pt() == *pt && params.spec().codec == Codec::Opus)
        };
        self.payload_type = accepted.unwrap_or_default().into_iter().find(opus);
        if self.payload_type.is_none() {
            return Err(unusable("the audio line was rejected, or has no Opus".to_owned()));
        }
        self.drain()
    }

    /// Takes a datagram that is no media of a listener's.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        source: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), PeerError> {
        let Ok(contents) = datagram.try_into() else {
            return Ok(()); // Neither STUN, DTLS nor RTP.
        };
        let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
        let input = Input::Receive(now, receive);
        if self.rtc.accepts(&input) {
            self.rtc.handle_input(input).map_err(|error| protocol(&error))?;
        }
        self.drain()
    }

    /// The time that was waited for has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), PeerError> {
        self.rtc.handle_input(Input::Timeout(now)).map_err(|error| protocol(&error))?;
        self.drain()
    }

    /// Sends a packet of a publisher's.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        sequence: u64,
        timestamp: u32,
        payload: &[u8],
    ) -> Result<(), PeerError> {
        let payload_type = self.payload_type.ok_or(PeerError::Closed)?;
        let extensions = ExtensionValues { mid: Some(self.mid), ..Default::default() };
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_tx_by_mid(self.mid, None).ok_or(PeerError::Closed)?;
        stream.write_rtp(
            RtpWrite::new(payload_type, sequence.into(), timestamp, now, payload)
                .marker(sequence == 0)
                .ext_vals(extensions),
        );
        self.drain()?;
        self.handle_timeout(now)
    }

    /// ICE and DTLS are done.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// The SRTP keys, once connected; the second call finds none.
    pub(crate) fn take_keys(&self) -> Option<KeyingMaterial> {
        let keys = self.tap.take_keys()?;
        let profile = match keys.profile {
            DtlsProfile::AEAD_AES_256_GCM => SrtpProfile::AeadAes256Gcm,
            DtlsProfile::AEAD_AES_128_GCM => SrtpProfile::AeadAes128Gcm,
            DtlsProfile::AES128_CM_SHA1_80 => SrtpProfile::Aes128CmSha1_80,
            _ => return None,
        };
        let role = if keys.active { srtp::Role::Client } else { srtp::Role::Server };
        KeyingMaterial::from_dtls(profile, &keys.material, role).ok()
    }

    /// Sends what is ready to be sent, sealed and all.
    pub(crate) fn send_raw(&self, datagram: &[u8]) {
        if let Some(far_end) = self.far_end {
            // A full socket buffer is loss, as on the way.
            drop(self.socket.send_to(datagram, far_end));
        }
    }

    fn drain(&mut self) -> Result<(), PeerError> {
        loop {
            match self.rtc.poll_output().map_err(|error| protocol(&error))? {
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return self.ended.clone().map_or(Ok(()), Err);
                }
                Output::Transmit(transmit) => {
                    self.far_end = Some(transmit.destination);
                    drop(self.socket.send_to(&transmit.contents, transmit.destination));
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::IceConnectionStateChange(IceConnectionState::Disconnected)) => {
                    let lost = if self.connected { PeerError::Lost } else { PeerError::ConnectTimeout };
                    self.ended.get_or_insert(lost);
                }
                Output::Event(Event::Closed) => {
                    self.ended.get_or_insert(PeerError::Closed);
                }
                Output::Event(_) => {}
            }
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("local", &self.local).finish_non_exhaustive()
    }
}

fn protocol(error: &dyn std::error::Error) -> PeerError {
    PeerError::Protocol(error.to_string())
}
