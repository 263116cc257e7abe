//! Paused tracks, and what state their publishers' legs would be in.

use std::collections::BTreeMap;

use relay_engine::{LegId, LegState, LegStats, Relay, TrackId};

/// A paused track's publisher is held down; here is the state that it gets back.
///
/// At most one entry per open track.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    tracks: BTreeMap<TrackId, Option<(LegId, LegState)>>,
}

impl Pauses {
    /// The track is paused: its publisher's leg, if it has one, is to be held down.
    pub(super) fn pause(&mut self, relay: &Relay, track: TrackId) -> Option<LegId> {
        let publisher = relay.track_stats(track)?.publisher;
        if self.tracks.contains_key(&track) {
            return None;
        }
        let held = publisher.and_then(|leg| match relay.leg_stats(leg)? {
            LegStats::Publisher(stats) => Some((leg, stats.state)),
            _ => None,
        });
        self.tracks.insert(track, held);
        held.map(|(leg, _)| leg)
    }

    /// The track goes on: the leg that was held, and the state that it is in.
    pub(super) fn resume(&mut self, track: TrackId) -> Option<(LegId, LegState)> {
        self.tracks.remove(&track)?
    }

    /// The state of a publisher's leg of this track changes: what the engine is to be told.
    pub(super) fn state(&mut self, track: TrackId, leg: LegId, state: LegState) -> LegState {
        match self.tracks.get_mut(&track) {
            Some(held) => {
                *held = Some((leg, state));
                LegState::Down
            }
            None => state,
        }
    }

    /// The track is gone.
    pub(super) fn close(&mut self, track: TrackId) {
        self.tracks.remove(&track);
    }
}
