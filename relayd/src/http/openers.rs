//! Who opened which leg: what a token is held against when the leg is changed or closed.
//!
//! Invariant: an entry lives from the moment its leg can be named until the leg's record is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Api;
use super::limit::PendingGuard;
use crate::auth::{Caller, Subject};
use crate::session::SessionId;
use crate::webrtc::{CloseReason, Record, ResourceId};

/// Those who opened the legs there are. At most one entry per connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Openers {
    entries: Arc<Mutex<BTreeMap<ResourceId, Opener>>>,
}

/// Who opened a leg, and in which session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opener {
    /// The session.
    pub session: SessionId,
    /// Whose token it was; `None` without one.
    pub subject: Option<Subject>,
}

impl Openers {
    /// Remembers who opened a leg until the guard is dropped.
    pub(super) fn remember(&self, resource: ResourceId, opener: Opener) -> Remembered {
        self.entries().insert(resource, opener);
        Remembered { openers: self.clone(), resource }
    }

    /// Who opened this leg.
    pub(super) fn get(&self, resource: &ResourceId) -> Option<Opener> {
        self.entries().get(resource).cloned()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ResourceId, Opener>> {
        // Every change under the lock is complete in itself.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A leg is there; dropping this forgets who opened it.
#[derive(Debug)]
pub(super) struct Remembered {
    openers: Openers,
    resource: ResourceId,
}

impl Drop for Remembered {
    fn drop(&mut self) {
        self.openers.entries().remove(&self.resource);
    }
}

/// What lasts as long as a connection, besides its slot.
#[derive(Debug)]
pub(super) struct Opened {
    openers: Openers,
    opener: Opener,
    pending: PendingGuard,
}

impl Opened {
    /// By this caller in this session.
    pub(super) fn new(api: &Api, session: &SessionId, caller: &Caller, pending: PendingGuard) -> Self {
        let opener = Opener { session: session.clone(), subject: caller.subject().cloned() };
        Self { openers: api.openers.clone(), opener, pending }
    }

    /// Together with the connection's slot.
    pub(super) fn holding(self, slot: Box<dyn Record>) -> Box<dyn Record> {
        let Self { openers, opener, pending } = self;
        Box::new(Held { slot, openers, opener, remembered: None, pending: Some(pending) })
    }
}

struct Held {
    slot: Box<dyn Record>,
    openers: Openers,
    opener: Opener,
    remembered: Option<Remembered>,
    /// Given back when the connection is up, or gone.
    pending: Option<PendingGuard>,
}

impl Record for Held {
    fn accepted(&mut self, resource: ResourceId) -> Result<(), CloseReason> {
        self.remembered = Some(self.openers.remember(resource, self.opener.clone()));
        self.slot.accepted(resource)
    }

    fn connected(&mut self) {
        self.pending = None;
        self.slot.connected();
    }

    fn disconnected(&mut self, reason: CloseReason) {
        self.slot.disconnected(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_is_known_for_as_long_as_it_is_there() {
        let openers = Openers::default();
        let resource: ResourceId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let opener = Opener { session: SessionId::demo(), subject: None };
        let remembered = openers.remember(resource, opener.clone());
        assert_eq!(openers.get(&resource), Some(opener));
        drop(remembered);
        assert_eq!(openers.get(&resource), None);
    }
}
