//! Connections that replace one another: the second one of a holder, and the refreshes that ask for it.

use std::time::{Duration, Instant};

use relay_engine::LegId;

use super::lease::Term;
use super::places::{Link, Part};
use super::{HolderId, Machine, MemberId, Output, Seat};
use crate::session::directory::{LegView, RefreshTarget, Report};
use crate::session::error::SessionError;
use crate::session::event::{Audience, Event};
use crate::session::refresh::{self, Cause, Outcome, Spent};
use crate::session::status::Status;
use crate::webrtc::{CloseReason, ResourceId, Role};

/// Commands.
impl Machine {
    /// A second connection for a holder, beside the one that they have; one that was second before is dismissed.
    /// `None` when the holder has no place.
    pub(in crate::session) fn take_second(
        &mut self,
        now: Instant,
        member: MemberId,
        term: Option<Term>,
    ) -> Option<Seat> {
        let known = self.members.get(&member).filter(|known| known.seated && !self.is_over())?;
        let second = known.live().nth(1).map(|link| HolderId { member, link: link.number });
        let displaced = known.live().nth(1).and_then(|link| link.resource);
        let (track, epoch, listener) = (known.track, known.epoch, known.listener);
        if let Some(second) = second {
            self.dismiss_link(second, CloseReason::Refreshed);
        }
        let holder = HolderId { link: self.next_holder().link, member };
        let lease = term.map(|term| self.leases.take(now, holder, term));
        let known = self.members.get_mut(&member)?;
        known.links.push(Link { number: holder.link, lease, ..Link::default() });
        known.refresh.handle_joined(now);
        self.settle_refresh(now, member);
        Some(Seat { holder, track, displaced, epoch, second: true, listener })
    }

    /// Gives up a connection of which its client does not know, for the next one that comes with the same ticket. Tells
    /// its name if it was the only one; beside another one it gives way to whoever comes second.
    pub(in crate::session) fn supersede(&mut self, now: Instant, holder: HolderId) -> Option<ResourceId> {
        let member = self.members.get(&holder.member).filter(|member| member.seated)?;
        member.rank(holder).filter(|_| member.live().count() == 1)?;
        let resource = member.live().find_map(|link| link.resource);
        self.dismiss(now, holder.member, CloseReason::Refreshed);
        resource
    }

    /// Orders the connected holders that `target` means to be refreshed, one after the other; how many there are.
    pub(in crate::session) fn order_refresh(
        &mut self,
        now: Instant,
        cause: Cause,
        target: &RefreshTarget,
    ) -> Result<usize, SessionError> {
        self.check_live()?;
        let track = target.language.as_deref().map(|tag| self.track(Some(tag))).transpose()?;
        let part = target.role.map(|role| match role {
            Role::Publisher => Part::Publisher,
            Role::Listener => Part::Listener,
        });
        let meant: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| member.seated && member.connected && member.name.is_some())
            .filter(|(_, member)| track.is_none_or(|track| track == member.track))
            .filter(|(_, member)| part.is_none_or(|part| part == member.part))
            .filter(|(_, member)| {
                target.leg.is_none_or(|leg| member.live().any(|link| link.resource == Some(leg)))
            })
            .map(|(id, _)| *id)
            .collect();
        let deadline = now + self.rules.refresh.deadline;
        for (position, member) in (0..).zip(&meant) {
            self.order_one(now, *member, cause, now + position * SPREAD, deadline + position * SPREAD);
        }
        Ok(meant.len())
    }

    /// A holder who came with the ticket of an earlier connection is called as they were.
    pub(in crate::session) fn rename(&mut self, holder: HolderId, name: ResourceId) {
        if let Some(member) = self.members.get_mut(&holder.member) {
            member.name = Some(name);
        }
    }

    pub(super) fn order_one(
        &mut self,
        now: Instant,
        id: MemberId,
        cause: Cause,
        at: Instant,
        deadline: Instant,
    ) {
        let member = self.members.get_mut(&id);
        if let Some(member) = member.filter(|member| member.seated && member.name.is_some()) {
            member.refresh.order(now, cause, at, deadline);
            self.settle_refresh(now, id);
        }
    }
}

/// What the world did.
impl Machine {
    /// The leg of a holder's second connection, `to`, has taken over from the first one.
    pub(in crate::session) fn handle_spent(&mut self, now: Instant, holder: HolderId, spent: Spent) {
        let member = self.members.get_mut(&holder.member).filter(|member| member.seated);
        if let Some(member) = member
            && let Some(rank) = member.rank(holder)
        {
            member.refresh.handle_spent(now, spent, rank == 1);
            self.settle_refresh(now, holder.member);
        }
    }

    /// The media plane was not ready to let a leg take over.
    pub(in crate::session) fn handle_not_switched(&mut self, now: Instant, holder: HolderId) {
        if let Some(member) =
            self.members.get_mut(&holder.member).filter(|member| member.rank(holder) == Some(1))
        {
            member.refresh.handle_not_switched(now);
            self.settle_refresh(now, holder.member);
        }
    }

    pub(super) fn handle_refresh_timeouts(&mut self, now: Instant) {
        while let Some((due, id)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            if let Some(member) = self.members.get_mut(&id) {
                member.due = None;
                member.refresh.handle_timeout(now);
                self.settle_refresh(now, id);
            }
        }
    }

    /// Does what a holder's refresh says is to be done.
    pub(super) fn settle_refresh(&mut self, now: Instant, id: MemberId) {
        while let Some(member) = self.members.get_mut(&id)
            && let Some(output) = member.refresh.poll_output()
        {
            if self.lifecycle.status() == Status::Ended {
                continue;
            }
            let numbers: Vec<u64> = member.live().map(|link| link.number).collect();
            let holder = |index: usize| numbers.get(index).map(|link| HolderId { member: id, link: *link });
            let (name, second) = (member.name, member.live().nth(1).and_then(|link| link.leg));
            match (output, name) {
                (refresh::Output::Warn { cause, at }, Some(name)) => {
                    self.outputs.push_back(Output::WarnLeg { name, cause, at });
                }
                (refresh::Output::Require { cause, deadline }, Some(name)) => {
                    if let Some(holder) = holder(0) {
                        self.outputs.push_back(Output::Require { holder, name, cause, deadline });
                    }
                }
                (refresh::Output::Switch, _) => match (second, holder(1)) {
                    (Some(leg), Some(holder)) => self.outputs.push_back(Output::Switch { leg, holder }),
                    _ => member.refresh.handle_not_switched(now),
                },
                (refresh::Output::Complete { spent, attempts }, Some(name)) => {
                    let Spent { position, replayed, gap_frames } = spent;
                    let told = Event::ConnectionRefreshComplete { position, replayed, gap_frames, attempts };
                    self.outputs.push_back(Output::Publish(Audience::Leg(name), told));
                    self.outputs.push_back(Output::Report(Report::Spent { replayed, gap_frames }));
                }
                (refresh::Output::CloseOld, _) => {
                    if let Some(holder) = holder(0).filter(|_| numbers.len() > 1) {
                        self.dismiss_link(holder, CloseReason::Refreshed);
                    }
                }
                (refresh::Output::CloseNew, _) => {
                    if let Some(holder) = holder(1) {
                        self.dismiss_link(holder, CloseReason::JoinTimeout);
                    }
                }
                (refresh::Output::TooOld, _) => match holder(0).filter(|_| numbers.len() > 1) {
                    Some(holder) => {
                        member.refresh.handle_old_gone(now);
                        self.dismiss_link(holder, CloseReason::MaxAge);
                    }
                    None => self.dismiss(now, id, CloseReason::MaxAge),
                },
                (refresh::Output::Over { cause, outcome, took }, _) => {
                    self.outputs.push_back(Output::Report(Report::Refresh { cause, outcome, took }));
                    if let Some(first) = holder(0).filter(|_| outcome == Outcome::GaveUp) {
                        self.outputs.push_back(Output::Withdraw(first));
                    }
                }
                (refresh::Output::Warn { .. } | refresh::Output::Require { .. }, None)
                | (refresh::Output::Complete { .. }, None) => {}
            }
        }
        self.set_timer(id);
    }

    fn set_timer(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let due = member.refresh.poll_timeout().filter(|_| member.seated);
        if due == member.due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut member.due, due) {
            self.timers.remove(&(before, id));
        }
        self.timers.extend(due.map(|due| (due, id)));
    }
}

/// Getters.
impl Machine {
    /// Whether a holder has a place.
    pub(in crate::session) fn has(&self, member: MemberId) -> bool {
        self.members.get(&member).is_some_and(|member| member.seated)
    }

    /// The connection that was there before this one of the same holder, and counts.
    pub(in crate::session) fn first_beside(&self, holder: HolderId) -> Option<HolderId> {
        let member = self.members.get(&holder.member).filter(|member| member.seated)?;
        let first = member.live().next().filter(|first| first.number < holder.link)?;
        Some(HolderId { link: first.number, ..holder })
    }

    /// What a holder is called.
    pub(in crate::session) fn name(&self, holder: HolderId) -> Option<ResourceId> {
        self.members.get(&holder.member).and_then(|member| member.name)
    }

    /// The leg of a connection on the media plane.
    pub(in crate::session) fn leg_of(&self, holder: HolderId) -> Option<LegId> {
        let member = self.members.get(&holder.member)?;
        member.links.iter().find(|link| link.number == holder.link).and_then(|link| link.leg)
    }

    /// The legs of all connections.
    pub(in crate::session) fn legs(&self) -> impl Iterator<Item = LegId> {
        self.members.values().flat_map(|member| member.links.iter().filter_map(|link| link.leg))
    }

    /// The holder of a leg of this name, or who is called so.
    pub(in crate::session) fn leg(&self, resource: &ResourceId) -> Option<LegView> {
        let named = self.names.get(resource).and_then(|id| self.members.get(id));
        let member = named.filter(|member| member.seated)?;
        let track = self.tracks.iter().find(|track| track.id == member.track)?;
        let role = match member.part {
            Part::Publisher => Role::Publisher,
            Part::Listener => Role::Listener,
        };
        Some(LegView {
            holder: member.name?,
            role,
            subject: None,
            language: track.language.clone(),
            track: track.id,
            listener: member.listener,
            legs: member.live().filter_map(|link| Some((link.resource?, link.leg))).collect(),
        })
    }
}

/// Between the moments at which the many holders that one order means are told: a thousand a second.
const SPREAD: Duration = Duration::from_millis(1);
