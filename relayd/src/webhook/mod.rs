//! Webhooks: the events of all sessions, POSTed to one address, signed as Standard Webhooks 1.0.0 says.
//!
//! The body is the event as on the WebSocket, with `sessionId` besides. Events of one session arrive in order; an
//! event may arrive twice (then with the same `webhook-id`) and, where the endpoint fails for long, not at all: a
//! bounded queue and a bounded number of tries lose events rather than hold the relay up, and both are counted.

mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::auth::unix_now;
use crate::config;
use crate::outbound::{Outbound, OutboundError};
use crate::session::{Feed, Numbered, SessionId};
use queue::{Failed, Queue, Ticket};

/// Deliveries at one time, each of another session. Fewer than outbound requests: key sets get through.
const AT_ONCE: usize = 4;

/// The sender of webhooks. Cheap to clone; clones share what they count.
#[derive(Debug, Clone)]
pub struct Webhooks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    outbound: Outbound,
    url: String,
    events: Vec<String>,
    limit: usize,
    key: hmac::Key,
    /// Part of every id, so that the ids of two runs of a relay differ.
    run: u32,
    stop: watch::Sender<bool>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    queued: AtomicU64,
    delivered: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Webhooks {
    /// The sender that the configuration asks for; `None`: no address is configured.
    pub fn new(config: &config::Webhooks, outbound: Outbound) -> Option<Self> {
        if config.url.is_empty() {
            return None;
        }
        let shared = Shared {
            outbound,
            url: config.url.clone(),
            events: config.events.clone(),
            limit: config.queue,
            key: hmac::Key::new(hmac::HMAC_SHA256, &config::webhook_key(config.secret.reveal())),
            run: rand::random(),
            stop: watch::Sender::new(false),
            counters: Counters::default(),
        };
        Some(Self { shared: Arc::new(shared) })
    }

    /// Delivers what the feed brings, until there is no more feed or [`Webhooks::stop`] and nothing left that could be
    /// delivered at once.
    pub async fn run(self, mut feed: Feed) {
        let mut queue = Queue::new(self.shared.limit);
        let mut attempts = JoinSet::new();
        let mut stop = self.shared.stop.subscribe();
        let mut open = true;
        loop {
            while attempts.len() < AT_ONCE {
                let Some((ticket, delivery)) = queue.start(Instant::now()) else { break };
                let this = self.clone();
                attempts.spawn(async move { (ticket, this.attempt(unix_now(), delivery).await) });
            }
            self.shared.counters.queued.store(queue.len() as u64, Ordering::Relaxed);
            if (*stop.borrow_and_update() || !open) && attempts.is_empty() && queue.is_idle() {
                return;
            }
            let pause = queue.poll_timeout();
            tokio::select! {
                event = feed.next(), if open => match event {
                    Some((session, event)) => self.take(&mut queue, &session, &event),
                    None => open = false,
                },
                Some(done) = attempts.join_next() => match done {
                    Ok((ticket, result)) => self.settle(&mut queue, ticket, result),
                    // A panic in an attempt; its entry would block the session for ever.
                    Err(error) => {
                        tracing::error!(%error, "webhooks end");
                        return;
                    }
                },
                () = sleep_until(pause.unwrap_or_else(far).into()), if pause.is_some() => {}
                Ok(()) = stop.changed() => {}
            }
        }
    }

    /// From now on what fails is not tried again, and [`Webhooks::run`] ends.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
    }

    /// What was counted since the start.
    pub fn counts(&self) -> WebhookCounts {
        let counters = &self.shared.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WebhookCounts {
            queued: load(&counters.queued),
            delivered: load(&counters.delivered),
            retried: load(&counters.retried),
            failed: load(&counters.failed),
            dropped: load(&counters.dropped),
        }
    }

    fn take(&self, queue: &mut Queue, session: &SessionId, event: &Numbered) {
        let wanted = &self.shared.events;
        if !wanted.is_empty() && !wanted.iter().any(|name| name == event.event.name()) {
            return;
        }
        let delivery = match Delivery::new(self.shared.run, session, event) {
            Ok(delivery) => delivery,
            Err(error) => return tracing::error!(%error, "an event cannot be written"),
        };
        if queue.push(delivery) && self.shared.counters.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                limit = self.shared.limit,
                "webhooks: the queue is full, the oldest events are dropped"
            );
        }
    }

    fn settle(&self, queue: &mut Queue, ticket: Ticket, result: Result<(), OutboundError>) {
        let counters = &self.shared.counters;
        let Err(error) = result else {
            queue.succeed(ticket);
            counters.delivered.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match queue.fail(Instant::now(), ticket, rand::random()) {
            Failed::Later => {
                counters.retried.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "a webhook failed and is tried again");
            }
            Failed::GivenUp => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, tries = queue::TRIES, "a webhook is given up");
            }
        }
    }

    /// One attempt at this time of day.
    async fn attempt(&self, wall: Duration, delivery: Delivery) -> Result<(), OutboundError> {
        let timestamp = wall.as_secs().to_string();
        let headers = vec![
            ("webhook-signature", signature(&self.shared.key, &delivery.id, &timestamp, &delivery.body)),
            ("webhook-id", delivery.id),
            ("webhook-timestamp", timestamp),
        ];
        match self.shared.outbound.post(&self.shared.url, headers, delivery.body).await? {
            200..=299 => Ok(()),
            status => Err(OutboundError::Status(status)),
        }
    }
}

/// What a [`Webhooks`] counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebhookCounts {
    /// Events that wait or are under way, now.
    pub queued: u64,
    /// Events that the endpoint took.
    pub delivered: u64,
    /// Attempts that failed and were followed by another.
    pub retried: u64,
    /// Events given up after the last try.
    pub failed: u64,
    /// Events dropped because the queue was full.
    pub dropped: u64,
}

/// An event on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delivery {
    session: String,
    id: String,
    body: Vec<u8>,
}

impl Delivery {
    fn new(run: u32, session: &SessionId, event: &Numbered) -> Result<Self, serde_json::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            session_id: &'a SessionId,
            #[serde(flatten)]
            event: &'a Numbered,
        }
        let body = serde_json::to_vec(&Body { session_id: session, event })?;
        Ok(Self { session: session.to_string(), id: format!("{run:08x}-{session}-{}", event.seq), body })
    }
}

/// `v1,` and the base64 of HMAC-SHA256 over id, timestamp and body with dots between.
fn signature(key: &hmac::Key, id: &str, timestamp: &str, body: &[u8]) -> String {
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(key, &signed)))
}

/// Where there is no pause to wait for; the branch is off then.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[cfg(test)]
mod tests;
