//! Reads an Ogg Opus file packet by packet.
//!
//! Strict where a person wants to know (not Ogg, not Opus, cut off in the middle), lenient where players are:
//! a file without an end-of-stream page is what a killed recorder leaves, and it is read to its last page.
//! A second stream, beside the first or after it, is refused: its timeline cannot be spliced unseen.

use std::io::{self, Read};

use bytes::Bytes;
use ogg::OggReadError;
use ogg::reading::{BasePacketReader, PageParser};
use thiserror::Error;

use super::{Head, packet_samples};

const PAGE_HEADER_BYTES: usize = 27;
const FIRST_PAGE: u8 = 0x02;

/// One Opus packet of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The packet as it goes into an RTP payload.
    pub data: Bytes,
    /// Its duration in samples at 48 kHz: 120 to 5760.
    pub samples: u32,
}

impl Packet {
    /// True for a packet of empty frames, which stands for audio that was not received (RFC 7845 §4.1) or not sent (DTX).
    pub fn is_empty(&self) -> bool {
        self.data.len() <= 2
    }
}

/// Reads the packets of one Ogg Opus stream.
pub struct Reader<R> {
    inner: R,
    packets: BasePacketReader,
    head: Head,
    serial: u32,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the two header packets.
    pub fn new(mut inner: R) -> Result<Self, ReadError> {
        let mut packets = BasePacketReader::new();
        let serial = match read_page(&mut inner)? {
            Some(page) => {
                packets.push_page(page.body).map_err(page_error)?;
                page.serial
            }
            None => return Err(ReadError::NotOgg),
        };
        // RFC 7845 §3: the first page holds the identification header and nothing else.
        let first = packets.read_packet().ok_or(ReadError::NotOpus)?;
        let head = Head::parse(&first.data)?;
        let ended = first.last_in_stream();
        let mut reader = Self { inner, packets, head, serial, ended };
        let tags = reader.next_ogg()?.ok_or(ReadError::Truncated)?;
        if !tags.starts_with(b"OpusTags") {
            return Err(ReadError::BadHeader("the second packet is not OpusTags"));
        }
        Ok(reader)
    }

    /// The identification header.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The next audio packet, `None` after the last one.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, ReadError> {
        let Some(data) = self.next_ogg()? else {
            return Ok(None);
        };
        let samples = packet_samples(&data).ok_or(ReadError::BadPacket)?;
        Ok(Some(Packet { data: Bytes::from(data), samples }))
    }

    /// Reads all remaining packets; a file without any is an error.
    pub fn read_all(mut self) -> Result<Vec<Packet>, ReadError> {
        let mut packets = Vec::new();
        while let Some(packet) = self.next_packet()? {
            packets.push(packet);
        }
        if packets.is_empty() {
            return Err(ReadError::NoAudio);
        }
        Ok(packets)
    }

    fn next_ogg(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        loop {
            if let Some(packet) = self.packets.read_packet() {
                self.ended |= packet.last_in_stream();
                return Ok(Some(packet.data));
            }
            let Some(page) = read_page(&mut self.inner)? else {
                return Ok(None);
            };
            if page.serial != self.serial || page.first {
                return Err(if self.ended { ReadError::Chained } else { ReadError::Multiplexed });
            }
            self.ended |= page.last;
            self.packets.push_page(page.body).map_err(page_error)?;
        }
    }
}

impl<R> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("head", &self.head).field("ended", &self.ended).finish_non_exhaustive()
    }
}

struct Page {
    body: ogg::reading::OggPage,
    serial: u32,
    first: bool,
    last: bool,
}

/// The next page, `None` at the end of the file.
fn read_page(inner: &mut impl Read) -> Result<Option<Page>, ReadError> {
    let mut header = [0; PAGE_HEADER_BYTES];
    let got = read_up_to(inner, &mut header)?;
    if got == 0 {
        return Ok(None);
    }
    if !header[..got].starts_with(&b"OggS"[..got.min(4)]) {
        return Err(ReadError::NotOgg);
    }
    if got < header.len() {
        return Err(ReadError::Truncated);
    }
    let (mut parser, segments) = PageParser::new(header).map_err(page_error)?;
    let mut lacing = vec![0; segments];
    inner.read_exact(&mut lacing).map_err(read_error)?;
    let mut body = vec![0; parser.parse_segments(lacing)];
    inner.read_exact(&mut body).map_err(read_error)?;
    let [.., s0, s1, s2, s3] = header[..18] else { unreachable!("18 bytes hold 4") };
    Ok(Some(Page {
        body: parser.parse_packet_data(body).map_err(page_error)?,
        serial: u32::from_le_bytes([s0, s1, s2, s3]),
        first: header[5] & FIRST_PAGE != 0,
        last: header[5] & 0x04 != 0,
    }))
}

fn read_up_to(inner: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ReadError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match inner.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(error)),
        }
    }
    Ok(filled)
}

fn read_error(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Truncated,
        kind => ReadError::Io(kind),
    }
}

fn page_error(error: OggReadError) -> ReadError {
    match error {
        OggReadError::ReadError(error) => read_error(error),
        OggReadError::HashMismatch(..) => ReadError::Corrupt("a page has a wrong checksum"),
        OggReadError::InvalidStreamStructVer(_) => {
            ReadError::Corrupt("unknown version of the Ogg page format")
        }
        OggReadError::NoCapturePatternFound => ReadError::NotOgg,
        _ => ReadError::Corrupt("pages do not follow each other"),
    }
}

/// Why a file cannot be read as Ogg Opus.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No Ogg page where one must begin.
    #[error("not an Ogg file")]
    NotOgg,
    /// Ogg, but with another codec in it.
    #[error("an Ogg file, but not of Opus audio; `opusenc` or `ffmpeg -c:a libopus` makes one")]
    NotOpus,
    /// More channels than an RTP stream carries.
    #[error("{channels} channels in mapping family {family}: only mono and stereo can be sent")]
    Multistream {
        /// Channel count of the header.
        channels: u8,
        /// Channel mapping family of the header.
        family: u8,
    },
    /// A header packet that breaks RFC 7845.
    #[error("bad Opus header: {0}")]
    BadHeader(&'static str),
    /// An audio packet that breaks RFC 6716.
    #[error("an audio packet is not valid Opus")]
    BadPacket,
    /// A damaged page.
    #[error("damaged file: {0}")]
    Corrupt(&'static str),
    /// The file ends inside a page or before the audio.
    #[error("the file is cut off")]
    Truncated,
    /// Another stream follows the first one.
    #[error("several streams one after another (chained Ogg): publish them one file at a time")]
    Chained,
    /// Several streams interleaved.
    #[error(
        "several streams in one file: keep only the Opus audio, for example by `ffmpeg -i in -map 0:a:0 -c copy out.ogg`"
    )]
    Multiplexed,
    /// Headers only.
    #[error("no audio in the file")]
    NoAudio,
    /// The file cannot be read.
    #[error("cannot read the file: {}", super::io_words(*.0))]
    Io(io::ErrorKind),
}
