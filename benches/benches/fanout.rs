//! Fan-out over loopback, against the kernel's own speed in the same rounds.
//!
//! Rounds of these alternate, sockets are emptied in between, and the figures are nanoseconds per packet per listener:
//!
//! | way | what it is |
//! |---|---|
//! | raw | datagrams that are ready, 64 to a system call |
//! | sealed | the same, each written and sealed first: header, SRTP, destination |
//! | plane | one packet of a publisher through engine, SRTP and the same call |
//! | daemon | a relay in a process of its own: CPU time of all its threads while `relayd load` speaks to it and listens |
//!
//! The daemon is loaded for some seconds between two halves of the other rounds, on as many cores as there are. Its latency is
//! from when a packet was to be sent to when the listener has opened it, compared with how long the raw sends of one tick take.
//! `cargo bench -p relay-benches --bench fanout -- 200 1000 5000` takes the rounds and the numbers of listeners;
//! each listener takes a file descriptor. `-- --short` (`--test` is the same) shows that it runs and fails on no time.
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relay_benches::audience::{Audience, keys};
use relay_benches::relay::{Relay, arguments};
use relayd::client::Stop;
use relayd::load::{Limits, LoadOptions, Target, load};
use relayd::webrtc::egress::{Batch, Destination};
use relayd::webrtc::srtp::{SrtpProfile, SrtpSender};

/// Header of 24 bytes, payload of 120, tag of 16.
const DATAGRAM: usize = 160;
const PROFILE: SrtpProfile = SrtpProfile::AeadAes256Gcm;
const WAYS: [&str; 3] = ["raw sendmmsg 64", "sealed and sent", "plane with engine"];
/// The argument that makes this program the relay.
const ROLE: &str = "--be-the-relay";

fn main() {
    if std::env::args().any(|argument| argument == ROLE) {
        return serve();
    }
    let (numbers, test) = arguments();
    let short = test || std::env::args().any(|argument| argument == "--short");
    let (rounds, counts): (usize, &[usize]) = match numbers.as_slice() {
        _ if short => (20, &[100, 500]),
        [] => (200, &[100, 1_000, 5_000]),
        [rounds] => (*rounds, &[100, 1_000, 5_000]),
        [rounds, counts @ ..] => (*rounds, counts),
    };
    for &listeners in counts {
        let mut table = Table::new(listeners);
        table.measure(rounds / 2);
        let daemon = Daemon::start().load(listeners, Duration::from_secs(if short { 1 } else { 10 }));
        table.measure(rounds - rounds / 2);
        let raw = table.print();
        println!("{}", daemon.line(listeners, raw));
    }
}

/// Rounds of what sends in this process.
struct Table {
    listeners: usize,
    audience: Audience,
    ready: Ready,
    wall: [Vec<f64>; 3],
}

impl Table {
    fn new(listeners: usize) -> Self {
        let audience = Audience::new(listeners, &[PROFILE]);
        let ready = Ready::new(&audience);
        Self { listeners, audience, ready, wall: Default::default() }
    }

    fn measure(&mut self, rounds: usize) {
        for round in 0..rounds + 5 {
            for way in 0..WAYS.len() {
                let start = Instant::now();
                match way {
                    0 => self.ready.send(),
                    1 => self.ready.seal_and_send(),
                    _ => {
                        self.audience.publish();
                        self.audience.plane.drain();
                    }
                }
                let wall = start.elapsed();
                // Reports come now and then.
                assert!(self.audience.empty() >= self.listeners, "every packet arrives");
                if round >= 5 {
                    self.wall[way].push(wall.as_nanos() as f64 / self.listeners as f64);
                }
            }
        }
    }

    /// Prints the table; the least and the middle of the raw sends.
    fn print(&self) -> (f64, f64) {
        println!(
            "\n{} listeners, {} rounds: ns per packet per listener, least / median",
            self.listeners,
            self.wall[0].len()
        );
        let raw = least_and_middle(&self.wall[0]);
        for (at, way) in WAYS.iter().enumerate() {
            let (least, middle) = least_and_middle(&self.wall[at]);
            println!(
                "{way:<18} {least:>6.0} / {middle:>6.0}   ratio {:>5.2} / {:>5.2}",
                least / raw.0,
                middle / raw.1
            );
        }
        raw
    }
}

fn least_and_middle(figures: &[f64]) -> (f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted.first().copied().unwrap_or(f64::NAN), sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN))
}

/// Without an engine: what is to be sent is known.
struct Ready {
    batch: Batch,
    destinations: Vec<Destination>,
    senders: Vec<SrtpSender>,
    index: u64,
}

impl Ready {
    fn new(audience: &Audience) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let batch = Batch::new(socket).expect("the socket is bound");
        let address = |ear: &UdpSocket| ear.local_addr().expect("the socket is bound");
        let destinations = audience.ears.iter().map(|ear| batch.destination(address(ear))).collect();
        // Keys of nobody in the audience.
        let sender = |number| keys(PROFILE, (1 << 32) + number as u64).srtp_sender(7);
        let senders = (0..audience.ears.len()).map(sender).collect();
        Self { batch, destinations, senders, index: 0 }
    }

    fn send(&mut self) {
        for destination in &self.destinations {
            self.batch.slot(DATAGRAM).expect("a short datagram");
            self.batch.commit(DATAGRAM, destination);
        }
        self.batch.flush();
    }

    fn seal_and_send(&mut self) {
        let mut header = [0; 24];
        header[0] = 0x90;
        header[2..4].copy_from_slice(&(self.index as u16).to_be_bytes());
        header[8..12].copy_from_slice(&7_u32.to_be_bytes());
        for (sender, destination) in self.senders.iter_mut().zip(&self.destinations) {
            let out = self.batch.slot(DATAGRAM).expect("a short datagram");
            let sealed = sender.seal(self.index, &header, &[0x5a; 120], out).expect("the index is new");
            self.batch.commit(sealed, destination);
        }
        self.batch.flush();
        self.index += 1;
    }
}

/// A relay in a child process, which ends when this is dropped.
struct Daemon {
    child: Child,
    url: String,
}

/// What it took.
struct Loaded {
    us_per_packet: f64,
    p50_ms: f64,
    p99_ms: f64,
    lost: u64,
    outcome: String,
}

impl Daemon {
    fn start() -> Self {
        let program = std::env::current_exe().expect("a program knows where it is");
        let mut command = Command::new(program);
        let mut child = command
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program can be started again");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the relay says where it is");
        Self { child, url: format!("http://{}", line.trim()) }
    }

    fn load(self, listeners: usize, time: Duration) -> Loaded {
        let options = LoadOptions {
            target: Target::Relay { relay: self.url.clone() },
            sessions: 1,
            listeners,
            ramp: 500.0,
            time,
            churn: None,
            publishers: 1,
            threads: Some(1),
            token: None,
            ca_file: None,
            server_pids: vec![self.child.id()],
            limits: Limits::default(),
            stop: Stop::new(),
        };
        let report = load(&options, |_| {}).expect("the relay can be loaded");
        let server = report.server.as_ref().and_then(|server| server.cpu_us_per_packet);
        Loaded {
            us_per_packet: server.unwrap_or(f64::NAN),
            p50_ms: report.steady.latency_ms.p50.unwrap_or(f64::NAN),
            p99_ms: report.steady.latency_ms.p99.unwrap_or(f64::NAN),
            lost: report.media.lost,
            outcome: format!("{:?}", report.outcome),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It ends when its standard input does.
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

impl Loaded {
    fn line(&self, listeners: usize, raw: (f64, f64)) -> String {
        let ns = self.us_per_packet * 1e3;
        let tick_ms = raw.1 * listeners as f64 / 1e6;
        format!(
            "{:<18} {ns:>6.0} ns of CPU      ratio {:>5.2}   latency p50 {:.2} ms, p99 {:.2} ms = {:.2} raw ticks, {} lost\n{}",
            "daemon",
            ns / raw.1,
            self.p50_ms,
            self.p99_ms,
            self.p99_ms / tick_ms,
            self.lost,
            self.outcome,
        )
    }
}

/// The relay, until whoever started it is gone.
fn serve() {
    let relay = Relay::start();
    println!("{}", relay.address());
    let _end = std::io::stdin().read_to_end(&mut Vec::new());
}
