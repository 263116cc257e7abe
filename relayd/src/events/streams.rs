//! The streams of server-sent events: which were asked for, and how many there may be.
//!
//! Memory: one entry of some 100 bytes for each listener, at most `max` streams of the same, `max_per_leg` for one
//! listener; a listener that is gone takes its streams along. One stream has one reader: a
//! newer one takes the older one's place, as a client comes back whose loss nobody has noticed yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::session::SessionId;
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

    /// A listener is there, for as long as the guard.
    pub fn listen(&self, leg: ResourceId, place: Place) -> Listening {
        self.shared.state().listening.insert(leg, place);
        Listening { streams: self.clone(), leg }
    }

    /// Where a listener is, if it is there.
    pub fn place(&self, leg: &ResourceId) -> Option<Place> {
        self.shared.state().listening.get(leg).cloned()
    }

    /// Makes a stream for a listener that is there; `None` when there are too many.
    pub fn create(&self, leg: ResourceId, topics: Topics) -> Option<StreamId> {
        let mut state = self.shared.state();
        let same = state.entries.range((leg, StreamId(0))..=(leg, StreamId(u64::MAX))).count();
        if state.entries.len() >= self.shared.max || same >= self.shared.max_per_leg {
            return None;
        }
        state.listening.get(&leg)?;
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shared.state().entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The session.
    pub session: SessionId,
    /// The language as it was asked for; `None`: the source language.
    pub language: Option<String>,
    /// Whose token it was.
    pub who: String,
}

/// A listener that is there; dropping this ends its streams.
#[derive(Debug)]
pub struct Listening {
    streams: Streams,
    leg: ResourceId,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.streams.shared.state();
        state.listening.remove(&self.leg);
        let all = (self.leg, StreamId(0))..=(self.leg, StreamId(u64::MAX));
        let keys: Vec<_> = state.entries.range(all).map(|(key, _)| *key).collect();
        for key in keys {
            state.entries.remove(&key);
        }
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
    listening: BTreeMap<ResourceId, Place>,
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

    fn place() -> Place {
        Place { session: SessionId::demo(), language: None, who: String::new() }
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
        let listen = |digit| streams.listen(leg(digit), place());
        let (listening, _b, _c) = (listen('a'), listen('b'), listen('c'));
        let create = |digit| streams.create(leg(digit), Topics::ALL);
        let first = create('a').unwrap();
        assert!(create('a').is_some() && create('a').is_none(), "two for one leg");
        assert!(create('b').is_some() && create('c').is_none(), "three in all");
        assert!(streams.remove(leg('a'), first) && !streams.remove(leg('a'), first));
        assert!(create('c').is_some() && create('d').is_none(), "d does not listen");
        assert_eq!(streams.place(&leg('a')), Some(place()));
        drop(listening);
        assert_eq!((streams.len(), streams.place(&leg('a'))), (2, None));
        assert!(create('a').is_none() && streams.read(leg('a'), first).is_none());
    }

    #[tokio::test]
    async fn a_reader_is_over_when_another_comes_or_the_stream_goes() {
        let streams = Streams::new(3, 2);
        let listening = streams.listen(leg('a'), place());
        let id = streams.create(leg('a'), Topics::ALL).unwrap();
        let (_, mut first) = streams.read(leg('a'), id).unwrap();
        let (_, mut second) = streams.read(leg('a'), id).unwrap();
        first.over().await;
        drop(listening);
        second.over().await;
        assert!(streams.is_empty());
    }
}
