//! A WebSocket of one of our subprotocols: how it is opened, and the loop around its [`Conversation`].
//!
//! What is the same in all of them is in [`Line`]: the socket, the record, the caller and their lease; what only one
//! knows is its [`Side`]. All of it lives as long as the socket: however it ends, dropping that gives back everything.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::request::Parts;
use axum::response::Response;

use super::Api;
use super::caller::{identify, renewed};
use super::peer::Peer;
use super::problem::{Code, Problem};
use super::server::Upgraded;
use super::wire::{Turn, Wire};
use crate::auth::{Caller, Grant};
use crate::conversation::{Close, CloseCode, Conversation, Hidden, Output, Refusal, Subprotocol, Timing};
use crate::events::TallyGuard;
use crate::records::{Kind, RecordGuard};
use crate::session::{Lease, SessionId};

/// Somebody is asked, and answers once.
pub(super) type Asking<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What one subprotocol has and does at its sockets.
pub(super) trait Side: Send + Sized + 'static {
    type Subprotocol: Subprotocol;
    /// What it waits for.
    type Happening: Send;

    /// The conversation that begins now.
    fn begin(&self, now: Instant, timing: Timing) -> Conversation<Self::Subprotocol>;

    /// Does what its conversation asks for.
    fn handle_task(
        &mut self,
        line: &mut Line<Self::Subprotocol>,
        task: <Self::Subprotocol as Subprotocol>::Task,
    );

    /// Finds out how far the track is.
    fn ask(&mut self, line: &Line<Self::Subprotocol>);

    /// Whether the client is read now. Asked before each wait.
    fn reads(&mut self) -> bool {
        true
    }

    /// Waits for one thing: the `wire`, or something of its own. `roomy`: another frame may be sent. What is owed for
    /// long comes before what others may send without end.
    fn next(
        &mut self,
        roomy: bool,
        wire: impl Future<Output = Turn<axum::Error>> + Send,
    ) -> impl Future<Output = Next<Self::Happening>> + Send;

    /// Takes in what it waited for.
    fn handle(&mut self, now: Instant, line: &mut Line<Self::Subprotocol>, happening: Self::Happening);

    /// The client has sent a message.
    fn handle_heard(&mut self) {}

    /// The client has renewed its token.
    fn handle_renewed(&mut self, _caller: &Caller) {}

    /// The client's token is over for good.
    fn handle_expired(&mut self, line: &mut Line<Self::Subprotocol>);

    /// Gives back what it has: before the goodbye, which may take long. Without a code, the client has gone.
    fn leave(self, code: Option<CloseCode>) -> impl Future<Output = ()> + Send;
}

/// What a side has waited for.
pub(super) enum Next<H> {
    Wire(Turn<axum::Error>),
    Own(H),
}

enum Happening<H> {
    Drained,
    Time,
    Expired,
    Renewed(Result<Arc<Grant>, Problem>),
    Next(Next<H>),
}

/// A socket with its conversation, and who is there.
pub(super) struct Line<S: Subprotocol> {
    pub api: Arc<Api>,
    pub session: String,
    pub peer: IpAddr,
    pub protocol: Conversation<S>,
    /// Who was let in.
    pub caller: Option<Caller>,
    /// What their token holds, if it holds something.
    pub lease: Option<Lease>,
    record: RecordGuard,
    wire: Wire<WebSocket>,
    renewing: Option<Asking<Result<Arc<Grant>, Problem>>>,
}

impl<S: Subprotocol> Line<S> {
    /// Somebody was let in.
    pub(super) fn identify(&mut self, session: SessionId, caller: Caller) {
        self.record.identify(Some(session), caller.to_string());
        self.caller = Some(caller);
    }

    /// Whoever said hello is not let in.
    pub(super) fn refuse(&mut self, problem: &Problem) {
        let refusal = refusal(problem);
        tracing::debug!(peer = %self.peer, session = self.session, ?refusal, "hello refused");
        self.protocol.handle_refused(refusal);
    }

    async fn run(mut self, mut side: impl Side<Subprotocol = S>) {
        loop {
            while let Some(output) = self.protocol.poll_output() {
                match output {
                    Output::Send(text) => {
                        if !self.wire.push(text) {
                            self.protocol.handle_slow();
                        }
                    }
                    Output::SendFrame(bytes) => self.wire.push_frame(bytes),
                    Output::Renew(token) => self.renew(token),
                    Output::Ask => side.ask(&self),
                    Output::Task(task) => side.handle_task(&mut self, task),
                    Output::Close(close) => {
                        side.leave(Some(close.code)).await;
                        return self.close(close).await;
                    }
                }
            }
            let happening = self.next(&mut side).await;
            if !self.handle(&mut side, happening) {
                // The client has closed: its place is free before the answer to that has gone.
                side.leave(None).await;
                let limit = self.api.followers.settings.close_timeout;
                let _answered = tokio::time::timeout(limit, self.wire.linger()).await.is_ok();
                return;
            }
        }
    }

    async fn next<T: Side<Subprotocol = S>>(&mut self, side: &mut T) -> Happening<T::Happening> {
        let at = self.protocol.poll_timeout();
        let (reads, roomy) = (side.reads(), self.wire.has_room());
        tokio::select! {
            biased;
            () = self.api.followers.drained() => Happening::Drained,
            () = until(at) => Happening::Time,
            () = expired(self.lease.as_ref()) => Happening::Expired,
            renewed = answer(&mut self.renewing) => Happening::Renewed(renewed),
            next = side.next(roomy, self.wire.turn(reads)) => Happening::Next(next),
        }
    }

    /// Takes it in; `false` when the client is gone.
    fn handle<T: Side<Subprotocol = S>>(&mut self, side: &mut T, happening: Happening<T::Happening>) -> bool {
        let now = Instant::now();
        match happening {
            Happening::Drained => self.protocol.handle_drain(&self.api.followers.settings.drain_url),
            Happening::Time => self.protocol.handle_timeout(now),
            Happening::Expired => side.handle_expired(self),
            Happening::Renewed(renewed) => self.handle_renewed(now, side, renewed),
            Happening::Next(Next::Own(own)) => side.handle(now, self, own),
            Happening::Next(Next::Wire(Turn::Room)) => {}
            Happening::Next(Next::Wire(Turn::Read(read))) => return self.handle_read(now, side, read),
        }
        true
    }

    fn handle_read(
        &mut self,
        now: Instant,
        side: &mut impl Side<Subprotocol = S>,
        read: Option<Result<Message, axum::Error>>,
    ) -> bool {
        if let Some(Ok(Message::Text(_) | Message::Binary(_))) = &read {
            side.handle_heard();
        }
        match read {
            Some(Ok(Message::Text(text))) => self.protocol.handle_text(now, &text),
            Some(Ok(Message::Binary(bytes))) => self.protocol.handle_binary(now, &bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => self.protocol.handle_control(now),
            Some(Ok(Message::Close(frame))) => {
                self.api.metrics.websocket_closed(frame.map_or(NO_CODE, |frame| frame.code));
                return false;
            }
            None => return false,
            Some(Err(error)) => return self.handle_broken(error),
        }
        true
    }

    fn handle_broken(&mut self, error: axum::Error) -> bool {
        use tungstenite::Error::{Capacity, Protocol, Utf8};
        use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;

        tracing::debug!(peer = %self.peer, session = self.session, %error, "websocket failed");
        match error.into_inner().downcast_ref::<tungstenite::Error>() {
            Some(Capacity(_)) => self.protocol.handle_too_long(),
            Some(Protocol(error)) if *error != ResetWithoutClosingHandshake => {
                self.protocol.handle_unreadable();
            }
            Some(Utf8(_)) => self.protocol.handle_unreadable(),
            _ => {
                self.api.metrics.websocket_closed(ABNORMAL);
                return false;
            }
        }
        true
    }

    fn renew(&mut self, token: Hidden) {
        let (api, peer, session) = (self.api.clone(), self.peer, self.session.clone());
        let caller = self.caller.clone();
        self.renewing =
            Some(Box::pin(async move { renewed(&api, peer, &session, caller.as_ref(), &token.0).await }));
    }

    fn handle_renewed(
        &mut self,
        now: Instant,
        side: &mut impl Side<Subprotocol = S>,
        renewed: Result<Arc<Grant>, Problem>,
    ) {
        self.renewing = None;
        let directory = self.api.service.directory();
        let told = |problem: Problem| (problem.code(), problem.detail().to_owned());
        let renewed = renewed.map_err(told).and_then(|grant| {
            let caller = Caller::Token(grant.clone());
            // The older share goes only when the newer one is there.
            self.lease = directory
                .lease(now, &self.session, &caller)
                .map_err(|error| ("SESSION_ENDED", error.to_string()))?;
            side.handle_renewed(&caller);
            self.caller = Some(caller);
            Ok(directory.unix_ms(grant.expires))
        });
        self.protocol.handle_renewed(now, renewed);
    }

    async fn close(self, close: Close) {
        let Self { api, record, wire, lease, .. } = self;
        drop(lease);
        api.metrics.websocket_closed(close.code.number());
        let limit = api.followers.settings.close_timeout;
        let limit = if close.code == CloseCode::Draining { limit.min(DRAIN_GOODBYE) } else { limit };
        wire.close(close, limit).await;
        drop(record);
    }
}

/// A request to open a WebSocket. Anybody may; the first message says who is there.
pub(super) struct Opening {
    pub api: Arc<Api>,
    pub peer: IpAddr,
    upgraded: Option<Upgraded>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
}

impl FromRequestParts<Arc<Api>> for Opening {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        Ok(Self {
            api: api.clone(),
            peer: Peer::of(&parts.extensions),
            upgraded: parts.extensions.get().cloned(),
            upgrade: WebSocketUpgrade::from_request_parts(parts, api).await,
        })
    }
}

impl Opening {
    /// Opens it, with its record from now on, and talks.
    pub(super) fn talk<T: Side>(
        self,
        kind: Kind,
        session: String,
        tally: TallyGuard,
        side: T,
    ) -> Result<Response, Problem> {
        let Self { api, peer, upgraded, upgrade } = self;
        api.check_open()?;
        let upgrade =
            upgrade.map_err(|rejection| Problem::new(Code::UpgradeRequired, rejection.body_text()))?;
        let record = api.metrics.records().open(kind, peer, None, String::new());
        let offered = upgrade.requested_protocols().next().is_some();
        let (message, buffer) =
            (api.followers.settings.max_message.bytes(), api.followers.settings.write_buffer.bytes());
        let upgrade = upgrade
            .protocols([T::Subprotocol::NAME])
            .max_message_size(message)
            .max_frame_size(message)
            .write_buffer_size(0)
            .max_write_buffer_size(buffer);
        let spoken = upgrade.selected_protocol().is_some();
        Ok(upgrade.on_upgrade(async move |socket: WebSocket| {
            let _held = upgraded;
            let mut protocol = side.begin(Instant::now(), Timing::from(&api.followers.settings));
            if offered && !spoken {
                protocol.handle_version();
            }
            let wire = Wire::new(socket, buffer, tally);
            let (caller, lease, renewing) = (None, None, None);
            let line = Line { api, session, peer, protocol, caller, lease, record, wire, renewing };
            line.run(side).await;
        }))
    }
}

/// The caller of a token in a message, or of none.
pub(super) async fn hello(api: &Api, peer: IpAddr, token: Option<&Hidden>) -> Result<Caller, Problem> {
    let now = Instant::now();
    api.check_patience(now, peer)?;
    identify(api, now, peer, token.map(|token| token.0.as_str())).await
}

/// A problem as it is told on a socket: by its code, and by what the client had better do.
fn refusal(problem: &Problem) -> Refusal {
    let close = match problem.code() {
        "UNAUTHORIZED" | "FORBIDDEN" | "TICKET_INVALID" => CloseCode::AuthenticationFailed,
        "SESSION_NOT_FOUND" | "SESSION_ENDED" | "LANGUAGE_NOT_FOUND" => CloseCode::SessionGone,
        "SPEAKER_EXISTS" => CloseCode::TakenOver,
        "RATE_LIMITED" | "CAPACITY" | "TOO_MANY_PENDING" => CloseCode::TooMuch,
        "DRAINING" => CloseCode::Draining,
        _ => CloseCode::Internal,
    };
    Refusal { code: problem.code(), detail: problem.detail().to_owned(), close }
}

/// Resolves then, or never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn expired(lease: Option<&Lease>) {
    match lease {
        Some(lease) => lease.expired().await,
        None => std::future::pending().await,
    }
}

/// The answer of whoever is asked; nobody never answers.
pub(super) async fn answer<T>(asking: &mut Option<Asking<T>>) -> T {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// What comes of something that may not be there, which then is nothing.
pub(super) async fn some<T>(coming: Option<impl Future<Output = T>>) -> T {
    match coming {
        Some(coming) => coming.await,
        None => std::future::pending().await,
    }
}

/// A relay that stops waits no longer for anybody's goodbye.
const DRAIN_GOODBYE: Duration = Duration::from_secs(1);
/// A close without a code, and an end without a close (RFC 6455 §7.4.1).
const NO_CODE: u16 = 1005;
const ABNORMAL: u16 = 1006;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_had_better_do_follows_from_the_problem() {
        for (code, number) in [
            (Code::Unauthorized, 4004),
            (Code::Forbidden, 4004),
            (Code::TicketInvalid, 4004),
            (Code::SessionNotFound, 4006),
            (Code::SessionEnded, 4006),
            (Code::LanguageNotFound, 4006),
            (Code::SpeakerExists, 4010),
            (Code::RateLimited, 4008),
            (Code::Capacity, 4008),
            (Code::Draining, 4013),
            (Code::Unavailable, 4000),
        ] {
            let refusal = refusal(&Problem::new(code, "why"));
            assert_eq!(
                (refusal.close.number(), refusal.detail.as_str()),
                (number, "why"),
                "{}",
                refusal.code
            );
        }
    }
}
