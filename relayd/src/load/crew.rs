//! The threads of a run, and the one thing that stands between them and whoever reports: tallies.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};

use super::LoadError;
use super::churn::Turnstile;
use super::clock::Clock;
use super::connector::{Connector, Exits, Ledger, Pending};
use super::ears::{Ears, Order, Sent, Standing};
use super::poller::{Poller, Waker};
use super::speakers::{Call, Speakers};
use super::tally::{Shared, Tally};

/// Joins and orders that wait for a thread, at most; whoever brings more waits.
const QUEUE: usize = 1_024;
/// How long threads have to count what did not come.
const FINISH: Duration = Duration::from_secs(10);

/// All threads but those of joins.
#[derive(Debug)]
pub(crate) struct Crew {
    ears: Vec<Ear>,
    calls: Option<Sender<Call>>,
    speakers: Arc<Shared>,
    handshakes: Arc<Shared>,
    connector: Option<(Sender<Pending>, Waker)>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) sent: Arc<Sent>,
    pub(crate) clock: Clock,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Ear {
    orders: Sender<Order>,
    shared: Arc<Shared>,
}

/// What was counted in an interval.
#[derive(Debug)]
pub(crate) struct Interval {
    pub(crate) listeners: Tally,
    pub(crate) speakers: Tally,
    /// Of the thread that waited least.
    pub(crate) busiest: Duration,
}

impl Interval {
    pub(crate) fn new() -> Self {
        Self { listeners: Tally::new(), speakers: Tally::new(), busiest: Duration::ZERO }
    }
}

impl Crew {
    pub(crate) fn start(
        threads: usize,
        publishers: usize,
        turnstile: Option<&Arc<Turnstile>>,
    ) -> Result<Self, LoadError> {
        let failed = |error: std::io::Error| LoadError::Start(error.to_string());
        let (clock, ledger) = (Clock::new(), Arc::new(Ledger::new()));
        let sent = Arc::new(Sent::new(rand::random(), publishers));
        let mut running = Vec::new();
        let mut spawn = |name: String, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name).spawn(run);
            thread.map(|thread| running.push(thread))
        };
        let mut ears = Vec::new();
        for at in 0..threads {
            let (orders, taken) = bounded(QUEUE);
            let shared = Arc::new(Shared::new());
            let thread = Ears::new(taken, shared.clone(), (sent.clone(), clock), turnstile.cloned());
            spawn(format!("load-ears-{at}"), Box::new(move || thread.run())).map_err(failed)?;
            ears.push(Ear { orders, shared });
        }
        let (calls, called) = bounded(1);
        // As many as there are publishers.
        let (voices, arrivals) = unbounded();
        let speakers = Arc::new(Shared::new());
        let thread = Speakers::new(publishers, (called, arrivals), speakers.clone(), sent.clone(), clock);
        spawn("load-speakers".to_owned(), Box::new(move || thread.run())).map_err(failed)?;
        let (pending, inbox) = bounded(QUEUE);
        let poller = Poller::new().map_err(failed)?;
        let waker = poller.waker();
        let out = ears.iter().map(|ear| ear.orders.clone()).collect();
        let exits = Exits { ears: out, voices };
        let handshakes = Arc::new(Shared::new());
        let thread = Connector::new(poller, inbox, exits, ledger.clone(), handshakes.clone());
        spawn("load-connector".to_owned(), Box::new(move || thread.run())).map_err(failed)?;
        Ok(Self {
            ears,
            calls: Some(calls),
            speakers,
            handshakes,
            connector: Some((pending, waker)),
            ledger,
            sent,
            clock,
            threads: running,
        })
    }

    /// Where joins go once they are answered.
    pub(crate) fn connector(&self) -> (Sender<Pending>, Waker) {
        self.connector.clone().expect("there until the crew is dismissed")
    }

    /// Has the publishers begin or end.
    pub(crate) fn call(&self, call: Call) {
        // A thread that is gone has said why.
        let _gone = self.calls.as_ref().is_some_and(|calls| calls.send(call).is_err());
    }

    /// Takes what was counted since the last time. `spare` is one more tally, whatever is in it.
    pub(crate) fn collect(&self, interval: &mut Interval, spare: &mut Tally) {
        interval.listeners.clear();
        interval.speakers.clear();
        interval.busiest = Duration::ZERO;
        for ear in &self.ears {
            spare.clear();
            ear.shared.swap(spare);
            interval.busiest = interval.busiest.max(spare.busy);
            interval.listeners.add(spare);
        }
        spare.clear();
        self.handshakes.swap(spare);
        interval.busiest = interval.busiest.max(spare.busy);
        spare.clear();
        self.speakers.swap(spare);
        interval.busiest = interval.busiest.max(spare.busy);
        interval.speakers.add(spare);
    }

    /// Listeners that have heard something, up to now, or are gone.
    pub(crate) fn heard(&self) -> u64 {
        self.ears.iter().map(|ear| ear.shared.heard.load(Ordering::Relaxed)).sum()
    }

    /// Listeners that came back and still hear what they missed.
    pub(crate) fn behind(&self) -> u64 {
        self.ears.iter().map(|ear| ear.shared.behind.load(Ordering::Relaxed)).sum()
    }

    /// Has all listeners count what did not come; silence before `until` is a gap.
    pub(crate) fn finish(&self, until: Instant) -> Standing {
        let mut sum = Standing::default();
        let (reply, replies) = bounded(self.ears.len());
        let until_ns = self.clock.ns(until);
        for ear in &self.ears {
            // Gone, or stuck: it will not answer either.
            let _late = ear.orders.send_timeout(Order::Finish(until_ns, reply.clone()), FINISH).is_err();
        }
        drop(reply);
        let deadline = Instant::now() + FINISH;
        while let Ok(standing) = replies.recv_deadline(deadline) {
            sum.connected += standing.connected;
            sum.heard += standing.heard;
            sum.silenced.add(standing.silenced);
        }
        sum
    }

    /// Ends all threads.
    pub(crate) fn dismiss(mut self) {
        self.calls = None;
        if let Some((pending, waker)) = self.connector.take() {
            drop(pending);
            waker.wake();
        }
        self.ears.clear();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on standard error.
            let _panicked = thread.join().is_err();
        }
    }
}
