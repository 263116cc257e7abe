//! Every session of this process, in memory.
//!
//! Memory: at most `max_sessions` live sessions of at most `max_languages` tracks, and as many remembered ids of
//! ended ones. One lock, held for map look-ups only, never across an await.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relay_engine::TrackId;
use thiserror::Error;

use super::id::SessionId;
use super::language::Language;
use super::slot::{ListenerSlot, Place, PublisherSlot};
use super::status::{Lifecycle, Status, Transition};

/// Bounds of the directory; see the `sessions` section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Live sessions.
    pub max_sessions: usize,
    /// Listeners of one session.
    pub max_listeners: usize,
    /// How long nobody may be connected before a session ends.
    pub idle_timeout: Duration,
    /// How long the id of an ended session is remembered.
    pub ended_memory: Duration,
}

/// What a session is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// What the speaker speaks.
    pub source: Language,
    /// All languages, the source first, none twice.
    pub languages: Vec<Language>,
}

/// All sessions. Clones share one directory.
#[derive(Debug, Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

impl Directory {
    /// An empty directory.
    pub fn new(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared { limits, state: Mutex::default() }) }
    }

    /// Whether one more session fits.
    pub fn has_room(&self) -> Result<(), SessionError> {
        let max = self.shared.limits.max_sessions;
        if self.shared.state().live.len() < max { Ok(()) } else { Err(SessionError::SessionsFull { max }) }
    }

    /// Adds a session under a random free id. `tracks` are those of `spec.languages`, in that order.
    pub fn create(
        &self,
        now: Instant,
        spec: SessionSpec,
        tracks: &[TrackId],
    ) -> Result<SessionView, SessionError> {
        self.insert(now, None, spec, tracks)
    }

    /// Adds a session that never expires, under a given id.
    pub fn create_permanent(
        &self,
        now: Instant,
        id: SessionId,
        spec: SessionSpec,
        tracks: &[TrackId],
    ) -> Result<SessionView, SessionError> {
        self.insert(now, Some(id), spec, tracks)
    }

    /// Ends a session; answers with its tracks, which are the caller's to close.
    pub fn end(&self, now: Instant, id: &str) -> Result<Vec<TrackId>, SessionError> {
        let mut state = self.shared.state();
        state.session(id)?;
        Ok(state.end(now, id, &self.shared.limits))
    }

    /// Ends the sessions that nobody was connected to for too long; answers with their tracks. Forgets the ids
    /// of sessions that ended long ago.
    pub fn expire(&self, now: Instant) -> Vec<TrackId> {
        let limits = &self.shared.limits;
        let mut state = self.shared.state();
        state.ended.retain(|_, ended| now.saturating_duration_since(*ended) < limits.ended_memory);
        let idle = |session: &Session| {
            let long = |since: Instant| now.saturating_duration_since(since) >= limits.idle_timeout;
            !session.permanent && session.idle_since.is_some_and(long)
        };
        let expired: Vec<SessionId> =
            state.live.iter().filter(|(_, session)| idle(session)).map(|(id, _)| id.clone()).collect();
        expired.iter().flat_map(|id| state.end(now, id.as_str(), limits)).collect()
    }

    /// What is known of a session.
    pub fn get(&self, id: &str) -> Result<SessionView, SessionError> {
        let state = self.shared.state();
        let (id, session) = state.session(id)?;
        Ok(session.view(id))
    }

    /// The track of a language of a session, or of its source language.
    pub fn track(&self, id: &str, language: Option<&str>) -> Result<TrackId, SessionError> {
        let state = self.shared.state();
        let (id, session) = state.session(id)?;
        Ok(session.tracks[session.index(id, language)?].id)
    }

    /// Takes the one place of a track's publisher.
    pub fn publisher_slot(
        &self,
        id: &str,
        language: Option<&str>,
    ) -> Result<(PublisherSlot, TrackId), SessionError> {
        let mut state = self.shared.state();
        let (id, session) = state.session_mut(id)?;
        let index = session.index(&id, language)?;
        let status = session.lifecycle.status();
        let track = &mut session.tracks[index];
        if track.publisher.is_some() {
            let language = track.language.clone();
            return Err(SessionError::SpeakerExists { id, language, status });
        }
        track.publisher = Some(false);
        session.idle_since = None;
        let (serial, track) = (session.serial, track.id);
        Ok((PublisherSlot::new(Place { shared: self.shared.clone(), session: id, serial, index }), track))
    }

    /// Takes the place of one more listener of a track.
    pub fn listener_slot(
        &self,
        id: &str,
        language: Option<&str>,
    ) -> Result<(ListenerSlot, TrackId), SessionError> {
        let max = self.shared.limits.max_listeners;
        let mut state = self.shared.state();
        let (id, session) = state.session_mut(id)?;
        let index = session.index(&id, language)?;
        if session.listeners >= max {
            return Err(SessionError::ListenersFull { id, max });
        }
        session.listeners += 1;
        session.idle_since = None;
        let (serial, track) = (session.serial, session.tracks[index].id);
        Ok((ListenerSlot::new(Place { shared: self.shared.clone(), session: id, serial, index }), track))
    }

    /// Totals, for metrics.
    pub fn counts(&self) -> Counts {
        let state = self.shared.state();
        let mut counts = Counts { ended_remembered: state.ended.len(), ..Counts::default() };
        for session in state.live.values() {
            match session.lifecycle.status() {
                Status::Created => counts.created += 1,
                Status::Active => counts.active += 1,
                Status::Paused => counts.paused += 1,
                Status::Ended => {}
            }
            counts.tracks += session.tracks.len();
            counts.publishers += session.tracks.iter().filter(|track| track.publisher.is_some()).count();
            counts.listeners += session.listeners;
        }
        counts
    }

    fn insert(
        &self,
        now: Instant,
        id: Option<SessionId>,
        spec: SessionSpec,
        tracks: &[TrackId],
    ) -> Result<SessionView, SessionError> {
        assert_eq!(spec.languages.len(), tracks.len(), "one track per language");
        let max = self.shared.limits.max_sessions;
        let mut state = self.shared.state();
        if state.live.len() >= max {
            return Err(SessionError::SessionsFull { max });
        }
        let permanent = id.is_some();
        let id = id.unwrap_or_else(|| state.free_id());
        state.serial += 1;
        let new_track =
            |(language, id): (Language, &TrackId)| Track { language, id: *id, publisher: None, listeners: 0 };
        let session = Session {
            serial: state.serial,
            lifecycle: Lifecycle::new(now),
            source: spec.source,
            tracks: spec.languages.into_iter().zip(tracks).map(new_track).collect(),
            listeners: 0,
            idle_since: Some(now),
            permanent,
        };
        let view = session.view(&id);
        state.live.insert(id, session);
        Ok(view)
    }
}

/// What the directory and its slots share.
#[derive(Debug)]
pub(super) struct Shared {
    limits: Limits,
    state: Mutex<State>,
}

impl Shared {
    /// Runs `change` on a session and one of its tracks, if the session is still the one the place was taken in.
    pub(super) fn with_place(&self, place: &Place, change: impl FnOnce(&mut Session, usize)) {
        let mut state = self.state();
        if let Some(session) = state.live.get_mut(&place.session)
            && session.serial == place.serial
        {
            change(session, place.index);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself, so that a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One live session.
#[derive(Debug)]
pub(super) struct Session {
    serial: u64,
    lifecycle: Lifecycle,
    source: Language,
    tracks: Vec<Track>,
    /// Listener slots taken, connected or not.
    listeners: usize,
    /// Since when no slot is taken.
    idle_since: Option<Instant>,
    permanent: bool,
}

impl Session {
    pub(super) fn publisher_connected(&mut self, now: Instant, index: usize) {
        self.tracks[index].publisher = Some(true);
        if self.tracks[index].language == self.source {
            self.lifecycle.handle(now, Transition::SpeakerConnected);
        }
    }

    pub(super) fn publisher_gone(&mut self, now: Instant, index: usize) {
        self.tracks[index].publisher = None;
        self.note_idle(now);
    }

    pub(super) fn listener_connected(&mut self, index: usize) {
        self.tracks[index].listeners += 1;
    }

    pub(super) fn listener_gone(&mut self, now: Instant, index: usize, connected: bool) {
        self.listeners -= 1;
        if connected {
            self.tracks[index].listeners -= 1;
        }
        self.note_idle(now);
    }

    fn note_idle(&mut self, now: Instant) {
        if self.listeners == 0 && self.tracks.iter().all(|track| track.publisher.is_none()) {
            self.idle_since = Some(now);
        }
    }

    fn index(&self, id: &SessionId, language: Option<&str>) -> Result<usize, SessionError> {
        let wanted = match language {
            None => Some(self.source.clone()),
            Some(text) => text.parse().ok(),
        };
        let found = wanted.and_then(|wanted| self.tracks.iter().position(|track| track.language == wanted));
        found.ok_or_else(|| SessionError::LanguageNotFound {
            id: id.clone(),
            language: language.unwrap_or_default().chars().take(40).collect(),
            known: self.tracks.iter().map(|track| track.language.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn view(&self, id: &SessionId) -> SessionView {
        let tracks: Vec<TrackView> = self.tracks.iter().map(Track::view).collect();
        SessionView {
            id: id.clone(),
            status: self.lifecycle.status(),
            source: self.source.clone(),
            speaker_connected: tracks
                .iter()
                .any(|track| track.language == self.source && track.speaker_connected),
            listeners: tracks.iter().map(|track| track.listeners).sum(),
            tracks,
        }
    }
}

/// What is told of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Its name.
    pub id: SessionId,
    /// Its status.
    pub status: Status,
    /// What the speaker speaks.
    pub source: Language,
    /// Whether the speaker of the source language is connected.
    pub speaker_connected: bool,
    /// Connected listeners of all tracks.
    pub listeners: usize,
    /// Its tracks, the source language first.
    pub tracks: Vec<TrackView>,
}

/// What is told of a track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackView {
    /// Its language.
    pub language: Language,
    /// Whether its publisher is connected.
    pub speaker_connected: bool,
    /// Its connected listeners.
    pub listeners: usize,
}

/// Totals over all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sessions that wait for their speaker.
    pub created: usize,
    /// Sessions whose speaker has connected.
    pub active: usize,
    /// Sessions in a break.
    pub paused: usize,
    /// Tracks of live sessions.
    pub tracks: usize,
    /// Publisher slots taken.
    pub publishers: usize,
    /// Listener slots taken.
    pub listeners: usize,
    /// Ended sessions whose ids are remembered.
    pub ended_remembered: usize,
}

/// Why the directory refused. Messages name the status seen where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No such session.
    #[error("there is no session {id:?}")]
    NotFound {
        /// The name asked for, shortened.
        id: String,
    },
    /// The session is over.
    #[error("the session {id} has status ended")]
    Ended {
        /// Its name.
        id: SessionId,
    },
    /// The session has no such track.
    #[error("the session {id} has no language {language:?}; it has {known}")]
    LanguageNotFound {
        /// The session.
        id: SessionId,
        /// The language asked for, shortened.
        language: String,
        /// Those there are.
        known: String,
    },
    /// Somebody publishes this track already.
    #[error("the track {language} of the session {id} (status {status}) has a publisher already")]
    SpeakerExists {
        /// The session.
        id: SessionId,
        /// The track.
        language: Language,
        /// The status seen.
        status: Status,
    },
    /// The session has as many listeners as it may have.
    #[error("the session {id} has its {max} listeners, as many as sessions.max_listeners allows")]
    ListenersFull {
        /// The session.
        id: SessionId,
        /// The limit.
        max: usize,
    },
    /// There are as many sessions as there may be.
    #[error("there are {max} sessions, as many as sessions.max allows")]
    SessionsFull {
        /// The limit.
        max: usize,
    },
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<SessionId, Session>,
    /// Ids of ended sessions and when they ended.
    ended: BTreeMap<SessionId, Instant>,
    serial: u64,
}

impl State {
    fn session(&self, id: &str) -> Result<(&SessionId, &Session), SessionError> {
        self.live.get_key_value(id).ok_or_else(|| self.missing(id))
    }

    fn session_mut(&mut self, id: &str) -> Result<(SessionId, &mut Session), SessionError> {
        let missing = self.missing(id);
        let name = self.live.get_key_value(id).map(|(name, _)| name.clone());
        name.zip(self.live.get_mut(id)).ok_or(missing)
    }

    fn missing(&self, id: &str) -> SessionError {
        match self.ended.get_key_value(id) {
            Some((id, _)) => SessionError::Ended { id: id.clone() },
            None => SessionError::NotFound { id: id.chars().take(60).collect() },
        }
    }

    fn end(&mut self, now: Instant, id: &str, limits: &Limits) -> Vec<TrackId> {
        let Some((id, mut session)) = self.live.remove_entry(id) else { return Vec::new() };
        session.lifecycle.handle(now, Transition::End);
        if self.ended.len() >= limits.max_sessions {
            let oldest = self.ended.iter().min_by_key(|(_, ended)| **ended).map(|(id, _)| id.clone());
            oldest.and_then(|oldest| self.ended.remove(&oldest));
        }
        self.ended.insert(id, session.lifecycle.since());
        session.tracks.iter().map(|track| track.id).collect()
    }

    fn free_id(&self) -> SessionId {
        loop {
            let id = SessionId::random();
            if !self.live.contains_key(&id) && !self.ended.contains_key(&id) {
                return id;
            }
        }
    }
}

#[derive(Debug)]
struct Track {
    language: Language,
    id: TrackId,
    /// The publisher's slot: taken or not, and whether its connection is up.
    publisher: Option<bool>,
    /// Connected listeners.
    listeners: usize,
}

impl Track {
    fn view(&self) -> TrackView {
        TrackView {
            language: self.language.clone(),
            speaker_connected: self.publisher == Some(true),
            listeners: self.listeners,
        }
    }
}

#[cfg(test)]
mod tests;
