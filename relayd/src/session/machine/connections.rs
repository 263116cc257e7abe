//! The life of connections, as the other planes tell it: accepted, answered, up, gone.

use std::time::Instant;

use relay_engine::{LegId, ListenerId};

use super::places::Part;
use super::{HolderId, Machine, MemberId, Output};
use crate::session::event::Event;
use crate::session::status::Transition;
use crate::webrtc::{CloseReason, ResourceId};

/// What the world did.
impl Machine {
    /// A holder's connection was accepted: by this name it can be closed. After the end that is the owner's to do.
    ///
    /// # Errors
    /// Why a holder lost their place before: it is closed, and had better not open a leg.
    pub(in crate::session) fn handle_accepted(
        &mut self,
        holder: HolderId,
        resource: ResourceId,
    ) -> Result<(), CloseReason> {
        if self.is_over() {
            return Err(CloseReason::SessionEnded);
        }
        let Some(member) = self.members.get_mut(&holder.member) else { return Ok(()) };
        let Some(link) = member.link(holder) else { return Ok(()) };
        link.resource = Some(resource);
        if let Some(reason) = link.dismissed {
            self.outputs.push_back(Output::CloseLeg { resource, reason });
            return Err(reason);
        }
        let name = *member.name.get_or_insert(resource);
        self.names.extend([(resource, holder.member), (name, holder.member)]);
        Ok(())
    }

    /// A holder's connection has this leg on the media plane, and is this listener there; `false` if it is gone by now
    /// or counts no more, and is never to come back.
    pub(in crate::session) fn handle_leg(
        &mut self,
        holder: HolderId,
        leg: LegId,
        listener: Option<ListenerId>,
    ) -> bool {
        let Some(member) = self.members.get_mut(&holder.member) else { return false };
        let Some(link) = member.link(holder).filter(|link| link.dismissed.is_none()) else { return false };
        link.leg = Some(leg);
        member.listener = listener.or(member.listener);
        true
    }

    /// A holder's connection is up.
    pub(in crate::session) fn handle_connected(&mut self, now: Instant, holder: HolderId) {
        let over = self.is_over();
        let Some(member) = self.members.get_mut(&holder.member).filter(|_| !over) else { return };
        let Some(rank) = member.rank(holder).filter(|_| member.seated) else { return };
        let already = member.link(holder).is_some_and(|link| std::mem::replace(&mut link.connected, true));
        if already {
            return;
        }
        if rank == 0 {
            member.refresh.handle_up(now);
        } else {
            member.refresh.handle_connected(now);
        }
        let first = !std::mem::replace(&mut member.connected, true);
        if first {
            self.member_connected(now, holder.member);
        }
        self.settle_refresh(now, holder.member);
    }

    /// The first connection of a member is up.
    fn member_connected(&mut self, now: Instant, id: MemberId) {
        let Some(member) = self.members.get(&id) else { return };
        let (part, track) = (member.part, member.track);
        let Some(index) = self.tracks.iter().position(|known| known.id == track) else { return };
        let track = &mut self.tracks[index];
        match part {
            Part::Publisher => {
                track.connected = true;
                if index == 0 {
                    self.lifecycle.handle(now, Transition::SpeakerConnected);
                }
            }
            Part::Listener => {
                track.listeners += 1;
                let (language, listeners) = (track.language.clone(), track.listeners);
                self.tell_staff(Event::ListenerJoined { language, listeners });
            }
        }
    }

    /// A connection is gone, however it ended. Said once of each; what is left of a dismissed one is forgotten.
    pub(in crate::session) fn handle_gone(&mut self, now: Instant, holder: HolderId) {
        if let Some(lease) = self.followers.remove(&holder) {
            self.leases.release(lease, holder);
            return;
        }
        let Some(member) = self.members.get_mut(&holder.member) else { return };
        let rank = member.rank(holder).filter(|_| member.seated);
        let Some(index) = member.links.iter().position(|link| link.number == holder.link) else { return };
        let link = member.links.remove(index);
        let left = member.live().count();
        match rank {
            Some(0) => member.refresh.handle_old_gone(now),
            Some(_) => member.refresh.handle_failed(now),
            None => {}
        }
        self.settle_refresh(now, holder.member);
        if let Some(lease) = link.lease {
            self.leases.release(lease, holder);
        }
        if left == 0 {
            self.vacate(now, holder.member);
        }
        self.forget(holder.member, link.resource);
    }

    /// A connection has gone: its name is no more, and with the last one, neither is its member.
    fn forget(&mut self, id: MemberId, resource: Option<ResourceId>) {
        let Some(member) = self.members.get(&id) else { return };
        let (over, name) = (member.links.is_empty(), member.name);
        for gone in
            resource.filter(|gone| over || Some(*gone) != name).into_iter().chain(name.filter(|_| over))
        {
            // A later member may have the name by now.
            if self.names.get(&gone) == Some(&id) {
                self.names.remove(&gone);
            }
        }
        if over {
            self.members.remove(&id);
        }
    }
}
