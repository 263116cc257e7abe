//! What goes to the listeners: from the engine's outputs to datagrams and rings.

use std::time::Instant;

use relay_engine::{Event, LegId, OutboundPacket, Output};

use super::events::{Begins, Lines, Readers, ShardEvent};
use super::legs::{Hot, Legs};
use super::ring::Pushed;
use super::rtcp;
use super::stats::PlaneCounters;
use crate::webrtc::egress::Batch;
use crate::webrtc::srtp::SealError;

/// What an output leaves to do.
pub(super) enum Outcome {
    Done,
    Event(Event),
    /// The leg's ring or feed is full: it is held until that is drained.
    Stalled(LegId),
}

/// Everything but the engine, so that an output may borrow from that.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) legs: Legs,
    pub(super) batch: Batch,
    pub(super) counters: PlaneCounters,
    pub(super) cname: String,
    pub(super) lines: Lines,
    pub(super) readers: Readers,
}

impl Outbound {
    /// Does what goes to a peer; an event is the plane's.
    pub(super) fn handle(&mut self, output: Output<'_>) -> Outcome {
        match output {
            Output::Packet(packet) => return self.send(&packet).map_or(Outcome::Done, Outcome::Stalled),
            Output::SenderReport { leg, report } => {
                let Outbound { legs, batch, counters, cname, .. } = self;
                rtcp::send_report(legs, batch, counters, leg, &report, cname);
            }
            // Publishers are reported to by `str0m`, which owns their SRTP.
            Output::ReceiverReport { .. } => {}
            Output::Event(event) => return Outcome::Event(event),
        }
        Outcome::Done
    }

    /// Sends a packet on its leg. That leg, if its ring or feed has no room.
    pub(super) fn send(&mut self, packet: &OutboundPacket<'_>) -> Option<LegId> {
        match self.legs.hot(packet.leg) {
            Some(Hot::Srtp(hot)) => {
                let template = hot.templates.template(hot.group, packet);
                let payload = packet.frame.payload;
                let length = template.len() + payload.len() + hot.sender.overhead();
                let Some(out) = self.batch.slot(length) else {
                    self.counters.too_long += 1;
                    return None;
                };
                template.write(packet, out);
                let sealed = if packet.replay {
                    hot.sender.seal_again_behind(packet.index, template.len(), payload, out)
                } else {
                    hot.sender.seal_behind(packet.index, template.len(), payload, out)
                };
                match sealed {
                    Ok(length) => {
                        self.batch.commit(length, hot.destination);
                        self.note_line(packet);
                    }
                    Err(error) => self.refuse(error),
                }
            }
            Some(Hot::Ring(ring)) => match ring.push(packet) {
                Pushed::Taken => self.note_line(packet),
                Pushed::Known => {}
                Pushed::Full => {
                    self.counters.ring_stalls += 1;
                    return Some(packet.leg);
                }
                Pushed::Closed => self.counters.no_keys += 1,
            },
            Some(Hot::Feed(feed)) => match feed.push(packet) {
                // Closed: of a shard that has ended.
                Pushed::Taken | Pushed::Known | Pushed::Closed => {}
                Pushed::Full => {
                    self.counters.feed_stalls += 1;
                    return Some(packet.leg);
                }
            },
            None => self.counters.no_keys += 1,
        }
        None
    }

    /// Tells where the leg's line begins, if it begins here.
    #[inline]
    fn note_line(&mut self, packet: &OutboundPacket<'_>) {
        let begins = self.lines.take(packet.leg, packet.line);
        if begins != Begins::Nothing {
            self.tell_line(packet, begins);
        }
    }

    #[cold]
    fn tell_line(&mut self, packet: &OutboundPacket<'_>, begins: Begins) {
        let OutboundPacket { leg, index, timestamp, ref frame, .. } = *packet;
        let (position, media_time) = (frame.position, frame.media_time);
        self.readers.tell(match begins {
            Begins::Leg => {
                let at = Instant::now();
                ShardEvent::FirstPacketOut { leg, at, index, position, timestamp, media_time }
            }
            _ => ShardEvent::LineStarted { leg, index, position, timestamp, media_time },
        });
    }

    /// A packet that may not be sealed is not sent.
    fn refuse(&mut self, error: SealError) {
        match error {
            SealError::Reused | SealError::Changed => {
                debug_assert!(false, "an index is used for two packets under one key");
                self.counters.seal_reused += 1;
            }
            _ => self.counters.seal_refused += 1,
        }
    }
}
