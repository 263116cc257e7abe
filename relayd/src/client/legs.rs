//! Which connections a client has, and when it makes another: pure, by the owner's clock.
//!
//! | state | meaning |
//! |---|---|
//! | live | carries the stream; none before the first is up, or after it was lost |
//! | second | on its way or up beside it: a refresh, or in the place of one that is silent or lost |
//! | waiting | a try that is due later |
//!
//! | what happens | what is done |
//! |---|---|
//! | an order to refresh | a second is opened with its ticket; an order during a try replaces the one before |
//! | live is lost | second, if it is up, is live; if nothing is on its way, one is opened at once |
//! | live is silent | a second is opened beside it |
//! | second is up | a refresh waits for [`Legs::complete`]; otherwise it is live and the old one is closed a little later |
//! | second fails | tried again after a wait that grows, a refresh until its deadline |
//! | it is refused for good | a refresh is given up, the old one stays; with none left it is over |
//! | nothing is up for [`WINDOW`] | it is over: the relay keeps the place no longer |
//!
//! Invariant: at most two connections besides those being closed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::backoff::Backoff;

/// How long the relay keeps a place that is resumed by ticket or secret.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// How long a replaced connection may still bring what is on its way.
const OVERLAP: Duration = Duration::from_secs(1);
/// A connection that was up this long had no failure worth waiting for.
const STEADY: Duration = Duration::from_secs(3);
/// How long a second that is up and silent as well is given.
const SILENT: Duration = Duration::from_secs(5);

/// Names a connection.
pub(super) type Key = u32;

/// Why a connection is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// It is the first.
    First,
    /// The relay asks for it.
    Refresh(Order),
    /// The one before is lost or silent.
    Resume,
}

/// An order to refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Where to; empty: where the first one went.
    pub url: String,
    /// With what right.
    pub ticket: String,
    /// Until when.
    pub deadline: Instant,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Open a connection.
    Open(Key, Why),
    /// Close one.
    Close(Key),
    /// Nothing can be done any more.
    GiveUp,
}

/// The connections of one client.
#[derive(Debug)]
pub(super) struct Legs {
    count: Key,
    live: Option<Up>,
    second: Option<Second>,
    waiting: Option<(Instant, Why)>,
    /// An order for when the second is live.
    after: Option<Order>,
    closing: Vec<(Instant, Key)>,
    /// Since when nothing is up.
    down_since: Instant,
    /// Something was up once.
    begun: bool,
    backoff: Backoff,
    steps: VecDeque<Step>,
    over: bool,
}

/// Which completions of refreshes were heard of: the relay tells each to every connection that is there, which is one
/// or two, or to none but one that comes soon after.
///
/// Two may have the same position, when nobody speaks, and be told by different connections: the number of the event
/// says which is which. Memory: at most [`MAX_HEARD`] numbers.
#[derive(Debug, Default)]
pub(super) struct Completions {
    heard: VecDeque<(u64, u64)>,
}

impl Completions {
    /// A connection tells of one, as event number `seq`, with this position; whether it is news.
    pub(super) fn hear(&mut self, seq: u64, position: u64) -> bool {
        // Numbers begin again at another relay, positions do not.
        if self.heard.contains(&(seq, position)) {
            return false;
        }
        if self.heard.len() >= MAX_HEARD {
            self.heard.pop_front();
        }
        self.heard.push_back((seq, position));
        true
    }
}

/// More than are told again.
const MAX_HEARD: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Up {
    key: Key,
    since: Instant,
}

#[derive(Debug)]
struct Second {
    key: Key,
    why: Why,
    up: Option<Instant>,
    /// The relay has said that the stream is on it.
    done: bool,
}

impl Legs {
    /// Opens the first connection.
    pub(super) fn new(now: Instant, seed: u64) -> Self {
        let mut legs = Self {
            count: 0,
            live: None,
            second: None,
            waiting: None,
            after: None,
            closing: Vec::new(),
            down_since: now,
            begun: false,
            backoff: Backoff::new(seed),
            steps: VecDeque::new(),
            over: false,
        };
        legs.open(Why::First);
        legs
    }

    /// A connection is up.
    pub(super) fn handle_up(&mut self, now: Instant, key: Key) {
        let Some(second) = self.second.as_mut().filter(|second| second.key == key) else { return };
        second.up = Some(now);
        self.begun = true;
        // A refresh takes over when the relay says that it is complete, unless there is nothing to take over from.
        if self.live.is_none() || second.done || !matches!(second.why, Why::Refresh(_)) {
            self.promote(now);
        }
    }

    /// A connection is gone; `for_good` if trying again is of no use.
    pub(super) fn handle_ended(&mut self, now: Instant, key: Key, for_good: bool) {
        self.closing.retain(|(_, closing)| *closing != key);
        if let Some(live) = self.live.filter(|live| live.key == key) {
            self.live = None;
            self.down_since = now;
            if now.saturating_duration_since(live.since) >= STEADY {
                self.backoff.reset();
            }
            match &self.second {
                Some(second) if second.up.is_some() => self.promote(now),
                Some(_) => {}
                None if for_good => self.give_up(),
                None => self.retry(now, Why::Resume),
            }
            return;
        }
        let Some(second) = self.second.take_if(|second| second.key == key) else { return };
        match second.why {
            Why::First if !self.begun => self.give_up(),
            _ if for_good && self.live.is_none() => self.give_up(),
            Why::Refresh(order) if self.live.is_some() => {
                if !for_good && now < order.deadline {
                    self.retry(now, Why::Refresh(order));
                }
            }
            _ if self.live.is_some() && for_good => {}
            _ => self.retry(now, Why::Resume),
        }
    }

    /// The relay asks for a refresh.
    pub(super) fn order(&mut self, now: Instant, order: Order) {
        if self.over || now >= order.deadline {
            return;
        }
        match &mut self.second {
            // To the relay it is the one that is live: this order is for the next.
            Some(second) if second.done => self.after = Some(order),
            Some(second) if second.up.is_none() => {
                // It is on its way already: the newer ticket is for the next try.
                if matches!(second.why, Why::Refresh(_)) {
                    second.why = Why::Refresh(order);
                }
            }
            Some(_) => {}
            None => {
                self.waiting = None;
                self.open(Why::Refresh(order));
            }
        }
    }

    /// The relay has moved the stream to the second.
    pub(super) fn complete(&mut self, now: Instant) {
        let Some(second) = &mut self.second else { return };
        // The relay may know sooner than we that it is up.
        second.done = true;
        if second.up.is_some() {
            self.promote(now);
        }
    }

    /// What is live does not answer.
    pub(super) fn handle_silence(&mut self, now: Instant) {
        let Some(live) = self.live else { return };
        match &self.second {
            None if self.waiting.is_none() => {
                if now.saturating_duration_since(live.since) >= STEADY {
                    self.backoff.reset();
                }
                self.retry(now, Why::Resume);
            }
            Some(second) if second.up.is_some_and(|up| now.saturating_duration_since(up) >= SILENT) => {
                self.promote(now);
            }
            _ => {}
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let (due, rest) = self.closing.drain(..).partition(|(at, _)| now >= *at);
        self.closing = rest;
        let due: Vec<(Instant, Key)> = due;
        self.steps.extend(due.into_iter().map(|(_, key)| Step::Close(key)));
        if self.begun && self.live.is_none() && now >= self.down_since + WINDOW {
            self.give_up();
        }
        if let Some((_, why)) = self.waiting.take_if(|(at, _)| now >= *at) {
            match why {
                Why::Refresh(order) if now >= order.deadline => {}
                why => self.open(why),
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let window = (self.begun && self.live.is_none() && !self.over).then(|| self.down_since + WINDOW);
        let waiting = self.waiting.as_ref().map(|(at, _)| *at);
        self.closing.iter().map(|(at, _)| *at).chain(window).chain(waiting).min()
    }

    /// What to do next.
    pub(super) fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// The connection that carries the stream.
    pub(super) fn live(&self) -> Option<Key> {
        self.live.map(|live| live.key)
    }

    fn open(&mut self, why: Why) {
        if self.over {
            return;
        }
        debug_assert!(self.second.is_none(), "at most two");
        self.count += 1;
        self.second = Some(Second { key: self.count, why: why.clone(), up: None, done: false });
        self.steps.push_back(Step::Open(self.count, why));
    }

    fn retry(&mut self, now: Instant, why: Why) {
        let at = now + self.backoff.next();
        self.waiting = Some((at, why));
        self.handle_timeout(now);
    }

    /// The second is live; what was live before is closed when nothing more can be on its way.
    fn promote(&mut self, now: Instant) {
        let Some(second) = self.second.take() else { return };
        let up = Up { key: second.key, since: second.up.unwrap_or(now) };
        if let Some(old) = self.live.replace(up) {
            self.closing.push((now + OVERLAP, old.key));
        }
        if let Some(order) = self.after.take() {
            self.order(now, order);
        }
    }

    fn give_up(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.waiting = None;
            self.steps.push_back(Step::GiveUp);
        }
    }
}

#[cfg(test)]
#[path = "legs_tests.rs"]
mod tests;
