//! How long it takes from a join to the first audio.
//!
//! A listener that comes while its track is silent is *early*: it waits for the speaker, so its time runs from the
//! first packet of the track. Anybody else's runs from the request.
//!
//! Invariant: one entry per connection, from its request to its end; one per track that has media.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relay_engine::{LegId, TrackId};

use crate::shard::ShardEvent;
use crate::webrtc::{Joined, Role};

/// Everybody who waits for their first audio.
#[derive(Debug, Clone, Default)]
pub(crate) struct FirstAudio {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    legs: BTreeMap<LegId, u64>,
    /// Tracks with media, and since when.
    active: BTreeMap<TrackId, Instant>,
}

#[derive(Debug)]
struct Waiting {
    role: Role,
    started: Instant,
    of: Option<(LegId, TrackId)>,
}

/// A connection's place among those who wait; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    first_audio: FirstAudio,
    number: u64,
}

/// One first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) role: Role,
    pub(super) early: bool,
    pub(super) took: Duration,
}

impl FirstAudio {
    /// A request to join came.
    pub(crate) fn begin(&self, role: Role, started: Instant) -> Ticket {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.waiting.insert(number, Waiting { role, started, of: None });
        Ticket { first_audio: self.clone(), number }
    }

    /// It was answered: no packet can have come before. Nothing, if the connection is gone already.
    pub(crate) fn answered(&self, number: u64, joined: &Joined) {
        let mut state = self.state();
        if let Some(waiting) = state.waiting.get_mut(&number) {
            waiting.of = Some((joined.leg, joined.track));
            state.legs.insert(joined.leg, number);
        }
    }

    /// What a shard tells; a sample if it is somebody's first packet.
    pub(super) fn handle(&self, event: &ShardEvent) -> Option<Sample> {
        let mut state = self.state();
        match *event {
            ShardEvent::TrackActive { track, at } => {
                state.active.insert(track, at);
                None
            }
            ShardEvent::TrackSilent { track } | ShardEvent::TrackClosed { track } => {
                state.active.remove(&track);
                None
            }
            ShardEvent::FirstPacketIn { leg, at, .. } | ShardEvent::FirstPacketOut { leg, at, .. } => {
                state.first_packet(leg, at)
            }
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn first_packet(&mut self, leg: LegId, at: Instant) -> Option<Sample> {
        // Taken: what is told again is no other first packet.
        let number = self.legs.remove(&leg)?;
        let waiting = self.waiting.get(&number)?;
        let (_, track) = waiting.of?;
        let began = self.active.get(&track).filter(|began| **began > waiting.started);
        let early = waiting.role == Role::Listener && began.is_some();
        let from = if early { *began? } else { waiting.started };
        Some(Sample { role: waiting.role, early, took: at.saturating_duration_since(from) })
    }
}

impl Ticket {
    /// What [`FirstAudio::answered`] asks for.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.first_audio.state();
        let of = state.waiting.remove(&self.number).and_then(|waiting| waiting.of);
        if let Some((leg, _)) = of {
            state.legs.remove(&leg);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use relay_engine::{Config, Epoch, LegSpec, Relay, TrackSpec};

    use super::*;

    fn joined(now: Instant) -> Joined {
        let mut relay = Relay::new(Config::default(), Epoch { instant: now, wall: SystemTime::now() }, 0);
        let track = relay.open_track(now, TrackSpec { name: "en".to_owned() }).unwrap();
        let (_, leg) = relay.open_listener(now, track, LegSpec::new(96)).unwrap();
        let resource = "0123456789abcdef0123456789abcdef".parse().unwrap();
        Joined { resource, answer: String::new(), etag: String::new(), leg, listener: None, track }
    }

    fn first_out(leg: LegId, at: Instant) -> ShardEvent {
        let media_time = relay_engine::MediaTime::from_ticks(0);
        ShardEvent::FirstPacketOut { leg, at, index: 0, position: 0, timestamp: 0, media_time }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn who_comes_early_waits_for_the_speaker_and_who_comes_late_for_the_relay() {
        let start = Instant::now();
        for (spoke, early, took) in [(0, false, 300), (150, true, 250)] {
            let (first_audio, joined) = (FirstAudio::default(), joined(start));
            let ticket = first_audio.begin(Role::Listener, start + millis(100));
            first_audio.answered(ticket.number(), &joined);
            let active = ShardEvent::TrackActive { track: joined.track, at: start + millis(spoke) };
            assert_eq!(first_audio.handle(&active), None);
            let out = first_out(joined.leg, start + millis(400));
            let sample = Sample { role: Role::Listener, early, took: millis(took) };
            assert_eq!(first_audio.handle(&out), Some(sample));
        }
    }

    #[test]
    fn a_track_that_fell_silent_makes_the_next_one_early() {
        let start = Instant::now();
        let (first_audio, joined) = (FirstAudio::default(), joined(start));
        let track = joined.track;
        first_audio.handle(&ShardEvent::TrackActive { track, at: start });
        first_audio.handle(&ShardEvent::TrackSilent { track });
        let ticket = first_audio.begin(Role::Listener, start + millis(1));
        first_audio.answered(ticket.number(), &joined);
        first_audio.handle(&ShardEvent::TrackActive { track, at: start + millis(500) });
        let out = first_out(joined.leg, start + millis(502));
        assert!(first_audio.handle(&out).is_some_and(|sample| sample.early && sample.took == millis(2)));
    }

    #[test]
    fn nothing_is_kept_of_connections_and_tracks_that_are_gone() {
        let start = Instant::now();
        let (first_audio, joined) = (FirstAudio::default(), joined(start));
        let ticket = first_audio.begin(Role::Listener, start);
        first_audio.answered(ticket.number(), &joined);
        first_audio.handle(&ShardEvent::TrackActive { track: joined.track, at: start });
        let number = ticket.number();
        drop(ticket);
        first_audio.answered(number, &joined);
        first_audio.handle(&ShardEvent::TrackClosed { track: joined.track });
        let out = first_out(joined.leg, start);
        assert_eq!(first_audio.handle(&out), None);
        let state = first_audio.state();
        assert!(state.waiting.is_empty() && state.legs.is_empty() && state.active.is_empty());
    }
}
