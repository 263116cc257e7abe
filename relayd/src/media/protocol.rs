//! One media socket's conversation, without the socket: a [`Conversation`] with frames in it.
//!
//! | state | on | does | then |
//! |---|---|---|---|
//! | asked | joined | `welcome` | live |
//! | asked | refused | `error`, close | closed |
//! | live, publisher | a frame | hand it in, `ack` within [`ACK_EVERY`] | live |
//! | live, publisher | a break | `paused`; frames are passed over | held |
//! | held | the end of the break | `resumed` | ready |
//! | ready | `continue` | frames count again | live |
//! | live, listener | a frame of the track | send it; a position that was left out is told before it | live |
//! | live, listener | `ack` | tell the media plane | live |
//!
//! To a listener positions strictly increase, whatever is handed in.

use std::time::Instant;

use bytes::Bytes;

use super::SUBPROTOCOL;
use super::frame::{MediaFrame, MediaFrameError};
use super::message::{ByeReason, ClientMessage, MediaHello, MediaRole, MediaWelcome, ServerMessage};
use crate::conversation::{
    self, ACK_EVERY, Close, CloseCode, Conversation, FrameError, Refusal, Reply, Said, Stage, Subprotocol,
    Timing,
};
use crate::webrtc::CloseReason;

/// The conversation.
pub type Protocol = Conversation<Media>;

/// What is to be done.
pub type Output = conversation::Output<Task>;

/// What only media sockets ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Find out who this is and give them a place; answer with [`Protocol::handle_joined`] or
    /// [`Conversation::handle_refused`].
    Join(MediaHello),
    /// A publisher sent this frame.
    Take(MediaFrame),
    /// A listener has all frames up to and with this position.
    Delivered(u64),
}

/// How far the frames of a media socket are.
#[derive(Debug)]
pub struct Media {
    role: MediaRole,
    /// Of a publisher.
    pause: Pause,
    acks: Acks,
    /// Of a listener: the position after the last one sent, or the first one that was promised.
    expected: Option<u64>,
    /// Of a listener: the highest position sent.
    sent: Option<u64>,
}

/// Where a publisher is in a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// There is none.
    Over,
    /// In it.
    Held,
    /// It is over and `continue` was not said yet.
    Ready,
}

/// What a publisher was told of its frames.
#[derive(Debug, Default)]
struct Acks {
    /// What the last `ack`, or the welcome, said.
    told: u64,
    /// One after the highest position that came on this socket.
    came: u64,
}

impl Acks {
    /// Whether there is something to find out.
    fn are_owed(&self) -> bool {
        self.told < self.came
    }
}

/// What only media clients say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A listener has all frames up to this one.
    Ack(u64),
    /// A publisher numbers its frames as `resumed` said.
    Continue,
}

impl Subprotocol for Media {
    const NAME: &'static str = SUBPROTOCOL;
    type Hello = MediaHello;
    type Message = Message;
    type Task = Task;

    fn read(text: &str) -> Result<Said<MediaHello, Message>, FrameError> {
        Ok(match ClientMessage::read(text)? {
            ClientMessage::Hello(hello) => Said::Hello(hello),
            ClientMessage::Heartbeat(_) => Said::Heartbeat,
            ClientMessage::TokenRefresh(refresh) => Said::TokenRefresh(refresh.token),
            ClientMessage::Ack(ack) => Said::Own(Message::Ack(ack.position)),
            ClientMessage::Continue(_) => Said::Own(Message::Continue),
        })
    }

    fn write(&self, _: Instant, reply: Reply) -> String {
        ServerMessage::from(reply).write()
    }

    fn hello(&mut self, hello: MediaHello) -> Result<Task, &'static str> {
        match self.role {
            MediaRole::Publisher if hello.from.is_some() => Err("from is for listeners"),
            MediaRole::Listener if hello.resume_secret.is_some() => Err("resumeSecret is for publishers"),
            _ => Ok(Task::Join(hello)),
        }
    }

    fn handle_message(talk: &mut Protocol, now: Instant, message: Message) {
        let Media { role, pause, sent, .. } = talk.own;
        match message {
            _ if !talk.is_live() => talk.invalid(now, "the welcome comes first"),
            Message::Continue if pause == Pause::Ready => talk.own.pause = Pause::Over,
            Message::Continue => talk.invalid(now, "there was no resumed"),
            Message::Ack(_) if role == MediaRole::Publisher => talk.invalid(now, "ack is for listeners"),
            Message::Ack(position) if sent.is_none_or(|sent| position > sent) => {
                talk.invalid(now, "the position is beyond the newest that was sent");
            }
            Message::Ack(position) => talk.task(Task::Delivered(position)),
        }
    }

    fn handle_binary(talk: &mut Protocol, now: Instant, message: &Bytes) {
        match talk.stage() {
            Stage::Silent => return talk.close(CloseCode::NotAuthenticated, "hello must come first"),
            _ if talk.own.role == MediaRole::Listener => {
                return talk.close(CloseCode::BadMessage, "a listener sends no frames");
            }
            Stage::Asked => return talk.close(CloseCode::BadMessage, "frames come after the welcome"),
            Stage::Live | Stage::Closed => {}
        }
        talk.heard(now);
        match MediaFrame::read(message) {
            Ok(frame) if talk.own.pause == Pause::Over => {
                let acks = &mut talk.own.acks;
                acks.came = acks.came.max(frame.position + 1);
                if acks.are_owed() {
                    talk.ask_by(now + ACK_EVERY);
                }
                talk.task(Task::Take(frame));
            }
            // It was sent before the client heard of the break.
            Ok(_) => {}
            Err(error @ MediaFrameError::TooLong(_)) => talk.close(CloseCode::TooLong, error.to_string()),
            Err(error) => talk.close(CloseCode::BadMessage, error.to_string()),
        }
    }

    fn handle_refused(talk: &mut Protocol, Refusal { code, detail, .. }: &Refusal) {
        talk.tell(&ServerMessage::Error { code: (*code).to_owned(), detail: detail.clone() });
    }

    fn handle_drain(talk: &mut Protocol) {
        talk.tell(&ServerMessage::Bye { reason: ByeReason::Drain });
    }
}

impl Conversation<Media> {
    /// A conversation that begins now.
    pub fn new(now: Instant, role: MediaRole, timing: Timing) -> Self {
        let media = Media { role, pause: Pause::Over, acks: Acks::default(), expected: None, sent: None };
        Self::begin(now, timing, media)
    }

    /// The client has its place. A listener that named no position begins with whatever comes first.
    pub fn handle_joined(&mut self, now: Instant, welcome: MediaWelcome, named: bool) {
        if self.admit(now) {
            self.own.acks.told = welcome.position;
            self.own.expected = named.then_some(welcome.position);
            self.tell(&ServerMessage::Welcome(welcome));
        }
    }

    /// All positions below `recv` are in the history; the answer to [`Output::Ask`](conversation::Output::Ask).
    pub fn handle_progress(&mut self, now: Instant, recv: u64) {
        if !self.publishes() {
            return;
        }
        if recv > self.own.acks.told {
            self.own.acks.told = recv;
            // What is in memory here is as safe as it gets on one node.
            self.tell(&ServerMessage::Ack { recv, safe: recv });
        }
        self.ask_at(self.own.acks.are_owed().then_some(now + ACK_EVERY));
    }

    /// A frame of the track, for a listener. What came before, or out of order, is passed over.
    pub fn handle_frame(&mut self, frame: &MediaFrame) {
        let position = frame.position;
        let expected = self.own.expected.unwrap_or(position);
        if !self.is_live() || self.own.role == MediaRole::Publisher || position < expected {
            return;
        }
        if position > expected {
            let (count, from, to) = (position - expected, expected, position - 1);
            self.tell(&ServerMessage::FramesLost { count, from, to });
        }
        (self.own.expected, self.own.sent) = (Some(position + 1), Some(position));
        self.send_frame(frame.write());
    }

    /// The session has a break: a publisher's frames are not taken.
    pub fn handle_paused(&mut self) {
        if self.publishes() && self.own.pause != Pause::Held {
            self.own.pause = Pause::Held;
            self.ask_at(None);
            self.tell(&ServerMessage::Paused {});
        }
    }

    /// The break is over: a publisher goes on at this position and media time.
    pub fn handle_resumed(&mut self, position: u64, media_time: u64) {
        if self.publishes() && self.own.pause == Pause::Held {
            self.own.pause = Pause::Ready;
            (self.own.acks.told, self.own.acks.came) = (position, position);
            self.tell(&ServerMessage::Resumed { position, media_time });
        }
    }

    /// Something to tell a client that was let in.
    pub fn handle_news(&mut self, message: &ServerMessage) {
        if self.is_live() {
            self.tell(message);
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
            CloseReason::Overloaded => {
                (ByeReason::Overloaded, Internal, "the relay has more to do than it can")
            }
            CloseReason::SessionEnded => {
                (ByeReason::Ended, SessionGone, "the session or its language has ended")
            }
            CloseReason::JoinTimeout => (ByeReason::Failed, Internal, "it did not take over in time"),
            CloseReason::Shutdown => (ByeReason::Drain, Draining, "the relay is stopping"),
            _ => (ByeReason::Failed, Internal, "the relay failed"),
        };
        if self.is_live() {
            self.tell(&ServerMessage::Bye { reason: bye });
        }
        self.finish(Close::new(code, why));
    }

    fn publishes(&self) -> bool {
        self.is_live() && self.own.role == MediaRole::Publisher
    }

    fn tell(&mut self, message: &ServerMessage) {
        self.send(message.write());
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
