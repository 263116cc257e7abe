//! Connections on their way up: ICE and DTLS of all joins, on one thread of their own.
//!
//! A handshake costs as much as two hundred packets: done where packets are read, a ramp would show as latency. A link that
//! is up goes to the threads of listeners, or to the publishers, with whatever waits at its socket unread.

use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use slab::Slab;

use super::cause::Failure;
use super::ears::{DATAGRAM_BYTES, Order, Seat};
use super::joining::step_back;
use super::link::Link;
use super::poller::{Poller, Ready};
use super::speakers::Voice;
use super::tally::{Joins, Shared};
use crate::client::{PeerError, Role};

/// From the answer to media: ICE and DTLS take a few round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often timers are looked at: retransmissions of checks and handshakes.
const UPKEEP: Duration = Duration::from_millis(5);

/// A join whose offer was answered.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) link: Link,
    pub(crate) role: Role,
    /// Counts publishers and listeners apart.
    pub(crate) number: usize,
    pub(crate) posted: Instant,
    pub(crate) answered: Instant,
}

/// Where connections go.
#[derive(Debug)]
pub(crate) struct Exits {
    pub(crate) ears: Vec<Sender<Order>>,
    pub(crate) voices: Sender<Voice>,
}

/// How joins went, of each kind.
#[derive(Debug)]
pub(crate) struct Ledger {
    listeners: Mutex<Joins>,
    publishers: Mutex<Joins>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { listeners: Mutex::new(Joins::new()), publishers: Mutex::new(Joins::new()) }
    }

    pub(crate) fn of(&self, role: Role) -> MutexGuard<'_, Joins> {
        let joins = match role {
            Role::Publisher => &self.publishers,
            Role::Listener => &self.listeners,
        };
        joins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread of handshakes.
#[derive(Debug)]
pub(crate) struct Connector {
    poller: Poller,
    inbox: Receiver<Pending>,
    exits: Exits,
    ledger: Arc<Ledger>,
    /// Only its busy time is used.
    shared: Arc<Shared>,
    links: Slab<Pending>,
    buffer: Box<[u8; DATAGRAM_BYTES]>,
}

impl Connector {
    pub(crate) fn new(
        poller: Poller,
        inbox: Receiver<Pending>,
        exits: Exits,
        ledger: Arc<Ledger>,
        shared: Arc<Shared>,
    ) -> Self {
        let buffer = Box::new([0; DATAGRAM_BYTES]);
        Self { poller, inbox, exits, ledger, shared, links: Slab::new(), buffer }
    }

    /// Connects until nobody joins any more and all that did are up or given up.
    pub(crate) fn run(mut self) {
        step_back();
        let mut ready = Ready::new();
        let mut upkeep_at = Instant::now();
        loop {
            let timeout = match self.links.is_empty() {
                // Whoever brings something wakes it.
                true => CONNECT_TIMEOUT,
                false => upkeep_at.saturating_duration_since(Instant::now()),
            };
            if self.poller.wait(timeout, &mut ready).is_err() {
                return;
            }
            let woke = Instant::now();
            ready.keys().for_each(|key| self.read(key));
            let now = Instant::now();
            if now >= upkeep_at {
                upkeep_at = now + UPKEEP;
                self.upkeep(now);
            }
            let gone = self.admit();
            self.shared.lock().busy += woke.elapsed();
            if gone {
                return;
            }
        }
    }

    /// Takes what was answered; true once nobody joins any more.
    fn admit(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(pending) => self.take(pending),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn take(&mut self, pending: Pending) {
        let now = Instant::now();
        let entry = self.links.vacant_entry();
        let key = entry.key();
        if let Err(error) = self.poller.add(&pending.link.socket, key) {
            self.ledger.of(pending.role).fail(&Failure::other(format!("epoll: {error}")));
            return;
        }
        let result = entry.insert(pending).link.handle_timeout(now);
        self.look(key, now, result);
    }

    fn read(&mut self, key: usize) {
        let Some(pending) = self.links.get_mut(key) else { return };
        let Ok((length, source)) = pending.link.socket.recv_from(&mut self.buffer[..]) else { return };
        let now = Instant::now();
        let result = pending.link.handle_datagram(now, source, &self.buffer[..length]);
        self.look(key, now, result);
    }

    fn upkeep(&mut self, now: Instant) {
        let due = |(key, pending): (usize, &Pending)| {
            let late = now >= pending.answered + CONNECT_TIMEOUT;
            (late || now >= pending.link.wake_at).then_some((key, late))
        };
        let due: Vec<(usize, bool)> = self.links.iter().filter_map(due).collect();
        for (key, late) in due {
            let result = match late {
                true => Err(PeerError::ConnectTimeout),
                false => self.links[key].link.handle_timeout(now),
            };
            self.look(key, now, result);
        }
    }

    /// Something happened on a link: it stays, it is up, or it has failed.
    fn look(&mut self, key: usize, now: Instant, result: Result<(), PeerError>) {
        if result.is_ok() && !self.links[key].link.is_connected() {
            return;
        }
        let pending = self.links.remove(key);
        self.poller.remove(&pending.link.socket);
        let role = pending.role;
        let outcome = result.and_then(|()| self.promote(now, pending));
        if let Err(error) = outcome {
            self.ledger.of(role).fail(&Failure::other(error));
        }
    }

    fn promote(&self, now: Instant, pending: Pending) -> Result<(), PeerError> {
        let Pending { link, role, number, posted, .. } = pending;
        let no_keys = || PeerError::Protocol("the handshake gave no keys of a known kind".to_owned());
        let keys = link.take_keys().ok_or_else(no_keys)?;
        {
            let mut joins = self.ledger.of(role);
            joins.connected.record_duration(now - posted);
            joins.profiles.count(&format!("{:?}", keys.profile()));
        }
        // A thread that is gone takes no listener: the run is over.
        let gone = match role {
            Role::Publisher => self.exits.voices.send(Voice::new(number, link)).is_err(),
            Role::Listener => {
                let ears = &self.exits.ears[number % self.exits.ears.len()];
                ears.send(Order::Take(Box::new(Seat::new(now, link, &keys, (number, posted))))).is_err()
            }
        };
        if gone { Err(PeerError::Closed) } else { Ok(()) }
    }
}

/// A socket that reaches the server from this address.
pub(crate) fn bind(address: std::net::IpAddr) -> Result<UdpSocket, PeerError> {
    UdpSocket::bind((address, 0)).map_err(|error| PeerError::Socket(error.kind()))
}
