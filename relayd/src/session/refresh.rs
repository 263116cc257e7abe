//! The refresh of one holder's connection: planned make-before-break, pure, with `now` passed in.
//!
//! | state | order | second joined | second up | spent | second gone | old gone | time |
//! |---|---|---|---|---|---|---|---|
//! | idle | warn; waiting | joining | | | | | age: order |
//! | waiting | at once | joining | | | | idle | require → asked; deadline: give up |
//! | asked | collapses | joining | | | | idle | waiting, backing off; deadline: give up |
//! | joining | collapses | joining | switch → switching | complete | waiting, or give up | orphaned | close new → as if gone |
//! | switching | collapses | joining | | complete, close old → idle | waiting, or give up | orphaned | switch again; close new → as if gone |
//! | orphaned | idle first | joining | | complete → idle | | | idle |
//!
//! A second connection that has not taken over is closed `deadline` after it came, or [`ANSWER_AFTER`] if that is longer;
//! of several that came one after the other, the last counts that came while the order stood. A connection that is
//! `max_age` old is closed, in every state: at once where nobody is on the way to take over, else when the second one is
//! gone, or its time is over, which makes the second one the only one, and at most `deadline` later. Each ages from when it
//! came up.
//!
//! Invariants: the old connection is closed only after the new one has taken over; nothing is asked for while a second
//! connection is there; every order ends in exactly one [`Output::Over`], by its deadline or, if somebody came by then, at
//! most `deadline` (and [`SPENT_AFTER`]) later; orders that come while one is under way become one with it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::event::WarningReason;

/// What is kept for a holder's connection: when it is to be replaced, and how far that has come.
#[derive(Debug)]
pub(super) struct Refresh {
    rules: RefreshRules,
    random: u64,
    state: State,
    /// Of the connection that is there alone, or of the older one.
    age: Option<Age>,
    /// When the second one came up.
    second_up: Option<Instant>,
    outputs: VecDeque<Output>,
}

/// Times of refreshes; see the section `refresh` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshRules {
    /// How old a connection gets; zero: as old as it likes.
    pub max_age: Duration,
    /// How long before that, or before its token ends, it is replaced.
    pub refresh_before: Duration,
    /// How long before `max_age` its holder is warned.
    pub warn_before: Duration,
    /// How long an order stands.
    pub deadline: Duration,
    /// The longest pause after the first failure.
    pub retry_min: Duration,
    /// The longest pause after any failure.
    pub retry_max: Duration,
}

/// Why a connection is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// It is old.
    Age,
    /// The token that it lives on ends.
    TokenExpiry,
    /// An operator wants it.
    Operator,
    /// The relay is about to stop.
    Drain,
}

impl Cause {
    /// As a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::TokenExpiry => "token_expiry",
            Self::Operator => "operator",
            Self::Drain => "drain",
        }
    }

    /// As clients are told.
    pub const fn reason(self) -> WarningReason {
        match self {
            Self::Age => WarningReason::MaxAge,
            Self::TokenExpiry => WarningReason::TokenExpiry,
            Self::Operator => WarningReason::Refresh,
            Self::Drain => WarningReason::Drain,
        }
    }
}

/// How a refresh ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The new connection has taken over.
    Completed,
    /// Nobody came in time, or whoever came failed: the old connection goes on.
    GaveUp,
    /// The old connection was lost meanwhile: what comes now is a resume.
    Dropped,
}

impl Outcome {
    /// As a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::GaveUp => "gave_up",
            Self::Dropped => "dropped",
        }
    }
}

/// What the media plane said of the old leg when the new one had taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Spent {
    pub position: u64,
    pub replayed: u64,
    pub gap_frames: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Tell the holder that their connection goes, or is replaced, at that time.
    Warn { cause: Cause, at: Instant },
    /// Tell the holder to come with a new connection, until then.
    Require { cause: Cause, deadline: Instant },
    /// Let the second connection take over.
    Switch,
    /// Tell the holder that it has.
    Complete { spent: Spent, attempts: u32 },
    /// Close the older connection: the newer one is the holder's from now on.
    CloseOld,
    /// Close the newer connection: it has not taken over in time.
    CloseNew,
    /// Close the older connection, or the only one: it is older than connections get.
    TooOld,
    /// It ended like this; without a cause, the client had come by itself.
    Over { cause: Option<Cause>, outcome: Outcome, took: Duration },
}

/// Something wanted, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    /// `None`: the client's own wish, which nobody asks for again.
    cause: Option<Cause>,
    since: Instant,
    deadline: Instant,
    attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Waiting { order: Order, at: Instant },
    Asked { order: Order, until: Instant },
    Joining { order: Order, until: Instant },
    Switching { order: Order, until: Instant, again: Option<Instant> },
    Orphaned { order: Order, until: Instant },
}

#[derive(Debug, Clone, Copy)]
struct Age {
    limit: Instant,
    warned: bool,
    ordered: bool,
}

/// Commands.
impl Refresh {
    /// For a holder whose connection is not up yet.
    pub(super) fn new(rules: RefreshRules, seed: u64) -> Self {
        Self { rules, random: seed, state: State::Idle, age: None, second_up: None, outputs: VecDeque::new() }
    }

    /// The connection is to be replaced: asked for at `at` or soon after, until `deadline`. One that is under way
    /// takes this one in, and tries at once if it was pausing.
    ///
    /// What time brings, it brings to many at once, who came together or whose tokens end together: each of them is asked
    /// within the first tenth of the time that there is, at random.
    pub(super) fn order(&mut self, now: Instant, cause: Cause, at: Instant, deadline: Instant) {
        let at = match cause {
            Cause::Age | Cause::TokenExpiry => {
                let spread = deadline.saturating_duration_since(at) / 10;
                at + spread.min(MOST_SPREAD).mul_f64(self.fraction())
            }
            Cause::Operator | Cause::Drain => at,
        };
        if let State::Orphaned { order, .. } = self.state {
            self.end(now, order, Outcome::Dropped);
        }
        match &mut self.state {
            State::Idle if now >= deadline => {}
            State::Idle => {
                let warned = cause == Cause::Age && self.age.is_some_and(|age| age.warned);
                if !warned {
                    self.outputs.push_back(Output::Warn { cause, at: deadline });
                }
                let order = Order { cause: Some(cause), since: now, deadline, attempts: 0 };
                self.state = State::Waiting { order, at };
            }
            State::Waiting { order, at: pending } => {
                order.deadline = order.deadline.max(deadline);
                *pending = at.min(*pending);
            }
            State::Asked { order, .. } | State::Joining { order, .. } | State::Switching { order, .. } => {
                order.deadline = order.deadline.max(deadline);
                order.cause.get_or_insert(cause);
            }
            State::Orphaned { .. } => {}
        }
        self.handle_timeout(now);
    }
}

/// What the world did.
impl Refresh {
    /// The first connection is up: it ages.
    pub(super) fn handle_up(&mut self, now: Instant) {
        let max_age = self.rules.max_age;
        let ages = (!max_age.is_zero()).then(|| now + max_age);
        self.age = ages.map(|limit| Age { limit, warned: false, ordered: false });
    }

    /// A second connection was accepted; the one before it, if there was one, is no more.
    pub(super) fn handle_joined(&mut self, now: Instant) {
        let own = Order { cause: None, since: now, deadline: now, attempts: 0 };
        let order = match self.state {
            State::Idle => own,
            State::Waiting { order, .. } | State::Asked { order, .. } => order,
            State::Joining { order, .. } | State::Switching { order, .. } => order,
            State::Orphaned { order, .. } => {
                self.end(now, order, Outcome::Dropped);
                own
            }
        };
        let until = now.min(order.deadline) + self.rules.deadline.max(ANSWER_AFTER);
        self.state = State::Joining { order, until };
        self.second_up = None;
    }

    /// The second connection is up.
    pub(super) fn handle_connected(&mut self, now: Instant) {
        self.second_up = Some(now);
        if let State::Joining { order, until } = self.state {
            self.state = State::Switching { order, until, again: None };
            self.outputs.push_back(Output::Switch);
        }
    }

    /// The media plane was not ready for it.
    pub(super) fn handle_not_switched(&mut self, now: Instant) {
        if let State::Switching { again, .. } = &mut self.state {
            *again = Some(now + SWITCH_AGAIN);
        }
    }

    /// A connection has taken over from another: the second one, to which the first one is of no use any more, or
    /// the only one, from a first one that is gone.
    pub(super) fn handle_spent(&mut self, now: Instant, spent: Spent, second: bool) {
        let order = match self.state {
            State::Joining { order, .. } | State::Switching { order, .. } if second => order,
            State::Orphaned { order, .. } if !second => order,
            // Of an earlier pair, of which nothing is left to do.
            _ => return,
        };
        self.outputs.push_back(Output::Complete { spent, attempts: order.attempts });
        if second {
            self.outputs.push_back(Output::CloseOld);
            let up = self.second_up.take().unwrap_or(now);
            self.handle_up(up);
        }
        self.end(now, order, Outcome::Completed);
        self.grow_old(now);
    }

    /// The second connection is gone.
    pub(super) fn handle_failed(&mut self, now: Instant) {
        let (State::Joining { order, .. } | State::Switching { order, .. }) = self.state else { return };
        self.fail(now, order);
        self.grow_old(now);
    }

    /// The first connection is gone; a second one, if there is one, is the only one now.
    pub(super) fn handle_old_gone(&mut self, now: Instant) {
        match self.state {
            State::Joining { order, .. } | State::Switching { order, .. } => {
                self.state = State::Orphaned { order, until: now + SPENT_AFTER };
                self.age = None;
                if let Some(up) = self.second_up.take() {
                    self.handle_up(up);
                }
            }
            State::Waiting { order, .. } | State::Asked { order, .. } | State::Orphaned { order, .. } => {
                self.end(now, order, Outcome::Dropped);
                self.age = None;
            }
            State::Idle => self.age = None,
        }
        self.grow_old(now);
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.grow_old(now) {
            return;
        }
        match self.state {
            State::Waiting { order, .. } | State::Asked { order, .. } if now >= order.deadline => {
                self.end(now, order, Outcome::GaveUp);
            }
            State::Waiting { mut order, at } if now >= at => {
                order.attempts = order.attempts.saturating_add(1);
                self.state = State::Asked { order, until: now + ANSWER_AFTER };
                let cause = order.cause.expect("what is waited for was ordered");
                let deadline = self.age.map_or(order.deadline, |age| age.limit.min(order.deadline));
                self.outputs.push_back(Output::Require { cause, deadline });
            }
            State::Asked { order, until } if now >= until => self.back_off(now, order),
            State::Joining { order, until } | State::Switching { order, until, .. } if now >= until => {
                self.outputs.push_back(Output::CloseNew);
                self.fail(now, order);
            }
            State::Switching { order, until, again: Some(again) } if now >= again => {
                self.state = State::Switching { order, until, again: None };
                self.outputs.push_back(Output::Switch);
            }
            State::Orphaned { order, until } if now >= until => self.end(now, order, Outcome::Dropped),
            _ => {}
        }
    }
}

/// What must happen next, and getters.
impl Refresh {
    /// The next thing to do.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When time matters next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let state = match self.state {
            State::Idle => None,
            State::Waiting { order, at } => Some(at.min(order.deadline)),
            State::Asked { order, until } => Some(until.min(order.deadline)),
            State::Switching { until, again, .. } => Some(again.map_or(until, |again| again.min(until))),
            State::Joining { until, .. } | State::Orphaned { until, .. } => Some(until),
        };
        let age = self.age.and_then(|age| {
            let warning = (!age.warned).then(|| before(age.limit, self.rules.warn_before));
            let order = (!age.ordered).then(|| before(age.limit, self.rules.refresh_before));
            warning.into_iter().chain(order).chain([self.close_at(age)]).min()
        });
        state.into_iter().chain(age).min()
    }
}

impl Refresh {
    /// Whether the connection is too old.
    fn grow_old(&mut self, now: Instant) -> bool {
        let Some(age) = &mut self.age else { return false };
        let limit = age.limit;
        if !age.warned && now >= before(limit, self.rules.warn_before) {
            age.warned = true;
            self.outputs.push_back(Output::Warn { cause: Cause::Age, at: limit });
        }
        if !age.ordered && now >= before(limit, self.rules.refresh_before) {
            age.ordered = true;
            self.order(now, Cause::Age, now, limit);
        }
        let old = self.age.is_some_and(|age| now >= self.close_at(age));
        if old {
            self.age = None;
            match self.state {
                State::Waiting { order, .. } | State::Asked { order, .. } => {
                    self.end(now, order, Outcome::GaveUp);
                }
                State::Orphaned { order, .. } => self.end(now, order, Outcome::Dropped),
                State::Idle | State::Joining { .. } | State::Switching { .. } => {}
            }
            self.outputs.push_back(Output::TooOld);
        }
        old
    }

    /// When a connection is closed, whatever is asked for or on its way.
    fn close_at(&self, age: Age) -> Instant {
        match self.state {
            State::Joining { until, .. } | State::Switching { until, .. } => {
                until.clamp(age.limit, age.limit + self.rules.deadline)
            }
            _ => age.limit,
        }
    }

    /// The second connection is not to be: whoever was asked is asked again, while there is time.
    fn fail(&mut self, now: Instant, order: Order) {
        if order.cause.is_none() || now >= order.deadline {
            self.end(now, order, Outcome::GaveUp);
        } else {
            self.back_off(now, order);
        }
    }

    fn back_off(&mut self, now: Instant, order: Order) {
        let doublings = order.attempts.saturating_sub(1).min(16);
        let most = self.rules.retry_min.saturating_mul(1 << doublings).min(self.rules.retry_max);
        self.state = State::Waiting { order, at: now + most.mul_f64(self.fraction()).max(SHORTEST) };
    }

    fn end(&mut self, now: Instant, order: Order, outcome: Outcome) {
        self.state = State::Idle;
        let took = now.saturating_duration_since(order.since);
        self.outputs.push_back(Output::Over { cause: order.cause, outcome, took });
    }

    /// At least 0 and less than 1; SplitMix64 (Steele et al. 2014).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// An instant that cannot be is as good as one long ago.
fn before(instant: Instant, by: Duration) -> Instant {
    instant.checked_sub(by).unwrap_or(instant)
}

/// How long a client has to come after it was asked, and at least to take over after that. Long enough for a join over a bad network.
const ANSWER_AFTER: Duration = Duration::from_secs(10);
/// Over how long those are spread at most whom time brings to be replaced.
const MOST_SPREAD: Duration = Duration::from_secs(60);
/// The shortest pause.
const SHORTEST: Duration = Duration::from_millis(1);
/// How long after a refused switch the next is tried: the new leg's address and keys are on their way.
const SWITCH_AGAIN: Duration = Duration::from_millis(200);
/// How long after the loss of the old connection the media plane may say what became of it.
const SPENT_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
pub(super) mod tests;
