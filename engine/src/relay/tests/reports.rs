//! Sender and receiver reports, feedback, and silence: what time alone brings about.

use std::time::Duration;

use super::harness::{Bench, Out, events};
use crate::rtp::rtcp::{Nack, ReportBlock, SenderReport};
use crate::{Config, Event, Feedback, LegId, LegSpec, LegState, LegStats, NtpTime, Peer, Reason, Verdict};

/// Runs to `seconds` after now, frame by frame and deadline by deadline; reports with their time in ms.
fn run(bench: &mut Bench, publisher: Option<LegId>, seconds: u64) -> Vec<(u64, Out)> {
    let start = bench.now;
    let mut reports = Vec::new();
    for n in 0..seconds * 50 {
        let frame = start + Duration::from_millis(20 * n);
        while let Some(deadline) = bench.relay.poll_timeout().filter(|deadline| deadline.at < frame) {
            assert!(deadline.at > bench.now, "I4");
            bench.now = deadline.at;
            bench.relay.handle_timeout(bench.now);
            collect(bench, start, &mut reports);
        }
        bench.now = frame;
        bench.relay.handle_timeout(frame);
        if let Some(publisher) = publisher {
            bench.send(publisher, n as u16, n as u32 * 960);
        }
        collect(bench, start, &mut reports);
    }
    reports
}

fn collect(bench: &mut Bench, start: std::time::Instant, reports: &mut Vec<(u64, Out)>) {
    let at = (bench.now - start).as_millis() as u64;
    let out = bench.drain();
    reports.extend(out.into_iter().filter(|out| !matches!(out, Out::Packet { .. })).map(|out| (at, out)));
}

fn of_leg(reports: &[(u64, Out)], of: LegId) -> Vec<(u64, SenderReport)> {
    reports
        .iter()
        .filter_map(|(at, out)| match out {
            Out::SenderReport(leg, report) if *leg == of => Some((*at, *report)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_listeners_leg_gets_a_sender_report_about_every_five_seconds() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let legs = [bench.listener(track).1, bench.listener(track).1];
    let reports = run(&mut bench, Some(publisher), 300);
    let times: Vec<Vec<u64>> =
        legs.iter().map(|&leg| of_leg(&reports, leg).into_iter().map(|(at, _)| at).collect()).collect();
    assert_ne!(times[0], times[1], "they do not synchronise");
    for times in times {
        assert!((50..=70).contains(&times.len()), "{}", times.len());
        for pair in times.windows(2) {
            assert!((2_500..=7_500).contains(&(pair[1] - pair[0])));
        }
    }
}

#[test]
fn a_sender_report_ties_the_legs_timestamp_to_wall_time_and_counts() {
    let mut bench = Bench::new(Config::new());
    let epoch = NtpTime::from_wall(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, leg) = bench.listener(track);
    bench.send(publisher, 0, 0);
    let Some(Out::Packet { timestamp, .. }) = bench.drain().into_iter().nth(1) else { panic!("no packet") };
    bench.wait(20);
    let reports = of_leg(&run(&mut bench, Some(publisher), 60), leg);
    let ssrc = bench.relay.listener_stats(listener).unwrap().ssrc;
    for (at, report) in reports {
        // The stream began 20 ms before the run, whose first packet is a duplicate of it.
        assert_eq!(report.ssrc, ssrc);
        let sent = at / 20 + 1;
        assert!(report.packet_count.abs_diff(sent as u32) <= 1, "{report:?} at {at}");
        assert_eq!(report.octet_count, report.packet_count * 4);
        let elapsed = ((report.ntp.0 - epoch.0) * 1_000) >> 32;
        assert!(elapsed.abs_diff(at + 20) <= 1);
        let expected = timestamp.wrapping_add((at as u32) * 48);
        assert!(report.rtp_timestamp.wrapping_sub(expected).cast_signed().unsigned_abs() <= 48 * 21);
    }
}

#[test]
fn a_leg_that_was_sent_nothing_or_is_not_up_gets_no_report() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let (_, leg) = bench.listener(track);
    assert!(run(&mut bench, None, 30).is_empty());
    assert_eq!(bench.relay.poll_timeout(), None);
    let publisher = bench.publisher(track);
    let reports = run(&mut bench, Some(publisher), 30);
    assert!(!of_leg(&reports, leg).is_empty());
    bench.relay.handle_leg(bench.now, leg, LegState::Down);
    let reports = run(&mut bench, None, 30);
    assert!(of_leg(&reports, leg).is_empty(), "I6");
    bench.relay.handle_leg(bench.now, leg, LegState::Up);
    for n in 2_000..3_000 {
        bench.next(publisher, n);
    }
    bench.drain();
    assert!(!of_leg(&run(&mut bench, None, 30), leg).is_empty(), "it is up and was sent something again");
}

#[test]
fn a_spec_without_reports_gets_none() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let spec = LegSpec::new(111).reports(false);
    let publisher = bench.relay.open_publisher_leg(bench.now, track, spec).unwrap();
    let (_, leg) = bench.relay.open_listener(bench.now, track, spec).unwrap();
    bench.relay.handle_leg(bench.now, publisher, LegState::Up);
    bench.relay.handle_leg(bench.now, leg, LegState::Up);
    let reports = run(&mut bench, Some(publisher), 30);
    assert!(reports.iter().all(|(_, out)| matches!(out, Out::Event(_))), "{reports:?}");
}

#[test]
fn a_publishers_leg_gets_what_was_received_of_it() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let report = SenderReport {
        ssrc: 7,
        ntp: NtpTime(0x0011_2233_4455_6677),
        rtp_timestamp: 0,
        packet_count: 0,
        octet_count: 0,
    };
    let verdict = bench.relay.handle_feedback(bench.now, publisher, Feedback::SenderReport(report));
    assert_eq!(verdict, Verdict::Accepted);
    let blocks: Vec<_> = run(&mut bench, Some(publisher), 60)
        .into_iter()
        .filter_map(|(at, out)| match out {
            Out::ReceiverReport(leg, block) if leg == publisher => Some((at, block)),
            _ => None,
        })
        .collect();
    assert!((8..=24).contains(&blocks.len()));
    for (at, block) in blocks {
        assert_eq!((block.ssrc, block.cumulative_lost, block.last_sender_report), (7, 0, 0x2233_4455));
        assert!(((u64::from(block.delay_since_last_sender_report) * 1_000) >> 16).abs_diff(at) <= 1);
    }
    let Some(LegStats::Publisher(stats)) = bench.relay.leg_stats(publisher) else {
        panic!("it is a publisher's")
    };
    assert_eq!(stats.reception.unwrap().received, 3_000);
    assert_eq!(stats.packets_in[Verdict::Accepted], 3_000);
}

#[test]
fn what_comes_late_from_before_a_jump_spoils_no_report() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let verdicts = [9_998, 10_000, 50_000, 50_001, 9_999, 50_002].map(|n| bench.next(publisher, n));
    assert_eq!(verdicts.iter().filter(|&&verdict| verdict == Verdict::Accepted).count(), 5, "{verdicts:?}");
    let Some(LegStats::Publisher(stats)) = bench.relay.leg_stats(publisher) else {
        panic!("it is a publisher's")
    };
    let reception = stats.reception.unwrap();
    assert_eq!((reception.received, reception.lost), (2, 0), "50 001 and 50 002");
    assert!(reception.jitter < Duration::from_millis(20));
}

#[test]
fn a_listeners_report_gives_loss_jitter_and_round_trip() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, leg) = bench.listener(track);
    let reports = of_leg(&run(&mut bench, Some(publisher), 10), leg);
    let (at, sent) = *reports.last().unwrap();
    let ssrc = bench.relay.listener_stats(listener).unwrap().ssrc;
    let held = Duration::from_millis(10_000 - at);
    bench.now += Duration::from_millis(20 + 80);
    let block = ReportBlock {
        ssrc,
        fraction_lost: 25,
        cumulative_lost: 3,
        highest_sequence: 0,
        jitter: 96,
        last_sender_report: sent.ntp.middle(),
        delay_since_last_sender_report: crate::time::to_short(held),
    };
    let feedback = |bench: &mut Bench, block| {
        bench.relay.handle_feedback(bench.now, leg, Feedback::ReceiverReport(block))
    };
    assert_eq!(feedback(&mut bench, block), Verdict::Accepted);
    let report = bench.relay.listener_stats(listener).unwrap().report.unwrap();
    assert_eq!((report.fraction_lost, report.cumulative_lost), (25, 3));
    assert_eq!(report.jitter, Duration::from_millis(2));
    assert!(report.round_trip.unwrap().as_millis().abs_diff(80) <= 21, "{report:?}");

    assert_eq!(feedback(&mut bench, ReportBlock { ssrc: ssrc ^ 1, ..block }), Verdict::WrongSsrc);
    for (last_sender_report, delay) in [(0, 0), (block.last_sender_report, u32::MAX), (1, 0)] {
        let odd = ReportBlock { last_sender_report, delay_since_last_sender_report: delay, ..block };
        assert_eq!(feedback(&mut bench, odd), Verdict::Accepted);
        assert_eq!(bench.relay.listener_stats(listener).unwrap().report.unwrap().round_trip, None);
    }
}

#[test]
fn nacks_are_counted_and_what_a_side_does_not_send_is_refused() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    let (listener, leg) = bench.listener(track);
    let ssrc = bench.relay.listener_stats(listener).unwrap().ssrc;
    let nack = Feedback::Nack(Nack { sender_ssrc: 1, media_ssrc: ssrc, first: 10, following: 0b101 });
    assert_eq!(bench.relay.handle_feedback(bench.now, leg, nack), Verdict::Accepted);
    let stats = bench.relay.listener_stats(listener).unwrap();
    assert_eq!((stats.nacks, stats.nacked_packets), (1, 3));
    assert_eq!(bench.relay.handle_feedback(bench.now, publisher, nack), Verdict::WrongDirection);
    assert_eq!(bench.next(leg, 0), Verdict::WrongDirection);
    assert_eq!(bench.relay.handle_feedback(bench.now, leg, Feedback::Bye), Verdict::Accepted);
    assert_eq!(bench.relay.stats().feedback_in.total(), 3);
}

#[test]
fn a_track_falls_silent_two_seconds_after_its_last_frame_and_wakes_with_the_next() {
    let mut bench = Bench::new(Config::new());
    let track = bench.track();
    let publisher = bench.publisher(track);
    for n in 0..200 {
        bench.next(publisher, n);
        let expected: &[Event] = if n == 0 { &[Event::TrackActive { track }] } else { &[] };
        assert_eq!(events(&bench.drain()), expected);
    }
    let silent_at = bench.now + Duration::from_secs(2);
    let mut told = Vec::new();
    while let Some(deadline) = bench.relay.poll_timeout() {
        if deadline.why != Reason::Silence(track) && deadline.at > silent_at {
            break;
        }
        bench.now = deadline.at;
        bench.relay.handle_timeout(bench.now);
        told.extend(events(&bench.drain()).into_iter().map(|event| (bench.now, event)));
    }
    assert_eq!(told, [(silent_at, Event::TrackSilent { track })]);
    bench.next(publisher, 200);
    assert_eq!(events(&bench.drain()), [Event::TrackActive { track }]);
}

#[test]
fn a_closed_track_does_not_hide_the_deadline_of_another() {
    let mut bench = Bench::new(Config::new());
    let (gone, stays) = (bench.track(), bench.track());
    for track in [gone, stays] {
        let publisher = bench.publisher(track);
        bench.next(publisher, 0);
    }
    bench.drain();
    assert_eq!(bench.relay.poll_timeout().unwrap().why, Reason::Silence(gone));
    bench.close(Peer::Track(gone));
    bench.drain();
    let deadline = bench.relay.poll_timeout().unwrap();
    assert_eq!(
        (deadline.at, deadline.why),
        (bench.now + Duration::from_secs(2), Reason::Silence(stays)),
        "I4"
    );
}
