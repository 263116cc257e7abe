//! One WebRTC connection of the load tester: str0m does SDP, ICE and DTLS; what listeners hear passes it by.
//!
//! Sans-IO but for its sends: whoever owns the link reads its socket, and calls [`Link::handle_timeout`] when it is time.
//! All links share one certificate and one validated DTLS configuration, and give their SRTP keys out.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use str0m::change::SdpPendingOffer;
use str0m::media::{Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{ExtensionValues, RtpWrite};
use str0m::{Event, IceConnectionState, Input, Output, Rtc};

use super::inbox;
use crate::client::{PeerError, Role, line};
use crate::webrtc::keys::{Identity, Tap};
use crate::webrtc::srtp::KeyingMaterial;

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
        inbox::stamp(&socket).map_err(socket_error)?;
        let (mut rtc, tap) = identity.build(line::config(), now);
        let (mid, offer, pending) = line::offer(&mut rtc, local, role)?;
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
        let pending = self.pending.take().expect("an offer is answered once");
        self.payload_type = Some(line::answer(&mut self.rtc, self.mid, pending, sdp)?);
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
            self.rtc.handle_input(input).map_err(|error| PeerError::protocol(&error))?;
        }
        self.drain()
    }

    /// The time that was waited for has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), PeerError> {
        self.rtc.handle_input(Input::Timeout(now)).map_err(|error| PeerError::protocol(&error))?;
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
        self.tap.take_keys()?.keying_material()
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
            match self.rtc.poll_output().map_err(|error| PeerError::protocol(&error))? {
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
