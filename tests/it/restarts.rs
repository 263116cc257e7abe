//! A relay that crashes, or is stopped, and comes back on the same address, where its listeners come back to it.
//!
//! It has a session of the same name, and counts from the start: nothing that its listeners know of positions holds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use relayd::client::{ClientError, ListenOptions, ListenReport, Stop, listen, read_file};

use crate::cli::{PATIENCE, Relay};

/// Packets that are enough to be sure that they come.
const ENOUGH: u64 = 60;

fn demo(address: Option<SocketAddr>) -> Relay {
    Relay::start(|config| {
        config.demo.enabled = true;
        config.http.listen = address.unwrap_or(config.http.listen);
    })
}

struct Listener {
    stop: Stop,
    report: Arc<Mutex<ListenReport>>,
    ended: Arc<Mutex<Option<ClientError>>>,
    thread: JoinHandle<Result<ListenReport, ClientError>>,
}

impl Listener {
    fn start(url: String, out: Option<std::path::PathBuf>) -> Self {
        let (stop, report) = (Stop::new(), Arc::new(Mutex::new(ListenReport::default())));
        let options = ListenOptions { url, out, stop: stop.clone(), ..ListenOptions::default() };
        let ended = Arc::new(Mutex::new(None));
        let (told, why) = (report.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            let result = listen(&options, |report| *told.lock().unwrap() = *report);
            *why.lock().unwrap() = result.clone().err();
            result
        });
        Self { stop, report, ended, thread }
    }

    /// Waits until so many packets came, and tells how many.
    fn heard(&self, packets: u64) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = *self.report.lock().unwrap();
            if report.reception.packets >= packets {
                return report.reception.packets;
            }
            let ended = self.ended.lock().unwrap().clone();
            assert!(Instant::now() < deadline && ended.is_none(), "{ended:?}: {packets} of {report:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn finish(self) -> ListenReport {
        self.stop.stop();
        self.thread.join().unwrap().unwrap()
    }
}

/// Listens to a relay over both kinds of connection, ends it, starts another one there, and listens on.
fn restarts(name: &str, end: impl FnOnce(Relay)) {
    let relay = demo(None);
    let out = std::env::temp_dir().join(format!("relay-restart-{}-{name}.ogg", std::process::id()));
    let webrtc = Listener::start(relay.url("/whep/demo/en"), Some(out.clone()));
    let media = relay.url("/v1/sessions/demo/listen/en").replace("http:", "ws:");
    let websocket = Listener::start(media, None);
    let listeners = [webrtc, websocket];
    let before = listeners.each_ref().map(|listener| listener.heard(ENOUGH));
    let address = relay.http();
    end(relay);
    let relay = demo(Some(address));
    for (listener, before) in listeners.iter().zip(before) {
        // A second's worth may have come between the last report and the end.
        listener.heard(before + 100 + ENOUGH);
    }
    let reports = listeners.map(Listener::finish);
    for report in reports {
        let (stats, switches) = (report.reception, report.switches);
        assert_eq!((stats.lost, stats.out_of_order, stats.duplicates), (0, 0, 0), "{report:?}");
        assert_eq!((switches.restarts, switches.resumes), (1, 0), "{report:?}");
        assert_eq!((switches.missing, switches.gap_frames), (0, 0), "{report:?}");
    }
    let recorded = read_file(&out).unwrap();
    std::fs::remove_file(out).unwrap();
    let frames = recorded.iter().filter(|packet| !packet.is_empty()).count();
    assert_eq!(frames as u64, reports[0].reception.packets, "all that was heard is recorded");
    relay.stop();
}

#[test]
fn listeners_hear_a_relay_again_that_has_crashed() {
    restarts("crash", Relay::crash);
}

#[test]
fn listeners_hear_a_relay_again_that_was_stopped_and_started() {
    restarts("stop", Relay::stop);
}
