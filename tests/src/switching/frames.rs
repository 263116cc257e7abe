//! What simulated speakers say: frames that say in their payload who they are, and packets laid out by hand.
//!
//! An encoder numbers its frames and keeps those of the last 30 s, to send them again. Two legs that carry the same
//! encoder's frames are twins; two encoders of one speaker share nothing but the clock that captures are stamped with.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::stream::{CAPTURE_ID, fnv, ticks};

/// Which frame of the world it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameId {
    /// The track that it was said on.
    pub track: u8,
    /// The track's encoder.
    pub encoder: u16,
    /// Its number; sequence numbers are affine in it.
    pub number: u32,
}

/// A frame as it left its encoder.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) id: FrameId,
    /// Counts from the encoder's first frame.
    pub(super) ticks: u64,
    pub(super) captured: Duration,
    pub(super) payload: Bytes,
}

/// How long an encoder's frames are kept to be sent again.
const RING: Duration = Duration::from_secs(30);

/// Numbers frames and keeps the newest.
#[derive(Debug)]
pub(super) struct Encoder {
    track: u8,
    index: u16,
    frame_ticks: u32,
    number: u32,
    ticks: u64,
    ring: VecDeque<Said>,
}

impl Encoder {
    pub(super) const fn new(track: u8, index: u16, frame_ticks: u32) -> Self {
        Self { track, index, frame_ticks, number: 0, ticks: 0, ring: VecDeque::new() }
    }

    /// The next frame.
    pub(super) fn say(&mut self, now: Duration) -> &Said {
        let id = FrameId { track: self.track, encoder: self.index, number: self.number };
        let said = Said { id, ticks: self.ticks, captured: now, payload: payload(id, self.frame_ticks) };
        self.number += 1;
        self.ticks += u64::from(self.frame_ticks);
        while self.ring.front().is_some_and(|oldest| oldest.captured + RING < now) {
            self.ring.pop_front();
        }
        self.ring.push_back(said);
        self.ring.back().expect("it was just pushed")
    }

    /// Silence of so many frames: the clock goes on, the numbers do not.
    pub(super) fn rest(&mut self, frames: u32) -> Duration {
        let rested = u64::from(self.frame_ticks) * u64::from(frames);
        self.ticks += rested;
        ticks(rested)
    }

    /// A frame that is still kept.
    pub(super) fn kept(&self, number: u32) -> Option<&Said> {
        let oldest = self.ring.front()?.id.number;
        self.ring.get(number.checked_sub(oldest)? as usize)
    }

    /// The next number.
    pub(super) const fn next(&self) -> u32 {
        self.number
    }

    pub(super) const fn index(&self) -> u16 {
        self.index
    }

    pub(super) fn frame(&self) -> Duration {
        ticks(u64::from(self.frame_ticks))
    }
}

/// What a leg's packets are numbered from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Numbering {
    pub(super) payload_type: u8,
    pub(super) ssrc: u32,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    /// Capture times are sent, counted from this NTP time.
    pub(super) capture: Option<u64>,
}

impl Numbering {
    /// The RTP packet of a frame.
    pub(super) fn packet(&self, said: &Said) -> Bytes {
        let mut packet = Vec::with_capacity(48);
        packet.push(0x80 | u8::from(self.capture.is_some()) << 4);
        packet.push(self.payload_type);
        packet.extend(self.sequence.wrapping_add(said.id.number as u16).to_be_bytes());
        packet.extend(self.timestamp.wrapping_add(said.ticks as u32).to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        if let Some(start) = self.capture {
            packet.extend([0xbe, 0xde, 0, 3, CAPTURE_ID << 4 | 7]);
            packet.extend(ntp(start, said.captured).to_be_bytes());
            packet.extend([0; 3]);
        }
        packet.extend(&said.payload);
        packet.into()
    }

    /// The timestamp that belongs to a moment, if the encoder began at `began`.
    pub(super) fn timestamp_at(&self, began: Duration, now: Duration) -> u32 {
        let ticks = now.saturating_sub(began).as_nanos() * 48_000 / 1_000_000_000;
        self.timestamp.wrapping_add(ticks as u32)
    }
}

/// An NTP time so long after another.
pub(super) fn ntp(start: u64, after: Duration) -> u64 {
    start.wrapping_add(((after.as_nanos() << 32) / 1_000_000_000) as u64)
}

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 20;

fn payload(id: FrameId, frame_ticks: u32) -> Bytes {
    let mut payload = [0; PAYLOAD_BYTES];
    // RFC 6716 table 2: CELT full band of 20 ms, SILK wide band of 60 ms.
    payload[0] = if frame_ticks == 960 { 31 << 3 } else { 11 << 3 };
    payload[1] = id.track;
    payload[2..4].copy_from_slice(&id.encoder.to_be_bytes());
    payload[4..8].copy_from_slice(&id.number.to_be_bytes());
    let hash = fnv(&payload[..8]);
    payload[8..16].copy_from_slice(&hash.to_be_bytes());
    payload[16..].copy_from_slice(&(hash as u32).rotate_left(7).to_be_bytes());
    Bytes::copy_from_slice(&payload)
}

/// Who a payload says it is; `None` for what was damaged.
pub(super) fn identify(payload: &[u8]) -> Option<FrameId> {
    let payload: &[u8; PAYLOAD_BYTES] = payload.try_into().ok()?;
    let hash = fnv(&payload[..8]);
    let whole =
        payload[8..16] == hash.to_be_bytes() && payload[16..] == (hash as u32).rotate_left(7).to_be_bytes();
    let [_, track, e0, e1, n0, n1, n2, n3, ..] = *payload;
    let (encoder, number) = (u16::from_be_bytes([e0, e1]), u32::from_be_bytes([n0, n1, n2, n3]));
    whole.then_some(FrameId { track, encoder, number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_who_it_is_and_a_damaged_one_nothing() {
        let mut encoder = Encoder::new(1, 2, 960);
        encoder.say(Duration::ZERO);
        let said = encoder.say(Duration::from_millis(20)).clone();
        assert_eq!(identify(&said.payload), Some(said.id));
        assert_eq!((said.id.number, said.ticks), (1, 960));
        let mut damaged = said.payload.to_vec();
        damaged[13] ^= 1;
        assert_eq!(identify(&damaged), None);
        assert_eq!(identify(&[]), None);
    }

    #[test]
    fn an_encoder_keeps_thirty_seconds() {
        let mut encoder = Encoder::new(0, 0, 2_880);
        for n in 0..1_000 {
            encoder.say(Duration::from_millis(60) * n);
        }
        assert!(encoder.kept(498).is_none() && encoder.kept(500).is_some());
        assert_eq!(encoder.kept(999).map(|said| said.id.number), Some(999));
        assert!(encoder.kept(1_000).is_none());
    }

    #[test]
    fn the_engine_reads_what_a_leg_writes() {
        let mut encoder = Encoder::new(0, 0, 960);
        encoder.say(Duration::ZERO);
        let numbering = Numbering {
            payload_type: 111,
            ssrc: 7,
            sequence: 65_535,
            timestamp: u32::MAX,
            capture: Some(1 << 40),
        };
        let said = encoder.say(Duration::from_millis(500)).clone();
        let packet = relay_engine::rtp::Packet::parse(numbering.packet(&said)).unwrap();
        assert_eq!((packet.header.sequence, packet.header.timestamp, packet.header.ssrc), (0, 959, 7));
        assert_eq!(packet.payload, said.payload);
        let time = packet.header.extensions.capture_time(CAPTURE_ID).unwrap().time.0;
        assert_eq!(time, (1 << 40) + (1 << 31));
    }
}
