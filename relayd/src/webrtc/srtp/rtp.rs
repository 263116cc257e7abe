//! Sealing of outbound RTP.

use thiserror::Error;

use super::cipher::{Cipher, CounterMode, Gcm};
use super::window::{Refused, Window};

/// Bytes of the fixed RTP header.
const FIXED_HEADER: usize = 12;

/// Indices have 48 bits: rollover counter and sequence number.
const INDEX_LIMIT: u64 = 1 << 48;

/// Seals the packets of one RTP stream.
///
/// Invariant: each index is sealed at most once, and nothing older than [`SrtpSender::WINDOW`] indices behind
/// the newest is sealed at all.
#[derive(Debug)]
pub struct SrtpSender {
    cipher: Cipher,
    ssrc: u32,
    sealed: Window<4>,
}

impl SrtpSender {
    /// How far behind the newest index a packet may still be sealed.
    pub const WINDOW: u64 = 256;

    pub(super) fn new(cipher: Cipher, ssrc: u32) -> Self {
        SrtpSender { cipher, ssrc, sealed: Window::new() }
    }

    /// The stream that this sender seals.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Bytes that sealing adds to a packet.
    pub fn overhead(&self) -> usize {
        self.cipher.tag_len()
    }

    /// Writes the SRTP packet of `header` and `payload` to the front of `out` and returns its length.
    ///
    /// `index` is the extended sequence number; its low 16 bits are the header's sequence number.
    ///
    /// # Errors
    /// See [`SealError`]; `out` then holds nothing of use.
    pub fn seal(
        &mut self,
        index: u64,
        header: &[u8],
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let room = out.get_mut(..header.len()).ok_or(SealError::NoRoom)?;
        room.copy_from_slice(header);
        self.seal_behind(index, header.len(), payload, out)
    }

    /// As [`SrtpSender::seal`], with the header written to the front of `out` already.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn seal_behind(
        &mut self,
        index: u64,
        header_len: usize,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let length = header_len + payload.len() + self.overhead();
        let out = out.get_mut(..length).ok_or(SealError::NoRoom)?;
        self.admit(index, &out[..header_len])?;
        match &self.cipher {
            Cipher::Gcm(gcm) => seal_gcm(gcm, self.ssrc, index, header_len, payload, out),
            Cipher::CounterMode(cm) => seal_counter_mode(cm, self.ssrc, index, header_len, payload, out),
        }
        Ok(length)
    }

    /// Checks that header and index belong together and that the index is unused; takes the index.
    fn admit(&mut self, index: u64, header: &[u8]) -> Result<(), SealError> {
        if header.len() < FIXED_HEADER
            || header[2..4] != (index as u16).to_be_bytes()
            || header[8..12] != self.ssrc.to_be_bytes()
        {
            return Err(SealError::Header);
        }
        if index >= INDEX_LIMIT {
            return Err(SealError::Exhausted);
        }
        match self.sealed.check(index) {
            Ok(()) => {
                self.sealed.take(index);
                Ok(())
            }
            Err(Refused::Taken) => Err(SealError::Reused),
            Err(Refused::TooOld) => Err(SealError::TooOld),
        }
    }
}

/// Why a packet was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The index was sealed before: a second packet under the same nonce would give both away.
    #[error("the index was used before")]
    Reused,
    /// The index is too far behind the newest to know that it was not sealed before.
    #[error("the index is older than the window")]
    TooOld,
    /// All indices of this key are used up.
    #[error("the indices of this key are used up")]
    Exhausted,
    /// The header does not carry the sender's SSRC and the index's sequence number, or is no header.
    #[error("the header does not belong to this stream and index")]
    Header,
    /// The output is too short.
    #[error("the sealed packet does not fit")]
    NoRoom,
}

fn seal_gcm(gcm: &Gcm, ssrc: u32, index: u64, header_len: usize, payload: &[u8], out: &mut [u8]) {
    // RFC 7714 §8.2: the whole header is associated data.
    let (header, sealed) = out.split_at_mut(header_len);
    gcm.seal(ssrc, index, header, payload, sealed);
}

fn seal_counter_mode(
    cm: &CounterMode,
    ssrc: u32,
    index: u64,
    header_len: usize,
    payload: &[u8],
    out: &mut [u8],
) {
    let end = header_len + payload.len();
    out[header_len..end].copy_from_slice(payload);
    cm.apply(ssrc, index, &mut out[header_len..end]);
    // RFC 3711 §4.2: authenticated is the packet and then the rollover counter, which stands where the tag will.
    let rollover = ((index >> 16) as u32).to_be_bytes();
    out[end..end + 4].copy_from_slice(&rollover);
    let tag = cm.tag(&out[..end + 4]);
    out[end..].copy_from_slice(&tag);
}

/// Opening, which only tests need: what publishers send is opened by `str0m`.
#[cfg(test)]
pub(crate) mod test_support {
    use super::super::KeyingMaterial;
    use super::*;

    /// Opens the SRTP packets of a peer, given their indices.
    pub(crate) struct SrtpOpener(Cipher);

    impl SrtpOpener {
        pub(crate) fn new(keys: &KeyingMaterial) -> Self {
            SrtpOpener(Cipher::rtp(keys.profile, &keys.inbound))
        }

        pub(in super::super) fn from_cipher(cipher: Cipher) -> Self {
            SrtpOpener(cipher)
        }

        /// The payload, if the packet with this header length and rollover counter is authentic.
        pub(crate) fn open(&self, rollover: u32, header_len: usize, packet: &[u8]) -> Option<Vec<u8>> {
            let (header, sealed) = packet.split_at_checked(header_len)?;
            let ssrc = u32::from_be_bytes(header[8..12].try_into().unwrap());
            let sequence = u16::from_be_bytes(header[2..4].try_into().unwrap());
            let index = u64::from(rollover) << 16 | u64::from(sequence);
            let payload_len = sealed.len().checked_sub(self.0.tag_len())?;
            let mut payload = sealed.to_vec();
            match &self.0 {
                Cipher::Gcm(gcm) => {
                    gcm.open(ssrc, index, header, &mut payload).then_some(())?;
                }
                Cipher::CounterMode(cm) => {
                    let mut covered = packet[..header_len + payload_len].to_vec();
                    covered.extend(rollover.to_be_bytes());
                    cm.verify(&covered, &sealed[payload_len..]).then_some(())?;
                    cm.apply(ssrc, index, &mut payload[..payload_len]);
                }
            }
            payload.truncate(payload_len);
            Some(payload)
        }
    }
}
