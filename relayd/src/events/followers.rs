//! What all sockets and streams of a relay share.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::streams::Streams;
use super::ticket::Tickets;
use crate::config;

/// The followers of all sessions of this relay.
#[derive(Debug)]
pub struct Followers {
    /// The configuration's section.
    pub settings: config::Events,
    /// How long a connection outlives its token.
    pub grace: Duration,
    /// Resume tickets.
    pub tickets: Tickets,
    /// Streams of server-sent events.
    pub streams: Streams,
    /// A name for this process.
    pub node: String,
    /// When it began to count, in Unix milliseconds.
    pub epoch: u64,
    /// Whether the relay stops.
    draining: watch::Sender<bool>,
}

impl Followers {
    /// None yet.
    pub fn new(config: &config::Config) -> Self {
        let settings = config.events.clone();
        Self {
            tickets: Tickets::new(settings.resume_window, settings.max_tickets),
            streams: Streams::new(settings.max_streams, settings.max_streams_per_leg),
            settings,
            grace: config.auth.grace,
            node: format!("n-{:08x}", rand::random::<u32>()),
            epoch: unix_ms(),
            draining: watch::Sender::new(false),
        }
    }

    /// Sends everybody away, now and from now on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Resolves when everybody is sent away.
    pub async fn drained(&self) {
        let mut draining = self.draining.subscribe();
        // The sender is ours: this does not fail.
        let _seen = draining.wait_for(|draining| *draining).await.is_ok();
    }

    /// Whether a token that expired then is over for good.
    pub fn is_over(&self, now: Instant, expires: Instant) -> bool {
        now >= expires + self.grace
    }
}

/// The wall's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
