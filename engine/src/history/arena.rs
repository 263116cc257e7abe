//! Where a track's payloads lie: bytes in chunks of one size, which are filled in order of arrival and used again.
//!
//! A payload lies in one chunk whole, so that it can be lent as a slice. A chunk is free again when the last payload
//! in it is released; frames leave a history about as they came, so few chunks are partly empty.
//!
//! Invariant: no more chunks than the limit (I3). A store that would need one more is refused.

/// The bytes of a track's payloads.
#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    /// Chunks in which nothing is stored, but for the current one.
    free: Vec<usize>,
    /// The chunk that is being filled, if there is any.
    current: usize,
    /// A chunk has two to this many bytes.
    chunk_bits: u32,
    max_chunks: usize,
}

/// Bytes of one size, and how many of them are in use.
#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    /// Where the next payload begins; before it lie the ones stored, released or not.
    end: usize,
    stored: u32,
}

/// Where something is stored: the chunk's number, and in the low bits the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(u32);

impl Address {
    /// Of what is not stored.
    pub(super) const NOWHERE: Self = Self(0);
}

impl Arena {
    /// Room for `bytes` in things of at most `largest` bytes each, below 2^30. Owns no memory until something is
    /// stored.
    pub(super) const fn new(bytes: usize, largest: usize) -> Self {
        let chunk_bytes = if largest > CHUNK_BYTES { largest.next_power_of_two() } else { CHUNK_BYTES };
        let chunk_bits = chunk_bytes.trailing_zeros();
        // Half as much again for the ends of chunks and for what is released in the middle of others; two, so that
        // the newest payload can stay while the next one comes.
        let wanted = bytes / chunk_bytes + bytes / chunk_bytes / 2 + SPARE_CHUNKS;
        let addressable = 1 << (u32::BITS - chunk_bits);
        let max_chunks = if wanted < addressable { wanted } else { addressable };
        Self { chunks: Vec::new(), free: Vec::new(), current: 0, chunk_bits, max_chunks }
    }

    /// Stores two byte strings one behind the other; `None` if there is no room until something is released.
    ///
    /// What is longer than [`new`](Self::new) was told may be refused for ever.
    pub(super) fn store(&mut self, first: &[u8], second: &[u8]) -> Option<Address> {
        let length = first.len() + second.len();
        // What has no length has a place too: the one behind the last byte is the next chunk's.
        let fits = |chunk: &Chunk| length.max(1) <= chunk.bytes.len() - chunk.end;
        if !self.chunks.get(self.current).is_some_and(fits) {
            self.current = self.next_chunk(length)?;
        }
        let chunk = &mut self.chunks[self.current];
        let at = chunk.end;
        chunk.bytes[at..at + first.len()].copy_from_slice(first);
        chunk.bytes[at + first.len()..at + length].copy_from_slice(second);
        chunk.end += length;
        chunk.stored += 1;
        let address = self.current << self.chunk_bits | at;
        Some(Address(u32::try_from(address).expect("there are no more chunks than can be addressed")))
    }

    /// What was stored at an address is not wanted any more.
    pub(super) fn release(&mut self, address: Address) {
        let (number, _) = self.place(address);
        let chunk = &mut self.chunks[number];
        chunk.stored -= 1;
        if chunk.stored == 0 {
            chunk.end = 0;
            if number != self.current {
                self.free.push(number);
            }
        }
    }

    /// `length` bytes from an address on.
    #[inline]
    pub(super) fn get(&self, address: Address, length: usize) -> &[u8] {
        let (number, at) = self.place(address);
        &self.chunks[number].bytes[at..at + length]
    }

    const fn place(&self, Address(address): Address) -> (usize, usize) {
        ((address >> self.chunk_bits) as usize, address as usize & ((1 << self.chunk_bits) - 1))
    }

    /// Bytes of memory, the free ones too.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        (self.chunks.len() << self.chunk_bits)
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.free.capacity() * size_of::<usize>()
    }

    fn next_chunk(&mut self, length: usize) -> Option<usize> {
        if length > 1 << self.chunk_bits {
            return None;
        }
        if let Some(free) = self.free.pop() {
            return Some(free);
        }
        if self.chunks.len() == self.max_chunks {
            return None;
        }
        self.chunks.push(Chunk { bytes: vec![0; 1 << self.chunk_bits].into(), end: 0, stored: 0 });
        // So that a release never allocates.
        self.free.reserve(self.chunks.len() - self.free.len());
        Some(self.chunks.len() - 1)
    }
}

/// A chunk's size, unless one payload needs more.
const CHUNK_BYTES: usize = 4_096;
/// One holds the newest payload, one takes the next.
const SPARE_CHUNKS: usize = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unused_arena_owns_no_memory() {
        assert_eq!(Arena::new(1 << 20, 1_400).memory(), 0);
    }

    #[test]
    fn two_strings_lie_behind_each_other() {
        let mut arena = Arena::new(1, 10);
        let address = arena.store(b"abc", b"de").unwrap();
        assert_eq!(arena.get(address, 3), b"abc");
        assert_eq!(arena.get(address, 5), b"abcde");
    }

    #[test]
    fn what_is_longer_than_a_chunk_is_refused() {
        let mut arena = Arena::new(1 << 20, 5_000);
        assert_eq!(arena.store(&[0; 8_193], &[]), None);
        assert!(arena.store(&[0; 5_000], &[]).is_some());
    }

    #[test]
    fn what_has_no_length_is_not_placed_behind_the_last_byte_of_a_chunk() {
        let mut arena = Arena::new(1 << 20, 10);
        let full = arena.store(&[7; CHUNK_BYTES], &[]).unwrap();
        let empty = arena.store(&[], &[]).unwrap();
        assert_eq!(arena.get(empty, 0), []);
        arena.release(empty);
        assert_eq!(arena.get(full, CHUNK_BYTES), [7; CHUNK_BYTES]);
        arena.release(full);
        assert!(arena.chunks.iter().all(|chunk| chunk.stored == 0));
    }

    #[test]
    fn a_full_arena_refuses_until_a_whole_chunk_is_released() {
        let mut arena = Arena::new(1, 2_048);
        let stored: Vec<_> = (0..4).map(|n| arena.store(&[n; 2_048], &[]).unwrap()).collect();
        assert_eq!(arena.store(&[9], &[]), None);
        arena.release(stored[0]);
        assert_eq!(arena.store(&[9], &[]), None, "the other half of its chunk is in use");
        arena.release(stored[1]);
        assert!(arena.store(&[9], &[]).is_some());
        assert_eq!(arena.get(stored[3], 2_048), [3; 2_048]);
    }

    #[test]
    fn the_chunk_being_filled_is_used_again_when_it_is_empty() {
        let mut arena = Arena::new(1, 10);
        for n in 0..10_000_u32 {
            let address = arena.store(&n.to_be_bytes(), &[]).unwrap();
            arena.release(address);
        }
        assert_eq!(arena.chunks.len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_stored_stays_as_it_was(
            steps in prop::collection::vec((prop_oneof![0_usize..900, Just(0), Just(512)], 0_usize..20), 1..400),
        ) {
            let mut arena = Arena::new(10_000, 900);
            let mut model: Vec<(Address, Vec<u8>)> = Vec::new();
            for (n, (length, pick)) in steps.into_iter().enumerate() {
                let bytes = vec![n as u8; length];
                match arena.store(&bytes, &[]) {
                    Some(address) => model.push((address, bytes)),
                    None => prop_assert!(!model.is_empty()),
                }
                if model.len() > pick {
                    arena.release(model.remove(pick).0);
                }
                prop_assert!(arena.chunks.len() <= arena.max_chunks);
                for (address, bytes) in &model {
                    prop_assert_eq!(arena.get(*address, bytes.len()), &bytes[..]);
                }
            }
            for (address, _) in model {
                arena.release(address);
            }
            prop_assert!(arena.chunks.iter().all(|chunk| chunk.stored == 0));
        }
    }
}
