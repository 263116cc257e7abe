use std::sync::atomic::AtomicUsize;

use super::*;
use crate::outbound::test_server::{TestServer, ok, status};
use crate::session::{Audience, Event, FeedSender};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn event(seq: u64) -> Arc<Numbered> {
    let event = Event::SpeakerReady { language: "en".parse().unwrap() };
    Arc::new(Numbered { seq, ts: 1_700_000_000_000 + seq, audience: Audience::Staff, event })
}

fn webhooks(server: &TestServer, change: impl FnOnce(&mut config::Webhooks)) -> Webhooks {
    let mut config = config::Webhooks {
        url: server.url("/hook"),
        secret: config::Secret::new(SECRET),
        ..config::Webhooks::default()
    };
    change(&mut config);
    Webhooks::new(&config, server.client()).unwrap()
}

/// Sends these events of one session and waits until the sender has come to its end.
fn deliver(webhooks: &Webhooks, events: impl IntoIterator<Item = Arc<Numbered>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let feed = FeedSender::new();
        let running = tokio::spawn(webhooks.clone().run(feed.subscribe()));
        for event in events {
            feed.send(&SessionId::demo(), event);
        }
        drop(feed);
        tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
    });
}

#[test]
fn a_signature_is_the_one_of_the_standard() {
    // The example of https://github.com/standard-webhooks/standard-webhooks (spec, "Symmetric keys").
    let key = hmac::Key::new(hmac::HMAC_SHA256, &config::webhook_key(SECRET));
    let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
    assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn events_arrive_in_order_signed_and_with_their_session() {
    let server = TestServer::start(|_| status("204 No Content", ""));
    let webhooks = webhooks(&server, |_| {});
    deliver(&webhooks, (1..=20).map(event));
    let requests = server.requests();
    assert_eq!(requests.len(), 20);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &config::webhook_key(SECRET));
    for (i, request) in requests.iter().enumerate() {
        assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"));
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let seq = i as u64 + 1;
        assert_eq!(
            body,
            serde_json::json!({
                "sessionId": "demo", "t": "speakerReady", "seq": seq, "ts": 1_700_000_000_000 + seq,
                "d": { "language": "en" },
            })
        );
        let (id, timestamp) =
            (request.header("webhook-id").unwrap(), request.header("webhook-timestamp").unwrap());
        assert!(id.ends_with(&format!("-demo-{seq}")), "{id}");
        assert_eq!(
            request.header("webhook-signature").unwrap(),
            signature(&key, id, timestamp, &request.body)
        );
    }
    assert_eq!(webhooks.counts(), WebhookCounts { delivered: 20, ..WebhookCounts::default() });
}

#[test]
fn an_endpoint_that_fails_once_gets_the_same_event_again() {
    let count = AtomicUsize::new(0);
    let server = TestServer::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => status("500 Internal Server Error", ""),
        _ => ok("thanks"),
    });
    let webhooks = webhooks(&server, |_| {});
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let feed = FeedSender::new();
        let _running = tokio::spawn(webhooks.clone().run(feed.subscribe()));
        feed.send(&SessionId::demo(), event(1));
        feed.send(&SessionId::demo(), event(2));
        let both = async {
            while webhooks.counts().delivered < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    });
    let ids: Vec<_> =
        server.requests().iter().map(|request| request.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[0], ids[1]);
    assert!(ids[0].ends_with("-demo-1") && ids[2].ends_with("-demo-2"), "{ids:?}");
    assert_eq!(webhooks.counts().retried, 1);
}

#[test]
fn only_the_events_that_are_asked_for_are_sent() {
    let server = TestServer::start(|_| ok(""));
    let webhooks = webhooks(&server, |config| config.events = vec!["sessionPaused".into()]);
    let paused = Numbered { event: Event::SessionPaused {}, ..Numbered::clone(&event(2)) };
    deliver(&webhooks, [event(1), Arc::new(paused), event(3)]);
    assert_eq!(server.requests().len(), 1);
    assert!(server.requests()[0].header("webhook-id").unwrap().ends_with("-demo-2"));
}

#[test]
fn redirects_and_forbidden_addresses_are_failures() {
    let server = TestServer::start(|_| status("302 Found", "location: /elsewhere\r\n"));
    let followed = webhooks(&server, |_| {});
    deliver(&followed, [event(1)]);
    assert_eq!((server.requests().len(), followed.counts().delivered, followed.counts().retried), (1, 0, 1));

    let config = config::Webhooks {
        url: server.url("/hook"),
        secret: config::Secret::new(SECRET),
        ..config::Webhooks::default()
    };
    let strict = Webhooks::new(&config, Outbound::new(&server.settings(&[])).unwrap()).unwrap();
    deliver(&strict, [event(1)]);
    assert_eq!((server.requests().len(), strict.counts().delivered), (1, 0));
}

#[test]
fn without_an_address_there_is_no_sender() {
    let outbound = Outbound::new(&config::Outbound::default()).unwrap();
    assert!(Webhooks::new(&config::Webhooks::default(), outbound).is_none());
}

#[test]
fn nothing_that_is_shown_holds_the_secret() {
    let server = TestServer::start(|_| ok(""));
    let shown = format!("{:?}", webhooks(&server, |_| {}));
    assert!(!shown.contains("MfKQ9r8") && !shown.contains(SECRET), "{shown}");
}
