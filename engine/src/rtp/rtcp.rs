//! RTCP (RFC 3550 §6): compound datagrams read packet by packet, and the few packets that the relay sends.
//!
//! [`Compound`] iterates a decrypted datagram without copying. It reads reduced-size compounds too (RFC 5506), so
//! it asks for no particular first packet. What it does not know it hands out as [`Packet::Other`]; what is
//! malformed ends it with an error. No bytes can make it panic.

use super::{NtpTime, VERSION, u16_at, u32_at};

mod write;

pub use self::write::{write_bye, write_description, write_nack};

/// Packet types (RFC 3550 §12.1, RFC 4585 §6.1).
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;

/// The format of a generic NACK among the transport feedback messages (RFC 4585 §6.2.1).
const GENERIC_NACK: u8 = 1;

/// Bytes of a report block.
const BLOCK_BYTES: usize = 24;

/// The packets of one RTCP datagram, in order.
///
/// After an error there is nothing more: the length of what is malformed cannot be trusted.
#[derive(Clone, Debug)]
pub struct Compound<'a> {
    rest: &'a [u8],
}

impl<'a> Compound<'a> {
    /// Reads a decrypted datagram.
    #[must_use]
    pub const fn parse(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    fn next_packet(&mut self) -> Result<Packet<'a>, RtcpError> {
        let available = self.rest.len();
        let Some(&[first, packet_type, l0, l1]) = self.rest.first_chunk::<4>() else {
            return Err(RtcpError::TooShort(available));
        };
        if first >> 6 != VERSION {
            return Err(RtcpError::Version(first >> 6));
        }
        let length = (usize::from(u16::from_be_bytes([l0, l1])) + 1) * 4;
        let Some((packet, rest)) = self.rest.split_at_checked(length) else {
            return Err(RtcpError::Length { length, available });
        };
        self.rest = rest;
        let body = match first & 0x20 {
            0 => &packet[4..],
            _ => strip_padding(&packet[4..])?,
        };
        Packet::parse(packet_type, first & 0x1f, body)
    }
}

impl<'a> Iterator for Compound<'a> {
    type Item = Result<Packet<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let next = self.next_packet();
        if next.is_err() {
            self.rest = &[];
        }
        Some(next)
    }
}

/// One packet of a compound.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Packet<'a> {
    /// A sender report and what its sender received.
    SenderReport(SenderReport, Blocks<'a>),
    /// What a receiver received.
    ReceiverReport(ReceiverReport<'a>),
    /// Sources that leave.
    Bye(Bye<'a>),
    /// Packets that are missing (RFC 4585 §6.2.1).
    Nack(Nacks<'a>),
    /// Anything else, skipped: source descriptions, APP, other feedback, unknown types.
    Other {
        /// The packet type.
        packet_type: u8,
        /// The 5 bits that are a count or a format, depending on the type.
        format: u8,
    },
}

impl<'a> Packet<'a> {
    fn parse(packet_type: u8, count: u8, body: &'a [u8]) -> Result<Self, RtcpError> {
        let truncated = RtcpError::Truncated { packet_type };
        match (packet_type, count) {
            (SENDER_REPORT, count) => {
                let report = SenderReport::parse(body).ok_or(truncated)?;
                let blocks = Blocks::parse(&body[24..], count).ok_or(truncated)?;
                Ok(Self::SenderReport(report, blocks))
            }
            (RECEIVER_REPORT, count) => {
                let ssrc = u32_at(body, 0).ok_or(truncated)?;
                let blocks = Blocks::parse(&body[4..], count).ok_or(truncated)?;
                Ok(Self::ReceiverReport(ReceiverReport { ssrc, blocks }))
            }
            (BYE, count) => Ok(Self::Bye(Bye::parse(body, count).ok_or(truncated)?)),
            (TRANSPORT_FEEDBACK, GENERIC_NACK) => Ok(Self::Nack(Nacks::parse(body).ok_or(truncated)?)),
            (packet_type, format) => Ok(Self::Other { packet_type, format }),
        }
    }
}

/// What a sender says of its stream (RFC 3550 §6.4.1), without the report blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderReport {
    /// Who sends.
    pub ssrc: u32,
    /// The moment of the report.
    pub ntp: NtpTime,
    /// The same moment on the stream's media clock.
    pub rtp_timestamp: u32,
    /// Packets sent so far, wrapping.
    pub packet_count: u32,
    /// Payload bytes sent so far, wrapping.
    pub octet_count: u32,
}

impl SenderReport {
    fn parse(body: &[u8]) -> Option<Self> {
        let ntp = (u64::from(u32_at(body, 4)?) << 32) | u64::from(u32_at(body, 8)?);
        Some(Self {
            ssrc: u32_at(body, 0)?,
            ntp: NtpTime(ntp),
            rtp_timestamp: u32_at(body, 12)?,
            packet_count: u32_at(body, 16)?,
            octet_count: u32_at(body, 20)?,
        })
    }
}

/// A receiver report: who reports, and its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverReport<'a> {
    /// Who reports.
    pub ssrc: u32,
    /// One block for each source it hears.
    pub blocks: Blocks<'a>,
}

/// The report blocks of a sender or receiver report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks<'a> {
    bytes: &'a [u8],
}

impl<'a> Blocks<'a> {
    /// What follows the blocks is a profile's own extension, and ignored.
    fn parse(body: &'a [u8], count: u8) -> Option<Self> {
        Some(Self { bytes: body.get(..usize::from(count) * BLOCK_BYTES)? })
    }
}

impl Iterator for Blocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let (block, rest) = self.bytes.split_first_chunk::<BLOCK_BYTES>()?;
        self.bytes = rest;
        ReportBlock::parse(block)
    }
}

/// How well one source is received (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// Whose packets are counted.
    pub ssrc: u32,
    /// Share lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost so far, 24 bits signed: duplicates can make it negative.
    pub cumulative_lost: i32,
    /// Highest sequence number received; cycles in the upper 16 bits.
    pub highest_sequence: u32,
    /// Interarrival jitter in timestamp units.
    pub jitter: u32,
    /// The middle 32 bits of the last sender report's time, 0 if there was none.
    pub last_sender_report: u32,
    /// Time since that report, in 1/65536 s.
    pub delay_since_last_sender_report: u32,
}

impl ReportBlock {
    fn parse(block: &[u8; BLOCK_BYTES]) -> Option<Self> {
        let loss = u32_at(block, 4)?;
        Some(Self {
            ssrc: u32_at(block, 0)?,
            fraction_lost: block[4],
            // The shift up and down spreads the sign of the 24 bits.
            cumulative_lost: (loss << 8).cast_signed() >> 8,
            highest_sequence: u32_at(block, 8)?,
            jitter: u32_at(block, 12)?,
            last_sender_report: u32_at(block, 16)?,
            delay_since_last_sender_report: u32_at(block, 20)?,
        })
    }
}

/// Sources that leave (RFC 3550 §6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bye<'a> {
    sources: &'a [u8],
    reason: Option<&'a [u8]>,
}

impl<'a> Bye<'a> {
    fn parse(body: &'a [u8], count: u8) -> Option<Self> {
        let (sources, rest) = body.split_at_checked(usize::from(count) * 4)?;
        let reason = match rest.split_first() {
            None => None,
            Some((&length, text)) => Some(text.get(..usize::from(length))?),
        };
        Some(Self { sources, reason })
    }

    /// The sources that leave.
    pub fn sources(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (words, _) = self.sources.as_chunks::<4>();
        words.iter().map(|word| u32::from_be_bytes(*word))
    }

    /// Why, in the leaver's words: UTF-8 by the RFC, unchecked here.
    #[must_use]
    pub const fn reason(&self) -> Option<&'a [u8]> {
        self.reason
    }
}

/// The entries of a generic NACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nacks<'a> {
    sender_ssrc: u32,
    media_ssrc: u32,
    entries: &'a [u8],
}

impl<'a> Nacks<'a> {
    fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender_ssrc, media_ssrc) = (u32_at(body, 0)?, u32_at(body, 4)?);
        Some(Self { sender_ssrc, media_ssrc, entries: &body[8..] })
    }
}

impl Iterator for Nacks<'_> {
    type Item = Nack;

    fn next(&mut self) -> Option<Nack> {
        let (first, following) = (u16_at(self.entries, 0)?, u16_at(self.entries, 2)?);
        self.entries = &self.entries[4..];
        Some(Nack { sender_ssrc: self.sender_ssrc, media_ssrc: self.media_ssrc, first, following })
    }
}

/// One entry of a generic NACK: a missing packet and a mask of the 16 behind it (RFC 4585 §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Who misses them.
    pub sender_ssrc: u32,
    /// Whose packets are missing.
    pub media_ssrc: u32,
    /// The first missing sequence number (PID).
    pub first: u16,
    /// Bit n set: `first + n + 1` is missing too (BLP).
    pub following: u16,
}

impl Nack {
    /// The missing sequence numbers, wrapping, in order.
    pub fn sequences(self) -> impl Iterator<Item = u16> {
        let marked = (0..16).filter(move |bit| self.following & (1 << bit) != 0);
        std::iter::once(self.first).chain(marked.map(move |bit| self.first.wrapping_add(bit + 1)))
    }
}

/// What is wrong with an RTCP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RtcpError {
    /// Less than the 4 bytes that every packet begins with.
    #[error("{0} bytes are too few for an RTCP header")]
    TooShort(usize),
    /// A version other than 2.
    #[error("RTCP version is {0}, not 2")]
    Version(u8),
    /// The length field goes past the end of the datagram.
    #[error("an RTCP packet of {length} bytes in {available} bytes")]
    Length {
        /// What the packet's length field says, in bytes.
        length: usize,
        /// What there is.
        available: usize,
    },
    /// The padding length is zero, no multiple of 4, or more than the packet.
    #[error("RTCP padding of {0} bytes")]
    Padding(u8),
    /// The packet is shorter than its type and count need.
    #[error("an RTCP packet of type {packet_type} is cut off")]
    Truncated {
        /// The packet type.
        packet_type: u8,
    },
}

/// The body without its padding (RFC 3550 §6.4.1: the last byte counts itself, a multiple of 4).
fn strip_padding(body: &[u8]) -> Result<&[u8], RtcpError> {
    let padding = body.last().copied().unwrap_or_default();
    let end = body.len().checked_sub(usize::from(padding));
    match end {
        Some(end) if padding != 0 && padding.is_multiple_of(4) => Ok(&body[..end]),
        _ => Err(RtcpError::Padding(padding)),
    }
}

#[cfg(test)]
mod tests;
