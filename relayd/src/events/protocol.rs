//! One follower's conversation, without the socket: a [`Conversation`] that tells what happens in a session.
//!
//! Order: `hello` → [`Task::Authenticate`] → [`Protocol::handle_welcomed`] → events.
//!
//! A client that names a media connection is bound to it: [`Task::Bind`] → [`Protocol::handle_bound`]. A publisher then
//! hears `ack` every [`ACK_EVERY`] when it has changed ([`Output::Ask`](conversation::Output::Ask) →
//! [`Protocol::handle_progress`]), a listener `mediaStarted` for each line that begins.

use std::time::Instant;

use bytes::Bytes;

use super::SUBPROTOCOL;
use super::frame::{ClientFrame, Heartbeat, Hello, LineAnchor, ServerFrame, Snapshot, TrackAck};
use crate::conversation::{
    self, ACK_EVERY, CloseCode, Conversation, FrameError, Hidden, Reply, Said, Stage, Subprotocol, Timing,
};
use crate::session::Numbered;

/// The conversation.
pub type Protocol = Conversation<Following>;

/// What is to be done.
pub type Output = conversation::Output<Task>;

/// What only followers ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Find out who this is; answer with [`Protocol::handle_welcomed`] or [`Conversation::handle_refused`].
    Authenticate(Hello),
    /// Look for the connection of this name; answer with [`Protocol::handle_bound`].
    Bind(Hidden),
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

/// What a follower was told.
#[derive(Debug)]
pub struct Following {
    start: Instant,
    start_unix_ms: u64,
    /// The last event told or passed over.
    seq: u64,
    /// The newest event that the client has heard of.
    named: u64,
    /// A connection that is named in `hello`, until the client is let in.
    leg: Option<Hidden>,
    binding: bool,
    /// What was acknowledged last.
    acked: Option<TrackAck>,
}

/// What only followers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The client is alive, and has seen the event of this number.
    Seen(u64),
    /// Another connection of the same publisher or listener.
    Leg(Hidden),
}

impl Subprotocol for Following {
    const NAME: &'static str = SUBPROTOCOL;
    type Hello = Hello;
    type Message = Message;
    type Task = Task;

    fn read(text: &str) -> Result<Said<Hello, Message>, FrameError> {
        Ok(match ClientFrame::read(text)? {
            ClientFrame::Hello(hello) => Said::Hello(hello),
            ClientFrame::Heartbeat(Heartbeat { seq: None }) => Said::Heartbeat,
            ClientFrame::Heartbeat(Heartbeat { seq: Some(seq) }) => Said::Own(Message::Seen(seq)),
            ClientFrame::TokenRefresh(refresh) => Said::TokenRefresh(refresh.token),
            ClientFrame::Leg(named) => Said::Own(Message::Leg(named.leg)),
        })
    }

    fn write(&self, now: Instant, reply: Reply) -> String {
        self.message(now, &reply.into())
    }

    fn hello(&mut self, mut hello: Hello) -> Result<Task, &'static str> {
        self.leg = hello.leg.take();
        Ok(Task::Authenticate(hello))
    }

    fn handle_message(talk: &mut Protocol, now: Instant, message: Message) {
        match message {
            Message::Seen(seq) if seq > talk.own.named => {
                talk.invalid(now, format!("seq is beyond the newest event, {}", talk.own.named));
            }
            Message::Seen(_) => talk.reply(now, Reply::HeartbeatAck),
            Message::Leg(leg) if talk.is_live() && !talk.own.binding => talk.bind(leg),
            Message::Leg(_) => talk.invalid(now, "a connection is being looked for already"),
        }
    }

    fn handle_binary(talk: &mut Protocol, now: Instant, _: &Bytes) {
        if !talk.counts(now) {
            return;
        }
        if talk.stage() == Stage::Silent {
            talk.close(CloseCode::BadMessage, "messages are text");
        } else {
            talk.invalid(now, "messages are text");
        }
    }
}

impl Following {
    fn message(&self, now: Instant, frame: &ServerFrame) -> String {
        let passed = u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX);
        frame.write(self.seq, self.start_unix_ms.saturating_add(passed))
    }
}

impl Conversation<Following> {
    /// A conversation that begins now, which is `unix_ms` by the wall's clock.
    pub fn new(now: Instant, unix_ms: u64, timing: Timing) -> Self {
        let following = Following {
            start: now,
            start_unix_ms: unix_ms,
            seq: 0,
            named: 0,
            leg: None,
            binding: false,
            acked: None,
        };
        Self::begin(now, timing, following)
    }

    /// The client was let in.
    pub fn handle_welcomed(&mut self, now: Instant, welcomed: Welcomed) {
        if !self.admit(now) {
            return;
        }
        (self.own.seq, self.own.named) = (welcomed.after, welcomed.head.max(welcomed.after));
        self.tell(now, &welcomed.frame);
        if let Some(snapshot) = welcomed.snapshot {
            self.tell(now, &ServerFrame::SessionJoined(snapshot));
        }
        if let Some(leg) = self.own.leg.take() {
            self.bind(leg);
        }
    }

    /// The connection was found, and whether it is a publisher's; or there is none of that name in the session.
    pub fn handle_bound(&mut self, now: Instant, publishes: Option<bool>) {
        if !std::mem::take(&mut self.own.binding) || !self.is_live() {
            return;
        }
        match publishes {
            Some(publishes) => {
                self.own.acked = None;
                self.ask_at(publishes.then_some(now));
            }
            None => {
                let detail = "no connection of this session has such a name".to_owned();
                self.reply(now, Reply::Error(LEG_NOT_FOUND, detail));
            }
        }
    }

    /// How far the track is; `None` when nothing can be told of it.
    pub fn handle_progress(&mut self, now: Instant, ack: Option<TrackAck>) {
        if !self.is_live() {
            return;
        }
        self.ask_at(Some(now + ACK_EVERY));
        if let Some(ack) = ack.filter(|ack| self.own.acked.as_ref() != Some(ack)) {
            self.tell(now, &ServerFrame::Ack(ack.clone()));
            self.own.acked = Some(ack);
        }
    }

    /// A line begins on the listener's connection.
    pub fn handle_anchor(&mut self, now: Instant, anchor: LineAnchor) {
        if self.is_live() {
            self.tell(now, &ServerFrame::MediaStarted(anchor));
        }
    }

    /// Something happened in the session, which the client may see or not.
    pub fn handle_event(&mut self, event: &Numbered, visible: bool) {
        if !self.is_live() {
            return;
        }
        self.own.seq = event.seq;
        self.own.named = self.own.named.max(event.seq);
        if visible {
            self.send(serde_json::to_string(event).expect("an event is JSON"));
        }
    }

    /// Events up to `seq` are lost to the client; this is how the session is now.
    pub fn handle_lost(&mut self, now: Instant, seq: u64, snapshot: Snapshot) {
        if self.is_live() {
            (self.own.seq, self.own.named) = (seq, seq);
            self.tell(now, &ServerFrame::Resync { snapshot });
        }
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

    fn bind(&mut self, leg: Hidden) {
        self.own.binding = true;
        self.task(Task::Bind(leg));
    }

    fn tell(&mut self, now: Instant, frame: &ServerFrame) {
        self.send(self.own.message(now, frame));
    }
}

/// As in problem documents.
const LEG_NOT_FOUND: &str = "LEG_NOT_FOUND";

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
