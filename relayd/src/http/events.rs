//! The events of a session over a WebSocket: the socket around [`Protocol`].
//!
//! Anybody may open one; the first frame says who is there. The record and the place among the connections live as
//! long as the socket, in [`Talk`]: however it ends, dropping that gives back everything.

mod bound;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::routes;

use super::peer::Peer;
use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::server::Upgraded;
use super::wire::Wire;
use super::{Api, Segments};
use crate::auth::{Action, Caller, Grant, SessionAccess, decide};
use crate::events::frame::{Hello, Hidden, TrackAck};
use crate::events::protocol::Refusal;
use crate::events::{
    ASYNCAPI, Anchor, Close, CloseCode, Output, Protocol, SUBPROTOCOL, ServerFrame, Snapshot, Ticket, Timing,
    Welcomed, unix_ms,
};
use crate::records::{Kind, RecordGuard};
use crate::session::{Hub, Lease, Next, SessionError, Subscription};
use bound::{Bound, anchored, progress};

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    Routes::new()
        .add(Policy::Events, routes!(open))
        .refuses(&[Code::UpgradeRequired, Code::Draining])
        .add(Policy::Public, routes!(asyncapi))
}

/// The WebSocket's messages
#[utoipa::path(
    get,
    path = "/v1/asyncapi.json",
    tag = "pages",
    operation_id = "asyncapi",
    responses((status = 200, description = "AsyncAPI 3.0.", content_type = "application/json", body = serde_json::Value))
)]
async fn asyncapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], ASYNCAPI)
}

/// Follow a session
///
/// A WebSocket with the subprotocol `relay.v1+json`, described by `/v1/asyncapi.json`. Anybody may open it; its first
/// message says who is there.
#[utoipa::path(
    get,
    path = "/v1/sessions/{session}/events",
    tag = "sessions",
    operation_id = "followSession",
    responses((status = 101, description = "The WebSocket is open."))
)]
async fn open(
    State(api): State<Arc<Api>>,
    Segments(session): Segments<String>,
    Extension(Peer(peer)): Extension<Peer>,
    upgraded: Option<Extension<Upgraded>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    api.check_open()?;
    let upgrade = upgrade.map_err(|rejection| Problem::new(Code::UpgradeRequired, rejection.body_text()))?;
    let record = api.metrics.records().open(Kind::Events, peer, None, String::new());
    let offered = upgrade.requested_protocols().next().is_some();
    let settings = &api.followers.settings;
    let message = settings.max_message.bytes();
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(message)
        .max_frame_size(message)
        .write_buffer_size(0)
        .max_write_buffer_size(settings.write_buffer.bytes());
    let spoken = upgrade.selected_protocol().is_some();
    Ok(upgrade.on_upgrade(async move |socket: WebSocket| {
        let _held = upgraded;
        let wire =
            Wire::new(socket, api.followers.settings.write_buffer.bytes(), api.metrics.sockets().open());
        let mut talk = Talk::new(api, session, peer, record, wire);
        if offered && !spoken {
            talk.protocol.handle_version();
        }
        talk.run().await;
    }))
}

/// One socket's conversation, and everything that it holds.
struct Talk {
    api: Arc<Api>,
    session: String,
    peer: IpAddr,
    record: RecordGuard,
    wire: Wire<WebSocket>,
    protocol: Protocol,
    admitting: Option<Asking<Result<Admitted, Refusal>>>,
    renewing: Option<Asking<Result<Arc<Grant>, NotRenewed>>>,
    identity: Option<Identity>,
    subscription: Option<Subscription>,
    hub: Option<Hub>,
    binding: Option<Asking<Option<Bound>>>,
    asking: Option<Asking<Option<TrackAck>>>,
    bound: Option<Bound>,
}

type Asking<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A code of an `error` frame, and why.
pub(super) type NotRenewed = (&'static str, String);

/// Somebody who was let in.
struct Identity {
    caller: Caller,
    access: SessionAccess,
    lease: Option<Lease>,
    ticket: Ticket,
}

struct Admitted {
    welcomed: Welcomed,
    identity: Identity,
    subscription: Subscription,
    hub: Hub,
}

/// What a socket waits for.
enum Happening {
    Drained,
    Time,
    TakenOver,
    Expired,
    Admitted(Box<Result<Admitted, Refusal>>),
    Renewed(Result<Arc<Grant>, NotRenewed>),
    Bound(Option<Bound>),
    Progress(Option<TrackAck>),
    Anchor(Anchor),
    Heard(Option<Result<Message, axum::Error>>),
    News(Next),
}

impl Talk {
    fn new(api: Arc<Api>, session: String, peer: IpAddr, record: RecordGuard, wire: Wire<WebSocket>) -> Self {
        let protocol = Protocol::new(Instant::now(), unix_ms(), Timing::from(&api.followers.settings));
        Self {
            api,
            session,
            peer,
            record,
            wire,
            protocol,
            admitting: None,
            renewing: None,
            identity: None,
            subscription: None,
            hub: None,
            binding: None,
            asking: None,
            bound: None,
        }
    }

    async fn run(mut self) {
        loop {
            while let Some(output) = self.protocol.poll_output() {
                match output {
                    Output::Send(text) => {
                        if !self.wire.push(text) {
                            self.protocol.handle_slow();
                        }
                    }
                    Output::Authenticate(hello) => self.ask(hello),
                    Output::Renew(token) => self.renew(token),
                    Output::Bind(leg) => self.bind(&leg),
                    Output::Ask => self.ask_progress(),
                    Output::Close(close) => return self.close(close).await,
                }
            }
            let happening = self.next().await;
            if !self.handle(happening) {
                // The client has closed: the answer to that is under way.
                let limit = self.api.followers.settings.close_timeout;
                let _answered = tokio::time::timeout(limit, self.wire.linger()).await.is_ok();
                return;
            }
        }
    }

    /// Waits for one thing. What is owed for long comes before what others may send without end.
    async fn next(&mut self) -> Happening {
        let at = self.protocol.poll_timeout();
        let identity = self.identity.as_ref();
        tokio::select! {
            biased;
            () = self.api.followers.drained() => Happening::Drained,
            () = until(at) => Happening::Time,
            () = taken_over(identity) => Happening::TakenOver,
            () = expired(identity) => Happening::Expired,
            admitted = answer(&mut self.admitting) => Happening::Admitted(Box::new(admitted)),
            renewed = answer(&mut self.renewing) => Happening::Renewed(renewed),
            bound = answer(&mut self.binding) => Happening::Bound(bound),
            progress = answer(&mut self.asking) => Happening::Progress(progress),
            anchor = anchored(self.bound.as_mut()) => Happening::Anchor(anchor),
            heard = self.wire.next() => Happening::Heard(heard),
            // Who is looked up is about to be told what is theirs alone, from where they left off.
            next = news(&mut self.subscription), if self.binding.is_none() => Happening::News(next),
        }
    }

    /// Takes it in; `false` when the client is gone.
    fn handle(&mut self, happening: Happening) -> bool {
        let now = Instant::now();
        match happening {
            Happening::Drained => self.protocol.handle_drain(&self.api.followers.settings.drain_url),
            Happening::Time => self.protocol.handle_timeout(now),
            Happening::TakenOver => self.protocol.handle_taken_over(),
            Happening::Expired => self.protocol.handle_expired(),
            Happening::Admitted(admitted) => self.handle_admitted(now, *admitted),
            Happening::Renewed(renewed) => self.handle_renewed(now, renewed),
            Happening::News(next) => self.handle_news(now, &next),
            Happening::Bound(bound) => {
                self.binding = None;
                if let (Some(bound), Some(subscription)) = (&bound, &mut self.subscription) {
                    subscription.follow(bound.view.holder);
                }
                self.protocol.handle_bound(now, bound.as_ref().map(Bound::publishes));
                // Who names a connection that is not there stays with the one before.
                self.bound = bound.or_else(|| self.bound.take());
            }
            Happening::Progress(ack) => {
                self.asking = None;
                self.protocol.handle_progress(now, ack);
            }
            Happening::Anchor(anchor) => {
                if let Some(bound) = &self.bound {
                    self.protocol.handle_anchor(now, bound.line(anchor));
                }
            }
            Happening::Heard(Some(Ok(Message::Text(text)))) => self.protocol.handle_text(now, &text),
            Happening::Heard(Some(Ok(Message::Binary(_)))) => self.protocol.handle_binary(now),
            Happening::Heard(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {
                self.protocol.handle_control(now);
            }
            Happening::Heard(Some(Ok(Message::Close(frame)))) => {
                self.api.metrics.websocket_closed(frame.map_or(NO_CODE, |frame| frame.code));
                return false;
            }
            Happening::Heard(None) => return false,
            Happening::Heard(Some(Err(error))) => return self.handle_broken(error),
        }
        true
    }

    fn handle_broken(&mut self, error: axum::Error) -> bool {
        tracing::debug!(peer = %self.peer, session = self.session, %error, "websocket failed");
        match broken(error) {
            Broken::TooLong => self.protocol.handle_too_long(),
            Broken::Unreadable => self.protocol.handle_unreadable(),
            Broken::Gone => {
                self.api.metrics.websocket_closed(ABNORMAL);
                return false;
            }
        }
        true
    }

    fn handle_admitted(&mut self, now: Instant, admitted: Result<Admitted, Refusal>) {
        self.admitting = None;
        match admitted {
            Ok(Admitted { welcomed, identity, subscription, hub }) => {
                self.record.identify(Some(identity.access.id.clone()), identity.caller.to_string());
                self.protocol.handle_welcomed(now, welcomed);
                (self.identity, self.subscription, self.hub) =
                    (Some(identity), Some(subscription), Some(hub));
            }
            Err(refusal) => {
                tracing::debug!(peer = %self.peer, session = self.session, ?refusal, "hello refused");
                self.protocol.handle_refused(refusal);
            }
        }
    }

    fn handle_news(&mut self, now: Instant, next: &Next) {
        let Some(identity) = &self.identity else { return };
        match next {
            Next::Event(event) => {
                if let Some(hub) = &self.hub {
                    let behind = hub.head().saturating_sub(event.seq);
                    self.api.metrics.websocket_behind(usize::try_from(behind).unwrap_or(usize::MAX));
                }
                let holder = self.bound.as_ref().map(|bound| &bound.view.holder);
                let visible = event.audience.includes(&identity.caller, &identity.access, holder);
                self.protocol.handle_event(event, visible);
            }
            Next::Lost => match self.api.service.directory().view(&self.session) {
                Ok(view) => self.protocol.handle_lost(now, view.seq, Snapshot::from(&view)),
                Err(_) => self.protocol.handle_over(),
            },
            Next::Over => self.protocol.handle_over(),
        }
    }

    fn handle_renewed(&mut self, now: Instant, renewed: Result<Arc<Grant>, NotRenewed>) {
        self.renewing = None;
        let directory = self.api.service.directory();
        let renewed = renewed.and_then(|grant| {
            let identity = self.identity.as_mut().ok_or_else(nobody)?;
            let caller = Caller::Token(grant.clone());
            // The older share goes only when the newer one is there.
            identity.lease = directory
                .lease(now, &self.session, &caller)
                .map_err(|error| ("SESSION_ENDED", error.to_string()))?;
            identity.ticket.renew(caller.clone());
            identity.caller = caller;
            Ok(directory.unix_ms(grant.expires))
        });
        self.protocol.handle_renewed(now, renewed);
    }

    fn ask(&mut self, hello: Hello) {
        let (api, session, peer) = (self.api.clone(), self.session.clone(), self.peer);
        self.admitting = Some(Box::pin(async move { admit(&api, &session, peer, hello).await }));
    }

    fn renew(&mut self, token: Hidden) {
        let (api, peer) = (self.api.clone(), self.peer);
        let known = self.identity.as_ref().map(|identity| (identity.caller.clone(), identity.access.clone()));
        self.renewing = Some(Box::pin(async move {
            let (caller, access) = known.ok_or_else(nobody)?;
            renewed(&api, peer, &caller, &access, &token).await
        }));
    }

    fn bind(&mut self, leg: &Hidden) {
        let (api, session) = (self.api.clone(), self.session.clone());
        let resource = leg.0.parse().ok();
        let caller = self.identity.as_ref().map(|identity| identity.caller.clone());
        self.binding = Some(Box::pin(async move { Bound::find(&api, &session, &caller?, resource?).await }));
    }

    fn ask_progress(&mut self) {
        let (Some(bound), api) = (&self.bound, self.api.clone()) else { return };
        let (view, leg) = (bound.view.clone(), bound.leg);
        self.asking = Some(Box::pin(async move { progress(&api, view, leg).await }));
    }

    async fn close(self, close: Close) {
        let Self { api, record, wire, identity, subscription, .. } = self;
        // What it held is given back before the goodbye, which may take long.
        drop((identity, subscription));
        api.metrics.websocket_closed(close.code.number());
        let limit = api.followers.settings.close_timeout;
        let limit = if close.code == CloseCode::Draining { limit.min(DRAIN_GOODBYE) } else { limit };
        wire.close(close, limit).await;
        drop(record);
    }
}

/// Why a WebSocket cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// A message was longer than messages may be.
    TooLong,
    /// What came is no WebSocket message.
    Unreadable,
    /// The client is gone.
    Gone,
}

pub(super) fn broken(error: axum::Error) -> Broken {
    use tungstenite::Error::{Capacity, Protocol, Utf8};
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;

    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(Capacity(_)) => Broken::TooLong,
        Some(Protocol(error)) if *error != ResetWithoutClosingHandshake => Broken::Unreadable,
        Some(Utf8(_)) => Broken::Unreadable,
        _ => Broken::Gone,
    }
}

/// Who says hello, and what they may follow.
async fn admit(api: &Api, session: &str, peer: IpAddr, hello: Hello) -> Result<Admitted, Refusal> {
    let now = Instant::now();
    let followers = &api.followers;
    let (ticket, caller) = match hello.resume {
        Some(ticket) => {
            let (ticket, caller) =
                followers.tickets.resume(now, session, &ticket.0).ok_or(Refusal::Ticket)?;
            (Some(ticket), caller)
        }
        None => (None, identify(api, peer, hello.token.as_ref()).await?),
    };
    if caller.grant().is_some_and(|grant| followers.is_over(now, grant.expires)) {
        return Err(Refusal::Token("the token has expired".to_owned()));
    }
    let gone = |error: SessionError| Refusal::Gone(error.to_string());
    let directory = api.service.directory();
    let access = directory.access(session);
    decide(&caller, access.as_ref(), Action::Events).map_err(Refusal::Denied)?;
    let hub = directory.hub(session).map_err(gone)?;
    let access = access.ok_or_else(|| Refusal::Gone("no such session".to_owned()))?;
    let lease = directory.lease(now, session, &caller).map_err(gone)?;
    let view = directory.view(session).map_err(gone)?;
    // Either from where the client left off, or from the snapshot on: nothing twice, nothing between.
    let after = hello.seq.unwrap_or(view.seq);
    let subscription = hub.subscribe(Some(after));
    let ticket = ticket.unwrap_or_else(|| followers.tickets.issue(now, access.id.clone(), caller.clone()));
    let frame = ServerFrame::Welcome {
        session_id: access.id.clone(),
        node: followers.node.clone(),
        epoch: followers.epoch,
        heartbeat_ms: u64::try_from(followers.settings.heartbeat.as_millis()).unwrap_or(u64::MAX),
        resume: ticket.text().to_owned(),
        seq: view.seq,
        role: role(&caller, &access),
        resumed: hello.seq.is_some(),
    };
    let snapshot = hello.seq.is_none().then(|| Snapshot::from(&view));
    let after = after.min(view.seq);
    let welcomed = Welcomed { frame, after, head: view.seq, snapshot };
    let identity = Identity { caller, access, lease, ticket };
    Ok(Admitted { welcomed, identity, subscription, hub })
}

/// The caller of a token, or of none.
pub(super) async fn identify(api: &Api, peer: IpAddr, token: Option<&Hidden>) -> Result<Caller, Refusal> {
    let (now, token) = (Instant::now(), token.map(|token| token.0.as_str()));
    api.check_patience(now, peer).map_err(|_| Refusal::RateLimited)?;
    api.authority.authenticate(now, token).await.map_err(|error| {
        tracing::info!(%peer, reason = error.reason(), "token refused");
        api.metrics.token_failed(error.reason());
        let why = error.to_string();
        if error.is_temporary() {
            return Refusal::Unavailable(why);
        }
        api.limits.auth_failed(now, peer);
        Refusal::Token(why)
    })
}

/// The grant of a newer token of the same subject and role for the same session.
pub(super) async fn renewed(
    api: &Api,
    peer: IpAddr,
    known: &Caller,
    access: &SessionAccess,
    token: &Hidden,
) -> Result<Arc<Grant>, NotRenewed> {
    let forbidden = |detail: &str| Err(("FORBIDDEN", detail.to_owned()));
    let Some(old) = known.grant() else {
        return forbidden("this connection lives on no token; open another with one");
    };
    let caller = match identify(api, peer, Some(token)).await {
        Ok(caller) => caller,
        Err(Refusal::RateLimited) => {
            return Err(("RATE_LIMITED", "too many tokens from this address did not hold".to_owned()));
        }
        Err(Refusal::Unavailable(why)) => return Err(("UNAVAILABLE", why)),
        Err(Refusal::Token(why)) => return Err(("UNAUTHORIZED", why)),
        Err(_) => return Err(("UNAUTHORIZED", "the token is not taken".to_owned())),
    };
    match caller.grant() {
        Some(new) if new.subject != old.subject => forbidden("the token is of another subject"),
        Some(new) if new.role != old.role => forbidden("the token is for another role"),
        Some(new) if !new.covers(access) && old.covers(access) => {
            forbidden("the token is for another session")
        }
        Some(new) => Ok(new.clone()),
        None => forbidden("this relay takes no tokens"),
    }
}

/// What the caller is in this session.
fn role(caller: &Caller, access: &SessionAccess) -> &'static str {
    match caller {
        Caller::Open => "admin",
        Caller::Token(grant) if grant.covers(access) => grant.role.as_str(),
        Caller::Anonymous | Caller::Token(_) => "listen",
    }
}

pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn taken_over(identity: Option<&Identity>) {
    match identity {
        Some(identity) => identity.ticket.taken_over().await,
        None => std::future::pending().await,
    }
}

async fn expired(identity: Option<&Identity>) {
    match identity.and_then(|identity| identity.lease.as_ref()) {
        Some(lease) => lease.expired().await,
        None => std::future::pending().await,
    }
}

async fn answer<T>(asking: &mut Option<Asking<T>>) -> T {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

async fn news(subscription: &mut Option<Subscription>) -> Next {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

pub(super) fn nobody() -> NotRenewed {
    ("FORBIDDEN", "nobody is here".to_owned())
}

/// A relay that stops waits no longer for anybody's goodbye.
pub(super) const DRAIN_GOODBYE: Duration = Duration::from_secs(1);
/// A close without a code, and an end without a close (RFC 6455 §7.4.1).
pub(super) const NO_CODE: u16 = 1005;
pub(super) const ABNORMAL: u16 = 1006;
