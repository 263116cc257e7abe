//! The model of what comes on a publisher's leg of its current segment, as its report blocks must tell it.
//!
//! RFC 3550 §A.3 for loss and §A.8 for jitter, by the frames' own numbers: no sequence number is extended here.

use std::time::Duration;

use relay_engine::rtp::rtcp::{ReportBlock, SenderReport};

use super::track::{Start, ticks_in};
use super::{Check, ensure};
use crate::seen::Fields;
use crate::stream::Sent;

/// What was received of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reception {
    pub(super) segment: Start,
    ssrc: u32,
    first_sequence: u16,
    highest: u32,
    received: u64,
    /// Expected and received at the last report.
    before: (u64, u64),
    last: (Duration, u64),
    /// In 1/16 ticks.
    jitter: u64,
}

impl Reception {
    /// Begins with the segment's first frame.
    pub(super) fn new(segment: Start, sent: &Sent, now: Duration) -> Self {
        let first_sequence = Fields::read(&sent.datagram).expect("a publisher writes RTP").sequence;
        Self {
            segment,
            ssrc: sent.ssrc,
            first_sequence,
            highest: sent.id.number,
            received: 1,
            before: (0, 0),
            last: (now, sent.ticks),
            jitter: 0,
        }
    }

    /// A packet of the segment came, for the first time or again.
    pub(super) fn packet(&mut self, sent: &Sent, start: Duration, now: Duration) {
        self.highest = self.highest.max(sent.id.number);
        self.received += 1;
        // Ticks are whole from the segment's start on, not from packet to packet.
        let passed = ticks_in(now - start) - ticks_in(self.last.0 - start);
        let played = sent.ticks.cast_signed() - self.last.1.cast_signed();
        let difference = (passed.cast_signed() - played).unsigned_abs();
        self.jitter = self.jitter + difference - (self.jitter + 8) / 16;
        self.last = (now, sent.ticks);
    }

    /// A block came out.
    pub(super) fn report(&mut self, block: &ReportBlock, heard: Option<Heard>, now: Duration) -> Check<bool> {
        let expected = u64::from(self.highest - self.segment.number) + 1;
        let since = (expected - self.before.0, self.received - self.before.1);
        self.before = (expected, self.received);
        let fraction = match since.0.saturating_sub(since.1) {
            0 => 0,
            lost => (lost * 256 / since.0).min(255),
        };
        let lost = expected.cast_signed() - self.received.cast_signed();
        let heard = heard.filter(|heard| heard.report.ssrc == self.ssrc);
        let model = ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: fraction as u8,
            cumulative_lost: lost as i32,
            highest_sequence: u32::from(self.first_sequence) + (self.highest - self.segment.number),
            jitter: (self.jitter / 16) as u32,
            last_sender_report: heard.map_or(0, |heard| (heard.report.ntp.0 >> 16) as u32),
            delay_since_last_sender_report: heard
                .map_or(0, |heard| (((now - heard.at).as_nanos() << 16) / 1_000_000_000) as u32),
        };
        ensure(*block == model, "reports", || format!("{block:?}, not {model:?}; {self:?}"))?;
        Ok(lost > 0)
    }
}

/// A publisher's sender report, and when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) report: SenderReport,
    pub(super) at: Duration,
}
