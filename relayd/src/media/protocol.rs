//! One media socket's conversation, without the socket: what was said comes in with `now`, what to do comes out.
//!
//! | state | on | does | then |
//! |---|---|---|---|
//! | silent | `hello` | join | asked |
//! | silent | anything else, or nothing in time | close 4003 | closed |
//! | asked | joined | `welcome` | live |
//! | asked | refused | `error`, close | closed |
//! | live, publisher | a frame | hand it in, `ack` within [`ACK_EVERY`] | live |
//! | live, publisher | a break | `paused`; frames are passed over | held |
//! | held | the end of the break | `resumed` | ready |
//! | ready | `continue` | frames count again | live |
//! | live, listener | a frame of the track | send it; a position that was left out is told before it | live |
//! | live, listener | `ack` | tell the media plane | live |
//!
//! Nothing comes out after [`Output::Close`], and nothing that comes in then changes anything. To a listener
//! positions strictly increase, whatever is handed in. What waits to be taken out is bounded by what came in: three
//! outputs per input.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::frame::{MediaFrame, MediaFrameError};
use super::message::{ByeReason, ClientMessage, MediaHello, MediaRole, MediaWelcome, ServerMessage};
use crate::events::frame::Hidden;
use crate::events::protocol::ACK_EVERY;
use crate::events::{Close, CloseCode, Rate, Timing};
use crate::webrtc::CloseReason;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this text.
    Send(String),
    /// Send this binary message.
    SendFrame(Bytes),
    /// Find out who this is and give them a place; answer with [`Protocol::handle_joined`] or
    /// [`Protocol::handle_refused`].
    Join(MediaHello),
    /// A publisher sent this frame.
    Take(MediaFrame),
    /// A listener has all frames up to and with this position.
    Delivered(u64),
    /// Ask the track how far it is; answer with [`Protocol::handle_progress`].
    Ask,
    /// Check this newer token; answer with [`Protocol::handle_renewed`].
    Renew(Hidden),
    /// Close. The last output.
    Close(Close),
}

/// Why somebody was not let in, or a message not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs, as in problem documents.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// How the socket is closed.
    pub close: CloseCode,
}

/// The state of one conversation.
#[derive(Debug)]
pub struct Protocol {
    timing: Timing,
    role: MediaRole,
    start: Instant,
    state: State,
    rate: Rate,
    heard: Instant,
    beat: Instant,
    renewing: bool,
    /// Of a publisher.
    acks: Acks,
    /// Of a listener: the position after the last one sent, or the first one that was promised.
    expected: Option<u64>,
    /// Of a listener: the highest position sent.
    sent: Option<u64>,
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
    /// In a break.
    Held,
    /// The break is over and `continue` was not said yet.
    Ready,
    /// Over.
    Closed,
}

/// What a publisher was told of its frames.
#[derive(Debug, Default)]
struct Acks {
    /// What the last `ack`, or the welcome, said.
    told: u64,
    /// One after the highest position that came on this socket.
    came: u64,
    /// When to ask again how far the track is.
    ask_at: Option<Instant>,
}

impl Acks {
    /// Whether there is something to find out.
    fn are_owed(&self) -> bool {
        self.told < self.came
    }
}

/// Commands.
impl Protocol {
    /// A conversation that begins now.
    pub fn new(now: Instant, role: MediaRole, timing: Timing) -> Self {
        let rate = Rate::new(timing.rate, timing.burst);
        Self {
            timing,
            role,
            start: now,
            state: State::Silent,
            rate,
            heard: now,
            beat: now,
            renewing: false,
            acks: Acks::default(),
            expected: None,
            sent: None,
            outputs: VecDeque::new(),
        }
    }
}

/// What the client did.
impl Protocol {
    /// A text message came.
    pub fn handle_text(&mut self, now: Instant, text: &str) {
        if !self.counts(now) {
            return;
        }
        match (ClientMessage::read(text), self.state) {
            (_, State::Closed) => {}
            (Ok(ClientMessage::Hello(hello)), State::Silent) => self.hello(hello),
            (Ok(ClientMessage::Hello(_)), _) => {
                self.close(CloseCode::AlreadyAuthenticated, "hello is said once");
            }
            (Ok(_), State::Silent) => self.close(CloseCode::NotAuthenticated, "hello must come first"),
            (Err(error), State::Silent) => self.close(CloseCode::BadMessage, error.to_string()),
            (Err(error), _) => self.invalid(error.to_string()),
            (Ok(ClientMessage::Heartbeat(_)), _) => self.send(&ServerMessage::HeartbeatAck {}),
            (Ok(_), State::Asked) => self.invalid("the welcome comes first"),
            (Ok(ClientMessage::Ack(ack)), _) => self.listener_ack(ack.position),
            (Ok(ClientMessage::Continue(_)), State::Ready) => self.state = State::Live,
            (Ok(ClientMessage::Continue(_)), _) => self.invalid("there was no resumed"),
            (Ok(ClientMessage::TokenRefresh(refresh)), _) if !self.renewing => {
                self.renewing = true;
                self.outputs.push_back(Output::Renew(refresh.token));
            }
            (Ok(ClientMessage::TokenRefresh(_)), _) => self.invalid("a token is being looked at already"),
        }
    }

    /// A binary message came.
    pub fn handle_binary(&mut self, now: Instant, message: &Bytes) {
        match self.state {
            State::Closed => return,
            State::Silent => return self.close(CloseCode::NotAuthenticated, "hello must come first"),
            _ if self.role == MediaRole::Listener => {
                return self.close(CloseCode::BadMessage, "a listener sends no frames");
            }
            State::Asked => return self.close(CloseCode::BadMessage, "frames come after the welcome"),
            State::Live | State::Held | State::Ready => {}
        }
        self.heard = self.heard.max(now);
        match MediaFrame::read(message) {
            Ok(frame) if self.state == State::Live => {
                self.acks.came = self.acks.came.max(frame.position + 1);
                if self.acks.are_owed() {
                    self.acks.ask_at.get_or_insert(now + ACK_EVERY);
                }
                self.outputs.push_back(Output::Take(frame));
            }
            // It was sent before the client heard of the break.
            Ok(_) => {}
            Err(error @ MediaFrameError::TooLong(_)) => self.close(CloseCode::TooLong, error.to_string()),
            Err(error) => self.close(CloseCode::BadMessage, error.to_string()),
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
        self.close(CloseCode::Version, "the subprotocol is relay.media.v1");
    }
}

/// What the relay did.
impl Protocol {
    /// The client has its place. A listener that named no position begins with whatever comes first.
    pub fn handle_joined(&mut self, now: Instant, welcome: MediaWelcome, named: bool) {
        if self.state != State::Asked {
            return;
        }
        self.state = State::Live;
        self.beat = now + self.timing.heartbeat;
        self.acks.told = welcome.position;
        self.expected = named.then_some(welcome.position);
        self.send(&ServerMessage::Welcome(welcome));
    }

    /// The client was not let in.
    pub fn handle_refused(&mut self, refusal: Refusal) {
        if self.state == State::Asked {
            let Refusal { code, detail, close } = refusal;
            self.send(&ServerMessage::Error { code: code.to_owned(), detail: detail.clone() });
            self.close(close, detail);
        }
    }

    /// All positions below `recv` are in the history; the answer to [`Output::Ask`].
    pub fn handle_progress(&mut self, now: Instant, recv: u64) {
        if !self.is_live() || self.role == MediaRole::Listener {
            return;
        }
        if recv > self.acks.told {
            self.acks.told = recv;
            // What is in memory here is as safe as it gets on one node.
            self.send(&ServerMessage::Ack { recv, safe: recv });
        }
        self.acks.ask_at = self.acks.are_owed().then_some(now + ACK_EVERY);
    }

    /// A frame of the track, for a listener. What came before, or out of order, is passed over.
    pub fn handle_frame(&mut self, frame: &MediaFrame) {
        if !self.is_live() || self.role == MediaRole::Publisher {
            return;
        }
        let position = frame.position;
        let expected = self.expected.unwrap_or(position);
        if position < expected {
            return;
        }
        if position > expected {
            let (count, from, to) = (position - expected, expected, position - 1);
            self.send(&ServerMessage::FramesLost { count, from, to });
        }
        (self.expected, self.sent) = (Some(position + 1), Some(position));
        self.outputs.push_back(Output::SendFrame(frame.write()));
    }

    /// The session has a break: a publisher's frames are not taken.
    pub fn handle_paused(&mut self) {
        if matches!(self.state, State::Live | State::Ready) && self.role == MediaRole::Publisher {
            self.state = State::Held;
            self.acks.ask_at = None;
            self.send(&ServerMessage::Paused {});
        }
    }

    /// The break is over: a publisher goes on at this position and media time.
    pub fn handle_resumed(&mut self, position: u64, media_time: u64) {
        if self.state == State::Held {
            self.state = State::Ready;
            (self.acks.told, self.acks.came) = (position, position);
            self.send(&ServerMessage::Resumed { position, media_time });
        }
    }

    /// Something to tell a client that was let in.
    pub fn handle_news(&mut self, message: &ServerMessage) {
        if self.is_live() {
            self.send(message);
        }
    }

    /// The newer token is good until then, in Unix milliseconds; or is not, by this code and for this reason.
    pub fn handle_renewed(&mut self, renewed: Result<u64, (&'static str, String)>) {
        if !std::mem::take(&mut self.renewing) || !self.is_live() {
            return;
        }
        match renewed {
            Ok(expires_at) => self.send(&ServerMessage::TokenRefreshed { expires_at }),
            Err((code, detail)) => self.send(&ServerMessage::Error { code: code.to_owned(), detail }),
        }
    }

    /// The client's place is gone.
    pub fn handle_ended(&mut self, reason: CloseReason) {
        use CloseCode::{AuthenticationFailed, Draining, Internal, Normal, SessionGone, TakenOver};
        let (bye, code, why) = match reason {
            CloseReason::Deleted => (ByeReason::Closed, Normal, "closed"),
            CloseReason::Refreshed => (ByeReason::Refreshed, Normal, "another connection has taken over"),
            CloseReason::TakenOver => (ByeReason::Displaced, TakenOver, "another publisher has the place"),
            CloseReason::TokenExpired => (ByeReason::Expired, AuthenticationFailed, "the token has expired"),
            CloseReason::MaxAge => (ByeReason::MaxAge, Internal, "older than connections get"),
            CloseReason::SessionEnded => {
                (ByeReason::Ended, SessionGone, "the session or its language has ended")
            }
            CloseReason::Shutdown => (ByeReason::Drain, Draining, "the relay is stopping"),
            _ => (ByeReason::Failed, Internal, "the relay failed"),
        };
        self.bye(bye, Close::new(code, why));
    }

    /// The relay stops; clients go on at `url`, if it is not empty.
    pub fn handle_drain(&mut self, url: &str) {
        let why = if url.is_empty() { "the relay is stopping".to_owned() } else { url.to_owned() };
        self.bye(ByeReason::Drain, Close::new(CloseCode::Draining, why));
    }

    /// More waits to be sent than may.
    pub fn handle_slow(&mut self) {
        self.close(CloseCode::TooMuch, "too slow a reader");
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Closed => return,
            State::Silent if now >= self.start + self.timing.hello => {
                return self.close(CloseCode::NotAuthenticated, "no hello in time");
            }
            State::Silent => return,
            _ if now >= self.heard + self.timing.dead_after => {
                return self.close(CloseCode::HeartbeatTimeout, "nothing was heard for too long");
            }
            State::Asked => return,
            State::Live | State::Held | State::Ready => {}
        }
        if now >= self.beat {
            self.send(&ServerMessage::Heartbeat {});
            self.beat = now + self.timing.heartbeat;
        }
        if self.acks.ask_at.is_some_and(|at| now >= at) {
            // The answer says when to ask again.
            self.acks.ask_at = None;
            self.outputs.push_back(Output::Ask);
        }
    }
}

/// What must happen next.
impl Protocol {
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
            State::Live | State::Held | State::Ready => {
                let next = dead.min(self.beat);
                Some(self.acks.ask_at.map_or(next, |at| at.min(next)))
            }
            State::Closed => None,
        }
    }
}

/// Getters.
impl Protocol {
    /// Whether the client was let in and nothing has ended it.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live | State::Held | State::Ready)
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
}

impl Protocol {
    fn hello(&mut self, hello: MediaHello) {
        let wrong = match self.role {
            MediaRole::Publisher if hello.from.is_some() => Some("from is for listeners"),
            MediaRole::Listener if hello.resume_secret.is_some() => Some("resumeSecret is for publishers"),
            _ => None,
        };
        if let Some(why) = wrong {
            return self.close(CloseCode::BadMessage, why);
        }
        self.state = State::Asked;
        self.outputs.push_back(Output::Join(hello));
    }

    fn listener_ack(&mut self, position: u64) {
        if self.role == MediaRole::Publisher {
            self.invalid("ack is for listeners");
        } else if self.sent.is_none_or(|sent| position > sent) {
            self.invalid("the position is beyond the newest that was sent");
        } else {
            self.outputs.push_back(Output::Delivered(position));
        }
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

    fn invalid(&mut self, detail: impl Into<String>) {
        self.send(&ServerMessage::Error { code: INVALID_MESSAGE.to_owned(), detail: detail.into() });
    }

    fn send(&mut self, message: &ServerMessage) {
        self.outputs.push_back(Output::Send(message.write()));
    }

    fn bye(&mut self, reason: ByeReason, close: Close) {
        if self.is_live() {
            self.send(&ServerMessage::Bye { reason });
        }
        self.finish(close);
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

/// As in problem documents.
const INVALID_MESSAGE: &str = "INVALID_MESSAGE";

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
