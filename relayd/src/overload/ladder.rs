//! The ladder that a relay climbs while it lags, and comes down again: pure, looks in, rungs out.
//!
//! | rung | past | what is done |
//! |---|---|---|
//! | [`Rung::Joins`] | `join_lag` | new joins and sessions are refused, who is connected keeps what there is |
//! | [`Rung::Shed`] | `shed_lag` | every few seconds that it is still late, the newest listeners are let go, a few percent of them; speakers only when there is no listener left and it is their media thread that is late |
//!
//! Between the two belongs less redundancy (RED depth). There is none to take away: a listener is sent every frame
//! once, and again only what it asks for.
//!
//! Invariants: a rung is reached when all looks of [`PERSISTENCE`] were past its limit, and left when all of as long
//! were within half of it; so a single look changes nothing, and a lag that stays near a limit does not go back and
//! forth. Whoever is on a rung is on those below it.

use std::time::{Duration, Instant};

/// How long it must be late, or be in time again.
pub(super) const PERSISTENCE: Duration = Duration::from_secs(5);
/// Between two times that listeners are let go: what the first one brought is seen before.
pub(super) const SHED_EVERY: Duration = Duration::from_secs(5);

/// What is too late, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// New joins and sessions are refused beyond.
    pub join_lag: Duration,
    /// Listeners are let go beyond; no less than `join_lag`.
    pub shed_lag: Duration,
    /// Of those there are, so many are let go at a time; 0 for none, ever.
    pub shed_percent: usize,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// In time.
    #[default]
    Calm,
    /// Nobody new is let in.
    Joins,
    /// Listeners are let go.
    Shed,
}

/// What a look at the lag leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub rung: Rung,
    /// Some are to be let go now.
    pub shed: bool,
}

/// The rungs, and where it is on them.
#[derive(Debug)]
pub(super) struct Ladder {
    rules: Rules,
    joins: Judge,
    shed: Judge,
    /// When some may be let go again.
    next: Option<Instant>,
}

impl Ladder {
    pub(super) fn new(rules: Rules) -> Self {
        let (joins, shed) = (Judge::new(rules.join_lag), Judge::new(rules.shed_lag));
        Self { rules, joins, shed, next: None }
    }

    pub(super) fn rules(&self) -> Rules {
        self.rules
    }

    /// It was so late just now.
    pub(super) fn look(&mut self, now: Instant, lag: Duration) -> Verdict {
        let rung = match (self.joins.look(now, lag), self.shed.look(now, lag)) {
            (_, true) => Rung::Shed,
            (true, false) => Rung::Joins,
            (false, false) => Rung::Calm,
        };
        if rung < Rung::Shed {
            self.next = None;
        }
        let late = lag > self.rules.shed_lag && self.rules.shed_percent > 0;
        let shed = rung == Rung::Shed && late && self.next.is_none_or(|next| next <= now);
        if shed {
            self.next = Some(now + SHED_EVERY);
        }
        Verdict { rung, shed }
    }
}

/// One limit.
#[derive(Debug)]
struct Judge {
    limit: Duration,
    past: bool,
    /// Since when all looks have said the opposite.
    otherwise_since: Option<Instant>,
}

impl Judge {
    fn new(limit: Duration) -> Self {
        Self { limit, past: false, otherwise_since: None }
    }

    fn look(&mut self, now: Instant, lag: Duration) -> bool {
        let stays = if self.past { lag > self.limit / 2 } else { lag <= self.limit };
        if stays {
            self.otherwise_since = None;
            return self.past;
        }
        let since = *self.otherwise_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= PERSISTENCE {
            self.past = !self.past;
            self.otherwise_since = None;
        }
        self.past
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two looks a second, in virtual time.
    struct World {
        ladder: Ladder,
        now: Instant,
    }

    const PERIOD: Duration = Duration::from_millis(500);

    impl World {
        fn new() -> Self {
            let rules = Rules { join_lag: millis(250), shed_lag: millis(1_000), shed_percent: 3 };
            Self { ladder: Ladder::new(rules), now: Instant::now() }
        }

        /// So many looks at this lag: the last rung, and how often some were let go.
        fn looks(&mut self, lag: u64, times: u32) -> (Rung, usize) {
            let (mut rung, mut shed) = (Rung::Calm, 0);
            for _ in 0..times {
                let verdict = self.ladder.look(self.now, millis(lag));
                (rung, shed) = (verdict.rung, shed + usize::from(verdict.shed));
                self.now += PERIOD;
            }
            (rung, shed)
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn five_seconds_late_in_a_row_reach_a_rung_and_less_does_not() {
        for (late, rung) in [(251, Rung::Joins), (1_001, Rung::Shed)] {
            let mut world = World::new();
            assert_eq!(world.looks(late, 10).0, Rung::Calm);
            assert_eq!(world.looks(250, 1).0, Rung::Calm, "in time once: from the start again");
            assert_eq!(world.looks(late, 10).0, Rung::Calm);
            assert_eq!(world.looks(late, 1).0, rung);
        }
    }

    #[test]
    fn five_seconds_within_half_of_the_limit_leave_it_and_less_does_not() {
        let mut world = World::new();
        world.looks(300, 11);
        assert_eq!(world.looks(126, 100).0, Rung::Joins, "below the limit, but not by half");
        assert_eq!(world.looks(125, 10).0, Rung::Joins);
        assert_eq!(world.looks(126, 1).0, Rung::Joins);
        assert_eq!(world.looks(125, 10).0, Rung::Joins);
        assert_eq!(world.looks(125, 1).0, Rung::Calm);
    }

    #[test]
    fn it_comes_down_one_rung_after_the_other() {
        let mut world = World::new();
        assert_eq!(world.looks(5_000, 11).0, Rung::Shed);
        assert_eq!(world.looks(400, 10).0, Rung::Shed);
        assert_eq!(world.looks(400, 50).0, Rung::Joins);
        assert_eq!(world.looks(0, 11).0, Rung::Calm);
        assert_eq!(world.looks(0, 50), (Rung::Calm, 0));
    }

    #[test]
    fn listeners_are_let_go_every_five_seconds_and_only_while_it_is_too_late() {
        let mut world = World::new();
        assert_eq!(world.looks(2_000, 10), (Rung::Calm, 0));
        assert_eq!(world.looks(2_000, 1), (Rung::Shed, 1), "at once");
        assert_eq!(world.looks(2_000, 9), (Rung::Shed, 0), "what that brought is seen first");
        assert_eq!(world.looks(2_000, 1), (Rung::Shed, 1));
        assert_eq!(world.looks(2_000, 60), (Rung::Shed, 6));
        assert_eq!(world.looks(900, 60), (Rung::Shed, 0), "it helped, though not by much");
        assert_eq!(world.looks(1_001, 1), (Rung::Shed, 1), "it is too late again");
    }

    #[test]
    fn nobody_is_let_go_of_zero_percent() {
        let mut world = World::new();
        world.ladder.rules.shed_percent = 0;
        assert_eq!(world.looks(10_000, 100), (Rung::Shed, 0));
    }

    #[test]
    fn whoever_is_on_a_rung_is_on_those_below_whatever_the_lag_does() {
        let (mut world, mut seed, mut reached) = (World::new(), 1_u64, [0; 3]);
        for round in 0..20_000 {
            // Knuth's multiplier: any mixture of lags and times will do.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = (seed >> 33) as usize;
            let lag = [0, 125, 126, 250, 251, 500, 501, 1_000, 1_001, 9_000][random % 10];
            let (rung, _) = world.looks(lag, 1 + (random / 10 % 13) as u32);
            reached[rung as usize] += 1;
            let Ladder { joins, shed, .. } = &world.ladder;
            assert!(joins.past || !shed.past, "round {round}");
        }
        assert!(reached.iter().all(|times| *times > 100), "{reached:?}");
    }
}
