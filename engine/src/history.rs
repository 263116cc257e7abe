//! A track's newest frames: a ring by position, and the order in which they arrived.
//!
//! A frame is stored once and read by every listener. The ring runs from the oldest position held to the newest,
//! holes included, so a position is found by subtraction. Beside it an arrival log says which position came as the
//! n-th: pass-through listeners run over arrivals, so what came out of order goes out so. Payloads lie in an arena.
//!
//! Memory: 36 bytes for each position, 32 in the ring and 4 in the log; both grow by a sixteenth at a time, up to the
//! limit and never beyond, which is twice as long for the log: it grows past the ring only if frames come far out of
//! order. Payloads: their bytes, the arena's chunks that are partly empty, and 8 bytes for each capture offset. 30 s of
//! 20 ms frames cost less than 64 KiB beside their payloads. Nothing is allocated for a frame once the history is as
//! long as it gets.
//!
//! Invariants: the ring's front is never a hole; what is held is in the log; no position is stored twice (I1 rests on
//! it); frames, duration and payload bytes stay within their limits, except that the newest position always stays (I3).

mod arena;
mod lost;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::arena::{Address, Arena};
use self::lost::Lost;
use crate::config::HistoryLimits;
use crate::frame::Frame;
use crate::rtp::{AudioLevel, CaptureTime, NtpTime};
use crate::time::MediaTime;

/// The frames of one track.
#[derive(Debug)]
pub(crate) struct History {
    limits: HistoryLimits,
    /// Positions `oldest ..`, with holes. Front and back are frames.
    ring: VecDeque<Entry>,
    payloads: Arena,
    /// What arrival times are counted from: that of the first frame.
    origin: Option<Instant>,
    /// The position of the front; of the next frame while nothing is held.
    oldest: u64,
    /// The low halves of the positions of arrivals `first_arrival ..`, in the order they came.
    arrivals: VecDeque<u32>,
    first_arrival: u64,
    frames: usize,
    payload_bytes: usize,
    /// Holes that it went past.
    pub(crate) lost: Lost,
}

/// What the history says of a position before a frame is pushed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At or before the newest, and not held: a late frame may fill it.
    Hole,
    /// After the newest.
    New,
    /// Held already.
    Taken,
    /// Before the oldest: gone, or never came.
    Gone,
}

impl History {
    pub(crate) const fn new(limits: HistoryLimits) -> Self {
        Self {
            limits,
            ring: VecDeque::new(),
            payloads: Arena::new(limits.payload_bytes, limits.largest_payload + OFFSET_BYTES),
            origin: None,
            oldest: 0,
            arrivals: VecDeque::new(),
            first_arrival: 0,
            frames: 0,
            payload_bytes: 0,
            lost: Lost::new(),
        }
    }

    /// Stores a frame whose place is [`Place::Hole`] or [`Place::New`] and returns its arrival number.
    ///
    /// A late one may be so old that it leaves at once, to keep the payloads within their limit.
    pub(crate) fn push(&mut self, frame: Frame<'_>) -> u64 {
        let position = frame.position;
        debug_assert!(matches!(self.place(position), Place::Hole | Place::New), "I1: {position} twice");
        if position >= self.end() {
            self.make_room(position);
        }
        if let Some(address) = self.store(&frame) {
            let index =
                usize::try_from(position - self.oldest).expect("make_room keeps the span within its limit");
            reserve(&mut self.ring, index + 1, self.limits.frames);
            while self.ring.len() <= index {
                self.ring.push_back(Entry::HOLE);
            }
            let since_origin = self.since_origin(frame.arrived);
            self.ring[index] = Entry::new(&frame, address, since_origin);
            self.payload_bytes += frame.payload.len();
            self.frames += 1;
        }
        self.log(position);
        self.evict(frame.arrived);
        self.next_arrival() - 1
    }

    /// Stores what is long of a frame. `None` if the frame is older than what has to go for it.
    fn store(&mut self, frame: &Frame<'_>) -> Option<Address> {
        debug_assert!(frame.payload.len() <= self.limits.largest_payload, "longer than the limit");
        let offset = frame.capture_time.and_then(|capture| capture.offset).map(i64::to_be_bytes);
        let offset = offset.as_ref().map_or(&[][..], <[u8; OFFSET_BYTES]>::as_slice);
        loop {
            if let Some(address) = self.payloads.store(frame.payload, offset) {
                return Some(address);
            }
            if self.ring.is_empty() {
                return None;
            }
            self.drop_oldest();
            if self.ring.is_empty() && frame.position >= self.oldest {
                self.begin_at(frame.position);
            } else if frame.position < self.oldest {
                return None;
            }
        }
    }

    fn since_origin(&mut self, arrived: Instant) -> SinceOrigin {
        let origin = *self.origin.get_or_insert(arrived);
        let since = arrived.saturating_duration_since(origin);
        // 136 years.
        SinceOrigin { secs: u32::try_from(since.as_secs()).unwrap_or(u32::MAX), nanos: since.subsec_nanos() }
    }

    /// What is known of a position.
    pub(crate) fn place(&self, position: u64) -> Place {
        if position >= self.end() {
            Place::New
        } else if position < self.oldest {
            Place::Gone
        } else if self.entry(position).is_some() {
            Place::Taken
        } else {
            Place::Hole
        }
    }

    /// The frame at a position, if it is held.
    #[inline]
    pub(crate) fn get(&self, position: u64) -> Option<Frame<'_>> {
        let entry = self.entry(position)?;
        let length = entry.payload_bytes as usize;
        let offset = entry.has(CAPTURE_OFFSET).then(|| {
            let stored = self.payloads.get(entry.address, length + OFFSET_BYTES);
            i64::from_be_bytes(stored[length..].try_into().expect("a range of that length"))
        });
        Some(Frame {
            position,
            media_time: MediaTime::from_ticks(entry.media_ticks),
            arrived: self.origin? + entry.arrived.duration(),
            marker: entry.has(MARKER),
            capture_time: entry
                .has(CAPTURE_TIME)
                .then_some(CaptureTime { time: NtpTime(entry.capture_time), offset }),
            audio_level: entry
                .has(AUDIO_LEVEL)
                .then_some(AudioLevel { voice: entry.level & VOICE != 0, level: entry.level & !VOICE }),
            payload: self.payloads.get(entry.address, length),
        })
    }

    /// Says whether the frame at a position is held.
    pub(crate) fn holds(&self, position: u64) -> bool {
        self.entry(position).is_some()
    }

    /// The first position held, from `position` on.
    pub(crate) fn next_held(&self, position: u64) -> Option<u64> {
        (position.max(self.oldest)..self.end()).find(|&position| self.holds(position))
    }

    /// The position that came as the `arrival`-th, if its frame is still held.
    #[inline]
    pub(crate) fn arrival(&self, arrival: u64) -> Option<u64> {
        let index = usize::try_from(arrival.checked_sub(self.first_arrival)?).ok()?;
        let &low = self.arrivals.get(index)?;
        let position = self.whole(low);
        (position >= self.oldest).then_some(position)
    }

    /// The same, whether its frame is still held or not, as long as the log has it.
    pub(crate) fn position_of(&self, arrival: u64) -> Option<u64> {
        let index = usize::try_from(arrival.checked_sub(self.first_arrival)?).ok()?;
        self.arrivals.get(index).map(|&low| self.whole(low))
    }

    /// The oldest arrival that may still be read.
    pub(crate) const fn first_arrival(&self) -> u64 {
        self.first_arrival
    }

    /// The number that the next arrival will have.
    pub(crate) fn next_arrival(&self) -> u64 {
        self.first_arrival + self.arrivals.len() as u64
    }

    /// The oldest position held.
    pub(crate) fn oldest(&self) -> Option<u64> {
        (!self.ring.is_empty()).then_some(self.oldest)
    }

    /// Frames held.
    pub(crate) const fn frames(&self) -> usize {
        self.frames
    }

    /// Payload bytes held.
    pub(crate) const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Memory in bytes, payloads included, free or not.
    #[cfg(test)]
    fn memory(&self) -> usize {
        self.ring.capacity() * size_of::<Entry>()
            + self.arrivals.capacity() * size_of::<u32>()
            + self.payloads.memory()
    }

    fn entry(&self, position: u64) -> Option<&Entry> {
        let index = usize::try_from(position.checked_sub(self.oldest)?).ok()?;
        self.ring.get(index).filter(|entry| entry.has(HELD))
    }

    /// The position of a log entry: the newest one with these low bits that is not after the newest held. What is
    /// logged is fewer than 2^32 positions behind that.
    fn whole(&self, low: u32) -> u64 {
        let newest = self.end().saturating_sub(1);
        newest.saturating_sub(u64::from((newest as u32).wrapping_sub(low)))
    }

    /// One after the newest position held.
    pub(crate) fn end(&self) -> u64 {
        self.oldest + self.ring.len() as u64
    }

    /// How many positions it spans at most.
    pub(crate) const fn span_limit(&self) -> u64 {
        self.limits.frames as u64
    }

    /// Drops what is too old to be held together with `position`, before the ring grows to it.
    fn make_room(&mut self, position: u64) {
        let oldest = (position + 1).saturating_sub(self.span_limit());
        while self.oldest < oldest && !self.ring.is_empty() {
            self.drop_oldest();
        }
        if self.ring.is_empty() {
            self.begin_at(position);
        }
    }

    /// The ring is empty, and its next frame is at `position`.
    fn begin_at(&mut self, position: u64) {
        // A track begins where it begins.
        if self.next_arrival() > 0 {
            self.lost.add(self.oldest, position);
        }
        // Nothing that is logged is held any more, and the log may be too narrow for such a step.
        self.first_arrival = self.next_arrival();
        self.arrivals.clear();
        self.oldest = position;
    }

    fn evict(&mut self, now: Instant) {
        while self.ring.len() > 1 && self.over_limit(now) {
            self.drop_oldest();
        }
    }

    fn over_limit(&self, now: Instant) -> bool {
        let oldest = self.ring.front().expect("only a ring with frames is over its limit");
        let arrived = self.origin.map_or(now, |origin| origin + oldest.arrived.duration());
        self.payload_bytes > self.limits.payload_bytes
            || now.saturating_duration_since(arrived) > self.limits.duration
    }

    /// Drops the oldest frame and the holes after it.
    fn drop_oldest(&mut self) {
        if let Some(entry) = self.ring.pop_front().filter(|entry| entry.has(HELD)) {
            self.frames -= 1;
            self.payload_bytes -= entry.payload_bytes as usize;
            self.payloads.release(entry.address);
        }
        self.oldest += 1;
        let hole = self.oldest;
        while self.ring.front().is_some_and(|entry| !entry.has(HELD)) {
            self.ring.pop_front();
            self.oldest += 1;
        }
        self.lost.add(hole, self.oldest);
    }

    fn log(&mut self, position: u64) {
        // I3. Only what is gone from the ring is popped: while a frame is held, no more positions than the ring has
        // places before it and after it can arrive. Of what is gone, some are kept: who was away may count them.
        let (kept, limit) = (self.ring.len() + GONE_ARRIVALS, self.limits.frames * 2);
        let is_gone = |log: &Self| log.arrivals.front().is_some_and(|&oldest| log.whole(oldest) < log.oldest);
        while self.arrivals.len() >= limit || self.arrivals.len() >= kept && is_gone(self) {
            self.arrivals.pop_front();
            self.first_arrival += 1;
        }
        let length = self.arrivals.len() + 1;
        reserve(&mut self.arrivals, length, limit);
        self.arrivals.push_back(position as u32);
    }
}

/// A position of the ring: what is short of its frame, or a hole.
#[derive(Clone, Copy, Debug)]
struct Entry {
    media_ticks: u64,
    arrived: SinceOrigin,
    capture_time: u64,
    address: Address,
    payload_bytes: u16,
    flags: u8,
    level: u8,
}

impl Entry {
    const HOLE: Self = Self {
        media_ticks: 0,
        arrived: SinceOrigin { secs: 0, nanos: 0 },
        capture_time: 0,
        address: Address::NOWHERE,
        payload_bytes: 0,
        flags: 0,
        level: 0,
    };

    fn new(frame: &Frame<'_>, address: Address, arrived: SinceOrigin) -> Self {
        let capture = frame.capture_time;
        let flag = |set, flag| if set { flag } else { 0 };
        Self {
            media_ticks: frame.media_time.ticks(),
            arrived,
            capture_time: capture.map_or(0, |capture| capture.time.0),
            address,
            payload_bytes: u16::try_from(frame.payload.len()).expect("no limit allows more"),
            flags: HELD
                | flag(frame.marker, MARKER)
                | flag(capture.is_some(), CAPTURE_TIME)
                | flag(capture.is_some_and(|capture| capture.offset.is_some()), CAPTURE_OFFSET)
                | flag(frame.audio_level.is_some(), AUDIO_LEVEL),
            // RFC 6464: seven bits.
            level: frame.audio_level.map_or(0, |level| level.level.min(!VOICE) | flag(level.voice, VOICE)),
        }
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A time from the history's origin on. Halves, because a sum of nanoseconds is divided each time that a frame is read.
#[derive(Clone, Copy, Debug)]
struct SinceOrigin {
    secs: u32,
    /// Below 10^9.
    nanos: u32,
}

impl SinceOrigin {
    const fn duration(self) -> Duration {
        Duration::new(self.secs as u64, self.nanos)
    }
}

/// Makes room for `length` places, in steps that keep what is spare small, up to `limit`.
fn reserve<T>(ring: &mut VecDeque<T>, length: usize, limit: usize) {
    if length > ring.capacity() {
        let roomy = (length + length / 16 + 32).min(limit).max(length);
        ring.reserve_exact(roomy - ring.len());
    }
}

const HELD: u8 = 1;
const MARKER: u8 = 2;
const CAPTURE_TIME: u8 = 4;
const CAPTURE_OFFSET: u8 = 8;
const AUDIO_LEVEL: u8 = 16;
/// Of the level byte.
const VOICE: u8 = 0x80;
/// Arrivals whose frames are gone that the log has room for.
const GONE_ARRIVALS: usize = 64;
/// A capture offset is stored behind the payload: few frames have one.
const OFFSET_BYTES: usize = 8;

#[cfg(test)]
mod tests;
