//! Header templates: what all packets of legs with equal negotiation have in common, written once.
//!
//! Legs with the same payload type, extension ids and mid form a group. A group has a template for each
//! combination of extension values that a frame can bring; a packet's header is a copy of one, patched at known
//! places. The engine's own writer stays the reference: tests hold the two equal.

use relay_engine::rtp::{Emit, NtpTime};
use relay_engine::{AudioLevel, CaptureTime, ExtensionIds, OutboundPacket};

/// The longest header: fixed part, block header and three two-byte elements of 1, 16 and 16 bytes, padded.
const MAX_HEADER: usize = 64;

/// Bytes of the fixed header and of the extension block's own header.
const ELEMENTS_AT: usize = 16;

/// The groups, by the number that each of their legs holds.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
}

/// The number of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct GroupId(u32);

impl Groups {
    /// The group for this negotiation, made if there is none. Each call is undone by a [`Groups::leave`].
    pub(super) fn join(&mut self, payload_type: u8, ids: &ExtensionIds) -> GroupId {
        let same = |group: &Group| group.payload_type == payload_type && group.ids == *ids;
        let at = self
            .groups
            .iter()
            .position(|group| group.legs > 0 && same(group))
            .or_else(|| {
                let free = self.groups.iter().position(|group| group.legs == 0)?;
                self.groups[free] = Group::new(payload_type, *ids);
                Some(free)
            })
            .unwrap_or_else(|| {
                self.groups.push(Group::new(payload_type, *ids));
                self.groups.len() - 1
            });
        self.groups[at].legs += 1;
        GroupId(u32::try_from(at).expect("there are fewer groups than legs"))
    }

    /// A leg of the group is gone.
    pub(super) fn leave(&mut self, group: GroupId) {
        self.groups[group.0 as usize].legs -= 1;
    }

    /// The template for packets of this group that bring these values.
    pub(super) fn template(&self, group: GroupId, packet: &OutboundPacket<'_>) -> &Template {
        let frame = packet.frame;
        &self.groups[group.0 as usize].templates[variant(frame.audio_level, frame.capture_time)]
    }
}

/// Legs with equal negotiation.
#[derive(Debug)]
struct Group {
    payload_type: u8,
    ids: ExtensionIds,
    legs: u32,
    templates: [Template; VARIANTS],
}

impl Group {
    fn new(payload_type: u8, ids: ExtensionIds) -> Self {
        let templates = std::array::from_fn(|variant| Template::new(payload_type, &ids, variant));
        Group { payload_type, ids, legs: 0, templates }
    }
}

/// With or without audio level; without capture time, with a short and with a long one.
const VARIANTS: usize = 6;

fn variant(level: Option<AudioLevel>, capture: Option<CaptureTime>) -> usize {
    let capture = match capture {
        None => 0,
        Some(CaptureTime { offset: None, .. }) => 1,
        Some(CaptureTime { offset: Some(_), .. }) => 2,
    };
    capture * 2 + usize::from(level.is_some())
}

/// A header with all that does not change, and where the rest goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Template {
    bytes: [u8; MAX_HEADER],
    length: usize,
    /// Where the audio level and the capture time stand; zero if the leg has not negotiated them.
    level_at: usize,
    capture_at: usize,
}

impl Template {
    fn new(payload_type: u8, ids: &ExtensionIds, variant: usize) -> Self {
        let level = (variant % 2 == 1).then_some(AudioLevel { voice: false, level: 0 });
        let capture = match variant / 2 {
            0 => None,
            long => Some(CaptureTime { time: NtpTime(0), offset: (long == 2).then_some(0) }),
        };
        let values = ids.values(level, capture);
        let emit = Emit { payload_type, extensions: values, ..Emit::default() };
        let mut bytes = [0; MAX_HEADER];
        let length = emit.write_header(&mut bytes).expect("the engine has checked payload type and ids");
        // RFC 8285: elements have a head of one byte in the 0xBEDE form, of two in the other.
        let head = if bytes[12..14] == [0xbe, 0xde] { 1 } else { 2 };
        let level_at = if values.audio_level.is_some() { ELEMENTS_AT + head } else { 0 };
        let before = if level_at > 0 { head + 1 } else { 0 };
        let capture_at = if values.capture_time.is_some() { ELEMENTS_AT + before + head } else { 0 };
        Template { bytes, length, level_at, capture_at }
    }

    /// Bytes of the header.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Writes the header of `packet` to the front of `out`.
    pub(super) fn write(&self, packet: &OutboundPacket<'_>, out: &mut [u8]) {
        // A copy of known length takes two instructions; what is behind the header is written later.
        match out.first_chunk_mut() {
            Some(room) => *room = self.bytes,
            None => out[..self.length].copy_from_slice(&self.bytes[..self.length]),
        }
        let out = &mut out[..self.length];
        let frame = packet.frame;
        out[1] |= u8::from(frame.marker) << 7;
        out[2..4].copy_from_slice(&packet.sequence().to_be_bytes());
        out[4..8].copy_from_slice(&packet.timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&packet.ssrc.to_be_bytes());
        if let (1.., Some(level)) = (self.level_at, frame.audio_level) {
            out[self.level_at] = u8::from(level.voice) << 7 | level.level & 0x7f;
        }
        if let (1.., Some(capture)) = (self.capture_at, frame.capture_time) {
            let at = self.capture_at;
            out[at..at + 8].copy_from_slice(&capture.time.0.to_be_bytes());
            if let Some(offset) = capture.offset {
                out[at + 8..at + 16].copy_from_slice(&offset.to_be_bytes());
            }
        }
    }
}
