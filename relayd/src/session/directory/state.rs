//! What is under the directory's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, UNIX_EPOCH};

use relay_engine::{Epoch, LegId, TrackId};
use tokio::sync::watch;

use super::feed::FeedSender;
use super::{Limits, Report};
use crate::auth::{SessionAccess, Subject};
use crate::session::error::SessionError;
use crate::session::event::{Audience, Event, WarningReason};
use crate::session::hub::Hub;
use crate::session::id::SessionId;
use crate::session::language::Language;
use crate::session::machine::{HolderId, Machine, Output};
use crate::session::secret::SecretHash;
use crate::session::slot::Place;
use crate::session::status::Status;
use crate::session::ticket::{Right, Tickets};
use crate::session::view::SessionView;
use crate::webrtc::{CloseReason, ResourceId, Role};

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
    pub tickets: Tickets,
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
    /// Legs that are to take over from others, and whose they are.
    pub switches: BTreeMap<LegId, HolderId>,
    /// Connections to close.
    pub legs: BTreeMap<ResourceId, CloseReason>,
    /// Tracks to close with all of their connections.
    pub tracks: BTreeSet<TrackId>,
    /// What is to be counted; taken before the lock is let go.
    pub reports: Vec<Report>,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.pauses.is_empty() && self.switches.is_empty() && self.legs.is_empty() && self.tracks.is_empty()
    }
}

impl Work {
    fn add(&mut self, output: Output) {
        match output {
            Output::CloseLeg { resource, reason } => drop(self.legs.insert(resource, reason)),
            Output::PauseTrack { track, paused } => drop(self.pauses.insert(track, paused)),
            Output::Switch { leg, holder } => drop(self.switches.insert(leg, holder)),
            Output::Report(report) => self.reports.push(report),
            _ => {}
        }
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
    /// Whose leg on the media plane it is; of live sessions only.
    legs: BTreeMap<LegId, (SessionId, HolderId)>,
    /// Live sessions by issuer of their owners' tokens; none is 0.
    issuers: BTreeMap<String, usize>,
    serial: u64,
    pub epoch: Epoch,
    pub work: Work,
    /// What addresses begin with.
    base: String,
}

impl State {
    pub(super) fn new(epoch: Epoch, max_ended: usize, base: String) -> Self {
        Self {
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            max_ended,
            tracks: BTreeMap::new(),
            legs: BTreeMap::new(),
            issuers: BTreeMap::new(),
            serial: 0,
            epoch,
            work: Work::default(),
            base,
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

    pub(super) fn insert(
        &mut self,
        access: SessionAccess,
        machine: Machine,
        resume: Option<SecretHash>,
        max_left: usize,
    ) {
        self.serial += 1;
        if let Some(owner) = &access.owner {
            *self.issuers.entry(owner.issuer.clone()).or_default() += 1;
        }
        self.tracks.extend(machine.tracks().map(|track| (track, access.id.clone())));
        let (id, hub, lapses) = (access.id.clone(), Hub::new(max_left), BTreeMap::new());
        self.ended.remove(&id);
        let (serial, tickets) = (self.serial, Tickets::new(max_left));
        self.live.insert(id, Entry { serial, access, machine, hub, resume, lapses, tickets });
    }

    /// Changes a live session and deals with what comes of it, the session's end too.
    pub(super) fn change<T>(
        &mut self,
        now: Instant,
        id: &SessionId,
        feed: &FeedSender,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> T {
        let Self { live, tracks, work, epoch, base, .. } = self;
        let entry = live.get_mut(id).expect("whoever changes a session has found it under the same lock");
        let changed = change(entry);
        while let Some(output) = entry.machine.poll_output() {
            let (audience, event) = match output {
                Output::Publish(audience, event) => (audience, event),
                Output::Warn { subject, expires, remaining } => {
                    let warning = warning(epoch, WarningReason::TokenExpiry, expires, remaining);
                    (Audience::Subject(subject), warning)
                }
                Output::WarnLeg { name, cause, at } => {
                    let remaining = at.saturating_duration_since(now);
                    (Audience::Leg(name), warning(epoch, cause.reason(), at, remaining))
                }
                Output::Require { holder, name, cause, deadline } => {
                    // Without a pass it was not answered yet: it is asked for again.
                    let Some((ticket, right)) = entry.tickets.order(holder) else { continue };
                    let url = entry.machine.language(right.track).map(|tag| address(base, id, right, tag));
                    let (url, reason) = (url.unwrap_or_default(), cause.reason());
                    let deadline = unix_ms(epoch, deadline);
                    (Audience::Leg(name), Event::ConnectionRefreshRequired { url, ticket, deadline, reason })
                }
                Output::Lapsed(holder) => {
                    if let Some(lapse) = entry.lapses.remove(&holder) {
                        lapse.send_replace(true);
                    }
                    continue;
                }
                Output::Withdraw(holder) => {
                    entry.tickets.withdraw(holder);
                    continue;
                }
                Output::Revoke(holder) => {
                    entry.tickets.remove(holder);
                    continue;
                }
                Output::Retire(holder) => {
                    entry.tickets.retire(holder);
                    continue;
                }
                Output::CloseTrack(track) => {
                    tracks.remove(&track);
                    work.tracks.insert(track);
                    continue;
                }
                other => {
                    work.add(other);
                    continue;
                }
            };
            // What is for one connection's eyes, with its ticket, goes to nobody else.
            let private = matches!(audience, Audience::Leg(_));
            let published = entry.hub.publish(unix_ms(epoch, now), audience, event);
            let published = published.expect("nothing is published after the end");
            if !private {
                feed.send(id, published);
            }
        }
        for name in entry.tickets.take_gone() {
            entry.hub.forget(name);
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
        let due = |entry: &Entry| {
            let deadlines = [entry.machine.poll_timeout(), entry.tickets.poll_timeout()];
            deadlines.into_iter().flatten().any(|at| at <= now)
        };
        self.live.iter().filter(|(_, entry)| due(entry)).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn entry(&self, id: &str) -> Result<&Entry, SessionError> {
        self.live.get(id).ok_or_else(|| match self.ended.get_key_value(id) {
            Some((id, _)) => SessionError::Ended { id: id.clone() },
            None => SessionError::NotFound { id: id.chars().take(60).collect() },
        })
    }

    pub(super) fn entry_mut(&mut self, id: &SessionId) -> Option<&mut Entry> {
        self.live.get_mut(id)
    }

    /// A connection of a live session has this leg.
    pub(super) fn note_leg(&mut self, leg: LegId, id: SessionId, holder: HolderId) {
        self.legs.insert(leg, (id, holder));
    }

    /// The connection of this leg is gone.
    pub(super) fn forget_leg(&mut self, leg: LegId) {
        self.legs.remove(&leg);
    }

    pub(super) fn session_of_leg(&self, leg: LegId) -> Option<(SessionId, HolderId)> {
        self.legs.get(&leg).cloned()
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
        for leg in entry.machine.legs() {
            self.legs.remove(&leg);
        }
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

fn warning(epoch: &Epoch, reason: WarningReason, at: Instant, remaining: Duration) -> Event {
    let remaining_minutes = (remaining.as_secs_f64() / 60.0).ceil() as u64;
    Event::ConnectionWarning { remaining_minutes, expires_at: unix_ms(epoch, at), reason }
}

/// Where a connection like this one is opened.
fn address(base: &str, id: &SessionId, right: &Right, language: &Language) -> String {
    let kind = match (right.role, right.socket) {
        (Role::Publisher, false) => "whip",
        (Role::Listener, false) => "whep",
        (Role::Publisher, true) => "publish",
        (Role::Listener, true) => "listen",
    };
    let path = format!("/v1/sessions/{id}/{kind}/{language}");
    match base.strip_prefix("http").filter(|_| right.socket) {
        // http → ws, https → wss.
        Some(rest) => format!("ws{rest}{path}"),
        None => format!("{base}{path}"),
    }
}

/// An instant as events tell it.
pub(super) fn unix_ms(epoch: &Epoch, instant: Instant) -> u64 {
    let start = epoch.wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let after = instant.saturating_duration_since(epoch.instant);
    let before = epoch.instant.saturating_duration_since(instant);
    u64::try_from((start + after).saturating_sub(before).as_millis()).unwrap_or(u64::MAX)
}
