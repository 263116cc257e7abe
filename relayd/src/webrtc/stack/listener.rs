//! A listener's stack: `dimpl::Dtls`, passive, and nothing else.
//!
//! Invariant: no keys leave it before the peer has shown the certificate whose fingerprint its offer names. While
//! a join may last the instance stays whole: the peer may ask for our last flight again, and either side may say
//! goodbye at any time.

use std::fmt;
use std::time::Instant;

use dimpl::{Dtls, Output};

use super::{Effect, StackError, wall};
use crate::webrtc::keys::{ExportedKeys, Identity};

pub(in crate::webrtc) struct Listener {
    identity: Identity,
    /// SHA-256 of the certificate that the peer is to show.
    fingerprint: [u8; 32],
    dtls: Dtls,
    /// The certificate was shown.
    genuine: bool,
    dead: bool,
    keys: Option<ExportedKeys>,
    deadline: Instant,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the keys.
        f.debug_struct("Listener").field("genuine", &self.genuine).finish_non_exhaustive()
    }
}

/// The most outputs of one drain; more is a loop that would never end.
const MAX_OUTPUTS: usize = 256;
/// No flight of ours has a longer datagram.
const MAX_FLIGHT: usize = 2048;

impl Listener {
    /// Waits for the handshake of the peer with this certificate.
    pub(in crate::webrtc) fn new(
        now: Instant,
        identity: &Identity,
        fingerprint: [u8; 32],
    ) -> Result<Self, StackError> {
        wall(|| {
            let dtls = identity.dtls(now).map_err(StackError::Dead)?;
            let identity = identity.clone();
            let (genuine, dead, keys) = (false, false, None);
            Ok(Self { identity, fingerprint, dtls, genuine, dead, keys, deadline: now })
        })?
    }

    /// Takes a datagram of the peer's.
    pub(in crate::webrtc) fn receive(
        &mut self,
        now: Instant,
        datagram: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        self.advance(now, Some(datagram), effects)
    }

    /// Lets time pass: a flight that was not answered is sent again.
    pub(in crate::webrtc) fn handle_timeout(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        self.advance(now, None, effects)
    }

    /// Forgets the handshake so far.
    pub(in crate::webrtc) fn restart_dtls(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        wall(|| {
            self.alive()?;
            self.dtls = self.identity.dtls(now).map_err(|error| self.die(error))?;
            (self.genuine, self.keys) = (false, None);
            self.drain(effects)
        })?
    }

    /// Says goodbye to the peer.
    pub(in crate::webrtc) fn close(&mut self, effects: &mut Vec<Effect>) -> Result<(), StackError> {
        wall(|| {
            let closed = self.dtls.close().map_err(|error| StackError::Error(error.to_string()));
            self.drain(effects)?;
            closed
        })?
    }

    /// The keys of the handshake that completed last; the second call finds none.
    pub(in crate::webrtc) fn take_keys(&mut self) -> Option<ExportedKeys> {
        self.keys.take()
    }

    /// When [`Listener::handle_timeout`] is due.
    pub(in crate::webrtc) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Lets time pass and takes the datagram, if there is one.
    fn advance(
        &mut self,
        now: Instant,
        datagram: Option<&[u8]>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        wall(|| {
            self.alive()?;
            self.dtls.handle_timeout(now).map_err(|error| self.die(error.to_string()))?;
            let handled = datagram.map_or(Ok(()), |datagram| self.dtls.handle_packet(datagram));
            // Drained after an error as well: what was taken before it is answered.
            self.drain(effects)?;
            handled.map_err(|error| StackError::Error(error.to_string()))
        })?
    }

    fn alive(&self) -> Result<(), StackError> {
        if self.dead { Err(StackError::Dead("closed before".to_owned())) } else { Ok(()) }
    }

    fn die(&mut self, what: String) -> StackError {
        (self.dead, self.keys) = (true, None);
        StackError::Dead(what)
    }

    fn drain(&mut self, effects: &mut Vec<Effect>) -> Result<(), StackError> {
        let mut buffer = [0; MAX_FLIGHT];
        let mut connected = false;
        for _ in 0..MAX_OUTPUTS {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => {
                    effects.push(Effect::Transmit { destination: None, datagram: packet.to_vec() });
                }
                Output::PeerCert(certificate) => {
                    self.genuine = self.identity.sha256(certificate) == self.fingerprint;
                    if !self.genuine {
                        return Err(self.die("another certificate than the offer names".to_owned()));
                    }
                }
                Output::KeyingMaterial(material, profile) => {
                    self.keys = Some(ExportedKeys { profile, material: material.to_vec(), active: false });
                }
                Output::Connected => connected = true,
                Output::CloseNotify => effects.push(Effect::Closed),
                Output::Timeout(deadline) => {
                    self.deadline = deadline;
                    // RFC 8827 §6.5: no certificate, no connection.
                    if connected && !self.genuine {
                        return Err(self.die("the peer showed no certificate".to_owned()));
                    }
                    if connected {
                        effects.push(Effect::Connected);
                    }
                    return Ok(());
                }
                Output::BufferTooSmall { needed } => {
                    return Err(self.die(format!("a flight of {needed} bytes")));
                }
                // No data channel was negotiated.
                _ => {}
            }
        }
        Err(self.die("endless output".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A peer, and the listener's stack that waits for it.
    struct Pair {
        client: Dtls,
        server: Listener,
        now: Instant,
        effects: Vec<Effect>,
        /// The client's datagrams that the server has not had yet.
        sent: Vec<Vec<u8>>,
        connected: bool,
        closed: bool,
    }

    impl Pair {
        fn new() -> Self {
            Self::expecting(|genuine| genuine)
        }

        fn expecting(fingerprint: impl FnOnce([u8; 32]) -> [u8; 32]) -> Self {
            let (relay, peer) = (Identity::generate().unwrap(), Identity::generate().unwrap());
            let now = Instant::now();
            let mut client = peer.dtls(now).unwrap();
            client.set_active(true);
            let server = Listener::new(now, &relay, fingerprint(peer.fingerprint())).unwrap();
            let (effects, sent) = (Vec::new(), Vec::new());
            let mut pair = Self { client, server, now, effects, sent, connected: false, closed: false };
            pair.pass(Duration::ZERO);
            pair
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.client.handle_timeout(self.now).unwrap();
            self.poll();
        }

        fn poll(&mut self) {
            let mut buffer = [0; 2048];
            loop {
                match self.client.poll_output(&mut buffer) {
                    Output::Packet(packet) => self.sent.push(packet.to_vec()),
                    Output::Connected => self.connected = true,
                    Output::CloseNotify => self.closed = true,
                    Output::Timeout(_) => return,
                    _ => {}
                }
            }
        }

        /// The server takes what the client has sent.
        fn deliver(&mut self) -> Result<(), StackError> {
            let sent = std::mem::take(&mut self.sent);
            sent.iter().try_for_each(|datagram| self.server.receive(self.now, datagram, &mut self.effects))
        }

        /// The client takes what the server wants sent, unless that is lost.
        fn answer(&mut self, lost: bool) -> bool {
            let mut connected = false;
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Transmit { datagram, .. } if !lost => {
                        self.client.handle_packet(&datagram).unwrap()
                    }
                    Effect::Connected => connected = true,
                    _ => {}
                }
            }
            self.poll();
            connected
        }

        fn connect(&mut self) {
            self.deliver().unwrap();
            self.answer(false);
            self.deliver().unwrap();
            assert!(self.answer(false), "the server is done first");
            assert!(self.connected);
        }
    }

    #[test]
    fn a_peer_with_its_own_certificate_gets_keys_once() {
        let mut pair = Pair::new();
        assert!(pair.server.take_keys().is_none());
        pair.connect();
        assert!(pair.server.take_keys().is_some_and(|keys| keys.material.len() >= 56));
        assert!(pair.server.take_keys().is_none());
    }

    #[test]
    fn a_peer_with_another_certificate_gets_none_ever() {
        let mut pair = Pair::expecting(|mut other| {
            other[31] ^= 1;
            other
        });
        pair.deliver().unwrap();
        pair.answer(false);
        assert!(matches!(pair.deliver(), Err(StackError::Dead(_))));
        assert!(!pair.answer(false) && !pair.connected && pair.server.take_keys().is_none());
        pair.pass(Duration::from_secs(2));
        assert!(matches!(pair.deliver(), Err(StackError::Dead(_))), "nor by asking again");
        assert!(!pair.answer(false) && !pair.connected);
    }

    #[test]
    fn a_last_flight_that_is_lost_is_sent_again_when_it_is_asked_for() {
        let mut pair = Pair::new();
        pair.deliver().unwrap();
        pair.answer(false);
        pair.deliver().unwrap();
        assert!(pair.answer(true), "the server is up");
        assert!(!pair.connected);
        pair.pass(Duration::from_secs(2));
        pair.deliver().unwrap();
        assert!(!pair.answer(false), "up once only");
        assert!(pair.connected);
    }

    #[test]
    fn a_goodbye_is_understood_both_ways() {
        let mut pair = Pair::new();
        pair.connect();
        pair.client.close().unwrap();
        pair.poll();
        pair.deliver().unwrap();
        assert!(pair.effects.iter().any(|effect| matches!(effect, Effect::Closed)));
        let mut pair = Pair::new();
        pair.connect();
        pair.server.close(&mut pair.effects).unwrap();
        pair.answer(false);
        assert!(pair.closed);
    }

    #[test]
    fn what_comes_twice_or_late_is_taken_once() {
        let mut pair = Pair::new();
        let hello = pair.sent.clone();
        pair.sent.extend(hello.clone());
        pair.deliver().unwrap();
        pair.answer(false);
        let flight = pair.sent.clone();
        pair.sent.extend(flight.iter().rev().cloned().collect::<Vec<_>>());
        pair.deliver().unwrap();
        assert!(pair.answer(false) && pair.connected);
        assert!(pair.server.take_keys().is_some());
        for datagram in hello.iter().chain(&flight) {
            let _harmless = pair.server.receive(pair.now, datagram, &mut pair.effects).is_err();
        }
        assert!(!pair.answer(false) && pair.server.take_keys().is_none());
    }

    #[test]
    fn a_listener_that_is_up_negotiates_nothing_more() {
        let mut pair = Pair::new();
        pair.connect();
        assert!(pair.server.take_keys().is_some());
        // Another handshake, whole, in the peer's name; and of the peer's own records what was in the clear.
        let mut other = Pair::new();
        let mut flights = other.sent.clone();
        other.deliver().unwrap();
        other.answer(false);
        flights.extend(other.sent.clone());
        // HelloRequest and a fatal alert, which nobody has authenticated.
        flights.push(vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 1, 0, 0, 12, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]);
        flights.push(vec![21, 254, 253, 0, 0, 0, 0, 0, 0, 1, 1, 0, 2, 2, 40]);
        for (record, datagram) in (0..20).flat_map(|_| &flights).enumerate() {
            let mut datagram = datagram.clone();
            // Each with a number of its own: no replay.
            datagram[5..11].copy_from_slice(&(record as u64 + 1000).to_be_bytes()[2..]);
            let taken = pair.server.receive(pair.now, &datagram, &mut pair.effects);
            assert!(!matches!(taken, Err(StackError::Panicked | StackError::Dead(_))), "{taken:?}");
        }
        let changed = |effect: &Effect| matches!(effect, Effect::Connected | Effect::Closed);
        assert!(!pair.effects.iter().any(changed) && pair.server.take_keys().is_none());
        assert!(pair.effects.len() <= flights.len(), "{} answers", pair.effects.len());
        pair.effects.clear();
        pair.client.close().unwrap();
        pair.poll();
        pair.deliver().unwrap();
        assert!(
            pair.effects.iter().any(|effect| matches!(effect, Effect::Closed)),
            "the peer itself is heard"
        );
    }

    #[test]
    fn a_handshake_that_starts_over_is_a_new_one() {
        let mut pair = Pair::new();
        pair.deliver().unwrap();
        pair.effects.clear();
        pair.server.restart_dtls(pair.now, &mut pair.effects).unwrap();
        pair.pass(Duration::from_secs(2));
        pair.connect();
        assert!(pair.server.take_keys().is_some());
    }

    #[test]
    fn what_is_cut_or_changed_or_no_dtls_brings_no_keys_and_no_panic() {
        for at in 0..200 {
            let mut pair = Pair::new();
            let hello = pair.sent[0].clone();
            let mut changed = hello.clone();
            let last = changed.len() - 1;
            changed[at.min(last)] ^= 0x55;
            let junk: Vec<u8> = (0..300).map(|byte| (byte * at) as u8).collect();
            for datagram in [&hello[..at.min(last)], &changed, &junk] {
                let taken = pair.server.receive(pair.now, datagram, &mut pair.effects);
                assert_ne!(taken, Err(StackError::Panicked));
            }
            assert!(!pair.effects.iter().any(|effect| matches!(effect, Effect::Connected | Effect::Closed)));
            assert!(pair.server.take_keys().is_none());
        }
    }

    #[test]
    fn fragments_without_end_are_bounded_and_harm_no_handshake_that_starts_over() {
        let mut pair = Pair::new();
        let hello = pair.sent[0].clone();
        // One byte of a hello each: record header 13, handshake header 12.
        for number in 0..5_000_u32 {
            let mut fragment = hello[..25].to_vec();
            fragment.push(hello[25]);
            fragment[5..11].copy_from_slice(&(u64::from(number) + 100).to_be_bytes()[2..]);
            fragment[11..13].copy_from_slice(&13_u16.to_be_bytes());
            fragment[19..22].copy_from_slice(&(number % 150).to_be_bytes()[1..]);
            fragment[22..25].copy_from_slice(&[0, 0, 1]);
            let taken = pair.server.receive(pair.now, &fragment, &mut pair.effects);
            assert!(!matches!(taken, Err(StackError::Panicked | StackError::Dead(_))), "{taken:?}");
        }
        assert!(pair.effects.len() < 10);
        pair.effects.clear();
        pair.server.restart_dtls(pair.now, &mut pair.effects).unwrap();
        pair.connect();
    }
}
