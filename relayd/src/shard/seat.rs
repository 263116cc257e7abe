//! Who listens where, counted by owning: a seat is taken before a listener is opened and goes with it.
//!
//! A seat keeps its branch, and the branch of a track on another shard than its home keeps the feed from there. So a
//! replica ends with its last listener, and not while one is just coming: whoever comes has a seat already. Whoever made it
//! keeps it for a while too, as those it was made for may have gone home before it was there.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use relay_engine::{ListenerId, Peer, TrackId};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ShardError;
use super::command::Order;
use super::placement::ShardLoad;

/// What is to be done on one shard; its thread and the router share it.
#[derive(Debug, Default)]
pub(super) struct Load {
    number: usize,
    listeners: AtomicUsize,
    homes: AtomicUsize,
    ended: AtomicBool,
    failed: AtomicBool,
    /// It has not answered in time, and not since.
    stalled: AtomicBool,
    /// Commands that found no room.
    refused: AtomicU64,
}

impl Load {
    /// Of the shard of this number.
    pub(super) fn of(number: usize) -> Arc<Self> {
        Arc::new(Self { number, ..Self::default() })
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn now(&self) -> ShardLoad {
        ShardLoad {
            alive: !self.has_ended(),
            stalled: self.is_stalled(),
            listeners: self.listeners.load(Ordering::Relaxed),
            homes: self.homes.load(Ordering::Relaxed),
        }
    }

    /// It has not answered in time; false if that was known.
    pub(super) fn stall(&self) -> bool {
        !self.stalled.swap(true, Ordering::SeqCst)
    }

    /// It has answered since.
    pub(super) fn recover(&self) {
        self.stalled.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::SeqCst)
    }

    /// A command found no room.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The shard's thread, which this is called on, has ended: nothing goes there any more.
    pub(super) fn end(&self) {
        self.failed.store(thread::panicking(), Ordering::SeqCst);
        self.ended.store(true, Ordering::SeqCst);
    }

    /// It has ended, and nobody had asked for that.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

/// A track has its home on a shard.
#[derive(Debug)]
pub(super) struct Home(Arc<Load>);

impl Home {
    pub(super) fn on(load: &Arc<Load>) -> Self {
        load.homes.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.0.homes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A track on one shard.
#[derive(Debug)]
pub(super) struct Branch {
    listeners: AtomicUsize,
    load: Arc<Load>,
    /// What the track is there, if that is not its home.
    replica: OnceLock<Replica>,
    /// Of whoever makes it, or has made it.
    made: Mutex<Option<watch::Receiver<Made>>>,
}

type Made = Option<Result<TrackId, ShardError>>;

impl Branch {
    pub(super) fn on(load: &Arc<Load>) -> Arc<Self> {
        Arc::new(Self {
            listeners: AtomicUsize::new(0),
            load: Arc::clone(load),
            replica: OnceLock::new(),
            made: Mutex::default(),
        })
    }

    /// What the track is there, made now if nobody has begun yet: to the end, however long those wait who want it, and
    /// then kept for so long, though nobody has a seat.
    pub(super) async fn replica<F>(
        self: &Arc<Self>,
        kept: Duration,
        make: impl FnOnce() -> F,
    ) -> Result<TrackId, ShardError>
    where
        F: Future<Output = Result<Replica, ShardError>> + Send + 'static,
    {
        let mut made = self.making(kept, make);
        let made = made.wait_for(Option::is_some).await.ok().and_then(|made| made.clone());
        // Whoever made it went with their runtime.
        made.unwrap_or(Err(ShardError::Closed))
    }

    fn making<F>(self: &Arc<Self>, kept: Duration, make: impl FnOnce() -> F) -> watch::Receiver<Made>
    where
        F: Future<Output = Result<Replica, ShardError>> + Send + 'static,
    {
        // Every change under the lock is complete in itself.
        let mut making = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = |made: &&watch::Receiver<Made>| {
            let goes_on = made.has_changed().is_ok();
            goes_on || matches!(*made.borrow(), Some(Ok(_)))
        };
        if let Some(made) = making.as_ref().filter(is_good) {
            return made.clone();
        }
        let (tell, made) = watch::channel(None);
        let (branch, make) = (Arc::clone(self), make());
        tokio::spawn(async move {
            let made = make.await.map(|made| branch.replica.get_or_init(|| made).track);
            let is_made = made.is_ok();
            tell.send_replace(Some(made));
            if is_made && !kept.is_zero() {
                sleep(kept).await;
            }
        });
        *making = Some(made.clone());
        made
    }

    /// The track's listeners on this shard, those just coming included.
    pub(super) fn listeners(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }
}

/// A listener's place on a branch.
#[derive(Debug)]
pub(super) struct Seat(Arc<Branch>);

impl Seat {
    pub(super) fn on(branch: Arc<Branch>) -> Self {
        branch.listeners.fetch_add(1, Ordering::Relaxed);
        branch.load.listeners.fetch_add(1, Ordering::Relaxed);
        Self(branch)
    }

    pub(super) fn branch(&self) -> &Arc<Branch> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
        self.0.load.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A track on another shard than its home, and the listener there that feeds it. Dropped, it ends the feed, and that
/// ends the track.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) track: TrackId,
    pub(super) feed: ListenerId,
    /// Of the home.
    pub(super) orders: Sender<Order>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        // A home that has ended has ended its feeds.
        drop(self.orders.send(Order::Close { peer: Peer::Listener(self.feed) }));
    }
}

/// By slot, which listener has which seat: 16 bytes for each slot.
#[derive(Debug, Default)]
pub(super) struct Seats {
    seats: Vec<Option<(ListenerId, Seat)>>,
}

impl Seats {
    /// The listener has this seat now, and no other any more.
    pub(super) fn take(&mut self, listener: ListenerId, seat: Seat) {
        let slot = listener.slot();
        if slot >= self.seats.len() {
            self.seats.resize_with(slot + 1, || None);
        }
        self.seats[slot] = Some((listener, seat));
    }

    /// The listener is gone.
    pub(super) fn leave(&mut self, listener: ListenerId) {
        if let Some(seat) = self.seats.get_mut(listener.slot()) {
            seat.take_if(|(sitting, _)| *sitting == listener);
        }
    }
}
