//! The media thread: takes what waits in its queues, serves the engine's deadlines, drains, waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, TryRecvError};
use relay_engine::Peer;
use tokio::sync::oneshot;

use super::Plane;
use super::affinity;
use super::command::{Command, Media, Opened, Order, Payload};
use super::feed::{Fed, Outlet};
use super::seat::Load;
use super::stats::{QueueStats, ShardStats};

/// The media thread of a [`Shard`](super::Shard); detached when dropped.
#[derive(Debug)]
pub struct ShardThread {
    handle: JoinHandle<()>,
}

impl ShardThread {
    pub(super) fn spawn(
        plane: Plane,
        queues: Queues,
        dropped: Arc<AtomicU64>,
        seat: ThreadSeat,
    ) -> io::Result<Self> {
        let name = format!("media-{}", seat.number);
        let room = |capacity: Option<usize>| capacity.unwrap_or_default();
        let arrivals = room(queues.media.capacity()) + room(queues.fed.queue.capacity());
        let arrivals = Vec::with_capacity(arrivals.max(1));
        let mut media_loop =
            MediaLoop { plane, queues, dropped, queue: QueueStats::default(), arrivals, seat };
        let handle = thread::Builder::new().name(name).spawn(move || media_loop.run())?;
        Ok(ShardThread { handle })
    }

    /// Waits until the thread has ended; blocks. Ask for the end with [`Shard::shutdown`](super::Shard::shutdown).
    ///
    /// # Errors
    /// What the thread panicked with.
    pub fn join(self) -> thread::Result<()> {
        self.handle.join()
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

/// Which thread it is.
#[derive(Debug, Default)]
pub(super) struct ThreadSeat {
    pub(super) number: usize,
    pub(super) pin: bool,
    pub(super) load: Arc<Load>,
}

/// How soon a reader that had no room for an event that it waits for is offered it again.
const READER_PATIENCE: Duration = Duration::from_millis(50);

/// What the thread reads.
pub(super) struct Queues {
    pub(super) orders: Receiver<Order>,
    pub(super) commands: Receiver<Command>,
    pub(super) media: Receiver<Media>,
    /// From other shards.
    pub(super) fed: Outlet,
}

struct MediaLoop {
    plane: Plane,
    queues: Queues,
    dropped: Arc<AtomicU64>,
    queue: QueueStats,
    /// When what is not sent yet arrived; never longer than it was made: nothing is allocated.
    arrivals: Vec<Instant>,
    seat: ThreadSeat,
}

impl Drop for MediaLoop {
    /// However it ends: whoever waits for an answer gets none, and whoever asks from now on is told so.
    fn drop(&mut self) {
        self.seat.load.end();
        self.queues.commands.try_iter().for_each(drop);
        if thread::panicking() {
            tracing::error!(
                shard = self.seat.number,
                "a media thread has failed: its listeners hear no more"
            );
        }
    }
}

impl MediaLoop {
    fn run(&mut self) {
        if self.seat.pin {
            affinity::pin(self.seat.number);
        }
        let Queues { orders, commands, media, fed } = &self.queues;
        let (orders, commands, media, fed) =
            (orders.clone(), commands.clone(), media.clone(), fed.queue.clone());
        let mut ready = Select::new();
        ready.recv(&orders);
        ready.recv(&commands);
        ready.recv(&media);
        ready.recv(&fed);
        loop {
            let going_on = self.turn();
            if !going_on {
                return;
            }
            let deadline = self.plane.relay().poll_timeout().map(|deadline| deadline.at);
            // A reader that takes events again does not say so.
            let again = self.plane.catch_up().then(|| Instant::now() + READER_PATIENCE);
            match deadline.into_iter().chain(again).min() {
                // Err says that the deadline came first: the next turn serves it.
                Some(at) => drop(ready.ready_deadline(at)),
                None => drop(ready.ready()),
            }
        }
    }

    /// Takes all that waits, serves a deadline that has passed, sends. False when the shard is to end.
    fn turn(&mut self) -> bool {
        // Counted before the commands: what is given before the media counted here is among those counted after.
        let mut waiting = self.queues.media.len();
        let fed = self.queues.fed.queue.len();
        let commands = self.queues.commands.len();
        self.queue.depth_max = self.queue.depth_max.max(waiting);
        self.take_orders();
        let going_on = self.take_commands(commands);
        if !going_on {
            // What was handed in before the shutdown, but after the count.
            waiting = self.queues.media.len();
        }
        self.take_media(waiting);
        self.take_fed(fed);
        self.serve_deadline();
        self.send();
        going_on
    }

    /// Sends everything, and notes how long what arrived has taken until now.
    fn send(&mut self) {
        self.plane.drain();
        if !self.arrivals.is_empty() {
            let now = Instant::now();
            for arrived in self.arrivals.drain(..) {
                self.queue.tick_lag.record(now.saturating_duration_since(arrived));
            }
        }
    }

    /// A publisher's packet is taken.
    fn note_arrival(&mut self, arrived: Instant) {
        if self.arrivals.len() == self.arrivals.capacity() {
            self.send();
        }
        self.arrivals.push(arrived);
    }

    /// Takes what waits and one more, which tells an idle shard that nobody is left. No flood holds up the media.
    fn take_commands(&mut self, waiting: usize) -> bool {
        for _ in 0..=waiting {
            match self.queues.commands.try_recv() {
                Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => return false,
                Ok(command) => {
                    // What ended before the command was given: a place that it wants may have been taken until then.
                    self.take_orders();
                    self.obey(command);
                }
                Err(TryRecvError::Empty) => return true,
            }
        }
        true
    }

    fn take_orders(&mut self) {
        let waiting = self.queues.orders.len();
        self.queue.orders_depth_max = self.queue.orders_depth_max.max(waiting);
        for _ in 0..waiting {
            let Ok(order) = self.queues.orders.try_recv() else { return };
            match order {
                Order::Close { peer } => self.plane.close(Instant::now(), peer),
                Order::Pause { track, wish } => {
                    self.plane.pause_track(Instant::now(), track, wish.take());
                }
                Order::Drained { leg } => self.plane.ring_drained(Instant::now(), leg),
                Order::EndReplica { track } => {
                    self.take_fed(self.queues.fed.queue.len());
                    self.send();
                    self.plane.close(Instant::now(), Peer::Track(track));
                }
            }
        }
    }

    fn take_media(&mut self, waiting: usize) {
        for _ in 0..waiting {
            let Ok(media) = self.queues.media.try_recv() else { return };
            let delay = media.arrived.elapsed();
            self.queue.taken += 1;
            self.queue.delay_total += delay;
            self.queue.delay_max = self.queue.delay_max.max(delay);
            let (now, leg) = (media.arrived, media.leg);
            match media.payload {
                Payload::Packet(packet) => {
                    self.plane.handle_packet(now, leg, packet);
                    self.note_arrival(now);
                }
                Payload::Frame(frame) => {
                    self.plane.handle_frame(now, leg, frame);
                    self.note_arrival(now);
                }
                Payload::Srtcp(datagram) => self.plane.handle_srtcp(now, leg, &datagram),
                Payload::Feedback(feedback) => self.plane.handle_feedback(now, leg, feedback),
                Payload::Mark(reply) => answer(reply, ()),
            }
        }
    }

    /// Takes what other shards have fed, and tells those that wait for room.
    fn take_fed(&mut self, waiting: usize) {
        if waiting > 0 {
            self.queue.fed_depth_max = self.queue.fed_depth_max.max(waiting);
            let now = Instant::now();
            for _ in 0..waiting {
                let Ok(Fed { leg, arrived, live, frame }) = self.queues.fed.queue.try_recv() else { break };
                self.queue.fed += 1;
                self.plane.handle_fed(now, leg, arrived, frame);
                if live {
                    self.note_arrival(arrived);
                }
            }
        }
        if self.queues.fed.has_room_again() {
            self.plane.branches.go_on();
        }
    }

    fn serve_deadline(&mut self) {
        let now = Instant::now();
        if let Some(deadline) = self.plane.relay().poll_timeout().filter(|deadline| deadline.at <= now) {
            let lag = now - deadline.at;
            self.queue.timer_lag_max = self.queue.timer_lag_max.max(lag);
            self.queue.timer_lag.record(lag);
            self.plane.handle_timeout(now);
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        let plane = &mut self.plane;
        match command {
            Command::OpenTrack { name, reply } => {
                let opened = plane.open_track(now, name);
                self.hand_over(now, reply, opened);
            }
            Command::OpenPublisher { track, spec, reply } => {
                let opened = plane.open_publisher(now, track, spec);
                self.hand_over(now, reply, opened);
            }
            Command::OpenListener { track, spec, seat, reply } => {
                let opened = plane.open_seated(now, track, spec, seat);
                self.hand_over(now, reply, opened);
            }
            Command::OpenReplica { name, of, link, reply } => {
                let opened = plane.open_replica(now, name, of, link);
                self.hand_over(now, reply, opened);
            }
            Command::OpenFeed { track, sender, reply } => {
                let opened = plane.open_feed(now, track, *sender);
                self.hand_over(now, reply, opened);
            }
            Command::AwaitFed { track, position, reply } => plane.await_fed(track, position, reply),
            Command::LegUp { leg, egress } => plane.leg_up(now, leg, *egress),
            Command::PublisherUp { leg } => plane.publisher_up(now, leg),
            Command::LegDown { leg } => plane.leg_down(now, leg),
            Command::LegPath { leg, destination } => plane.leg_path(now, leg, destination),
            Command::LegReturned { leg } => plane.leg_returned(now, leg),
            Command::Listen { queue } => plane.listen(queue),
            Command::Ping { reply } => answer(reply, ()),
            Command::Stats { reply } => answer(reply, self.stats()),
            Command::TrackStats { track, reply } => answer(reply, plane.relay().track_stats(track)),
            Command::ListenerStats { listener, reply } => {
                answer(reply, plane.listener_stats(listener));
            }
            Command::LegStats { leg, reply } => answer(reply, plane.leg_stats(leg)),
            Command::AddLeg { listener, spec, reply } => {
                let added = plane.add_leg(now, listener, spec);
                self.hand_over(now, reply, added);
            }
            Command::Switch { leg, reply } => answer(reply, plane.switch(now, leg)),
            Command::Select { listener, track, seat, turn, reply } => {
                if turn.take() {
                    answer(reply, plane.select_seated(now, listener, track, seat));
                }
            }
            Command::PauseListener { listener, paused, reply } => {
                answer(reply, plane.pause_listener(now, listener, paused));
            }
            Command::Replay { leg, from, reply } => answer(reply, plane.replay(now, leg, from)),
            Command::Shutdown => {}
            #[cfg(test)]
            Command::Stall { until } => drop(until.recv()),
            #[cfg(test)]
            Command::Fail => panic!("as it was told to"),
        }
    }

    /// What is opened belongs to whoever asked; when nobody waits for it any more it is closed again.
    fn hand_over<T: Opened, E>(
        &mut self,
        now: Instant,
        reply: oneshot::Sender<Result<T, E>>,
        opened: Result<T, E>,
    ) {
        if let Err(Ok(unclaimed)) = reply.send(opened) {
            self.plane.close(now, unclaimed.peer());
        }
    }

    fn stats(&mut self) -> ShardStats {
        let mut queue = self.queue;
        queue.dropped = self.dropped.load(Ordering::Relaxed);
        queue.depth = self.queues.media.len();
        queue.fed_depth = self.queues.fed.queue.len();
        queue.orders_depth = self.queues.orders.len();
        queue.commands_depth = self.queues.commands.len();
        queue.commands_refused = self.seat.load.refused();
        queue.events_depth = self.plane.outbound.readers.waiting();
        (queue.rings_depth, queue.rings_depth_max) = self.plane.outbound.legs.rings_depth();
        self.queue.delay_max = Default::default();
        self.queue.timer_lag_max = Default::default();
        ShardStats { queue, ..self.plane.stats() }
    }
}

/// Whoever asked may have stopped waiting: then the answer is for nobody.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    drop(reply.send(value));
}
