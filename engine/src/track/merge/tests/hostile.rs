//! Publishers that mean harm: whatever they send, placing it takes little stack and ends.

use bytes::Bytes;
use proptest::prelude::*;

use super::stage::{Encoder, FRAME, Stage};
use crate::Config;
use crate::id::LegId;
use crate::io::{LegState, Verdict};
use crate::rtp::{CaptureTime, NtpTime, rtcp};
use crate::time::MediaTime;
use crate::track::arrived::{Arrived, Number, Wire};

/// A media thread has 2 MiB.
const SMALL_STACK: usize = 256 * 1024;

/// Runs `test` with little stack: an overflow ends the whole test binary.
fn with_little_stack(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(SMALL_STACK);
        thread.spawn_scoped(scope, test).unwrap().join().unwrap();
    });
}

/// Anything that may be sent or done, drawn from one number each.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.roll(from.len() as u64) as usize]
    }
}

/// Two legs at a time and a dice.
struct Storm {
    stage: Stage,
    dice: Dice,
    legs: Vec<LegId>,
    /// Wire numbers go on from here, so that streams continue.
    sequence: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed | 1);
        let frames = dice.pick(&[8, 40, 600, 1_500]) as usize;
        let mut stage = Stage::with_history(Config::new().history_frames(frames).history);
        stage.honest = false;
        Self { stage, dice, legs: Vec::new(), sequence: 0 }
    }

    fn frame(&mut self) -> Arrived {
        let dice = &mut self.dice;
        self.sequence += dice.pick(&[0, 1, 1, 1, 1, 1, 2, 3, 90, 150, 2_900, 3_100, 32_768, 65_535]);
        let back = dice.pick(&[0, 0, 0, 0, 1, 2, 5, 100, 101]);
        let n = self.sequence.saturating_sub(back);
        let wire = Wire {
            ssrc: dice.pick(&[1, 1, 1, 2, 3]) as u32,
            sequence: n as u16,
            timestamp: dice.pick(&[n * FRAME, n * FRAME, n * FRAME, 0, u64::MAX, 1 << 31]) as u32,
        };
        let number = match dice.roll(12) {
            0 => Number::Carried {
                position: dice.pick(&[n, n, n, 0, 1 << 40, u64::MAX, u64::MAX - 1]),
                media_time: MediaTime::from_ticks(dice.pick(&[n * FRAME, 0, 1 << 62, u64::MAX])),
            },
            _ => Number::Wire(wire),
        };
        let time = dice.pick(&[(n << 32) / 50, (n << 32) / 50, (n << 32) / 50, 0, 1 << 63, u64::MAX]);
        let told = dice.roll(3) > 0;
        Arrived {
            at: self.stage.now,
            number,
            duration: dice.pick(&[FRAME, FRAME, FRAME, 0, 5_760]) as u32,
            marker: false,
            capture_time: told.then_some(CaptureTime { time: NtpTime(time), offset: None }),
            audio_level: None,
            payload: if dice.roll(8) == 0 { Bytes::new() } else { Encoder::new(0).payload(n % 64) },
        }
    }

    fn step(&mut self) {
        if self.legs.len() < 2 {
            let epoch = if self.dice.roll(40) == 0 { self.sequence } else { 0 };
            self.legs.extend(self.stage.leg_of(epoch).or_else(|_| self.stage.leg_of(u64::MAX)));
        }
        let at = self.dice.roll(2) as usize % self.legs.len().max(1);
        let Some(&leg) = self.legs.get(at) else { return };
        match self.dice.roll(600) {
            0..2 => self.stage.state(leg, LegState::Down),
            2..8 => self.stage.state(leg, LegState::Up),
            8..10 => self.close(at),
            10..14 => self.stage.switch(leg).unwrap_or_default(),
            14..16 => self.stage.merge.restart(leg),
            16..22 => self.report(leg),
            22..200 => self.wait(),
            _ => {
                let frame = self.frame();
                self.stage.offer(leg, frame);
            }
        }
    }

    fn close(&mut self, at: usize) {
        let leg = self.legs.swap_remove(at);
        self.stage.close(leg);
    }

    fn report(&mut self, leg: LegId) {
        let report = rtcp::SenderReport {
            ssrc: self.dice.pick(&[1, 2]) as u32,
            ntp: NtpTime(self.dice.pick(&[(self.sequence << 32) / 50, 0, 1 << 63, u64::MAX])),
            rtp_timestamp: self.dice.pick(&[self.sequence * FRAME, 0, 1 << 31]) as u32,
            ..Default::default()
        };
        self.stage.merge.note_report(leg, &report, &mut self.stage.timeline);
    }

    fn wait(&mut self) {
        let ms = self.dice.pick(&[0, 0, 1, 5, 20, 20, 41, 460]);
        self.stage.wait(ms);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_is_sent_takes_little_stack(seed in any::<u64>().no_shrink()) {
        with_little_stack(|| {
            let mut storm = Storm::new(seed);
            for _ in 0..2_000 {
                storm.step();
            }
        });
    }
}

#[test]
fn a_hole_is_not_filled_with_the_media_time_of_a_neighbour() {
    let mut stage = Stage::new();
    let voice = Encoder::new(5);
    let leg = stage.leg();
    for n in [0, 1, 5] {
        stage.bring(leg, &voice, n);
    }
    for wrong in [0, 1, 5, 6] {
        let wire = Wire { timestamp: voice.wire(wrong).timestamp, ..voice.wire(3) };
        let frame = Arrived {
            at: stage.now,
            number: Number::Wire(wire),
            duration: FRAME as u32,
            marker: false,
            capture_time: None,
            audio_level: None,
            payload: Bytes::from_static(&[7; 20]),
        };
        assert_ne!(stage.offer(leg, frame), Verdict::Accepted, "{wrong}");
    }
    assert_eq!(stage.bring(leg, &voice, 3), Verdict::Accepted);
}

#[test]
fn a_carried_hole_is_not_filled_with_the_media_time_of_a_neighbour() {
    let mut stage = Stage::new();
    let leg = stage.leg();
    for n in [0, 1, 5] {
        stage.carry(leg, n);
    }
    for wrong in [0, 1, 5] {
        let frame = Arrived {
            at: stage.now,
            number: Number::Carried { position: 3, media_time: MediaTime::from_ticks(wrong * FRAME) },
            duration: FRAME as u32,
            marker: false,
            capture_time: None,
            audio_level: None,
            payload: Bytes::from_static(&[7; 20]),
        };
        assert_eq!(stage.offer(leg, frame), Verdict::Suspicious, "{wrong}");
    }
    assert_eq!(stage.carry(leg, 3), Verdict::Accepted);
}
