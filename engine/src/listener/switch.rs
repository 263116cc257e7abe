//! A listener's second leg, and the switch to it.
//!
//! The leg that is sent on stays so until the other has come to where it is: what the old leg is not known to have
//! delivered is handed out on the new one too, marked as a replay. There is the cut: from then on the new leg alone is
//! sent on. No frame is moved, so none can be lost in moving (I2).
//!
//! | second leg | event | then |
//! |---|---|---|
//! | Waiting | [`switch`](crate::Relay::switch), both up | CatchUp, from `resume_from`, else after the last acknowledged position, else, in order of position or if at most 50 frames were handed out, from where its listener began, else at the first unsettled one; before that, what is [unsure](super::ledger) |
//! | Waiting | `switch`, the first not up | the cut, at once: it goes on as the first leg would have on its return |
//! | CatchUp | it reaches the first leg's place | the cut |
//! | CatchUp | the first leg goes down or is closed | the cut, at once |
//! | CatchUp | it goes down | Waiting, the switch stays ordered: it begins anew when it is up |
//! | CatchUp | `switch` to the first leg | Waiting, no switch is ordered |
//! | any but Spent | the listener is or gets paused, or selects a track, and the switch is ordered | the cut, at once: there is nothing to replay |
//! | any but Spent | the first leg is closed | it is the only leg; [`LegSpent`](crate::Event::LegSpent) comes if it is up |
//! | any | it is closed | the first leg goes on alone |
//!
//! At the cut the legs change places, and the second one is Spent: it is handed nothing more.
//!
//! Invariant (I1): before the cut, all that the second leg is handed is settled.

use super::ledger::UNDER_WAY;
use super::pace::Kind;
use super::replay::{Plan, Trail, Turn, duration};
use super::{Listener, ListenerLeg, NEVER, Offer, Take, View};
use crate::id::LegId;
use crate::io::{Event, LegState, OnReturn, Order, SwitchError};

/// A leg beside the one that its listener is sent on.
#[derive(Debug)]
pub(crate) struct Second {
    pub(super) leg: ListenerLeg,
    /// It is to be switched to.
    ordered: bool,
    /// The switch away from it is done.
    pub(super) spent: bool,
    /// Its way to where the first leg is, while it is on it.
    pub(super) trail: Option<Trail>,
    /// Where that way began.
    start: u64,
    replayed: u64,
    /// What its listener had skipped when the switch was ordered.
    skipped_before: u64,
}

/// What closing a leg means for its listener.
#[derive(Debug)]
pub(crate) enum Close {
    /// It was the last that could be sent on.
    Listener,
    /// The other goes on; a switch may have ended with it.
    Leg(Option<Event>),
}

impl Listener {
    /// Gives it a second leg; hands the leg back if there is one.
    pub(crate) fn add(&mut self, leg: ListenerLeg) {
        debug_assert!(self.second.is_none(), "two legs at most");
        leg.resume_from.into_iter().for_each(|from| self.wants_from(from));
        self.second = Some(Box::new(Second {
            leg,
            ordered: false,
            spent: false,
            trail: None,
            start: 0,
            replayed: 0,
            skipped_before: 0,
        }));
    }

    /// Orders the switch to a leg; says if that ended it already.
    pub(crate) fn switch(&mut self, to: LegId, view: &View<'_>) -> Result<Option<Event>, SwitchError> {
        let skipped = self.frames_skipped;
        let first = self.leg.id;
        let Some(second) = self.second.as_mut() else { return Err(SwitchError::OnlyLeg(to)) };
        if to == first {
            second.ordered = false;
            second.trail = None;
            self.speed_up();
            return Ok(None);
        }
        if second.spent {
            return Err(SwitchError::Spent(to));
        }
        if !second.leg.is_up() {
            return Err(SwitchError::NotUp(to));
        }
        if !second.ordered {
            (second.ordered, second.skipped_before) = (true, skipped);
        }
        Ok(self.go_on_switching(view))
    }

    pub(super) fn set_second_state(&mut self, state: LegState, view: &View<'_>) -> Option<Event> {
        let second = self.second.as_mut()?;
        second.leg.state = state;
        if !second.leg.is_up() {
            second.trail = None;
            self.speed_up();
        }
        self.go_on_switching(view)
    }

    /// After anything that may let an ordered switch begin or end; says if it ended.
    pub(super) fn go_on_switching(&mut self, view: &View<'_>) -> Option<Event> {
        let second = self.second.as_ref().filter(|second| second.ordered && second.leg.is_up())?;
        if !self.leg.is_up() || self.paused || !self.joined {
            return Some(self.take_over(view));
        }
        if second.trail.is_none() {
            self.set_out(view);
        }
        None
    }

    /// Sends the second leg on its way to where the first one is.
    fn set_out(&mut self, view: &View<'_>) {
        self.slow_down();
        let reach = self.reach();
        let on_return = self.second.as_ref().map_or(OnReturn::Live, |second| second.leg.on_return);
        let unsure = self.first_unsure(0, on_return, view);
        let soon = self.first_unacknowledged(view).filter(|_| on_return == OnReturn::Replay);
        let missing = self.second.as_ref().and_then(|second| self.missing(&second.leg)).or(soon);
        let Some(second) = self.second.as_mut() else { return };
        let here = reach.min(view.next_position);
        let start = second.leg.resume_from.or(missing).unwrap_or(here).clamp(self.base.min(here), here);
        second.start = start;
        let oldest = view.history.oldest().unwrap_or(start);
        // Its far end may ask for what was under way on the first leg, so its line reaches that.
        let cursor = unsure.map_or(start, |unsure| unsure.min(start));
        let reached = cursor.min(start.saturating_sub(UNDER_WAY)).max(self.base);
        second.leg.begin_line(reached.max(oldest), self.base, view.history);
        second.trail = Some(Trail { cursor, resend: start..u64::MAX, paced: true, ..Trail::default() });
    }

    /// From where on a leg brings again what the other one may not have delivered.
    fn missing(&self, on: &ListenerLeg) -> Option<u64> {
        self.unconfirmed(on).filter(|_| on.on_return == OnReturn::Replay)
    }

    /// The position before which all that is held is settled.
    fn reach(&self) -> u64 {
        self.trail.as_ref().map_or(u64::MAX, |trail| trail.cursor)
    }

    /// A late arrival from before the second leg's cursor is for it too.
    pub(super) fn offer_second(&mut self, position: u64, payload_bytes: usize) -> Offer {
        let Some(second) = self.second.as_mut() else { return Offer::Pass };
        let Some(trail) = second.trail.as_ref() else { return Offer::Pass };
        let late = (second.start..trail.cursor).contains(&position);
        // What waits for the first leg's cursor is not settled yet.
        let owed = self.trail.as_ref().is_some_and(|trail| trail.owed.contains(position));
        if second.leg.order == Order::Position {
            // A hole that it waits for may be filled.
            return Offer::Wake;
        }
        if !late || owed {
            return Offer::Pass;
        }
        let Some(index) = second.leg.rewrite.index(position) else { return Offer::Pass };
        second.replayed += 1;
        self.replayed += 1;
        let schedule_report = second.leg.count(payload_bytes);
        Offer::Take(Take { index, second: true, replay: true, schedule_report, again: false })
    }

    /// The first leg cannot be sent on: the other goes on in its place, at once.
    pub(super) fn take_over(&mut self, view: &View<'_>) -> Event {
        self.slow_down();
        let mut second = self.second.take().expect("only a second leg takes over");
        if !second.ordered {
            second.skipped_before = self.frames_skipped;
        }
        let sent = second.trail.take().map(|trail| trail.cursor);
        self.trade_places(&mut second.leg);
        let mut resumed = super::replay::Resumption { unsettled: view.next_position, resent: 0 };
        if self.leg.is_up() && !self.paused {
            resumed = self.activate(view, sent);
        }
        self.spend(second, resumed.unsettled, resumed.resent)
    }

    /// The second leg becomes the one that is sent on. Where its listener wants to go on is its wish too; without an
    /// acknowledgement to go on from, that is from where all is missing.
    fn trade_places(&mut self, second: &mut ListenerLeg) {
        let all = self.missing(second).filter(|_| self.acked.is_none());
        second.resume_from = second.resume_from.or(self.leg.resume_from).or(all);
        self.note_top();
        std::mem::swap(&mut self.leg, second);
    }

    /// The second leg is where the first one is.
    fn cut(&mut self, view: &View<'_>) -> Option<Event> {
        self.slow_down();
        let mut second = self.second.take()?;
        let reached = second.trail.take().map_or(0, |trail| trail.cursor);
        let handed = self.leg.rewrite.next_position().unwrap_or(0);
        self.note_top();
        std::mem::swap(&mut self.leg, &mut second.leg);
        self.leg.resume_from = None;
        let ordered = self.leg.order == Order::Position;
        let mut position = view.next_position;
        if let Some(trail) = &mut self.trail {
            position = trail.cursor;
            if self.acked.is_some() || ordered {
                trail.resend = trail.cursor..trail.resend.end.max(handed).max(trail.cursor);
            }
            trail.paced = true;
        } else if ordered {
            let cursor = reached.max(second.start);
            self.trail = Some(Box::new(Trail { cursor, ..Trail::default() }));
        }
        Some(self.spend(second, position, 0))
    }

    /// The legs have changed places.
    fn spend(&mut self, mut second: Box<Second>, position: u64, resent: u64) -> Event {
        (second.spent, second.ordered) = (true, false);
        let (leg, to) = (second.leg.id, self.leg.id);
        let replayed = second.replayed + resent;
        let gap_frames = self.frames_skipped.saturating_sub(second.skipped_before);
        second.leg.repair = None;
        self.second = Some(second);
        self.speed_up();
        Event::LegSpent { leg, to, position, replayed, gap_frames }
    }

    /// Takes a leg away.
    pub(crate) fn close(&mut self, leg: LegId, view: &View<'_>) -> Close {
        let first = leg == self.leg.id;
        let Some(second) = self.second.as_ref().filter(|second| !(first && second.spent)) else {
            return Close::Listener;
        };
        let mut event = None;
        if first && second.leg.is_up() {
            event = Some(self.take_over(view));
        } else if first {
            self.slow_down();
            if let Some(mut second) = self.second.take() {
                self.trade_places(&mut second.leg);
                self.second = Some(second);
            }
        }
        if let Some(gone) = self.second.take() {
            self.past.0 += gone.leg.packets_out;
            self.past.1 += gone.leg.payload_bytes_out;
        }
        self.speed_up();
        Close::Leg(event)
    }

    /// It was handed out on the second leg, on its way.
    pub(super) fn second_had(&self, position: u64) -> bool {
        let trail = self
            .second
            .as_ref()
            .and_then(|second| second.trail.as_ref().map(|trail| (second.start, trail.cursor)));
        trail.is_some_and(|(start, cursor)| (start..cursor).contains(&position))
    }

    /// When something is to be done on the second leg, if ever.
    pub(super) fn wake_second(&mut self, view: &View<'_>) -> Option<std::time::Instant> {
        let reach = self.reach();
        let second = self.second.as_mut().filter(|second| second.leg.is_up() && !second.spent)?;
        second.trail.as_mut()?.wake(&second.leg, view, reach, self.ledger.as_deref())
    }

    /// Does what is due on the second leg.
    pub(super) fn turn_second(&mut self, view: &View<'_>) -> Turn {
        let reach = self.reach();
        debug_assert!(
            self.expected == NEVER || self.second.as_ref().is_none_or(|second| second.trail.is_none())
        );
        self.settle_gone(view);
        if let Some(event) = self.tell() {
            return Turn::Event(event);
        }
        while let Some(second) = self.second.as_mut().filter(|second| second.leg.is_up()) {
            let (leg, Some(trail)) = (&mut second.leg, &mut second.trail) else { break };
            let next = match trail.plan(leg, view, reach, self.ledger.as_deref()) {
                Plan::Done => return self.cut(view).map_or(Turn::Nothing, Turn::Event),
                Plan::Wait(_) => break,
                Plan::Hand(next) if trail.due(next, leg, view).is_some() => break,
                Plan::Hand(next) => next,
            };
            let kind = trail.kind(next, leg);
            trail.cursor = next + 1;
            if let Some(take) = self.hand_second(next, kind, view) {
                return Turn::Hand(next, take);
            }
        }
        Turn::Nothing
    }

    /// Hands out a frame of the history on the second leg, if its numbers reach it.
    fn hand_second(&mut self, position: u64, kind: Kind, view: &View<'_>) -> Option<Take> {
        let frame = view.history.get(position)?;
        self.cross(&frame);
        let second = self.second.as_mut()?;
        let index = second.leg.rewrite.index(position)?;
        second.leg.pace.spend(kind, view.now, duration(frame.payload), view.pacing);
        second.replayed += 1;
        self.replayed += 1;
        let schedule_report = second.leg.count(frame.payload.len());
        Some(Take { index, second: true, replay: true, schedule_report, again: false })
    }
}
