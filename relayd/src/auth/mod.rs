//! Who calls, and what they may do.
//!
//! [`Authority`] turns what a caller presents into a [`Caller`]; [`decide`] says what a caller may do. Nothing else
//! in the relay looks at tokens.

mod access;
mod grant;

use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

pub use access::{Action, Denied, SessionAccess, decide};
pub use grant::{Caller, Grant, Role, Scope, Subject};

use crate::config::{self, AuthMode};
use crate::outbound::Outbound;

/// Verifies tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: bool,
    /// For keys that are asked for by https.
    _outbound: Outbound,
}

impl Authority {
    /// An authority with the keys of the configuration.
    pub fn new(config: &config::Auth, outbound: Outbound) -> Result<Self, AuthSetupError> {
        if config.mode == AuthMode::Token {
            return Err(AuthSetupError::Keys("the verification of tokens is not part of this build".into()));
        }
        Ok(Self { inner: Arc::new(Inner { open: true, _outbound: outbound }) })
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.inner.open
    }

    /// Who presents this token, or nothing. An open relay does not look at it.
    pub async fn authenticate(&self, _now: Instant, token: Option<&str>) -> Result<Caller, TokenError> {
        match token {
            _ if self.inner.open => Ok(Caller::Open),
            None => Ok(Caller::Anonymous),
            Some(_) => Err(TokenError::UnknownKey),
        }
    }
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// No key of ours is meant.
    #[error("the token is signed with a key that this relay does not know")]
    UnknownKey,
}

impl TokenError {
    /// A short name from a fixed list, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
        }
    }
}

/// Why there is no authority.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthSetupError {
    /// The keys cannot be used.
    #[error("{0}")]
    Keys(String),
}
