//! The engine alone: no sockets, no encryption.
//!
//! `forward` is one packet of a publisher to all listeners, handed out one by one; its throughput counts packets handed
//! out, so the time per element is nanoseconds per packet per listener. `forward_and_write` also writes each RTP packet.
//! `history/push` is a packet on a track without listeners: parse, timeline, history. `history/read` is one listener's
//! cursor running over frames that wait in the history; putting them there is not timed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relay_benches::crowd::{Crowd, datagram};
use relay_engine::{Output, rtp};

fn wire(criterion: &mut Criterion) {
    let datagram = datagram();
    let packet = rtp::Packet::parse(datagram.clone()).expect("it was written by the same module");
    let mut group = criterion.benchmark_group("rtp");
    group.throughput(Throughput::Elements(1));
    group
        .bench_function("parse", |bencher| bencher.iter(|| rtp::Packet::parse(black_box(&datagram).clone())));
    let mut buffer = [0; 1_500];
    let values = rtp::Values {
        audio_level: packet.header.extensions.audio_level(1).map(|level| (1, level)),
        ..rtp::Values::default()
    };
    let emit = rtp::Emit {
        payload_type: 111,
        sequence: 1,
        timestamp: 2,
        ssrc: 3,
        marker: false,
        extensions: values,
    };
    group.bench_function("emit", |bencher| {
        bencher.iter(|| black_box(&emit).write(&packet.payload, black_box(&mut buffer)));
    });
    group.finish();
}

fn history(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("history");
    group.throughput(Throughput::Elements(1));
    let mut crowd = Crowd::new(0);
    group.bench_function("push", |bencher| {
        bencher.iter(|| {
            crowd.publish();
            crowd.drain(|output| {
                black_box(output);
            })
        });
    });
    group.throughput(Throughput::Elements(WAITING));
    let mut crowd = Crowd::new(1);
    group.bench_function("read", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                (0..WAITING).for_each(|_| crowd.publish());
                let started = Instant::now();
                crowd.drain(|output| {
                    black_box(output);
                });
                spent += started.elapsed();
            }
            spent
        });
    });
    group.finish();
}

fn forward(criterion: &mut Criterion) {
    for (name, write) in [("forward", false), ("forward_and_write", true)] {
        let mut group = criterion.benchmark_group(name);
        for listeners in [1, 100, 1_000, 10_000] {
            group.throughput(Throughput::Elements(listeners as u64));
            let mut crowd = Crowd::new(listeners);
            let mut buffer = [0; 1_500];
            group.bench_function(BenchmarkId::from_parameter(listeners), |bencher| {
                bencher.iter(|| {
                    crowd.publish();
                    crowd.drain(|output| match output {
                        Output::Packet(packet) if write => {
                            black_box(packet.write(black_box(&mut buffer)).is_ok());
                        }
                        other => {
                            black_box(other);
                        }
                    })
                });
            });
        }
        group.finish();
    }
}

/// Frames that one round of `history/read` reads: half of what the history holds.
const WAITING: u64 = 100;

criterion_group!(benches, wire, history, forward);
criterion_main!(benches);
