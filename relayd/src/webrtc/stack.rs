//! One peer's protocol machinery, behind a wall: a panic or an error in it costs this one connection.
//!
//! A publisher's is a `str0m::Rtc`. A listener's media is ours, and so is its ICE: of a stack it needs DTLS alone,
//! which is `dimpl`, as it is inside `str0m`.

mod listener;
mod publisher;
mod shared;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::keys::ExportedKeys;
pub(super) use listener::Listener;
pub(super) use publisher::Publisher;
pub(super) use shared::SharedPublisher;

/// What the stack wants done.
#[derive(Debug)]
pub(super) enum Effect {
    /// Send this datagram. `destination` is binding for replies to STUN only; without it, the peer's path is meant.
    Transmit { destination: Option<SocketAddr>, datagram: Vec<u8> },
    /// The DTLS handshake is complete and the peer's certificate is the one of its offer.
    Connected,
    /// The peer said goodbye.
    Closed,
}

/// Why the stack did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StackError {
    /// It reports an error and is still usable.
    Error(String),
    /// It closed itself (wrong certificate, for one).
    Dead(String),
    /// It panicked and must not be touched again.
    Panicked,
}

/// The stack of one peer.
pub(super) enum Stack {
    Publisher(Arc<SharedPublisher>),
    Listener(Box<Listener>),
}

/// A datagram and its two ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagram<'a> {
    pub(super) source: SocketAddr,
    /// Ours, as far as the stack knows.
    pub(super) destination: SocketAddr,
    pub(super) bytes: &'a [u8],
}

impl Stack {
    /// Takes DTLS, and what else a publisher's stack reads, that the demultiplexer let through.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        datagram: Datagram<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        match self {
            Self::Publisher(stack) => stack.with(|stack| stack.receive(now, datagram, effects)),
            Self::Listener(stack) => stack.receive(now, datagram.bytes, effects),
        }
    }

    /// Lets time pass.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StackError> {
        match self {
            Self::Publisher(stack) => stack.with(|stack| stack.handle_timeout(now, effects)),
            Self::Listener(stack) => stack.handle_timeout(now, effects),
        }
    }

    /// Starts the DTLS handshake over; ICE goes on as it is.
    pub(super) fn restart_dtls(&mut self, now: Instant, effects: &mut Vec<Effect>) -> Result<(), StackError> {
        match self {
            Self::Publisher(stack) => stack.with(|stack| stack.restart_dtls(now, effects)),
            Self::Listener(stack) => stack.restart_dtls(now, effects),
        }
    }

    /// Says goodbye to the peer.
    pub(super) fn close(&mut self, effects: &mut Vec<Effect>) -> Result<(), StackError> {
        match self {
            Self::Publisher(stack) => stack.with(|stack| stack.close(effects)),
            Self::Listener(stack) => stack.close(effects),
        }
    }

    /// The keys of the handshake that completed last; the second call finds none.
    pub(super) fn take_keys(&mut self) -> Option<ExportedKeys> {
        match self {
            Self::Publisher(stack) => stack.with(|stack| Ok(stack.take_keys())).ok().flatten(),
            Self::Listener(stack) => stack.take_keys(),
        }
    }

    /// When the stack wants [`Stack::handle_timeout`].
    pub(super) fn deadline(&self) -> Instant {
        match self {
            Self::Publisher(stack) => stack.deadline(),
            Self::Listener(stack) => stack.deadline(),
        }
    }
}

/// Calls into the libraries below; a panic in there becomes an error here.
pub(super) fn wall<T>(call: impl FnOnce() -> T) -> Result<T, StackError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| StackError::Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stays_behind_the_wall() {
        let result: Result<(), StackError> = wall(|| panic!("a bug in the stack"));
        assert_eq!(result, Err(StackError::Panicked));
        assert_eq!(wall(|| 1), Ok(1));
    }
}
