//! A frame: an Opus packet with its place on a track.

use std::time::Instant;

use bytes::Bytes;

use crate::rtp::{AudioLevel, CaptureTime};
use crate::time::MediaTime;

/// One stored frame, seen in its history: an Opus packet and what the relay knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its number, counted from the track's start. Numbers that never came are holes.
    pub position: u64,
    /// When it plays, counted from the track's start.
    pub media_time: MediaTime,
    /// When the relay received it.
    pub arrived: Instant,
    /// First of a talk spurt (RFC 7587 §4.1).
    pub marker: bool,
    /// When it was captured, if the publisher said so; passed on as it came, the clock offset too.
    pub capture_time: Option<CaptureTime>,
    /// How loud it is, if the publisher said so.
    pub audio_level: Option<AudioLevel>,
    /// The Opus packet.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The frame as it goes to another relay, with its payload in memory of its own.
    #[must_use]
    pub const fn carried(&self, payload: Bytes) -> CarriedFrame {
        let Self { position, media_time, arrived: _, marker, capture_time, audio_level, payload: _ } = *self;
        CarriedFrame { position, media_time, marker, capture_time, audio_level, payload }
    }
}

/// A frame whose transport carries its position: a WebSocket publisher, a relay in front of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedFrame {
    /// Its number on the track, as the publisher counts: it begins at the track's next position.
    pub position: u64,
    /// When it plays, counted from the track's start.
    pub media_time: MediaTime,
    /// First of a talk spurt.
    pub marker: bool,
    /// When it was captured, if the publisher says so.
    pub capture_time: Option<CaptureTime>,
    /// How loud it is, if the publisher says so.
    pub audio_level: Option<AudioLevel>,
    /// The Opus packet.
    pub payload: Bytes,
}
