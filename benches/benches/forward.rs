//! Fan-out without the kernel's part, in single rounds: the least and the middle, which other work on the machine disturbs
//! little.
//!
//! A round is one packet of a publisher to all listeners; the figures are nanoseconds per packet per listener.
//!
//! | figure | what it is |
//! |---|---|
//! | out | handed out by the engine, as in the `forward` group of the bench `engine` |
//! | written | and written as RTP |
//! | sealed | engine, header, SRTP and batch: the whole media plane, after listeners have left and come. The kernel refuses each packet at once, and what the refusals alone take is taken off |
//!
//! Of each there are two: with nothing done between rounds, and with the processor's caches emptied, as the kernel's work on
//! thousands of sockets does it.
//! `cargo bench -p relay-benches --bench forward -- 1000 5000` takes the numbers of listeners.
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::hint::black_box;
use std::net::UdpSocket;
use std::ops::ControlFlow;
use std::time::Instant;

use relay_benches::audience::{Audience, NOWHERE};
use relay_benches::caches::Caches;
use relay_benches::crowd::Crowd;
use relay_benches::relay::arguments;
use relayd::webrtc::egress::Batch;
use relayd::webrtc::srtp::SrtpProfile;

fn main() {
    let (numbers, short) = arguments();
    let counts: &[usize] = match numbers.as_slice() {
        _ if short => &[1, 100],
        [] => &[1, 100, 1_000, 5_000, 10_000],
        counts => counts,
    };
    let mut caches = Caches::default();
    println!("ns, least / median                    out             written              sealed");
    for &listeners in counts {
        for cold in [false, true] {
            let mut caches = Some(&mut caches).filter(|_| cold);
            let figures = [out(listeners, false, &mut caches), out(listeners, true, &mut caches)];
            let figures = [figures[0], figures[1], sealed(listeners, &mut caches)];
            let figures = figures.map(|(least, middle)| format!("{least:>10.1} / {middle:>6.1}"));
            let caches = if cold { "emptied" } else { "as they are" };
            println!("{listeners:>6} {caches:<12} {}", figures.join(" "));
        }
    }
}

/// The least and the middle of rounds that each return nanoseconds per listener.
fn rounds(listeners: usize, caches: &mut Option<&mut Caches>, mut round: impl FnMut() -> f64) -> (f64, f64) {
    let count = if caches.is_some() { 100 } else { (1_000_000 / listeners).clamp(300, 20_000) };
    let mut figures: Vec<f64> = Vec::with_capacity(count);
    for _ in 0..count {
        if let Some(caches) = caches {
            caches.empty();
        }
        figures.push(round());
    }
    figures.sort_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2])
}

fn per_listener(start: Instant, listeners: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / listeners as f64
}

fn out(listeners: usize, write: bool, caches: &mut Option<&mut Caches>) -> (f64, f64) {
    let mut crowd = Crowd::new(listeners);
    let mut buffer = [0; 1_500];
    rounds(listeners, caches, || {
        let start = Instant::now();
        crowd.publish();
        let packets = crowd.fan_out(|packet| {
            if write {
                black_box(packet.write(black_box(&mut buffer)).is_ok());
            } else {
                black_box(packet);
            }
            ControlFlow::Continue(())
        });
        assert_eq!(packets, listeners);
        per_listener(start, listeners)
    })
}

fn sealed(listeners: usize, caches: &mut Option<&mut Caches>) -> (f64, f64) {
    let mut audience = Audience::nowhere(listeners, &[SrtpProfile::AeadAes256Gcm]);
    audience.mingle();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
    let mut batch = Batch::new(socket).expect("the socket is bound");
    let refused = rounds(listeners, &mut None, || {
        let start = Instant::now();
        for _ in 0..listeners {
            batch.slot(DATAGRAM).expect("a short datagram");
            let destination = batch.destination(NOWHERE);
            batch.commit(DATAGRAM, &destination);
        }
        batch.flush();
        per_listener(start, listeners)
    });
    let all = rounds(listeners, caches, || {
        let start = Instant::now();
        audience.publish();
        audience.plane.drain();
        per_listener(start, listeners)
    });
    (all.0 - refused.0, all.1 - refused.1)
}

/// Header of 24 bytes, payload of 120, tag of 16.
const DATAGRAM: usize = 160;
