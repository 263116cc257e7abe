//! A leg whose positions are not known: its timestamps are put on the track's media time by a clock that both share.
//!
//! | rule | (media time − timestamp) comes from |
//! |---|---|
//! | capture time | a frame's capture time, against that of a frame on the track |
//! | sender report | the leg's report, against the report of the leg that the track's frames came on |
//! | arrival | when its frames come, against when the track's came: smoothed, since paths jitter |
//!
//! The offset follows slowly, so that clocks which drift apart (100 ppm is 6 ms a minute) stay aligned for as long as
//! both legs are there, and a step of more than 20 ms at once.

use super::arrived::{Arrived, Wire};
use super::timeline::Timeline;
use crate::rtp::NtpTime;
use crate::rtp::seq::{Extend16, Extend32};
use crate::stats::Rule;
use crate::time::MediaTime;

/// The mapping of one leg's timestamps.
#[derive(Debug)]
pub(super) struct Follow {
    ssrc: u32,
    sequence: Extend16,
    timestamp: Extend32,
    offset: Option<Offset>,
    pub(super) rule: Rule,
}

/// Media time − timestamp, in 1/[`FINE`] ticks.
#[derive(Clone, Copy, Debug)]
struct Offset(i128);

/// A report's wall time and timestamp.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) ssrc: u32,
    pub(super) ntp: NtpTime,
    pub(super) timestamp: u32,
}

impl Follow {
    pub(super) const fn new(ssrc: u32) -> Self {
        Self {
            ssrc,
            sequence: Extend16::new(),
            timestamp: Extend32::new(),
            offset: None,
            rule: Rule::Arrival,
        }
    }

    /// Goes on from what is known of its timestamps: they were on the track's media time.
    pub(super) fn known(mut self, (timestamp, offset): (Extend32, i64)) -> Self {
        self.timestamp = timestamp;
        self.offset = Some(Offset(i128::from(offset) * FINE));
        self
    }

    /// Whether a packet continues what is followed.
    pub(super) fn continues(&self, wire: Wire) -> bool {
        let near = self
            .sequence
            .highest()
            .is_none_or(|highest| self.sequence.peek(wire.sequence).abs_diff(highest) <= NEAR);
        self.ssrc == wire.ssrc && near
    }

    /// Takes note of a frame; its number among this leg's, and its media time on the track.
    pub(super) fn take(
        &mut self,
        wire: Wire,
        frame: &Arrived,
        report: Option<Report>,
        timeline: &Timeline,
    ) -> (u64, MediaTime) {
        let number = self.sequence.extend(wire.sequence);
        let timestamp = i128::from(self.timestamp.extend(wire.timestamp));
        let told = self.told(frame, timestamp, report, timeline);
        let arrived = i128::from(timeline.media_time_beside(frame.at).ticks());
        let (rule, media_time) = told.unwrap_or((Rule::Arrival, arrived));
        let candidate = (media_time - timestamp) * FINE;
        self.move_offset(rule, candidate);
        (number, self.media_time(wire))
    }

    /// The media time of a timestamp.
    pub(super) fn media_time(&self, wire: Wire) -> MediaTime {
        let Offset(offset) = self.offset.unwrap_or(Offset(0));
        let ticks = i128::from(self.timestamp.peek(wire.timestamp)) + (offset + FINE / 2).div_euclid(FINE);
        MediaTime::from_ticks(u64::try_from(ticks.max(0)).unwrap_or(u64::MAX))
    }

    /// The media time that a clock tells which both legs share, if it can be; that of a frame from before the track's first
    /// is below 0.
    fn told(
        &self,
        frame: &Arrived,
        timestamp: i128,
        report: Option<Report>,
        timeline: &Timeline,
    ) -> Option<(Rule, i128)> {
        // What the history has just gone past is old, and not of another clock.
        let oldest = i128::from(timeline.oldest_media_time().ticks()) - i128::from(EARLY_TICKS);
        let plausible = |media_time: &i128| {
            let latest = timeline.latest_media_time(frame.at).plus(EARLY_TICKS);
            (oldest..=i128::from(latest.ticks())).contains(media_time)
        };
        clocks(frame, timeline, self.since_report(timestamp, report))
            .into_iter()
            .flatten()
            .find(|(_, told)| plausible(told))
    }

    /// The media time that the best clock which both legs share tells now, however far from those before it.
    pub(super) fn told_now(
        &self,
        wire: Wire,
        frame: &Arrived,
        report: Option<Report>,
        timeline: &Timeline,
    ) -> Option<MediaTime> {
        let timestamp = i128::from(self.timestamp.peek(wire.timestamp));
        let mut told = clocks(frame, timeline, self.since_report(timestamp, report)).into_iter().flatten();
        told.next().and_then(|(_, media_time)| u64::try_from(media_time).ok()).map(MediaTime::from_ticks)
    }

    /// The wall time of this leg's report, and the ticks from it to a timestamp.
    fn since_report(&self, timestamp: i128, report: Option<Report>) -> Option<(NtpTime, i64)> {
        let report = report.filter(|report| report.ssrc == self.ssrc)?;
        let since = timestamp - i128::from(self.timestamp.peek(report.timestamp));
        Some((report.ntp, i64::try_from(since).ok()?))
    }

    fn move_offset(&mut self, rule: Rule, candidate: i128) {
        let Some(Offset(offset)) = &mut self.offset else {
            self.offset = Some(Offset(candidate));
            self.rule = rule;
            return;
        };
        // Between a frame with a capture time and the next, its clock is still the best one known.
        if rule > self.rule {
            return;
        }
        let off = candidate - *offset;
        if rule < self.rule || off.abs() > STEP_TICKS * FINE {
            *offset = candidate;
        } else {
            *offset += off / 16;
        }
        self.rule = rule;
    }
}

/// What clocks that both legs share say of a frame's media time, the best one first.
fn clocks(
    frame: &Arrived,
    timeline: &Timeline,
    since_report: Option<(NtpTime, i64)>,
) -> [Option<(Rule, i128)>; 2] {
    let captured = frame.capture_time.zip(timeline.capture()).map(|(captured, (ntp, media_time))| {
        (Rule::CaptureTime, i128::from(media_time.ticks()) + i128::from(ticks_between(ntp, captured.time)))
    });
    let reported = since_report.zip(timeline.report()).map(|((theirs, since), (ntp, media_time))| {
        let ticks = since.saturating_add(ticks_between(ntp, theirs));
        (Rule::SenderReport, i128::from(media_time.ticks()) + i128::from(ticks))
    });
    [captured, reported]
}

/// Ticks of the media clock from one wall time to another, either way round the era.
pub(super) fn ticks_between(from: NtpTime, to: NtpTime) -> i64 {
    let passed = i128::from(to.0.wrapping_sub(from.0).cast_signed());
    let ticks = (passed * i128::from(MediaTime::RATE) + (1 << 31)) >> 32;
    i64::try_from(ticks).unwrap_or(i64::MAX)
}

const FINE: i128 = 256;
/// A step of the offset larger than this is taken at once.
const STEP_TICKS: i128 = 960;
/// A frame is at most this much ahead of where those before it would be by now, 0.5 s: the largest path skew and some.
const EARLY_TICKS: u64 = 24_000;
/// Numbers further apart than this are another run.
const NEAR: u64 = 3_000;
