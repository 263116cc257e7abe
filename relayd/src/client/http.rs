//! The signalling of WHIP and WHEP (RFC 9725 §4): POST an offer, DELETE what it made.
//!
//! 307 is followed at most five times with method and body kept; 301 and 302 are not, because RFC 9725 §4.5 forbids servers to
//! use them. The token is for the server that the user named: another origin, by redirect or by `Location`, does not get it.

use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use ureq::http::{HeaderMap, StatusCode, Uri, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
use ureq::{Agent, Body};

use super::address;
use crate::outbound::tls::Tls;

const RELAY_TICKET: &str = "relay-ticket";
/// RFC 9725 leaves the count to the client.
const MAX_REDIRECTS: usize = 5;
/// An answer or a problem document is a few kilobytes.
const MAX_BODY_BYTES: u64 = 256 << 10;
/// For a whole request. The relay answers an offer in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is older may be one that the server is about to close.
const MAX_IDLE: Duration = Duration::from_secs(2);
/// For the DELETE at the end: somebody waits for the prompt.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A client for endpoints whose servers the public authorities vouch for, or these (PEM).
pub(super) fn agent(authorities: &[u8]) -> Result<Agent, String> {
    // Relays bound the connections of an address: none is held between two requests that are hours apart.
    keeping_agent(authorities, 0)
}

/// As [`agent`], for many requests in a row: so many connections are kept for the next one.
pub(crate) fn keeping_agent(authorities: &[u8], connections: usize) -> Result<Agent, String> {
    let settings = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_idle_connections(connections)
        .max_idle_connections_per_host(connections)
        .max_idle_age(MAX_IDLE)
        .timeout_global(Some(TIMEOUT))
        .user_agent(concat!("relayd/", env!("CARGO_PKG_VERSION")))
        .build();
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(TcpConnector::default())
            .chain(Tls::new(authorities)?);
    Ok(Agent::with_parts(settings, connector, DefaultResolver::default()))
}

/// A server's endpoint with the credentials for it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    agent: Agent,
    uri: Uri,
    credentials: Credentials,
    /// Whom the credentials are for.
    origin: Option<address::Origin>,
}

/// What a server is shown. `Debug` shows nothing of it.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    /// Bearer token.
    pub token: Option<String>,
    /// A session's resume secret, by which a speaker takes the place of the one there is.
    pub resume: Option<String>,
    /// A ticket of the relay's, by which a connection is refreshed or resumed.
    pub ticket: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = |secret: &Option<String>| if secret.is_some() { "set" } else { "unset" };
        let (token, resume, ticket) = (set(&self.token), set(&self.resume), set(&self.ticket));
        write!(f, "Credentials {{ token: {token}, resume: {resume}, ticket: {ticket} }}")
    }
}

/// What an accepted offer made on the server.
#[derive(Debug)]
pub(crate) struct Resource {
    endpoint: Endpoint,
    answer: String,
    ticket: Option<String>,
}

impl Endpoint {
    pub(crate) fn new(agent: &Agent, uri: Uri, credentials: Credentials) -> Self {
        let origin = address::origin(&uri);
        Self { agent: agent.clone(), uri, credentials, origin }
    }

    /// Sends the offer.
    pub(crate) fn offer(&self, sdp: &str) -> Result<Resource, HttpError> {
        let (uri, response) = self.follow(|endpoint, uri| {
            let mut request = endpoint.agent.post(uri).header(header::CONTENT_TYPE, "application/sdp");
            request = request.header(header::ACCEPT, "application/sdp, application/problem+json");
            if let Some(bearer) = endpoint.authorization(uri) {
                request = request.header(header::AUTHORIZATION, bearer);
            }
            if let Some(secret) = endpoint.credentials.resume.as_ref().filter(|_| endpoint.trusts(uri)) {
                request = request.header("Relay-Resume", secret);
            }
            if let Some(ticket) = endpoint.credentials.ticket.as_ref().filter(|_| endpoint.trusts(uri)) {
                request = request.header(RELAY_TICKET, ticket);
            }
            request.send(sdp)
        })?;
        let (status, headers, body) = parts(response)?;
        let content_type = content_type(&headers);
        if status != StatusCode::CREATED || content_type != "application/sdp" {
            return Err(refusal(status, &content_type, &headers, &body));
        }
        let location = text(&headers, header::LOCATION).ok_or(HttpError::NoLocation)?;
        let resource = address::resolve(&uri, location).ok_or(HttpError::NoLocation)?;
        let ticket = headers.get(RELAY_TICKET).and_then(|ticket| ticket.to_str().ok()).map(str::to_owned);
        let endpoint = Endpoint { uri: resource, ..self.clone() };
        Ok(Resource { endpoint, answer: body, ticket })
    }

    /// Sends an order in JSON; what is answered to it.
    pub(super) fn order(&self, body: &str) -> Result<String, HttpError> {
        let (_, response) = self.post_json(body)?;
        let (status, headers, body) = parts(response)?;
        if status == StatusCode::ACCEPTED {
            return Ok(body);
        }
        Err(refusal(status, &content_type(&headers), &headers, &body))
    }

    /// Creates a resource from JSON; its `answer` is what the server says of it.
    pub(crate) fn create(&self, body: &str) -> Result<Resource, HttpError> {
        let (uri, response) = self.post_json(body)?;
        let (status, headers, body) = parts(response)?;
        if status != StatusCode::CREATED {
            return Err(refusal(status, &content_type(&headers), &headers, &body));
        }
        let location = text(&headers, header::LOCATION).ok_or(HttpError::NoLocation)?;
        let resource = address::resolve(&uri, location).ok_or(HttpError::NoLocation)?;
        Ok(Resource { endpoint: Endpoint { uri: resource, ..self.clone() }, answer: body, ticket: None })
    }

    /// The `Authorization` header for a request to `uri`, if the token is for there.
    fn authorization(&self, uri: &Uri) -> Option<String> {
        let token = self.credentials.token.as_ref().filter(|_| self.trusts(uri))?;
        Some(format!("Bearer {token}"))
    }

    /// Whether the credentials are for the server of this address.
    fn trusts(&self, uri: &Uri) -> bool {
        self.origin.is_some() && self.origin == address::origin(uri)
    }

    fn post_json(&self, body: &str) -> Result<(Uri, ureq::http::Response<Body>), HttpError> {
        self.follow(|endpoint, uri| {
            let mut request = endpoint.agent.post(uri).header(header::CONTENT_TYPE, "application/json");
            if let Some(bearer) = endpoint.authorization(uri) {
                request = request.header(header::AUTHORIZATION, bearer);
            }
            request.send(body)
        })
    }

    /// Makes a request until it is answered by something else than a redirect; returns who answered.
    fn follow(
        &self,
        request: impl Fn(&Self, &Uri) -> Result<ureq::http::Response<Body>, ureq::Error>,
    ) -> Result<(Uri, ureq::http::Response<Body>), HttpError> {
        let mut uri = self.uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = request(self, &uri).map_err(|error| unreachable(&uri, &error))?;
            match next_hop(&uri, response.status(), response.headers())? {
                Some(next) => uri = next,
                None => return Ok((uri, response)),
            }
        }
        Err(HttpError::TooManyRedirects)
    }
}

impl Resource {
    /// The answer to the offer.
    pub(crate) fn answer(&self) -> &str {
        &self.answer
    }

    /// The ticket to come back with, if the server gives one.
    pub(crate) fn ticket(&self) -> Option<&str> {
        self.ticket.as_deref()
    }

    /// The name of the connection: the end of its address.
    pub(crate) fn name(&self) -> &str {
        self.endpoint.uri.path().rsplit('/').next().unwrap_or_default()
    }

    /// Ends the connection on the server's side.
    pub(crate) fn delete(self) -> Result<(), HttpError> {
        let (_, response) = self.endpoint.follow(|endpoint, uri| {
            let mut request = endpoint.agent.delete(uri);
            if let Some(bearer) = endpoint.authorization(uri) {
                request = request.header(header::AUTHORIZATION, bearer);
            }
            request.config().timeout_global(Some(CLOSE_TIMEOUT)).build().call()
        })?;
        let (status, headers, body) = parts(response)?;
        // 404 and 410: it is gone already, which is what was wanted.
        if status.is_success() || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Ok(());
        }
        Err(refusal(status, &content_type(&headers), &headers, &body))
    }
}

fn next_hop(from: &Uri, status: StatusCode, headers: &HeaderMap) -> Result<Option<Uri>, HttpError> {
    match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {}
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            return Err(HttpError::ForbiddenRedirect { status: status.as_u16() });
        }
        _ => return Ok(None),
    }
    let location = text(headers, header::LOCATION).ok_or(HttpError::NoLocation)?;
    let next = address::resolve(from, location).ok_or(HttpError::NoLocation)?;
    match (from.scheme_str(), next.scheme_str()) {
        (Some("https"), Some("http")) => {
            Err(HttpError::Downgrade { to: address::without_userinfo(&next.to_string()) })
        }
        (_, Some("http" | "https")) => Ok(Some(next)),
        _ => Err(HttpError::NoLocation),
    }
}

fn parts(mut response: ureq::http::Response<Body>) -> Result<(StatusCode, HeaderMap, String), HttpError> {
    let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).lossy_utf8(true).read_to_string();
    let body = body.map_err(|error| HttpError::Broken(error.to_string()))?;
    Ok((response.status(), response.headers().clone(), body))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn content_type(headers: &HeaderMap) -> String {
    let value = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn unreachable(uri: &Uri, error: &ureq::Error) -> HttpError {
    let server = uri.authority().map(|authority| address::host_and_port(authority.as_str()).to_owned());
    let server = server.unwrap_or_default();
    let why = match error {
        ureq::Error::Io(error) => io_reason(error),
        ureq::Error::HostNotFound => "no such host".to_owned(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        error => error.to_string(),
    };
    HttpError::Unreachable { server, why }
}

/// Why no connection came to be, in words of whoever typed its address.
pub(super) fn io_reason(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (error.kind(), tls) {
        (std::io::ErrorKind::ConnectionRefused, _) => "nothing listens there".to_owned(),
        (_, Some(rustls::Error::InvalidMessage(_))) => {
            "what answers there does not speak TLS; without it, addresses begin with http:// or ws://"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn refusal(status: StatusCode, content_type: &str, headers: &HeaderMap, body: &str) -> HttpError {
    if status.is_success() || status.is_informational() || status.is_redirection() {
        return HttpError::NotAnEndpoint { status: status.as_u16(), content_type: content_type.to_owned() };
    }
    let mut problem = match content_type {
        "application/problem+json" | "application/json" => serde_json::from_str(body).unwrap_or_default(),
        "text/plain" => Problem { detail: Some(shortened(body)), ..Problem::default() },
        _ => Problem::default(),
    };
    problem.title.get_or_insert_with(|| status.canonical_reason().unwrap_or("refused").to_owned());
    problem.retry_after = text(headers, header::RETRY_AFTER).map(shortened);
    let status = status.as_u16();
    if status < 500 { HttpError::Refused { status, problem } } else { HttpError::Failed { status, problem } }
}

/// One line of what a server wrote, fit for a terminal.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// What a server says of a refusal (RFC 9457).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// What went wrong, in general.
    #[serde(default)]
    pub title: Option<String>,
    /// What went wrong, this time.
    #[serde(default)]
    pub detail: Option<String>,
    /// A stable name for programs.
    #[serde(default)]
    pub code: Option<String>,
    /// When to try again: seconds, or a date.
    #[serde(skip)]
    pub retry_after: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = [&self.title, &self.detail].into_iter().flatten().map(|text| shortened(text));
        f.write_str(&said.collect::<Vec<_>>().join(": "))?;
        if let Some(code) = self.code.as_deref().filter(|code| !code.is_empty()) {
            write!(f, " [{}]", shortened(code))?;
        }
        match self.retry_after.as_deref() {
            Some(after) if after.chars().all(|c| c.is_ascii_digit()) => write!(f, ", try again in {after} s"),
            Some(after) => write!(f, ", try again after {after}"),
            None => Ok(()),
        }
    }
}

/// Why the signalling failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No connection to the server, or none in time.
    #[error("cannot reach {server}: {why}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What the attempt ended with.
        why: String,
    },
    /// The answer broke off or is no text.
    #[error("the server's answer cannot be read: {0}")]
    Broken(String),
    /// 4xx.
    #[error("the server refused ({status}): {problem}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it says about it.
        problem: Problem,
    },
    /// 5xx.
    #[error("the server failed ({status}): {problem}")]
    Failed {
        /// HTTP status.
        status: u16,
        /// What it says about it.
        problem: Problem,
    },
    /// A success that is not an answer to an offer.
    #[error("this address is no WHIP or WHEP endpoint: it answered {status} with `{content_type}`")]
    NotAnEndpoint {
        /// HTTP status.
        status: u16,
        /// Media type of the body.
        content_type: String,
    },
    /// A 201 or a redirect without a usable Location.
    #[error("the server's answer has no usable Location header")]
    NoLocation,
    /// 301, 302 or 303.
    #[error("the server redirects with {status}, which does not keep a POST; WHIP wants 307")]
    ForbiddenRedirect {
        /// HTTP status.
        status: u16,
    },
    /// More than five redirects.
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    /// From https to http.
    #[error("the server redirects from https to {to}; not followed")]
    Downgrade {
        /// Where to.
        to: String,
    },
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
