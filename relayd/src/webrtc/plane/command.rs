//! Commands: join, patch, close, stop.

use std::sync::Arc;
use std::time::Instant;

use relay_engine::rtp::{ExtensionIds, Mid};
use relay_engine::{LegId, LegSpec, ListenerId, OpenError, Peer, TrackId};
use tokio::sync::oneshot;
use tracing::debug;

use super::{COMMANDS_PER_TURN, Opened, Parts, Plane, unanswered};
use crate::shard::{ShardError, Shards};
use crate::webrtc::answer::{self, Answer};
use crate::webrtc::connection::{Asked, Connection, PeerAddresses, Stage};
use crate::webrtc::demux::{Ufrag, random_text};
use crate::webrtc::fragment::Fragment;
use crate::webrtc::handshakes::{Key, Owner, Seed};
use crate::webrtc::offer::{IceCredentials, Offer};
use crate::webrtc::routes::Route;
use crate::webrtc::stack::{Publisher, SharedPublisher, Stack, StackError};
use crate::webrtc::untold::Untold;
use crate::webrtc::{
    Accept, Attach, CloseReason, Command, IfMatch, JoinError, Joined, LeftAt, PatchError, Patched,
    ResourceId, Role,
};

/// RFC 8839 §5.4 asks for 128 bits; these are 160.
const PASSWORD_CHARACTERS: usize = 32;

impl Plane {
    /// Handles a bounded number of commands; the reply to a shutdown ends the plane.
    pub(super) fn handle_commands(&mut self, first: Option<Command>) -> Option<oneshot::Sender<()>> {
        let mut next = first;
        for _ in 0..COMMANDS_PER_TURN {
            let command = next.take().or_else(|| self.parts.commands.try_recv().ok())?;
            let now = Instant::now();
            match command {
                Command::Join { accept, reply } => self.handle_join(now, accept, reply),
                Command::Patch { resource, if_match, fragment, reply } => {
                    let patched = self.patch(now, resource, &if_match, &fragment);
                    debug!(resource = %resource.prefix(), ok = patched.is_ok(), "patch");
                    let _asker_gone = reply.send(patched).is_err();
                }
                Command::Close { resource, reason, reply } => {
                    self.close(resource, reason, reply);
                }
                Command::CloseTrack { track, reason, reply } => {
                    let _asker_gone = reply.send(self.close_those(reason, |c| c.track == track)).is_err();
                }
                Command::CloseShard { number, reason, reply } => {
                    let there = |c: &Connection| {
                        c.track.relay() == number || c.leg.is_some_and(|leg| leg.relay() == number)
                    };
                    let _asker_gone = reply.send(self.close_those(reason, there)).is_err();
                }
                Command::Selected { listener, track } => {
                    let of_listener =
                        self.connections.iter_mut().filter(|(_, c)| c.listener == Some(listener));
                    of_listener.for_each(|(_, connection)| connection.track = track);
                }
                Command::Snapshot { reply } => {
                    let _asker_gone = reply.send(self.snapshot()).is_err();
                }
                Command::Shutdown { reply } => return Some(reply),
            }
        }
        None
    }

    /// Closes the connections that are meant; how many there were.
    fn close_those(&mut self, reason: CloseReason, meant: impl Fn(&Connection) -> bool) -> usize {
        let meant = self.connections.iter().filter(|(_, connection)| meant(connection));
        let slots: Vec<usize> = meant.map(|(slot, _)| slot).collect();
        slots.iter().for_each(|slot| self.remove(*slot, Some(reason)));
        slots.len()
    }

    pub(super) fn handle_join(
        &mut self,
        now: Instant,
        accept: Box<Accept>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
    ) {
        if let Err((error, reply)) = self.accept(now, accept, reply) {
            self.counters.refused += 1;
            let _asker_gone = reply.send(Err(error)).is_err();
        }
    }

    /// Closes a connection, and says so when its leg is closed or will never be open: whoever asked may open another
    /// in its place.
    fn close(
        &mut self,
        resource: ResourceId,
        reason: CloseReason,
        reply: oneshot::Sender<Result<(), PatchError>>,
    ) {
        let closed = match self.resources.get(&resource) {
            Some(&slot) => {
                let opening = self.connections.get(slot).filter(|connection| connection.leg.is_none());
                let opening = opening.map(|connection| connection.generation);
                self.remove(slot, Some(reason));
                if let Some(generation) = opening {
                    self.closing.insert(generation, reply);
                    return;
                }
                Ok(())
            }
            None => Err(PatchError::NotFound),
        };
        let _asker_gone = reply.send(closed).is_err();
    }

    /// Takes an offer: makes the connection and its record, and has the shard open its leg.
    fn accept(
        &mut self,
        now: Instant,
        accept: Box<Accept>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
    ) -> Result<(), (JoinError, oneshot::Sender<Result<Joined, JoinError>>)> {
        let Accept { role, offer, track, attach, left_at, epoch, mut record } = *accept;
        if self.pending >= self.parts.config.max_pending || self.is_full() {
            return Err((JoinError::Capacity, reply));
        }
        let slot = self.connections.vacant_key();
        let ice = new_credentials(slot);
        let seed = match self.seed(now, role, (&offer, track.relay()), &ice) {
            Ok(seed) => seed,
            Err(error) => {
                self.counters.panics += u64::from(error == StackError::Panicked);
                return Err((JoinError::Malformed("the offer could not be applied".to_owned()), reply));
            }
        };
        let resource = ResourceId::random();
        let key = Key { slot, generation: self.generation + 1 };
        let owner = Arc::new(Owner::default());
        if !self.handshakes.start(key, seed, &owner) {
            return Err((JoinError::Capacity, reply));
        }
        // Whoever lost their place while they waited opens no leg, which would be in the way of another's.
        if let Err(reason) = record.accepted(resource) {
            return Err((unanswered(Some(reason)), reply));
        }
        let ssrc = 1 + rand::random_range(0..u32::MAX - 1);
        let spec = leg_spec(role, &offer, ssrc, epoch);
        self.generation = key.generation;
        let generation = self.generation;
        self.resources.insert(resource, slot);
        self.pending += 1;
        self.connections.insert(Connection {
            resource,
            generation,
            role,
            track,
            remote: offer.remote(),
            ice,
            stack: None,
            owner,
            record,
            reply: Some((reply, Asked { offer, ssrc })),
            leg: None,
            listener: None,
            route: Arc::new(Route::new(now, slot, role)),
            peer: PeerAddresses::new(self.parts.config.max_addresses),
            untold: Untold::default(),
            stage: Stage::Checking,
            accepted: now,
            heard: now,
            consent: now,
        });
        self.schedule(now, slot);
        self.open_leg((slot, generation), track, spec, role, (attach, left_at));
        Ok(())
    }

    /// Has the shard open a connection's leg, in a task that reports back.
    fn open_leg(
        &self,
        (slot, generation): (usize, u64),
        track: TrackId,
        spec: LegSpec,
        role: Role,
        place: (Attach, Option<LeftAt>),
    ) {
        let (shard, report) = (self.parts.shard.clone(), self.opened_sender.clone());
        tokio::spawn(async move {
            let leg = match role {
                Role::Publisher => shard.open_publisher(track, spec).await.map(|leg| (leg, None)),
                Role::Listener => open_listener(&shard, track, place, spec).await,
            };
            if let Err(unheard) = report.send(Opened { slot, generation, leg }) {
                close_unheard(&shard, &unheard.0);
            }
        });
    }

    /// What the handshake threads make a stack of.
    fn seed(
        &self,
        now: Instant,
        role: Role,
        (offer, home): (&Offer, u8),
        ice: &IceCredentials,
    ) -> Result<Seed, StackError> {
        let Parts { identity, ports, .. } = &self.parts;
        match role {
            // Its leg will be at its track's home.
            Role::Publisher => Publisher::new(now, identity, offer, ice, ports.of(home).candidates())
                .map(|stack| Seed::Publisher(SharedPublisher::new(stack))),
            Role::Listener => Ok(Seed::Listener { fingerprint: offer.fingerprint }),
        }
    }

    fn is_full(&self) -> bool {
        self.connections.len() >= self.parts.config.max_connections.min(Ufrag::MAX_SLOTS)
    }

    /// The shard has opened a leg, or has not: the join is answered.
    pub(super) fn handle_opened(&mut self, now: Instant, opened: Opened) {
        let Opened { slot, generation, ref leg } = opened;
        let connection = self.connections.get_mut(slot).filter(|c| c.generation == generation);
        let Some(connection) = connection else {
            close_unheard(&self.parts.shard, &opened);
            let asker = self.closing.remove(&generation);
            let _asker_gone = asker.is_some_and(|asker| asker.send(Ok(())).is_err());
            return;
        };
        let Some((reply, asked)) = connection.reply.take() else { return };
        match leg {
            Ok((leg, listener)) => {
                (connection.leg, connection.listener) = (Some(*leg), *listener);
                self.counters.accepted += 1;
                let answer = answer(&self.parts, connection, &asked);
                let etag = connection.ice.ufrag.clone();
                let (resource, track) = (connection.resource, connection.track);
                let joined = Joined { resource, answer, etag, leg: *leg, listener: *listener, track };
                // Nobody will ever know the resource's name: it would only wait for its timeout.
                if reply.send(Ok(joined)).is_err() {
                    self.remove(slot, Some(CloseReason::Deleted));
                }
            }
            Err(error) => {
                let error = join_error(error);
                self.counters.refused += 1;
                self.remove(slot, None);
                let _asker_gone = reply.send(Err(error)).is_err();
            }
        }
        self.schedule(now, slot);
    }

    fn patch(
        &mut self,
        now: Instant,
        resource: ResourceId,
        if_match: &IfMatch,
        fragment: &str,
    ) -> Result<Patched, PatchError> {
        let slot = *self.resources.get(&resource).ok_or(PatchError::NotFound)?;
        let connection = &self.connections[slot];
        if *if_match == IfMatch::Missing {
            return Err(PatchError::PreconditionRequired);
        }
        let fragment = Fragment::parse(fragment).map_err(PatchError::Malformed)?;
        if matches!(if_match, IfMatch::Tag(tag) if *tag != connection.ice.ufrag) {
            return Err(PatchError::PreconditionFailed);
        }
        match fragment.ice {
            Some(ice) if ice != connection.remote.ice => self.restart_ice(now, slot, ice),
            None if *if_match == IfMatch::Any => {
                Err(PatchError::Malformed("an ICE restart needs ice-ufrag and ice-pwd".to_owned()))
            }
            // An ICE-lite peer learns the other side's addresses from its checks: candidates need nothing.
            _ => Ok(Patched::Trickled),
        }
    }

    /// SSRC, keys and position stay; the old path carries media until the peer nominates a new one.
    fn restart_ice(
        &mut self,
        now: Instant,
        slot: usize,
        remote: IceCredentials,
    ) -> Result<Patched, PatchError> {
        let local = new_credentials(slot);
        let connection = &mut self.connections[slot];
        let refused = || PatchError::RestartFailed("the ICE session could not be restarted".to_owned());
        let key = Key { slot, generation: connection.generation };
        match &mut connection.stack {
            Some(Stack::Listener(_)) => {}
            Some(Stack::Publisher(stack)) => {
                let effects = &mut self.effects;
                let mut restart = |ours: &IceCredentials, theirs: &IceCredentials| {
                    stack.with(|stack| stack.restart_ice(ours, theirs, effects))
                };
                if let Err(error) = restart(&local, &remote) {
                    let before = (connection.ice.clone(), connection.remote.ice.clone());
                    if error != StackError::Panicked {
                        // The old ICE session goes on (RFC 9725 §4.3.3); if that fails too, its consent runs out.
                        let _runs_out = restart(&before.0, &before.1).is_err();
                    }
                    self.settle(now, slot, Err(error));
                    return Err(refused());
                }
            }
            None if connection.role == Role::Listener => {}
            None if self.handshakes.restart_ice(key, &local, &remote) => {}
            None => return Err(refused()),
        }
        connection.ice = local;
        connection.remote.ice = remote;
        connection.peer.renew();
        // A peer that restarts because its network has changed needs time to be heard again.
        connection.consent = now;
        let candidates = self.parts.ports.of(connection.port()).candidates();
        let fragment = answer::fragment(&connection.remote, &connection.ice, candidates);
        let etag = connection.ice.ufrag.clone();
        self.counters.restarted += 1;
        self.settle(now, slot, Ok(()));
        self.schedule(now, slot);
        Ok(Patched::Restarted { etag, fragment })
    }
}

fn answer(parts: &Parts, connection: &Connection, asked: &Asked) -> String {
    let answer = Answer {
        offer: &asked.offer,
        role: connection.role,
        ice: &connection.ice,
        fingerprint: parts.identity.fingerprint(),
        candidates: parts.ports.of(connection.port()).candidates(),
        ssrc: asked.ssrc,
        cname: &parts.cname,
        session_id: rand::random(),
    };
    answer.to_sdp()
}

fn new_credentials(slot: usize) -> IceCredentials {
    let ufrag = Ufrag::new(0, slot, rand::random());
    IceCredentials {
        ufrag: ufrag.as_str().to_owned(),
        password: random_text(PASSWORD_CHARACTERS, rand::random),
    }
}

async fn open_listener(
    shard: &Shards,
    track: TrackId,
    (attach, left_at): (Attach, Option<LeftAt>),
    spec: LegSpec,
) -> Result<(LegId, Option<ListenerId>), ShardError> {
    let resume_from = match attach {
        Attach::New { resume_from } => resume_from,
        Attach::Second { listener } => match (shard.add_leg(listener, spec).await, left_at) {
            // Its last leg was closed just then: this one comes after it.
            (Err(ShardError::Open(OpenError::UnknownListener(_))), Some(left_at)) => left_at.await,
            (added, _) => return added.map(|leg| (leg, Some(listener))),
        },
    };
    let spec = resume_from.map_or(spec, |position| spec.resume_from(position));
    shard.open_listener(track, spec).await.map(|(listener, leg)| (leg, Some(listener)))
}

fn leg_spec(role: Role, offer: &Offer, ssrc: u32, epoch: u64) -> LegSpec {
    let mid = offer.mid.as_deref().and_then(|mid| Mid::new(mid).ok());
    let extensions = ExtensionIds {
        audio_level: offer.extensions.audio_level,
        capture_time: offer.extensions.capture_time,
        mid: offer.extensions.mid.zip(mid),
    };
    let spec = LegSpec::new(offer.payload_type).extensions(extensions);
    match role {
        Role::Listener => spec.ssrc(ssrc),
        // str0m sends a publisher's receiver reports.
        Role::Publisher => spec.reports(false).epoch(epoch),
    }
}

fn close_unheard(shard: &Shards, opened: &Opened) {
    if let Ok((leg, _)) = opened.leg {
        shard.close(Peer::Leg(leg));
    }
}

fn join_error(error: &ShardError) -> JoinError {
    match error {
        ShardError::Closed => JoinError::Closed,
        ShardError::Open(OpenError::PublisherExists(_)) => JoinError::PublisherExists,
        ShardError::Open(OpenError::Fenced { .. }) => JoinError::Fenced,
        ShardError::Open(OpenError::UnknownListener(_)) => JoinError::ListenerGone,
        ShardError::Open(OpenError::LegExists(_)) => JoinError::LegExists,
        ShardError::Open(OpenError::UnknownTrack(_)) => JoinError::TrackNotFound,
        _ => JoinError::Capacity,
    }
}
