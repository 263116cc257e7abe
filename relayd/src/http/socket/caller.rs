//! Who is at the other end of a socket, by the token that they show, and by a newer one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::auth::{Caller, Grant};
use crate::conversation::Hidden;
use crate::http::Api;

/// Why it is not known who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum Unknown {
    /// The token is not taken: why.
    Token(String),
    /// Whether the token is good cannot be told now: why.
    Unavailable(String),
    /// Too many failures from this address.
    RateLimited,
}

/// A code of an `error` message, and why.
pub(super) type NotRenewed = (&'static str, String);

/// The caller of a token, or of none.
pub(in crate::http) async fn identify(
    api: &Api,
    peer: IpAddr,
    token: Option<&Hidden>,
) -> Result<Caller, Unknown> {
    let (now, token) = (Instant::now(), token.map(|token| token.0.as_str()));
    api.check_patience(now, peer).map_err(|_| Unknown::RateLimited)?;
    api.authority.authenticate(now, token).await.map_err(|error| {
        tracing::info!(%peer, reason = error.reason(), "token refused");
        api.metrics.token_failed(error.reason());
        let why = error.to_string();
        if error.is_temporary() {
            return Unknown::Unavailable(why);
        }
        api.limits.auth_failed(now, peer);
        Unknown::Token(why)
    })
}

/// The grant of a newer token of the same subject and role for the same session.
pub(super) async fn renewed(
    api: &Api,
    peer: IpAddr,
    session: &str,
    known: Option<&Caller>,
    token: &Hidden,
) -> Result<Arc<Grant>, NotRenewed> {
    let forbidden = |detail: &str| Err(("FORBIDDEN", detail.to_owned()));
    let (Some(known), Some(access)) = (known, api.service.directory().access(session)) else {
        return forbidden("nobody is here");
    };
    let Some(old) = known.grant() else {
        return forbidden("this connection lives on no token; open another with one");
    };
    let caller = match identify(api, peer, Some(token)).await {
        Ok(caller) => caller,
        Err(Unknown::RateLimited) => {
            return Err(("RATE_LIMITED", "too many tokens from this address did not hold".to_owned()));
        }
        Err(Unknown::Unavailable(why)) => return Err(("UNAVAILABLE", why)),
        Err(Unknown::Token(why)) => return Err(("UNAUTHORIZED", why)),
    };
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
