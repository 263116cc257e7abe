//! Switches and replays in the engine alone: no sockets, no encryption.
//!
//! `switch/listener` is a second leg opened, brought up and switched to, the packet with which it takes over, and the
//! old leg closed: for a crowd of listeners at once, its time per element is the cost of one listener's switch.
//! `replay/engine` hands 100 frames of the history out again to each listener, while new ones come; its throughput is
//! replayed frames per second. Both are paced by a clock that the bench owns, so nothing waits.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relay_benches::crowd::Crowd;
use relay_engine::{Event, Output, Peer};

fn switch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch");
    for listeners in [1, 200, 1_000] {
        group.throughput(Throughput::Elements(listeners as u64));
        let mut crowd = Crowd::new(listeners);
        let mut spent = Vec::with_capacity(listeners);
        group.bench_function(BenchmarkId::new("listener", listeners), |bencher| {
            bencher.iter(|| {
                crowd.switch_all();
                crowd.publish();
                crowd.drain(|output| {
                    if let Output::Event(Event::LegSpent { leg, .. }) = output {
                        spent.push(*leg);
                    }
                });
                assert_eq!(spent.len(), listeners, "each switch is over with the packet");
                for leg in spent.drain(..) {
                    crowd.relay.close(crowd.now, Peer::Leg(leg));
                }
                crowd.drain(|_| {});
            });
        });
    }
    group.finish();
}

fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    for listeners in [1, 1_000] {
        group.throughput(Throughput::Elements(FRAMES * listeners as u64));
        let mut crowd = Crowd::new(listeners);
        group.bench_function(BenchmarkId::new("engine", listeners), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| replay_once(&mut crowd)).sum());
        });
    }
    group.finish();
}

/// How long it takes to hand [`FRAMES`] out again to everybody.
fn replay_once(crowd: &mut Crowd) -> Duration {
    // What is left of the replay before is not of this one.
    crowd.publish();
    crowd.wait(Duration::from_secs(1));
    crowd.drain(|_| {});
    let (first, _) = crowd.listeners[0];
    let next = crowd.relay.listener_stats(first).and_then(|stats| stats.next_position);
    let from = next.expect("all have heard the last packet") - FRAMES;
    let (expected, mut frames) = (FRAMES as usize * crowd.listeners.len(), 0);
    let start = Instant::now();
    for (_, leg) in &crowd.listeners {
        assert_eq!(crowd.relay.replay(crowd.now, *leg, Some(from)), Ok(FRAMES));
    }
    // Speech goes on, as it does: what comes meanwhile is behind what is replayed.
    for _ in 0..FRAMES {
        crowd.drain(|output| {
            frames += usize::from(matches!(black_box(output), Output::Packet(packet) if packet.replay));
        });
        if frames == expected {
            break;
        }
        crowd.publish();
    }
    let took = start.elapsed();
    assert_eq!(frames, expected, "frames came again");
    took
}

/// Frames that are replayed: two seconds.
const FRAMES: u64 = 100;

criterion_group!(benches, switch, replay);
criterion_main!(benches);
