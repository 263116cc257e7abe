//! Every error an HTTP client can see: one enum, one table, one form (RFC 9457).
//!
//! `code` and `type` are stable; `title` and `detail` are for people. A new error is a new line of the table.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use relay_engine::OpenError;
use serde_json::json;

use super::request_id::{RequestId, X_REQUEST_ID};
use crate::session::{ServiceError, SessionError};
use crate::shard::ShardError;
use crate::webrtc::{JoinError, PatchError};

macro_rules! codes {
    ($( $(#[doc = $doc:literal])* $name:ident = $status:literal, $code:literal, $slug:literal, $title:literal; )*) => {
        /// What went wrong, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Code { $( $(#[doc = $doc])* $name, )* }

        impl Code {
            /// Status, code, the URN's last part, title.
            fn entry(self) -> (u16, &'static str, &'static str, &'static str) {
                match self { $( Self::$name => ($status, $code, $slug, $title), )* }
            }

            /// Every code.
            pub(super) const ALL: &[Self] = &[ $( Self::$name, )* ];
        }
    };
}

codes! {
    /// A body that is not what its type says: broken JSON, broken SDP, a broken fragment.
    InvalidMessage = 400, "INVALID_MESSAGE", "invalid-message", "The message cannot be read";
    /// Readable JSON or query with a field that is missing, unknown, of the wrong type or out of bounds.
    InvalidField = 422, "INVALID_FIELD", "invalid-field", "A field is not valid";
    /// No token where one is needed, or one that does not hold.
    Unauthorized = 401, "UNAUTHORIZED", "unauthorized", "A valid token is needed";
    /// A token that does not grant this.
    Forbidden = 403, "FORBIDDEN", "forbidden", "The token does not allow this";
    /// A ticket that is none, was used, or is another one's; or a resume secret that is not the session's.
    TicketInvalid = 403, "TICKET_INVALID", "ticket-invalid", "The ticket or resume secret is not good for this";
    /// An `Origin` that may not change anything here.
    OriginNotAllowed = 403, "FORBIDDEN", "origin-not-allowed", "This origin is not allowed";
    /// A path nobody serves.
    RouteNotFound = 404, "ROUTE_NOT_FOUND", "route-not-found", "Nothing is here";
    /// No such session.
    SessionNotFound = 404, "SESSION_NOT_FOUND", "session-not-found", "There is no such session";
    /// The session is over.
    SessionEnded = 410, "SESSION_ENDED", "session-ended", "The session has ended";
    /// The session has no such track.
    LanguageNotFound = 404, "LANGUAGE_NOT_FOUND", "language-not-found", "The session has no such language";
    /// No such connection.
    LegNotFound = 404, "LEG_NOT_FOUND", "leg-not-found", "There is no such connection";
    /// The path exists, the method does not.
    MethodNotAllowed = 405, "METHOD_NOT_ALLOWED", "method-not-allowed", "This method is not allowed here";
    /// The body did not arrive in time.
    RequestTimeout = 408, "REQUEST_TIMEOUT", "request-timeout", "The request took too long";
    /// The track that a session is about cannot be removed.
    SourceLanguage = 409, "SOURCE_LANGUAGE", "source-language", "The source language stays";
    /// Somebody publishes the track already.
    SpeakerExists = 409, "SPEAKER_EXISTS", "speaker-exists", "The track has a publisher";
    /// The session's status does not allow it.
    InvalidStatus = 409, "INVALID_STATUS", "invalid-status", "The session's status does not allow this";
    /// A request with the same `Idempotency-Key` is not answered yet.
    RequestInFlight = 409, "REQUEST_IN_FLIGHT", "request-in-flight", "The same request is being answered";
    /// Too many connections of one token are still being set up.
    TooManyPending = 409, "TOO_MANY_PENDING", "too-many-pending", "Too many connections are being set up";
    /// The session has the language already.
    LanguageExists = 409, "LANGUAGE_EXISTS", "language-exists", "The session has this language";
    /// `If-Match` names an older ICE session.
    PreconditionFailed = 412, "PRECONDITION_FAILED", "precondition-failed", "If-Match does not match";
    /// The body is longer than its limit.
    BodyTooLarge = 413, "BODY_TOO_LARGE", "body-too-large", "The body is too large";
    /// The wrong `Content-Type`.
    WrongContentType = 415, "UNSUPPORTED_MEDIA_TYPE", "unsupported-media-type", "This content type is not taken here";
    /// The address is that of a WebSocket.
    UpgradeRequired = 426, "UPGRADE_REQUIRED", "upgrade-required", "This is the address of a WebSocket";
    /// A `Host` that is not this relay.
    HostNotAllowed = 421, "MISDIRECTED_REQUEST", "misdirected-request", "This host name is not served here";
    /// SDP that asks for something the relay does not do.
    UnsupportedMedia = 422, "UNSUPPORTED_MEDIA", "unsupported-media", "The offered media is not supported";
    /// An `Idempotency-Key` that came with another body before.
    IdempotencyKeyReused = 422, "IDEMPOTENCY_KEY_REUSED", "idempotency-key-reused", "The key was used for another request";
    /// No `If-Match`.
    PreconditionRequired = 428, "PRECONDITION_REQUIRED", "precondition-required", "If-Match is required";
    /// Too much in too little time, from one address.
    RateLimited = 429, "RATE_LIMITED", "rate-limited", "Too many requests";
    /// A limit is reached.
    Capacity = 503, "CAPACITY", "capacity", "The relay is full";
    /// Something that the relay needs for an answer cannot be had at the moment.
    Unavailable = 503, "UNAVAILABLE", "unavailable", "The relay cannot answer this at the moment";
    /// The relay is stopping.
    Draining = 503, "DRAINING", "draining", "The relay is stopping";
}

impl Code {
    /// Its HTTP status.
    pub(super) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.entry().0).expect("the table holds valid statuses")
    }

    /// What programs compare.
    pub(super) fn code(self) -> &'static str {
        self.entry().1
    }

    /// The problem's type.
    pub(super) fn urn(self) -> String {
        format!("urn:relay:problem:{}", self.entry().2)
    }

    /// What it is, for people.
    pub(super) fn title(self) -> &'static str {
        self.entry().3
    }

    /// Whether waiting helps.
    pub(super) fn may_come_again(self) -> bool {
        use Code::{
            Capacity, Draining, RateLimited, RequestInFlight, SpeakerExists, TooManyPending, Unavailable,
        };
        matches!(
            self,
            SpeakerExists
                | RequestInFlight
                | TooManyPending
                | RateLimited
                | Capacity
                | Unavailable
                | Draining
        )
    }
}

/// An error as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    field: Option<String>,
    retry_after: Option<Duration>,
    challenge: Option<Challenge>,
}

/// What was wrong with a token, as RFC 6750 §3.1 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// There was none.
    Missing,
    /// The header is not of its form.
    InvalidRequest,
    /// It does not hold.
    InvalidToken,
    /// It does not grant this.
    InsufficientScope,
}

impl Challenge {
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Missing => "Bearer realm=\"relay\"",
            Self::InvalidRequest => "Bearer realm=\"relay\", error=\"invalid_request\"",
            Self::InvalidToken => "Bearer realm=\"relay\", error=\"invalid_token\"",
            Self::InsufficientScope => "Bearer realm=\"relay\", error=\"insufficient_scope\"",
        })
    }
}

impl Problem {
    /// A problem with its explanation for people.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let challenge = (code == Code::Unauthorized).then_some(Challenge::Missing);
        let problem = Self { code, detail: detail.into(), field: None, retry_after: None, challenge };
        if code.may_come_again() { problem.after(RETRY_AFTER) } else { problem }
    }

    /// A problem with one field of a JSON body or query.
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Code::InvalidField, detail) }
    }

    /// What programs compare.
    pub(crate) fn code(&self) -> &'static str {
        self.code.code()
    }

    /// What went wrong, for people.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Its HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// The same; waiting so long helps. A little longer where a crowd may wait, so that not all come at once.
    pub(crate) fn after(self, wait: Duration) -> Self {
        let crowd = matches!(self.code.entry().0, 429 | 503);
        let more = if crowd { MAX_JITTER.mul_f64(rand::random()) } else { Duration::ZERO };
        Self { retry_after: Some(wait + more), ..self }
    }

    /// The same; this was wrong with the token.
    pub(crate) fn challenge(self, challenge: Challenge) -> Self {
        Self { challenge: Some(challenge), ..self }
    }

    /// The document (RFC 9457): of the request with this path and id, if one was read.
    pub(super) fn document(&self, instance: Option<&str>, id: RequestId) -> String {
        let mut document = json!({
            "type": self.code.urn(),
            "title": self.code.title(),
            "status": self.code.status().as_u16(),
            "detail": self.detail,
            "code": self.code.code(),
            "requestId": id.to_string(),
        });
        if let Some(instance) = instance {
            document["instance"] = json!(instance);
        }
        if let Some(field) = &self.field {
            document["field"] = json!(field);
        }
        if let Some(after) = self.retry_after {
            document["retryAfterMs"] = json!(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        }
        document.to_string()
    }

    /// Whole seconds, rounded up: who waits for so long does not come too early.
    fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0))
    }

    /// The answer to a connection whose request is not read; then it is closed.
    pub(super) fn unread(&self) -> String {
        let id = RequestId::random();
        let document = self.document(None, id);
        let status = self.code.status();
        let retry =
            self.retry_after_seconds().map(|after| format!("retry-after: {after}\r\n")).unwrap_or_default();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {MIME}\r\ncache-control: no-store\r\nx-request-id: {id}\r\n{retry}\
             connection: close\r\ncontent-length: {}\r\n\r\n{document}",
            document.len()
        )
    }
}

impl IntoResponse for Problem {
    /// Without a body: [`identify`] writes it, when the request is known.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MIME));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.max(1)));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge.header());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Names the request in its answer, and in the problem document if it is one.
pub(super) fn identify(response: &mut Response, instance: &str, id: RequestId) {
    response.headers_mut().insert(X_REQUEST_ID, id.header());
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        tracing::debug!(code = problem.code.code(), detail = problem.detail, "refused");
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(problem.document(Some(instance), id));
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        let code = match &error {
            SessionError::NotFound { .. } => Code::SessionNotFound,
            SessionError::Ended { .. } => Code::SessionEnded,
            SessionError::LanguageNotFound { .. } => Code::LanguageNotFound,
            SessionError::SpeakerExists { .. } => Code::SpeakerExists,
            SessionError::WrongStatus { .. } => Code::InvalidStatus,
            SessionError::LanguageExists { .. } => Code::LanguageExists,
            SessionError::SourceLanguage { .. } => Code::SourceLanguage,
            SessionError::LanguagesFull { .. } => Code::InvalidField,
            SessionError::IssuerFull { .. } => Code::Forbidden,
            SessionError::Ticket { .. } | SessionError::Secret { .. } => Code::TicketInvalid,
            SessionError::ListenersFull { .. }
            | SessionError::FollowersFull { .. }
            | SessionError::SessionsFull { .. } => Code::Capacity,
        };
        Self::new(code, error.to_string())
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        let code = match &error {
            JoinError::Malformed(_) => Code::InvalidMessage,
            JoinError::Unsupported(_) => Code::UnsupportedMedia,
            // Who comes beside a connection that goes just then comes after it the next time.
            JoinError::Capacity | JoinError::ListenerGone | JoinError::LegExists => Code::Capacity,
            JoinError::Closed => Code::Draining,
            JoinError::TrackNotFound => Code::SessionEnded,
            JoinError::PublisherExists | JoinError::Fenced => Code::SpeakerExists,
        };
        Self::new(code, error.to_string())
    }
}

impl From<PatchError> for Problem {
    fn from(error: PatchError) -> Self {
        let code = match &error {
            PatchError::NotFound => Code::LegNotFound,
            PatchError::PreconditionRequired => Code::PreconditionRequired,
            PatchError::PreconditionFailed => Code::PreconditionFailed,
            PatchError::Malformed(_) => Code::InvalidMessage,
            PatchError::RestartFailed(_) => Code::UnsupportedMedia,
            PatchError::Closed => Code::Draining,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ShardError> for Problem {
    fn from(error: ShardError) -> Self {
        let code = match &error {
            ShardError::Closed => Code::Draining,
            // Somebody took over while the leg was being opened.
            ShardError::Open(OpenError::Fenced { .. } | OpenError::PublisherExists(_)) => Code::SpeakerExists,
            ShardError::Open(OpenError::UnknownTrack(_)) => Code::SessionEnded,
            _ => Code::Capacity,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Session(error) => error.into(),
            ServiceError::Join(error) => error.into(),
            ServiceError::Shard(error) => error.into(),
        }
    }
}

/// When a refused client may come again: a dead speaker is noticed, a pending join given up, a restart done.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How far those are spread who wait because of a crowd.
const MAX_JITTER: Duration = Duration::from_secs(2);
const MIME: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_urns_are_distinct_and_well_formed() {
        // Two may share a code, as those that forbid do; never a URN.
        let urns: BTreeSet<_> = Code::ALL.iter().map(|code| code.urn()).collect();
        assert_eq!(urns.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(code.code().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'));
        }
    }

    #[test]
    fn whoever_may_come_again_is_told_when() {
        let response = Problem::new(Code::SpeakerExists, "status active").into_response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        for code in [Code::RateLimited, Code::Capacity] {
            let told = |problem: Problem| {
                let response = problem.into_response();
                response.headers()[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap()
            };
            let all: BTreeSet<u64> =
                (0..64).map(|_| told(Problem::new(code, "").after(Duration::from_secs(10)))).collect();
            assert!(all.len() > 1 && all.iter().all(|after| (10..=12).contains(after)), "{all:?}");
        }
        let response = Problem::new(Code::SessionNotFound, "").into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn who_comes_beside_a_connection_that_goes_just_then_may_come_again() {
        let fenced = Problem::from(ShardError::Open(OpenError::Fenced { epoch: 2 }));
        assert_eq!(fenced.code(), "SPEAKER_EXISTS");
        for error in [JoinError::ListenerGone, JoinError::LegExists] {
            let response = Problem::from(error).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(header::RETRY_AFTER));
        }
        assert_eq!(Problem::from(JoinError::TrackNotFound).into_response().status(), StatusCode::GONE);
    }

    #[test]
    fn a_connection_that_is_not_read_gets_a_whole_answer() {
        let text = Problem::new(Code::Capacity, "too many").unread();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let document: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(document["code"], "CAPACITY");
        assert!(document["retryAfterMs"].as_u64().unwrap() >= 2000);
        let id = document["requestId"].as_str().unwrap();
        assert!(head.contains(&format!("x-request-id: {id}")), "{head}");
    }
}
