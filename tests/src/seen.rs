//! What came out of the relay, taken down: owned, on the world's clock, ready to be checked and digested.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use relay_engine::rtp::rtcp;
use relay_engine::{Event, LegId, ListenerId, Output, Relay};

use crate::oracle::{Check, broken};
use crate::stream::fnv;

/// Takes down up to `most` outputs, also by [`Relay::fan_out`] if it `fans_out`: what comes must be the same.
pub(crate) fn drain<T>(
    relay: &mut Relay,
    fans_out: bool,
    most: usize,
    outputs: &mut Vec<T>,
    mut take_down: impl FnMut(&Output<'_>) -> Check<T>,
) -> Check<()> {
    let mut broken = Ok(());
    while outputs.len() < most {
        if fans_out {
            relay.fan_out(|packet| {
                match take_down(&Output::Packet(*packet)) {
                    Ok(seen) => outputs.push(seen),
                    Err(violation) => broken = Err(violation),
                }
                if broken.is_ok() && outputs.len() < most {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            std::mem::replace(&mut broken, Ok(()))?;
        }
        if outputs.len() < most {
            let Some(output) = relay.poll_output() else { break };
            outputs.push(take_down(&output)?);
        }
    }
    Ok(())
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A packet for a listener.
    Packet(SeenPacket),
    /// A sender report on a listener's leg.
    SenderReport(LegId, rtcp::SenderReport),
    /// A report block on a publisher's leg.
    ReceiverReport(LegId, rtcp::ReportBlock),
    /// An event.
    Event(Event),
}

impl Seen {
    /// Takes down an output; instants are counted from `base`.
    pub(crate) fn take_down(output: &Output<'_>, base: Instant) -> Check<Self> {
        Ok(match output {
            Output::Packet(packet) => {
                let mut wire = vec![0; 12 + 64 + packet.frame.payload.len()];
                let written = packet.write(&mut wire);
                let length =
                    written.map_err(|error| broken("wire", format!("cannot be written: {error}")))?;
                wire.truncate(length);
                Self::Packet(SeenPacket {
                    listener: packet.listener,
                    leg: packet.leg,
                    index: packet.index,
                    position: packet.frame.position,
                    media_time: packet.frame.media_time.ticks(),
                    arrived: packet.frame.arrived.saturating_duration_since(base),
                    replay: packet.replay,
                    wire,
                })
            }
            Output::SenderReport { leg, report } => Self::SenderReport(*leg, *report),
            Output::ReceiverReport { leg, report } => Self::ReceiverReport(*leg, *report),
            Output::Event(event) => Self::Event(*event),
        })
    }
}

/// A packet for a listener: what the relay says of it, and the bytes that it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPacket {
    /// Whom it is for.
    pub listener: ListenerId,
    /// The leg.
    pub leg: LegId,
    /// The 48-bit index.
    pub index: u64,
    /// The frame's position.
    pub position: u64,
    /// The frame's media time, ticks.
    pub media_time: u64,
    /// When the relay says that the frame arrived.
    pub arrived: Duration,
    /// Marked as a replay.
    pub replay: bool,
    /// The RTP packet.
    pub wire: Vec<u8>,
}

/// The fixed fields of an RTP packet, read here by hand: a second opinion on the engine's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Marker bit.
    pub marker: bool,
    /// Payload type.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp.
    pub timestamp: u32,
    /// SSRC.
    pub ssrc: u32,
    /// The one-byte extension block; empty without one.
    pub extensions: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads a packet without CSRCs and padding, as the relay must write them.
    #[must_use]
    pub fn read(wire: &'a [u8]) -> Option<Self> {
        let (fixed, mut payload) = wire.split_first_chunk::<12>()?;
        let &[first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = fixed;
        let mut extensions = &[][..];
        match first {
            0x80 => {}
            0x90 => {
                let (&[p0, p1, l0, l1], rest) = payload.split_first_chunk::<4>()?;
                let bytes = usize::from(u16::from_be_bytes([l0, l1])) * 4;
                if [p0, p1] != [0xbe, 0xde] {
                    return None;
                }
                (extensions, payload) = rest.split_at_checked(bytes)?;
            }
            _ => return None,
        }
        Some(Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            extensions,
            payload,
        })
    }

    /// The value of a one-byte extension.
    #[must_use]
    pub fn extension(&self, id: u8) -> Option<&'a [u8]> {
        let mut rest = self.extensions;
        while let Some((&head, tail)) = rest.split_first() {
            let length = if head == 0 { 0 } else { usize::from(head & 0x0f) + 1 };
            let (value, after) = tail.split_at_checked(length)?;
            if head >> 4 == id && head != 0 {
                return Some(value);
            }
            rest = after;
        }
        None
    }
}

/// A running digest of everything that came out: equal runs have equal digests (I5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// Adds an output.
    pub fn output(&mut self, seen: &Seen) {
        match seen {
            Seen::Packet(packet) => {
                self.number(packet.index);
                self.number(packet.position);
                self.number(packet.media_time);
                self.number(packet.arrived.as_nanos() as u64);
                self.number(fnv(&packet.wire));
            }
            other => self.text(&format!("{other:?}")),
        }
    }

    /// Adds anything that prints.
    pub fn text(&mut self, text: &str) {
        self.number(fnv(text.as_bytes()));
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}
