//! Deadlines in order: an indexed heap with at most one deadline for each key.
//!
//! Keys are dense (slots), so setting, moving and clearing a deadline touch no map and, once the slots exist,
//! allocate nothing. Equal times come out in the order of their keys, so the order is the same in every run (I5).
//! Memory: 28 bytes for each slot ever used (I3).

use std::time::Instant;

/// At most one deadline for each of a dense range of keys, earliest first.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// A binary heap of deadlines: each entry is not later than its two children.
    heap: Vec<(Instant, u32)>,
    /// For each key, where its deadline is in the heap.
    places: Vec<u32>,
}

impl Schedule {
    /// Makes room for keys below `keys`, so that setting them allocates nothing.
    pub(crate) fn reserve(&mut self, keys: usize) {
        if self.places.len() < keys {
            self.places.resize(keys, NOWHERE);
            self.heap.reserve(keys - self.heap.len());
        }
    }

    /// Sets or moves the deadline of `key`.
    pub(crate) fn set(&mut self, key: usize, at: Instant) {
        self.reserve(key + 1);
        let entry = (at, u32::try_from(key).expect("slots are far below 2^32"));
        match self.places[key] {
            NOWHERE => {
                self.heap.push(entry);
                self.sift_up(self.heap.len() - 1);
            }
            place => {
                self.heap[place as usize] = entry;
                self.settle(place as usize);
            }
        }
    }

    /// Removes the deadline of `key`, if it has one.
    pub(crate) fn clear(&mut self, key: usize) {
        let Some(&place) = self.places.get(key) else { return };
        if place == NOWHERE {
            return;
        }
        self.places[key] = NOWHERE;
        self.heap.swap_remove(place as usize);
        if (place as usize) < self.heap.len() {
            self.settle(place as usize);
        }
    }

    /// Says whether `key` has a deadline.
    pub(crate) fn is_set(&self, key: usize) -> bool {
        self.places.get(key).is_some_and(|&place| place != NOWHERE)
    }

    /// The earliest deadline and its key.
    pub(crate) fn first(&self) -> Option<(Instant, usize)> {
        self.heap.first().map(|&(at, key)| (at, key as usize))
    }

    /// Takes the earliest deadline, if it is not after `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(Instant, usize)> {
        let (at, key) = self.first().filter(|&(at, _)| at <= now)?;
        self.clear(key);
        Some((at, key))
    }

    fn settle(&mut self, place: usize) {
        let place = self.sift_up(place);
        self.sift_down(place);
    }

    /// Moves an entry up to where its parent is not later; returns its place. Notes the places of all it moves.
    fn sift_up(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent] <= self.heap[place] {
                break;
            }
            self.heap.swap(parent, place);
            self.note(place);
            place = parent;
        }
        self.note(place);
        place
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let children = [2 * place + 1, 2 * place + 2];
            let Some(least) =
                children.into_iter().filter(|&c| c < self.heap.len()).min_by_key(|&c| self.heap[c])
            else {
                break;
            };
            if self.heap[place] <= self.heap[least] {
                break;
            }
            self.heap.swap(place, least);
            self.note(place);
            place = least;
        }
        self.note(place);
    }

    fn note(&mut self, place: usize) {
        let key = self.heap[place].1;
        self.places[key as usize] = u32::try_from(place).expect("no more entries than keys");
    }
}

const NOWHERE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::time::tests::origin;

    #[test]
    fn deadlines_come_out_in_order_of_time_then_key() {
        let start = origin();
        let mut schedule = Schedule::default();
        for (key, ms) in [(3, 20), (1, 10), (2, 20), (0, 30), (7, 10)] {
            schedule.set(key, start + Duration::from_millis(ms));
        }
        let mut order = Vec::new();
        while let Some((_, key)) = schedule.take_due(start + Duration::from_secs(1)) {
            order.push(key);
        }
        assert_eq!(order, [1, 7, 2, 3, 0]);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let start = origin();
        let mut schedule = Schedule::default();
        let at = start + Duration::from_millis(10);
        schedule.set(5, at);
        assert_eq!(schedule.take_due(start), None);
        assert_eq!(schedule.take_due(at), Some((at, 5)));
        assert_eq!(schedule.first(), None);
    }

    #[test]
    fn a_key_has_one_deadline_which_moves() {
        let start = origin();
        let mut schedule = Schedule::default();
        schedule.set(0, start + Duration::from_millis(10));
        schedule.set(1, start + Duration::from_millis(20));
        schedule.set(0, start + Duration::from_millis(30));
        assert_eq!(schedule.first(), Some((start + Duration::from_millis(20), 1)));
        schedule.clear(1);
        assert_eq!(schedule.first(), Some((start + Duration::from_millis(30), 0)));
        schedule.clear(0);
        schedule.clear(0);
        schedule.clear(99);
        assert_eq!(schedule.first(), None);
        assert!(!schedule.is_set(0));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_sorted_list(steps in prop::collection::vec((0_usize..20, prop::option::of(0_u64..50)), 0..200)) {
            let start = origin();
            let mut schedule = Schedule::default();
            let mut model = std::collections::BTreeMap::new();
            for (key, ms) in steps {
                match ms {
                    Some(ms) => {
                        schedule.set(key, start + Duration::from_millis(ms));
                        model.insert(key, start + Duration::from_millis(ms));
                    }
                    None => {
                        schedule.clear(key);
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(schedule.first(), model.iter().map(|(&key, &at)| (at, key)).min());
                for key in 0..20 {
                    prop_assert_eq!(schedule.is_set(key), model.contains_key(&key));
                }
            }
        }
    }
}
