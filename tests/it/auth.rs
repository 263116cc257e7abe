//! Who may use which route: every route of the running daemon, with every kind of token.

pub(crate) mod issuer;
mod socket;

use relayd::config::Config;
use serde_json::{Value, json};

use crate::http::client::{self, FRAGMENT, JSON, Relay, Reply, SDP, offer};
use issuer::Issuer;

const SPEAKER: &str = "chromium_sendonly";
const LISTENER: &str = "chromium_recvonly";
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// Who may use a route: what the relay's own policies promise, written down a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Public,
    Create,
    Read,
    Manage,
    Publish,
    Listen,
    Leg,
}

/// A route, who may use it, and what it answers to a request of this table that gets through.
struct Route {
    method: &'static str,
    path: &'static str,
    policy: Policy,
    good: u16,
}

const fn route(method: &'static str, path: &'static str, policy: Policy, good: u16) -> Route {
    Route { method, path, policy, good }
}

/// Every route but OPTIONS, which is public wherever it is.
const ROUTES: &[Route] = &[
    route("GET", "/", Policy::Public, 200),
    route("GET", "/docs", Policy::Public, 200),
    route("GET", "/favicon.ico", Policy::Public, 200),
    route("GET", "/listen", Policy::Public, 200),
    route("GET", "/listen/{session}", Policy::Public, 200),
    route("GET", "/listen/{session}/{language}", Policy::Public, 200),
    route("GET", "/speak", Policy::Public, 200),
    route("GET", "/speak/{session}", Policy::Public, 200),
    route("GET", "/web/{file}", Policy::Public, 200),
    route("GET", "/qr.svg", Policy::Public, 422),
    route("GET", "/v1/openapi.json", Policy::Public, 200),
    route("GET", "/v1/asyncapi.json", Policy::Public, 200),
    route("POST", "/v1/sessions", Policy::Create, 201),
    route("GET", "/v1/sessions/{session}", Policy::Read, 200),
    route("DELETE", "/v1/sessions/{session}", Policy::Manage, 204),
    // Nobody speaks in it: what gets through is told that the session has only been created.
    route("POST", "/v1/sessions/{session}/pause", Policy::Manage, 409),
    route("POST", "/v1/sessions/{session}/resume", Policy::Manage, 409),
    route("POST", "/v1/sessions/{session}/refresh", Policy::Manage, 202),
    route("POST", "/v1/sessions/{session}/languages", Policy::Manage, 201),
    route("DELETE", "/v1/sessions/{session}/languages/{language}", Policy::Manage, 204),
    // Without an upgrade; who may follow the events is what the first frame inside decides.
    route("GET", "/v1/sessions/{session}/events", Policy::Public, 426),
    route("GET", "/v1/sessions/{session}/publish/{language}", Policy::Public, 426),
    route("GET", "/v1/sessions/{session}/listen/{language}", Policy::Public, 426),
    route("POST", "/v1/sessions/{session}/whip/{language}", Policy::Publish, 201),
    route("POST", "/whip/{session}", Policy::Publish, 201),
    route("POST", "/whip/{session}/{language}", Policy::Publish, 201),
    route("POST", "/v1/sessions/{session}/whep/{language}", Policy::Listen, 201),
    route("POST", "/whep/{session}", Policy::Listen, 201),
    route("POST", "/whep/{session}/{language}", Policy::Listen, 201),
    // Whether such an address exists at all (RFC 9725 §4.1), not what is behind it.
    route("GET", "/v1/sessions/{session}/whip/{language}", Policy::Public, 204),
    route("GET", "/v1/sessions/{session}/whep/{language}", Policy::Public, 204),
    route("GET", "/whip/{session}", Policy::Public, 204),
    route("GET", "/whip/{session}/{language}", Policy::Public, 204),
    route("GET", "/whep/{session}", Policy::Public, 204),
    route("GET", "/whep/{session}/{language}", Policy::Public, 204),
    route("GET", "/v1/legs/{leg}", Policy::Public, 204),
    // No If-Match.
    route("PATCH", "/v1/legs/{leg}", Policy::Leg, 428),
    route("DELETE", "/v1/legs/{leg}", Policy::Leg, 200),
    route("POST", "/v1/legs/{leg}/sse", Policy::Leg, 201),
    route("GET", "/v1/legs/{leg}/sse", Policy::Leg, 200),
    route("GET", "/v1/legs/{leg}/sse/{stream}", Policy::Leg, 200),
    route("DELETE", "/v1/legs/{leg}/sse/{stream}", Policy::Leg, 200),
];

/// A relay with an issuer, a session of ann's and one of bob's.
struct World {
    relay: Relay,
    issuer: Issuer,
}

impl World {
    async fn new(name: &str) -> Self {
        Self::with(name, |_| {}).await
    }

    async fn with(name: &str, change: impl FnOnce(&mut Config)) -> Self {
        let issuer = Issuer::new(name);
        let configure = |config: &mut Config| {
            issuer.configure(config);
            // Nobody completes ICE here, and every leg must outlive the table.
            config.webrtc.ice_timeout = std::time::Duration::from_secs(600);
            config.webrtc.join_timeout = std::time::Duration::from_secs(600);
            change(config);
        };
        Self { relay: Relay::with(configure).await, issuer }
    }

    async fn send(&self, method: &str, path: &str, token: Option<&str>) -> Reply {
        let (kind, body) = body(method, path);
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers: Vec<(&str, &str)> = kind.into_iter().collect();
        headers.extend(bearer.as_ref().map(|bearer| ("authorization", bearer.as_str())));
        if method == "GET" && path.contains("/sse") {
            return client::head(self.relay.daemon.http_addr(), method, path, &headers).await;
        }
        self.relay.send(method, path, &headers, &body).await
    }

    /// A session of this subject's, for whom nobody listens anonymously.
    async fn session(&self, subject: &str) -> String {
        let token = self.issuer.token(subject, json!({ "role": "speak" }));
        let made = self.send("POST", "/v1/sessions", Some(&token)).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json()["sessionId"].as_str().expect("an id").to_owned()
    }

    /// The name of a listener's connection in a session.
    async fn leg(&self, session: &str, token: &str) -> String {
        let joined = self.send("POST", &format!("/whep/{session}"), Some(token)).await;
        assert_eq!(joined.status, 201, "{joined:?}");
        joined.header("location").strip_prefix("/v1/legs/").expect("a leg").to_owned()
    }

    /// The path of a route in a session of its own, where a leg of ann's is.
    async fn fresh(&self, template: &str) -> String {
        let session = if template.contains("{session}") || template.contains("{leg}") {
            self.session("ann").await
        } else {
            String::new()
        };
        let token = self.issuer.token("ann", json!({ "role": "speak" }));
        let leg = if template.contains("{leg}") { self.leg(&session, &token).await } else { String::new() };
        let stream = if template.contains("{stream}") {
            let made = self.send("POST", &format!("/v1/legs/{leg}/sse"), Some(&token)).await;
            assert_eq!(made.status, 201, "{made:?}");
            made.header("location").rsplit('/').next().expect("a stream").to_owned()
        } else {
            String::new()
        };
        let language = if template.contains("/languages/") { "es" } else { "en" };
        template
            .replace("{session}", &session)
            .replace("{language}", language)
            .replace("{leg}", &leg)
            .replace("{stream}", &stream)
            .replace("{file}", "style.css")
    }
}

/// What a route is sent.
fn body(method: &str, path: &str) -> (Option<(&'static str, &'static str)>, Vec<u8>) {
    match (method, path) {
        ("POST", "/v1/sessions") => (Some(JSON), br#"{"sourceLanguage":"en","languages":["es"]}"#.to_vec()),
        ("POST", path) if path.ends_with("/sse") => (Some(JSON), br#"["active"]"#.to_vec()),
        ("POST", path) if path.ends_with("/languages") => (Some(JSON), br#"{"language":"de"}"#.to_vec()),
        ("POST", path) if path.contains("/whip/") => (Some(SDP), offer(SPEAKER)),
        ("POST", path) if path.contains("/whep/") => (Some(SDP), offer(LISTENER)),
        ("PATCH", _) => (Some(FRAGMENT), b"a=ice-ufrag:abcd\r\n".to_vec()),
        _ => (None, Vec::new()),
    }
}

/// Whether an answer repeats nothing of the token's claims.
fn offers_nothing(answer: &str, token: &str) -> bool {
    token.split('.').nth(1).is_none_or(|part| part.is_empty() || !answer.contains(part))
}

/// Every method of every path that the relay says it has.
async fn documented(relay: &Relay) -> Vec<(String, String)> {
    let document = relay.send("GET", "/v1/openapi.json", &[], b"").await.json();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let methods = METHODS.into_iter().filter(|method| item.get(method.to_lowercase()).is_some());
        found.extend(methods.map(|method| (method.to_owned(), path.clone())));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_what_the_relay_serves() {
    let world = World::new("table").await;
    let mut served = documented(&world.relay).await;
    served.retain(|(method, _)| method != "OPTIONS");
    let mut listed: Vec<(String, String)> =
        ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    served.sort();
    listed.sort();
    assert_eq!(served, listed, "a new route comes with its line in ROUTES");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_takes_a_good_token() {
    let world = World::new("good").await;
    for Route { method, path: template, policy, good } in ROUTES {
        for by_rsa in [false, true] {
            let path = world.fresh(template).await;
            let relay = json!({ "role": "speak" });
            let token =
                if by_rsa { world.issuer.by_rsa("ann", relay) } else { world.issuer.token("ann", relay) };
            let reply = world.send(method, &path, Some(&token)).await;
            assert_eq!(reply.status, *good, "{method} {path} ({policy:?}): {reply:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_takes_no_token_or_a_bad_one() {
    let world = World::new("bad").await;
    for Route { method, path: template, policy, good } in ROUTES {
        let path = world.fresh(template).await;
        let mut bad = world.issuer.forgeries("ann", &json!({ "role": "admin" }));
        bad.push(("no token at all", String::new()));
        bad.push(("no JWT", "golden-eagle-427".to_owned()));
        let none = std::iter::once(("no token", None));
        for (kind, token) in none.chain(bad.iter().map(|(kind, token)| (*kind, Some(token.as_str())))) {
            let reply = world.send(method, &path, token).await;
            let case = format!("{kind}: {method} {path} ({policy:?})");
            if *policy == Policy::Public {
                assert_eq!(reply.status, *good, "{case}: {reply:?}");
                continue;
            }
            let detail = reply.problem(401, "UNAUTHORIZED");
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{case}: {reply:?}");
            assert!(offers_nothing(&reply.body, token.unwrap_or_default()), "{case}: {detail}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_session_is_not_there() {
    let world = World::new("idor").await;
    let other = world.session("bob").await;
    for Route { method, path: template, policy, good } in ROUTES {
        let path = world.fresh(template).await;
        for (name, token) in [
            ("bob's", world.issuer.token("bob", json!({ "role": "speak" }))),
            ("bob's administrator", world.issuer.token("bob", json!({ "role": "admin" }))),
            (
                "one of ann's for another session",
                world.issuer.token("ann", json!({ "role": "speak", "session": other })),
            ),
            (
                "one of another issuer's for all that are its",
                world.issuer.with("ann", json!({ "role": "admin", "session": "*" }), |claims| {
                    claims["iss"] = "https://other.example".into();
                }),
            ),
        ] {
            let reply = world.send(method, &path, Some(&token)).await;
            let case = format!("{name}: {method} {path} ({policy:?}): {reply:?}");
            match policy {
                Policy::Public => assert_eq!(reply.status, *good, "{case}"),
                Policy::Create if name.contains("for another session") => {
                    drop(reply.problem(403, "FORBIDDEN"))
                }
                Policy::Create => assert_eq!(reply.status, 201, "{case}"),
                Policy::Leg => drop(reply.problem(404, "LEG_NOT_FOUND")),
                _ => drop(reply.problem(404, "SESSION_NOT_FOUND")),
            }
        }
        // Nothing of it has come to pass.
        let good_one = world.issuer.token("ann", json!({ "role": "speak" }));
        if *policy == Policy::Leg {
            assert_eq!(world.send(method, &path, Some(&good_one)).await.status, *good, "{method} {path}");
        }
    }
    let owner = world.issuer.token("bob", json!({ "role": "speak" }));
    assert_eq!(world.send("GET", &format!("/v1/sessions/{other}"), Some(&owner)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_session_and_a_strangers_are_told_alike() {
    let world = World::new("alike").await;
    let real = world.session("ann").await;
    let stranger = world.issuer.token("bob", json!({ "role": "speak" }));
    for Route { method, path: template, policy, .. } in ROUTES {
        if !template.contains("{session}") || *policy == Policy::Public {
            continue;
        }
        let told = async |id: &str, token: Option<&str>| {
            let path = template.replace("{session}", id).replace("{language}", "en");
            let reply = world.send(method, &path, token).await;
            let document = reply.json();
            let detail = document["detail"].as_str().unwrap_or_default().replace(id, "ID");
            (reply.status, document["code"].clone(), detail)
        };
        for token in [None, Some(stranger.as_str())] {
            let (known, unknown) = (told(&real, token).await, told("golden-eagle-999", token).await);
            assert_eq!(known, unknown, "{method} {template}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_what_is_its_own() {
    let world = World::new("roles").await;
    let may = |role: &str, policy: Policy| match policy {
        Policy::Public | Policy::Read | Policy::Listen | Policy::Leg => true,
        Policy::Create | Policy::Publish => role == "speak" || role == "admin",
        Policy::Manage => role != "listen",
    };
    for Route { method, path: template, policy, good } in ROUTES {
        for role in ["speak", "listen", "moderate", "admin"] {
            let path = world.fresh(template).await;
            let token = world.issuer.token("ann", json!({ "role": role }));
            let reply = world.send(method, &path, Some(&token)).await;
            if may(role, *policy) {
                assert_eq!(reply.status, *good, "{role}: {method} {path} ({policy:?}): {reply:?}");
            } else {
                reply.problem(403, "FORBIDDEN");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_language_is_for_no_other() {
    let world = World::new("languages").await;
    let session = world.session("ann").await;
    let token = world.issuer.token("ann", json!({ "role": "speak", "languages": ["es"] }));
    for path in [
        "/v1/sessions/{session}/whip/",
        "/v1/sessions/{session}/whep/",
        "/whip/{session}/",
        "/whep/{session}/",
    ] {
        let path = path.replace("{session}", &session);
        world.send("POST", &format!("{path}en"), Some(&token)).await.problem(403, "FORBIDDEN");
    }
    for path in ["/whip/{session}", "/whep/{session}"] {
        let path = path.replace("{session}", &session);
        world.send("POST", &path, Some(&token)).await.problem(403, "FORBIDDEN");
    }
    assert_eq!(world.send("POST", &format!("/whep/{session}/ES"), Some(&token)).await.status, 201);
    assert_eq!(world.send("POST", &format!("/whip/{session}/es"), Some(&token)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_may_listen_where_the_session_says_so_and_do_nothing_else() {
    let world = World::new("anonymous").await;
    let token = world.issuer.token("ann", json!({ "role": "speak" }));
    let bearer = format!("Bearer {token}");
    let stranger = world.issuer.token("bob", json!({ "role": "listen" }));
    for Route { method, path: template, policy, good } in ROUTES {
        if !template.contains("{session}") {
            continue;
        }
        let body = br#"{"sourceLanguage":"en","languages":["es"],"anonymousListeners":true}"#;
        let headers = [JSON, ("authorization", bearer.as_str())];
        let made = world.relay.send("POST", "/v1/sessions", &headers, body).await;
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!(made.json()["anonymousListeners"], true);
        let id = made.json()["sessionId"].as_str().expect("an id").to_owned();
        let path = template.replace("{session}", &id).replace("{language}", "en");
        let reply = world.send(method, &path, None).await;
        let theirs = world.send(method, &path, Some(&stranger)).await;
        match policy {
            Policy::Public | Policy::Read | Policy::Listen => {
                assert_eq!(
                    (reply.status, theirs.status),
                    (*good, *good),
                    "{method} {path}: {reply:?} {theirs:?}"
                );
            }
            _ => {
                reply.problem(401, "UNAUTHORIZED");
                theirs.problem(404, "SESSION_NOT_FOUND");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_opened_without_a_token_needs_none() {
    let world = World::new("legs").await;
    let token = world.issuer.token("ann", json!({ "role": "speak" }));
    let bearer = format!("Bearer {token}");
    let body = br#"{"sourceLanguage":"en","anonymousListeners":true}"#;
    let made = world.relay.send("POST", "/v1/sessions", &[JSON, ("authorization", &bearer)], body).await;
    let id = made.json()["sessionId"].as_str().expect("an id").to_owned();
    let joined = world.send("POST", &format!("/whep/{id}"), None).await;
    assert_eq!(joined.status, 201, "{joined:?}");
    let leg = joined.header("location");
    let stranger = world.issuer.token("bob", json!({ "role": "admin" }));
    world.send("DELETE", leg, Some(&stranger)).await.problem(404, "LEG_NOT_FOUND");
    assert_eq!(world.send("DELETE", leg, None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_is_closed_by_its_own_or_by_who_manages_the_session() {
    let world = World::new("own-legs").await;
    let session = world.session("ann").await;
    let token =
        |subject: &str, role: &str| world.issuer.token(subject, json!({ "role": role, "session": session }));
    let owner = world.issuer.token("ann", json!({ "role": "speak" }));
    for (closer, may) in [
        (token("eve", "listen"), false),
        (token("eve", "speak"), false),
        (world.issuer.token("eve", json!({ "role": "speak", "session": "*" })), false),
        // Ann's, but one that only listens.
        (token("ann", "listen"), false),
        (token("bob", "listen"), true),
        (token("eve", "moderate"), true),
        (token("eve", "admin"), true),
        (owner, true),
    ] {
        let leg = format!("/v1/legs/{}", world.leg(&session, &token("bob", "listen")).await);
        for (method, path, good) in [
            ("PATCH", leg.clone(), 428),
            ("GET", format!("{leg}/sse"), 200),
            ("POST", format!("{leg}/sse"), 201),
            ("DELETE", leg.clone(), 200),
        ] {
            let reply = world.send(method, &path, Some(&closer)).await;
            if may {
                assert_eq!(reply.status, good, "{method} {path}: {reply:?}");
            } else {
                reply.problem(404, "LEG_NOT_FOUND");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_relay_looks_at_no_token() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    for token in ["Bearer nonsense", "Basic YTpi", ""] {
        let path = format!("/v1/sessions/{id}");
        let reply = relay.send("GET", &path, &[("authorization", token)], b"").await;
        assert_eq!(reply.status, 200, "{token}: {reply:?}");
    }
}

/// The session as its owner sees it.
async fn shown(world: &World, id: &str) -> Value {
    let token = world.issuer.token("ann", json!({ "role": "speak" }));
    world.send("GET", &format!("/v1/sessions/{id}"), Some(&token)).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_no_secret_but_to_who_made_the_session() {
    let world = World::new("secrets").await;
    let token = world.issuer.token("ann", json!({ "role": "speak" }));
    let made = world.send("POST", "/v1/sessions", Some(&token)).await.json();
    let secret = made["resumeSecret"].as_str().expect("whoever creates may take over");
    assert!(secret.len() >= 32, "{secret}");
    let id = made["sessionId"].as_str().expect("an id");
    assert_eq!(shown(&world, id).await.get("resumeSecret"), None);
}
