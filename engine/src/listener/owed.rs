//! Positions that arrived for a listener and were not handed out yet: a bit for each, from the oldest to the newest.
//!
//! Memory: a bit for each position between the oldest and the newest that is owed, which the history's span bounds
//! (I3): 375 bytes by default. A listener that is owed nothing has none.

use std::collections::VecDeque;

/// A set of positions that lie close together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owed {
    /// The position of the first bit, a multiple of 64.
    low: u64,
    words: VecDeque<u64>,
    count: u64,
}

impl Owed {
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn insert(&mut self, position: u64) {
        let at = position & !63;
        if self.words.is_empty() {
            self.low = at;
        }
        while self.low > at {
            self.words.push_front(0);
            self.low -= 64;
        }
        let word = self.word(position);
        while self.words.len() <= word {
            self.words.push_back(0);
        }
        let bit = 1 << (position % 64);
        self.count += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    /// Takes a position out; says whether it was owed.
    pub(crate) fn take(&mut self, position: u64) -> bool {
        let owed = self.contains(position);
        if owed {
            let word = self.word(position);
            self.words[word] &= !(1 << (position % 64));
            self.count -= 1;
            self.trim();
        }
        owed
    }

    pub(crate) fn contains(&self, position: u64) -> bool {
        position >= self.low
            && self.words.get(self.word(position)).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    /// The first that is owed, from `position` on.
    pub(crate) fn first_from(&self, position: u64) -> Option<u64> {
        let position = position.max(self.low);
        let start = self.word(position);
        let masked = self.words.get(start)? & (u64::MAX << (position % 64));
        std::iter::once(masked)
            .chain(self.words.iter().skip(start + 1).copied())
            .zip(start as u64..)
            .find(|&(word, _)| word != 0)
            .map(|(word, at)| self.low + at * 64 + u64::from(word.trailing_zeros()))
    }

    /// Takes out all before `position`: the first of them and how many they were.
    pub(crate) fn take_before(&mut self, position: u64) -> Option<(u64, u64)> {
        let first = self.first_from(0).filter(|&first| first < position)?;
        let before = self.count;
        while let Some(word) = self.words.front_mut() {
            let kept = match position.saturating_sub(self.low) {
                past @ 0..64 => *word & (u64::MAX << past),
                _ => 0,
            };
            self.count -= u64::from((*word & !kept).count_ones());
            *word = kept;
            if self.low + 64 > position {
                break;
            }
            self.words.pop_front();
            self.low += 64;
        }
        self.trim();
        Some((first, before - self.count))
    }

    /// An empty set keeps its room and no place.
    fn trim(&mut self) {
        if self.count == 0 {
            self.words.clear();
        }
        while let Some(0) = self.words.front() {
            self.words.pop_front();
            self.low += 64;
        }
    }

    fn word(&self, position: u64) -> usize {
        usize::try_from((position - self.low) / 64).expect("the history's span bounds it")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_set(
            base in prop_oneof![Just(0_u64), Just(1 << 40), Just(63), Just(u64::MAX - 5_000)],
            steps in prop::collection::vec((0_u8..6, 0_u64..1_000), 0..200),
        ) {
            let (mut owed, mut model) = (Owed::default(), BTreeSet::new());
            for (kind, offset) in steps {
                let position = base + offset;
                match kind {
                    0..3 => {
                        owed.insert(position);
                        model.insert(position);
                    }
                    3..5 => prop_assert_eq!(owed.take(position), model.remove(&position)),
                    _ => {
                        let kept = model.split_off(&position);
                        let gone = model.first().map(|&first| (first, model.len() as u64));
                        model = kept;
                        prop_assert_eq!(owed.take_before(position), gone);
                    }
                }
                prop_assert_eq!(owed.count, model.len() as u64);
                prop_assert_eq!(owed.is_empty(), model.is_empty());
                prop_assert_eq!(owed.contains(position), model.contains(&position));
                prop_assert_eq!(owed.first_from(position), model.range(position..).next().copied());
                prop_assert_eq!(owed.first_from(0), model.first().copied());
                prop_assert!(owed.words.len() <= 1_000 / 64 + 2);
            }
        }
    }
}
