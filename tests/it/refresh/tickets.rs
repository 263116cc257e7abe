//! Tickets that are no good.

use relayd::webrtc::Role;
use serde_json::json;

use super::{TICKET, Talk, answered, offered};
use crate::auth::issuer::Issuer;
use crate::events::follower::Follower;
use crate::http::client::{JSON, Relay};
use crate::webrtc::peer::Peer;

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once_in_its_session_language_and_role() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (_old, leg) = talk.listener(&[]).await;
    let other = talk.relay.session().await;
    let peer = Peer::new(Role::Listener);
    let refused = async |id: &str, role, ticket: &str| {
        let peer = Peer::new(role);
        offered(&talk.relay, id, role, &peer, &[(TICKET, ticket)]).await.problem(403, "TICKET_INVALID");
    };
    refused(&other, Role::Listener, &leg.ticket).await;
    refused(&talk.id, Role::Publisher, &leg.ticket).await;
    refused(&talk.id, Role::Listener, &talk.speaking.ticket).await;
    refused(&talk.id, Role::Listener, "A".repeat(43).as_str()).await;
    let elsewhere = format!("/v1/sessions/{}/whep/es", talk.id);
    let headers = [(TICKET, &*leg.ticket), crate::http::client::SDP];
    let reply = talk.relay.send("POST", &elsewhere, &headers, peer.offer().as_bytes()).await;
    reply.problem(403, "TICKET_INVALID");
    // What opens nothing uses nothing up.
    let reply = talk.relay.send("POST", &format!("/whep/{}", talk.id), &headers, b"v=0\r\n").await;
    assert_eq!(reply.status, 400, "{reply:?}");
    let reply = offered(&talk.relay, &talk.id, Role::Listener, &peer, &[(TICKET, &leg.ticket)]).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    refused(&talk.id, Role::Listener, &leg.ticket).await;
    let twice = [(TICKET, &*leg.ticket), (TICKET, &*leg.ticket)];
    offered(&talk.relay, &talk.id, Role::Listener, &peer, &twice).await.problem(422, "INVALID_FIELD");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_stands_for_a_token_and_for_nobody_elses() {
    let issuer = Issuer::new("tickets");
    let relay = Relay::with(|config| issuer.configure(config)).await;
    let bearer = |subject: &str, relay| format!("Bearer {}", issuer.token(subject, relay));
    let owner = bearer("ann", json!({ "role": "admin" }));
    let headers = [("authorization", &*owner), JSON];
    let reply = relay.send("POST", "/v1/sessions", &headers, br#"{"sourceLanguage":"en"}"#).await;
    let id = reply.json()["sessionId"].as_str().unwrap().to_owned();
    let listen = |who: &str| bearer(who, json!({ "role": "listen", "session": id }));
    let (bob, eve) = (listen("bob"), listen("eve"));
    let (_peer, leg) = answered(&relay, &id, Role::Listener, &[("authorization", &*bob)]).await;
    // Nor does anybody else follow it, to be told the next one.
    let token = issuer.token("eve", json!({ "role": "listen", "session": id }));
    let who = json!({ "token": token, "leg": leg.name() });
    let (mut follower, _) = Follower::hello(relay.daemon.http_addr(), &id, who).await;
    follower.frame("sessionJoined").await;
    assert_eq!(follower.frame("error").await["d"]["code"], "LEG_NOT_FOUND");
    let peer = Peer::new(Role::Listener);
    let ticket = (TICKET, &*leg.ticket);
    let reply = offered(&relay, &id, Role::Listener, &peer, &[("authorization", &*eve), ticket]).await;
    reply.problem(403, "TICKET_INVALID");
    offered(&relay, &id, Role::Listener, &peer, &[]).await.problem(401, "UNAUTHORIZED");
    let (_second, next) = answered(&relay, &id, Role::Listener, &[ticket]).await;
    // The new connection is the same person's: nobody else changes it.
    let headers = [("authorization", &*eve)];
    relay.send("DELETE", &next.location, &headers, b"").await.problem(404, "LEG_NOT_FOUND");
    let headers = [("authorization", &*bob)];
    assert_eq!(relay.send("DELETE", &next.location, &headers, b"").await.status, 200);
    // An order takes somebody who runs the session.
    let path = format!("/v1/sessions/{id}/refresh");
    relay.send("POST", &path, &headers, b"").await.problem(403, "FORBIDDEN");
    relay.send("POST", &path, &[], b"").await.problem(401, "UNAUTHORIZED");
    let reply = relay.send("POST", &path, &[("authorization", &*owner)], b"").await;
    assert_eq!((reply.status, &reply.json()["ordered"]), (202, &json!(0)), "nobody is connected");
}
