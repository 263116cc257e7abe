//! A publisher's stack as the plane and the receivers share it: what the publisher says goes to its shard from the thread
//! that reads it, and no other thread has to wake for it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::{Publisher, StackError};

pub(in crate::webrtc) struct SharedPublisher(Mutex<Inner>);

struct Inner {
    publisher: Publisher,
    /// It panicked.
    failed: bool,
}

impl fmt::Debug for SharedPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the keys.
        f.debug_struct("SharedPublisher").finish_non_exhaustive()
    }
}

impl SharedPublisher {
    pub(in crate::webrtc) fn new(publisher: Publisher) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner { publisher, failed: false })))
    }

    /// Has the stack do something, unless it has panicked before.
    pub(in crate::webrtc) fn with<T>(
        &self,
        call: impl FnOnce(&mut Publisher) -> Result<T, StackError>,
    ) -> Result<T, StackError> {
        let mut inner = self.inner();
        if inner.failed {
            return Err(StackError::Panicked);
        }
        let result = call(&mut inner.publisher);
        inner.failed = matches!(result, Err(StackError::Panicked));
        result
    }

    /// When the stack wants [`Publisher::handle_timeout`].
    pub(in crate::webrtc) fn deadline(&self) -> Instant {
        self.inner().publisher.deadline()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| {
            let mut inner = poisoned.into_inner();
            inner.failed = true;
            inner
        })
    }
}
