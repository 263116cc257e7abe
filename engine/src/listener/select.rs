//! What a listener wants: another track, a pause, and what comes after it.
//!
//! | call | what was not handed out yet | the leg's numbers |
//! |---|---|---|
//! | [`pause`](crate::Relay::pause) | is not wanted, nor is what comes until it is resumed: not counted as skipped | stay |
//! | [`resume`](crate::Relay::resume) | | a new line: the index goes on at the next, the timestamp with the time that passed |
//! | [`select`](crate::Relay::select) | is not wanted: not counted as skipped | a new line: the same, on the same SSRC |
//!
//! After both the listener begins at the live edge, and nothing from before it is wanted. Where its first frame comes
//! behind a hole, the hole has its time on the line too: a late frame may fill it.

use std::time::Instant;

use super::replay::{Trail, duration};
use super::{Listener, View};
use crate::frame::Frame;
use crate::id::TrackId;
use crate::io::{Event, Order};
use crate::time::MediaTime;

/// From one track's media time to another's: settled by the first frame of the new one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crossing {
    /// When the old track was left, and its media time then.
    left: Instant,
    media_ticks: u64,
    /// One after the last media time that was handed out of it.
    least_ticks: u64,
    /// The media time of the new track's newest frame when its line began, if it had any.
    edge_ticks: Option<u64>,
}

impl Listener {
    /// Nothing is handed out until it is resumed; says if that ended a switch.
    pub(crate) fn pause(&mut self, view: &View<'_>) -> Option<Event> {
        if self.paused {
            return None;
        }
        self.slow_down();
        self.paused = true;
        self.forget();
        self.go_on_switching(view)
    }

    /// Goes on at the live edge.
    pub(crate) fn resume(&mut self, view: &View<'_>) {
        if !self.paused {
            return;
        }
        self.paused = false;
        if self.joined {
            self.begin_line(view);
        } else if self.leg.is_up() {
            self.activate(view, None);
        }
    }

    /// Goes on with another track, at its live edge; says if that ended a switch. `from` is the old one.
    pub(crate) fn select(&mut self, track: TrackId, from: &View<'_>, to: &View<'_>) -> Option<Event> {
        self.slow_down();
        self.track = track;
        self.acked = None;
        self.forget();
        // A position of the old track.
        let second = self.second.as_mut().map(|second| &mut second.leg);
        second.into_iter().chain([&mut self.leg]).for_each(|leg| leg.resume_from = None);
        if self.leg.rewrite.is_used() || self.crossing.is_some() {
            self.crossing = self.crossing_from(from).map(Box::new);
        }
        if self.joined {
            // Also while it is paused: what is known of its legs is told in positions, and those are the new track's.
            self.begin_line(to);
        }
        self.go_on_switching(to)
    }

    /// What is owed or asked for is not wanted any more, nor is to be told.
    fn forget(&mut self) {
        (self.trail, self.ledger) = (None, None);
        self.frames_skipped -= self.untold.take().map_or(0, |(_, count)| count);
        self.leg.repair.iter_mut().for_each(|repair| repair.clear());
        if let Some(second) = self.second.as_mut() {
            second.trail = None;
        }
    }

    /// Begins at the live edge, on new lines.
    fn begin_line(&mut self, view: &View<'_>) {
        self.base = view.next_position;
        self.cursor = view.history.next_arrival();
        self.leg.resume_from = None;
        let second = self.second.as_mut().map(|second| &mut second.leg.rewrite);
        second.into_iter().chain([&mut self.leg.rewrite]).for_each(|rewrite| rewrite.end_line());
        self.leg.rewrite.begin(self.base);
        if let Some(crossing) = &mut self.crossing {
            crossing.edge_ticks = view.newest.map(|(newest, _)| newest.ticks());
        }
        let ordered = self.leg.order == Order::Position;
        self.trail = ordered.then(|| Box::new(Trail { cursor: self.base, ..Trail::default() }));
        self.speed_up();
    }

    fn crossing_from(&self, view: &View<'_>) -> Option<Crossing> {
        if let Some(crossing) = self.crossing.as_deref() {
            // Nothing was handed out in between.
            let passed = MediaTime::ticks_in(view.now.saturating_duration_since(crossing.left));
            let media_ticks = crossing.media_ticks.saturating_add(passed);
            return Some(Crossing { left: view.now, media_ticks, ..*crossing });
        }
        let (newest, arrived) = view.newest?;
        let passed = MediaTime::ticks_in(view.now.saturating_duration_since(arrived));
        let last = self.leg.rewrite.next_position().and_then(|next| view.history.get(next.checked_sub(1)?));
        let least_ticks = last.map_or(0, |frame| {
            frame.media_time.ticks().saturating_add(duration(frame.payload).max(SHORTEST_TICKS))
        });
        let media_ticks = newest.plus(passed).ticks();
        Some(Crossing { left: view.now, media_ticks, least_ticks, edge_ticks: None })
    }

    /// A frame is about to be handed out: the first after another track was selected lays its media time. What may still
    /// fill a hole before it has its place on the line too, after all that was handed out of the old track.
    pub(super) fn cross(&mut self, frame: &Frame<'_>) {
        let Some(crossing) = self.crossing.take() else { return };
        let media_ticks = frame.media_time.ticks();
        let passed = MediaTime::ticks_in(frame.arrived.saturating_duration_since(crossing.left));
        let edge = crossing.edge_ticks.filter(|_| frame.position > self.base);
        let hole = edge.map_or(0, |edge| media_ticks.saturating_sub(edge));
        let least = crossing.least_ticks.saturating_add(hole);
        let from = crossing.media_ticks.saturating_add(passed).max(least);
        let second = self.second.as_mut().map(|second| &mut second.leg.rewrite);
        for rewrite in second.into_iter().chain([&mut self.leg.rewrite]) {
            rewrite.shift(from, media_ticks);
        }
    }
}

/// RFC 6716 §2: the shortest frame. Two frames never have the same timestamp.
const SHORTEST_TICKS: u64 = 120;
