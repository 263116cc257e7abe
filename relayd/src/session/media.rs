//! Places of those whose media goes over a WebSocket: seats, as connections of the other planes have slots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use relay_engine::{LegId, LegSpec, ListenerId, Peer, TrackId};
use tokio::sync::watch;

use super::directory::Claim;
use super::id::SessionId;
use super::service::{Service, ServiceError};
use crate::auth::Caller;
use crate::shard::Shard;
use crate::webrtc::{CloseReason, Record, ResourceId, Role};

/// What somebody takes a seat with.
#[derive(Debug)]
pub struct MediaJoin<'a> {
    /// To speak or to listen.
    pub role: Role,
    /// Where.
    pub session: &'a str,
    /// The track; `None` for the source language.
    pub language: Option<&'a str>,
    /// Who.
    pub caller: &'a Caller,
    /// With what right: a ticket goes on where another connection is, or was.
    pub claim: Claim,
    /// The first position that a listener wants; what a ticket says comes before it. Default: the live edge.
    pub from: Option<u64>,
}

/// A place of a publisher or listener with its leg on the media plane; dropping it closes the leg and gives the place
/// back, however the socket ends.
///
/// The order: [`Service::join_media`], then the leg is brought up on [`Service::shard`], then [`MediaSeat::connected`].
/// A seat that is a holder's second one takes over by itself; the older one hears [`CloseReason::Refreshed`] by
/// [`MediaSeat::closed`], and its socket is to be closed then.
pub struct MediaSeat {
    /// To speak or to listen.
    pub role: Role,
    /// Where.
    pub session: SessionId,
    /// Names the seat, as `Location` names other connections.
    pub resource: ResourceId,
    /// The track.
    pub track: TrackId,
    /// Its leg; not up yet.
    pub leg: LegId,
    /// The listener that the leg is of.
    pub listener: Option<ListenerId>,
    /// What the client comes back with.
    pub ticket: String,
    /// The first position that a listener was promised.
    pub from: Option<u64>,
    slot: Box<dyn Record>,
    shard: Shard,
    seats: Seats,
    closed: watch::Receiver<Option<CloseReason>>,
}

impl MediaSeat {
    /// The socket and its leg are up: media may flow.
    pub fn connected(&mut self) {
        self.slot.connected();
    }

    /// Resolves when the socket is to be closed, and says why.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.closed.clone();
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        // Without its sender it has been taken off the list: the relay is gone.
        reason.unwrap_or(CloseReason::Shutdown)
    }
}

impl Drop for MediaSeat {
    fn drop(&mut self) {
        self.seats.remove(&self.resource);
        self.shard.close(Peer::Leg(self.leg));
    }
}

impl std::fmt::Debug for MediaSeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaSeat")
            .field("role", &self.role)
            .field("session", &self.session)
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Takes a place for media over a WebSocket and opens its leg: the same places, claims and tickets as
    /// [`Service::join`].
    ///
    /// # Errors
    /// Why there is no place; nothing is left open then.
    pub async fn join_media(&self, join: MediaJoin<'_>) -> Result<MediaSeat, ServiceError> {
        let MediaJoin { role, session, language, caller, claim, from } = join;
        let now = Instant::now();
        let (mut slot, place, track) = self.take_slot(now, role, session, language, caller, &claim).await?;
        let resource = ResourceId::random();
        let closed = self.seats().insert(resource, track);
        if slot.accepted(resource).is_err() {
            self.seats().remove(&resource);
            return Err(place
                .check(language, true)
                .err()
                .map_or_else(|| self.gone(session), ServiceError::from));
        }
        let spec = LegSpec::new(MEDIA_PAYLOAD_TYPE).reports(false);
        let (leg, listener) = match role {
            Role::Publisher => (self.shard().open_publisher(track, spec).await?, None),
            Role::Listener => {
                let (listener, leg) = self.shard().open_listener(track, spec).await?;
                (leg, Some(listener))
            }
        };
        place.set_leg(leg);
        let ticket = super::secret::SecretHash::generate().0;
        let session = place.session.clone();
        let (shard, seats) = (self.shard().clone(), self.seats().clone());
        let seat = MediaSeat {
            role,
            session,
            resource,
            track,
            leg,
            listener,
            ticket,
            from,
            slot,
            shard,
            seats,
            closed,
        };
        place.check(language, true)?;
        Ok(seat)
    }
}

/// The seats there are, by their names: how they are told to go. Clones share them. One entry per socket.
#[derive(Debug, Clone, Default)]
pub(super) struct Seats {
    entries: Arc<Mutex<BTreeMap<ResourceId, Seated>>>,
}

#[derive(Debug)]
struct Seated {
    track: TrackId,
    closed: watch::Sender<Option<CloseReason>>,
}

impl Seats {
    fn insert(&self, resource: ResourceId, track: TrackId) -> watch::Receiver<Option<CloseReason>> {
        let (closed, hear) = watch::channel(None);
        self.entries().insert(resource, Seated { track, closed });
        hear
    }

    fn remove(&self, resource: &ResourceId) {
        self.entries().remove(resource);
    }

    /// Tells one to go; whether there is one.
    pub(super) fn close(&self, resource: &ResourceId, reason: CloseReason) -> bool {
        let entries = self.entries();
        let seated = entries.get(resource);
        seated.is_some_and(|seated| {
            seated.closed.send_if_modified(|closed| {
                closed.get_or_insert(reason);
                true
            });
            true
        })
    }

    /// Tells those of a track to go, or all.
    pub(super) fn close_all(&self, track: Option<TrackId>, reason: CloseReason) {
        for seated in self.entries().values().filter(|seated| track.is_none_or(|track| track == seated.track))
        {
            seated.closed.send_if_modified(|closed| {
                closed.get_or_insert(reason);
                true
            });
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ResourceId, Seated>> {
        // Every change under the lock is complete in itself.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody sees it: media frames of WebSockets have no payload type.
const MEDIA_PAYLOAD_TYPE: u8 = 111;
