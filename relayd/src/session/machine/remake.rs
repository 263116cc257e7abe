//! A track whose media thread has failed: another one takes its place in the session.
//!
//! What was on the old one is gone, its history too: the new one counts from the start. So whoever was there comes anew
//! and not by a ticket, which would go on at a position that means nothing any more.

use std::time::Instant;

use relay_engine::TrackId;

use super::{Machine, MemberId, Output};
use crate::session::language::Language;
use crate::session::status::Status;
use crate::webrtc::CloseReason;

impl Machine {
    /// Tracks with their home on this media thread that are to be made anew if it fails. A permanent session's belong to
    /// who made it.
    pub(in crate::session) fn tracks_on(&self, number: u8) -> impl Iterator<Item = (TrackId, Language)> {
        let there =
            self.tracks.iter().filter(move |track| track.id.relay() == number && !self.rules.permanent);
        there.map(|track| (track.id, track.language.clone()))
    }

    /// Puts a new track in the place of one whose media thread has failed, and dismisses whoever was there; `false` when
    /// it is not there any more.
    pub(in crate::session) fn remake_track(&mut self, now: Instant, old: TrackId, new: TrackId) -> bool {
        let index = self.tracks.iter().position(|track| track.id == old);
        let Some(index) = index.filter(|_| !self.is_over()) else { return false };
        self.tell_losses(index, None);
        let there = self.members.iter().filter(|(_, member)| member.seated && member.track == old);
        let there: Vec<MemberId> = there.map(|(id, _)| *id).collect();
        for member in there {
            self.dismiss(now, member, CloseReason::MediaFailed);
        }
        self.tracks[index].id = new;
        if self.status() == Status::Paused {
            self.outputs.push_back(Output::PauseTrack { track: new, paused: true });
        }
        self.outputs.push_back(Output::CloseTrack(old));
        true
    }
}
