//! A relay with its publisher and listeners, each behind a path of its own, and what came of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_tests::impair::{Carries, Proxy};
use relay_tests::link::LinkSpec;
use relay_tests::stream::fnv;
use relayd::client::{
    ClientError, ListenOptions, ListenReport, PublishOptions, PublishReport, Role, Stop, listen, ogg,
    publish, read_file,
};
use relayd::config::Config;
use relayd::daemon::Daemon;

use crate::http::client::{JSON, on_free_ports, send};

/// Long past what a machine under load needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames after those that count: a packet that is lost is missed when a later one comes.
const TAIL: usize = 150;
const FRAMES_PER_SECOND: u64 = 50;

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    WebRtc,
    WebSocket,
}

/// Who takes part.
#[derive(Debug, Clone)]
pub(super) struct Cast {
    pub speaker: Kind,
    /// Listeners.
    pub webrtc: usize,
    pub websocket: usize,
    /// Audio that is published at most; it ends when the test has seen enough.
    pub seconds: u64,
    /// Each way of each path. What it loses of a stream is sent again, and what comes behind it waits.
    pub path: LinkSpec,
    pub seed: u64,
}

/// Whose paths something befalls.
#[derive(Debug, Clone, Copy)]
pub(super) enum Who {
    Speaker,
    Listeners,
}

/// What befalls a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Dark(Duration),
    /// Another source port for datagrams, and every TCP connection broken.
    Moves,
}

impl Act {
    const fn lasts(self) -> Duration {
        match self {
            Self::Dark(time) => time,
            Self::Moves => Duration::ZERO,
        }
    }
}

/// A client's own path: for its datagrams, and for its streams.
struct Path {
    datagrams: Proxy,
    streams: Proxy,
}

impl Path {
    async fn open(daemon: &Daemon, cast: &Cast, number: u64) -> Self {
        let (spec, seed) = (&cast.path, cast.seed + number);
        let start = |carries, to| Proxy::start(carries, to, spec.clone(), seed);
        Self {
            datagrams: start(Carries::Datagrams, daemon.webrtc_addr()).await.unwrap(),
            streams: start(Carries::Stream, daemon.http_addr()).await.unwrap(),
        }
    }

    fn url(&self, kind: Kind, session: &str, role: Role) -> String {
        let (scheme, verb) = match (kind, role) {
            (Kind::WebRtc, Role::Publisher) => ("http", "whip"),
            (Kind::WebRtc, Role::Listener) => ("http", "whep"),
            (Kind::WebSocket, Role::Publisher) => ("ws", "publish"),
            (Kind::WebSocket, Role::Listener) => ("ws", "listen"),
        };
        format!("{scheme}://{}/v1/sessions/{session}/{verb}/en", self.streams.address())
    }

    fn suffer(&self, act: Act) {
        for proxy in [&self.datagrams, &self.streams] {
            match act {
                Act::Dark(time) => proxy.black_out(time),
                Act::Moves => proxy.move_clients(),
            }
        }
    }
}

/// A running client.
struct Client<R> {
    path: Path,
    stop: Stop,
    report: Arc<Mutex<R>>,
    thread: JoinHandle<Result<R, ClientError>>,
}

impl<R: Copy + Default + Send + 'static> Client<R> {
    /// Runs it on a thread of its own; it is given how to be stopped, and where to tell how far it is.
    fn start(
        path: Path,
        run: impl FnOnce(Stop, &dyn Fn(&R)) -> Result<R, ClientError> + Send + 'static,
    ) -> Self {
        let (stop, report) = (Stop::new(), Arc::new(Mutex::new(R::default())));
        let (stopped, told) = (stop.clone(), report.clone());
        let thread = std::thread::spawn(move || run(stopped, &|report| *told.lock().unwrap() = *report));
        Self { path, stop, report, thread }
    }

    fn report(&self) -> R {
        *self.report.lock().unwrap()
    }
}

struct Listener {
    client: Client<ListenReport>,
    kind: Kind,
    out: PathBuf,
}

/// A relay at work.
pub(super) struct Stage {
    runtime: tokio::runtime::Runtime,
    daemon: Daemon,
    session: String,
    said: Arc<[ogg::Packet]>,
    speaker: Client<PublishReport>,
    listeners: Vec<Listener>,
    start: Instant,
}

impl Stage {
    /// Starts everybody; the speaker last.
    pub(super) fn open(cast: Cast) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let daemon = runtime.block_on(Daemon::start(config())).unwrap();
        let (session, secret) = runtime.block_on(session(&daemon));
        let said = speech(cast.seconds * FRAMES_PER_SECOND, cast.seed);
        let kinds = [vec![Kind::WebRtc; cast.webrtc], vec![Kind::WebSocket; cast.websocket]].concat();
        let path = |number| runtime.block_on(Path::open(&daemon, &cast, number));
        let listeners: Vec<Listener> = (1..)
            .zip(kinds)
            .map(|(number, kind)| Listener::start(path(number), kind, &session, number))
            .collect();
        for listener in &listeners {
            wait("the listeners connect", || listener.report().connected);
        }
        let speaker = start_speaker(path(0), cast.speaker, &session, &secret, &said);
        wait("the speaker connects", || speaker.report().packets > 0);
        let start = Instant::now();
        Self { runtime, daemon, session, said, speaker, listeners, start }
    }

    /// Waits until so many frames are said.
    pub(super) fn listen_until(&self, frames: u64) {
        wait("the frames are said", || self.speaker.report().packets >= frames);
    }

    /// Frames that the relay sent again on newer connections of this kind.
    pub(super) fn replayed(&self, kind: Kind) -> u64 {
        let of_kind = self.listeners.iter().filter(|it| it.kind == kind);
        of_kind.map(|it| it.report().switches.replayed).sum()
    }

    /// Orders a refresh of everybody, for the time `round`, and waits until everybody has had so many.
    pub(super) fn refresh(&self, round: u64) {
        self.refresh_of(round, &["publisher", "listener"]);
    }

    /// The same of those of these roles.
    pub(super) fn refresh_of(&self, round: u64, roles: &[&str]) {
        let (ordered, gaps) = (Instant::now(), self.gap_frames());
        for role in roles {
            let path = format!("/v1/sessions/{}/refresh", self.session);
            let body = format!(r#"{{"role":"{role}"}}"#);
            let asked = send(self.daemon.http_addr(), "POST", &path, &[JSON], body.as_bytes());
            let reply = self.runtime.block_on(asked);
            assert_eq!(reply.status, 202, "{reply:?}");
        }
        let what = || format!("refresh {round}: {}", self.figures());
        // A drop in the middle of a refresh makes it a resume.
        wait_or(what, || {
            let speaker = self.speaker.report();
            let replaced = |it: &Listener| it.report().switches.refreshes + it.report().switches.resumes;
            (!roles.contains(&"publisher") || speaker.refreshes + speaker.resumes >= round)
                && self.listeners.iter().all(|it| replaced(it) >= round)
        });
        let (new, time) = (self.gap_frames() - gaps, ordered.elapsed());
        eprintln!("refresh {round}: {new} gap frames over {} listeners, {time:.1?}", self.listeners.len());
    }

    /// Lets things happen at their times, counted from the first word, to the end of the last outage: what is said in
    /// one counts too.
    pub(super) fn play(&self, script: &[(Duration, Who, Act)]) {
        // The path is the thing under test: it happens at a time, not after an event.
        let wait =
            |at: Duration| std::thread::sleep((self.start + at).saturating_duration_since(Instant::now()));
        let mut end = Duration::ZERO;
        for (at, who, act) in script {
            wait(*at);
            self.act(*who, *act);
            end = end.max(*at + act.lasts());
        }
        wait(end);
    }

    /// Lets something happen now.
    pub(super) fn act(&self, who: Who, act: Act) {
        match who {
            Who::Speaker => self.speaker.path.suffer(act),
            Who::Listeners => self.listeners.iter().for_each(|it| it.client.path.suffer(act)),
        }
    }

    /// Waits for the end of the speech and holds every listener's file against it.
    pub(super) fn close(self) {
        let said = || self.speaker.report().packets;
        let counts = said();
        let spoken = || said() >= counts + TAIL as u64 || self.speaker.thread.is_finished();
        wait_or(|| format!("the tail: {}", self.figures()), spoken);
        self.speaker.stop.stop();
        wait_or(
            || format!("the end: {}", self.figures()),
            || {
                let whole = |report: ListenReport| {
                    report.reception.packets >= counts
                        && (report.reception.lost == 0 || report.switches.missing > 0)
                };
                self.speaker.thread.is_finished() && self.listeners.iter().all(|it| whole(it.report()))
            },
        );
        eprintln!("{counts} frames that count\n{}", self.figures());
        let Self { runtime, daemon, said, speaker, listeners, .. } = self;
        let spoken = speaker.thread.join().unwrap().unwrap();
        assert_eq!(spoken.dropped, 0);
        for listener in listeners {
            listener.compare(&said, counts as usize);
        }
        assert!(runtime.block_on(daemon.shutdown()), "it stops in time");
    }

    /// Frames that the relay could not have for newer connections, over all listeners.
    fn gap_frames(&self) -> u64 {
        self.listeners.iter().map(|it| it.report().switches.gap_frames).sum()
    }

    /// Everybody's counts.
    fn figures(&self) -> String {
        let mut text = format!("speaker {:?}", self.speaker.report());
        for listener in &self.listeners {
            let report = listener.report();
            text.push_str(&format!("\n{:?} {:?} {:?}", listener.kind, report.reception, report.switches));
        }
        text
    }
}

impl Listener {
    fn start(path: Path, kind: Kind, session: &str, number: u64) -> Self {
        let name = format!("relay-lossless-{}-{session}-{number}.ogg", std::process::id());
        let out = std::env::temp_dir().join(name);
        let options = ListenOptions {
            url: path.url(kind, session, Role::Listener),
            out: Some(out.clone()),
            media_proxy: Some(path.datagrams.address()),
            ..ListenOptions::default()
        };
        let client = Client::start(path, move |stop, tell| listen(&ListenOptions { stop, ..options }, tell));
        Self { client, kind, out }
    }

    fn report(&self) -> ListenReport {
        self.client.report()
    }

    /// Ends it and compares its file: every frame that counts once and in order, and of the tail what came in order.
    fn compare(self, said: &[ogg::Packet], must: usize) {
        self.client.stop.stop();
        let report = self.client.thread.join().unwrap().unwrap();
        let heard: Vec<ogg::Packet> =
            read_file(&self.out).unwrap().iter().filter(|packet| !packet.is_empty()).cloned().collect();
        std::fs::remove_file(&self.out).unwrap();
        let numbers: Vec<u64> = heard.iter().map(|packet| number(&packet.data)).collect();
        let first_wrong = numbers.iter().zip(0..).find(|(number, expected)| *number != expected);
        let wrong = first_wrong.filter(|(_, expected)| *expected < must as u64);
        assert!(
            wrong.is_none() && numbers.len() >= must,
            "{:?}: {wrong:?} of {} {report:?}",
            self.kind,
            numbers.len()
        );
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order, once");
        assert!(heard[..must] == said[..must], "byte for byte");
    }
}

fn start_speaker(
    path: Path,
    kind: Kind,
    session: &str,
    secret: &str,
    said: &Arc<[ogg::Packet]>,
) -> Client<PublishReport> {
    let options = PublishOptions {
        url: path.url(kind, session, Role::Publisher),
        resume_secret: Some(secret.to_owned()),
        packets: said.clone(),
        media_proxy: Some(path.datagrams.address()),
        ..PublishOptions::default()
    };
    Client::start(path, move |stop, tell| publish(&PublishOptions { stop, ..options }, tell))
}

fn config() -> Config {
    let mut config = on_free_ports();
    config.http.max_connections_per_address = 2_000;
    config
}

/// A session in English and its resume secret.
async fn session(daemon: &Daemon) -> (String, String) {
    let body = br#"{"sourceLanguage":"en","languages":[]}"#;
    let reply = send(daemon.http_addr(), "POST", "/v1/sessions", &[JSON], body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let text = |name: &str| reply.json()[name].as_str().unwrap().to_owned();
    (text("sessionId"), text("resumeSecret"))
}

/// Frames that are all different, each with its number.
fn speech(frames: u64, seed: u64) -> Arc<[ogg::Packet]> {
    let frame = |number: u64| {
        let mut data = vec![31 << 3];
        data.extend(number.to_be_bytes());
        for word in 0..4_u64 {
            data.extend(fnv(&[number, seed, word].map(u64::to_be_bytes).concat()).to_be_bytes());
        }
        ogg::Packet { data: Bytes::from(data), samples: 960 }
    };
    (0..frames + TAIL as u64).map(frame).collect()
}

fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[1..9].try_into().unwrap())
}

fn wait(what: &str, holds: impl Fn() -> bool) {
    wait_or(|| what.to_owned(), holds);
}

/// Waits until something holds, or fails with what is said then.
fn wait_or(what: impl Fn() -> String, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}
