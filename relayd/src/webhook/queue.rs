//! What waits to be delivered: bounded, in order per session, retried with growing pauses. Pure: `now` is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Delivery;

/// Attempts for one event; then it is given up.
pub(super) const TRIES: u32 = 5;
/// The pause after the first failure; each next one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Deliveries in the order in which they came.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    entries: BTreeMap<Ticket, Entry>,
    next: u64,
}

/// Names an entry of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Entry {
    delivery: Delivery,
    tries: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight,
    Pausing { until: Instant },
}

/// What became of an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// It is tried again.
    Later,
    /// It was the last try.
    GivenUp,
}

impl Queue {
    /// A queue of at most this many, those under way included.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, entries: BTreeMap::new(), next: 0 }
    }

    /// Takes an event. Over the limit the oldest that is not under way is dropped for it; true: one was dropped.
    pub(super) fn push(&mut self, delivery: Delivery) -> bool {
        let full = self.entries.len() >= self.limit;
        if full {
            let oldest = self.entries.iter().find(|(_, entry)| entry.state != State::InFlight);
            match oldest.map(|(ticket, _)| *ticket) {
                Some(oldest) => drop(self.entries.remove(&oldest)),
                None => return true,
            }
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.entries.insert(ticket, Entry { delivery, tries: 0, state: State::Waiting });
        full
    }

    /// The next one to deliver now. Of each session only the oldest is, so that none overtakes another.
    pub(super) fn start(&mut self, now: Instant) -> Option<(Ticket, Delivery)> {
        let mut held = BTreeSet::new();
        let (ticket, entry) = self.entries.iter_mut().find(|(_, entry)| {
            let first = held.insert(entry.delivery.session.clone());
            first
                && match entry.state {
                    State::Waiting => true,
                    State::InFlight => false,
                    State::Pausing { until } => until <= now,
                }
        })?;
        entry.state = State::InFlight;
        entry.tries += 1;
        Some((*ticket, entry.delivery.clone()))
    }

    /// It was delivered.
    pub(super) fn succeed(&mut self, ticket: Ticket) {
        self.entries.remove(&ticket);
    }

    /// It was not. `jitter` from 0 to 1 spreads the pauses of many relays from half their length to all of it.
    pub(super) fn fail(&mut self, now: Instant, ticket: Ticket, jitter: f64) -> Failed {
        let Some(entry) = self.entries.get_mut(&ticket) else { return Failed::GivenUp };
        if entry.tries >= TRIES {
            self.entries.remove(&ticket);
            return Failed::GivenUp;
        }
        let pause = (FIRST_PAUSE * 4_u32.pow(entry.tries - 1)).min(LONGEST_PAUSE);
        entry.state = State::Pausing { until: now + pause.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0)) };
        Failed::Later
    }

    /// When a pause ends next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let pauses = self.entries.values().filter_map(|entry| match entry.state {
            State::Pausing { until } => Some(until),
            State::Waiting | State::InFlight => None,
        });
        pauses.min()
    }

    /// How many wait or are under way.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing could be delivered now: all that is left has failed and pauses.
    pub(super) fn is_idle(&self) -> bool {
        let pausing = |session: &str| {
            self.entries.values().any(|entry| {
                entry.delivery.session == session && matches!(entry.state, State::Pausing { .. })
            })
        };
        self.entries.values().all(|entry| match entry.state {
            State::InFlight => false,
            State::Pausing { .. } => true,
            State::Waiting => pausing(&entry.delivery.session),
        })
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
