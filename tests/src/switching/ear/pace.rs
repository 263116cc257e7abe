//! How fast a listener is handed what it is behind with.

use std::time::Duration;

use super::{Ear, Lag, PROMPT};
use crate::oracle::{Check, ensure};
use crate::switching::truth::Truth;

impl Ear {
    /// A hole is waited for: the pace holds from its end on.
    pub(super) fn note_wait(&mut self, now: Duration) {
        let waits = self.ordered && self.waits();
        if self.moved.1 != self.top {
            self.moved = (now, self.top);
        }
        if let (true, Some(lag)) = (waits || self.waited, &mut self.lag) {
            (lag.since, lag.done, lag.again, lag.even) = (now, 0, 0, (now, 0));
        }
        if self.waited && !waits {
            self.freed = now;
        }
        self.waited = waits;
    }

    pub(super) fn time_for(&self, frames: u64) -> Duration {
        self.frame * frames as u32 / self.terms.replay_rate
    }

    /// L4: what is behind catches up at the configured pace, the first of it at once.
    pub(super) fn check_pace(&self, lag: Lag, now: Duration) -> Check {
        let (since, before) = lag.even;
        let (passed, done) = (now.saturating_sub(since + PROMPT), lag.done - before);
        let due = (passed.as_nanos() / (self.frame / self.terms.replay_rate).as_nanos()) as u64;
        // Behind each hole that is waited for, the pace begins anew.
        let enough = if self.ordered { done * 2 + 40 >= due } else { done >= due };
        ensure(enough, "L4", || {
            format!("{done} of {due} since {lag:?} at {now:?}, owed {:?}: {self:?}", self.owed.len())
        })?;
        let passed = now.saturating_sub(lag.since);
        let most = |rate: u32| {
            let pace = passed.as_nanos() / (self.frame / rate).as_nanos();
            pace as u64 * 2 + 2 * u64::from(self.terms.replay_burst) + 2 * lag.arrived + 40
        };
        let (held, again) =
            (most(self.terms.replay_rate), most(self.terms.resend_rate.max(self.terms.replay_rate)));
        ensure(lag.done - lag.again <= held && lag.again <= again, "pace", || {
            format!("{} of {held}, {} of {again} since {lag:?} at {now:?}", lag.done - lag.again, lag.again)
        })
    }

    /// A switch that can be done is done.
    pub(super) fn check_switch(&mut self, now: Duration) -> Check {
        let Some(since) = self.switching else { return Ok(()) };
        if self.paused || !self.began || self.lag.is_some() && self.is_up(self.current) {
            self.switching = Some(now);
            return Ok(());
        }
        // What fills a hole that nobody counted on goes at the pace as well, and so does what is late and not acknowledged.
        let filled = self.forgiven.saturating_sub(self.told);
        let work =
            self.top.saturating_sub(self.set_out.max(self.first.unwrap_or(0))) + filled + self.unsure.0;
        let limit = since + self.time_for(work) * 2 + Duration::from_millis(500) + self.terms.hole_patience;
        ensure(now <= limit, "LegSpent", || format!("ordered at {since:?}, not done at {now:?}: {self:?}"))
    }

    /// An ordered leg waits for a hole.
    fn waits(&self) -> bool {
        let Some(first) = self.owed.first() else { return false };
        self.top < *first
    }

    /// L3: what is up and has caught up is behind nobody.
    pub(super) fn check_prompt(&self, truth: &Truth, now: Duration) -> Check {
        let Some(first) = self.owed.first() else { return Ok(()) };
        let arrived = truth.get(*first).map_or(now, |stored| stored.arrived);
        // Behind a hole that was waited for, the pace may hold.
        let behind = self.time_for(2 * self.backlog as u64);
        let patience = self.terms.hole_patience + PROMPT + self.frame + behind;
        // What fills the hole in front of it goes before it, and at the pace.
        let waits = self.ordered && now <= arrived.max(self.freed).max(self.moved.0) + patience;
        ensure(waits, "L3", || {
            format!("{first} arrived at {arrived:?} and is not handed out at {now:?}: {self:?}")
        })
    }
}
