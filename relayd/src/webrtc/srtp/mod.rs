//! SRTP and SRTCP of listeners (RFC 3711, RFC 7714), on `aws-lc-rs` alone.
//!
//! `str0m` negotiates keys and decrypts publishers; what listeners receive is sealed here, on the media thread,
//! with key objects that are made once per leg. A leg has one [`SrtpSender`], one [`SrtcpSender`] and one
//! [`SrtcpReceiver`], all made from the [`KeyingMaterial`] of its DTLS handshake. [`SrtpReceiver`] is the far end's
//! side: what a listener of the load tester opens packets with.
//!
//! Invariant: under one key there is one packet for each (SSRC, index), however often it is sent. Senders remember the
//! newest indices and their packets' tags, because forwarding keeps the disorder of its input and a replay sends what
//! was sent. SRTCP indices of ours start at 2^30, out of reach of the ones that `str0m` counts up from zero under the same key.

mod cipher;
mod kdf;
mod open;
mod rtcp;
mod rtp;
mod sealed;
#[cfg(all(feature = "wide-gcm", target_arch = "x86_64"))]
mod wide;
#[cfg(not(all(feature = "wide-gcm", target_arch = "x86_64")))]
#[path = "narrow.rs"]
mod wide;
pub(crate) mod window;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use zeroize::Zeroize;

#[cfg(test)]
pub(crate) use open::test_support;
pub use open::{Opened, SrtpReceiver};
pub use rtcp::{FIRST_SRTCP_INDEX, OpenError, SrtcpReceiver, SrtcpSender};
pub use rtp::{SealError, SrtpSender};
pub(crate) use wide::prefetch;

/// Bytes that SRTP adds to an RTP packet at most.
pub const MAX_SRTP_OVERHEAD: usize = 16;

/// Bytes that SRTCP adds to an RTCP packet at most: tag and index.
pub const MAX_SRTCP_OVERHEAD: usize = 20;

/// A protection profile that DTLS-SRTP may negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    /// AES-256 in GCM, 16-byte tag (RFC 7714).
    AeadAes256Gcm,
    /// AES-128 in GCM, 16-byte tag (RFC 7714).
    AeadAes128Gcm,
    /// AES-128 in counter mode with an 80-bit HMAC-SHA1 tag (RFC 3711).
    Aes128CmSha1_80,
}

impl SrtpProfile {
    /// Bytes of a master key.
    pub const fn key_len(self) -> usize {
        match self {
            SrtpProfile::AeadAes256Gcm => 32,
            SrtpProfile::AeadAes128Gcm | SrtpProfile::Aes128CmSha1_80 => 16,
        }
    }

    /// Bytes of a master salt.
    pub const fn salt_len(self) -> usize {
        match self {
            SrtpProfile::AeadAes256Gcm | SrtpProfile::AeadAes128Gcm => 12,
            SrtpProfile::Aes128CmSha1_80 => 14,
        }
    }

    /// Bytes of the authentication tag on each packet.
    pub const fn tag_len(self) -> usize {
        match self {
            SrtpProfile::AeadAes256Gcm | SrtpProfile::AeadAes128Gcm => 16,
            SrtpProfile::Aes128CmSha1_80 => 10,
        }
    }

    /// Bytes that DTLS exports for both directions.
    pub const fn exported_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }
}

/// Our side of the DTLS handshake: which half of the exported material is ours to send with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We were the DTLS client (active).
    Client,
    /// We were the DTLS server (passive).
    Server,
}

/// The master keys and salts of both directions of one leg: in one place for all its clones, and wiped with the last of them.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyingMaterial {
    profile: SrtpProfile,
    masters: Arc<Masters>,
}

impl KeyingMaterial {
    /// Splits what DTLS exported: client key, server key, client salt, server salt (RFC 5764 §4.2).
    ///
    /// # Errors
    /// [`KeyingError`] if `exported` has not exactly the length that the profile asks for.
    pub fn from_dtls(profile: SrtpProfile, exported: &[u8], role: Role) -> Result<Self, KeyingError> {
        if exported.len() != profile.exported_len() {
            return Err(KeyingError { profile, expected: profile.exported_len(), length: exported.len() });
        }
        let (keys, salts) = exported.split_at(2 * profile.key_len());
        let (client_key, server_key) = keys.split_at(profile.key_len());
        let (client_salt, server_salt) = salts.split_at(profile.salt_len());
        let (client, server) = ((client_key, client_salt), (server_key, server_salt));
        let (outbound, inbound) = match role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        // Filled where they stay: what is moved is left behind.
        let mut masters = Arc::new(Masters::default());
        let filled = Arc::get_mut(&mut masters).expect("nobody else has it yet");
        filled.outbound.fill(outbound);
        filled.inbound.fill(inbound);
        Ok(KeyingMaterial { profile, masters })
    }

    /// The negotiated profile.
    pub fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// The sender of one RTP stream. One per SSRC: a second one for the same SSRC would reuse nonces.
    pub fn srtp_sender(&self, ssrc: u32) -> SrtpSender {
        let mut sender = self.narrow_srtp_sender(ssrc);
        self.widen(&mut sender);
        sender
    }

    /// The same without the wide way, for who moves it to its place before it has it [widened](Self::widen).
    pub(crate) fn narrow_srtp_sender(&self, ssrc: u32) -> SrtpSender {
        SrtpSender::new(cipher::Cipher::rtp(self.profile, &self.masters.outbound), ssrc)
    }

    /// Has a sender of these keys take the wide way, if there is one.
    pub(crate) fn widen(&self, sender: &mut SrtpSender) {
        sender.widen(self.profile, &self.masters.outbound);
    }

    /// The sender of RTCP.
    pub fn srtcp_sender(&self) -> SrtcpSender {
        SrtcpSender::new(cipher::Cipher::rtcp(self.profile, &self.masters.outbound))
    }

    /// The receiver of the peer's RTP.
    pub fn srtp_receiver(&self) -> SrtpReceiver {
        SrtpReceiver::new(cipher::Cipher::rtp(self.profile, &self.masters.inbound))
    }

    /// The receiver of the peer's RTCP.
    pub fn srtcp_receiver(&self) -> SrtcpReceiver {
        SrtcpReceiver::new(cipher::Cipher::rtcp(self.profile, &self.masters.inbound))
    }
}

impl fmt::Debug for KeyingMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("KeyingMaterial").field("profile", &self.profile).finish_non_exhaustive()
    }
}

#[derive(Default, PartialEq, Eq)]
struct Masters {
    outbound: Master,
    inbound: Master,
}

/// Master key and salt of one direction, padded to the longest profile.
#[derive(Default, PartialEq, Eq)]
struct Master {
    key: [u8; 32],
    key_len: usize,
    salt: [u8; 14],
}

impl Master {
    #[cfg(test)]
    fn new(key: &[u8], salt: &[u8]) -> Self {
        let mut master = Master::default();
        master.fill((key, salt));
        master
    }

    fn fill(&mut self, (key, salt): (&[u8], &[u8])) {
        self.key_len = key.len();
        self.key[..key.len()].copy_from_slice(key);
        // RFC 7714 §11: a 96-bit salt is followed by 16 zero bits for the derivation.
        self.salt[..salt.len()].copy_from_slice(salt);
    }

    fn key(&self) -> &[u8] {
        &self.key[..self.key_len]
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.key.zeroize();
        self.salt.zeroize();
    }
}

/// DTLS exported material of a length that does not fit the profile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{profile:?} takes {expected} bytes of keying material, not {length}")]
pub struct KeyingError {
    profile: SrtpProfile,
    expected: usize,
    length: usize,
}

#[cfg(test)]
mod tests;
