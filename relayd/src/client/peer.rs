//! One WebRTC connection of a client: str0m with full ICE in RTP mode, and the UDP socket under it.
//!
//! Packets go in and come out as they are on the wire; sequence numbers and timestamps are the caller's. The peer keeps
//! str0m's one rule, a complete drain after every mutation, and turns its events into three of its own.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::config::DtlsVersion;
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{AbsCaptureTime, Extension, ExtensionValues, RtpPacket, RtpWrite, Ssrc};
use str0m::stats::MediaEgressStats;
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc};
use thiserror::Error;
use tokio::net::UdpSocket;

use super::address::Role;
use super::pace::Stamp;

/// From the answer to media: ICE and DTLS take a few round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A server that no longer answers is given up after about ten seconds: an outage that a person sits out is survived, and
/// a script does not wait the half minute that RFC 7675 allows.
const STUN_RTO: Duration = Duration::from_millis(1500);
const STUN_RETRANSMITS: usize = 6;
/// Larger than any datagram that fits an Ethernet frame.
const DATAGRAM_BYTES: usize = 2048;

/// A connection that was offered, then answered.
pub(super) struct Peer {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    mid: Mid,
    pending: Option<SdpPendingOffer>,
    /// When the connection has to be up; `None` once it is.
    connect_by: Option<Instant>,
    wake_at: Instant,
    events: VecDeque<PeerEvent>,
    /// Why the connection is over; told after the events that came before.
    ended: Option<PeerError>,
    buffer: Box<[u8; DATAGRAM_BYTES]>,
}

/// What happened on the connection.
#[derive(Debug)]
pub(super) enum PeerEvent {
    /// ICE and DTLS are done: packets may be sent.
    Connected,
    /// A packet came.
    Packet(Box<RtpPacket>),
    /// The far end reports how our packets arrive.
    Report(Box<MediaEgressStats>),
}

/// A packet to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Extended sequence number; the first one of a connection is below 2^16.
    pub(super) sequence: u64,
    pub(super) stamp: Stamp,
    pub(super) payload: Bytes,
}

impl Peer {
    /// Makes the offer: one audio line, Opus only, with the extensions that we use. Must run inside a tokio runtime.
    pub(super) fn offer(socket: StdUdpSocket, role: Role) -> Result<(Self, String), PeerError> {
        let now = Instant::now();
        let local = socket.local_addr().map_err(|error| PeerError::Socket(error.kind()))?;
        socket.set_nonblocking(true).map_err(|error| PeerError::Socket(error.kind()))?;
        let socket = UdpSocket::from_std(socket).map_err(|error| PeerError::Socket(error.kind()))?;
        let mut config = Rtc::builder()
            .set_rtp_mode(true)
            .set_dtls_version(DtlsVersion::Dtls12)
            .clear_codecs()
            .enable_opus(true, false)
            .clear_extension_map()
            .set_extension(1, Extension::AudioLevel)
            .set_extension(2, Extension::AbsoluteCaptureTime)
            .set_extension(3, Extension::RtpMid)
            .set_stats_interval((role == Role::Publisher).then_some(Duration::from_secs(1)));
        config.set_max_stun_rto(STUN_RTO);
        config.set_max_stun_retransmits(STUN_RETRANSMITS);
        let mut rtc = config.build(now);
        rtc.add_local_candidate(Candidate::host(local, "udp").map_err(|error| rtc_error(&error))?);
        let direction = match role {
            Role::Publisher => Direction::SendOnly,
            Role::Listener => Direction::RecvOnly,
        };
        let mut change = rtc.sdp_api();
        let mid = change.add_media(MediaKind::Audio, direction, None, None, None);
        let (offer, pending) = change.apply().expect("an added line is a change");
        let mut peer = Self {
            rtc,
            socket,
            local,
            mid,
            pending: Some(pending),
            connect_by: None,
            wake_at: now,
            events: VecDeque::new(),
            ended: None,
            buffer: Box::new([0; DATAGRAM_BYTES]),
        };
        peer.drain()?;
        Ok((peer, offer.to_sdp_string()))
    }

    /// Takes the server's answer; the connection comes up from here.
    pub(super) fn answer(&mut self, sdp: &str) -> Result<(), PeerError> {
        let answer = SdpAnswer::from_sdp_string(sdp).map_err(|error| PeerError::Answer(error.to_string()))?;
        let pending = self.pending.take().expect("an offer is answered once");
        let accepted = self.rtc.sdp_api().accept_answer(pending, answer);
        accepted.map_err(|error| PeerError::Answer(error.to_string()))?;
        if self.payload_type().is_none() {
            return Err(PeerError::Answer("the audio line was rejected, or has no Opus".to_owned()));
        }
        self.connect_by = Some(Instant::now() + CONNECT_TIMEOUT);
        self.drain()
    }

    /// The next event, `None` at `until`. Cancelling it loses nothing.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Option<PeerEvent>, PeerError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if let Some(error) = self.ended.clone() {
                return Err(error);
            }
            let now = Instant::now();
            if self.connect_by.is_some_and(|by| now >= by) {
                return Err(PeerError::ConnectTimeout);
            }
            if now >= until {
                return Ok(None);
            }
            let wake = until.min(self.wake_at).min(self.connect_by.unwrap_or(until));
            tokio::select! {
                // Datagrams first: a late timer must not starve them.
                biased;
                received = self.socket.recv_from(&mut self.buffer[..]) => match received {
                    Ok((length, source)) => self.receive(length, source)?,
                    // An ICMP error for an earlier datagram says nothing that ICE does not find out.
                    Err(_) => tokio::task::yield_now().await,
                },
                () = tokio::time::sleep_until(wake.into()) => self.tick()?,
            }
        }
    }

    /// Sends a packet now.
    pub(super) fn send(&mut self, packet: Outgoing) -> Result<(), PeerError> {
        let Outgoing { sequence, stamp, payload } = packet;
        let payload_type = self.payload_type().expect("checked in the answer");
        let mid = self.mid;
        let capture = AbsCaptureTime { capture_time: stamp.captured, clock_offset: None };
        let extensions =
            ExtensionValues { abs_capture_time: Some(capture), mid: Some(mid), ..Default::default() };
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_tx_by_mid(mid, None).ok_or(PeerError::Closed)?;
        stream.write_rtp(
            RtpWrite::new(payload_type, sequence.into(), stamp.timestamp, Instant::now(), &payload[..])
                .marker(stamp.marker)
                .ext_vals(extensions),
        );
        self.drain()?;
        self.tick()
    }

    /// Says goodbye to the far end (RTCP BYE, DTLS close_notify).
    pub(super) fn close(&mut self) {
        // The far end is told on a best-effort basis; the DELETE that follows is what counts.
        if self.rtc.close().is_ok() {
            drop(self.drain().and_then(|()| self.tick()));
        }
    }

    /// The SSRC that packets are sent with.
    pub(super) fn ssrc(&mut self) -> Option<Ssrc> {
        let mid = self.mid;
        self.rtc.direct_api().stream_tx_by_mid(mid, None).map(|stream| stream.ssrc())
    }

    fn payload_type(&self) -> Option<Pt> {
        let accepted = self.rtc.media(self.mid)?.remote_pts();
        let opus = |pt: &&Pt| {
            self.rtc
                .codec_config()
                .iter()
                .any(|params| params.pt() == **pt && params.spec().codec == Codec::Opus)
        };
        accepted.iter().find(opus).copied()
    }

    fn receive(&mut self, length: usize, source: SocketAddr) -> Result<(), PeerError> {
        let Ok(contents) = self.buffer[..length].try_into() else {
            return Ok(()); // Neither STUN, DTLS nor RTP.
        };
        let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
        let input = Input::Receive(Instant::now(), receive);
        if self.rtc.accepts(&input) {
            self.rtc.handle_input(input).map_err(|error| rtc_error(&error))?;
            self.drain()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), PeerError> {
        self.rtc.handle_input(Input::Timeout(Instant::now())).map_err(|error| rtc_error(&error))?;
        self.drain()
    }

    fn drain(&mut self) -> Result<(), PeerError> {
        loop {
            match self.rtc.poll_output().map_err(|error| rtc_error(&error))? {
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => {
                    // A full socket buffer is loss, and loss is what the protocols above expect.
                    drop(self.socket.try_send_to(&transmit.contents, transmit.destination));
                }
                Output::Event(event) => self.handle_event(event),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.connect_by = None;
                self.events.push_back(PeerEvent::Connected);
            }
            Event::RtpPacket(packet) => self.events.push_back(PeerEvent::Packet(Box::new(packet))),
            Event::MediaEgressStats(stats) => self.events.push_back(PeerEvent::Report(Box::new(stats))),
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                let never = self.connect_by.is_some();
                self.ended = Some(if never { PeerError::ConnectTimeout } else { PeerError::Lost });
            }
            Event::Closed => self.ended = Some(PeerError::Closed),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("local", &self.local).field("mid", &self.mid).finish_non_exhaustive()
    }
}

fn rtc_error(error: &dyn std::error::Error) -> PeerError {
    PeerError::Protocol(error.to_string())
}

/// Why a media connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No socket.
    #[error("cannot open a UDP socket: {0}")]
    Socket(std::io::ErrorKind),
    /// The answer is not one to our offer.
    #[error("the server's answer cannot be used: {0}")]
    Answer(String),
    /// ICE or DTLS did not get through.
    #[error("the server answered, but no media connection came up: is UDP to it blocked?")]
    ConnectTimeout,
    /// The far end stopped answering.
    #[error("the connection was lost: the server no longer answers")]
    Lost,
    /// The far end closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// A protocol failed.
    #[error("the media connection failed: {0}")]
    Protocol(String),
}
