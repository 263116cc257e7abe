//! What a shard is for tracks of others, and others for its own: replicas that are fed here, feeds of tracks at home here.
//!
//! A replica is a track like any other to the engine. To everybody else it is its home's: ids in events and stats are
//! those of the home, and what happens to the track itself is told by the home alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use relay_engine::{
    CarriedFrame, LegId, LegSpec, LegState, LegStats, ListenerId, ListenerStats, OpenError, Peer,
    SelectError, TrackId,
};
use tokio::sync::oneshot;

use super::Plane;
use super::feed::{FeedLink, FeedSender};
use super::seat::{Seat, Seats};

/// At most one replica per open track of each other shard, and one feed per open track here and other shard.
#[derive(Debug, Default)]
pub(super) struct Branches {
    replicas: BTreeMap<TrackId, Replica>,
    /// The listeners here that feed others, and their tracks.
    feeds: BTreeMap<ListenerId, TrackId>,
    seats: Seats,
    /// How many wait for a replica to have been fed so far.
    waiting: usize,
}

/// A track whose home is another shard.
#[derive(Debug)]
struct Replica {
    of: TrackId,
    leg: LegId,
    link: Arc<FeedLink>,
    closed: bool,
    /// Who waits for which position to have come: whoever made it, and those who are resumed on it.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
}

impl Branches {
    /// Whether what happens to this track is told by another shard.
    pub(super) fn is_replica(&self, track: TrackId) -> bool {
        self.replicas.contains_key(&track)
    }

    /// Whether this listener feeds another shard.
    pub(super) fn is_feed(&self, listener: ListenerId) -> bool {
        self.feeds.contains_key(&listener)
    }

    /// The track as everybody knows it.
    pub(super) fn home_of(&self, track: TrackId) -> TrackId {
        self.replicas.get(&track).map_or(track, |replica| replica.of)
    }

    /// Replicas and feeds that are open.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.replicas.values().filter(|replica| !replica.closed).count(), self.feeds.len())
    }

    /// Something is being closed, with all that is on it.
    pub(super) fn closing(&mut self, peer: Peer) {
        match peer {
            Peer::Track(track) => {
                self.feeds.retain(|_, fed| *fed != track);
                if let Some(replica) = self.replicas.get_mut(&track) {
                    replica.closed = true;
                    self.waiting -= std::mem::take(&mut replica.waiting).len();
                }
            }
            Peer::Listener(listener) => drop(self.feeds.remove(&listener)),
            Peer::Leg(_) => {}
        }
    }

    /// A listener is closed.
    pub(super) fn leave(&mut self, listener: ListenerId) {
        self.feeds.remove(&listener);
        self.seats.leave(listener);
    }

    /// A track is closed; whether it was a replica.
    pub(super) fn forget(&mut self, track: TrackId) -> bool {
        self.replicas.remove(&track).is_some()
    }

    /// Those that feed this shard may go on.
    pub(super) fn go_on(&self) {
        self.replicas.values().for_each(|replica| replica.link.go_on());
    }

    /// A replica was fed a frame.
    #[cold]
    fn note_fed(&mut self, leg: LegId, position: u64) {
        let Some(replica) = self.replicas.values_mut().find(|replica| replica.leg == leg) else { return };
        let before = replica.waiting.len();
        for (_, waiting) in replica.waiting.extract_if(.., |(wanted, _)| *wanted <= position) {
            // Whoever asked may have stopped waiting.
            let _gone = waiting.send(()).is_err();
        }
        self.waiting -= before - replica.waiting.len();
    }
}

impl Plane {
    /// Opens a track that is to be fed by its home, and the leg by which it is.
    pub(super) fn open_replica(
        &mut self,
        now: Instant,
        name: String,
        of: TrackId,
        link: Arc<FeedLink>,
    ) -> Result<(TrackId, LegId), OpenError> {
        let track = self.open_track(now, name)?;
        let opened = self.open_publisher(now, track, LegSpec::new(NO_PAYLOAD_TYPE).reports(false));
        let leg = match opened {
            Ok(leg) => leg,
            Err(refused) => {
                self.close(now, Peer::Track(track));
                return Err(refused);
            }
        };
        self.publisher_up(now, leg);
        let replica = Replica { of, leg, link, closed: false, waiting: Vec::new() };
        self.branches.replicas.insert(track, replica);
        Ok((track, leg))
    }

    /// Opens a listener that feeds a replica: with all that the history has, then with what comes. Tells the newest
    /// position there is; until the replica has that, it has not what is here.
    pub(super) fn open_feed(
        &mut self,
        now: Instant,
        track: TrackId,
        mut sender: FeedSender,
    ) -> Result<(ListenerId, Option<u64>), OpenError> {
        let stats = self.relay.track_stats(track).ok_or(OpenError::UnknownTrack(track))?;
        let spec = LegSpec::new(NO_PAYLOAD_TYPE).reports(false).feed(true);
        let spec = stats.oldest_position.into_iter().fold(spec, LegSpec::resume_from);
        let (listener, leg) = self.open_listener(now, track, spec)?;
        sender.open(now, leg);
        self.branches.feeds.insert(listener, track);
        self.outbound.legs.attach_feed(leg, sender);
        self.relay.handle_leg(now, leg, LegState::Up);
        let newest = stats.oldest_position.and_then(|_| stats.next_position.checked_sub(1));
        Ok((listener, newest))
    }

    /// Answers once a replica has been fed up to this position.
    pub(super) fn await_fed(&mut self, track: TrackId, position: u64, reply: oneshot::Sender<()>) {
        let next = self.relay.track_stats(track).map(|stats| stats.next_position);
        match (next, self.branches.replicas.get_mut(&track).filter(|replica| !replica.closed)) {
            (Some(next), Some(replica)) if next <= position => {
                replica.waiting.push((position, reply));
                self.branches.waiting += 1;
            }
            // Whoever asked may have stopped waiting.
            (Some(_), Some(_)) => {
                let _gone = reply.send(()).is_err();
            }
            // It is gone: the reply is dropped, which says so.
            _ => {}
        }
    }

    /// A frame of a replica.
    pub(super) fn handle_fed(&mut self, now: Instant, leg: LegId, arrived: Instant, frame: CarriedFrame) {
        let position = frame.position;
        self.relay.handle_fed(now, leg, arrived, frame);
        if self.branches.waiting > 0 {
            self.branches.note_fed(leg, position);
        }
    }

    /// [`Plane::open_listener`], for somebody who has taken a seat.
    pub(super) fn open_seated(
        &mut self,
        now: Instant,
        track: TrackId,
        spec: LegSpec,
        seat: Option<Seat>,
    ) -> Result<(ListenerId, LegId), OpenError> {
        let opened = self.open_listener(now, track, spec)?;
        if let Some(seat) = seat {
            self.branches.seats.take(opened.0, seat);
        }
        Ok(opened)
    }

    /// [`Plane::select`], for somebody who has taken a seat there.
    pub(super) fn select_seated(
        &mut self,
        now: Instant,
        listener: ListenerId,
        track: TrackId,
        seat: Option<Seat>,
    ) -> Result<(), SelectError> {
        self.select(now, listener, track)?;
        if let Some(seat) = seat {
            self.branches.seats.take(listener, seat);
        }
        Ok(())
    }

    /// A listener's counters, with its track as everybody knows it.
    pub(super) fn listener_stats(&self, listener: ListenerId) -> Option<ListenerStats> {
        self.relay.listener_stats(listener).map(|stats| self.known(stats))
    }

    /// A leg's counters, the same.
    pub(super) fn leg_stats(&self, leg: LegId) -> Option<LegStats> {
        Some(match self.relay.leg_stats(leg)? {
            LegStats::Listener(stats) => LegStats::Listener(self.known(stats)),
            stats => stats,
        })
    }

    fn known(&self, stats: ListenerStats) -> ListenerStats {
        ListenerStats { track: self.branches.home_of(stats.track), ..stats }
    }
}

/// Frames between shards have none.
const NO_PAYLOAD_TYPE: u8 = 0;
