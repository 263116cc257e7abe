//! The HTTP surfaces of the daemon: what each request, good or bad, is answered.

pub(crate) mod client;
mod document;
mod limits;
mod ops;
mod rates;
mod start;
mod state;
mod verbs;

use client::{FRAGMENT, JSON, Relay, SDP, offer};

const SPEAKER: &str = "chromium_sendonly";
const LISTENER: &str = "chromium_recvonly";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_created_looked_at_and_ended() {
    let relay = Relay::start().await;
    let body = br#"{"sourceLanguage":"EN","languages":["es","pt-br"]}"#;
    let created = relay.send("POST", "/v1/sessions", &[JSON], body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let document = created.json();
    let id = document["sessionId"].as_str().unwrap();
    assert_eq!(created.header("location"), format!("/v1/sessions/{id}"));
    assert_eq!(document["status"], "created");
    assert_eq!(document["sourceLanguage"], "en");
    assert_eq!(document["languages"], serde_json::json!(["en", "es", "pt-BR"]));
    assert_eq!(document["speakerConnected"], false);
    assert_eq!(document["listeners"], 0);
    let base = format!("http://{}", relay.daemon.http_addr());
    assert_eq!(document["whip"]["en"], format!("{base}/v1/sessions/{id}/whip/en"));
    assert_eq!(document["whep"]["pt-BR"], format!("{base}/v1/sessions/{id}/whep/pt-BR"));
    assert_eq!(document["pages"]["listen"], format!("{base}/listen/{id}"));
    assert_eq!(document["pages"]["speak"], format!("{base}/speak/{id}"));

    let shown = relay.send("GET", created.header("location"), &[], b"").await;
    let mut told = document.clone();
    let secret =
        told.as_object_mut().unwrap().remove("resumeSecret").expect("who creates is told the secret");
    assert!(secret.as_str().unwrap().len() >= 32, "{secret}");
    assert_eq!(told["events"], format!("ws://{}/v1/sessions/{id}/events", relay.daemon.http_addr()));
    assert_eq!((shown.status, shown.json()), (200, told), "and nobody else is");
    let path = created.header("location");
    assert_eq!(relay.send("DELETE", path, &[], b"").await.status, 204);
    for method in ["GET", "DELETE"] {
        let detail = relay.send(method, path, &[], b"").await.problem(410, "SESSION_ENDED");
        assert!(detail.contains("status ended"), "{detail}");
    }
    relay.join(&format!("/whep/{id}"), LISTENER).await.problem(410, "SESSION_ENDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_come_before_the_speaker() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    for path in [format!("/v1/sessions/{id}/whep/es"), format!("/whep/{id}/ES"), format!("/whep/{id}")] {
        let joined = relay.join(&path, LISTENER).await;
        assert_eq!(joined.status, 201, "{joined:?}");
        assert_eq!(joined.header("content-type"), "application/sdp");
        assert_eq!(joined.header("accept-patch"), "application/trickle-ice-sdpfrag");
        let resource = joined.header("location").strip_prefix("/v1/legs/").expect("a leg");
        assert!(resource.len() >= 26, "128 bits do not fit in {resource:?}");
        let etag = joined.header("etag");
        assert!(etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        assert!(joined.body.contains("a=sendonly"), "{}", joined.body);
    }
    assert_eq!(relay.daemon.connections().snapshot().await.listeners.pending, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_speaker_is_refused_until_the_first_has_gone() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let first = relay.join(&format!("/whip/{id}"), SPEAKER).await;
    assert_eq!(first.status, 201, "{first:?}");
    for path in [format!("/whip/{id}"), format!("/whip/{id}/en"), format!("/v1/sessions/{id}/whip/en")] {
        let second = relay.join(&path, SPEAKER).await;
        let detail = second.problem(409, "SPEAKER_EXISTS");
        assert!(detail.contains("status created"), "{detail}");
        assert!(second.header("retry-after").parse::<u32>().unwrap() > 0);
    }
    assert_eq!(relay.join(&format!("/whip/{id}/es"), SPEAKER).await.status, 201, "another track is free");
    assert_eq!(relay.send("DELETE", first.header("location"), &[], b"").await.status, 200);
    let path = format!("/whip/{id}");
    client::until("the place is free again", async || relay.join(&path, SPEAKER).await.status == 201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_not_is_not_found() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    for path in ["/v1/sessions/silent-owl-123/whep/en", "/whip/silent-owl-123", "/whep/%F0%9F%A6%89"] {
        relay.join(path, LISTENER).await.problem(404, "SESSION_NOT_FOUND");
    }
    relay.send("GET", "/v1/sessions/silent-owl-123", &[], b"").await.problem(404, "SESSION_NOT_FOUND");
    relay.send("DELETE", "/v1/sessions/silent-owl-123", &[], b"").await.problem(404, "SESSION_NOT_FOUND");
    for language in ["fr", "en-US", "x", "%20"] {
        let detail =
            relay.join(&format!("/whep/{id}/{language}"), LISTENER).await.problem(404, "LANGUAGE_NOT_FOUND");
        assert!(detail.contains("it has en, es"), "{detail}");
    }
    for path in ["/v2/sessions", "/v1", "/web/none.js", "/web/..%2Fsecret", "/v1/sessions/"] {
        relay.send("GET", path, &[], b"").await.problem(404, "ROUTE_NOT_FOUND");
    }
    relay.join("/whep/%ff", LISTENER).await.problem(404, "ROUTE_NOT_FOUND");
    for leg in ["/v1/legs/0123456789abcdef0123456789abcdef", "/v1/legs/nonsense"] {
        relay.send("DELETE", leg, &[], b"").await.problem(404, "LEG_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_sdp_is_taken_as_sdp_and_only_json_as_json() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let whip = format!("/v1/sessions/{id}/whip/en");
    for wrong in
        [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/sdpx")], &[JSON]]
    {
        relay.send("POST", &whip, wrong, &offer(SPEAKER)).await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    for wrong in [&[][..], &[SDP], &[("content-type", "application/x-www-form-urlencoded")]] {
        let body = br#"{"sourceLanguage":"en"}"#;
        relay.send("POST", "/v1/sessions", wrong, body).await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    let with_parameter = [("content-type", "Application/SDP; charset=utf-8")];
    assert_eq!(relay.send("POST", &whip, &with_parameter, &offer(SPEAKER)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_that_cannot_be_answered_are_refused_and_take_no_place() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let whip = format!("/whip/{id}");
    for body in [&b""[..], b"v=0", b"\0\0\0", b"not sdp at all\r\n", b"\xff\xfe"] {
        relay.send("POST", &whip, &[SDP], body).await.problem(400, "INVALID_MESSAGE");
    }
    for client in ["edge_no_opus", "chromium_two_audio", "chromium_video_only", LISTENER] {
        relay.join(&whip, client).await.problem(422, "UNSUPPORTED_MEDIA");
    }
    relay.join(&format!("/whep/{id}"), SPEAKER).await.problem(422, "UNSUPPORTED_MEDIA");
    assert_eq!(relay.join(&whip, SPEAKER).await.status, 201, "none of them kept the speaker's place");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_not_created_from_bad_requests() {
    let relay = Relay::start().await;
    for body in [&b""[..], b"{", b"[]", b"\xff"] {
        relay.send("POST", "/v1/sessions", &[JSON], body).await.problem(400, "INVALID_MESSAGE");
    }
    for (body, field) in [
        (&b"{}"[..], "sourceLanguage"),
        (br#"{"sourceLanguage":"klingon!"}"#, "sourceLanguage"),
        (br#"{"sourceLanguage":7}"#, "sourceLanguage"),
        (br#"{"sourceLanguage":"en","languages":{}}"#, "languages"),
        (br#"{"sourceLanguage":"en","languages":["es","es"]}"#, "languages[1]"),
        (br#"{"sourceLanguage":"en","sessionId":"mine"}"#, "sessionId"),
    ] {
        let reply = relay.send("POST", "/v1/sessions", &[JSON], body).await;
        reply.problem(422, "INVALID_FIELD");
        assert_eq!(reply.json()["field"], field, "{reply:?}");
    }
    let many: Vec<String> =
        (b'a'..=b'z').flat_map(|a| [format!("\"{}x\"", a as char), format!("\"{}y\"", a as char)]).collect();
    let body = format!(r#"{{"sourceLanguage":"en","languages":[{}]}}"#, many.join(","));
    let reply = relay.send("POST", "/v1/sessions", &[JSON], body.as_bytes()).await;
    assert!(reply.problem(422, "INVALID_FIELD").contains("at most 32"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_needs_the_entity_tag_of_its_ice_session() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let joined = relay.join(&format!("/whep/{id}"), LISTENER).await;
    let (leg, etag) = (joined.header("location"), joined.header("etag"));
    let offer = String::from_utf8(offer(LISTENER)).unwrap();
    let line = |name: &str| offer.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let trickle = format!(
        "{}\r\n{}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=end-of-candidates\r\n",
        line("a=ice-ufrag:"),
        line("a=ice-pwd:")
    );
    let patch =
        async |headers: &[(&str, &str)], body: &str| relay.send("PATCH", leg, headers, body.as_bytes()).await;

    patch(&[FRAGMENT], &trickle).await.problem(428, "PRECONDITION_REQUIRED");
    patch(&[FRAGMENT, ("if-match", "\"stale\"")], &trickle).await.problem(412, "PRECONDITION_FAILED");
    patch(&[SDP, ("if-match", etag)], &trickle).await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
    patch(&[FRAGMENT, ("if-match", etag)], "nonsense").await.problem(400, "INVALID_MESSAGE");
    let unknown = "/v1/legs/0123456789abcdef0123456789abcdef";
    let reply = relay.send("PATCH", unknown, &[FRAGMENT, ("if-match", etag)], trickle.as_bytes()).await;
    reply.problem(404, "LEG_NOT_FOUND");

    let taken = patch(&[FRAGMENT, ("if-match", etag)], &trickle).await;
    assert_eq!((taken.status, taken.header("etag"), taken.body.as_str()), (204, "", ""), "{taken:?}");

    let restart = trickle.replace(line("a=ice-ufrag:").as_str(), "a=ice-ufrag:newer");
    let restart = restart.replace(line("a=ice-pwd:").as_str(), "a=ice-pwd:0123456789abcdef01234567");
    let restarted = patch(&[FRAGMENT, ("if-match", "*")], &restart).await;
    assert_eq!(restarted.status, 200, "{restarted:?}");
    assert_eq!(restarted.header("content-type"), FRAGMENT.1);
    assert!(restarted.body.contains("a=ice-ufrag:"), "{}", restarted.body);
    assert_ne!(restarted.header("etag"), etag);
    patch(&[FRAGMENT, ("if-match", etag)], &restart).await.problem(412, "PRECONDITION_FAILED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_is_deleted_once() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let joined = relay.join(&format!("/whep/{id}"), LISTENER).await;
    let leg = joined.header("location");
    assert_eq!(relay.send("DELETE", leg, &[("if-match", "\"any\"")], b"").await.status, 200);
    relay.send("DELETE", leg, &[], b"").await.problem(404, "LEG_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_is_the_end_of_its_legs() {
    let relay = Relay::start().await;
    let (id, other) = (relay.session().await, relay.session().await);
    let speaker = relay.join(&format!("/whip/{id}"), SPEAKER).await;
    let listener = relay.join(&format!("/whep/{id}/es"), LISTENER).await;
    let untouched = relay.join(&format!("/whep/{other}"), LISTENER).await;
    assert_eq!(relay.send("DELETE", &format!("/v1/sessions/{id}"), &[], b"").await.status, 204);
    for leg in [&speaker, &listener] {
        relay.send("DELETE", leg.header("location"), &[], b"").await.problem(404, "LEG_NOT_FOUND");
    }
    assert_eq!(relay.send("DELETE", untouched.header("location"), &[], b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_during_joins_says_so_and_leaves_nothing() {
    let relay = Relay::start().await;
    for _ in 0..10 {
        let id = relay.session().await;
        let (whip, whep, path) = (format!("/whip/{id}"), format!("/whep/{id}"), format!("/v1/sessions/{id}"));
        let (speaker, first, second, ended) = tokio::join!(
            relay.join(&whip, SPEAKER),
            relay.join(&whep, LISTENER),
            relay.join(&whep, LISTENER),
            relay.send("DELETE", &path, &[], b""),
        );
        assert_eq!(ended.status, 204);
        for joined in [speaker, first, second] {
            if joined.status != 201 {
                joined.problem(410, "SESSION_ENDED");
            }
        }
    }
    client::until("every connection is closed", async || {
        let snapshot = relay.daemon.connections().snapshot().await;
        snapshot.publishers.pending + snapshot.listeners.pending == 0
    })
    .await;
    let metrics = relay.ops("/metrics").await.body;
    assert!(metrics.contains("relayd_slots{role=\"publisher\"} 0\n"), "{metrics}");
    assert!(metrics.contains("relayd_tracks 0\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_has_its_speakers_and_no_room_for_others() {
    let relay = Relay::with(|config| config.demo.enabled = true).await;
    let demo = relay.send("GET", "/v1/sessions/demo", &[], b"").await.json();
    assert_eq!(demo["status"], "active");
    assert_eq!(demo["speakerConnected"], true);
    assert_eq!(demo["languages"], serde_json::json!(["en", "es"]));
    for track in demo["tracks"].as_array().unwrap() {
        assert_eq!(track["speakerConnected"], true);
    }
    let detail = relay.join("/whip/demo/es", SPEAKER).await.problem(409, "SPEAKER_EXISTS");
    assert!(detail.contains("status active"), "{detail}");
    assert_eq!(relay.join("/whep/demo/es", LISTENER).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_codes_are_served() {
    let relay = Relay::start().await;
    for path in
        ["/", "/listen", "/listen/demo", "/listen/demo/es", "/speak", "/speak/golden-eagle-427", "/docs"]
    {
        let page = relay.send("GET", path, &[], b"").await;
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
        let again = relay.send("GET", path, &[("if-none-match", page.header("etag"))], b"").await;
        assert_eq!((again.status, again.body.as_str()), (304, ""));
    }
    let script = relay.send("GET", "/web/listen.js", &[], b"").await;
    assert_eq!((script.status, script.header("content-type")), (200, "text/javascript; charset=utf-8"));
    let code = relay.send("GET", "/qr.svg?text=http%3A%2F%2F127.0.0.1%2F", &[], b"").await;
    assert_eq!((code.status, code.header("content-type")), (200, "image/svg+xml"));
    assert!(code.body.contains("<svg"));
    for query in ["", "?text=", "?other=1", &format!("?text={}", "x".repeat(513)), "?text=a&text=b"] {
        relay.send("GET", &format!("/qr.svg{query}"), &[], b"").await.problem(422, "INVALID_FIELD");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_health_and_counts_on_their_own_listener() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    relay.join(&format!("/whep/{id}"), LISTENER).await;
    assert_eq!(relay.ops("/healthz").await.body, "ok\n");
    assert_eq!(relay.ops("/readyz").await.body, "ready\n");
    let metrics = relay.ops("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "relayd_sessions{status=\"created\"} 1",
        "relayd_legs{role=\"listener\",state=\"pending\"} 1",
        "relayd_http_requests_total{route=\"/whep/{session}\",method=\"POST\",status=\"201\"} 1",
        "relayd_tracks 2",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "no {line} in\n{}", metrics.body);
    }
    relay.ops("/v1/sessions").await.problem(404, "ROUTE_NOT_FOUND");
    relay.send("GET", "/metrics", &[], b"").await.problem(404, "ROUTE_NOT_FOUND");
}
