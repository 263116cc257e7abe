//! Listeners that come and go leave nothing behind.
//!
//! The relay is a process of its own under an allocator that counts. Its guests come in over HTTP, ICE and DTLS: as somebody
//! new, with the ticket of a connection that is there, from which they take over, and with that of one that is gone. What is
//! kept of those who are gone is bounded by time and, in a session with room for few, by number: once that many have come
//! and gone, the relay holds as many bytes after N joins as after 2 N.
#![expect(clippy::print_stdout, reason = "the figures are for whoever looks into a failure")]

use std::time::Instant;

use relay_benches::allocations::Counting;
use relay_benches::guest::{Guest, Http};
use relay_benches::process::Process;
use relay_benches::relay::{PATIENCE, session, speak_at};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Listeners that the session has room for; the relay remembers a few more of those who are gone.
const ROOM: usize = 40;
/// Guests at a time.
const GUESTS: usize = 5;
/// Joins between two readings.
const N: usize = 400;
/// So many times [`N`] joins come before, in which tables get as large as they will be.
const WARM_UP: usize = 3;
/// What tables may grow by that are as large as the most there ever was at one time: 100 bytes for each join are too many, of
/// which the least that is kept of a listener takes several times as much.
const MOST: i64 = 40_000;

fn main() {
    Process::serve_if_asked();
    let mut relay = Process::start_for(ROOM, 0);
    let session = session(relay.address()).expect("a session");
    let speaker = speak_at(relay.address(), &session);
    for _ in 0..WARM_UP {
        come_and_go(&relay, &session, N);
        println!("{N} joins more: {} bytes", relay.live());
    }
    let before = settled(&mut relay, i64::MAX);
    come_and_go(&relay, &session, N);
    let after = settled(&mut relay, before + MOST);
    println!("{before} bytes, {after} after {N} joins more");
    assert!(after <= before + MOST, "{} bytes more for {N} joins", after - before);
    let _report = speaker.finish();
}

/// What the relay holds once that falls no more, or is no more than `most`.
fn settled(relay: &mut Process, most: i64) -> i64 {
    let (start, mut least) = (Instant::now(), relay.live());
    loop {
        let next = relay.live();
        let falls = next < least;
        least = least.min(next);
        if !falls && least <= most || start.elapsed() > PATIENCE {
            return least;
        }
    }
}

/// So many joins, of which half are somebody new, and all are gone again.
fn come_and_go(relay: &Process, session: &str, joins: usize) {
    for _ in 0..joins / (4 * GUESTS) {
        let mut http = Http::connect(relay.address());
        let first = join(&mut http, session, &[""; GUESTS]);
        let second = join(&mut http, session, &tickets(&first));
        leave(&mut http, first);
        let left = tickets(&second).map(str::to_owned);
        leave(&mut http, second);
        let third = join(&mut http, session, &left.each_ref().map(String::as_str));
        leave(&mut http, third);
        let fourth = join(&mut http, session, &[""; GUESTS]);
        leave(&mut http, fourth);
    }
}

/// One for each ticket; without one, somebody new.
fn join(http: &mut Http, session: &str, tickets: &[&str; GUESTS]) -> Vec<Guest> {
    let mut guests: Vec<Guest> = tickets
        .iter()
        .map(|ticket| Guest::come_back(http, session, ticket).expect("a guest is let in"))
        .collect();
    let start = Instant::now();
    while guests.iter().any(|guest| guest.connected().is_none()) {
        assert!(start.elapsed() < PATIENCE, "a guest does not get connected");
        guests.iter_mut().for_each(|guest| guest.turn(Instant::now()));
    }
    guests
}

fn tickets(guests: &[Guest]) -> [&str; GUESTS] {
    std::array::from_fn(|at| guests[at].ticket())
}

fn leave(http: &mut Http, guests: Vec<Guest>) {
    guests.into_iter().for_each(|guest| guest.leave(http));
}
