//! The media plane sends without allocating.

use relay_benches::allocations::{Counting, during};
use relay_benches::audience::{Audience, PROFILES};
use relayd::webrtc::srtp::SrtcpSender;

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

/// Ticks until a history has as many frames as it gets.
const FILLED: usize = 1_700;

#[test]
fn a_whole_tick_allocates_nothing_whatever_the_cipher() {
    for profile in PROFILES {
        let mut audience = Audience::new(20, &[profile]);
        for tick in 0..FILLED + 200 {
            let allocated = during(|| {
                audience.publish();
                audience.plane.drain();
            });
            assert!(allocated == 0 || tick < FILLED, "{profile:?}, tick {tick}: {allocated}");
            audience.empty();
        }
        assert_eq!(audience.plane.stats().plane.seal_refused, 0);
    }
}

/// From a listener's sealed NACK to the packets sealed again.
#[test]
fn a_repair_allocates_nothing_from_nack_to_kernel() {
    let mut audience = Audience::new(30, &PROFILES);
    let ssrcs: Vec<u32> = audience.legs.iter().map(|&leg| audience.ssrc(leg)).collect();
    let mut ears: Vec<_> = (0..30).map(|number| audience.far_keys(number).srtcp_sender()).collect();
    let mut latest = Vec::new();
    for round in 0..60 {
        audience.publish();
        audience.plane.drain();
        audience.latest(&mut latest);
        if round < 10 {
            continue;
        }
        let before = audience.plane.stats();
        let mut repairs = 0;
        for at in 0..30 {
            let mut datagram = [0; 64];
            let length = nack(&mut ears[at], ssrcs[at], latest[at].wrapping_sub(6), &mut datagram);
            let (now, leg) = (audience.now, audience.legs[at]);
            repairs += during(|| audience.plane.handle_srtcp(now, leg, &datagram[..length]));
        }
        repairs += during(|| audience.plane.drain());
        let after = audience.plane.stats();
        assert_eq!(after.plane.rtcp_in - before.plane.rtcp_in, 30, "each NACK is authentic");
        assert!(after.egress.packets >= before.egress.packets + 30, "and answered");
        // What answers NACKs is made once and kept.
        assert!(repairs == 0 || round < 12, "round {round}: {repairs}");
    }
    assert_eq!(audience.plane.stats().plane.seal_reused, 0);
}

/// A listener's SRTCP datagram that asks for one packet; how long it is.
fn nack(ear: &mut SrtcpSender, ssrc: u32, first: u16, out: &mut [u8]) -> usize {
    let mut plain = [0; 16];
    // RFC 4585 §6.2.1: version and format 1, type 205, three more words; PID and no further one.
    plain[..4].copy_from_slice(&[0x81, 205, 0, 3]);
    plain[4..8].copy_from_slice(&1_u32.to_be_bytes());
    plain[8..12].copy_from_slice(&ssrc.to_be_bytes());
    plain[12..14].copy_from_slice(&first.to_be_bytes());
    ear.seal(&plain, out).expect("it fits")
}

#[test]
fn the_counter_counts() {
    assert_eq!(during(|| drop(std::hint::black_box(Box::new(1)))), 1);
}
