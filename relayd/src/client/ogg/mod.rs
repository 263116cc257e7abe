//! Ogg Opus files (RFC 7845): what `publish` reads, what `listen` writes, what the demo loops.
//!
//! Pages, checksums and packet boundaries are the `ogg` crate's; this folder adds the Opus mapping:
//! the two header packets, packet durations from the TOC, granule positions, gaps and end of stream.
//! Only one mono or stereo stream is read: that is what one RTP payload can carry (RFC 7587).

mod reader;
mod writer;

use relay_engine::rtp::opus::Toc;

pub use reader::{Packet, ReadError, Reader};
pub use writer::{WriteError, Writer};

/// Ticks of an Opus stream per second: granule positions and RTP timestamps, whatever the input rate was.
pub const CLOCK_HZ: u32 = 48_000;

/// The identification header of an Ogg Opus stream (RFC 7845 §5.1), mapping family 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 1 or 2.
    pub channels: u8,
    /// Samples at 48 kHz that a player discards at the start.
    pub pre_skip: u16,
    /// Rate of the encoder's input in Hz; information only.
    pub input_sample_rate: u32,
    /// Gain to apply when decoding, Q7.8 dB.
    pub output_gain: i16,
}

impl Head {
    const MAGIC: &[u8; 8] = b"OpusHead";

    /// A mono or stereo header with libopus' usual lookahead as pre-skip.
    pub fn new(channels: u8) -> Self {
        // 312 and not the 3840 that RFC 7845 §4.2 recommends for a cut from the middle: a listener who
        // was there before the speaker must not lose the first 80 ms of speech.
        Self { channels, pre_skip: 312, input_sample_rate: CLOCK_HZ, output_gain: 0 }
    }

    fn parse(packet: &[u8]) -> Result<Self, ReadError> {
        let Some(body) = packet.strip_prefix(Self::MAGIC) else {
            return Err(ReadError::NotOpus);
        };
        let &[version, channels, skip0, skip1, rate0, rate1, rate2, rate3, gain0, gain1, family, ..] = body
        else {
            return Err(ReadError::BadHeader("identification header is too short"));
        };
        if version & 0xf0 != 0 {
            return Err(ReadError::BadHeader("unknown version of the identification header"));
        }
        if family != 0 || channels > 2 {
            return Err(ReadError::Multistream { channels, family });
        }
        if channels == 0 {
            return Err(ReadError::BadHeader("no channels"));
        }
        Ok(Self {
            channels,
            pre_skip: u16::from_le_bytes([skip0, skip1]),
            input_sample_rate: u32::from_le_bytes([rate0, rate1, rate2, rate3]),
            output_gain: i16::from_le_bytes([gain0, gain1]),
        })
    }

    fn to_packet(self) -> Vec<u8> {
        let mut packet = Self::MAGIC.to_vec();
        packet.extend_from_slice(&[1, self.channels]);
        packet.extend_from_slice(&self.pre_skip.to_le_bytes());
        packet.extend_from_slice(&self.input_sample_rate.to_le_bytes());
        packet.extend_from_slice(&self.output_gain.to_le_bytes());
        packet.push(0);
        packet
    }
}

/// Samples at 48 kHz in one Opus packet, `None` if it is not one.
fn packet_samples(packet: &[u8]) -> Option<u32> {
    Toc::parse(packet).ok().map(Toc::duration)
}

/// What went wrong with a file, in the words that systems have for it.
fn io_words(kind: std::io::ErrorKind) -> String {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::NotFound => "No such file or directory".to_owned(),
        ErrorKind::PermissionDenied => "Permission denied".to_owned(),
        ErrorKind::IsADirectory => "Is a directory".to_owned(),
        ErrorKind::StorageFull => "No space left on device".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
