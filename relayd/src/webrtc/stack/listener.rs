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
        wall(|| {
            self.alive()?;
            self.dtls.handle_timeout(now).map_err(|error| self.die(error.to_string()))?;
            let handled = self.dtls.handle_packet(datagram);
            // Drained after an error as well: what was taken before it is answered.
            self.drain(effects)?;
            handled.map_err(|error| StackError::Error(error.to_string()))
        })?
    }

    /// Lets time pass: a flight that was not answered is sent again.
    pub(in crate::webrtc) fn handle_timeout(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        wall(|| {
            self.alive()?;
            self.dtls.handle_timeout(now).map_err(|error| self.die(error.to_string()))?;
            self.drain(effects)
        })?
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
