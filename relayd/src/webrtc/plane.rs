//! The actor: owns every connection and their timers, and takes what the receivers hand on.
//!
//! Each turn does a bounded amount of each kind of work, so that a flood of one kind never starves the others.
//! Nothing here waits for the shard: opening a leg happens in a task of its own that reports back. A datagram
//! costs O(1) until it has proved to be a peer's, and is never logged.

mod command;
mod ingress;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use relay_engine::{LegId, ListenerId, Peer};
use slab::Slab;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info};

use super::connection::{Connection, Due, Stage};
use super::demux::{Class, classify};
use super::handshakes::{Handshakes, Key, News};
use super::keys::Identity;
use super::ports::Ports;
use super::receiver::{Inbounds, Shared};
use super::stack::{Effect, Stack, StackError};
use super::wheel::Wheel;
use super::{
    CloseReason, Command, Counters, JoinError, PatchError, ResourceId, Role, Snapshot, WebRtcConfig,
};
use crate::shard::{ShardError, Shards};

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 16;
/// Datagrams taken in one turn that are no media.
const DATAGRAMS_PER_TURN: usize = 128;
/// Datagrams of media taken between two of the others.
const MEDIA_AT_ONCE: usize = 32;
/// News of handshakes taken in one turn.
const NEWS_PER_TURN: usize = 32;
/// Timers fired in one turn.
const TIMERS_PER_TURN: usize = 128;
/// How late a publisher's deadlines may be; its stack asks for some that are already past.
const FINE: Duration = Duration::from_millis(10);
/// How late a listener's upkeep may be.
const COARSE: Duration = Duration::from_millis(100);
/// How long the actor sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(60);

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
    /// What peers send to, and are sent from.
    pub(super) ports: Ports,
    /// What the receivers share with the plane.
    pub(super) shared: Shared,
    pub(super) inbounds: Inbounds,
    pub(super) identity: Identity,
    pub(super) shard: Shards,
    /// The name that the shard's sender reports carry.
    pub(super) cname: String,
    pub(super) commands: mpsc::Receiver<Command>,
}

/// The actor's state.
pub(super) struct Plane {
    parts: Parts,
    connections: Slab<Connection>,
    resources: HashMap<ResourceId, usize>,
    timers: Wheel,
    counters: Counters,
    generation: u64,
    /// Connections that are not up yet.
    pending: usize,
    opened_sender: mpsc::UnboundedSender<Opened>,
    opened: mpsc::UnboundedReceiver<Opened>,
    /// Those who closed a connection, by its generation, while the shard was opening its leg; one per such opening.
    closing: HashMap<u64, oneshot::Sender<Result<(), PatchError>>>,
    effects: Vec<Effect>,
    /// Slots whose time has come.
    due: Vec<usize>,
    handshakes: Handshakes,
    news: mpsc::Receiver<News>,
}

impl Plane {
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        let config = &parts.config;
        let (handshakes, news) =
            Handshakes::spawn(&parts.identity, config.handshake_threads, config.handshake_queue)?;
        // Unbounded, but there is at most one entry per pending join.
        let (opened_sender, opened) = mpsc::unbounded_channel();
        Ok(Self {
            parts,
            connections: Slab::new(),
            resources: HashMap::new(),
            timers: Wheel::new(Instant::now()),
            counters: Counters::default(),
            generation: 0,
            pending: 0,
            opened_sender,
            opened,
            closing: HashMap::new(),
            effects: Vec::new(),
            due: Vec::new(),
            handshakes,
            news,
        })
    }

    /// Runs until it is told to stop, or nobody is left to tell it.
    pub(super) async fn run(mut self) {
        loop {
            let wake = self.timers.next().unwrap_or_else(|| Instant::now() + IDLE);
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
                Some(news) = self.news.recv() => self.handle_news(Instant::now(), news),
                Some(inbound) = self.parts.inbounds.media.recv() => self.handle_inbound(inbound),
                Some(inbound) = self.parts.inbounds.control.recv() => self.handle_inbound(inbound),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            if let Some(reply) = self.handle_commands(first) {
                self.stop();
                // Whoever asked may have gone: the plane is stopped all the same.
                let _asker_gone = reply.send(()).is_err();
                return;
            }
            self.receive_media();
            for _ in 0..COMMANDS_PER_TURN {
                let Ok(opened) = self.opened.try_recv() else { break };
                self.handle_opened(Instant::now(), opened);
            }
            self.receive_media();
            for _ in 0..NEWS_PER_TURN {
                let Ok(news) = self.news.try_recv() else { break };
                self.handle_news(Instant::now(), news);
            }
            self.receive();
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
        self.parts.shared.stop.store(true, Ordering::Relaxed);
    }

    fn handle_timers(&mut self, now: Instant) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.take_due(now, TIMERS_PER_TURN, &mut due);
        for slot in due.drain(..) {
            self.handle_due(now, slot);
            self.schedule(now, slot);
        }
        self.due = due;
    }

    fn handle_due(&mut self, now: Instant, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        match connection.due(now, &self.parts.config) {
            Due::Close(reason) => return self.remove(slot, Some(reason)),
            Due::RestartDtls => {
                let key = Key { slot, generation: connection.generation };
                if !self.handshakes.restart(key) {
                    // Due still: it is tried again.
                    self.counters.dropped_handshakes += 1;
                    return;
                }
                connection.stage = Stage::Handshaking { since: now, restarted: true };
                self.counters.rebuilt += 1;
                debug!(resource = %connection.resource.prefix(), "handshake starts over");
                return;
            }
            Due::Disconnected => {
                connection.stage = Stage::Up { disconnected: true };
                connection.route.miss(connection.role == Role::Listener);
                if let Some(ingest) = connection.route.ingest() {
                    ingest.miss();
                }
                // What would be sent to nobody is held, and comes in order when the listener is back.
                connection.untold.down();
            }
            Due::Nothing => {}
        }
        connection.tell(now, &self.parts.shard);
        if let Some(stack) = connection.stack.as_mut().filter(|stack| stack.deadline() <= now) {
            let result = stack.handle_timeout(now, &mut self.effects);
            self.settle(now, slot, result);
        }
    }

    /// Has the timer look at a connection when something of it is due.
    fn schedule(&mut self, now: Instant, slot: usize) {
        let Some(connection) = self.connections.get(slot) else { return };
        let (deadline, grain) = match connection.role {
            // A hole in what it says is asked for.
            Role::Publisher => (connection.deadline(&self.parts.config).max(now + FINE), FINE),
            Role::Listener => (connection.deadline(&self.parts.config), COARSE),
        };
        if let Some(ingest) = connection.route.ingest() {
            ingest.looks_at(deadline);
        }
        self.timers.schedule(slot, deadline, grain);
    }

    /// A handshake has got further, or is over.
    fn handle_news(&mut self, now: Instant, news: News) {
        let News { key: Key { slot, generation }, mut effects, mut result, stack } = news;
        let connection = self.connections.get_mut(slot).filter(|c| c.generation == generation);
        let Some(connection) = connection else { return };
        self.effects.append(&mut effects);
        if stack.is_some() {
            connection.stack = stack;
        }
        if let Some(Stack::Publisher(stack)) = &connection.stack {
            let (ours, theirs) = (&connection.ice, &connection.remote.ice);
            // ICE may have been restarted while the stack was on its way here.
            let restarted = stack.with(|stack| match stack.is_in(ours) {
                true => Ok(()),
                false => stack.restart_ice(ours, theirs, &mut self.effects),
            });
            result = result.and(restarted);
        }
        self.settle(now, slot, result);
        self.schedule(now, slot);
    }

    /// Does what the stack asked for, then deals with its error, if any.
    fn settle(&mut self, now: Instant, slot: usize, result: Result<(), StackError>) {
        let mut effects = std::mem::take(&mut self.effects);
        if effects.iter().any(|effect| matches!(effect, Effect::Connected)) {
            // A listener is sent the end of the handshake first: media that overtakes it is lost to a peer without keys, and
            // one who comes back gets the first of what it missed at once. A publisher is awaited before it is sent: from then
            // on it speaks.
            let listens =
                self.connections.get(slot).is_some_and(|connection| connection.role == Role::Listener);
            effects.sort_by_key(|effect| matches!(effect, Effect::Transmit { .. }) != listens);
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
                let (port, path) = (connection.port(), connection.peer.whereabouts());
                self.transmit(port, path, destination, &datagram);
            }
            Effect::Connected => self.handle_connected(now, slot),
            Effect::Closed => self.remove(slot, Some(CloseReason::PeerClosed)),
        }
    }

    /// The one place where a connection ends, and its record with it. Without a reason it never was accepted.
    fn remove(&mut self, slot: usize, reason: Option<CloseReason>) {
        let Some(mut connection) = self.connections.try_remove(slot) else { return };
        self.timers.remove(slot);
        self.pending -= usize::from(connection.is_pending());
        if reason != Some(CloseReason::Panicked) {
            // Best effort: the peer may not be there any more.
            let mut effects = Vec::new();
            // One that is not up yet is nobody that its peer would take a goodbye from.
            let closed = connection.stack.as_mut().map(|stack| stack.close(&mut effects));
            self.counters.panics += u64::from(closed == Some(Err(StackError::Panicked)));
            for effect in effects {
                if let Effect::Transmit { destination, datagram } = effect {
                    self.transmit(connection.port(), connection.peer.whereabouts(), destination, &datagram);
                }
            }
        }
        for address in connection.peer.iter() {
            self.parts.shared.routes.remove(&self.parts.ports.pair(connection.port(), address));
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

    /// Sends what the stack wants sent, from the port of a shard.
    fn transmit(
        &mut self,
        port: u8,
        path: Option<SocketAddr>,
        destination: Option<SocketAddr>,
        datagram: &[u8],
    ) {
        let destination = match classify(datagram) {
            Class::Stun => destination,
            // DTLS and reports go to where the peer was heard of last, which may be newer than the stack's idea.
            _ => path.or(destination),
        };
        match destination {
            Some(destination) => self.send(port, destination, datagram),
            None => self.counters.dropped_send += 1,
        }
    }

    fn send(&mut self, port: u8, destination: SocketAddr, datagram: &[u8]) {
        if self.parts.ports.of(port).send(destination, datagram).is_err() {
            self.counters.dropped_send += 1;
        }
    }

    fn snapshot(&self) -> Snapshot {
        let Parts { shared, inbounds, .. } = &self.parts;
        let mut snapshot =
            Snapshot { addresses: shared.routes.len(), counters: self.counters, ..Snapshot::default() };
        shared.tally.add_to(&mut snapshot.counters);
        (snapshot.media_waiting, snapshot.control_waiting) = (inbounds.media.len(), inbounds.control.len());
        snapshot.handshakes_waiting = self.handshakes.waiting();
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
