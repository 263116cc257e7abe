//! Relays that are broken on purpose: an oracle that cannot fail proves nothing.
//!
//! Each mutation spoils the outputs of an honest relay once, where there is something to spoil; the oracle must name
//! the promise that was broken in every world in which it struck.

use std::time::Duration;

use relay_engine::LegState;
use relay_engine::rtp::rtcp::ReportBlock;
use relay_tests::oracle::Oracle;
use relay_tests::scenario::Scenario;
use relay_tests::seen::{Seen, SeenPacket};
use relay_tests::world::{Tamper, run};

/// How many worlds each mutation must strike.
const STRIKES: usize = 40;

/// Spoils one drain, if it can, and says whether it did.
type Spoil = fn(&mut Vec<Seen>, &Oracle) -> bool;

/// Strikes once, after letting some packets pass.
struct Once {
    spoil: Spoil,
    patience: usize,
    struck: bool,
}

impl Tamper for Once {
    fn tamper(&mut self, outputs: &mut Vec<Seen>, oracle: &Oracle) {
        self.patience = self.patience.saturating_sub(outputs.len());
        if self.patience == 0 && !self.struck {
            self.struck = (self.spoil)(outputs, oracle);
        }
    }
}

/// Runs worlds until the mutation has struck often enough; each time the oracle must name one of `rules`.
fn must_be_caught(spoil: Spoil, rules: &[&str]) {
    let mut strikes = 0;
    for seed in 0..2_000 {
        let mut tamper = Once { spoil, patience: 20, struck: false };
        let result = run(&Scenario::generate(seed), Duration::ZERO, &mut tamper);
        if !tamper.struck {
            continue;
        }
        let failure = result.expect_err("the oracle let a broken relay pass");
        let rule = failure.violation.rule;
        assert!(rules.contains(&rule), "seed {seed}: {failure:?}");
        strikes += 1;
        if strikes == STRIKES {
            return;
        }
    }
    panic!("the mutation struck only {strikes} worlds");
}

fn packets(outputs: &mut [Seen]) -> impl Iterator<Item = &mut SeenPacket> {
    outputs.iter_mut().filter_map(|seen| match seen {
        Seen::Packet(packet) => Some(packet),
        _ => None,
    })
}

fn place_of_packet(outputs: &[Seen]) -> Option<usize> {
    outputs.iter().position(|seen| matches!(seen, Seen::Packet(_)))
}

/// Changes the last packet of a drain, if there is one.
fn alter(outputs: &mut [Seen], change: impl FnOnce(&mut SeenPacket)) -> bool {
    packets(outputs).last().map(change).is_some()
}

#[test]
fn a_relay_that_drops_a_packet_is_caught() {
    must_be_caught(
        |outputs, _| place_of_packet(outputs).map(|place| outputs.remove(place)).is_some(),
        &["I1", "I1 order", "L5", "reports"],
    );
}

#[test]
fn a_relay_that_sends_a_packet_twice_is_caught() {
    must_be_caught(
        |outputs, _| {
            let place = place_of_packet(outputs);
            place.map(|place| outputs.insert(place, outputs[place].clone())).is_some()
        },
        &["I1"],
    );
}

#[test]
fn a_relay_that_reorders_the_packets_of_a_leg_is_caught() {
    must_be_caught(
        |outputs, _| {
            let Some(place) = place_of_packet(outputs) else { return false };
            let Seen::Packet(first) = &outputs[place] else { return false };
            let leg = first.leg;
            let later = (place + 1..outputs.len())
                .find(|later| matches!(&outputs[*later], Seen::Packet(packet) if packet.leg == leg));
            later.map(|later| outputs.swap(place, later)).is_some()
        },
        &["I1 order"],
    );
}

#[test]
fn a_relay_that_changes_its_ssrc_is_caught() {
    must_be_caught(
        |outputs, _| alter(outputs, |packet| packet.wire[8] ^= 1),
        &["one SSRC", "verdict", "reports"],
    );
}

#[test]
fn a_relay_that_renumbers_is_caught() {
    must_be_caught(
        |outputs, _| {
            alter(outputs, |packet| {
                packet.index += 1;
                let sequence = (packet.index as u16).to_be_bytes();
                packet.wire[2..4].copy_from_slice(&sequence);
            })
        },
        &["affine seq", "first seq < 2^15"],
    );
}

#[test]
fn a_relay_whose_sequence_number_is_not_its_index_is_caught() {
    must_be_caught(|outputs, _| alter(outputs, |packet| packet.wire[3] ^= 1), &["affine seq"]);
}

#[test]
fn a_relay_that_bends_a_timestamp_is_caught() {
    must_be_caught(
        |outputs, _| alter(outputs, |packet| packet.wire[6] ^= 1),
        &["affine timestamp", "reports"],
    );
}

#[test]
fn a_relay_that_damages_a_payload_is_caught() {
    must_be_caught(
        |outputs, _| alter(outputs, |packet| *packet.wire.last_mut().expect("a payload") ^= 1),
        &["payload"],
    );
}

#[test]
fn a_relay_that_loses_a_marker_is_caught() {
    must_be_caught(|outputs, _| alter(outputs, |packet| packet.wire[1] ^= 0x80), &["frame"]);
}

#[test]
fn a_relay_that_sends_to_a_leg_that_is_down_is_caught() {
    must_be_caught(
        |outputs, oracle| {
            let down = oracle.legs().find(|(_, _, state)| *state == LegState::Down);
            let Some((leg, listener, _)) = down else { return false };
            alter(outputs, |packet| (packet.leg, packet.listener) = (leg, listener))
        },
        &["I6", "TrackActive comes before the frames"],
    );
}

#[test]
fn a_relay_that_sends_to_another_listener_is_caught() {
    must_be_caught(
        |outputs, oracle| {
            let legs: Vec<_> = oracle.legs().filter(|(_, _, state)| *state == LegState::Up).collect();
            alter_to_other(outputs, &legs)
        },
        &[
            "I1",
            "I1 order",
            "L5",
            "frame",
            "extensions",
            "one SSRC",
            "affine seq",
            "TrackActive comes before the frames",
        ],
    );
}

fn alter_to_other(
    outputs: &mut [Seen],
    legs: &[(relay_engine::LegId, relay_engine::ListenerId, LegState)],
) -> bool {
    let Some(packet) = packets(outputs).next() else { return false };
    let Some((leg, listener, _)) = legs.iter().find(|(leg, ..)| *leg != packet.leg) else { return false };
    (packet.leg, packet.listener) = (*leg, *listener);
    true
}

#[test]
fn a_relay_that_hides_what_a_listener_missed_is_caught() {
    must_be_caught(
        |outputs, _| {
            let place = outputs
                .iter()
                .position(|seen| matches!(seen, Seen::Event(relay_engine::Event::FramesSkipped { .. })));
            place.map(|place| outputs.remove(place)).is_some()
        },
        &["L5"],
    );
}

#[test]
fn a_relay_that_never_tells_of_a_close_is_caught() {
    must_be_caught(
        |outputs, _| {
            let place = outputs
                .iter()
                .position(|seen| matches!(seen, Seen::Event(relay_engine::Event::Closed { .. })));
            place.map(|place| outputs.remove(place)).is_some()
        },
        &["Closed for each id"],
    );
}

#[test]
fn a_relay_that_miscounts_in_its_reports_is_caught() {
    must_be_caught(
        |outputs, _| {
            let report = outputs.iter_mut().find_map(|seen| match seen {
                Seen::SenderReport(_, report) => Some(report),
                _ => None,
            });
            report.map(|report| report.packet_count += 1).is_some()
        },
        &["reports"],
    );
}

#[test]
fn a_relay_that_tells_a_publisher_wrong_is_caught() {
    let changes: [fn(&mut ReportBlock); 6] = [
        |block| block.fraction_lost ^= 1,
        |block| block.cumulative_lost += 1,
        |block| block.highest_sequence += 1 << 16,
        |block| block.jitter += 1,
        |block| block.last_sender_report ^= 1,
        |block| block.delay_since_last_sender_report += 1,
    ];
    for change in changes {
        let mut struck = 0;
        for seed in 0..40 {
            let mut tamper = Misreport { change, struck: false };
            let result = run(&Scenario::generate(seed), Duration::ZERO, &mut tamper);
            struck += usize::from(tamper.struck);
            let caught = result.err().map(|failure| failure.violation.rule);
            assert_eq!(caught, tamper.struck.then_some("reports"), "seed {seed}");
        }
        assert!(struck > 20, "only {struck} worlds had a report to spoil");
    }
}

/// A relay whose receiver reports are wrong in one way.
struct Misreport {
    change: fn(&mut ReportBlock),
    struck: bool,
}

impl Tamper for Misreport {
    fn tamper(&mut self, outputs: &mut Vec<Seen>, _oracle: &Oracle) {
        for seen in outputs {
            if let Seen::ReceiverReport(_, block) = seen {
                (self.change)(block);
                self.struck = true;
            }
        }
    }
}

/// A relay that asks to be woken at once, for ever.
struct BusyLoop;

impl Tamper for BusyLoop {
    fn tamper(&mut self, _outputs: &mut Vec<Seen>, _oracle: &Oracle) {}

    fn deadline(&mut self, deadline: Option<Duration>, now: Duration) -> Option<Duration> {
        deadline.and(Some(now))
    }
}

/// A relay that never asks to be woken.
struct Asleep;

impl Tamper for Asleep {
    fn tamper(&mut self, _outputs: &mut Vec<Seen>, _oracle: &Oracle) {}

    fn deadline(&mut self, _deadline: Option<Duration>, _now: Duration) -> Option<Duration> {
        None
    }
}

#[test]
fn a_relay_that_wakes_for_ever_or_never_is_caught() {
    let scenario = Scenario::generate(1);
    for tamper in [&mut BusyLoop as &mut dyn Tamper, &mut Asleep] {
        let failure = run(&scenario, Duration::ZERO, tamper).expect_err("the oracle let a broken relay pass");
        assert_eq!(failure.violation.rule, "I4");
    }
}
