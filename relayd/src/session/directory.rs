//! Every session of this process, in memory: one map of machines, one lock, one hub each.
//!
//! The lock is held for changes and look-ups, never across an await. What a change puts out is dealt with before it
//! is let go: events are numbered, published to the session's [`Hub`] and to the [`Feed`], so that their order is
//! the order of the changes; what the planes must do is left as [`Work`] for the service.
//!
//! Memory: at most `max_sessions` live sessions of at most `max_languages` tracks, each with a [`Hub`] of 256 events,
//! and as many remembered ids of ended ones. Work: at most one entry per track and per connection.

mod feed;
mod remake;
mod shared;
mod shed;
mod state;
mod tickets;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use relay_engine::{Epoch, LegId, ListenerId, TrackId};
use tokio::sync::watch;

use super::error::SessionError;
use super::event::EndReason;
use super::hub::Hub;
use super::id::SessionId;
use super::language::Language;
use super::lease::Lease;
use super::machine::{HolderId, Seat, Term};
use super::refresh::{Cause, Outcome, RefreshRules, Spent};
use super::secret::SecretHash;
use super::slot::{ListenerSlot, PublisherSlot};
use super::status::Status;
use super::view::{Counts, SessionView};
use crate::auth::{Caller, SessionAccess, Subject};
use crate::shard::ShardEvent;
use crate::webrtc::{ResourceId, Role};
#[cfg(test)]
pub(crate) use feed::FeedSender;
pub use feed::{FEED, Feed};
pub(super) use shared::Shared;
pub(super) use state::Work;
pub(super) use tickets::{HeldTicket, Left, Return, Returned};

/// Bounds and times of the sessions; see the sections `sessions` and `auth` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Live sessions.
    pub max_sessions: usize,
    /// Live sessions of the subjects of one issuer.
    pub max_per_issuer: usize,
    /// Languages of one session.
    pub max_languages: usize,
    /// Listeners of one session.
    pub max_listeners: usize,
    /// How long an active session waits for its speaker.
    pub linger: Duration,
    /// How long nobody may be connected before a session ends.
    pub idle_timeout: Duration,
    /// How long the id of an ended session is remembered.
    pub ended_memory: Duration,
    /// How long before a token expires its holder is warned.
    pub warn_before: Duration,
    /// How long connections outlive their token, for a new one to come.
    pub grace: Duration,
    /// When and how connections are replaced.
    pub refresh: RefreshRules,
    /// What addresses in events begin with; empty: they are paths.
    pub public_url: String,
}

impl From<&crate::config::Config> for Limits {
    fn from(config: &crate::config::Config) -> Self {
        let (sessions, auth) = (&config.sessions, &config.auth);
        Self {
            max_sessions: sessions.max,
            max_per_issuer: sessions.max_per_issuer,
            max_languages: sessions.max_languages,
            max_listeners: sessions.max_listeners,
            linger: sessions.linger,
            idle_timeout: sessions.idle_timeout,
            ended_memory: sessions.ended_memory,
            warn_before: auth.warn_before,
            grace: auth.grace,
            refresh: RefreshRules::from(&config.refresh),
            public_url: config.http.public_url.trim_end_matches('/').to_owned(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&crate::config::Config::default())
    }
}

/// What a session is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// What the speaker speaks.
    pub source: Language,
    /// All languages, the source first, none twice.
    pub languages: Vec<Language>,
    /// Who creates it; `None` at an open relay.
    pub owner: Option<Subject>,
    /// Whether anybody may listen.
    pub anonymous_listeners: bool,
}

/// A session was created.
#[derive(Clone, PartialEq, Eq)]
pub struct Created {
    /// What there is to tell of it.
    pub view: SessionView,
    /// With this a speaker takes their place back; told once, kept as a hash.
    pub resume_secret: String,
}

impl std::fmt::Debug for Created {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Created").field("view", &self.view).finish_non_exhaustive()
    }
}

/// With what right somebody asks for a publisher's place that may be taken.
#[derive(Clone, PartialEq, Eq)]
pub enum Claim {
    /// None: only a free place is given.
    None,
    /// The secret that the session was created with.
    ResumeSecret(String),
    /// Their token lets them, whoever has the place. At an open relay it needs no token.
    TakeoverGrant,
    /// The ticket of another connection of theirs: to go on beside it, or where it was. For listeners, too.
    Ticket(String),
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::ResumeSecret(_) => "ResumeSecret(…)",
            Self::TakeoverGrant => "TakeoverGrant",
            Self::Ticket(_) => "Ticket(…)",
        })
    }
}

/// A publisher's place was taken.
#[derive(Debug)]
pub struct Taken {
    /// The place.
    pub slot: PublisherSlot,
    /// The track.
    pub track: TrackId,
    /// The connection that had it; to be closed before the new one is opened.
    pub displaced: Option<ResourceId>,
    /// Which ownership of the track this is.
    pub epoch: u64,
}

/// A leg and the holder that it is of, who may have another one beside it for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegView {
    /// How [`Audience::Leg`](super::Audience::Leg) calls the holder: the same through refreshes and resumes.
    pub holder: ResourceId,
    /// What the holder does.
    pub role: Role,
    /// The subject of the token that its connection was opened with, if it was opened with one.
    pub subject: Option<Subject>,
    /// The track's language.
    pub language: Language,
    /// The track.
    pub track: TrackId,
    /// The listener on the media plane, for a listener.
    pub listener: Option<ListenerId>,
    /// The holder's legs, the older first: their names, and what the media plane calls them once it has opened them.
    pub legs: Vec<(ResourceId, Option<LegId>)>,
}

/// Whose connections are to be refreshed: those that fit everything that is said here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefreshTarget {
    /// Those of this role.
    pub role: Option<Role>,
    /// Those of this track.
    pub language: Option<String>,
    /// The one of this name.
    pub leg: Option<ResourceId>,
}

/// What there is to count of refreshes and resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// A refresh ended so, after so long; without a cause, the client had come by itself.
    Refresh {
        /// Why there was one.
        cause: Option<Cause>,
        /// How it ended.
        outcome: Outcome,
        /// Since it was ordered.
        took: Duration,
    },
    /// A leg took over from another.
    Spent {
        /// Frames that it brought a second time.
        replayed: u64,
        /// Frames that could not be had.
        gap_frames: u64,
    },
    /// Somebody came back with a ticket whose connection was gone.
    Resume {
        /// To speak or to listen.
        role: Role,
        /// Whether they got in.
        admitted: bool,
    },
}

/// All sessions. Clones share one directory.
#[derive(Debug, Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

/// Commands.
impl Directory {
    /// An empty directory.
    pub fn new(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared::new(limits)) }
    }

    /// Whether this session fits.
    pub fn has_room(&self, owner: Option<&Subject>) -> Result<(), SessionError> {
        self.shared.state().has_room(owner, self.shared.limits())
    }

    /// Adds a session under a random free id. `tracks` are those of `spec.languages`, in that order.
    pub fn create(
        &self,
        now: Instant,
        spec: SessionSpec,
        tracks: &[TrackId],
    ) -> Result<Created, SessionError> {
        let (resume_secret, hash) = SecretHash::generate();
        let view = self.shared.insert(now, None, spec, tracks, Some(hash))?;
        Ok(Created { view, resume_secret })
    }

    /// Adds a session that never ends by itself, under a given id. Nobody takes over in it.
    pub fn create_permanent(
        &self,
        now: Instant,
        id: SessionId,
        spec: SessionSpec,
        tracks: &[TrackId],
    ) -> Result<SessionView, SessionError> {
        self.shared.insert(now, Some(id), spec, tracks, None)
    }

    /// Begins a break; the session must be active.
    pub fn pause(&self, now: Instant, id: &str) -> Result<SessionView, SessionError> {
        self.shared.change_and_view(now, id, |machine| machine.pause(now))
    }

    /// Ends a break; the session must be paused.
    pub fn resume(&self, now: Instant, id: &str) -> Result<SessionView, SessionError> {
        self.shared.change_and_view(now, id, |machine| machine.resume(now))
    }

    /// Ends a session.
    pub fn end(&self, now: Instant, id: &str, reason: EndReason) -> Result<(), SessionError> {
        self.shared.end(now, id, reason)
    }

    /// Ends all sessions.
    pub fn end_all(&self, now: Instant, reason: EndReason) {
        self.shared.end_all(now, reason);
    }

    /// Whether a language can be added.
    pub fn check_new_language(&self, id: &str, language: &Language) -> Result<(), SessionError> {
        self.shared.state().entry(id)?.machine.check_new(language)
    }

    /// Adds a language with its track, which is the caller's to close if it is refused.
    pub fn add_language(
        &self,
        now: Instant,
        id: &str,
        language: Language,
        track: TrackId,
    ) -> Result<SessionView, SessionError> {
        self.shared.add_track(now, id, language, track)
    }

    /// Removes a language; whoever is connected to it goes. The source language stays.
    pub fn remove_language(
        &self,
        now: Instant,
        id: &str,
        language: &str,
    ) -> Result<SessionView, SessionError> {
        self.shared.change_and_view(now, id, |machine| machine.remove_track(now, language))
    }

    /// Takes the one place of a track's publisher: a free one, or with a good claim another's. Of several who claim
    /// at once one gets it; the others hear that the speaker exists, until that one is connected.
    pub fn publisher_slot(
        &self,
        now: Instant,
        id: &str,
        language: Option<&str>,
        caller: &Caller,
        claim: &Claim,
    ) -> Result<Taken, SessionError> {
        let (place, seat) = self.shared.seat(now, id, |entry| {
            let claimed = match claim {
                Claim::None | Claim::Ticket(_) => false,
                Claim::ResumeSecret(secret) => {
                    let known = entry.resume.as_ref().is_some_and(|hash| hash.verify(secret));
                    // Also where nobody has the place: whoever thinks that they resume is not let in as a stranger.
                    known
                        .then_some(true)
                        .ok_or_else(|| SessionError::Secret { id: entry.access.id.clone() })?
                }
                Claim::TakeoverGrant => match caller {
                    Caller::Open => true,
                    Caller::Anonymous => false,
                    Caller::Token(grant) => grant.takeover,
                },
            };
            entry.machine.take_publisher(now, language, Term::of(caller, &entry.access), claimed)
        })?;
        let Seat { track, displaced, epoch, .. } = seat;
        Ok(Taken { slot: PublisherSlot::new(place), track, displaced, epoch })
    }

    /// Takes the place of one more listener of a track.
    pub fn listener_slot(
        &self,
        now: Instant,
        id: &str,
        language: Option<&str>,
        caller: &Caller,
    ) -> Result<(ListenerSlot, TrackId), SessionError> {
        let (place, seat) = self.shared.seat(now, id, |entry| {
            entry.machine.take_listener(now, language, Term::of(caller, &entry.access))
        })?;
        Ok((ListenerSlot::new(place), seat.track))
    }

    /// Orders connections of a session to be replaced, without a gap for whoever is on them; tells how many.
    pub fn refresh(
        &self,
        now: Instant,
        id: &str,
        cause: Cause,
        target: &RefreshTarget,
    ) -> Result<usize, SessionError> {
        self.shared.refresh(now, id, cause, target)
    }

    /// Has `observer` told what there is to count; the first one only. It is called with the lock held.
    pub fn observe(&self, observer: impl Fn(Report) + Send + Sync + 'static) {
        self.shared.observe(Box::new(observer));
    }

    /// A share in the lease of the caller's token, for a connection that follows the events; `None` for callers
    /// without one for this session. A token that lasts longer than those shown before renews all of the same subject and role.
    pub fn lease(&self, now: Instant, id: &str, caller: &Caller) -> Result<Option<Lease>, SessionError> {
        let term = Term::of(caller, &self.shared.state().entry(id)?.access);
        let Some(term) = term else { return Ok(None) };
        let (sender, lapsed) = watch::channel(false);
        let place = self.shared.follow(now, id, term, sender)?;
        Ok(Some(Lease::new(place, lapsed)))
    }
}

/// What the world did.
impl Directory {
    /// Something happened on the media plane.
    pub fn handle_shard_event(&self, now: Instant, event: &ShardEvent) {
        match *event {
            ShardEvent::FirstPacketIn { track, leg, .. } => {
                self.shared.change_track(now, track, |machine| machine.handle_first_packet(track, leg));
            }
            ShardEvent::LegSpent { to, position, replayed, gap_frames, .. } => {
                let spent = Spent { position, replayed, gap_frames };
                self.shared
                    .change_leg(now, to, |entry, holder| entry.machine.handle_spent(now, holder, spent));
            }
            ShardEvent::LegClosed { leg, track, next } => self.shared.leg_closed(track, leg, next),
            ShardEvent::FramesLost { track, from, count } => {
                self.shared.change_track(now, track, |machine| {
                    machine.handle_track_lost(now, track, from, count);
                });
            }
            ShardEvent::FramesSkipped { track, from, count, .. } => {
                self.shared.change_track(now, track, |machine| {
                    machine.handle_frames_lost(now, track, from, count);
                });
            }
            _ => {}
        }
    }

    /// Time has passed: sessions end, tokens expire, ids of sessions that ended long ago are forgotten.
    pub fn handle_timeout(&self, now: Instant) {
        self.shared.handle_timeout(now);
    }

    /// The media plane was not ready to let a leg take over.
    pub(super) fn handle_not_switched(&self, now: Instant, leg: LegId, holder: HolderId) {
        self.shared.change_leg(now, leg, |entry, _| entry.machine.handle_not_switched(now, holder));
    }

    /// Sets the wall clock by which events are dated.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.shared.state().epoch = epoch;
    }
}

/// What must happen next.
impl Directory {
    /// What the planes must do; the caller's to do.
    pub(super) fn take_work(&self) -> Work {
        std::mem::take(&mut self.shared.state().work)
    }

    /// Resolves when there may be work again.
    pub(super) async fn has_work(&self) {
        self.shared.has_work().await;
    }
}

/// Getters.
impl Directory {
    /// Who may do what with a session, live or remembered.
    pub fn access(&self, id: &str) -> Option<SessionAccess> {
        self.shared.state().access(id).cloned()
    }

    /// What is known of a session, with the number of its newest event.
    pub fn view(&self, id: &str) -> Result<SessionView, SessionError> {
        Ok(self.shared.state().entry(id)?.view())
    }

    /// The events of a session.
    pub fn hub(&self, id: &str) -> Result<Hub, SessionError> {
        Ok(self.shared.state().entry(id)?.hub.clone())
    }

    /// The events of all sessions, from now on.
    pub fn feed(&self) -> Feed {
        self.shared.feed().subscribe()
    }

    /// The track of a language of a session, or of its source language.
    pub fn track(&self, id: &str, language: Option<&str>) -> Result<TrackId, SessionError> {
        self.shared.state().entry(id)?.machine.track(language)
    }

    /// The holder of a leg of this name in a session, and the legs that it has now.
    pub fn leg(&self, session: &str, resource: &ResourceId) -> Option<LegView> {
        let state = self.shared.state();
        let entry = state.entry(session).ok()?;
        let view = entry.machine.leg(resource)?;
        let mut legs = view.legs.iter().filter_map(|(_, leg)| *leg);
        let subject = legs.find_map(|leg| entry.tickets.subject(leg)).cloned();
        Some(LegView { subject, ..view })
    }

    /// An instant as events tell it: Unix milliseconds.
    pub fn unix_ms(&self, instant: Instant) -> u64 {
        state::unix_ms(&self.shared.state().epoch, instant)
    }

    /// Totals, for metrics.
    pub fn counts(&self) -> Counts {
        let state = self.shared.state();
        let mut counts = Counts {
            ended_remembered: state.ended_len(),
            feed_lost: self.shared.feed().lost.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for entry in state.entries() {
            match entry.machine.status() {
                Status::Created => counts.created += 1,
                Status::Active => counts.active += 1,
                Status::Paused => counts.paused += 1,
                Status::Ended => {}
            }
            let (publishers, listeners, leases) = entry.machine.occupancy();
            counts.tracks += entry.machine.tracks().len();
            counts.publishers += publishers;
            counts.listeners += listeners;
            counts.leases += leases;
        }
        counts
    }
}

#[cfg(test)]
mod tests;
