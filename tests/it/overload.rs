//! A relay that has more to do than it can, on the wire. The lag is said, not made: looks at it are handed in by
//! virtual time, between those of the relay itself.

use std::time::{Duration, Instant};

use relayd::overload::{Lag, Rung};
use serde_json::{Value, json};

use crate::events::follower::Follower;
use crate::http::client::{JSON, Relay, until};
use crate::media::client::Socket;

/// Looks at a relay, two a second.
struct Looks<'a> {
    relay: &'a Relay,
    now: Instant,
}

impl Looks<'_> {
    /// It is so late for as long as `more` holds; a look of its own between two of these may make it last longer.
    fn late(&mut self, millis: u64, more: impl Fn(&Relay) -> bool) {
        for _ in 0..1_000 {
            if !more(self.relay) {
                return;
            }
            let shard = Duration::from_millis(millis);
            self.relay.daemon.overload().note(self.now, Lag { shard, ..Lag::default() });
            self.now += Duration::from_millis(500);
        }
        panic!("in vain: {:?}", self.relay.daemon.overload());
    }

    /// Until so many listeners and speakers were let go in all.
    fn shed(&mut self, listeners: u64, speakers: u64) {
        let wanted = [("listener", listeners), ("publisher", speakers)];
        self.late(5_000, |relay| relay.daemon.overload().shed() != wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_listeners_are_let_go_and_the_speaker_after_the_last_of_them() {
    let relay = Relay::with(|config| config.overload.shed_percent = 50).await;
    let (id, address) = (relay.session().await, relay.daemon.http_addr());
    let (publish, listen) = (format!("{id}/publish/en"), format!("{id}/listen/en"));
    let (mut staff, _) = Follower::hello(address, &id, json!({})).await;
    let (mut publisher, _) = Socket::hello(address, &publish, json!({})).await;
    let mut listeners = Vec::new();
    for _ in 0..8 {
        listeners.push(Socket::hello(address, &listen, json!({})).await);
    }
    let mut looks = Looks { relay: &relay, now: Instant::now() };
    let mut next = 0;
    // Half of those there are, each time.
    for (shed, left) in [(4, 4), (6, 2), (7, 1)] {
        looks.shed(shed, 0);
        for (mut gone, welcome) in listeners.split_off(left) {
            assert_eq!(gone.said("bye").await["d"]["reason"], "overloaded");
            assert_eq!(gone.closed().await.0, 4000);
            let who = json!({ "ticket": welcome["d"]["ticket"] });
            let (code, _) = Socket::refused(address, &listen, who).await;
            assert_eq!(code, "TICKET_INVALID", "it does not come back by the back door");
        }
        let told = async {
            loop {
                let event = staff.any().await;
                if event["t"] == "listenersShed" {
                    return event["d"].clone();
                }
            }
        };
        assert_eq!(told.await, json!({ "language": "en", "count": left }));
        publisher.publish(next..next + 50).await;
        for (listener, _) in &mut listeners {
            assert_eq!(listener.hear(50).await, (next..next + 50).collect::<Vec<_>>());
        }
        next += 50;
    }
    let lines = [
        "relayd_overload_rung 2",
        "relayd_overloaded 1",
        r#"relayd_shed_total{role="listener"} 7"#,
        r#"relayd_shed_total{role="publisher"} 0"#,
        r#"relayd_legs_closed_total{role="listener",reason="overloaded"} 7"#,
    ];
    let counted = async || {
        let metrics = relay.ops("/metrics").await.body;
        lines.iter().all(|line| metrics.lines().any(|known| known == *line))
    };
    until("all that is counted", counted).await;
    looks.shed(8, 0);
    assert_eq!(listeners[0].0.said("bye").await["d"]["reason"], "overloaded");
    publisher.publish(next..next + 50).await;
    publisher.acknowledged(next + 50).await;
    looks.shed(8, 1);
    assert_eq!(publisher.said("bye").await["d"]["reason"], "overloaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_new_is_let_in_until_it_is_in_time_again() {
    let relay = Relay::start().await;
    let (id, address) = (relay.session().await, relay.daemon.http_addr());
    let listen = format!("{id}/listen/en");
    let (mut publisher, _) = Socket::hello(address, &format!("{id}/publish/en"), json!({})).await;
    let (mut listener, _) = Socket::hello(address, &listen, json!({})).await;
    let mut looks = Looks { relay: &relay, now: Instant::now() };
    looks.late(500, |relay| relay.daemon.overload().rung() == Rung::Calm);
    assert_eq!(Socket::refused(address, &listen, json!({})).await, (Value::Null, 4008));
    let refused = relay.send("POST", "/v1/sessions", &[JSON], br#"{"sourceLanguage":"en"}"#).await;
    refused.problem(503, "CAPACITY");
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    publisher.publish(0..50).await;
    assert_eq!(listener.hear(50).await, (0..50).collect::<Vec<_>>());
    looks.late(0, |relay| relay.daemon.overload().rung() > Rung::Calm);
    let (mut second, _) = Socket::hello(address, &listen, json!({})).await;
    publisher.publish(50..60).await;
    assert_eq!(second.hear(10).await, (50..60).collect::<Vec<_>>());
    until("it is told", async || relay.ops("/metrics").await.body.contains("\nrelayd_overload_rung 0\n"))
        .await;
}
