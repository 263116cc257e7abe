//! The actor: owns the receive side of the UDP port, every connection and their timers.
//!
//! Each turn does a bounded amount of each kind of work, so that a flood of one kind never starves the others.
//! Nothing here waits for the shard: opening a leg happens in a task of its own that reports back. A datagram
//! costs O(1) until it has proved to be a peer's, and is never logged.

mod command;
mod ingress;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use relay_engine::{LegId, ListenerId, Peer};
use slab::Slab;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info};

use super::connection::{Connection, Due, Stage};
use super::demux::{Class, Limiter, classify};
use super::keys::Identity;
use super::stack::{Effect, StackError};
use super::{
    CloseReason, Command, Counters, JoinError, PatchError, ResourceId, Role, Snapshot, WebRtcConfig,
};
use crate::shard::{Shard, ShardError};

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 16;
/// Datagrams taken in one turn.
const DATAGRAMS_PER_TURN: usize = 128;
/// Timers fired in one turn.
const TIMERS_PER_TURN: usize = 128;
/// The stack's deadlines are kept this coarse; it asks for some that are already past.
const TIMER_GRAIN: Duration = Duration::from_millis(10);
/// Timer entries per connection, and besides, before those that no longer count are swept out; 32 bytes each.
const TIMERS_PER_CONNECTION: usize = 4;
const TIMERS_SPARE: usize = 1024;
/// How long the actor sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);
/// Longer datagrams are no use to anybody here.
const MAX_DATAGRAM_BYTES: usize = 2048;

/// What the task that opens a leg reports back.
#[derive(Debug)]
struct Opened {
    slot: usize,
    generation: u64,
    leg: Result<(LegId, Option<ListenerId>), ShardError>,
}

/// What the plane is made of.
pub(super) struct Parts {
    pub(super) config: WebRtcConfig,
    pub(super) socket: UdpSocket,
    pub(super) identity: Identity,
    pub(super) shard: Shard,
    /// Host candidates, resolved; never empty.
    pub(super) candidates: Vec<SocketAddr>,
    /// The name that the shard's sender reports carry.
    pub(super) cname: String,
    pub(super) commands: mpsc::Receiver<Command>,
}

/// The actor's state.
pub(super) struct Plane {
    parts: Parts,
    /// The socket is IPv6: IPv4 peers are written as mapped addresses.
    mapped: bool,
    connections: Slab<Connection>,
    addresses: HashMap<SocketAddr, usize>,
    resources: HashMap<ResourceId, usize>,
    /// `(when, slot, generation)`; entries that no longer match their connection are skipped.
    timers: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    limiter: Limiter,
    counters: Counters,
    generation: u64,
    /// Connections that are not up yet.
    pending: usize,
    opened_sender: mpsc::UnboundedSender<Opened>,
    opened: mpsc::UnboundedReceiver<Opened>,
    /// Those who closed a connection, by its generation, while the shard was opening its leg; one per such opening.
    closing: HashMap<u64, oneshot::Sender<Result<(), PatchError>>>,
    effects: Vec<Effect>,
}

impl Plane {
    pub(super) fn new(now: Instant, parts: Parts) -> io::Result<Self> {
        let config = &parts.config;
        let limiter = Limiter::new(now, config.stun_rate, config.stun_burst, config.stun_sources);
        // Unbounded, but there is at most one entry per pending join.
        let (opened_sender, opened) = mpsc::unbounded_channel();
        Ok(Self {
            mapped: parts.socket.local_addr()?.is_ipv6(),
            parts,
            connections: Slab::new(),
            addresses: HashMap::new(),
            resources: HashMap::new(),
            timers: BinaryHeap::new(),
            limiter,
            counters: Counters::default(),
            generation: 0,
            pending: 0,
            opened_sender,
            opened,
            closing: HashMap::new(),
            effects: Vec::new(),
        })
    }

    /// Runs until it is told to stop, or nobody is left to tell it.
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES + 1];
        loop {
            let wake = self.timers.peek().map_or_else(|| Instant::now() + IDLE, |Reverse(next)| next.0);
            let mut first = None;
            tokio::select! {
                command = self.parts.commands.recv() => match command {
                    Some(command) => first = Some(command),
                    None => break,
                },
                opened = self.opened.recv() => {
                    let opened = opened.expect("the plane holds a sender itself");
                    self.handle_opened(Instant::now(), opened);
                }
                // An error here shows again, and is counted, when the socket is read.
                _readable = self.parts.socket.readable() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            if let Some(reply) = self.handle_commands(first) {
                self.stop();
                // Whoever asked may have gone: the plane is stopped all the same.
                let _asker_gone = reply.send(()).is_err();
                return;
            }
            for _ in 0..COMMANDS_PER_TURN {
                let Ok(opened) = self.opened.try_recv() else { break };
                self.handle_opened(Instant::now(), opened);
            }
            self.receive(&mut buffer);
            self.handle_timers(Instant::now());
        }
        self.stop();
    }

    fn stop(&mut self) {
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.remove(slot, Some(CloseReason::Shutdown));
        }
        self.parts.shard.shutdown();
    }

    fn handle_timers(&mut self, now: Instant) {
        for _ in 0..TIMERS_PER_TURN {
            let Some(&Reverse((at, slot, generation))) = self.timers.peek() else { return };
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            if connection.generation != generation || connection.queued != Some(at) {
                continue;
            }
            connection.queued = None;
            self.handle_due(now, slot);
            self.schedule(now, slot);
        }
    }

    fn handle_due(&mut self, now: Instant, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        match connection.due(now, &self.parts.config) {
            Due::Close(reason) => return self.remove(slot, Some(reason)),
            Due::RestartDtls => {
                connection.stage = Stage::Handshaking { since: now, restarted: true };
                self.counters.rebuilt += 1;
                debug!(resource = %connection.resource.prefix(), "handshake starts over");
                let result = connection.stack.restart_dtls(now, &mut self.effects);
                return self.settle(now, slot, result);
            }
            Due::Disconnected => {
                connection.stage = Stage::Up { disconnected: true };
                // What would be sent to nobody is held, and comes in order when the listener is back.
                connection.untold.down();
            }
            Due::Nothing => {}
        }
        connection.tell(now, &self.parts.shard);
        if connection.stack.deadline() <= now {
            let result = connection.stack.handle_timeout(now, &mut self.effects);
            self.settle(now, slot, result);
        }
    }

    /// Has the timer look at a connection when something of it is due.
    fn schedule(&mut self, now: Instant, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let deadline = connection.deadline(&self.parts.config).max(now + TIMER_GRAIN);
        if connection.queued.is_none_or(|queued| deadline < queued) {
            connection.queued = Some(deadline);
            self.timers.push(Reverse((deadline, slot, connection.generation)));
            self.sweep_timers();
        }
    }

    /// Drops the entries that will be skipped, once they are most of the heap.
    fn sweep_timers(&mut self) {
        if self.timers.len() <= TIMERS_PER_CONNECTION * self.connections.len() + TIMERS_SPARE {
            return;
        }
        let connections = &self.connections;
        self.timers.retain(|Reverse((at, slot, generation))| {
            let current = connections.get(*slot).filter(|connection| connection.generation == *generation);
            current.is_some_and(|connection| connection.queued == Some(*at))
        });
    }

    /// Does what the stack asked for, then deals with its error, if any.
    fn settle(&mut self, now: Instant, slot: usize, result: Result<(), StackError>) {
        let mut effects = std::mem::take(&mut self.effects);
        if effects.iter().any(|effect| matches!(effect, Effect::Connected)) {
            // The end of the handshake first: media that overtakes it is lost to a peer without keys, and a listener
            // who comes back gets the first of what it missed at once.
            effects.sort_by_key(|effect| !matches!(effect, Effect::Transmit { .. }));
        }
        for effect in effects.drain(..) {
            self.apply(now, slot, effect);
        }
        self.effects = effects;
        match result {
            Ok(()) => {}
            Err(StackError::Error(_)) => self.counters.stack_errors += 1,
            Err(StackError::Dead(what)) => {
                debug!(%what, "stack closed itself");
                self.remove(slot, Some(CloseReason::Failed));
            }
            Err(StackError::Panicked) => {
                self.counters.panics += 1;
                if let Some(connection) = self.connections.get(slot) {
                    error!(resource = %connection.resource.prefix(), "caught a panic: this connection is closed");
                }
                self.remove(slot, Some(CloseReason::Panicked));
            }
        }
    }

    fn apply(&mut self, now: Instant, slot: usize, effect: Effect) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        match effect {
            Effect::Transmit { destination, datagram } => {
                let path = connection.peer.whereabouts();
                self.transmit(path, destination, &datagram);
            }
            Effect::Packet(packet) => {
                let leg = connection.leg.filter(|_| !connection.is_pending());
                if !leg.is_some_and(|leg| self.parts.shard.packet(leg, packet)) {
                    self.counters.dropped_shard += 1;
                }
            }
            Effect::Connected => self.handle_connected(now, slot),
            Effect::Closed => self.remove(slot, Some(CloseReason::PeerClosed)),
        }
    }

    /// The one place where a connection ends, and its record with it. Without a reason it never was accepted.
    fn remove(&mut self, slot: usize, reason: Option<CloseReason>) {
        let Some(mut connection) = self.connections.try_remove(slot) else { return };
        self.pending -= usize::from(connection.is_pending());
        if reason != Some(CloseReason::Panicked) {
            // Best effort: the peer may not be there any more.
            let mut effects = Vec::new();
            if connection.stack.close(&mut effects) == Err(StackError::Panicked) {
                self.counters.panics += 1;
            }
            for effect in effects {
                if let Effect::Transmit { destination, datagram } = effect {
                    self.transmit(connection.peer.whereabouts(), destination, &datagram);
                }
            }
        }
        for address in connection.peer.iter() {
            self.addresses.remove(&address);
        }
        self.resources.remove(&connection.resource);
        if let Some(leg) = connection.leg {
            // A listener goes with its last leg.
            self.parts.shard.close(Peer::Leg(leg));
        }
        if let Some((reply, _)) = connection.reply.take() {
            // Over before it was answered: a join refused, of which the record hears no more.
            self.counters.refused += 1;
            let _asker_gone = reply.send(Err(unanswered(reason))).is_err();
        } else if let Some(reason) = reason {
            self.counters.closed += 1;
            info!(resource = %connection.resource.prefix(), role = ?connection.role, ?reason, "connection closed");
            connection.record.disconnected(reason);
        }
    }

    /// Sends what the stack wants sent.
    fn transmit(&mut self, path: Option<SocketAddr>, destination: Option<SocketAddr>, datagram: &[u8]) {
        let destination = match classify(datagram) {
            Class::Stun => destination,
            // DTLS and reports go to where the peer was heard of last, which may be newer than the stack's idea.
            _ => path.or(destination),
        };
        match destination {
            Some(destination) => self.send(destination, datagram),
            None => self.counters.dropped_send += 1,
        }
    }

    fn send(&mut self, destination: SocketAddr, datagram: &[u8]) {
        let destination = self.on_the_wire(destination);
        if self.parts.socket.try_send_to(datagram, destination).is_err() {
            self.counters.dropped_send += 1;
        }
    }

    /// The address as the socket writes it.
    fn on_the_wire(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.mapped => SocketAddr::from((ip.to_ipv6_mapped(), address.port())),
            _ => address,
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot =
            Snapshot { addresses: self.addresses.len(), counters: self.counters, ..Snapshot::default() };
        for (_, connection) in &self.connections {
            let counts = match connection.role {
                Role::Publisher => &mut snapshot.publishers,
                Role::Listener => &mut snapshot.listeners,
            };
            match connection.stage {
                Stage::Checking | Stage::Handshaking { .. } => counts.pending += 1,
                Stage::Up { disconnected: false } => counts.connected += 1,
                Stage::Up { disconnected: true } => counts.disconnected += 1,
            }
        }
        snapshot
    }
}

/// What a join is told whose connection ended first.
fn unanswered(reason: Option<CloseReason>) -> JoinError {
    match reason {
        Some(CloseReason::Deleted | CloseReason::SessionEnded | CloseReason::TokenExpired) => {
            JoinError::TrackNotFound
        }
        Some(CloseReason::TakenOver) => JoinError::PublisherExists,
        Some(CloseReason::Shutdown) => JoinError::Closed,
        _ => JoinError::Capacity,
    }
}

#[cfg(test)]
mod tests;
