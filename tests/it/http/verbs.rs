//! Every method on every route; CORS; who may call at all.

use super::client::{JSON, Relay, SDP};

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_served_or_answered_405_with_allow() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let endpoints: Vec<String> = ["whip", "whep"]
        .iter()
        .flat_map(|kind| {
            [format!("/v1/sessions/{id}/{kind}/en"), format!("/{kind}/{id}"), format!("/{kind}/{id}/es")]
        })
        .collect();
    let endpoint = &["GET", "HEAD", "POST", "OPTIONS"][..];
    let mut routes: Vec<(&str, &[&str])> = endpoints.iter().map(|path| (path.as_str(), endpoint)).collect();
    let (session, leg) = (format!("/v1/sessions/{id}"), "/v1/legs/0123456789abcdef0123456789abcdef");
    routes.push(("/v1/sessions", &["POST", "OPTIONS"]));
    routes.push((leg, &["GET", "HEAD", "PATCH", "DELETE", "OPTIONS"]));
    for page in [
        "/",
        "/listen",
        "/listen/x",
        "/listen/x/en",
        "/speak",
        "/speak/x",
        "/docs",
        "/web/style.css",
        "/qr.svg",
    ] {
        routes.push((page, &["GET", "HEAD"]));
    }
    routes.push((&session, &["GET", "HEAD", "DELETE", "OPTIONS"]));
    for (path, served) in routes {
        for method in METHODS {
            let reply = relay.send(method, path, &[], b"").await;
            assert!(!(500..600).contains(&reply.status), "{method} {path}: {reply:?}");
            if served.contains(&method) {
                assert_ne!(reply.status, 405, "{method} {path}");
                continue;
            }
            assert_eq!(reply.status, 405, "{method} {path}");
            if method != "HEAD" {
                reply.problem(405, "METHOD_NOT_ALLOWED");
            }
            let mut allow: Vec<&str> = reply.header("allow").split(',').map(str::trim).collect();
            let mut expected = served.to_vec();
            allow.sort_unstable();
            expected.sort_unstable();
            assert_eq!(allow, expected, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_say_what_they_take() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    for path in [format!("/whip/{id}"), format!("/v1/sessions/{id}/whep/es")] {
        let options = relay.send("OPTIONS", &path, &[], b"").await;
        assert_eq!((options.status, options.header("accept-post")), (204, "application/sdp"));
        for method in ["GET", "HEAD"] {
            let reply = relay.send(method, &path, &[], b"").await;
            assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{method}");
            assert_eq!(reply.header("content-length"), "", "RFC 9110 §8.6");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_may_call_and_others_may_not() {
    let relay =
        Relay::with(|config| config.http.allowed_origins = vec!["https://stage.example".into()]).await;
    let id = relay.session().await;
    let whip = format!("/whip/{id}");
    let preflight =
        [("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
    for origin in ["https://stage.example", "http://localhost:3000"] {
        let reply =
            relay.send("OPTIONS", &whip, &[("origin", origin), preflight[0], preflight[1]], b"").await;
        assert_eq!(reply.status, 204);
        assert_eq!(reply.header("access-control-allow-origin"), origin);
        assert_eq!(reply.header("access-control-allow-methods"), "GET, POST, PATCH, DELETE, OPTIONS");
        let headers = "Authorization, Content-Type, If-Match, Idempotency-Key, Relay-Resume, Relay-Ticket";
        assert_eq!(reply.header("access-control-allow-headers"), headers);
        assert_eq!(reply.header("access-control-max-age"), "86400");
        assert_eq!(reply.header("access-control-allow-credentials"), "");
        let reply = relay.send("POST", &whip, &[("origin", origin), SDP], b"v=0").await;
        assert_eq!(
            reply.header("access-control-allow-origin"),
            origin,
            "errors too are for the page to read"
        );
        let exposed = "Location, ETag, Link, Retry-After, Accept-Patch, Relay-Ticket, X-Request-Id";
        assert_eq!(reply.header("access-control-expose-headers"), exposed);
        assert_eq!(reply.header("vary"), "Origin");
    }
    for origin in ["https://evil.example", "null"] {
        let reply =
            relay.send("OPTIONS", &whip, &[("origin", origin), preflight[0], preflight[1]], b"").await;
        reply.problem(403, "FORBIDDEN");
        assert_eq!(reply.header("access-control-allow-origin"), "");
        let body = br#"{"sourceLanguage":"en"}"#;
        relay.send("POST", "/v1/sessions", &[("origin", origin), JSON], body).await.problem(403, "FORBIDDEN");
        let read = relay.send("GET", &format!("/v1/sessions/{id}"), &[("origin", origin)], b"").await;
        assert_eq!((read.status, read.header("access-control-allow-origin")), (200, ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_bound_to_loopback_by_somebody_else_is_not_served() {
    let relay = Relay::with(|config| config.http.allowed_hosts = vec!["relay.example".into()]).await;
    for host in ["evil.example", "evil.example:8080", "192.0.2.1"] {
        for path in ["/", "/v1/sessions/demo", "/none"] {
            let detail =
                relay.send("GET", path, &[("host", host)], b"").await.problem(421, "MISDIRECTED_REQUEST");
            assert!(detail.contains("http.allowed_hosts"), "{detail}");
        }
    }
    for host in ["localhost", "relay.example", "[::1]:1"] {
        assert_eq!(relay.send("GET", "/", &[("host", host)], b"").await.status, 200, "{host}");
    }
    relay.send("GET", "/", &[("host", "not a host")], b"").await.problem(400, "INVALID_MESSAGE");
}
