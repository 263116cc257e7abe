//! Whose an address is: the one table that all receivers and the plane share.
//!
//! An address is somebody's towards one of our ports. Behind a NAT that looks at both ends of a flow, two peers who send to
//! different ports may come from the same one (RFC 4787 §4.1).
//!
//! Only addresses that an authenticated STUN binding came from have an entry, and only the plane makes and drops them.
//! Bounded by the connections and their addresses; ≈ 64 bytes each and one [`Route`] for each connection.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use relay_engine::LegId;

use super::Role;
use super::ingest::Ingest;
use crate::shard::Allowance;

/// What a receiver has to know of the connection that a datagram is for.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) slot: usize,
    pub(super) role: Role,
    /// Where a listener's reports go, once it is up.
    reports: OnceLock<LegId>,
    /// What takes a publisher's media, once it is up.
    ingest: OnceLock<Ingest>,
    /// The peer is missed: what anybody may send in its name does not bring it back.
    missed: AtomicBool,
    since: Instant,
    /// When it was heard last, in milliseconds since `since`.
    heard: AtomicU64,
    /// What the peer may still send of reports.
    feedback: Mutex<Allowance>,
}

impl Route {
    pub(super) fn new(now: Instant, slot: usize, role: Role) -> Self {
        Self {
            slot,
            role,
            reports: OnceLock::new(),
            ingest: OnceLock::new(),
            missed: AtomicBool::new(false),
            since: now,
            heard: AtomicU64::new(0),
            feedback: Mutex::default(),
        }
    }

    /// Reports go straight to the shard from now on.
    pub(super) fn open_reports(&self, leg: LegId) {
        // A connection has one leg in its life.
        let _same = self.reports.set(leg).is_err();
    }

    pub(super) fn reports(&self) -> Option<LegId> {
        self.reports.get().copied()
    }

    /// Media goes from the receivers straight to the shard from now on.
    pub(super) fn open_ingest(&self, ingest: Ingest) {
        let _same = self.ingest.set(ingest).is_err();
    }

    pub(super) fn ingest(&self) -> Option<&Ingest> {
        self.ingest.get()
    }

    /// A datagram came from the peer's address, which anybody may forge.
    pub(super) fn hear(&self, now: Instant) {
        if !self.missed.load(Ordering::Relaxed) {
            let heard = now.saturating_duration_since(self.since).as_millis() as u64;
            self.heard.fetch_max(heard, Ordering::Relaxed);
        }
    }

    pub(super) fn heard(&self) -> Instant {
        self.since + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    pub(super) fn miss(&self, missed: bool) {
        self.missed.store(missed, Ordering::Relaxed);
    }

    /// Whether one more report may pass.
    pub(super) fn admit_report(&self, now: Instant, rate: u32) -> bool {
        self.feedback.lock().unwrap_or_else(PoisonError::into_inner).take(now, rate)
    }
}

/// The number of a port of ours, and the address that is heard there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) port: u8,
    pub(super) source: SocketAddr,
}

/// Addresses and whose they are.
#[derive(Debug)]
pub(super) struct Routes {
    parts: Vec<RwLock<HashMap<Pair, Arc<Route>>>>,
    hasher: RandomState,
    length: AtomicUsize,
}

/// So many locks that receivers seldom meet.
const PARTS: usize = 64;

impl Routes {
    pub(super) fn new() -> Self {
        let parts = std::iter::repeat_with(RwLock::default).take(PARTS).collect();
        Self { parts, hasher: RandomState::new(), length: AtomicUsize::new(0) }
    }

    pub(super) fn get(&self, pair: &Pair) -> Option<Arc<Route>> {
        self.part(pair).read().unwrap_or_else(PoisonError::into_inner).get(pair).cloned()
    }

    pub(super) fn insert(&self, pair: Pair, route: Arc<Route>) {
        let before = self.part(&pair).write().unwrap_or_else(PoisonError::into_inner).insert(pair, route);
        self.length.fetch_add(usize::from(before.is_none()), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, pair: &Pair) {
        let before = self.part(pair).write().unwrap_or_else(PoisonError::into_inner).remove(pair);
        self.length.fetch_sub(usize::from(before.is_some()), Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    fn part(&self, pair: &Pair) -> &RwLock<HashMap<Pair, Arc<Route>>> {
        &self.parts[self.hasher.hash_one(pair) as usize % PARTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_connections_at_a_time() {
        let (now, routes) = (Instant::now(), Routes::new());
        let address = |port: u16| Pair { port: 0, source: SocketAddr::from(([192, 0, 2, 1], port)) };
        for port in 1..200 {
            routes.insert(address(port), Arc::new(Route::new(now, port.into(), Role::Listener)));
        }
        routes.insert(address(7), Arc::new(Route::new(now, 1000, Role::Listener)));
        assert_eq!((routes.len(), routes.get(&address(7)).unwrap().slot), (199, 1000));
        routes.remove(&address(7));
        routes.remove(&address(7));
        assert_eq!((routes.len(), routes.get(&address(7)).is_none()), (198, true));
    }

    #[test]
    fn an_address_is_anothers_at_another_port() {
        let (now, routes) = (Instant::now(), Routes::new());
        let pair = |port| Pair { port, source: SocketAddr::from(([192, 0, 2, 1], 7)) };
        for port in 0..3 {
            routes.insert(pair(port), Arc::new(Route::new(now, port.into(), Role::Listener)));
        }
        routes.remove(&pair(1));
        let slots = [0, 1, 2].map(|port| routes.get(&pair(port)).map(|route| route.slot));
        assert_eq!((routes.len(), slots), (2, [Some(0), None, Some(2)]));
    }

    #[test]
    fn a_missed_peer_is_not_heard_by_what_anybody_may_send() {
        let now = Instant::now();
        let route = Route::new(now, 0, Role::Listener);
        route.hear(now + Duration::from_secs(1));
        route.miss(true);
        route.hear(now + Duration::from_secs(2));
        assert_eq!(route.heard(), now + Duration::from_secs(1));
        route.miss(false);
        route.hear(now + Duration::from_secs(3));
        assert_eq!(route.heard(), now + Duration::from_secs(3));
    }

    #[test]
    fn reports_above_their_rate_do_not_pass() {
        let now = Instant::now();
        let route = Route::new(now, 0, Role::Listener);
        assert_eq!((0..100).filter(|_| route.admit_report(now, 10)).count(), 10);
    }
}
