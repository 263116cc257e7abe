//! A good client among bad ones: what a POST takes, and what a listener loses, while others hold 2000 connections with
//! headers that never end and open 500 WebSockets a second, each with its hello.
//!
//! The bad ones come from many addresses of 127.0.0.0/8, as the limits per address want it. Everything is in one
//! process. `cargo bench -p relay-benches --bench slow_headers -- 2000 500 10` takes the slow connections, the hellos
//! per second and the seconds of each phase; it needs some 5000 files (`ulimit -n`).
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use relay_benches::relay::{Relay, arguments, percentiles, request, session, until};
use relayd::client::{ListenOptions, ListenReport, Stop, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// Slow connections of one address; the relay takes 64 of one.
const PER_ADDRESS: usize = 50;
/// When the relay throws a slow one out.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two POSTs of the good client.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two bytes of a slow header.
const TRICKLE: Duration = Duration::from_secs(1);

fn main() {
    let (numbers, test) = arguments();
    let number = |at: usize, usual: usize, least: usize| {
        if test { least } else { numbers.get(at).copied().unwrap_or(usual) }
    };
    let (slow, hellos) = (number(0, 2000, 100), number(1, 500, 20));
    let seconds = Duration::from_secs(number(2, 10, 1) as u64);
    let relay = Relay::start();
    let talk = relay.session();
    let speaker = relay.speak(&talk);
    let listener = Listener::start(relay.url(&format!("/whep/{talk}")));
    until("the listener hears", || listener.heard.load(Ordering::Relaxed));

    let mut quiet = posts(relay.address(), seconds);
    let bad = BadOnes::start(relay.address(), &talk, (slow, hellos), seconds.min(HEADER_TIMEOUT));
    until("the slow ones are there", || bad.state.open.load(Ordering::Relaxed) as usize >= slow * 9 / 10);
    let (welcomed, started) = (bad.state.welcomed.load(Ordering::Relaxed), Instant::now());
    let mut busy = posts(relay.address(), seconds);
    let welcomed = bad.state.welcomed.load(Ordering::Relaxed) - welcomed;
    let per_second = welcomed as f64 / started.elapsed().as_secs_f64();
    let open = bad.state.open.load(Ordering::Relaxed);
    drop(bad);
    let report = listener.finish();
    let _spoken = speaker.finish();

    println!("POST /v1/sessions of a good client, {} s each", seconds.as_secs());
    println!("alone                {}", percentiles(&mut quiet));
    println!("among bad ones       {}", percentiles(&mut busy));
    println!("bad ones: {open} slow headers open, {per_second:.0} WebSockets welcomed per second");
    println!("the listener: {} packets, {} lost", report.reception.packets, report.reception.lost);
}

/// One POST after the other; a session each, which is ended again.
fn posts(address: SocketAddr, seconds: Duration) -> Vec<Duration> {
    let end = Instant::now() + seconds;
    let mut times = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        let created = session(address).expect("a good client is served");
        times.push(started.elapsed());
        let _gone = request(address, "DELETE", &format!("/v1/sessions/{created}"), "");
        std::thread::sleep(PAUSE);
    }
    times
}

/// A listener on a thread.
struct Listener {
    stop: Stop,
    heard: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<ListenReport>,
}

impl Listener {
    fn start(url: String) -> Self {
        let (stop, heard) = (Stop::new(), Arc::new(AtomicBool::new(false)));
        let options = ListenOptions { url, stop: stop.clone(), ..ListenOptions::default() };
        let flag = heard.clone();
        let thread = std::thread::spawn(move || {
            let told = |report: &ListenReport| flag.store(report.reception.packets > 0, Ordering::Relaxed);
            listen(&options, told).expect("a listener")
        });
        Self { stop, heard, thread }
    }

    fn finish(self) -> ListenReport {
        self.stop.stop();
        self.thread.join().expect("the listener's thread")
    }
}

/// Those who mean no good, on one thread; they end when dropped.
struct BadOnes {
    runtime: Option<tokio::runtime::Runtime>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    open: AtomicU64,
    welcomed: AtomicU64,
}

impl BadOnes {
    /// The slow ones come within `spread`, so that they are not all thrown out at once.
    fn start(address: SocketAddr, talk: &str, (slow, hellos): (usize, usize), spread: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let state = Arc::new(State::default());
        for number in 0..slow {
            let from = source(1, number / PER_ADDRESS);
            let (after, state) = (spread.mul_f64(number as f64 / slow as f64), state.clone());
            runtime.spawn(async move {
                sleep(after).await;
                slow_header(address, from, state).await;
            });
        }
        let (talk, counted) = (talk.to_owned(), state.clone());
        runtime.spawn(async move {
            let mut timer =
                tokio::time::interval(Duration::from_secs(1) / u32::try_from(hellos.max(1)).unwrap_or(1));
            for number in 0_usize.. {
                timer.tick().await;
                let (talk, counted) = (talk.clone(), counted.clone());
                tokio::spawn(async move {
                    let hello = hello(address, source(2, number % 50), &talk);
                    if let Ok(Some(())) = timeout(Duration::from_secs(5), hello).await {
                        counted.welcomed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { runtime: Some(runtime), state }
    }
}

impl Drop for BadOnes {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn source(net: u8, number: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, net, 1 + u8::try_from(number % 250).unwrap_or(0)), 0))
}

async fn connect(address: SocketAddr, from: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(from).ok()?;
    socket.connect(address).await.ok()
}

/// Begins a header and never ends it; comes again when it is thrown out.
async fn slow_header(address: SocketAddr, from: SocketAddr, state: Arc<State>) {
    loop {
        if let Some(mut stream) = connect(address, from).await {
            state.open.fetch_add(1, Ordering::Relaxed);
            let mut sent = stream.write_all(b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\nx: ").await;
            while sent.is_ok() {
                let mut answer = [0; 256];
                match timeout(TRICKLE, stream.read(&mut answer)).await {
                    Ok(Ok(0) | Err(_)) => break,
                    Ok(Ok(_)) => {}
                    Err(_) => sent = stream.write_all(b"y").await,
                }
            }
            state.open.fetch_sub(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Opens the events of a session, says hello, waits for the welcome and leaves.
async fn hello(address: SocketAddr, from: SocketAddr, talk: &str) -> Option<()> {
    let mut stream = connect(address, from).await?;
    let head = format!(
        "GET /v1/sessions/{talk}/events HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: relay.v1+json\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    // RFC 6455 §5.2: one masked text frame; a mask of zeros is one.
    let text = br#"{"t":"hello","d":{}}"#;
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).ok()?, 0, 0, 0, 0];
    frame.extend_from_slice(text);
    stream.write_all(&frame).await.ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.windows(7).any(|bytes| bytes == b"welcome") {
        let length = stream.read(&mut buffer).await.ok().filter(|length| *length > 0)?;
        answer.extend_from_slice(&buffer[..length]);
    }
    Some(())
}
