//! Those who are let go because the relay has more to do than it can.

use std::time::Instant;

use relay_engine::ListenerId;

use super::places::Part;
use super::{Machine, MemberId};
use crate::session::event::Event;
use crate::webrtc::{CloseReason, Role};

/// Somebody who may be let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) struct Candidate {
    /// When they came.
    pub since: Instant,
    pub member: MemberId,
    /// The media thread that they are on: of a listener, once there is a connection; of a publisher, the track's home.
    pub shard: Option<u8>,
}

impl Machine {
    /// Everybody with a place and a connection who does this here.
    pub(in crate::session) fn candidates(&self, role: Role) -> impl Iterator<Item = Candidate> {
        let part = match role {
            Role::Publisher => Part::Publisher,
            Role::Listener => Part::Listener,
        };
        let there = self.members.iter().filter(move |(_, member)| {
            let connecting = member.live().any(|link| link.resource.is_some());
            member.seated && member.part == part && connecting
        });
        there.map(move |(id, member)| {
            let shard = match part {
                Part::Publisher => Some(member.track.relay()),
                Part::Listener => member.listener.map(ListenerId::relay),
            };
            Candidate { since: member.since, member: *id, shard }
        })
    }

    /// Lets these go; they do not come back by their tickets.
    pub(in crate::session) fn shed(&mut self, now: Instant, members: &[MemberId]) {
        if self.is_over() {
            return;
        }
        let mut counts = vec![0; self.tracks.len()];
        for id in members {
            let Some(member) = self.members.get(id).filter(|member| member.seated) else { continue };
            let index = self.tracks.iter().position(|track| track.id == member.track);
            if let Some(index) = index.filter(|_| member.part == Part::Listener) {
                counts[index] += 1;
            }
            self.dismiss(now, *id, CloseReason::Overloaded);
        }
        for (index, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let language = self.tracks[index].language.clone();
            self.tell_staff(Event::ListenersShed { language, count });
        }
    }
}
