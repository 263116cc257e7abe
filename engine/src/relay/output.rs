//! The polls: what must happen next, derived from cursors and due times. Neither reads a clock.

use std::ops::ControlFlow;
use std::time::Instant;

use super::{Leg, Relay};
use crate::id::{LegId, ListenerId, TrackId};
use crate::io::{Deadline, Event, OutboundPacket, Output};
use crate::track::Hand;

impl Relay {
    /// What must happen next; `None` when all is handed out. Call it until then after each handler or command.
    ///
    /// In this order: switches that are done; closed ids; each track's arrivals, in the order the tracks got them, each arrival to all its
    /// listeners before the next; what is due on listeners' legs; silences and reports that are due.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        while self.merge_due() {}
        if let Some(event) = self.spent.pop_front() {
            return Some(Output::Event(event));
        }
        if let Some(peer) = self.closed.pop_front() {
            return Some(Output::Event(Event::Closed { peer }));
        }
        if let Some(hand) = self.next_hand().or_else(|| self.next_turn()) {
            return Some(self.output_of(hand));
        }
        self.next_silence().or_else(|| self.next_report())
    }

    /// Hands out the packets that [`poll_output`](Self::poll_output) would hand out next, as long as that is one frame
    /// that just passes through to one listener after the other, and `each` says to go on.
    ///
    /// It is faster, and what it leaves, which may be all, is polled for: call both in turn until that returns `None`.
    pub fn fan_out(&mut self, each: impl FnMut(&OutboundPacket<'_>) -> ControlFlow<()>) {
        let merges = self.merges.first().is_some_and(|(at, _)| at <= self.now);
        if merges || !self.spent.is_empty() || !self.closed.is_empty() {
            return;
        }
        let Some(&id) = self.queue.front() else { return };
        let track = self.tracks.get_mut(id).expect("a closed track leaves the queue");
        let (packets, bytes) = track.fan_out(&mut self.listeners, each);
        self.stats.packets_out += packets;
        self.stats.payload_bytes_out += bytes;
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest, and why; `None` for never.
    ///
    /// After a drain it is in the future (I4); before, it may have passed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.first_deadline()
    }

    fn next_hand(&mut self) -> Option<Hand> {
        while let Some(&id) = self.queue.front() {
            let track = self.tracks.get_mut(id).expect("a closed track leaves the queue");
            match track.next_hand(&mut self.listeners) {
                Some(Hand::Wake(listener)) => self.schedule(listener),
                Some(hand) => return Some(hand),
                None => {
                    track.queued = false;
                    self.queue.pop_front();
                }
            }
        }
        None
    }

    fn output_of(&mut self, hand: Hand) -> Output<'_> {
        match hand {
            Hand::Packet { track, position, listener, take } => {
                if take.schedule_report {
                    self.schedule_report(listener, take.second);
                }
                let held = self.tracks.get(track).and_then(|track| track.frame(position));
                let frame = held.expect("the walk just read it");
                let listener = self.listeners.get(listener).expect("the walk just offered it the frame");
                self.stats.packets_out += 1;
                self.stats.payload_bytes_out += frame.payload.len() as u64;
                Output::Packet(listener.packet(take, frame))
            }
            Hand::Wake(_) => unreachable!("the queue of tracks deals with it"),
            Hand::Event(event) => {
                match event {
                    Event::TrackActive { track } => self.watch_silence(track),
                    Event::FramesSkipped { count, .. } => self.stats.frames_skipped += count,
                    Event::TrackSilent { .. }
                    | Event::LegSpent { .. }
                    | Event::FramesLost { .. }
                    | Event::Closed { .. } => {}
                }
                Output::Event(event)
            }
        }
    }

    fn schedule_report(&mut self, listener: ListenerId, second: bool) {
        let Some(listener) = self.listeners.get(listener) else { return };
        let leg = listener.second().filter(|_| second).unwrap_or_else(|| listener.leg());
        let at = self.now + self.report_interval();
        self.reports.set(leg.slot(), at);
    }

    fn watch_silence(&mut self, track: TrackId) {
        if let Some(due) = self.silence_due(track) {
            self.silences.set(track.slot(), due);
        }
    }

    fn silence_due(&self, track: TrackId) -> Option<Instant> {
        let arrived = self.tracks.get(track)?.last_arrival()?;
        Some(arrived + self.config.silence_after)
    }

    /// Silence is watched lazily: a deadline that a later frame has overtaken is set anew when it comes.
    fn next_silence(&mut self) -> Option<Output<'static>> {
        while let Some((_, slot)) = self.silences.take_due(self.now) {
            let Some(track) = self.tracks.id_at(slot) else { continue };
            let Some(due) = self.silence_due(track) else { continue };
            if due > self.now {
                self.silences.set(slot, due);
                continue;
            }
            // I4: a silent track has no deadline.
            if let Some(silent) = self.tracks.get_mut(track) {
                silent.fall_silent();
            }
            return Some(Output::Event(Event::TrackSilent { track }));
        }
        None
    }

    fn next_report(&mut self) -> Option<Output<'static>> {
        while let Some((_, slot)) = self.reports.take_due(self.now) {
            let Some(leg) = self.legs.id_at(slot) else { continue };
            if let Some(report) = self.report(leg) {
                let at = self.now + self.report_interval();
                self.reports.set(slot, at);
                self.stats.reports_out += 1;
                return Some(report);
            }
        }
        None
    }

    /// The report of a leg, if it is up and has something to report; else it has no deadline until it has (I4).
    fn report(&mut self, id: LegId) -> Option<Output<'static>> {
        let (now, ntp) = (self.now, self.epoch.ntp(self.now));
        match self.legs.get_mut(id)? {
            Leg::Publisher(publisher) => {
                publisher.report(now).map(|report| Output::ReceiverReport { leg: id, report })
            }
            &mut Leg::Listener(listener) => {
                let listener = self.listeners.get_mut(listener)?;
                let newest = self.tracks.get(listener.track())?.newest()?;
                listener
                    .sender_report(id, now, ntp, (newest.media_time, newest.arrived))
                    .map(|report| Output::SenderReport { leg: id, report })
            }
        }
    }
}
