//! Who calls, and what they may do.
//!
//! [`Authority`] turns what a caller presents into a [`Caller`]; [`decide`] says what a caller may do. Nothing else
//! in the relay looks at tokens. docs/tokens.md tells issuers what a token must be.

mod access;
mod claims;
mod clock;
mod grant;
mod issue;
mod jwks;
mod key;
mod token_error;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

pub use access::{Action, Denied, SessionAccess, decide};
pub use claims::{AudienceClaim, Claims, MAX_TOKEN_BYTES, RelayClaim, peek};
pub use clock::unix_now;
pub use grant::{Caller, Grant, Role, Scope, Subject};
pub use issue::{IssueError, SigningKey, expiry, random_secret, random_webhook_secret};
pub use key::Algorithm;
pub use token_error::TokenError;

use crate::config::{self, AuthMode, MIN_SECRET_BYTES};
use crate::outbound::Outbound;
use claims::{Parts, Policy};
use jwks::RemoteKeys;
use key::{Key, KeySet};

/// Verifies tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None`: everybody may do everything.
    keys: Option<Keys>,
    policy: Policy,
    accepted: AtomicU64,
    refused: [AtomicU64; TokenError::REASONS.len()],
}

/// The keys of the configuration.
#[derive(Debug)]
struct Keys {
    secret: Option<Key>,
    file: KeySet,
    remote: Option<Arc<RemoteKeys>>,
}

impl Authority {
    /// An authority with the keys of the configuration; files are read here and now.
    pub fn new(config: &config::Auth, outbound: Outbound) -> Result<Self, AuthSetupError> {
        let keys = match config.mode {
            AuthMode::Open => None,
            AuthMode::Token => Some(Keys::of(config, outbound)?),
        };
        Ok(Self::with(keys, config))
    }

    fn with(keys: Option<Keys>, config: &config::Auth) -> Self {
        let policy = Policy {
            audience: config.audience.clone(),
            issuers: config.issuers.clone(),
            leeway: config.leeway,
        };
        let inner = Inner { keys, policy, accepted: AtomicU64::new(0), refused: Default::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.inner.keys.is_none()
    }

    /// Who presents this token, or nothing. An open relay does not look at it.
    pub async fn authenticate(&self, now: Instant, token: Option<&str>) -> Result<Caller, TokenError> {
        self.authenticate_at(now, unix_now(), token).await
    }

    /// The same at a given time of day (since 1970), which `now` stands for.
    pub async fn authenticate_at(
        &self,
        now: Instant,
        wall: Duration,
        token: Option<&str>,
    ) -> Result<Caller, TokenError> {
        let Some(keys) = &self.inner.keys else { return Ok(Caller::Open) };
        let Some(token) = token else { return Ok(Caller::Anonymous) };
        let verified = self.verify(keys, now, wall, token).await;
        match &verified {
            Ok(_) => self.inner.accepted.fetch_add(1, Ordering::Relaxed),
            Err(error) => self.inner.refused[error.index()].fetch_add(1, Ordering::Relaxed),
        };
        verified.map(|grant| Caller::Token(Arc::new(grant)))
    }

    /// Asks for the keys by https, so that the first token need not wait. Failing is logged and counted.
    pub async fn prepare(&self, now: Instant) {
        if let Some(remote) = self.inner.keys.as_ref().and_then(|keys| keys.remote.as_ref()) {
            remote.refreshed(now).await;
        }
    }

    /// What was counted since the start.
    pub fn counts(&self) -> AuthCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let remote = self.inner.keys.as_ref().and_then(|keys| keys.remote.as_ref());
        let (key_refreshes, key_refresh_failures) = remote.map_or((0, 0), |remote| remote.counts());
        let refused = self.inner.refused.iter();
        AuthCounts {
            accepted: load(&self.inner.accepted),
            refused: TokenError::REASONS.into_iter().zip(refused.map(load)).collect(),
            key_refreshes,
            key_refresh_failures,
        }
    }

    async fn verify(
        &self,
        keys: &Keys,
        now: Instant,
        wall: Duration,
        token: &str,
    ) -> Result<Grant, TokenError> {
        let parts = Parts::of(token)?;
        let key = keys.find(now, parts.algorithm, parts.kid.as_deref()).await?;
        key.verify(parts.message, parts.signature)?;
        self.inner.policy.judge(now, wall, parts.claims()?)
    }
}

impl Keys {
    fn of(config: &config::Auth, outbound: Outbound) -> Result<Self, AuthSetupError> {
        let file = match config.jwks_file.as_str() {
            "" => KeySet::default(),
            path => {
                let refuse = |why| AuthSetupError::File { key: "auth.jwks_file", path: path.to_owned(), why };
                let set = KeySet::parse(&read(path).map_err(refuse)?).map_err(refuse)?;
                for skipped in &set.skipped {
                    tracing::warn!(file = path, "not used: {skipped}");
                }
                set
            }
        };
        let url = config.jwks_url.clone();
        let remote = (!url.is_empty()).then(|| {
            RemoteKeys::new(Box::new(move || {
                let (outbound, url) = (outbound.clone(), url.clone());
                Box::pin(async move { outbound.get(&url).await.map_err(|error| format!("{url}: {error}")) })
            }))
        });
        Ok(Self { secret: secret(config)?.map(|secret| Key::secret(secret.as_bytes())), file, remote })
    }

    async fn find(&self, now: Instant, algorithm: Algorithm, kid: Option<&str>) -> Result<Key, TokenError> {
        if algorithm == Algorithm::Hs256 {
            // There is one secret, whatever a token calls it; never a key of a set.
            return self.secret.clone().ok_or(TokenError::Algorithm);
        }
        let found = self.file.find(algorithm, kid).cloned();
        match &self.remote {
            Some(remote) if matches!(found, Err(TokenError::UnknownKey)) => {
                remote.find(now, algorithm, kid).await
            }
            _ => found,
        }
    }
}

/// The shared secret of the configuration, from wherever it says.
pub fn secret(config: &config::Auth) -> Result<Option<String>, AuthSetupError> {
    let path = config.secret_file.as_str();
    if path.is_empty() {
        return Ok((!config.secret.is_empty()).then(|| config.secret.reveal().to_owned()));
    }
    let refuse = |why| AuthSetupError::File { key: "auth.secret_file", path: path.to_owned(), why };
    let text = String::from_utf8(read(path).map_err(refuse)?).map_err(|_| refuse("it is not text".into()))?;
    let secret = text.trim();
    if secret.len() < MIN_SECRET_BYTES {
        let why = format!("the secret has {} bytes, but must have at least {MIN_SECRET_BYTES}", secret.len());
        return Err(refuse(why));
    }
    Ok(Some(secret.to_owned()))
}

/// A small file.
fn read(path: &str) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_KEY_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_KEY_FILE_BYTES {
        return Err(format!("it is longer than {MAX_KEY_FILE_BYTES} bytes"));
    }
    Ok(bytes)
}

/// As much as by https.
const MAX_KEY_FILE_BYTES: u64 = 64 << 10;

/// What an [`Authority`] counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthCounts {
    /// Tokens taken.
    pub accepted: u64,
    /// Tokens refused, by [`TokenError::reason`]; every reason is there.
    pub refused: Vec<(&'static str, u64)>,
    /// Key sets got by https.
    pub key_refreshes: u64,
    /// Attempts that failed.
    pub key_refresh_failures: u64,
}

/// Why there is no authority.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthSetupError {
    /// A file with keys cannot be used.
    #[error("`{key}` ({path}): {why}")]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

#[cfg(test)]
pub(crate) mod tests;
