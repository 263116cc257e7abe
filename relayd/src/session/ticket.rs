//! Tickets of a session's connections: what a client opens another one with, beside the one that it has or instead.
//!
//! Each connection that was answered has a pass: one resume ticket, and one more while a refresh is asked for. A ticket
//! is 32 random bytes, kept as a hash, and good while its connection is there and [`WINDOW`] longer. What happens to it:
//!
//! | ticket | somebody comes | they got in | they did not | the client knows of what it opened | time |
//! |---|---|---|---|---|---|
//! | good | held | | | | forgotten [`WINDOW`] after its connection |
//! | held | refused | used | as before | | |
//! | used | held, in the place of whoever it let in before | | | no good any more | no good [`WINDOW`] after its first use |
//!
//! The answer to whoever got in may be lost, so a used ticket is good again for whoever has no other. That the client
//! knows is shown by a connection that comes up, by what comes over a socket, or by the next ticket. At most one
//! ticket of a pass is used; with a connection that is gone the others go when one is used. A second connection that is
//! gone without taking over leaves its ticket to the first one, whose own may have opened it. Memory: some 500 bytes per
//! connection that is there, and for at most `max` of those that are not; beyond, the one that left first is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use relay_engine::{LegId, TrackId};

use super::machine::HolderId;
use super::secret::SecretHash;
use crate::auth::{Caller, Subject};
use crate::webrtc::{ResourceId, Role};

/// How long a ticket outlives its connection, and its first use.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// What a ticket gives a right to.
#[derive(Debug, Clone)]
pub(super) struct Right {
    pub role: Role,
    pub track: TrackId,
    pub caller: Caller,
    /// What the holder is called; see [`Audience::Leg`](super::Audience::Leg).
    pub name: ResourceId,
    /// Whether media goes over a WebSocket.
    pub socket: bool,
}

/// The tickets of one session.
#[derive(Debug)]
pub(super) struct Tickets {
    max: usize,
    passes: BTreeMap<HolderId, Pass>,
    hashes: BTreeMap<SecretHash, HolderId>,
    legs: BTreeMap<LegId, HolderId>,
    /// Those whose connections are gone, by when they are forgotten.
    left: BTreeSet<(Instant, HolderId)>,
    /// How many passes there are by what their holders are called.
    names: BTreeMap<ResourceId, usize>,
    /// Names of which the last pass went; at most one for each pass that there was when they were last taken.
    gone: Vec<ResourceId>,
}

#[derive(Debug)]
struct Pass {
    right: Right,
    leg: LegId,
    /// Where a listener's leg was when it was closed, once that is known.
    closed: Option<Option<u64>>,
    /// Until when it is good, once its connection is gone.
    until: Option<Instant>,
    resume: Option<SecretHash>,
    order: Option<SecretHash>,
    /// That of a second connection that did not take over.
    left: Option<SecretHash>,
    /// Nobody has come with `order` yet.
    fresh: bool,
    /// Somebody is coming with this one.
    held: Option<SecretHash>,
    used: Option<Used>,
    /// Whose ticket opened the connection, until its client is known to know of it.
    before: Option<HolderId>,
    /// Where that one's leg was when it was closed: a leg that was sent nothing is still there.
    from: Option<u64>,
}

/// A ticket that has opened a connection of which its client may not know.
#[derive(Debug)]
struct Used {
    ticket: SecretHash,
    opened: HolderId,
    until: Instant,
}

/// A ticket that is good.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Whose it is.
    pub holder: HolderId,
    pub right: &'a Right,
    /// Whom it has let in before, and is to let in no more.
    pub opened: Option<HolderId>,
}

impl Tickets {
    /// None, and at most so many for connections that are gone.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            passes: BTreeMap::new(),
            hashes: BTreeMap::new(),
            legs: BTreeMap::new(),
            left: BTreeSet::new(),
            names: BTreeMap::new(),
            gone: Vec::new(),
        }
    }

    /// A connection was answered: its resume ticket.
    pub(super) fn issue(&mut self, holder: HolderId, leg: LegId, right: Right) -> String {
        self.remove(holder);
        let (text, hash) = SecretHash::generate();
        *self.names.entry(right.name).or_default() += 1;
        let pass = Pass {
            right,
            leg,
            closed: None,
            until: None,
            resume: Some(hash.clone()),
            order: None,
            left: None,
            fresh: false,
            held: None,
            used: None,
            before: None,
            from: None,
        };
        self.passes.insert(holder, pass);
        self.legs.insert(leg, holder);
        self.hashes.insert(hash, holder);
        text
    }

    /// A connection is to be replaced: a ticket for that, instead of an earlier one.
    pub(super) fn order(&mut self, holder: HolderId) -> Option<(String, &Right)> {
        let pass = self.passes.get_mut(&holder)?;
        let (text, hash) = SecretHash::generate();
        pass.fresh = true;
        if let Some(earlier) = pass.order.replace(hash.clone()) {
            self.hashes.remove(&earlier);
        }
        self.hashes.insert(hash, holder);
        Some((text, &pass.right))
    }

    /// It is not to be replaced any more.
    pub(super) fn withdraw(&mut self, holder: HolderId) {
        if let Some(order) = self.passes.get_mut(&holder).and_then(|pass| pass.order.take()) {
            self.hashes.remove(&order);
        }
    }

    /// Whether this is a ticket that somebody was asked to come with, and nobody has asked this of it: whoever comes
    /// with it again and again is as anybody else.
    pub(super) fn take_order(&mut self, text: &str) -> bool {
        let hash = SecretHash::of(text);
        let pass = self.hashes.get(&hash).and_then(|holder| self.passes.get_mut(holder));
        let pass = pass.filter(|pass| pass.order.as_ref() == Some(&hash));
        pass.is_some_and(|pass| std::mem::take(&mut pass.fresh))
    }

    /// Whose ticket this is, and what it gives a right to, if it is one that nobody is coming with.
    pub(super) fn look(&mut self, now: Instant, text: &str) -> Option<Found<'_>> {
        self.forget(now);
        let hash = SecretHash::of(text);
        let holder = *self.hashes.get(&hash)?;
        let pass = self.passes.get(&holder).filter(|pass| pass.held.is_none())?;
        let used = pass.used.as_ref().filter(|used| used.ticket == hash);
        let good = used.is_none_or(|used| now < used.until);
        good.then_some(Found { holder, right: &pass.right, opened: used.map(|used| used.opened) })
    }

    /// Somebody is coming with it: nobody else can, until it has let them in or is given back.
    pub(super) fn hold(&mut self, holder: HolderId, text: &str) {
        self.handle_known(holder);
        if let Some(pass) = self.passes.get_mut(&holder) {
            pass.held = Some(SecretHash::of(text));
        }
    }

    /// It opened nothing: it is as good as before.
    pub(super) fn give_back(&mut self, holder: HolderId) {
        if let Some(pass) = self.passes.get_mut(&holder) {
            pass.held = None;
        }
    }

    /// It has opened a connection, that of `opened`.
    pub(super) fn spend(&mut self, now: Instant, holder: HolderId, opened: HolderId) {
        let Some(pass) = self.passes.get_mut(&holder) else { return };
        let Some(ticket) = pass.held.take() else { return };
        pass.resume.take_if(|hash| *hash == ticket);
        pass.order.take_if(|hash| *hash == ticket);
        pass.left.take_if(|hash| *hash == ticket);
        let mut until = now + WINDOW;
        match pass.used.take() {
            Some(before) if before.ticket == ticket => until = before.until,
            Some(before) => drop(self.hashes.remove(&before.ticket)),
            None => {}
        }
        self.hashes.insert(ticket.clone(), holder);
        pass.used = Some(Used { ticket, opened, until });
        if pass.until.is_some() {
            self.retire(holder);
        }
        if let Some(next) = self.passes.get_mut(&opened) {
            next.before = Some(holder);
        }
    }

    /// A connection is up: over WebRTC only that of a client who has the answer.
    pub(super) fn handle_connected(&mut self, holder: HolderId) {
        if self.passes.get(&holder).is_some_and(|pass| !pass.right.socket) {
            self.handle_known(holder);
        }
    }

    /// The client knows of its connection: the ticket that it came with is no good any more.
    pub(super) fn handle_known(&mut self, holder: HolderId) {
        let Some(before) = self.passes.get_mut(&holder).and_then(|pass| pass.before.take()) else { return };
        let Some(pass) = self.passes.get_mut(&before) else { return };
        let Some(used) = pass.used.take_if(|used| used.opened == holder) else { return };
        let from = pass.closed.flatten();
        self.hashes.remove(&used.ticket);
        let others = [&pass.resume, &pass.order, &pass.left];
        if others.iter().all(|other| other.is_none()) && pass.until.is_some() {
            self.remove(before);
        }
        if let Some(pass) = self.passes.get_mut(&holder) {
            pass.from = from;
        }
    }

    /// A connection is gone.
    pub(super) fn handle_left(&mut self, now: Instant, holder: HolderId) {
        let Some(pass) = self.passes.get_mut(&holder) else { return };
        if pass.until.is_some() {
            return;
        }
        let until = now + WINDOW;
        pass.until = Some(until);
        self.left.insert((until, holder));
        self.forget(now);
        while self.left.len() > self.max
            && let Some((_, first)) = self.left.first().copied()
        {
            self.remove(first);
        }
    }

    /// A second connection is gone, and the first one is there still: its ticket is of that one from now on.
    pub(super) fn handle_second_left(&mut self, now: Instant, second: HolderId, first: HolderId) {
        let moves = |pass: &Pass| pass.until.is_none() && pass.held.is_none() && pass.used.is_none();
        if !(self.passes.contains_key(&first) && self.passes.get(&second).is_some_and(moves)) {
            return self.handle_left(now, second);
        }
        let ticket = self.passes.get_mut(&second).and_then(|pass| pass.resume.take());
        self.remove(second);
        let Some((pass, ticket)) = self.passes.get_mut(&first).zip(ticket) else { return };
        if let Some(earlier) = pass.left.replace(ticket.clone()) {
            self.hashes.remove(&earlier);
        }
        self.hashes.insert(ticket, first);
    }

    /// A leg was closed, a listener's having got so far.
    pub(super) fn handle_closed(&mut self, leg: LegId, next: Option<u64>) {
        let pass = self.legs.get(&leg).and_then(|holder| self.passes.get_mut(holder));
        if let Some(pass) = pass {
            pass.closed = Some(next);
        }
    }

    /// Where the leg of a connection that is gone was, once that is known.
    pub(super) fn closed(&self, holder: HolderId) -> Option<Option<u64>> {
        self.passes.get(&holder).and_then(|pass| pass.closed.map(|next| next.or(pass.from)))
    }

    /// Of whose token a connection is that is there.
    pub(super) fn subject(&self, leg: LegId) -> Option<&Subject> {
        self.legs
            .get(&leg)
            .and_then(|holder| self.passes.get(holder))
            .and_then(|pass| pass.right.caller.subject())
    }

    /// Of a connection's tickets only the one that was used may still be good.
    pub(super) fn retire(&mut self, holder: HolderId) {
        let Some(pass) = self.passes.get_mut(&holder) else { return };
        let Some(until) = pass.used.as_ref().map(|used| used.until) else { return self.remove(holder) };
        for hash in [pass.resume.take(), pass.order.take(), pass.left.take()].iter().flatten() {
            self.hashes.remove(hash);
        }
        if let Some(before) = pass.until.replace(until) {
            self.left.remove(&(before, holder));
        }
        self.left.insert((until, holder));
    }

    /// A connection's tickets are no good any more.
    pub(super) fn remove(&mut self, holder: HolderId) {
        let Some(pass) = self.passes.remove(&holder) else { return };
        self.forget_name(pass.right.name);
        self.legs.remove(&pass.leg);
        let used = pass.used.as_ref().map(|used| &used.ticket);
        for hash in pass.resume.iter().chain(&pass.order).chain(&pass.left).chain(used) {
            self.hashes.remove(hash);
        }
        if let Some(until) = pass.until {
            self.left.remove(&(until, holder));
        }
    }

    /// Names that nobody can come back to any more, told once.
    pub(super) fn take_gone(&mut self) -> Vec<ResourceId> {
        let mut gone = std::mem::take(&mut self.gone);
        gone.retain(|name| !self.names.contains_key(name));
        gone
    }

    fn forget_name(&mut self, name: ResourceId) {
        let Some(passes) = self.names.get_mut(&name) else { return };
        *passes -= 1;
        if *passes == 0 {
            self.names.remove(&name);
            self.gone.push(name);
        }
    }

    /// When [`Tickets::handle_timeout`] is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.left.first().map(|(until, _)| *until)
    }

    /// Time has passed: those whose time is over are forgotten.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((until, holder)) = self.left.first().copied()
            && until <= now
        {
            self.remove(holder);
        }
    }
}

#[cfg(test)]
mod tests;
