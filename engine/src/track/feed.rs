//! The publisher's side of a track: its legs, and what they bring.

use std::time::{Duration, Instant};

use super::{Arrived, Refused, Taken, Track};
use crate::id::LegId;
use crate::io::{Event, LegState, SwitchError};
use crate::rtp::rtcp;
use crate::stats::{PublisherLegStats, TrackStats};

impl Track {
    /// Whether a publisher's leg of this epoch may be opened.
    pub(crate) fn check_publisher(&self, epoch: u64) -> Result<(), Refused> {
        self.merge.check(epoch)
    }

    /// Adds a publisher's leg that was checked; returns those that it fences (I8).
    pub(crate) fn open_publisher(&mut self, now: Instant, leg: LegId, epoch: u64) -> [Option<LegId>; 2] {
        self.merge.open(now, leg, epoch, &mut self.timeline)
    }

    /// Places a frame that a publisher's leg brought, or keeps it, or says why not.
    pub(crate) fn take(&mut self, now: Instant, leg: LegId, frame: Arrived) -> Taken {
        self.merge.take(now, leg, frame, &mut self.timeline)
    }

    /// Takes the new state of a publisher's leg.
    pub(crate) fn set_publisher_state(&mut self, now: Instant, leg: LegId, state: LegState) {
        self.merge.set_state(now, leg, state, &mut self.timeline);
    }

    /// What a publisher's leg sends from now on begins a source.
    pub(crate) fn restart_publisher(&mut self, leg: LegId) {
        self.merge.restart(leg);
    }

    /// A publisher's leg is gone; listeners stay, positions go on with the next one.
    pub(crate) fn close_publisher(&mut self, now: Instant, leg: LegId) {
        self.merge.close(now, leg, &mut self.timeline);
    }

    /// Moves to a publisher's leg.
    pub(crate) fn switch_publisher(&mut self, now: Instant, to: LegId) -> Result<(), SwitchError> {
        self.merge.switch(now, to, &mut self.timeline)
    }

    /// Takes a publisher's clocks.
    pub(crate) fn note_report(&mut self, leg: LegId, report: &rtcp::SenderReport) {
        self.merge.note_report(leg, report, &mut self.timeline);
    }

    /// When frames that are held have waited long enough.
    pub(crate) fn merge_due(&self) -> Option<Instant> {
        self.merge.due()
    }

    /// Frames that are held may have waited long enough.
    pub(crate) fn merge_timeout(&mut self, now: Instant) {
        self.merge.timeout(now, &mut self.timeline);
    }

    /// A publisher's leg is spent.
    pub(crate) const fn take_spent(&mut self) -> Option<Event> {
        self.merge.take_event()
    }

    /// A publisher's leg that is open, fenced ones too.
    pub(crate) fn any_publisher(&self) -> Option<LegId> {
        self.merge.any_leg()
    }

    /// For how long nothing came, `longest` at most.
    pub(crate) fn absent(&self, now: Instant, longest: Duration) -> Duration {
        let last = self.timeline.last_stored();
        last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last)).min(longest)
    }

    /// Something may be handed out.
    pub(crate) fn has_news(&self) -> bool {
        self.walk.arrival < self.timeline.history.next_arrival() || !self.timeline.history.lost.is_empty()
    }

    /// What the track knows of a publisher's leg, added to what the leg knows of itself.
    pub(crate) fn publisher_stats(&self, leg: LegId, stats: PublisherLegStats) -> PublisherLegStats {
        let (alignment, contiguous, contiguous_sequence) = self.merge.leg(leg, &self.timeline);
        PublisherLegStats { alignment, contiguous, contiguous_sequence, ..stats }
    }

    pub(crate) fn stats(&self, now: Instant) -> TrackStats {
        let [publisher, second_publisher] = self.merge.legs();
        let history = &self.timeline.history;
        TrackStats {
            name: self.name.clone(),
            publisher,
            second_publisher,
            listeners: self.members.len(),
            active: self.active,
            frames: self.timeline.frames(),
            next_position: self.timeline.next_position(),
            next_media_time: self.timeline.media_time_now(now),
            contiguous: self.timeline.contiguous(),
            frames_lost: history.lost.total(),
            held: self.merge.held(),
            oldest_position: history.oldest(),
            history_frames: history.frames(),
            history_payload_bytes: history.payload_bytes(),
            sources: self.timeline.sources,
            timestamp_resets: self.timeline.resets,
        }
    }
}
