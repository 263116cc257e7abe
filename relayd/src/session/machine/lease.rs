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
    refresh_before: Duration,
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
    /// When something is to be done: the refresh and the warning, then the end.
    due: Instant,
    warned: bool,
    /// When its connections are to be replaced, unless that was said.
    refresh: Option<Instant>,
    holders: BTreeSet<HolderId>,
}

/// What a lease's deadline asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its end is near.
    Warn { subject: Subject, expires: Instant },
    /// Its connections are to be replaced by those of a newer token.
    Refresh { holders: BTreeSet<HolderId>, expires: Instant },
    /// It is over, and forgotten here.
    Over { holders: BTreeSet<HolderId> },
}

impl Leases {
    pub(super) fn new(warn_before: Duration, grace: Duration, refresh_before: Duration) -> Self {
        Self {
            warn_before,
            grace,
            refresh_before,
            leases: BTreeMap::new(),
            keys: BTreeMap::new(),
            due: BTreeSet::new(),
            serial: 0,
        }
    }

    /// One more holder; a token that lasts longer renews the lease for all of them.
    pub(super) fn take(&mut self, now: Instant, holder: HolderId, term: Term) -> LeaseId {
        let key = (term.subject, term.role);
        let id = match self.keys.get(&key) {
            Some(id) => *id,
            None => self.begin(now, key, term.expires),
        };
        let lease = self.leases.get_mut(&id).expect("a key names a lease");
        lease.holders.insert(holder);
        if term.expires > lease.expires {
            self.due.remove(&(lease.due, id));
            (lease.expires, lease.warned) = (term.expires, false);
            lease.refresh = Some(refresh_at(now, term.expires, self.refresh_before));
            lease.due = lease.next(self.warn_before, self.grace);
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
        let what = if lease.refresh.take_if(|at| *at <= now).is_some() {
            Due::Refresh { holders: lease.holders.clone(), expires: lease.expires }
        } else {
            debug_assert!(!lease.warned, "one warning per term");
            lease.warned = true;
            Due::Warn { subject: lease.subject.clone(), expires: lease.expires }
        };
        lease.due = lease.next(self.warn_before, self.grace);
        self.due.insert((lease.due, id));
        Some(what)
    }

    /// When to poll next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Whether it is not over.
    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    fn begin(&mut self, now: Instant, key: (Subject, Role), expires: Instant) -> LeaseId {
        self.serial += 1;
        let id = LeaseId(self.serial);
        let (subject, role) = key.clone();
        let refresh = Some(refresh_at(now, expires, self.refresh_before));
        let holders = BTreeSet::new();
        let mut lease = Lease { subject, role, expires, due: expires, warned: false, refresh, holders };
        lease.due = lease.next(self.warn_before, self.grace);
        let due = lease.due;
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

impl Lease {
    /// What comes first of what was not done.
    fn next(&self, warn_before: Duration, grace: Duration) -> Instant {
        let warning = (!self.warned).then(|| before(self.expires, warn_before));
        let all = [warning, self.refresh].into_iter().flatten();
        all.min().unwrap_or(self.expires + grace)
    }
}

/// When the connections of a token shown at `now` are to be replaced: in the second half of its life.
fn refresh_at(now: Instant, expires: Instant, refresh_before: Duration) -> Instant {
    let left = expires.saturating_duration_since(now);
    before(expires, refresh_before.min(left / 2))
}

/// An instant that cannot be is as good as one long ago.
fn before(instant: Instant, by: Duration) -> Instant {
    instant.checked_sub(by).unwrap_or(instant)
}
