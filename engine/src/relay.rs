//! The relay: its state, the commands and the getters. What the world did is in `input`, what comes out in `output`.

mod input;
mod legs;
mod output;
mod publish;

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::Config;
use crate::id::{LegId, ListenerId, Peer, Slots, TrackId};
use crate::io::{Deadline, Event, LegSpec, Limit, MAX_TRACK_NAME_BYTES, OpenError, Reason, TrackSpec};
use crate::listener::{Listener, ListenerLeg};
use crate::rtp::ExtensionIds;
use crate::schedule::Schedule;
use crate::stats::{LegStats, ListenerStats, Stats, TrackStats};
use crate::time::Epoch;
use crate::track::{PublisherLeg, Refused, Track};

/// Relays live Opus audio from each track's publisher to its listeners.
///
/// Methods are of four kinds; the [crate's page](crate) tells how they fit together.
///
/// | kind | names | methods |
/// |---|---|---|
/// | commands: the owner wants | verbs | [`open_track`](Self::open_track), [`open_publisher_leg`](Self::open_publisher_leg), [`open_listener`](Self::open_listener), [`add_leg`](Self::add_leg), [`switch`](Self::switch), [`select`](Self::select), [`pause`](Self::pause), [`resume`](Self::resume), [`replay`](Self::replay), [`close`](Self::close) |
/// | handlers: the world did | `handle_*` | [`handle_packet`](Self::handle_packet), [`handle_fed`](Self::handle_fed), [`handle_feedback`](Self::handle_feedback), [`handle_leg`](Self::handle_leg), [`handle_timeout`](Self::handle_timeout) |
/// | polls: what must happen next | `poll_*` | [`poll_output`](Self::poll_output), [`poll_timeout`](Self::poll_timeout) |
/// | getters | nouns | [`stats`](Self::stats), [`track_stats`](Self::track_stats), [`leg_stats`](Self::leg_stats), [`listener_stats`](Self::listener_stats), [`is_drained`](Self::is_drained) |
#[derive(Debug)]
pub struct Relay {
    config: Config,
    epoch: Epoch,
    /// I7: the latest `now` so far.
    now: Instant,
    random: fastrand::Rng,
    tracks: Slots<TrackId, Track>,
    legs: Slots<LegId, Leg>,
    listeners: Slots<ListenerId, Listener>,
    /// Tracks with arrivals to hand out, each at most once.
    queue: VecDeque<TrackId>,
    /// Ids that were closed, to be told of.
    closed: VecDeque<Peer>,
    /// Switches that are done, to be told of: at most one for each leg that was open.
    spent: VecDeque<Event>,
    /// By track slot.
    silences: Schedule,
    /// By track slot: frames that are held.
    merges: Schedule,
    /// By leg slot.
    reports: Schedule,
    /// What is due on listeners' legs, by leg slot.
    turns: Schedule,
    stats: Stats,
}

/// Whose leg an id is.
#[derive(Debug)]
enum Leg {
    Publisher(Box<PublisherLeg>),
    Listener(ListenerId),
}

impl Relay {
    /// A relay without tracks.
    ///
    /// The same config, epoch, seed and calls give the same outputs (I5).
    #[must_use]
    pub fn new(config: Config, epoch: Epoch, seed: u64) -> Self {
        let number = config.number;
        Self {
            config,
            epoch,
            now: epoch.instant,
            random: fastrand::Rng::with_seed(seed),
            tracks: Slots::new(number),
            legs: Slots::new(number),
            listeners: Slots::new(number),
            queue: VecDeque::new(),
            closed: VecDeque::new(),
            spent: VecDeque::new(),
            silences: Schedule::default(),
            merges: Schedule::default(),
            reports: Schedule::default(),
            turns: Schedule::default(),
            stats: Stats::default(),
        }
    }

    /// Opens a track: no publisher, no listeners, an empty history.
    ///
    /// # Errors
    ///
    /// [`OpenError::TrackName`], [`OpenError::Limit`] or [`OpenError::Undrained`].
    pub fn open_track(&mut self, now: Instant, spec: TrackSpec) -> Result<TrackId, OpenError> {
        self.advance(now);
        if !(1..=MAX_TRACK_NAME_BYTES).contains(&spec.name.len()) {
            return Err(OpenError::TrackName(spec.name.len()));
        }
        self.check_drained()?;
        check_limit(self.tracks.len(), self.config.max_tracks, Limit::Tracks)?;
        let (history, path_skew) = (self.config.history, self.config.path_skew);
        let id = self.tracks.insert_with(|id| Track::new(id, spec.name, history, path_skew));
        self.silences.reserve(id.slot() + 1);
        self.merges.reserve(id.slot() + 1);
        Ok(id)
    }

    /// Opens the leg of a track's publisher, in state [`Connecting`](crate::LegState::Connecting).
    ///
    /// The track's positions and media time go on from where they are, whoever fed it before. A track has up to two
    /// legs of one [epoch](LegSpec::epoch); a leg of a higher one fences those that are there: their packets are
    /// [`Verdict::Fenced`](crate::Verdict::Fenced) from now on, and the owner closes them.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownTrack`], [`OpenError::PublisherExists`], [`OpenError::Fenced`], a bad spec, [`OpenError::Limit`] or
    /// [`OpenError::Undrained`].
    pub fn open_publisher_leg(
        &mut self,
        now: Instant,
        track: TrackId,
        spec: LegSpec,
    ) -> Result<LegId, OpenError> {
        self.advance(now);
        let open = self.tracks.get(track).ok_or(OpenError::UnknownTrack(track))?;
        open.check_publisher(spec.epoch).map_err(|refused| match refused {
            Refused::Full => OpenError::PublisherExists(track),
            Refused::Fenced(epoch) => OpenError::Fenced { epoch },
        })?;
        self.check_leg(&spec)?;
        let mut leg = PublisherLeg::new(self.now, track, spec, &self.config);
        let open = self.tracks.get_mut(track).ok_or(OpenError::UnknownTrack(track))?;
        leg.credit(open.absent(self.now, self.config.history.duration));
        let id = self.legs.insert_with(|_| Leg::Publisher(Box::new(leg)));
        self.reports.reserve(id.slot() + 1);
        for fenced in open.open_publisher(self.now, id, spec.epoch).into_iter().flatten() {
            if let Some(Leg::Publisher(fenced)) = self.legs.get_mut(fenced) {
                fenced.fenced = true;
            }
        }
        self.fed(track);
        Ok(id)
    }

    /// Opens a listener of a track and its leg, in state [`Connecting`](crate::LegState::Connecting).
    ///
    /// It is sent frames that arrive after its leg comes up, or from [`LegSpec::resume_from`] on. It may come before the publisher does.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownTrack`], a bad spec, [`OpenError::Limit`] or [`OpenError::Undrained`].
    pub fn open_listener(
        &mut self,
        now: Instant,
        track: TrackId,
        spec: LegSpec,
    ) -> Result<(ListenerId, LegId), OpenError> {
        self.advance(now);
        let open = self.tracks.get_mut(track).ok_or(OpenError::UnknownTrack(track))?;
        check_limit(open.members().len(), self.config.max_listeners_per_track, Limit::ListenersPerTrack)?;
        check_limit(self.listeners.len(), self.config.max_listeners, Limit::Listeners)?;
        self.check_leg(&spec)?;
        // The two ids name each other, so the leg is made first and told its listener after.
        let (legs, tracks, random) = (&mut self.legs, &mut self.tracks, &mut self.random);
        let mut leg = None;
        let listener = self.listeners.insert_with(|listener| {
            let leg = *leg.insert(legs.insert_with(|_| Leg::Listener(listener)));
            let member = tracks.get_mut(track).map_or(0, |track| track.join(listener));
            Listener::new(listener, track, member, ListenerLeg::new(leg, spec, random))
        });
        let leg = leg.expect("it was just inserted");
        self.reserve_leg(leg);
        if spec.feed {
            self.lead(track);
        }
        Ok((listener, leg))
    }

    /// Closes a track with all that is on it, a listener with its leg, or a leg; a stale id is closed already.
    ///
    /// At once: what was not drained before is not sent. Each id that this ends is told by
    /// [`Event::Closed`](crate::Event::Closed). A track outlives its publisher's leg; its listeners hear the next one.
    /// A listener outlives one of two legs, unless the other is spent.
    pub fn close(&mut self, now: Instant, peer: Peer) {
        self.advance(now);
        match peer {
            Peer::Track(track) => self.close_track(track),
            Peer::Listener(listener) => self.close_listener(listener),
            Peer::Leg(leg) => match self.legs.get(leg) {
                Some(Leg::Publisher(_)) => self.close_publisher(leg),
                Some(&Leg::Listener(listener)) => self.close_listener_leg(listener, leg),
                None => {}
            },
        }
    }

    /// Counters of the whole, and how much is open.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            tracks: self.tracks.len(),
            listeners: self.listeners.len(),
            legs: self.legs.len(),
            ..self.stats
        }
    }

    /// A track's counters; `None` for a stale id.
    #[must_use]
    pub fn track_stats(&self, track: TrackId) -> Option<TrackStats> {
        self.tracks.get(track).map(|track| track.stats(self.now))
    }

    /// A leg's counters; `None` for a stale id.
    #[must_use]
    pub fn leg_stats(&self, leg: LegId) -> Option<LegStats> {
        match self.legs.get(leg)? {
            Leg::Publisher(publisher) => {
                let (stats, track) = (publisher.stats(), self.tracks.get(publisher.track()));
                let stats = track.map_or(stats, |track| track.publisher_stats(leg, stats));
                Some(LegStats::Publisher(stats))
            }
            &Leg::Listener(listener) => {
                self.listeners.get(listener)?.stats(Some(leg)).map(LegStats::Listener)
            }
        }
    }

    /// A listener's counters; `None` for a stale id.
    #[must_use]
    pub fn listener_stats(&self, listener: ListenerId) -> Option<ListenerStats> {
        self.listeners.get(listener)?.stats(None)
    }

    /// Says whether everything is handed out: true from when [`poll_output`](Self::poll_output) returned `None` until
    /// there is something again.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let due = self.poll_timeout().is_some_and(|deadline| deadline.at <= self.now);
        self.closed.is_empty() && self.spent.is_empty() && self.queue.is_empty() && !due
    }

    /// I7: an older `now` counts as the last one.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// The earliest deadline, due or not.
    fn first_deadline(&self) -> Option<Deadline> {
        let silence = self.silences.first().and_then(|(at, slot)| {
            self.tracks.id_at(slot).map(|track| Deadline { at, why: Reason::Silence(track) })
        });
        let report = self.reports.first().and_then(|(at, slot)| {
            self.legs.id_at(slot).map(|leg| Deadline { at, why: Reason::Report(leg) })
        });
        let turn =
            self.turns.first().and_then(|(at, slot)| Some(Deadline { at, why: self.turn_reason(slot)? }));
        let merge = self.merges.first().and_then(|(at, slot)| {
            self.tracks.id_at(slot).map(|track| Deadline { at, why: Reason::Merge(track) })
        });
        [silence, report, turn, merge].into_iter().flatten().min()
    }

    fn close_track(&mut self, id: TrackId) {
        if self.tracks.get(id).is_none() {
            return;
        }
        while let Some(leg) = self.tracks.get(id).and_then(Track::any_publisher) {
            self.close_publisher(leg);
        }
        // From the last, so that nobody has to move up.
        while let Some(&slot) = self.tracks.get(id).and_then(|track| track.members().last()) {
            let listener = self.listeners.id_at(slot as usize).expect("a closed listener leaves its track");
            self.close_listener(listener);
        }
        self.tracks.remove(id);
        self.queue.retain(|&queued| queued != id);
        self.silences.clear(id.slot());
        self.merges.clear(id.slot());
        self.closed.push_back(Peer::Track(id));
    }

    fn close_publisher(&mut self, id: LegId) {
        let Some(Leg::Publisher(leg)) = self.legs.remove(id) else { return };
        if let Some(track) = self.tracks.get_mut(leg.track()) {
            track.close_publisher(self.now, id);
        }
        self.reports.clear(id.slot());
        self.closed.push_back(Peer::Leg(id));
        self.fed(leg.track());
    }

    fn close_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.remove(id) else { return };
        self.leave(listener.track(), listener.member);
        for leg in [Some(listener.leg()), listener.second()].into_iter().flatten() {
            self.remove_leg(leg);
        }
        self.closed.push_back(Peer::Listener(id));
    }

    fn check_leg(&self, spec: &LegSpec) -> Result<(), OpenError> {
        if spec.payload_type > 127 {
            return Err(OpenError::PayloadType(spec.payload_type));
        }
        check_extensions(&spec.extensions)?;
        check_limit(self.legs.len(), self.config.max_legs, Limit::Legs)?;
        self.check_drained()
    }

    /// I3: opening and closing without draining must not grow the queue of closed ids for ever.
    fn check_drained(&self) -> Result<(), OpenError> {
        let waiting = self.closed.len() + self.spent.len();
        if waiting >= self.config.max_closed_events { Err(OpenError::Undrained(waiting)) } else { Ok(()) }
    }
}

fn check_limit(open: usize, limit: usize, what: Limit) -> Result<(), OpenError> {
    if open >= limit { Err(OpenError::Limit { what, limit }) } else { Ok(()) }
}

/// RFC 8285 §4.2: 0 is padding, 15 is reserved; an id names one extension.
fn check_extensions(ids: &ExtensionIds) -> Result<(), OpenError> {
    let ids = [ids.audio_level, ids.capture_time, ids.mid.map(|(id, _)| id)];
    for (n, id) in ids.iter().enumerate() {
        if let Some(id) = id.filter(|&id| id == 0 || id == 15 || ids[..n].contains(&Some(id))) {
            return Err(OpenError::ExtensionId(id));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
