//! The engine takes, forwards and repeats without allocating, and a history costs what it says.

use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime};

use relay_benches::allocations::{Counting, during, held_by};
use relay_benches::crowd::{Crowd, datagram};
use relay_engine::rtp::{Packet, rtcp};
use relay_engine::{Config, Epoch, Event, Feedback, LegSpec, LegState, Output, Relay, TrackSpec, Verdict};

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

#[test]
fn nothing_is_allocated_when_a_frame_is_fanned_out() {
    let mut crowd = Crowd::new(1_000);
    let (mut datagram, mut written) = ([0; 1_500], 0);
    for _ in 0..300 {
        let allocated = during(|| {
            crowd.publish();
            let packets = crowd.fan_out(|packet| {
                written += packet.write(&mut datagram).expect("it fits");
                ControlFlow::Continue(())
            });
            assert_eq!(packets, 1_000);
        });
        assert_eq!(allocated, 0);
    }
    assert!(written > 300 * 1_000 * 120);
}

#[test]
fn no_packet_that_is_sent_again_costs_an_allocation() {
    let mut crowd = Crowd::new(100);
    let (mut repaired, mut replayed) = (0, 0);
    for round in 0..50_u64 {
        crowd.publish();
        let mut latest = Vec::new();
        crowd.drain(|output| {
            if let Output::Packet(packet) = output {
                latest.push((packet.leg, packet.ssrc, packet.sequence(), packet.frame.position));
            }
        });
        let allocated = during(|| {
            for &(leg, ssrc, sequence, position) in &latest {
                if round % 10 == 9 {
                    let replay = crowd.relay.replay(crowd.now, leg, Some(position.saturating_sub(20)));
                    assert!(replay.is_ok_and(|frames| frames > 0));
                } else {
                    let nack = rtcp::Nack {
                        sender_ssrc: 1,
                        media_ssrc: ssrc,
                        first: sequence.wrapping_sub(8),
                        following: 0b101,
                    };
                    let verdict = crowd.relay.handle_feedback(crowd.now, leg, Feedback::Nack(nack));
                    assert_eq!(verdict, Verdict::Accepted);
                }
            }
            for _ in 0..20 {
                let again = crowd.drain(|output| {
                    if let Output::Packet(packet) = output {
                        assert!(packet.replay);
                    }
                });
                if round % 10 == 9 {
                    replayed += again
                } else {
                    repaired += again
                }
                crowd.wait(Duration::from_millis(10));
            }
        });
        // A replay has a state of its own while it lasts: one allocation, however many packets it brings. What answers
        // NACKs is made once and kept.
        let allowed = match round {
            0 => 400,
            replay if replay % 10 == 9 => 100,
            _ => 0,
        };
        assert!(allocated <= allowed, "round {round}: {allocated}");
    }
    assert!(repaired >= 100 * 3 * 9 && replayed >= 100 * 20 * 5, "{repaired} {replayed}");
}

#[test]
fn a_switch_of_many_listeners_spends_each_old_leg_once() {
    let mut crowd = Crowd::new(50);
    crowd.switch_all();
    let mut spent = 0;
    for _ in 0..5 {
        crowd.publish();
        crowd.drain(|output| {
            spent += usize::from(matches!(output, Output::Event(Event::LegSpent { gap_frames: 0, .. })));
        });
    }
    assert_eq!(spent, 50);
}

/// Beside its payloads, of 80 bytes each: 32 kb/s.
#[test]
fn half_a_minute_of_history_holds_64_kib() {
    let now = Instant::now();
    let epoch = Epoch { instant: now, wall: SystemTime::now() };
    let mut relay = Relay::new(Config::new(), epoch, 1);
    let track = relay.open_track(now, TrackSpec { name: "en".to_owned() }).expect("the first track");
    let leg = relay.open_publisher_leg(now, track, LegSpec::new(111)).expect("the first publisher");
    relay.handle_leg(now, leg, LegState::Up);
    let template = Packet::parse(datagram()).expect("it was written by the same module");
    let held = held_by(|| {
        for number in 0..5_000_u32 {
            let mut packet = template.clone();
            packet.payload.truncate(80);
            (packet.header.sequence, packet.header.timestamp) = (number as u16, number * 960);
            let at = now + Duration::from_millis(20) * number;
            assert_eq!(relay.handle_packet(at, leg, packet), Verdict::Accepted);
            while relay.poll_output().is_some() {}
        }
    });
    let stats = relay.track_stats(track).expect("it is open");
    let beside = held - stats.history_payload_bytes as i64;
    assert!(stats.history_frames >= 1_500);
    assert!(beside <= 64 * 1_024, "{beside} bytes");
}
