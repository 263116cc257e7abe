//! What a leg's far end asked for again, and what it was sent lately: a NACK is answered from the history.
//!
//! Answers keep to the leg's pace. A packet is answered at most once in about a round trip, since one that was asked
//! for again sooner is on its way. Memory: below 2 KiB for a leg that ever sent a NACK, none for others (I3).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One leg's repairs.
#[derive(Debug)]
pub(crate) struct Repair {
    /// Asked for and not yet sent, in the order of asking.
    asked: VecDeque<u64>,
    /// Sent, and when: oldest first.
    sent: VecDeque<(u64, Instant)>,
}

impl Repair {
    pub(crate) fn new() -> Self {
        Self { asked: VecDeque::with_capacity(MAX_ASKED), sent: VecDeque::with_capacity(MAX_SENT) }
    }

    /// Takes note that a position is asked for. More than there is room for are not: they will be asked for again.
    pub(crate) fn ask(&mut self, now: Instant, position: u64, round_trip: Option<Duration>) {
        let pause = round_trip.unwrap_or(USUAL_PAUSE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        while self.sent.front().is_some_and(|&(_, at)| now.saturating_duration_since(at) >= LONGEST_PAUSE) {
            self.sent.pop_front();
        }
        let lately =
            |&(sent, at): &(u64, Instant)| sent == position && now.saturating_duration_since(at) < pause;
        let refused = self.asked.len() >= MAX_ASKED
            || self.sent.len() >= MAX_SENT
            || self.asked.contains(&position)
            || self.sent.iter().any(lately);
        if !refused {
            self.asked.push_back(position);
        }
    }

    /// What is to be sent next.
    pub(crate) fn first(&self) -> Option<u64> {
        self.asked.front().copied()
    }

    /// Takes out what is to be sent next, because it is sent.
    pub(crate) fn sent(&mut self, now: Instant) {
        if let Some(position) = self.asked.pop_front() {
            if self.sent.len() >= MAX_SENT {
                self.sent.pop_front();
            }
            self.sent.push_back((position, now));
        }
    }

    /// Takes out what was to be sent next, because it cannot be.
    pub(crate) fn give_up(&mut self) {
        self.asked.pop_front();
    }

    /// Forgets what was asked for: it is not wanted any more.
    pub(crate) fn clear(&mut self) {
        self.asked.clear();
    }
}

/// Three generic NACK entries in full.
const MAX_ASKED: usize = 51;
const MAX_SENT: usize = 64;
/// What all of it costs, bytes.
#[cfg(test)]
pub(super) const MEMORY: usize =
    size_of::<Repair>() + MAX_ASKED * size_of::<u64>() + MAX_SENT * size_of::<(u64, Instant)>();
/// Between two answers to the same question, when no round trip is known.
const USUAL_PAUSE: Duration = Duration::from_millis(100);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::tests::origin;

    fn drain(repair: &mut Repair, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| {
            let position = repair.first();
            repair.sent(now);
            position
        })
        .collect()
    }

    #[test]
    fn a_packet_is_sent_once_in_a_round_trip() {
        let start = origin();
        let mut repair = Repair::new();
        for position in [7, 9, 7] {
            repair.ask(start, position, Some(Duration::from_millis(60)));
        }
        assert_eq!(drain(&mut repair, start), [7, 9]);
        repair.ask(start + Duration::from_millis(59), 7, Some(Duration::from_millis(60)));
        assert_eq!(repair.first(), None);
        repair.ask(start + Duration::from_millis(60), 7, Some(Duration::from_millis(60)));
        assert_eq!(repair.first(), Some(7));
    }

    #[test]
    fn an_absurd_round_trip_is_clamped() {
        let start = origin();
        let mut repair = Repair::new();
        repair.ask(start, 1, None);
        assert_eq!(drain(&mut repair, start), [1]);
        repair.ask(start + Duration::from_millis(19), 1, Some(Duration::ZERO));
        assert_eq!(repair.first(), None);
        repair.ask(start + Duration::from_millis(501), 1, Some(Duration::from_secs(9_000)));
        assert_eq!(repair.first(), Some(1));
    }

    #[test]
    fn both_lists_are_bounded() {
        let start = origin();
        let mut repair = Repair::new();
        for round in 0..10 {
            for position in 0..1_000 {
                repair.ask(start, round * 1_000 + position, None);
            }
            assert!(repair.asked.len() <= MAX_ASKED);
            drain(&mut repair, start);
            assert!(repair.sent.len() <= MAX_SENT);
        }
        assert_eq!((repair.asked.capacity(), repair.sent.capacity()), (MAX_ASKED, MAX_SENT));
    }

    #[test]
    fn what_cannot_be_sent_does_not_block_the_rest() {
        let start = origin();
        let mut repair = Repair::new();
        repair.ask(start, 1, None);
        repair.ask(start, 2, None);
        repair.give_up();
        assert_eq!(repair.first(), Some(2));
        repair.clear();
        assert_eq!(repair.first(), None);
    }
}
