//! Opening of inbound RTP, in place (RFC 3711 §3.3, RFC 7714 §8).
//!
//! Replays are not refused here: who counts duplicates has to see them. A packet that is not authentic leaves no trace.

use super::cipher::Cipher;
use super::rtcp::OpenError;

/// Opens the RTP packets of one peer.
#[derive(Debug)]
pub struct SrtpReceiver {
    cipher: Cipher,
    /// The highest index of each SSRC, in the order of appearance; at most [`SrtpReceiver::MAX_STREAMS`].
    streams: Vec<(u32, u64)>,
}

/// What an authentic packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened<'a> {
    /// The stream it belongs to.
    pub ssrc: u32,
    /// Its extended sequence number.
    pub index: u64,
    /// Its RTP timestamp.
    pub timestamp: u32,
    /// Its payload, without padding.
    pub payload: &'a [u8],
}

impl SrtpReceiver {
    /// Streams that one peer may send over the life of a connection. Memory: 16 bytes each.
    pub const MAX_STREAMS: usize = 8;

    pub(super) fn new(cipher: Cipher) -> Self {
        SrtpReceiver { cipher, streams: Vec::new() }
    }

    /// Authenticates `datagram` and decrypts it where it lies.
    ///
    /// # Errors
    /// [`OpenError::Short`] if it is no RTP packet with a tag, [`OpenError::NotAuthentic`], and
    /// [`OpenError::TooManySenders`] past [`SrtpReceiver::MAX_STREAMS`].
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<Opened<'a>, OpenError> {
        let header_len = header_len(datagram).ok_or(OpenError::Short)?;
        let ssrc = word(datagram, 8);
        let timestamp = word(datagram, 4);
        let sequence = u16::from_be_bytes([datagram[2], datagram[3]]);
        let known = self.streams.iter().position(|(known, _)| *known == ssrc);
        if known.is_none() && self.streams.len() == Self::MAX_STREAMS {
            return Err(OpenError::TooManySenders);
        }
        let index = match known {
            Some(at) => nearest(self.streams[at].1, sequence),
            None => u64::from(sequence),
        };
        let length = open_at(&self.cipher, index, header_len, datagram)?;
        match known {
            Some(at) => self.streams[at].1 = self.streams[at].1.max(index),
            None => self.streams.push((ssrc, index)),
        }
        let padded = datagram[0] & PADDING != 0;
        let payload = &datagram[header_len..header_len + length];
        Ok(Opened {
            ssrc,
            index,
            timestamp,
            payload: if padded { without_padding(payload) } else { payload },
        })
    }
}

const FIXED_HEADER: usize = 12;
const PADDING: u8 = 0x20;
const EXTENSION: u8 = 0x10;

/// Bytes of the RTP header, if all of it is there (RFC 3550 §5.1).
fn header_len(datagram: &[u8]) -> Option<usize> {
    let first = *datagram.first().filter(|first| **first >> 6 == 2)?;
    let mut length = FIXED_HEADER + 4 * usize::from(first & 0x0F);
    if first & EXTENSION != 0 {
        let head = datagram.get(length..length + 4)?;
        length += 4 + 4 * usize::from(u16::from_be_bytes([head[2], head[3]]));
    }
    (datagram.len() >= length).then_some(length)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The index with this sequence number that lies nearest to the highest one so far (RFC 3711 §3.3.1).
fn nearest(highest: u64, sequence: u16) -> u64 {
    let same = (highest & !0xFFFF) | u64::from(sequence);
    if same + 0x8000 < highest {
        same + 0x1_0000
    } else if same > highest + 0x8000 && same >= 0x1_0000 {
        same - 0x1_0000
    } else {
        same
    }
}

/// RFC 3550 §5.1: the last byte says how many there are, itself included. A count that cannot be is no padding.
fn without_padding(payload: &[u8]) -> &[u8] {
    let padding = payload.last().map_or(0, |last| usize::from(*last));
    payload.get(..payload.len().wrapping_sub(padding)).unwrap_or(payload)
}

/// Opens the packet of this index; returns the length of its payload, padding included.
fn open_at(cipher: &Cipher, index: u64, header_len: usize, packet: &mut [u8]) -> Result<usize, OpenError> {
    let length = packet.len().checked_sub(header_len + cipher.tag_len()).ok_or(OpenError::Short)?;
    let ssrc = word(packet, 8);
    let authentic = match cipher {
        Cipher::Gcm(gcm) => {
            let (header, sealed) = packet.split_at_mut(header_len);
            gcm.open(ssrc, index, header, sealed)
        }
        Cipher::CounterMode(cm) => {
            let end = header_len + length;
            let mut tag = [0; 10];
            tag.copy_from_slice(&packet[end..]);
            // RFC 3711 §4.2: authenticated is the packet and then the rollover counter, which stands where the tag was.
            packet[end..end + 4].copy_from_slice(&((index >> 16) as u32).to_be_bytes());
            let authentic = cm.verify(&packet[..end + 4], &tag);
            if authentic {
                cm.apply(ssrc, index, &mut packet[header_len..end]);
            }
            authentic
        }
    };
    if authentic { Ok(length) } else { Err(OpenError::NotAuthentic) }
}

/// Opening of packets whose indices are known.
#[cfg(test)]
pub(crate) mod test_support {
    use super::super::KeyingMaterial;
    use super::*;

    /// Opens the SRTP packets of a peer, given their indices.
    pub(crate) struct SrtpOpener(Cipher);

    impl SrtpOpener {
        pub(crate) fn new(keys: &KeyingMaterial) -> Self {
            SrtpOpener(Cipher::rtp(keys.profile, &keys.masters.inbound))
        }

        pub(in super::super) fn from_cipher(cipher: Cipher) -> Self {
            SrtpOpener(cipher)
        }

        /// The payload, if the packet with this header length and rollover counter is authentic.
        pub(crate) fn open(&self, rollover: u32, header_len: usize, packet: &[u8]) -> Option<Vec<u8>> {
            let sequence = u16::from_be_bytes(packet.get(2..4)?.try_into().unwrap());
            let index = u64::from(rollover) << 16 | u64::from(sequence);
            let mut packet = packet.to_vec();
            let length = open_at(&self.0, index, header_len, &mut packet).ok()?;
            Some(packet[header_len..header_len + length].to_vec())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{KeyingMaterial, Role, SrtpProfile};
    use super::*;

    const PROFILES: [SrtpProfile; 3] =
        [SrtpProfile::AeadAes256Gcm, SrtpProfile::AeadAes128Gcm, SrtpProfile::Aes128CmSha1_80];

    fn keys(profile: SrtpProfile) -> (KeyingMaterial, KeyingMaterial) {
        let exported: Vec<u8> = (0..profile.exported_len()).map(|at| at as u8 ^ 0x5a).collect();
        let of = |role| KeyingMaterial::from_dtls(profile, &exported, role).unwrap();
        (of(Role::Server), of(Role::Client))
    }

    fn header(ssrc: u32, sequence: u16) -> Vec<u8> {
        let mut header = vec![0x80, 96];
        header.extend(sequence.to_be_bytes());
        header.extend(7_u32.to_be_bytes());
        header.extend(ssrc.to_be_bytes());
        header
    }

    #[test]
    fn indices_are_followed_over_wraps_whatever_the_order() {
        for profile in PROFILES {
            let (ours, theirs) = keys(profile);
            let (mut sender, mut receiver) = (ours.srtp_sender(9), theirs.srtp_receiver());
            for index in
                [65_530, 65_535, 65_537, 65_536, 65_534, 80_000, 110_000, 131_071, 131_073, 131_072_u64]
            {
                let mut out = [0; 64];
                let length = sender.seal(index, &header(9, index as u16), b"voice", &mut out).unwrap();
                let mut again = out;
                let opened = receiver.open(&mut out[..length]).unwrap();
                assert_eq!(opened, Opened { ssrc: 9, index, timestamp: 7, payload: b"voice" });
                assert_eq!(receiver.open(&mut again[..length]).unwrap().index, index, "a replay is seen");
            }
        }
    }

    #[test]
    fn a_packet_that_is_changed_or_cut_is_refused_and_forgotten() {
        for profile in PROFILES {
            let (ours, theirs) = keys(profile);
            let mut receiver = theirs.srtp_receiver();
            let mut out = [0; 64];
            let length = ours.srtp_sender(9).seal(5, &header(9, 5), b"voice", &mut out).unwrap();
            for cut in 0..length {
                assert!(receiver.open(&mut out[..cut].to_vec()).is_err(), "{cut}");
            }
            for at in 0..length {
                let mut forged = out;
                forged[at] ^= 1;
                assert!(receiver.open(&mut forged[..length]).is_err(), "{at}");
            }
            assert!(receiver.streams.is_empty());
            assert_eq!(receiver.open(&mut out[..length]).unwrap().payload, b"voice");
        }
    }

    #[test]
    fn extensions_are_skipped_and_padding_is_cut() {
        let (ours, theirs) = keys(SrtpProfile::AeadAes128Gcm);
        let mut head = header(9, 5);
        head[0] |= PADDING | EXTENSION;
        head.extend([0xBE, 0xDE, 0, 1, 0x10, 1, 0, 0]);
        let mut out = [0; 64];
        let length = ours.srtp_sender(9).seal(5, &head, b"voice\x00\x00\x03", &mut out).unwrap();
        assert_eq!(theirs.srtp_receiver().open(&mut out[..length]).unwrap().payload, b"voice");
        assert_eq!(without_padding(b"voice\xff"), b"voice\xff");
        assert_eq!(without_padding(b""), b"");
    }

    #[test]
    fn streams_are_bounded() {
        let (ours, theirs) = keys(SrtpProfile::AeadAes256Gcm);
        let mut receiver = theirs.srtp_receiver();
        for ssrc in 0..=SrtpReceiver::MAX_STREAMS as u32 {
            let mut out = [0; 64];
            let length = ours.srtp_sender(ssrc).seal(5, &header(ssrc, 5), b"x", &mut out).unwrap();
            let opened = receiver.open(&mut out[..length]).map(|opened| opened.ssrc);
            let full = ssrc == SrtpReceiver::MAX_STREAMS as u32;
            assert_eq!(opened, if full { Err(OpenError::TooManySenders) } else { Ok(ssrc) });
        }
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), first in 0x80_u8..0xC0) {
            for profile in PROFILES {
                let mut bytes = bytes.clone();
                if let Some(byte) = bytes.first_mut() {
                    *byte = first;
                }
                prop_assert!(keys(profile).1.srtp_receiver().open(&mut bytes).is_err());
            }
        }
    }
}
