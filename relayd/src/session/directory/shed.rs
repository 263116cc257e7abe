//! Who is let go while the relay has more to do than it can: of all sessions, the newest.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use super::Directory;
use super::shared::Shared;
use crate::overload::{Shed, Shedding};
use crate::session::id::SessionId;
use crate::session::machine::{Candidate, MemberId};
use crate::webrtc::Role;

impl Directory {
    /// Lets the newest listeners go, as many as are asked for and one at least; without a single listener, the newest
    /// speakers of the late media thread: no other lag is less without them. They hear of it, and so does the session's
    /// staff.
    pub fn shed(&self, now: Instant, shedding: Shedding) -> Shed {
        let listeners = self.shared.shed(now, Role::Listener, shedding);
        let speakers = if listeners == 0 { self.shared.shed(now, Role::Publisher, shedding) } else { 0 };
        Shed { listeners, speakers }
    }
}

impl Shared {
    fn shed(&self, now: Instant, role: Role, shedding: Shedding) -> usize {
        let mut state = self.state();
        let ids: Vec<SessionId> = state.ids();
        let mut there: Vec<(usize, Candidate)> = Vec::new();
        for (session, entry) in state.entries().enumerate() {
            there.extend(entry.machine.candidates(role).map(|candidate| (session, candidate)));
        }
        let on_shard = |(_, candidate): &(usize, Candidate)| {
            candidate.shard.is_some() && candidate.shard == shedding.shard
        };
        if role == Role::Publisher || there.iter().any(on_shard) {
            there.retain(on_shard);
        }
        let count = newest(there.len(), shedding.percent);
        there.sort_unstable_by_key(|(_, candidate)| Reverse((candidate.since, candidate.member)));
        let mut of_session: BTreeMap<usize, Vec<MemberId>> = BTreeMap::new();
        for (session, candidate) in &there[..count] {
            of_session.entry(*session).or_default().push(candidate.member);
        }
        for (session, members) in of_session {
            state.change(now, &ids[session], self.feed(), |entry| entry.machine.shed(now, &members));
        }
        self.settle(state);
        count
    }
}

/// How many of so many go.
fn newest(there: usize, percent: usize) -> usize {
    there.saturating_mul(percent).div_ceil(100).max(1).min(there)
}
