//! What a connected listener costs in memory, everything counted: the relay is a process of its own, and the guests,
//! who are in this one, come in over HTTP, ICE and DTLS.
//!
//! First so many listeners join, and stay while somebody speaks. Then all leave and come again, over and over: what
//! the process holds after each round should not grow.
//! `cargo bench -p relay-benches --bench memory -- 1000 20` takes the listeners and the rounds.
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use relay_benches::guest::{Guest, Http};
use relay_benches::process::Process;
use relay_benches::relay::{PATIENCE, arguments, session, speak_at};

/// How long the listeners stay before memory is read.
const STAY: Duration = Duration::from_secs(8);

fn main() {
    Process::serve_if_asked();
    let (numbers, test) = arguments();
    let listeners = if test { 20 } else { numbers.first().copied().unwrap_or(1000) };
    let rounds = if test { 2 } else { numbers.get(1).copied().unwrap_or(20) };
    let relay = Process::start();
    let session = session(relay.address()).expect("a session");
    let speaker = speak_at(relay.address(), &session);
    // What the process needs once, it needs before the first listener that is counted.
    let first = connect(relay.address(), &session, 10);
    stay(&mut { first }, if test { Duration::from_secs(1) } else { STAY });
    let before = relay.resident();
    let mut guests = connect(relay.address(), &session, listeners);
    stay(&mut guests, if test { Duration::from_secs(1) } else { STAY });
    let with = relay.resident();
    let each = with.saturating_sub(before) as f64 / listeners as f64 / 1024.0;
    println!(
        "{listeners} listeners: {each:.1} KiB each ({} KiB before, {} KiB with)",
        before >> 10,
        with >> 10
    );
    let mut held = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let mut http = Http::connect(relay.address());
        guests.into_iter().for_each(|guest| guest.leave(&mut http));
        guests = connect(relay.address(), &session, listeners);
        held.push((round as f64, relay.resident() as f64 / 1024.0));
    }
    println!(
        "{rounds} rounds of leaving and coming again, KiB: {:?}",
        held.iter().map(|at| at.1).collect::<Vec<_>>()
    );
    // The first half fills the allocator's pools.
    println!("slope of the second half: {:.2} KiB per round", slope(&held[held.len() / 2..]));
    let _report = speaker.finish();
}

fn connect(relay: SocketAddr, session: &str, count: usize) -> Vec<Guest> {
    let mut guests = Vec::with_capacity(count);
    while guests.len() < count {
        let together = guests.len() + (count - guests.len()).min(50);
        // One that waits too long for the next request is closed.
        let mut http = Http::connect(relay);
        while guests.len() < together {
            guests.push(Guest::join(&mut http, session).expect("a guest is let in"));
        }
        let start = Instant::now();
        while guests.iter().any(|guest| guest.connected().is_none()) {
            assert!(start.elapsed() < PATIENCE, "a guest does not get connected");
            guests.iter_mut().for_each(|guest| guest.turn(Instant::now()));
        }
    }
    guests
}

fn stay(guests: &mut [Guest], time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        guests.iter_mut().for_each(|guest| guest.turn(Instant::now()));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|at| at.0), mean(|at| at.1));
    let over = points.iter().map(|at| (at.0 - x) * (at.1 - y)).sum::<f64>();
    let under = points.iter().map(|at| (at.0 - x).powi(2)).sum::<f64>();
    if under > 0.0 { over / under } else { 0.0 }
}
