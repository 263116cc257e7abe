//! What a simulated publisher sends: a run of frames, each of which says in its payload who it is.
//!
//! The packets are laid out here by hand and not by the engine's writer: a world that shares the code it tests
//! proves little. Within a run the sequence number is affine in the frame's number; a run ends where a real
//! encoder would restart: a new SSRC, or a far jump in sequence.

use std::time::Duration;

use bytes::Bytes;

/// The id under which the world's publishers send the audio level.
pub const LEVEL_ID: u8 = 3;
/// The id under which they send the capture time.
pub const CAPTURE_ID: u8 = 5;

/// What a publisher sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamSpec {
    /// Duration of each frame in 48 kHz ticks; one of [`FRAME_TICKS`].
    pub frame_ticks: u32,
    /// RTP sequence number of the first frame.
    pub first_sequence: u16,
    /// RTP timestamp of the first frame.
    pub first_timestamp: u32,
    /// SSRC of the first run.
    pub ssrc: u32,
    /// Probability per frame that a DTX gap begins.
    pub dtx: f64,
    /// Longest payload, bytes; the shortest is [`SHORTEST_PAYLOAD`].
    pub longest_payload: usize,
    /// Sends audio levels and capture times.
    pub extensions: bool,
    /// RTP payload type.
    pub payload_type: u8,
}

/// The frame durations that Opus packets can have here, in 48 kHz ticks.
pub const FRAME_TICKS: [u32; 7] = [120, 240, 480, 960, 1_920, 2_880, 5_760];

/// Bytes of a payload that says who it is.
pub const SHORTEST_PAYLOAD: usize = 16;

/// Which frame of the world it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    /// The publisher that sent it.
    pub publisher: usize,
    /// The publisher's run.
    pub run: u32,
    /// Its number in the run; the sequence number is affine in it.
    pub number: u32,
}

/// A frame as it left its publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which it is.
    pub id: FrameId,
    /// Its SSRC.
    pub ssrc: u32,
    /// Its timestamp in the run, not wrapped: counts from the run's first frame.
    pub ticks: u64,
    /// Duration in 48 kHz ticks.
    pub frame_ticks: u32,
    /// Its RTP marker.
    pub marker: bool,
    /// Its audio level: voice, −dBov.
    pub level: Option<(bool, u8)>,
    /// Its capture time, NTP.
    pub capture: Option<u64>,
    /// Its payload.
    pub payload: Bytes,
    /// The whole packet.
    pub datagram: Bytes,
}

/// A publisher's encoder and packetizer.
#[derive(Clone, Debug)]
pub struct Stream {
    spec: StreamSpec,
    publisher: usize,
    run: u32,
    number: u32,
    ticks: u64,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    random: fastrand::Rng,
}

impl Stream {
    /// A stream at its first frame.
    #[must_use]
    pub fn new(spec: StreamSpec, publisher: usize, seed: u64) -> Self {
        Self {
            spec,
            publisher,
            run: 0,
            number: 0,
            ticks: 0,
            ssrc: spec.ssrc,
            sequence: spec.first_sequence,
            timestamp: spec.first_timestamp,
            marker: true,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The next frame, captured at `now`.
    pub fn send(&mut self, now: Duration) -> Sent {
        let id = FrameId { publisher: self.publisher, run: self.run, number: self.number };
        let silent = self.spec.dtx > 0.0 && self.random.f64() < 0.1;
        let payload = if silent { vec![self.toc()] } else { self.speech(id) };
        let level = self.spec.extensions.then(|| (self.random.bool(), self.random.u8(0..128)));
        let capture = self.spec.extensions.then_some(now.as_nanos() as u64 | 1 << 63);
        let datagram = self.packet(level, capture, &payload);
        let marker = self.marker;
        let sent = Sent {
            id,
            ssrc: self.ssrc,
            ticks: self.ticks,
            frame_ticks: self.spec.frame_ticks,
            marker,
            level,
            capture,
            payload: payload.into(),
            datagram: datagram.into(),
        };
        self.advance(self.spec.frame_ticks);
        sent
    }

    /// How long until the next frame: one duration, or a DTX gap after which the timestamp has gone on.
    pub fn pause(&mut self) -> Duration {
        let frame = ticks(u64::from(self.spec.frame_ticks));
        if self.random.f64() >= self.spec.dtx {
            return frame;
        }
        let frames = self.random.u32(1..40);
        self.timestamp = self.timestamp.wrapping_add(self.spec.frame_ticks * frames);
        self.ticks += u64::from(self.spec.frame_ticks * frames);
        self.marker = true;
        frame * (frames + 1)
    }

    /// Frames that are sent and lost before any link: the numbers go on.
    pub fn skip(&mut self, frames: u16) {
        self.number += u32::from(frames);
        self.sequence = self.sequence.wrapping_add(frames);
        self.timestamp = self.timestamp.wrapping_add(u32::from(frames) * self.spec.frame_ticks);
        self.ticks += u64::from(frames) * u64::from(self.spec.frame_ticks);
    }

    /// Starts a new run: another SSRC, and everything else anew.
    pub fn restart(&mut self, ssrc: u32, sequence: u16, timestamp: u32) {
        self.run += 1;
        self.number = 0;
        self.ticks = 0;
        self.ssrc = ssrc;
        self.sequence = sequence;
        self.timestamp = timestamp;
        self.marker = true;
    }

    /// Starts a new run under the same SSRC: the sequence number jumps.
    pub fn jump(&mut self, by: u16) {
        let (sequence, timestamp) = (self.sequence.wrapping_add(by), self.timestamp);
        self.restart(self.ssrc, sequence, timestamp);
    }

    /// Duration of a frame.
    #[must_use]
    pub fn frame(&self) -> Duration {
        ticks(u64::from(self.spec.frame_ticks))
    }

    /// The SSRC of the current run.
    #[must_use]
    pub const fn ssrc(&self) -> u32 {
        self.ssrc
    }

    fn advance(&mut self, frame_ticks: u32) {
        self.number += 1;
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(frame_ticks);
        self.ticks += u64::from(frame_ticks);
        self.marker = false;
    }

    /// RFC 6716 table 2: CELT full band up to 20 ms, SILK wide band above; 120 ms is two frames of 60 ms.
    fn toc(&self) -> u8 {
        match self.spec.frame_ticks {
            120 => 28 << 3,
            240 => 29 << 3,
            480 => 30 << 3,
            960 => 31 << 3,
            1_920 => 10 << 3,
            2_880 => 11 << 3,
            _ => 11 << 3 | 1,
        }
    }

    fn speech(&mut self, id: FrameId) -> Vec<u8> {
        let length = self.random.usize(SHORTEST_PAYLOAD..=self.spec.longest_payload.max(SHORTEST_PAYLOAD));
        let mut payload = Vec::with_capacity(length);
        payload.push(self.toc());
        payload.extend((id.publisher as u16).to_be_bytes());
        payload.extend((id.run as u16).to_be_bytes());
        payload.extend(id.number.to_be_bytes());
        payload.resize_with(length - 4, || self.random.u8(..));
        let hash = fnv(&payload) as u32;
        payload.extend(hash.to_be_bytes());
        payload
    }

    fn packet(&self, level: Option<(bool, u8)>, capture: Option<u64>, payload: &[u8]) -> Vec<u8> {
        let extended = u8::from(level.is_some()) << 4;
        let mut packet = vec![0x80 | extended, u8::from(self.marker) << 7 | self.spec.payload_type];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        if let (Some((voice, level)), Some(capture)) = (level, capture) {
            packet.extend([0xbe, 0xde, 0, 3]);
            packet.extend([LEVEL_ID << 4, u8::from(voice) << 7 | level, CAPTURE_ID << 4 | 7]);
            packet.extend(capture.to_be_bytes());
            packet.push(0);
        }
        packet.extend(payload);
        packet
    }
}

/// Who a payload says it is; `None` for DTX and for what was damaged.
#[must_use]
pub fn identify(payload: &[u8]) -> Option<FrameId> {
    let (said, hash) = payload.split_last_chunk::<4>()?;
    if payload.len() < SHORTEST_PAYLOAD || *hash != (fnv(said) as u32).to_be_bytes() {
        return None;
    }
    let word = |at: usize| u16::from_be_bytes([said[at], said[at + 1]]);
    let number = u32::from(word(5)) << 16 | u32::from(word(7));
    Some(FrameId { publisher: usize::from(word(1)), run: u32::from(word(3)), number })
}

/// A duration of 48 kHz ticks.
#[must_use]
pub const fn ticks(ticks: u64) -> Duration {
    Duration::from_nanos(ticks * 62_500 / 3)
}

/// FNV-1a, 64 bits.
#[must_use]
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: StreamSpec = StreamSpec {
        frame_ticks: 960,
        first_sequence: 65_535,
        first_timestamp: u32::MAX - 100,
        ssrc: 7,
        dtx: 0.0,
        longest_payload: 120,
        extensions: true,
        payload_type: 111,
    };

    #[test]
    fn a_payload_says_who_it_is() {
        let mut stream = Stream::new(SPEC, 3, 1);
        stream.skip(70_000u32 as u16);
        for _ in 0..20 {
            let sent = stream.send(Duration::ZERO);
            assert_eq!(identify(&sent.payload), Some(sent.id));
            assert!(sent.datagram.ends_with(&sent.payload));
        }
    }

    #[test]
    fn a_damaged_payload_says_nothing() {
        let mut payload = Stream::new(SPEC, 3, 1).send(Duration::ZERO).payload.to_vec();
        payload[9] ^= 1;
        assert_eq!(identify(&payload), None);
        assert_eq!(identify(&[0x08]), None);
        assert_eq!(identify(&[]), None);
    }

    #[test]
    fn the_engine_reads_what_the_stream_writes() {
        let sent = Stream::new(SPEC, 3, 1).send(Duration::from_secs(1));
        let packet = relay_engine::rtp::Packet::parse(sent.datagram).unwrap();
        assert_eq!(packet.payload, sent.payload);
        let level = packet.header.extensions.audio_level(LEVEL_ID).unwrap();
        assert_eq!(Some((level.voice, level.level)), sent.level);
        assert_eq!(packet.header.extensions.capture_time(CAPTURE_ID).unwrap().time.0, sent.capture.unwrap());
        assert_eq!((packet.header.sequence, packet.header.ssrc, packet.header.marker), (65_535, 7, true));
    }

    #[test]
    fn a_gap_moves_the_timestamp_and_not_the_sequence() {
        let mut stream = Stream::new(StreamSpec { dtx: 1.0, ..SPEC }, 0, 1);
        let first = stream.send(Duration::ZERO);
        let pause = stream.pause();
        let second = stream.send(pause);
        assert_eq!(second.id.number, 1);
        assert!(pause > stream.frame());
        assert_eq!(ticks(second.ticks - first.ticks), pause);
        assert!(second.marker);
    }

    #[test]
    fn every_frame_duration_is_what_its_first_byte_says() {
        for frame_ticks in FRAME_TICKS {
            let sent = Stream::new(StreamSpec { frame_ticks, ..SPEC }, 0, 1).send(Duration::ZERO);
            let toc = relay_engine::rtp::opus::Toc::parse(&sent.payload).unwrap();
            assert_eq!(toc.duration(), frame_ticks);
        }
    }
}
