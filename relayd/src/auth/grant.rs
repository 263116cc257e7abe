//! Who calls, and what their token grants. Plain data: made by the verification, judged by `access.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::SessionAccess;
use crate::session::Language;

/// What a token lets its holder be, claim `relay.role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Creates sessions, speaks in them and runs them.
    Speak,
    /// Listens.
    Listen,
    /// Runs a session and listens; does not speak.
    Moderate,
    /// Everything, in the sessions that the token covers.
    Admin,
}

impl Role {
    /// The name, as in tokens and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Speak => "speak",
            Self::Listen => "listen",
            Self::Moderate => "moderate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which sessions a token is for, claim `relay.session`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The claim is absent: sessions that the same subject created.
    Own,
    /// `*`: sessions that any subject of the same issuer created.
    Issuer,
    /// An id: that one session, whoever created it.
    Session(String),
}

/// Whom a token speaks of: claims `iss` and `sub`. A subject is known by both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Who issued the token.
    pub issuer: String,
    /// Whom the issuer means.
    pub subject: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.issuer, self.subject)
    }
}

/// What a verified token grants. It holds no part of the token that could be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whom it was issued to.
    pub subject: Subject,
    /// Claim `jti`.
    pub token_id: Option<String>,
    /// Claim `relay.role`.
    pub role: Role,
    /// Claim `relay.session`.
    pub scope: Scope,
    /// Claim `relay.languages`: the only ones to publish in or listen to; `None`: all.
    pub languages: Option<Vec<Language>>,
    /// Claim `relay.takeover`: may take a speaker's place.
    pub takeover: bool,
    /// Claim `exp`, on this process's clock.
    pub expires: Instant,
}

impl Grant {
    /// Whether the token is for this session.
    pub fn covers(&self, session: &SessionAccess) -> bool {
        match &self.scope {
            Scope::Session(id) => session.id.as_str() == id,
            Scope::Issuer => session.owner.as_ref().is_some_and(|owner| owner.issuer == self.subject.issuer),
            Scope::Own => session.owner.as_ref() == Some(&self.subject),
        }
    }

    /// Whether the token lets its holder publish in or listen to this language, in any case of letters.
    ///
    /// `None` is a session's own default language, which a token limited to some languages does not name.
    pub fn speaks(&self, language: Option<&str>) -> bool {
        let Some(allowed) = &self.languages else { return true };
        // Tags differ from their canonical form by case alone.
        language.is_some_and(|tag| allowed.iter().any(|known| known.as_str().eq_ignore_ascii_case(tag)))
    }
}

/// Who makes a call.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Somebody, at a relay without keys: everything is allowed.
    Open,
    /// Nobody in particular: no token, at a relay that has keys.
    Anonymous,
    /// The holder of a verified token.
    Token(Arc<Grant>),
}

impl Caller {
    /// What the token grants.
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        match self {
            Self::Token(grant) => Some(grant),
            Self::Open | Self::Anonymous => None,
        }
    }

    /// Whom the token was issued to.
    pub fn subject(&self) -> Option<&Subject> {
        self.grant().map(|grant| &grant.subject)
    }

    /// Whether this caller runs the session: sees what its staff sees. Anonymous callers and listeners do not.
    pub fn is_staff(&self, session: &SessionAccess) -> bool {
        match self {
            Self::Open => true,
            Self::Anonymous => false,
            Self::Token(grant) => grant.role != Role::Listen && grant.covers(session),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Token(grant) => write!(f, "{} ({})", grant.subject, grant.role),
        }
    }
}
