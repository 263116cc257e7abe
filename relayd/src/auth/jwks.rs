//! Public keys by https: asked for when needed, kept while the issuer cannot be reached.
//!
//! [`Cache`] decides and is pure; [`RemoteKeys`] asks. At most one request is under way, none comes sooner than
//! [`RETRY`] after the last (so that unknown key names in forged tokens cost the issuer nothing), and tokens that a
//! kept key verifies do not wait for an issuer that hangs.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::TokenError;
use super::key::{Algorithm, Key, KeySet};

/// Keys older than this are asked for again.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// Up to here that happens behind the token that noticed; later, before it.
const STALE: Duration = Duration::from_secs(10 * 60);
/// The last good answer is used for so long.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Between two requests.
const RETRY: Duration = Duration::from_secs(30);
/// The same while there are no keys at all.
const RETRY_WITHOUT_KEYS: Duration = Duration::from_secs(5);

/// Asks for the text of the key set.
pub(super) type Fetch =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>> + Send + Sync>;

/// The keys of an https address.
pub(super) struct RemoteKeys {
    fetch: Fetch,
    cache: Mutex<Cache>,
    flight: tokio::sync::Mutex<()>,
    refreshed: AtomicU64,
    failed: AtomicU64,
}

impl RemoteKeys {
    pub(super) fn new(fetch: Fetch) -> Arc<Self> {
        Arc::new(Self {
            fetch,
            cache: Mutex::default(),
            flight: tokio::sync::Mutex::new(()),
            refreshed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// The key that a header means.
    pub(super) async fn find(
        self: &Arc<Self>,
        now: Instant,
        algorithm: Algorithm,
        kid: Option<&str>,
    ) -> Result<Key, TokenError> {
        let (found, need) = self.with(|cache| cache.look(now, algorithm, kid));
        match need {
            Need::Nothing => found,
            Need::Behind => {
                drop(tokio::spawn(self.clone().refresh(now)));
                found
            }
            Need::First => {
                self.refreshed(now).await;
                self.with(|cache| cache.look(now, algorithm, kid)).0
            }
        }
    }

    /// Asks for the keys if that is due, and waits for the answer.
    pub(super) async fn refreshed(self: &Arc<Self>, now: Instant) {
        // A task of its own: who waits may go away, and the answer is still kept.
        if let Err(error) = tokio::spawn(self.clone().refresh(now)).await {
            tracing::error!(%error, "asking for the key set failed");
        }
    }

    /// Requests answered with usable keys, and others.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.refreshed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    async fn refresh(self: Arc<Self>, now: Instant) {
        let _flight = self.flight.lock().await;
        if !self.with(|cache| cache.start(now)) {
            return;
        }
        let text = (self.fetch)().await;
        match text.and_then(|text| KeySet::parse(&text)) {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), skipped = ?keys.skipped, "key set refreshed");
                self.refreshed.fetch_add(1, Ordering::Relaxed);
                self.with(|cache| cache.succeeded(now, keys));
            }
            Err(why) => {
                tracing::warn!(%why, "the key set could not be refreshed");
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.with(Cache::failed);
            }
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Cache) -> R) -> R {
        act(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeys").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// What is known, and when it was asked for.
#[derive(Debug, Default)]
struct Cache {
    keys: Option<(KeySet, Instant)>,
    asked: Option<Instant>,
    /// The answer to that is not there yet.
    asking: bool,
    last_failed: bool,
}

/// Whether to ask for the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// And answer meanwhile.
    Behind,
    /// And answer then.
    First,
}

impl Cache {
    /// What can be said of a key now, and whether asking would say more.
    fn look(&self, now: Instant, algorithm: Algorithm, kid: Option<&str>) -> (Result<Key, TokenError>, Need) {
        let if_due = |need| if self.is_due(now) { need } else { Need::Nothing };
        // Who comes while the answer is under way waits for it rather than hear that there is no such key.
        let if_due_or_asking = |need| if self.asking { need } else { if_due(need) };
        let Some((keys, age)) = self.kept(now) else {
            return (Err(TokenError::KeysUnavailable), if_due_or_asking(Need::First));
        };
        let found = keys.find(algorithm, kid).cloned();
        let need = match &found {
            Ok(_) if age < FRESH => Need::Nothing,
            Ok(_) if age < STALE || self.last_failed => if_due(Need::Behind),
            Ok(_) => if_due(Need::First),
            Err(TokenError::UnknownKey) => if_due_or_asking(Need::First),
            Err(_) => Need::Nothing,
        };
        (found, need)
    }

    /// Whether to ask now; if so, that is the time of the last request from here on.
    fn start(&mut self, now: Instant) -> bool {
        let due = self.is_due(now);
        if due {
            (self.asked, self.asking) = (Some(now), true);
        }
        due
    }

    fn succeeded(&mut self, now: Instant, keys: KeySet) {
        self.keys = Some((keys, now));
        (self.asking, self.last_failed) = (false, false);
    }

    fn failed(&mut self) {
        (self.asking, self.last_failed) = (false, true);
    }

    fn is_due(&self, now: Instant) -> bool {
        let pause = if self.kept(now).is_some() { RETRY } else { RETRY_WITHOUT_KEYS };
        self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= pause)
    }

    fn kept(&self, now: Instant) -> Option<(&KeySet, Duration)> {
        let (keys, since) = self.keys.as_ref()?;
        let age = now.saturating_duration_since(*since);
        (age < KEPT).then_some((keys, age))
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
