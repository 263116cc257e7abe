//! The newest indices of an SRTP stream that were taken, and by which packets.
//!
//! Invariant: an index that was taken is never found free again. Whatever is forgotten is below [`Sealed::forgotten`],
//! and everything below that is refused.

use std::num::NonZeroU32;

use super::rtp::SealError;

/// Indices of a stream, each with 32 bits of the packet that took it; as many as the history may have sent again.
///
/// Memory: 4 KiB, and twice that as often as a block that would be forgotten is not older than the history: 8 KiB with
/// 30 s of 20 ms frames, 16 KiB with 10 ms, 128 KiB at most, since no far end follows further back (RFC 3711 §3.3.1).
#[derive(Debug)]
pub(super) struct Sealed {
    /// The index after the highest one taken; zero if none was.
    next: u64,
    /// Indices below may have been taken, and nobody remembers.
    forgotten: u64,
    /// Of the highest index's group, at `index % RECENT`: they get to the others with the group's last one, so that most
    /// packets touch nothing but this struct.
    recent: [Option<NonZeroU32>; RECENT as usize],
    /// At `index % digests.len()`, a power of two, for the indices of the newest `marks.len()` blocks; those of the
    /// highest index's group are out of date.
    digests: Box<[Option<NonZeroU32>]>,
    /// At `block % marks.len()`: no packet of the blocks before this one is newer, by its timestamp.
    marks: Box<[u32]>,
    /// The timestamp of the newest packet.
    newest: u32,
    /// For how long a packet may be wanted again, in ticks of its timestamp.
    history: u32,
}

impl Sealed {
    pub(super) fn new(history: u32) -> Self {
        Sealed {
            next: 0,
            forgotten: 0,
            recent: [None; RECENT as usize],
            digests: vec![None; (LEAST * BLOCK) as usize].into(),
            marks: vec![0; LEAST as usize].into(),
            newest: 0,
            history,
        }
    }

    /// What took the index, if anything did.
    pub(super) fn get(&self, index: u64) -> Result<Option<NonZeroU32>, SealError> {
        if index >= self.next {
            return Ok(None);
        }
        if index < self.forgotten || self.behind(index) >= MOST {
            return Err(SealError::TooOld);
        }
        if self.is_recent(index) {
            return Ok(self.recent[(index % RECENT) as usize]);
        }
        // What is older than all that is remembered, and not forgotten, never was.
        let remembered = self.behind(index) < self.blocks();
        Ok(self.digests[self.slot(index)].filter(|_| remembered))
    }

    /// Takes an index that [`Sealed::get`] has found free, for a packet with this timestamp.
    pub(super) fn take(&mut self, index: u64, timestamp: u32, digest: NonZeroU32) {
        debug_assert_eq!(self.get(index), Ok(None), "an index is looked up before it is taken");
        if index >= self.next {
            self.advance(index, timestamp);
        }
        while self.behind(index) >= self.blocks() {
            self.grow();
        }
        if self.is_recent(index) {
            self.recent[(index % RECENT) as usize] = Some(digest);
        } else {
            self.digests[self.slot(index)] = Some(digest);
        }
    }

    /// Makes `index` the highest one taken.
    fn advance(&mut self, index: u64, timestamp: u32) {
        if self.next == 0 {
            (self.newest, self.next) = (timestamp, index + 1);
            self.marks.fill(timestamp);
        }
        if !self.is_recent(index) {
            self.settle();
        }
        let last = (self.next - 1) / BLOCK;
        if index / BLOCK - last >= MOST {
            (self.forgotten, self.next) = (self.next, index + 1);
            self.digests.fill(None);
            self.marks.fill(self.newest);
        }
        for block in (self.next - 1) / BLOCK + 1..=index / BLOCK {
            self.enter(block, timestamp);
        }
        (self.newest, self.next) = (timestamp, index + 1);
    }

    /// Another group is about to have the highest index: none of its indices is taken.
    fn settle(&mut self) {
        let first = self.slot((self.next - 1) / RECENT * RECENT);
        let recent = std::mem::replace(&mut self.recent, [None; RECENT as usize]);
        self.digests[first..first + RECENT as usize].copy_from_slice(&recent);
    }

    /// The block after the highest one begins: the lowest one gives way, unless it may be wanted again.
    fn enter(&mut self, block: u64, timestamp: u32) {
        while self.blocks() < MOST && self.is_wanted(block, timestamp) {
            self.grow();
        }
        if let Some(lowest) = block.checked_sub(self.blocks())
            && self.is_used(block)
        {
            self.forgotten = self.forgotten.max((lowest + 1) * BLOCK);
            let range = self.range(block);
            self.digests[range].fill(None);
        }
        let at = self.mark(block);
        self.marks[at] = self.newest;
        self.next = block * BLOCK + 1;
    }

    /// Whether the block that has the place of `block` has a packet that is not older than the history.
    fn is_wanted(&self, block: u64, timestamp: u32) -> bool {
        let Some(lowest) = block.checked_sub(self.blocks()) else { return false };
        let age = timestamp.wrapping_sub(self.marks[self.mark(lowest + 1)]);
        // RFC 3550 §5.1: timestamps wrap, so what seems to lie ahead is no age.
        let old = age >= self.history && age < 1 << 31;
        !old && self.is_used(block)
    }

    fn is_used(&self, block: u64) -> bool {
        self.digests[self.range(block)].iter().any(Option::is_some)
    }

    /// Twice the room.
    #[cold]
    fn grow(&mut self) {
        let highest = (self.next - 1) / BLOCK;
        let blocks = self.blocks();
        let digests = vec![None; self.digests.len() * 2].into();
        let marks = vec![self.newest; self.marks.len() * 2].into();
        let before = std::mem::replace(&mut self.digests, digests);
        let marked = std::mem::replace(&mut self.marks, marks);
        for block in highest.saturating_sub(blocks - 1)..=highest {
            let (at, from) = (self.range(block), (block % blocks * BLOCK) as usize);
            self.digests[at].copy_from_slice(&before[from..from + BLOCK as usize]);
            let at = self.mark(block);
            self.marks[at] = marked[(block % blocks) as usize];
        }
    }

    /// Whether the index is of the highest one's group.
    const fn is_recent(&self, index: u64) -> bool {
        self.next > 0 && index / RECENT == (self.next - 1) / RECENT
    }

    /// How many blocks the index's is behind the highest.
    fn behind(&self, index: u64) -> u64 {
        (self.next.saturating_sub(1) / BLOCK).saturating_sub(index / BLOCK)
    }

    fn blocks(&self) -> u64 {
        self.marks.len() as u64
    }

    fn slot(&self, index: u64) -> usize {
        (index & (self.digests.len() as u64 - 1)) as usize
    }

    fn mark(&self, block: u64) -> usize {
        (block & (self.blocks() - 1)) as usize
    }

    fn range(&self, block: u64) -> std::ops::Range<usize> {
        let from = self.mark(block) * BLOCK as usize;
        from..from + BLOCK as usize
    }

    /// Bytes of all of it.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.digests) + size_of_val(&*self.marks)
    }
}

/// Indices whose digests are settled together.
const RECENT: u64 = 8;
/// Indices that are forgotten together.
const BLOCK: u64 = 256;
/// Blocks at first and at most.
const LEAST: u64 = 4;
pub(super) const MOST: u64 = (1 << 15) / BLOCK;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// 30 s at 48 kHz.
    const HISTORY: u32 = 30 * 48_000;

    fn digest(number: u64) -> NonZeroU32 {
        NonZeroU32::new(1 + number as u32).unwrap()
    }

    /// A stream of frames of `ticks`, from a first index on.
    fn stream(first: u64, ticks: u32, frames: u64) -> Sealed {
        let mut sealed = Sealed::new(HISTORY);
        for frame in 0..frames {
            let timestamp = (u32::MAX - 1_000_000).wrapping_add(ticks.wrapping_mul(frame as u32));
            sealed.take(first + frame, timestamp, digest(frame));
        }
        sealed
    }

    #[test]
    fn what_the_history_holds_is_remembered_whatever_the_frames_last() {
        for (ticks, kib) in [(120, 64), (240, 32), (480, 16), (960, 8), (2_880, 4), (5_760, 4)] {
            let frames = 100_000;
            let sealed = stream(31_000, ticks, frames);
            for back in 1..=u64::from(HISTORY / ticks) {
                let frame = frames - back;
                assert_eq!(sealed.get(31_000 + frame), Ok(Some(digest(frame))), "{ticks}: {back} back");
            }
            assert_eq!(sealed.get(31_000), Err(SealError::TooOld));
            assert_eq!(sealed.memory() / 1_024, kib, "{ticks}");
        }
    }

    #[test]
    fn frames_that_get_shorter_push_out_nothing_that_is_wanted() {
        let mut sealed = stream(5, 5_760, 5_000);
        let mut timestamp = sealed.newest;
        for frame in 5_000..12_000 {
            timestamp = timestamp.wrapping_add(120);
            sealed.take(5 + frame, timestamp, digest(frame));
        }
        // 7000 frames of 2.5 ms are 17.5 s; before them are 12.5 s of the long ones.
        for frame in 12_000 - 7_000 - 104..12_000 {
            assert_eq!(sealed.get(5 + frame), Ok(Some(digest(frame))), "{frame}");
        }
    }

    #[test]
    fn a_hole_at_the_beginning_may_be_filled_late() {
        let mut sealed = Sealed::new(HISTORY);
        sealed.take(20_000, 0, digest(0));
        for index in [17_000, 18_500, 17_001] {
            assert_eq!(sealed.get(index), Ok(None));
            sealed.take(index, 0, digest(index));
            assert_eq!(sealed.get(index), Ok(Some(digest(index))));
        }
        assert_eq!(sealed.get(20_000), Ok(Some(digest(0))));
    }

    #[test]
    fn memory_is_bounded_whatever_the_timestamps_say() {
        for ticks in [0, u32::MAX, 1 << 31] {
            let sealed = stream(7, ticks, 200_000);
            assert!(sealed.memory() <= 129 << 10, "{ticks}: {}", sealed.memory());
            assert_eq!(sealed.get(7), Err(SealError::TooOld));
        }
    }

    proptest! {
        /// Against a map that forgets nothing: what was taken is found with its digest, or refused, and never free.
        #[test]
        fn what_was_taken_is_never_free_again(
            first in 0_u64..70_000,
            steps in prop::collection::vec(
                (prop_oneof![8 => 0_u64..3, 2 => 0_u64..2_000, 1 => 0_u64..80_000], any::<bool>(), 0_u64..40_000, 0_u32..20_000),
                1..400,
            ),
        ) {
            let (mut sealed, mut taken) = (Sealed::new(HISTORY), BTreeMap::new());
            let (mut index, mut timestamp) = (first, 0_u32);
            for (step, back, distance, ticks) in steps {
                timestamp = timestamp.wrapping_add(ticks);
                index += step;
                let at = if back { index.saturating_sub(distance) } else { index };
                match (sealed.get(at), taken.get(&at)) {
                    (Ok(Some(found)), known) => prop_assert_eq!(Some(&found), known),
                    (Ok(None), known) => {
                        prop_assert_eq!(known, None);
                        sealed.take(at, timestamp, digest(at));
                        taken.insert(at, digest(at));
                        prop_assert_eq!(sealed.get(at), Ok(Some(digest(at))));
                    }
                    (Err(error), _) => prop_assert_eq!(error, SealError::TooOld),
                }
            }
            for (at, digest) in taken {
                match sealed.get(at) {
                    Ok(found) => prop_assert_eq!(found, Some(digest)),
                    Err(error) => prop_assert_eq!(error, SealError::TooOld),
                }
            }
        }
    }
}
