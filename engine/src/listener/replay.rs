//! The way by position: what a leg is handed when arrivals cannot just pass through.
//!
//! | state of the leg that is sent on | arrivals | leaves it |
//! |---|---|---|
//! | Waiting: never up | are not for it | up: to Live at the live edge, or to CatchUp from `resume_from` |
//! | CatchUp: goes through the history by position, at the pace; hands out again what is unacknowledged or [unsure](super::ledger) | below the cursor: handed out at once; others wait for it | nothing is left: to Live; not up: to Held |
//! | Live | pass through at once | not up: to Held; [`replay`](crate::Relay::replay): to CatchUp |
//! | Live, in order of position | at the cursor: at once; above: wait for the hole; below: told as skipped | as above |
//! | Held: was up and is not | are owed, as long as the history has them | up: to CatchUp, or to Live if nothing is owed, unacknowledged or unsure |
//! | Paused | are not for it | resumed: to Live, at the live edge |
//!
//! Unacknowledged is what comes after the last acknowledged position. While none is, it is all that was handed out, if
//! that is at most 50 frames and the history still reaches back to where the listener began: so much may be under way.
//! If it is more, it is nothing: the far end does not acknowledge. What was told as skipped is not handed out again.
//!
//! What arrived for a listener is *settled* once: handed out, or told as skipped. Until then it is owed: by a bit in
//! [`Owed`] if it was offered, by the arrival cursor if not. What is handed out again after that is marked as a replay.
//!
//! Invariant (I1): while a leg catches up, no position below its cursor is owed.

use std::ops::Range;
use std::time::Instant;

use super::ledger::Ledger;
use super::owed::Owed;
use super::pace::Kind;
use super::{Listener, ListenerLeg, Take, View};
use crate::history::History;
use crate::io::{Event, LegState, OnReturn, Order, Reason};
use crate::rtp::opus::Toc;

/// A way through the history by position.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// The next position.
    pub(super) cursor: u64,
    /// Positions to be handed out though they are settled.
    pub(super) resend: Range<u64>,
    pub(super) owed: Owed,
    /// The pace holds; else this is the live edge of a leg in order of position.
    pub(super) paced: bool,
}

/// What a trail comes to next.
pub(super) enum Plan {
    /// The end.
    Done,
    /// This position.
    Hand(u64),
    /// A hole, which is waited for until then.
    Wait(Instant),
}

/// What a due time brought.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Nothing to hand out; the next due time may be another.
    Nothing,
    /// Something to tell.
    Event(Event),
    /// A frame.
    Hand(u64, Take),
}

/// What was found when a leg came up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resumption {
    /// The first position that is not settled.
    pub(super) unsettled: u64,
    /// Frames that are handed out though they are settled.
    pub(super) resent: u64,
}

impl Trail {
    /// What comes next, below `limit`.
    pub(super) fn plan(
        &mut self,
        leg: &ListenerLeg,
        view: &View<'_>,
        limit: u64,
        ledger: Option<&Ledger>,
    ) -> Plan {
        let history = view.history;
        self.cursor = self.cursor.max(history.oldest().unwrap_or(0));
        let unsure = ledger.filter(|_| self.paced && leg.on_return == OnReturn::Replay);
        let unsure = unsure.and_then(|ledger| ledger.first_unsure(self.cursor));
        let next = [self.owed.first_from(self.cursor), self.next_again(history, ledger), unsure];
        let next = next.into_iter().flatten().min();
        let Some(next) = next.filter(|&next| next < limit) else { return Plan::Done };
        if leg.order == Order::Position {
            while self.cursor < next && history.holds(self.cursor) {
                self.cursor += 1;
            }
            // What comes late below what any leg was handed waits for nothing.
            let top = leg.rewrite.next_position().max(ledger.map(Ledger::past_top)).unwrap_or(0);
            let late = if self.owed.contains(next) { next <= top } else { unsure == Some(next) };
            let hole = !late && next > self.cursor && !history.holds(next - 1);
            let behind = history.get(next).filter(|_| hole);
            let until = behind.map(|frame| frame.arrived + view.patience);
            if let Some(until) = until.filter(|&until| until > view.now) {
                return Plan::Wait(until);
            }
        }
        Plan::Hand(next)
    }

    /// The next position that is to be handed out though it is settled, and was not told as skipped.
    fn next_again(&self, history: &History, ledger: Option<&Ledger>) -> Option<u64> {
        let mut from = self.cursor.max(self.resend.start);
        while from < self.resend.end {
            let next = history.next_held(from).filter(|&next| next < self.resend.end)?;
            if !ledger.is_some_and(|ledger| ledger.was_told(next)) {
                return Some(next);
            }
            from = next + 1;
        }
        None
    }

    /// When there is something to do on a leg, if ever.
    pub(super) fn wake(
        &mut self,
        leg: &ListenerLeg,
        view: &View<'_>,
        limit: u64,
        ledger: Option<&Ledger>,
    ) -> Option<Instant> {
        match self.plan(leg, view, limit, ledger) {
            Plan::Done => self.paced.then_some(view.now),
            Plan::Wait(until) => Some(until),
            Plan::Hand(next) => Some(self.due(next, leg, view).unwrap_or(view.now)),
        }
    }

    /// When a position may go out on a leg; `None` for at once.
    pub(super) fn due(&self, position: u64, leg: &ListenerLeg, view: &View<'_>) -> Option<Instant> {
        let due = || leg.pace.due(self.kind(position, leg), view.now, view.pacing);
        (self.paced && !leg.unpaced).then(due).flatten()
    }

    /// What a position is to a leg: handed out on it before, or not.
    pub(super) fn kind(&self, position: u64, leg: &ListenerLeg) -> Kind {
        let before = leg.rewrite.next_position().is_some_and(|next| position < next);
        if before && !self.owed.contains(position) { Kind::Again } else { Kind::Held }
    }
}

impl Listener {
    /// The leg that is sent on is up: decides where it goes on. `sent` is how far it came in a switch before.
    pub(super) fn activate(&mut self, view: &View<'_>, sent: Option<u64>) -> Resumption {
        let oldest = view.history.oldest().unwrap_or(view.next_position);
        let mut trail = self.trail.take().map(|trail| *trail).unwrap_or_default();
        let wanted = self.leg.resume_from.take().map(|from| from.min(view.next_position));
        let unfinished = trail.resend.contains(&trail.cursor).then_some(trail.cursor);
        trail.resend = 0..0;
        // I3: what is owed spans no more than the history.
        if let Some((first, count)) = trail.owed.take_before(oldest) {
            self.skip(first, count);
        }
        if self.joined {
            self.owe_arrivals(&mut trail.owed, view);
            let replays = self.leg.on_return == OnReturn::Replay;
            let again = self.first_unacknowledged(view).filter(|_| replays);
            if let Some(start) = wanted.or(again).into_iter().chain(unfinished.filter(|_| replays)).min() {
                let start = start.max(self.base).max(sent.unwrap_or(0));
                trail.resend = start..view.next_position.max(start);
            }
            if let Some((first, count)) = trail.owed.take_before(oldest) {
                self.skip(first, count);
            }
            if wanted.is_none() && !replays {
                self.give_up_before(&mut trail.owed, u64::MAX, oldest);
            }
        } else {
            // Who asks for a position has those before it.
            self.acked = wanted.and_then(|from| from.checked_sub(1));
            self.join(&mut trail.owed, wanted.unwrap_or(view.next_position), oldest, view);
        }
        self.cursor = view.history.next_arrival();
        let unsettled = trail.owed.first_from(0).unwrap_or(view.next_position);
        let unsure = self.first_unsure(sent.unwrap_or(0), self.leg.on_return, view);
        let resend = Some(trail.resend.start).filter(|_| !trail.resend.is_empty());
        let again = resend.into_iter().chain(unsure).min();
        trail.cursor = again.map_or(unsettled, |again| again.min(unsettled));
        if self.leg.order == Order::Position {
            self.keep_order(&mut trail, again, oldest);
        }
        let resent = self.count_again(&trail, view);
        trail.paced = resent > 0 || !trail.owed.is_empty();
        self.leg.begin_line(trail.cursor.max(oldest), self.base, view.history);
        self.trail = (trail.paced || self.leg.order == Order::Position).then(|| Box::new(trail));
        self.speed_up();
        Resumption { unsettled, resent }
    }

    /// The first time that it is up: owed is all from `start` on.
    fn join(&mut self, owed: &mut Owed, start: u64, oldest: u64, view: &View<'_>) {
        (self.joined, self.base) = (true, start);
        if start < oldest {
            self.skip(start, oldest - start);
        }
        let held = (start.max(oldest)..view.history.end()).filter(|&position| view.history.holds(position));
        held.for_each(|position| owed.insert(position));
    }

    /// A leg in order of position goes back only to repeat: what else is late, is too late.
    fn keep_order(&mut self, trail: &mut Trail, again: Option<u64>, oldest: u64) {
        let next = self.leg.rewrite.next_position().unwrap_or(trail.cursor);
        trail.cursor = again.map_or(next, |again| again.min(next));
        self.give_up_before(&mut trail.owed, trail.cursor, oldest);
    }

    /// How many frames of a way are handed out though they are settled.
    fn count_again(&self, trail: &Trail, view: &View<'_>) -> u64 {
        let mut count = 0;
        let mut from = trail.cursor.max(view.history.oldest().unwrap_or(0));
        while let Some(unsure) = self.first_unsure(from, self.leg.on_return, view) {
            count += u64::from(!trail.resend.contains(&unsure));
            from = unsure + 1;
        }
        let again = trail.resend.start.max(view.history.oldest().unwrap_or(0))..trail.resend.end;
        let again =
            again.filter(|&at| view.history.holds(at) && !trail.owed.contains(at) && !self.was_told(at));
        count + again.count() as u64
    }

    /// Notes what arrived and was not offered; tells what of it is gone.
    fn owe_arrivals(&mut self, owed: &mut Owed, view: &View<'_>) {
        let logged = view.history.first_arrival().max(self.cursor);
        let early = self.take_early(logged, view.history);
        self.before_first += early;
        self.skip(self.next_position(), (logged - self.cursor).saturating_sub(early));
        let mut gone = 0;
        for arrival in logged..view.history.next_arrival() {
            match view.history.position_of(arrival) {
                Some(position) if position < self.base => self.before_first += 1,
                Some(position) if view.history.holds(position) => owed.insert(position),
                _ => gone += 1,
            }
        }
        self.skip(self.next_position(), gone);
    }

    /// Hands out again, from a position or after the last that was acknowledged; returns how many frames.
    pub(crate) fn replay(&mut self, from: Option<u64>, view: &View<'_>) -> u64 {
        from.into_iter().for_each(|from| self.wants_from(from));
        let unsure = self.first_unsure(0, self.leg.on_return, view).filter(|_| from.is_none());
        let Some(from) = from.or_else(|| self.first_unacknowledged(view)) else { return 0 };
        if !self.joined || self.paused {
            return 0;
        }
        if self.leg.state != LegState::Up {
            self.leg.resume_from = Some(from);
            return 0;
        }
        self.slow_down();
        let start = from.max(self.base).max(view.history.oldest().unwrap_or(view.next_position));
        let mut unsettled = self.trail.as_ref().map(|trail| trail.owed.clone()).unwrap_or_default();
        let arrivals = self.cursor.max(view.history.first_arrival())..view.history.next_arrival();
        arrivals.filter_map(|at| view.history.arrival(at)).for_each(|position| unsettled.insert(position));
        let way = Trail { cursor: unsure.map_or(start, |unsure| unsure.min(start)), ..Trail::default() };
        let way = Trail { resend: start..view.history.end().max(start), owed: unsettled, ..way };
        let again = self.count_again(&way, view);
        if again > 0 {
            let trail = self.trail.get_or_insert_with(Box::default);
            let live = !trail.paced && trail.owed.is_empty();
            trail.cursor = if live { way.cursor } else { way.cursor.min(trail.cursor) };
            (trail.resend, trail.paced) = (way.resend, true);
        }
        self.speed_up();
        again
    }

    /// When something is to be done on the leg that is sent on, if ever.
    pub(super) fn wake_live(&mut self, view: &View<'_>) -> Option<Instant> {
        if !self.leg.is_up() || self.paused {
            return None;
        }
        if self.untold.is_some() && self.expected == super::NEVER {
            return Some(view.now);
        }
        let leg = &self.leg;
        let repair = leg.repair.as_ref().is_some_and(|repair| repair.first().is_some());
        let repair = repair.then(|| leg.pace.due(Kind::Held, view.now, view.pacing).unwrap_or(view.now));
        let ledger = self.ledger.as_deref();
        let trail = self.trail.as_mut().and_then(|trail| trail.wake(leg, view, u64::MAX, ledger));
        repair.into_iter().chain(trail).chain(self.tail_due()).min()
    }

    /// Does what is due on the leg that is sent on.
    pub(super) fn turn_live(&mut self, view: &View<'_>) -> Turn {
        if !self.leg.is_up() || self.paused {
            return Turn::Nothing;
        }
        self.settle_gone(view);
        if let Some(event) = self.tell() {
            return Turn::Event(event);
        }
        self.probe_tail(view);
        if let Some((position, take)) = self.repair_live(view) {
            return Turn::Hand(position, take);
        }
        while let Some(trail) = &mut self.trail {
            let order = self.leg.order;
            let next = match trail.plan(&self.leg, view, u64::MAX, self.ledger.as_deref()) {
                Plan::Done if order == Order::Arrival => {
                    self.trail = None;
                    self.speed_up();
                    break;
                }
                Plan::Done => {
                    (trail.paced, trail.resend) = (false, 0..0);
                    break;
                }
                Plan::Wait(_) => break,
                Plan::Hand(next) => next,
            };
            if trail.due(next, &self.leg, view).is_some() {
                break;
            }
            // What waited for a hole at the live edge owes the pace nothing.
            let kind = Some(trail.kind(next, &self.leg)).filter(|_| trail.paced);
            let replay = !trail.owed.take(next);
            trail.cursor = next + 1;
            if let Some(take) = self.hand(next, (kind, replay), view) {
                return Turn::Hand(next, take);
            }
        }
        Turn::Nothing
    }

    /// Hands out a frame of the history on the leg that is sent on, if its numbers reach it.
    fn hand(&mut self, position: u64, (kind, replay): (Option<Kind>, bool), view: &View<'_>) -> Option<Take> {
        let frame = view.history.get(position)?;
        self.cross(&frame);
        let oldest = view.history.oldest().unwrap_or(0);
        if !replay {
            self.note_late(position, oldest);
        }
        let Some(index) = self.leg.rewrite.index(position) else {
            if !replay {
                self.give_up(position, oldest);
            }
            return None;
        };
        if let Some(kind) = kind {
            self.leg.pace.spend(kind, view.now, duration(frame.payload), view.pacing);
        }
        self.replayed += u64::from(replay);
        let schedule_report = self.leg.count(frame.payload.len());
        Some(Take { index, replay, schedule_report, ..Take::default() })
    }

    /// What was asked for and may be sent again now.
    fn repair_live(&mut self, view: &View<'_>) -> Option<(u64, Take)> {
        loop {
            let position = self.leg.repair.as_ref()?.first()?;
            if self.leg.pace.due(Kind::Held, view.now, view.pacing).is_some() {
                return None;
            }
            let settled = self.is_settled(position, view);
            let take = settled.then(|| self.hand(position, (Some(Kind::Held), true), view)).flatten();
            let repair = self.leg.repair.as_mut()?;
            if let Some(take) = take {
                repair.sent(view.now);
                return Some((position, take));
            }
            repair.give_up();
        }
    }

    /// It was handed out on the line that the leg is on, is held, and does not come anyway.
    pub(super) fn is_settled(&self, position: u64, view: &View<'_>) -> bool {
        let coming = self.trail.as_ref().is_some_and(|trail| {
            trail.owed.contains(position) || trail.resend.contains(&position) && position >= trail.cursor
        });
        position >= self.base && view.history.holds(position) && !coming && !self.was_told(position)
    }

    /// Tells what the history lost of what is owed.
    pub(super) fn settle_gone(&mut self, view: &View<'_>) {
        let oldest = view.history.oldest().unwrap_or(0);
        let gone = self.trail.as_mut().and_then(|trail| trail.owed.take_before(oldest));
        if let Some((first, count)) = gone {
            self.skip(first, count);
        }
    }

    /// What a due time of the leg that is sent on is for.
    pub(super) fn reason_live(&self) -> Reason {
        let patient =
            self.leg.order == Order::Position && self.trail.as_ref().is_some_and(|trail| !trail.paced);
        if patient { Reason::Hole(self.leg.id) } else { Reason::Replay(self.leg.id) }
    }
}

/// How long a payload plays, ticks.
pub(super) fn duration(payload: &[u8]) -> u64 {
    Toc::parse(payload).map_or(0, |toc| u64::from(toc.duration()))
}
