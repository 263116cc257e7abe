//! The media plane sends without allocating.

use relay_benches::allocations::{Counting, during};
use relay_benches::audience::{Audience, PROFILES};

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn nothing_is_allocated_from_engine_to_kernel() {
    let mut audience = Audience::new(150, &PROFILES);
    for _ in 0..5 {
        audience.publish();
        audience.plane.drain();
    }
    assert_eq!(audience.empty(), 5 * 150, "the plane does send");
    for _ in 0..200 {
        audience.publish();
        assert_eq!(during(|| audience.plane.drain()), 0);
        assert!(audience.empty() >= 150, "packets, and reports now and then");
    }
    assert!(audience.plane.stats().plane.reports_out > 0, "reports are covered too");
}

#[test]
fn no_packet_that_is_sealed_again_costs_an_allocation() {
    let mut audience = Audience::new(30, &PROFILES);
    for _ in 0..50 {
        audience.publish();
        audience.plane.drain();
    }
    assert_eq!(audience.empty(), 50 * 30);
    for round in 0..10 {
        let now = audience.now;
        let mut allocated = during(|| {
            for leg in &audience.legs {
                audience.plane.replay(now, *leg, Some(40)).expect("the leg is up");
            }
            audience.plane.drain();
        });
        for _ in 0..50 {
            audience.publish();
            allocated += during(|| audience.plane.drain());
        }
        assert!(audience.empty() >= 30 * 60);
        // A replay has states of its own while it lasts, however many packets it brings.
        assert!(allocated <= 30 * 3, "round {round}: {allocated}");
    }
    assert_eq!(audience.plane.stats().plane.seal_reused, 0);
}

#[test]
fn the_counter_counts() {
    assert_eq!(during(|| drop(std::hint::black_box(Box::new(1)))), 1);
}
