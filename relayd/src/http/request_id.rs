//! A name for each request: in the answer, in the logs, in problem documents.

use std::fmt;

use axum::http::{HeaderName, HeaderValue};

/// The name of one request: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId(u64);

impl RequestId {
    /// A new one. Never the client's: whoever reads logs can rely on it.
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// As the answer's header.
    pub(super) fn header(self) -> HeaderValue {
        HeaderValue::from_str(&self.to_string()).expect("hex digits are a header value")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The header that carries it.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
