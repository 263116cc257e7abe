//! The text messages of `relay.media.v1`, as serde types. `docs/asyncapi.json` describes them and is checked against
//! them. Each is `{"t": name, "d": {…}}`, in both directions; both sides read what the other writes.

use serde::{Deserialize, Serialize};

use crate::conversation::{FrameError, Hidden, Reply, envelope, within};
use crate::session::{Language, WarningReason};

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "t", content = "d", rename_all = "camelCase")]
pub enum ClientMessage {
    /// Who is there; the first message, once.
    Hello(MediaHello),
    /// A listener: it has all frames up to this one.
    Ack(ListenerAck),
    /// The client is alive.
    Heartbeat(Empty),
    /// A publisher heard `resumed` and numbers its frames as that says.
    Continue(Empty),
    /// A newer token of the same subject and role.
    #[serde(rename = "token.refresh")]
    TokenRefresh(MediaToken),
}

/// Message `hello`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MediaHello {
    /// A token; absent for an anonymous listener and at an open relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Hidden>,
    /// The ticket of a `welcome`, or of a `refreshRequired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Hidden>,
    /// A publisher: the session's resume secret, to take back the place of a connection that is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_secret: Option<Hidden>,
    /// A listener: the first position wanted. Default: after what was acknowledged on the ticket, else what comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

/// Message `ack` of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerAck {
    /// The position up to which the client has everything that was sent.
    pub position: u64,
}

/// Message `token.refresh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaToken {
    /// The token.
    pub token: Hidden,
}

/// A message without data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

impl ClientMessage {
    /// Reads a message. What is wrong with it is told without what it holds.
    ///
    /// # Errors
    /// If it is no message of a client's.
    pub fn read(text: &str) -> Result<Self, FrameError> {
        let (name, data) = envelope(text)?;
        match name.as_str() {
            "hello" => {
                let hello: MediaHello = within(data)?;
                if hello.ticket.is_some() && hello.resume_secret.is_some() {
                    return Err(FrameError::of("hello has a ticket or a resumeSecret, not both"));
                }
                Ok(Self::Hello(hello))
            }
            "ack" => Ok(Self::Ack(within(data)?)),
            "heartbeat" => Ok(Self::Heartbeat(within(data)?)),
            "continue" => Ok(Self::Continue(within(data)?)),
            "token.refresh" => Ok(Self::TokenRefresh(within(data)?)),
            _ => Err(FrameError::of("t must be hello, ack, heartbeat, continue or token.refresh")),
        }
    }

    /// The message that [`ClientMessage::read`] reads as this.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }
}

/// What the relay says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", content = "d", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ServerMessage {
    /// The answer to `hello`.
    Welcome(MediaWelcome),
    /// To a publisher: what has arrived, every [`MediaWelcome::ack_ms`] when that has changed.
    Ack {
        /// All positions below this one are here: what the client keeps before it, it need not send again.
        recv: u64,
        /// All positions below this one are also elsewhere, or as safe as they get: what the client keeps before it
        /// may go.
        safe: u64,
    },
    /// A break: frames are not taken until the client has said `continue`.
    Paused {},
    /// The break is over: the client numbers what it sends from here on as this says, and says `continue` before.
    Resumed {
        /// The position of the next frame.
        position: u64,
        /// The media time of the next frame, if it is captured now.
        media_time: u64,
    },
    /// Open another connection beside this one, with this ticket, before this one is closed.
    RefreshRequired {
        /// Where to; a path is at this relay.
        url: String,
        /// The ticket for its `hello`.
        ticket: String,
        /// Until when, in Unix milliseconds.
        deadline: u64,
        /// Why.
        reason: WarningReason,
    },
    /// The other connection has taken over; the older one is closed next.
    RefreshComplete {
        /// The number of the event: told on both connections, it is the same refresh.
        seq: u64,
        /// The first position that the newer connection is alone with.
        position: u64,
        /// Frames that were sent again on the newer connection.
        replayed: u64,
        /// Frames that could not be had.
        gap_frames: u64,
        /// How often the relay had asked for it; 0: the client came by itself.
        attempts: u32,
    },
    /// To a listener: these frames do not come.
    FramesLost {
        /// How many.
        count: u64,
        /// The first position.
        from: u64,
        /// The last position that may be among them.
        to: u64,
    },
    /// The relay is alive.
    Heartbeat {},
    /// The answer to a client's heartbeat.
    HeartbeatAck {},
    /// The answer to `token.refresh`.
    TokenRefreshed {
        /// When the token expires, in Unix milliseconds.
        expires_at: u64,
    },
    /// A message was not taken; the socket stays open.
    Error {
        /// For programs, as in problem documents.
        code: String,
        /// For people.
        detail: String,
    },
    /// Nothing follows but the close.
    Bye {
        /// Why.
        reason: ByeReason,
    },
}

impl From<Reply> for ServerMessage {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Heartbeat => Self::Heartbeat {},
            Reply::HeartbeatAck => Self::HeartbeatAck {},
            Reply::TokenRefreshed(expires_at) => Self::TokenRefreshed { expires_at },
            Reply::Error(code, detail) => Self::Error { code: code.to_owned(), detail },
        }
    }
}

/// Message `welcome`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaWelcome {
    /// Publisher or listener.
    pub role: MediaRole,
    /// The session.
    pub session_id: String,
    /// The track.
    pub language: Language,
    /// The name of this leg, as for `hello.leg` of the events WebSocket.
    pub resource: String,
    /// To come back with.
    pub ticket: String,
    /// Publisher: the first position that is not here; a client that comes back sends what it keeps from there on.
    /// Listener: the first position that may come.
    pub position: u64,
    /// The position after the newest. A publisher that keeps nothing of the track numbers its frames from here.
    pub next: u64,
    /// The media time of a frame at `next` that is captured now.
    pub media_time: u64,
    /// For how long frames are kept for those who come back.
    pub history_ms: u64,
    /// How often a publisher hears `ack`, at most.
    pub ack_ms: u64,
    /// How often either side says `heartbeat`.
    pub heartbeat_ms: u64,
}

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MediaRole {
    /// From the client.
    Publisher,
    /// To the client.
    Listener,
}

/// Why there is no more to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ByeReason {
    /// It was closed by its name, or the client has left.
    Closed,
    /// Another connection of the same publisher or listener has taken over.
    Refreshed,
    /// The session or the track has ended.
    Ended,
    /// Another publisher has taken the place.
    Displaced,
    /// The token has expired.
    Expired,
    /// The connection is as old as connections get.
    MaxAge,
    /// The relay has more to do than it can. Its ticket is no good any more.
    Overloaded,
    /// The relay stops.
    Drain,
    /// The relay failed, or this connection did not take over from the one before it in time.
    Failed,
}

impl ServerMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// If it is no message of a relay's.
    pub fn read(text: &str) -> Result<Self, FrameError> {
        serde_json::from_str(text).map_err(|error| FrameError::new(&error))
    }

    /// The message that [`ServerMessage::read`] reads as this.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }
}
