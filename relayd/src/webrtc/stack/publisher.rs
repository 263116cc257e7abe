//! A publisher's stack: `str0m::Rtc`, configured directly, not by SDP: ICE-lite, controlled, DTLS passive. It declares
//! its one audio stream and decrypts it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use relay_engine::rtp;
use str0m::config::Fingerprint;
use str0m::format::{Codec, FormatParams};
use str0m::media::{Frequency, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc, RtcConfig};

use super::{Datagram, Effect, StackError, wall};
use crate::webrtc::keys::{ExportedKeys, Identity, Tap};
use crate::webrtc::offer::{IceCredentials, Offer};
use crate::webrtc::ports::facing;

pub(in crate::webrtc) struct Publisher {
    rtc: Rtc,
    /// Ours, of the ICE session that it is in.
    ufrag: String,
    tap: Arc<Tap>,
    mid: Mid,
    payload_type: u8,
    /// Holes are asked for.
    nack: bool,
    expected: Expected,
    /// What the peer was told to send to.
    candidates: Vec<SocketAddr>,
    /// Length of the header, and the payload, of the packet that was just opened.
    opened: Option<(usize, Arc<[u8]>)>,
    /// The latest time that it was told.
    told: Instant,
    deadline: Instant,
}

/// The most outputs of one drain; more is a loop that would never end.
const MAX_OUTPUTS: usize = 4096;

impl Publisher {
    /// Builds the stack of one peer.
    pub(in crate::webrtc) fn new(
        now: Instant,
        identity: &Identity,
        offer: &Offer,
        ice: &IceCredentials,
        candidates: &[SocketAddr],
    ) -> Result<Self, StackError> {
        wall(|| {
            let mut config = RtcConfig::new()
                .set_ice_lite(true)
                .set_rtp_mode(true)
                .clear_codecs()
                .clear_extension_map()
                .set_local_ice_credentials(credentials(ice));
            config.codec_config().add_config(
                offer.payload_type.into(),
                None,
                Codec::Opus,
                Frequency::FORTY_EIGHT_KHZ,
                Some(2),
                FormatParams::default(),
            );
            let (rtc, tap) = identity.build(config, now);
            let mid = Mid::from(offer.mid.as_deref().unwrap_or("0"));
            let mut stack = Self {
                rtc,
                ufrag: ice.ufrag.clone(),
                tap,
                mid,
                payload_type: offer.payload_type,
                nack: offer.nack,
                expected: Expected::default(),
                candidates: candidates.to_vec(),
                opened: None,
                told: now,
                deadline: now,
            };
            stack.configure(offer).map(|()| stack)
        })?
    }

    fn configure(&mut self, offer: &Offer) -> Result<(), StackError> {
        for address in &self.candidates {
            let candidate = Candidate::host(*address, "udp").map_err(|e| StackError::Error(e.to_string()))?;
            self.rtc.add_local_candidate(candidate);
        }
        let mut api = self.rtc.direct_api();
        api.set_ice_controlling(false);
        api.set_remote_ice_credentials(credentials(&offer.ice));
        api.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".to_owned(),
            bytes: offer.fingerprint.to_vec(),
        });
        api.start_dtls(false).map_err(|e| StackError::Error(e.to_string()))?;
        api.declare_media(self.mid, MediaKind::Audio);
        for ssrc in &offer.ssrcs {
            self.expect(*ssrc);
        }
        Ok(())
    }

    /// Takes a datagram that the demultiplexer let through.
    pub(in crate::webrtc) fn receive(
        &mut self,
        now: Instant,
        datagram: Datagram<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        let Datagram { source, destination, bytes } = datagram;
        let now = self.not_before(now);
        wall(|| {
            let contents = bytes.try_into().map_err(|_| StackError::Error("unreadable".to_owned()))?;
            let receive = Receive { proto: Protocol::Udp, source, destination, contents };
            self.handle(Input::Receive(now, receive), effects)
        })?
    }

    /// As [`Publisher::receive`], at the address that the peer was told.
    pub(in crate::webrtc) fn receive_from(
        &mut self,
        now: Instant,
        (source, bytes): (SocketAddr, &[u8]),
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        let destination = facing(&self.candidates, source);
        self.receive(now, Datagram { source, destination, bytes }, effects)
    }

    /// Takes a publisher's SRTP packet, and opens it.
    pub(in crate::webrtc) fn receive_rtp(
        &mut self,
        now: Instant,
        (source, bytes): (SocketAddr, &[u8]),
        packet: &mut Option<rtp::Packet>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        let header = bytes.get(..12).ok_or_else(|| StackError::Error("too short".to_owned()))?;
        let ssrc = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        // SSRC 0 is a probe of libwebrtc's bandwidth estimator; one Opus payload type is all there is.
        if ssrc == 0 || header[1] & 0x7F != self.payload_type {
            return Err(StackError::Error("foreign stream".to_owned()));
        }
        wall(|| self.expect(ssrc))?;
        let received = self.receive_from(now, (source, bytes), effects);
        let opened = self.opened.take();
        *packet = wall(|| opened.and_then(|(header, payload)| plaintext(bytes, header, &payload)))?;
        if packet.is_some() {
            self.expected.deliver(ssrc);
        }
        received
    }

    /// Lets time pass.
    pub(in crate::webrtc) fn handle_timeout(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        let now = self.not_before(now);
        wall(|| self.handle(Input::Timeout(now), effects))?
    }

    /// Starts the DTLS handshake over; ICE goes on as it is.
    pub(in crate::webrtc) fn restart_dtls(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        self.tap.restart(now);
        self.handle_timeout(now, effects)
    }

    /// New credentials on both sides: an ICE restart (RFC 8445 §9).
    pub(in crate::webrtc) fn restart_ice(
        &mut self,
        local: &IceCredentials,
        remote: &IceCredentials,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        wall(|| {
            self.ufrag.clone_from(&local.ufrag);
            let mut api = self.rtc.direct_api();
            api.set_local_ice_credentials(credentials(local));
            api.set_remote_ice_credentials(credentials(remote));
            let drained = self.drain(effects);
            self.verdict(drained)
        })?
    }

    /// Whether it is in the ICE session of these credentials of ours.
    pub(in crate::webrtc) fn is_in(&self, local: &IceCredentials) -> bool {
        self.ufrag == local.ufrag
    }

    /// Says goodbye to the peer.
    pub(in crate::webrtc) fn close(&mut self, effects: &mut Vec<Effect>) -> Result<(), StackError> {
        wall(|| {
            let closed = self.rtc.close().map_err(|e| e.to_string());
            let drained = self.drain(effects);
            closed.and(drained).map_err(StackError::Error)
        })?
    }

    /// The keys of the handshake that completed last.
    pub(in crate::webrtc) fn take_keys(&self) -> Option<ExportedKeys> {
        self.tap.take_keys()
    }

    /// When the stack wants [`Stack::handle_timeout`].
    pub(in crate::webrtc) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Several threads look at the clock before they come here, in any order. What an `Rtc` is told of an earlier time than
    /// the one it knows, it does not work through.
    fn not_before(&mut self, now: Instant) -> Instant {
        self.told = self.told.max(now);
        self.told
    }

    /// Has the `Rtc` take packets of this SSRC, of which nothing is authenticated yet.
    fn expect(&mut self, ssrc: u32) {
        let Admitted::Added { evicted } = self.expected.admit(ssrc) else { return };
        let mut api = self.rtc.direct_api();
        if let Some(evicted) = evicted {
            api.remove_stream_rx(evicted.into());
        }
        api.expect_stream_rx(ssrc.into(), None, self.mid, None).suppress_nack(!self.nack);
    }

    /// Has the `Rtc` take what happened.
    fn handle(&mut self, input: Input<'_>, effects: &mut Vec<Effect>) -> Result<(), StackError> {
        let handled = self.rtc.handle_input(input);
        // Drained after an error as well: str0m's invariant is one mutation, one drain.
        let drained = self.drain(effects);
        self.verdict(handled.map_err(|e| e.to_string()).and(drained))
    }

    fn verdict(&self, result: Result<(), String>) -> Result<(), StackError> {
        match result {
            Ok(()) => Ok(()),
            Err(what) if self.rtc.is_alive() => Err(StackError::Error(what)),
            Err(what) => Err(StackError::Dead(what)),
        }
    }

    fn drain(&mut self, effects: &mut Vec<Effect>) -> Result<(), String> {
        for _ in 0..MAX_OUTPUTS {
            match self.rtc.poll_output().map_err(|error| error.to_string())? {
                Output::Timeout(deadline) => {
                    self.deadline = deadline;
                    return Ok(());
                }
                Output::Transmit(transmit) => effects.push(Effect::Transmit {
                    destination: Some(transmit.destination),
                    datagram: transmit.contents.into(),
                }),
                Output::Event(Event::RtpPacket(packet)) => {
                    self.opened = Some((packet.header.header_len, packet.payload));
                }
                Output::Event(Event::Connected) => {
                    // RFC 8827 §6.5: no certificate, no connection; str0m has compared the one it saw.
                    if self.rtc.direct_api().remote_dtls_fingerprint().is_none() {
                        self.rtc.disconnect();
                        return Err("the peer showed no certificate".to_owned());
                    }
                    effects.push(Effect::Connected);
                }
                Output::Event(Event::Closed) => effects.push(Effect::Closed),
                Output::Event(_) => {}
            }
        }
        self.rtc.disconnect();
        Err("endless output".to_owned())
    }
}

/// SSRCs that a publisher's `Rtc` expects packets of, oldest first.
///
/// Whoever can write the publisher's address into a packet can name any SSRC. So the table is short, a name that
/// never brought an authentic packet goes before one that did, and the number that may do so in a connection's
/// life has an end, because str0m remembers each of them.
#[derive(Debug, Default)]
struct Expected {
    streams: Vec<(u32, bool)>,
    delivered: usize,
}

/// What became of an SSRC that a packet names.
#[derive(Debug, PartialEq, Eq)]
enum Admitted {
    /// The `Rtc` knows it.
    Known,
    /// To be made known to the `Rtc`, and this one to be forgotten.
    Added { evicted: Option<u32> },
    /// The publisher has had all the SSRCs that it may have.
    Refused,
}

impl Expected {
    /// The most at one time.
    const MAX: usize = 8;
    /// The most that may bring packets in a connection's life; ≈ 48 bytes each inside str0m.
    const MAX_DELIVERED: usize = 256;

    fn admit(&mut self, ssrc: u32) -> Admitted {
        if self.streams.iter().any(|(known, _)| *known == ssrc) {
            return Admitted::Known;
        }
        if self.delivered >= Self::MAX_DELIVERED {
            return Admitted::Refused;
        }
        let evicted = (self.streams.len() == Self::MAX).then(|| {
            let unproven = self.streams.iter().position(|(_, delivered)| !delivered);
            self.streams.remove(unproven.unwrap_or(0)).0
        });
        self.streams.push((ssrc, false));
        Admitted::Added { evicted }
    }

    /// An authentic packet of this SSRC has come.
    fn deliver(&mut self, ssrc: u32) {
        if let Some((_, delivered)) = self.streams.iter_mut().find(|(known, _)| *known == ssrc)
            && !*delivered
        {
            *delivered = true;
            self.delivered += 1;
        }
    }
}

/// Puts the header of the datagram, which SRTP leaves in the clear, before the decrypted payload.
fn plaintext(datagram: &[u8], header_len: usize, payload: &[u8]) -> Option<rtp::Packet> {
    let clear = datagram.get(..header_len)?;
    let mut packet = BytesMut::with_capacity(clear.len() + payload.len());
    packet.put_slice(clear);
    // str0m has taken the padding off.
    packet[0] &= !0x20;
    packet.put_slice(payload);
    rtp::Packet::parse(Bytes::from(packet)).ok()
}

fn credentials(ice: &IceCredentials) -> IceCreds {
    IceCreds { ufrag: ice.ufrag.clone(), pass: ice.password.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_was_heard_outlives_any_number_of_forged_ones() {
        let mut expected = Expected::default();
        expected.admit(7);
        expected.deliver(7);
        for forged in 100..10_000 {
            assert!(matches!(expected.admit(forged), Admitted::Added { evicted } if evicted != Some(7)));
        }
        assert_eq!((expected.admit(7), expected.streams.len()), (Admitted::Known, Expected::MAX));
        assert_eq!(expected.delivered, 1, "what is forged uses nothing up");
    }

    #[test]
    fn the_streams_of_a_connections_life_have_an_end() {
        let mut expected = Expected::default();
        for ssrc in 0..Expected::MAX_DELIVERED as u32 {
            assert!(matches!(expected.admit(ssrc), Admitted::Added { .. }));
            expected.deliver(ssrc);
        }
        let last = Expected::MAX_DELIVERED as u32 - 1;
        assert_eq!((expected.admit(last), expected.admit(last + 1)), (Admitted::Known, Admitted::Refused));
        assert_eq!(expected.streams.len(), Expected::MAX);
    }
}
