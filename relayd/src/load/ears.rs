//! Listeners that are connected: one thread sweeps the sockets of its share of them.
//!
//! It is not woken by packets: on one machine the waking is done on the time of the server that sends them, and a tester must
//! not tax what it measures. It looks at a quarter of its sockets every five milliseconds, and the kernel's stamps say when
//! packets came. The way of a packet: one read, one tag check and decryption in place, one payload check, one count. Nothing on
//! it allocates. All that is not media goes to the connection's [`Link`], whose timers are looked at ten times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use slab::Slab;

use super::churn::Turnstile;
use super::clock::Clock;
use super::hearing::{Hearing, Source, Verdict};
use super::inbox::{AT_ONCE, Datagram, Inbox, SWEEP, Stamps, TURNS};
use super::link::Link;
use super::payload::{self, Payload};
use super::reports::Reports;
use super::tally::{Shared, Tally};
use super::verdict::Silenced;
use crate::client::PeerError;
use crate::webrtc::demux::{Class, classify};
use crate::webrtc::srtp::{KeyingMaterial, SrtpReceiver};

/// How often timers are looked at.
const UPKEEP: Duration = Duration::from_millis(100);
/// Reads of one socket before the next has its turn, at most.
const READS: usize = 16;
/// Larger than any datagram that fits an Ethernet frame.
pub(crate) const DATAGRAM_BYTES: usize = 2_048;

/// What the publishers of this run have sent: each one's numbers below this.
#[derive(Debug)]
pub(crate) struct Sent {
    run: u64,
    below: Box<[AtomicU64]>,
}

impl Sent {
    pub(crate) fn new(run: u64, publishers: usize) -> Self {
        Self { run, below: (0..publishers).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    pub(crate) fn sent(&self, publisher: usize, number: u64) {
        self.below[publisher].store(number + 1, Ordering::Relaxed);
    }

    /// The last number that a source has sent, if it is a publisher of this run.
    fn last(&self, source: Source) -> Option<u64> {
        match source {
            Source::Ours { run, publisher } if run == self.run => {
                self.below.get(publisher as usize)?.load(Ordering::Relaxed).checked_sub(1)
            }
            _ => None,
        }
    }

    /// Packets sent by all.
    pub(crate) fn total(&self) -> u64 {
        self.below.iter().map(|below| below.load(Ordering::Relaxed)).sum()
    }
}

/// A listener that is connected.
#[derive(Debug)]
pub(crate) struct Seat {
    link: Link,
    receiver: SrtpReceiver,
    reports: Reports,
    hearing: Hearing,
    posted: Instant,
    number: usize,
    /// It came back, and hears what it missed; see [`Seat::is_history`].
    behind: bool,
    /// When it leaves of its own accord, once somebody does.
    leaves_at: Option<Instant>,
}

impl Seat {
    pub(crate) fn new(
        now: Instant,
        link: Link,
        keys: &KeyingMaterial,
        (number, posted): (usize, Instant),
    ) -> Self {
        let (receiver, reports) = (keys.srtp_receiver(), Reports::new(now, keys, rand::random()));
        let hearing = Hearing::default();
        Self { link, receiver, reports, hearing, posted, number, behind: false, leaves_at: None }
    }

    /// Whether a packet was sent again to one who came back: how long ago it was due says nothing of how fast it is. From
    /// one that was due before it asked to be let in, until it hears what was sent `last`, or the one before.
    fn is_history(&mut self, is_older: bool, number: u64, last: Option<u64>) -> bool {
        let is_history = is_older || self.behind;
        self.behind = is_history && last.map_or(is_older, |last| number + 1 < last);
        is_history
    }
}

/// What a thread of listeners is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Another listener.
    Take(Box<Seat>),
    /// Nothing is sent since this time: count what did not come, and say who is still there.
    Finish(u64, Sender<Standing>),
}

/// Listeners at the end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing {
    pub(crate) connected: u64,
    pub(crate) heard: u64,
    /// Those that heard something, and nothing any more.
    pub(crate) silenced: Silenced,
}

/// A thread of listeners.
#[derive(Debug)]
pub(crate) struct Ears {
    orders: Receiver<Order>,
    shared: Arc<Shared>,
    sent: Arc<Sent>,
    clock: Clock,
    turnstile: Option<Arc<Turnstile>>,
    seats: Slab<Seat>,
    /// All is counted: what somebody else's publisher says now is of no run.
    finished: bool,
    /// Whose turn it is.
    turn: usize,
}

impl Ears {
    pub(crate) fn new(
        orders: Receiver<Order>,
        shared: Arc<Shared>,
        (sent, clock): (Arc<Sent>, Clock),
        turnstile: Option<Arc<Turnstile>>,
    ) -> Self {
        Self { orders, shared, sent, clock, turnstile, seats: Slab::new(), finished: false, turn: 0 }
    }

    /// Reads until whoever gives orders is gone.
    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        let mut inbox = Inbox::new();
        let (mut sweep_at, mut upkeep_at) = (Instant::now(), Instant::now());
        loop {
            let order = match self.orders.recv_deadline(sweep_at) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let woke = Instant::now();
            let mut tally = shared.lock();
            match order {
                Some(Order::Take(seat)) => drop(self.seats.insert(*seat)),
                Some(Order::Finish(until_ns, reply)) => {
                    (0..TURNS).for_each(|_| self.sweep(&mut inbox, &mut tally));
                    // Whoever asked may have given up.
                    let _gone = reply.send(self.finish(until_ns, &mut tally)).is_err();
                }
                None => {
                    // A sweep that was missed is not made up for.
                    sweep_at = (sweep_at + SWEEP).max(woke);
                    self.sweep(&mut inbox, &mut tally);
                }
            }
            if woke >= upkeep_at {
                upkeep_at = woke + UPKEEP;
                self.upkeep(woke, &mut tally);
                self.let_leave(woke, &mut tally);
            }
            tally.busy += woke.elapsed();
        }
    }

    /// Reads the sockets whose turn it is.
    fn sweep(&mut self, inbox: &mut Inbox, tally: &mut Tally) {
        let stamps = Stamps::look(&self.clock);
        let last = self.seats.capacity();
        for key in (self.turn..last).step_by(TURNS) {
            self.read(key, &stamps, inbox, tally);
        }
        self.turn = (self.turn + 1) % TURNS;
    }

    /// Reads what waits at a socket.
    fn read(&mut self, key: usize, stamps: &Stamps, inbox: &mut Inbox, tally: &mut Tally) {
        for _ in 0..READS {
            let Some(seat) = self.seats.get(key) else { return };
            let count = inbox.read(&seat.link.socket);
            let now = Instant::now();
            let now_ns = self.clock.ns(now);
            for at in 0..count {
                let Some(datagram) = inbox.datagram(at) else { continue };
                let stamped_ns = datagram.stamp_ns.map(|stamp_ns| stamps.arrival_ns(stamp_ns, now_ns));
                self.take(key, now, Times { stamped_ns, read_ns: now_ns }, datagram, tally);
            }
            if count < AT_ONCE {
                return;
            }
        }
    }

    fn take(&mut self, key: usize, now: Instant, times: Times, datagram: Datagram<'_>, tally: &mut Tally) {
        // What the datagram before it ended is over.
        let Some(seat) = self.seats.get_mut(key) else { return };
        let Datagram { source, bytes, .. } = datagram;
        match classify(bytes) {
            Class::Rtp if self.finished => {}
            Class::Rtp => {
                let was_behind = seat.behind;
                if hear(seat, (&self.clock, &self.sent), times, bytes, tally) {
                    self.shared.heard.fetch_add(1, Ordering::Relaxed);
                }
                self.shared.moved(was_behind, seat.behind);
            }
            Class::Rtcp => drop(seat.reports.handle_datagram(now, bytes)),
            Class::Stun | Class::Dtls => {
                if let Err(error) = seat.link.handle_datagram(now, source, bytes) {
                    self.end(key, now, &error, tally);
                }
            }
            Class::Unknown => {}
        }
    }

    fn upkeep(&mut self, now: Instant, tally: &mut Tally) {
        let mut sealed = [0; 128];
        let mut ended = Vec::new();
        for (key, seat) in &mut self.seats {
            if let Some(length) = seat.reports.poll(now, &mut sealed) {
                seat.link.send_raw(&sealed[..length]);
                tally.reports += 1;
            }
            if now >= seat.link.wake_at
                && let Err(error) = seat.link.handle_timeout(now)
            {
                ended.push((key, error));
            }
        }
        for (key, error) in ended {
            self.end(key, now, &error, tally);
        }
    }

    /// Listeners whose time has come go, without a word; what is on its way to them is not lost.
    fn let_leave(&mut self, now: Instant, tally: &mut Tally) {
        let Some(turnstile) = self.turnstile.clone().filter(|turnstile| turnstile.is_open()) else { return };
        let mut leaving = Vec::new();
        for (key, seat) in &mut self.seats {
            let at = *seat.leaves_at.get_or_insert_with(|| turnstile.leaves_at(now, rand::random()));
            if now >= at {
                leaving.push(key);
            }
        }
        for key in leaving {
            let mut seat = self.seats.remove(key);
            if !seat.hearing.has_heard() {
                self.shared.heard.fetch_add(1, Ordering::Relaxed);
            }
            self.shared.moved(seat.behind, false);
            seat.hearing.finish(self.clock.ns(now), None, &mut tally.counts);
            turnstile.leave(now, seat.number, [rand::random(), rand::random()]);
            turnstile.linger(now, seat.link.socket);
        }
    }

    /// A connection is over. What it did not hear counts as lost up to now, unless the server has closed it.
    fn end(&mut self, key: usize, now: Instant, error: &PeerError, tally: &mut Tally) {
        let mut seat = self.seats.remove(key);
        self.shared.moved(seat.behind, false);
        let lost = *error == PeerError::Lost;
        let last = seat.hearing.source().filter(|_| lost).and_then(|source| self.sent.last(source));
        seat.hearing.finish(self.clock.ns(now), last, &mut tally.counts);
        tally.ended.count(&error.to_string());
    }

    fn finish(&mut self, until_ns: u64, tally: &mut Tally) -> Standing {
        let mut standing = Standing::default();
        self.finished = true;
        for (_, seat) in &mut self.seats {
            standing.connected += 1;
            standing.heard += u64::from(seat.hearing.has_heard());
            let last = seat.hearing.source().and_then(|source| self.sent.last(source));
            if let Some(silence) = seat.hearing.silence(until_ns, last) {
                standing.silenced.count(silence);
            }
            seat.hearing.finish(until_ns, last, &mut tally.counts);
        }
        standing
    }
}

/// When a packet came, if the kernel says so, and when it was read.
#[derive(Debug, Clone, Copy)]
struct Times {
    stamped_ns: Option<u64>,
    read_ns: u64,
}

impl Times {
    /// As late as it may have come.
    fn came_ns(self) -> u64 {
        self.stamped_ns.unwrap_or(self.read_ns)
    }

    /// How long the packet waited to be read.
    fn record_own(self, tally: &mut Tally) {
        match self.stamped_ns {
            Some(came_ns) => tally.own.record(self.read_ns.saturating_sub(came_ns)),
            None => tally.counts.unstamped += 1,
        }
    }

    /// How long it was on its way. What is not known, or cannot be, is no sample.
    fn record_latency(self, sent: Departure, tally: &mut Tally) {
        let Some(came_ns) = self.stamped_ns else { return };
        match came_ns.checked_sub(sent.due_ns).zip(came_ns.checked_sub(sent.sent_ns)) {
            Some((latency_ns, forwarding_ns)) => {
                tally.latency.record(latency_ns);
                tally.forwarding.record(forwarding_ns);
            }
            None => tally.counts.early += 1,
        }
    }
}

/// When a packet was to be sent, and when it was.
#[derive(Debug, Clone, Copy)]
struct Departure {
    due_ns: u64,
    sent_ns: u64,
}

/// Counts one packet of media; true if it was the listener's first.
fn hear(
    seat: &mut Seat,
    (clock, sent): (&Clock, &Sent),
    times: Times,
    datagram: &mut [u8],
    tally: &mut Tally,
) -> bool {
    let Ok(opened) = seat.receiver.open(datagram) else {
        tally.counts.unopened += 1;
        return false;
    };
    let came_ns = times.came_ns();
    seat.reports.received(came_ns, &opened);
    let (source, number, left) = match payload::read(opened.payload) {
        Payload::Ours(stamp) => {
            let source = Source::Ours { run: stamp.run, publisher: stamp.publisher };
            let left = Departure { due_ns: stamp.due_ns, sent_ns: stamp.sent_ns };
            (source, stamp.number, (stamp.clock == clock.id()).then_some(left))
        }
        Payload::Foreign => (Source::Foreign(opened.ssrc), opened.index, None),
        Payload::Damaged => {
            tally.counts.damaged += 1;
            return false;
        }
    };
    let first = !seat.hearing.has_heard();
    if seat.hearing.count(came_ns, source, number, &mut tally.counts) != Verdict::Fresh {
        return false;
    }
    tally.counts.foreign += u64::from(matches!(source, Source::Foreign(_)));
    times.record_own(tally);
    match left {
        Some(left) if seat.is_history(left.due_ns < clock.ns(seat.posted), number, sent.last(source)) => {
            tally.counts.history += 1;
        }
        Some(left) => times.record_latency(left, tally),
        None => {}
    }
    if first {
        tally.first_packet.record(came_ns.saturating_sub(clock.ns(seat.posted)));
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_that_nobody_knows_or_that_cannot_be_is_no_sample() {
        let mut tally = Tally::new();
        for (stamped_ns, due_ns, sent_ns) in [
            (Some(5_000_000), 3_000_000, 4_000_000),
            (Some(5_000_000), 5_000_001, 5_000_001),
            (Some(5_000_000), 3_000_000, 5_000_001),
            (None, 1, 1),
        ] {
            let times = Times { stamped_ns, read_ns: 9_000_000 };
            times.record_own(&mut tally);
            times.record_latency(Departure { due_ns, sent_ns }, &mut tally);
        }
        assert_eq!((tally.latency.count(), tally.forwarding.count(), tally.own.count()), (1, 1, 3));
        assert_eq!((tally.counts.early, tally.counts.unstamped), (2, 1));
        let close = |time: Option<Duration>, ms: u128| time.unwrap().as_micros().abs_diff(ms * 1_000) < 10;
        assert!(close(tally.latency.max(), 2) && close(tally.own.at(0.0), 4), "{tally:?}");
        assert!(close(tally.forwarding.max(), 1), "{tally:?}");
    }
}
