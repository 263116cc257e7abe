//! Puts packets back in order for a file, where nobody waits for them.
//!
//! Without loss nothing is held. At a hole the later packets are held until it is filled, or until so many have come that
//! it will not be: then it stays a hole.

use std::collections::BTreeMap;

/// Packets held at a hole at most; two thirds of a second of 20 ms frames.
const HELD: usize = 32;

/// A buffer that hands packets out by ascending sequence number.
#[derive(Debug)]
pub(super) struct Reorder<T> {
    next: Option<u64>,
    held: BTreeMap<u64, T>,
}

impl<T> Reorder<T> {
    pub(super) fn new() -> Self {
        Self { next: None, held: BTreeMap::new() }
    }

    /// Adds a packet; one from before what was handed out is dropped, because it is too late.
    pub(super) fn push(&mut self, sequence: u64, packet: T) {
        if sequence >= *self.next.get_or_insert(sequence) {
            self.held.insert(sequence, packet);
        }
    }

    /// The next packet in order, if it is there or will not come.
    pub(super) fn pop(&mut self) -> Option<T> {
        let (&first, _) = self.held.first_key_value()?;
        (Some(first) == self.next || self.held.len() > HELD).then(|| self.take(first))
    }

    /// The next packet whether or not something is missing before it: at the end, or before another stream.
    pub(super) fn pop_any(&mut self) -> Option<T> {
        let (&first, _) = self.held.first_key_value()?;
        Some(self.take(first))
    }

    /// Forgets where the stream was: the next packet begins another.
    pub(super) fn restart(&mut self) {
        debug_assert!(self.held.is_empty(), "drain by pop_any first");
        self.next = None;
    }

    fn take(&mut self, sequence: u64) -> T {
        self.next = Some(sequence + 1);
        self.held.remove(&sequence).expect("it is the first key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sequences: impl IntoIterator<Item = u64>) -> (Vec<u64>, Vec<u64>) {
        let mut reorder = Reorder::new();
        let mut ordered = Vec::new();
        for sequence in sequences {
            reorder.push(sequence, sequence);
            ordered.extend(std::iter::from_fn(|| reorder.pop()));
        }
        (ordered, std::iter::from_fn(|| reorder.pop_any()).collect())
    }

    #[test]
    fn packets_in_order_are_not_held() {
        assert_eq!(run(5..10), ((5..10).collect(), vec![]));
    }

    #[test]
    fn packets_out_of_order_are_put_in_order() {
        assert_eq!(run([5, 8, 7, 6, 9]), (vec![5, 6, 7, 8, 9], vec![]));
    }

    #[test]
    fn a_hole_is_waited_for_and_then_given_up() {
        let (ordered, rest) = run((5..10).chain(11..11 + HELD as u64));
        assert_eq!((ordered.len(), rest.len()), (5, HELD), "one short of giving up");
        let (ordered, rest) = run((5..10).chain(11..12 + HELD as u64).chain([10]));
        assert_eq!(ordered, (5..10).chain(11..12 + HELD as u64).collect::<Vec<_>>(), "10 came too late");
        assert!(rest.is_empty());
    }

    #[test]
    fn the_end_hands_out_what_is_held() {
        assert_eq!(run([5, 7, 9]), (vec![5], vec![7, 9]));
    }
}
