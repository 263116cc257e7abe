//! A track as its session sees it: who feeds it, how many listen, what was lost.

use std::time::{Duration, Instant};

use relay_engine::TrackId;

use super::MemberId;
use crate::session::language::Language;
use crate::session::view::TrackView;

/// One track of a live session.
#[derive(Debug)]
pub(super) struct Track {
    pub language: Language,
    pub id: TrackId,
    /// Who has the publisher's place.
    pub publisher: Option<MemberId>,
    /// Counts those who had it.
    pub epoch: u64,
    /// Whether the publisher's connection is up.
    pub connected: bool,
    /// Whether something of that connection has arrived.
    pub ready: bool,
    /// Connected listeners.
    pub listeners: usize,
    /// What its listeners did not get, and what never came.
    pub lost: Losses,
    pub missed: Losses,
}

impl Track {
    pub(super) fn new(language: Language, id: TrackId) -> Self {
        Self {
            language,
            id,
            publisher: None,
            epoch: 0,
            connected: false,
            ready: false,
            listeners: 0,
            lost: Losses::default(),
            missed: Losses::default(),
        }
    }

    pub(super) fn view(&self) -> TrackView {
        TrackView {
            language: self.language.clone(),
            speaker_connected: self.connected,
            speaker_ready: self.ready,
            listeners: self.listeners,
        }
    }
}

/// Reports of lost frames, merged so that they are told at most once in [`EVERY`].
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// What was not told yet, and when it may be.
    waiting: Option<(Lost, Instant)>,
    /// When something may be told again.
    quiet_until: Option<Instant>,
}

/// Frames that listeners did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    pub count: u64,
    pub from: u64,
    pub to: u64,
}

impl Losses {
    /// `count` positions from `from` on were lost to one listener.
    pub(super) fn add(&mut self, now: Instant, from: u64, count: u64) {
        if count == 0 {
            return;
        }
        let more = Lost { count, from, to: from.saturating_add(count - 1) };
        let due = self.quiet_until.map_or(now, |until| until.max(now));
        self.waiting = Some(match self.waiting {
            None => (more, due),
            Some((lost, due)) => (lost.and(more), due),
        });
    }

    /// What is to be told now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Lost> {
        self.waiting.take_if(|(_, due)| *due <= now).map(|(lost, _)| {
            self.quiet_until = Some(now + EVERY);
            lost
        })
    }

    /// What there is, due or not: the track ends.
    pub(super) fn take(&mut self) -> Option<Lost> {
        self.waiting.take().map(|(lost, _)| lost)
    }

    /// When to poll next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.map(|(_, due)| due)
    }
}

impl Lost {
    fn and(self, more: Self) -> Self {
        Self {
            count: self.count.saturating_add(more.count),
            from: self.from.min(more.from),
            to: self.to.max(more.to),
        }
    }
}

/// How often a track's losses are told at most.
const EVERY: Duration = Duration::from_secs(1);
