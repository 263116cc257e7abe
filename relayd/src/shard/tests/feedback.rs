//! RTCP both ways.

use relay_engine::rtp::rtcp::{
    Compound, Packet, ReceiverReport, ReportBlock, write_bye, write_description, write_nack,
};
use relay_engine::{Config, Verdict};

use super::*;

const REPORTER: u32 = 0xfeed;

fn receiver_report(ssrc: u32, cumulative_lost: i32) -> Vec<u8> {
    let mut out = [0; 128];
    let block = ReportBlock { ssrc, cumulative_lost, highest_sequence: 9, ..ReportBlock::default() };
    let length = ReceiverReport::write(REPORTER, &[block], &mut out).unwrap();
    out[..length].to_vec()
}

/// The plain compound of the next SRTCP datagram and its index; RTP in between is skipped.
fn next_report(ear: &mut Ear) -> (Vec<u8>, u32) {
    loop {
        let datagram = ear.datagram();
        if datagram[1] != 200 {
            continue;
        }
        let mut plain = [0; 2048];
        let length = ear.reports_in.open(&datagram, &mut plain).expect("the report is authentic");
        let word = match ear.ours.profile() {
            SrtpProfile::Aes128CmSha1_80 => &datagram[datagram.len() - 14..datagram.len() - 10],
            _ => &datagram[datagram.len() - 4..],
        };
        let index = u32::from_be_bytes(word.try_into().unwrap());
        return (plain[..length].to_vec(), index & 0x7fff_ffff);
    }
}

#[test]
fn listeners_get_sender_reports_with_rising_indices() {
    for profile in PROFILES {
        let mut ear = Ear::new("127.0.0.1:0", profile, 1);
        let relay = Config::default().report_interval(Duration::from_secs(1));
        let config = ShardConfig { relay, seed: 7, cname: "a name".to_owned(), ..ShardConfig::patient() };
        let mut stage = Stage::with("127.0.0.1:0", config);
        stage.join(&ear);
        let mut expected_index = 1 << 30;
        let mut reports = 0;
        while reports < 3 {
            stage.speak(&opus(20, 1));
            while let Some(deadline) = stage.plane.relay().poll_timeout().filter(|at| at.at <= stage.now) {
                stage.plane.handle_timeout(deadline.at);
                stage.plane.drain();
            }
            if stage.plane.stats().plane.reports_out == reports {
                continue;
            }
            reports += 1;
            let (plain, index) = next_report(&mut ear);
            assert_eq!(index, expected_index);
            expected_index += 1;
            let packets: Vec<_> = Compound::parse(&plain).map(Result::unwrap).collect();
            let [Packet::SenderReport(report, _), Packet::Other { packet_type: 202, format: 1 }] =
                &packets[..]
            else {
                panic!("{packets:?}");
            };
            assert!(report.packet_count > 0);
            let mut description = [0; 64];
            let length = write_description(report.ssrc, "a name", &mut description).unwrap();
            assert!(plain.ends_with(&description[..length]));
        }
    }
}

#[test]
fn what_a_listener_reports_reaches_the_engine() {
    for profile in PROFILES {
        let mut ear = Ear::new("127.0.0.1:0", profile, 1);
        let mut stage = Stage::new("127.0.0.1:0");
        let (listener, leg) = stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).ssrc(77));
        stage.speak(&opus(20, 1));
        let mut compound = receiver_report(77, 3);
        let mut rest = [0; 128];
        let length = write_nack(REPORTER, 77, [5, 6], &mut rest).unwrap();
        compound.extend(&rest[..length]);
        let datagram = ear.srtcp(&compound);
        stage.plane.handle_srtcp(stage.now, leg, &datagram);
        let stats = stage.plane.relay().listener_stats(listener).unwrap();
        assert_eq!(stats.report.unwrap().cumulative_lost, 3);
        assert_eq!((stats.nacks, stats.nacked_packets), (1, 2));

        stage.plane.handle_srtcp(stage.now, leg, &datagram);
        let length = write_bye(&[REPORTER], "", &mut rest).unwrap();
        let bye = ear.srtcp(&rest[..length]);
        stage.plane.handle_srtcp(stage.now, leg, &bye);
        let counters = stage.plane.stats().plane;
        assert_eq!((counters.rtcp_in, counters.rtcp_replayed, counters.byes), (2, 1, 1));
        assert_eq!(stage.plane.stats().relay.feedback_in[Verdict::WrongSsrc], 0);
    }
}

#[test]
fn rtcp_beyond_the_rate_is_dropped_and_the_rate_comes_back() {
    let mut ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes128Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let (_, leg) = stage.join(&ear);
    let send = |stage: &mut Stage, ear: &mut Ear, count: usize| {
        for _ in 0..count {
            let datagram = ear.srtcp(&receiver_report(1, 0));
            stage.plane.handle_srtcp(stage.now, leg, &datagram);
        }
        let counters = stage.plane.stats().plane;
        (counters.rtcp_in, counters.rtcp_limited)
    };
    assert_eq!(send(&mut stage, &mut ear, 120), (50, 70));
    stage.now += Duration::from_millis(100);
    assert_eq!(send(&mut stage, &mut ear, 10), (55, 75));
    stage.now += Duration::from_secs(60);
    assert_eq!(send(&mut stage, &mut ear, 100), (105, 125));
}

#[test]
fn junk_of_every_length_is_counted_and_changes_nothing() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes128Gcm, 1);
    let mut stage =
        Stage::with("127.0.0.1:0", ShardConfig { rtcp_rate: u32::MAX, seed: 1, ..ShardConfig::patient() });
    let (_, leg) = stage.join(&ear);
    for length in 0..=1600 {
        let junk: Vec<u8> = (0..length).map(|i| (i * 31 + length) as u8 | 0x80).collect();
        stage.plane.handle_srtcp(stage.now, leg, &junk);
    }
    assert_eq!(stage.plane.stats().plane.rtcp_forged, 1601);
    stage.speak(&opus(20, 1));
    assert_eq!(ear.hear().payload, opus(20, 1));
}

#[test]
fn authentic_but_malformed_rtcp_of_every_length_is_counted() {
    let mut ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes128Gcm, 1);
    let mut stage =
        Stage::with("127.0.0.1:0", ShardConfig { rtcp_rate: u32::MAX, seed: 1, ..ShardConfig::patient() });
    let (_, leg) = stage.join(&ear);
    for length in 8..=1400 {
        let junk: Vec<u8> =
            [0x81, 201, 0xff, 0xff].into_iter().chain(std::iter::repeat_n(7, length - 4)).collect();
        let datagram = ear.srtcp(&junk);
        stage.plane.handle_srtcp(stage.now, leg, &datagram);
    }
    assert_eq!(stage.plane.stats().plane.rtcp_malformed, 1393);
}

#[test]
fn rtcp_of_a_leg_without_keys_is_counted() {
    let mut ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes128Gcm, 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let spec = LegSpec::new(LISTENER_TYPE);
    let (_, leg) = stage.plane.open_listener(stage.now, stage.track, spec).unwrap();
    let datagram = ear.srtcp(&receiver_report(1, 0));
    stage.plane.handle_srtcp(stage.now, leg, &datagram);
    stage.plane.handle_srtcp(stage.now, stage.publisher, &datagram);
    assert_eq!(stage.plane.stats().plane.rtcp_unknown, 2);
}
