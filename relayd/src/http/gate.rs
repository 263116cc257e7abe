//! What stands in front of every route: its policy, checked in one place.
//!
//! Who calls is found out here and nowhere else; the handler finds the [`Caller`] and, where the path names a
//! session that there is, its [`SessionAccess`] in the request's extensions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::RequestExt;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::caller::{identify, with_ticket};
use super::endpoint::ticket;
use super::peer::Peer;
use super::problem::{Challenge, Code, Problem};
use super::route::Policy;
use crate::auth::{Action, Caller, Denied, Grant, Role, SessionAccess, Subject, decide};
use crate::webrtc::{self, ResourceId};

/// The layer's state: one per route.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    api: Arc<Api>,
    policy: Policy,
}

impl Gate {
    /// For a route of this policy.
    pub(super) fn new(api: Arc<Api>, policy: Policy) -> Self {
        Self { api, policy }
    }
}

/// Lets a request through to its handler, or answers why not.
pub(super) async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    match gate.check(&mut request).await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

impl Gate {
    async fn check(&self, request: &mut Request) -> Result<(), Problem> {
        if self.policy == Policy::Public {
            return Ok(());
        }
        let (api, now, peer) = (&self.api, Instant::now(), Peer::of(request.extensions()));
        api.check_patience(now, peer)?;
        let named = Named::in_path(request).await?;
        let access = named.session.as_deref().and_then(|id| api.service.directory().access(id));
        if self.policy != Policy::Events {
            let caller = authenticate(api, now, peer, request.headers()).await?;
            let caller = self.with_ticket(now, peer, &named, caller, request.headers())?;
            self.decide(&caller, &named, access.as_ref())?;
            if !self.take_order(&named, request.headers()) {
                self.count(peer)?;
            }
            request.extensions_mut().insert(caller);
        }
        if let Some(access) = access {
            request.extensions_mut().insert(access);
        }
        Ok(())
    }

    /// Whether the relay has asked for this, which counts once.
    fn take_order(&self, named: &Named, headers: &HeaderMap) -> bool {
        let ticket = ticket(headers).ok().flatten().zip(named.session.as_deref());
        ticket.is_some_and(|(ticket, session)| self.api.service.directory().take_order(session, ticket))
    }

    /// Who comes with a ticket is whoever it was given to.
    fn with_ticket(
        &self,
        now: Instant,
        peer: IpAddr,
        named: &Named,
        caller: Caller,
        headers: &HeaderMap,
    ) -> Result<Caller, Problem> {
        let role = match self.policy {
            Policy::Publish => webrtc::Role::Publisher,
            Policy::Listen => webrtc::Role::Listener,
            _ => return Ok(caller),
        };
        let Some(ticket) = ticket(headers)? else { return Ok(caller) };
        let session = named.session.as_deref().unwrap_or_default();
        with_ticket(&self.api, (now, peer), (session, role, named.language.as_deref()), ticket, &caller)
    }

    fn decide(&self, caller: &Caller, named: &Named, access: Option<&SessionAccess>) -> Result<(), Problem> {
        let language = named.language.as_deref();
        let action = match self.policy {
            Policy::Public | Policy::Events => return Ok(()),
            Policy::Leg => return self.decide_leg(caller, named),
            Policy::Create => Action::Create,
            Policy::Read => Action::Read,
            Policy::Manage => Action::Manage,
            Policy::Publish => Action::Publish(language),
            Policy::Listen => Action::Listen(language),
        };
        decide(caller, access, action).map_err(|denied| refused(denied, named))
    }

    /// Who knows a leg's name may use it; if it was opened with a token, only with one for its session that is of
    /// the same subject, or of somebody who manages the session; and a token that is shown is for its session.
    fn decide_leg(&self, caller: &Caller, named: &Named) -> Result<(), Problem> {
        if matches!(caller, Caller::Open) {
            return Ok(());
        }
        let unknown = || Problem::new(Code::LegNotFound, "no connection has such a name");
        let resource: Option<ResourceId> = named.leg.as_deref().and_then(|leg| leg.parse().ok());
        let opener = resource.and_then(|resource| self.api.openers.get(&resource)).ok_or_else(unknown)?;
        match caller {
            Caller::Token(grant) => {
                let access = self.api.service.directory().access(opener.session.as_str());
                let may = access.is_some_and(|access| may_use(grant, &access, opener.subject.as_ref()));
                may.then_some(()).ok_or_else(unknown)
            }
            Caller::Anonymous if opener.subject.is_some() => Err(Problem::new(
                Code::Unauthorized,
                "the connection was opened with a token; this takes one too",
            )),
            Caller::Anonymous | Caller::Open => Ok(()),
        }
    }

    fn count(&self, peer: IpAddr) -> Result<(), Problem> {
        let counted = match self.policy {
            Policy::Create => self.api.limits.create(peer),
            Policy::Publish | Policy::Listen => self.api.limits.join(peer),
            _ => Ok(()),
        };
        counted.map_err(|limited| self.api.limited(limited))
    }
}

/// What the path names.
#[derive(Debug, Default)]
struct Named {
    session: Option<String>,
    language: Option<String>,
    leg: Option<String>,
}

impl Named {
    async fn in_path(request: &mut Request) -> Result<Self, Problem> {
        let undecodable = |_| Problem::new(Code::RouteNotFound, "the path does not decode to text");
        let parameters: RawPathParams = request.extract_parts().await.map_err(undecodable)?;
        let mut named = Self::default();
        for (name, value) in &parameters {
            match name {
                "session" => named.session = Some(value.to_owned()),
                "language" => named.language = Some(value.to_owned()),
                "leg" => named.leg = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(named)
    }
}

/// Whether a token may change and close a leg that this subject opened, or somebody without a token. Where anybody may
/// listen, a leg may have been opened with a token for another session: who opened it may close it.
fn may_use(grant: &Grant, access: &SessionAccess, opener: Option<&Subject>) -> bool {
    if access.anonymous_listeners && opener == Some(&grant.subject) {
        return true;
    }
    let own = opener.is_none_or(|opener| *opener == grant.subject);
    let manages = match grant.role {
        Role::Moderate | Role::Admin => true,
        Role::Speak => access.owner.as_ref() == Some(&grant.subject),
        Role::Listen => false,
    };
    grant.covers(access) && (own || manages)
}

async fn authenticate(api: &Api, now: Instant, peer: IpAddr, headers: &HeaderMap) -> Result<Caller, Problem> {
    if api.authority.is_open() {
        return Ok(Caller::Open);
    }
    identify(api, now, peer, bearer(headers)?).await
}

/// The token of a request, if it has one: RFC 6750 §2.1 alone, never in the address.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token {
        Some(token) if !token.is_empty() && values.next().is_none() => Ok(Some(token)),
        _ => {
            let detail = "the header must be there once: Authorization: Bearer, a space, and the token";
            Err(Problem::new(Code::Unauthorized, detail).challenge(Challenge::InvalidRequest))
        }
    }
}

fn refused(denied: Denied, named: &Named) -> Problem {
    match denied {
        Denied::Unauthorized => Problem::new(
            Code::Unauthorized,
            "this takes a token, and there is none: send Authorization: Bearer, a space, and the token",
        ),
        // In the words of a session that does not exist: the two are not to be told apart.
        Denied::NotFound => {
            let id: String = named.session.iter().flat_map(|id| id.chars()).take(40).collect();
            Problem::new(Code::SessionNotFound, format!("there is no session {id:?}"))
        }
        Denied::Forbidden(why) => Problem::new(Code::Forbidden, why).challenge(Challenge::InsufficientScope),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;
    use crate::session::SessionId;

    #[test]
    fn a_token_comes_in_one_header_of_one_form() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers)
                .map(|token| token.map(str::to_owned))
                .map_err(|problem| Box::new(problem.into_response()))
        };
        assert_eq!(read(&[]).unwrap(), None);
        for value in ["Bearer abc.def", "bearer abc.def", "BEARER  abc.def "] {
            assert_eq!(read(&[value]).unwrap().as_deref(), Some("abc.def"), "{value}");
        }
        for bad in [&["Basic YTpi"][..], &["Bearer"], &["Bearer "], &["abc.def"], &["Bearer a", "Bearer a"]] {
            let response = read(bad).unwrap_err();
            assert_eq!(response.status(), 401, "{bad:?}");
            let challenge = response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
            assert_eq!(challenge, "Bearer realm=\"relay\", error=\"invalid_request\"", "{bad:?}");
        }
    }

    #[test]
    fn who_opened_a_leg_where_anybody_listens_may_close_it() {
        let subject = |name: &str| Subject { issuer: "issuer".into(), subject: name.into() };
        let grant = Grant {
            subject: subject("ann"),
            token_id: None,
            role: Role::Listen,
            scope: Scope::Session("another-one-1".into()),
            languages: None,
            takeover: false,
            expires: Instant::now(),
        };
        let mut access =
            SessionAccess { id: SessionId::demo(), owner: Some(subject("bob")), anonymous_listeners: true };
        assert!(may_use(&grant, &access, Some(&subject("ann"))));
        assert!(!may_use(&grant, &access, Some(&subject("bob"))));
        access.anonymous_listeners = false;
        assert!(!may_use(&grant, &access, Some(&subject("ann"))));
    }
}
