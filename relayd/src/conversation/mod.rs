//! What the subprotocols of our WebSockets have in common, without a socket: what was said comes in with `now`, what to
//! do comes out. A [`Subprotocol`] adds what it alone knows.
//!
//! | stage | on | does | then |
//! |---|---|---|---|
//! | silent | `hello` | what the subprotocol asks for | asked |
//! | silent | anything else, or nothing in time | close 4001 or 4003 | closed |
//! | asked | the welcome | | live |
//! | asked, live | a second `hello` | close 4005 | closed |
//! | asked, live | what cannot be read | `error` | |
//! | asked, live | `heartbeat` | `heartbeatAck` | |
//! | live | `token.refresh` | [`Output::Renew`], one at a time | |
//! | live | time | `heartbeat`; [`Output::Ask`], if somebody is to be asked | |
//! | any | too many messages; silence | close 4008, 4009 | closed |
//!
//! Nothing comes out after [`Output::Close`], and nothing that comes in then changes anything. What waits to be taken
//! out is bounded by what came in: three outputs per input.

mod close;
mod message;
mod rate;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config;
pub use close::{Close, CloseCode};
pub use message::{FrameError, Hidden};
pub(crate) use message::{envelope, within};
pub use rate::Rate;

/// One socket's conversation.
#[derive(Debug)]
pub struct Conversation<S: Subprotocol> {
    /// What the subprotocol knows besides.
    pub(crate) own: S,
    timing: Timing,
    start: Instant,
    stage: Stage,
    rate: Rate,
    heard: Instant,
    beat: Instant,
    renewing: bool,
    /// When somebody is to be asked.
    ask_at: Option<Instant>,
    outputs: VecDeque<Output<S::Task>>,
}

/// What one subprotocol says and understands.
pub trait Subprotocol: Sized + Send + 'static {
    /// As in `Sec-WebSocket-Protocol`.
    const NAME: &'static str;
    /// Who is there.
    type Hello;
    /// What only this subprotocol has messages for.
    type Message;
    /// What only this subprotocol asks of the owner.
    type Task: Send;

    /// Reads a text message.
    ///
    /// # Errors
    /// If it is no message of a client's.
    fn read(text: &str) -> Result<Said<Self::Hello, Self::Message>, FrameError>;

    /// The message that says this.
    fn write(&self, now: Instant, reply: Reply) -> String;

    /// Somebody said hello: what to do about it, or why it is a bad one.
    ///
    /// # Errors
    /// What is wrong with it.
    fn hello(&mut self, hello: Self::Hello) -> Result<Self::Task, &'static str>;

    /// A message of this subprotocol's own came, after `hello`.
    fn handle_message(talk: &mut Conversation<Self>, now: Instant, message: Self::Message);

    /// A binary message came, at any stage but the last.
    fn handle_binary(talk: &mut Conversation<Self>, now: Instant, message: &Bytes);

    /// The client was not let in: what is said before the close.
    fn handle_refused(_talk: &mut Conversation<Self>, _refusal: &Refusal) {}

    /// The relay stops: what is said before the close.
    fn handle_drain(_talk: &mut Conversation<Self>) {}
}

/// A text message of a client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<H, M> {
    /// Who is there.
    Hello(H),
    /// The client is alive.
    Heartbeat,
    /// A newer token of the same subject and role.
    TokenRefresh(Hidden),
    /// Something of the subprotocol's own.
    Own(M),
}

/// What the relay says in all subprotocols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The relay is alive.
    Heartbeat,
    /// The answer to a client's heartbeat.
    HeartbeatAck,
    /// The newer token is good until then, in Unix milliseconds.
    TokenRefreshed(u64),
    /// A message was not taken: a code for programs, and why.
    Error(&'static str, String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output<T> {
    /// Send this text.
    Send(String),
    /// Send this binary message.
    SendFrame(Bytes),
    /// Check this newer token; answer with [`Conversation::handle_renewed`].
    Renew(Hidden),
    /// Ask how far the track is; answer with `handle_progress`.
    Ask,
    /// What only the subprotocol knows.
    Task(T),
    /// Close. The last output.
    Close(Close),
}

/// Why somebody was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs, as in problem documents.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// How the socket is closed.
    pub close: CloseCode,
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was said.
    Silent,
    /// `hello` was said.
    Asked,
    /// Welcomed.
    Live,
    /// Over.
    Closed,
}

/// What the client did.
impl<S: Subprotocol> Conversation<S> {
    /// A text message came.
    pub fn handle_text(&mut self, now: Instant, text: &str) {
        if !self.counts(now) {
            return;
        }
        match (S::read(text), self.stage) {
            (_, Stage::Closed) => {}
            (Ok(Said::Hello(hello)), Stage::Silent) => match self.own.hello(hello) {
                Ok(task) => {
                    self.stage = Stage::Asked;
                    self.task(task);
                }
                Err(why) => self.close(CloseCode::BadMessage, why),
            },
            (Ok(Said::Hello(_)), _) => self.close(CloseCode::AlreadyAuthenticated, "hello is said once"),
            (Ok(_), Stage::Silent) => self.close(CloseCode::NotAuthenticated, "hello must come first"),
            (Err(error), Stage::Silent) => self.close(CloseCode::BadMessage, error.to_string()),
            (Err(error), _) => self.invalid(now, error.to_string()),
            (Ok(Said::Heartbeat), _) => self.reply(now, Reply::HeartbeatAck),
            (Ok(Said::TokenRefresh(token)), Stage::Live) if !self.renewing => {
                self.renewing = true;
                self.outputs.push_back(Output::Renew(token));
            }
            (Ok(Said::TokenRefresh(_)), Stage::Live) => {
                self.invalid(now, "a token is being looked at already");
            }
            (Ok(Said::TokenRefresh(_)), Stage::Asked) => self.invalid(now, "the welcome comes first"),
            (Ok(Said::Own(message)), _) => S::handle_message(self, now, message),
        }
    }

    /// A binary message came.
    pub fn handle_binary(&mut self, now: Instant, message: &Bytes) {
        if self.stage != Stage::Closed {
            S::handle_binary(self, now, message);
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

    /// None of the subprotocols that were offered is ours.
    pub fn handle_version(&mut self) {
        self.close(CloseCode::Version, format!("the subprotocol is {}", S::NAME));
    }
}

/// What the relay did.
impl<S: Subprotocol> Conversation<S> {
    /// The client was not let in.
    pub fn handle_refused(&mut self, refusal: Refusal) {
        if self.stage == Stage::Asked {
            S::handle_refused(self, &refusal);
            self.close(refusal.close, refusal.detail);
        }
    }

    /// The newer token is good until then, in Unix milliseconds; or is not, by this code and for this reason.
    pub fn handle_renewed(&mut self, now: Instant, renewed: Result<u64, (&'static str, String)>) {
        if !std::mem::take(&mut self.renewing) {
            return;
        }
        let reply = match renewed {
            Ok(expires_at) => Reply::TokenRefreshed(expires_at),
            Err((code, detail)) => Reply::Error(code, detail),
        };
        self.reply(now, reply);
    }

    /// The relay stops; clients go on at `url`, if it is not empty.
    pub fn handle_drain(&mut self, url: &str) {
        if self.is_live() {
            S::handle_drain(self);
        }
        self.finish(Close::draining(url.to_owned()));
    }

    /// More waits to be sent than may.
    pub fn handle_slow(&mut self) {
        self.close(CloseCode::TooMuch, "too slow a reader");
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.stage {
            Stage::Silent if now >= self.start + self.timing.hello => {
                return self.close(CloseCode::NotAuthenticated, "no hello in time");
            }
            Stage::Asked | Stage::Live if now >= self.heard + self.timing.dead_after => {
                return self.close(CloseCode::HeartbeatTimeout, "nothing was heard for too long");
            }
            Stage::Closed | Stage::Silent | Stage::Asked => return,
            Stage::Live => {}
        }
        if now >= self.beat {
            self.reply(now, Reply::Heartbeat);
            self.beat = now + self.timing.heartbeat;
        }
        if self.ask_at.is_some_and(|at| now >= at) {
            // The answer says when to ask again.
            self.ask_at = None;
            self.outputs.push_back(Output::Ask);
        }
    }
}

/// What must happen next.
impl<S: Subprotocol> Conversation<S> {
    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output<S::Task>> {
        self.outputs.pop_front()
    }

    /// When [`Conversation::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let dead = self.heard + self.timing.dead_after;
        match self.stage {
            Stage::Silent => Some(self.start + self.timing.hello),
            Stage::Asked => Some(dead),
            Stage::Live => self.ask_at.into_iter().chain([dead, self.beat]).min(),
            Stage::Closed => None,
        }
    }
}

/// Getters.
impl<S: Subprotocol> Conversation<S> {
    /// Whether the client was let in and nothing has ended it.
    pub fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }
}

/// For subprotocols.
impl<S: Subprotocol> Conversation<S> {
    /// One that begins now.
    pub(crate) fn begin(now: Instant, timing: Timing, own: S) -> Self {
        Self {
            own,
            rate: Rate::new(timing.rate, timing.burst),
            timing,
            start: now,
            stage: Stage::Silent,
            heard: now,
            beat: now,
            renewing: false,
            ask_at: None,
            outputs: VecDeque::new(),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The client is let in; `false` if it did not ask, or has gone.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        let admitted = self.stage == Stage::Asked;
        if admitted {
            self.stage = Stage::Live;
            self.beat = now + self.timing.heartbeat;
        }
        admitted
    }

    /// The client is alive; that costs it nothing.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// Takes a message into account; `false` if nothing may come of it.
    pub(crate) fn counts(&mut self, now: Instant) -> bool {
        if self.stage == Stage::Closed {
            return false;
        }
        self.heard(now);
        let admitted = self.rate.admits(now);
        if !admitted {
            self.close(CloseCode::TooMuch, "too many messages");
        }
        admitted
    }

    /// When to ask how far the track is; `None` for not at all.
    pub(crate) fn ask_at(&mut self, at: Option<Instant>) {
        self.ask_at = at;
    }

    /// The same, if it is not to be asked before.
    pub(crate) fn ask_by(&mut self, at: Instant) {
        self.ask_at.get_or_insert(at);
    }

    pub(crate) fn task(&mut self, task: S::Task) {
        self.outputs.push_back(Output::Task(task));
    }

    pub(crate) fn send(&mut self, text: String) {
        if self.stage != Stage::Closed {
            self.outputs.push_back(Output::Send(text));
        }
    }

    pub(crate) fn send_frame(&mut self, frame: Bytes) {
        self.outputs.push_back(Output::SendFrame(frame));
    }

    pub(crate) fn reply(&mut self, now: Instant, reply: Reply) {
        self.send(self.own.write(now, reply));
    }

    /// A message is not taken; the socket stays open.
    pub(crate) fn invalid(&mut self, now: Instant, detail: impl Into<String>) {
        self.reply(now, Reply::Error(INVALID_MESSAGE, detail.into()));
    }

    pub(crate) fn close(&mut self, code: CloseCode, reason: impl Into<Cow<'static, str>>) {
        self.finish(Close::new(code, reason));
    }

    pub(crate) fn finish(&mut self, close: Close) {
        if self.stage != Stage::Closed {
            self.stage = Stage::Closed;
            self.outputs.push_back(Output::Close(close));
        }
    }
}

/// How often a publisher hears how far its track is, at most.
pub const ACK_EVERY: Duration = Duration::from_millis(100);
/// As in problem documents.
const INVALID_MESSAGE: &str = "INVALID_MESSAGE";
