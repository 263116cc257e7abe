//! What the API says of itself, held against what it does.

use super::client::Relay;

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_documented_is_served_and_nothing_else_is() {
    let relay = Relay::start().await;
    let document = relay.send("GET", "/v1/openapi.json", &[], b"").await;
    assert_eq!((document.status, document.header("content-type")), (200, "application/json"));
    for (template, item) in document.json()["paths"].as_object().unwrap() {
        // DELETE ends a session: each path has its own.
        let id = relay.session().await;
        let path = template
            .replace("{session}", &id)
            .replace("{language}", "en")
            .replace("{leg}", "0123456789abcdef0123456789abcdef")
            .replace("{stream}", "0123456789abcdef0123456789abcdef")
            .replace("{file}", "style.css");
        assert!(!path.contains('{'), "{path}");
        for method in METHODS {
            let reply = relay.send(method, &path, &[], b"").await;
            let documented = item.get(method.to_lowercase());
            assert_eq!(reply.status == 405, documented.is_none(), "{method} {path}: {reply:?}");
            let Some(operation) = documented else { continue };
            let unknown = reply.status == 404 && reply.body.contains("ROUTE_NOT_FOUND");
            assert!(!unknown, "{method} {path}: {reply:?}");
            let statuses = operation["responses"].as_object().unwrap();
            assert!(statuses.contains_key(&reply.status.to_string()), "{method} {path}: {reply:?}");
        }
    }
}
