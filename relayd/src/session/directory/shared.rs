//! The lock, and what is done under it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use relay_engine::{Epoch, LegId, ListenerId, TrackId};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use super::feed::FeedSender;
use super::state::{Entry, State};
use super::{Limits, RefreshTarget, Report, SessionSpec};
use crate::auth::SessionAccess;
use crate::session::error::SessionError;
use crate::session::event::EndReason;
use crate::session::id::SessionId;
use crate::session::language::Language;
use crate::session::machine::{HolderId, Machine, Rules, Seat, Term};
use crate::session::refresh::Cause;
use crate::session::secret::SecretHash;
use crate::session::slot::Place;
use crate::session::ticket::Right;
use crate::session::view::SessionView;
use crate::webrtc::{CloseReason, ResourceId};

/// What the directory, its slots and its leases share.
pub(in crate::session) struct Shared {
    limits: Limits,
    state: Mutex<State>,
    feed: FeedSender,
    /// Rung when there is work.
    work: Notify,
    /// Rung when the media plane has closed a leg.
    closed: Notify,
    observer: OnceLock<Observer>,
}

type Observer = Box<dyn Fn(Report) + Send + Sync>;

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        let epoch = Epoch { instant: Instant::now(), wall: SystemTime::now() };
        Self {
            state: Mutex::new(State::new(epoch, limits.max_sessions, limits.public_url.clone())),
            limits,
            feed: FeedSender::new(),
            work: Notify::new(),
            closed: Notify::new(),
            observer: OnceLock::new(),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn feed(&self) -> &FeedSender {
        &self.feed
    }

    pub(super) async fn has_work(&self) {
        self.work.notified().await;
    }

    /// Runs `change` on a session if it is still the one that the place was taken in.
    pub(in crate::session) fn with_place(
        &self,
        place: &Place,
        now: Instant,
        change: impl FnOnce(&mut Machine, Instant),
    ) {
        let mut state = self.state();
        if state.is_current(place) {
            state.change(now, &place.session, &self.feed, |entry| change(&mut entry.machine, now));
        }
        self.settle(state);
    }

    /// A holder's connection was answered and has this leg: its ticket, if the session is there still.
    pub(in crate::session) fn answered(
        &self,
        place: &Place,
        leg: LegId,
        listener: Option<ListenerId>,
        right: impl FnOnce(ResourceId) -> Right,
    ) -> Option<String> {
        let now = Instant::now();
        let mut state = self.state();
        let mut text = None;
        if state.is_current(place) {
            text = state.change(now, &place.session, &self.feed, |entry| {
                let theirs = entry.machine.handle_leg(place.holder, leg, listener);
                let name = entry.machine.name(place.holder).filter(|_| theirs)?;
                Some(entry.tickets.issue(place.holder, leg, right(name)))
            });
            // Of a connection that is gone there is nobody to forget it.
            if text.is_some() {
                state.note_leg(leg, place.session.clone(), place.holder);
            }
        }
        self.settle(state);
        text
    }

    /// A holder's connection is up.
    pub(in crate::session) fn connected(&self, place: &Place, now: Instant) {
        let mut state = self.state();
        if state.is_current(place) {
            state.change(now, &place.session, &self.feed, |entry| {
                entry.machine.handle_connected(now, place.holder);
                entry.tickets.handle_connected(place.holder);
            });
        }
        self.settle(state);
    }

    /// A holder's client knows of its connection.
    pub(in crate::session) fn known(&self, place: &Place) {
        let mut state = self.state();
        if state.is_current(place)
            && let Some(entry) = state.entry_mut(&place.session)
        {
            entry.tickets.handle_known(place.holder);
        }
    }

    /// A holder is gone.
    pub(in crate::session) fn leave(&self, place: &Place, now: Instant) {
        let mut state = self.state();
        if state.is_current(place) {
            let leg = state.change(now, &place.session, &self.feed, |entry| {
                entry.lapses.remove(&place.holder);
                let leg = entry.machine.leg_of(place.holder);
                match entry.machine.first_beside(place.holder) {
                    Some(first) => entry.tickets.handle_second_left(now, place.holder, first),
                    None => entry.tickets.handle_left(now, place.holder),
                }
                entry.machine.handle_gone(now, place.holder);
                leg
            });
            if let Some(leg) = leg {
                state.forget_leg(leg);
            }
        }
        self.settle(state);
    }

    /// A holder's connection has a name by which it can be closed; at once, if the place is gone.
    pub(in crate::session) fn accepted(
        &self,
        place: &Place,
        resource: ResourceId,
    ) -> Result<(), CloseReason> {
        let now = Instant::now();
        let mut state = self.state();
        let accepted = if state.is_current(place) {
            state.change(now, &place.session, &self.feed, |entry| {
                entry.machine.handle_accepted(place.holder, resource)
            })
        } else {
            state.work.legs.insert(resource, CloseReason::SessionEnded);
            Err(CloseReason::SessionEnded)
        };
        self.settle(state);
        accepted
    }

    /// Whether the session and the track are there still. If a publisher's connection came about, also whether nobody
    /// has its place instead.
    pub(in crate::session) fn check_place(
        &self,
        place: &Place,
        language: Option<&str>,
        publishes: bool,
    ) -> Result<(), SessionError> {
        let state = self.state();
        let entry = state.entry(place.session.as_str())?;
        if entry.serial != place.serial {
            return Err(SessionError::Ended { id: place.session.clone() });
        }
        entry.machine.track(language)?;
        if publishes { entry.machine.check_not_taken_over(place.holder, language) } else { Ok(()) }
    }

    pub(super) fn insert(
        &self,
        now: Instant,
        id: Option<SessionId>,
        spec: SessionSpec,
        tracks: &[TrackId],
        resume: Option<SecretHash>,
    ) -> Result<SessionView, SessionError> {
        assert_eq!(spec.languages.len(), tracks.len(), "one track per language");
        let limits = &self.limits;
        let mut state = self.state();
        state.has_room(spec.owner.as_ref(), limits)?;
        let rules = Rules {
            permanent: id.is_some(),
            max_listeners: limits.max_listeners,
            max_languages: limits.max_languages,
            linger: limits.linger,
            idle_timeout: limits.idle_timeout,
            warn_before: limits.warn_before,
            grace: limits.grace,
            refresh: limits.refresh,
            seed: rand::random(),
        };
        let id = id.unwrap_or_else(|| state.free_id());
        let access = SessionAccess {
            id: id.clone(),
            owner: spec.owner,
            anonymous_listeners: spec.anonymous_listeners,
        };
        let tracks = spec.languages.into_iter().zip(tracks.iter().copied()).collect();
        let machine = Machine::new(now, id.clone(), rules, tracks);
        state.insert(access, machine, resume, limits.max_listeners.saturating_add(limits.max_languages));
        state.change(now, &id, &self.feed, |_| ());
        Ok(state.entry(id.as_str())?.view())
    }

    /// What a refused change has put out is nothing.
    pub(super) fn change_and_view(
        &self,
        now: Instant,
        id: &str,
        change: impl FnOnce(&mut Machine) -> Result<(), SessionError>,
    ) -> Result<SessionView, SessionError> {
        let mut state = self.state();
        let id = state.entry(id)?.access.id.clone();
        state.change(now, &id, &self.feed, |entry| change(&mut entry.machine))?;
        let view = state.entry(id.as_str()).map(Entry::view);
        self.settle(state);
        view
    }

    pub(super) fn add_track(
        &self,
        now: Instant,
        id: &str,
        language: Language,
        track: TrackId,
    ) -> Result<SessionView, SessionError> {
        let mut state = self.state();
        let id = state.entry(id)?.access.id.clone();
        state.change(now, &id, &self.feed, |entry| entry.machine.add_track(language, track))?;
        state.note_track(track, id.clone());
        let view = state.entry(id.as_str()).map(Entry::view);
        self.settle(state);
        view
    }

    pub(super) fn end(&self, now: Instant, id: &str, reason: EndReason) -> Result<(), SessionError> {
        let mut state = self.state();
        let id = state.entry(id)?.access.id.clone();
        state.change(now, &id, &self.feed, |entry| entry.machine.end(now, reason));
        self.settle(state);
        Ok(())
    }

    pub(super) fn end_all(&self, now: Instant, reason: EndReason) {
        let mut state = self.state();
        for id in state.ids() {
            state.change(now, &id, &self.feed, |entry| entry.machine.end(now, reason));
        }
        self.settle(state);
    }

    pub(super) fn handle_timeout(&self, now: Instant) {
        let mut state = self.state();
        state.forget(now, self.limits.ended_memory);
        for id in state.due(now) {
            state.change(now, &id, &self.feed, |entry| {
                entry.tickets.handle_timeout(now);
                entry.machine.handle_timeout(now);
            });
        }
        self.settle(state);
    }

    pub(super) fn change_track(&self, now: Instant, track: TrackId, change: impl FnOnce(&mut Machine)) {
        let mut state = self.state();
        if let Some(id) = state.session_of(track) {
            state.change(now, &id, &self.feed, |entry| change(&mut entry.machine));
        }
        self.settle(state);
    }

    /// A leg that somebody has in a live session.
    pub(super) fn change_leg(&self, now: Instant, leg: LegId, change: impl FnOnce(&mut Entry, HolderId)) {
        let mut state = self.state();
        if let Some((id, holder)) = state.session_of_leg(leg) {
            state.change(now, &id, &self.feed, |entry| change(entry, holder));
        }
        self.settle(state);
    }

    /// The media plane has closed a leg; `next`: where a listener may go on.
    pub(super) fn leg_closed(&self, track: TrackId, leg: LegId, next: Option<u64>) {
        let mut state = self.state();
        let session = state.session_of(track);
        if let Some(entry) = session.and_then(|id| state.entry_mut(&id)) {
            entry.tickets.handle_closed(leg, next);
        }
        drop(state);
        self.closed.notify_waiters();
    }

    /// Resolves when a leg was closed after this was first polled.
    pub(in crate::session) fn leg_is_closed(&self) -> Notified<'_> {
        self.closed.notified()
    }

    pub(super) fn refresh(
        &self,
        now: Instant,
        id: &str,
        cause: Cause,
        target: &RefreshTarget,
    ) -> Result<usize, SessionError> {
        let mut state = self.state();
        let id = state.entry(id)?.access.id.clone();
        let ordered =
            state.change(now, &id, &self.feed, |entry| entry.machine.order_refresh(now, cause, target));
        self.settle(state);
        ordered
    }

    pub(super) fn observe(&self, observer: Observer) {
        let _first = self.observer.set(observer).is_ok();
    }

    pub(in crate::session) fn report(&self, report: Report) {
        if let Some(observer) = self.observer.get() {
            observer(report);
        }
    }

    pub(super) fn seat(
        self: &Arc<Self>,
        now: Instant,
        id: &str,
        take: impl FnOnce(&mut Entry) -> Result<Seat, SessionError>,
    ) -> Result<(Place, Seat), SessionError> {
        let mut state = self.state();
        let entry = state.entry(id)?;
        let (session, serial) = (entry.access.id.clone(), entry.serial);
        let taken = state.change(now, &session, &self.feed, take);
        self.settle(state);
        let seat = taken?;
        Ok((Place { shared: self.clone(), session, serial, holder: seat.holder }, seat))
    }

    pub(super) fn follow(
        self: &Arc<Self>,
        now: Instant,
        id: &str,
        term: Term,
        lapse: watch::Sender<bool>,
    ) -> Result<Place, SessionError> {
        let mut state = self.state();
        let entry = state.entry(id)?;
        let (session, serial) = (entry.access.id.clone(), entry.serial);
        let taken = state.change(now, &session, &self.feed, |entry| {
            let holder = entry.machine.follow(now, term)?;
            entry.lapses.insert(holder, lapse);
            Ok(holder)
        });
        self.settle(state);
        Ok(Place { shared: self.clone(), session, serial, holder: taken? })
    }

    /// Lets go of the lock, then calls for whoever does the work.
    pub(super) fn settle(&self, mut state: MutexGuard<'_, State>) {
        for report in std::mem::take(&mut state.work.reports) {
            self.report(report);
        }
        let work = !state.work.is_empty();
        drop(state);
        if work {
            self.work.notify_one();
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself, so that a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}
