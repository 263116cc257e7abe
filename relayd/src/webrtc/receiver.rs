//! The threads that read the UDP port: one for each of its sockets, between which the kernel divides the peers.
//!
//! A receiver says what a datagram is and whose, drops what is nobody's, and hands on the rest: reports of listeners to
//! the shard, what a publisher says to its shard too (which it opens: [`Ingest`]), all else to the plane. One peer's datagrams come from one address, so to one socket, and are handed on in
//! their order. A datagram costs O(1) here (what is opened has a rate), is not logged, and waits in a queue of fixed length or is
//! dropped and counted. What publishers say has a queue of its own, which no storm of joins fills. A panic costs the datagram that
//! brought it: a socket that nobody reads keeps its share of the peers, and they would be deaf. It is counted, and logged
//! once a second at most.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod portable;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::error;

use super::demux::{Class, Limiter, classify};
use super::ingest::{Ingest, Rest, Said, Taken};
use super::routes::{Pair, Route, Routes};
use super::stack::{StackError, wall};
use super::{Counters, Role, WebRtcConfig};
use crate::shard::{Allowance, Shards};
#[cfg(target_os = "linux")]
use linux::{Inbox, wait};
#[cfg(not(target_os = "linux"))]
use portable::{Inbox, wait};

/// Datagrams taken with one system call.
const BATCH: usize = 32;
/// Longer datagrams are no use to anybody here.
pub(super) const MAX_DATAGRAM_BYTES: usize = 2048;
/// How often a receiver that hears nothing looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// Something on its way to the plane.
#[derive(Debug)]
pub(super) enum Inbound {
    Datagram {
        pair: Pair,
        bytes: Box<[u8]>,
    },
    /// Of a publisher that is up.
    Said(Said),
}

/// Both queues to the plane.
pub(super) struct Inbounds {
    /// DTLS of publishers, and what else they have said leads to.
    pub(super) media: mpsc::Receiver<Inbound>,
    /// STUN, and DTLS of listeners.
    pub(super) control: mpsc::Receiver<Inbound>,
}

/// What all receivers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) routes: Arc<Routes>,
    pub(super) tally: Arc<Tally>,
    pub(super) stop: Arc<AtomicBool>,
    media: mpsc::Sender<Inbound>,
    control: mpsc::Sender<Inbound>,
    feedback_rate: u32,
}

/// What receivers count.
#[derive(Debug, Default)]
pub(super) struct Tally {
    received: AtomicU64,
    class: AtomicU64,
    unknown: AtomicU64,
    rate: AtomicU64,
    feedback: AtomicU64,
    media: AtomicU64,
    media_rate: AtomicU64,
    shard: AtomicU64,
    queue: AtomicU64,
    notices: AtomicU64,
    errors: AtomicU64,
    panics: AtomicU64,
    stack_errors: AtomicU64,
}

impl Tally {
    /// Adds what was counted here.
    pub(super) fn add_to(&self, counters: &mut Counters) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        counters.received += read(&self.received);
        counters.dropped_class += read(&self.class);
        counters.dropped_unknown += read(&self.unknown);
        counters.dropped_rate += read(&self.rate);
        counters.dropped_feedback += read(&self.feedback);
        counters.dropped_media += read(&self.media);
        counters.dropped_media_rate += read(&self.media_rate);
        counters.dropped_shard += read(&self.shard);
        counters.dropped_queue += read(&self.queue);
        counters.dropped_notices += read(&self.notices);
        counters.receive_errors += read(&self.errors);
        counters.panics += read(&self.panics);
        counters.stack_errors += read(&self.stack_errors);
    }
}

impl Shared {
    /// The shared parts, and what the plane reads.
    pub(super) fn new(config: &WebRtcConfig) -> (Self, Inbounds) {
        let (media, media_queue) = mpsc::channel(config.receive_queue.max(1));
        let (control, control_queue) = mpsc::channel(config.receive_queue.max(1));
        let shared = Self {
            routes: Arc::new(Routes::new()),
            tally: Arc::default(),
            stop: Arc::default(),
            media,
            control,
            feedback_rate: config.feedback_rate,
        };
        (shared, Inbounds { media: media_queue, control: control_queue })
    }
}

/// Reads one socket.
pub(super) struct Receiver {
    /// The number of the port that its socket is on.
    port: u8,
    shared: Shared,
    shard: Shards,
    limiter: Limiter,
    /// Of what is logged.
    complaints: Allowance,
}

impl Receiver {
    pub(super) fn new(config: &WebRtcConfig, port: u8, shared: Shared, shard: Shards) -> Self {
        let WebRtcConfig { stun_rate, stun_burst, stun_sources, .. } = *config;
        let limiter = Limiter::new(Instant::now(), stun_rate, stun_burst, stun_sources);
        Self { port, shared, shard, limiter, complaints: Allowance::default() }
    }

    /// Starts its thread, which ends once it is told to stop.
    pub(super) fn spawn(mut self, number: usize, socket: UdpSocket) -> io::Result<JoinHandle<()>> {
        let name = format!("receiver-{number}");
        std::thread::Builder::new().name(name).spawn(move || self.run(&socket, Self::handle_datagram))
    }

    fn run(&mut self, socket: &UdpSocket, handle: impl Fn(&mut Self, Instant, SocketAddr, &[u8])) {
        let mut inbox = Inbox::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            match inbox.receive(socket) {
                Ok(count) => {
                    count_by(&self.shared.tally.received, count as u64);
                    let now = Instant::now();
                    for at in 0..count {
                        let (source, datagram) = inbox.datagram(at);
                        if wall(|| handle(self, now, canonical(source), datagram)).is_err() {
                            self.handle_panic(now);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(socket, PATIENCE),
                // ICMP errors of earlier sends come up here: not this socket's end.
                Err(_) => count_by(&self.shared.tally.errors, 1),
            }
        }
    }

    /// Counts a panic, and logs it at most once a second; whether it did.
    fn handle_panic(&mut self, now: Instant) -> bool {
        count_by(&self.shared.tally.panics, 1);
        // Whoever has found a datagram that brings one sends it again.
        let logged = self.complaints.take(now, 1);
        if logged {
            error!("caught a panic: the datagram is dropped; more within a second are counted only");
        }
        logged
    }

    pub(super) fn handle_datagram(&mut self, now: Instant, source: SocketAddr, datagram: &[u8]) {
        let Shared { routes, tally, media, control, .. } = &self.shared;
        let class = classify(datagram);
        if class == Class::Unknown || datagram.len() > MAX_DATAGRAM_BYTES {
            return count_by(&tally.class, 1);
        }
        let pair = Pair { port: self.port, source };
        let route = routes.get(&pair);
        if let (Class::Rtp | Class::Rtcp, Some(route)) = (class, &route)
            && let Some(ingest) = route.ingest()
        {
            return self.handle_said(now, (route, ingest), class, (source, datagram));
        }
        let queue = match (class, &route) {
            (Class::Stun, None) if !self.limiter.admit(now, source) => return count_by(&tally.rate, 1),
            (Class::Stun, _) => control,
            (_, None) => return count_by(&tally.unknown, 1),
            // With its DTLS, so that its goodbye comes after what it said before.
            (_, Some(route)) if route.role == Role::Publisher => media,
            (Class::Dtls, Some(_)) => control,
            (_, Some(route)) => {
                route.hear(now);
                let Some(leg) = route.reports().filter(|_| class == Class::Rtcp) else {
                    return count_by(&tally.media, 1);
                };
                // Before the queue to the shard, which all peers share.
                if !route.admit_report(now, self.shared.feedback_rate) {
                    return count_by(&tally.feedback, 1);
                }
                // The media plane opens these.
                if !self.shard.srtcp(leg, Bytes::copy_from_slice(datagram)) {
                    count_by(&tally.shard, 1);
                }
                return;
            }
        };
        let inbound = Inbound::Datagram { pair, bytes: datagram.into() };
        if queue.try_send(inbound).is_err() {
            count_by(&tally.queue, 1);
        }
    }

    /// What a publisher says that is up.
    fn handle_said(
        &self,
        now: Instant,
        (route, ingest): (&Arc<Route>, &Ingest),
        class: Class,
        datagram: (SocketAddr, &[u8]),
    ) {
        let Shared { tally, media, .. } = &self.shared;
        route.hear(now);
        let (taken, rest) = match class {
            Class::Rtcp if !route.admit_report(now, self.shared.feedback_rate) => {
                return count_by(&tally.feedback, 1);
            }
            Class::Rtcp => ingest.reports(&self.shard, now, datagram),
            _ => ingest.packet(&self.shard, now, datagram),
        };
        match taken {
            Taken::Whole => {}
            Taken::Nothing => count_by(&tally.media, 1),
            Taken::Full => count_by(&tally.shard, 1),
            Taken::Above => count_by(&tally.media_rate, 1),
        }
        match rest {
            Some(Rest { result: Err(StackError::Error(_)), effects }) if effects.is_empty() => {
                count_by(&tally.stack_errors, 1);
            }
            Some(rest) => {
                let said = Said { route: route.clone(), rest };
                // If there is no room it goes without: the stack asks again, by the next packet or by its timer.
                if media.try_send(Inbound::Said(said)).is_err() {
                    count_by(&tally.notices, 1);
                }
            }
            None => {}
        }
    }
}

fn count_by(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// One form for each address, whatever the socket's IP version: IPv4 ones are never mapped.
fn canonical(source: SocketAddr) -> SocketAddr {
    match source {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::from((ip, v6.port())),
            // With its scope: a link-local address is nothing without it.
            None => source,
        },
        SocketAddr::V4(_) => source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webrtc::test_support;

    fn receiver(queue: usize) -> (Receiver, Inbounds, impl Fn() -> Option<String>) {
        let config = WebRtcConfig { receive_queue: queue, stun_burst: 1_000_000, ..WebRtcConfig::default() };
        let (shared, inbounds) = Shared::new(&config);
        let (shard, take) = Shards::stalled(1);
        (Receiver::new(&config, 0, shared, shard), inbounds, take)
    }

    fn bytes(inbound: Inbound) -> Vec<u8> {
        match inbound {
            Inbound::Datagram { bytes, .. } => bytes.into_vec(),
            Inbound::Said(said) => panic!("not a datagram: {said:?}"),
        }
    }

    fn counters(receiver: &Receiver) -> Counters {
        let mut counters = Counters::default();
        receiver.shared.tally.add_to(&mut counters);
        counters
    }

    #[test]
    fn a_flood_of_checks_fills_its_queue_and_leaves_a_speaker_theirs() {
        let (mut receiver, mut inbounds, _take) = receiver(16);
        let now = Instant::now();
        let speaker = SocketAddr::from(([192, 0, 2, 1], 7));
        receiver
            .shared
            .routes
            .insert(Pair { port: 0, source: speaker }, Arc::new(Route::new(now, 3, Role::Publisher)));
        for number in 0..1000_u16 {
            let source = SocketAddr::from(([192, 0, 2, 9], number));
            receiver.handle_datagram(now, source, &[0; 20]);
        }
        receiver.handle_datagram(now, speaker, &[0x80, 111, 0, 1]);
        assert_eq!(bytes(inbounds.media.try_recv().unwrap()), [0x80, 111, 0, 1]);
        assert_eq!(std::iter::from_fn(|| inbounds.control.try_recv().ok()).count(), 16);
        assert_eq!(counters(&receiver).dropped_queue, 984);
    }

    #[test]
    fn what_a_publisher_sends_is_handed_on_in_its_order_with_its_goodbye_last() {
        let (mut receiver, mut inbounds, _take) = receiver(1024);
        let now = Instant::now();
        let speaker = SocketAddr::from(([192, 0, 2, 1], 7));
        receiver
            .shared
            .routes
            .insert(Pair { port: 0, source: speaker }, Arc::new(Route::new(now, 3, Role::Publisher)));
        let mut sent: Vec<[u8; 4]> = (0..200).map(|number| [0x80, 111, 0, number]).collect();
        sent.push([0x80, 200, 0, 0]);
        sent.push([21, 254, 253, 0]);
        sent.iter().for_each(|datagram| receiver.handle_datagram(now, speaker, datagram));
        let heard = std::iter::from_fn(|| inbounds.media.try_recv().ok());
        assert!(heard.map(bytes).eq(sent.iter().map(|datagram| datagram.to_vec())));
        assert!(inbounds.control.try_recv().is_err());
    }

    #[test]
    fn a_listeners_reports_go_to_the_shard_at_their_rate_and_its_media_nowhere() {
        let (mut receiver, mut inbounds, _take) = receiver(16);
        let now = Instant::now();
        let address = SocketAddr::from(([192, 0, 2, 1], 7));
        let route = Arc::new(Route::new(now, 3, Role::Listener));
        receiver.shared.routes.insert(Pair { port: 0, source: address }, route.clone());
        receiver.handle_datagram(now, address, &[0x80, 201, 0, 1]);
        assert_eq!(counters(&receiver).dropped_media, 1, "not up yet");
        route.open_reports(test_support::leg().0);
        for _ in 0..60 {
            receiver.handle_datagram(now, address, &[0x80, 201, 0, 1]);
        }
        receiver.handle_datagram(now, address, &[0x80, 111, 0, 1]);
        let counted = counters(&receiver);
        // Nobody reads the queue of this shard.
        assert_eq!((counted.dropped_feedback, counted.dropped_shard, counted.dropped_media), (10, 50, 2));
        assert!(inbounds.media.try_recv().is_err() && inbounds.control.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_panic_costs_one_datagram_and_the_socket_is_read_on() {
        const FAILING: &[u8] = &[9; 20];
        let (mut receiver, mut inbounds, _take) = receiver(16);
        let shared = receiver.shared.clone();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.connect(socket.local_addr().unwrap()).unwrap();
        let handle = |receiver: &mut Receiver, now: Instant, source: SocketAddr, datagram: &[u8]| {
            assert!(datagram != FAILING, "as it was told to");
            receiver.handle_datagram(now, source, datagram);
        };
        let thread = std::thread::spawn(move || receiver.run(&socket, handle));
        for datagram in [&[0; 20][..], FAILING, &[1; 20], FAILING, &[2; 20]] {
            assert_eq!(peer.send(datagram).unwrap(), datagram.len());
        }
        for number in 0..3 {
            let inbound = tokio::time::timeout(Duration::from_secs(20), inbounds.control.recv()).await;
            let inbound = inbound.ok().flatten().expect("it is handed on");
            assert_eq!(bytes(inbound), [number; 20]);
        }
        shared.stop.store(true, Ordering::Relaxed);
        assert!(thread.join().is_ok());
        let mut counters = Counters::default();
        shared.tally.add_to(&mut counters);
        assert_eq!((counters.received, counters.panics), (5, 2));
    }

    #[test]
    fn every_panic_is_counted_and_one_a_second_logged() {
        let (mut receiver, _inbounds, _take) = receiver(16);
        let start = Instant::now();
        let mut logged = |ms| receiver.handle_panic(start + Duration::from_millis(ms));
        let when: Vec<u64> = (0..3000).step_by(10).filter(|ms| logged(*ms)).collect();
        assert_eq!(when, [0, 1000, 2000]);
        assert_eq!(counters(&receiver).panics, 300);
    }

    #[test]
    fn what_is_nobodys_goes_nowhere() {
        let (mut receiver, mut inbounds, _take) = receiver(16);
        let source = SocketAddr::from(([192, 0, 2, 1], 7));
        for datagram in [&[22, 254, 253][..], &[0x80, 111], &[0x80, 201], &[255], &[], &[0; 3000]] {
            receiver.handle_datagram(Instant::now(), source, datagram);
        }
        let counted = counters(&receiver);
        assert_eq!((counted.dropped_unknown, counted.dropped_class), (3, 3));
        assert!(inbounds.media.try_recv().is_err() && inbounds.control.try_recv().is_err());
    }
}
