//! The publisher's side of the relay: second legs, the switch from one to the other, fencing.

use std::time::Instant;

use super::{Leg, Relay};
use crate::frame::CarriedFrame;
use crate::id::{LegId, TrackId};
use crate::io::{SwitchError, Verdict};
use crate::track::Arrived;

impl Relay {
    /// Moves a listener or a track to this leg, beside the other one it has.
    ///
    /// Calling it again does no harm. [`Event::LegSpent`](crate::Event::LegSpent) tells when the other leg may go.
    ///
    /// # Errors
    ///
    /// [`SwitchError`]: the leg is unknown, the only one, or not up.
    pub fn switch(&mut self, now: Instant, to: LegId) -> Result<(), SwitchError> {
        self.advance(now);
        match self.legs.get(to) {
            Some(&Leg::Listener(listener)) => self.switch_listener(to, listener),
            Some(Leg::Publisher(_)) => self.switch_publisher(to),
            None => Err(SwitchError::UnknownLeg(to)),
        }
    }

    /// What a publisher's leg sends from now on begins its source anew: it follows at the next position, with the time
    /// that passed. What it sent and the relay did not take is no loss: the track was paused.
    ///
    /// Without this a leg that was down and comes up again leaves holes for what was lost meanwhile.
    pub fn restart(&mut self, now: Instant, leg: LegId) {
        self.advance(now);
        if let Some(Leg::Publisher(publisher)) = self.legs.get(leg) {
            let id = publisher.track();
            if let Some(track) = self.tracks.get_mut(id) {
                track.restart_publisher(leg);
            }
            self.fed(id);
        }
    }

    /// Takes a frame from a publisher's leg whose transport carries positions.
    ///
    /// Positions that are missing before it are holes that any leg may still fill.
    ///
    /// The first frame of a track says where it begins, up to 2^40: a publisher that goes on after the relay was started
    /// anew begins far up. From then on a frame is ahead of the next position by no more than the history spans.
    pub fn handle_frame(&mut self, now: Instant, from: LegId, frame: CarriedFrame) -> Verdict {
        self.advance(now);
        let verdict = self.take_frame(from, frame);
        self.stats.packets_in.count(verdict);
        verdict
    }

    /// Takes a frame that another relay of this process has placed and handed out on a [feed](crate::LegSpec::feed): it has the
    /// same position and media time here, and the time at which it `arrived` there.
    ///
    /// No rate limits it, and it is not among the packets of [`Stats`](crate::Stats) that came in.
    pub fn handle_fed(
        &mut self,
        now: Instant,
        from: LegId,
        arrived: Instant,
        frame: CarriedFrame,
    ) -> Verdict {
        self.advance(now);
        let Some(Leg::Publisher(publisher)) = self.legs.get_mut(from) else { return Verdict::UnknownLeg };
        let id = publisher.track();
        let track = self.tracks.get_mut(id).expect("closing a track closes its publisher's leg");
        let bytes = frame.payload.len();
        let checked = publisher.check(None, bytes, self.config.max_payload_bytes);
        let arrived = Arrived::placed(arrived.min(self.now), frame);
        let verdict =
            checked.map_or_else(|refused| refused, |()| track.take(self.now, from, arrived).verdict);
        publisher.carried(bytes, verdict);
        self.fed(id);
        verdict
    }

    fn take_frame(&mut self, from: LegId, frame: CarriedFrame) -> Verdict {
        let publisher = match self.legs.get_mut(from) {
            Some(Leg::Publisher(publisher)) => publisher,
            Some(Leg::Listener(_)) => return Verdict::WrongDirection,
            None => return Verdict::UnknownLeg,
        };
        let id = publisher.track();
        let track = self.tracks.get_mut(id).expect("closing a track closes its publisher's leg");
        let bytes = frame.payload.len();
        let admitted = publisher.admit(self.now, None, bytes, self.config.max_payload_bytes);
        let taken = admitted.map(|()| track.take(self.now, from, Arrived::carried(self.now, frame)));
        let verdict = taken.map_or_else(|refused| refused, |taken| taken.verdict);
        publisher.carried(bytes, verdict);
        self.fed(id);
        verdict
    }

    pub(super) fn switch_publisher(&mut self, to: LegId) -> Result<(), SwitchError> {
        let Some(Leg::Publisher(publisher)) = self.legs.get(to) else {
            return Err(SwitchError::UnknownLeg(to));
        };
        if publisher.fenced {
            return Err(SwitchError::NotUp(to));
        }
        let id = publisher.track();
        let track = self.tracks.get_mut(id).ok_or(SwitchError::UnknownLeg(to))?;
        let switched = track.switch_publisher(self.now, to);
        self.fed(id);
        switched
    }

    /// Something came to a track, or its legs changed: what follows from it is noted.
    pub(super) fn fed(&mut self, id: TrackId) {
        let Some(track) = self.tracks.get_mut(id) else { return };
        self.spent.extend(track.take_spent());
        if track.has_news() && !track.queued {
            track.queued = true;
            self.queue.push_back(id);
        }
        match track.merge_due() {
            Some(at) => self.merges.set(id.slot(), at),
            None => self.merges.clear(id.slot()),
        }
    }

    /// Places what has been held for long enough; `false` if nothing was due.
    pub(super) fn merge_due(&mut self) -> bool {
        let Some((_, slot)) = self.merges.take_due(self.now) else { return false };
        let Some(id) = self.tracks.id_at(slot) else { return true };
        if let Some(track) = self.tracks.get_mut(id) {
            track.merge_timeout(self.now);
            debug_assert!(track.merge_due().is_none_or(|due| due > self.now), "I4: it is not due again");
        }
        self.fed(id);
        true
    }
}
