//! Fan-out over loopback, against the kernel's own speed in the same rounds.
//!
//! Rounds of these alternate, sockets are emptied in between, and the figures are nanoseconds per packet per listener:
//!
//! | way | what it is |
//! |---|---|
//! | raw | datagrams that are ready, 64 to a system call |
//! | sealed | the same, each written and sealed first: header, SRTP, destination |
//! | plane | one packet of a publisher through engine, SRTP and the same call |
//!
//! One tick after the other keeps everything in the caches, and nobody reads meanwhile. A relay has neither, and so it is held
//! against raw sends that have neither, in slices of some seconds that alternate. What sends has one core, what reads another:
//!
//! | way | what it is |
//! |---|---|
//! | paced | a tick of raw sends every 20 ms, while another thread sweeps the receivers as the load tester does; CPU time of the thread that sends, and how long after the tick's start each batch was with the kernel |
//! | daemon | a relay in a process of its own, with one media thread: CPU time of all its threads while `relayd load` speaks to it and listens, and from when a packet was sent to the relay to when the kernel had it at the listener's socket |
//!
//! `cargo bench -p relay-benches --bench fanout -- 200 1000 5000` takes the rounds and the numbers of listeners;
//! each listener takes two file descriptors. `-- --short` (`--test` is the same) shows that it runs and fails on no time.
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::time::{Duration, Instant};

use relay_benches::audience::{Audience, keys};
use relay_benches::cores::Cores;
use relay_benches::paced::{self, Spent};
use relay_benches::process::Process;
use relay_benches::ready::{DATAGRAM, Ready};
use relay_benches::relay::arguments;
use relayd::client::Stop;
use relayd::load::{Limits, LoadOptions, Target, load};
use relayd::webrtc::srtp::{SrtpProfile, SrtpSender};

const PROFILE: SrtpProfile = SrtpProfile::AeadAes256Gcm;
const WAYS: [&str; 3] = ["raw sendmmsg 64", "sealed and sent", "plane with engine"];
/// Slices of what comes every 20 ms.
const SLICES: usize = 5;

fn main() {
    Process::serve_if_asked();
    let (numbers, test) = arguments();
    let short = test || std::env::args().any(|argument| argument == "--short");
    let (rounds, counts): (usize, &[usize]) = match numbers.as_slice() {
        _ if short => (20, &[100, 500]),
        [] => (200, &[100, 1_000, 5_000]),
        [rounds] => (*rounds, &[100, 1_000, 5_000]),
        [rounds, counts @ ..] => (*rounds, counts),
    };
    let cores = Cores::given();
    for &listeners in counts {
        let mut table = Table::new(listeners);
        table.measure(rounds);
        table.print();
        drop(table);
        cores.send();
        let relay = Process::start_for(listeners, 1);
        cores.receive();
        let time = Duration::from_secs(if short { 1 } else { 10 });
        let slices: Vec<_> = (0..if short { 1 } else { SLICES })
            .map(|_| (paced::send(listeners, time, &cores), loaded(&relay, listeners, time)))
            .collect();
        compare(&slices);
    }
}

/// Rounds of what sends in this process.
struct Table {
    listeners: usize,
    audience: Audience,
    ready: Ready,
    senders: Vec<SrtpSender>,
    index: u64,
    wall: [Vec<f64>; 3],
}

impl Table {
    fn new(listeners: usize) -> Self {
        let audience = Audience::new(listeners, &[PROFILE]);
        let ready = Ready::new(&audience.ears);
        // Keys of nobody in the audience.
        let sender = |number| keys(PROFILE, (1 << 32) + number as u64).srtp_sender(7);
        let senders = (0..listeners).map(sender).collect();
        Self { listeners, audience, ready, senders, index: 0, wall: Default::default() }
    }

    fn measure(&mut self, rounds: usize) {
        for round in 0..rounds + 5 {
            for way in 0..WAYS.len() {
                let start = Instant::now();
                match way {
                    0 => self.ready.send(|| ()),
                    1 => self.seal_and_send(),
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

    fn seal_and_send(&mut self) {
        let mut header = [0; 24];
        header[0] = 0x90;
        header[2..4].copy_from_slice(&(self.index as u16).to_be_bytes());
        header[8..12].copy_from_slice(&7_u32.to_be_bytes());
        let Ready { batch, destinations } = &mut self.ready;
        for (sender, destination) in self.senders.iter_mut().zip(&*destinations) {
            let out = batch.slot(DATAGRAM).expect("a short datagram");
            let sealed = sender.seal(self.index, &header, &[0x5a; 120], out).expect("the index is new");
            batch.commit(sealed, destination);
        }
        batch.flush();
        self.index += 1;
    }

    fn print(&self) {
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
    }
}

fn least_and_middle(figures: &[f64]) -> (f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted.first().copied().unwrap_or(f64::NAN), sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN))
}

/// Loads a relay, and says what that took.
fn loaded(relay: &Process, listeners: usize, time: Duration) -> Spent {
    let options = LoadOptions {
        target: Target::Relay { relay: format!("http://{}", relay.address()) },
        sessions: 1,
        listeners,
        ramp: 500.0,
        time,
        churn: None,
        publishers: 1,
        threads: Some(1),
        token: None,
        ca_file: None,
        server_pids: vec![relay.id()],
        limits: Limits::default(),
        stop: Stop::new(),
    };
    let report = load(&options, |_| {}).expect("the relay can be loaded");
    if !report.outcome.is_good() || report.media.lost > 0 {
        println!("{} packets lost: {:?}", report.media.lost, report.outcome);
    }
    let server = report.server.as_ref().and_then(|server| server.cpu_us_per_packet);
    Spent {
        ns_per_packet: server.unwrap_or(f64::NAN) * 1e3,
        p50_ms: report.steady.forwarding_ms.p50.unwrap_or(f64::NAN),
        p99_ms: report.steady.forwarding_ms.p99.unwrap_or(f64::NAN),
    }
}

/// Prints the middle of the slices, and of the ratios within them.
fn compare(slices: &[(Spent, Spent)]) {
    let middle =
        |of: &dyn Fn(&(Spent, Spent)) -> f64| least_and_middle(&slices.iter().map(of).collect::<Vec<_>>()).1;
    println!("every 20 ms, {} slices: ns of CPU per packet per listener, latency; middle", slices.len());
    for (name, of) in
        [("raw, paced", (|pair| &pair.0) as fn(&(Spent, Spent)) -> &Spent), ("daemon", |pair| &pair.1)]
    {
        let figure = |figure: fn(&Spent) -> f64| middle(&|pair| figure(of(pair)));
        println!(
            "{name:<18} {:>6.0}   p50 {:.2} ms   p99 {:.2} ms",
            figure(|spent| spent.ns_per_packet),
            figure(|spent| spent.p50_ms),
            figure(|spent| spent.p99_ms),
        );
    }
    for (name, figure) in [
        ("CPU", (|spent| spent.ns_per_packet) as fn(&Spent) -> f64),
        ("p50 of latency", |spent| spent.p50_ms),
        ("p99 of latency", |spent| spent.p99_ms),
    ] {
        let ratio = |pair: &(Spent, Spent)| figure(&pair.1) / figure(&pair.0);
        let each: Vec<String> = slices.iter().map(|pair| format!("{:.2}", ratio(pair))).collect();
        println!("daemon / paced     {name:<15} ratio {:>5.2}   ({})", middle(&ratio), each.join(", "));
    }
}
