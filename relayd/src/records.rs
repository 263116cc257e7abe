//! Connection records: what is open now, for the operator to look at, and what was opened and closed, for metrics.
//!
//! Invariant: a record is made in one place, [`Records::open`], and removed in one place, the drop of its
//! [`RecordGuard`], however the connection ends; so opened = closed + live, for each kind, at any time.
//! Memory: one entry of some 200 bytes per connection, and those are limited where they are accepted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::session::SessionId;

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// An HTTP connection.
    Http,
    /// A WebSocket of events.
    Events,
    /// A stream of server-sent events.
    ServerSentEvents,
    /// The media connection of a publisher.
    Publisher,
    /// The media connection of a listener.
    Listener,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Http, Self::Events, Self::ServerSentEvents, Self::Publisher, Self::Listener];

    /// As a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Events => "events",
            Self::ServerSentEvents => "server_sent_events",
            Self::Publisher => "publisher",
            Self::Listener => "listener",
        }
    }
}

/// The open connections of a daemon. Clones share one registry.
#[derive(Debug, Clone, Default)]
pub struct Records {
    shared: Arc<Mutex<State>>,
}

impl Records {
    /// A connection was accepted; its record lives as long as the guard.
    ///
    /// `who` is what the operator may see of its holder: a token's subject, never a token.
    pub fn open(&self, kind: Kind, peer: IpAddr, session: Option<SessionId>, who: String) -> RecordGuard {
        let since = Instant::now();
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.counts[kind as usize].opened += 1;
        state.live.insert(number, Open { kind, peer, session, who: shortened(who), since });
        RecordGuard { records: self.clone(), number }
    }

    /// Opened, closed and live by kind.
    pub fn counts(&self) -> [(Kind, RecordCounts); 5] {
        let state = self.state();
        let mut counts = Kind::ALL.map(|kind| (kind, state.counts[kind as usize]));
        for open in state.live.values() {
            counts[open.kind as usize].1.live += 1;
        }
        counts
    }

    /// The oldest open connections, at most `limit`, as an operator reads them.
    pub fn list(&self, now: Instant, limit: usize) -> Vec<RecordView> {
        let state = self.state();
        state.live.values().take(limit).map(|open| open.view(now)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's record; dropping it is the one way to remove it.
#[derive(Debug)]
pub struct RecordGuard {
    records: Records,
    number: u64,
}

impl RecordGuard {
    /// What the connection is for has become known.
    pub fn identify(&self, session: Option<SessionId>, who: String) {
        if let Some(open) = self.records.state().live.get_mut(&self.number) {
            open.session = session;
            open.who = shortened(who);
        }
    }
}

impl Drop for RecordGuard {
    fn drop(&mut self) {
        let mut state = self.records.state();
        if let Some(open) = state.live.remove(&self.number) {
            state.counts[open.kind as usize].closed += 1;
        }
    }
}

/// How many records of one kind there were and are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Made since the start.
    pub opened: u64,
    /// Removed since the start.
    pub closed: u64,
    /// There now.
    pub live: u64,
}

/// One open connection, as an operator reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordView {
    /// What it is.
    pub kind: Kind,
    /// Whose address.
    pub peer: IpAddr,
    /// Its session, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Its holder, as far as that is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub who: String,
    /// How long it has been open.
    pub age_seconds: u64,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    live: BTreeMap<u64, Open>,
    counts: [RecordCounts; Kind::ALL.len()],
}

#[derive(Debug)]
struct Open {
    kind: Kind,
    peer: IpAddr,
    session: Option<SessionId>,
    who: String,
    since: Instant,
}

impl Open {
    fn view(&self, now: Instant) -> RecordView {
        RecordView {
            kind: self.kind,
            peer: self.peer,
            session_id: self.session.as_ref().map(SessionId::to_string),
            who: self.who.clone(),
            age_seconds: now.saturating_duration_since(self.since).as_secs(),
        }
    }
}

/// A subject is its issuer's text: no more of it than fits a line.
fn shortened(mut who: String) -> String {
    if let Some((end, _)) = who.char_indices().nth(MAX_WHO) {
        who.truncate(end);
    }
    who
}

/// The most characters of a holder's name.
const MAX_WHO: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn count(records: &Records, kind: Kind) -> (u64, u64, u64) {
        let (_, counts) = records.counts()[kind as usize];
        (counts.opened, counts.closed, counts.live)
    }

    #[test]
    fn what_is_made_is_removed_and_counted_both_ways() {
        let records = Records::default();
        let peer = IpAddr::from([127, 0, 0, 1]);
        let first = records.open(Kind::Http, peer, None, String::new());
        let second = records.open(Kind::Http, peer, None, String::new());
        let other = records.open(Kind::Listener, peer, None, "reader".to_owned());
        assert_eq!(count(&records, Kind::Http), (2, 0, 2));
        drop(first);
        assert_eq!(count(&records, Kind::Http), (2, 1, 1));
        assert_eq!(count(&records, Kind::Listener), (1, 0, 1));
        drop((second, other));
        assert!(Kind::ALL.iter().all(|kind| count(&records, *kind).2 == 0));
        assert!(records.list(Instant::now(), 10).is_empty());
    }

    #[test]
    fn an_operator_sees_a_bounded_list_with_names_that_became_known() {
        let records = Records::default();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let guards: Vec<_> = (0..5).map(|_| records.open(Kind::Events, peer, None, String::new())).collect();
        guards[0].identify(None, "é".repeat(200));
        let list = records.list(Instant::now(), 3);
        assert_eq!((list.len(), list[0].who.chars().count()), (3, MAX_WHO));
        let json = serde_json::to_value(&list[1]).unwrap();
        assert_eq!(json, serde_json::json!({ "kind": "events", "peer": "192.0.2.1", "ageSeconds": 0 }));
    }
}
