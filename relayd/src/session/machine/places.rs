//! Places in a session: given, taken away, given back.

use std::time::{Duration, Instant};

use relay_engine::{LegId, ListenerId, TrackId};

use super::lease::{LeaseId, Term};
use super::{HolderId, Machine, MemberId, Output};
use crate::session::event::Event;
use crate::session::refresh::Refresh;
use crate::session::status::Status;
use crate::webrtc::{CloseReason, ResourceId};

/// What somebody does in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Publisher,
    Listener,
}

/// Somebody with a place on a track, or who had one, and their connections.
#[derive(Debug)]
pub(super) struct Member {
    pub part: Part,
    pub track: TrackId,
    /// When they took the place.
    pub since: Instant,
    /// Whether they have the place.
    pub seated: bool,
    /// Whether a connection of theirs has come up.
    pub connected: bool,
    /// Took the place from somebody else.
    pub claimed: bool,
    /// Counts the owners of a track's publisher's place.
    pub epoch: u64,
    /// What they are called: their first connection's name.
    pub name: Option<ResourceId>,
    pub listener: Option<ListenerId>,
    /// The older first. At most two that were not dismissed; those that were are remembered until they are gone.
    pub links: Vec<Link>,
    pub refresh: Refresh,
    /// When `refresh` wants to be asked, as the timers know it.
    pub due: Option<Instant>,
}

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub number: u64,
    pub connected: bool,
    /// Why it counts no more.
    pub dismissed: Option<CloseReason>,
    pub resource: Option<ResourceId>,
    pub leg: Option<LegId>,
    pub lease: Option<LeaseId>,
}

impl Member {
    /// The connections that count, the older first.
    pub(super) fn live(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.dismissed.is_none())
    }

    pub(super) fn link(&mut self, holder: HolderId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.number == holder.link)
    }

    /// Whether this is the first or the second of those that count.
    pub(super) fn rank(&self, holder: HolderId) -> Option<usize> {
        self.live().position(|link| link.number == holder.link)
    }
}

impl Machine {
    pub(super) fn next_holder(&mut self) -> HolderId {
        self.serial += 1;
        HolderId { member: MemberId(self.serial), link: self.serial }
    }

    /// Takes in somebody new, with their first connection on its way.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        (index, part): (usize, Part),
        term: Option<Term>,
        (claimed, epoch): (bool, u64),
    ) -> HolderId {
        let holder = self.next_holder();
        let lease = term.map(|term| self.leases.take(now, holder, term));
        let member = Member {
            part,
            track: self.tracks[index].id,
            since: now,
            seated: true,
            connected: false,
            claimed,
            epoch,
            name: None,
            listener: None,
            links: vec![Link { number: holder.link, lease, ..Link::default() }],
            refresh: Refresh::new(self.rules.refresh, self.rules.seed ^ holder.link),
            due: None,
        };
        self.members.insert(holder.member, member);
        holder
    }

    /// Takes a holder's place away, with all of their connections; they are remembered until they are gone.
    pub(super) fn dismiss(&mut self, now: Instant, id: MemberId, reason: CloseReason) {
        self.vacate(now, id);
        let Some(member) = self.members.get_mut(&id) else { return };
        for link in member.links.iter_mut().filter(|link| link.dismissed.is_none()) {
            link.dismissed = Some(reason);
            if let Some(resource) = link.resource {
                self.outputs.push_back(Output::CloseLeg { resource, reason });
            }
            let for_good = matches!(
                reason,
                CloseReason::TakenOver
                    | CloseReason::SessionEnded
                    | CloseReason::Overloaded
                    | CloseReason::MediaFailed
            );
            if for_good {
                self.outputs.push_back(Output::Revoke(HolderId { member: id, link: link.number }));
            }
        }
    }

    /// One of a holder's connections counts no more.
    pub(super) fn dismiss_link(&mut self, holder: HolderId, reason: CloseReason) {
        let Some(member) = self.members.get_mut(&holder.member) else { return };
        let Some(link) = member.link(holder).filter(|link| link.dismissed.is_none()) else { return };
        link.dismissed = Some(reason);
        let (lease, resource) = (link.lease.take(), link.resource);
        if let Some(lease) = lease {
            self.leases.release(lease, holder);
        }
        if let Some(resource) = resource {
            self.outputs.push_back(Output::CloseLeg { resource, reason });
        }
        match reason {
            CloseReason::Refreshed => self.outputs.push_back(Output::Retire(holder)),
            // Its client may resume.
            CloseReason::MaxAge | CloseReason::JoinTimeout => {}
            _ => self.outputs.push_back(Output::Revoke(holder)),
        }
    }

    /// A lease is over: this holder of it goes. Their other connection stays, if it does not live on this lease.
    pub(super) fn lapse(&mut self, now: Instant, holder: HolderId) {
        if self.followers.remove(&holder).is_some() {
            self.outputs.push_back(Output::Lapsed(holder));
            return;
        }
        let Some(member) = self.members.get_mut(&holder.member) else { return };
        let stays = |link: &Link| {
            link.number != holder.link && link.lease.is_none_or(|lease| self.leases.contains(lease))
        };
        if !member.live().any(stays) {
            return self.dismiss(now, holder.member, CloseReason::TokenExpired);
        }
        match member.rank(holder) {
            Some(0) => member.refresh.handle_old_gone(now),
            Some(_) => member.refresh.handle_failed(now),
            None => return,
        }
        self.dismiss_link(holder, CloseReason::TokenExpired);
        self.settle_refresh(now, holder.member);
    }

    /// The one place where a publisher's or listener's place becomes free.
    pub(super) fn vacate(&mut self, now: Instant, id: MemberId) {
        let over = self.is_over();
        let Some(member) = self.members.get_mut(&id).filter(|member| member.seated) else { return };
        if over {
            return;
        }
        member.seated = false;
        if let Some(due) = member.due.take() {
            self.timers.remove(&(due, id));
        }
        for link in &mut member.links {
            if let Some(lease) = link.lease.take() {
                self.leases.release(lease, HolderId { member: id, link: link.number });
            }
        }
        let (part, track, connected) = (member.part, member.track, member.connected);
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
