//! What was settled out of its order: late frames that may not have come, and what is not to come any more.
//!
//! | frame | is noted when | until | and so |
//! |---|---|---|---|
//! | unsure | a leg in order of position is handed it after what comes behind it | the far end acknowledges what was handed out after it, or the history loses it | the next leg, or the same one when it returns, is handed it again |
//! | told | it is told as skipped and the history has it | the history loses it, or it is asked for by its position | it is handed out to nobody |
//!
//! An acknowledged position says that all is there that was handed out up to it, and nothing of what was a hole then: so
//! one that is below what was handed out before the late frame says nothing of that frame. Both sets are empty when
//! another track is selected or the listener is paused: nothing from before is wanted.
//!
//! Memory: 128 bytes for a listener that had any of them or a switch, and at most two bits for each position of
//! the history (I3).

use super::owed::Owed;
use super::{Listener, View};
use crate::history::History;
use crate::io::{OnReturn, Order};

/// One listener's.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    unsure: Owed,
    /// An acknowledged position from here on says that all that is unsure is there.
    sure: u64,
    told: Owed,
    /// One after the highest position handed out on legs that it was sent on before.
    past_top: u64,
    /// Arrivals that were offered while nothing could be handed out, and are from before the listener began: how many,
    /// and one after the last. The log may forget which.
    early: (u64, u64),
}

impl Ledger {
    /// The first that is unsure, from `position` on.
    pub(super) fn first_unsure(&self, position: u64) -> Option<u64> {
        self.unsure.first_from(position)
    }

    pub(super) fn was_told(&self, position: u64) -> bool {
        self.told.contains(position)
    }

    pub(super) const fn past_top(&self) -> u64 {
        self.past_top
    }
}

impl Listener {
    /// A frame that the history has is not wanted any more: it is told as skipped, and not handed out after that.
    pub(super) fn give_up(&mut self, position: u64, oldest: u64) {
        self.skip(position, 1);
        let ledger = self.ledger.get_or_insert_default();
        // I3: both sets span no more than the history.
        ledger.told.take_before(oldest);
        ledger.told.insert(position);
    }

    /// The same for all that is owed before a position.
    pub(super) fn give_up_before(&mut self, owed: &mut Owed, position: u64, oldest: u64) {
        while let Some(first) = owed.first_from(0).filter(|&first| first < position) {
            owed.take(first);
            self.give_up(first, oldest);
        }
    }

    /// Who asks for a position wants what it was told of from there on after all.
    pub(super) fn wants_from(&mut self, position: u64) {
        let Some(ledger) = self.ledger.as_mut() else { return };
        while let Some(told) = ledger.told.first_from(position) {
            ledger.told.take(told);
        }
    }

    /// A frame is about to be handed out for the first time on the leg that is sent on.
    pub(super) fn note_late(&mut self, position: u64, oldest: u64) {
        let top = self.top();
        if position >= top || self.leg.order != Order::Position || self.leg.on_return != OnReturn::Replay {
            return;
        }
        let ledger = self.ledger.get_or_insert_default();
        ledger.unsure.take_before(oldest);
        ledger.unsure.insert(position);
        ledger.sure = top;
    }

    /// The far end has all that it was handed, up to a position.
    pub(super) fn note_delivered(&mut self, position: u64) {
        if let Some(ledger) = self.ledger.as_mut().filter(|ledger| position >= ledger.sure) {
            ledger.unsure = Owed::default();
        }
    }

    pub(super) fn was_told(&self, position: u64) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.was_told(position))
    }

    /// The first frame from `position` on that a leg of this policy is handed again because it may not have come.
    pub(super) fn first_unsure(&self, position: u64, on_return: OnReturn, view: &View<'_>) -> Option<u64> {
        let oldest = view.history.oldest()?;
        let ledger = self.ledger.as_ref().filter(|_| on_return == OnReturn::Replay)?;
        ledger.first_unsure(position.max(oldest))
    }

    /// The first position that the far end is not known to have. A far end that has said nothing yet may still say so
    /// if it was handed little: then all of that may be under way.
    pub(super) fn first_unacknowledged(&self, view: &View<'_>) -> Option<u64> {
        let handed = (self.base..self.top()).filter(|&at| view.history.holds(at));
        let whole = view.history.oldest().is_none_or(|oldest| oldest <= self.base);
        let soon = || whole && handed.take(UNDER_WAY as usize + 1).count() <= UNDER_WAY as usize;
        self.acked.map(|acked| acked + 1).or_else(|| soon().then_some(self.base))
    }

    /// One after the highest position handed out on any leg, or where it began.
    pub(super) fn top(&self) -> u64 {
        let past = self.ledger.as_ref().map_or(0, |ledger| ledger.past_top);
        self.next_position().max(past).max(self.base)
    }

    /// An arrival is offered while nothing can be handed out.
    pub(super) fn note_early(&mut self, arrival: u64, position: u64) {
        let wanted = self.joined && !self.paused;
        if wanted && position < self.base && arrival >= self.cursor {
            let early = &mut self.ledger.get_or_insert_default().early;
            *early = (early.0 + 1, arrival + 1);
        }
    }

    /// How many arrivals that the log forgot, those before `logged`, are from before the listener began.
    pub(super) fn take_early(&mut self, logged: u64, history: &History) -> u64 {
        let Some(ledger) = self.ledger.as_mut() else { return 0 };
        let (count, offered) = std::mem::take(&mut ledger.early);
        let is_early = |&at: &u64| history.position_of(at).is_some_and(|position| position < self.base);
        count.saturating_sub((logged..offered).filter(is_early).count() as u64)
    }

    /// The leg that it is sent on is about to be another.
    pub(super) fn note_top(&mut self) {
        let top = self.top();
        self.ledger.get_or_insert_default().past_top = top;
    }
}

/// Frames that may be under way on a leg: 1 s of the usual.
pub(super) const UNDER_WAY: u64 = 50;
