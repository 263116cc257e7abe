//! A timeline fed by legs whose paths, clocks and encoders are what a test says.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Config;
use crate::config::HistoryLimits;
use crate::frame::CarriedFrame;
use crate::id::{LegId, Slots};
use crate::io::{Event, LegState, SwitchError, Verdict};
use crate::rtp::{CaptureTime, NtpTime, rtcp};
use crate::stats::Alignment;
use crate::time::MediaTime;
use crate::time::tests::origin;
use crate::track::arrived::{Arrived, Number, Wire};
use crate::track::merge::{Merge, Refused};
use crate::track::timeline::Timeline;

pub(super) const SKEW: Duration = Duration::from_millis(450);
pub(super) const FRAME: u64 = 960;

pub(super) struct Stage {
    pub(super) timeline: Timeline,
    pub(super) merge: Merge,
    pub(super) now: Instant,
    start: Instant,
    legs: Slots<LegId, ()>,
    pub(super) spent: Vec<Event>,
    /// The position that the track began at.
    first: Option<u64>,
    checks: u64,
    /// Timestamps go with sequence numbers.
    pub(super) honest: bool,
}

/// What one encoder sends on one leg: how it numbers, and what its clocks say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoder {
    pub(super) ssrc: u32,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    /// Payloads of two encoders differ if this does.
    pub(super) sound: u8,
    /// When its frames begin, ms after those of others.
    pub(super) phase_us: u64,
    /// How much faster its sample clock runs than time, millionths.
    pub(super) ppm: i64,
    pub(super) captures: bool,
}

impl Encoder {
    pub(super) const fn new(ssrc: u32) -> Self {
        Self { ssrc, sequence: 0, timestamp: 0, sound: 0, phase_us: 0, ppm: 0, captures: false }
    }

    /// When its `n`-th frame is captured, µs after the start of the world.
    pub(super) fn captured_us(&self, n: u64) -> u64 {
        let nominal = n * 20_000;
        let drift = nominal.cast_signed() * self.ppm / 1_000_000;
        (nominal + self.phase_us).saturating_add_signed(-drift)
    }

    pub(super) fn payload(&self, n: u64) -> Bytes {
        let mut payload = vec![0x78; 40];
        payload[1] = self.sound;
        payload[2..10].copy_from_slice(&n.to_be_bytes());
        payload.into()
    }

    pub(super) fn wire(&self, n: u64) -> Wire {
        Wire {
            ssrc: self.ssrc,
            sequence: self.sequence.wrapping_add(n as u16),
            timestamp: self.timestamp.wrapping_add((n as u32).wrapping_mul(FRAME as u32)),
        }
    }

    pub(super) fn capture_time(&self, n: u64) -> CaptureTime {
        CaptureTime { time: wall(self.captured_us(n)), offset: None }
    }
}

fn wall(us: u64) -> NtpTime {
    // The era ends 10 s into every test.
    NtpTime((u64::from(u32::MAX) - 10) << 32).wrapping_add(Duration::from_micros(us))
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with_history(Config::new().history)
    }

    pub(super) fn with_history(limits: HistoryLimits) -> Self {
        Self {
            timeline: Timeline::new(limits),
            merge: Merge::new(SKEW),
            now: origin(),
            start: origin(),
            legs: Slots::new(0),
            spent: Vec::new(),
            first: None,
            checks: 0,
            honest: true,
        }
    }

    pub(super) fn leg(&mut self) -> LegId {
        self.leg_of(0).unwrap()
    }

    pub(super) fn leg_of(&mut self, epoch: u64) -> Result<LegId, Refused> {
        self.merge.check(epoch)?;
        let leg = self.legs.insert_with(|_| ());
        self.merge.open(self.now, leg, epoch, &mut self.timeline);
        self.state(leg, LegState::Up);
        Ok(leg)
    }

    pub(super) fn state(&mut self, leg: LegId, state: LegState) {
        self.merge.set_state(self.now, leg, state, &mut self.timeline);
        self.check();
    }

    pub(super) fn close(&mut self, leg: LegId) {
        self.merge.close(self.now, leg, &mut self.timeline);
        self.check();
    }

    pub(super) fn switch(&mut self, to: LegId) -> Result<(), SwitchError> {
        let switched = self.merge.switch(self.now, to, &mut self.timeline);
        self.check();
        switched
    }

    /// The world's time, µs after its start; what is due on the way happens.
    pub(super) fn at_us(&mut self, us: u64) {
        let to = self.start + Duration::from_micros(us);
        while let Some(due) = self.merge.due().filter(|&due| due <= to) {
            self.now = self.now.max(due);
            self.merge.timeout(self.now, &mut self.timeline);
            assert!(self.merge.due().is_none_or(|due| due > self.now), "I4");
            self.check();
        }
        self.now = self.now.max(to);
    }

    pub(super) fn wait(&mut self, ms: u64) {
        let us = u64::try_from((self.now - self.start).as_micros()).unwrap();
        self.at_us(us + ms * 1_000);
    }

    /// The `n`-th frame of an encoder comes on a leg.
    pub(super) fn bring(&mut self, leg: LegId, encoder: &Encoder, n: u64) -> Verdict {
        let frame = Arrived {
            at: self.now,
            number: Number::Wire(encoder.wire(n)),
            duration: FRAME as u32,
            marker: false,
            capture_time: encoder.captures.then(|| encoder.capture_time(n)),
            audio_level: None,
            payload: encoder.payload(n),
        };
        self.offer(leg, frame)
    }

    /// Each at the time of its capture.
    pub(super) fn bring_live(
        &mut self,
        leg: LegId,
        encoder: &Encoder,
        numbers: impl IntoIterator<Item = u64>,
    ) {
        for n in numbers {
            self.at_us(encoder.captured_us(n));
            self.bring(leg, encoder, n);
        }
    }

    pub(super) fn bring_all(&mut self, leg: LegId, encoder: &Encoder, numbers: std::ops::Range<u64>) {
        for n in numbers {
            self.bring(leg, encoder, n);
        }
    }

    pub(super) fn carry(&mut self, leg: LegId, position: u64) -> Verdict {
        let frame = CarriedFrame {
            position,
            media_time: MediaTime::from_ticks(position.wrapping_mul(FRAME)),
            marker: false,
            capture_time: None,
            audio_level: None,
            payload: Encoder::new(0).payload(position),
        };
        self.offer(leg, Arrived::carried(self.now, frame))
    }

    /// A frame comes on a leg, whoever made it.
    pub(super) fn offer(&mut self, leg: LegId, frame: Arrived) -> Verdict {
        let taken = self.merge.take(self.now, leg, frame, &mut self.timeline);
        self.check();
        taken.verdict
    }

    /// A sender report of an encoder, made when frame `n` was captured.
    pub(super) fn report(&mut self, leg: LegId, encoder: &Encoder, n: u64) {
        let report = rtcp::SenderReport {
            ssrc: encoder.ssrc,
            ntp: wall(encoder.captured_us(n)),
            rtp_timestamp: encoder.wire(n).timestamp,
            ..Default::default()
        };
        self.merge.note_report(leg, &report, &mut self.timeline);
    }

    fn check(&mut self) {
        self.spent.extend(self.merge.take_event());
        self.checks += 1;
        if self.checks > 200 && !self.checks.is_multiple_of(37) {
            return;
        }
        let history = &self.timeline.history;
        // Whatever happens: every position since the start is held, was held, is a hole, or is told of as lost.
        let next = self.timeline.next_position();
        let holes = self.timeline.holes(0, next);
        let first = *self.first.get_or_insert_with(|| history.oldest().unwrap_or(next));
        if next == 0 {
            self.first = None;
            return;
        }
        assert_eq!(self.timeline.frames() + history.lost.total() + holes, next - first, "exact losses");
        let mut last = None;
        for frame in (history.oldest().unwrap_or(next)..next).filter_map(|position| history.get(position)) {
            assert!(!self.honest || last < Some(frame.media_time), "media time {last:?} {frame:?}");
            last = Some(frame.media_time);
        }
    }

    pub(super) fn alignment(&self, leg: LegId) -> Option<Alignment> {
        self.merge.leg(leg, &self.timeline).0
    }

    /// The sound and the number of the frame at each position that is held; `None` for a hole.
    pub(super) fn heard(&self) -> Vec<Option<(u8, u64)>> {
        let history = &self.timeline.history;
        let oldest = history.oldest().unwrap_or(0);
        (oldest..self.timeline.next_position())
            .map(|position| {
                let payload = history.get(position)?.payload;
                Some((payload[1], u64::from_be_bytes(payload[2..10].try_into().unwrap())))
            })
            .collect()
    }

    /// The media times of what is held.
    pub(super) fn media(&self) -> Vec<u64> {
        let history = &self.timeline.history;
        let oldest = history.oldest().unwrap_or(0);
        let held = (oldest..self.timeline.next_position()).filter_map(|position| history.get(position));
        held.map(|frame| frame.media_time.ticks()).collect()
    }

    /// Every frame of one encoder from `from` to `to`, and no hole.
    pub(super) fn assert_whole(&self, from: u64, to: u64) {
        let numbers: Vec<_> = self.heard().into_iter().map(|heard| heard.map(|(_, n)| n)).collect();
        let wrong = numbers.iter().zip(from..to).position(|(heard, n)| *heard != Some(n));
        assert_eq!(
            wrong,
            None,
            "{:?}",
            wrong.map(|at| &numbers[at.saturating_sub(3)..numbers.len().min(at + 9)])
        );
        assert_eq!(numbers.len() as u64, to - from);
    }
}
