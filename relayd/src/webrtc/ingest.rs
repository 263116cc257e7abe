//! A publisher's media, from the datagram to its shard.
//!
//! Once a publisher is up, the receiver that reads its packets opens them and hands them on; the plane is told afterwards
//! and does what else the stack wants done. Between a publisher's packet and its listeners two threads wake, not three.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use relay_engine::LegId;

use super::routes::Route;
use super::stack::{Effect, SharedPublisher, StackError};
use crate::shard::Shards;

/// A publisher's stack, and where its packets go.
#[derive(Debug)]
pub(super) struct Ingest {
    pub(super) leg: LegId,
    pub(super) stack: Arc<SharedPublisher>,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its packet is with the shard.
    Packet,
    /// It is no packet of the publisher's, or was one before.
    Nothing,
    /// The shard's queue is full.
    Full,
}

/// A publisher has said something, and its stack wants this done.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) route: Arc<Route>,
    pub(super) effects: Vec<Effect>,
    pub(super) result: Result<(), StackError>,
}

impl Ingest {
    /// Opens a publisher's datagram and hands the packet to the shard.
    pub(super) fn take(
        &self,
        shard: &Shards,
        now: Instant,
        datagram: (SocketAddr, &[u8]),
        effects: &mut Vec<Effect>,
    ) -> (Taken, Result<(), StackError>) {
        let mut packet = None;
        let result = self.stack.with(|stack| stack.receive_rtp(now, datagram, &mut packet, effects));
        let taken = match packet.map(|packet| shard.packet(self.leg, packet)) {
            Some(true) => Taken::Packet,
            Some(false) => Taken::Full,
            None => Taken::Nothing,
        };
        (taken, result)
    }
}

#[cfg(test)]
mod tests;
