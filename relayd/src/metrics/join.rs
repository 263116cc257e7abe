//! One attempt to join, from its request to its outcome: told exactly once.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::attempts::{Attempt, AttemptKey};
use super::first_audio::Ticket;
use super::{Metrics, reason_name};
use crate::webrtc::{CloseReason, Joined, Role};

/// An attempt whose outcome is told when it is known: refused, connected or failed.
pub(crate) struct JoinAttempt {
    metrics: Arc<Metrics>,
    role: Role,
    key: AttemptKey,
    attempt: Attempt,
    started: Instant,
    decided: AtomicBool,
    /// Its place among those who wait for audio, given back with the connection.
    ticket: Ticket,
}

impl JoinAttempt {
    /// A request to join came; `who` tells one who joins from another.
    pub(crate) fn begin(metrics: &Arc<Metrics>, started: Instant, role: Role, who: impl Hash) -> Arc<Self> {
        let key = metrics.attempts.key((who, role));
        Arc::new(Self {
            metrics: metrics.clone(),
            role,
            key,
            attempt: metrics.attempts.begin(started, key),
            started,
            decided: AtomicBool::new(false),
            ticket: metrics.first_audio.begin(role, started),
        })
    }

    /// It was not even answered.
    pub(crate) fn refused(&self, reason: &str) {
        self.decide("refused", reason);
    }

    /// It was answered.
    pub(crate) fn answered(&self, joined: &Joined) {
        self.metrics.first_audio.answered(self.ticket.number(), joined);
    }

    /// The connection is up.
    pub(crate) fn connected(&self) {
        self.metrics.joined(self.role, self.started.elapsed());
        self.decide("connected", "none");
    }

    /// The connection is over.
    pub(crate) fn ended(&self, reason: CloseReason) {
        self.metrics.closed(self.role, reason);
        self.decide("failed", reason_name(reason));
    }

    fn decide(&self, result: &'static str, reason: &str) {
        if self.decided.swap(true, Ordering::Relaxed) {
            return;
        }
        let attempts = &self.metrics.attempts;
        match result {
            "connected" => attempts.succeeded(self.key),
            _ => attempts.failed(Instant::now(), self.key),
        }
        self.metrics.attempted(self.role, self.attempt, result, reason);
    }
}

impl fmt::Debug for JoinAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinAttempt")
            .field("role", &self.role)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
