//! What a publisher's leg brought, before it has a place.

use std::time::Instant;

use bytes::Bytes;

use crate::frame::{CarriedFrame, Frame};
use crate::rtp::opus::Toc;
use crate::rtp::{AudioLevel, CaptureTime, ExtensionIds, Packet};
use crate::time::MediaTime;

/// A frame as it came, by whatever transport.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) number: Number,
    /// How long it plays, ticks; 0 if its payload does not say.
    pub(crate) duration: u32,
    pub(crate) marker: bool,
    pub(crate) capture_time: Option<CaptureTime>,
    pub(crate) audio_level: Option<AudioLevel>,
    pub(crate) payload: Bytes,
}

/// How its transport numbers it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    /// RTP.
    Wire(Wire),
    /// The position itself.
    Carried { position: u64, media_time: MediaTime },
    /// The same, as another relay has placed it.
    Placed { position: u64, media_time: MediaTime },
}

/// What RTP says of a frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) ssrc: u32,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
}

impl Arrived {
    pub(crate) fn packet(at: Instant, ids: &ExtensionIds, packet: Packet) -> Self {
        let Packet { header, payload } = packet;
        let wire = Wire { ssrc: header.ssrc, sequence: header.sequence, timestamp: header.timestamp };
        Self {
            at,
            number: Number::Wire(wire),
            duration: duration_of(&payload),
            marker: header.marker,
            capture_time: ids.capture_time.and_then(|id| header.extensions.capture_time(id)),
            audio_level: ids.audio_level.and_then(|id| header.extensions.audio_level(id)),
            payload,
        }
    }

    pub(crate) fn carried(at: Instant, frame: CarriedFrame) -> Self {
        let CarriedFrame { position, media_time, marker, capture_time, audio_level, payload } = frame;
        let number = Number::Carried { position, media_time };
        Self { at, number, duration: duration_of(&payload), marker, capture_time, audio_level, payload }
    }

    /// What another relay has placed, and when it arrived there.
    pub(crate) fn placed(at: Instant, frame: CarriedFrame) -> Self {
        let number = Number::Placed { position: frame.position, media_time: frame.media_time };
        Self { number, ..Self::carried(at, frame) }
    }

    /// As it is stored.
    pub(super) fn frame(&self, position: u64, media_time: MediaTime) -> Frame<'_> {
        Frame {
            position,
            media_time,
            arrived: self.at,
            marker: self.marker,
            capture_time: self.capture_time,
            audio_level: self.audio_level,
            payload: &self.payload,
        }
    }
}

fn duration_of(payload: &[u8]) -> u32 {
    Toc::parse(payload).map_or(0, Toc::duration)
}
