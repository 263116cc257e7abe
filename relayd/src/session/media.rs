//! Places of those whose media goes over a WebSocket: seats, as connections of the other planes have slots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use relay_engine::{LegId, LegSpec, ListenerId, Order, Peer, TrackId};
use tokio::sync::watch;

use super::directory::Claim;
use super::id::SessionId;
use super::service::{Service, ServiceError, Slot};
use super::slot::Place;
use super::ticket::Right;
use crate::auth::Caller;
use crate::shard::Shard;
use crate::webrtc::{Attach, CloseReason, Record, ResourceId, Role};

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
    /// The first position that a listener wants. Default: what a ticket says, else the live edge.
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
    /// The place, if it was taken with a ticket and the client may not know of it.
    unknown: Option<Place>,
    /// Before the slot: the place is free when the leg is closed.
    _open: OpenLeg,
    slot: Box<dyn Record>,
    listed: Listed,
}

impl MediaSeat {
    /// The socket and its leg are up: media may flow.
    pub fn connected(&mut self) {
        self.slot.connected();
    }

    /// The client has said something since it was let in: it knows, and does not come with the same ticket again.
    pub fn heard(&mut self) {
        if let Some(place) = self.unknown.take() {
            place.known();
        }
    }

    /// Resolves when the socket is to be closed, and says why. It borrows nothing of the seat.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + use<> {
        let mut closed = self.listed.closed.clone();
        async move {
            let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
            // Without its sender it has been taken off the list: the relay is gone.
            reason.unwrap_or(CloseReason::Shutdown)
        }
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
        let taken = self.take_slot(Instant::now(), (role, session, language), caller, &claim).await?;
        let Slot { record: mut slot, place, track, attach, epoch, held } = taken;
        let (resource, listed) = self.seats().insert(track);
        if slot.accepted(resource).is_err() {
            place.check(language, true)?;
            return Err(self.gone(session));
        }
        let (spec, mut from) = (LegSpec::new(MEDIA_PAYLOAD_TYPE).reports(false), from);
        let (leg, listener) = match (role, attach) {
            (Role::Publisher, _) => (self.shard().open_publisher(track, spec.epoch(epoch)).await?, None),
            (Role::Listener, Attach::Second { listener }) => {
                let spec = from.into_iter().fold(spec.order(Order::Position), LegSpec::resume_from);
                (self.shard().add_leg(listener, spec).await?, Some(listener))
            }
            (Role::Listener, Attach::New { resume_from }) => {
                from = from.or(resume_from);
                let spec = from.into_iter().fold(spec.order(Order::Position), LegSpec::resume_from);
                let (listener, leg) = self.shard().open_listener(track, spec).await?;
                (leg, Some(listener))
            }
        };
        let leg = OpenLeg { shard: self.shard().clone(), leg };
        let right = |name| Right { role, track, caller: caller.clone(), name, socket: true };
        let ticket = place.answered((leg.leg, listener), right);
        place.check(language, true)?;
        let unknown = held.map(|held| {
            held.spend(&place);
            place.clone()
        });
        let session = place.session;
        Ok(MediaSeat {
            role,
            session,
            resource,
            track,
            leg: leg.leg,
            listener,
            ticket,
            from,
            unknown,
            _open: leg,
            slot,
            listed,
        })
    }
}

/// A leg that is closed when nobody has it any more.
struct OpenLeg {
    shard: Shard,
    leg: LegId,
}

impl Drop for OpenLeg {
    fn drop(&mut self) {
        self.shard.close(Peer::Leg(self.leg));
    }
}

/// A seat on the list, while there is one.
struct Listed {
    seats: Seats,
    resource: ResourceId,
    closed: watch::Receiver<Option<CloseReason>>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.seats.entries().remove(&self.resource);
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

impl Seated {
    /// The first reason counts.
    fn close(&self, reason: CloseReason) {
        self.closed.send_if_modified(|closed| closed.replace(closed.unwrap_or(reason)).is_none());
    }
}

impl Seats {
    fn insert(&self, track: TrackId) -> (ResourceId, Listed) {
        let (sender, closed) = watch::channel(None);
        let resource = ResourceId::random();
        self.entries().insert(resource, Seated { track, closed: sender });
        (resource, Listed { seats: self.clone(), resource, closed })
    }

    /// Tells one to go; whether there is one.
    pub(super) fn close(&self, resource: &ResourceId, reason: CloseReason) -> bool {
        let entries = self.entries();
        let seated = entries.get(resource);
        seated.inspect(|seated| seated.close(reason)).is_some()
    }

    /// Tells those of a track to go, or all.
    pub(super) fn close_all(&self, track: Option<TrackId>, reason: CloseReason) {
        for seated in self.entries().values().filter(|seated| track.is_none_or(|track| track == seated.track))
        {
            seated.close(reason);
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ResourceId, Seated>> {
        // Every change under the lock is complete in itself.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody sees it: media frames of WebSockets have no payload type.
const MEDIA_PAYLOAD_TYPE: u8 = 111;
