//! Leases: how long the tokens last that a session's connections live on.
//!
//! One lease per subject and role, held by their connections; it lasts as long as the latest token that any of them
//! showed. Invariant: a lease has a holder, and exactly one entry among the deadlines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::HolderId;
use crate::auth::{Caller, Role, SessionAccess, Subject};

/// What of a token matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    pub subject: Subject,
    pub role: Role,
    pub expires: Instant,
}

impl Term {
    /// The term of a caller's token, if they have one for this session. Another token, at a session that lets anybody
    /// listen, is as good as none: it renews nothing.
    pub(crate) fn of(caller: &Caller, access: &SessionAccess) -> Option<Self> {
        let grant = caller.grant().filter(|grant| grant.covers(access))?;
        Some(Self { subject: grant.subject.clone(), role: grant.role, expires: grant.expires })
    }
}

/// Names a lease; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeaseId(u64);

/// All leases of a session. Bound: one per holder; about 300 bytes each.
#[derive(Debug)]
pub(super) struct Leases {
    warn_before: Duration,
    grace: Duration,
    leases: BTreeMap<LeaseId, Lease>,
    keys: BTreeMap<(Subject, Role), LeaseId>,
    due: BTreeSet<(Instant, LeaseId)>,
    serial: u64,
}

#[derive(Debug)]
struct Lease {
    subject: Subject,
    role: Role,
    expires: Instant,
    /// When something is to be done: the warning, then the end.
    due: Instant,
    warned: bool,
    holders: BTreeSet<HolderId>,
}

/// What a lease's deadline asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its end is near.
    Warn { subject: Subject, expires: Instant },
    /// It is over, and forgotten here.
    Over { holders: BTreeSet<HolderId> },
}

impl Leases {
    pub(super) fn new(warn_before: Duration, grace: Duration) -> Self {
        Self {
            warn_before,
            grace,
            leases: BTreeMap::new(),
            keys: BTreeMap::new(),
            due: BTreeSet::new(),
            serial: 0,
        }
    }

    /// One more holder; a token that lasts longer renews the lease for all of them.
    pub(super) fn take(&mut self, holder: HolderId, term: Term) -> LeaseId {
        let key = (term.subject, term.role);
        let id = match self.keys.get(&key) {
            Some(id) => *id,
            None => self.begin(key, term.expires),
        };
        let lease = self.leases.get_mut(&id).expect("a key names a lease");
        lease.holders.insert(holder);
        if term.expires > lease.expires {
            self.due.remove(&(lease.due, id));
            (lease.expires, lease.warned) = (term.expires, false);
            lease.due = before(term.expires, self.warn_before);
            self.due.insert((lease.due, id));
        }
        id
    }

    /// A holder has gone. A lease that nobody holds is forgotten, and so is one that was over already.
    pub(super) fn release(&mut self, id: LeaseId, holder: HolderId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.holders.remove(&holder);
        if lease.holders.is_empty() {
            self.remove(id);
        }
    }

    /// What the first deadline that has passed asks for.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Due> {
        let &(due, id) = self.due.first()?;
        if due > now {
            return None;
        }
        let lease = self.leases.get_mut(&id).expect("a deadline names a lease");
        let over = lease.expires + self.grace;
        if over <= now {
            return self.remove(id).map(|lease| Due::Over { holders: lease.holders });
        }
        self.due.remove(&(due, id));
        lease.due = over;
        self.due.insert((over, id));
        debug_assert!(!lease.warned, "one warning per term");
        lease.warned = true;
        Some(Due::Warn { subject: lease.subject.clone(), expires: lease.expires })
    }

    /// When to poll next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    fn begin(&mut self, key: (Subject, Role), expires: Instant) -> LeaseId {
        self.serial += 1;
        let id = LeaseId(self.serial);
        let due = before(expires, self.warn_before);
        let (subject, role) = key.clone();
        let lease = Lease { subject, role, expires, due, warned: false, holders: BTreeSet::new() };
        self.leases.insert(id, lease);
        self.keys.insert(key, id);
        self.due.insert((due, id));
        id
    }

    fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.due.remove(&(lease.due, id));
        self.keys.remove(&(lease.subject.clone(), lease.role));
        Some(lease)
    }
}

/// An instant that cannot be is as good as one long ago.
fn before(instant: Instant, by: Duration) -> Instant {
    instant.checked_sub(by).unwrap_or(instant)
}
