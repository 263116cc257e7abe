//! The publishers of the load tester: one thread sends a frame for each of them every 20 ms.
//!
//! What is in a packet is the time it was due ([`Grid`]) and the time it left; how much later that is, is recorded here.
//! Their connections are looked after in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::clock::Clock;
use super::ears::{DATAGRAM_BYTES, Sent};
use super::grid::{Due, Grid};
use super::link::Link;
use super::payload::{Stamp, write};
use super::tally::{Shared, Tally};
use crate::client::PeerError;

/// How often sockets and timers are looked at, at least.
const UPKEEP: Duration = Duration::from_millis(5);
/// Datagrams read from one socket before the next has its turn.
const READS: usize = 32;
/// Ticks of one frame.
const FRAME_TICKS: u32 = 960;

/// A publisher that is connected.
#[derive(Debug)]
pub(crate) struct Voice {
    number: usize,
    link: Link,
}

impl Voice {
    pub(crate) fn new(number: usize, link: Link) -> Self {
        Self { number, link }
    }
}

/// What the publishers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// All are here: speak.
    Start,
    /// Say no more, but stay.
    Stop,
}

/// The thread of publishers.
#[derive(Debug)]
pub(crate) struct Speakers {
    calls: Receiver<Call>,
    arrivals: Receiver<Voice>,
    shared: Arc<Shared>,
    sent: Arc<Sent>,
    clock: Clock,
    voices: Vec<Option<Voice>>,
    grid: Option<Grid>,
    buffer: Box<[u8; DATAGRAM_BYTES]>,
}

impl Speakers {
    pub(crate) fn new(
        publishers: usize,
        (calls, arrivals): (Receiver<Call>, Receiver<Voice>),
        shared: Arc<Shared>,
        sent: Arc<Sent>,
        clock: Clock,
    ) -> Self {
        let voices = (0..publishers).map(|_| None).collect();
        let buffer = Box::new([0; DATAGRAM_BYTES]);
        Self { calls, arrivals, shared, sent, clock, voices, grid: None, buffer }
    }

    /// Speaks until whoever calls is gone.
    pub(crate) fn run(mut self) {
        // The kernel may be 50 µs late on purpose; sends would be.
        let _as_it_was = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).is_err();
        // It needs little time, but at once. Not everybody may ask for that.
        let _not_allowed = rustix::process::nice(-15).is_err();
        let shared = self.shared.clone();
        let mut upkeep_at = Instant::now();
        loop {
            let now = Instant::now();
            let due_in = self.grid.as_ref().map_or(UPKEEP, |grid| {
                Duration::from_nanos(grid.peek().at_ns.saturating_sub(self.clock.ns(now)))
            });
            match self.calls.recv_timeout(due_in.min(UPKEEP)) {
                Ok(Call::Start) => {
                    self.grid = Some(Grid::new(self.clock.ns(Instant::now()), self.voices.len()));
                }
                Ok(Call::Stop) => self.grid = None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut tally = shared.lock();
            let woke = Instant::now();
            self.speak(woke, &mut tally);
            if woke >= upkeep_at {
                upkeep_at = woke + UPKEEP;
                self.upkeep(&mut tally);
            }
            tally.busy += woke.elapsed();
        }
    }

    fn speak(&mut self, now: Instant, tally: &mut Tally) {
        let now_ns = self.clock.ns(now);
        while let Some(due) = self.grid.as_mut().and_then(|grid| grid.pop(now_ns)) {
            self.send(due, tally);
        }
    }

    fn send(&mut self, due: Due, tally: &mut Tally) {
        let Due { publisher, number, at_ns } = due;
        let Some(voice) = &mut self.voices[publisher] else { return };
        let leaves = Instant::now();
        let payload = write(&Stamp {
            clock: self.clock.id(),
            publisher: publisher as u32,
            run: self.sent.run(),
            number,
            due_ns: at_ns,
            sent_ns: self.clock.ns(leaves),
        });
        let timestamp = (number as u32).wrapping_mul(FRAME_TICKS);
        let result = voice.link.send(leaves, FIRST_SEQUENCE + number, timestamp, &payload);
        tally.late.record(self.clock.ns(Instant::now()).saturating_sub(at_ns));
        match result {
            Ok(()) => self.sent.sent(publisher, number),
            Err(error) => self.end(publisher, &error, tally),
        }
    }

    fn upkeep(&mut self, tally: &mut Tally) {
        for voice in self.arrivals.try_iter() {
            let number = voice.number;
            self.voices[number] = Some(voice);
        }
        for publisher in 0..self.voices.len() {
            if let Err(error) = self.look_after(publisher) {
                self.end(publisher, &error, tally);
            }
        }
    }

    fn look_after(&mut self, publisher: usize) -> Result<(), PeerError> {
        let Some(voice) = &mut self.voices[publisher] else { return Ok(()) };
        for _ in 0..READS {
            let Ok((length, source)) = voice.link.socket.recv_from(&mut self.buffer[..]) else { break };
            voice.link.handle_datagram(Instant::now(), source, &self.buffer[..length])?;
        }
        let now = Instant::now();
        if now >= voice.link.wake_at { voice.link.handle_timeout(now) } else { Ok(()) }
    }

    fn end(&mut self, publisher: usize, error: &PeerError, tally: &mut Tally) {
        self.voices[publisher] = None;
        tally.ended.count(&error.to_string());
    }
}

/// RFC 3550 §5.1 wants a random one; one that is the same each time can be looked for in a capture.
const FIRST_SEQUENCE: u64 = 1_000;
