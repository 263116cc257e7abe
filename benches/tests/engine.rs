//! The engine takes and forwards without allocating.

use relay_benches::allocations::{Counting, during};
use relay_benches::crowd::Crowd;
use relay_engine::Output;

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn nothing_is_allocated_from_packet_to_listener() {
    let mut crowd = Crowd::new(1_000);
    let (mut datagram, mut written, mut reports) = ([0; 1_500], 0, 0);
    for _ in 0..500 {
        assert_eq!(during(|| crowd.publish()), 0, "parse, timeline, history");
        let allocated = during(|| {
            let packets = crowd.drain(|output| match output {
                Output::Packet(packet) => written += packet.write(&mut datagram).expect("it fits"),
                Output::SenderReport { .. } | Output::ReceiverReport { .. } => reports += 1,
                Output::Event(_) => {}
            });
            assert_eq!(packets, 1_000);
        });
        assert_eq!(allocated, 0, "fan-out, rewrite, reports");
    }
    assert!(written > 500 * 1_000 * 120);
    assert!(reports > 1_000, "10 s of reports of 1000 legs are covered too");
}
