//! Who a client is: by the token that it shows, by a ticket that somebody was given, and by a newer token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Api;
use super::problem::{Challenge, Code, Problem};
use crate::auth::{Action, Caller, Denied, Grant, SessionAccess, decide};
use crate::session::SessionError;
use crate::webrtc::Role;

/// The caller of a token, or of none. Whoever takes a token asks for the address's patience before.
pub(super) async fn identify(
    api: &Api,
    now: Instant,
    peer: IpAddr,
    token: Option<&str>,
) -> Result<Caller, Problem> {
    api.authority.authenticate(now, token).await.map_err(|error| {
        tracing::info!(%peer, reason = error.reason(), "token refused");
        api.metrics.token_failed(error.reason());
        if error.is_temporary() {
            return Problem::new(Code::Unavailable, error.to_string());
        }
        api.limits.auth_failed(now, peer);
        Problem::new(Code::Unauthorized, error.to_string()).challenge(Challenge::InvalidToken)
    })
}

/// Who comes with a ticket is whoever it was given to.
pub(super) fn with_ticket(
    api: &Api,
    (now, peer): (Instant, IpAddr),
    (session, role, language): (&str, Role, Option<&str>),
    ticket: &str,
    caller: &Caller,
) -> Result<Caller, Problem> {
    let known = api.service.directory().ticket_caller(now, session, (role, language), ticket, caller);
    if matches!(known, Err(SessionError::Ticket { .. })) {
        // It costs a join, and bans nobody: a network that was away for too long comes back with many at once.
        api.metrics.token_failed("ticket");
        api.limits.join(peer).map_err(|limited| api.limited(limited))?;
    }
    Ok(known?)
}

/// The session, if the caller of a socket may do this in it.
pub(super) fn permit(
    api: &Api,
    session: &str,
    caller: &Caller,
    action: Action<'_>,
) -> Result<SessionAccess, Problem> {
    let access = api.service.directory().access(session);
    let decided = decide(caller, access.as_ref(), action);
    decided.and_then(|()| access.ok_or(Denied::NotFound)).map_err(|denied| {
        let code = match denied {
            Denied::Unauthorized => Code::Unauthorized,
            Denied::NotFound => Code::SessionNotFound,
            Denied::Forbidden(_) => Code::Forbidden,
        };
        Problem::new(code, denied.to_string())
    })
}

/// The grant of a newer token of the same subject and role for the same session.
pub(super) async fn renewed(
    api: &Api,
    peer: IpAddr,
    session: &str,
    known: Option<&Caller>,
    token: &str,
) -> Result<Arc<Grant>, Problem> {
    let forbidden = |detail: &str| Err(Problem::new(Code::Forbidden, detail));
    let (Some(known), Some(access)) = (known, api.service.directory().access(session)) else {
        return forbidden("nobody is here");
    };
    let Some(old) = known.grant() else {
        return forbidden("this connection lives on no token; open another with one");
    };
    let now = Instant::now();
    api.check_patience(now, peer)?;
    let caller = identify(api, now, peer, Some(token)).await?;
    match caller.grant() {
        Some(new) if new.subject != old.subject => forbidden("the token is of another subject"),
        Some(new) if new.role != old.role => forbidden("the token is for another role"),
        Some(new) if !new.covers(&access) && old.covers(&access) => {
            forbidden("the token is for another session")
        }
        Some(new) => Ok(new.clone()),
        None => forbidden("this relay takes no tokens"),
    }
}
