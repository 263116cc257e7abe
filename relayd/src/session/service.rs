//! Sessions across the planes: the directory, the tracks on the shard, the connections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};
use relay_engine::{Epoch, LegId, Peer, SwitchError, TrackId};
use thiserror::Error;
use tokio::sync::Mutex;

use super::directory::{
    Claim, Created, Directory, HeldTicket, Left, RefreshTarget, Return, Returned, SessionSpec,
};
use super::error::SessionError;
use super::event::EndReason;
use super::id::SessionId;
use super::language::Language;
use super::machine::HolderId;
use super::media::Seats;
use super::refresh::Cause;
use super::slot::{ListenerSlot, Place, PublisherSlot};
use super::ticket::Right;
use super::view::SessionView;
use crate::auth::Caller;
use crate::events::Anchors;
use crate::shard::{ShardError, Shards};
use crate::webrtc::{
    Attach, CloseReason, Connections, Join, JoinError, Joined, LeftAt, PatchError, Record, ResourceId, Role,
    dry_run,
};

/// What the HTTP surfaces ask of sessions. Clones share everything.
///
/// What the directory leaves to do is done by `settle`, by whoever made the change before they answer, or
/// by the run loop; one at a time, and to the end even if the caller goes away.
#[derive(Debug, Clone)]
pub struct Service {
    directory: Directory,
    shard: Shards,
    connections: Connections,
    /// Held while work is done: who has it has all earlier work behind them.
    turn: Arc<Mutex<()>>,
    seats: Seats,
    stopping: Arc<AtomicBool>,
    anchors: Anchors,
}

impl Service {
    /// Ties the planes together.
    pub fn new(directory: Directory, shard: Shards, connections: Connections) -> Self {
        Self {
            directory,
            shard,
            connections,
            turn: Arc::default(),
            seats: Seats::default(),
            stopping: Arc::default(),
            anchors: Anchors::default(),
        }
    }

    /// Creates a session and its tracks, whether or not the caller waits for it.
    pub async fn create(&self, spec: SessionSpec) -> Result<Created, ServiceError> {
        self.directory.has_room(spec.owner.as_ref())?;
        let service = self.clone();
        to_the_end(async move {
            let tracks = service.open_tracks(&spec).await?;
            let created = service.directory.create(Instant::now(), spec, &tracks);
            if created.is_err() {
                service.close_tracks(&tracks).await;
            }
            Ok(created?)
        })
        .await
    }

    /// Creates a session that never expires; answers with its tracks in the order of its languages.
    pub async fn create_permanent(
        &self,
        id: SessionId,
        spec: SessionSpec,
    ) -> Result<Vec<TrackId>, ServiceError> {
        let tracks = self.open_tracks(&spec).await?;
        self.directory.create_permanent(Instant::now(), id, spec, &tracks)?;
        Ok(tracks)
    }

    /// Ends a session, its connections and its tracks, whether or not the caller waits for it.
    pub async fn end(&self, id: &str, reason: EndReason) -> Result<(), SessionError> {
        self.directory.end(Instant::now(), id, reason)?;
        self.settle().await;
        Ok(())
    }

    /// Begins a break: what is spoken is not heard.
    pub async fn pause(&self, id: &str) -> Result<SessionView, SessionError> {
        let view = self.directory.pause(Instant::now(), id)?;
        self.settle().await;
        Ok(view)
    }

    /// Ends a break.
    pub async fn resume(&self, id: &str) -> Result<SessionView, SessionError> {
        let view = self.directory.resume(Instant::now(), id)?;
        self.settle().await;
        Ok(view)
    }

    /// Adds a language to a live session, whether or not the caller waits for it.
    pub async fn add_language(&self, id: &str, language: Language) -> Result<SessionView, ServiceError> {
        self.directory.check_new_language(id, &language)?;
        let (service, id) = (self.clone(), id.to_owned());
        to_the_end(async move {
            let track = service.shard.open_track(language.as_str()).await?;
            let added = service.directory.add_language(Instant::now(), &id, language, track);
            if added.is_err() {
                service.close_tracks(&[track]).await;
            }
            service.settle().await;
            Ok(added?)
        })
        .await
    }

    /// Removes a language from a live session and closes its connections, whether or not the caller waits for it.
    pub async fn remove_language(&self, id: &str, language: &str) -> Result<SessionView, SessionError> {
        let view = self.directory.remove_language(Instant::now(), id, language)?;
        self.settle().await;
        Ok(view)
    }

    /// Orders connections to be replaced without a gap, as an operator does; tells how many.
    pub fn refresh(&self, id: &str, target: &RefreshTarget) -> Result<usize, SessionError> {
        self.directory.refresh(Instant::now(), id, Cause::Operator, target)
    }

    /// Opens a connection to a track. `record` wraps the slot, for whoever measures.
    ///
    /// A publisher with a good claim takes the place of another: that one's connection is closed first.
    pub async fn join(
        &self,
        request: JoinRequest<'_>,
        record: impl FnOnce(Box<dyn Record>) -> Box<dyn Record>,
    ) -> Result<Admitted, ServiceError> {
        let JoinRequest { role, session, language, caller, claim, offer } = request;
        let now = Instant::now();
        if claim != Claim::None {
            // Nobody loses their place to an offer that cannot be answered.
            dry_run::answer(&offer, role)?;
        }
        let taken = self.take_slot(now, (role, session, language), caller, &claim).await?;
        let Slot { record: slot, place, track, attach, epoch, held } = taken;
        let left_at = held.as_ref().map(|held| -> LeftAt { Box::pin(left_at(held.left().clone())) });
        let join = Join { offer, track, attach, left_at, epoch, record: record(slot) };
        let joined = match role {
            Role::Publisher => self.connections.publish(join).await,
            Role::Listener => self.connections.listen(join).await,
        };
        // Before the peer has the answer, and so before anything can come from it.
        let right = |name| Right { role, track, caller: caller.clone(), name, socket: false };
        let answered = joined.as_ref().map(|joined| place.answered((joined.leg, joined.listener), right));
        // The place may be gone while the offer was being answered, with the session or by itself: then that is the
        // answer, whatever became of the connection.
        let publishes = joined.is_ok() && role == Role::Publisher;
        let gone = place.check(language, publishes).map_err(|gone| self.refusal(gone)).err();
        let gone = gone.or_else(|| (answered == Ok(None)).then(|| JoinError::Capacity.into()));
        if let Some(gone) = gone {
            self.settle().await;
            if let Ok(joined) = joined {
                let _closed_already =
                    self.connections.close(&joined.resource, CloseReason::SessionEnded).await;
            }
            return Err(gone);
        }
        let ticket = answered.ok().flatten().unwrap_or_default();
        if let Some(held) = held.filter(|_| joined.is_ok()) {
            held.spend(&place);
        }
        Ok(Admitted { joined: joined?, ticket })
    }

    /// Closes the connection or socket of this name, as its owner wants, and gives back its place.
    ///
    /// # Errors
    /// [`PatchError::NotFound`] when there is none (any more).
    pub async fn close_leg(&self, resource: &ResourceId) -> Result<(), PatchError> {
        let Some(gone) = self.seats.give_up(resource, CloseReason::Deleted) else {
            return self.connections.close(resource, CloseReason::Deleted).await;
        };
        // A socket that takes long has no leg any more, and goes when it can.
        let _in_time = tokio::time::timeout(GONE_WITHIN, gone).await.is_ok();
        Ok(())
    }

    /// Lets time pass for the sessions, hears the media plane, and does what is left to do. Runs until its task is
    /// dropped.
    pub fn run(self) -> impl Future<Output = ()> + Send {
        // Now, not when the task first runs: nothing that happens from here on is missed.
        let mut events = self.shard.events();
        // Side by side: who waits for a speaker, and what time ends, does not wait for connections to be closed, nor for
        // tracks to be made anew.
        let replace = self.clone().replace_failed();
        let work = {
            let service = self.clone();
            async move {
                loop {
                    service.directory.has_work().await;
                    service.settle().await;
                }
            }
        };
        let hear = async move {
            let mut timer = tokio::time::interval(TICK);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = timer.tick() => {
                        let now = Instant::now();
                        self.directory.set_epoch(Epoch { instant: now, wall: SystemTime::now() });
                        self.directory.handle_timeout(now);
                    }
                    Some(event) = events.recv() => {
                        self.anchors.handle_shard_event(&event);
                        self.directory.handle_shard_event(Instant::now(), &event);
                    }
                }
            }
        };
        async move {
            tokio::select! {
                () = work => {}
                () = hear => {}
                () = replace => {}
            }
        }
    }

    /// Whoever is on a media thread that has failed is told to go, and may come back on another, where the tracks that
    /// were at home there are made anew. Not only once: somebody may have been on the way there.
    async fn replace_failed(self) {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Of which threads it has been told.
        let mut told = BTreeSet::new();
        loop {
            timer.tick().await;
            for number in self.shard.failed() {
                match self.remake_tracks(number).await {
                    // It is tried again.
                    Err(error) if told.insert(number) => {
                        tracing::warn!(shard = number, %error, "tracks of a failed media thread are not made anew yet");
                    }
                    Err(_) => {}
                    Ok(()) => {
                        told.remove(&number);
                    }
                }
                self.seats.close_shard(number, CloseReason::MediaFailed);
                self.connections.close_shard(number, CloseReason::MediaFailed).await;
            }
        }
    }

    /// Side by side, until one is refused: the others would not be made either.
    async fn remake_tracks(&self, number: u8) -> Result<(), ShardError> {
        let tracks = stream::iter(self.directory.tracks_on(number)).map(Ok);
        tracks.try_for_each_concurrent(AT_ONCE, |(old, language)| self.remake_track(old, language)).await
    }

    async fn remake_track(&self, old: TrackId, language: Language) -> Result<(), ShardError> {
        let new = self.shard.open_track(language.as_str()).await?;
        tracing::warn!(?old, ?new, %language, "a track is made anew: its media thread has failed");
        if !self.directory.remake_track(Instant::now(), old, new) {
            self.shard.close(Peer::Track(new));
        }
        Ok(())
    }

    /// Ends all sessions, because the relay stops, and all connections.
    pub async fn shutdown(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.directory.end_all(Instant::now(), EndReason::Shutdown);
        self.seats.close_all(None, CloseReason::Shutdown);
        self.connections.shutdown().await;
    }

    /// The directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The connection plane.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Where the lines of listeners' legs begin.
    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// The media plane.
    pub fn shard(&self) -> &Shards {
        &self.shard
    }

    /// When it comes back, the planes have done what changes before it have left to do.
    pub(crate) async fn settled(&self) {
        self.settle().await;
    }

    /// Does what changes of the directory have left to do. When it comes back, all that was left before is done.
    async fn settle(&self) {
        let service = self.clone();
        to_the_end(async move {
            let _turn = service.turn.lock().await;
            let work = service.directory.take_work();
            for (track, paused) in work.pauses {
                service.shard.pause_track(track, paused);
            }
            let switches = stream::iter(work.switches);
            switches.for_each_concurrent(AT_ONCE, |(leg, holder)| service.switch(leg, holder)).await;
            let closed = stream::iter(work.legs).for_each_concurrent(AT_ONCE, async |(resource, reason)| {
                if !service.seats.close(&resource, reason) {
                    let _closed_already = service.connections.close(&resource, reason).await;
                }
            });
            closed.await;
            let tracks: Vec<TrackId> = work.tracks.into_iter().collect();
            service.close_tracks(&tracks).await;
        })
        .await;
    }

    /// A place of one of the roles; whoever had it before is gone when this comes back.
    pub(super) async fn take_slot(
        &self,
        now: Instant,
        (role, session, language): (Role, &str, Option<&str>),
        caller: &Caller,
        claim: &Claim,
    ) -> Result<Slot, ServiceError> {
        let refused = |error| self.refusal(error);
        if let Claim::Ticket(ticket) = claim {
            return self.return_slot(now, session, Return { role, language, caller, ticket }).await;
        }
        let (slot, displaced) = match role {
            Role::Publisher => {
                let taken =
                    self.directory.publisher_slot(now, session, language, caller, claim).map_err(refused)?;
                (Slot::publisher(taken.slot, taken.track, taken.epoch), taken.displaced.is_some())
            }
            Role::Listener => {
                let (slot, track) =
                    self.directory.listener_slot(now, session, language, caller).map_err(refused)?;
                (Slot::listener(slot, track, Attach::New { resume_from: None }), false)
            }
        };
        if displaced {
            self.settle().await;
        }
        Ok(slot)
    }

    /// A place for somebody who comes with a ticket.
    async fn return_slot(
        &self,
        now: Instant,
        session: &str,
        coming: Return<'_>,
    ) -> Result<Slot, ServiceError> {
        let role = coming.role;
        let returned = self.directory.return_slot(now, session, coming);
        let Returned { place, seat, held } = returned.map_err(|error| self.refusal(error))?;
        if seat.displaced.is_some() {
            self.settle().await;
        }
        let attach = match seat.listener.filter(|_| seat.second) {
            Some(listener) => Attach::Second { listener },
            None if role == Role::Listener && !seat.second => {
                Attach::New { resume_from: left_at(held.left().clone()).await }
            }
            None => Attach::default(),
        };
        let slot = match role {
            Role::Publisher => Slot::publisher(PublisherSlot::new(place), seat.track, seat.epoch),
            Role::Listener => Slot::listener(ListenerSlot::new(place), seat.track, attach),
        };
        Ok(Slot { held: Some(held), ..slot })
    }

    /// Lets a holder's second leg take over, or has it asked for again.
    async fn switch(&self, leg: LegId, holder: HolderId) {
        // One media thread that stalls must not hold up what is to be done on the others.
        let switched = tokio::time::timeout(SWITCHED_WITHIN, self.shard.switch(leg)).await;
        match switched.unwrap_or(Err(ShardError::Overloaded)) {
            Ok(()) => {}
            // One of the two is gone: whoever closed it says so.
            Err(ShardError::Switch(
                SwitchError::UnknownLeg(_) | SwitchError::OnlyLeg(_) | SwitchError::Spent(_),
            )) => {}
            Err(error) => {
                tracing::debug!(?leg, %error, "not switched yet");
                self.directory.handle_not_switched(Instant::now(), leg, holder);
            }
        }
    }

    pub(super) fn seats(&self) -> &Seats {
        &self.seats
    }

    /// What is said when a place was taken away by itself.
    pub(super) fn gone(&self, session: &str) -> ServiceError {
        self.refusal(SessionError::NotFound { id: session.chars().take(60).collect() })
    }

    /// Sessions that end because the relay stops are no reason not to try another relay.
    fn refusal(&self, error: SessionError) -> ServiceError {
        if self.stopping.load(Ordering::Relaxed) { JoinError::Closed.into() } else { error.into() }
    }

    async fn open_tracks(&self, spec: &SessionSpec) -> Result<Vec<TrackId>, ServiceError> {
        let mut tracks = Vec::with_capacity(spec.languages.len());
        for language in &spec.languages {
            match self.shard.open_track(language.as_str()).await {
                Ok(track) => tracks.push(track),
                Err(error) => {
                    self.close_tracks(&tracks).await;
                    return Err(error.into());
                }
            }
        }
        Ok(tracks)
    }

    async fn close_tracks(&self, tracks: &[TrackId]) {
        for track in tracks {
            self.seats.close_all(Some(*track), CloseReason::SessionEnded);
            self.connections.close_track(*track, CloseReason::SessionEnded).await;
            self.shard.close(Peer::Track(*track));
        }
    }
}

/// A place that was taken, and what its leg is to be on the media plane.
pub(super) struct Slot {
    pub record: Box<dyn Record>,
    pub place: Place,
    pub track: TrackId,
    pub attach: Attach,
    pub epoch: u64,
    pub held: Option<HeldTicket>,
}

impl Slot {
    fn publisher(slot: PublisherSlot, track: TrackId, epoch: u64) -> Self {
        let place = slot.place().clone();
        Self { record: Box::new(slot), place, track, attach: Attach::default(), epoch, held: None }
    }

    fn listener(slot: ListenerSlot, track: TrackId, attach: Attach) -> Self {
        let place = slot.place().clone();
        Self { record: Box::new(slot), place, track, attach, epoch: 0, held: None }
    }
}

/// Somebody was let in.
#[derive(Debug)]
pub struct Admitted {
    /// Their connection.
    pub joined: Joined,
    /// What they come back with: beside this connection, or when it is gone.
    pub ticket: String,
}

/// What somebody joins with.
#[derive(Debug)]
pub struct JoinRequest<'a> {
    /// To speak or to listen.
    pub role: Role,
    /// Where.
    pub session: &'a str,
    /// The track; `None` for the source language.
    pub language: Option<&'a str>,
    /// Who.
    pub caller: &'a Caller,
    /// With what right to a publisher's place that is taken.
    pub claim: Claim,
    /// The SDP offer as it came.
    pub offer: String,
}

/// Where the leg was that somebody comes back from. It was closed with its connection, and the media plane is about
/// to say so; whoever cannot be told goes on at the live edge.
pub(super) async fn left_at(left: Left) -> Option<u64> {
    tokio::time::timeout(TOLD_WITHIN, left.position()).await.ok().flatten()
}

/// Runs `work` to its end even if the caller is dropped, as a request is whose client hangs up: a session half
/// made or half ended would keep its tracks for ever.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled with its runtime, as the caller is about to be.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Why a request on sessions failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The directory refused.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The connection plane refused.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The media plane refused.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

/// How long whoever closes a socket waits for its end.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// How long the media plane may take to say where a leg was that it has closed.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// A media thread that takes longer to switch is asked again later.
const SWITCHED_WITHIN: Duration = Duration::from_secs(1);
/// Legs that are switched, or connections that are closed, side by side: thousands may be refreshed at once.
const AT_ONCE: usize = 64;
/// How exactly times are kept.
const TICK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
