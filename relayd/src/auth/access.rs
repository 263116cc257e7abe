//! Who may do what: one pure function that every surface asks.
//!
//! It sees the caller, the session as far as it concerns access, and the action; nothing else decides. Strangers
//! learn nothing: a session that is not theirs answers as one that does not exist.

use thiserror::Error;

use super::{Caller, Grant, Role, Scope, Subject};
use crate::session::SessionId;

/// What of a session decides who may do what with it. Kept for as long as the id is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionAccess {
    /// Its id.
    pub id: SessionId,
    /// Who created it; `None` at an open relay and for the demo session.
    pub owner: Option<Subject>,
    /// Whether anybody may listen.
    pub anonymous_listeners: bool,
}

/// What a call is about to do. Languages as written in the address; `None`: the session's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Create a session.
    Create,
    /// See its state.
    Read,
    /// Pause, resume or end it, add or remove a language.
    Manage,
    /// Feed a track.
    Publish(Option<&'a str>),
    /// Listen to a track.
    Listen(Option<&'a str>),
    /// Follow its events.
    Events,
}

/// Decides whether the caller may do this to the session; `None`: no such session.
///
/// | caller | create | read, events | listen | manage | publish |
/// |---|---|---|---|---|---|
/// | open | yes | yes | yes | yes | yes |
/// | anonymous | 401 | if anonymous listeners, else 401 | the same | 401 | 401 |
/// | token, session not covered or unknown | – | if anonymous listeners, else 404 | the same | 404 | 404 |
/// | `speak` | unless for one session | yes | in its languages | yes | in its languages |
/// | `listen` | 403 | yes | in its languages | 403 | 403 |
/// | `moderate` | 403 | yes | in its languages | yes | 403 |
/// | `admin` | unless for one session | yes | in its languages | yes | in its languages |
///
/// Where anybody may listen, a token opens no less than none would.
pub fn decide(caller: &Caller, session: Option<&SessionAccess>, action: Action<'_>) -> Result<(), Denied> {
    let grant = match caller {
        Caller::Open => return Ok(()),
        Caller::Anonymous => {
            return if for_everybody(session, action) { Ok(()) } else { Err(Denied::Unauthorized) };
        }
        Caller::Token(grant) => grant,
    };
    if action == Action::Create {
        return create(grant);
    }
    if for_everybody(session, action) {
        return Ok(());
    }
    match session {
        Some(session) if grant.covers(session) => within(grant, action),
        _ => Err(Denied::NotFound),
    }
}

/// Listening and what goes with it, in a session that lets anybody.
fn for_everybody(session: Option<&SessionAccess>, action: Action<'_>) -> bool {
    matches!(action, Action::Read | Action::Listen(_) | Action::Events)
        && session.is_some_and(|session| session.anonymous_listeners)
}

fn create(grant: &Grant) -> Result<(), Denied> {
    if !matches!(grant.role, Role::Speak | Role::Admin) {
        return Err(Denied::Forbidden("creating a session takes a token with the role speak or admin"));
    }
    if matches!(grant.scope, Scope::Session(_)) {
        return Err(Denied::Forbidden("the token is for one session and cannot create another"));
    }
    Ok(())
}

/// What the role and the languages of a token allow in a session that it covers.
fn within(grant: &Grant, action: Action<'_>) -> Result<(), Denied> {
    let language = match action {
        Action::Create | Action::Read | Action::Events => return Ok(()),
        Action::Manage if grant.role == Role::Listen => {
            return Err(Denied::Forbidden("running a session takes the role speak, moderate or admin"));
        }
        Action::Manage => return Ok(()),
        Action::Publish(_) if !matches!(grant.role, Role::Speak | Role::Admin) => {
            return Err(Denied::Forbidden("publishing takes a token with the role speak or admin"));
        }
        Action::Publish(language) | Action::Listen(language) => language,
    };
    match language {
        _ if grant.speaks(language) => Ok(()),
        Some(_) => Err(Denied::Forbidden("the token is not for this language")),
        None => Err(Denied::Forbidden("the token is for some languages only: name one in the address")),
    }
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denied {
    /// It takes a token.
    #[error("this takes a token")]
    Unauthorized,
    /// No such session, as far as this caller is concerned.
    #[error("no such session")]
    NotFound,
    /// The session is theirs to see, the action is not theirs to take.
    #[error("{0}")]
    Forbidden(&'static str),
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
