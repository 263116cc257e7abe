//! A daemon on free ports of loopback, in this process, and the little HTTP that benches need.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relayd::client::{PublishOptions, PublishReport, Stop, ogg, publish, read_file};
use relayd::config::Config;
use relayd::daemon::Daemon;
use tokio::runtime::Runtime;

/// A daemon with a runtime of its own; stopped when dropped.
#[derive(Debug)]
pub struct Relay {
    runtime: Runtime,
    daemon: Option<Daemon>,
    address: SocketAddr,
}

impl Relay {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Config::default())
    }

    /// Starts it as configured, but for where it listens.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with(mut config: Config) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        (config.http.listen, config.ops.listen, config.webrtc.listen) = (free, free, free);
        let runtime = Runtime::new().expect("a runtime");
        let daemon = runtime.block_on(Daemon::start(config)).expect("the relay starts");
        let address = daemon.http_addr();
        Self { runtime, daemon: Some(daemon), address }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its operator's listener is.
    ///
    /// # Panics
    /// Never: it runs until it is dropped.
    #[must_use]
    pub fn ops_address(&self) -> SocketAddr {
        self.daemon.as_ref().expect("it runs").ops_addr()
    }

    /// An absolute address.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Creates a session and answers with its id.
    ///
    /// # Panics
    /// When it is not created.
    #[must_use]
    pub fn session(&self) -> String {
        session(self.address).expect("a session")
    }

    /// Speaks in a session, over and over, on a thread of its own.
    #[must_use]
    pub fn speak(&self, session: &str) -> Speaker {
        speak_at(self.address, session)
    }
}

/// Speaks in a session of any relay, over and over, on a thread of its own.
#[must_use]
pub fn speak_at(address: SocketAddr, session: &str) -> Speaker {
    let stop = Stop::new();
    let url = format!("http://{address}/whip/{session}");
    let options = PublishOptions {
        url,
        packets: speech(),
        looped: true,
        stop: stop.clone(),
        ..PublishOptions::default()
    };
    Speaker { stop, thread: std::thread::spawn(move || publish(&options, |_| {}).expect("a speaker")) }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.runtime.block_on(daemon.shutdown());
        }
    }
}

/// A speaker on a thread.
#[derive(Debug)]
pub struct Speaker {
    stop: Stop,
    thread: std::thread::JoinHandle<PublishReport>,
}

impl Speaker {
    /// Ends it.
    ///
    /// # Panics
    /// When it had failed.
    #[must_use]
    pub fn finish(self) -> PublishReport {
        self.stop.stop();
        self.thread.join().expect("the speaker's thread")
    }
}

/// Creates a session; `None` unless the answer is 201.
#[must_use]
pub fn session(address: SocketAddr) -> Option<String> {
    let body = r#"{"sourceLanguage":"en"}"#;
    let answer = request(address, "POST", "/v1/sessions", body)?;
    let id = answer.strip_prefix("HTTP/1.1 201")?.split_once("\"sessionId\":\"")?.1;
    id.split('"').next().map(str::to_owned)
}

/// One request on a connection of its own; the whole answer, or nothing if there is none.
#[must_use]
pub fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The bundled speech.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn speech() -> Arc<[ogg::Packet]> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../relayd/assets/en.ogg");
    read_file(&file).expect("the bundled speech")
}

/// Median, 99th percentile and longest, in milliseconds.
#[must_use]
pub fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else { return "none".to_owned() };
    let at =
        |percent: usize| times[(times.len() * percent).div_ceil(100).saturating_sub(1)].as_secs_f64() * 1e3;
    let longest = times[last].as_secs_f64() * 1e3;
    format!("p50 {:>8.1} ms   p99 {:>8.1} ms   longest {longest:>8.1} ms   ({})", at(50), at(99), times.len())
}

/// Numbers among the arguments, and whether this is only to show that it runs.
#[must_use]
pub fn arguments() -> (Vec<usize>, bool) {
    let numbers = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    (numbers, std::env::args().any(|argument| argument == "--test"))
}

/// How long anything may take before the bench gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must come to pass.
///
/// # Panics
/// When it does not.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
