//! `relayd publish` and `relayd listen` through a whole daemon: what is said is what is heard, frame for frame.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use relayd::cli::{self, Exit};
use relayd::client::{
    ClientError, ListenOptions, ListenReport, PublishOptions, PublishReport, Stop, listen, ogg, publish,
    read_file,
};
use relayd::config::Config;
use relayd::daemon::Daemon;
use serde_json::Value;

/// Long past what a machine under load needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon on ports of its own.
pub(crate) struct Relay {
    runtime: tokio::runtime::Runtime,
    daemon: Daemon,
    http: SocketAddr,
}

impl Relay {
    pub(crate) fn start(configure: impl FnOnce(&mut Config)) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::default();
        (config.http.listen, config.ops.listen, config.webrtc.listen) = (any, any, any);
        configure(&mut config);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let daemon = runtime.block_on(Daemon::start(config)).unwrap();
        let http = daemon.http_addr();
        Self { runtime, daemon, http }
    }

    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        let kind = "Content-Type: application/json\r\nConnection: close";
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}",
            self.http
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// Creates a session in English and Spanish and returns its id.
    pub(crate) fn session(&self) -> String {
        let (status, body) =
            self.request("POST", "/v1/sessions", r#"{"sourceLanguage":"en","languages":["es"]}"#);
        assert_eq!(status, 201, "{body}");
        body["sessionId"].as_str().unwrap().to_owned()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub(crate) fn wait_for(&self, session: &str, what: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.request("GET", &format!("/v1/sessions/{session}"), "");
            assert_eq!(status, 200);
            if what(&body) {
                return;
            }
            assert!(Instant::now() < deadline, "never came: {body}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Ends it without a word to anybody.
    pub(crate) fn crash(self) {
        let Self { runtime, daemon, .. } = self;
        // What it runs goes first: nothing is told to say goodbye then.
        runtime.shutdown_timeout(PATIENCE);
        drop(daemon);
    }

    pub(crate) fn stop(self) {
        assert!(self.runtime.block_on(self.daemon.shutdown()), "it stops in time");
    }
}

/// A listener on a thread of its own.
struct Listener {
    stop: Stop,
    out: Option<PathBuf>,
    /// Packets so far: once when connected, then each second.
    progress: mpsc::Receiver<u64>,
    thread: JoinHandle<Result<ListenReport, ClientError>>,
}

impl Listener {
    /// Begins to listen; ends by itself once `wanted` packets came.
    fn start(url: String, out: Option<&str>, wanted: u64) -> Self {
        let out = out
            .map(|name| std::env::temp_dir().join(format!("relay-tests-{}-{name}.ogg", std::process::id())));
        let stop = Stop::new();
        let options = ListenOptions {
            url,
            out: out.clone(),
            time: Some(PATIENCE),
            stop: stop.clone(),
            ..ListenOptions::default()
        };
        let (tell, progress) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            listen(&options, |report| {
                // Whoever waited may be satisfied and gone.
                let _gone = tell.send(report.reception.packets);
                if report.reception.packets >= wanted {
                    options.stop.stop();
                }
            })
        });
        Self { stop, out, progress, thread }
    }

    fn wait_connected(&self) {
        self.progress.recv_timeout(PATIENCE).expect("the listener connects");
    }

    /// Waits until a second goes by without a packet, after the first.
    fn wait_silent(&self) {
        let mut before = 0;
        loop {
            let packets = self.progress.recv_timeout(PATIENCE).expect("the listener is there");
            if packets > 0 && packets == before {
                return;
            }
            before = packets;
        }
    }

    fn finish(self) -> ListenReport {
        self.thread.join().unwrap().unwrap()
    }

    /// What was recorded; frames that stand for audio that did not come are left out.
    fn recorded(self) -> (ListenReport, Vec<ogg::Packet>) {
        let out = self.out.clone().expect("it records");
        let report = self.finish();
        let packets = read_file(&out).unwrap().iter().filter(|packet| !packet.is_empty()).cloned().collect();
        std::fs::remove_file(out).unwrap();
        (report, packets)
    }
}

fn asset() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../relayd/assets/en.ogg")
}

/// A part of the bundled speech.
fn speech(frames: std::ops::Range<usize>) -> Arc<[ogg::Packet]> {
    read_file(&asset()).unwrap()[frames].into()
}

fn speak(url: String, packets: &Arc<[ogg::Packet]>) -> Result<PublishReport, ClientError> {
    let packets = packets.clone();
    let options = PublishOptions { url, packets, ..PublishOptions::default() };
    publish(&options, |_| {})
}

#[test]
fn a_listener_before_the_speaker_hears_every_frame_unchanged_and_in_order() {
    let relay = Relay::start(|_| {});
    let session = relay.session();
    let said = speech(0..150);
    let listener = Listener::start(relay.url(&format!("/whep/{session}")), Some("before"), said.len() as u64);
    listener.wait_connected();
    let report = speak(relay.url(&format!("/whip/{session}")), &said).unwrap();
    assert_eq!(report.packets, said.len() as u64);
    let (heard, recorded) = listener.recorded();
    assert_eq!((heard.reception.packets, heard.reception.lost), (said.len() as u64, 0));
    assert_eq!((heard.reception.duplicates, heard.reception.out_of_order), (0, 0));
    assert!(recorded == said[..], "byte for byte");
    relay.wait_for(&session, |body| body["listeners"] == 0 && body["speakerConnected"] == false);
    relay.stop();
}

#[test]
fn a_listener_in_the_middle_hears_everything_from_then_on() {
    let relay = Relay::start(|_| {});
    let session = relay.session();
    let said = speech(0..150);
    let to = relay.url(&format!("/v1/sessions/{session}/whip/en"));
    let speaker = {
        let said = said.clone();
        std::thread::spawn(move || speak(to, &said))
    };
    relay.wait_for(&session, |body| body["speakerConnected"] == true);
    let from = relay.url(&format!("/v1/sessions/{session}/whep/en"));
    let listener = Listener::start(from, Some("middle"), u64::MAX);
    listener.wait_connected();
    speaker.join().unwrap().unwrap();
    listener.wait_silent();
    listener.stop.stop();
    let (heard, recorded) = listener.recorded();
    assert_eq!(heard.reception.lost, 0);
    assert!(recorded.len() > 20, "most of three seconds, got {}", recorded.len());
    assert!(recorded == said[said.len() - recorded.len()..], "to the very end");
    relay.stop();
}

#[test]
fn a_speaker_leaves_and_returns_on_the_same_stream() {
    let relay = Relay::start(|_| {});
    let session = relay.session();
    let (first, second) = (speech(0..60), speech(60..120));
    let listener = Listener::start(relay.url(&format!("/whep/{session}/en")), Some("returns"), 120);
    listener.wait_connected();
    let whip = relay.url(&format!("/whip/{session}/en"));
    let one = speak(whip.clone(), &first).unwrap();
    relay.wait_for(&session, |body| body["speakerConnected"] == false);
    let two = speak(whip, &second).unwrap();
    assert_ne!(one.ssrc, two.ssrc, "two connections of the speaker");
    let (heard, recorded) = listener.recorded();
    // One SSRC: a second one would have begun a second count and lost the first SSRC's place in the report.
    assert_eq!((heard.reception.packets, heard.reception.lost), (120, 0), "sequence numbers go on");
    assert!(recorded.iter().eq(first.iter().chain(second.iter())));
    relay.stop();
}

#[test]
fn fifty_listeners_hear_the_same() {
    // Each listener follows the events beside its media.
    let relay = Relay::start(|config| config.http.max_connections_per_address = 256);
    let session = relay.session();
    let said = speech(0..100);
    let url = relay.url(&format!("/whep/{session}/es"));
    let listeners: Vec<Listener> =
        (0..50).map(|_| Listener::start(url.clone(), None, said.len() as u64)).collect();
    listeners.iter().for_each(Listener::wait_connected);
    relay.wait_for(&session, |body| body["listeners"] == 50);
    speak(relay.url(&format!("/whip/{session}/es")), &said).unwrap();
    for listener in listeners {
        let heard = listener.finish().reception;
        assert_eq!((heard.packets, heard.lost, heard.duplicates), (said.len() as u64, 0, 0));
    }
    relay.wait_for(&session, |body| body["listeners"] == 0);
    relay.stop();
}

#[test]
fn the_demo_speaks_both_languages_at_once() {
    let relay = Relay::start(|config| config.demo.enabled = true);
    let english = Listener::start(relay.url("/whep/demo/en"), Some("demo-en"), 60);
    let spanish = Listener::start(relay.url("/whep/demo/es"), Some("demo-es"), 60);
    let ((english, heard_english), (spanish, heard_spanish)) = (english.recorded(), spanish.recorded());
    assert_eq!((english.reception.lost, spanish.reception.lost), (0, 0));
    let whole = speech(0..usize::from(u16::MAX).min(read_file(&asset()).unwrap().len()));
    let looped: Vec<&ogg::Packet> = whole.iter().chain(whole.iter()).collect();
    let heard: Vec<&ogg::Packet> = heard_english.iter().collect();
    assert!(looped.windows(heard.len()).any(|window| window == heard), "a stretch of the recording");
    assert_ne!(heard_english, heard_spanish);
    relay.stop();
}

fn run(arguments: &[&str]) -> Exit {
    cli::main(["relayd"].iter().chain(arguments).map(OsString::from))
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let relay = Relay::start(|_| {});
    let session = relay.session();
    let (whip, whep) = (relay.url(&format!("/whip/{session}")), relay.url(&format!("/whep/{session}")));
    let file = asset();
    let file = file.to_str().unwrap();

    assert_eq!(run(&["listen", &whep, "--seconds", "0.5"]), Exit::NoAudio);
    assert_eq!(run(&["listen", &relay.url("/whep/no-such-1"), "--seconds", "1"]), Exit::Refused);
    let kept = std::env::temp_dir().join(format!("relayd-kept-{}.ogg", std::process::id()));
    std::fs::copy(file, &kept).unwrap();
    let mistyped = relay.url(&format!("/whep/{session}/de"));
    assert_eq!(run(&["listen", &mistyped, "--out", kept.to_str().unwrap()]), Exit::Refused);
    assert_eq!(
        std::fs::read(&kept).unwrap(),
        std::fs::read(file).unwrap(),
        "nothing was heard: nothing is lost"
    );
    std::fs::remove_file(kept).unwrap();
    assert_eq!(run(&["listen", &relay.url("/listen/demo/en")]), Exit::Usage);
    assert_eq!(run(&["listen", &whip]), Exit::Usage);
    assert_eq!(run(&["listen"]), Exit::Usage);
    assert_eq!(run(&["listen", &whep, "--seconds", "-1"]), Exit::Usage);
    assert_eq!(run(&["listen", &whep, "--out", "/no/such/folder/x.ogg"]), Exit::Failed);
    assert_eq!(run(&["publish", &relay.url("/whip/no-such-1"), file]), Exit::Refused);
    assert_eq!(run(&["publish", &whip, "/no/such/file.ogg"]), Exit::Usage);
    assert_eq!(run(&["publish", &whip, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]), Exit::Usage);
    assert_eq!(run(&["publish", "http://127.0.0.1:1/whip/x", file]), Exit::CannotConnect);

    let stop = Stop::new();
    let options = PublishOptions {
        url: whip.clone(),
        packets: speech(0..50),
        looped: true,
        stop: stop.clone(),
        ..PublishOptions::default()
    };
    let speaker = std::thread::spawn(move || publish(&options, |_| {}));
    relay.wait_for(&session, |body| body["speakerConnected"] == true);
    assert_eq!(run(&["publish", &whip, file, "--quiet"]), Exit::Refused, "somebody speaks already");
    assert_eq!(run(&["listen", &whep, "--seconds", "1", "--json"]), Exit::Ok);
    stop.stop();
    speaker.join().unwrap().unwrap();
    relay.stop();
}

#[test]
fn the_end_of_a_session_ends_its_clients_with_a_reason() {
    let relay = Relay::start(|_| {});
    let session = relay.session();
    let listener = Listener::start(relay.url(&format!("/whep/{session}")), None, u64::MAX);
    listener.wait_connected();
    let (status, _) = relay.request("DELETE", &format!("/v1/sessions/{session}"), "");
    assert_eq!(status, 204);
    let error = listener.thread.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the relay closed the connection: the session or its language has ended");
    relay.stop();
}
