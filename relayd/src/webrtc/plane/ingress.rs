//! Datagrams: whose they are, whether they may pass, and what follows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::{DATAGRAMS_PER_TURN, MEDIA_AT_ONCE, Plane};
use crate::shard::Egress;
use crate::webrtc::connection::{Binding, Stage};
use crate::webrtc::demux::{Class, Ufrag, classify, local_ufrag};
use crate::webrtc::handshakes::Key;
use crate::webrtc::ingest::{Ingest, Rest, Said};
use crate::webrtc::receiver::Inbound;
use crate::webrtc::routes::Pair;
use crate::webrtc::stack::{Datagram, Stack};
use crate::webrtc::stun::{self, MAX_ANSWER, Request};
use crate::webrtc::{CloseReason, Role};

impl Plane {
    /// Takes what the receivers have handed on, a bounded number of datagrams. Publishers go first, each time.
    pub(super) fn receive(&mut self) {
        for _ in 0..DATAGRAMS_PER_TURN {
            self.receive_media();
            let Ok(inbound) = self.parts.inbounds.control.try_recv() else { return };
            self.handle_inbound(inbound);
        }
    }

    /// Takes what publishers say, before other work goes on.
    pub(super) fn receive_media(&mut self) {
        for _ in 0..MEDIA_AT_ONCE {
            let Ok(inbound) = self.parts.inbounds.media.try_recv() else { return };
            self.handle_inbound(inbound);
        }
    }

    pub(super) fn handle_inbound(&mut self, inbound: Inbound) {
        let now = Instant::now();
        match inbound {
            Inbound::Datagram { pair, bytes } => self.handle_datagram(now, pair, &bytes),
            Inbound::Said(said) => self.handle_said(now, said),
        }
    }

    /// What a publisher has said is with its shard already; the rest is done here.
    fn handle_said(&mut self, now: Instant, said: Said) {
        let Said { route, rest: Rest { mut effects, result } } = said;
        let slot = route.slot;
        // Its connection may be over, and the slot another's.
        let connection = self.connections.get_mut(slot).filter(|c| Arc::ptr_eq(&c.route, &route));
        let Some(connection) = connection else { return };
        connection.hear(now);
        self.effects.append(&mut effects);
        self.settle(now, slot, result);
        self.schedule(now, slot);
    }

    pub(super) fn handle_datagram(&mut self, now: Instant, pair: Pair, datagram: &[u8]) {
        let (class, source) = (classify(datagram), pair.source);
        if class == Class::Stun {
            return self.handle_stun(now, pair, datagram);
        }
        // Only an address that an authenticated STUN binding came from has an entry here.
        let Some(slot) = self.parts.shared.routes.get(&pair).map(|route| route.slot) else {
            self.counters.dropped_unknown += 1;
            return;
        };
        let Some(connection) = self.connections.get_mut(slot) else { return };
        // Anybody may send this in the peer's name. A listener who is missed is sent much when it is back, so only what is
        // authentic brings it back: a binding here, or a report, which the media plane opens.
        if connection.role == Role::Publisher || !connection.is_missed() {
            connection.hear(now);
        }
        match class {
            Class::Dtls => self.handle_dtls(now, slot, source, datagram),
            // From before its publisher was up: what comes later, the receivers take.
            _ => self.counters.dropped_media += 1,
        }
        self.schedule(now, slot);
    }

    fn handle_stun(&mut self, now: Instant, Pair { port, source }: Pair, datagram: &[u8]) {
        let Some(ufrag) = local_ufrag(datagram) else {
            self.counters.dropped_stun += 1;
            return;
        };
        let slot = Ufrag::decode(ufrag).map(|(_shard, slot)| slot);
        let Some((slot, connection)) = slot.and_then(|slot| Some((slot, self.connections.get(slot)?))) else {
            self.counters.dropped_ufrag += 1;
            return;
        };
        // At another port than its peer was told there is no such connection: nothing goes out from there to it.
        if connection.ice.ufrag != ufrag || self.parts.ports.number(connection.port()) != port {
            self.counters.dropped_ufrag += 1;
            return;
        }
        let theirs = &connection.remote.ice.ufrag;
        let request = stun::authenticate(&self.parts.identity, &connection.ice, theirs, source, datagram);
        match request {
            None => self.counters.dropped_integrity += 1,
            Some(Request::Binding(binding)) => self.handle_binding(now, slot, binding, datagram),
            // Nothing is learnt of it: it comes again in the other role.
            Some(conflict @ Request::RoleConflict) => self.answer(slot, &conflict, source, datagram),
        }
        self.schedule(now, slot);
    }

    fn answer(&mut self, slot: usize, request: &Request, source: SocketAddr, datagram: &[u8]) {
        let Some(connection) = self.connections.get(slot) else { return };
        let (identity, password) = (&self.parts.identity, &connection.ice.password);
        let mut out = [0; MAX_ANSWER];
        match stun::answer(identity, password, request, datagram, &mut out) {
            Some(length) => self.send(connection.port(), source, &out[..length]),
            None => self.counters.stack_errors += 1,
        }
    }

    /// An authenticated binding: the address is the peer's from now on, and may become the path.
    pub(super) fn handle_binding(&mut self, now: Instant, slot: usize, binding: Binding, datagram: &[u8]) {
        let source = binding.source;
        let Some(connection) = self.connections.get(slot) else { return };
        let pair = self.parts.ports.pair(connection.port(), source);
        if !self.may_claim(now, slot, pair) {
            self.counters.dropped_addresses += 1;
            return;
        }
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let learnt = connection.peer.learn(now, binding);
        if learnt.refused {
            self.counters.dropped_addresses += 1;
            return;
        }
        self.claim(now, slot, pair);
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if let Some(evicted) = learnt.evicted {
            self.parts.shared.routes.remove(&Pair { source: evicted, ..pair });
        }
        self.parts.shared.routes.insert(pair, connection.route.clone());
        connection.consent = now;
        let returned = connection.hear(now);
        if connection.stage == Stage::Checking {
            connection.stage = Stage::Handshaking { since: now, restarted: false };
        }
        let listens =
            connection.role == Role::Listener && connection.leg.is_some() && !connection.is_pending();
        if listens && learnt.path_changed {
            self.counters.path_changes += 1;
            let path = self.parts.ports.of(connection.port()).on_the_wire(source);
            connection.untold.moved(path);
        } else if listens && returned && connection.peer.has_path() {
            // What it may have missed is sent again.
            self.counters.returns += 1;
            connection.untold.returned();
        }
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.tell(now, &self.parts.shard);
        if connection.role == Role::Listener {
            return self.answer(slot, &Request::Binding(binding), source, datagram);
        }
        self.feed(now, slot, source, datagram);
    }

    /// Whether a connection may have the address that an authentic check of its peer came from.
    fn may_claim(&self, now: Instant, slot: usize, pair: Pair) -> bool {
        let holder = self.holder(slot, pair).and_then(|other| self.connections.get(other));
        let (Some(holder), Some(claimant)) = (holder, self.connections.get(slot)) else { return true };
        // A source address is easily forged by who has a session of its own: who is connected keeps it until it is
        // silent for longer than a peer that is there. Only who has shown to be the same may have it before.
        holder.is_pending() || !holder.peer.holds(now, pair.source) || holder.is_same_peer(claimant)
    }

    /// The address is this connection's from now on: if it was another's, that one has lost it.
    fn claim(&mut self, now: Instant, slot: usize, pair: Pair) {
        let Some(other) = self.holder(slot, pair) else { return };
        // Whoever gets it next enters it again: no entry may outlast its connection's knowledge of it.
        self.parts.shared.routes.remove(&pair);
        if let Some(holder) = self.connections.get_mut(other) {
            holder.lose(now, pair.source, &self.parts.shard);
        }
        self.schedule(now, other);
    }

    /// The other connection that has an address now.
    fn holder(&self, slot: usize, pair: Pair) -> Option<usize> {
        let other = self.parts.shared.routes.get(&pair)?.slot;
        (other != slot && self.connections.contains(other)).then_some(other)
    }

    /// Has the stack take a datagram.
    fn feed(&mut self, now: Instant, slot: usize, source: SocketAddr, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let destination = self.parts.ports.of(connection.port()).facing(source);
        let datagram = Datagram { source, destination, bytes };
        let Some(stack) = &mut connection.stack else {
            let key = Key { slot, generation: connection.generation };
            let taken = self.handshakes.datagram(key, &connection.owner, datagram);
            self.counters.dropped_handshakes += u64::from(!taken);
            return;
        };
        let result = stack.receive(now, datagram, &mut self.effects);
        self.settle(now, slot, result);
    }

    fn handle_dtls(&mut self, now: Instant, slot: usize, source: SocketAddr, datagram: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let unfinished = connection.is_unfinished(now, &self.parts.config, datagram);
        self.feed(now, slot, source, datagram);
        if unfinished && let Some(connection) = self.connections.get_mut(slot) {
            // Behind the Finished, which is said again first.
            connection.untold.returned();
            connection.tell(now, &self.parts.shard);
        }
    }

    /// DTLS is done: keys and path go to the media plane.
    pub(super) fn handle_connected(&mut self, now: Instant, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let keys = connection.stack.as_mut().and_then(Stack::take_keys);
        let keys = keys.and_then(|exported| exported.keying_material());
        let path = connection.peer.whereabouts();
        let (Some(keys), Some(path), Some(leg)) = (keys, path, connection.leg) else {
            return self.remove(slot, Some(CloseReason::Failed));
        };
        self.pending -= usize::from(connection.is_pending());
        connection.stage = Stage::Up { disconnected: false };
        (connection.heard, connection.consent) = (now, now);
        connection.record.connected();
        self.counters.connected += 1;
        info!(resource = %connection.resource.prefix(), role = ?connection.role, profile = ?keys.profile(), "connected");
        let up = match connection.role {
            Role::Listener => {
                connection.route.open_reports(leg);
                let destination = self.parts.ports.of(connection.port()).on_the_wire(path);
                self.parts.shard.leg_up(leg, Egress::Srtp { destination, keys })
            }
            Role::Publisher => {
                let up = self.parts.shard.publisher_up(leg);
                if let Some(Stack::Publisher(stack)) = &connection.stack {
                    let ingest = Ingest::new(now, leg, stack.clone(), keys.srtcp_receiver());
                    connection.route.open_ingest(ingest);
                }
                up
            }
        };
        if !up {
            // It would be a connection without media: better its peer joins again.
            self.remove(slot, Some(CloseReason::Failed));
        }
    }
}
