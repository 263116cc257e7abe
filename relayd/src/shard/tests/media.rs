//! Packets out: content, headers, addresses, the lives of legs.

use relay_engine::rtp::{Extensions, NtpTime};
use relay_engine::{AudioLevel, CaptureTime};

use super::*;
use crate::shard::legs::Hot;

fn two_listeners_hear_the_publisher(address: &str, profile: SrtpProfile) {
    let ears = [Ear::new(address, profile, 1), Ear::new(address, profile, 2)];
    let mut stage = Stage::new(address);
    for ear in &ears {
        stage.join(ear);
    }
    for number in 0..10 {
        stage.speak(&opus(20 + number, number as u8));
    }
    for ear in &ears {
        let first = ear.hear();
        assert_eq!(first.header.payload_type, LISTENER_TYPE);
        assert!(first.header.sequence < 1 << 15);
        assert_eq!(first.header.extensions.mid(6), Some(Mid::new("a0").unwrap()));
        assert_eq!(first.payload, opus(20, 0));
        for number in 1..10u16 {
            let heard = ear.hear();
            assert_eq!(heard.header.sequence, first.header.sequence + number);
            assert_eq!(heard.header.timestamp, first.header.timestamp.wrapping_add(960 * u32::from(number)));
            assert_eq!(heard.header.ssrc, first.header.ssrc);
            assert_eq!(heard.payload, opus(20 + usize::from(number), number as u8));
        }
        assert!(ear.hears_nothing());
    }
    let stats = stage.plane.stats();
    assert_eq!(stats.egress.packets, 20);
    assert_eq!(stats.egress.errors(), 0);
    assert_eq!(stats.plane, PlaneCounters::default());
}

#[test]
fn a_leg_is_sealed_the_wide_way_where_there_is_one() {
    let mut stage = Stage::new("127.0.0.1:0");
    for profile in PROFILES {
        let ear = Ear::new("127.0.0.1:0", profile, 1);
        let (_, leg) = stage.join(&ear);
        let Some(Hot::Srtp(hot)) = stage.plane.outbound.legs.hot(leg) else { panic!("a leg with keys") };
        assert_eq!(hot.sender.is_wide(), ear.ours.srtp_sender(9).is_wide());
    }
}

#[test]
fn listeners_decrypt_what_was_published_under_each_profile() {
    for profile in PROFILES {
        two_listeners_hear_the_publisher("127.0.0.1:0", profile);
    }
}

#[test]
fn listeners_on_ipv6_do_too() {
    if has_ipv6() {
        for profile in PROFILES {
            two_listeners_hear_the_publisher("[::1]:0", profile);
        }
    }
}

#[test]
fn more_listeners_than_a_batch_all_hear_every_frame() {
    let ears: Vec<Ear> =
        (0..150).map(|number| Ear::new("127.0.0.1:0", PROFILES[number % 3], number as u8)).collect();
    let mut stage = Stage::new("127.0.0.1:0");
    for ear in &ears {
        stage.join(ear);
    }
    for number in 0..3 {
        stage.speak(&opus(100, number));
    }
    for ear in &ears {
        for number in 0..3 {
            assert_eq!(ear.hear().payload, opus(100, number));
        }
    }
    #[cfg(target_os = "linux")]
    assert_eq!(stage.plane.stats().egress.calls, 9, "three system calls for 150 packets");
}

#[test]
fn payloads_of_every_size_arrive_whole() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    stage.join(&ear);
    for length in [1, 2, 120, 130, 140, 150, 200, 800, 1275, 1400] {
        stage.speak(&opus(length, 9));
        assert_eq!(ear.hear().payload, opus(length, 9), "{length}");
    }
}

#[test]
fn the_header_is_the_one_that_the_engine_would_write() {
    let one_byte = extensions(4, 5, 6);
    let two_byte = extensions(4, 20, 6);
    let only_mid = ExtensionIds { mid: one_byte.mid, ..ExtensionIds::default() };
    let only_time = ExtensionIds { capture_time: Some(3), ..ExtensionIds::default() };
    for ids in [one_byte, two_byte, only_mid, only_time, ExtensionIds::default()] {
        let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes128Gcm, 1);
        let mut stage = Stage::new("127.0.0.1:0");
        stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).extensions(ids));
        let short = CaptureTime { time: NtpTime(0x0123_4567_89ab_cdef), offset: None };
        let long = CaptureTime { offset: Some(-5), ..short };
        for time in [None, Some(short), Some(long)] {
            for level in [None, Some(AudioLevel { voice: true, level: 42 })] {
                let mut packet = spoken(stage.sequence, &opus(30, 1));
                packet.header.marker = level.is_some();
                packet.header.extensions = published(level, time);
                stage.sequence += 1;
                stage.plane.handle_packet(stage.now, stage.publisher, packet);
                stage.plane.drain();
                let heard = ear.hear().header;
                assert_eq!(heard.marker, level.is_some());
                let expected_level = ids.audio_level.and(level);
                let expected_time = ids.capture_time.and(time);
                assert_eq!(ids.audio_level.and_then(|id| heard.extensions.audio_level(id)), expected_level);
                assert_eq!(ids.capture_time.and_then(|id| heard.extensions.capture_time(id)), expected_time);
                assert_eq!(ids.mid.and_then(|(id, _)| heard.extensions.mid(id)), ids.mid.map(|(_, mid)| mid));
                let elements = [expected_level.is_some(), expected_time.is_some(), ids.mid.is_some()];
                assert_eq!(heard.extensions.iter().count(), elements.iter().filter(|is| **is).count());
            }
        }
    }
}

/// The extensions of a publisher that negotiated ids 1 and 2.
fn published(level: Option<AudioLevel>, time: Option<CaptureTime>) -> Extensions {
    let ids = ExtensionIds { mid: None, ..extensions(1, 2, 3) };
    let emit = rtp::Emit { extensions: ids.values(level, time), ..rtp::Emit::default() };
    let mut bytes = [0; 64];
    let length = emit.write(&[0xf8], &mut bytes).unwrap();
    rtp::Packet::parse(Bytes::copy_from_slice(&bytes[..length])).unwrap().header.extensions
}

#[test]
fn a_listener_that_moves_is_followed() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let elsewhere = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let (_, leg) = stage.join(&ear);
    stage.speak(&opus(20, 1));
    let before = ear.hear().header;
    stage.plane.leg_path(stage.now, leg, elsewhere.address());
    stage.speak(&opus(20, 2));
    let (again, after) = (elsewhere.hear(), elsewhere.hear());
    assert_eq!(
        (again.payload, again.header),
        (opus(20, 1), before.clone()),
        "it may have been lost on the way"
    );
    assert_eq!(after.payload, opus(20, 2));
    assert_eq!(after.header.sequence, before.sequence + 1, "the stream goes on");
    assert!(ear.hears_nothing());
}

#[test]
fn the_same_keys_again_go_on_where_they_were() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let (_, leg) = stage.join(&ear);
    stage.speak(&opus(20, 1));
    stage.plane.leg_down(stage.now, leg);
    stage.plane.leg_up(stage.now, leg, ear.egress());
    stage.speak(&opus(20, 2));
    let (first, again, second) = (ear.hear(), ear.hear(), ear.hear());
    assert_eq!((&again.payload, &again.header), (&first.payload, &first.header), "it may not have come");
    assert_eq!(second.payload, opus(20, 2));
    assert_eq!(second.header.sequence, first.header.sequence + 1);
    assert_eq!(stage.plane.stats().plane.seal_reused, 0);
}

#[test]
fn a_leg_that_is_down_or_closed_is_sent_nothing() {
    let ears: Vec<Ear> = (0..3).map(|seed| Ear::new("127.0.0.1:0", PROFILES[0], seed)).collect();
    let mut stage = Stage::new("127.0.0.1:0");
    let legs: Vec<_> = ears.iter().map(|ear| stage.join(ear)).collect();
    stage.speak(&opus(20, 1));
    stage.plane.leg_down(stage.now, legs[0].1);
    stage.plane.close(stage.now, Peer::Listener(legs[1].0));
    stage.speak(&opus(20, 2));
    assert_eq!(ears[2].hear().payload, opus(20, 1));
    assert_eq!(ears[2].hear().payload, opus(20, 2));
    for ear in &ears[..2] {
        assert_eq!(ear.hear().payload, opus(20, 1));
        assert!(ear.hears_nothing());
    }
}

#[test]
fn a_slot_used_again_belongs_to_its_new_leg() {
    let (old, new) = (Ear::new("127.0.0.1:0", PROFILES[0], 1), Ear::new("127.0.0.1:0", PROFILES[0], 2));
    let mut stage = Stage::new("127.0.0.1:0");
    let (_, closed) = stage.join(&old);
    stage.plane.close(stage.now, Peer::Leg(closed));
    let (_, leg) = stage.join(&new);
    stage.plane.leg_path(stage.now, closed, old.address());
    stage.plane.leg_up(stage.now, closed, old.egress());
    stage.speak(&opus(20, 1));
    assert_ne!(leg, closed);
    assert_eq!(new.hear().payload, opus(20, 1));
    assert!(old.hears_nothing());
}

#[test]
fn a_publishers_leg_is_no_listeners() {
    let ear = Ear::new("127.0.0.1:0", PROFILES[0], 1);
    let mut stage = Stage::new("127.0.0.1:0");
    stage.plane.leg_up(stage.now, stage.publisher, ear.egress());
    let spec = LegSpec::new(LISTENER_TYPE);
    let (_, leg) = stage.plane.open_listener(stage.now, stage.track, spec).unwrap();
    stage.plane.publisher_up(stage.now, leg);
    stage.speak(&opus(20, 1));
    assert!(ear.hears_nothing());
    assert_eq!(stage.plane.stats().plane.no_keys, 0, "without keys no listener's leg comes up");
}

#[test]
fn the_rollover_counter_goes_on_past_the_sequence_wrap() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::Aes128CmSha1_80, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    stage.join(&ear);
    let (mut rollover, mut before) = (0, None);
    for _ in 0..70_000 {
        // Ten times the rate of speech, so that no rate limit of the engine is met.
        stage.now += Duration::from_millis(200);
        stage.speak(&opus(3, 0));
        let datagram = ear.datagram();
        if datagram[1] != LISTENER_TYPE {
            continue;
        }
        let sequence = u16::from_be_bytes([datagram[2], datagram[3]]);
        if before.is_some_and(|before| sequence < before) {
            rollover += 1;
        }
        before = Some(sequence);
        let header_len = datagram.len() - 3 - 10;
        assert_eq!(ear.opener.open(rollover, header_len, &datagram), Some(opus(3, 0)), "{sequence}");
    }
    assert_eq!(rollover, 1);
}
