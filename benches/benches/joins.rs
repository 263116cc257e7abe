//! A storm of joins while others listen: what a join costs the relay in CPU, how many come in a second, and whether
//! those who listen lose anything. The relay is a process of its own.
//!
//! `cargo bench -p relay-benches --bench joins -- 1000 10` takes the listeners who play and the seconds of the storm.
//! Each guest of the storm leaves as soon as it is connected, so that the relay's load stays that of joins.
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use relay_benches::guest::{Guest, Http};
use relay_benches::process::Process;
use relay_benches::relay::{PATIENCE, arguments, percentiles, session, speak_at};

/// Joins under way at one time.
const TOGETHER: usize = 64;

fn main() {
    Process::serve_if_asked();
    let (numbers, test) = arguments();
    let playing = if test { 10 } else { numbers.first().copied().unwrap_or(1000) };
    let time = Duration::from_secs(if test { 1 } else { numbers.get(1).copied().unwrap_or(10) as u64 });
    let relay = Process::start();
    let session = session(relay.address()).expect("a session");
    let speaker = speak_at(relay.address(), &session);
    let audience = Audience::start(relay.address(), &session, playing);
    // What playing alone costs, to be taken off.
    let quiet = spent(&relay, || std::thread::sleep(time));
    let mut times = Vec::new();
    let start = Instant::now();
    let before = relay.threads();
    let storm = spent(&relay, || times = storm(relay.address(), &session, time));
    let threads = relay.threads();
    let lasted = start.elapsed().as_secs_f64();
    let joins = times.len() as f64;
    let (heard, lost) = audience.finish();
    let cpu = (storm.as_secs_f64() - quiet.as_secs_f64() * lasted / time.as_secs_f64()) / joins;
    println!("{playing} play; {joins} joins in {lasted:.1} s: {:.0} a second", joins / lasted);
    println!(
        "CPU of the relay per join and leave: {:.0} us, so {:.0} a second and core",
        cpu * 1e6,
        1.0 / cpu
    );
    println!("join to connected   {}", percentiles(&mut times));
    println!("those who play heard {heard} packets and lost {lost}");
    for (name, time) in threads {
        let earlier = before.iter().find(|(known, _)| *known == name).map_or(Duration::ZERO, |at| at.1);
        let each = (time.saturating_sub(earlier)).as_secs_f64() / joins * 1e6;
        println!("  {name:<16} {each:>7.1} us per join, playing included");
    }
    let _report = speaker.finish();
}

fn spent(relay: &Process, work: impl FnOnce()) -> Duration {
    let before = relay.cpu();
    work();
    relay.cpu() - before
}

/// Joins, [`TOGETHER`] at a time, and leaves again; how long each took from the request until it was connected.
fn storm(address: SocketAddr, session: &str, time: Duration) -> Vec<Duration> {
    let mut http = Http::connect(address);
    let start = Instant::now();
    let mut coming: VecDeque<(Instant, Guest)> = VecDeque::new();
    let mut times = Vec::new();
    while start.elapsed() < time || !coming.is_empty() {
        if coming.len() < TOGETHER && start.elapsed() < time {
            let asked = Instant::now();
            coming.push_back((asked, Guest::join(&mut http, session).expect("a guest is let in")));
        }
        for _ in 0..coming.len() {
            let Some((asked, mut guest)) = coming.pop_front() else { break };
            guest.turn(Instant::now());
            assert!(asked.elapsed() < PATIENCE, "a guest does not get connected");
            match guest.connected() {
                Some(at) => {
                    times.push(at - asked);
                    guest.leave(&mut http);
                }
                None => coming.push_back((asked, guest)),
            }
        }
    }
    times
}

/// Those who play, on a thread of their own.
struct Audience {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Audience {
    fn start(address: SocketAddr, session: &str, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, session) = (stop.clone(), session.to_owned());
        let (ready, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut http = Http::connect(address);
            let mut guests: Vec<Guest> = Vec::with_capacity(count);
            while guests.len() < count {
                guests.push(Guest::join(&mut http, &session).expect("a guest is let in"));
                guests.iter_mut().rev().take(50).for_each(|guest| guest.turn(Instant::now()));
            }
            while guests.iter().any(|guest| guest.heard().0 == 0) {
                guests.iter_mut().for_each(|guest| guest.turn(Instant::now()));
            }
            ready.send(()).expect("somebody waits");
            while !stopped.load(Ordering::Relaxed) {
                guests.iter_mut().for_each(|guest| guest.turn(Instant::now()));
                std::thread::sleep(Duration::from_millis(15));
            }
            guests.iter().map(Guest::heard).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
        });
        wait.recv_timeout(6 * PATIENCE).expect("all play");
        Self { stop, thread }
    }

    fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the audience's thread")
    }
}
