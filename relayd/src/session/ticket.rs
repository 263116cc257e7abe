//! Tickets of a session's connections: what a client opens another one with, beside the one that it has or instead.
//!
//! Each connection that was answered has a pass: one resume ticket, and one more while a refresh is asked for. A ticket
//! is 32 random bytes, kept as a hash, and good once: until then while its connection is there and [`WINDOW`] longer.
//! One that opened nothing is given back. Memory: some 400 bytes per connection that is there, and for at most `max` of
//! those that are not; beyond, the one that left first is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use relay_engine::{LegId, TrackId};

use super::machine::HolderId;
use super::secret::SecretHash;
use crate::auth::{Caller, Subject};
use crate::webrtc::{ResourceId, Role};

/// How long a ticket outlives its connection.
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
    /// Nobody has come with `order` yet.
    fresh: bool,
    /// Somebody is coming with this one.
    held: Option<SecretHash>,
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
        }
    }

    /// A connection was answered: its resume ticket.
    pub(super) fn issue(&mut self, holder: HolderId, leg: LegId, right: Right) -> String {
        self.remove(holder);
        let (text, hash) = SecretHash::generate();
        let pass = Pass {
            right,
            leg,
            closed: None,
            until: None,
            resume: Some(hash.clone()),
            order: None,
            fresh: false,
            held: None,
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
    pub(super) fn look(&mut self, now: Instant, text: &str) -> Option<(HolderId, &Right)> {
        self.forget(now);
        let hash = SecretHash::of(text);
        let holder = *self.hashes.get(&hash)?;
        let pass = self.passes.get(&holder).filter(|pass| pass.held.is_none())?;
        Some((holder, &pass.right))
    }

    /// Somebody is coming with it: nobody else can, until it is spent or given back.
    pub(super) fn hold(&mut self, holder: HolderId, text: &str) {
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

    /// It has opened a connection, and is no good any more. With a connection that is gone, neither is its other one.
    pub(super) fn spend(&mut self, holder: HolderId) {
        let Some(pass) = self.passes.get_mut(&holder) else { return };
        let Some(held) = pass.held.take() else { return };
        if pass.until.is_some() {
            self.remove(holder);
            return;
        }
        pass.resume.take_if(|hash| *hash == held);
        pass.order.take_if(|hash| *hash == held);
        self.hashes.remove(&held);
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

    /// A leg was closed, a listener's having got so far.
    pub(super) fn handle_closed(&mut self, leg: LegId, next: Option<u64>) {
        let pass = self.legs.get(&leg).and_then(|holder| self.passes.get_mut(holder));
        if let Some(pass) = pass {
            pass.closed = Some(next);
        }
    }

    /// Where the leg of a connection that is gone was, once that is known.
    pub(super) fn closed(&self, holder: HolderId) -> Option<Option<u64>> {
        self.passes.get(&holder).and_then(|pass| pass.closed)
    }

    /// Of whose token a connection is that is there.
    pub(super) fn subject(&self, leg: LegId) -> Option<&Subject> {
        self.legs
            .get(&leg)
            .and_then(|holder| self.passes.get(holder))
            .and_then(|pass| pass.right.caller.subject())
    }

    /// A connection's tickets are no good any more.
    pub(super) fn remove(&mut self, holder: HolderId) {
        let Some(pass) = self.passes.remove(&holder) else { return };
        self.legs.remove(&pass.leg);
        for hash in pass.resume.iter().chain(&pass.order) {
            self.hashes.remove(hash);
        }
        if let Some(until) = pass.until {
            self.left.remove(&(until, holder));
        }
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
mod tests {
    use super::*;
    use crate::session::machine::tests::{ids, resource};

    const SECOND: Duration = Duration::from_secs(1);

    fn right() -> Right {
        let (track, _) = ids(1)[0];
        Right { role: Role::Listener, track, caller: Caller::Open, name: resource(1), socket: false }
    }

    fn legs() -> Vec<LegId> {
        ids(4).into_iter().map(|(_, leg)| leg).collect()
    }

    #[test]
    fn a_ticket_is_good_once() {
        let (now, mut tickets) = (Instant::now(), Tickets::new(4));
        let holder = HolderId::test(1);
        let text = tickets.issue(holder, legs()[0], right());
        assert_eq!(text.len(), 43);
        assert_eq!(tickets.look(now, &text).unwrap().0, holder);
        tickets.hold(holder, &text);
        assert!(tickets.look(now, &text).is_none(), "somebody is coming with it");
        tickets.give_back(holder);
        assert!(tickets.look(now, &text).is_some(), "they did not get in");
        tickets.hold(holder, &text);
        tickets.spend(holder);
        assert!(tickets.look(now, &text).is_none());
        assert!(tickets.look(now, "").is_none() && tickets.look(now, &"a".repeat(60_000)).is_none());
        assert!(tickets.hashes.is_empty());
    }

    #[test]
    fn a_ticket_outlives_its_connection_by_a_minute() {
        let (now, mut tickets) = (Instant::now(), Tickets::new(4));
        let holder = HolderId::test(1);
        let text = tickets.issue(holder, legs()[0], right());
        tickets.handle_closed(legs()[0], Some(7));
        tickets.handle_left(now, holder);
        assert_eq!(tickets.closed(holder), Some(Some(7)));
        assert!(tickets.look(now + WINDOW - SECOND, &text).is_some());
        assert!(tickets.look(now + WINDOW, &text).is_none());
        assert!(tickets.passes.is_empty() && tickets.legs.is_empty() && tickets.left.is_empty());
    }

    #[test]
    fn of_a_connection_that_is_gone_one_of_its_tickets_is_good() {
        let (now, mut tickets) = (Instant::now(), Tickets::new(4));
        let holder = HolderId::test(1);
        let resume = tickets.issue(holder, legs()[0], right());
        let (first, _) = tickets.order(holder).unwrap();
        let (second, _) = tickets.order(holder).unwrap();
        assert!(!tickets.take_order(&resume) && !tickets.take_order(&first));
        assert!(tickets.take_order(&second) && !tickets.take_order(&second), "once");
        assert!(tickets.look(now, &first).is_none(), "there is a newer one");
        assert!(tickets.look(now, &second).is_some() && tickets.look(now, &resume).is_some());
        tickets.handle_left(now, holder);
        tickets.hold(holder, &second);
        tickets.spend(holder);
        assert!(tickets.look(now, &resume).is_none());
        assert!(tickets.passes.is_empty() && tickets.hashes.is_empty() && tickets.left.is_empty());
    }

    #[test]
    fn only_so_many_are_kept_of_those_who_left() {
        let (now, mut tickets) = (Instant::now(), Tickets::new(2));
        let all: Vec<String> = (0..4)
            .map(|number| {
                let holder = HolderId::test(number as u64);
                let text = tickets.issue(holder, legs()[number], right());
                tickets.handle_left(now + u32::try_from(number).unwrap() * SECOND, holder);
                text
            })
            .collect();
        let good: Vec<bool> = all.iter().map(|text| tickets.look(now, text).is_some()).collect();
        assert_eq!(good, [false, false, true, true]);
        assert_eq!((tickets.hashes.len(), tickets.legs.len()), (2, 2));
    }
}
