//! The events of a session over a WebSocket: what is at the sockets of [`Following`](crate::events::Following).
//!
//! Anybody may open one; the first frame says who is there.

mod bound;

use std::net::IpAddr;
use std::time::Instant;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::routes;

use super::caller::permit;
use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::socket::{self, Asking, Opening, Side, answer, some};
use super::wire::Turn;
use super::{Api, Segments};
use crate::auth::{Action, Caller, SessionAccess};
use crate::conversation::{CloseCode, Hidden, Timing};
use crate::events::frame::{Hello, TrackAck};
use crate::events::protocol::Following;
use crate::events::{ASYNCAPI, Anchor, Protocol, ServerFrame, Snapshot, Task, Ticket, Welcomed, unix_ms};
use crate::records::Kind;
use crate::session::{Hub, Lease, Next, Subscription};
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
async fn open(opening: Opening, Segments(session): Segments<String>) -> Result<Response, Problem> {
    let tally = opening.api.metrics.sockets().open();
    opening.talk(Kind::Events, session, tally, Follower::default())
}

type Line = socket::Line<Following>;

/// One socket's follower, and what they hold.
#[derive(Default)]
struct Follower {
    admitting: Option<Asking<Result<Admitted, Problem>>>,
    identity: Option<Identity>,
    subscription: Option<Subscription>,
    hub: Option<Hub>,
    binding: Option<Asking<Option<Bound>>>,
    asking: Option<Asking<Option<TrackAck>>>,
    bound: Option<Bound>,
}

/// Somebody who was let in.
struct Identity {
    access: SessionAccess,
    ticket: Ticket,
}

struct Admitted {
    welcomed: Welcomed,
    caller: Caller,
    lease: Option<Lease>,
    identity: Identity,
    subscription: Subscription,
    hub: Hub,
}

/// What a follower waits for.
enum Happening {
    TakenOver,
    Admitted(Box<Result<Admitted, Problem>>),
    Bound(Option<Bound>),
    Progress(Option<TrackAck>),
    Anchor(Anchor),
    News(Next),
}

impl Side for Follower {
    type Subprotocol = Following;
    type Happening = Happening;

    fn begin(&self, now: Instant, timing: Timing) -> Protocol {
        Protocol::new(now, unix_ms(), timing)
    }

    fn handle_task(&mut self, line: &mut Line, task: Task) {
        let (api, session, peer) = (line.api.clone(), line.session.clone(), line.peer);
        match task {
            Task::Authenticate(hello) => {
                self.admitting = Some(Box::pin(async move { admit(&api, &session, peer, hello).await }));
            }
            Task::Bind(Hidden(leg)) => {
                let (resource, caller) = (leg.parse().ok(), line.caller.clone());
                self.binding =
                    Some(Box::pin(async move { Bound::find(&api, &session, &caller?, resource?).await }));
            }
        }
    }

    fn ask(&mut self, line: &Line) {
        let (Some(bound), api) = (&self.bound, line.api.clone()) else { return };
        let (view, leg) = (bound.view.clone(), bound.leg);
        self.asking = Some(Box::pin(async move { progress(&api, view, leg).await }));
    }

    async fn next(
        &mut self,
        _roomy: bool,
        wire: impl Future<Output = Turn<axum::Error>> + Send,
    ) -> socket::Next<Happening> {
        let ticket = self.identity.as_ref().map(|identity| identity.ticket.taken_over());
        let news = self.subscription.as_mut().filter(|_| self.binding.is_none());
        socket::Next::Own(tokio::select! {
            biased;
            () = some(ticket) => Happening::TakenOver,
            admitted = answer(&mut self.admitting) => Happening::Admitted(Box::new(admitted)),
            bound = answer(&mut self.binding) => Happening::Bound(bound),
            progress = answer(&mut self.asking) => Happening::Progress(progress),
            anchor = anchored(self.bound.as_mut()) => Happening::Anchor(anchor),
            turn = wire => return socket::Next::Wire(turn),
            // Who is looked up is about to be told what is theirs alone, from where they left off.
            next = some(news.map(Subscription::next)) => Happening::News(next),
        })
    }

    fn handle(&mut self, now: Instant, line: &mut Line, happening: Happening) {
        match happening {
            Happening::TakenOver => line.protocol.handle_taken_over(),
            Happening::Admitted(admitted) => self.handle_admitted(now, line, *admitted),
            Happening::News(next) => self.handle_news(now, line, &next),
            Happening::Bound(bound) => {
                self.binding = None;
                if let (Some(bound), Some(subscription)) = (&bound, &mut self.subscription) {
                    subscription.follow(bound.view.holder);
                }
                line.protocol.handle_bound(now, bound.as_ref().map(Bound::publishes));
                // Who names a connection that is not there stays with the one before.
                self.bound = bound.or_else(|| self.bound.take());
            }
            Happening::Progress(ack) => {
                self.asking = None;
                line.protocol.handle_progress(now, ack);
            }
            Happening::Anchor(anchor) => {
                if let Some(bound) = &self.bound {
                    line.protocol.handle_anchor(now, bound.line(anchor));
                }
            }
        }
    }

    fn handle_renewed(&mut self, caller: &Caller) {
        if let Some(identity) = &mut self.identity {
            identity.ticket.renew(caller.clone());
        }
    }

    fn handle_expired(&mut self, line: &mut Line) {
        line.protocol.handle_expired();
    }

    async fn leave(self, _code: Option<CloseCode>) {}
}

impl Follower {
    fn handle_admitted(&mut self, now: Instant, line: &mut Line, admitted: Result<Admitted, Problem>) {
        self.admitting = None;
        match admitted {
            Ok(Admitted { welcomed, caller, lease, identity, subscription, hub }) => {
                line.identify(identity.access.id.clone(), caller);
                line.lease = lease;
                line.protocol.handle_welcomed(now, welcomed);
                (self.identity, self.subscription, self.hub) =
                    (Some(identity), Some(subscription), Some(hub));
            }
            Err(problem) => line.refuse(&problem),
        }
    }

    fn handle_news(&self, now: Instant, line: &mut Line, next: &Next) {
        let (Some(Identity { access, .. }), Some(caller)) = (&self.identity, &line.caller) else { return };
        match next {
            Next::Event(event) => {
                if let Some(hub) = &self.hub {
                    let behind = hub.head().saturating_sub(event.seq);
                    line.api.metrics.websocket_behind(usize::try_from(behind).unwrap_or(usize::MAX));
                }
                let holder = self.bound.as_ref().map(|bound| &bound.view.holder);
                let visible = event.audience.includes(caller, access, holder);
                line.protocol.handle_event(event, visible);
            }
            Next::Lost => {
                line.api.metrics.websocket_lost();
                match line.api.service.directory().view(&line.session) {
                    Ok(view) => line.protocol.handle_lost(now, view.seq, Snapshot::from(&view)),
                    Err(_) => line.protocol.handle_over(),
                }
            }
            Next::Over => line.protocol.handle_over(),
        }
    }
}

/// Who says hello, and what they may follow.
async fn admit(api: &Api, session: &str, peer: IpAddr, hello: Hello) -> Result<Admitted, Problem> {
    let now = Instant::now();
    let followers = &api.followers;
    let (ticket, caller) = match hello.resume {
        Some(ticket) => {
            let known = followers.tickets.resume(now, session, &ticket.0);
            let (ticket, caller) = known.ok_or_else(|| Problem::new(Code::TicketInvalid, UNKNOWN_TICKET))?;
            (Some(ticket), caller)
        }
        None => (None, socket::hello(api, peer, hello.token.as_ref()).await?),
    };
    if caller.grant().is_some_and(|grant| followers.is_over(now, grant.expires)) {
        return Err(Problem::new(Code::Unauthorized, "the token has expired"));
    }
    let directory = api.service.directory();
    let access = permit(api, session, &caller, Action::Events)?;
    let hub = directory.hub(session)?;
    let lease = directory.lease(now, session, &caller)?;
    let view = directory.view(session)?;
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
    let identity = Identity { access, ticket };
    Ok(Admitted { welcomed, caller, lease, identity, subscription, hub })
}

/// What the caller is in this session.
fn role(caller: &Caller, access: &SessionAccess) -> &'static str {
    match caller {
        Caller::Open => "admin",
        Caller::Token(grant) if grant.covers(access) => grant.role.as_str(),
        Caller::Anonymous | Caller::Token(_) => "listen",
    }
}

const UNKNOWN_TICKET: &str = "unknown resume ticket; say hello with the token";
