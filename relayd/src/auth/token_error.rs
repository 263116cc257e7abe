//! Why a token is not taken: told to its holder, counted for the operator.

use thiserror::Error;

/// Why a token is not taken. The text is for its holder and says nothing about keys.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// More than 4 KiB.
    #[error("the token is longer than {} bytes", super::MAX_TOKEN_BYTES)]
    TooLong,
    /// Not a signed JWT.
    #[error("this is not a token: {0}")]
    Malformed(&'static str),
    /// An algorithm that no key of ours is for, or not the one that is meant.
    #[error("the token is signed with an algorithm that this relay does not take for this key")]
    Algorithm,
    /// No key of ours is meant.
    #[error("the token is signed with a key that this relay does not know")]
    UnknownKey,
    /// The key did not make the signature.
    #[error("the token's signature is wrong")]
    Signature,
    /// A claim is missing, of the wrong type, or means nothing.
    #[error("the token's claims cannot be used: {0}")]
    Claims(String),
    /// After `exp`.
    #[error("the token expired {seconds} s ago")]
    Expired {
        /// How long ago.
        seconds: u64,
    },
    /// Before `nbf`.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `aud` names others.
    #[error("the token is for another audience")]
    Audience,
    /// `iss` is not one of those that the relay takes.
    #[error("the token's issuer is not one that this relay takes")]
    Issuer,
    /// The issuer's keys could not be got. Not the token's fault.
    #[error("the keys that would verify the token cannot be got at the moment")]
    KeysUnavailable,
}

impl TokenError {
    /// Every [`TokenError::reason`].
    pub const REASONS: [&'static str; 11] = [
        "too_long",
        "malformed",
        "algorithm",
        "unknown_key",
        "signature",
        "claims",
        "expired",
        "not_yet_valid",
        "audience",
        "issuer",
        "keys_unavailable",
    ];

    /// A short name from a fixed list, for metrics.
    pub fn reason(&self) -> &'static str {
        Self::REASONS[self.index()]
    }

    /// Whether the relay is at fault and waiting may help: 503 rather than 401.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::KeysUnavailable)
    }

    /// Claims that cannot be used, by what the parser says. Bounded: it quotes the token.
    pub(super) fn claims(why: String) -> Self {
        Self::Claims(why.chars().filter(|c| !c.is_control()).take(200).collect())
    }

    /// The place of the reason in the list.
    pub(super) fn index(&self) -> usize {
        match self {
            Self::TooLong => 0,
            Self::Malformed(_) => 1,
            Self::Algorithm => 2,
            Self::UnknownKey => 3,
            Self::Signature => 4,
            Self::Claims(_) => 5,
            Self::Expired { .. } => 6,
            Self::NotYetValid => 7,
            Self::Audience => 8,
            Self::Issuer => 9,
            Self::KeysUnavailable => 10,
        }
    }
}
