//! The frames of `relay.v1+json`, as serde types. `docs/asyncapi.json` describes them and is checked against them.
//!
//! A client's frame is `{"t", "d"}`, the relay's is `{"t", "seq", "ts", "d"}`: `seq` is the number of the last event
//! that this socket was told or passed over, `ts` Unix milliseconds. Session events are `session::Event`.

use serde::{Deserialize, Serialize};

use crate::conversation::{FrameError, Hidden, Reply, envelope, within};
use crate::session::{Language, SessionId, SessionView, Status};

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// Who is there; the first frame, once.
    Hello(Hello),
    /// The client is alive, and has seen so much.
    Heartbeat(Heartbeat),
    /// A newer token of the same subject and role.
    TokenRefresh(TokenRefresh),
    /// Another connection of the same publisher or listener, as after a refresh.
    Leg(LegName),
}

/// Frame `hello`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// A token; absent for an anonymous listener and at an open relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Hidden>,
    /// The ticket of a `welcome`, instead of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Hidden>,
    /// The number of the last event seen: what came after is told, no snapshot is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The name of a media connection of the client, the last part of its `Location`: what concerns it is told here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leg: Option<Hidden>,
}

/// Frame `leg`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegName {
    /// The name, as in `hello`.
    pub leg: Hidden,
}

/// Frame `heartbeat` of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The number of the last event seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// Frame `token.refresh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRefresh {
    /// The token.
    pub token: Hidden,
}

impl ClientFrame {
    /// Reads a message. What is wrong with it is told without what it holds.
    pub fn read(text: &str) -> Result<Self, FrameError> {
        let (name, data) = envelope(text)?;
        match name.as_str() {
            "hello" => {
                let hello: Hello = within(data)?;
                if hello.token.is_some() && hello.resume.is_some() {
                    return Err(FrameError::of("hello has a token or a resume ticket, not both"));
                }
                Ok(Self::Hello(hello))
            }
            "heartbeat" => Ok(Self::Heartbeat(within(data)?)),
            "token.refresh" => Ok(Self::TokenRefresh(within(data)?)),
            "leg" => Ok(Self::Leg(within(data)?)),
            _ => Err(FrameError::of("t must be hello, heartbeat, token.refresh or leg")),
        }
    }

    /// The message that [`ClientFrame::read`] reads as this.
    pub fn write(&self) -> String {
        let (name, data) = match self {
            Self::Hello(hello) => ("hello", serde_json::to_value(hello)),
            Self::Heartbeat(heartbeat) => ("heartbeat", serde_json::to_value(heartbeat)),
            Self::TokenRefresh(refresh) => ("token.refresh", serde_json::to_value(refresh)),
            Self::Leg(leg) => ("leg", serde_json::to_value(leg)),
        };
        let data = data.expect("texts and numbers are JSON");
        serde_json::json!({ "t": name, "d": data }).to_string()
    }
}

/// What the relay says besides the session's events.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "t", content = "d", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ServerFrame {
    /// The answer to `hello`.
    Welcome {
        /// The session.
        session_id: SessionId,
        /// This relay, for as long as it runs.
        node: String,
        /// When this relay began to count: event numbers of another epoch mean nothing here.
        epoch: u64,
        /// How often either side says `heartbeat`.
        heartbeat_ms: u64,
        /// The ticket to come back with.
        resume: String,
        /// The number of the session's newest event.
        seq: u64,
        /// What the caller is here: speak, listen, moderate or admin.
        role: &'static str,
        /// Whether events follow from where the client left off; if not, a snapshot does.
        resumed: bool,
    },
    /// The session as it is, for a client that has seen nothing of it.
    SessionJoined(Snapshot),
    /// The session as it is, for a client that has missed events for good.
    Resync {
        /// The session.
        snapshot: Snapshot,
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
    /// To a publisher that named its connection: how much of the track has arrived, every 100 ms when that has changed.
    Ack(TrackAck),
    /// To a listener that named its connection: how sequence numbers and positions are related on it, from here on.
    MediaStarted(LineAnchor),
    /// A frame was not taken; the socket stays open.
    Error {
        /// For programs, as in problem documents.
        code: &'static str,
        /// For people.
        detail: String,
    },
}

impl ServerFrame {
    /// The message.
    pub fn write(&self, seq: u64, ts: u64) -> String {
        #[derive(Serialize)]
        struct Envelope<'a> {
            seq: u64,
            ts: u64,
            #[serde(flatten)]
            frame: &'a ServerFrame,
        }
        serde_json::to_string(&Envelope { seq, ts, frame: self }).expect("a frame is JSON")
    }
}

impl From<Reply> for ServerFrame {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Heartbeat => Self::Heartbeat {},
            Reply::HeartbeatAck => Self::HeartbeatAck {},
            Reply::TokenRefreshed(expires_at) => Self::TokenRefreshed { expires_at },
            Reply::Error(code, detail) => Self::Error { code, detail },
        }
    }
}

/// How much of a track has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackAck {
    /// The track.
    pub language: Language,
    /// All positions below this one are here.
    pub recv: u64,
    /// All positions below this one are also elsewhere, or as safe as they get: what the client keeps of them may go.
    pub safe: u64,
    /// What the connection that was named last sends with, once something of it has arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssrc: Option<u32>,
    /// The RTP sequence number there of the position below `recv`, if that came on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u16>,
}

/// How what is on the wire of a listener's connection is related to the track: both grow alike from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LineAnchor {
    /// The connection's name.
    pub leg: String,
    /// What it sends with.
    pub ssrc: u32,
    /// An RTP sequence number.
    pub sequence: u16,
    /// The position that has it.
    pub position: u64,
    /// The RTP timestamp of that packet.
    pub timestamp: u32,
    /// Its media time: 48 kHz ticks from the track's start.
    pub media_time: u64,
}

/// A session as its followers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its name.
    pub session_id: SessionId,
    /// Its status.
    pub status: Status,
    /// What the speaker speaks.
    pub source_language: Language,
    /// All its languages, the source first.
    pub languages: Vec<Language>,
    /// Whether the speaker of the source language is connected.
    pub speaker_connected: bool,
    /// Connected listeners of all tracks.
    pub listeners: usize,
    /// Its tracks, in the order of the languages.
    pub tracks: Vec<TrackSnapshot>,
}

/// A track as followers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackSnapshot {
    /// Its language.
    pub language: Language,
    /// Whether its publisher is connected.
    pub speaker_connected: bool,
    /// Connected listeners.
    pub listeners: usize,
}

impl From<&SessionView> for Snapshot {
    fn from(view: &SessionView) -> Self {
        let track = |track: &crate::session::TrackView| TrackSnapshot {
            language: track.language.clone(),
            speaker_connected: track.speaker_connected,
            listeners: track.listeners,
        };
        Self {
            session_id: view.id.clone(),
            status: view.status,
            source_language: view.source.clone(),
            languages: view.tracks.iter().map(|track| track.language.clone()).collect(),
            speaker_connected: view.speaker_connected,
            listeners: view.listeners,
            tracks: view.tracks.iter().map(track).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn frames_read_back() {
        let token = || Some(Hidden("t".into()));
        for frame in [
            ClientFrame::Hello(Hello::default()),
            ClientFrame::Hello(Hello { token: token(), ..Hello::default() }),
            ClientFrame::Hello(Hello { token: None, resume: token(), seq: Some(u64::MAX), leg: token() }),
            ClientFrame::Leg(LegName { leg: Hidden("l".into()) }),
            ClientFrame::Heartbeat(Heartbeat { seq: Some(7) }),
            ClientFrame::Heartbeat(Heartbeat::default()),
            ClientFrame::TokenRefresh(TokenRefresh { token: Hidden("t".into()) }),
        ] {
            assert_eq!(ClientFrame::read(&frame.write()), Ok(frame));
        }
        assert_eq!(ClientFrame::read(r#"{"t":"hello"}"#), Ok(ClientFrame::Hello(Hello::default())));
    }

    #[test]
    fn what_is_no_frame_is_refused_and_not_repeated() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"t":1}"#,
            r#"{"t":"welcome"}"#,
            r#"{"t":"hello","d":[]}"#,
            r#"{"t":"hello","d":{},"seq":1}"#,
            r#"{"t":"hello","d":{"token":1}}"#,
            r#"{"t":"hello","d":{"secret":"geheim"}}"#,
            r#"{"t":"hello","d":{"seq":"geheim"}}"#,
            r#"{"t":"hello","d":{"seq":-1}}"#,
            r#"{"t":"hello","d":{"seq":1.5}}"#,
            r#"{"t":"hello","d":{"seq":18446744073709551616}}"#,
            r#"{"t":"hello","d":{"token":"a","resume":"b"}}"#,
            r#"{"t":"token.refresh"}"#,
            r#"{"t":"token.refresh","d":{"token":null}}"#,
            r#"{"t":"heartbeat","d":"geheim"}"#,
            r#"{"t":"heartbeat","t":"heartbeat"}"#,
        ] {
            let error = ClientFrame::read(text).expect_err(text).to_string();
            assert!(!error.is_empty() && error.len() < 800, "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
        let deep = format!(r#"{{"t":"hello","d":{}"#, r#"{"a":"#.repeat(5000));
        assert!(ClientFrame::read(&deep).is_err());
    }

    #[test]
    fn a_token_is_not_in_debug_output() {
        let frame = ClientFrame::read(r#"{"t":"hello","d":{"token":"geheim"}}"#).unwrap();
        assert!(!format!("{frame:?}").contains("geheim"));
    }

    #[test]
    fn the_relays_frames_have_name_number_time_and_data() {
        let text = ServerFrame::TokenRefreshed { expires_at: 5 }.write(7, 9);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, json!({"t": "tokenRefreshed", "seq": 7, "ts": 9, "d": {"expiresAt": 5}}));
        let value: Value = serde_json::from_str(&ServerFrame::Heartbeat {}.write(0, 1)).unwrap();
        assert_eq!(value, json!({"t": "heartbeat", "seq": 0, "ts": 1, "d": {}}));
    }

    proptest! {
        #[test]
        fn whatever_is_read_reads_back(text in "\\{\"t\":\"(hello|heartbeat)\",\"d\":\\{(\"seq\":[0-9]{1,20})?\\}\\}") {
            if let Ok(frame) = ClientFrame::read(&text) {
                prop_assert_eq!(ClientFrame::read(&frame.write()), Ok(frame));
            }
        }
    }
}
