//! However and whenever a connection ends, nothing of it is left: no record, no slot, no lease, no leg, no memory.
//!
//! Each [`Death`] is one point at which the relay waits for a client, and at which the client is gone.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use relayd::config::Config;
use relayd::records::Kind;
use relayd::webrtc::Role;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::events::follower::{Follower, PROTOCOL, shake};
use crate::events::tokens::{relay, session, token};
use crate::http::client::{Relay, Reply, SDP, offer, send, until};
use crate::webrtc::peer::{self, Peer};

/// When a client dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    BeforeTheHeader,
    MidHeader,
    MidBody(Role),
    BeforeTheAnswer(Role),
    BeforeIce(Role),
    MidDtls(Role),
    Live(Role),
    LiveAndDeleted(Role),
    ReadingEvents,
    MidHandshake,
    BeforeHello,
    MidFrame,
    BeforeWelcome,
    Following,
    FollowingWithGoodbye,
    MidRefresh,
}

/// Those that cost no WebRTC peer.
const CHEAP: [Death; 12] = [
    Death::BeforeTheHeader,
    Death::MidHeader,
    Death::MidBody(Role::Publisher),
    Death::MidBody(Role::Listener),
    Death::BeforeTheAnswer(Role::Listener),
    Death::MidHandshake,
    Death::BeforeHello,
    Death::MidFrame,
    Death::BeforeWelcome,
    Death::Following,
    Death::FollowingWithGoodbye,
    Death::MidRefresh,
];

const WITH_MEDIA: [Death; 10] = [
    Death::BeforeTheAnswer(Role::Publisher),
    Death::BeforeIce(Role::Publisher),
    Death::BeforeIce(Role::Listener),
    Death::MidDtls(Role::Publisher),
    Death::MidDtls(Role::Listener),
    Death::Live(Role::Publisher),
    Death::Live(Role::Listener),
    Death::LiveAndDeleted(Role::Publisher),
    Death::LiveAndDeleted(Role::Listener),
    Death::ReadingEvents,
];

/// Nobody waits long for the dead.
fn impatient(config: &mut Config) {
    config.webrtc.ice_timeout = Duration::from_millis(500);
    config.webrtc.dtls_timeout = Duration::from_millis(500);
    config.webrtc.join_timeout = Duration::from_millis(1500);
    config.webrtc.consent_timeout = Duration::from_millis(1500);
    config.http.header_timeout = Duration::from_millis(500);
    config.http.body_timeout = Duration::from_millis(500);
    config.http.max_connections_per_address = 1000;
    config.events.hello_timeout = Duration::from_millis(500);
    config.events.close_timeout = Duration::from_millis(500);
    config.events.resume_window = Duration::from_millis(1);
}

struct Victim {
    address: SocketAddr,
    session: String,
    bearer: String,
    token: String,
}

impl Victim {
    fn new(relay: &Relay, session: &str) -> Self {
        let token = token("victim", "admin", session, 600);
        let bearer = format!("Bearer {token}");
        Self { address: relay.daemon.http_addr(), session: session.to_owned(), bearer, token }
    }

    async fn die(&self, death: Death) {
        match death {
            Death::BeforeTheHeader => drop(TcpStream::connect(self.address).await.unwrap()),
            Death::MidHeader => drop(self.raw("GET / HTTP/1.1\r\nhost: localhost\r\nx: ").await),
            Death::MidBody(role) => drop(self.raw(&self.post(role, 1000, "v=0\r\n")).await),
            Death::BeforeTheAnswer(role) => {
                let offer = String::from_utf8(offer(client(role))).unwrap();
                drop(self.raw(&self.post(role, offer.len(), &offer)).await);
            }
            Death::BeforeIce(role) => drop(self.join(role).await),
            Death::MidDtls(role) => self.mid_dtls(role).await,
            Death::Live(role) => drop(self.live(role).await),
            Death::LiveAndDeleted(role) => {
                let (_peer, leg) = self.live(role).await;
                let headers = [("authorization", self.bearer.as_str())];
                assert_eq!(send(self.address, "DELETE", &leg, &headers, b"").await.status, 200);
            }
            Death::ReadingEvents => {
                let (_peer, leg) = self.live(Role::Listener).await;
                let mut stream = self
                    .raw(&format!(
                        "GET {leg}/sse HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\n\r\n",
                        self.bearer
                    ))
                    .await;
                let mut head = [0; 12];
                stream.read_exact(&mut head).await.unwrap();
                assert_eq!(&head, b"HTTP/1.1 200");
            }
            Death::MidHandshake => {
                let head = format!(
                    "GET /v1/sessions/{}/events HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n",
                    self.session
                );
                drop(self.raw(&head).await);
            }
            Death::BeforeHello => drop(shake(self.address, &self.session, &[PROTOCOL]).await),
            Death::MidFrame => {
                let (_, mut stream) = shake(self.address, &self.session, &[PROTOCOL]).await;
                stream.write_all(&[0x81, 0x80 | 100, 0, 0, 0, 0, b'{']).await.unwrap();
            }
            Death::BeforeWelcome => {
                let mut follower = Follower::open(self.address, &self.session).await;
                follower.say("hello", json!({ "token": self.token })).await;
            }
            Death::Following => drop(self.following().await),
            Death::FollowingWithGoodbye => {
                let mut follower = self.following().await;
                follower.socket.close(None).await.unwrap();
            }
            Death::MidRefresh => {
                let mut follower = self.following().await;
                follower.say("token.refresh", json!({ "token": self.token })).await;
            }
        }
    }

    async fn raw(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    fn path(&self, role: Role) -> String {
        let kind = if role == Role::Publisher { "whip" } else { "whep" };
        format!("/v1/sessions/{}/{kind}/en", self.session)
    }

    fn post(&self, role: Role, length: usize, body: &str) -> String {
        format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\ncontent-type: application/sdp\r\n\
             content-length: {length}\r\n\r\n{body}",
            self.path(role),
            self.bearer,
        )
    }

    /// A join that is answered: the speaker's place may be free only after a while.
    async fn joined(&self, role: Role, offer: &str) -> Reply {
        let headers = [SDP, ("authorization", self.bearer.as_str())];
        let path = self.path(role);
        let start = Instant::now();
        loop {
            let reply = send(self.address, "POST", &path, &headers, offer.as_bytes()).await;
            if reply.status == 201 {
                return reply;
            }
            assert!([409, 429].contains(&reply.status), "{reply:?}");
            assert!(start.elapsed() < Duration::from_secs(20), "the place is never free: {reply:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn join(&self, role: Role) -> (Peer, String) {
        let mut peer = Peer::new(role);
        let reply = self.joined(role, &peer.offer()).await;
        peer.take_sdp(&reply.body);
        (peer, reply.header("location").to_owned())
    }

    async fn mid_dtls(&self, role: Role) {
        let (mut peer, _) = self.join(role).await;
        peer.withholds_dtls = true;
        let start = Instant::now();
        // Long enough for ICE, too short for the relay to give up.
        peer::until(&mut [&mut peer], "ICE is up", |_| start.elapsed() > Duration::from_millis(200));
    }

    async fn live(&self, role: Role) -> (Peer, String) {
        let (mut peer, leg) = self.join(role).await;
        peer::until(&mut [&mut peer], "the peer connects", |peers| peers[0].connected);
        (peer, leg)
    }

    async fn following(&self) -> Follower {
        let who = json!({ "token": self.token });
        let (mut follower, _) = Follower::hello(self.address, &self.session, who).await;
        follower.frame("sessionJoined").await;
        follower
    }
}

fn client(role: Role) -> &'static str {
    if role == Role::Publisher { "chromium_sendonly" } else { "chromium_recvonly" }
}

/// Waits until nothing of anybody is left.
async fn nothing_left(relay: &Relay, after: &str) {
    let daemon = &relay.daemon;
    let mut left = String::new();
    until(&format!("nothing is left after {after}"), async || {
        let counts = daemon.session_counts();
        let snapshot = daemon.connections().snapshot().await;
        let live: u64 = daemon.records().counts().iter().map(|(_, counts)| counts.live).sum();
        let rest = (
            live,
            (counts.publishers, counts.listeners, counts.leases),
            (snapshot.publishers.total(), snapshot.listeners.total(), snapshot.addresses),
        );
        let now = format!("{rest:?} {:?}", daemon.records().list(Instant::now(), 10));
        if now != left {
            left = now;
        }
        rest == (0, (0, 0, 0), (0, 0, 0))
    })
    .await;
    for (kind, counts) in daemon.records().counts() {
        assert_eq!((counts.opened, counts.live), (counts.closed, 0), "{kind:?} after {after}: {left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_leaves_nothing_behind() {
    let relay = relay(impatient).await;
    let id = session(&relay, &json!({ "sourceLanguage": "en" })).await;
    let victim = Victim::new(&relay, &id);
    for death in CHEAP.into_iter().chain(WITH_MEDIA) {
        victim.die(death).await;
        nothing_left(&relay, &format!("{death:?}")).await;
    }
    let opened = |kind: Kind| relay.daemon.records().counts()[kind as usize].1.opened;
    assert!(opened(Kind::Http) >= 20, "they were on record");
    assert!(
        opened(Kind::Events) >= 6
            && opened(Kind::Publisher) >= 4
            && opened(Kind::Listener) >= 5
            && opened(Kind::ServerSentEvents) == 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_deaths_at_once_leave_nothing_behind_round_after_round() {
    let relay = relay(impatient).await;
    let id = session(&relay, &json!({ "sourceLanguage": "en" })).await;
    for round in 0..3 {
        let dying: Vec<_> = CHEAP
            .into_iter()
            .chain(WITH_MEDIA)
            .map(|death| {
                let victim = Victim::new(&relay, &id);
                tokio::spawn(async move { victim.die(death).await })
            })
            .collect();
        for death in dying {
            death.await.unwrap();
        }
        nothing_left(&relay, &format!("round {round}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_takes_everybody_with_it() {
    let relay = relay(impatient).await;
    let id = session(&relay, &json!({ "sourceLanguage": "en" })).await;
    let victim = Victim::new(&relay, &id);
    let mut follower = victim.following().await;
    let _speaker = victim.live(Role::Publisher).await;
    let _listener = victim.live(Role::Listener).await;
    let headers = [("authorization", victim.bearer.as_str())];
    let path = format!("/v1/sessions/{id}");
    assert_eq!(send(victim.address, "DELETE", &path, &headers, b"").await.status, 204);
    assert_eq!(follower.closed().await.0, 4006);
    drop(follower);
    nothing_left(&relay, "the end").await;
}

/// Memory is that of a process, so this test starts itself once more, alone in a process of its own.
#[test]
fn memory_stays_flat_over_a_thousand_deaths() {
    if std::env::var_os(ALONE).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(deaths_do_not_add_up());
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "records::memory_stays_flat_over_a_thousand_deaths", "--nocapture"]);
    let output = child.env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}

async fn deaths_do_not_add_up() {
    let relay = relay(impatient).await;
    let id = session(&relay, &json!({ "sourceLanguage": "en" })).await;
    // What is allocated once, and kept for the next one, is allocated now.
    massacre(&relay, &id, 200).await;
    let before = resident_kib();
    massacre(&relay, &id, 1200).await;
    let grown = resident_kib().saturating_sub(before);
    // 1200 connections that kept their read buffers or their queues would be more by far.
    assert!(grown < 24 * 1024, "{grown} KiB more");
}

/// Set in the process that is alone.
const ALONE: &str = "RELAY_TESTS_ALONE";

async fn massacre(relay: &Relay, id: &str, victims: usize) {
    let mut deaths =
        CHEAP.into_iter().filter(|death| *death != Death::BeforeTheAnswer(Role::Listener)).cycle();
    for _ in 0..victims / 40 {
        let dying: Vec<_> = deaths
            .by_ref()
            .take(40)
            .map(|death| {
                let victim = Victim::new(relay, id);
                tokio::spawn(async move { victim.die(death).await })
            })
            .collect();
        for death in dying {
            death.await.unwrap();
        }
    }
    nothing_left(relay, "so many").await;
}

/// What the process has in memory, where the system tells; 0 elsewhere.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
