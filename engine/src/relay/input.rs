//! The handlers: what the world did. Nothing that comes from a wire is an error or a panic; it is a verdict.

use std::time::{Duration, Instant};

use super::{Leg, Relay};
use crate::id::LegId;
use crate::io::{Feedback, LegState, Verdict};
use crate::rtp::Packet;
use crate::track::{Arrived, Wire};

impl Relay {
    /// Takes a packet that came on a publisher's leg, decrypted.
    ///
    /// Accepted in any state of the leg but [`Down`](LegState::Down): what was decrypted proves that a leg is usable.
    /// Drain [`poll_output`](Self::poll_output) after it: a frame waits for nothing else.
    pub fn handle_packet(&mut self, now: Instant, from: LegId, packet: Packet) -> Verdict {
        self.advance(now);
        let verdict = self.take_packet(from, packet);
        self.stats.packets_in.count(verdict);
        verdict
    }

    /// Takes feedback that came on a leg: a publisher's sender report, a listener's receiver report or NACK, a BYE.
    ///
    /// From a decrypted datagram to feedback:
    ///
    /// ```
    /// use relay_engine::rtp::rtcp::{Compound, Packet};
    /// use relay_engine::{Feedback, LegId, Relay};
    /// use std::time::Instant;
    ///
    /// fn handle_rtcp(relay: &mut Relay, now: Instant, leg: LegId, datagram: &[u8]) {
    ///     let mut tell = |feedback| {
    ///         relay.handle_feedback(now, leg, feedback);
    ///     };
    ///     for packet in Compound::parse(datagram).map_while(Result::ok) {
    ///         match packet {
    ///             Packet::SenderReport(report, _) => tell(Feedback::SenderReport(report)),
    ///             Packet::ReceiverReport(report) => report.blocks.for_each(|block| tell(Feedback::ReceiverReport(block))),
    ///             Packet::Nack(nacks) => nacks.for_each(|nack| tell(Feedback::Nack(nack))),
    ///             Packet::Bye(_) => tell(Feedback::Bye),
    ///             _ => {} // descriptions and what the relay does not know
    ///         }
    ///     }
    /// }
    /// ```
    pub fn handle_feedback(&mut self, now: Instant, from: LegId, feedback: Feedback) -> Verdict {
        self.advance(now);
        let verdict = self.take_feedback(from, feedback);
        self.stats.feedback_in.count(verdict);
        verdict
    }

    /// Takes the new state of a leg's transport; a stale id is ignored.
    ///
    /// A publisher's leg that was down goes on with its source: what it sent meanwhile is missing, and may be sent again.
    /// [`restart`](Self::restart) says that nobody wanted it.
    ///
    /// A listener's leg that comes up for the first time starts at the live edge, or where its spec says. While it is
    /// not up, what arrives is held for it; when it is up again, it goes on as [`OnReturn`](crate::OnReturn) says.
    /// [`Event::FramesSkipped`](crate::Event::FramesSkipped) says what the history no longer had.
    pub fn handle_leg(&mut self, now: Instant, leg: LegId, state: LegState) {
        self.advance(now);
        match self.legs.get_mut(leg) {
            Some(Leg::Publisher(publisher)) => {
                let (id, returns) = (publisher.track(), publisher.state == LegState::Down);
                publisher.state = state;
                let Some(track) = self.tracks.get_mut(id) else { return };
                if returns && state != LegState::Down {
                    publisher.credit(track.absent(self.now, self.config.history.duration));
                }
                track.set_publisher_state(self.now, leg, state);
                self.fed(id);
            }
            Some(&mut Leg::Listener(listener)) => self.set_listener_state(listener, leg, state),
            None => {}
        }
    }

    /// Tells that time has passed: call it when [`poll_timeout`](Self::poll_timeout) says so, then drain.
    ///
    /// Early or late calls do no harm: what is due is decided by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    fn take_packet(&mut self, from: LegId, packet: Packet) -> Verdict {
        let publisher = match self.legs.get_mut(from) {
            Some(Leg::Publisher(publisher)) => publisher,
            Some(Leg::Listener(_)) => return Verdict::WrongDirection,
            None => return Verdict::UnknownLeg,
        };
        let id = publisher.track();
        let track = self.tracks.get_mut(id).expect("closing a track closes its publisher's leg");
        let wire = Wire::of(&packet);
        let payload_type = Some(packet.header.payload_type);
        let admitted =
            publisher.admit(self.now, payload_type, packet.payload.len(), self.config.max_payload_bytes);
        let taken = admitted.map(|()| {
            let frame = Arrived::packet(self.now, publisher.extensions(), packet);
            track.take(self.now, from, frame)
        });
        let verdict = taken.map_or_else(|refused| refused, |taken| taken.verdict);
        publisher.received(self.now, &wire, verdict, taken.is_ok_and(|taken| taken.begins));
        publisher.packets_in.count(verdict);
        if taken.is_ok() {
            if publisher.wants_reports() && !self.reports.is_set(from.slot()) {
                let at = self.now + self.report_interval();
                self.reports.set(from.slot(), at);
            }
            self.fed(id);
        }
        verdict
    }

    fn take_feedback(&mut self, from: LegId, feedback: Feedback) -> Verdict {
        match self.legs.get_mut(from) {
            Some(Leg::Publisher(publisher)) => {
                let verdict = publisher.feedback(self.now, feedback);
                publisher.feedback_in.count(verdict);
                if let (Feedback::SenderReport(report), Some(track)) =
                    (feedback, self.tracks.get_mut(publisher.track()))
                {
                    track.note_report(from, &report);
                }
                verdict
            }
            Some(&mut Leg::Listener(listener)) => self.take_listener_feedback(listener, from, feedback),
            None => Verdict::UnknownLeg,
        }
    }

    /// Time to the next report of a leg: 0.5 to 1.5 times the configured mean (RFC 3550 §6.2).
    pub(super) fn report_interval(&mut self) -> Duration {
        self.config.report_interval.mul_f64(0.5 + self.random.f64())
    }
}
