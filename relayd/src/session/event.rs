//! What is told of a session to those who follow it: the events, numbered, and for whose eyes they are.
//!
//! The serde form is the one on the wire, `{"t": name, "seq", "ts", "d": {…}}`; `docs/asyncapi.json` is checked
//! against it. An event says what has changed; what is, is said by the snapshot that a follower begins with.

use serde::{Deserialize, Serialize};

use super::Language;
use crate::auth::{Caller, SessionAccess, Subject};
use crate::webrtc::ResourceId;

/// What happened in a session. Nothing follows [`Event::SessionEnded`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "t",
    content = "d",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Event {
    /// It was created; always the first.
    SessionCreated {
        /// What the speaker speaks.
        source_language: Language,
        /// All its languages, the source first.
        languages: Vec<Language>,
    },
    /// The first packet of a publisher's connection has arrived: there is something to hear.
    SpeakerReady {
        /// The track.
        language: Language,
    },
    /// The connection of a track's publisher is gone.
    SpeakerLeft {
        /// The track.
        language: Language,
        /// The session ends if nobody speaks for this many seconds; 0: it does not end for this.
        linger_seconds: u64,
    },
    /// The receiver's connections are about to be closed, or replaced.
    ConnectionWarning {
        /// Whole minutes until then, rounded up.
        remaining_minutes: u64,
        /// When that is, in Unix milliseconds.
        expires_at: u64,
        /// Why.
        reason: WarningReason,
    },
    /// The receiver's connection is to be replaced: a new one is to come beside it.
    ConnectionRefreshRequired {
        /// Where to; a path is at this relay.
        url: String,
        /// What the new connection comes with. Good once, and until the deadline or the next such event.
        ticket: String,
        /// Until when the relay waits, in Unix milliseconds.
        deadline: u64,
        /// Why.
        reason: WarningReason,
    },
    /// The new connection has taken over; the old one is closed now.
    ConnectionRefreshComplete {
        /// The first position that the new connection is alone with.
        position: u64,
        /// Frames that were sent again on the new connection.
        replayed: u64,
        /// Frames that could not be had.
        gap_frames: u64,
        /// How often the relay had asked for it; 0: the client came by itself.
        attempts: u32,
    },
    /// A break: what is spoken is not heard.
    SessionPaused {},
    /// The break is over.
    SessionResumed {},
    /// It is over. The last event.
    SessionEnded {
        /// Why.
        reason: EndReason,
    },
    /// A listener has connected.
    ListenerJoined {
        /// The track.
        language: Language,
        /// Connected listeners of the track now.
        listeners: usize,
    },
    /// A listener's connection is gone.
    ListenerLeft {
        /// The track.
        language: Language,
        /// Connected listeners of the track now.
        listeners: usize,
    },
    /// The relay has more to do than it can, and has let listeners of a track go, the newest first.
    ListenersShed {
        /// The track.
        language: Language,
        /// How many.
        count: usize,
    },
    /// The session has one more language.
    TrackAdded {
        /// The track.
        language: Language,
    },
    /// The session has one language less; its connections are closed.
    TrackRemoved {
        /// The track.
        language: Language,
    },
    /// Frames that were not had. At most one per second, track and scope.
    FramesLost {
        /// The track.
        language: Language,
        /// Frames: those of the track, or added up over its listeners.
        count: u64,
        /// The first position lost.
        from: u64,
        /// The last position that may be among them.
        to: u64,
        /// Who did not have them.
        scope: LossScope,
    },
}

impl Event {
    /// Every name.
    pub const NAMES: [&'static str; 15] = [
        "sessionCreated",
        "speakerReady",
        "speakerLeft",
        "connectionWarning",
        "connectionRefreshRequired",
        "connectionRefreshComplete",
        "sessionPaused",
        "sessionResumed",
        "sessionEnded",
        "listenerJoined",
        "listenerLeft",
        "listenersShed",
        "trackAdded",
        "trackRemoved",
        "framesLost",
    ];

    /// The name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SessionCreated { .. } => "sessionCreated",
            Self::SpeakerReady { .. } => "speakerReady",
            Self::SpeakerLeft { .. } => "speakerLeft",
            Self::ConnectionWarning { .. } => "connectionWarning",
            Self::ConnectionRefreshRequired { .. } => "connectionRefreshRequired",
            Self::ConnectionRefreshComplete { .. } => "connectionRefreshComplete",
            Self::SessionPaused {} => "sessionPaused",
            Self::SessionResumed {} => "sessionResumed",
            Self::SessionEnded { .. } => "sessionEnded",
            Self::ListenerJoined { .. } => "listenerJoined",
            Self::ListenerLeft { .. } => "listenerLeft",
            Self::ListenersShed { .. } => "listenersShed",
            Self::TrackAdded { .. } => "trackAdded",
            Self::TrackRemoved { .. } => "trackRemoved",
            Self::FramesLost { .. } => "framesLost",
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndReason {
    /// Somebody who may ended it.
    Deleted,
    /// The speaker did not come back in time (`sessions.linger`).
    LingerExpired,
    /// Nobody was there for too long (`sessions.idle_timeout`).
    Idle,
    /// The relay stops.
    Shutdown,
}

impl EndReason {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::LingerExpired => "lingerExpired",
            Self::Idle => "idle",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Why a connection is about to be closed, or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WarningReason {
    /// The token that it lives on expires.
    TokenExpiry,
    /// It is as old as connections get here (`refresh.max_age`).
    MaxAge,
    /// An operator asked for it.
    Refresh,
    /// The relay is about to stop.
    Drain,
}

impl WarningReason {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokenExpiry => "tokenExpiry",
            Self::MaxAge => "maxAge",
            Self::Refresh => "refresh",
            Self::Drain => "drain",
        }
    }
}

/// Who did not have frames that were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LossScope {
    /// The track: nothing brought them in time. The count is exact.
    Track,
    /// Some of the track's listeners.
    Listeners,
}

/// For whose eyes an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Whoever follows the session.
    Everyone,
    /// Whoever runs it: at an open relay everybody, else the roles speak, moderate and admin that cover it.
    Staff,
    /// One subject.
    Subject(Subject),
    /// Whoever has shown the name of one of a holder's legs. This is the holder's first one, which names the holder
    /// through refreshes and resumes; see [`Directory::leg`](super::Directory::leg).
    Leg(ResourceId),
}

impl Audience {
    /// Whether an event for this audience of the session may be shown to the caller, who has shown the name of a leg of
    /// the holder that is called `holder`.
    pub fn includes(&self, caller: &Caller, session: &SessionAccess, holder: Option<&ResourceId>) -> bool {
        match self {
            Self::Leg(leg) => holder == Some(leg),
            Self::Everyone => true,
            Self::Staff => caller.is_staff(session),
            Self::Subject(subject) => caller.subject() == Some(subject),
        }
    }
}

/// An event with its number. Those that one may not see leave gaps in the numbers one sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Numbered {
    /// Counts the session's events from 1.
    pub seq: u64,
    /// When it happened, in Unix milliseconds.
    pub ts: u64,
    /// For whom.
    #[serde(skip)]
    pub audience: Audience,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    fn language(tag: &str) -> Language {
        tag.parse().unwrap()
    }

    /// One of each.
    fn all() -> Vec<Event> {
        let en = || language("en");
        vec![
            Event::SessionCreated { source_language: en(), languages: vec![en(), language("es")] },
            Event::SpeakerReady { language: en() },
            Event::SpeakerLeft { language: en(), linger_seconds: 60 },
            Event::ConnectionWarning {
                remaining_minutes: 5,
                expires_at: 1,
                reason: WarningReason::TokenExpiry,
            },
            Event::ConnectionRefreshRequired {
                url: "/v1/sessions/demo/whep/en".into(),
                ticket: "a".repeat(43),
                deadline: 2,
                reason: WarningReason::Refresh,
            },
            Event::ConnectionRefreshComplete { position: 1, replayed: 2, gap_frames: 0, attempts: 1 },
            Event::SessionPaused {},
            Event::SessionResumed {},
            Event::SessionEnded { reason: EndReason::LingerExpired },
            Event::ListenerJoined { language: en(), listeners: 1 },
            Event::ListenerLeft { language: en(), listeners: 0 },
            Event::ListenersShed { language: en(), count: 3 },
            Event::TrackAdded { language: en() },
            Event::TrackRemoved { language: en() },
            Event::FramesLost { language: en(), count: 2, from: 3, to: 4, scope: LossScope::Track },
        ]
    }

    #[test]
    fn every_event_has_its_name_and_an_object_and_reads_back() {
        assert_eq!(all().iter().map(Event::name).collect::<Vec<_>>(), Event::NAMES);
        for event in all() {
            let value = serde_json::to_value(&event).unwrap();
            assert_eq!(value["t"], event.name());
            assert!(value["d"].is_object(), "{value}");
            assert_eq!(serde_json::from_value::<Event>(value).unwrap(), event);
        }
    }

    #[test]
    fn the_envelope_is_name_number_time_and_data() {
        let event = Event::SpeakerLeft { language: language("pt-BR"), linger_seconds: 60 };
        let numbered = Numbered { seq: 7, ts: 1_700_000_000_000, audience: Audience::Staff, event };
        assert_eq!(
            serde_json::to_value(&numbered).unwrap(),
            json!({"t": "speakerLeft", "seq": 7, "ts": 1_700_000_000_000_u64, "d": {"language": "pt-BR", "lingerSeconds": 60}})
        );
    }

    #[test]
    fn reasons_are_written_as_they_are_named() {
        for reason in [EndReason::Deleted, EndReason::LingerExpired, EndReason::Idle, EndReason::Shutdown] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn what_is_not_an_event_is_refused() {
        for value in [
            json!({"t": "speakerReady", "d": {"language": "not a tag"}}),
            json!({"t": "speakerReady", "d": {"language": "en", "more": 1}}),
            json!({"t": "nonsense", "d": {}}),
        ] {
            assert!(serde_json::from_value::<Event>(value.clone()).is_err(), "{value}");
        }
    }
}
