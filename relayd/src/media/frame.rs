//! The binary frame of `relay.media.v1`: one Opus packet with its position, in both directions.
//!
//! Big endian: kind `1`, flags, position (`u64`), media time (`u64`, 48 kHz ticks from the track's start), then what
//! the flags announce, then the Opus packet up to the end of the message.
//!
//! | flag | says | adds |
//! |---|---|---|
//! | 1 | first of a talk spurt | |
//! | 2 | when it was captured | `u64`, NTP |
//! | 4 | capture clock − sender's clock; only with 2 | `i64`, 32.32 s |
//! | 8 | how loud it is | `u8`: bit 7 voice, the rest −dBov |
//! | 16 | sent again | |
//!
//! What is read is written back the same, byte for byte. Position and media time stay below 2^53, so that JSON and
//! JavaScript can say them.

use bytes::Bytes;
use relay_engine::rtp::NtpTime;
use relay_engine::{AudioLevel, CaptureTime, MediaTime};
use thiserror::Error;

/// One frame of a track on a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaFrame {
    /// Its number, counted from the track's start. At most [`MAX_NUMBER`].
    pub position: u64,
    /// When it plays, counted from the track's start. At most [`MAX_NUMBER`] ticks.
    pub media_time: MediaTime,
    /// First of a talk spurt.
    pub marker: bool,
    /// When it was captured, if that is known.
    pub capture_time: Option<CaptureTime>,
    /// How loud it is, if that is known; a level of at most 127.
    pub audio_level: Option<AudioLevel>,
    /// The same position was sent before.
    pub replay: bool,
    /// The Opus packet: 1 to [`MAX_PAYLOAD_BYTES`] bytes.
    pub payload: Bytes,
}

impl MediaFrame {
    /// Reads a binary message; the payload shares its memory.
    ///
    /// # Errors
    /// See [`MediaFrameError`].
    pub fn read(message: &Bytes) -> Result<Self, MediaFrameError> {
        let mut reader = Reader { bytes: message, at: 0 };
        let kind = reader.byte()?;
        if kind != KIND_AUDIO {
            return Err(MediaFrameError::Kind(kind));
        }
        let flags = reader.byte()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(MediaFrameError::Flags(flags));
        }
        let has = |flag: u8| flags & flag != 0;
        if has(CAPTURE_OFFSET) && !has(CAPTURE_TIME) {
            return Err(MediaFrameError::OffsetAlone);
        }
        let (position, ticks) = (reader.number()?, reader.number()?);
        let time = if has(CAPTURE_TIME) { Some(NtpTime(u64::from_be_bytes(reader.eight()?))) } else { None };
        let offset = if has(CAPTURE_OFFSET) { Some(i64::from_be_bytes(reader.eight()?)) } else { None };
        let level = if has(AUDIO_LEVEL) { Some(reader.byte()?) } else { None };
        let payload = message.slice(reader.at..);
        match payload.len() {
            0 => return Err(MediaFrameError::Truncated),
            1..=MAX_PAYLOAD_BYTES => {}
            length => return Err(MediaFrameError::TooLong(length)),
        }
        Ok(Self {
            position,
            media_time: MediaTime::from_ticks(ticks),
            marker: has(MARKER),
            capture_time: time.map(|time| CaptureTime { time, offset }),
            audio_level: level.map(|byte| AudioLevel { voice: byte & VOICE != 0, level: byte & !VOICE }),
            replay: has(REPLAY),
            payload,
        })
    }

    /// The message that [`MediaFrame::read`] reads as this, if the fields are within their limits.
    pub fn write(&self) -> Bytes {
        let mut flags = if self.marker { MARKER } else { 0 };
        let mut out = Vec::with_capacity(MAX_HEADER_BYTES + self.payload.len());
        out.extend_from_slice(&[KIND_AUDIO, 0]);
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.media_time.ticks().to_be_bytes());
        if let Some(capture) = self.capture_time {
            flags |= CAPTURE_TIME;
            out.extend_from_slice(&capture.time.0.to_be_bytes());
            if let Some(offset) = capture.offset {
                flags |= CAPTURE_OFFSET;
                out.extend_from_slice(&offset.to_be_bytes());
            }
        }
        if let Some(level) = self.audio_level {
            flags |= AUDIO_LEVEL;
            out.push(level.level & !VOICE | if level.voice { VOICE } else { 0 });
        }
        if self.replay {
            flags |= REPLAY;
        }
        out[1] = flags;
        out.extend_from_slice(&self.payload);
        out.into()
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, MediaFrameError> {
        let byte = *self.bytes.get(self.at).ok_or(MediaFrameError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn eight(&mut self) -> Result<[u8; 8], MediaFrameError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let eight = *rest.first_chunk().ok_or(MediaFrameError::Truncated)?;
        self.at += 8;
        Ok(eight)
    }

    fn number(&mut self) -> Result<u64, MediaFrameError> {
        let number = u64::from_be_bytes(self.eight()?);
        if number > MAX_NUMBER { Err(MediaFrameError::OutOfRange(number)) } else { Ok(number) }
    }
}

/// Why a message is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MediaFrameError {
    /// Its first byte names nothing known.
    #[error("kind {0} is not known: a frame begins with 1")]
    Kind(u8),
    /// It has flags that nothing is said by.
    #[error("flags {0:#04x} are not known")]
    Flags(u8),
    /// A clock's offset without its time.
    #[error("a capture offset needs a capture time")]
    OffsetAlone,
    /// It ends before its payload begins.
    #[error("the frame ends before its payload")]
    Truncated,
    /// A position or media time that cannot be said in JSON.
    #[error("{0} is beyond 2^53 - 1")]
    OutOfRange(u64),
    /// Its payload is longer than [`MAX_PAYLOAD_BYTES`].
    #[error("the payload has {0} bytes, more than {MAX_PAYLOAD_BYTES}")]
    TooLong(usize),
}

/// Longest Opus packet: what fits a UDP datagram on its way to other listeners.
pub const MAX_PAYLOAD_BYTES: usize = 1400;
/// Longest header of a frame.
pub const MAX_HEADER_BYTES: usize = 2 + 8 + 8 + 8 + 8 + 1;
/// Longest frame.
pub const MAX_FRAME_BYTES: usize = MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES;
/// The highest position, and the highest media time in ticks: 2^53 − 1.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

const KIND_AUDIO: u8 = 1;
const MARKER: u8 = 1;
const CAPTURE_TIME: u8 = 2;
const CAPTURE_OFFSET: u8 = 4;
const AUDIO_LEVEL: u8 = 8;
const REPLAY: u8 = 16;
const KNOWN_FLAGS: u8 = MARKER | CAPTURE_TIME | CAPTURE_OFFSET | AUDIO_LEVEL | REPLAY;
const VOICE: u8 = 0x80;

#[cfg(test)]
impl MediaFrame {
    /// 20 ms with nothing beside the payload.
    pub(crate) fn plain(position: u64, payload: Bytes) -> Self {
        let media_time = MediaTime::from_ticks(position * 960);
        let (marker, capture_time, audio_level, replay) = (false, None, None, false);
        Self { position, media_time, marker, capture_time, audio_level, replay, payload }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bare() -> MediaFrame {
        MediaFrame {
            position: 0x0102_0304,
            media_time: MediaTime::from_ticks(0x0a0b),
            marker: false,
            capture_time: None,
            audio_level: None,
            replay: false,
            payload: Bytes::from_static(&[0xfc, 0xff]),
        }
    }

    #[test]
    fn a_frame_is_written_as_the_table_says() {
        let bytes = bare().write();
        let expected = [1, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0x0a, 0x0b, 0xfc, 0xff];
        assert_eq!(bytes[..], expected);
        let full = MediaFrame {
            marker: true,
            capture_time: Some(CaptureTime { time: NtpTime(5), offset: Some(-1) }),
            audio_level: Some(AudioLevel { voice: true, level: 30 }),
            replay: true,
            ..bare()
        };
        let bytes = full.write();
        assert_eq!(bytes[1], 31);
        assert_eq!(bytes[18..26], [0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(bytes[26..34], [0xff; 8]);
        assert_eq!(bytes[34..], [0x80 | 30, 0xfc, 0xff]);
        assert_eq!(MediaFrame::read(&bytes), Ok(full));
    }

    #[test]
    fn every_truncation_is_refused_or_a_shorter_payload() {
        let bytes = bare().write();
        for length in 0..bytes.len() {
            let read = MediaFrame::read(&bytes.slice(..length));
            assert_eq!(read.is_ok(), length > 18, "{length}: {read:?}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_by_its_reason() {
        let changed = |index: usize, byte: u8| {
            let mut bytes = bare().write().to_vec();
            bytes[index] = byte;
            MediaFrame::read(&bytes.into())
        };
        assert_eq!(changed(0, 0), Err(MediaFrameError::Kind(0)));
        assert_eq!(changed(0, 2), Err(MediaFrameError::Kind(2)));
        assert_eq!(changed(1, 32), Err(MediaFrameError::Flags(32)));
        assert_eq!(changed(1, 4), Err(MediaFrameError::OffsetAlone));
        assert_eq!(changed(1, 2), Err(MediaFrameError::Truncated));
        assert!(matches!(changed(2, 1), Err(MediaFrameError::OutOfRange(_))));
        assert!(matches!(changed(10, 0x80), Err(MediaFrameError::OutOfRange(_))));
        let long = MediaFrame { payload: vec![0; MAX_PAYLOAD_BYTES + 1].into(), ..bare() };
        assert_eq!(MediaFrame::read(&long.write()), Err(MediaFrameError::TooLong(1401)));
    }

    fn frame() -> impl Strategy<Value = MediaFrame> {
        let capture = (any::<u64>(), any::<Option<i64>>())
            .prop_map(|(time, offset)| CaptureTime { time: NtpTime(time), offset });
        let level = (any::<bool>(), 0..=127_u8).prop_map(|(voice, level)| AudioLevel { voice, level });
        (
            (0..=MAX_NUMBER, 0..=MAX_NUMBER, any::<bool>(), any::<bool>()),
            proptest::option::of(capture),
            proptest::option::of(level),
            proptest::collection::vec(any::<u8>(), 1..=MAX_PAYLOAD_BYTES),
        )
            .prop_map(|((position, ticks, marker, replay), capture_time, audio_level, payload)| {
                let media_time = MediaTime::from_ticks(ticks);
                let payload = payload.into();
                MediaFrame { position, media_time, marker, capture_time, audio_level, replay, payload }
            })
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_back(frame in frame()) {
            prop_assert!(frame.write().len() <= MAX_FRAME_BYTES);
            prop_assert_eq!(MediaFrame::read(&frame.write()), Ok(frame));
        }

        #[test]
        fn whatever_is_read_is_written_back(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            let bytes = Bytes::from(bytes);
            if let Ok(frame) = MediaFrame::read(&bytes) {
                prop_assert_eq!(frame.write(), bytes);
            }
        }
    }
}
