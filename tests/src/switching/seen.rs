//! What came out of the relay, taken down small: what is checked of it, and a hash of the rest.

use std::time::{Duration, Instant};

use relay_engine::{Event, LegId, ListenerId, OutboundPacket, Output};

use super::frames::{FrameId, identify};
use crate::oracle::{Check, broken};
use crate::stream::fnv;

/// One output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A packet for a listener.
    Packet(Handed),
    /// A report on a leg: its hash. What reports say is checked by the other worlds.
    Report(LegId, u64),
    /// An event.
    Event(Event),
}

/// A packet for a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Whom it is for.
    pub listener: ListenerId,
    /// The leg.
    pub leg: LegId,
    /// The leg's SSRC.
    pub ssrc: u32,
    /// The 48-bit index.
    pub index: u64,
    /// The leg's line.
    pub line: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// The frame's position.
    pub position: u64,
    /// The frame's media time, ticks.
    pub media_time: u64,
    /// When the relay says that the frame arrived.
    pub arrived: Duration,
    /// Marked as a replay.
    pub replay: bool,
    /// Who the payload says it is.
    pub id: Option<FrameId>,
    /// The frame's ticks as its encoder counts them; filled in by the world.
    pub ticks_said: u64,
    /// A hash of everything that would be encrypted or authenticated under the index.
    pub plaintext: u64,
}

impl Seen {
    /// Takes down an output; instants are counted from `base`.
    pub(super) fn take_down(output: &Output<'_>, base: Instant, wire: &mut [u8]) -> Check<Self> {
        Ok(match output {
            Output::Packet(packet) => Self::Packet(Handed::take_down(packet, base, wire)?),
            Output::SenderReport { leg, report } => Self::Report(*leg, fnv(format!("{report:?}").as_bytes())),
            Output::ReceiverReport { leg, report } => {
                Self::Report(*leg, fnv(format!("{report:?}").as_bytes()))
            }
            Output::Event(event) => Self::Event(*event),
        })
    }

    /// A number that differs between outputs that differ.
    pub(super) fn digest(&self) -> u64 {
        match self {
            Self::Packet(packet) => {
                let place = packet.index ^ packet.position.rotate_left(20) ^ packet.line.rotate_left(40);
                packet.plaintext ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(packet.replay)
            }
            Self::Report(_, hash) => *hash,
            Self::Event(event) => fnv(format!("{event:?}").as_bytes()),
        }
    }
}

impl Handed {
    fn take_down(packet: &OutboundPacket<'_>, base: Instant, wire: &mut [u8]) -> Check<Self> {
        let length =
            packet.write(wire).map_err(|error| broken("wire", format!("cannot be written: {error}")))?;
        Ok(Self {
            listener: packet.listener,
            leg: packet.leg,
            ssrc: packet.ssrc,
            index: packet.index,
            line: packet.line,
            timestamp: packet.timestamp,
            position: packet.frame.position,
            media_time: packet.frame.media_time.ticks(),
            arrived: packet.frame.arrived.saturating_duration_since(base),
            replay: packet.replay,
            id: identify(packet.frame.payload),
            ticks_said: 0,
            plaintext: hash(&wire[..length]),
        })
    }
}

/// Eight bytes at a time; no cryptography.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ hash >> 29
}
