//! A relay that has more to do than it can, on the wire. The lag is said, not made: looks at it are handed in by
//! virtual time, between those of the relay itself.

use std::time::{Duration, Instant};

use relayd::config::ByteSize;
use relayd::media::MediaFrame;
use relayd::overload::{Lag, Rung};
use relayd::webrtc::Role;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::events::follower::Follower;
use crate::http::client::{JSON, Relay, until};
use crate::media::client::{Heard, Socket, frame};
use crate::webrtc::peer;

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

/// The value of a metric without labels but for the media thread, added up over all of them.
async fn metric(relay: &Relay, name: &str) -> u64 {
    let body = relay.ops("/metrics").await.body;
    let samples = body.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    samples
        .map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).expect("a number"))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_reads_nothing_fills_its_own_queues_and_nobody_elses() {
    let relay = Relay::with(|config| config.events.write_buffer = ByteSize::kib(64)).await;
    let (id, address) = (relay.session().await, relay.daemon.http_addr());
    let listen = format!("{id}/listen/en");
    let (mut publisher, _) = Socket::hello(address, &format!("{id}/publish/en"), json!({})).await;
    let mut deaf = Socket::hello_narrow(address, &listen).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(Socket::hello(address, &listen, json!({})).await.0);
    }
    // What the system and the relay hold for the one is some 250 KB.
    let long = |position| MediaFrame { payload: vec![0xf8; 1_250].into(), ..frame(position) };
    for position in 0..400 {
        publisher.send(Message::Binary(long(position).write())).await;
    }
    for listener in &mut others {
        for position in 0..400 {
            let Heard::Frame(heard) = listener.heard().await else { panic!("no frame {position}") };
            assert_eq!(MediaFrame { replay: false, ..heard }, long(position));
        }
    }
    publisher.acknowledged(400).await;
    assert!(metric(&relay, "relayd_ring_stalls_total").await > 0, "it has found no room");
    assert!(metric(&relay, "relayd_ring_depth_max").await <= 64);
    assert_eq!(metric(&relay, "relayd_shard_queue_dropped_total").await, 0);
    assert_eq!(metric(&relay, "relayd_shard_orders_depth").await, 0);
    // What it did not read is in the history still.
    while deaf.positions.len() < 400 {
        assert!(matches!(deaf.heard().await, Heard::Frame(_)));
    }
    assert_eq!(deaf.positions, (0..400).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_vanished_is_in_nobodys_way_until_it_is_given_up() {
    let relay = peer::Relay::start(|config| config.closed_after = Duration::from_secs(3)).await;
    let mut publisher = relay.connected(Role::Publisher).await;
    let gone = relay.connected(Role::Listener).await;
    let mut first = relay.connected(Role::Listener).await;
    let mut second = relay.connected(Role::Listener).await;
    peer::converse(&mut publisher, &mut [&mut first, &mut second], 0..10);
    // Its port is closed with it.
    drop(gone);
    peer::converse(&mut publisher, &mut [&mut first, &mut second], 10..100);
    for listener in [&first, &second] {
        assert_eq!(listener.numbers(), (0..100).collect::<Vec<_>>());
    }
    let stats = relay.shard.stats().await.expect("the media plane is there");
    assert_eq!((stats.queue.dropped, stats.egress.full, stats.queue.rings_depth), (0, 0, 0));
    peer::until_snapshot(&relay, &mut [&mut publisher, &mut first, &mut second], "it is given up", |s| {
        s.listeners.total() == 2
    })
    .await;
    peer::converse(&mut publisher, &mut [&mut first, &mut second], 100..110);
    relay.stop().await;
}
