//! Addresses: what the user may type, where a `Location` points, and which local address reaches a server.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use thiserror::Error;
use ureq::http::Uri;

/// What the client does at the other end of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sends audio, by WHIP.
    Publisher,
    /// Receives audio, by WHEP.
    Listener,
}

/// Checks an address as typed.
pub(crate) fn parse(address: &str, role: Role) -> Result<Uri, AddressError> {
    let shown = || without_userinfo(address);
    let uri: Uri = address.parse().map_err(|_| AddressError::Malformed(shown()))?;
    let websocket = matches!(uri.scheme_str(), Some("ws" | "wss"));
    if !websocket && !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(AddressError::Scheme(shown()));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(AddressError::Malformed(shown()));
    }
    let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    // Other servers name their endpoints as they like: only what is certainly wrong is refused.
    let has = |name: &str| segments.contains(&name);
    if websocket {
        return match (&segments[..], role) {
            ([.., "listen", _], Role::Publisher) => Err(AddressError::ListenSocket),
            ([.., "publish", _], Role::Listener) => Err(AddressError::PublishSocket),
            ([.., "listen" | "publish", _], _) => Ok(uri),
            _ => Err(AddressError::Socket(shown())),
        };
    }
    match (segments.first(), role) {
        (None | Some(&"listen" | &"speak"), _) if !has("whip") && !has("whep") => {
            let try_instead = endpoint_of(&uri, &segments, role);
            Err(AddressError::Page { given: shown(), role, try_instead })
        }
        _ if let Some(try_instead) = instead_of(&uri, &segments, role) => {
            Err(AddressError::NoEndpoint { given: shown(), try_instead })
        }
        (_, Role::Publisher) if has("whep") && !has("whip") => Err(AddressError::Whep),
        (_, Role::Listener) if has("whip") && !has("whep") => Err(AddressError::Whip),
        _ => Ok(uri),
    }
}

/// The endpoint of a session whose page this is; with words to fill in where the page does not say it.
fn endpoint_of(page: &Uri, segments: &[&str], role: Role) -> String {
    let server = page.authority().map(|authority| host_and_port(authority.as_str())).unwrap_or_default();
    let scheme = page.scheme_str().unwrap_or("http");
    let session = segments.get(1).unwrap_or(&"SESSION");
    match (role, segments.get(2)) {
        (Role::Publisher, None) => format!("{scheme}://{server}/whip/{session}"),
        (Role::Publisher, Some(language)) => format!("{scheme}://{server}/whip/{session}/{language}"),
        (Role::Listener, language) => {
            format!("{scheme}://{server}/whep/{session}/{}", language.unwrap_or(&"LANGUAGE"))
        }
    }
}

/// What is probably meant by an address of ours that takes no offers: a session, or audio over a WebSocket.
fn instead_of(uri: &Uri, segments: &[&str], role: Role) -> Option<String> {
    match segments {
        [.., "v1", "sessions", session] => Some(endpoint_of(uri, &["", session], role)),
        [.., "v1", "sessions", _, "listen" | "publish", _] => {
            let server = host_and_port(uri.authority()?.as_str());
            let scheme = if is_secure(uri) { "wss" } else { "ws" };
            Some(format!("{scheme}://{server}{}", uri.path()))
        }
        _ => None,
    }
}

/// An address as it may be shown: without the user and password that may stand before its host (RFC 3986 §3.2.1).
pub(crate) fn without_userinfo(address: &str) -> String {
    let start = address.find("://").map_or(0, |at| at + 3);
    let length = address[start..].find(['/', '?', '#']).unwrap_or(address.len() - start);
    let (authority, rest) = address[start..].split_at(length);
    format!("{}{}{rest}", &address[..start], host_and_port(authority))
}

/// The end of an authority, behind user and password.
pub(super) fn host_and_port(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, rest)| rest)
}

/// Scheme, host and port (RFC 6454): whom a secret is for.
pub(super) type Origin = (String, String, u16);

/// The origin of an address, the port written out; `None` if it is not an address of a server.
pub(super) fn origin(uri: &Uri) -> Option<Origin> {
    // A WebSocket is opened by HTTP at the same server.
    let scheme = if is_secure(uri) { "https" } else { "http" };
    uri.scheme_str()?;
    Some((scheme.to_owned(), uri.host()?.to_ascii_lowercase(), port(uri)))
}

fn port(uri: &Uri) -> u16 {
    let default = if is_secure(uri) { 443 } else { 80 };
    uri.port_u16().unwrap_or(default)
}

/// Whether this is the address of a WebSocket.
pub(super) fn is_websocket(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("ws" | "wss"))
}

/// Whether TLS is under it.
pub(super) fn is_secure(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("https" | "wss"))
}

/// The session, and the language if it says one, of an address of ours: `/v1/sessions/ID/KIND/LANGUAGE`,
/// `/KIND/ID/LANGUAGE`, `/KIND/ID`.
pub(super) fn place(uri: &Uri) -> Option<(String, Option<String>)> {
    let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let (session, language) = match segments[..] {
        [.., "v1", "sessions", session, _, language] => (session, Some(language)),
        ["whip" | "whep", session, language] => (session, Some(language)),
        ["whip" | "whep", session] => (session, None),
        _ => return None,
    };
    Some((session.to_owned(), language.map(str::to_owned)))
}

/// The address of a WebSocket on the same server.
pub(super) fn socket_at(server: &Uri, path: &str) -> Option<Uri> {
    let scheme = if is_secure(server) { "wss" } else { "ws" };
    format!("{scheme}://{}{path}", server.authority()?).parse().ok()
}

/// The address of an order to refresh, unless token and ticket would go there in the clear and do not now.
pub(super) fn resolve_order(base: &Uri, reference: &str) -> Option<Uri> {
    resolve(base, reference).filter(|uri| is_secure(uri) || !is_secure(base))
}

/// Resolves a reference (a `Location` header) against the address it was given for (RFC 3986 §5.2).
pub(super) fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    if has_scheme(reference) {
        return reference.parse().ok().filter(|uri: &Uri| uri.scheme().is_some() && uri.host().is_some());
    }
    let scheme = base.scheme_str()?;
    if reference.starts_with("//") {
        return format!("{scheme}:{reference}").parse().ok();
    }
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let (path, query) = if path.is_empty() {
        (base.path().to_owned(), query.or_else(|| base.query()))
    } else if path.starts_with('/') {
        (path.to_owned(), query)
    } else {
        let folder = &base.path()[..=base.path().rfind('/')?];
        (format!("{folder}{path}"), query)
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{}{}{query}", base.authority()?, without_dots(&path)).parse().ok()
}

fn has_scheme(reference: &str) -> bool {
    let name = reference.split([':', '/', '?']).next().unwrap_or_default();
    reference[name.len()..].starts_with(':')
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// RFC 3986 §5.2.4 for an absolute path.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Binds a UDP socket with the local address that reaches `server`: loopback for loopback, else the one that the routing table picks.
pub(crate) fn bind_towards(server: &Uri) -> Result<UdpSocket, AddressError> {
    let host = server.host().unwrap_or_default();
    let unreachable = || AddressError::Unreachable(host.to_owned());
    let remote = socket_addr(server).ok_or_else(unreachable)?;
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0u16; 8].into(),
    };
    let local = if remote.ip().is_loopback() {
        remote.ip()
    } else {
        let probe = UdpSocket::bind((any, 0)).map_err(|_| unreachable())?;
        // No packet is sent: connecting a UDP socket only asks the routing table.
        probe.connect(remote).and_then(|()| probe.local_addr()).map_err(|_| unreachable())?.ip()
    };
    UdpSocket::bind((local, 0)).map_err(|_| unreachable())
}

/// The address of a server, resolved. May block for a name server.
pub(super) fn socket_addr(server: &Uri) -> Option<SocketAddr> {
    let host = server.host()?.trim_start_matches('[').trim_end_matches(']');
    let mut addresses = (host, port(server)).to_socket_addrs().ok()?;
    let first = addresses.next()?;
    // The relay listens on IPv4 by default, and `localhost` may name both.
    Some(if first.is_ipv4() { first } else { addresses.find(SocketAddr::is_ipv4).unwrap_or(first) })
}

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not an address at all.
    #[error("`{0}` is not an address")]
    Malformed(String),
    /// Not http, https, ws or wss.
    #[error("`{0}` does not begin with http://, https://, ws:// or wss://")]
    Scheme(String),
    /// A page for people.
    #[error(
        "`{given}` is a page for a browser; this command takes the {} address: {try_instead}",
        if *.role == Role::Publisher { "WHIP" } else { "WHEP" }
    )]
    Page {
        /// The address as typed.
        given: String,
        /// What it was typed for.
        role: Role,
        /// The endpoint that is probably meant.
        try_instead: String,
    },
    /// Not the address of a session.
    #[error("`{0}` is not the address of a session: http://HOST:PORT/v1/sessions/SESSION")]
    Session(String),
    /// An address of a relay that takes no offers.
    #[error("`{given}` takes neither WHIP nor WHEP; try {try_instead}")]
    NoEndpoint {
        /// The address as typed.
        given: String,
        /// What is probably meant.
        try_instead: String,
    },
    /// A WebSocket address that no audio goes over.
    #[error(
        "`{0}` is not a media address; it ends with /v1/sessions/SESSION/listen/LANGUAGE or …/publish/LANGUAGE"
    )]
    Socket(String),
    /// A listener's WebSocket given to a publisher.
    #[error("this address is for listening; publishing takes …/publish/LANGUAGE")]
    ListenSocket,
    /// A publisher's WebSocket given to a listener.
    #[error("this address is for publishing; listening takes …/listen/LANGUAGE")]
    PublishSocket,
    /// A listener's address given to a publisher.
    #[error("this is a WHEP address, for listening; publishing takes the WHIP address of the session")]
    Whep,
    /// A publisher's address given to a listener.
    #[error("this is a WHIP address, for publishing; listening takes the WHEP address of the session")]
    Whip,
    /// No local address leads there.
    #[error("no route to `{0}`: is the name right, and is the network up?")]
    Unreachable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(base: &str, reference: &str) -> Option<String> {
        resolve(&base.parse().unwrap(), reference).map(|uri| uri.to_string())
    }

    #[test]
    fn a_location_is_resolved_against_the_endpoint() {
        let base = "http://relay.example:8080/v1/sessions/a/whip/en?x=1";
        for (reference, expected) in [
            ("/v1/legs/abc", "http://relay.example:8080/v1/legs/abc"),
            ("abc", "http://relay.example:8080/v1/sessions/a/whip/abc"),
            ("./abc", "http://relay.example:8080/v1/sessions/a/whip/abc"),
            ("../../abc?y=2", "http://relay.example:8080/v1/sessions/abc?y=2"),
            ("../../../../../../abc", "http://relay.example:8080/abc"),
            ("..", "http://relay.example:8080/v1/sessions/a/"),
            ("?y=2", "http://relay.example:8080/v1/sessions/a/whip/en?y=2"),
            ("", base),
            ("//other.example/abc", "http://other.example/abc"),
            ("https://other.example/abc#here", "https://other.example/abc"),
            ("/time/12:30", "http://relay.example:8080/time/12:30"),
            ("abc/12:30", "http://relay.example:8080/v1/sessions/a/whip/abc/12:30"),
        ] {
            assert_eq!(resolved(base, reference).as_deref(), Some(expected), "{reference}");
        }
        assert_eq!(
            resolved("http://relay.example", "legs/abc").as_deref(),
            Some("http://relay.example/legs/abc")
        );
        assert_eq!(resolved(base, "mailto:somebody"), None);
        assert_eq!(resolved(base, "/a b"), None);
    }

    #[test]
    fn an_order_does_not_lead_out_of_tls() {
        let order = |base: &str, url: &str| {
            resolve_order(&base.parse().unwrap(), url).map(|uri| uri.scheme_str().unwrap().to_owned())
        };
        let (plain, secure) = ("http://a.example/v1/x", "https://a.example/v1/x");
        assert_eq!(order(secure, "http://b.example/v1/x"), None);
        assert_eq!(order(secure, "ws://b.example/v1/x"), None);
        for (base, url, scheme) in [
            (secure, "/v1/y", "https"),
            (secure, "https://b.example/", "https"),
            (secure, "wss://b.example/", "wss"),
            (plain, "http://b.example/", "http"),
            (plain, "https://b.example/", "https"),
        ] {
            assert_eq!(order(base, url).as_deref(), Some(scheme), "{base} {url}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        for (address, shown) in [
            (
                "http://ann:secret@relay.example:8080/whip/a@b?c=d@e",
                "http://relay.example:8080/whip/a@b?c=d@e",
            ),
            ("https://ann:se@cret@[::1]/whip/a", "https://[::1]/whip/a"),
            ("ann:secret@relay.example/whip/a", "relay.example/whip/a"),
            ("http://relay.example/whip/a", "http://relay.example/whip/a"),
            ("https://ann@relay.example", "https://relay.example"),
            ("", ""),
        ] {
            assert_eq!(without_userinfo(address), shown);
        }
        for (address, role) in [
            ("http://ann:secret@x/listen/demo/es", Role::Publisher),
            ("http://ann:secret@x/speak/demo", Role::Listener),
            ("ftp://ann:secret@x/whip/demo", Role::Publisher),
            ("ann:secret@x/whip/demo", Role::Publisher),
            ("http://ann:secret@x y/", Role::Publisher),
            ("http://ann:secret@", Role::Listener),
        ] {
            let error = parse(address, role).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| origin(&a.parse().unwrap()) == origin(&b.parse().unwrap());
        assert!(same("https://relay.example/whip/a", "https://RELAY.example:443/v1/legs/b?x"));
        assert!(same("http://[::1]:8080/a", "http://[::1]:8080/b"));
        for other in [
            "http://relay.example/whip/a",
            "https://relay.example:8443/whip/a",
            "https://relay.example.evil/whip/a",
        ] {
            assert!(!same("https://relay.example/whip/a", other), "{other}");
        }
    }

    #[test]
    fn addresses_that_cannot_work_are_refused_with_the_reason() {
        use Role::{Listener, Publisher};
        for (address, role, ok) in [
            ("http://127.0.0.1:8080/whip/demo", Publisher, true),
            ("https://relay.example/v1/sessions/demo/whip/en", Publisher, true),
            ("http://127.0.0.1:8080/whep/demo/es", Listener, true),
            ("http://[::1]:8080/whep/demo", Listener, true),
            ("https://media.example/stream/whep", Listener, true),
            ("https://media.example/rtc/v1/play", Listener, true),
        ] {
            assert_eq!(parse(address, role).is_ok(), ok, "{address}");
        }
        assert_eq!(parse("localhost:8080", Listener), Err(AddressError::Scheme("localhost:8080".into())));
        assert_eq!(parse("ftp://x/whep/a", Listener), Err(AddressError::Scheme("ftp://x/whep/a".into())));
        assert_eq!(parse("whep/demo", Listener), Err(AddressError::Malformed("whep/demo".into())));
        assert_eq!(parse("http://a b/", Listener), Err(AddressError::Malformed("http://a b/".into())));
        assert_eq!(parse("http://x/whip/demo", Listener), Err(AddressError::Whip));
        assert_eq!(parse("http://x/whep/demo/en", Publisher), Err(AddressError::Whep));
        for (page, role, instead) in [
            ("http://x", Listener, "http://x/whep/SESSION/LANGUAGE"),
            ("http://x:80/", Publisher, "http://x:80/whip/SESSION"),
            ("https://x/listen/demo", Listener, "https://x/whep/demo/LANGUAGE"),
            ("http://x/listen/demo/es", Listener, "http://x/whep/demo/es"),
            ("http://x/speak/demo", Publisher, "http://x/whip/demo"),
            ("http://x/listen/demo/es", Publisher, "http://x/whip/demo/es"),
        ] {
            let error = parse(page, role).unwrap_err().to_string();
            assert!(error.contains("is a page for a browser") && error.ends_with(instead), "{error}");
        }
    }

    #[test]
    fn a_websocket_has_its_role_in_its_path() {
        use Role::{Listener, Publisher};
        let (listen, publish) =
            ("wss://x/v1/sessions/demo/listen/en", "ws://x:80/v1/sessions/demo/publish/en");
        assert!(parse(listen, Listener).is_ok() && parse(publish, Publisher).is_ok());
        assert_eq!(parse(listen, Publisher), Err(AddressError::ListenSocket));
        assert_eq!(parse(publish, Listener), Err(AddressError::PublishSocket));
        for other in ["ws://x", "ws://x/whep/demo/en", "wss://x/v1/sessions/demo/events"] {
            assert_eq!(parse(other, Listener), Err(AddressError::Socket(other.into())));
        }
    }

    #[test]
    fn an_address_of_ours_that_takes_no_offers_is_refused_with_one_that_does() {
        use Role::{Listener, Publisher};
        for (address, role, instead) in [
            ("http://x/v1/sessions/demo", Listener, "http://x/whep/demo/LANGUAGE"),
            ("https://a:b@x/v1/sessions/demo", Publisher, "https://x/whip/demo"),
            ("http://x/v1/sessions/demo/listen/en", Listener, "ws://x/v1/sessions/demo/listen/en"),
            ("https://x/v1/sessions/demo/publish/en", Publisher, "wss://x/v1/sessions/demo/publish/en"),
        ] {
            let error = parse(address, role).unwrap_err().to_string();
            assert!(error.ends_with(&format!("neither WHIP nor WHEP; try {instead}")), "{error}");
            assert!(!error.contains("a:b"), "{error}");
        }
    }

    #[test]
    fn an_address_says_session_and_language_and_leads_to_sockets_beside_it() {
        let of = |text: &str| place(&text.parse().unwrap());
        let found = |language: Option<&str>| Some(("demo".to_owned(), language.map(str::to_owned)));
        assert_eq!(of("http://x/whep/demo"), found(None));
        assert_eq!(of("http://x/whip/demo/es"), found(Some("es")));
        assert_eq!(of("http://x/v1/sessions/demo/whep/es"), found(Some("es")));
        assert_eq!(of("ws://x/v1/sessions/demo/listen/es"), found(Some("es")));
        assert_eq!(of("http://x/rtc/v1/play"), None);
        let events = socket_at(&"https://x:8443/whep/demo".parse().unwrap(), "/v1/events");
        assert_eq!(events.unwrap().to_string(), "wss://x:8443/v1/events");
    }

    #[test]
    fn a_loopback_server_is_reached_from_loopback() {
        for host in ["127.0.0.1", "localhost"] {
            let socket = bind_towards(&format!("http://{host}:9/whep/demo").parse().unwrap()).unwrap();
            assert!(socket.local_addr().unwrap().ip().is_loopback());
        }
    }
}
