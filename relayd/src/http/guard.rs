//! What every request passes first: is it addressed to this relay, and may its page call us?
//!
//! A relay on loopback trusts whoever reaches it, and any page in a browser on the same machine can try. So: the
//! `Host` must be a loopback name, our own address or a configured name (a page whose name was re-bound to
//! 127.0.0.1 still sends its own), and a page of another origin neither reads answers nor changes anything
//! unless its origin is configured (localhost origins are, for development).

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};

use super::problem::{Code, Problem};
use crate::config;

/// Who may address us, and from which pages.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    own: SocketAddr,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Guard {
    /// For a listener bound to `own`.
    pub(super) fn new(own: SocketAddr, settings: &config::Http) -> Self {
        let mut hosts: Vec<String> =
            settings.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let mut origins: Vec<String> = settings.allowed_origins.clone();
        let public = settings.public_url.trim_end_matches('/');
        if let Some((_, authority)) = public.split_once("://") {
            hosts.extend(authority.parse::<Authority>().ok().map(|authority| host_of(&authority)));
            origins.push(public.to_owned());
        }
        Self { own, hosts, origins }
    }

    /// Checks Host and Origin; the `Origin` to answer to, if there is one that is allowed. What has been checked
    /// is the request's `Host` from then on (RFC 9112 §3.2.2).
    pub(super) fn check(&self, request: &mut Request) -> Result<Option<HeaderValue>, Problem> {
        let authority = self.check_host(request)?;
        let host = HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII");
        request.headers_mut().insert(header::HOST, host);
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(None) };
        if self.allows_origin(origin, &authority) {
            return Ok(Some(origin.clone()));
        }
        let upgrades = request.headers().contains_key(header::UPGRADE);
        if !upgrades && (request.method() == Method::GET || request.method() == Method::HEAD) {
            // Without CORS headers the browser keeps the answer from the page; from a WebSocket it keeps nothing.
            return Ok(None);
        }
        let detail =
            format!("pages of {origin:?} may not call this relay; http.allowed_origins lists those that may");
        Err(Problem::new(Code::OriginNotAllowed, detail))
    }

    fn check_host(&self, request: &Request) -> Result<Authority, Problem> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (host, another) = (hosts.next(), hosts.next());
        let text = match request.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => host.and_then(|host| host.to_str().ok()),
        };
        // Two hosts, or a user in front of one, are read differently by whoever forwards this request.
        let text = text.filter(|text| another.is_none() && !text.contains('@'));
        if text.is_none() && host.is_none() && request.version() == Version::HTTP_10 {
            // Health checks of load balancers; a browser always says what it asks for.
            return Ok(self.own.to_string().parse().expect("a socket address is an authority"));
        }
        let bad =
            || Problem::new(Code::InvalidMessage, "the request must have one Host header: a name and a port");
        let authority: Authority = text.and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let host = host_of(&authority);
        let own = host.parse::<IpAddr>().is_ok_and(|ip| ip == self.own.ip());
        if is_local(&host) || own || self.hosts.contains(&host) {
            return Ok(authority);
        }
        let detail =
            format!("requests to the host {host:?} are not served; http.allowed_hosts lists those that are");
        Err(Problem::new(Code::HostNotAllowed, detail))
    }

    fn allows_origin(&self, origin: &HeaderValue, own: &Authority) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        if self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let Some((_, rest)) = origin.split_once("://") else { return false };
        rest.parse::<Authority>().is_ok_and(|authority| authority == *own || is_local(&host_of(&authority)))
    }
}

/// Whether this is a browser asking what it may do.
pub(super) fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight.
pub(super) fn preflight() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// Adds what a page of this origin may see and do.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue, preflight: bool) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let expose = "Location, ETag, Link, Retry-After, Accept-Patch, Relay-Ticket, X-Request-Id";
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(expose));
    if preflight {
        let methods = "GET, POST, PATCH, DELETE, OPTIONS";
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        let names = "Authorization, Content-Type, If-Match, Idempotency-Key, Relay-Resume, Relay-Ticket";
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
}

fn host_of(authority: &Authority) -> String {
    authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

fn is_local(host: &str) -> bool {
    let name = host == "localhost" || host.ends_with(".localhost");
    name || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn guard(change: impl FnOnce(&mut config::Http)) -> Guard {
        let mut settings = config::Http::default();
        change(&mut settings);
        Guard::new(SocketAddr::from(([127, 0, 0, 1], 8080)), &settings)
    }

    fn request(method: Method, host: &str, origin: Option<&str>) -> Request {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        request.headers_mut().insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            request.headers_mut().insert(header::ORIGIN, origin.parse().unwrap());
        }
        request
    }

    #[test]
    fn loopback_names_are_served_and_others_are_not() {
        let guard = guard(|http| {
            http.allowed_hosts = vec!["Relay.Example".into()];
            http.public_url = "https://public.example:8443/".into();
        });
        for host in [
            "localhost",
            "localhost:8080",
            "127.0.0.1",
            "127.3.2.1:9",
            "[::1]:8080",
            "a.localhost",
            "LOCALHOST",
            "relay.example",
            "relay.example:443",
            "public.example",
        ] {
            assert!(guard.check(&mut request(Method::GET, host, None)).is_ok(), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1", "10.0.0.1:8080"]
        {
            let problem = guard.check(&mut request(Method::GET, host, None)).unwrap_err();
            assert_eq!(problem.into_response().status(), 421, "{host}");
        }
        for host in ["", "a b", "@", "evil@localhost", "localhost:8080@evil.example"] {
            let problem = guard.check(&mut request(Method::GET, host, None)).unwrap_err();
            assert_eq!(problem.into_response().status(), 400, "{host:?}");
        }
    }

    #[test]
    fn there_is_one_host_and_the_target_wins_over_the_header() {
        let guard = guard(|_| {});
        let mut none = Request::new(Body::empty());
        assert!(guard.check(&mut none).is_err(), "HTTP/1.1 has a Host");
        *none.version_mut() = Version::HTTP_10;
        guard.check(&mut none).unwrap();
        assert_eq!(none.headers()[header::HOST], "127.0.0.1:8080");

        let mut twice = request(Method::GET, "localhost", None);
        twice.headers_mut().append(header::HOST, "evil.example".parse().unwrap());
        assert!(guard.check(&mut twice).is_err());

        let mut absolute = request(Method::GET, "evil.example", None);
        *absolute.uri_mut() = "http://localhost:8080/v1/sessions/x".parse().unwrap();
        guard.check(&mut absolute).unwrap();
        assert_eq!(absolute.headers()[header::HOST], "localhost:8080", "no answer is made of the other one");
        *absolute.uri_mut() = "http://evil.example/v1/sessions/x".parse().unwrap();
        absolute.headers_mut().insert(header::HOST, "localhost".parse().unwrap());
        assert!(guard.check(&mut absolute).is_err());
    }

    #[test]
    fn a_proxy_that_rewrites_the_host_keeps_pages_of_the_public_address_working() {
        let guard = guard(|http| http.public_url = "https://Relay.example/".into());
        let mut proxied = request(Method::POST, "127.0.0.1:8080", Some("https://relay.example"));
        assert_eq!(guard.check(&mut proxied).unwrap().unwrap(), "https://relay.example");
    }

    #[test]
    fn foreign_pages_change_nothing_and_read_nothing() {
        let guard = guard(|http| http.allowed_origins = vec!["https://stage.example".into()]);
        let allowed = |method, origin| guard.check(&mut request(method, "127.0.0.1:8080", Some(origin)));
        for origin in
            ["http://127.0.0.1:8080", "http://localhost:3000", "https://stage.example", "http://[::1]:1"]
        {
            assert_eq!(allowed(Method::POST, origin).unwrap().unwrap(), origin);
        }
        for origin in
            ["https://evil.example", "null", "http://localhost.evil.example", "https://stage.example.evil"]
        {
            assert_eq!(allowed(Method::GET, origin).unwrap(), None);
            for method in [Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS] {
                assert_eq!(allowed(method, origin).unwrap_err().into_response().status(), 403);
            }
        }
    }
}
