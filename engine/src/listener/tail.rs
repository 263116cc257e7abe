//! The end of what a leg was sent: nothing later shows that it was lost, so no NACK asks for it.
//!
//! As RFC 8985 §7 does it for TCP: where a receiver report stays behind what was sent, and nothing newer was sent for
//! two round trips, the last packet is sent again. If it was lost it is there now; what was lost before it shows as a
//! hole and is asked for.
//!
//! | state | event | then |
//! |---|---|---|
//! | none | a report is behind the last packet | Waiting, until two round trips after the packet |
//! | Waiting | a report that is not behind | none |
//! | Waiting | its time, and something newer was sent | none, until the next report |
//! | Waiting | its time, and nothing newer was sent | the packet is sent again; Sent |
//! | Sent | a report that is still behind | Waiting, [`MAX_PROBES`] times for a packet |
//!
//! Nothing of it is on the way of a packet. Memory: 32 bytes for a leg that had such a report (I3).

use std::time::{Duration, Instant};

use super::repair::Repair;
use super::{Listener, View};
use crate::io::Order;

/// A leg's last packet, while its far end may miss it.
#[derive(Debug)]
pub(super) struct Tail {
    last: u64,
    /// When it is sent again.
    due: Option<Instant>,
    probes: u8,
}

impl Listener {
    /// The far end of the leg that is sent on has reported that it received this.
    pub(super) fn note_tail(&mut self, received: Option<u64>, view: &View<'_>) {
        let next = self.leg.rewrite.next_position().filter(|_| self.leg.order == Order::Arrival);
        let last = next.and_then(|next| next.checked_sub(1));
        let behind = last.filter(|&last| self.trail.is_none() && received.is_some_and(|at| at < last));
        let frame = behind.and_then(|last| view.history.get(last));
        let Some(frame) = frame else {
            self.leg.tail = None;
            return;
        };
        let pause = self.leg.report.and_then(|report| report.round_trip).map_or(USUAL_PAUSE, |trip| trip * 2);
        let due = (frame.arrived + pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).max(view.now);
        let tail = self.leg.tail.get_or_insert_with(|| Box::new(Tail::of(frame.position)));
        if tail.last != frame.position {
            **tail = Tail::of(frame.position);
        }
        tail.due = (tail.probes < MAX_PROBES).then_some(due);
    }

    /// When the last packet is sent again, if it is.
    pub(super) fn tail_due(&self) -> Option<Instant> {
        self.leg.tail.as_ref().and_then(|tail| tail.due)
    }

    /// Asks for the last packet if it is time.
    pub(super) fn probe_tail(&mut self, view: &View<'_>) {
        let tail = self.leg.tail.as_ref().filter(|tail| tail.due.is_some_and(|due| due <= view.now));
        let Some(last) = tail.map(|tail| tail.last) else { return };
        let newest = self.leg.rewrite.next_position() == Some(last + 1);
        let lost = newest && self.trail.is_none() && self.is_settled(last, view);
        let Some(tail) = self.leg.tail.as_mut().filter(|_| lost) else {
            self.leg.tail = None;
            return;
        };
        (tail.due, tail.probes) = (None, tail.probes + 1);
        let round_trip = self.leg.report.and_then(|report| report.round_trip);
        self.leg.repair.get_or_insert_with(|| Box::new(Repair::new())).ask(view.now, last, round_trip);
    }
}

impl Tail {
    const fn of(last: u64) -> Self {
        Self { last, due: None, probes: 0 }
    }
}

/// How often one packet is sent again unasked.
const MAX_PROBES: u8 = 3;
/// When no round trip is known.
const USUAL_PAUSE: Duration = Duration::from_millis(100);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
