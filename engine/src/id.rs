//! Generational ids: a stale id is a typed error, never another listener.
//!
//! Each id is a slot, the slot's generation and its relay's number. [`Slots`] hands them out, lowest free slot last freed
//! first, so equal calls give equal ids (I5), and takes them back; an id of an earlier generation finds nothing, nor does
//! one of another relay.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// The relay's number above [`SLOT_BITS`], the slot below.
            word: u32,
            generation: u32,
        }

        impl $name {
            /// A dense index, unique among the open ones, for parallel arrays of the owner.
            ///
            /// Below the configured limit of its kind; used again after a close, so compare ids, not slots.
            #[must_use]
            pub const fn slot(self) -> usize {
                (self.word & MAX_SLOT) as usize
            }

            /// The number of its relay: [`Config::relay`](crate::Config::relay).
            #[must_use]
            pub const fn relay(self) -> u8 {
                (self.word >> SLOT_BITS) as u8
            }
        }

        impl Id for $name {
            fn new(word: u32, generation: u32) -> Self {
                Self { word, generation }
            }

            fn parts(self) -> (u32, u32) {
                (self.word, self.generation)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.relay() > 0 {
                    write!(f, "{}/", self.relay())?;
                }
                write!(f, concat!($letter, "{}.{}"), self.slot(), self.generation)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

id!(
    /// A track of a [`Relay`](crate::Relay).
    TrackId,
    "track"
);
id!(
    /// A leg of a [`Relay`](crate::Relay): one transport connection of a publisher or listener.
    LegId,
    "leg"
);
id!(
    /// A listener of a [`Relay`](crate::Relay).
    ListenerId,
    "listener"
);

/// Whatever can be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A track, with its publisher leg and all its listeners.
    Track(TrackId),
    /// A leg. A listener lives as long as its leg; a track outlives its publisher's.
    Leg(LegId),
    /// A listener with its leg.
    Listener(ListenerId),
}

/// What an id is made of: number and slot in one word, and the generation.
pub(crate) trait Id: Copy {
    fn new(word: u32, generation: u32) -> Self;
    fn parts(self) -> (u32, u32);
}

/// Bits of an id's word that are the slot; the relay's number has the rest.
const SLOT_BITS: u32 = 24;
/// The highest slot.
const MAX_SLOT: u32 = (1 << SLOT_BITS) - 1;
/// The most entries of one kind.
pub(crate) const MAX_SLOTS: usize = 1 << SLOT_BITS;

/// Values by id, in a dense array whose slots are used again.
#[derive(Debug)]
pub(crate) struct Slots<I, T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    len: usize,
    /// The relay's number, where ids have it.
    relay: u32,
    kind: std::marker::PhantomData<I>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<I: Id, T> Slots<I, T> {
    /// None yet, of the relay of this number.
    pub(crate) const fn new(relay: u8) -> Self {
        let relay = (relay as u32) << SLOT_BITS;
        Self { entries: Vec::new(), free: Vec::new(), len: 0, relay, kind: std::marker::PhantomData }
    }

    /// Inserts what `make` builds from its own id.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(I) -> T) -> I {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None });
            let slot = u32::try_from(self.entries.len() - 1).ok().filter(|&slot| slot <= MAX_SLOT);
            slot.expect("limits keep slots below 2^24")
        });
        let entry = &mut self.entries[slot as usize];
        let id = I::new(self.relay | slot, entry.generation);
        entry.value = Some(make(id));
        self.len += 1;
        id
    }

    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        let (slot, generation) = self.place(id);
        let entry = self.entries.get_mut(slot).filter(|entry| entry.generation == generation)?;
        let value = entry.value.take()?;
        self.len -= 1;
        // A slot whose generations are spent is never used again: no id ever means two things.
        if let Some(next) = generation.checked_add(1) {
            entry.generation = next;
            self.free.push(slot as u32);
        }
        Some(value)
    }

    pub(crate) fn get(&self, id: I) -> Option<&T> {
        let (slot, generation) = self.place(id);
        self.entries.get(slot).filter(|entry| entry.generation == generation)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let (slot, generation) = self.place(id);
        self.entries.get_mut(slot).filter(|entry| entry.generation == generation)?.value.as_mut()
    }

    /// The value in a slot that is known to be in use.
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)?.value.as_mut()
    }

    /// The id in use in a slot.
    pub(crate) fn id_at(&self, slot: usize) -> Option<I> {
        let entry = self.entries.get(slot)?;
        entry.value.as_ref()?;
        Some(I::new(self.relay | u32::try_from(slot).ok()?, entry.generation))
    }

    /// Where an id's entry is, and its generation. One of another relay keeps bits above the slot: there is no such entry.
    fn place(&self, id: I) -> (usize, u32) {
        let (word, generation) = id.parts();
        ((word ^ self.relay) as usize, generation)
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut slots: Slots<LegId, &str> = Slots::new(0);
        let first = slots.insert_with(|_| "first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert_with(|_| "second");
        assert_eq!(second.slot(), first.slot(), "the slot is used again");
        assert_ne!(second, first);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn slots_stay_dense() {
        let mut slots: Slots<ListenerId, usize> = Slots::new(0);
        let ids: Vec<_> = (0..10).map(|n| slots.insert_with(|_| n)).collect();
        for &id in &ids[3..6] {
            slots.remove(id);
        }
        for n in 0..3 {
            assert!(slots.insert_with(|_| n).slot() < 10);
        }
        assert_eq!(slots.insert_with(|_| 99).slot(), 10);
        assert_eq!(slots.len(), 11);
    }

    #[test]
    fn a_value_is_built_from_its_own_id() {
        let mut slots: Slots<TrackId, TrackId> = Slots::new(0);
        let id = slots.insert_with(|id| id);
        assert_eq!(slots.get(id), Some(&id));
    }

    #[test]
    fn an_id_prints_its_kind_slot_and_generation() {
        assert_eq!(format!("{:?}", LegId::new(7, 2)), "leg7.2");
        assert_eq!(TrackId::new(0, 0).to_string(), "track0.0");
    }

    #[test]
    fn an_id_carries_its_relays_number_and_is_unknown_to_others() {
        let numbers = [0, 1, 7, 128, 255];
        let mut all: Vec<(u8, Slots<LegId, u8>, Vec<LegId>)> = Vec::new();
        for number in numbers {
            let mut slots = Slots::new(number);
            let ids = (0..5).map(|_| slots.insert_with(|_| number)).collect();
            all.push((number, slots, ids));
        }
        let ids: Vec<LegId> = all.iter().flat_map(|(_, _, ids)| ids.clone()).collect();
        for (number, slots, own) in &mut all {
            for &id in &ids {
                let found = own.contains(&id).then_some(*number);
                assert_eq!((slots.get(id).copied(), slots.get_mut(id).copied()), (found, found), "{id}");
                assert_eq!(found.is_some(), id.relay() == *number, "{id}");
                if found.is_none() {
                    assert_eq!(slots.remove(id), None, "{id}");
                }
            }
            assert_eq!((slots.len(), own[3].slot(), slots.id_at(3)), (5, 3, Some(own[3])));
        }
        assert_eq!(all[2].2[4].to_string(), "7/leg4.0");
        assert_eq!(size_of::<LegId>(), 8);
    }

    #[test]
    fn a_slot_with_spent_generations_is_never_used_again() {
        let mut slots: Slots<LegId, ()> = Slots::new(0);
        let id = slots.insert_with(|_| ());
        slots.entries[id.slot()].generation = u32::MAX;
        let last = LegId::new(0, u32::MAX);
        assert_eq!(slots.remove(last), Some(()));
        assert_eq!(slots.insert_with(|_| ()).slot(), 1);
        assert_eq!(slots.get(last), None);
    }
}
