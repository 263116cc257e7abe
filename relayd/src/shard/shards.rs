//! All shards as one: what is asked goes to the shard that an id's number names, what is opened goes where least is to do.
//!
//! | of a track | is at |
//! |---|---|
//! | publisher's legs, epochs, pauses, what is lost, when it is silent | its home alone |
//! | listeners | its home, and beyond `spill` of them any shard: there is a replica, fed from home |
//!
//! A listener stays on the shard that it was opened on, whatever it selects; its other legs are there too. A replica has
//! home's history before the first listener is opened on it, so that any position means there what it means at home. It
//! goes with its last listener, but not before [`ShardConfig::replica_kept`], and with the track.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use relay_engine::{
    CarriedFrame, Feedback, LegId, LegSpec, LegStats, Limit, ListenerId, ListenerStats, OpenError, Peer,
    SelectError, TrackId, TrackStats, rtp,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::command::PauseWish;
use super::placement;
use super::replicas;
use super::seat::{Branch, Home, Load, Seat};
use super::thread::ThreadSeat;
use super::{EVENT_QUEUE, Egress, Shard, ShardConfig, ShardError, ShardEvent, ShardStats, ShardThread};

/// Handle on all media planes; clones share them. Methods are those of [`Shard`], where nothing else is said.
#[derive(Clone, Debug)]
pub struct Shards {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// By number.
    shards: Vec<Shard>,
    loads: Vec<Arc<Load>>,
    spill: usize,
    replica_kept: Duration,
    max_tracks: usize,
    /// Never held while somebody is waited for, and not by the media threads.
    tracks: Mutex<BTreeMap<TrackId, Entry>>,
}

/// An open track.
#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    home: Arc<Branch>,
    /// By shard, where it is or was besides.
    branches: Vec<Weak<Branch>>,
    /// Shards that it could not come to in time, of which that has been told.
    told: BTreeSet<usize>,
    pause: Arc<PauseWish>,
    _counted: Home,
}

impl Shards {
    /// Starts the threads: shard n sends on the n-th socket, counted round, and reads none.
    ///
    /// They end after [`Shards::shutdown`], or when the last handle is gone.
    ///
    /// # Errors
    /// When there is no socket, one has no local address, or a thread can not be started.
    pub fn spawn(sockets: &[UdpSocket], config: &ShardsConfig) -> io::Result<(Shards, ShardThreads)> {
        Self::spawn_each(sockets, config, |number| config.of(number))
    }

    /// The same, each with a setting of its own.
    pub(super) fn spawn_each(
        sockets: &[UdpSocket],
        config: &ShardsConfig,
        of: impl Fn(usize) -> ShardConfig,
    ) -> io::Result<(Shards, ShardThreads)> {
        let max_tracks = config.shard.relay.track_limit();
        let (mut shards, mut loads, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..config.resolved() {
            let socket = sockets.get(number % sockets.len().max(1)).ok_or(io::ErrorKind::InvalidInput)?;
            let load = Load::of(number);
            let seat = ThreadSeat { number, pin: config.pin, load: Arc::clone(&load) };
            let (shard, thread) = Shard::spawn_as(socket.try_clone()?, of(number), seat)?;
            shards.push(shard);
            loads.push(load);
            threads.push(thread);
        }
        let (spill, replica_kept) = (config.spill, config.shard.replica_kept);
        let inner = Inner { shards, loads, spill, replica_kept, max_tracks, tracks: Mutex::default() };
        Ok((Shards { inner: Arc::new(inner) }, ShardThreads { threads }))
    }

    /// Opens a track, at home where there is the least to do.
    ///
    /// # Errors
    /// As [`Shard::open_track`].
    pub async fn open_track(&self, name: &str) -> Result<TrackId, ShardError> {
        self.check_tracks(&self.tracks())?;
        let loads: Vec<_> = self.inner.loads.iter().map(|load| load.now()).collect();
        let home = placement::home(&loads).unwrap_or_default();
        let counted = Home::on(&self.inner.loads[home]);
        let track = self.inner.shards[home].open_track(name).await?;
        let mut tracks = self.tracks();
        if let Err(full) = self.check_tracks(&tracks) {
            self.inner.shards[home].close(Peer::Track(track));
            return Err(full);
        }
        let branches = self.inner.shards.iter().map(|_| Weak::new()).collect();
        let entry = Entry {
            name: name.into(),
            home: Branch::on(&self.inner.loads[home]),
            branches,
            told: BTreeSet::new(),
            pause: Arc::default(),
            _counted: counted,
        };
        tracks.insert(track, entry);
        Ok(track)
    }

    /// Opens the leg of a track's publisher, at the track's home.
    ///
    /// # Errors
    /// As [`Shard::open_publisher`].
    pub async fn open_publisher(&self, track: TrackId, spec: LegSpec) -> Result<LegId, ShardError> {
        self.at(track.relay()).open_publisher(track, spec).await
    }

    /// Opens a listener with its leg on some shard, within 8 s or not, unless [`ShardConfig::opened_within`] is another than
    /// 2 s: twice that to have the track there, once to open it there, and if that fails once more at home.
    ///
    /// # Errors
    /// As [`Shard::open_listener`].
    pub async fn open_listener(
        &self,
        track: TrackId,
        spec: LegSpec,
    ) -> Result<(ListenerId, LegId), ShardError> {
        let unknown = || OpenError::UnknownTrack(track);
        let (shard, seat) = self.place(track).ok_or_else(unknown)?;
        let home = usize::from(track.relay());
        if shard == home {
            return self.inner.shards[home].open_seated(track, spec, Some(seat)).await;
        }
        let replica = self.replicate_to(spec.resume_position(), track, shard, &seat);
        let replica = timeout(self.inner.shards[shard].replicated_within(), replica).await;
        let replica = replica.unwrap_or(Err(ShardError::Overloaded));
        if self.is_news(track, shard, &replica) {
            tracing::warn!(shard, ?track, "a track could not be taken to another shard in time");
        }
        match replica {
            Ok(replica) => match self.inner.shards[shard].open_seated(replica, spec, Some(seat)).await {
                Ok(opened) => return Ok(opened),
                Err(error) => tracing::debug!(shard, %error, "not opened there"),
            },
            Err(error) => tracing::debug!(shard, ?track, %error, "the track is not there"),
        }
        // What is wrong with the request itself, or with the track, is told at home.
        let seat = self.seat(track, home).ok_or_else(unknown)?;
        self.inner.shards[home].open_seated(track, spec, Some(seat)).await
    }

    /// As [`Shard::switch`].
    ///
    /// # Errors
    /// As there.
    pub async fn switch(&self, leg: LegId) -> Result<(), ShardError> {
        self.at(leg.relay()).switch(leg).await
    }

    /// As [`Shard::add_leg`].
    ///
    /// # Errors
    /// As there.
    pub async fn add_leg(&self, listener: ListenerId, spec: LegSpec) -> Result<LegId, ShardError> {
        self.at(listener.relay()).add_leg(listener, spec).await
    }

    /// Has a listener hear another track from now on, on the same legs, and where it is. For
    /// [`Connections::select`](crate::webrtc::Connections::select), which knows whose connections those are.
    ///
    /// # Errors
    /// [`ShardError::Select`] if the engine refuses it, [`ShardError::Overloaded`] if that is not done in 4 s (twice
    /// [`ShardConfig::opened_within`]): then it is not done later either. Otherwise see [`ShardError`].
    pub(crate) async fn select(&self, listener: ListenerId, track: TrackId) -> Result<(), ShardError> {
        let shard = usize::from(listener.relay());
        let unknown = || SelectError::UnknownTrack(track);
        let seat = self.seat(track, shard).ok_or_else(unknown)?;
        let until = Instant::now() + self.inner.shards[shard].replicated_within();
        if shard == usize::from(track.relay()) {
            return self.inner.shards[shard].select(listener, track, Some(seat), until).await;
        }
        let replica = timeout_at(until, self.replicate(track, shard, &seat)).await;
        let replica = replica.unwrap_or(Err(ShardError::Overloaded)).map_err(|error| match error {
            ShardError::Open(OpenError::UnknownTrack(_)) => unknown().into(),
            error => error,
        })?;
        match self.inner.shards[shard].select(listener, replica, Some(seat), until).await {
            Err(ShardError::Select(SelectError::UnknownTrack(_))) => Err(unknown().into()),
            selected => selected,
        }
    }

    /// As [`Shard::pause_listener`].
    ///
    /// # Errors
    /// As there.
    pub async fn pause_listener(&self, listener: ListenerId) -> Result<(), ShardError> {
        self.at(listener.relay()).pause_listener(listener).await
    }

    /// As [`Shard::resume_listener`].
    ///
    /// # Errors
    /// As there.
    pub async fn resume_listener(&self, listener: ListenerId) -> Result<(), ShardError> {
        self.at(listener.relay()).resume_listener(listener).await
    }

    /// As [`Shard::replay`].
    ///
    /// # Errors
    /// As there.
    pub async fn replay(&self, leg: LegId, from: Option<u64>) -> Result<u64, ShardError> {
        self.at(leg.relay()).replay(leg, from).await
    }

    /// As [`Shard::leg_up`].
    pub fn leg_up(&self, leg: LegId, egress: Egress) -> bool {
        self.at(leg.relay()).leg_up(leg, egress)
    }

    /// As [`Shard::publisher_up`].
    pub fn publisher_up(&self, leg: LegId) -> bool {
        self.at(leg.relay()).publisher_up(leg)
    }

    /// As [`Shard::leg_down`].
    #[must_use]
    pub fn leg_down(&self, leg: LegId) -> bool {
        self.at(leg.relay()).leg_down(leg)
    }

    /// As [`Shard::leg_path`].
    #[must_use]
    pub fn leg_path(&self, leg: LegId, destination: SocketAddr) -> bool {
        self.at(leg.relay()).leg_path(leg, destination)
    }

    /// As [`Shard::leg_returned`].
    #[must_use]
    pub fn leg_returned(&self, leg: LegId) -> bool {
        self.at(leg.relay()).leg_returned(leg)
    }

    /// As [`Shard::packet`].
    pub fn packet(&self, leg: LegId, packet: rtp::Packet) -> bool {
        self.at(leg.relay()).packet(leg, packet)
    }

    /// As [`Shard::frame`].
    pub fn frame(&self, leg: LegId, frame: CarriedFrame) -> bool {
        self.at(leg.relay()).frame(leg, frame)
    }

    /// As [`Shard::srtcp`].
    pub fn srtcp(&self, leg: LegId, datagram: Bytes) -> bool {
        self.at(leg.relay()).srtcp(leg, datagram)
    }

    /// As [`Shard::feedback`].
    pub fn feedback(&self, leg: LegId, feedback: Feedback) -> bool {
        self.at(leg.relay()).feedback(leg, feedback)
    }

    /// As [`Shard::close`]; a track is closed on all shards.
    pub fn close(&self, peer: Peer) {
        let number = match peer {
            Peer::Track(track) => {
                // Before it is closed: nobody is sent to it any more.
                drop(self.tracks().remove(&track));
                track.relay()
            }
            Peer::Leg(leg) => leg.relay(),
            Peer::Listener(listener) => listener.relay(),
        };
        self.at(number).close(peer);
    }

    /// As [`Shard::pause_track`].
    pub fn pause_track(&self, track: TrackId, paused: bool) {
        let wish = self.tracks().get(&track).map(|entry| Arc::clone(&entry.pause));
        // Of a track that is closed nothing is let through.
        if let Some(wish) = wish {
            self.at(track.relay()).pause_by(track, &wish, paused);
        }
    }

    /// What happens on all shards from now on: of each in order. As [`Shard::events`].
    pub fn events(&self) -> mpsc::Receiver<ShardEvent> {
        let (queue, events) = mpsc::channel(EVENT_QUEUE);
        self.inner.shards.iter().for_each(|shard| shard.listen(queue.clone()));
        events
    }

    /// Waits until the slowest thread has got to it: whether all are alive.
    ///
    /// # Errors
    /// As [`Shard::ping`], if one of them has ended.
    pub async fn ping(&self) -> Result<(), ShardError> {
        // All of them, though one has ended: the others may be late.
        join_all(self.inner.shards.iter().map(Shard::ping)).await.into_iter().collect()
    }

    /// All shards together. As [`Shard::stats`].
    ///
    /// # Errors
    /// As there.
    pub async fn stats(&self) -> Result<ShardStats, ShardError> {
        let each = try_join_all(self.inner.shards.iter().map(Shard::stats)).await?;
        let mut all = ShardStats::default();
        each.iter().for_each(|stats| all.merge(stats));
        Ok(all)
    }

    /// Numbers of the shards whose thread has failed: what is there hears and brings nothing any more, and nothing new
    /// goes there.
    pub fn failed(&self) -> impl Iterator<Item = u8> + use<'_> {
        let loads = (0..=u8::MAX).zip(&self.inner.loads);
        loads.filter(|(_, load)| load.has_failed()).map(|(number, _)| number)
    }

    /// The shards by their numbers, to be asked one by one.
    pub fn each(&self) -> &[Shard] {
        &self.inner.shards
    }

    /// The shard that a leg is on.
    pub(crate) fn of(&self, leg: LegId) -> &Shard {
        self.at(leg.relay())
    }

    /// A track's counters, its listeners on all shards counted. As [`Shard::track_stats`].
    ///
    /// # Errors
    /// As there.
    pub async fn track_stats(&self, track: TrackId) -> Result<Option<TrackStats>, ShardError> {
        let stats = self.at(track.relay()).track_stats(track).await?;
        let listeners = self.tracks().get(&track).map(Entry::listeners);
        Ok(stats.map(|stats| TrackStats { listeners: listeners.unwrap_or(stats.listeners), ..stats }))
    }

    /// As [`Shard::listener_stats`].
    ///
    /// # Errors
    /// As there.
    pub async fn listener_stats(&self, listener: ListenerId) -> Result<Option<ListenerStats>, ShardError> {
        self.at(listener.relay()).listener_stats(listener).await
    }

    /// As [`Shard::leg_stats`].
    ///
    /// # Errors
    /// As there.
    pub async fn leg_stats(&self, leg: LegId) -> Result<Option<LegStats>, ShardError> {
        self.at(leg.relay()).leg_stats(leg).await
    }

    /// Ends all threads. As [`Shard::shutdown`], but what a home feeds to others then may not reach their listeners.
    pub fn shutdown(&self) {
        self.inner.shards.iter().for_each(Shard::shutdown);
    }

    /// The shard of this number. The first one knows no ids of numbers that there are not, and says so.
    fn at(&self, number: u8) -> &Shard {
        self.inner.shards.get(usize::from(number)).unwrap_or(&self.inner.shards[0])
    }

    /// Where a new listener of a track goes, and its seat there.
    fn place(&self, track: TrackId) -> Option<(usize, Seat)> {
        let loads: Vec<_> = self.inner.loads.iter().map(|load| load.now()).collect();
        let mut tracks = self.tracks();
        let entry = tracks.get_mut(&track)?;
        let (home, at_home) = (usize::from(track.relay()), entry.home.listeners());
        let has_track = |shard: usize| entry.branches[shard].strong_count() > 0;
        let shard = placement::listener(home, at_home, self.inner.spill, &loads, has_track);
        Some((shard, Seat::on(entry.branch(home, shard, &self.inner.loads[shard]))))
    }

    /// A seat on this shard.
    fn seat(&self, track: TrackId, shard: usize) -> Option<Seat> {
        let mut tracks = self.tracks();
        let (entry, load) = (tracks.get_mut(&track)?, self.inner.loads.get(shard)?);
        Some(Seat::on(entry.branch(usize::from(track.relay()), shard, load)))
    }

    /// What the track is on the shard of a seat; made now, if nobody has yet, and on when this is given up.
    async fn replicate(&self, track: TrackId, shard: usize, seat: &Seat) -> Result<TrackId, ShardError> {
        let name = self.tracks().get(&track).map(|entry| Arc::clone(&entry.name));
        let name = name.ok_or(OpenError::UnknownTrack(track))?;
        let make = || {
            let (home, there) = (self.at(track.relay()).clone(), self.inner.shards[shard].clone());
            replicas::make(track, name, home, there)
        };
        seat.branch().replica(self.inner.replica_kept, make).await
    }

    /// Whether it is to be told how it went to have a track on this shard: that it took too long, until it does not.
    pub(super) fn is_news(&self, track: TrackId, shard: usize, made: &Result<TrackId, ShardError>) -> bool {
        let mut tracks = self.tracks();
        let Some(entry) = tracks.get_mut(&track) else { return false };
        match made {
            Err(ShardError::Overloaded) => entry.told.insert(shard),
            Ok(_) => {
                entry.told.remove(&shard);
                false
            }
            Err(_) => false,
        }
    }

    /// The same, once it has what is before this position, as far as home has it: what is on its way there would be sent
    /// again to somebody who has heard it elsewhere.
    async fn replicate_to(
        &self,
        position: Option<u64>,
        track: TrackId,
        shard: usize,
        seat: &Seat,
    ) -> Result<TrackId, ShardError> {
        let replica = self.replicate(track, shard, seat).await?;
        if let Some(position) = position {
            let stats = self.at(track.relay()).track_stats(track).await?;
            let stats = stats.ok_or(OpenError::UnknownTrack(track))?;
            let before = stats.oldest_position.and_then(|_| stats.next_position.min(position).checked_sub(1));
            replicas::await_fed(track, &self.inner.shards[shard], replica, before).await?;
        }
        Ok(replica)
    }

    fn check_tracks(&self, tracks: &BTreeMap<TrackId, Entry>) -> Result<(), ShardError> {
        let limit = self.inner.max_tracks;
        // Those that have died with their home are there still, until others have taken their places.
        let alive = |track: &&TrackId| !self.inner.loads[usize::from(track.relay())].has_failed();
        if tracks.len() < limit || tracks.keys().filter(alive).count() < limit {
            Ok(())
        } else {
            Err(OpenError::Limit { what: Limit::Tracks, limit }.into())
        }
    }

    fn tracks(&self) -> MutexGuard<'_, BTreeMap<TrackId, Entry>> {
        // Every change under the lock is complete in itself.
        self.inner.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn branch(&mut self, home: usize, shard: usize, load: &Arc<Load>) -> Arc<Branch> {
        if shard == home {
            return Arc::clone(&self.home);
        }
        self.branches[shard].upgrade().unwrap_or_else(|| {
            let branch = Branch::on(load);
            self.branches[shard] = Arc::downgrade(&branch);
            branch
        })
    }

    fn listeners(&self) -> usize {
        let others = self.branches.iter().filter_map(Weak::upgrade).map(|branch| branch.listeners());
        self.home.listeners() + others.sum::<usize>()
    }
}

/// The threads of [`Shards`]; detached when dropped.
#[derive(Debug)]
pub struct ShardThreads {
    threads: Vec<ShardThread>,
}

impl ShardThreads {
    /// Waits until all have ended; blocks. Ask for the end with [`Shards::shutdown`].
    ///
    /// # Errors
    /// What the first of them that did panicked with.
    pub fn join(self) -> thread::Result<()> {
        let ended: Vec<_> = self.threads.into_iter().map(ShardThread::join).collect();
        ended.into_iter().collect()
    }
}

/// How the shards are set up.
#[derive(Debug, Clone)]
pub struct ShardsConfig {
    /// How many; 0 for one per core. At most [`ShardsConfig::MOST`].
    pub count: usize,
    /// Whether each thread is kept on a core of its own.
    pub pin: bool,
    /// Listeners of one track that are on one shard before others get some of them. Default 256.
    pub spill: usize,
    /// Each of them: the limit of tracks is that of all together, the others are each one's own.
    pub shard: ShardConfig,
}

impl ShardsConfig {
    /// As many as ids can tell apart.
    pub const MOST: usize = 256;

    /// How many there will be.
    pub(crate) fn resolved(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let count = if self.count == 0 { cores() } else { self.count };
        count.min(Self::MOST)
    }

    /// The setting of one of them.
    pub(super) fn of(&self, number: usize) -> ShardConfig {
        let limit = self.shard.relay.track_limit();
        let id = u8::try_from(number).expect("there are fewer shards than numbers");
        // Replicas are tracks too; of each track there is one, and one that is just closing.
        let relay = self.shard.relay.clone().relay(id).max_tracks(limit.saturating_mul(2));
        ShardConfig { relay, seed: self.shard.seed.wrapping_add(number as u64), ..self.shard.clone() }
    }
}

impl From<ShardConfig> for ShardsConfig {
    /// One shard.
    fn from(shard: ShardConfig) -> Self {
        Self { count: 1, pin: false, spill: 256, shard }
    }
}

#[cfg(test)]
impl Shards {
    /// As [`Shard::stalled`].
    pub(crate) fn stalled(room: usize) -> (Self, impl Fn() -> Option<String>) {
        let (shard, take) = Shard::stalled(room);
        let (loads, tracks) = (vec![Arc::default()], Mutex::default());
        let replica_kept = Duration::ZERO;
        let inner = Inner { shards: vec![shard], loads, spill: 0, replica_kept, max_tracks: 1, tracks };
        (Self { inner: Arc::new(inner) }, take)
    }
}
