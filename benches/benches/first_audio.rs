//! Time to first audio, from end to end: real clients with full ICE and DTLS against a daemon in this process.
//!
//! Late listeners come one after the other while somebody speaks: from before their offer is made to the first packet
//! that they decrypt. Early listeners are connected, ten at a time, before the speaker is: from the speaker's first
//! packet to the first that each of them decrypts.
//! `cargo bench -p relay-benches --bench first_audio -- 100 10` takes the joins of each kind and the early listeners
//! of one session.
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use relay_benches::relay::{PATIENCE, Relay, arguments, percentiles, request, until};
use relayd::client::{ClientError, ListenOptions, ListenReport, Stop, listen};

/// How long a listener stays once it is connected: long enough for the first packet, which comes within 20 ms.
const STAY: Duration = Duration::from_millis(200);

fn main() {
    let (numbers, test) = arguments();
    let joins = if test { 2 } else { numbers.first().copied().unwrap_or(100) };
    let together = numbers.get(1).copied().unwrap_or(10).min(joins).max(1);
    let relay = Relay::start();
    let mut late = late(&relay, joins);
    let mut early = early(&relay, joins, together);
    println!("time to first audio, {joins} joins of each kind");
    println!("late, from the request          {}", percentiles(&mut late));
    println!("early, from the first packet    {}", percentiles(&mut early));
}

fn late(relay: &Relay, joins: usize) -> Vec<Duration> {
    let session = relay.session();
    let speaker = relay.speak(&session);
    until("the speaker is connected", || is_speaking(relay, &session));
    let url = relay.url(&format!("/whep/{session}"));
    let times = (0..joins).map(|_| {
        let options = ListenOptions { url: url.clone(), time: Some(STAY), ..ListenOptions::default() };
        let started = Instant::now();
        let report = listen(&options, |_| {}).expect("a listener hears");
        report.first_packet.expect("it has heard") - started
    });
    let times = times.collect();
    let _report = speaker.finish();
    times
}

fn early(relay: &Relay, joins: usize, together: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(joins);
    while times.len() < joins {
        let session = relay.session();
        let url = relay.url(&format!("/whep/{session}"));
        let (connected, news) = mpsc::channel();
        let listeners: Vec<_> =
            (0..together).map(|_| Waiting::start(url.clone(), connected.clone())).collect();
        for _ in &listeners {
            news.recv_timeout(PATIENCE).expect("an early listener connects");
        }
        let speaker = relay.speak(&session);
        until("the speaker is connected", || is_speaking(relay, &session));
        std::thread::sleep(STAY);
        let reports: Vec<_> = listeners.into_iter().map(Waiting::finish).collect();
        let spoke = speaker.finish().first_packet.expect("the speaker has spoken");
        times.extend(reports.iter().map(|report| report.first_packet.expect("it has heard") - spoke));
        let _gone = request(relay.address(), "DELETE", &format!("/v1/sessions/{session}"), "");
    }
    times.truncate(joins);
    times
}

fn is_speaking(relay: &Relay, session: &str) -> bool {
    let shown = request(relay.address(), "GET", &format!("/v1/sessions/{session}"), "");
    shown.is_some_and(|answer| answer.contains("\"speakerConnected\":true"))
}

/// A listener that was there before the speaker.
struct Waiting {
    stop: Stop,
    thread: JoinHandle<Result<ListenReport, ClientError>>,
}

impl Waiting {
    fn start(url: String, connected: mpsc::Sender<()>) -> Self {
        let stop = Stop::new();
        let options = ListenOptions { url, stop: stop.clone(), ..ListenOptions::default() };
        let mut told = false;
        let thread = std::thread::spawn(move || {
            listen(&options, |report| {
                if report.connected && !std::mem::replace(&mut told, true) {
                    // Whoever waited may have given up.
                    let _gone = connected.send(()).is_err();
                }
            })
        });
        Self { stop, thread }
    }

    fn finish(self) -> ListenReport {
        self.stop.stop();
        self.thread.join().expect("the listener's thread").expect("an early listener hears")
    }
}
