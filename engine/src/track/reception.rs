//! What was received of one SSRC: the numbers of a report block (RFC 3550 §6.4.1, §A.3, §A.8).
//!
//! Counts every packet of one source that the wire brought, duplicates and late ones too, as the RFC wants it; what the
//! history took is counted elsewhere. After a jump the same SSRC is another source, and what was still on its way from
//! before the jump is not counted: its numbers would be read as loss or as jitter.

use std::time::Instant;

use super::source::MAX_DROPOUT;
use crate::rtp::rtcp::ReportBlock;
use crate::rtp::seq::{Extend16, distance32};
use crate::stats;
use crate::time::{MediaTime, ticks_to_duration, to_short};

/// Reception statistics of one SSRC.
#[derive(Debug)]
pub(crate) struct Reception {
    ssrc: u32,
    sequence: Extend16,
    first: u64,
    received: u64,
    /// Expected and received at the last report.
    prior: (u64, u64),
    /// When the first packet came: what arrival times are counted from.
    start: Instant,
    transit: u32,
    /// In 1/16 ticks, as §A.8 keeps it.
    jitter: u64,
}

/// The publisher's last sender report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastSenderReport {
    pub(crate) ssrc: u32,
    pub(crate) middle: u32,
    pub(crate) arrived: Instant,
}

impl Reception {
    /// Starts with the first packet.
    pub(crate) fn new(now: Instant, ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        let mut extend = Extend16::new();
        let first = extend.extend(sequence);
        let transit = 0_u32.wrapping_sub(timestamp);
        Self { ssrc, sequence: extend, first, received: 1, prior: (0, 0), start: now, transit, jitter: 0 }
    }

    pub(crate) const fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Counts a further packet, unless its number says that it is of another source.
    pub(crate) fn packet(&mut self, now: Instant, sequence: u16, timestamp: u32) {
        if !(self.first..=self.highest() + MAX_DROPOUT).contains(&self.sequence.peek(sequence)) {
            return;
        }
        self.sequence.extend(sequence);
        self.received += 1;
        let arrival = MediaTime::ticks_in(now.saturating_duration_since(self.start)) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        let difference = u64::from(distance32(self.transit, transit).unsigned_abs());
        self.transit = transit;
        // §A.8: J += |D| − (J + 8) / 16, all in 1/16 ticks.
        self.jitter = self.jitter + difference - ((self.jitter + 8) >> 4);
    }

    /// The report block for the time since the last one.
    pub(crate) fn report(&mut self, now: Instant, sender_report: Option<LastSenderReport>) -> ReportBlock {
        let expected = self.expected();
        let expected_since = expected - self.prior.0;
        let received_since = self.received - self.prior.1;
        self.prior = (expected, self.received);
        let lost_since = expected_since.saturating_sub(received_since);
        // §A.3: the part lost in 1/256; all of them is 255, the most that fits.
        let fraction = (lost_since << 8).checked_div(expected_since).unwrap_or(0).min(255);
        let heard = sender_report.filter(|report| report.ssrc == self.ssrc);
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: fraction as u8,
            cumulative_lost: self.lost().clamp(MIN_LOST, MAX_LOST) as i32,
            highest_sequence: (self.highest() - FIRST_CYCLE) as u32,
            jitter: self.jitter_ticks(),
            last_sender_report: heard.map_or(0, |report| report.middle),
            delay_since_last_sender_report: heard
                .map_or(0, |report| to_short(now.saturating_duration_since(report.arrived))),
        }
    }

    /// The same as a snapshot.
    pub(crate) fn stats(&self) -> stats::Reception {
        stats::Reception {
            ssrc: self.ssrc,
            received: self.received,
            lost: self.lost(),
            jitter: ticks_to_duration(self.jitter_ticks()),
        }
    }

    fn highest(&self) -> u64 {
        self.sequence.highest().unwrap_or(self.first)
    }

    fn expected(&self) -> u64 {
        self.highest() - self.first + 1
    }

    fn lost(&self) -> i64 {
        self.expected().cast_signed().saturating_sub(self.received.cast_signed())
    }

    fn jitter_ticks(&self) -> u32 {
        u32::try_from(self.jitter >> 4).unwrap_or(u32::MAX)
    }
}

/// The extender starts in its second cycle; the wire counts from the first.
const FIRST_CYCLE: u64 = 1 << 16;
/// The cumulative count has 24 bits and a sign.
const MAX_LOST: i64 = 0x7f_ffff;
const MIN_LOST: i64 = -0x80_0000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::tests::origin;

    const FRAME: Duration = Duration::from_millis(20);

    /// Sequence numbers 20 ms apart, on time.
    fn received(start: Instant, first: u16, sequences: impl IntoIterator<Item = u16>) -> Reception {
        let mut reception = Reception::new(start, 7, first, u32::from(first) * 960);
        for sequence in sequences {
            let n = u32::from(sequence.wrapping_sub(first));
            reception.packet(start + FRAME * n, sequence, u32::from(first) * 960 + n * 960);
        }
        reception
    }

    #[test]
    fn a_perfect_stream_has_no_loss_and_no_jitter() {
        let start = origin();
        let report = received(start, 100, 101..200).report(start, None);
        assert_eq!((report.ssrc, report.fraction_lost, report.cumulative_lost), (7, 0, 0));
        assert_eq!((report.highest_sequence, report.jitter), (199, 0));
        assert_eq!((report.last_sender_report, report.delay_since_last_sender_report), (0, 0));
    }

    #[test]
    fn loss_is_a_fraction_since_the_last_report_and_a_sum_since_the_start() {
        let start = origin();
        let mut reception = received(start, 0, (1..100).filter(|n| n % 4 != 0));
        let report = reception.report(start, None);
        assert_eq!((report.fraction_lost, report.cumulative_lost), (61, 24), "24 of 100");
        for n in 100..200 {
            reception.packet(start, n, 0);
        }
        let report = reception.report(start, None);
        assert_eq!((report.fraction_lost, report.cumulative_lost), (0, 24));
    }

    #[test]
    fn nothing_since_the_last_report_is_no_loss() {
        let start = origin();
        let mut reception = received(start, 0, 1..10);
        reception.report(start, None);
        assert_eq!(reception.report(start, None).fraction_lost, 0);
    }

    #[test]
    fn duplicates_make_the_loss_negative_not_the_fraction() {
        let start = origin();
        let mut reception = received(start, 0, [1, 1, 1, 2]);
        let report = reception.report(start, None);
        assert_eq!((report.fraction_lost, report.cumulative_lost), (0, -2));
        assert_eq!(reception.stats().lost, -2);
    }

    #[test]
    fn nearly_total_loss_is_255_and_the_sum_is_clamped_to_24_bits() {
        let start = origin();
        let mut reception = Reception::new(start, 7, 0, 0);
        reception.report(start, None);
        for n in 1..=3_000_u32 {
            reception.packet(start, (n * 3_000) as u16, 0);
        }
        let report = reception.report(start, None);
        assert_eq!((report.fraction_lost, report.cumulative_lost), (255, 0x7f_ffff));
    }

    #[test]
    fn a_straggler_from_before_a_jump_is_neither_loss_nor_jitter() {
        let start = origin();
        let mut reception = received(start, 50_000, 50_001..50_010);
        // 40 000 numbers back is nearer to 25 536 ahead.
        for straggler in [10_000, 40_000, 49_999, 53_010] {
            reception.packet(start + FRAME * 9, straggler, 0x1234_5678);
        }
        let report = reception.report(start, None);
        assert_eq!((report.fraction_lost, report.cumulative_lost, report.jitter), (0, 0, 0));
        assert_eq!(report.highest_sequence, 50_009);
        reception.packet(start + FRAME * 3_009, 53_009, 53_009 * 960);
        assert_eq!(reception.stats().lost, 2_999, "3000 ahead is loss");
    }

    #[test]
    fn the_highest_sequence_counts_cycles_in_its_upper_half() {
        let start = origin();
        let mut reception = Reception::new(start, 7, 65_530, 0);
        assert_eq!(reception.report(start, None).highest_sequence, 65_530);
        for n in 0..10_u16 {
            reception.packet(start, 65_531_u16.wrapping_add(n), 0);
        }
        assert_eq!(reception.report(start, None).highest_sequence, (1 << 16) + 4);
    }

    #[test]
    fn jitter_follows_the_formula_of_the_rfc() {
        let start = origin();
        let mut reception = Reception::new(start, 7, 0, 0);
        // Each second packet is 10 ms late: |D| = 480 every time.
        let mut expected = 0_i64;
        for n in 1..200_u32 {
            let late = Duration::from_millis(if n % 2 == 1 { 10 } else { 0 });
            reception.packet(start + FRAME * n + late, n as u16, n * 960);
            expected += 480 - ((expected + 8) >> 4);
        }
        let ticks = u32::try_from(expected >> 4).unwrap();
        assert!((470..=480).contains(&ticks));
        assert_eq!(reception.report(start, None).jitter, ticks);
        assert_eq!(reception.stats().jitter, ticks_to_duration(ticks));
    }

    #[test]
    fn the_wildest_timestamps_do_not_overflow() {
        let start = origin();
        let mut reception = Reception::new(start, 7, 0, 0);
        for n in 1..10_000_u32 {
            reception.packet(start, n as u16, if n % 2 == 0 { 0 } else { 1 << 31 });
        }
        assert!(reception.report(start, None).jitter > 1 << 30);
    }

    #[test]
    fn the_last_sender_report_is_echoed_with_its_age_if_it_is_of_this_ssrc() {
        let start = origin();
        let mut reception = received(start, 0, 1..10);
        let heard = LastSenderReport { ssrc: 7, middle: 0xabcd_ef01, arrived: start };
        let report = reception.report(start + Duration::from_millis(1_500), Some(heard));
        assert_eq!(report.last_sender_report, 0xabcd_ef01);
        assert_eq!(report.delay_since_last_sender_report, 0x0001_8000);
        let other = reception.report(start, Some(LastSenderReport { ssrc: 8, ..heard }));
        assert_eq!((other.last_sender_report, other.delay_since_last_sender_report), (0, 0));
    }
}
