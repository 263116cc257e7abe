//! The RTP header (RFC 3550 §5.1): read into [`Header`], written from [`Emit`].
//!
//! `Header` is what came in, with every bit kept; `Emit` is what goes out, with the few fields a sender chooses.
//! Padding is stripped on the way in and never written on the way out: Opus pads inside its own payload.

use std::ops::{Deref, Range};

use bytes::Bytes;

use super::{Extensions, VERSION, Values, WriteError, append, u16_at, u32_at};

/// Bytes of the header up to the SSRC.
pub const FIXED_BYTES: usize = 12;
/// Most contributing sources that the 4-bit count can say.
pub const MAX_CSRC: usize = 15;

/// The header of a received packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// First packet of a talk spurt (RFC 7587 §4.1).
    pub marker: bool,
    /// Payload type, 7 bits.
    pub payload_type: u8,
    /// Sequence number, wrapping.
    pub sequence: u16,
    /// Media timestamp, 48 kHz for Opus, wrapping.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Contributing sources.
    pub csrc: CsrcList,
    /// Header extensions as they came, parsed on demand.
    pub extensions: Extensions,
}

impl Header {
    /// Writes the header, extensions in their original form; returns its length.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if it does not fit or the payload type has more than 7 bits.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WriteError> {
        let extended = self.extensions.profile().is_some();
        let emit = Emit {
            marker: self.marker,
            payload_type: self.payload_type,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
            extensions: Values::default(),
        };
        let mut at = emit.write_fixed(self.csrc.len, extended, out)?;
        for csrc in self.csrc.iter() {
            at = append(out, at, &csrc.to_be_bytes())?;
        }
        self.extensions.write(out, at)
    }
}

/// The header of a packet to be sent: fixed fields and typed extension values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emit {
    /// First packet of a talk spurt.
    pub marker: bool,
    /// Payload type, 7 bits.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Media timestamp.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Header extensions; none of them set means no extension block.
    pub extensions: Values,
}

impl Emit {
    /// Writes the header and `payload`; returns the packet's length. Does not allocate.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the packet does not fit or a field is out of range; `out` is then unspecified.
    pub fn write(&self, payload: &[u8], out: &mut [u8]) -> Result<usize, WriteError> {
        let start = self.write_header(out)?;
        append(out, start, payload)
    }

    /// Writes the header alone; returns its length. Does not allocate.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the header does not fit or a field is out of range; `out` is then unspecified.
    pub fn write_header(&self, out: &mut [u8]) -> Result<usize, WriteError> {
        let at = self.write_fixed(0, !self.extensions.is_empty(), out)?;
        self.extensions.write(out, at)
    }

    fn write_fixed(&self, csrc_count: u8, extended: bool, out: &mut [u8]) -> Result<usize, WriteError> {
        if self.payload_type > 127 {
            return Err(WriteError::OutOfRange { field: "payload type" });
        }
        let mut fixed = [0; FIXED_BYTES];
        fixed[0] = (VERSION << 6) | (u8::from(extended) << 4) | csrc_count;
        fixed[1] = (u8::from(self.marker) << 7) | self.payload_type;
        fixed[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        append(out, 0, &fixed)
    }
}

/// Up to 15 contributing sources, held in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CsrcList {
    list: [u32; MAX_CSRC],
    len: u8,
}

impl CsrcList {
    /// The sources, in order; `None` if there are more than 15.
    #[must_use]
    pub fn new(sources: &[u32]) -> Option<Self> {
        let mut list = [0; MAX_CSRC];
        list.get_mut(..sources.len())?.copy_from_slice(sources);
        let len = u8::try_from(sources.len()).ok()?;
        Some(Self { list, len })
    }
}

impl Deref for CsrcList {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.list[..usize::from(self.len)]
    }
}

/// What is wrong with a datagram that should be an RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Shorter than the fixed header.
    #[error("{0} bytes are too few for an RTP header")]
    TooShort(usize),
    /// A version other than 2.
    #[error("RTP version is {0}, not 2")]
    Version(u8),
    /// The contributing sources that the header counts are not all there.
    #[error("the contributing sources are cut off")]
    CsrcTruncated,
    /// The extension block is longer than the datagram.
    #[error("the header extension is cut off")]
    ExtensionTruncated,
    /// The padding length is zero or more than what follows the header.
    #[error("padding of {padding} bytes after a header with {available} bytes behind it")]
    Padding {
        /// What the last byte of the packet says.
        padding: u8,
        /// Bytes between the header and the end.
        available: usize,
    },
}

/// Parses a header and says where in `datagram` the payload is.
pub(super) fn parse(datagram: &Bytes) -> Result<(Header, Range<usize>), ParseError> {
    let Some(&[first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]) =
        datagram.first_chunk::<FIXED_BYTES>()
    else {
        return Err(ParseError::TooShort(datagram.len()));
    };
    if first >> 6 != VERSION {
        return Err(ParseError::Version(first >> 6));
    }
    let (csrc, after_csrc) = parse_csrc(datagram, first & 0x0f)?;
    let (extensions, start) = match first & 0x10 {
        0 => (Extensions::default(), after_csrc),
        _ => parse_extensions(datagram, after_csrc)?,
    };
    let end = match first & 0x20 {
        0 => datagram.len(),
        _ => strip_padding(datagram, start)?,
    };
    let header = Header {
        marker: second & 0x80 != 0,
        payload_type: second & 0x7f,
        sequence: u16::from_be_bytes([s0, s1]),
        timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
        ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
        csrc,
        extensions,
    };
    Ok((header, start..end))
}

fn parse_csrc(datagram: &[u8], count: u8) -> Result<(CsrcList, usize), ParseError> {
    let mut csrc = CsrcList { list: [0; MAX_CSRC], len: count };
    let mut at = FIXED_BYTES;
    for source in &mut csrc.list[..usize::from(count)] {
        *source = u32_at(datagram, at).ok_or(ParseError::CsrcTruncated)?;
        at += 4;
    }
    Ok((csrc, at))
}

fn parse_extensions(datagram: &Bytes, at: usize) -> Result<(Extensions, usize), ParseError> {
    let profile = u16_at(datagram, at).ok_or(ParseError::ExtensionTruncated)?;
    let words = u16_at(datagram, at + 2).ok_or(ParseError::ExtensionTruncated)?;
    let start = at + 4;
    let end = start + usize::from(words) * 4;
    if end > datagram.len() {
        return Err(ParseError::ExtensionTruncated);
    }
    Ok((Extensions::new(profile, datagram.slice(start..end)), end))
}

/// Where the payload ends once the padding is gone (RFC 3550 §5.1: the last byte counts itself).
fn strip_padding(datagram: &[u8], start: usize) -> Result<usize, ParseError> {
    let available = datagram.len() - start;
    // With nothing behind the header there is no byte that could be the count.
    let padding = if available == 0 { 0 } else { datagram[datagram.len() - 1] };
    if padding == 0 || usize::from(padding) > available {
        return Err(ParseError::Padding { padding, available });
    }
    Ok(datagram.len() - usize::from(padding))
}
