//! The life of a session: one status, one table of transitions, no clock of its own.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

/// The one status of a session. Every check reads this, and an error names the one it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// Nobody has spoken yet; listeners may wait.
    Created,
    /// The speaker has connected, and may be away for a while.
    Active,
    /// The speaker asked for a break.
    Paused,
    /// Over; nothing leads out of it.
    Ended,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Ended => "ended",
        })
    }
}

/// What may happen to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The speaker's connection is up.
    SpeakerConnected,
    /// The speaker asked for a break.
    Pause,
    /// The break is over.
    Resume,
    /// Somebody ended it, or nobody was there for too long.
    End,
}

/// A status and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle {
    status: Status,
    since: Instant,
}

impl Lifecycle {
    /// A session that was just created.
    pub fn new(now: Instant) -> Self {
        Self { status: Status::Created, since: now }
    }

    /// Takes an event; `false` when it changes nothing in this status.
    pub fn handle(&mut self, now: Instant, event: Transition) -> bool {
        let next = match (self.status, event) {
            (Status::Created, Transition::SpeakerConnected) | (Status::Paused, Transition::Resume) => {
                Status::Active
            }
            (Status::Active, Transition::Pause) => Status::Paused,
            (Status::Created | Status::Active | Status::Paused, Transition::End) => Status::Ended,
            _ => return false,
        };
        *self = Self { status: next, since: now };
        true
    }

    /// The status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// When the status was reached.
    pub fn since(&self) -> Instant {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Transition; 4] =
        [Transition::SpeakerConnected, Transition::Pause, Transition::Resume, Transition::End];

    fn reach(events: &[Transition]) -> Lifecycle {
        let now = Instant::now();
        let mut life = Lifecycle::new(now);
        for event in events {
            assert!(life.handle(now, *event), "{event:?} in {}", life.status());
        }
        life
    }

    #[test]
    fn every_transition_is_as_drawn() {
        use Transition::{End, Pause, Resume, SpeakerConnected};
        let check = |path: &[Transition], status: Status, nexts: [Option<Status>; 4]| {
            for (event, next) in EVENTS.into_iter().zip(nexts) {
                let mut life = reach(path);
                assert_eq!(life.status(), status);
                assert_eq!(life.handle(Instant::now(), event), next.is_some(), "{event:?} in {status}");
                assert_eq!(life.status(), next.unwrap_or(status));
            }
        };
        let (active, paused, ended) = (Some(Status::Active), Some(Status::Paused), Some(Status::Ended));
        check(&[], Status::Created, [active, None, None, ended]);
        check(&[SpeakerConnected], Status::Active, [None, paused, None, ended]);
        check(&[SpeakerConnected, Pause], Status::Paused, [None, None, active, ended]);
        check(&[SpeakerConnected, Pause, Resume], Status::Active, [None, paused, None, ended]);
        check(&[SpeakerConnected, End], Status::Ended, [None; 4]);
    }

    #[test]
    fn since_moves_only_with_the_status() {
        let start = Instant::now();
        let later = start + std::time::Duration::from_secs(1);
        let mut life = Lifecycle::new(start);
        assert!(!life.handle(later, Transition::Resume));
        assert_eq!(life.since(), start);
        assert!(life.handle(later, Transition::End));
        assert_eq!(life.since(), later);
    }
}
