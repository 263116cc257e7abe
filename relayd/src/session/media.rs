//! Places of those whose media goes over a WebSocket: seats, as connections of the other planes have slots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use relay_engine::{LegId, LegSpec, ListenerId, OpenError, Order, Peer, TrackId};
use tokio::sync::watch;

use super::directory::{Claim, HeldTicket};
use super::id::SessionId;
use super::service::{Service, ServiceError, Slot, left_at};
use super::slot::Place;
use super::ticket::Right;
use crate::auth::Caller;
use crate::shard::{ShardError, Shards};
use crate::webrtc::{Attach, CloseReason, JoinError, Record, ResourceId, Role};

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
    listed: Listed,
    slot: Box<dyn Record>,
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
            place.check(language, role == Role::Publisher)?;
            return Err(self.gone(session));
        }
        let spec = LegSpec::new(MEDIA_PAYLOAD_TYPE).reports(false);
        let (leg, listener, from) = match role {
            Role::Publisher => (self.shard().open_publisher(track, spec.epoch(epoch)).await?, None, None),
            Role::Listener => {
                let spec = from.into_iter().fold(spec.order(Order::Position), LegSpec::resume_from);
                let (listener, leg, from) = self.attach(track, attach, (spec, from), held.as_ref()).await?;
                (leg, Some(listener), from)
            }
        };
        listed.opened(OpenLeg { shard: self.shard().clone(), leg });
        let right = |name| Right { role, track, caller: caller.clone(), name, socket: true };
        let ticket = place.answered((leg, listener), right);
        place.check(language, role == Role::Publisher)?;
        let ticket = ticket.ok_or(JoinError::Capacity)?;
        let unknown = held.map(|held| {
            held.spend(&place);
            place.clone()
        });
        let session = place.session;
        Ok(MediaSeat { role, session, resource, track, leg, listener, ticket, from, unknown, listed, slot })
    }
}

impl Service {
    /// Opens a listener's leg: beside the one that it has, or where that was. Tells the first position that is promised.
    async fn attach(
        &self,
        track: TrackId,
        attach: Attach,
        (spec, from): (LegSpec, Option<u64>),
        held: Option<&HeldTicket>,
    ) -> Result<(ListenerId, LegId, Option<u64>), ServiceError> {
        let left_at = match attach {
            Attach::New { resume_from } => resume_from,
            Attach::Second { listener } => match (self.shard().add_leg(listener, spec).await, held) {
                // The leg that it had was closed just then: this one comes after it.
                (Err(ShardError::Open(OpenError::UnknownListener(_))), Some(held)) => {
                    left_at(held.left().clone()).await
                }
                (leg, _) => return Ok((listener, leg?, from)),
            },
        };
        let from = from.or(left_at);
        let spec = from.into_iter().fold(spec, LegSpec::resume_from);
        let (listener, leg) = self.shard().open_listener(track, spec).await?;
        Ok((listener, leg, from))
    }
}

/// A leg that is closed when nobody has it any more.
#[derive(Debug)]
struct OpenLeg {
    shard: Shards,
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

impl Listed {
    /// Its leg is open; for a seat that was told to go it is closed at once.
    fn opened(&self, leg: OpenLeg) {
        if let Some(seated) = self.seats.entries().get_mut(&self.resource)
            && seated.closed.borrow().is_none()
        {
            seated.leg = Some(leg);
        }
    }
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
    leg: Option<OpenLeg>,
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
        self.entries().insert(resource, Seated { track, leg: None, closed: sender });
        (resource, Listed { seats: self.clone(), resource, closed })
    }

    /// Tells one to go; whether there is one. Its leg is closed when this comes back: another one may have its place.
    pub(super) fn close(&self, resource: &ResourceId, reason: CloseReason) -> bool {
        let mut entries = self.entries();
        let Some(seated) = entries.get_mut(resource) else { return false };
        seated.close(reason);
        seated.leg = None;
        true
    }

    /// As [`Seats::close`]; what comes back resolves when the seat is given back.
    pub(super) fn give_up(
        &self,
        resource: &ResourceId,
        reason: CloseReason,
    ) -> Option<impl Future<Output = ()> + use<>> {
        self.close(resource, reason).then_some(())?;
        let closed = self.entries().get(resource).map(|seated| seated.closed.clone());
        Some(async move {
            if let Some(closed) = closed {
                closed.closed().await;
            }
        })
    }

    /// Tells those of a track to go, or all.
    pub(super) fn close_all(&self, track: Option<TrackId>, reason: CloseReason) {
        for seated in self.entries().values().filter(|seated| track.is_none_or(|track| track == seated.track))
        {
            seated.close(reason);
        }
    }

    /// Tells those to go whose leg or track is on the shard of this number.
    pub(super) fn close_shard(&self, number: u8, reason: CloseReason) {
        for seated in self.entries().values() {
            let leg = seated.leg.as_ref().is_some_and(|open| open.leg.relay() == number);
            if leg || seated.track.relay() == number {
                seated.close(reason);
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ResourceId, Seated>> {
        // Every change under the lock is complete in itself.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody sees it: media frames of WebSockets have no payload type.
const MEDIA_PAYLOAD_TYPE: u8 = 111;

#[cfg(test)]
mod tests {
    use relay_engine::{CarriedFrame, MediaTime};

    use super::*;
    use crate::session::{Directory, Limits, SessionSpec};
    use crate::shard::{Egress, RingReceiver, ShardConfig, ring};
    use crate::webrtc::{Connections, WebRtcConfig};

    async fn stage() -> (Service, SessionId) {
        let config = WebRtcConfig { bind: ([127, 0, 0, 1], 0).into(), ..WebRtcConfig::default() };
        let (connections, shard, _task) = Connections::bind(config, ShardConfig::patient()).await.unwrap();
        let service = Service::new(Directory::new(Limits::default()), shard, connections);
        tokio::spawn(service.clone().run());
        let source: crate::session::Language = "en".parse().unwrap();
        let languages = vec![source.clone()];
        let spec = SessionSpec { source, languages, owner: None, anonymous_listeners: true };
        let id = service.create(spec).await.unwrap().view.id;
        (service, id)
    }

    async fn join(service: &Service, id: &SessionId, role: Role, claim: Claim) -> MediaSeat {
        let (session, language, caller) = (id.as_str(), None, &Caller::Open);
        let join = MediaJoin { role, session, language, caller, claim, from: None };
        service.join_media(join).await.unwrap()
    }

    fn ticket(seat: &MediaSeat) -> Claim {
        Claim::Ticket(seat.ticket.clone())
    }

    /// A listener that was sent these positions.
    async fn heard(service: &Service, id: &SessionId, positions: u64) -> (MediaSeat, RingReceiver) {
        let mut seat = join(service, id, Role::Listener, Claim::None).await;
        let (sender, mut receiver) = ring(64);
        assert!(service.shard().leg_up(seat.leg, Egress::Ring(sender)));
        seat.connected();
        let publisher = join(service, id, Role::Publisher, Claim::None).await;
        assert!(service.shard().publisher_up(publisher.leg));
        for position in 0..positions {
            let frame = CarriedFrame {
                position,
                media_time: MediaTime::from_ticks(position * 960),
                marker: false,
                capture_time: None,
                audio_level: None,
                payload: vec![0xf8].into(),
            };
            assert!(service.shard().frame(publisher.leg, frame));
            assert_eq!(receiver.recv().await.map(|frame| frame.position), Some(position));
        }
        (seat, receiver)
    }

    #[tokio::test]
    async fn a_seat_beside_one_whose_leg_goes_just_then_comes_after_it() {
        let (service, id) = stage().await;
        let (old, _receiver) = heard(&service, &id, 20).await;
        assert!(service.shard().feedback(old.leg, relay_engine::Feedback::Delivered(11)));
        service.shard().of(old.leg).heard(old.leg).await.unwrap();
        // The place is still taken, as it is while its socket is being dropped.
        service.shard().close(Peer::Leg(old.leg));
        let new = join(&service, &id, Role::Listener, ticket(&old)).await;
        assert_eq!(new.from, Some(12));
        assert_ne!(new.listener, old.listener);
        drop(old);
        assert_eq!(service.directory().counts().listeners, 1, "the newer one has the place");
    }

    #[tokio::test]
    async fn a_seat_that_is_told_to_go_is_in_nobodys_way() {
        let (service, id) = stage().await;
        let (first, _receiver) = heard(&service, &id, 1).await;
        let mut seats = vec![join(&service, &id, Role::Listener, ticket(&first)).await];
        for _ in 0..5 {
            // Of two connections at most the newer one goes; its owner has not heard of it yet.
            let last = join(&service, &id, Role::Listener, ticket(&seats[seats.len() - 1])).await;
            assert_eq!(seats[seats.len() - 1].closed().await, CloseReason::Refreshed);
            assert_eq!(last.listener, first.listener);
            seats.push(last);
        }
    }
}
