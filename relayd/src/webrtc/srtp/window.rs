//! A sliding set of packet indices (RFC 3711 §3.3.2): each index is taken at most once, however disordered.
//!
//! Receivers refuse replays with it, and count them. What is older than the window is refused,
//! because nobody remembers any more whether it was taken.

/// The newest `WORDS * 64` indices and which of them were taken.
#[derive(Debug, Clone)]
pub(crate) struct Window<const WORDS: usize> {
    /// The index after the highest one taken; zero if none was.
    next: u64,
    /// One bit per index, at `index % (WORDS * 64)`.
    taken: [u64; WORDS],
}

/// Why an index may not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Taken,
    TooOld,
}

impl<const WORDS: usize> Window<WORDS> {
    const BITS: u64 = WORDS as u64 * 64;

    pub(crate) fn new() -> Self {
        Window { next: 0, taken: [0; WORDS] }
    }

    /// Whether `index` is still to be had. Takes nothing, so that a forged packet cannot use an index up.
    pub(crate) fn check(&self, index: u64) -> Result<(), Refused> {
        if index >= self.next {
            return Ok(());
        }
        if self.next - index > Self::BITS {
            return Err(Refused::TooOld);
        }
        let (word, bit) = Self::place(index);
        if self.taken[word] & bit != 0 { Err(Refused::Taken) } else { Ok(()) }
    }

    /// Takes `index`, which [`Window::check`] has allowed.
    pub(crate) fn take(&mut self, index: u64) {
        debug_assert_eq!(self.check(index), Ok(()), "an index is checked before it is taken");
        if index >= self.next {
            self.slide(index);
        }
        let (word, bit) = Self::place(index);
        self.taken[word] |= bit;
    }

    /// Frees the bits between the old head and `index`, which becomes the head.
    fn slide(&mut self, index: u64) {
        if index - self.next >= Self::BITS {
            self.taken = [0; WORDS];
        } else {
            for skipped in self.next..=index {
                let (word, bit) = Self::place(skipped);
                self.taken[word] &= !bit;
            }
        }
        self.next = index + 1;
    }

    fn place(index: u64) -> (usize, u64) {
        let bit = index % Self::BITS;
        ((bit / 64) as usize, 1 << (bit % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_index_is_had_once_in_any_order() {
        let mut window = Window::<2>::new();
        for index in [5, 3, 4, 130, 3 + 64, 129] {
            assert_eq!(window.check(index), Ok(()), "{index}");
            window.take(index);
            assert_eq!(window.check(index), Err(Refused::Taken), "{index}");
        }
    }

    #[test]
    fn an_index_older_than_the_window_is_refused() {
        let mut window = Window::<2>::new();
        window.take(1000);
        assert_eq!(window.check(1000 - 127), Ok(()));
        assert_eq!(window.check(1000 - 128), Err(Refused::TooOld));
        assert_eq!(window.check(0), Err(Refused::TooOld));
    }

    #[test]
    fn a_jump_forgets_everything_behind_the_window() {
        let mut window = Window::<2>::new();
        window.take(7);
        window.take((1 << 48) - 1);
        assert_eq!(window.check((1 << 48) - 2), Ok(()));
        assert_eq!(window.check(7), Err(Refused::TooOld));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_all_indices(steps in prop::collection::vec(0u64..400, 1..400)) {
            let (mut window, mut taken) = (Window::<2>::new(), BTreeSet::new());
            for index in steps {
                let highest = taken.last().copied();
                let expected = match highest {
                    Some(highest) if highest >= index && highest - index >= 128 => Err(Refused::TooOld),
                    _ if taken.contains(&index) => Err(Refused::Taken),
                    _ => Ok(()),
                };
                prop_assert_eq!(window.check(index), expected);
                if expected.is_ok() {
                    window.take(index);
                    taken.insert(index);
                }
            }
        }
    }
}
