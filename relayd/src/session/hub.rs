//! The events of one session: a ring of the newest, and cursors into it.
//!
//! A follower holds a cursor, not a queue: a slow one costs nothing and is told that it has lost its place.
//! Memory per session: [`RING`] events of at most about 1 KiB, 100 bytes mostly.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::event::{Audience, Event, Numbered};

/// Events kept for those who come back.
pub const RING: usize = 256;

/// The events of one session. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    shared: Arc<Shared>,
}

impl Hub {
    /// Without events yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Follows the session: what comes after the event numbered `after`, or from now on.
    pub fn subscribe(&self, after: Option<u64>) -> Subscription {
        let cursor = after.unwrap_or_else(|| self.head());
        Subscription { shared: self.shared.clone(), cursor }
    }

    /// The number of the newest event; 0 before the first.
    pub fn head(&self) -> u64 {
        self.shared.ring().head
    }

    /// Adds an event. Nothing is added once the session is over.
    pub(crate) fn publish(&self, ts: u64, audience: Audience, event: Event) -> Option<Arc<Numbered>> {
        let numbered = {
            let mut ring = self.shared.ring();
            if ring.over {
                return None;
            }
            ring.head += 1;
            let numbered = Arc::new(Numbered { seq: ring.head, ts, audience, event });
            if ring.events.len() == RING {
                ring.events.pop_front();
            }
            ring.events.push_back(numbered.clone());
            numbered
        };
        self.shared.news.notify_waiters();
        Some(numbered)
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
}

impl Subscription {
    /// What comes next. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Next {
        let shared = self.shared.clone();
        loop {
            let mut news = std::pin::pin!(shared.news.notified());
            // From here on nothing that is published goes unnoticed.
            news.as_mut().enable();
            if let Some(next) = self.take() {
                return next;
            }
            news.await;
        }
    }

    /// The number of the last event read or passed over.
    pub fn position(&self) -> u64 {
        self.cursor
    }

    /// What comes next, if it is there already.
    pub fn take(&mut self) -> Option<Next> {
        let ring = self.shared.ring();
        let next = self.cursor.saturating_add(1);
        if next > ring.head {
            if self.cursor > ring.head {
                self.cursor = ring.head;
                return Some(Next::Lost);
            }
            return ring.over.then_some(Next::Over);
        }
        let oldest = ring.head + 1 - ring.events.len() as u64;
        let Some(index) = next.checked_sub(oldest) else {
            self.cursor = ring.head;
            return Some(Next::Lost);
        };
        self.cursor = next;
        let index = usize::try_from(index).expect("an index into the ring");
        Some(Next::Event(ring.events[index].clone()))
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

#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring>,
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
    /// At most [`RING`].
    events: VecDeque<Arc<Numbered>>,
    head: u64,
    over: bool,
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
        let hub = Hub::new();
        assert_eq!(hub.head(), 0);
        publish(&hub, 2);
        let mut subscription = hub.subscribe(None);
        publish(&hub, 2);
        assert_eq!(drain(&mut subscription), (vec![3, 4], false));
        assert_eq!((hub.head(), subscription.position()), (4, 4));
    }

    #[test]
    fn who_comes_back_hears_what_they_missed() {
        let hub = Hub::new();
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
        let hub = Hub::new();
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
        let hub = Hub::new();
        let mut subscription = hub.subscribe(None);
        publish(&hub, 257);
        assert_eq!(drain(&mut subscription), (vec![0], false));
        publish(&hub, 256);
        let (seen, _) = drain(&mut subscription);
        assert_eq!((seen.len(), seen[0], seen[255]), (256, 258, 513));
    }

    #[test]
    fn over_comes_after_the_last_event_and_nothing_after_it() {
        let hub = Hub::new();
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
        let hub = Hub::new();
        publish(&hub, 10 * RING);
        assert_eq!(hub.shared.ring().events.len(), RING);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_an_event_and_by_the_end() {
        let hub = Hub::new();
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
}
