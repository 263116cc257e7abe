//! The events of one session: a ring of the newest, and cursors into it.
//!
//! A follower holds a cursor, not a queue: a slow one costs nothing and is told that it has lost its place. What is for
//! one connection's holder alone is not in the ring but on a lane of its own, however many are told at once: it wakes
//! nobody else and takes nobody's place from them. All events are numbered together.
//!
//! Memory per session: [`RING`] events of at most about 1 KiB, 100 bytes mostly; on the lanes at most [`LANE`] events per
//! place in the session, of some 600 bytes with their lane, none that is older than [`KEPT_MS`], and none of a name that
//! nobody can come back to and nobody follows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::event::{Audience, Event, Numbered};
use crate::webrtc::ResourceId;

/// Events kept for those who come back.
pub const RING: usize = 256;
/// Events kept of one lane.
const LANE: usize = 4;
/// For how long they are kept: ten times as long as a connection that is lost can be come back to.
const KEPT_MS: u64 = 600_000;

/// The events of one session. Clones share them.
#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

impl Hub {
    /// Without events yet, for a session of so many places.
    pub(crate) fn new(places: usize) -> Self {
        let ring = Ring { max_private: places.saturating_mul(LANE), ..Ring::default() };
        Self { shared: Arc::new(Shared { ring: Mutex::new(ring), news: Notify::new() }) }
    }

    /// Follows the session: what comes after the event numbered `after`, or from now on.
    pub fn subscribe(&self, after: Option<u64>) -> Subscription {
        let cursor = after.unwrap_or_else(|| self.head());
        Subscription { shared: self.shared.clone(), cursor, private: cursor, lane: None }
    }

    /// The number of the newest event; 0 before the first.
    pub fn head(&self) -> u64 {
        self.shared.ring().head
    }

    /// Adds an event. Nothing is added once the session is over.
    pub(crate) fn publish(&self, ts: u64, audience: Audience, event: Event) -> Option<Arc<Numbered>> {
        let (numbered, lane) = {
            let mut ring = self.shared.ring();
            if ring.over {
                return None;
            }
            ring.head += 1;
            let numbered = Arc::new(Numbered { seq: ring.head, ts, audience, event });
            let lane = match numbered.audience {
                Audience::Leg(name) => Some(ring.push_private(name, numbered.clone())),
                _ => {
                    ring.push(numbered.clone());
                    None
                }
            };
            ring.forget_private(ts);
            (numbered, lane)
        };
        lane.as_deref().unwrap_or(&self.shared.news).notify_waiters();
        Some(numbered)
    }

    /// Nobody has this name any more, or comes back to it: what was for its holder alone goes, unless somebody is just
    /// reading it.
    pub(crate) fn forget(&self, name: ResourceId) {
        self.shared.ring().clear_lane(name);
    }

    /// How many names something is kept for.
    #[cfg(test)]
    pub(crate) fn lanes(&self) -> usize {
        self.shared.ring().lanes.len()
    }

    /// The session is over: followers read what there is, then hear [`Next::Over`].
    pub(crate) fn close(&self) {
        self.shared.ring().over = true;
        self.shared.news.notify_waiters();
    }
}

/// One follower's place among the events.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    /// The number of the last event read or passed over.
    cursor: u64,
    /// The same of those on the lane.
    private: u64,
    lane: Option<(ResourceId, Arc<Notify>)>,
}

impl Subscription {
    /// From now on also what is for the holder of this name alone: what comes after the last event that was read.
    pub fn follow(&mut self, name: ResourceId) {
        if self.lane.as_ref().is_some_and(|(before, _)| *before == name) {
            return;
        }
        self.leave();
        self.private = self.private.max(self.cursor);
        self.lane = Some((name, self.shared.ring().lanes.entry(name).or_default().news.clone()));
    }

    /// What comes next. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Next {
        let shared = self.shared.clone();
        let lane = self.lane.as_ref().map(|(_, news)| news.clone());
        loop {
            // From here on nothing that is published goes unnoticed.
            let news = shared.news.notified();
            let own = lane.as_ref().map(|news| news.notified());
            if let Some(next) = self.take() {
                return next;
            }
            let own = async {
                match own {
                    Some(own) => own.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = news => {}
                () = own => {}
            }
        }
    }

    /// The number of the last event read or passed over.
    pub fn position(&self) -> u64 {
        self.cursor.max(self.private)
    }

    /// What comes next, if it is there already. What was for this follower alone comes before the news that others'
    /// events are lost.
    pub fn take(&mut self) -> Option<Next> {
        let ring = self.shared.ring();
        let lost = self.cursor > ring.head || self.cursor < ring.dropped;
        let next = if lost { None } else { ring.after(self.cursor) };
        let lane = self.lane.as_ref().and_then(|(name, _)| ring.lanes.get(name));
        let own = lane.and_then(|lane| lane.events.iter().find(|event| event.seq > self.private));
        if let Some(own) = own.filter(|own| next.is_none_or(|next| own.seq < next.seq)) {
            self.private = own.seq;
            return Some(Next::Event(own.clone()));
        }
        if lost {
            (self.cursor, self.private) = (ring.head, ring.head);
            return Some(Next::Lost);
        }
        match next {
            Some(next) => {
                self.cursor = next.seq;
                Some(Next::Event(next.clone()))
            }
            None => ring.over.then_some(Next::Over),
        }
    }

    fn leave(&mut self) {
        let Some((name, news)) = self.lane.take() else { return };
        drop(news);
        self.shared.ring().forget_lane(name);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a follower hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// An event.
    Event(Arc<Numbered>),
    /// The place is not in the ring: the follower needs a snapshot, and goes on after the newest event.
    Lost,
    /// The session has ended and everything was read.
    Over,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// Rung for what is in the ring.
    news: Notify,
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A change is complete in itself: a panic elsewhere leaves nothing half done.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Ring {
    /// At most [`RING`], by their numbers.
    events: VecDeque<Arc<Numbered>>,
    /// The highest number that the ring had and has no more.
    dropped: u64,
    head: u64,
    over: bool,
    /// Of names that somebody follows, or that something was told lately.
    lanes: BTreeMap<ResourceId, Lane>,
    /// What is on the lanes, by number: since when, and on which; at most `max_private`.
    private: BTreeMap<u64, (u64, ResourceId)>,
    max_private: usize,
}

/// What is for one connection's holder alone.
#[derive(Debug, Default)]
struct Lane {
    /// At most [`LANE`], by their numbers.
    events: VecDeque<Arc<Numbered>>,
    /// Those who follow it have a share.
    news: Arc<Notify>,
}

impl Lane {
    fn is_followed(&self) -> bool {
        Arc::strong_count(&self.news) > 1
    }
}

impl Ring {
    fn push(&mut self, event: Arc<Numbered>) {
        if self.events.len() == RING
            && let Some(first) = self.events.pop_front()
        {
            self.dropped = first.seq;
        }
        self.events.push_back(event);
    }

    fn push_private(&mut self, name: ResourceId, event: Arc<Numbered>) -> Arc<Notify> {
        self.private.insert(event.seq, (event.ts, name));
        let lane = self.lanes.entry(name).or_default();
        if lane.events.len() == LANE
            && let Some(first) = lane.events.pop_front()
        {
            self.private.remove(&first.seq);
        }
        lane.events.push_back(event);
        lane.news.clone()
    }

    /// Takes from the lanes what is too much or, at the time `ts`, too old.
    fn forget_private(&mut self, ts: u64) {
        while let Some((&seq, &(told, name))) = self.private.first_key_value()
            && (self.private.len() > self.max_private || told.saturating_add(KEPT_MS) <= ts)
        {
            self.private.pop_first();
            if let Some(lane) = self.lanes.get_mut(&name) {
                lane.events.pop_front_if(|first| first.seq <= seq);
            }
            self.forget_lane(name);
        }
    }

    /// Takes all from a lane that nobody follows.
    fn clear_lane(&mut self, name: ResourceId) {
        let Some(lane) = self.lanes.get_mut(&name).filter(|lane| !lane.is_followed()) else { return };
        for event in lane.events.drain(..) {
            self.private.remove(&event.seq);
        }
        self.forget_lane(name);
    }

    /// A lane with nothing on it that nobody follows is none.
    fn forget_lane(&mut self, name: ResourceId) {
        let unused = |lane: &Lane| lane.events.is_empty() && !lane.is_followed();
        if self.lanes.get(&name).is_some_and(unused) {
            self.lanes.remove(&name);
        }
    }

    fn after(&self, cursor: u64) -> Option<&Arc<Numbered>> {
        self.events.get(self.events.partition_point(|event| event.seq <= cursor))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn publish(hub: &Hub, times: usize) {
        for _ in 0..times {
            hub.publish(1, Audience::Everyone, Event::SessionPaused {}).unwrap();
        }
    }

    /// Everything there is to hear now: the numbers of events, 0 for a lost place.
    fn drain(subscription: &mut Subscription) -> (Vec<u64>, bool) {
        let mut seen = Vec::new();
        while let Some(next) = subscription.take() {
            match next {
                Next::Event(event) => seen.push(event.seq),
                Next::Lost => seen.push(0),
                Next::Over => return (seen, true),
            }
        }
        (seen, false)
    }

    #[test]
    fn numbers_count_from_one_and_a_new_follower_hears_what_is_new() {
        let hub = Hub::new(2);
        assert_eq!(hub.head(), 0);
        publish(&hub, 2);
        let mut subscription = hub.subscribe(None);
        publish(&hub, 2);
        assert_eq!(drain(&mut subscription), (vec![3, 4], false));
        assert_eq!((hub.head(), subscription.position()), (4, 4));
    }

    #[test]
    fn who_comes_back_hears_what_they_missed() {
        let hub = Hub::new(2);
        publish(&hub, 300);
        assert_eq!(drain(&mut hub.subscribe(Some(298))), (vec![299, 300], false));
        assert_eq!(drain(&mut hub.subscribe(Some(300))), (vec![], false));
        // The oldest that the ring can serve, and the one before.
        assert_eq!(drain(&mut hub.subscribe(Some(300 - 256))).0.len(), 256);
        assert_eq!(drain(&mut hub.subscribe(Some(300 - 257))), (vec![0], false));
        assert_eq!(drain(&mut hub.subscribe(Some(0))), (vec![0], false));
    }

    #[test]
    fn a_number_that_was_never_given_is_a_lost_place() {
        let hub = Hub::new(2);
        publish(&hub, 3);
        for after in [4, u64::MAX] {
            let mut subscription = hub.subscribe(Some(after));
            assert_eq!(drain(&mut subscription), (vec![0], false));
            publish(&hub, 1);
            assert_eq!(drain(&mut subscription).0.len(), 1);
        }
    }

    #[test]
    fn a_slow_follower_is_told_once_and_goes_on_at_the_head() {
        let hub = Hub::new(2);
        let mut subscription = hub.subscribe(None);
        publish(&hub, 257);
        assert_eq!(drain(&mut subscription), (vec![0], false));
        publish(&hub, 256);
        let (seen, _) = drain(&mut subscription);
        assert_eq!((seen.len(), seen[0], seen[255]), (256, 258, 513));
    }

    #[test]
    fn over_comes_after_the_last_event_and_nothing_after_it() {
        let hub = Hub::new(2);
        let mut subscription = hub.subscribe(None);
        publish(&hub, 1);
        hub.close();
        assert!(hub.publish(1, Audience::Everyone, Event::SessionPaused {}).is_none());
        assert_eq!(drain(&mut subscription), (vec![1], true));
        assert_eq!(drain(&mut subscription), (vec![], true));
        assert_eq!(drain(&mut hub.subscribe(Some(9))), (vec![0], true));
    }

    #[test]
    fn a_ring_holds_no_more_than_it_says() {
        let hub = Hub::new(2);
        publish(&hub, 10 * RING);
        assert_eq!(hub.shared.ring().events.len(), RING);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_an_event_and_by_the_end() {
        let hub = Hub::new(2);
        let mut subscription = hub.subscribe(None);
        {
            // A wait that was given up loses nothing.
            let mut waiting = std::pin::pin!(subscription.next());
            let pending =
                std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending()));
            assert!(pending.await);
        }
        let follower = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Next::Event(event) = subscription.next().await {
                seen.push(event.seq);
            }
            seen
        });
        for _ in 0..3 {
            publish(&hub, 1);
            tokio::task::yield_now().await;
        }
        hub.close();
        assert_eq!(follower.await.unwrap(), [1, 2, 3]);
    }

    fn name(number: u8) -> ResourceId {
        format!("{number:032x}").parse().unwrap()
    }

    fn tell(hub: &Hub, number: u8) -> u64 {
        tell_at(hub, 1, number)
    }

    fn tell_at(hub: &Hub, ts: u64, number: u8) -> u64 {
        let event = Event::ConnectionRefreshComplete { position: 1, replayed: 0, gap_frames: 0, attempts: 1 };
        hub.publish(ts, Audience::Leg(name(number)), event).unwrap().seq
    }

    #[test]
    fn what_is_for_one_alone_takes_nobodys_place() {
        let hub = Hub::new(1000);
        let (mut other, mut own) = (hub.subscribe(None), hub.subscribe(None));
        own.follow(name(7));
        publish(&hub, 1);
        let earlier: Vec<u64> = (0..200).map(|number| tell(&hub, number)).collect();
        let numbers: Vec<u64> = (0..200).map(|number| tell(&hub, number)).collect();
        publish(&hub, 1);
        assert_eq!(drain(&mut other), (vec![1, 402], false));
        assert_eq!(drain(&mut own), (vec![1, earlier[7], numbers[7], 402], false));
        assert_eq!((own.position(), hub.head()), (402, 402));
        // Who comes back hears what they missed.
        let mut back = hub.subscribe(Some(1));
        back.follow(name(7));
        assert_eq!(drain(&mut back), (vec![earlier[7], numbers[7], 402], false));
        back.follow(name(8));
        assert_eq!(drain(&mut back), (vec![], false));
    }

    #[test]
    fn who_has_lost_their_place_hears_what_was_for_them_alone() {
        let hub = Hub::new(1000);
        let mut own = hub.subscribe(None);
        own.follow(name(7));
        let told = tell(&hub, 7);
        publish(&hub, 300);
        assert_eq!(drain(&mut own), (vec![told, 0], false));
        let told = tell(&hub, 7);
        hub.close();
        assert_eq!(drain(&mut own), (vec![told], true));
    }

    #[test]
    fn lanes_are_bounded_and_go_with_who_follows_them() {
        let hub = Hub::new(2);
        let mut own = hub.subscribe(None);
        own.follow(name(7));
        assert_eq!((0..100).map(|_| tell(&hub, 7)).max(), Some(100));
        assert_eq!(drain(&mut own).0, [97, 98, 99, 100]);
        assert_eq!((8..200).map(|number| tell(&hub, number)).max(), Some(292));
        let counts = |hub: &Hub| {
            let ring = hub.shared.ring();
            (ring.lanes.len(), ring.lanes.values().map(|lane| lane.events.len()).sum(), ring.private.len())
        };
        assert_eq!(counts(&hub), (1 + 2 * LANE, 2 * LANE, 2 * LANE));
        drop(own);
        assert_eq!(counts(&hub), (2 * LANE, 2 * LANE, 2 * LANE));
    }

    #[test]
    fn what_was_for_one_alone_is_forgotten_in_time() {
        let hub = Hub::new(1000);
        let mut own = hub.subscribe(None);
        own.follow(name(7));
        (0..200).for_each(|number| _ = tell_at(&hub, u64::from(number), number));
        let lanes = |hub: &Hub| {
            let ring = hub.shared.ring();
            (ring.lanes.len(), ring.private.len())
        };
        assert_eq!(lanes(&hub), (200, 200));
        let last = tell_at(&hub, KEPT_MS + 98, 7);
        assert_eq!(lanes(&hub), (102, 102), "number 7 is followed and told anew");
        hub.publish(2 * KEPT_MS + 97, Audience::Everyone, Event::SessionPaused {}).unwrap();
        assert_eq!(lanes(&hub), (1, 1));
        assert_eq!(drain(&mut own), (vec![last, last + 1], false));
        hub.publish(2 * KEPT_MS + 98, Audience::Everyone, Event::SessionPaused {}).unwrap();
        assert_eq!(lanes(&hub), (1, 0), "who is there has a lane");
        drop(own);
        assert_eq!(lanes(&hub), (0, 0));
    }

    #[test]
    fn what_was_for_one_alone_goes_with_their_name() {
        let hub = Hub::new(1000);
        let mut own = hub.subscribe(None);
        own.follow(name(7));
        let told = (0..100).map(|_| (tell(&hub, 7), tell(&hub, 8)).0).max().unwrap();
        let lanes = |hub: &Hub| {
            let ring = hub.shared.ring();
            (ring.lanes.len(), ring.private.len())
        };
        assert_eq!(lanes(&hub), (2, 2 * LANE));
        (6..9).for_each(|number| hub.forget(name(number)));
        assert_eq!(lanes(&hub), (1, LANE), "somebody reads it");
        assert_eq!(drain(&mut own).0.last(), Some(&told));
        drop(own);
        hub.forget(name(7));
        assert_eq!(lanes(&hub), (0, 0));
    }

    #[tokio::test]
    async fn what_is_for_one_alone_wakes_them_and_nobody_else() {
        let hub = Hub::new(2);
        let (mut own, mut other) = (hub.subscribe(None), hub.subscribe(None));
        own.follow(name(7));
        other.follow(name(8));
        let (woken, mut waiting) = (tell(&hub, 9), std::pin::pin!(other.next()));
        assert_eq!(woken, 1);
        let mut hears = std::pin::pin!(own.next());
        let pending = |future: &mut std::pin::Pin<&mut dyn Future<Output = Next>>| {
            let waker = std::task::Waker::noop();
            future.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending()
        };
        assert!(pending(&mut (waiting.as_mut() as _)) && pending(&mut (hears.as_mut() as _)));
        let told = tell(&hub, 7);
        assert!(pending(&mut (waiting.as_mut() as _)));
        let Next::Event(event) = hears.await else { panic!("an event") };
        assert_eq!(event.seq, told);
    }
}
