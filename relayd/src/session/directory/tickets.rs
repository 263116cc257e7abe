//! Coming back with a ticket: beside the connection that is there, or where one was.

use std::sync::Arc;
use std::time::Instant;

use relay_engine::{LegId, ListenerId, TrackId};

use super::state::Entry;
use super::{Directory, Report, Shared};
use crate::auth::Caller;
use crate::session::error::SessionError;
use crate::session::id::SessionId;
use crate::session::machine::{HolderId, Machine, Seat, Term};
use crate::session::slot::Place;
use crate::session::ticket::{Found, Right};
use crate::webrtc::{ResourceId, Role};

/// What a client comes with who has a ticket.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct Return<'a> {
    pub role: Role,
    pub language: Option<&'a str>,
    pub caller: &'a Caller,
    pub ticket: &'a str,
}

/// Somebody who came with a ticket.
#[derive(Debug)]
pub(in crate::session) struct Returned {
    pub place: Place,
    pub seat: Seat,
    pub held: HeldTicket,
}

/// A ticket that somebody is coming with: as good as before when this is dropped, unless it has opened something.
#[derive(Debug)]
pub(in crate::session) struct HeldTicket {
    of: Left,
    /// What it has opened.
    opened: Option<HolderId>,
    /// Whose return is to be counted.
    resumes: Option<Role>,
}

/// A connection that somebody comes back from.
#[derive(Debug, Clone)]
pub(in crate::session) struct Left {
    shared: Arc<Shared>,
    session: SessionId,
    serial: u64,
    holder: HolderId,
}

impl HeldTicket {
    /// It has opened a connection, that of this place.
    pub(in crate::session) fn spend(mut self, place: &Place) {
        self.opened = Some(place.holder);
    }

    /// The connection that it was given to.
    pub(in crate::session) fn left(&self) -> &Left {
        &self.of
    }
}

impl Left {
    /// Where the listener's leg was, as soon as the media plane says that it has closed it.
    pub(in crate::session) async fn position(&self) -> Option<u64> {
        loop {
            let mut closed = std::pin::pin!(self.shared.leg_is_closed());
            // From here on nothing that is told goes unnoticed.
            closed.as_mut().enable();
            if let Some(next) = self.closed() {
                return next;
            }
            closed.await;
        }
    }

    fn closed(&self) -> Option<Option<u64>> {
        let state = self.shared.state();
        let entry = state.entry(self.session.as_str()).ok()?;
        if entry.serial == self.serial { entry.tickets.closed(self.holder) } else { Some(None) }
    }
}

impl Drop for HeldTicket {
    fn drop(&mut self) {
        let Left { shared, session, serial, holder } = &self.of;
        if let Some(role) = self.resumes {
            shared.report(Report::Resume { role, admitted: self.opened.is_some() });
        }
        let mut state = shared.state();
        if let Some(entry) = state.entry_mut(session).filter(|entry| entry.serial == *serial) {
            match self.opened {
                Some(opened) => entry.tickets.spend(Instant::now(), *holder, opened),
                None => entry.tickets.give_back(*holder),
            }
        }
    }
}

impl Directory {
    /// Whether this is a ticket that the relay has asked somebody to come with: they are not to wait in line. Said once
    /// of each.
    pub fn take_order(&self, session: &str, ticket: &str) -> bool {
        let mut state = self.shared.state();
        let Some(id) = state.entry(session).ok().map(|entry| entry.access.id.clone()) else { return false };
        state.entry_mut(&id).is_some_and(|entry| entry.tickets.take_order(ticket))
    }

    /// Who comes with this ticket: the caller that it was given to, or `shown`, a token of the same subject. It is for
    /// one role and language of one session.
    pub fn ticket_caller(
        &self,
        now: Instant,
        session: &str,
        (role, language): (Role, Option<&str>),
        ticket: &str,
        shown: &Caller,
    ) -> Result<Caller, SessionError> {
        let mut state = self.shared.state();
        let id = state.entry(session)?.access.id.clone();
        let grace = self.shared.limits().grace;
        let entry = state.entry_mut(&id).expect("found under the same lock");
        let coming = Return { role, language, caller: shown, ticket };
        let caller = look(entry, now, coming)?.right.caller.clone();
        let caller = if shown.grant().is_some() { shown.clone() } else { caller };
        let over = caller.grant().is_some_and(|grant| grant.expires + grace <= now);
        if over { Err(SessionError::Ticket { id }) } else { Ok(caller) }
    }

    /// Takes a place with a ticket. Whoever it has let in before, and who does not know of it, goes.
    pub(in crate::session) fn return_slot(
        &self,
        now: Instant,
        session: &str,
        coming: Return<'_>,
    ) -> Result<Returned, SessionError> {
        let mut old = None;
        let (place, seat) = self.shared.seat(now, session, |entry| {
            let Found { holder, right, opened } = look(entry, now, coming)?;
            let (name, term) = (right.name, Term::of(coming.caller, &entry.access));
            let before = opened.and_then(|opened| {
                entry.tickets.remove(opened);
                entry.machine.supersede(now, opened)
            });
            let seat = take(&mut entry.machine, now, coming, (holder, name, term))?;
            entry.tickets.hold(holder, coming.ticket);
            old = Some(holder);
            Ok(Seat { displaced: seat.displaced.or(before), ..seat })
        })?;
        let resumes = (!seat.second).then_some(coming.role);
        let holder = old.expect("a seat was taken with a ticket");
        let (shared, session, serial) = (self.shared.clone(), place.session.clone(), place.serial);
        let of = Left { shared, session, serial, holder };
        let held = HeldTicket { of, opened: None, resumes };
        Ok(Returned { place, seat, held })
    }
}

impl Place {
    /// The connection has this leg on the media plane: what it may come back with; `None` if it counts no more.
    pub(in crate::session) fn answered(
        &self,
        (leg, listener): (LegId, Option<ListenerId>),
        right: impl FnOnce(ResourceId) -> Right,
    ) -> Option<String> {
        self.shared.answered(self, leg, listener, right)
    }
}

/// Whose ticket it is, if it is one for this role and track, of the caller's subject if there is one.
fn look<'a>(entry: &'a mut Entry, now: Instant, coming: Return<'_>) -> Result<Found<'a>, SessionError> {
    let id = entry.access.id.clone();
    let track: TrackId = entry.machine.track(coming.language)?;
    let found = entry.tickets.look(now, coming.ticket);
    let fits = |right: &Right| {
        let own = coming.caller.subject().is_none_or(|shown| right.caller.subject() == Some(shown));
        right.role == coming.role && right.track == track && own
    };
    found.filter(|found| fits(found.right)).ok_or(SessionError::Ticket { id })
}

fn take(
    machine: &mut Machine,
    now: Instant,
    coming: Return<'_>,
    (holder, name, term): (HolderId, ResourceId, Option<Term>),
) -> Result<Seat, SessionError> {
    if machine.has(holder.member)
        && let Some(seat) = machine.take_second(now, holder.member, term.clone())
    {
        return Ok(seat);
    }
    let seat = match coming.role {
        Role::Publisher => machine.take_publisher(now, coming.language, term, false),
        Role::Listener => machine.take_listener(now, coming.language, term),
    }?;
    machine.rename(seat.holder, name);
    Ok(seat)
}
