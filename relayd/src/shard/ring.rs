//! The way of one listener's frames from the media thread to a task that writes them to an ordered transport.
//!
//! The sender lives on the media thread and neither waits nor allocates once the ring has been full: frames go through
//! a bounded queue, and the buffers that hold their payloads come back through another. A frame that finds the queue
//! full is not taken; the leg is then stalled, and the engine keeps its place in the history until the receiver has
//! drained the queue to half.
//!
//! Invariants: positions come out strictly increasing for as long as the listener hears one track, whatever is replayed
//! (L2); a stall that has ended is always told (I4).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use relay_engine::{AudioLevel, CaptureTime, LegId, OutboundPacket};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::command::Order;

/// A ring of at most `capacity` frames (at least 2): 96 bytes each and, once used, the longest payload that it held.
///
/// The sender goes to the shard with [`Egress::Ring`](super::Egress::Ring).
pub fn ring(capacity: usize) -> (RingSender, RingReceiver) {
    let capacity = capacity.max(2);
    let (frames, queue) = mpsc::channel(capacity);
    let (spare_in, spare_out) = crossbeam_channel::bounded(capacity);
    let shared = Arc::new(Shared::default());
    let sender = RingSender {
        frames,
        spare: spare_out,
        shared: Arc::clone(&shared),
        line: 0,
        pushed: None,
        refused: None,
    };
    (sender, RingReceiver { queue, spare: spare_in, shared, half: capacity / 2 })
}

/// One frame for a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingFrame {
    /// Its number on the track.
    pub position: u64,
    /// When it plays: 48 kHz ticks from the track's start.
    pub media_time: u64,
    /// First of a talk spurt.
    pub marker: bool,
    /// When it was captured, if the publisher said so.
    pub capture_time: Option<CaptureTime>,
    /// How loud it is, if the publisher said so.
    pub audio_level: Option<AudioLevel>,
    /// The listener was sent it before, on this leg or another.
    pub replay: bool,
    /// The Opus packet.
    pub payload: Bytes,
}

/// The media thread's end of a [`ring`].
#[derive(Debug)]
pub struct RingSender {
    frames: mpsc::Sender<Slot>,
    /// Buffers that the receiver has emptied.
    spare: Receiver<Vec<u8>>,
    shared: Arc<Shared>,
    /// The line of the last frame: another track counts anew.
    line: u64,
    /// The highest position taken on this line.
    pushed: Option<u64>,
    /// The first position on this line that found no room since the last stall ended.
    refused: Option<u64>,
}

/// The listener's end of a [`ring`].
#[derive(Debug)]
pub struct RingReceiver {
    queue: mpsc::Receiver<Slot>,
    spare: Sender<Vec<u8>>,
    shared: Arc<Shared>,
    half: usize,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is in the ring.
    Taken,
    /// The ring has or had it.
    Known,
    /// There is no room for it: the leg is stalled.
    Full,
    /// Nobody reads any more.
    Closed,
}

/// What both ends know.
#[derive(Debug, Default)]
struct Shared {
    stalled: AtomicBool,
    wake: OnceLock<Wake>,
}

/// Whom to tell when a stall has ended.
#[derive(Debug)]
struct Wake {
    orders: Sender<Order>,
    leg: LegId,
}

/// A frame in the queue.
#[derive(Debug)]
struct Slot {
    position: u64,
    media_time: u64,
    marker: bool,
    capture_time: Option<CaptureTime>,
    audio_level: Option<AudioLevel>,
    replay: bool,
    payload: Vec<u8>,
}

impl RingSender {
    /// Whom to tell when a stall has ended. The first call counts.
    pub(super) fn wake(&self, orders: &Sender<Order>, leg: LegId) {
        self.shared.wake.get_or_init(|| Wake { orders: orders.clone(), leg });
    }

    /// Takes a frame. What the ring had before is not taken again, so that a replay may begin anywhere.
    pub(super) fn push(&mut self, packet: &OutboundPacket<'_>) -> Pushed {
        let frame = &packet.frame;
        if packet.line != self.line {
            if packet.line < self.line {
                // From before the listener heard another track or paused.
                return Pushed::Known;
            }
            (self.line, self.pushed, self.refused) = (packet.line, None, None);
        }
        if self.pushed.is_some_and(|pushed| frame.position <= pushed) {
            return Pushed::Known;
        }
        let permit = match self.frames.try_reserve() {
            Ok(permit) => permit,
            Err(TrySendError::Full(())) => {
                self.refused.get_or_insert(frame.position);
                return self.stall();
            }
            Err(TrySendError::Closed(())) => return Pushed::Closed,
        };
        let mut payload = self.spare.try_recv().unwrap_or_default();
        payload.extend_from_slice(frame.payload);
        permit.send(Slot {
            position: frame.position,
            media_time: frame.media_time.ticks(),
            marker: frame.marker,
            capture_time: frame.capture_time,
            audio_level: frame.audio_level,
            replay: packet.replay,
            payload,
        });
        self.pushed = Some(frame.position);
        Pushed::Taken
    }

    /// Frames that wait.
    pub(super) fn len(&self) -> usize {
        self.frames.max_capacity() - self.frames.capacity()
    }

    /// The stall has ended: the position from which on frames found no room.
    pub(super) fn take_refused(&mut self) -> Option<u64> {
        self.refused.take()
    }

    fn stall(&self) -> Pushed {
        self.shared.stalled.store(true, Ordering::SeqCst);
        // The receiver may have drained it all before it could see that.
        self.shared.drained(self.len(), self.frames.max_capacity() / 2);
        Pushed::Full
    }
}

impl RingReceiver {
    /// The next frame; `None` when the leg is closed and all is received.
    pub async fn recv(&mut self) -> Option<RingFrame> {
        let slot = self.queue.recv().await?;
        Some(self.take(slot))
    }

    /// The next frame, if one waits.
    pub fn try_recv(&mut self) -> Option<RingFrame> {
        let slot = self.queue.try_recv().ok()?;
        Some(self.take(slot))
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// No frame waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn take(&self, slot: Slot) -> RingFrame {
        let Slot { position, media_time, marker, capture_time, audio_level, replay, mut payload } = slot;
        let frame = RingFrame {
            position,
            media_time,
            marker,
            capture_time,
            audio_level,
            replay,
            payload: Bytes::copy_from_slice(&payload),
        };
        payload.clear();
        // While the last place is being filled there may be one buffer more than places.
        drop(self.spare.try_send(payload));
        self.shared.drained(self.queue.len(), self.half);
        frame
    }
}

impl Shared {
    /// Tells the end of a stall, once, if the queue is short enough.
    fn drained(&self, waiting: usize, half: usize) {
        if waiting <= half
            && self.stalled.load(Ordering::SeqCst)
            && self.stalled.swap(false, Ordering::SeqCst)
            && let Some(Wake { orders, leg }) = self.wake.get()
        {
            // A shard that has ended has nothing left to be told.
            drop(orders.send(Order::Drained { leg: *leg }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use relay_engine::{
        Config, Epoch, ExtensionIds, Frame, LegSpec, ListenerId, MediaTime, Relay, TrackSpec,
    };

    use super::*;

    struct Feed {
        leg: (ListenerId, LegId),
        now: Instant,
        extensions: ExtensionIds,
    }

    impl Feed {
        fn new() -> Self {
            let now = Instant::now();
            let mut relay = Relay::new(Config::new(), Epoch { instant: now, wall: SystemTime::now() }, 1);
            let track = relay.open_track(now, TrackSpec { name: "en".to_owned() }).unwrap();
            let leg = relay.open_listener(now, track, LegSpec::new(96)).unwrap();
            Feed { leg, now, extensions: ExtensionIds::default() }
        }

        fn push(&self, ring: &mut RingSender, line: u64, position: u64) -> Pushed {
            ring.push(&OutboundPacket {
                listener: self.leg.0,
                leg: self.leg.1,
                ssrc: 1,
                payload_type: 96,
                index: position,
                line,
                timestamp: 0,
                frame: Frame {
                    position,
                    media_time: MediaTime::from_ticks(position * 960),
                    arrived: self.now,
                    marker: position == 0,
                    capture_time: None,
                    audio_level: Some(AudioLevel { voice: true, level: 9 }),
                    payload: &position.to_be_bytes()[..1 + position as usize % 8],
                },
                replay: false,
                extensions: &self.extensions,
            })
        }
    }

    fn positions(receiver: &mut RingReceiver) -> Vec<u64> {
        std::iter::from_fn(|| receiver.try_recv().map(|frame| frame.position)).collect()
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let (feed, (mut sender, mut receiver)) = (Feed::new(), ring(8));
        for round in 0..100 {
            assert_eq!(feed.push(&mut sender, 0, round), Pushed::Taken);
            let frame = receiver.try_recv().unwrap();
            assert_eq!((frame.position, frame.media_time, frame.marker), (round, round * 960, round == 0));
            assert_eq!(frame.payload, round.to_be_bytes()[..1 + round as usize % 8]);
            assert_eq!(frame.audio_level, Some(AudioLevel { voice: true, level: 9 }));
        }
    }

    #[test]
    fn what_the_ring_had_is_not_taken_again_and_another_line_begins_anew() {
        let (feed, (mut sender, mut receiver)) = (Feed::new(), ring(8));
        let pushed: Vec<_> = [5, 6, 5, 6, 4, 7].map(|position| feed.push(&mut sender, 3, position)).into();
        let (taken, known) = (Pushed::Taken, Pushed::Known);
        assert_eq!(pushed, [taken, taken, known, known, known, taken]);
        assert_eq!(feed.push(&mut sender, 4, 1), taken);
        assert_eq!(feed.push(&mut sender, 3, 8), known, "replayed from before");
        assert_eq!(positions(&mut receiver), [5, 6, 7, 1]);
    }

    #[test]
    fn a_stall_ends_once_when_half_is_received() {
        let (feed, (mut sender, mut receiver)) = (Feed::new(), ring(4));
        let (orders, told) = crossbeam_channel::unbounded();
        sender.wake(&orders, feed.leg.1);
        for round in 0..10 {
            let base = round * 4;
            for position in 0..4 {
                assert_eq!(feed.push(&mut sender, 0, base + position), Pushed::Taken);
            }
            assert_eq!(feed.push(&mut sender, 0, base + 4), Pushed::Full);
            assert_eq!(sender.take_refused(), Some(base + 4));
            assert_eq!(sender.take_refused(), None);
            receiver.try_recv().unwrap();
            assert!(told.is_empty(), "three wait");
            receiver.try_recv().unwrap();
            assert!(matches!(told.try_recv(), Ok(Order::Drained { leg }) if leg == feed.leg.1));
            assert_eq!(positions(&mut receiver).len(), 2);
            assert!(told.is_empty(), "once");
        }
    }

    #[test]
    fn an_end_that_is_gone_is_seen_by_the_other() {
        let (feed, (mut sender, mut receiver)) = (Feed::new(), ring(4));
        feed.push(&mut sender, 0, 0);
        drop(sender);
        assert_eq!(positions(&mut receiver), [0]);
        assert!(receiver.queue.is_closed());
        let (mut sender, receiver) = ring(4);
        drop(receiver);
        assert_eq!(feed.push(&mut sender, 0, 0), Pushed::Closed);
    }

    #[test]
    fn buffers_are_used_again() {
        let (feed, (mut sender, mut receiver)) = (Feed::new(), ring(4));
        for position in 0..4 {
            feed.push(&mut sender, 0, position);
        }
        positions(&mut receiver);
        for position in 4..1_000 {
            assert_eq!(sender.spare.len(), 4, "no buffer was let go");
            feed.push(&mut sender, 0, position);
            assert_eq!(sender.spare.len(), 3, "none was made");
            receiver.try_recv().unwrap();
        }
    }
}
