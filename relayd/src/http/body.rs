//! Request bodies: the right type, at most so long, within so much time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use tokio::time::timeout;

use super::problem::{Code, Problem};
use crate::config;

/// What a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An SDP offer.
    Sdp,
    /// A trickle ICE fragment (RFC 8840).
    Fragment,
    /// A JSON object.
    Json,
}

impl Kind {
    /// Its content type.
    pub(super) const fn mime(self) -> &'static str {
        match self {
            Self::Sdp => "application/sdp",
            Self::Fragment => "application/trickle-ice-sdpfrag",
            Self::Json => "application/json",
        }
    }

    fn limit(self, settings: &config::Http) -> usize {
        match self {
            Self::Sdp => settings.max_sdp.bytes(),
            Self::Fragment => settings.max_fragment.bytes(),
            Self::Json => settings.max_json.bytes(),
        }
    }
}

/// Checks that a request has a body of this kind; before anything else is looked at.
pub(super) fn check_type(headers: &HeaderMap, kind: Kind) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(kind.mime()) {
        return Ok(());
    }
    let found = if value.is_empty() { "none".to_owned() } else { format!("{value:?}") };
    Err(Problem::new(Code::WrongContentType, format!("content type must be {}, but is {found}", kind.mime())))
}

/// Reads the body as text.
pub(super) async fn text(request: Request, kind: Kind, settings: &config::Http) -> Result<String, Problem> {
    let bytes = read(request.into_body(), kind.limit(settings), settings.body_timeout).await?;
    let not_text = |_| Problem::new(Code::InvalidMessage, "the body is not UTF-8 text");
    String::from_utf8(bytes).map_err(not_text)
}

async fn read(mut body: Body, limit: usize, within: Duration) -> Result<Vec<u8>, Problem> {
    // What is known to be too large is not waited for, unless reading on lets the client hear the answer.
    if http_body_size(&body) > (limit + LINGER) as u64 {
        return Err(too_large(limit));
    }
    let reading = async {
        let mut bytes = Vec::new();
        let mut seen = 0;
        while let Some(chunk) = next_chunk(&mut body).await? {
            seen += chunk.len();
            if seen <= limit {
                bytes.extend_from_slice(&chunk);
            } else if seen > limit + LINGER {
                break;
            }
        }
        if seen <= limit { Ok(bytes) } else { Err(too_large(limit)) }
    };
    let late = || Problem::new(Code::RequestTimeout, format!("the body did not arrive within {within:?}"));
    timeout(within, reading).await.map_err(|_| late())?
}

fn http_body_size(body: &Body) -> u64 {
    axum::body::HttpBody::size_hint(body).lower()
}

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let next = std::future::poll_fn(|context| {
            axum::body::HttpBody::poll_frame(std::pin::Pin::new(&mut *body), context)
        });
        match next.await {
            None => return Ok(None),
            Some(Err(_)) => return Err(Problem::new(Code::InvalidMessage, "the body broke off")),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is longer than {limit} bytes"))
}

/// How much of a body that is too long is read and thrown away, so that a client that sends before it listens
/// hears 413 and not a reset.
const LINGER: usize = 2 * 1024 * 1024;
