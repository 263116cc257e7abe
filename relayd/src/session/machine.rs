//! The state of one session, pure: no clock, no lock, no channel.
//!
//! Methods are of four kinds. Commands (bare verbs) are what somebody wants and may be refused; `handle_*` is what
//! the world did and never fails; `poll_output` and `poll_timeout` say what must happen next; nouns are getters.
//! After any input the outputs are drained to `None`.
//!
//! Whoever is in the session is a member with one place and one connection, or two while the second one takes over
//! (`replace.rs`); each connection goes by a [`HolderId`] that is never given again. A member who lost their
//! place (another speaker took over, the track was removed, the token expired) is *dismissed*: nothing that comes
//! from them changes anything any more, they are only remembered until they are gone, so that their connection can
//! be closed when its name becomes known.
//!
//! Invariants: one status, asked by everything; each place is given back exactly once; nothing is put out after the
//! end. Bounds: `max_languages` tracks, `max_listeners` listeners, one publisher per track, twice `max_listeners`
//! followers; the dismissed are bounded by the connections there may be.

mod connections;
mod lease;
mod places;
mod remake;
mod replace;
mod shed;
mod track;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use relay_engine::{LegId, ListenerId, TrackId};

use super::directory::Report;
use super::error::SessionError;
use super::event::{Audience, EndReason, Event, LossScope};
use super::id::SessionId;
use super::language::Language;
use super::refresh::{Cause, RefreshRules};
use super::status::{Lifecycle, Status, Transition};
use super::view::SessionView;
use crate::auth::{SessionAccess, Subject};
use crate::webrtc::{CloseReason, ResourceId};
pub(super) use lease::Term;
use lease::{Due, LeaseId, Leases};
use places::{Member, Part};
pub(super) use shed::Candidate;
use track::{Lost, Track};

/// The state of one session.
#[derive(Debug)]
pub(super) struct Machine {
    id: SessionId,
    rules: Rules,
    lifecycle: Lifecycle,
    source: Language,
    /// The source language first.
    tracks: Vec<Track>,
    /// Publishers and listeners, and the dismissed among them.
    members: BTreeMap<MemberId, Member>,
    /// Whose the names of connections are, and what holders are called.
    names: BTreeMap<ResourceId, MemberId>,
    /// When refreshes want to be asked; one entry per member at most.
    timers: BTreeSet<(Instant, MemberId)>,
    /// Those who follow the events with a token.
    followers: BTreeMap<HolderId, LeaseId>,
    /// Listeners' places taken, connected or not.
    listeners: usize,
    leases: Leases,
    /// Since when no publisher's or listener's place is taken.
    empty_since: Option<Instant>,
    /// Since when the source publisher's place is not taken.
    speaker_away: Option<Instant>,
    serial: u64,
    outputs: VecDeque<Output>,
}

/// Commands.
impl Machine {
    /// A session with one track per language, the source first.
    pub(super) fn new(now: Instant, id: SessionId, rules: Rules, tracks: Vec<(Language, TrackId)>) -> Self {
        let languages: Vec<Language> = tracks.iter().map(|(language, _)| language.clone()).collect();
        let source = languages.first().expect("a session has a source language").clone();
        let created = Event::SessionCreated { source_language: source.clone(), languages };
        Self {
            id,
            lifecycle: Lifecycle::new(now),
            source,
            tracks: tracks.into_iter().map(|(language, id)| Track::new(language, id)).collect(),
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            timers: BTreeSet::new(),
            followers: BTreeMap::new(),
            listeners: 0,
            leases: Leases::new(rules.warn_before, rules.grace, rules.refresh.refresh_before),
            empty_since: Some(now),
            speaker_away: Some(now),
            serial: 0,
            outputs: VecDeque::from([Output::Publish(Audience::Everyone, created)]),
            rules,
        }
    }

    /// Takes the one place of a track's publisher. With a claim that was verified, also from somebody else, but not
    /// from somebody who is just taking it over: of two who claim at once, one wins.
    pub(super) fn take_publisher(
        &mut self,
        now: Instant,
        language: Option<&str>,
        term: Option<Term>,
        claim: bool,
    ) -> Result<Seat, SessionError> {
        self.check_live()?;
        let index = self.index(language)?;
        let mut displaced = None;
        if let Some(holder) = self.tracks[index].publisher {
            let member = &self.members[&holder];
            let settled = member.connected || !member.claimed;
            if !(claim && settled && !self.rules.permanent) {
                return Err(self.speaker_exists(index));
            }
            displaced = member.live().find_map(|link| link.resource);
            self.dismiss(now, holder, CloseReason::TakenOver);
        }
        self.tracks[index].epoch += 1;
        let epoch = self.tracks[index].epoch;
        let holder = self.admit(now, (index, Part::Publisher), term, (claim, epoch));
        self.tracks[index].publisher = Some(holder.member);
        if index == 0 {
            self.speaker_away = None;
        }
        self.empty_since = None;
        Ok(Seat { holder, track: self.tracks[index].id, displaced, epoch, second: false, listener: None })
    }

    /// Takes the place of one more listener of a track.
    pub(super) fn take_listener(
        &mut self,
        now: Instant,
        language: Option<&str>,
        term: Option<Term>,
    ) -> Result<Seat, SessionError> {
        self.check_live()?;
        let index = self.index(language)?;
        let max = self.rules.max_listeners;
        if self.listeners >= max {
            return Err(SessionError::ListenersFull { id: self.id.clone(), max });
        }
        let holder = self.admit(now, (index, Part::Listener), term, (false, 0));
        self.listeners += 1;
        self.empty_since = None;
        let track = self.tracks[index].id;
        Ok(Seat { holder, track, displaced: None, epoch: 0, second: false, listener: None })
    }

    /// Takes the place of one more who follows the events on a token. It keeps no session alive.
    pub(super) fn follow(&mut self, now: Instant, term: Term) -> Result<HolderId, SessionError> {
        self.check_live()?;
        let max = self.rules.max_listeners.saturating_mul(2);
        if self.followers.len() >= max {
            return Err(SessionError::FollowersFull { id: self.id.clone(), max });
        }
        let holder = self.next_holder();
        let lease = self.leases.take(now, holder, term);
        self.followers.insert(holder, lease);
        Ok(holder)
    }

    /// Begins a break.
    pub(super) fn pause(&mut self, now: Instant) -> Result<(), SessionError> {
        self.step(now, Transition::Pause, Status::Active)?;
        self.pause_tracks(true);
        self.tell(Event::SessionPaused {});
        Ok(())
    }

    /// Ends a break.
    pub(super) fn resume(&mut self, now: Instant) -> Result<(), SessionError> {
        self.step(now, Transition::Resume, Status::Paused)?;
        self.pause_tracks(false);
        self.tell(Event::SessionResumed {});
        Ok(())
    }

    /// Whether a track of this language may be added.
    pub(super) fn check_new(&self, language: &Language) -> Result<(), SessionError> {
        self.check_live()?;
        let (id, max) = (self.id.clone(), self.rules.max_languages);
        if self.tracks.iter().any(|track| track.language == *language) {
            return Err(SessionError::LanguageExists {
                id,
                language: language.clone(),
                status: self.status(),
            });
        }
        if self.tracks.len() >= max { Err(SessionError::LanguagesFull { id, max }) } else { Ok(()) }
    }

    /// Adds a track.
    pub(super) fn add_track(&mut self, language: Language, track: TrackId) -> Result<(), SessionError> {
        self.check_new(&language)?;
        self.tracks.push(Track::new(language.clone(), track));
        if self.status() == Status::Paused {
            self.outputs.push_back(Output::PauseTrack { track, paused: true });
        }
        self.tell(Event::TrackAdded { language });
        Ok(())
    }

    /// Removes a track and dismisses whoever is in it. The source language stays.
    pub(super) fn remove_track(&mut self, now: Instant, language: &str) -> Result<(), SessionError> {
        self.check_live()?;
        let index = self.index(Some(language))?;
        if index == 0 {
            let (id, language) = (self.id.clone(), self.source.clone());
            return Err(SessionError::SourceLanguage { id, language, status: self.status() });
        }
        self.tell_losses(index, None);
        let track = self.tracks[index].id;
        let here =
            |(id, member): (&MemberId, &Member)| (member.track == track && member.seated).then_some(*id);
        let holders: Vec<MemberId> = self.members.iter().filter_map(here).collect();
        // Out of the list first: the event below says it all, nobody is told of each who leaves.
        let track = self.tracks.remove(index);
        for holder in holders {
            self.dismiss(now, holder, CloseReason::SessionEnded);
        }
        self.outputs.push_back(Output::CloseTrack(track.id));
        self.tell(Event::TrackRemoved { language: track.language });
        Ok(())
    }

    /// Ends the session; `false` when it has ended before.
    pub(super) fn end(&mut self, now: Instant, reason: EndReason) -> bool {
        if !self.lifecycle.handle(now, Transition::End) {
            return false;
        }
        for index in 0..self.tracks.len() {
            self.tell_losses(index, None);
        }
        let closed = self.tracks.iter().map(|track| Output::CloseTrack(track.id));
        self.outputs.extend(closed);
        self.tell(Event::SessionEnded { reason });
        true
    }
}

/// What the world did.
impl Machine {
    /// The first packet of a leg has reached its track. Of interest when it is the publisher's leg of now.
    pub(super) fn handle_first_packet(&mut self, track: TrackId, leg: LegId) {
        let publisher = self.tracks.iter().find(|known| known.id == track).and_then(|track| track.publisher);
        let theirs = |id: &MemberId| {
            let member = self.members.get(id);
            member.is_some_and(|member| member.live().any(|link| link.leg == Some(leg)))
        };
        if let Some(member) = publisher.filter(theirs) {
            self.handle_ready(member);
        }
    }

    /// Something of a publisher has arrived.
    pub(super) fn handle_ready(&mut self, member: MemberId) {
        if self.is_over() {
            return;
        }
        let track = self.tracks.iter_mut().find(|track| track.publisher == Some(member) && !track.ready);
        if let Some(track) = track {
            track.ready = true;
            let language = track.language.clone();
            self.tell(Event::SpeakerReady { language });
        }
    }

    /// A listener of a track did not get `count` positions from `from` on.
    pub(super) fn handle_frames_lost(&mut self, now: Instant, track: TrackId, from: u64, count: u64) {
        if self.is_over() {
            return;
        }
        if let Some(index) = self.tracks.iter().position(|known| known.id == track) {
            self.tracks[index].lost.add(now, from, count);
            self.tell_losses(index, Some(now));
        }
    }

    /// So many positions of a track from `from` on never came.
    pub(super) fn handle_track_lost(&mut self, now: Instant, track: TrackId, from: u64, count: u64) {
        if self.is_over() {
            return;
        }
        if let Some(index) = self.tracks.iter().position(|known| known.id == track) {
            self.tracks[index].missed.add(now, from, count);
            self.tell_losses(index, Some(now));
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        while let Some(due) = self.leases.poll(now) {
            match due {
                Due::Warn { subject, expires } => {
                    let remaining = expires.saturating_duration_since(now);
                    self.outputs.push_back(Output::Warn { subject, expires, remaining });
                }
                Due::Refresh { holders, expires } => {
                    for (position, holder) in (0..).zip(holders) {
                        let at = now + position * Duration::from_millis(1);
                        self.order_one(now, holder.member, Cause::TokenExpiry, at, expires);
                    }
                }
                Due::Over { holders } => holders.into_iter().for_each(|holder| self.lapse(now, holder)),
            }
        }
        self.handle_refresh_timeouts(now);
        for index in 0..self.tracks.len() {
            self.tell_losses(index, Some(now));
        }
        if let Some((at, reason)) = self.end_deadline()
            && at <= now
        {
            self.end(now, reason);
        }
    }
}

/// What must happen next.
impl Machine {
    /// The next thing to do for this session.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When time matters next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let of_track = |track: &Track| track.lost.deadline().into_iter().chain(track.missed.deadline()).min();
        let losses = self.tracks.iter().filter_map(of_track);
        let end = self.end_deadline().map(|(at, _)| at);
        let refresh = self.timers.first().map(|(due, _)| *due);
        losses.chain(end).chain(self.leases.deadline()).chain(refresh).min()
    }
}

/// Getters.
impl Machine {
    pub(super) fn status(&self) -> Status {
        self.lifecycle.status()
    }

    /// When it reached its status.
    pub(super) fn since(&self) -> Instant {
        self.lifecycle.since()
    }

    pub(super) fn tracks(&self) -> impl ExactSizeIterator<Item = TrackId> {
        self.tracks.iter().map(|track| track.id)
    }

    /// The language of a track.
    pub(super) fn language(&self, track: TrackId) -> Option<&Language> {
        self.tracks.iter().find(|known| known.id == track).map(|track| &track.language)
    }

    /// The track of a language, or of the source language.
    pub(super) fn track(&self, language: Option<&str>) -> Result<TrackId, SessionError> {
        Ok(self.tracks[self.index(language)?].id)
    }

    /// What a publisher is told whose connection counts no more, be it gone or not, since somebody else has the place.
    pub(super) fn check_not_taken_over(
        &self,
        holder: HolderId,
        language: Option<&str>,
    ) -> Result<(), SessionError> {
        let index = self.index(language)?;
        let live = self.members.get(&holder.member).and_then(|member| member.rank(holder)).is_some();
        let taken = self.tracks[index].publisher.is_some_and(|publisher| publisher != holder.member);
        if !live && taken { Err(self.speaker_exists(index)) } else { Ok(()) }
    }

    /// Publishers' and listeners' places taken, and leases.
    pub(super) fn occupancy(&self) -> (usize, usize, usize) {
        let publishers = self.tracks.iter().filter(|track| track.publisher.is_some()).count();
        (publishers, self.listeners, self.leases.len())
    }

    pub(super) fn view(&self, access: &SessionAccess, seq: u64) -> SessionView {
        SessionView {
            id: self.id.clone(),
            status: self.status(),
            source: self.source.clone(),
            speaker_connected: self.tracks[0].connected,
            listeners: self.tracks.iter().map(|track| track.listeners).sum(),
            tracks: self.tracks.iter().map(Track::view).collect(),
            anonymous_listeners: access.anonymous_listeners,
            seq,
        }
    }
}

impl Machine {
    fn is_over(&self) -> bool {
        self.status() == Status::Ended
    }

    fn check_live(&self) -> Result<(), SessionError> {
        if self.is_over() { Err(SessionError::Ended { id: self.id.clone() }) } else { Ok(()) }
    }

    fn step(&mut self, now: Instant, step: Transition, wanted: Status) -> Result<(), SessionError> {
        let status = self.status();
        if self.lifecycle.handle(now, step) {
            return Ok(());
        }
        Err(SessionError::WrongStatus { id: self.id.clone(), status, wanted })
    }

    fn index(&self, language: Option<&str>) -> Result<usize, SessionError> {
        let Some(text) = language else { return Ok(0) };
        let wanted: Option<Language> = text.parse().ok();
        let found = wanted.and_then(|wanted| self.tracks.iter().position(|track| track.language == wanted));
        found.ok_or_else(|| SessionError::LanguageNotFound {
            id: self.id.clone(),
            language: text.chars().take(40).collect(),
            known: self.tracks.iter().map(|track| track.language.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn speaker_exists(&self, index: usize) -> SessionError {
        let language = self.tracks[index].language.clone();
        SessionError::SpeakerExists { id: self.id.clone(), language, status: self.status() }
    }

    /// When the session ends if nothing happens, and why.
    fn end_deadline(&self) -> Option<(Instant, EndReason)> {
        if self.rules.permanent {
            return None;
        }
        let away = self.speaker_away.map(|since| since.max(self.since()));
        let away = match self.status() {
            Status::Active => away.map(|since| (since + self.rules.linger, EndReason::LingerExpired)),
            Status::Paused => away.map(|since| (since + self.rules.idle_timeout, EndReason::Idle)),
            Status::Created | Status::Ended => None,
        };
        let idle = self.empty_since.map(|since| (since + self.rules.idle_timeout, EndReason::Idle));
        away.into_iter().chain(idle).min_by_key(|(at, _)| *at)
    }

    fn pause_tracks(&mut self, paused: bool) {
        let tracks = self.tracks.iter().map(|track| Output::PauseTrack { track: track.id, paused });
        self.outputs.extend(tracks);
    }

    /// Tells what was lost on a track: if it is time, or all there is.
    fn tell_losses(&mut self, index: usize, now: Option<Instant>) {
        let track = &mut self.tracks[index];
        for (losses, scope) in
            [(&mut track.missed, LossScope::Track), (&mut track.lost, LossScope::Listeners)]
        {
            let lost = match now {
                Some(now) => losses.poll(now),
                None => losses.take(),
            };
            if let Some(Lost { count, from, to }) = lost {
                let language = track.language.clone();
                let told = Event::FramesLost { language, count, from, to, scope };
                self.outputs.push_back(Output::Publish(Audience::Everyone, told));
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Publish(Audience::Everyone, event));
    }

    fn tell_staff(&mut self, event: Event) {
        self.outputs.push_back(Output::Publish(Audience::Staff, event));
    }
}

/// What bounds a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// Never ends by itself, and nobody takes over in it.
    pub permanent: bool,
    pub max_listeners: usize,
    pub max_languages: usize,
    pub linger: Duration,
    pub idle_timeout: Duration,
    pub warn_before: Duration,
    pub grace: Duration,
    pub refresh: RefreshRules,
    /// Of the pauses between refreshes.
    pub seed: u64,
}

/// Names somebody in a session; never given again in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId(u64);

/// Names a connection of somebody in a session; never given again in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HolderId {
    pub member: MemberId,
    link: u64,
}

#[cfg(test)]
impl HolderId {
    /// Nobody has it.
    pub(super) const NOBODY: Self = Self { member: MemberId(u64::MAX), link: u64::MAX };
}

/// A place was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub holder: HolderId,
    pub track: TrackId,
    /// The connection that had the place before; it is to be closed.
    pub displaced: Option<ResourceId>,
    /// Of a publisher: which ownership of the track this is.
    pub epoch: u64,
    /// Whether it is the second connection of a holder.
    pub second: bool,
    /// Which listener on the media plane the holder is already.
    pub listener: Option<ListenerId>,
}

/// What must happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// Tell those who follow.
    Publish(Audience, Event),
    /// Tell a subject that its connections are about to be closed.
    Warn { subject: Subject, expires: Instant, remaining: Duration },
    /// Tell a holder that their connection goes, or is replaced, at that time.
    WarnLeg { name: ResourceId, cause: Cause, at: Instant },
    /// Tell a holder to come with another connection, until then, and give them a ticket for it.
    Require { holder: HolderId, name: ResourceId, cause: Cause, deadline: Instant },
    /// Nobody is to come with that ticket any more.
    Withdraw(HolderId),
    /// Nor with any other one of this connection.
    Revoke(HolderId),
    /// Nor with one of this connection that nobody has come with yet: another one has its place.
    Retire(HolderId),
    /// Let the leg of a holder's second connection take over.
    Switch { leg: LegId, holder: HolderId },
    /// Something for those who count.
    Report(Report),
    /// Close one connection.
    CloseLeg { resource: ResourceId, reason: CloseReason },
    /// The token of a follower is over.
    Lapsed(HolderId),
    /// Let the media of a track be dropped, or through again.
    PauseTrack { track: TrackId, paused: bool },
    /// Close a track with all of its connections.
    CloseTrack(TrackId),
}

#[cfg(test)]
impl HolderId {
    pub(super) fn test(number: u64) -> Self {
        Self { member: MemberId(number), link: number }
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod pairs;
#[cfg(test)]
pub(super) mod tests;
