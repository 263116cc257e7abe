//! Joins: offers posted at the times that the ramp says, by a bounded number of threads.
//!
//! Each thread takes the next join, waits for its time and posts. When all of them wait for answers, joins begin late: that
//! is measured, and a server that is slow to answer does not slow the others down unseen.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use ureq::Agent;

use super::cause::Failure;
use super::connector::{Ledger, Pending, bind};
use super::doors::Doors;
use super::link::Link;
use super::poller::Waker;
use crate::client::{Credentials, Endpoint, Resource, Role, Stop};
use crate::webrtc::keys::Identity;

/// How long a thread that waits for its time goes without looking whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// So many joins, beginning at an even rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ramp {
    pub(crate) role: Role,
    pub(crate) count: usize,
    /// Joins per second.
    pub(crate) rate: f64,
    pub(crate) start: Instant,
}

impl Ramp {
    /// When a join is to begin.
    fn due(&self, number: usize) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// Threads that keep the rate up while an answer takes a tenth of a second.
    pub(crate) fn threads(&self) -> usize {
        threads_for(self.rate, self.count)
    }
}

/// Threads that so many requests a second want, of which each takes a tenth of a second.
pub(crate) fn threads_for(rate: f64, count: usize) -> usize {
    ((rate / 10.0).ceil() as usize).clamp(4, MAX_THREADS).min(count.max(1))
}

/// HTTP connections at once, at most: servers bound those of one address, ours at 64.
pub(crate) const MAX_THREADS: usize = 48;

/// What all joins share.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) identity: Identity,
    pub(crate) agent: Agent,
    pub(crate) token: Option<String>,
    pub(crate) doors: Doors,
    pub(crate) local: IpAddr,
    pub(crate) connector: Sender<Pending>,
    pub(crate) waker: Waker,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) stop: Stop,
    /// What was made on the server, to be deleted at the end.
    pub(crate) made: Mutex<Made>,
}

/// What joins have opened.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) resources: BTreeMap<(Role, usize), Resource>,
    /// Ports of the listeners' sockets.
    pub(crate) ports: HashSet<u16>,
    /// Joins that were begun, of listeners.
    pub(crate) asked: u64,
}

impl Joining {
    /// Starts the threads of a ramp; they end when all joins are answered, or it is to stop.
    pub(crate) fn start(self: &Arc<Self>, ramp: Ramp) -> std::io::Result<Vec<JoinHandle<()>>> {
        let next = Arc::new(AtomicUsize::new(0));
        let spawn = |at: usize| {
            let (joining, next) = (self.clone(), next.clone());
            let run = move || {
                step_back();
                while let Some(number) = joining.next(&ramp, &next) {
                    joining.join(&ramp, number);
                }
            };
            std::thread::Builder::new().name(format!("load-join-{at}")).spawn(run)
        };
        (0..ramp.threads()).map(spawn).collect()
    }

    /// The next join, at its time.
    fn next(&self, ramp: &Ramp, next: &AtomicUsize) -> Option<usize> {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= ramp.count {
            return None;
        }
        let due = ramp.due(number);
        loop {
            if self.stop.is_stopped() {
                return None;
            }
            match due.checked_duration_since(Instant::now()) {
                Some(wait) if !wait.is_zero() => std::thread::sleep(wait.min(LOOK)),
                _ => return Some(number),
            }
        }
    }

    fn join(&self, ramp: &Ramp, number: usize) {
        let posted = Instant::now();
        self.begin(ramp.role, posted.saturating_duration_since(ramp.due(number)));
        if let Err(failure) = self.post(ramp.role, number, posted, None) {
            self.ledger.of(ramp.role).fail(&failure);
        }
    }

    /// A join begins, so much later than it should.
    pub(crate) fn begin(&self, role: Role, late: Duration) {
        if role == Role::Listener {
            self.made().asked += 1;
        }
        self.ledger.of(role).late.record_duration(late);
    }

    /// Offers, takes the answer, and hands the connection on. A ticket makes it the one that had it.
    pub(crate) fn post(
        &self,
        role: Role,
        number: usize,
        posted: Instant,
        ticket: Option<String>,
    ) -> Result<(), Failure> {
        let socket = bind(self.local).map_err(Failure::other)?;
        let port = socket.local_addr().map_err(Failure::other)?.port();
        let (mut link, offer) = Link::offer(&self.identity, posted, socket, role).map_err(Failure::other)?;
        let credentials = Credentials { token: self.token.clone(), ticket, ..Credentials::default() };
        let endpoint = Endpoint::new(&self.agent, self.doors.of(role, number).clone(), credentials);
        let resource = endpoint.offer(&offer)?;
        let answered = Instant::now();
        self.ledger.of(role).answered.record_duration(answered - posted);
        let result = link.answer(resource.answer());
        {
            let mut made = self.made();
            made.resources.insert((role, number), resource);
            if role == Role::Listener {
                made.ports.insert(port);
            }
        }
        result.map_err(Failure::other)?;
        let pending = Pending { link, role, number, posted, answered };
        self.connector.send(pending).map_err(|_| Failure::other("the thread of handshakes is gone"))?;
        self.waker.wake();
        Ok(())
    }

    /// Deletes what was made; returns how often that was refused.
    pub(crate) fn leave(self: &Arc<Self>) -> u64 {
        let threads = self.made().resources.len().clamp(1, 32);
        let delete = |joining: &Joining| {
            let mut refused = 0;
            while let Some(resource) = joining.pop() {
                refused += u64::from(resource.delete().is_err());
            }
            refused
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| delete(self))).collect();
            running.into_iter().map(|thread| thread.join().unwrap_or(1)).sum()
        })
    }

    fn pop(&self) -> Option<Resource> {
        self.made().resources.pop_first().map(|(_, resource)| resource)
    }

    pub(crate) fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the calling thread, of which Linux takes this for a process, wait for the ones that send and read: a storm of joins
/// shall not make packets late.
pub(crate) fn step_back() {
    let _as_it_was = rustix::process::nice(5).is_err();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_is_even_and_its_threads_are_bounded() {
        let start = Instant::now();
        let ramp = |rate, count| Ramp { role: Role::Listener, count, rate, start };
        assert_eq!(ramp(200.0, 1_000).due(0), start);
        assert_eq!(ramp(200.0, 1_000).due(100), start + Duration::from_millis(500));
        assert_eq!(ramp(0.5, 10).due(3), start + Duration::from_secs(6));
        let threads = |rate, count| ramp(rate, count).threads();
        assert_eq!(threads(1.0, 1_000), 4);
        assert_eq!(threads(200.0, 1_000), 20);
        assert_eq!(threads(200.0, 3), 3);
        assert_eq!(threads(1e9, 1_000_000), MAX_THREADS);
    }
}
