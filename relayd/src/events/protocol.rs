//! One socket's conversation, without the socket: what was said comes in with `now`, what to say comes out.
//!
//! Order: `hello` → [`Output::Authenticate`] → [`Protocol::handle_welcomed`] → events. Nothing comes out after
//! [`Output::Close`], and nothing that comes in then changes anything. What waits to be taken out is bounded by what
//! came in: two outputs per input, three for a welcome.
//!
//! A client that names a media connection is bound to it: [`Output::Bind`] → [`Protocol::handle_bound`]. A publisher
//! then hears `ack` every [`ACK_EVERY`] when it has changed ([`Output::Ask`] → [`Protocol::handle_progress`]), a
//! listener `mediaStarted` for each line that begins.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::close::{Close, CloseCode};
use super::frame::{ClientFrame, Heartbeat, Hello, Hidden, LineAnchor, ServerFrame, Snapshot, TrackAck};
use super::rate::Rate;
use crate::auth::Denied;
use crate::config;
use crate::session::Numbered;

/// How long everything may take, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Until `hello`.
    pub hello: Duration,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Of silence before the client counts as dead.
    pub dead_after: Duration,
    /// Messages per second.
    pub rate: usize,
    /// Messages at once.
    pub burst: usize,
}

impl From<&config::Events> for Timing {
    fn from(settings: &config::Events) -> Self {
        Self {
            hello: settings.hello_timeout,
            heartbeat: settings.heartbeat,
            dead_after: settings.dead_after,
            rate: settings.rate,
            burst: settings.burst,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this message.
    Send(String),
    /// Find out who this is; answer with [`Protocol::handle_welcomed`] or [`Protocol::handle_refused`].
    Authenticate(Hello),
    /// Check this newer token; answer with [`Protocol::handle_renewed`].
    Renew(Hidden),
    /// Look for the connection of this name; answer with [`Protocol::handle_bound`].
    Bind(Hidden),
    /// Ask how far the track of the connection is; answer with [`Protocol::handle_progress`].
    Ask,
    /// Close. The last output.
    Close(Close),
}

/// Somebody was let in.
#[derive(Debug, Clone, PartialEq)]
pub struct Welcomed {
    /// The welcome itself.
    pub frame: ServerFrame,
    /// The event after which events follow.
    pub after: u64,
    /// The newest event there is.
    pub head: u64,
    /// The session as it is, unless the client goes on from where it was.
    pub snapshot: Option<Snapshot>,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The token is not taken: why.
    Token(String),
    /// Whether the token is good cannot be told now: why.
    Unavailable(String),
    /// Nobody has this ticket, or not any more.
    Ticket,
    /// The token is taken, and does not open this session.
    Denied(Denied),
    /// The session is unknown, or over: how it is told.
    Gone(String),
    /// Too many failures from this address.
    RateLimited,
    /// The relay stops: where to go, if it knows.
    Draining(String),
    /// The relay failed.
    Internal,
}

impl From<Refusal> for Close {
    fn from(refusal: Refusal) -> Self {
        use CloseCode::{AuthenticationFailed, Draining, Internal, SessionGone, TooMuch};
        match refusal {
            Refusal::Token(why) => Self::new(AuthenticationFailed, why),
            Refusal::Unavailable(why) => Self::new(Internal, why),
            Refusal::Ticket => {
                Self::new(AuthenticationFailed, "unknown resume ticket; say hello with the token")
            }
            Refusal::Denied(Denied::NotFound) => Self::new(SessionGone, "no such session"),
            Refusal::Denied(denied) => Self::new(AuthenticationFailed, denied.to_string()),
            Refusal::Gone(why) => Self::new(SessionGone, why),
            Refusal::RateLimited => Self::new(TooMuch, "too many failed attempts"),
            Refusal::Draining(url) if url.is_empty() => Self::new(Draining, "the relay is stopping"),
            Refusal::Draining(url) => Self::new(Draining, url),
            Refusal::Internal => Self::new(Internal, "the relay failed"),
        }
    }
}

/// The state of one conversation.
#[derive(Debug)]
pub struct Protocol {
    timing: Timing,
    start: Instant,
    start_unix_ms: u64,
    state: State,
    rate: Rate,
    /// The last event told or passed over.
    seq: u64,
    /// The newest event that the client has heard of.
    named: u64,
    heard: Instant,
    beat: Instant,
    renewing: bool,
    /// A connection that is named in `hello`, until the client is let in.
    leg: Option<Hidden>,
    binding: bool,
    /// What was acknowledged last.
    acked: Option<TrackAck>,
    /// When to find out whether there is more to acknowledge.
    ask_at: Option<Instant>,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was said.
    Silent,
    /// `hello` was said.
    Asked,
    /// Welcomed.
    Live,
    /// Over.
    Closed,
}

impl Protocol {
    /// A conversation that begins now, which is `unix_ms` by the wall's clock.
    pub fn new(now: Instant, unix_ms: u64, timing: Timing) -> Self {
        let rate = Rate::new(timing.rate, timing.burst);
        Self {
            timing,
            start: now,
            start_unix_ms: unix_ms,
            state: State::Silent,
            rate,
            seq: 0,
            named: 0,
            heard: now,
            beat: now,
            renewing: false,
            leg: None,
            binding: false,
            acked: None,
            ask_at: None,
            outputs: VecDeque::new(),
        }
    }

    /// A text message came.
    pub fn handle_text(&mut self, now: Instant, text: &str) {
        if !self.counts(now) {
            return;
        }
        match (ClientFrame::read(text), self.state) {
            (_, State::Closed) => {}
            (Ok(ClientFrame::Hello(mut hello)), State::Silent) => {
                self.state = State::Asked;
                self.leg = hello.leg.take();
                self.outputs.push_back(Output::Authenticate(hello));
            }
            (Ok(ClientFrame::Hello(_)), _) => {
                self.close(CloseCode::AlreadyAuthenticated, "hello is said once");
            }
            (Ok(_), State::Silent) => self.close(CloseCode::NotAuthenticated, "hello must come first"),
            (Err(error), State::Silent) => self.close(CloseCode::BadMessage, error.to_string()),
            (Err(error), _) => self.refuse(now, INVALID_MESSAGE, error.to_string()),
            (Ok(ClientFrame::Heartbeat(heartbeat)), _) => self.heartbeat(now, &heartbeat),
            (Ok(ClientFrame::TokenRefresh(refresh)), State::Live) if !self.renewing => {
                self.renewing = true;
                self.outputs.push_back(Output::Renew(refresh.token));
            }
            (Ok(ClientFrame::TokenRefresh(_)), _) => {
                self.refuse(now, INVALID_MESSAGE, "a token is being looked at already".to_owned());
            }
            (Ok(ClientFrame::Leg(named)), State::Live) if !self.binding => self.bind(named.leg),
            (Ok(ClientFrame::Leg(_)), _) => {
                self.refuse(now, INVALID_MESSAGE, "a connection is being looked for already".to_owned());
            }
        }
    }

    /// A binary message came: there are none in this protocol.
    pub fn handle_binary(&mut self, now: Instant) {
        if !self.counts(now) {
            return;
        }
        if self.state == State::Silent {
            self.close(CloseCode::BadMessage, "messages are text");
        } else {
            self.refuse(now, INVALID_MESSAGE, "messages are text".to_owned());
        }
    }

    /// A ping or pong came. It costs, and says nothing of whoever is behind the socket.
    pub fn handle_control(&mut self, now: Instant) {
        let heard = self.heard;
        if self.counts(now) {
            self.heard = heard;
        }
    }

    /// A message came that is too long to be read.
    pub fn handle_too_long(&mut self) {
        self.close(CloseCode::TooLong, "the message is too long");
    }

    /// Something came that is no WebSocket message, or text that is no UTF-8.
    pub fn handle_unreadable(&mut self) {
        self.close(CloseCode::BadMessage, "this is no WebSocket message");
    }

    /// The client was let in.
    pub fn handle_welcomed(&mut self, now: Instant, welcomed: Welcomed) {
        if self.state != State::Asked {
            return;
        }
        self.state = State::Live;
        (self.seq, self.named) = (welcomed.after, welcomed.head.max(welcomed.after));
        self.beat = now + self.timing.heartbeat;
        self.send(now, &welcomed.frame);
        if let Some(snapshot) = welcomed.snapshot {
            self.send(now, &ServerFrame::SessionJoined(snapshot));
        }
        if let Some(leg) = self.leg.take() {
            self.bind(leg);
        }
    }

    /// The connection was found, and whether it is a publisher's; or there is none of that name in the session.
    pub fn handle_bound(&mut self, now: Instant, publishes: Option<bool>) {
        if !std::mem::take(&mut self.binding) || self.state != State::Live {
            return;
        }
        match publishes {
            Some(publishes) => {
                self.acked = None;
                self.ask_at = publishes.then_some(now);
            }
            None => {
                self.refuse(now, LEG_NOT_FOUND, "no connection of this session has such a name".to_owned())
            }
        }
    }

    /// How far the track is; `None` when nothing can be told of it.
    pub fn handle_progress(&mut self, now: Instant, ack: Option<TrackAck>) {
        if self.state != State::Live {
            return;
        }
        self.ask_at = Some(now + ACK_EVERY);
        if let Some(ack) = ack.filter(|ack| self.acked.as_ref() != Some(ack)) {
            self.send(now, &ServerFrame::Ack(ack.clone()));
            self.acked = Some(ack);
        }
    }

    /// A line begins on the listener's connection.
    pub fn handle_anchor(&mut self, now: Instant, anchor: LineAnchor) {
        if self.state == State::Live {
            self.send(now, &ServerFrame::MediaStarted(anchor));
        }
    }

    /// The client was not let in.
    pub fn handle_refused(&mut self, refusal: Refusal) {
        if self.state == State::Asked {
            self.finish(refusal.into());
        }
    }

    /// The newer token is good until then, in Unix milliseconds; or is not, by this code and for this reason.
    pub fn handle_renewed(&mut self, now: Instant, renewed: Result<u64, (&'static str, String)>) {
        if !std::mem::take(&mut self.renewing) {
            return;
        }
        match renewed {
            Ok(expires_at) => self.send(now, &ServerFrame::TokenRefreshed { expires_at }),
            Err((code, detail)) => self.refuse(now, code, detail),
        }
    }

    /// Something happened in the session, which the client may see or not.
    pub fn handle_event(&mut self, event: &Numbered, visible: bool) {
        if self.state != State::Live {
            return;
        }
        self.seq = event.seq;
        self.named = self.named.max(event.seq);
        if visible {
            let text = serde_json::to_string(event).expect("an event is JSON");
            self.outputs.push_back(Output::Send(text));
        }
    }

    /// Events up to `seq` are lost to the client; this is how the session is now.
    pub fn handle_lost(&mut self, now: Instant, seq: u64, snapshot: Snapshot) {
        if self.state != State::Live {
            return;
        }
        (self.seq, self.named) = (seq, seq);
        self.send(now, &ServerFrame::Resync { snapshot });
    }

    /// The session is over, and everything was told.
    pub fn handle_over(&mut self) {
        self.close(CloseCode::SessionGone, "the session has ended");
    }

    /// The token that the client came with has expired, and the time to renew it, too.
    pub fn handle_expired(&mut self) {
        self.close(CloseCode::AuthenticationFailed, "the token has expired");
    }

    /// A newer socket has come with the same ticket.
    pub fn handle_taken_over(&mut self) {
        self.close(CloseCode::TakenOver, "another connection goes on with this ticket");
    }

    /// The relay stops; clients go on at `url`, if it is not empty.
    pub fn handle_drain(&mut self, url: &str) {
        self.finish(Refusal::Draining(url.to_owned()).into());
    }

    /// More waits to be sent than may.
    pub fn handle_slow(&mut self) {
        self.close(CloseCode::TooMuch, "too slow a reader");
    }

    /// None of the subprotocols that were offered is ours.
    pub fn handle_version(&mut self) {
        self.close(CloseCode::Version, "the subprotocol is relay.v1+json");
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::Live && self.ask_at.is_some_and(|at| now >= at) {
            // The answer says when to ask again.
            self.ask_at = None;
            self.outputs.push_back(Output::Ask);
        }
        match self.state {
            State::Closed => {}
            State::Silent if now >= self.start + self.timing.hello => {
                self.close(CloseCode::NotAuthenticated, "no hello in time");
            }
            State::Asked | State::Live if now >= self.heard + self.timing.dead_after => {
                self.close(CloseCode::HeartbeatTimeout, "no heartbeat in time");
            }
            State::Live if now >= self.beat => {
                self.send(now, &ServerFrame::Heartbeat {});
                self.beat = now + self.timing.heartbeat;
            }
            State::Silent | State::Asked | State::Live => {}
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Protocol::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let dead = self.heard + self.timing.dead_after;
        match self.state {
            State::Silent => Some(self.start + self.timing.hello),
            State::Asked => Some(dead),
            State::Live => {
                let next = dead.min(self.beat);
                Some(self.ask_at.map_or(next, |at| at.min(next)))
            }
            State::Closed => None,
        }
    }

    /// Whether the client was let in and nothing has ended it.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Takes a message into account; `false` if nothing may come of it.
    fn counts(&mut self, now: Instant) -> bool {
        if self.state == State::Closed {
            return false;
        }
        self.heard = self.heard.max(now);
        let admitted = self.rate.admits(now);
        if !admitted {
            self.close(CloseCode::TooMuch, "too many messages");
        }
        admitted
    }

    fn bind(&mut self, leg: Hidden) {
        self.binding = true;
        self.outputs.push_back(Output::Bind(leg));
    }

    fn heartbeat(&mut self, now: Instant, heartbeat: &Heartbeat) {
        let named = self.named;
        match heartbeat.seq.filter(|seq| *seq > named) {
            Some(_) => self.refuse(now, INVALID_MESSAGE, format!("seq is beyond the newest event, {named}")),
            None => self.send(now, &ServerFrame::HeartbeatAck {}),
        }
    }

    fn refuse(&mut self, now: Instant, code: &'static str, detail: String) {
        self.send(now, &ServerFrame::Error { code, detail });
    }

    fn send(&mut self, now: Instant, frame: &ServerFrame) {
        if self.state == State::Closed {
            return;
        }
        let passed = u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX);
        let ts = self.start_unix_ms.saturating_add(passed);
        self.outputs.push_back(Output::Send(frame.write(self.seq, ts)));
    }

    fn close(&mut self, code: CloseCode, reason: impl Into<std::borrow::Cow<'static, str>>) {
        self.finish(Close::new(code, reason));
    }

    fn finish(&mut self, close: Close) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.outputs.push_back(Output::Close(close));
        }
    }
}

/// How often a publisher hears how far its track is, at most.
pub const ACK_EVERY: Duration = Duration::from_millis(100);
/// As in problem documents.
const INVALID_MESSAGE: &str = "INVALID_MESSAGE";
/// As in problem documents.
const LEG_NOT_FOUND: &str = "LEG_NOT_FOUND";

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
