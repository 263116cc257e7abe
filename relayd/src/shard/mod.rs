//! The media plane: one OS thread that owns an engine `Relay` and sends to every listener.
//!
//! [`Shard`] is the handle on one thread: commands and packets go in through two bounded queues, answers come back
//! through one-shot channels. [`Shards`] is what the other planes hold: as many threads as there are cores, each with
//! listeners of its own, and whatever is asked goes to the one that an id's number names.
//! The thread takes what waits, asks the engine what must go out,
//! seals it and hands it to the kernel 64 packets at a time. It shares no lock with the other planes, knows no
//! `Rtc`, and does not allocate per packet.
//!
//! Invariants: media that does not fit its queue is dropped and counted, a command is waited for, and the end of
//! something is never lost; a packet is handled after every command that was given before it, a command after every
//! end; what is opened for nobody is closed again.

mod affinity;
mod branches;
mod command;
mod events;
mod feed;
mod header;
mod histogram;
mod legs;
mod opening;
mod outbound;
mod pauses;
mod placement;
mod plane;
mod replicas;
mod ring;
mod rtcp;
mod seat;
mod shards;
mod stats;
mod thread;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{SendTimeoutError, Sender, TrySendError, bounded, unbounded};
use relay_engine::{
    CarriedFrame, Config, Feedback, LegId, LegSpec, LegStats, ListenerId, ListenerStats, OpenError, Peer,
    ReplayError, SelectError, SwitchError, TrackId, TrackStats, UnknownListener, rtp,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::webrtc::srtp::KeyingMaterial;
use command::{Command, Media, Order, PauseWish, Payload};
use feed::Inlet;

pub use crate::webrtc::egress::EgressCounters;
pub use events::{EVENT_QUEUE, ShardEvent};
pub use histogram::Histogram;
pub(crate) use legs::Allowance;
pub use plane::Plane;
pub use ring::{RingFrame, RingReceiver, RingSender, ring};
use seat::{Load, Seat};
pub use shards::{ShardThreads, Shards, ShardsConfig};
pub use stats::{PlaneCounters, QueueStats, ShardStats};
pub use thread::ShardThread;
use thread::{Queues, ThreadSeat};

/// Handle on a media plane; clones share one thread.
#[derive(Clone)]
pub struct Shard {
    orders: Sender<Order>,
    commands: Sender<Command>,
    media: Sender<Media>,
    inlet: Inlet,
    load: Arc<Load>,
    dropped: Arc<AtomicU64>,
    opened_within: Duration,
}

impl Shard {
    /// Starts the thread; it sends on `socket`, which it never reads.
    ///
    /// The thread ends after [`Shard::shutdown`], or when the last handle is gone.
    ///
    /// # Errors
    /// When the socket has no local address or the thread can not be started.
    pub fn spawn(socket: UdpSocket, config: ShardConfig) -> io::Result<(Shard, ShardThread)> {
        Shard::spawn_as(socket, config, ThreadSeat::default())
    }

    fn spawn_as(
        socket: UdpSocket,
        config: ShardConfig,
        seat: ThreadSeat,
    ) -> io::Result<(Shard, ShardThread)> {
        let (orders, order_queue) = unbounded();
        let (commands, command_queue) = bounded(config.command_queue.max(1));
        let (media, media_queue) = bounded(config.media_queue.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let (inlet, fed) = feed::inlet(config.feed_queue);
        let load = Arc::clone(&seat.load);
        let plane = Plane::new(socket, &config)?;
        let queues = Queues { orders: order_queue, commands: command_queue, media: media_queue, fed };
        let thread = ShardThread::spawn(plane, queues, Arc::clone(&dropped), seat)?;
        let opened_within = config.opened_within;
        Ok((Shard { orders, commands, media, inlet, load, dropped, opened_within }, thread))
    }

    /// Opens a track named by its BCP-47 language tag.
    ///
    /// Like the other opening calls it leaves nothing open when it is dropped before it has answered, and is given up
    /// after [`ShardConfig::opened_within`] without an answer; from then on they are refused at once, until the thread answers again.
    /// They need a tokio runtime with its time enabled.
    ///
    /// # Errors
    /// [`ShardError::Open`] if the engine refuses it, otherwise see [`ShardError`].
    pub async fn open_track(&self, name: &str) -> Result<TrackId, ShardError> {
        let name = name.to_owned();
        self.open(|reply| Command::OpenTrack { name, reply }).await
    }

    /// Opens the leg of a track's publisher.
    ///
    /// # Errors
    /// [`ShardError::Open`] if the engine refuses it, otherwise see [`ShardError`].
    pub async fn open_publisher(&self, track: TrackId, spec: LegSpec) -> Result<LegId, ShardError> {
        self.open(|reply| Command::OpenPublisher { track, spec, reply }).await
    }

    /// Opens a listener with its leg. Nothing is sent to it before [`Shard::leg_up`].
    ///
    /// # Errors
    /// [`ShardError::Open`] if the engine refuses it, otherwise see [`ShardError`].
    pub async fn open_listener(
        &self,
        track: TrackId,
        spec: LegSpec,
    ) -> Result<(ListenerId, LegId), ShardError> {
        self.open_seated(track, spec, None).await
    }

    async fn open_seated(
        &self,
        track: TrackId,
        spec: LegSpec,
        seat: Option<Seat>,
    ) -> Result<(ListenerId, LegId), ShardError> {
        self.open(|reply| Command::OpenListener { track, spec, seat, reply }).await
    }

    /// Moves a listener or a track's publisher over to another leg of theirs, which is to be up; calling it again
    /// changes nothing. [`ShardEvent::LegSpent`] tells when nothing is needed of the old leg any more.
    ///
    /// # Errors
    /// [`ShardError::Switch`] if the engine refuses it, otherwise see [`ShardError`].
    pub async fn switch(&self, leg: LegId) -> Result<(), ShardError> {
        Ok(self.ask(|reply| Command::Switch { leg, reply }).await??)
    }

    /// Opens one more leg of a listener that has one. [`Shard::switch`] moves the listener over once it is up.
    ///
    /// # Errors
    /// [`ShardError::Open`] if the engine refuses it, otherwise see [`ShardError`].
    pub async fn add_leg(&self, listener: ListenerId, spec: LegSpec) -> Result<LegId, ShardError> {
        self.open(|reply| Command::AddLeg { listener, spec, reply }).await
    }

    /// Sends a listener nothing until [`Shard::resume_listener`]; what comes meanwhile is not owed to it.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn pause_listener(&self, listener: ListenerId) -> Result<(), ShardError> {
        Ok(self.ask(|reply| Command::PauseListener { listener, paused: true, reply }).await??)
    }

    /// Has a paused listener go on at the live edge.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn resume_listener(&self, listener: ListenerId) -> Result<(), ShardError> {
        Ok(self.ask(|reply| Command::PauseListener { listener, paused: false, reply }).await??)
    }

    /// Sends a listener's leg again what it was sent from a position on, or from the first that its far end has not
    /// acknowledged; tells how many frames that are.
    ///
    /// # Errors
    /// [`ShardError::Replay`] if the engine refuses it, otherwise see [`ShardError`].
    pub async fn replay(&self, leg: LegId, from: Option<u64>) -> Result<u64, ShardError> {
        Ok(self.ask(|reply| Command::Replay { leg, from, reply }).await??)
    }

    /// The leg of a listener is connected: from now on it is sent to.
    ///
    /// Given again with the same keys it only moves the destination; SRTP goes on where it was. A ring that is full
    /// holds the leg: its frames come later, from the history, once the ring is drained to half. False if the shard does
    /// not take it: the leg stays as it is.
    pub fn leg_up(&self, leg: LegId, egress: Egress) -> bool {
        if let Egress::Ring(sender) = &egress {
            sender.wake(&self.orders, leg);
        }
        self.tell(Command::LegUp { leg, egress: Box::new(egress) })
    }

    /// The leg of a publisher is connected. False if the shard does not take it.
    pub fn publisher_up(&self, leg: LegId) -> bool {
        self.tell(Command::PublisherUp { leg })
    }

    /// The leg lost its connection and may get it back: nothing is sent to it until it is up again.
    ///
    /// This and the next two wait for nothing. False if the queue is full: it is to be said again.
    #[must_use]
    pub fn leg_down(&self, leg: LegId) -> bool {
        self.offer(Command::LegDown { leg })
    }

    /// The listener behind `leg` is reached at this address from now on, and is sent again what it is not known to have:
    /// what was on the old path may be lost. False if the queue is full.
    #[must_use]
    pub fn leg_path(&self, leg: LegId, destination: SocketAddr) -> bool {
        self.offer(Command::LegPath { leg, destination })
    }

    /// The listener behind `leg` was not heard of for a while and is there again: as with [`Shard::leg_path`], and the
    /// leg is up, if it was down. False if the queue is full.
    #[must_use]
    pub fn leg_returned(&self, leg: LegId) -> bool {
        self.offer(Command::LegReturned { leg })
    }

    /// Hands in a decrypted RTP packet of a publisher. False if the queue is full: it is dropped and counted.
    pub fn packet(&self, leg: LegId, packet: rtp::Packet) -> bool {
        self.media(leg, Payload::Packet(packet))
    }

    /// Hands in a frame of a publisher whose transport carries positions. False if the queue is full: it is dropped
    /// and counted.
    pub fn frame(&self, leg: LegId, frame: CarriedFrame) -> bool {
        self.media(leg, Payload::Frame(frame))
    }

    /// Hands in an encrypted RTCP datagram of a listener. False if the queue is full: it is dropped and counted.
    pub fn srtcp(&self, leg: LegId, datagram: Bytes) -> bool {
        self.media(leg, Payload::Srtcp(datagram))
    }

    /// Hands in decrypted feedback, such as a publisher's sender report. False if the queue is full.
    pub fn feedback(&self, leg: LegId, feedback: Feedback) -> bool {
        self.media(leg, Payload::Feedback(feedback))
    }

    /// Waits until what was handed in of this leg before is taken, as a command is not: those overtake it. While the queue
    /// is full it waits for room: whoever asks gives up when they like.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub(crate) async fn heard(&self, leg: LegId) -> Result<(), ShardError> {
        let (reply, taken) = oneshot::channel();
        let mut mark = Media { leg, arrived: Instant::now(), payload: Payload::Mark(reply) };
        while let Err(error) = self.media.try_send(mark) {
            match error {
                TrySendError::Full(refused) => mark = refused,
                TrySendError::Disconnected(_) => return Err(ShardError::Closed),
            }
            sleep(ROOM_AGAIN).await;
        }
        taken.await.map_err(|_| ShardError::Closed)
    }

    /// Closes a track, listener or leg, with everything that hangs on it, before any command that is given after it.
    pub fn close(&self, peer: Peer) {
        self.order(Order::Close { peer });
    }

    /// While a track is paused, what its publishers send is dropped and counted, and they stay connected. Afterwards
    /// its timeline goes on at the next position, with the time that has passed: listeners see no hole.
    pub fn pause_track(&self, track: TrackId, paused: bool) {
        self.pause_by(track, &Arc::default(), paused);
    }

    /// The same, by the one wish that there is for the track.
    fn pause_by(&self, track: TrackId, wish: &Arc<PauseWish>, paused: bool) {
        if wish.say(paused) {
            self.order(Order::Pause { track, wish: Arc::clone(wish) });
        }
    }

    /// What happens from now on, in order: [`EVENT_QUEUE`] events may wait, more are dropped and counted. For a few
    /// readers, each of which gets all of it.
    pub fn events(&self) -> mpsc::Receiver<ShardEvent> {
        let (queue, events) = mpsc::channel(EVENT_QUEUE);
        self.listen(queue);
        events
    }

    fn listen(&self, queue: mpsc::Sender<ShardEvent>) {
        self.tell(Command::Listen { queue });
    }

    /// Waits until the thread has got to this command: whether it is alive, and nothing else.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn ping(&self) -> Result<(), ShardError> {
        self.ask(|reply| Command::Ping { reply }).await
    }

    /// Counters and gauges of the engine, the sender and the queues. Reading starts its maxima anew.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn stats(&self) -> Result<ShardStats, ShardError> {
        self.ask(|reply| Command::Stats { reply }).await
    }

    /// One track's counters; `None` if there is no such track any more.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn track_stats(&self, track: TrackId) -> Result<Option<TrackStats>, ShardError> {
        self.ask(|reply| Command::TrackStats { track, reply }).await
    }

    /// One listener's counters; `None` if there is no such listener any more.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn listener_stats(&self, listener: ListenerId) -> Result<Option<ListenerStats>, ShardError> {
        self.ask(|reply| Command::ListenerStats { listener, reply }).await
    }

    /// One leg's counters; `None` if there is no such leg any more.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub async fn leg_stats(&self, leg: LegId) -> Result<Option<LegStats>, ShardError> {
        self.ask(|reply| Command::LegStats { leg, reply }).await
    }

    /// Ends the thread once it has sent what it was handed before. [`ShardThread::join`] waits for that.
    pub fn shutdown(&self) {
        self.tell(Command::Shutdown);
    }

    fn media(&self, leg: LegId, payload: Payload) -> bool {
        let sent = self.media.try_send(Media { leg, arrived: Instant::now(), payload }).is_ok();
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ShardError> {
        let (reply, answer) = oneshot::channel();
        self.send_asking(command(reply))?;
        answer.await.map_err(|_| ShardError::Closed)
    }

    /// For commands with an answer. A thread that has ended says so before it drops those that it did not get to: what
    /// comes after them would stay in the queue, and nobody would ever answer.
    fn send_asking(&self, command: Command) -> Result<(), ShardError> {
        self.send(command)?;
        if self.load.has_ended() { Err(ShardError::Closed) } else { Ok(()) }
    }

    fn order(&self, order: Order) {
        // A shard that has ended has nothing left to be told.
        drop(self.orders.send(order));
    }

    /// For commands without an answer; whether it was taken. A shard that has ended has nothing left to be told.
    fn tell(&self, command: Command) -> bool {
        let sent = self.send(command);
        if sent == Err(ShardError::Overloaded) {
            tracing::error!("the media thread has not taken a command for {COMMAND_PATIENCE:?}: it is lost");
        }
        sent.is_ok()
    }

    /// Whether a command was taken, or is for a shard that has ended.
    fn offer(&self, command: Command) -> bool {
        let full = matches!(self.commands.try_send(command), Err(TrySendError::Full(_)));
        if full {
            self.load.refuse();
        }
        !full
    }

    /// The thread empties its queue in microseconds, so a full one is worth a short wait, even on a runtime.
    fn send(&self, command: Command) -> Result<(), ShardError> {
        match self.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(ShardError::Closed),
            Err(TrySendError::Full(command)) => {
                self.commands.send_timeout(command, COMMAND_PATIENCE).map_err(|error| match error {
                    SendTimeoutError::Timeout(_) => {
                        self.load.refuse();
                        ShardError::Overloaded
                    }
                    SendTimeoutError::Disconnected(_) => ShardError::Closed,
                })
            }
        }
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("commands", &self.commands.len())
            .field("media", &self.media.len())
            .finish_non_exhaustive()
    }
}

/// How a shard is set up.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// Limits of the engine.
    pub relay: Config,
    /// Seed of the engine's random numbers. Default: drawn from the system.
    pub seed: u64,
    /// The name under which our sender reports are sent, at most 255 bytes. Default: 96 random bits (RFC 7022).
    pub cname: String,
    /// Commands that may wait. Default 1 024; 64 bytes each.
    pub command_queue: usize,
    /// Packets, reports and RTCP datagrams that may wait. Default 8 192; ≈ 200 bytes each and their payload.
    pub media_queue: usize,
    /// RTCP datagrams per second that are taken from one listener; as many may come at once. Default 50.
    pub rtcp_rate: u32,
    /// Frames that other shards feed and that may wait. Default 2 048; ≈ 150 bytes each and their payload.
    pub feed_queue: usize,
    /// Send buffer asked of the system, in bytes. Default 4 MiB.
    pub send_buffer_bytes: usize,
    /// How long whoever opens something waits for the thread to answer. Default 2 s.
    pub opened_within: Duration,
    /// How long a track that has come to another shard stays there at least, though nobody listens to it: those it came
    /// for may not have waited, and the next ones have it at once. Default 30 s. Memory: a history.
    pub replica_kept: Duration,
}

impl Default for ShardConfig {
    fn default() -> Self {
        ShardConfig {
            relay: Config::default(),
            seed: rand::random(),
            cname: format!("{:024x}", rand::random::<u128>() >> 32),
            command_queue: 1024,
            media_queue: 8192,
            feed_queue: 2048,
            rtcp_rate: 50,
            send_buffer_bytes: 4 << 20,
            opened_within: Duration::from_secs(2),
            replica_kept: Duration::from_secs(30),
        }
    }
}

/// How a listener's leg is sent to.
#[derive(Debug)]
pub enum Egress {
    /// As SRTP, over UDP.
    Srtp {
        /// Where its packets go.
        destination: SocketAddr,
        /// The keys of its DTLS handshake.
        keys: KeyingMaterial,
    },
    /// Through a ring, to a task that writes them to an ordered transport.
    Ring(RingSender),
}

/// Why a shard did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The engine refused to open it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine refused to switch to it.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The engine refused to have the listener hear that track.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The engine does not know the listener.
    #[error(transparent)]
    Listener(#[from] UnknownListener),
    /// The engine has nothing to replay there.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The shard was shut down.
    #[error("the media plane has been shut down")]
    Closed,
    /// The shard has not taken a command for a second, or has not answered one in time.
    #[error("the media plane does not answer")]
    Overloaded,
}

const COMMAND_PATIENCE: Duration = Duration::from_secs(1);
/// How soon room is looked for again in a queue of media that was full.
const ROOM_AGAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
impl Shard {
    /// Has the thread panic.
    pub(crate) fn fail(&self) {
        self.tell(Command::Fail);
    }

    /// Has the thread take nothing until what comes back is dropped.
    pub(crate) fn stall(&self) -> std::sync::mpsc::Sender<()> {
        let (stalled, until) = std::sync::mpsc::channel();
        self.tell(Command::Stall { until });
        stalled
    }

    /// Commands that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.commands.len()
    }

    /// A shard that takes no command by itself, with room for so many; what it is given comes out in words.
    pub(crate) fn stalled(room: usize) -> (Self, impl Fn() -> Option<String>) {
        let (orders, order_queue) = unbounded();
        let (commands, command_queue) = bounded(room);
        let (media, media_queue) = bounded(1);
        let (inlet, fed) = feed::inlet(1);
        let (load, dropped) = (Arc::default(), Arc::default());
        let opened_within = Duration::from_secs(2);
        let shard = Self { orders, commands, media, inlet, load, dropped, opened_within };
        let queues = Queues { orders: order_queue, commands: command_queue, media: media_queue, fed };
        (shard, move || queues.commands.try_recv().ok().map(|command| format!("{command:?}")))
    }
}

#[cfg(test)]
impl ShardConfig {
    /// For a machine that has much else to do. What nobody listens to goes at once.
    pub(crate) fn patient() -> Self {
        let (opened_within, replica_kept) = (Duration::from_secs(20), Duration::ZERO);
        Self { opened_within, replica_kept, ..Self::default() }
    }
}

#[cfg(test)]
mod tests;
