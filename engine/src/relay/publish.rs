//! The publisher's side of the relay: second legs, the switch from one to the other, fencing.

use std::time::Instant;

use super::{Leg, Relay};
use crate::id::LegId;
use crate::io::{CarriedFrame, SwitchError, Verdict};
use crate::track::Track;

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
            Some(Leg::Publisher(_)) => Err(SwitchError::OnlyLeg(to)),
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
            self.tracks.get_mut(publisher.track()).into_iter().for_each(Track::restart_source);
        }
    }

    /// Takes a frame from a publisher's leg whose transport carries positions.
    ///
    /// Positions that are missing before it are holes that any leg may still fill.
    pub fn handle_frame(&mut self, now: Instant, from: LegId, frame: CarriedFrame) -> Verdict {
        self.advance(now);
        let verdict = self.take_frame(from, frame);
        self.stats.packets_in.count(verdict);
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
        let verdict = track.take_carried(self.now, frame).err().unwrap_or(Verdict::Accepted);
        publisher.packets_in.count(verdict);
        if verdict == Verdict::Accepted && !track.queued {
            track.queued = true;
            self.queue.push_back(id);
        }
        verdict
    }
}
