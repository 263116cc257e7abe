//! Why a session, or the directory of them, refused.

use thiserror::Error;

use super::id::SessionId;
use super::language::Language;
use super::status::Status;

/// Why the directory refused. Messages name the status seen where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No such session.
    #[error("there is no session {id:?}")]
    NotFound {
        /// The name asked for, shortened.
        id: String,
    },
    /// The session is over.
    #[error("the session {id} has status ended")]
    Ended {
        /// Its name.
        id: SessionId,
    },
    /// The session has another status than this takes.
    #[error("the session {id} has status {status}; this takes status {wanted}")]
    WrongStatus {
        /// The session.
        id: SessionId,
        /// The status seen.
        status: Status,
        /// The status that it takes.
        wanted: Status,
    },
    /// The session has no such track.
    #[error("the session {id} has no language {language:?}; it has {known}")]
    LanguageNotFound {
        /// The session.
        id: SessionId,
        /// The language asked for, shortened.
        language: String,
        /// Those there are.
        known: String,
    },
    /// The session has this track already.
    #[error("the session {id} (status {status}) has the language {language} already")]
    LanguageExists {
        /// The session.
        id: SessionId,
        /// The track.
        language: Language,
        /// The status seen.
        status: Status,
    },
    /// The track is the one that the session is about.
    #[error(
        "{language} is the source language of the session {id} (status {status}): it stays until the end"
    )]
    SourceLanguage {
        /// The session.
        id: SessionId,
        /// The track.
        language: Language,
        /// The status seen.
        status: Status,
    },
    /// The session has as many languages as it may have.
    #[error("the session {id} has its {max} languages, as many as sessions.max_languages allows")]
    LanguagesFull {
        /// The session.
        id: SessionId,
        /// The limit.
        max: usize,
    },
    /// Somebody publishes this track already.
    #[error(
        "the track {language} of the session {id} (status {status}) has a publisher already; its place goes to a resume secret, or a token with takeover"
    )]
    SpeakerExists {
        /// The session.
        id: SessionId,
        /// The track.
        language: Language,
        /// The status seen.
        status: Status,
    },
    /// The session has as many listeners as it may have.
    #[error("the session {id} has its {max} listeners, as many as sessions.max_listeners allows")]
    ListenersFull {
        /// The session.
        id: SessionId,
        /// The limit.
        max: usize,
    },
    /// The ticket is none of this session, role and language, or of another subject, or was used by somebody who is connected, or is too old.
    #[error(
        "the ticket is not good for this in the session {id}; each is good for one connection, and for a minute after the one that it was given to"
    )]
    Ticket {
        /// The session.
        id: SessionId,
    },
    /// The resume secret is not that of the session, or the session has none.
    #[error("the resume secret is not that of the session {id}; without one, only a free place is given")]
    Secret {
        /// The session.
        id: SessionId,
    },
    /// The session has as many connections that follow its events as it may have.
    #[error("the session {id} has its {max} followers with tokens, twice as many as sessions.max_listeners")]
    FollowersFull {
        /// The session.
        id: SessionId,
        /// The limit.
        max: usize,
    },
    /// There are as many sessions as there may be.
    #[error("there are {max} sessions, as many as sessions.max allows")]
    SessionsFull {
        /// The limit.
        max: usize,
    },
    /// Subjects of one issuer have as many sessions as they may have.
    #[error("there are {max} sessions of this token's issuer, as many as sessions.max_per_issuer allows")]
    IssuerFull {
        /// The limit.
        max: usize,
    },
}
