//! Second legs, cuts, replays and lines, on what listeners decrypt.

use std::collections::BTreeMap;

use relay_engine::rtp::rtcp::{ReceiverReport, ReportBlock, write_nack};
use relay_engine::{CarriedFrame, MediaTime, OpenError, Verdict};
use tokio::sync::mpsc;

use super::*;

/// What a listener's socket got, decrypted: by sequence number, how often, and that each time the bytes were the same.
#[derive(Default)]
struct Wire {
    datagrams: BTreeMap<u16, Vec<u8>>,
    packets: Vec<(u16, Vec<u8>)>,
}

impl Wire {
    /// Takes what waits at the socket.
    fn read(&mut self, ear: &Ear) {
        ear.socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        while let Ok(length) = ear.socket.recv(&mut buffer) {
            let datagram = &buffer[..length];
            if datagram[1] & 0x7f != LISTENER_TYPE {
                continue;
            }
            let sequence = u16::from_be_bytes([datagram[2], datagram[3]]);
            let first = self.datagrams.entry(sequence).or_insert_with(|| datagram.to_vec());
            assert_eq!(first, datagram, "under one index there is one ciphertext");
            let packet = rtp::Packet::parse(Bytes::copy_from_slice(datagram)).unwrap();
            let payload = ear.opener.open(0, length - packet.payload.len(), datagram).unwrap();
            self.packets.push((sequence, payload));
        }
        ear.socket.set_nonblocking(false).unwrap();
    }

    /// The numbers that were spoken, in the order they came.
    fn numbers(&self) -> Vec<u32> {
        self.packets.iter().map(|(_, payload)| number_of(payload)).collect()
    }
}

pub(super) fn numbered(number: u32) -> Vec<u8> {
    let mut payload = opus(20, 0);
    payload[1..5].copy_from_slice(&number.to_be_bytes());
    payload
}

pub(super) fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[1..5].try_into().unwrap())
}

fn listen(stage: &mut Stage) -> mpsc::Receiver<ShardEvent> {
    let (queue, events) = mpsc::channel(256);
    stage.plane.listen(queue);
    events
}

fn told(events: &mut mpsc::Receiver<ShardEvent>) -> Vec<ShardEvent> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}

fn wait(stage: &mut Stage, time: Duration) {
    let until = stage.now + time;
    while stage.now < until {
        stage.now += Duration::from_millis(5);
        while let Some(deadline) = stage.plane.relay().poll_timeout().filter(|due| due.at <= stage.now) {
            stage.plane.handle_timeout(deadline.at);
            stage.plane.drain();
        }
    }
}

/// Has the listener report that it has everything up to a sequence number.
fn report(stage: &mut Stage, ear: &mut Ear, leg: LegId, ssrc: u32, highest: u16) {
    let mut out = [0; 128];
    let block = ReportBlock { ssrc, highest_sequence: u32::from(highest), ..ReportBlock::default() };
    let length = ReceiverReport::write(0xfeed, &[block], &mut out).unwrap();
    let datagram = ear.srtcp(&out[..length]);
    stage.plane.handle_srtcp(stage.now, leg, &datagram);
}

#[test]
fn a_listener_moves_to_a_second_leg_and_misses_nothing() {
    for profile in PROFILES {
        let (old, new) = (Ear::new("127.0.0.1:0", profile, 1), Ear::new("127.0.0.1:0", profile, 2));
        let mut stage = Stage::new("127.0.0.1:0");
        let mut events = listen(&mut stage);
        let (listener, first) = stage.join_as(&old, LegSpec::new(LISTENER_TYPE).ssrc(7));
        let (mut heard_old, mut heard_new) = (Wire::default(), Wire::default());
        for number in 0..50 {
            stage.speak(&numbered(number));
        }
        let spec = LegSpec::new(LISTENER_TYPE).ssrc(8);
        let second = stage.plane.add_leg(stage.now, listener, spec).unwrap();
        let third = stage.plane.add_leg(stage.now, listener, spec);
        assert_eq!(third, Err(OpenError::LegExists(listener)));
        stage.plane.leg_up(stage.now, second, new.egress());
        for number in 50..60 {
            stage.speak(&numbered(number));
        }
        heard_new.read(&new);
        assert!(heard_new.packets.is_empty(), "nothing before the switch");
        stage.plane.switch(stage.now, second).unwrap();
        stage.plane.switch(stage.now, second).unwrap();
        for number in 60..200 {
            stage.speak(&numbered(number));
            wait(&mut stage, Duration::from_millis(5));
        }
        heard_old.read(&old);
        heard_new.read(&new);
        let told = told(&mut events);
        let spent = told.iter().find_map(|event| match *event {
            ShardEvent::LegSpent { leg, to, position, gap_frames, .. } => {
                Some((leg, to, position, gap_frames))
            }
            _ => None,
        });
        let Some((leg, to, cut, 0)) = spent else { panic!("{told:?}") };
        assert_eq!((leg, to), (first, second));
        let old_numbers = heard_old.numbers();
        assert_eq!(old_numbers, (0..old_numbers.len() as u32).collect::<Vec<_>>(), "nothing after the cut");
        assert_eq!(u64::from(*old_numbers.last().unwrap()) + 1, cut);
        let new_numbers = heard_new.numbers();
        assert!(new_numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{new_numbers:?}");
        assert!(u64::from(new_numbers[0]) <= cut && new_numbers.last() == Some(&199));
        assert!(
            told.iter()
                .any(|event| matches!(event, ShardEvent::FirstPacketOut { leg, .. } if *leg == second))
        );
        // The old leg goes, the listener stays.
        stage.plane.close(stage.now, Peer::Leg(first));
        stage.plane.drain();
        stage.speak(&numbered(200));
        heard_new.read(&new);
        assert_eq!(heard_new.numbers().last(), Some(&200));
        assert!(stage.plane.relay().listener_stats(listener).is_some());
    }
}

#[test]
fn a_changed_path_brings_again_what_was_not_acknowledged_as_the_same_bytes() {
    for profile in PROFILES {
        let mut ear = Ear::new("127.0.0.1:0", profile, 1);
        let mut stage = Stage::new("127.0.0.1:0");
        let (_, leg) = stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).ssrc(7));
        let mut wire = Wire::default();
        for number in 0..50 {
            stage.speak(&numbered(number));
        }
        wire.read(&ear);
        let acked = wire.packets[29].0;
        report(&mut stage, &mut ear, leg, 7, acked);
        let before = wire.packets.len();
        stage.plane.leg_path(stage.now, leg, ear.address());
        for number in 50..150 {
            stage.speak(&numbered(number));
            wait(&mut stage, Duration::from_millis(5));
        }
        wire.read(&ear);
        let again: Vec<_> = wire.numbers()[before..].to_vec();
        assert_eq!(again, (30..150).collect::<Vec<_>>(), "{profile:?}");
        let sequences: Vec<_> =
            wire.packets.iter().map(|(sequence, _)| sequence.wrapping_sub(wire.packets[0].0)).collect();
        assert!(
            wire.numbers().iter().zip(&sequences).all(|(number, sequence)| *number == u32::from(*sequence))
        );
        assert_eq!(stage.plane.stats().plane.seal_reused, 0);
    }
}

#[test]
fn an_authentic_report_brings_a_leg_back_and_a_forged_one_does_not() {
    let mut ear = Ear::new("127.0.0.1:0", PROFILES[0], 1);
    let mut forger = Ear::new("127.0.0.1:0", PROFILES[0], 2);
    let mut stage = Stage::new("127.0.0.1:0");
    let (listener, leg) = stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).ssrc(7));
    let mut wire = Wire::default();
    (0..10).for_each(|number| stage.speak(&numbered(number)));
    wire.read(&ear);
    let last = wire.packets[9].0;
    stage.plane.leg_down(stage.now, leg);
    (10..20).for_each(|number| stage.speak(&numbered(number)));
    let state = |stage: &Stage| stage.plane.relay().listener_stats(listener).unwrap().state;
    report(&mut stage, &mut forger, leg, 7, last);
    stage.plane.drain();
    assert_eq!(state(&stage), relay_engine::LegState::Down);
    assert!(ear.hears_nothing());
    report(&mut stage, &mut ear, leg, 7, last);
    assert_eq!(state(&stage), relay_engine::LegState::Up);
    wait(&mut stage, Duration::from_secs(1));
    wire.read(&ear);
    assert_eq!(wire.numbers(), (0..20).collect::<Vec<_>>());
}

#[test]
fn a_nack_is_answered_with_the_same_bytes() {
    let mut ear = Ear::new("127.0.0.1:0", PROFILES[0], 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let (_, leg) = stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).ssrc(7));
    let mut wire = Wire::default();
    for number in 0..20 {
        stage.speak(&numbered(number));
    }
    wire.read(&ear);
    let lost: Vec<u16> = [5, 6, 11].map(|at: usize| wire.packets[at].0).into();
    let mut out = [0; 64];
    let length = write_nack(0xfeed, 7, lost, &mut out).unwrap();
    let datagram = ear.srtcp(&out[..length]);
    stage.plane.handle_srtcp(stage.now, leg, &datagram);
    stage.plane.drain();
    wait(&mut stage, Duration::from_millis(50));
    wire.read(&ear);
    let mut again = wire.numbers()[20..].to_vec();
    again.sort_unstable();
    assert_eq!(again, [5, 6, 11]);
}

#[test]
fn a_new_listener_may_begin_in_the_past() {
    let ear = Ear::new("127.0.0.1:0", PROFILES[0], 1);
    let mut stage = Stage::new("127.0.0.1:0");
    for number in 0..50 {
        stage.speak(&numbered(number));
    }
    stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).ssrc(7).resume_from(20));
    for number in 50..100 {
        stage.speak(&numbered(number));
        wait(&mut stage, Duration::from_millis(5));
    }
    let mut wire = Wire::default();
    wire.read(&ear);
    assert_eq!(wire.numbers(), (20..100).collect::<Vec<_>>());
}

#[test]
fn another_track_goes_on_in_the_same_stream_on_a_new_line() {
    let ear = Ear::new("127.0.0.1:0", PROFILES[0], 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let mut events = listen(&mut stage);
    let (listener, leg) = stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).ssrc(7));
    let other = stage.plane.open_track(stage.now, "es".to_owned()).unwrap();
    let publisher = stage.plane.open_publisher(stage.now, other, LegSpec::new(PUBLISHER_TYPE)).unwrap();
    stage.plane.publisher_up(stage.now, publisher);
    for number in 0..10 {
        stage.speak(&numbered(number));
    }
    stage.plane.select(stage.now, listener, other).unwrap();
    for number in 0..10_u16 {
        stage.speak(&numbered(1_000));
        stage.plane.handle_packet(
            stage.now,
            publisher,
            spoken(500 + number, &numbered(2_000 + u32::from(number))),
        );
        stage.plane.drain();
    }
    let mut wire = Wire::default();
    wire.read(&ear);
    let expected: Vec<_> = (0..10).chain(2_000..2_010).collect();
    assert_eq!(wire.numbers(), expected);
    let sequences: Vec<_> = wire.packets.iter().map(|(sequence, _)| *sequence).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{sequences:?}");
    let told = told(&mut events);
    let lines: Vec<_> = told
        .iter()
        .filter_map(|event| match *event {
            ShardEvent::FirstPacketOut { leg: of, index, position, .. }
            | ShardEvent::LineStarted { leg: of, index, position, .. } => Some((of, index as u16, position)),
            _ => None,
        })
        .collect();
    assert_eq!(lines, [(leg, sequences[0], 0), (leg, sequences[10], 0)], "{told:?}");
    // What is asked for again of before is not sent under the indices of now, nor the other way round.
    stage.plane.leg_returned(stage.now, leg);
    for number in 0..50_u16 {
        stage.plane.handle_packet(stage.now, publisher, spoken(510 + number, &numbered(2_010)));
        stage.plane.drain();
        wait(&mut stage, Duration::from_millis(20));
    }
    wire.read(&ear);
    assert_eq!(stage.plane.stats().plane.seal_reused, 0);
}

#[test]
fn a_paused_listener_hears_nothing_and_then_goes_on_without_a_hole() {
    let ear = Ear::new("127.0.0.1:0", PROFILES[0], 1);
    let mut stage = Stage::new("127.0.0.1:0");
    let mut events = listen(&mut stage);
    let (listener, leg) = stage.join_as(&ear, LegSpec::new(LISTENER_TYPE).ssrc(7));
    for (number, paused) in [(0, None), (1, Some(true)), (2, None), (3, Some(false)), (4, None)] {
        if let Some(paused) = paused {
            stage.plane.pause_listener(stage.now, listener, paused).unwrap();
        }
        stage.speak(&numbered(number));
    }
    let mut wire = Wire::default();
    wire.read(&ear);
    assert_eq!(wire.numbers(), [0, 3, 4]);
    assert!(wire.packets.windows(2).all(|pair| pair[1].0 == pair[0].0.wrapping_add(1)));
    let told = told(&mut events);
    assert!(
        told.iter()
            .any(|event| matches!(*event, ShardEvent::LineStarted { leg: of, position: 3, .. } if of == leg)),
        "{told:?}"
    );
}

fn carried(position: u64, number: u32) -> CarriedFrame {
    CarriedFrame {
        position,
        media_time: MediaTime::from_ticks(position * 960),
        marker: false,
        capture_time: None,
        audio_level: None,
        payload: Bytes::from(numbered(number)),
    }
}

#[test]
fn frames_with_positions_fill_holes_and_the_closed_leg_tells_the_first_that_is_missing() {
    let mut stage = Stage::new("127.0.0.1:0");
    stage.plane.close(stage.now, Peer::Leg(stage.publisher));
    let publisher = stage.plane.open_publisher(stage.now, stage.track, LegSpec::new(PUBLISHER_TYPE)).unwrap();
    stage.plane.publisher_up(stage.now, publisher);
    let mut events = listen(&mut stage);
    for position in [0, 1, 2, 5, 3] {
        stage.now += Duration::from_millis(5);
        stage.plane.handle_frame(stage.now, publisher, carried(position, position as u32));
    }
    stage.plane.drain();
    assert_eq!(stage.plane.relay().track_stats(stage.track).unwrap().contiguous, Some(3));
    stage.plane.close(stage.now, Peer::Leg(publisher));
    let told = told(&mut events);
    assert!(matches!(told[0], ShardEvent::FirstPacketIn { leg, .. } if leg == publisher), "{told:?}");
    assert!(
        told.contains(&ShardEvent::LegClosed { leg: publisher, track: stage.track, next: Some(4) }),
        "{told:?}"
    );
}

#[test]
fn a_later_owner_fences_the_publishers_before() {
    let mut stage = Stage::new("127.0.0.1:0");
    stage.speak(&numbered(0));
    let spec = LegSpec::new(PUBLISHER_TYPE).epoch(3);
    let publisher = stage.plane.open_publisher(stage.now, stage.track, spec).unwrap();
    stage.plane.publisher_up(stage.now, publisher);
    stage.speak(&numbered(1));
    assert_eq!(stage.plane.stats().relay.packets_in[Verdict::Fenced], 1);
    let spec = LegSpec::new(PUBLISHER_TYPE).epoch(2);
    let late = stage.plane.open_publisher(stage.now, stage.track, spec);
    assert_eq!(late, Err(OpenError::Fenced { epoch: 3 }));
}

#[test]
fn a_pause_holds_both_publishers_and_leaves_no_hole() {
    let ear = Ear::new("127.0.0.1:0", PROFILES[0], 1);
    let mut stage = Stage::new("127.0.0.1:0");
    stage.join(&ear);
    let second = stage.plane.open_publisher(stage.now, stage.track, LegSpec::new(PUBLISHER_TYPE)).unwrap();
    stage.plane.publisher_up(stage.now, second);
    stage.speak(&numbered(0));
    stage.plane.pause_track(stage.now, stage.track, true);
    for number in 1..5 {
        let twin = spoken(stage.sequence, &numbered(number));
        stage.plane.handle_packet(stage.now, second, twin);
        stage.speak(&numbered(number));
    }
    assert_eq!(stage.plane.stats().relay.packets_in[Verdict::LegDown], 8);
    stage.plane.pause_track(stage.now, stage.track, false);
    for number in 5..8 {
        stage.speak(&numbered(number));
    }
    let mut wire = Wire::default();
    wire.read(&ear);
    assert_eq!(wire.numbers(), [0, 5, 6, 7]);
    assert!(wire.packets.windows(2).all(|pair| pair[1].0 == pair[0].0.wrapping_add(1)));
}
