//! What the sockets of a relay add up to: how many there are, and what waits in them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The figures of all sockets. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    state: Arc<Mutex<Sockets>>,
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Sockets that are open.
    pub live: usize,
    /// Messages that wait to be read by clients.
    pub queued_messages: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// The most bytes that ever waited in one socket.
    pub queued_bytes_max: usize,
}

impl Tally {
    /// One more socket, for as long as the guard lives.
    pub fn open(&self) -> TallyGuard {
        self.state().live += 1;
        TallyGuard { tally: self.clone(), messages: 0, bytes: 0 }
    }

    /// The figures now.
    pub fn sockets(&self) -> Sockets {
        *self.state()
    }

    fn state(&self) -> MutexGuard<'_, Sockets> {
        // Every change under the lock is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One socket's part.
#[derive(Debug)]
pub struct TallyGuard {
    tally: Tally,
    messages: usize,
    bytes: usize,
}

impl TallyGuard {
    /// So much waits in this socket now.
    pub fn queued(&mut self, messages: usize, bytes: usize) {
        if (self.messages, self.bytes) == (messages, bytes) {
            return;
        }
        let mut state = self.tally.state();
        state.queued_messages = state.queued_messages + messages - self.messages;
        state.queued_bytes = state.queued_bytes + bytes - self.bytes;
        state.queued_bytes_max = state.queued_bytes_max.max(bytes);
        (self.messages, self.bytes) = (messages, bytes);
    }
}

impl Drop for TallyGuard {
    fn drop(&mut self) {
        self.queued(0, 0);
        self.tally.state().live -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_socket_adds_it_takes_away() {
        let tally = Tally::default();
        let (mut first, mut second) = (tally.open(), tally.open());
        first.queued(2, 500);
        second.queued(1, 70);
        first.queued(1, 200);
        let sockets = tally.sockets();
        assert_eq!((sockets.live, sockets.queued_messages, sockets.queued_bytes), (2, 2, 270));
        assert_eq!(sockets.queued_bytes_max, 500);
        drop((first, second));
        let sockets = tally.sockets();
        assert_eq!((sockets.live, sockets.queued_messages, sockets.queued_bytes), (0, 0, 0));
    }
}
