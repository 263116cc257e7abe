//! The events of all sessions as one bounded stream, for those who pass them on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::session::event::Numbered;
use crate::session::id::SessionId;

/// Events that may wait for a reader of the feed, shared by all readers; beyond, the oldest are lost and counted.
/// About 100 bytes each.
pub const FEED: usize = 4096;

/// A reader of the events of all sessions.
#[derive(Debug)]
pub struct Feed {
    events: broadcast::Receiver<(SessionId, Arc<Numbered>)>,
    lost: Arc<AtomicU64>,
}

impl Feed {
    /// The next event, in the order of the changes; `None` once the directory is gone. What a slow reader has lost is
    /// counted ([`Counts::feed_lost`](crate::session::Counts)) and passed over. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(SessionId, Arc<Numbered>)> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(lost)) => {
                    self.lost.fetch_add(lost, Ordering::Relaxed);
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct FeedSender {
    events: broadcast::Sender<(SessionId, Arc<Numbered>)>,
    pub(super) lost: Arc<AtomicU64>,
}

impl FeedSender {
    pub(crate) fn new() -> Self {
        Self { events: broadcast::Sender::new(FEED), lost: Arc::default() }
    }

    pub(crate) fn subscribe(&self) -> Feed {
        Feed { events: self.events.subscribe(), lost: self.lost.clone() }
    }

    pub(crate) fn send(&self, session: &SessionId, event: Arc<Numbered>) {
        // An error says that nobody reads.
        let _readers = self.events.send((session.clone(), event)).is_ok();
    }
}
