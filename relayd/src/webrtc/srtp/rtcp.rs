//! SRTCP both ways (RFC 3711 §3.4, RFC 7714 §9).
//!
//! ```text
//! GCM:           header 8 │ ciphertext │ tag 16 │ E + index 4
//! counter mode:  header 8 │ ciphertext │ E + index 4 │ tag 10
//! ```

use thiserror::Error;

use super::SealError;
use super::cipher::{Cipher, CounterMode, Gcm};
use super::window::{Refused, Window};

/// The first SRTCP index that we use: `str0m` counts from zero under the same key and never gets here.
pub const FIRST_SRTCP_INDEX: u32 = 1 << 30;

/// The header that stays in the clear: first header word and the sender's SSRC.
const CLEAR_HEADER: usize = 8;

/// Bytes of the word that carries the E flag and the index.
const INDEX_LEN: usize = 4;

/// The flag that says the packet is encrypted.
const ENCRYPTED: u32 = 1 << 31;

/// Seals our RTCP to one peer.
#[derive(Debug)]
pub struct SrtcpSender {
    cipher: Cipher,
    /// The next index; ends at 2^31.
    next: u32,
}

impl SrtcpSender {
    pub(super) fn new(cipher: Cipher) -> Self {
        SrtcpSender { cipher, next: FIRST_SRTCP_INDEX }
    }

    #[cfg(test)]
    pub(super) fn starting_at(cipher: Cipher, next: u32) -> Self {
        SrtcpSender { cipher, next }
    }

    /// Writes the SRTCP packet of the compound `packet` to the front of `out` and returns its length.
    ///
    /// # Errors
    /// [`SealError::Header`] if `packet` is shorter than an RTCP header, [`SealError::NoRoom`] if `out` is too
    /// short, [`SealError::Exhausted`] after 2^30 packets.
    pub fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        let (header, payload) = packet.split_at_checked(CLEAR_HEADER).ok_or(SealError::Header)?;
        let length = packet.len() + self.cipher.tag_len() + INDEX_LEN;
        let out = out.get_mut(..length).ok_or(SealError::NoRoom)?;
        if self.next >= ENCRYPTED {
            return Err(SealError::Exhausted);
        }
        let index = self.next;
        self.next += 1;
        let word = (ENCRYPTED | index).to_be_bytes();
        let ssrc = ssrc(header);
        match &self.cipher {
            Cipher::Gcm(gcm) => {
                let mut aad = [0; CLEAR_HEADER + INDEX_LEN];
                aad[..CLEAR_HEADER].copy_from_slice(header);
                aad[CLEAR_HEADER..].copy_from_slice(&word);
                out[..CLEAR_HEADER].copy_from_slice(header);
                let end = length - INDEX_LEN;
                gcm.seal(ssrc, index.into(), &aad, payload, &mut out[CLEAR_HEADER..end]);
                out[end..].copy_from_slice(&word);
            }
            Cipher::CounterMode(cm) => {
                let end = packet.len();
                out[..end].copy_from_slice(packet);
                cm.apply(ssrc, index.into(), &mut out[CLEAR_HEADER..end]);
                out[end..end + INDEX_LEN].copy_from_slice(&word);
                let tag = cm.tag(&out[..end + INDEX_LEN]);
                out[end + INDEX_LEN..].copy_from_slice(&tag);
            }
        }
        Ok(length)
    }
}

/// Opens a peer's RTCP: authenticates, refuses replays, decrypts.
#[derive(Debug)]
pub struct SrtcpReceiver {
    cipher: Cipher,
    /// One window per sender SSRC, in the order of appearance; at most [`SrtcpReceiver::MAX_SENDERS`].
    senders: Vec<(u32, Window<2>)>,
}

impl SrtcpReceiver {
    /// Sender SSRCs that one peer may use over the life of a leg. Memory: 32 bytes each.
    pub const MAX_SENDERS: usize = 8;

    /// How far behind the newest index a packet is still taken.
    pub const WINDOW: u64 = 128;

    pub(super) fn new(cipher: Cipher) -> Self {
        SrtcpReceiver { cipher, senders: Vec::new() }
    }

    /// Writes the plain compound packet of `datagram` to the front of `out` and returns its length.
    ///
    /// # Errors
    /// See [`OpenError`]. A refused packet leaves no trace in the replay windows.
    pub fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let length = datagram
            .len()
            .checked_sub(self.cipher.tag_len() + INDEX_LEN)
            .filter(|&length| length >= CLEAR_HEADER)
            .ok_or(OpenError::Short)?;
        let out = out.get_mut(..datagram.len()).ok_or(OpenError::TooLong)?;
        out.copy_from_slice(datagram);
        let sender = ssrc(out);
        let word_at = match &self.cipher {
            Cipher::Gcm(_) => datagram.len() - INDEX_LEN,
            Cipher::CounterMode(_) => length,
        };
        let word: [u8; INDEX_LEN] =
            out[word_at..word_at + INDEX_LEN].try_into().expect("a range of that length");
        let index = u64::from(u32::from_be_bytes(word) & !ENCRYPTED);
        self.check(sender, index)?;
        match &self.cipher {
            Cipher::Gcm(gcm) => open_gcm(gcm, sender, index, word, &mut out[..word_at])?,
            Cipher::CounterMode(cm) => open_counter_mode(cm, sender, index, word, length, out)?,
        }
        self.take(sender, index);
        Ok(length)
    }

    fn check(&self, sender: u32, index: u64) -> Result<(), OpenError> {
        match self.senders.iter().find(|(ssrc, _)| *ssrc == sender) {
            Some((_, window)) => window.check(index).map_err(|refused| match refused {
                Refused::Taken => OpenError::Replayed,
                Refused::TooOld => OpenError::TooOld,
            }),
            None if self.senders.len() == Self::MAX_SENDERS => Err(OpenError::TooManySenders),
            None => Ok(()),
        }
    }

    fn take(&mut self, sender: u32, index: u64) {
        let at = self.senders.iter().position(|(ssrc, _)| *ssrc == sender).unwrap_or_else(|| {
            self.senders.push((sender, Window::new()));
            self.senders.len() - 1
        });
        self.senders[at].1.take(index);
    }
}

/// Why an SRTCP packet was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Shorter than header, tag and index together.
    #[error("the packet is too short")]
    Short,
    /// Longer than the output.
    #[error("the packet is too long")]
    TooLong,
    /// The tag does not fit the packet under this key.
    #[error("the packet is not authentic")]
    NotAuthentic,
    /// The index was received before.
    #[error("the packet is a replay")]
    Replayed,
    /// The index is older than the replay window.
    #[error("the packet is older than the replay window")]
    TooOld,
    /// The peer used more sender SSRCs than we keep windows for.
    #[error("the peer uses too many sender SSRCs")]
    TooManySenders,
}

fn open_gcm(
    gcm: &Gcm,
    ssrc: u32,
    index: u64,
    word: [u8; INDEX_LEN],
    packet: &mut [u8],
) -> Result<(), OpenError> {
    if u32::from_be_bytes(word) & ENCRYPTED == 0 {
        // RFC 7714 §9.3 allows unencrypted SRTCP; no WebRTC peer sends it, so it is a forgery or a fault.
        return Err(OpenError::NotAuthentic);
    }
    let (header, sealed) = packet.split_at_mut(CLEAR_HEADER);
    let mut aad = [0; CLEAR_HEADER + INDEX_LEN];
    aad[..CLEAR_HEADER].copy_from_slice(header);
    aad[CLEAR_HEADER..].copy_from_slice(&word);
    if gcm.open(ssrc, index, &aad, sealed) { Ok(()) } else { Err(OpenError::NotAuthentic) }
}

fn open_counter_mode(
    cm: &CounterMode,
    ssrc: u32,
    index: u64,
    word: [u8; INDEX_LEN],
    length: usize,
    packet: &mut [u8],
) -> Result<(), OpenError> {
    let (covered, tag) = packet.split_at_mut(length + INDEX_LEN);
    if u32::from_be_bytes(word) & ENCRYPTED == 0 || !cm.verify(covered, tag) {
        return Err(OpenError::NotAuthentic);
    }
    cm.apply(ssrc, index, &mut covered[CLEAR_HEADER..length]);
    Ok(())
}

/// The sender's SSRC of an RTCP packet of at least eight bytes.
fn ssrc(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[4..8].try_into().expect("a range of that length"))
}
