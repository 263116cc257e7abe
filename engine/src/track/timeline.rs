//! A track's one timeline: what it has, and where the next frame goes.
//!
//! Every frame has a position and a media time. Where a frame belongs is found out by the leg that brought it
//! ([`Merge`](super::merge::Merge)); here it is stored, and here is known what the newest frame was, how media time goes
//! on, up to where nothing is missing, and what wall time the frames had at their publisher.
//!
//! Invariant: positions stored as new strictly increase, and so do their media times.

use std::collections::VecDeque;
use std::time::Instant;

use super::arrived::Arrived;
use crate::config::HistoryLimits;
use crate::history::{History, Place};
use crate::rtp::NtpTime;
use crate::time::MediaTime;

/// The newest position's times, from which a new source goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) media_time: MediaTime,
    pub(crate) arrived: Instant,
    duration: u32,
    /// How far back from it the frame is that was stored last.
    back: u32,
}

/// One track's frames and what follows them.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(super) history: History,
    next_position: u64,
    newest: Option<Newest>,
    /// Where the newest sources began, oldest first: numbers mean the same between two of them.
    lines: VecDeque<u64>,
    /// Before it no hole can still be filled.
    edge: u64,
    /// A frame's capture time and its media time.
    capture: Option<(NtpTime, MediaTime)>,
    /// The wall time of a sender report and the media time of its timestamp.
    report: Option<(NtpTime, MediaTime)>,
    /// The frame of a source, or of those before it by the same clock, that came earliest for its media time.
    earliest: Option<(MediaTime, Instant)>,
    last_stored: Option<Instant>,
    frames: u64,
    pub(super) sources: u64,
    pub(super) resets: u64,
}

impl Timeline {
    pub(crate) const fn new(limits: HistoryLimits) -> Self {
        Self {
            history: History::new(limits),
            next_position: 0,
            newest: None,
            lines: VecDeque::new(),
            edge: 0,
            capture: None,
            report: None,
            earliest: None,
            last_stored: None,
            frames: 0,
            sources: 0,
            resets: 0,
        }
    }

    /// Stores a frame in a hole, or after the newest.
    pub(super) fn store(&mut self, now: Instant, position: u64, media_time: MediaTime, frame: &Arrived) {
        if position >= self.next_position {
            debug_assert!(
                self.newest.is_none_or(|newest| media_time > newest.media_time),
                "media times of new positions strictly increase"
            );
            if self.newest.is_none() {
                self.edge = position;
            }
            self.next_position = position + 1;
            let duration = frame.duration.max(SHORTEST_TICKS);
            self.newest = Some(Newest { media_time, arrived: frame.at, duration, back: 0 });
            if self.media_time_early(frame.at).is_none_or(|early| media_time > early) {
                self.earliest = Some((media_time, frame.at));
            }
            if let Some(captured) = frame.capture_time {
                self.capture = Some((captured.time, media_time));
            }
        }
        self.history.push(frame.frame(position, media_time));
        self.frames += 1;
        self.last_stored = Some(now);
        let back = u32::try_from(self.next_position - 1 - position).unwrap_or(u32::MAX);
        self.newest.as_mut().into_iter().for_each(|newest| newest.back = back);
        self.edge = self.edge.max(self.history.oldest().unwrap_or(self.edge));
        while self.history.place(self.edge) == Place::Taken {
            self.edge += 1;
        }
    }

    /// A source begins at the next position; `told`: at a time that a clock tells which the track knows.
    pub(super) fn begin_source(&mut self, told: bool) {
        if !told {
            self.earliest = None;
        }
        let oldest = self.history.oldest().unwrap_or(self.next_position);
        while self.lines.len() >= MAX_LINES || self.lines.get(1).is_some_and(|&second| second <= oldest) {
            self.lines.pop_front();
        }
        self.lines.push_back(self.next_position);
        self.sources += 1;
    }

    /// Where the source of a position that is held began, and where the next one did. Of what is before the sources
    /// that are remembered, nothing is known but the position itself.
    pub(super) fn line(&self, position: u64) -> (u64, Option<u64>) {
        let after = self.lines.partition_point(|&begin| begin <= position);
        let begin = after.checked_sub(1).map_or(position, |at| self.lines[at]);
        (begin, self.lines.get(after).copied())
    }

    /// How many positions the history spans.
    pub(super) const fn span(&self) -> u64 {
        self.history.span_limit()
    }

    /// Whether a media time may be that of a hole: it is between those of the nearest frames that are held.
    pub(super) fn fits(&self, position: u64, media_time: MediaTime) -> bool {
        let oldest = self.history.oldest().unwrap_or(position);
        let before = (oldest..position).rev().find_map(|before| self.history.get(before));
        let after = self.history.next_held(position + 1).and_then(|after| self.history.get(after));
        before.is_none_or(|before| before.media_time < media_time)
            && after.is_some_and(|after| media_time < after.media_time)
    }

    /// Whether a frame of this media time may be one that is missing: no frame is held there, and a position is free.
    pub(super) fn may_fill(&self, media_time: MediaTime) -> bool {
        let Some(before) = self.position_at(media_time.plus(SHORTEST)) else { return false };
        let apart = self.history.get(before).is_some_and(|held| held.media_time.plus(SHORTEST) < media_time);
        apart && self.place(before + 1) == Place::Hole
    }

    /// What is known of a position.
    pub(super) fn place(&self, position: u64) -> Place {
        self.history.place(position)
    }

    /// The next position: one after the highest so far.
    pub(crate) const fn next_position(&self) -> u64 {
        self.next_position
    }

    /// The newest position's times.
    pub(crate) const fn newest(&self) -> Option<Newest> {
        self.newest
    }

    /// Where the newest frame ends.
    pub(super) fn end(&self) -> MediaTime {
        self.newest
            .map_or_else(MediaTime::default, |newest| newest.media_time.plus(u64::from(newest.duration)))
    }

    /// The media time of a frame that follows the newest one and arrives at `now`, whatever its timestamp says.
    pub(crate) fn media_time_now(&self, now: Instant) -> MediaTime {
        let Some(newest) = self.newest else { return MediaTime::default() };
        let passed = MediaTime::ticks_in(now.saturating_duration_since(newest.arrived));
        newest.media_time.plus(passed.max(u64::from(newest.duration)))
    }

    /// The media time of a frame that comes at `at` as early as any did: what is sent again comes late. A publisher's
    /// clock may be slow, so this is slower than any: else it would be ahead of all frames after some hours.
    fn media_time_early(&self, at: Instant) -> Option<MediaTime> {
        let (media_time, since) = self.earliest?;
        let passed = MediaTime::ticks_in(at.saturating_duration_since(since));
        Some(media_time.plus(passed - passed / SLOWEST))
    }

    /// The latest media time that a frame may have which comes at `at`, but for jitter.
    pub(super) fn latest_media_time(&self, at: Instant) -> MediaTime {
        let now = self.media_time_now(at);
        self.media_time_early(at).map_or(now, |early| early.max(now))
    }

    /// The media time of a frame that comes at `at`, if it took as long as the newest one to come.
    pub(super) fn media_time_beside(&self, at: Instant) -> MediaTime {
        let Some(newest) = self.newest else { return MediaTime::default() };
        let later = MediaTime::ticks_in(at.saturating_duration_since(newest.arrived));
        let earlier = MediaTime::ticks_in(newest.arrived.saturating_duration_since(at));
        MediaTime::from_ticks(newest.media_time.plus(later).ticks().saturating_sub(earlier))
    }

    /// The media time of the oldest frame that is held.
    pub(super) fn oldest_media_time(&self) -> MediaTime {
        let oldest = self.history.oldest().and_then(|position| self.history.get(position));
        oldest.map_or_else(MediaTime::default, |frame| frame.media_time)
    }

    /// The first position that is missing and may still be filled, or the next.
    pub(super) const fn edge(&self) -> u64 {
        self.edge
    }

    /// The highest position without a hole before it that may still be filled.
    pub(crate) fn contiguous(&self) -> Option<u64> {
        self.newest?;
        self.edge.checked_sub(1)
    }

    /// How many positions from `from` to `to` are missing.
    pub(super) fn holes(&self, from: u64, to: u64) -> u64 {
        let from = from.max(self.history.oldest().unwrap_or(to));
        (from..to).filter(|&position| self.place(position) == Place::Hole).count() as u64
    }

    /// A frame's capture time and its media time.
    pub(super) const fn capture(&self) -> Option<(NtpTime, MediaTime)> {
        self.capture
    }

    /// A sender report's wall time and the media time of its timestamp.
    pub(super) const fn report(&self) -> Option<(NtpTime, MediaTime)> {
        self.report
    }

    /// The publisher's report, of a leg whose timestamps are on the timeline.
    pub(super) const fn note_report(&mut self, ntp: NtpTime, media_time: MediaTime) {
        self.report = Some((ntp, media_time));
    }

    /// When the last frame was stored.
    pub(crate) const fn last_stored(&self) -> Option<Instant> {
        self.last_stored
    }

    /// The position of the frame that was stored last, be it new or in a hole.
    pub(super) fn last_position(&self) -> u64 {
        let back = self.newest.map_or(0, |newest| newest.back);
        self.next_position.saturating_sub(1 + back as u64)
    }

    /// Frames stored since the start.
    pub(crate) const fn frames(&self) -> u64 {
        self.frames
    }

    /// The position of the newest held frame that plays at or before a media time.
    pub(super) fn position_at(&self, media_time: MediaTime) -> Option<u64> {
        let oldest = self.history.oldest()?;
        if self.history.get(oldest)?.media_time > media_time {
            return None;
        }
        let (mut found, mut low, mut high) = (oldest, oldest, self.next_position);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match (low + 1..=middle).rev().find_map(|position| self.history.get(position)) {
                Some(frame) if frame.media_time > media_time => high = frame.position,
                Some(frame) => (found, low) = (frame.position, middle),
                None => low = middle,
            }
        }
        Some(found)
    }
}

/// Opus' shortest frame, 2.5 ms: time advances at least this much even after a packet that cannot be read.
const SHORTEST_TICKS: u32 = 120;
const SHORTEST: u64 = SHORTEST_TICKS as u64;
/// No clock is slower than a right one by one tick in so many, 500 ppm.
const SLOWEST: u64 = 2_000;
/// I3: sources that are remembered, 8 bytes each.
const MAX_LINES: usize = 16;

#[cfg(test)]
mod tests;
