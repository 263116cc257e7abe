//! Raw sends as a relay makes them: a tick every 20 ms, to receivers that are read meanwhile.
//!
//! Between ticks the caches go cold and the thread sleeps; what its wake-ups cost is in its CPU time. The receivers are read by
//! another thread, on another core, with the means and in the rhythm of the load tester, so that the kernel has the same to do
//! for both.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use relayd::load::inbox::{AT_ONCE, Inbox, SWEEP, TURNS, stamp};
use relayd::webrtc::egress::BATCH;

use crate::cores::Cores;
use crate::ready::Ready;

/// Between ticks: a frame.
const TICK: Duration = Duration::from_millis(20);
/// Ticks before it counts.
const WARM_UP: u32 = 10;

/// What sending took.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// CPU time for each packet to each listener.
    pub ns_per_packet: f64,
    /// Half of the packets were there so soon after they were due.
    pub p50_ms: f64,
    /// 99 of 100 were.
    pub p99_ms: f64,
}

/// Sends for so long.
///
/// # Panics
/// When there is no socket to be had, or a packet is lost.
#[must_use]
pub fn send(listeners: usize, time: Duration, cores: &Cores) -> Spent {
    let ears: Vec<UdpSocket> = (0..listeners).map(|_| ear()).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            cores.receive();
            read(&ears, &stop)
        });
        let ticks = (time.as_nanos() / TICK.as_nanos()) as u32;
        let ready = Ready::new(&ears);
        let sender = scope.spawn(move || {
            cores.send();
            tick(ready, ticks)
        });
        let spent = sender.join().expect("the thread that sends");
        stop.store(true, Ordering::Release);
        let read = reader.join().expect("the thread that reads");
        assert_eq!(read, listeners * (ticks + WARM_UP) as usize, "every packet arrives");
        spent
    })
}

fn ear() -> UdpSocket {
    let ear = UdpSocket::bind("127.0.0.1:0").expect("a socket per listener: see ulimit -n");
    ear.set_nonblocking(true).expect("a socket can be non-blocking");
    // The kernel stamps what the tester reads.
    stamp(&ear).expect("Linux stamps datagrams");
    ear
}

fn tick(mut ready: Ready, ticks: u32) -> Spent {
    let listeners = ready.destinations.len();
    let mut after: Vec<Duration> = Vec::with_capacity(ticks as usize * listeners.div_ceil(BATCH));
    let begun = Instant::now();
    let mut before = Duration::ZERO;
    for number in 0..ticks + WARM_UP {
        let due = begun + TICK * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if number == WARM_UP {
            (before, _) = (own_time(), after.clear());
        }
        let start = Instant::now();
        ready.send(|| after.push(start.elapsed()));
    }
    // What a thread has used is added up when it rests.
    std::thread::sleep(TICK);
    let cpu = own_time() - before;
    // The last batch of a tick counts as if it were full.
    after.sort_unstable();
    let at = |percent: usize| after[(after.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let packets = f64::from(ticks) * listeners as f64;
    Spent { ns_per_packet: cpu.as_nanos() as f64 / packets, p50_ms: at(50), p99_ms: at(99) }
}

/// CPU time of this thread.
fn own_time() -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    Duration::from_nanos(spent.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number"))
}

/// Sweeps the sockets; how many datagrams there were.
fn read(ears: &[UdpSocket], stop: &AtomicBool) -> usize {
    let mut inbox = Inbox::new();
    let mut count = 0;
    let mut empty = |ear: &UdpSocket| loop {
        let read = inbox.read(ear);
        count += read;
        if read < AT_ONCE {
            return;
        }
    };
    let (mut turn, mut sweep_at) = (0, Instant::now());
    while !stop.load(Ordering::Acquire) {
        std::thread::sleep(sweep_at.saturating_duration_since(Instant::now()));
        sweep_at = (sweep_at + SWEEP).max(Instant::now());
        ears.iter().skip(turn).step_by(TURNS).for_each(&mut empty);
        turn = (turn + 1) % TURNS;
    }
    ears.iter().for_each(&mut empty);
    count
}
