//! Sealing of outbound RTP.

use std::num::NonZeroU32;
use std::time::Duration;

use thiserror::Error;

use super::cipher::{Cipher, CounterMode};
use super::sealed::Sealed;
use super::{Master, SrtpProfile, wide};

/// Bytes of the fixed RTP header.
const FIXED_HEADER: usize = 12;

/// Indices have 48 bits: rollover counter and sequence number.
const INDEX_LIMIT: u64 = 1 << 48;

/// How long a packet may be wanted again, if nobody says.
const HISTORY: Duration = Duration::from_secs(30);

/// Seals the packets of one RTP stream.
///
/// Invariant: under one index there is one packet. A first seal takes an index that was not taken; a seal again gives
/// out the same bytes as the first one or nothing: the tag, which depends on key, index and every byte of the packet,
/// has to be the one that the index was taken with. Indices that may have been taken so long ago that nobody remembers
/// are not sealed at all.
///
/// By the wide way, all that a first packet touches lies in it, not behind it, but for one in eight (see `Sealed`): senders
/// in a row are read in a row. The key of that way lies in it, too, and is best made where the sender is to stay: one that
/// is moved leaves its key behind.
#[derive(Debug)]
pub struct SrtpSender {
    /// The faster way for short packets.
    wide: Option<wide::Key>,
    cipher: Cipher,
    ssrc: u32,
    sealed: Sealed,
}

impl SrtpSender {
    /// Without the wide way.
    pub(super) fn new(cipher: Cipher, ssrc: u32) -> Self {
        SrtpSender { wide: None, cipher, ssrc, sealed: Sealed::new(ticks(HISTORY)) }
    }

    /// Takes the wide way from now on, if there is one; the keys are those that it was made from.
    pub(super) fn widen(&mut self, profile: SrtpProfile, master: &Master) {
        self.cipher.widen(profile, master, &mut self.wide);
    }

    /// For packets that may be wanted again for so long, by their timestamps; 30 s unless this says otherwise.
    ///
    /// Memory: 4 bytes for each, in powers of two: 8 KiB for 30 s of 20 ms frames, 4 KiB at least, 128 KiB at most.
    #[must_use]
    pub fn keeping(mut self, history: Duration) -> Self {
        self.sealed = Sealed::new(ticks(history));
        self
    }

    /// Whether it has the wide way.
    #[cfg(test)]
    pub(crate) fn is_wide(&self) -> bool {
        self.wide.is_some()
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
        let out = self.room(index, header_len, payload, out)?;
        match self.sealed.get(index)? {
            None => Ok(self.take(index, header_len, payload, out)),
            Some(_) => Err(SealError::Reused),
        }
    }

    /// As [`SrtpSender::seal_behind`], for a packet that may have been sealed before: then it comes out as it did.
    ///
    /// # Errors
    /// [`SealError::Changed`] if the index was taken by a packet that differs in any byte; `out` is then wiped. The
    /// others as for a first seal, but [`SealError::Reused`].
    pub fn seal_again_behind(
        &mut self,
        index: u64,
        header_len: usize,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let out = self.room(index, header_len, payload, out)?;
        let Some(digest) = self.sealed.get(index)? else {
            return Ok(self.take(index, header_len, payload, out));
        };
        self.encrypt(index, header_len, payload, out);
        if self.digest(out) != digest {
            // What is here and what was sent would, together, give both away.
            out.fill(0);
            return Err(SealError::Changed);
        }
        Ok(out.len())
    }

    /// The part of `out` that the packet will fill, if header and index belong together.
    fn room<'a>(
        &self,
        index: u64,
        header_len: usize,
        payload: &[u8],
        out: &'a mut [u8],
    ) -> Result<&'a mut [u8], SealError> {
        let length = header_len + payload.len() + self.overhead();
        let out = out.get_mut(..length).ok_or(SealError::NoRoom)?;
        let header = &out[..header_len];
        if header.len() < FIXED_HEADER
            || header[2..4] != (index as u16).to_be_bytes()
            || header[8..12] != self.ssrc.to_be_bytes()
        {
            return Err(SealError::Header);
        }
        if index >= INDEX_LIMIT { Err(SealError::Exhausted) } else { Ok(out) }
    }

    fn take(&mut self, index: u64, header_len: usize, payload: &[u8], out: &mut [u8]) -> usize {
        let timestamp = u32::from_be_bytes([out[4], out[5], out[6], out[7]]);
        self.encrypt(index, header_len, payload, out);
        self.sealed.take(index, timestamp, self.digest(out));
        out.len()
    }

    fn encrypt(&self, index: u64, header_len: usize, payload: &[u8], out: &mut [u8]) {
        match &self.cipher {
            Cipher::Gcm(gcm) => {
                // RFC 7714 §8.2: the whole header is associated data.
                let (header, sealed) = out.split_at_mut(header_len);
                gcm.seal_with(self.wide.as_ref(), self.ssrc, index, header, payload, sealed);
            }
            Cipher::CounterMode(cm) => seal_counter_mode(cm, self.ssrc, index, header_len, payload, out),
        }
    }

    /// 32 bits of the tag. Two packets under one index have the same ones by chance only, 1 in 2^32: the tag is a keyed
    /// hash of all that is sent.
    fn digest(&self, sealed: &[u8]) -> NonZeroU32 {
        let tag = &sealed[sealed.len() - self.overhead()..];
        let bits = u32::from_be_bytes([tag[0], tag[1], tag[2], tag[3]]);
        NonZeroU32::new(bits).unwrap_or(NonZeroU32::MIN)
    }
}

/// Why a packet was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The index was sealed before: a second packet under the same nonce would give both away.
    #[error("the index was used before")]
    Reused,
    /// The index was sealed before, with another packet.
    #[error("the index was used for another packet")]
    Changed,
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

/// At the 48 kHz of RTP timestamps for Opus (RFC 7587 §4.1); what does not fit half their range counts as that.
fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis().saturating_mul(48)).unwrap_or(u32::MAX).min(i32::MAX as u32)
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
