//! One WebRTC connection of a client: str0m with full ICE in RTP mode, and the UDP socket under it.
//!
//! Packets go in and come out as they are on the wire; sequence numbers and timestamps are the caller's. The peer keeps
//! str0m's one rule, a complete drain after every mutation, and turns its events into three of its own.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::change::SdpPendingOffer;
use str0m::config::DtlsVersion;
use str0m::media::{Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::rtcp::Rtcp;
use str0m::rtp::{AbsCaptureTime, Extension, ExtensionValues, RawPacket, RtpPacket, RtpWrite, Ssrc};
use str0m::stats::MediaEgressStats;
use str0m::{Event, IceConnectionState, Input, Output, Rtc};
use thiserror::Error;
use tokio::net::UdpSocket;

use super::address::Role;
use super::line;
use super::pace::Stamp;

/// From the answer to media: ICE and DTLS take a few round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a listener reports what has come (RFC 4585 §3.4: no least interval between two parties; two reports a second
/// are less than the 5 % of RFC 3550 §6.2). A relay that replaces the connection sends again what no report covers: the
/// five seconds that are usual would be 250 frames.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Larger than any datagram that fits an Ethernet frame.
const DATAGRAM_BYTES: usize = 2048;

/// A connection that was offered, then answered.
pub(super) struct Peer {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    /// Where datagrams go instead of to the far end.
    proxy: Option<SocketAddr>,
    /// Where they would have gone: what comes from the proxy is from there.
    far_end: Option<SocketAddr>,
    role: Role,
    mid: Mid,
    payload_type: Option<Pt>,
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
    /// The far end has not got these sequence numbers, and asks for them again (RFC 4585 §6.2.1).
    Again(Vec<u16>),
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
    pub(super) fn offer(
        socket: StdUdpSocket,
        role: Role,
        proxy: Option<SocketAddr>,
    ) -> Result<(Self, String), PeerError> {
        let now = Instant::now();
        let local = socket.local_addr().map_err(|error| PeerError::Socket(error.kind()))?;
        socket.set_nonblocking(true).map_err(|error| PeerError::Socket(error.kind()))?;
        let socket = UdpSocket::from_std(socket).map_err(|error| PeerError::Socket(error.kind()))?;
        let mut config = line::config()
            // str0m sends again by RTX only; a relay of ours takes the packet as it was, and so we need to see its NACKs.
            .enable_raw_packets(role == Role::Publisher)
            .set_dtls_version(DtlsVersion::Dtls12)
            .set_extension(2, Extension::AbsoluteCaptureTime)
            .set_stats_interval((role == Role::Publisher).then_some(Duration::from_secs(1)));
        if role == Role::Listener {
            config = config.set_rtcp_report_interval_audio(REPORT_EVERY);
        }
        let mut rtc = config.build(now);
        let (mid, offer, pending) = line::offer(&mut rtc, local, role)?;
        let mut peer = Self {
            rtc,
            socket,
            local,
            proxy,
            far_end: None,
            role,
            mid,
            payload_type: None,
            pending: Some(pending),
            connect_by: None,
            wake_at: now,
            events: VecDeque::new(),
            ended: None,
            buffer: Box::new([0; DATAGRAM_BYTES]),
        };
        peer.drain()?;
        Ok((peer, with_nack(&offer.to_sdp_string())))
    }

    /// Takes the server's answer; the connection comes up from here.
    pub(super) fn answer(&mut self, sdp: &str) -> Result<(), PeerError> {
        let pending = self.pending.take().expect("an offer is answered once");
        self.payload_type = Some(line::answer(&mut self.rtc, self.mid, pending, sdp)?);
        if let Some(stream) = self.rtc.direct_api().stream_rx_by_mid(self.mid, None) {
            // Without RTX str0m would not ask; the far end answers on the stream itself, if it answers.
            stream.suppress_nack(false);
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
        let payload_type = self.payload_type.ok_or(PeerError::Closed)?;
        let mid = self.mid;
        let capture = AbsCaptureTime { capture_time: stamp.captured, clock_offset: None };
        let extensions =
            ExtensionValues { abs_capture_time: Some(capture), mid: Some(mid), ..Default::default() };
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_tx_by_mid(mid, None).ok_or(PeerError::Closed)?;
        stream.write_rtp(
            // Sent again, a packet is the same to the last bit, header and all: its SRTP index is never sealed otherwise.
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

    fn receive(&mut self, length: usize, source: SocketAddr) -> Result<(), PeerError> {
        let source = if Some(source) == self.proxy { self.far_end.unwrap_or(source) } else { source };
        let Ok(contents) = self.buffer[..length].try_into() else {
            return Ok(()); // Neither STUN, DTLS nor RTP.
        };
        let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
        let input = Input::Receive(Instant::now(), receive);
        if self.rtc.accepts(&input) {
            self.rtc.handle_input(input).map_err(|error| PeerError::protocol(&error))?;
            self.drain()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), PeerError> {
        self.rtc.handle_input(Input::Timeout(Instant::now())).map_err(|error| PeerError::protocol(&error))?;
        self.drain()
    }

    fn drain(&mut self) -> Result<(), PeerError> {
        loop {
            match self.rtc.poll_output().map_err(|error| PeerError::protocol(&error))? {
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => {
                    // A full socket buffer is loss, and loss is what the protocols above expect.
                    self.far_end = Some(transmit.destination);
                    let destination = self.proxy.unwrap_or(transmit.destination);
                    drop(self.socket.try_send_to(&transmit.contents, destination));
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
            Event::RtpPacket(packet) => {
                // A stream that was not announced is known from its first packet on.
                if let Some(stream) = self.rtc.direct_api().stream_rx(&packet.header.ssrc) {
                    stream.suppress_nack(false);
                }
                self.events.push_back(PeerEvent::Packet(Box::new(packet)));
            }
            Event::RawPacket(raw) => self.handle_raw(&raw),
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

impl Peer {
    /// Takes the NACKs for our stream.
    fn handle_raw(&mut self, raw: &RawPacket) {
        let (RawPacket::RtcpRx(Rtcp::Nack(nack)), Role::Publisher) = (raw, self.role) else { return };
        if self.ssrc() != Some(nack.ssrc) {
            return;
        }
        let numbers = nack.reports.iter().flat_map(|entry| {
            let after = (0..16).filter(|bit| entry.blp & 1 << bit != 0);
            std::iter::once(entry.pid).chain(after.map(|bit: u16| entry.pid.wrapping_add(bit + 1)))
        });
        self.events.push_back(PeerEvent::Again(numbers.collect()));
    }
}

/// An offer that also offers to ask, and to be asked, for lost packets again.
fn with_nack(sdp: &str) -> String {
    let mut offer = String::with_capacity(sdp.len() + 40);
    for line in sdp.split_inclusive('\n') {
        offer.push_str(line);
        let opus = line.strip_prefix("a=rtpmap:").filter(|rest| rest.contains(" opus/48000"));
        if let Some((payload_type, _)) = opus.and_then(|rest| rest.split_once(' ')) {
            offer.push_str(&format!("a=rtcp-fb:{payload_type} nack\r\n"));
        }
    }
    offer
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("local", &self.local).field("mid", &self.mid).finish_non_exhaustive()
    }
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

impl PeerError {
    pub(crate) fn protocol(error: &dyn std::error::Error) -> Self {
        Self::Protocol(error.to_string())
    }
}
