//! A track's newest frames: a ring by position, and the order in which they arrived.
//!
//! A frame is stored once and read by every listener. The ring runs from the oldest position held to the newest,
//! holes included, so a position is found by subtraction. Beside it an arrival log says which position came as the
//! n-th: pass-through listeners run over arrivals, so what came out of order goes out so.
//!
//! Invariants: the ring's front is never a hole; no position is stored twice (I1 rests on it); frames, duration and
//! payload bytes stay within their limits, except that the newest position always stays (I3). Both rings start
//! empty, grow by doubling to their bound and never beyond, so the steady state allocates nothing.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::config::HistoryLimits;
use crate::io::Frame;
use crate::rtp::{AudioLevel, CaptureTime};
use crate::time::MediaTime;

/// The frames of one track.
#[derive(Debug)]
pub(crate) struct History {
    limits: HistoryLimits,
    /// Positions `oldest ..`, `None` for a hole. Front and back are frames.
    ring: VecDeque<Option<Stored>>,
    /// The position of the front; of the next frame while nothing is held.
    oldest: u64,
    /// The positions of arrivals `first_arrival ..`, in the order they came.
    arrivals: VecDeque<u64>,
    first_arrival: u64,
    frames: usize,
    payload_bytes: usize,
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
            oldest: 0,
            arrivals: VecDeque::new(),
            first_arrival: 0,
            frames: 0,
            payload_bytes: 0,
        }
    }

    /// Stores a frame whose place is [`Place::Hole`] or [`Place::New`] and returns its arrival number.
    pub(crate) fn push(&mut self, frame: Frame<'_>) -> u64 {
        let position = frame.position;
        let arrived = frame.arrived;
        debug_assert!(matches!(self.place(position), Place::Hole | Place::New), "I1: {position} twice");
        if position >= self.end() {
            self.make_room(position);
        }
        self.payload_bytes += frame.payload.len();
        self.frames += 1;
        let index =
            usize::try_from(position - self.oldest).expect("make_room keeps the span within its limit");
        while self.ring.len() <= index {
            self.ring.push_back(None);
        }
        self.ring[index] = Some(Stored::new(&frame));
        self.log(position);
        self.evict(arrived);
        self.next_arrival() - 1
    }

    /// What is known of a position.
    pub(crate) fn place(&self, position: u64) -> Place {
        if position >= self.end() {
            Place::New
        } else if position < self.oldest {
            Place::Gone
        } else if self.get(position).is_some() {
            Place::Taken
        } else {
            Place::Hole
        }
    }

    /// The frame at a position, if it is held.
    pub(crate) fn get(&self, position: u64) -> Option<Frame<'_>> {
        let index = usize::try_from(position.checked_sub(self.oldest)?).ok()?;
        Some(self.ring.get(index)?.as_ref()?.view(position))
    }

    /// The position that came as the `arrival`-th, if its frame is still held.
    pub(crate) fn arrival(&self, arrival: u64) -> Option<u64> {
        let index = usize::try_from(arrival.checked_sub(self.first_arrival)?).ok()?;
        let &position = self.arrivals.get(index)?;
        (position >= self.oldest).then_some(position)
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

    /// One after the newest position held.
    fn end(&self) -> u64 {
        self.oldest + self.ring.len() as u64
    }

    fn span_limit(&self) -> u64 {
        self.limits.frames as u64
    }

    /// Drops what is too old to be held together with `position`, before the ring grows to it.
    fn make_room(&mut self, position: u64) {
        let oldest = (position + 1).saturating_sub(self.span_limit());
        while self.oldest < oldest && !self.ring.is_empty() {
            self.drop_oldest();
        }
        if self.ring.is_empty() {
            self.oldest = position;
        }
    }

    fn evict(&mut self, now: Instant) {
        while self.ring.len() > 1 && self.over_limit(now) {
            self.drop_oldest();
        }
    }

    fn over_limit(&self, now: Instant) -> bool {
        let oldest = self.ring.front().and_then(Option::as_ref).expect("the front is never a hole");
        self.payload_bytes > self.limits.payload_bytes
            || now.saturating_duration_since(oldest.arrived) > self.limits.duration
    }

    /// Drops the oldest frame and the holes after it.
    fn drop_oldest(&mut self) {
        if let Some(frame) = self.ring.pop_front().flatten() {
            self.frames -= 1;
            self.payload_bytes -= frame.payload.len();
        }
        self.oldest += 1;
        while let Some(None) = self.ring.front() {
            self.ring.pop_front();
            self.oldest += 1;
        }
    }

    fn log(&mut self, position: u64) {
        // I3. What is popped is gone from the ring, or is the oldest of more arrivals than the ring has places.
        while self.arrivals.len() >= self.limits.frames
            || self.arrivals.front().is_some_and(|&oldest| oldest < self.oldest)
        {
            self.arrivals.pop_front();
            self.first_arrival += 1;
        }
        self.arrivals.push_back(position);
    }
}

/// A frame as it is stored.
#[derive(Debug)]
struct Stored {
    media_time: MediaTime,
    arrived: Instant,
    marker: bool,
    capture_time: Option<CaptureTime>,
    audio_level: Option<AudioLevel>,
    payload: Bytes,
}

impl Stored {
    fn new(frame: &Frame<'_>) -> Self {
        Self {
            media_time: frame.media_time,
            arrived: frame.arrived,
            marker: frame.marker,
            capture_time: frame.capture_time,
            audio_level: frame.audio_level,
            payload: Bytes::copy_from_slice(frame.payload),
        }
    }

    fn view(&self, position: u64) -> Frame<'_> {
        Frame {
            position,
            media_time: self.media_time,
            arrived: self.arrived,
            marker: self.marker,
            capture_time: self.capture_time,
            audio_level: self.audio_level,
            payload: &self.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::Config;
    use crate::time::tests::origin;

    fn frame(position: u64, arrived: Instant, bytes: usize) -> Frame<'static> {
        Frame {
            position,
            media_time: MediaTime::from_ticks(position * 960),
            arrived,
            marker: false,
            capture_time: None,
            audio_level: None,
            payload: &[0; 1_000][..bytes],
        }
    }

    fn filled(config: Config, positions: impl IntoIterator<Item = u64>) -> History {
        let mut history = History::new(config.history);
        let start = origin();
        for position in positions {
            history.push(frame(position, start, 10));
        }
        history
    }

    fn held(history: &History) -> Vec<u64> {
        (0..100_000).filter(|&position| history.get(position).is_some()).collect()
    }

    #[test]
    fn an_empty_history_has_nothing_and_room_for_all() {
        let history = History::new(Config::new().history);
        assert_eq!(history.oldest(), None);
        assert_eq!(history.get(0), None);
        assert_eq!(history.arrival(0), None);
        assert_eq!(history.place(0), Place::New);
        assert_eq!(history.next_arrival(), 0);
    }

    #[test]
    fn it_knows_frames_holes_and_what_is_gone() {
        let history = filled(Config::new().history_frames(4), [0, 1, 2, 3, 4, 7]);
        assert_eq!(held(&history), [4, 7]);
        assert_eq!(history.oldest(), Some(4));
        let places: Vec<_> = [3, 4, 5, 6, 7, 8].into_iter().map(|position| history.place(position)).collect();
        assert_eq!(places, [Place::Gone, Place::Taken, Place::Hole, Place::Hole, Place::Taken, Place::New]);
    }

    #[test]
    fn arrivals_are_in_the_order_they_came() {
        let history = filled(Config::new(), [0, 3, 1, 2]);
        let order: Vec<_> = (0..5).map(|arrival| history.arrival(arrival)).collect();
        assert_eq!(order, [Some(0), Some(3), Some(1), Some(2), None]);
    }

    #[test]
    fn an_arrival_whose_frame_is_gone_cannot_be_read() {
        let mut history = History::new(Config::new().history_payload_bytes(30).history);
        let start = origin();
        for position in [0, 2, 1, 3, 4] {
            history.push(frame(position, start, 10));
        }
        assert_eq!(history.oldest(), Some(2));
        let order: Vec<_> = (0..6).map(|arrival| history.arrival(arrival)).collect();
        assert_eq!(order, [None, Some(2), None, Some(3), Some(4), None], "1 came after 2 and left before it");
    }

    #[test]
    fn the_arrival_log_is_no_longer_than_the_ring() {
        let history = filled(Config::new().history_frames(3), [0, 2, 1, 3, 4]);
        assert_eq!(history.first_arrival(), 3, "2 is held, but from before the last three arrivals");
        assert_eq!(history.get(2).map(|frame| frame.position), Some(2));
    }

    #[test]
    fn a_step_past_the_whole_span_leaves_only_the_newest() {
        let history = filled(Config::new().history_frames(10), [0, 1, 2, 50_000]);
        assert_eq!(held(&history), [50_000]);
        assert_eq!((history.frames(), history.payload_bytes()), (1, 10));
        assert_eq!(history.place(49_999), Place::Gone);
    }

    #[test]
    fn one_frame_is_enough() {
        let history = filled(Config::new().history_frames(1), 0..10);
        assert_eq!(held(&history), [9]);
        assert_eq!(history.arrival(9), Some(9));
        assert_eq!(history.first_arrival(), 9);
    }

    #[test]
    fn payload_bytes_are_bounded_and_the_newest_stays() {
        let mut history = History::new(Config::new().history_payload_bytes(100).history);
        let start = origin();
        for position in 0..20 {
            history.push(frame(position, start, 30));
            assert!(history.payload_bytes() <= 100);
        }
        assert_eq!(history.frames(), 3);
        history.push(frame(20, start, 1_000));
        assert_eq!(held(&history), [20]);
    }

    #[test]
    fn frames_leave_with_age() {
        let mut history = History::new(Config::new().history_duration(Duration::from_millis(100)).history);
        let start = origin();
        for position in 0..20 {
            history.push(frame(position, start + Duration::from_millis(20 * position), 1));
        }
        assert_eq!(held(&history), [14, 15, 16, 17, 18, 19]);
        history.push(frame(20, start + Duration::from_secs(3_600), 1));
        assert_eq!(held(&history), [20]);
    }

    #[test]
    fn a_position_costs_what_the_config_says() {
        assert!(size_of::<Option<Stored>>() + size_of::<u64>() <= 128);
    }

    #[test]
    fn an_unused_history_owns_no_memory() {
        let history = History::new(Config::new().history);
        assert_eq!(history.ring.capacity() + history.arrivals.capacity(), 0);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map(steps in prop::collection::vec((0_u64..12, 0_usize..40), 1..300), frames in 1_usize..20) {
            let limits = Config::new().history_frames(frames).history_payload_bytes(200).history;
            let mut history = History::new(limits);
            let mut model = std::collections::BTreeMap::new();
            let (start, mut newest) = (origin(), 0);
            let mut arrivals = 0;
            for (offset, bytes) in steps {
                // Around the newest: behind, at, or ahead of it.
                let position = (newest + offset).saturating_sub(5);
                let place = history.place(position);
                prop_assert_eq!(place == Place::Taken, model.contains_key(&position));
                if !matches!(place, Place::New | Place::Hole) {
                    continue;
                }
                prop_assert_eq!(history.push(frame(position, start, bytes)), arrivals);
                arrivals += 1;
                model.insert(position, bytes);
                newest = newest.max(position);
                model.retain(|&at, _| at + frames as u64 > newest);
                while model.len() > 1 && model.values().sum::<usize>() > 200 {
                    model.pop_first();
                }
                prop_assert_eq!(held_near(&history, newest), model.keys().copied().collect::<Vec<_>>());
                prop_assert_eq!(history.frames(), model.len());
                prop_assert_eq!(history.payload_bytes(), model.values().sum::<usize>());
                prop_assert!(history.arrivals.len() <= frames && history.ring.len() <= frames);
                prop_assert!(history.oldest() == model.keys().next().copied());
            }
        }
    }

    fn held_near(history: &History, newest: u64) -> Vec<u64> {
        (newest.saturating_sub(100)..=newest).filter(|&position| history.get(position).is_some()).collect()
    }
}
