//! Paused tracks, and what state their publishers' legs would be in.

use std::collections::BTreeMap;

use relay_engine::{LegId, LegState, LegStats, Relay, TrackId};

/// A paused track's publishers are held down; here are the states that they get back.
///
/// At most one entry per open track, with one for each of its publisher's legs, of which the engine allows two.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    tracks: BTreeMap<TrackId, Vec<(LegId, LegState)>>,
}

impl Pauses {
    /// The track is paused: its publisher's legs are to be held down. None, if it is paused already.
    pub(super) fn pause(&mut self, relay: &Relay, track: TrackId) -> Vec<LegId> {
        let Some(stats) = relay.track_stats(track).filter(|_| !self.tracks.contains_key(&track)) else {
            return Vec::new();
        };
        let legs = [stats.publisher, stats.second_publisher].into_iter().flatten();
        let held = legs.filter_map(|leg| match relay.leg_stats(leg)? {
            LegStats::Publisher(stats) => Some((leg, stats.state)),
            _ => None,
        });
        let held: Vec<_> = held.collect();
        let legs = held.iter().map(|(leg, _)| *leg).collect();
        self.tracks.insert(track, held);
        legs
    }

    /// The track goes on: the legs that were held, and the states that they are in.
    pub(super) fn resume(&mut self, track: TrackId) -> Vec<(LegId, LegState)> {
        self.tracks.remove(&track).unwrap_or_default()
    }

    /// The state of a publisher's leg of this track changes: what the engine is to be told.
    pub(super) fn state(&mut self, track: TrackId, leg: LegId, state: LegState) -> LegState {
        let Some(held) = self.tracks.get_mut(&track) else { return state };
        match held.iter_mut().find(|(known, _)| *known == leg) {
            Some(known) => known.1 = state,
            None => held.push((leg, state)),
        }
        LegState::Down
    }

    /// A publisher's leg is gone.
    pub(super) fn forget(&mut self, leg: LegId) {
        self.tracks.values_mut().for_each(|held| held.retain(|(known, _)| *known != leg));
    }

    /// The track is gone.
    pub(super) fn close(&mut self, track: TrackId) {
        self.tracks.remove(&track);
    }
}
