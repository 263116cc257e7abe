//! What is under the directory's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, UNIX_EPOCH};

use relay_engine::{Epoch, TrackId};
use tokio::sync::watch;

use super::Limits;
use super::feed::FeedSender;
use crate::auth::{SessionAccess, Subject};
use crate::session::error::SessionError;
use crate::session::event::{Audience, Event, WarningReason};
use crate::session::hub::Hub;
use crate::session::id::SessionId;
use crate::session::machine::{HolderId, Machine, Output};
use crate::session::secret::SecretHash;
use crate::session::slot::Place;
use crate::session::status::Status;
use crate::session::view::SessionView;
use crate::webrtc::{CloseReason, ResourceId};

/// One live session.
#[derive(Debug)]
pub(super) struct Entry {
    /// Tells it from another of the same name.
    pub serial: u64,
    pub access: SessionAccess,
    pub machine: Machine,
    pub hub: Hub,
    pub resume: Option<SecretHash>,
    /// Those who wait for the end of their lease.
    pub lapses: BTreeMap<HolderId, watch::Sender<bool>>,
}

impl Entry {
    pub(super) fn view(&self) -> SessionView {
        self.machine.view(&self.access, self.hub.head())
    }
}

/// What the planes must do, in this order. One entry per track and connection, however often it changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct Work {
    /// Tracks to pause, or to let through again.
    pub pauses: BTreeMap<TrackId, bool>,
    /// Connections to close.
    pub legs: BTreeMap<ResourceId, CloseReason>,
    /// Tracks to close with all of their connections.
    pub tracks: BTreeSet<TrackId>,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.pauses.is_empty() && self.legs.is_empty() && self.tracks.is_empty()
    }
}

#[derive(Debug)]
struct Remembered {
    since: Instant,
    access: SessionAccess,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct State {
    live: BTreeMap<SessionId, Entry>,
    /// At most `max_ended`.
    ended: BTreeMap<SessionId, Remembered>,
    max_ended: usize,
    /// Whose track it is; of live sessions only.
    tracks: BTreeMap<TrackId, SessionId>,
    /// Live sessions by issuer of their owners' tokens; none is 0.
    issuers: BTreeMap<String, usize>,
    serial: u64,
    pub epoch: Epoch,
    pub work: Work,
}

impl State {
    pub(super) fn new(epoch: Epoch, max_ended: usize) -> Self {
        Self {
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            max_ended,
            tracks: BTreeMap::new(),
            issuers: BTreeMap::new(),
            serial: 0,
            epoch,
            work: Work::default(),
        }
    }

    pub(super) fn has_room(&self, owner: Option<&Subject>, limits: &Limits) -> Result<(), SessionError> {
        if self.live.len() >= limits.max_sessions {
            return Err(SessionError::SessionsFull { max: limits.max_sessions });
        }
        let of_issuer = owner.and_then(|owner| self.issuers.get(&owner.issuer)).copied().unwrap_or(0);
        let max = limits.max_per_issuer;
        if of_issuer >= max && owner.is_some() { Err(SessionError::IssuerFull { max }) } else { Ok(()) }
    }

    pub(super) fn insert(&mut self, access: SessionAccess, machine: Machine, resume: Option<SecretHash>) {
        self.serial += 1;
        if let Some(owner) = &access.owner {
            *self.issuers.entry(owner.issuer.clone()).or_default() += 1;
        }
        self.tracks.extend(machine.tracks().map(|track| (track, access.id.clone())));
        let (id, hub, lapses) = (access.id.clone(), Hub::new(), BTreeMap::new());
        self.ended.remove(&id);
        self.live.insert(id, Entry { serial: self.serial, access, machine, hub, resume, lapses });
    }

    /// Changes a live session and deals with what comes of it, the session's end too.
    pub(super) fn change<T>(
        &mut self,
        now: Instant,
        id: &SessionId,
        feed: &FeedSender,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> T {
        let Self { live, tracks, work, epoch, .. } = self;
        let entry = live.get_mut(id).expect("whoever changes a session has found it under the same lock");
        let changed = change(entry);
        while let Some(output) = entry.machine.poll_output() {
            let (audience, event) = match output {
                Output::Publish(audience, event) => (audience, event),
                Output::Warn { subject, expires, remaining } => {
                    let remaining_minutes = remaining.as_secs_f64() / 60.0;
                    let warning = Event::ConnectionWarning {
                        remaining_minutes: remaining_minutes.ceil() as u64,
                        expires_at: unix_ms(epoch, expires),
                        reason: WarningReason::TokenExpiry,
                    };
                    (Audience::Subject(subject), warning)
                }
                Output::CloseLeg { resource, reason } => {
                    work.legs.insert(resource, reason);
                    continue;
                }
                Output::Lapsed(holder) => {
                    if let Some(lapse) = entry.lapses.remove(&holder) {
                        lapse.send_replace(true);
                    }
                    continue;
                }
                Output::PauseTrack { track, paused } => {
                    work.pauses.insert(track, paused);
                    continue;
                }
                Output::CloseTrack(track) => {
                    tracks.remove(&track);
                    work.tracks.insert(track);
                    continue;
                }
            };
            let published = entry.hub.publish(unix_ms(epoch, now), audience, event);
            feed.send(id, published.expect("nothing is published after the end"));
        }
        if entry.machine.status() == Status::Ended {
            self.retire(id);
        }
        changed
    }

    /// Forgets the ids of sessions that ended long ago.
    pub(super) fn forget(&mut self, now: Instant, memory: Duration) {
        self.ended.retain(|_, ended| now.saturating_duration_since(ended.since) < memory);
    }

    /// A live session has one more track.
    pub(super) fn note_track(&mut self, track: TrackId, id: SessionId) {
        self.tracks.insert(track, id);
    }

    /// Sessions for which time matters now.
    pub(super) fn due(&self, now: Instant) -> Vec<SessionId> {
        let due = |entry: &Entry| entry.machine.poll_timeout().is_some_and(|at| at <= now);
        self.live.iter().filter(|(_, entry)| due(entry)).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn entry(&self, id: &str) -> Result<&Entry, SessionError> {
        self.live.get(id).ok_or_else(|| match self.ended.get_key_value(id) {
            Some((id, _)) => SessionError::Ended { id: id.clone() },
            None => SessionError::NotFound { id: id.chars().take(60).collect() },
        })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.live.values()
    }

    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.live.keys().cloned().collect()
    }

    pub(super) fn is_current(&self, place: &Place) -> bool {
        self.live.get(&place.session).is_some_and(|entry| entry.serial == place.serial)
    }

    pub(super) fn session_of(&self, track: TrackId) -> Option<SessionId> {
        self.tracks.get(&track).cloned()
    }

    pub(super) fn access(&self, id: &str) -> Option<&SessionAccess> {
        let live = self.live.get(id).map(|entry| &entry.access);
        live.or_else(|| self.ended.get(id).map(|ended| &ended.access))
    }

    pub(super) fn ended_len(&self) -> usize {
        self.ended.len()
    }

    pub(super) fn free_id(&self) -> SessionId {
        loop {
            let id = SessionId::random();
            if !self.live.contains_key(&id) && !self.ended.contains_key(&id) {
                return id;
            }
        }
    }

    /// The one place where a session leaves the map. Dropping those who wait for a lease tells them nothing: they
    /// hear of the end by the hub.
    fn retire(&mut self, id: &SessionId) {
        let Some(entry) = self.live.remove(id) else { return };
        entry.hub.close();
        if let Some(owner) = &entry.access.owner
            && let Some(count) = self.issuers.get_mut(&owner.issuer)
        {
            *count -= 1;
            if *count == 0 {
                self.issuers.remove(&owner.issuer);
            }
        }
        let since = entry.machine.since();
        if self.ended.len() >= self.max_ended {
            let oldest = self.ended.iter().min_by_key(|(_, ended)| ended.since).map(|(id, _)| id.clone());
            oldest.and_then(|oldest| self.ended.remove(&oldest));
        }
        self.ended.insert(id.clone(), Remembered { since, access: entry.access });
    }
}

/// An instant as events tell it.
pub(super) fn unix_ms(epoch: &Epoch, instant: Instant) -> u64 {
    let start = epoch.wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let after = instant.saturating_duration_since(epoch.instant);
    let before = epoch.instant.saturating_duration_since(instant);
    u64::try_from((start + after).saturating_sub(before).as_millis()).unwrap_or(u64::MAX)
}
