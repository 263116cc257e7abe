//! What a datagram is and whom it is for, before anything else looks at it.
//!
//! Pure and O(1): the first byte gives the class (RFC 7983), a STUN request's USERNAME gives the ufrag, and the
//! ufrag, which the relay chose, gives shard and slot. Nothing here is authenticated; whoever uses the answer
//! verifies the request's MESSAGE-INTEGRITY before it learns anything from it.

mod limiter;

pub(super) use limiter::Limiter;

/// What a datagram is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// STUN (RFC 8489).
    Stun,
    /// A DTLS record.
    Dtls,
    /// RTP, encrypted or not.
    Rtp,
    /// RTCP, encrypted or not (RFC 5761 §4).
    Rtcp,
    /// None of these (TURN channels and ZRTP included): dropped.
    Unknown,
}

/// Classifies a datagram (RFC 7983 §7, RFC 5761 §4).
pub fn classify(datagram: &[u8]) -> Class {
    match (datagram.first(), datagram.get(1)) {
        (Some(0..=3), _) => Class::Stun,
        (Some(20..=63), _) => Class::Dtls,
        // RTCP packet types 192 to 223 are RTP payload types 64 to 95 with the marker set.
        (Some(128..=191), Some(192..=223)) => Class::Rtcp,
        (Some(128..=191), Some(_)) => Class::Rtp,
        _ => Class::Unknown,
    }
}

const STUN_HEADER_BYTES: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const USERNAME: u16 = 0x0006;
/// The most attributes that are walked to find the USERNAME.
const MAX_ATTRIBUTES: usize = 32;

/// The part of a STUN binding request's USERNAME that names its receiver: our ufrag.
///
/// `None` for whatever is no well-formed binding request. Nothing is authenticated by this.
pub fn local_ufrag(datagram: &[u8]) -> Option<&str> {
    let header = datagram.get(..STUN_HEADER_BYTES)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let well_formed = header[..2] == BINDING_REQUEST
        && header[4..8] == MAGIC_COOKIE
        && length.is_multiple_of(4)
        && datagram.len() == STUN_HEADER_BYTES + length;
    if !well_formed {
        return None;
    }
    let mut rest = &datagram[STUN_HEADER_BYTES..];
    for _ in 0..MAX_ATTRIBUTES {
        let (head, tail) = rest.split_at_checked(4)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = tail.get(..length)?;
        if kind == USERNAME {
            let (local, _remote) = std::str::from_utf8(value).ok()?.split_once(':')?;
            return Some(local);
        }
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// A local ICE user fragment: 1 character of shard, 5 of slot, 18 random ones (90 bits), all base32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ufrag([u8; Ufrag::LENGTH]);

impl Ufrag {
    const LENGTH: usize = 24;
    const ALPHABET: &'static [u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    /// Slots that a ufrag can name.
    pub const MAX_SLOTS: usize = 1 << 25;

    /// Makes the ufrag of a slot; the low 90 bits of `random` are used.
    ///
    /// # Panics
    /// When the shard is above 31 or the slot does not fit: the owner bounds both.
    pub fn new(shard: u8, slot: usize, random: u128) -> Self {
        assert!(shard < 32 && slot < Self::MAX_SLOTS, "shard and slot fit a ufrag");
        let digit = |value: u128, at: usize| Self::ALPHABET[(value >> (5 * at)) as usize & 31];
        let mut text = [0; Self::LENGTH];
        text[0] = Self::ALPHABET[usize::from(shard)];
        for (at, byte) in text[1..6].iter_mut().enumerate() {
            *byte = digit(slot as u128, at);
        }
        for (at, byte) in text[6..].iter_mut().enumerate() {
            *byte = digit(random, at);
        }
        Self(text)
    }

    /// The text that goes into the SDP.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }

    /// Reads shard and slot from what may be a ufrag of ours.
    pub fn decode(text: &str) -> Option<(u8, usize)> {
        let bytes = text.as_bytes();
        if bytes.len() != Self::LENGTH {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'a'..=b'z' => Some(usize::from(byte - b'a')),
            b'2'..=b'7' => Some(usize::from(byte - b'2') + 26),
            _ => None,
        };
        let shard = digit(bytes[0])? as u8;
        let mut slot = 0;
        for (at, byte) in bytes[1..6].iter().enumerate() {
            slot |= digit(*byte)? << (5 * at);
        }
        Some((shard, slot))
    }
}

/// Base32 text of `length` characters from a source of random numbers: an ICE password.
pub(super) fn random_text(length: usize, mut random: impl FnMut() -> u128) -> String {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut value = random();
        for _ in 0..25.min(length - text.len()) {
            text.push(char::from(Ufrag::ALPHABET[(value & 31) as usize]));
            value >>= 5;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: [u8; 2], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend((value.len() as u16).to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut datagram = kind.to_vec();
        datagram.extend((body.len() as u16).to_be_bytes());
        datagram.extend(MAGIC_COOKIE);
        datagram.extend([7; 12]);
        datagram.extend(body);
        datagram
    }

    #[test]
    fn the_first_byte_gives_the_class() {
        for first in 0..=255_u8 {
            let expected = match first {
                0..=3 => Class::Stun,
                20..=63 => Class::Dtls,
                128..=191 => Class::Rtp,
                _ => Class::Unknown,
            };
            assert_eq!(classify(&[first, 111, 0, 0]), expected, "{first}");
        }
        for second in 0..=255_u8 {
            let rtcp = (192..=223).contains(&second);
            assert_eq!(classify(&[0x80, second]) == Class::Rtcp, rtcp, "{second}");
        }
        assert_eq!(classify(&[]), Class::Unknown);
        assert_eq!(classify(&[0x80]), Class::Unknown);
    }

    #[test]
    fn a_ufrag_comes_back_as_shard_and_slot() {
        for (shard, slot) in [(0, 0), (31, Ufrag::MAX_SLOTS - 1), (3, 19_999), (1, 33)] {
            let ufrag = Ufrag::new(shard, slot, u128::MAX / 3);
            assert_eq!(Ufrag::decode(ufrag.as_str()), Some((shard, slot)));
            assert!(ufrag.as_str().bytes().all(|b| b.is_ascii_alphanumeric()));
        }
        for text in ["", "abc", "ABCDEFGHIJKLMNOPQRSTUVWX", "aaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert_eq!(Ufrag::decode(text), None);
        }
    }

    #[test]
    fn the_username_is_found_behind_other_attributes() {
        let datagram =
            request(BINDING_REQUEST, &[(0x24, &[0; 4]), (0x8022, b"agent"), (USERNAME, b"ours:theirs")]);
        assert_eq!(local_ufrag(&datagram), Some("ours"));
        for length in 0..datagram.len() {
            assert_eq!(local_ufrag(&datagram[..length]), None, "cut to {length}");
        }
        for kind in [[0x00, 0x11], [0x01, 0x01], [0x01, 0x11], [0x00, 0x03]] {
            assert_eq!(local_ufrag(&request(kind, &[(USERNAME, b"ours:theirs")])), None);
        }
        assert_eq!(local_ufrag(&request(BINDING_REQUEST, &[(USERNAME, b"nocolon")])), None);
        assert_eq!(local_ufrag(&request(BINDING_REQUEST, &[(USERNAME, &[0xFF, b':'])])), None);
        let many = vec![(0x24_u16, &[][..]); MAX_ATTRIBUTES + 1];
        assert_eq!(local_ufrag(&request(BINDING_REQUEST, &many)), None);
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_panics(bytes: Vec<u8>) {
            let _class = classify(&bytes);
            let _ufrag = local_ufrag(&bytes).and_then(Ufrag::decode);
        }
    }
}
