//! Fan-out over loopback, against the kernel's own speed in the same rounds.
//!
//! `raw` sends datagrams that are ready, 64 to a system call; `plane` is one packet of a publisher through engine,
//! SRTP and the same call. Rounds of the two alternate; sockets are emptied in between. The figures are
//! nanoseconds per packet per listener. `cargo bench -p relay-benches --bench fanout -- 1000 200` takes the numbers
//! of listeners and rounds; each listener takes a file descriptor.
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::net::UdpSocket;
use std::time::Instant;

use relay_benches::audience::Audience;
use relayd::webrtc::egress::{Batch, Destination};
use relayd::webrtc::srtp::SrtpProfile;

/// Header of 24 bytes, payload of 120, tag of 16.
const DATAGRAM: usize = 160;

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let listeners = numbers.first().copied().unwrap_or(500);
    let rounds = numbers.get(1).copied().unwrap_or(200);
    let mut audience = Audience::new(listeners, &[SrtpProfile::AeadAes256Gcm]);
    let mut raw = Raw::new(&audience);
    let mut figures = [Vec::new(), Vec::new()];
    for round in 0..rounds + 5 {
        let raw_ns = timed(listeners, || raw.send());
        assert_eq!(audience.empty(), listeners, "every datagram arrives");
        let plane_ns = timed(listeners, || {
            audience.publish();
            audience.plane.drain();
        });
        assert!(audience.empty() >= listeners, "every packet arrives, and reports now and then");
        if round >= 5 {
            figures[0].push(raw_ns);
            figures[1].push(plane_ns);
        }
    }
    let [raw, plane] = figures.map(|mut figures| {
        figures.sort_by(f64::total_cmp);
        (figures[0], figures[figures.len() / 2])
    });
    println!("{listeners} listeners, {rounds} rounds, ns per packet per listener, min / median");
    println!("raw sendmmsg 64   {:>6.0} / {:>6.0}", raw.0, raw.1);
    println!("media plane       {:>6.0} / {:>6.0}", plane.0, plane.1);
    println!("ratio             {:>6.2} / {:>6.2}", plane.0 / raw.0, plane.1 / raw.1);
}

fn timed(listeners: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / listeners as f64
}

/// The kernel alone: whatever lies in the arena goes out again.
struct Raw {
    batch: Batch,
    destinations: Vec<Destination>,
}

impl Raw {
    fn new(audience: &Audience) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let batch = Batch::new(socket).expect("the socket is bound");
        let address = |ear: &UdpSocket| ear.local_addr().expect("the socket is bound");
        let destinations = audience.ears.iter().map(|ear| batch.destination(address(ear))).collect();
        Raw { batch, destinations }
    }

    fn send(&mut self) {
        for destination in &self.destinations {
            self.batch.slot(DATAGRAM).expect("a short datagram");
            self.batch.commit(DATAGRAM, destination);
        }
        self.batch.flush();
    }
}
