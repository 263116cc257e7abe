//! Every alignment rule, with clocks that drift apart, paths that differ, and numbers that wrap.

use proptest::prelude::*;

use super::stage::{Encoder, FRAME, Stage};
use crate::id::LegId;
use crate::stats::{Alignment, Rule};

/// Two legs at work: packets of both, in the order they come, for `seconds`.
struct Pair {
    stage: Stage,
    legs: [LegId; 2],
    encoders: [Encoder; 2],
    delays_us: [u64; 2],
    jitter_us: u64,
    reports: bool,
}

impl Pair {
    fn new(encoders: [Encoder; 2], delays_ms: [u64; 2]) -> Self {
        let mut stage = Stage::new();
        let legs = [stage.leg(), stage.leg()];
        let delays_us = delays_ms.map(|ms| ms * 1_000);
        Self { stage, legs, encoders, delays_us, jitter_us: 0, reports: false }
    }

    /// The frames captured from `from` to `to` seconds.
    fn run(&mut self, from: u64, to: u64) {
        let mut packets = Vec::new();
        for (leg, encoder) in self.encoders.iter().enumerate() {
            // The second leg comes when the first has led for a second.
            let from = from.max(leg as u64);
            for n in from * 50..to * 50 {
                let jitter = (n * 7_919 + leg as u64 * 31) % 100 * self.jitter_us / 100;
                packets.push((encoder.captured_us(n) + self.delays_us[leg] + jitter, leg, n));
            }
        }
        packets.sort_unstable();
        for (us, leg, n) in packets {
            self.stage.at_us(us);
            self.stage.bring(self.legs[leg], &self.encoders[leg], n);
            if self.reports && n % 250 == leg as u64 * 20 {
                self.stage.report(self.legs[leg], &self.encoders[leg], n);
            }
        }
    }

    /// How much of what was said is missing at each seam, µs; negative if it is said twice.
    fn seams(&self) -> Vec<i64> {
        let heard = self.stage.heard();
        let start = |(sound, n): (u8, u64)| self.encoders[usize::from(sound)].captured_us(n).cast_signed();
        let pairs = heard.windows(2).map(|pair| (pair[0].unwrap(), pair[1].unwrap()));
        pairs.filter(|(a, b)| a.0 != b.0).map(|(a, b)| start(b) - start(a) - 20_000).collect()
    }

    /// Runs both for a while, switches, runs on; the shift at the seam.
    fn splice(&mut self, seconds: u64) -> i64 {
        self.run(0, seconds);
        self.stage.switch(self.legs[1]).unwrap();
        self.run(seconds, seconds + 2);
        let media = self.stage.media();
        assert!(
            media.windows(2).all(|pair| pair[1] - pair[0] == FRAME),
            "no gap and no repeat in media time"
        );
        let seams = self.seams();
        assert_eq!(seams.len(), 1, "{seams:?}");
        seams[0]
    }
}

fn encoders(ppm: [i64; 2], phase_us: u64, wire: (u16, u32)) -> [Encoder; 2] {
    let (sequence, timestamp) = wire;
    let first = Encoder { ppm: ppm[0], sequence, timestamp, ..Encoder::new(1) };
    let second = Encoder {
        ppm: ppm[1],
        phase_us,
        sound: 1,
        sequence: sequence.wrapping_add(30_000),
        timestamp: timestamp.wrapping_mul(3),
        ..Encoder::new(2)
    };
    [first, second]
}

fn clocks() -> impl Strategy<Value = [i64; 2]> {
    let ppm = || prop_oneof![Just(-100_i64), Just(0), Just(100), -100_i64..100];
    [ppm(), ppm()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn separate_encodings_splice_by_capture_time(
        ppm in clocks(), phase_us in 0_u64..20_000, wire in any::<(u16, u32)>(),
        delays in [0_u64..440, 0_u64..440], seconds in 2_u64..28,
    ) {
        let encoders = encoders(ppm, phase_us, wire).map(|encoder| Encoder { captures: true, ..encoder });
        let mut pair = Pair::new(encoders, delays);
        let shift = pair.splice(seconds);
        prop_assert!((-3_000..=20_500).contains(&shift), "{}", shift);
        let expected = Alignment { rule: Rule::CaptureTime, twin: false };
        prop_assert_eq!(pair.stage.alignment(pair.legs[1]), Some(expected));
    }

    #[test]
    fn separate_encodings_splice_by_sender_reports(
        ppm in clocks(), phase_us in 0_u64..20_000, wire in any::<(u16, u32)>(),
        delays in [0_u64..440, 0_u64..440], seconds in 6_u64..28,
    ) {
        let mut pair = Pair::new(encoders(ppm, phase_us, wire), delays);
        pair.reports = true;
        let shift = pair.splice(seconds);
        prop_assert!((-4_000..=21_500).contains(&shift), "{}", shift);
        let expected = Alignment { rule: Rule::SenderReport, twin: false };
        prop_assert_eq!(pair.stage.alignment(pair.legs[1]), Some(expected));
    }

    #[test]
    fn separate_encodings_splice_by_arrival(
        ppm in clocks(), phase_us in 0_u64..20_000, wire in any::<(u16, u32)>(),
        delay in 0_u64..440, seconds in 2_u64..28, jitter_us in 0_u64..3_000,
    ) {
        let mut pair = Pair::new(encoders(ppm, phase_us, wire), [delay, delay]);
        pair.jitter_us = jitter_us;
        let shift = pair.splice(seconds);
        // Where its frames lie by a clock nothing says: the first that comes is the next one.
        let off = 3_000 + jitter_us.cast_signed();
        prop_assert!((-20_000 - off..=20_000 + off).contains(&shift), "{}", shift);
        let expected = Alignment { rule: Rule::Arrival, twin: false };
        prop_assert_eq!(pair.stage.alignment(pair.legs[1]), Some(expected));
    }

    #[test]
    fn the_same_frames_under_another_ssrc_are_twins_by_capture_time(
        ppm in -100_i64..100, wire in any::<(u16, u32)>(),
        delays in [0_u64..440, 0_u64..440], seconds in 2_u64..28,
    ) {
        twins_lose_nothing(ppm, wire, delays, seconds, Rule::CaptureTime)?;
    }

    #[test]
    fn the_same_frames_under_another_ssrc_are_twins_by_sender_reports(
        ppm in -100_i64..100, wire in any::<(u16, u32)>(),
        delays in [0_u64..440, 0_u64..440], seconds in 12_u64..28,
    ) {
        twins_lose_nothing(ppm, wire, delays, seconds, Rule::SenderReport)?;
    }

    #[test]
    fn the_same_stream_on_two_paths_are_twins_by_their_numbers(
        ppm in -100_i64..100, wire in any::<(u16, u32)>(),
        delays in [0_u64..440, 0_u64..440], seconds in 2_u64..28,
    ) {
        twins_lose_nothing(ppm, wire, delays, seconds, Rule::SameSource)?;
    }
}

fn twins_lose_nothing(
    ppm: i64,
    wire: (u16, u32),
    delays: [u64; 2],
    seconds: u64,
    rule: Rule,
) -> Result<(), TestCaseError> {
    let [first, second] = encoders([ppm, ppm], 0, wire).map(|encoder| Encoder {
        captures: rule == Rule::CaptureTime,
        sound: 0,
        ..encoder
    });
    let second = if rule == Rule::SameSource { first } else { second };
    let mut pair = Pair::new([first, second], delays);
    pair.reports = rule == Rule::SenderReport;
    pair.run(0, seconds);
    prop_assert_eq!(pair.stage.alignment(pair.legs[1]), Some(Alignment { rule, twin: true }));
    pair.stage.switch(pair.legs[1]).unwrap();
    pair.run(seconds, seconds + 1);
    pair.stage.wait(900);
    prop_assert_eq!(pair.stage.spent.len(), 1);
    pair.stage.close(pair.legs[0]);
    pair.run(seconds + 1, seconds + 2);
    pair.stage.assert_whole(0, (seconds + 2) * 50);
    let media = pair.stage.media();
    prop_assert!(media.windows(2).all(|pair| pair[1] - pair[0] == FRAME));
    Ok(())
}

#[test]
fn a_switch_there_and_back_all_day_stays_on_time() {
    // An hour, a switch each 30 s, sample clocks 200 ppm apart.
    let encoders = encoders([100, -100], 7_000, (9, 9)).map(|encoder| Encoder { captures: true, ..encoder });
    let mut pair = Pair::new(encoders, [30, 60]);
    for round in 0..120 {
        pair.run(round * 30, round * 30 + 30);
        pair.stage.switch(pair.legs[(round % 2) as usize]).unwrap();
        assert!(pair.seams().iter().all(|shift| (-3_000..=20_500).contains(shift)), "{:?}", pair.seams());
    }
    let newest = pair.stage.timeline.newest().unwrap();
    let ms = newest.media_time.since_start().as_millis().abs_diff(3_600_000);
    assert!(ms < 120 * 20, "{ms} ms off after 120 splices of at most 20 ms");
}
