//! A timer wheel: slots of connections by when they are due.
//!
//! A slot is in it at most once, so its memory is 16 bytes for each connection that there ever was at one time, and 4 KiB.
//! Putting in, taking out and moving cost O(1). What is due is late by a tick at most, or by as much as its owner allows.

use std::time::{Duration, Instant};

/// Slots, each once.
#[derive(Debug)]
pub(super) struct Wheel {
    start: Instant,
    /// The last tick of which nothing is left.
    served: u64,
    /// The first of each bucket's list.
    heads: Box<[u32; BUCKETS]>,
    /// By slot.
    nodes: Vec<Node>,
    waiting: usize,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// The tick at which it is due; 0 while it is not in the wheel.
    at: u64,
    previous: u32,
    next: u32,
}

/// The finest that it tells times apart.
const TICK: Duration = Duration::from_millis(10);
/// How many ticks one turn has; what is due later stays for another turn.
const BUCKETS: usize = 1024;
const NONE: u32 = u32::MAX;

impl Wheel {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, served: 0, heads: Box::new([NONE; BUCKETS]), nodes: Vec::new(), waiting: 0 }
    }

    /// Has a slot come up at `at` or up to `grain` later, unless it comes up before that anyway.
    pub(super) fn schedule(&mut self, slot: usize, at: Instant, grain: Duration) {
        let grain = (grain.as_millis() / TICK.as_millis()).max(1) as u64;
        let elapsed = at.saturating_duration_since(self.start);
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        // Never early, by however little.
        let tick = elapsed.div_ceil(TICK.as_nanos() as u64);
        let at = tick.max(self.served + 1).next_multiple_of(grain);
        if self.nodes.len() <= slot {
            self.nodes.resize(slot + 1, Node { at: 0, previous: NONE, next: NONE });
        }
        if (1..=at).contains(&self.nodes[slot].at) {
            return;
        }
        self.remove(slot);
        let head = &mut self.heads[bucket(at)];
        self.nodes[slot] = Node { at, previous: NONE, next: *head };
        if let Some(next) = self.nodes.get_mut(*head as usize) {
            next.previous = slot as u32;
        }
        *head = slot as u32;
        self.waiting += 1;
    }

    /// Takes a slot out.
    pub(super) fn remove(&mut self, slot: usize) {
        let Some(node) = self.nodes.get(slot).copied().filter(|node| node.at > 0) else { return };
        match self.nodes.get_mut(node.previous as usize) {
            Some(previous) => previous.next = node.next,
            None => self.heads[bucket(node.at)] = node.next,
        }
        if let Some(next) = self.nodes.get_mut(node.next as usize) {
            next.previous = node.previous;
        }
        self.nodes[slot].at = 0;
        self.waiting -= 1;
    }

    /// Takes out what is due, at most so many slots; the rest comes with the next call.
    pub(super) fn take_due(&mut self, now: Instant, most: usize, due: &mut Vec<usize>) {
        let last = (now.saturating_duration_since(self.start).as_millis() / TICK.as_millis()) as u64;
        // A turn of the wheel passes by every bucket.
        self.served = self.served.max(last.saturating_sub(BUCKETS as u64));
        while self.served < last {
            let mut slot = self.heads[bucket(self.served + 1)];
            while let Some(node) = self.nodes.get(slot as usize).copied() {
                if node.at <= last {
                    if due.len() == most {
                        return;
                    }
                    self.remove(slot as usize);
                    due.push(slot as usize);
                }
                slot = node.next;
            }
            self.served += 1;
        }
    }

    /// When to look again; `None` while there is nothing in it.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        let ticks = self.served + 1..=self.served + BUCKETS as u64;
        let next =
            ticks.clone().find(|tick| self.heads[bucket(*tick)] != NONE).unwrap_or_else(|| *ticks.end());
        Some(self.start + TICK * u32::try_from(next).unwrap_or(u32::MAX))
    }

    /// When a slot comes up.
    #[cfg(test)]
    pub(super) fn queued(&self, slot: usize) -> Option<Instant> {
        let node = self.nodes.get(slot).filter(|node| node.at > 0)?;
        Some(self.start + TICK * u32::try_from(node.at).expect("tests are short"))
    }
}

fn bucket(tick: u64) -> usize {
    tick as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const FINE: Duration = TICK;
    const COARSE: Duration = Duration::from_millis(100);

    fn take(wheel: &mut Wheel, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        wheel.take_due(now, usize::MAX, &mut due);
        due.sort_unstable();
        due
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_slot_comes_up_once_at_its_earliest_time() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        for late in (100..10_000).rev() {
            wheel.schedule(3, start + ms(late), FINE);
            wheel.schedule(4, start + ms(late), COARSE);
        }
        wheel.schedule(3, start + ms(20_000), FINE);
        assert_eq!((wheel.waiting, wheel.nodes.len()), (2, 5), "10 000 times is not 10 000 entries");
        assert_eq!(take(&mut wheel, start + ms(99)), [0; 0]);
        assert_eq!(wheel.next(), Some(start + ms(100)));
        assert_eq!(take(&mut wheel, start + ms(100)), [3, 4]);
        assert_eq!((wheel.next(), take(&mut wheel, start + ms(60_000))), (None, vec![]));
    }

    #[test]
    fn nothing_comes_up_early() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        wheel.schedule(1, start + ms(100) + Duration::from_nanos(1), COARSE);
        assert_eq!(take(&mut wheel, start + ms(190)), [0; 0]);
        assert_eq!(take(&mut wheel, start + ms(200)), [1]);
    }

    #[test]
    fn no_more_are_taken_than_asked_for_and_none_is_lost() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        (0..1000).for_each(|slot| wheel.schedule(slot, start + ms(slot as u64 / 10), FINE));
        let (mut all, mut rounds) = (Vec::new(), 0);
        while all.len() < 1000 {
            let mut due = Vec::new();
            wheel.take_due(start + ms(100_000), 128, &mut due);
            assert!((1..=128).contains(&due.len()));
            all.extend(due);
            rounds += 1;
        }
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000) && rounds == 8);
    }

    proptest::proptest! {
        #[test]
        fn it_does_what_a_sorted_map_does(steps: Vec<(u8, u16, u16, bool)>) {
            let start = Instant::now();
            let (mut wheel, mut model) = (Wheel::new(start), BTreeMap::<usize, u64>::new());
            let mut now = 0_u64;
            for (slot, delay, pass, removed) in steps {
                let (slot, at) = (usize::from(slot), now + u64::from(delay));
                if removed {
                    wheel.remove(slot);
                    model.remove(&slot);
                } else {
                    wheel.schedule(slot, start + ms(at), FINE);
                    let tick = at.div_ceil(10).max(now / 10 + 1);
                    let known = model.entry(slot).or_insert(tick);
                    *known = tick.min(*known);
                }
                now += u64::from(pass);
                let due: Vec<usize> =
                    model.iter().filter(|(_, tick)| **tick <= now / 10).map(|(slot, _)| *slot).collect();
                model.retain(|_, tick| *tick > now / 10);
                // Never later than the first that is due.
                let first = model.values().min().map(|tick| start + ms(tick * 10));
                proptest::prop_assert_eq!(take(&mut wheel, start + ms(now)), due);
                proptest::prop_assert!(wheel.next() <= first || first.is_none());
                proptest::prop_assert_eq!(wheel.next().is_some(), first.is_some());
            }
        }
    }
}
