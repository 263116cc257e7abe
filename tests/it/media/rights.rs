//! Who may speak and listen over a WebSocket: tokens in the hello, renewed in band, and over.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Heard, Socket};
use crate::events::tokens::{relay, session, token};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_its_role_is_for_and_nothing_else() {
    let relay = relay(|_| {}).await;
    let id = session(&relay, &json!({ "sourceLanguage": "en" })).await;
    let address = relay.daemon.http_addr();
    let (publish, listen) = (format!("{id}/publish/en"), format!("{id}/listen/en"));
    let with = |role: &str, session: &str| json!({ "token": token("anna", role, session, 60) });
    for (role, place) in [("speak", &publish), ("listen", &listen), ("admin", &listen)] {
        Socket::hello(address, place, with(role, &id)).await;
    }
    let refused = async |place: &str, who: Value| Socket::refused(address, place, who).await;
    assert_eq!(refused(&publish, with("listen", &id)).await, (json!("FORBIDDEN"), 4004));
    assert_eq!(refused(&publish, with("moderate", &id)).await, (json!("FORBIDDEN"), 4004));
    assert_eq!(refused(&listen, with("listen", "silent-owl-123")).await, (json!("SESSION_NOT_FOUND"), 4006));
    assert_eq!(refused(&listen, json!({})).await, (json!("UNAUTHORIZED"), 4004));
    assert_eq!(refused(&listen, json!({ "token": "a.b.c" })).await, (json!("UNAUTHORIZED"), 4004));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_nobody_has_is_not_taken() {
    let (relay, publish, listen) = super::stage().await;
    let address = relay.daemon.http_addr();
    let unknown = json!({ "ticket": "A".repeat(43) });
    for place in [&publish, &listen] {
        assert_eq!(
            Socket::refused(address, place, unknown.clone()).await,
            (json!("TICKET_INVALID"), 4004),
            "{place}"
        );
    }
    let (_, welcome) = Socket::hello(address, &listen, json!({})).await;
    let ticket = json!({ "ticket": welcome["d"]["ticket"] });
    assert_eq!(Socket::refused(address, &publish, ticket).await.1, 4004, "a listener's does not speak");
    for wrong in [json!({ "from": 1 }), json!({ "ticket": 1 }), json!({ "more": 1 })] {
        assert_eq!(Socket::refused(address, &publish, wrong).await, (Value::Null, 4001));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_enough_for_whoever_it_was_given_to() {
    let relay = relay(|_| {}).await;
    let id = session(&relay, &json!({ "sourceLanguage": "en" })).await;
    let address = relay.daemon.http_addr();
    for (role, place) in [("speak", format!("{id}/publish/en")), ("listen", format!("{id}/listen/en"))] {
        let who = json!({ "token": token("anna", role, &id, 60) });
        let (first, welcome) = Socket::hello(address, &place, who).await;
        first.vanish();
        let ticket = json!({ "ticket": welcome["d"]["ticket"] });
        let (mut unheard, welcome) = Socket::hello(address, &place, ticket.clone()).await;
        assert_ne!(welcome["d"]["ticket"], ticket["ticket"]);
        // As if that welcome had been lost on the way.
        let (mut again, _) = Socket::hello(address, &place, ticket.clone()).await;
        assert_eq!(at_last(&mut unheard, "bye").await["d"]["reason"], "refreshed");
        again.say("heartbeat", json!({})).await;
        at_last(&mut again, "heartbeatAck").await;
        assert_eq!(Socket::refused(address, &place, ticket).await.1, 4004, "it is good once");
    }
}

/// The next message of this name. Whether the relay has noticed that an older socket is gone, whose place this one has
/// taken then, is no matter.
async fn at_last(socket: &mut Socket, name: &str) -> Value {
    loop {
        match socket.heard().await {
            Heard::Said(said) if said["t"] == name => return said,
            Heard::Said(said) if said["t"] == "refreshComplete" => {}
            other => panic!("not {name} but {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_in_band_and_one_that_is_not_ends_it() {
    let relay = relay(|config| config.auth.grace = Duration::ZERO).await;
    let id = session(&relay, &json!({ "sourceLanguage": "en" })).await;
    let place = format!("{id}/listen/en");
    let who = |subject: &str, seconds: u64| json!({ "token": token(subject, "listen", &id, seconds) });
    let (mut anna, _) = Socket::hello(relay.daemon.http_addr(), &place, who("anna", 3)).await;
    let (mut berta, _) = Socket::hello(relay.daemon.http_addr(), &place, who("berta", 3)).await;
    berta.say("token.refresh", who("anna", 600)).await;
    assert_eq!(berta.said("error").await["d"]["code"], "FORBIDDEN");
    berta.say("token.refresh", who("berta", 600)).await;
    berta.said("tokenRefreshed").await;
    let told = anna.said("refreshRequired").await;
    assert_eq!(told["d"]["reason"], "tokenExpiry");
    assert_eq!(anna.said("bye").await["d"]["reason"], "expired");
    assert_eq!(anna.closed().await.0, 4004);
    berta.say("heartbeat", json!({})).await;
    berta.said("heartbeatAck").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_closed_by_whoever_opened_it_and_by_who_manages_the_session() {
    let relay = relay(|_| {}).await;
    let id = session(&relay, &json!({ "sourceLanguage": "en" })).await;
    let place = format!("{id}/listen/en");
    let with = |who: &str, role: &str| format!("Bearer {}", token(who, role, &id, 60));
    let (owner, eve) = (with("owner", "speak"), with("eve", "listen"));
    for closer in [with("anna", "listen"), owner] {
        let who = json!({ "token": token("anna", "listen", &id, 60) });
        let (mut socket, welcome) = Socket::hello(relay.daemon.http_addr(), &place, who).await;
        let leg = format!("/v1/legs/{}", welcome["d"]["resource"].as_str().unwrap());
        relay.send("DELETE", &leg, &[], b"").await.problem(401, "UNAUTHORIZED");
        let stranger = [("authorization", &*eve)];
        relay.send("DELETE", &leg, &stranger, b"").await.problem(404, "LEG_NOT_FOUND");
        let closer = [("authorization", &*closer)];
        assert_eq!(relay.send("DELETE", &leg, &closer, b"").await.status, 200);
        assert_eq!(socket.said("bye").await["d"]["reason"], "closed");
    }
}
