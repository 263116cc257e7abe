//! The wire: RTP, its header extensions, RTCP and the Opus byte that says how long a packet lasts.
//!
//! Everything here is a pure function of bytes or of numbers. Parsing never allocates and never copies a
//! payload: [`Packet::parse`] takes a [`Bytes`] and hands out slices of it. Emission writes into a buffer that
//! the caller owns. No bytes of any length can make this module panic; what is wrong comes back as a typed error.
//!
//! | standard | what of it |
//! |---|---|
//! | RFC 3550 | RTP header, padding, CSRC; SR, RR, SDES, BYE, APP |
//! | RFC 4585, RFC 5506 | generic NACK, reduced-size RTCP |
//! | RFC 8285 | one-byte and two-byte header extensions |
//! | RFC 6464, RFC 9143, abs-capture-time | audio level, mid, capture time |
//! | RFC 6716 §3.1 | the Opus table of contents |

use bytes::Bytes;

pub mod extension;
pub mod header;
pub mod ntp;
pub mod opus;
pub mod rtcp;
pub mod seq;

pub use self::extension::{AudioLevel, CaptureTime, ExtensionIds, Extensions, Mid, Values};
pub use self::header::{Emit, Header, ParseError};
pub use self::ntp::NtpTime;

/// The RTP version that this module reads and writes.
const VERSION: u8 = 2;

/// One RTP packet: its header and its payload, without padding.
///
/// The payload shares the memory of the datagram it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The fields of the fixed header, CSRCs and header extensions.
    pub header: Header,
    /// What the packet carries, padding removed. May be empty: a packet of padding only is a legal probe.
    pub payload: Bytes,
}

impl Packet {
    /// Parses a datagram (RFC 3550 §5.1).
    ///
    /// # Errors
    ///
    /// [`ParseError`] names what is wrong with the datagram.
    pub fn parse(datagram: Bytes) -> Result<Self, ParseError> {
        let (header, payload) = header::parse(&datagram)?;
        Ok(Self { header, payload: datagram.slice(payload) })
    }

    /// Writes the packet as it was parsed, extensions in their original form, without padding.
    ///
    /// Returns the number of bytes written.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if it does not fit or a field is out of range; `out` is then unspecified.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WriteError> {
        let start = self.header.write(out)?;
        append(out, start, &self.payload)
    }
}

/// Why a packet could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The buffer is shorter than the packet.
    #[error("the packet needs {needed} bytes, the buffer has {available}")]
    NoSpace {
        /// Bytes that the part being written ends at.
        needed: usize,
        /// Bytes that the buffer has.
        available: usize,
    },
    /// A field does not fit the bits that the format gives it.
    #[error("{field} is out of range")]
    OutOfRange {
        /// The name of the field.
        field: &'static str,
    },
}

/// Says whether a datagram is RTCP rather than RTP, when both share a port (RFC 5761 §4).
///
/// Meant for datagrams already known to be one of the two.
#[must_use]
pub fn is_rtcp(datagram: &[u8]) -> bool {
    datagram.get(1).is_some_and(|packet_type| (192..=223).contains(packet_type))
}

/// Copies `bytes` to `out[at..]` and returns where they end.
fn append(out: &mut [u8], at: usize, bytes: &[u8]) -> Result<usize, WriteError> {
    let end = at + bytes.len();
    let available = out.len();
    let room = out.get_mut(at..end).ok_or(WriteError::NoSpace { needed: end, available })?;
    room.copy_from_slice(bytes);
    Ok(end)
}

/// The big-endian 16 bits at `at`, if they are there.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

/// The big-endian 32 bits at `at`, if they are there.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests;
