//! What a publisher says, from the datagram to its shard.
//!
//! Once a publisher is up, the receiver that reads its packets and reports opens them and hands them on, in their order.
//! The plane is told afterwards, and only where there is something left to do: between a publisher's packet and its
//! listeners two threads wake, not three.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use relay_engine::rtp::rtcp;
use relay_engine::{Feedback, LegId};

use super::receiver::MAX_DATAGRAM_BYTES;
use super::routes::Route;
use super::srtp::SrtcpReceiver;
use super::stack::{Effect, SharedPublisher, StackError};
use crate::shard::{Allowance, Shards};

/// What is opened in a publisher's name each second: its history of the shortest frames, sent again at once, and more.
const PACKETS_PER_SECOND: u32 = 20_000;

/// A publisher's stack, and where its packets go.
#[derive(Debug)]
pub(super) struct Ingest {
    leg: LegId,
    stack: Arc<SharedPublisher>,
    reports: Mutex<SrtcpReceiver>,
    packets: Mutex<Allowance>,
    since: Instant,
    /// When the plane will look after the stack, in nanoseconds since `since`.
    looks_at: AtomicU64,
    /// The plane takes the publisher for gone.
    missed: AtomicBool,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is with the shard.
    Whole,
    /// It is none of the publisher's, or was one before.
    Nothing,
    /// The shard's queue is full.
    Full,
    /// It is above the rate of one publisher.
    Above,
}

/// What is left to do for the plane after a publisher has said something.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) route: Arc<Route>,
    pub(super) rest: Rest,
}

/// What the stack wants done besides.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) effects: Vec<Effect>,
    pub(super) result: Result<(), StackError>,
}

impl Ingest {
    pub(super) fn new(now: Instant, leg: LegId, stack: Arc<SharedPublisher>, reports: SrtcpReceiver) -> Self {
        Self {
            leg,
            stack,
            reports: Mutex::new(reports),
            packets: Mutex::default(),
            since: now,
            looks_at: AtomicU64::new(0),
            missed: AtomicBool::new(false),
        }
    }

    /// Opens a packet and hands it to the shard.
    pub(super) fn packet(
        &self,
        shard: &Shards,
        now: Instant,
        datagram: (SocketAddr, &[u8]),
    ) -> (Taken, Option<Rest>) {
        if !self.packets.lock().unwrap_or_else(PoisonError::into_inner).take(now, PACKETS_PER_SECOND) {
            return (Taken::Above, None);
        }
        let (mut packet, mut effects) = (None, Vec::new());
        let result = self.stack.with(|stack| stack.receive_rtp(now, datagram, &mut packet, &mut effects));
        let taken = match packet.map(|packet| shard.packet(self.leg, packet)) {
            Some(true) => Taken::Whole,
            Some(false) => Taken::Full,
            None => Taken::Nothing,
        };
        (taken, self.rest(taken != Taken::Nothing, effects, result))
    }

    /// Opens reports and hands those on the time to the shard.
    pub(super) fn reports(
        &self,
        shard: &Shards,
        now: Instant,
        datagram: (SocketAddr, &[u8]),
    ) -> (Taken, Option<Rest>) {
        let mut plain = [0; MAX_DATAGRAM_BYTES];
        let opened = self.reports.lock().unwrap_or_else(PoisonError::into_inner).open(datagram.1, &mut plain);
        let Ok(length) = opened else { return (Taken::Nothing, None) };
        let mut taken = Taken::Whole;
        for packet in rtcp::Compound::parse(&plain[..length]) {
            if let Ok(rtcp::Packet::SenderReport(report, _blocks)) = packet
                && !shard.feedback(self.leg, Feedback::SenderReport(report))
            {
                taken = Taken::Full;
            }
        }
        // str0m needs the sender report for its own receiver reports.
        let mut effects = Vec::new();
        let result = self.stack.with(|stack| stack.receive_from(now, datagram, &mut effects));
        (taken, self.rest(true, effects, result))
    }

    /// The plane looks after the stack then.
    pub(super) fn looks_at(&self, at: Instant) {
        let at = at.saturating_duration_since(self.since).as_nanos();
        self.looks_at.store(u64::try_from(at).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The plane takes the publisher for gone: the next that it says is to be told.
    pub(super) fn miss(&self) {
        self.missed.store(true, Ordering::Relaxed);
    }

    /// What is left for the plane, if anything is.
    fn rest(&self, heard: bool, effects: Vec<Effect>, result: Result<(), StackError>) -> Option<Rest> {
        let back = heard && self.missed.swap(false, Ordering::Relaxed);
        let due = self.stack.deadline().saturating_duration_since(self.since).as_nanos();
        let sooner = due < u128::from(self.looks_at.load(Ordering::Relaxed));
        let wanted = back || sooner || !effects.is_empty() || result.is_err();
        wanted.then_some(Rest { effects, result })
    }
}

#[cfg(test)]
mod tests;
