//! What is told of sessions: copies, taken at one moment.

use super::id::SessionId;
use super::language::Language;
use super::status::Status;

/// What is told of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Its name.
    pub id: SessionId,
    /// Its status.
    pub status: Status,
    /// What the speaker speaks.
    pub source: Language,
    /// Whether the speaker of the source language is connected.
    pub speaker_connected: bool,
    /// Connected listeners of all tracks.
    pub listeners: usize,
    /// Its tracks, the source language first.
    pub tracks: Vec<TrackView>,
    /// Whether anybody may listen.
    pub anonymous_listeners: bool,
    /// The number of its newest event: later ones are not in this view.
    pub seq: u64,
}

/// What is told of a track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackView {
    /// Its language.
    pub language: Language,
    /// Whether its publisher is connected.
    pub speaker_connected: bool,
    /// Whether something of that connection has arrived.
    pub speaker_ready: bool,
    /// Its connected listeners.
    pub listeners: usize,
}

/// Totals over all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sessions that wait for their speaker.
    pub created: usize,
    /// Sessions whose speaker has connected.
    pub active: usize,
    /// Sessions in a break.
    pub paused: usize,
    /// Tracks of live sessions.
    pub tracks: usize,
    /// Publisher slots taken.
    pub publishers: usize,
    /// Listener slots taken.
    pub listeners: usize,
    /// Tokens that connections live on.
    pub leases: usize,
    /// Ended sessions whose ids are remembered.
    pub ended_remembered: usize,
    /// Events that the feed's readers were too slow for.
    pub feed_lost: u64,
}
