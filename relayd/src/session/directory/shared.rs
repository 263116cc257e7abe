//! The lock, and what is done under it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use relay_engine::{Epoch, TrackId};
use tokio::sync::{Notify, watch};

use super::feed::FeedSender;
use super::state::{Entry, State};
use super::{Limits, SessionSpec};
use crate::auth::SessionAccess;
use crate::session::error::SessionError;
use crate::session::event::EndReason;
use crate::session::id::SessionId;
use crate::session::language::Language;
use crate::session::machine::{Machine, Rules, Seat, Term};
use crate::session::secret::SecretHash;
use crate::session::slot::Place;
use crate::session::view::SessionView;
use crate::webrtc::{CloseReason, ResourceId};

/// What the directory, its slots and its leases share.
#[derive(Debug)]
pub(in crate::session) struct Shared {
    limits: Limits,
    state: Mutex<State>,
    feed: FeedSender,
    /// Rung when there is work.
    work: Notify,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        let epoch = Epoch { instant: Instant::now(), wall: SystemTime::now() };
        Self {
            state: Mutex::new(State::new(epoch, limits.max_sessions)),
            limits,
            feed: FeedSender::new(),
            work: Notify::new(),
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

    /// A holder is gone.
    pub(in crate::session) fn leave(&self, place: &Place, now: Instant) {
        let mut state = self.state();
        if state.is_current(place) {
            state.change(now, &place.session, &self.feed, |entry| {
                entry.lapses.remove(&place.holder);
                entry.machine.handle_gone(now, place.holder);
            });
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

    /// Whether the session and the track are there still. If the connection came about, also whether its place was
    /// not taken over meanwhile.
    pub(in crate::session) fn check_place(
        &self,
        place: &Place,
        language: Option<&str>,
        joined: bool,
    ) -> Result<(), SessionError> {
        let state = self.state();
        let entry = state.entry(place.session.as_str())?;
        if entry.serial != place.serial {
            return Err(SessionError::Ended { id: place.session.clone() });
        }
        entry.machine.track(language)?;
        if joined { entry.machine.check_not_taken_over(place.holder) } else { Ok(()) }
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
        };
        let id = id.unwrap_or_else(|| state.free_id());
        let access = SessionAccess {
            id: id.clone(),
            owner: spec.owner,
            anonymous_listeners: spec.anonymous_listeners,
        };
        let tracks = spec.languages.into_iter().zip(tracks.iter().copied()).collect();
        let machine = Machine::new(now, id.clone(), rules, tracks);
        state.insert(access, machine, resume);
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
            state.change(now, &id, &self.feed, |entry| entry.machine.handle_timeout(now));
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
            let holder = entry.machine.follow(term)?;
            entry.lapses.insert(holder, lapse);
            Ok(holder)
        });
        self.settle(state);
        Ok(Place { shared: self.clone(), session, serial, holder: taken? })
    }

    /// Lets go of the lock, then calls for whoever does the work.
    fn settle(&self, state: MutexGuard<'_, State>) {
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
