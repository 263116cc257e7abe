//! Writes received audio as an Ogg Opus file.
//!
//! Granule positions follow the RTP timestamps. Audio that never came is stood in for by packets of empty frames, which a
//! decoder conceals (RFC 7845 §4.1): the file plays as long as the listening lasted. A gap too long for that only
//! moves the granule position. A page is closed after a second at most, so whatever ends the process leaves a playable file.

use std::io::{self, Write};

use bytes::Bytes;
use ogg::{PacketWriteEndInfo, PacketWriter};
use thiserror::Error;

use super::{CLOCK_HZ, Head, packet_samples};

/// Audio on one page at most.
const PAGE_SAMPLES: u64 = CLOCK_HZ as u64;
/// The longest gap that is filled with empty frames: 3000 two-byte packets at most.
const FILL_SAMPLES: u64 = 60 * CLOCK_HZ as u64;

/// Writes one Ogg Opus stream.
pub struct Writer<W: Write> {
    pages: PacketWriter<'static, W>,
    serial: u32,
    /// The last packet given, not yet on a page: it may be the one that ends the page or the stream.
    held: Option<Held>,
    /// RTP timestamp that follows the last packet.
    next_timestamp: Option<u32>,
    /// End of the audio so far, in samples from the start.
    granule: u64,
    /// End of the last closed page.
    page_start: u64,
    /// TOC configuration of the last packet, for the packets that fill a gap.
    toc: u8,
}

struct Held {
    data: Vec<u8>,
    granule: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the two header pages. `serial` tells this stream from others in the same file.
    pub fn new(inner: W, serial: u32, head: Head) -> Result<Self, WriteError> {
        let mut pages = PacketWriter::new(inner);
        pages.write_packet(head.to_packet(), serial, PacketWriteEndInfo::EndPage, 0)?;
        let vendor = concat!("relayd ", env!("CARGO_PKG_VERSION"));
        let mut tags = b"OpusTags".to_vec();
        tags.extend_from_slice(&(vendor.len() as u32).to_le_bytes());
        tags.extend_from_slice(vendor.as_bytes());
        tags.extend_from_slice(&0u32.to_le_bytes());
        pages.write_packet(tags, serial, PacketWriteEndInfo::EndPage, 0)?;
        pages.inner_mut().flush()?;
        Ok(Self { pages, serial, held: None, next_timestamp: None, granule: 0, page_start: 0, toc: 0 })
    }

    /// Adds a packet. Packets come in order of their timestamps; one from before the last is an error and is not written.
    pub fn write(&mut self, packet: &Bytes, timestamp: u32) -> Result<(), WriteError> {
        let samples = packet_samples(packet).ok_or(WriteError::BadPacket)?;
        let gap = timestamp.wrapping_sub(self.next_timestamp.unwrap_or(timestamp));
        // Serial number arithmetic (RFC 1982): more than half the range ahead is behind.
        if gap > u32::MAX / 2 {
            return Err(WriteError::Late);
        }
        self.fill(u64::from(gap))?;
        self.toc = packet[0] & 0xfc;
        self.push(packet.to_vec(), samples)?;
        self.next_timestamp = Some(timestamp.wrapping_add(samples));
        Ok(())
    }

    /// Closes the page that is being filled: everything written so far is in the file.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.put_held(PacketWriteEndInfo::EndPage)
    }

    /// Ends the stream.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if self.held.is_none() {
            // The end-of-stream flag needs a packet: an empty frame that the granule position trims away entirely (RFC 7845 §4.4).
            self.held = Some(Held { data: vec![self.toc], granule: self.granule });
        }
        self.put_held(PacketWriteEndInfo::EndStream)?;
        Ok(self.pages.into_inner())
    }

    /// Samples in the file so far.
    pub fn samples(&self) -> u64 {
        self.granule
    }

    fn fill(&mut self, gap: u64) -> Result<(), WriteError> {
        let Some(frame) = packet_samples(&[self.toc]).map(u64::from) else {
            return Ok(());
        };
        let mut left = gap;
        // A stretch that is no whole number of frames, or too long to fill, moves the granule position alone.
        // The page before it is closed first, so that the jump is where the gap is.
        let jump = if gap > FILL_SAMPLES { gap } else { gap % frame };
        if jump > 0 {
            self.flush()?;
            self.granule += jump;
            self.page_start = self.granule;
            left -= jump;
        }
        while left > 0 {
            self.push(vec![self.toc], frame as u32)?;
            left -= frame;
        }
        Ok(())
    }

    fn push(&mut self, data: Vec<u8>, samples: u32) -> Result<(), WriteError> {
        let end = self.granule + u64::from(samples);
        let full = end - self.page_start > PAGE_SAMPLES;
        self.put_held(if full { PacketWriteEndInfo::EndPage } else { PacketWriteEndInfo::NormalPacket })?;
        self.granule = end;
        self.held = Some(Held { data, granule: end });
        Ok(())
    }

    fn put_held(&mut self, end: PacketWriteEndInfo) -> Result<(), WriteError> {
        let Some(Held { data, granule }) = self.held.take() else {
            return Ok(());
        };
        self.pages.write_packet(data, self.serial, end, granule)?;
        if end != PacketWriteEndInfo::NormalPacket {
            self.page_start = granule;
            self.pages.inner_mut().flush()?;
        }
        Ok(())
    }
}

impl<W: Write> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("serial", &self.serial)
            .field("granule", &self.granule)
            .finish_non_exhaustive()
    }
}

/// Why a packet is not in the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The packet breaks RFC 6716.
    #[error("not a valid Opus packet")]
    BadPacket,
    /// The packet's time is before the end of what is written.
    #[error("the packet is older than the last one written")]
    Late,
    /// The file cannot be written.
    #[error("cannot write the file: {}", super::io_words(*.0))]
    Io(io::ErrorKind),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}
