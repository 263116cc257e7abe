//! Connections that were lost, and those who come back with a ticket.

use relayd::webrtc::Role;
use serde_json::json;

use super::{TICKET, Talk, answered, assert_whole};
use crate::http::client::Relay;

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_who_comes_back_hears_on_from_where_they_were() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    talk.speak_on(&mut [&mut old], 30);
    talk.hear_out(&mut old);
    assert_eq!(talk.relay.send("DELETE", &leg.location, &[], b"").await.status, 200);
    talk.until(&mut [&mut old], "it is closed", |peers| peers[0].closed).await;
    talk.speak_on(&mut [], 50);
    let (mut new, next) = talk.listener(&[(TICKET, &leg.ticket)]).await;
    assert_ne!(next.ticket, leg.ticket);
    talk.hear_out(&mut new);
    assert_whole(&[&old, &new]);
    assert_eq!(talk.listeners().await, 1);
    talk.metric(r#"relayd_resumes_total{role="listener",result="admitted"} 1"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_old_connection_is_there_still_is_switched() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    let ears = talk.ears(&leg).await;
    talk.speak_on(&mut [&mut old], 30);
    let (mut new, _) = answered(&talk.relay, &talk.id, Role::Listener, &[(TICKET, &leg.ticket)]).await;
    talk.until(&mut [&mut old, &mut new], "it has taken over", |peers| peers[0].closed).await;
    assert_eq!(ears.last("connectionRefreshComplete")["attempts"], 0, "the client came by itself");
    talk.hear_out(&mut new);
    assert_whole(&[&old, &new]);
    assert_eq!(talk.listeners().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_in_the_middle_of_a_refresh_falls_back_to_a_resume() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    let ears = talk.ears(&leg).await;
    assert_eq!(talk.order(json!({})).await, 2, "the speaker, too");
    talk.until(&mut [&mut old], "it is asked for", |_| ears.count("connectionRefreshRequired") == 1).await;
    let ticket = ears.ticket();
    talk.hear_out(&mut old);
    assert_eq!(talk.relay.send("DELETE", &leg.location, &[], b"").await.status, 200);
    talk.until(&mut [&mut old], "it is closed", |peers| peers[0].closed).await;
    talk.speak_on(&mut [], 30);
    let (mut new, _) = talk.listener(&[(TICKET, &ticket)]).await;
    talk.hear_out(&mut new);
    assert_whole(&[&old, &new]);
    talk.metric(r#"relayd_refreshes_total{cause="operator",result="dropped"} 1"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_outlives_the_first() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut old, leg) = talk.listener(&[]).await;
    talk.speak_on(&mut [&mut old], 30);
    talk.hear_out(&mut old);
    // The first one goes while the second one is still on its way.
    let (mut new, _) = answered(&talk.relay, &talk.id, Role::Listener, &[(TICKET, &leg.ticket)]).await;
    assert_eq!(talk.relay.send("DELETE", &leg.location, &[], b"").await.status, 200);
    talk.speak_on(&mut [&mut old], 30);
    talk.until(&mut [&mut old, &mut new], "the new one connects", |peers| peers[1].connected).await;
    talk.hear_out(&mut new);
    assert_whole(&[&old, &new]);
    assert_eq!(talk.listeners().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speaker_comes_back_with_a_ticket() {
    let mut talk = Talk::begin(Relay::start().await).await;
    let (mut listener, _) = talk.listener(&[]).await;
    talk.speak_on(&mut [&mut listener], 30);
    talk.hear_out(&mut listener);
    let leg = talk.speaking.clone();
    assert_eq!(talk.relay.send("DELETE", &leg.location, &[], b"").await.status, 200);
    let (mut new, _) = answered(&talk.relay, &talk.id, Role::Publisher, &[(TICKET, &leg.ticket)]).await;
    crate::webrtc::peer::until(&mut [&mut new], "it connects", |peers| peers[0].connected);
    talk.speaker = new;
    talk.speak_on(&mut [&mut listener], 30);
    talk.hear_out(&mut listener);
    assert_whole(&[&listener]);
    let ssrc = listener.heard[0].ssrc;
    assert!(listener.heard.iter().all(|heard| heard.ssrc == ssrc));
}
