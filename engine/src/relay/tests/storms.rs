//! Hostile publishers, large crowds, long gaps.

use bytes::Bytes;

use super::harness::{Bench, Out, packet, positions};
use crate::rtp::{AudioLevel, CaptureTime, Emit, ExtensionIds, Mid, NtpTime, Packet, Values};
use crate::{Config, LegSpec, LegState, Output, Peer, Verdict};

#[test]
fn what_a_leg_did_not_negotiate_is_counted_and_touches_nothing() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, _) = bench.listener(track);
    let mut send = |change: fn(&mut Packet)| {
        let mut packet = packet(7, 0, 0);
        change(&mut packet);
        bench.relay.handle_packet(bench.now, publisher, packet)
    };
    assert_eq!(send(|packet| packet.header.payload_type = 96), Verdict::WrongPayloadType);
    assert_eq!(send(|packet| packet.payload = Bytes::new()), Verdict::Empty);
    assert_eq!(send(|packet| packet.payload = Bytes::from(vec![0; 1_401])), Verdict::TooLarge);
    assert_eq!(send(|packet| packet.payload = Bytes::from(vec![0xff; 1_400])), Verdict::Accepted);
    bench.relay.handle_leg(bench.now, publisher, LegState::Down);
    assert_eq!(bench.next(publisher, 1), Verdict::LegDown);
    assert_eq!(bench.heard(listener), [0]);
}

#[test]
fn a_flood_is_cut_to_the_rate_and_the_rest_goes_on() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, _) = bench.listener(track);
    let accepted =
        (0..10_000).filter(|&n| bench.send(publisher, n, u32::from(n) * 960) == Verdict::Accepted).count();
    assert_eq!(accepted, 400);
    assert_eq!(bench.heard(listener).len(), 400);
    bench.wait(2_000);
    assert_eq!(bench.send(publisher, 401, 401 * 960), Verdict::Accepted);
}

#[test]
fn an_ssrc_for_each_packet_reaches_listeners_as_one_plain_stream() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    bench.listener(track);
    let mut last = None;
    for n in 0..2_000_u32 {
        bench.wait(20);
        bench.send_as(publisher, n, n.wrapping_mul(40_503) as u16, n.wrapping_mul(0x9e37_79b9));
        for out in bench.drain() {
            let Out::Packet { index, timestamp, .. } = out else { continue };
            if let Some((last_index, last_timestamp)) = last {
                assert_eq!(index, last_index + 1);
                assert_eq!(timestamp, u32::wrapping_add(last_timestamp, 960));
            }
            last = Some((index, timestamp));
        }
    }
    assert_eq!(bench.relay.track_stats(track).unwrap().sources, 2_000);
}

#[test]
fn ten_thousand_listeners_each_hear_each_frame_once() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let listeners: Vec<_> = (0..10_000).map(|_| bench.listener(track)).collect();
    for n in 0..3 {
        bench.next(publisher, n);
    }
    // A third of them leaves in the middle.
    let mut out: Vec<_> = (0..15_000).filter_map(|_| bench.poll()).collect();
    for (listener, _) in listeners.iter().step_by(3) {
        bench.close(Peer::Listener(*listener));
    }
    out.extend(bench.drain());
    let mut heard = vec![Vec::new(); listeners.len()];
    for out in out {
        if let Out::Packet { listener, position, .. } = out {
            heard[listener.slot()].push(position);
        }
    }
    for (n, heard) in heard.into_iter().enumerate() {
        let expected: Vec<_> = (0..heard.len() as u64).collect();
        assert_eq!(heard, expected);
        assert!(n % 3 == 0 || heard.len() == 3);
    }
}

#[test]
fn a_listener_hears_on_after_a_year_of_silence_and_a_jump_past_the_rollover() {
    let mut bench = Bench::new(Config::new().max_packet_rate(1_000_000));
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, leg) = bench.listener(track);
    bench.next(publisher, 0);
    let first = bench.drain();
    assert_eq!(positions(&first, listener), [0]);
    bench.relay.handle_leg(bench.now, leg, LegState::Down);
    for n in 1..40_000_u16 {
        bench.next(publisher, n);
    }
    bench.wait(365 * 86_400 * 1_000);
    bench.relay.handle_leg(bench.now, leg, LegState::Up);
    bench.next(publisher, 40_000);
    let out = bench.drain();
    let index = |out: &[Out]| {
        out.iter()
            .find_map(|out| if let Out::Packet { index, .. } = out { Some(*index) } else { None })
            .unwrap()
    };
    assert_eq!(positions(&out, listener), [40_000]);
    assert_eq!(index(&out), index(&first) + 2, "as after a single loss");
}

#[test]
fn extensions_arrive_under_each_legs_own_ids() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let level = AudioLevel { voice: true, level: 33 };
    let captured = CaptureTime { time: NtpTime(0x0102_0304_0506_0708), offset: None };
    let ids = ExtensionIds { audio_level: Some(1), capture_time: Some(3), mid: None };
    let spec = LegSpec::new(111).extensions(ids);
    let publisher = bench.relay.open_publisher_leg(bench.now, track, spec).unwrap();
    let mid = Mid::new("audio0").unwrap();
    let own = ExtensionIds { audio_level: Some(10), capture_time: Some(20), mid: Some((5, mid)) };
    let spec = LegSpec::new(96).extensions(own).ssrc(0xabcd);
    let (_, leg) = bench.relay.open_listener(bench.now, track, spec).unwrap();
    bench.relay.handle_leg(bench.now, leg, LegState::Up);

    let mut datagram = [0; 200];
    let extensions = Values { audio_level: Some((1, level)), capture_time: Some((3, captured)), mid: None };
    let header = Emit { marker: true, payload_type: 111, sequence: 9, timestamp: 9, ssrc: 9, extensions };
    let length = header.write(b"opus", &mut datagram).unwrap();
    let packet = Packet::parse(Bytes::copy_from_slice(&datagram[..length])).unwrap();
    assert_eq!(bench.relay.handle_packet(bench.now, publisher, packet), Verdict::Accepted);

    bench.relay.poll_output();
    let Some(Output::Packet(out)) = bench.relay.poll_output() else { panic!("no packet") };
    let length = out.write(&mut datagram).unwrap();
    let parsed = Packet::parse(Bytes::copy_from_slice(&datagram[..length])).unwrap();
    assert_eq!((parsed.header.ssrc, parsed.header.payload_type, parsed.header.marker), (0xabcd, 96, true));
    assert_eq!((parsed.header.sequence, parsed.header.timestamp), (out.sequence(), out.timestamp));
    assert_eq!(parsed.header.extensions.audio_level(10), Some(level));
    assert_eq!(parsed.header.extensions.capture_time(20), Some(captured));
    assert_eq!(parsed.header.extensions.mid(5), Some(mid));
    assert_eq!(parsed.payload, "opus");
    for short in 0..length {
        assert!(out.write(&mut datagram[..short]).is_err());
    }
}
