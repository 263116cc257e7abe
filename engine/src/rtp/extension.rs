//! Header extensions (RFC 8285): the block as it came, elements by id, and the three that the relay knows.
//!
//! [`Extensions`] keeps the raw block and looks at it only when asked, so a packet with extensions nobody reads
//! costs nothing. Malformed elements end the iteration, as the RFC asks; they never spoil the packet.
//! [`Values`] is the way out: typed values under the ids that the far end negotiated, in one-byte form unless an
//! id or a length needs the two-byte form.

use std::fmt;

use bytes::Bytes;

use super::{NtpTime, WriteError, append};

/// `defined by profile` of the one-byte form.
const ONE_BYTE: u16 = 0xbede;
/// `defined by profile` of the two-byte form; the low 4 bits are the application's.
const TWO_BYTE: u16 = 0x1000;

/// The extension block of a received packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    profile: Option<u16>,
    block: Bytes,
}

impl Extensions {
    /// A block under its `defined by profile` field. Unknown profiles are kept, and have no elements.
    ///
    /// The block's length counts in whole words; what is missing to one is written as zeros.
    #[must_use]
    pub const fn new(profile: u16, block: Bytes) -> Self {
        Self { profile: Some(profile), block }
    }

    /// The `defined by profile` field, if the packet has an extension block at all.
    #[must_use]
    pub const fn profile(&self) -> Option<u16> {
        self.profile
    }

    /// The block behind the profile and length fields.
    #[must_use]
    pub const fn block(&self) -> &Bytes {
        &self.block
    }

    /// The elements in the order they were written, up to the first that is malformed.
    #[must_use]
    pub fn iter(&self) -> Elements<'_> {
        let form = match self.profile {
            Some(ONE_BYTE) => Form::OneByte,
            Some(profile) if profile & 0xfff0 == TWO_BYTE => Form::TwoByte,
            _ => return Elements { form: Form::OneByte, rest: &[] },
        };
        Elements { form, rest: &self.block }
    }

    /// The value of the first element with this id.
    #[must_use]
    pub fn get(&self, id: u8) -> Option<&[u8]> {
        self.iter().find(|element| element.id == id).map(|element| element.value)
    }

    /// The audio level under `id` (RFC 6464).
    #[must_use]
    pub fn audio_level(&self, id: u8) -> Option<AudioLevel> {
        match self.get(id)? {
            &[byte] => Some(AudioLevel { voice: byte & 0x80 != 0, level: byte & 0x7f }),
            _ => None,
        }
    }

    /// The capture time under `id` (abs-capture-time, 8 or 16 bytes).
    #[must_use]
    pub fn capture_time(&self, id: u8) -> Option<CaptureTime> {
        let value = self.get(id)?;
        let (time, rest) = value.split_first_chunk()?;
        let offset = match rest {
            [] => None,
            rest => Some(i64::from_be_bytes(*rest.as_array()?)),
        };
        Some(CaptureTime { time: NtpTime(u64::from_be_bytes(*time)), offset })
    }

    /// The mid under `id` (RFC 9143), if it is one that [`Mid`] can hold.
    #[must_use]
    pub fn mid(&self, id: u8) -> Option<Mid> {
        Mid::new(self.get(id)?).ok()
    }

    /// Writes profile, length and block at `out[at..]`; returns where they end.
    pub(super) fn write(&self, out: &mut [u8], at: usize) -> Result<usize, WriteError> {
        let Some(profile) = self.profile else { return Ok(at) };
        let end = append(out, at + 4, &self.block)?;
        finish_block(out, at, end, profile)
    }
}

impl<'a> IntoIterator for &'a Extensions {
    type Item = Element<'a>;
    type IntoIter = Elements<'a>;

    fn into_iter(self) -> Elements<'a> {
        self.iter()
    }
}

/// One extension element: its id and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// 1–14 in the one-byte form, 1–255 in the two-byte form.
    pub id: u8,
    /// 1–16 bytes in the one-byte form, 0–255 in the two-byte form.
    pub value: &'a [u8],
}

/// Iterator over the elements of a block.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    form: Form,
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    /// Id, value length and what follows the element's own header; `None` ends the iteration.
    fn split_header(&self) -> Option<(u8, usize, &'a [u8])> {
        match self.form {
            Form::OneByte => {
                let (&head, rest) = self.rest.split_first()?;
                // RFC 8285 §4.2: id 15 ends the block, and so does id 0 with a length.
                match (head >> 4, head & 0x0f) {
                    (15, _) | (0, 1..) => None,
                    (0, 0) => Some((0, 0, rest)),
                    (id, length) => Some((id, usize::from(length) + 1, rest)),
                }
            }
            Form::TwoByte => match self.rest {
                // RFC 8285 §4.3: a zero id is one byte of padding, without a length.
                [0, rest @ ..] => Some((0, 0, rest)),
                [id, length, rest @ ..] => Some((*id, usize::from(*length), rest)),
                _ => None,
            },
        }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        loop {
            let split =
                self.split_header().and_then(|(id, length, rest)| Some((id, rest.split_at_checked(length)?)));
            let Some((id, (value, rest))) = split else {
                self.rest = &[];
                return None;
            };
            self.rest = rest;
            if id != 0 {
                return Some(Element { id, value });
            }
        }
    }
}

/// The two encodings of RFC 8285.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    OneByte,
    TwoByte,
}

/// How loud a packet is (RFC 6464).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioLevel {
    /// The sender believes that there is voice in it.
    pub voice: bool,
    /// In −dBov: 0 is the loudest, 127 is silence.
    pub level: u8,
}

impl AudioLevel {
    fn to_byte(self) -> Result<u8, WriteError> {
        match self.level {
            0..=127 => Ok((u8::from(self.voice) << 7) | self.level),
            _ => Err(WriteError::OutOfRange { field: "audio level" }),
        }
    }
}

/// When a packet's first sample was captured (abs-capture-time).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureTime {
    /// On the clock of whoever captured it.
    pub time: NtpTime,
    /// The sender's estimate of (capture clock − its own clock), in units of 2⁻³² s.
    pub offset: Option<i64>,
}

impl CaptureTime {
    fn encode(self) -> ([u8; 16], usize) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.time.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.offset.unwrap_or_default().to_be_bytes());
        (bytes, if self.offset.is_some() { 16 } else { 8 })
    }
}

/// A media identification tag (RFC 9143): 1–16 printable ASCII characters, held in place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mid {
    bytes: [u8; 16],
    len: u8,
}

impl Mid {
    /// A tag from its characters.
    ///
    /// # Errors
    ///
    /// [`InvalidMid`] unless it is 1–16 printable ASCII characters.
    pub fn new(text: impl AsRef<[u8]>) -> Result<Self, InvalidMid> {
        let text = text.as_ref();
        if text.is_empty() || text.len() > 16 || !text.iter().all(u8::is_ascii_graphic) {
            return Err(InvalidMid);
        }
        let mut bytes = [0; 16];
        bytes[..text.len()].copy_from_slice(text);
        Ok(Self { bytes, len: u8::try_from(text.len()).map_err(|_| InvalidMid)? })
    }

    /// The tag's characters.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("the constructor lets only ASCII in")
    }
}

impl fmt::Debug for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mid({:?})", self.as_str())
    }
}

/// The text is not 1–16 printable ASCII characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a mid is 1 to 16 printable ASCII characters")]
pub struct InvalidMid;

/// Which id each known extension has on a leg; `None` where it was not negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtensionIds {
    /// `urn:ietf:params:rtp-hdrext:ssrc-audio-level`
    pub audio_level: Option<u8>,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time`
    pub capture_time: Option<u8>,
    /// `urn:ietf:params:rtp-hdrext:sdes:mid`, with the tag that is sent on every packet.
    pub mid: Option<(u8, Mid)>,
}

impl ExtensionIds {
    /// What a packet on this leg carries, given its frame's level and capture time.
    #[must_use]
    pub fn values(&self, audio_level: Option<AudioLevel>, capture_time: Option<CaptureTime>) -> Values {
        Values {
            audio_level: self.audio_level.zip(audio_level),
            capture_time: self.capture_time.zip(capture_time),
            mid: self.mid,
        }
    }
}

/// Extension values to be written, each with its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Audio level (RFC 6464).
    pub audio_level: Option<(u8, AudioLevel)>,
    /// abs-capture-time, 8 bytes without an offset and 16 with one.
    pub capture_time: Option<(u8, CaptureTime)>,
    /// Media identification (RFC 9143).
    pub mid: Option<(u8, Mid)>,
}

impl Values {
    /// Says whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.audio_level.is_none() && self.capture_time.is_none() && self.mid.is_none()
    }

    /// Writes the block at `out[at..]`, nothing if it is empty; returns where it ends.
    pub(super) fn write(&self, out: &mut [u8], at: usize) -> Result<usize, WriteError> {
        let level = match self.audio_level {
            Some((id, level)) => Some((id, [level.to_byte()?])),
            None => None,
        };
        let capture = self.capture_time.map(|(id, time)| (id, time.encode()));
        let elements = [
            level.as_ref().map(|(id, byte)| Element { id: *id, value: byte }),
            capture.as_ref().map(|(id, (bytes, len))| Element { id: *id, value: &bytes[..*len] }),
            self.mid.as_ref().map(|(id, mid)| Element { id: *id, value: mid.as_bytes() }),
        ];
        write_elements(elements.iter().flatten().copied(), out, at)
    }
}

/// Writes a whole extension block at `out[at..]`: profile, length, elements and padding to a word.
///
/// The one-byte form if every element fits it, else the two-byte form; nothing at all without elements.
/// Returns where the block ends.
///
/// # Errors
///
/// [`WriteError`] if it does not fit, an id is 0 or a value is longer than 255 bytes.
pub fn write_elements<'a>(
    elements: impl Iterator<Item = Element<'a>> + Clone,
    out: &mut [u8],
    at: usize,
) -> Result<usize, WriteError> {
    if elements.clone().next().is_none() {
        return Ok(at);
    }
    let fits_one_byte = |element: Element<'_>| element.id <= 14 && (1..=16).contains(&element.value.len());
    let one_byte = elements.clone().all(fits_one_byte);
    let mut end = at + 4;
    for Element { id, value } in elements {
        if id == 0 {
            return Err(WriteError::OutOfRange { field: "extension id" });
        }
        let length = u8::try_from(value.len())
            .map_err(|_| WriteError::OutOfRange { field: "length of an extension value" })?;
        end = match one_byte {
            true => append(out, end, &[(id << 4) | (length - 1)])?,
            false => append(out, end, &[id, length])?,
        };
        end = append(out, end, value)?;
    }
    finish_block(out, at, end, if one_byte { ONE_BYTE } else { TWO_BYTE })
}

/// Pads the block at `at + 4 .. end` to whole words and writes its profile and length in front.
fn finish_block(out: &mut [u8], at: usize, end: usize, profile: u16) -> Result<usize, WriteError> {
    let length = end - (at + 4);
    let words = u16::try_from(length.div_ceil(4))
        .map_err(|_| WriteError::OutOfRange { field: "length of the extension block" })?;
    let padding = usize::from(words) * 4 - length;
    let end = append(out, end, &[0; 3][..padding])?;
    append(out, at, &profile.to_be_bytes())?;
    append(out, at + 2, &words.to_be_bytes())?;
    Ok(end)
}
