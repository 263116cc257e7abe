//! Places in a session: given, taken away, given back.

use std::time::{Duration, Instant};

use relay_engine::{LegId, TrackId};

use super::lease::{LeaseId, Term};
use super::track::Track;
use super::{HolderId, Machine, Output};
use crate::session::event::Event;
use crate::session::status::Status;
use crate::webrtc::{CloseReason, ResourceId};

/// What somebody does in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Publisher,
    Listener,
}

/// Somebody with a place on a track, or who had one.
#[derive(Debug)]
pub(super) struct Member {
    pub part: Part,
    pub track: TrackId,
    pub connected: bool,
    /// Took the place from somebody else.
    pub claimed: bool,
    /// Why they lost the place.
    pub dismissed: Option<CloseReason>,
    pub resource: Option<ResourceId>,
    pub leg: Option<LegId>,
    pub lease: Option<LeaseId>,
}

impl Member {
    pub(super) fn new(part: Part, track: &Track) -> Self {
        Self {
            part,
            track: track.id,
            connected: false,
            claimed: false,
            dismissed: None,
            resource: None,
            leg: None,
            lease: None,
        }
    }
}

impl Machine {
    pub(super) fn next_holder(&mut self) -> HolderId {
        self.serial += 1;
        HolderId(self.serial)
    }

    pub(super) fn admit(&mut self, term: Option<Term>, member: Member) -> HolderId {
        let holder = self.next_holder();
        let lease = term.map(|term| self.leases.take(holder, term));
        self.members.insert(holder, Member { lease, ..member });
        holder
    }

    /// Takes a holder's place away; they are remembered until they are gone.
    pub(super) fn dismiss(&mut self, now: Instant, holder: HolderId, reason: CloseReason) {
        self.vacate(now, holder);
        let Some(member) = self.members.get_mut(&holder) else { return };
        member.dismissed = Some(reason);
        if let Some(resource) = member.resource {
            self.outputs.push_back(Output::CloseLeg { resource, reason });
        }
    }

    /// A lease is over: this holder of it goes.
    pub(super) fn lapse(&mut self, now: Instant, holder: HolderId) {
        if self.followers.remove(&holder).is_some() {
            self.outputs.push_back(Output::Lapsed(holder));
        } else {
            self.dismiss(now, holder, CloseReason::TokenExpired);
        }
    }

    /// The one place where a publisher's or listener's place becomes free.
    pub(super) fn vacate(&mut self, now: Instant, holder: HolderId) {
        let over = self.is_over();
        let Some(member) = self.members.get_mut(&holder).filter(|member| member.dismissed.is_none()) else {
            return;
        };
        if over {
            return;
        }
        let (part, track, connected) = (member.part, member.track, member.connected);
        if let Some(lease) = member.lease.take() {
            self.leases.release(lease, holder);
        }
        let index = self.tracks.iter().position(|known| known.id == track);
        match part {
            Part::Publisher => {
                if let Some(index) = index {
                    self.publisher_left(now, index, connected);
                }
            }
            Part::Listener => {
                self.listeners -= 1;
                if let Some(index) = index.filter(|_| connected) {
                    let track = &mut self.tracks[index];
                    track.listeners -= 1;
                    let (language, listeners) = (track.language.clone(), track.listeners);
                    self.tell_staff(Event::ListenerLeft { language, listeners });
                }
            }
        }
        if self.listeners == 0 && self.tracks.iter().all(|track| track.publisher.is_none()) {
            self.empty_since = Some(now);
        }
    }

    fn publisher_left(&mut self, now: Instant, index: usize, connected: bool) {
        let track = &mut self.tracks[index];
        // Who was told of the one hears of the other.
        let seen = connected || track.ready;
        (track.publisher, track.connected, track.ready) = (None, false, false);
        let language = track.language.clone();
        if index == 0 {
            self.speaker_away = Some(now);
        }
        if seen {
            let ends_after = match self.status() {
                _ if index > 0 || self.rules.permanent => Duration::ZERO,
                Status::Active => self.rules.linger,
                Status::Paused => self.rules.idle_timeout,
                Status::Created | Status::Ended => Duration::ZERO,
            };
            self.tell(Event::SpeakerLeft { language, linger_seconds: ends_after.as_secs() });
        }
    }
}
