//! Who is at the other end: the address of a request's client, seen through the proxies that are trusted.
//!
//! Invariant: what a header says counts only as far back as trusted proxies wrote it, read from the right.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderMap, HeaderName, header};
use ipnet::IpNet;

use crate::config::ForwardedHeader;

/// The client's address, in the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer(pub IpAddr);

impl Peer {
    /// The client of a request that has come in.
    pub(crate) fn of(extensions: &Extensions) -> IpAddr {
        extensions.get::<Self>().map_or(NOBODY, |peer| peer.0)
    }
}

/// The proxies whose word counts, and the one header in which they give it: what a proxy does not write it passes on
/// as the client sent it.
#[derive(Debug, Clone)]
pub(super) struct Proxies {
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
}

impl Proxies {
    /// Those within these ranges, by this header.
    pub(super) fn new(trusted: Vec<IpNet>, header: ForwardedHeader) -> Self {
        Self { trusted, header }
    }

    /// The client of a request: the connection's other end or, if that is a trusted proxy, the right-most
    /// address that is not one.
    pub(super) fn client(&self, request: &Request) -> Peer {
        let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let connected = info.map_or(NOBODY, |info| info.0.ip().to_canonical());
        if !self.trusts(connected) {
            return Peer(connected);
        }
        let mut nearest = connected;
        for hop in hops(self.header, request.headers()).into_iter().rev().take(MAX_HOPS) {
            // What cannot be read ends the chain: nobody vouches for what stands left of it.
            let Some(address) = hop else { break };
            nearest = address;
            if !self.trusts(address) {
                break;
            }
        }
        Peer(nearest)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|range| range.contains(&address))
    }
}

/// The addresses of the header from left to right.
fn hops(header: ForwardedHeader, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let (name, read): (HeaderName, fn(&str) -> Option<IpAddr>) = match header {
        ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, address),
        ForwardedHeader::Forwarded => (header::FORWARDED, forwarded_for),
    };
    let values = headers.get_all(name).into_iter();
    // At every comma, quoted or not: a quote that the client left open takes nothing of what a proxy has appended.
    let elements = values.flat_map(|value| value.to_str().unwrap_or("?").split(','));
    elements.map(|element| read(element.trim())).collect()
}

/// The `for` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| name.eq_ignore_ascii_case("for"))
        .and_then(|(_, node)| address(node.trim_matches('"')))
}

/// An address with or without port, an IPv6 one with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let socket = || text.parse::<SocketAddr>().map(|socket| socket.ip());
    bare.parse::<IpAddr>().or_else(|_| socket()).ok().map(|address| address.to_canonical())
}

/// Stands for the client of a request that came from none, as in tests of the router.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// More proxies than these in a row are somebody's joke.
const MAX_HOPS: usize = 16;

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn client(connected: &str, headers: &[(&str, &str)]) -> String {
        client_by(ForwardedHeader::XForwardedFor, connected, headers)
    }

    fn client_by(header: ForwardedHeader, connected: &str, headers: &[(&str, &str)]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().unwrap()).to_vec();
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(connected.parse().unwrap()));
        for (name, value) in headers {
            request.headers_mut().append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        Proxies::new(trusted, header).client(&request).0.to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let claim = [("x-forwarded-for", "192.0.2.7")];
        assert_eq!(client("198.51.100.1:9", &claim), "198.51.100.1");
        assert_eq!(client("10.0.0.1:9", &claim), "192.0.2.7");
        assert_eq!(client("[::ffff:10.0.0.1]:9", &claim), "192.0.2.7");
        assert_eq!(client("[fd00::1]:9", &claim), "192.0.2.7");
        assert_eq!(client("10.0.0.1:9", &[]), "10.0.0.1");
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_counts() {
        for (chain, expected) in [
            ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
            ("6.6.6.6, 192.0.2.7, 10.1.1.1", "192.0.2.7"),
            ("10.9.9.9, 10.1.1.1", "10.9.9.9"),
            ("6.6.6.6, unknown, 10.1.1.1", "10.1.1.1"),
            ("6.6.6.6, ", "10.0.0.1"),
            ("192.0.2.7:4711", "192.0.2.7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
        ] {
            assert_eq!(client("10.0.0.1:9", &[("x-forwarded-for", chain)]), expected, "{chain}");
        }
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(client("10.0.0.1:9", &lines), "192.0.2.7");
    }

    #[test]
    fn forwarded_is_read_like_its_forerunner() {
        for (value, expected) in [
            ("for=192.0.2.7", "192.0.2.7"),
            ("For=6.6.6.6, proto=https;for=\"192.0.2.7:8\";by=10.0.0.1", "192.0.2.7"),
            ("for=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("for=_hidden", "10.0.0.1"),
            ("by=10.0.0.9", "10.0.0.1"),
            ("for=\"6.6.6.6, for=192.0.2.7", "192.0.2.7"),
        ] {
            let headers = [("forwarded", value), ("x-forwarded-for", "6.6.6.6")];
            assert_eq!(client_by(ForwardedHeader::Forwarded, "10.0.0.1:9", &headers), expected, "{value}");
        }
    }

    #[test]
    fn a_header_that_the_proxy_does_not_write_is_the_clients_and_counts_for_nothing() {
        let both = [("forwarded", "for=127.0.0.1"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(client("10.0.0.1:9", &both), "192.0.2.7");
        let both = [("forwarded", "for=192.0.2.7"), ("x-forwarded-for", "127.0.0.1")];
        assert_eq!(client_by(ForwardedHeader::Forwarded, "10.0.0.1:9", &both), "192.0.2.7");
        assert_eq!(client("10.0.0.1:9", &both[..1]), "10.0.0.1");
    }
}
