//! Listeners and their legs: add, switch, select, pause, replay; what the world did to them; and what is due on them.

use std::time::Instant;

use super::{Leg, Relay, check_limit};
use crate::id::{LegId, ListenerId, Peer, TrackId};
use crate::io::{
    Feedback, LegSpec, LegState, Limit, OpenError, Reason, ReplayError, SelectError, SwitchError,
    UnknownListener, Verdict,
};
use crate::listener::{Close, Listener, ListenerLeg, Turn, View};
use crate::track::Hand;

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
        let open = self.listeners.get(listener).ok_or(OpenError::UnknownListener(listener))?;
        if open.second().is_some() {
            return Err(OpenError::LegExists(listener));
        }
        self.check_leg(&spec)?;
        let leg = self.legs.insert_with(|_| Leg::Listener(listener));
        self.reserve_leg(leg);
        let open = self.listeners.get_mut(listener).ok_or(OpenError::UnknownListener(listener))?;
        open.add(ListenerLeg::new(leg, spec, &mut self.random));
        Ok(leg)
    }

    /// [`switch`](Self::switch), for a listener's leg.
    pub(super) fn switch_listener(&mut self, to: LegId, listener: ListenerId) -> Result<(), SwitchError> {
        let switched = self.with_listener(listener, |listener, view| listener.switch(to, view));
        let spent = switched.ok_or(SwitchError::UnknownLeg(to))??;
        self.spent.extend(spent);
        Ok(())
    }

    /// Gives a listener another track, from its live edge on, on the same leg and SSRC.
    ///
    /// What it was not handed of the old one is not wanted any more: it is not told as skipped. Its index goes on at the
    /// next, its timestamp with the time that passed. The track that it has already is no change.
    ///
    /// # Errors
    ///
    /// [`SelectError`]: the listener or the track is unknown, or the track has as many as it may have.
    pub fn select(&mut self, now: Instant, listener: ListenerId, track: TrackId) -> Result<(), SelectError> {
        self.advance(now);
        let open = self.listeners.get_mut(listener).ok_or(SelectError::UnknownListener(listener))?;
        let to = self.tracks.get(track).ok_or(SelectError::UnknownTrack(track))?;
        let old = open.track();
        if old == track {
            return Ok(());
        }
        let limit = self.config.max_listeners_per_track;
        check_limit(to.members().len(), limit, Limit::ListenersPerTrack)
            .map_err(|_| SelectError::Limit(limit))?;
        let from = self.tracks.get(old).expect("closing a track closes its listeners");
        let views = (from.view(self.now, &self.config), to.view(self.now, &self.config));
        self.spent.extend(open.select(track, &views.0, &views.1));
        let member = open.member;
        self.leave(old, member);
        let joined = self.tracks.get_mut(track).map_or(0, |track| track.join(listener));
        if let Some(open) = self.listeners.get_mut(listener) {
            open.member = joined;
        }
        self.schedule(listener);
        Ok(())
    }

    /// Sends a listener nothing until it is [resumed](Self::resume); what comes meanwhile is not told as skipped.
    ///
    /// Paused already is no change. An ordered switch is done at once if its leg is up.
    ///
    /// # Errors
    ///
    /// [`UnknownListener`].
    pub fn pause(&mut self, now: Instant, listener: ListenerId) -> Result<(), UnknownListener> {
        self.advance(now);
        let paused = self.with_listener(listener, Listener::pause);
        self.spent.extend(paused.ok_or(UnknownListener(listener))?);
        Ok(())
    }

    /// Sends a paused listener what arrives from now on; its index goes on at the next.
    ///
    /// # Errors
    ///
    /// [`UnknownListener`].
    pub fn resume(&mut self, now: Instant, listener: ListenerId) -> Result<(), UnknownListener> {
        self.advance(now);
        self.with_listener(listener, Listener::resume).ok_or(UnknownListener(listener))
    }

    /// Hands frames out again, in order of position and paced, on the leg that its listener is sent on: from a position
    /// on, or after the last one that the far end acknowledged. Returns how many.
    ///
    /// They are marked [`replay`](crate::OutboundPacket::replay), go at [`resend_rate`](crate::Config::resend_rate), and
    /// what arrives meanwhile comes behind them. For a leg that may have lost packets, because its path changed. On a leg
    /// that is not up it is a wish: `from` is where it goes on when it is up again. A paused listener is handed nothing.
    ///
    /// # Errors
    ///
    /// [`ReplayError`]: the leg is unknown, a publisher's, or not the one that its listener is sent on.
    pub fn replay(&mut self, now: Instant, leg: LegId, from: Option<u64>) -> Result<u64, ReplayError> {
        self.advance(now);
        let listener = match self.legs.get(leg) {
            Some(&Leg::Listener(listener)) => listener,
            Some(Leg::Publisher(_)) => return Err(ReplayError::WrongDirection(leg)),
            None => return Err(ReplayError::UnknownLeg(leg)),
        };
        let replayed = self.with_listener(listener, |listener, view| {
            if listener.leg() == leg {
                Ok(listener.replay(from, view))
            } else {
                Err(ReplayError::NotLive(leg))
            }
        });
        replayed.ok_or(ReplayError::UnknownLeg(leg))?
    }

    pub(super) fn set_listener_state(&mut self, listener: ListenerId, leg: LegId, state: LegState) {
        let spent = self.with_listener(listener, |listener, view| listener.set_state(leg, state, view));
        self.spent.extend(spent.flatten());
    }

    pub(super) fn take_listener_feedback(
        &mut self,
        listener: ListenerId,
        leg: LegId,
        feedback: Feedback,
    ) -> Verdict {
        let ntp = self.epoch.ntp(self.now);
        self.with_listener(listener, |listener, view| listener.feedback(leg, ntp, feedback, view))
            .unwrap_or(Verdict::UnknownLeg)
    }

    pub(super) fn close_listener_leg(&mut self, listener: ListenerId, leg: LegId) {
        match self.with_listener(listener, |listener, view| listener.close(leg, view)) {
            Some(Close::Leg(spent)) => {
                self.spent.extend(spent);
                self.remove_leg(leg);
            }
            Some(Close::Listener) => self.close_listener(listener),
            None => {}
        }
    }

    /// Forgets a leg that nobody has any more, and tells so.
    pub(super) fn remove_leg(&mut self, leg: LegId) {
        self.legs.remove(leg);
        self.reports.clear(leg.slot());
        self.turns.clear(leg.slot());
        self.closed.push_back(Peer::Leg(leg));
    }

    /// Room for what is due on a leg, so that setting it allocates nothing.
    pub(super) fn reserve_leg(&mut self, leg: LegId) {
        self.reports.reserve(leg.slot() + 1);
        self.turns.reserve(leg.slot() + 1);
    }

    /// The last listener that joined a track is a feed.
    pub(super) fn lead(&mut self, track: TrackId) {
        let Some(track) = self.tracks.get_mut(track) else { return };
        let listeners = &mut self.listeners;
        track.lead(|slot, place| {
            listeners.at_mut(slot).expect("a closed listener leaves its track").member = place;
        });
    }

    /// Takes a listener off a track.
    pub(super) fn leave(&mut self, track: TrackId, member: usize) {
        let Some(track) = self.tracks.get_mut(track) else { return };
        let listeners = &mut self.listeners;
        track.leave(member, |slot, place| {
            listeners.at_mut(slot).expect("a closed listener leaves its track").member = place;
        });
    }

    /// Does something to a listener, and notes when what of it is due now.
    fn with_listener<T>(
        &mut self,
        id: ListenerId,
        act: impl FnOnce(&mut Listener, &View<'_>) -> T,
    ) -> Option<T> {
        let listener = self.listeners.get_mut(id)?;
        let track = self.tracks.get(listener.track()).expect("closing a track closes its listeners");
        let done = act(listener, &track.view(self.now, &self.config));
        self.schedule(id);
        Some(done)
    }

    /// Notes when what of a listener is due.
    pub(super) fn schedule(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        let Some(track) = self.tracks.get(listener.track()) else { return };
        let view = track.view(self.now, &self.config);
        for (leg, due) in listener.wakes(&view).into_iter().flatten() {
            match due {
                Some(due) => self.turns.set(leg.slot(), due),
                None => self.turns.clear(leg.slot()),
            }
        }
    }

    /// What is due on a listener's leg. All arrivals have been offered before it.
    pub(super) fn next_turn(&mut self) -> Option<Hand> {
        while let Some((_, slot)) = self.turns.take_due(self.now) {
            let Some(leg) = self.legs.id_at(slot) else { continue };
            let Some(&Leg::Listener(listener)) = self.legs.get(leg) else { continue };
            let turn =
                self.with_listener(listener, |listener, view| (listener.turn(leg, view), listener.track()));
            match turn {
                Some((Turn::Hand(position, take), track)) => {
                    return Some(Hand::Packet { track, position, listener, take });
                }
                Some((Turn::Event(event), _)) => return Some(Hand::Event(event)),
                Some((Turn::Nothing, _)) | None => {}
            }
        }
        None
    }

    /// What the due time of a leg's slot is for.
    pub(super) fn turn_reason(&self, slot: usize) -> Option<Reason> {
        let leg = self.legs.id_at(slot)?;
        match self.legs.get(leg)? {
            &Leg::Listener(listener) => self.listeners.get(listener).map(|listener| listener.reason(leg)),
            Leg::Publisher(_) => None,
        }
    }
}
