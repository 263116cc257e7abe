//! Connections that replace one another, over a running relay: refreshes and resumes.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod orders;
mod resume;
mod tickets;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use relayd::webrtc::Role;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::events::follower::Follower;
use crate::http::client::{Relay, Reply, SDP};
use crate::webrtc::peer::{PATIENCE, Peer};

/// The header of a ticket.
const TICKET: &str = "relay-ticket";

/// A session with somebody who speaks, one numbered frame after the other.
struct Talk {
    relay: Relay,
    id: String,
    speaker: Peer,
    /// The speaker's own connection.
    speaking: Leg,
    next: u32,
    /// Frames come at least so far apart.
    pace: Duration,
    /// When the last one was spoken.
    spoken: Instant,
}

/// What the relay said of a connection.
#[derive(Debug, Clone)]
struct Leg {
    /// Its address.
    location: String,
    /// What to come back with.
    ticket: String,
}

impl Leg {
    fn of(reply: &Reply) -> Self {
        assert_eq!(reply.status, 201, "{reply:?}");
        let ticket = reply.header(TICKET).to_owned();
        assert_eq!(ticket.len(), 43, "{reply:?}");
        Self { location: reply.header("location").to_owned(), ticket }
    }

    fn name(&self) -> &str {
        self.location.rsplit('/').next().unwrap()
    }
}

impl Talk {
    async fn begin(relay: Relay) -> Self {
        let id = relay.session().await;
        let (mut speaker, speaking) = answered(&relay, &id, Role::Publisher, &[]).await;
        crate::webrtc::peer::until(&mut [&mut speaker], "the speaker connects", |peers| peers[0].connected);
        Self { relay, id, speaker, speaking, next: 0, pace: Duration::ZERO, spoken: Instant::now() }
    }

    /// Somebody who listens, connected.
    async fn listener(&mut self, headers: &[(&str, &str)]) -> (Peer, Leg) {
        let (mut peer, leg) = answered(&self.relay, &self.id, Role::Listener, headers).await;
        self.until(&mut [&mut peer], "the listener connects", |peers| peers[0].connected).await;
        (peer, leg)
    }

    /// Speaks on, and has the others listen, until this holds.
    async fn until(
        &mut self,
        others: &mut [&mut Peer],
        what: &str,
        mut holds: impl FnMut(&[&mut Peer]) -> bool,
    ) {
        let start = Instant::now();
        while !holds(others) {
            assert!(start.elapsed() < PATIENCE, "timed out: {what}");
            self.speak(others);
            tokio::task::yield_now().await;
        }
    }

    /// One frame.
    fn speak(&mut self, others: &mut [&mut Peer]) {
        self.wait_for_the_next(others);
        tokio::task::block_in_place(|| {
            self.speaker.speak(self.next);
            self.next += 1;
            self.spoken = Instant::now();
            self.speaker.turn();
            others.iter_mut().for_each(|peer| peer.turn());
        });
    }

    /// Until the last frame is over, if there is a pace.
    fn wait_for_the_next(&mut self, others: &mut [&mut Peer]) {
        let next = self.spoken + self.pace;
        let speaker = &mut self.speaker;
        crate::webrtc::peer::until(others, "the frame is over", |_| {
            let over = Instant::now() >= next;
            if !over {
                speaker.turn();
            }
            over
        });
    }

    fn speak_on(&mut self, others: &mut [&mut Peer], frames: u32) {
        (0..frames).for_each(|_| self.speak(others));
    }

    /// Until a listener has heard what was spoken last; nothing more is spoken.
    fn hear_out(&mut self, listener: &mut Peer) {
        let last = self.next - 1;
        let speaker = &mut self.speaker;
        crate::webrtc::peer::until(&mut [listener], "the last frame is heard", |peers| {
            speaker.turn();
            peers[0].numbers().last() == Some(&last)
        });
    }

    /// Orders a refresh; how many are asked.
    async fn order(&self, target: Value) -> u64 {
        let path = format!("/v1/sessions/{}/refresh", self.id);
        let reply =
            self.relay.send("POST", &path, &[crate::http::client::JSON], target.to_string().as_bytes()).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()["ordered"].as_u64().unwrap()
    }

    async fn listeners(&self) -> u64 {
        let reply = self.relay.send("GET", &format!("/v1/sessions/{}", self.id), &[], b"").await;
        reply.json()["listeners"].as_u64().unwrap()
    }

    async fn ears(&self, leg: &Leg) -> Ears {
        Ears::open(&self.relay, &self.id, json!({ "leg": leg.name() })).await
    }

    async fn metric(&self, line: &str) {
        let told = self.relay.ops("/metrics").await.body;
        assert!(told.contains(line), "no {line} in\n{told}");
    }
}

/// A peer with its answer.
async fn answered(relay: &Relay, id: &str, role: Role, headers: &[(&str, &str)]) -> (Peer, Leg) {
    let mut peer = Peer::new(role);
    let reply = offered(relay, id, role, &peer, headers).await;
    let leg = Leg::of(&reply);
    peer.take_sdp(&reply.body);
    (peer, leg)
}

async fn offered(relay: &Relay, id: &str, role: Role, peer: &Peer, headers: &[(&str, &str)]) -> Reply {
    let kind = if role == Role::Publisher { "whip" } else { "whep" };
    let path = format!("/v1/sessions/{id}/{kind}/en");
    let headers: Vec<(&str, &str)> = headers.iter().copied().chain([SDP]).collect();
    relay.send("POST", &path, &headers, peer.offer().as_bytes()).await
}

/// Somebody who follows the events and remembers them.
struct Ears {
    heard: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Ears {
    async fn open(relay: &Relay, id: &str, who: Value) -> Self {
        let (mut follower, _) = Follower::hello(relay.daemon.http_addr(), id, who).await;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let memory = heard.clone();
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = follower.socket.next().await {
                if let Message::Text(text) = message {
                    memory.lock().unwrap().push(serde_json::from_str(&text).unwrap());
                }
            }
        });
        Self { heard, task }
    }

    /// The data of all events of this name.
    fn all(&self, name: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|event| event["t"] == name).map(|event| event["d"].clone()).collect()
    }

    fn count(&self, name: &str) -> usize {
        self.all(name).len()
    }

    fn last(&self, name: &str) -> Value {
        self.all(name).pop().unwrap_or_else(|| panic!("never heard {name}"))
    }

    /// The number of the last event heard or passed over.
    fn seq(&self) -> u64 {
        self.heard.lock().unwrap().iter().filter_map(|event| event["seq"].as_u64()).max().unwrap_or(0)
    }

    fn ticket(&self) -> String {
        self.last("connectionRefreshRequired")["ticket"].as_str().unwrap().to_owned()
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was heard on several connections, each number once, in order; each connection by itself was in order.
fn merged(peers: &[&Peer]) -> Vec<u32> {
    let mut all: Vec<u32> = peers.iter().flat_map(|peer| peer.numbers()).collect();
    for peer in peers {
        let numbers = peer.numbers();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "out of order: {numbers:?}");
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Nothing is missing between what was heard first and last.
fn assert_whole(peers: &[&Peer]) {
    let all = merged(peers);
    let (first, last) = (all[0], *all.last().unwrap());
    assert_eq!(all, (first..=last).collect::<Vec<_>>());
}
