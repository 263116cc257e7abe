//! `relayd load` against a whole daemon, and against servers that are none.
//!
//! Speed is not tested here: whether the tester keeps up depends on what else this machine does. What it counts is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use relayd::cli::{self, Exit};
use relayd::client::Stop;
use relayd::load::{
    Cause, Churn, Limits, LoadError, LoadOptions, Percentiles, Report, Second, Target, load, plot, summary,
};
use serde_json::Value;

use super::cli::{PATIENCE, Relay};

fn options(target: Target, listeners: usize, publishers: usize) -> LoadOptions {
    LoadOptions {
        target,
        sessions: publishers.max(1),
        listeners,
        ramp: 100.0,
        time: Duration::from_secs(1),
        churn: None,
        publishers,
        threads: Some(2),
        token: None,
        ca_file: None,
        server_pids: Vec::new(),
        limits: Limits::default(),
        stop: Stop::new(),
    }
}

fn at(relay: &Relay) -> Target {
    Target::Relay { relay: relay.url("") }
}

/// Runs the command; under load it may find that it does not keep up, and that is no failure here.
fn command(arguments: &[&str]) -> Exit {
    let all = ["relayd", "load", "--quiet"].iter().chain(arguments);
    cli::main(all.map(std::ffi::OsString::from).collect::<Vec<_>>())
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("relay-tests-{}-{name}", std::process::id()))
}

fn read(path: PathBuf) -> String {
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    text
}

/// A run on a thread of its own, second by second.
struct Running {
    stop: Stop,
    told: Receiver<Second>,
    thread: JoinHandle<Result<Report, LoadError>>,
}

impl Running {
    fn start(options: LoadOptions) -> Self {
        let (stop, (tell, told)) = (options.stop.clone(), channel());
        let thread = std::thread::spawn(move || {
            load(&options, |second| {
                // The test may have failed already.
                let _gone = tell.send(*second).is_err();
            })
        });
        Self { stop, told, thread }
    }

    /// Waits for so many seconds of which this is true.
    fn until(&self, count: usize, what: impl Fn(&Second) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut left = count;
        while left > 0 {
            let second = self.told.recv_timeout(PATIENCE).expect("it goes on");
            left -= usize::from(what(&second));
            assert!(Instant::now() < deadline, "never came");
        }
    }

    fn end(self) -> Report {
        self.stop.stop();
        self.thread.join().unwrap().unwrap()
    }
}

#[test]
fn every_packet_of_every_publisher_is_heard_once_by_its_listeners() {
    let relay = Relay::start(|_| {});
    let mut seconds = 0;
    let mut options = options(at(&relay), 24, 3);
    options.server_pids = vec![std::process::id(); 2];
    let report = load(&options, |second| {
        assert!(second.connected <= 24 && second.failed == 0);
        seconds += 1;
    })
    .unwrap();
    assert_eq!(report.outcome.failed, Vec::<String>::new(), "{}", summary(&report));
    let (joins, media) = (&report.joins, &report.media);
    assert_eq!((joins.asked, joins.connected, joins.heard), (24, 24, 24));
    assert_eq!((joins.first_packet_ms.count, joins.answered_ms.count), (24, 24));
    // What was sent while a listener's handshake ended may come twice: the relay sends it again.
    assert_eq!((media.lost, media.stale), (0, 0));
    assert!(media.duplicates <= 24 * 5, "{}", media.duplicates);
    assert_eq!((media.foreign, media.damaged, media.unopened), (0, 0, 0));
    assert!(media.sent >= 3 * 50, "three publishers for more than a second: {}", media.sent);
    assert!(media.packets >= 24 * 45, "{}", media.packets);
    let counted = report.steady.latency_ms.count + report.ramp.latency_ms.count;
    assert!(counted > 0 && counted <= media.packets);
    assert!(seconds >= 1 && report.seconds.len() == seconds);
    let server = report.server.as_ref().unwrap();
    assert!(server.rss_bytes > 0);
    assert_eq!(server.pids, [std::process::id()], "named twice, and one process");
    assert_eq!(report.run.sessions, 3);
    let session = report.run.whep.split('/').rev().nth(1).unwrap();
    let (status, ended) = relay.request("GET", &format!("/v1/sessions/{session}"), "");
    assert!(matches!(status, 404 | 410), "what was created is deleted: {status} {ended}");
    relay.stop();
}

#[test]
fn listeners_that_come_and_go_lose_nothing_and_memory_is_told_by_the_tick() {
    let relay = Relay::start(|_| {});
    let mut options = options(at(&relay), 12, 1);
    options.server_pids = vec![std::process::id()];
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    let churn = Churn { stay: hours(1), away: hours(1) / 4, speed: 3_600.0, tick: hours(1), ticks: 4 };
    options.churn = Some(churn);
    let report = load(&options, |_| {}).unwrap();
    assert_eq!(report.outcome.failed, Vec::<String>::new(), "{}", summary(&report));
    let (joins, media) = (&report.joins, &report.media);
    let churn = report.churn.as_ref().unwrap();
    assert_eq!(churn.ticks.len(), 4);
    assert_eq!(joins.asked, 12 + churn.joined, "{}", summary(&report));
    assert_eq!((joins.connected, media.lost, churn.tickets_refused), (joins.asked, 0, 0));
    // Nobody leaves in four times the mean stay: once in e^48 runs.
    assert!(churn.deleted + churn.vanished > 0 && churn.with_ticket <= churn.vanished);
    assert!(churn.ticks.iter().all(|tick| tick.server_rss_bytes.is_some() && tick.connected <= 12));
    assert_eq!(churn.growth.unwrap().warm_up_ticks, 1);
    assert!(summary(&report).contains("KiB a tick"));
    relay.stop();
}

#[test]
fn a_speaker_of_somebody_elses_is_counted_by_its_packets() {
    let relay = Relay::start(|config| config.demo.enabled = true);
    let (json, svg) = (file("load.json"), file("load.svg"));
    let url = relay.url("");
    let demo = ["--relay", &url, "--session", "demo/en", "--publishers", "0", "--listeners", "5"];
    let (json_path, svg_path) = (json.to_str().unwrap(), svg.to_str().unwrap());
    let run = |more: &[&str]| command(&[&demo[..], more].concat());
    let exit = run(&["--seconds", "1", "--json", json_path, "--plot", svg_path]);
    assert!(matches!(exit, Exit::Ok | Exit::CannotKeepUp), "{exit:?}");
    let report: Value = serde_json::from_str(&read(json.clone())).unwrap();
    assert_eq!(report["joins"]["heard"], 5, "{report}");
    assert_eq!(report["media"]["foreign"], report["media"]["packets"]);
    assert_eq!((&report["media"]["lost"], &report["media"]["sent"]), (&0.into(), &0.into()));
    assert_eq!(report["steady"]["latencyMs"]["p99"], Value::Null, "nobody said when it was sent");
    assert!(read(svg).starts_with("<svg"));
    let exit = run(&["--seconds", "0.1", "--json", json_path, "--plot", "/dev/full"]);
    assert!(matches!(exit, Exit::Failed | Exit::CannotKeepUp), "{exit:?}");
    assert!(read(json).starts_with('{'), "a disk that is full spoils one file");
    relay.stop();
}

#[test]
fn a_server_that_goes_away_is_told_from_one_that_is_slow() {
    let relay = Relay::start(|_| {});
    let mut options = options(at(&relay), 4, 1);
    (options.time, options.ramp) = (PATIENCE, 1_000.0);
    let running = Running::start(options);
    running.until(1, |second| second.steady);
    relay.stop();
    running.until(1, |second| second.ended == 4);
    let report = running.end();
    assert!(report.run.stopped_early);
    assert_eq!(report.media.disconnects.values().sum::<u64>(), 4);
    let failed = report.outcome.failed.join("\n");
    for expected in ["4 listeners lost", "1 publishers lost"] {
        assert!(failed.contains(expected), "{failed}");
    }
}

#[test]
fn listeners_that_fall_silent_fail_the_run_whoever_speaks() {
    let relay = Relay::start(|_| {});
    let session = relay.session();
    let start = |listeners, publishers| {
        let target =
            Target::Session { relay: relay.url(""), session: session.clone(), language: Some("en".into()) };
        let mut options = options(target, listeners, publishers);
        options.time = 3 * PATIENCE;
        // What was lost is not the question here.
        options.limits.max_loss_percent = Some(100.0);
        let running = Running::start(options);
        running.until(1, |second| second.steady && second.packets_per_second > 0.0);
        running
    };
    let (speaker, other) = (start(2, 1), start(3, 0));
    let (status, answer) = relay.request("POST", &format!("/v1/sessions/{session}/pause"), "");
    assert_eq!(status, 200, "{answer}");
    for (running, silent) in [(speaker, "2 of 2"), (other, "3 of 3")] {
        running.until(3, |second| second.packets_per_second == 0.0);
        let report = running.end();
        assert!(summary(&report).contains("\nstopped early "), "{}", summary(&report));
        let failed = report.outcome.failed.join("\n");
        assert!(failed.starts_with(&format!("{silent} listeners heard nothing for the last ")), "{failed}");
    }
    relay.stop();
}

#[test]
fn silence_fails_the_run_and_so_does_a_limit_that_nothing_was_measured_for() {
    let relay = Relay::start(|_| {});
    let session = relay.session();
    let target = Target::Session { relay: relay.url(""), session, language: Some("es".into()) };
    let mut options = options(target, 3, 0);
    options.limits.max_p99 = Some(Duration::from_secs(60));
    let report = load(&options, |_| {}).unwrap();
    assert_eq!((report.joins.connected, report.joins.heard), (3, 0));
    let failed = report.outcome.failed.join("\n");
    for expected in ["3 listeners connected and heard nothing", "--max-p99", "nothing was heard at all"] {
        assert!(failed.contains(expected), "{failed}");
    }
    options.stop.stop();
    let early = load(&options, |_| {}).unwrap();
    assert_eq!((early.joins.asked, early.run.stopped_early), (0, true), "stopped before it began");
    relay.stop();
}

#[test]
fn a_second_tester_on_this_machine_hears_the_first_ones_publisher_with_its_times() {
    let relay = Relay::start(|_| {});
    let session = relay.session();
    let target = Target::Session { relay: relay.url(""), session, language: None };
    let mut first = options(target.clone(), 1, 1);
    first.time = PATIENCE;
    let running = Running::start(first);
    running.until(1, |second| second.steady);
    let second = load(&options(target, 3, 0), |_| {}).unwrap();
    let first = running.end();
    assert_eq!((second.joins.heard, second.media.foreign, second.media.sent), (3, 0, 0));
    assert_eq!((first.media.lost, second.media.lost), (0, 0));
    assert_eq!(second.steady.latency_ms.count, second.steady.packets, "each with a time");
    assert_eq!(second.steady.forwarding_ms.count, second.steady.packets);
    let middle = |times: Percentiles| times.p50.unwrap();
    assert!(
        middle(second.steady.forwarding_ms) <= middle(second.steady.latency_ms),
        "none is sent before it is due"
    );
    relay.stop();
}

#[test]
fn a_place_that_is_taken_is_no_run() {
    let relay = Relay::start(|config| config.demo.enabled = true);
    let target = Target::Session { relay: relay.url(""), session: "demo".into(), language: None };
    match load(&options(target, 3, 1), |_| {}) {
        Err(LoadError::Publishers { why, cause }) => {
            assert_eq!((why.as_str(), cause), ("HTTP 409 SPEAKER_EXISTS", Cause::Refused { status: 409 }));
        }
        other => panic!("{other:?}"),
    }
    relay.stop();
}

/// A server that answers each request with the next of these, and closes.
fn strange(answers: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (answer, stream) in answers.iter().zip(listener.incoming()) {
            let mut stream = stream.unwrap();
            request(&mut stream);
            // Whoever asked may have had enough.
            let _gone = stream.write_all(answer.as_bytes()).is_err();
        }
    });
    address
}

/// Reads a request to its end.
fn request(stream: &mut TcpStream) {
    let mut read = Vec::new();
    let mut buffer = [0; 4_096];
    while !read.ends_with(b"\r\n") || !read.windows(3).any(|part| part == b"v=0") {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => read.extend(&buffer[..length]),
            _ => return,
        }
    }
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn strange_run(answers: Vec<String>) -> Report {
    let listeners = answers.len();
    let address = strange(answers);
    let target = Target::Addresses { whip: None, whep: format!("http://{address}/whep/x") };
    load(&options(target, listeners, 0), |_| {}).unwrap()
}

#[test]
fn a_server_that_answers_nonsense_is_counted_by_its_reasons() {
    let sdp = "201 Created\r\nContent-Type: application/sdp";
    let problem = r#"{"title":"Service Unavailable","code":"CAPACITY"}"#;
    let report = strange_run(vec![
        answer("503 Service Unavailable\r\nContent-Type: application/problem+json", problem),
        answer("404 Not Found", ""),
        answer("200 OK\r\nContent-Type: text/html", "<html>"),
        answer(&format!("{sdp}\r\nLocation: /x"), "no description at all"),
        answer(&format!("{sdp}\r\nLocation: /x"), "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"),
        answer(sdp, "v=0\r\n"),
        String::new(),
    ]);
    assert_eq!((report.joins.asked, report.joins.connected), (7, 0));
    assert_eq!(report.joins.failed.values().sum::<u64>(), 7, "{:?}", report.joins.failed);
    let reasons: Vec<&str> = report.joins.failed.keys().map(String::as_str).collect();
    let has = |what: &str| assert!(reasons.iter().any(|reason| reason.contains(what)), "{what}: {reasons:?}");
    ["HTTP 503 CAPACITY", "HTTP 404 Not Found", "no WHIP or WHEP endpoint", "cannot be used", "Location"]
        .into_iter()
        .for_each(has);
    assert!(report.outcome.failed.iter().any(|reason| reason == "7 joins failed"));
    assert!(report.outcome.failed.iter().any(|reason| reason.contains("nothing was heard")));
    assert!(plot(&report).contains("</svg>"), "a picture of nothing is a picture");
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (relay, unwritten) = (format!("http://{closed}"), file("unwritten.json"));
    let plain = ["--relay", &relay, "--json", unwritten.to_str().unwrap()];
    assert_eq!(command(&plain), Exit::CannotConnect);
    assert!(!unwritten.exists(), "no run, no report");
    let missing = || answer("404 Not Found", "");
    let crash = || answer("500 Internal Server Error", "");
    let few = ["--listeners", "2", "--seconds", "0.1"];
    let silent = ["--publishers", "0"];
    for (answers, exit) in [
        (vec![missing(), missing()], Exit::Refused),
        (vec![missing(), crash()], Exit::Failed),
        (vec![crash(), crash()], Exit::Failed),
    ] {
        let whep = format!("http://{}/whep/x", strange(answers));
        assert_eq!(command(&[&["--whep", &whep][..], &silent, &few].concat()), exit);
    }
    let whep = format!("{relay}/whep/x");
    assert_eq!(command(&[&["--whep", &whep][..], &silent, &few].concat()), Exit::CannotConnect);
    let nope = format!("http://{}", strange(vec![missing()]));
    assert_eq!(command(&["--relay", &nope, "--session", "nope"]), Exit::Refused);
    for wrong in [
        &["--whip", "http://x/whip/a"][..],
        &["--whep", "http://x/whep/a"],
        &["--whep", "http://x/whep/a", "--session", "demo"],
        &["--whep", "ftp://x/whep/a", "--publishers", "0"],
        &["--whip", "http://x/whip/a", "--whep", "http://x/whep/a", "--publishers", "2"],
        &["--ramp", "0"],
        &["--listeners", "0"],
        &["--max-loss", "101"],
        &["--churn", "--seconds", "5"],
        &["--max-growth", "1"],
        &["--server-pid", "4294967295"],
        &["--relay", &relay, "--json", "/no/such/folder/load.json"],
        &["--relay", &relay, "--plot", "/"],
        &["--relay", "127.0.0.1:8080"],
        &["--relay", "127.0.0.1:8080", "--session", "demo"],
        &["--whep", "ws://x/v1/sessions/demo/listen/en", "--publishers", "0"],
        &["--relay", &relay, "--ca-file", "/no/such/file.pem"],
    ] {
        assert_eq!(command(wrong), Exit::Usage, "{wrong:?}");
    }
    assert_eq!((Exit::CannotKeepUp.code(), Exit::CannotBind.code()), (3, 3));
}
