//! A connection on its way: measured until it is up, on record while it lasts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;

use super::Api;
use super::peer::Peer;
use super::problem::Problem;
use crate::auth::Caller;
use crate::events::{Listening, Place, Streams};
use crate::metrics::JoinAttempt;
use crate::records::{Kind, RecordGuard, Records};
use crate::session::SessionId;
use crate::webrtc::{CloseReason, Joined, Record, ResourceId, Role};

/// Who joins, and as what.
#[derive(Debug, Clone)]
pub(super) struct Connecting {
    attempt: Arc<JoinAttempt>,
    records: Records,
    role: Role,
    address: IpAddr,
    who: String,
    streams: Streams,
    language: Option<String>,
}

impl Connecting {
    /// A request to join came, for a session and one of its languages.
    pub(super) fn begin(api: &Api, role: Role, place: (&str, Option<&str>), request: &Request) -> Self {
        let extensions = request.extensions();
        let who = match extensions.get::<Caller>() {
            Some(Caller::Token(grant)) => grant.subject.subject.clone(),
            _ => String::new(),
        };
        // Without a connection, as in tests of the router, it is this machine.
        let address = extensions.get::<Peer>().map_or(LOOPBACK, |peer| peer.0);
        // A subject is the same wherever it comes from; nobody else has more than an address.
        let holder = if who.is_empty() { Err(address) } else { Ok(&who) };
        let attempt = JoinAttempt::begin(&api.metrics, Instant::now(), role, (place, holder));
        let (records, streams) = (api.metrics.records().clone(), api.followers.streams.clone());
        Self { attempt, records, role, address, who, streams, language: place.1.map(str::to_owned) }
    }

    /// It was refused.
    pub(super) fn refused(&self, problem: &Problem) {
        self.attempt.refused(problem.code());
    }

    /// It was answered.
    pub(super) fn answered(&self, joined: &Joined) {
        self.attempt.answered(joined);
    }

    /// Its slot, measured and on record.
    pub(super) fn record(&self, session: SessionId, slot: Box<dyn Record>) -> Box<dyn Record> {
        Box::new(Recorded { connecting: self.clone(), session, slot, guard: None, listening: None })
    }
}

struct Recorded {
    connecting: Connecting,
    session: SessionId,
    slot: Box<dyn Record>,
    guard: Option<RecordGuard>,
    listening: Option<Listening>,
}

impl Record for Recorded {
    fn accepted(&mut self, resource: ResourceId) -> Result<(), CloseReason> {
        let Connecting { records, role, address, who, streams, language, .. } = &self.connecting;
        let kind = match role {
            Role::Publisher => Kind::Publisher,
            Role::Listener => Kind::Listener,
        };
        self.guard = Some(records.open(kind, *address, Some(self.session.clone()), who.clone()));
        if *role == Role::Listener {
            let place = Place { session: self.session.clone(), language: language.clone(), who: who.clone() };
            self.listening = Some(streams.listen(resource, place));
        }
        self.slot.accepted(resource)
    }

    fn connected(&mut self) {
        self.connecting.attempt.connected();
        self.slot.connected();
    }

    fn disconnected(&mut self, reason: CloseReason) {
        self.connecting.attempt.ended(reason);
        self.slot.disconnected(reason);
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
