//! Tickets that are no good, and those that are still good since an answer was lost.

use relayd::webrtc::Role;
use serde_json::json;

use super::{TICKET, Talk, answered, assert_whole, offered};
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
    let (mut new, _) = answered(&talk.relay, &talk.id, Role::Listener, &[(TICKET, &leg.ticket)]).await;
    crate::webrtc::peer::until(&mut [&mut new], "it connects", |peers| peers[0].connected);
    refused(&talk.id, Role::Listener, &leg.ticket).await;
    let twice = [(TICKET, &*leg.ticket), (TICKET, &*leg.ticket)];
    offered(&talk.relay, &talk.id, Role::Listener, &peer, &twice).await.problem(422, "INVALID_FIELD");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_answer_was_lost_comes_again_with_the_same_ticket() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    let ticket = [(TICKET, &*leg.ticket)];
    talk.speak_on(&mut [&mut old], 30);
    talk.hear_out(&mut old);
    // Once beside the one that is there, once in its place, and again.
    let (_never, lost) = answered(&talk.relay, &talk.id, Role::Listener, &ticket).await;
    assert_eq!(talk.relay.send("DELETE", &leg.location, &[], b"").await.status, 200);
    talk.speak_on(&mut [&mut old], 20);
    for before in [lost.location, answered(&talk.relay, &talk.id, Role::Listener, &ticket).await.1.location] {
        let (_never, next) = answered(&talk.relay, &talk.id, Role::Listener, &ticket).await;
        talk.relay.send("DELETE", &before, &[], b"").await.problem(404, "LEG_NOT_FOUND");
        assert_ne!(next.location, before);
    }
    let (mut new, _) = talk.listener(&ticket).await;
    talk.hear_out(&mut new);
    assert_whole(&[&old, &new]);
    assert_eq!(talk.listeners().await, 1);
    let reply = offered(&talk.relay, &talk.id, Role::Listener, &Peer::new(Role::Listener), &ticket).await;
    reply.problem(403, "TICKET_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_whose_answer_was_lost_is_replaced_by_the_next() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    let ticket = [(TICKET, &*leg.ticket)];
    talk.speak_on(&mut [&mut old], 30);
    let (_never, lost) = answered(&talk.relay, &talk.id, Role::Listener, &ticket).await;
    let (mut new, next) = answered(&talk.relay, &talk.id, Role::Listener, &ticket).await;
    talk.relay.send("DELETE", &lost.location, &[], b"").await.problem(404, "LEG_NOT_FOUND");
    talk.until(&mut [&mut old, &mut new], "it has taken over", |peers| peers[0].closed).await;
    talk.hear_out(&mut new);
    assert_whole(&[&old, &new]);
    assert_eq!(talk.listeners().await, 1);
    let peer = Peer::new(Role::Listener);
    offered(&talk.relay, &talk.id, Role::Listener, &peer, &ticket).await.problem(403, "TICKET_INVALID");
    let (_again, _) = answered(&talk.relay, &talk.id, Role::Listener, &[(TICKET, &next.ticket)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speaker_whose_answer_was_lost_comes_again_with_the_same_ticket() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut listener, _) = talk.listener(&[]).await;
    talk.speak_on(&mut [&mut listener], 30);
    talk.hear_out(&mut listener);
    let leg = talk.speaking.clone();
    let ticket = [(TICKET, &*leg.ticket)];
    assert_eq!(talk.relay.send("DELETE", &leg.location, &[], b"").await.status, 200);
    let (_never, lost) = answered(&talk.relay, &talk.id, Role::Publisher, &ticket).await;
    let (mut new, _) = answered(&talk.relay, &talk.id, Role::Publisher, &ticket).await;
    talk.relay.send("DELETE", &lost.location, &[], b"").await.problem(404, "LEG_NOT_FOUND");
    crate::webrtc::peer::until(&mut [&mut new], "it connects", |peers| peers[0].connected);
    let peer = Peer::new(Role::Publisher);
    offered(&talk.relay, &talk.id, Role::Publisher, &peer, &ticket).await.problem(403, "TICKET_INVALID");
    talk.speaker = new;
    talk.speak_on(&mut [&mut listener], 30);
    talk.hear_out(&mut listener);
    assert_whole(&[&listener]);
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
