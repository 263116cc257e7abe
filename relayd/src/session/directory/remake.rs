//! Tracks whose media thread has failed, and those that take their places.

use std::time::Instant;

use relay_engine::TrackId;

use super::Directory;
use super::shared::Shared;
use crate::session::language::Language;

impl Directory {
    /// Tracks of live sessions whose home is this media thread, and that are to be made anew if it fails.
    pub(in crate::session) fn tracks_on(&self, number: u8) -> Vec<(TrackId, Language)> {
        self.shared.state().entries().flat_map(|entry| entry.machine.tracks_on(number)).collect()
    }

    /// Puts a new track in the place of one whose media thread has failed; `false` when its session has ended, or it was
    /// removed.
    pub(in crate::session) fn remake_track(&self, now: Instant, old: TrackId, new: TrackId) -> bool {
        self.shared.remake_track(now, old, new)
    }
}

impl Shared {
    fn remake_track(&self, now: Instant, old: TrackId, new: TrackId) -> bool {
        let mut state = self.state();
        let Some(id) = state.session_of(old) else { return false };
        let remade = state.change(now, &id, self.feed(), |entry| entry.machine.remake_track(now, old, new));
        if remade {
            state.note_track(new, id);
        }
        self.settle(state);
        remade
    }
}
