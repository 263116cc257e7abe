//! The relay: tracks, legs and listeners, and the calls that drive them.

use std::time::Instant;

use crate::config::Config;
use crate::id::{LegId, ListenerId, Peer, TrackId};
use crate::io::{Deadline, Feedback, LegSpec, LegState, OpenError, Output, TrackSpec, Verdict};
use crate::rtp::Packet;
use crate::stats::{LegStats, ListenerStats, Stats, TrackStats};
use crate::time::Epoch;

/// Relays live Opus audio from each track's publisher to its listeners.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    epoch: Epoch,
    random: fastrand::Rng,
}

impl Relay {
    /// A relay without tracks.
    #[must_use]
    pub fn new(config: Config, epoch: Epoch, seed: u64) -> Self {
        Self { config, epoch, random: fastrand::Rng::with_seed(seed) }
    }

    /// Opens a track.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_track(&mut self, _now: Instant, spec: TrackSpec) -> Result<TrackId, OpenError> {
        Err(OpenError::TrackName(spec.name.len()))
    }

    /// Opens a publisher leg.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_publisher_leg(
        &mut self,
        _now: Instant,
        track: TrackId,
        _spec: LegSpec,
    ) -> Result<LegId, OpenError> {
        Err(OpenError::UnknownTrack(track))
    }

    /// Opens a listener.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_listener(
        &mut self,
        _now: Instant,
        track: TrackId,
        _spec: LegSpec,
    ) -> Result<(ListenerId, LegId), OpenError> {
        Err(OpenError::UnknownTrack(track))
    }

    /// Closes a peer.
    pub fn close(&mut self, _now: Instant, _peer: Peer) {}

    /// Takes a packet that came from a publisher.
    pub fn handle_packet(&mut self, _now: Instant, _from: LegId, _packet: Packet) -> Verdict {
        Verdict::UnknownLeg
    }

    /// Takes feedback.
    pub fn handle_feedback(&mut self, _now: Instant, _from: LegId, _feedback: Feedback) -> Verdict {
        Verdict::UnknownLeg
    }

    /// Takes the new state of a leg.
    pub fn handle_leg(&mut self, _now: Instant, _leg: LegId, _state: LegState) {}

    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// What must happen next.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        let _ = (&self.config, &self.epoch, &mut self.random);
        None
    }

    /// When to come back.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        None
    }

    /// Counters of the whole.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// A track's counters.
    #[must_use]
    pub fn track_stats(&self, _track: TrackId) -> Option<TrackStats> {
        None
    }

    /// A leg's counters.
    #[must_use]
    pub fn leg_stats(&self, _leg: LegId) -> Option<LegStats> {
        None
    }

    /// A listener's counters.
    #[must_use]
    pub fn listener_stats(&self, _listener: ListenerId) -> Option<ListenerStats> {
        None
    }

    /// Nothing is left to hand out.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        true
    }
}
