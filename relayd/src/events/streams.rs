//! The streams of server-sent events: which were asked for, and how many there may be.
//!
//! Memory: at most `max` entries of some 200 bytes, `max_per_leg` for one connection. One stream has one reader: a
//! newer one takes the older one's place, as a client comes back whose loss nobody has noticed yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::webrtc::ResourceId;

/// What a listener may be told (draft-ietf-wish-whep §4.9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Somebody speaks.
    Active,
    /// Nobody speaks any more.
    Inactive,
    /// Join again, elsewhere.
    Reconnect,
    /// How many listen.
    ViewerCount,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Active, Self::Inactive, Self::Reconnect, Self::ViewerCount];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Reconnect => "reconnect",
            Self::ViewerCount => "viewercount",
        }
    }

    /// The topic of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

/// Which topics a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topics([bool; Topic::ALL.len()]);

impl Topics {
    /// All of them.
    pub const ALL: Self = Self([true; Topic::ALL.len()]);

    /// These.
    pub fn of(topics: &[Topic]) -> Self {
        Self(Topic::ALL.map(|topic| topics.contains(&topic)))
    }

    /// Whether this is one of them.
    pub fn has(self, topic: Topic) -> bool {
        self.0[topic as usize]
    }
}

/// The streams of a relay. Clones share them.
#[derive(Debug, Clone)]
pub struct Streams {
    shared: Arc<Shared>,
}

impl Streams {
    /// None, and at most so many.
    pub fn new(max: usize, max_per_leg: usize) -> Self {
        Self { shared: Arc::new(Shared { max, max_per_leg, state: Mutex::default() }) }
    }

    /// Makes a stream for a leg; `None` when there are too many. `lives` tells the legs that are there still: the
    /// streams of others are forgotten.
    pub fn create(
        &self,
        leg: ResourceId,
        topics: Topics,
        lives: impl Fn(&ResourceId) -> bool,
    ) -> Option<StreamId> {
        let mut state = self.shared.state();
        if state.entries.len() >= self.shared.max {
            state.entries.retain(|(leg, _), _| lives(leg));
        }
        let same = state.entries.range((leg, StreamId(0))..=(leg, StreamId(u64::MAX))).count();
        if state.entries.len() >= self.shared.max || same >= self.shared.max_per_leg {
            return None;
        }
        state.last += 1;
        let id = StreamId(state.last);
        state.entries.insert((leg, id), Entry { topics, reader: None });
        Some(id)
    }

    /// Begins to read a stream; the older reader's time is over.
    pub fn read(&self, leg: ResourceId, id: StreamId) -> Option<(Topics, Reader)> {
        let mut state = self.shared.state();
        let entry = state.entries.get_mut(&(leg, id))?;
        let (over, seen) = watch::channel(());
        entry.reader = Some(over);
        Some((entry.topics, Reader { seen }))
    }

    /// Forgets a stream, and ends its reader; whether there was one.
    pub fn remove(&self, leg: ResourceId, id: StreamId) -> bool {
        self.shared.state().entries.remove(&(leg, id)).is_some()
    }

    /// Forgets the streams of a leg that is gone.
    pub fn remove_leg(&self, leg: ResourceId) {
        self.shared.state().entries.retain(|(known, _), _| *known != leg);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shared.state().entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Names a stream of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Whoever reads a stream.
#[derive(Debug)]
pub struct Reader {
    seen: watch::Receiver<()>,
}

impl Reader {
    /// Resolves when the stream is gone or somebody else reads it.
    pub async fn over(&mut self) {
        while self.seen.changed().await.is_ok() {}
    }
}

#[derive(Debug)]
struct Shared {
    max: usize,
    max_per_leg: usize,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    entries: BTreeMap<(ResourceId, StreamId), Entry>,
}

#[derive(Debug)]
struct Entry {
    topics: Topics,
    /// Its drop tells the reader.
    reader: Option<watch::Sender<()>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(digit: char) -> ResourceId {
        digit.to_string().repeat(32).parse().unwrap()
    }

    #[test]
    fn topics_are_those_of_the_draft() {
        let names: Vec<_> = Topic::ALL.iter().map(|topic| topic.name()).collect();
        assert_eq!(names, ["active", "inactive", "reconnect", "viewercount"]);
        assert_eq!(Topic::of("viewercount"), Some(Topic::ViewerCount));
        assert_eq!(Topic::of("layers"), None);
        let topics = Topics::of(&[Topic::Inactive]);
        assert!(topics.has(Topic::Inactive) && !topics.has(Topic::Active));
    }

    #[test]
    fn a_leg_has_so_many_streams_and_all_have_so_many() {
        let streams = Streams::new(3, 2);
        let create = |digit| streams.create(leg(digit), Topics::ALL, |_| true);
        let first = create('a').unwrap();
        assert!(create('a').is_some() && create('a').is_none(), "two for one leg");
        assert!(create('b').is_some() && create('c').is_none(), "three in all");
        assert!(streams.create(leg('c'), Topics::ALL, |known| *known != leg('b')).is_some(), "b is gone");
        assert!(streams.remove(leg('a'), first) && !streams.remove(leg('a'), first));
        streams.remove_leg(leg('a'));
        assert_eq!(streams.len(), 1);
        assert!(streams.read(leg('a'), first).is_none());
    }

    #[tokio::test]
    async fn a_reader_is_over_when_another_comes_or_the_stream_goes() {
        let streams = Streams::new(3, 2);
        let id = streams.create(leg('a'), Topics::ALL, |_| true).unwrap();
        let (_, mut first) = streams.read(leg('a'), id).unwrap();
        let (_, mut second) = streams.read(leg('a'), id).unwrap();
        first.over().await;
        streams.remove(leg('a'), id);
        second.over().await;
        assert!(streams.is_empty());
    }
}
