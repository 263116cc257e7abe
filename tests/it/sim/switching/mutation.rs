//! Relays whose switches are broken on purpose: an oracle that cannot fail proves nothing.
//!
//! Each mutation spoils the outputs of an honest relay once, where there is something to spoil; the oracle must name the
//! promise that was broken in every world in which it struck.

use std::collections::BTreeMap;
use std::time::Duration;

use relay_engine::{Event, LegId, ListenerId};
use relay_tests::switching::script::Script;
use relay_tests::switching::seen::{Handed, Seen};
use relay_tests::switching::{Tamper, run};
use relay_tests::world::Honest;

/// How many worlds each mutation must strike.
const STRIKES: usize = 25;

/// Spoils one drain, if it can, and says whether it did.
type Spoil = fn(&mut Vec<Seen>) -> bool;

/// Strikes once, after letting some outputs pass.
struct Once {
    spoil: Spoil,
    patience: usize,
    struck: bool,
}

impl Tamper for Once {
    fn tamper(&mut self, outputs: &mut Vec<Seen>) {
        self.patience = self.patience.saturating_sub(outputs.len());
        if self.patience == 0 && !self.struck {
            self.struck = (self.spoil)(outputs);
        }
    }
}

/// Runs worlds until the mutation has struck often enough; each time the oracle must name one of `rules`.
fn must_be_caught(spoil: Spoil, rules: &[&str]) {
    must_be_caught_in(STRIKES, spoil, rules);
}

/// The same for what is sometimes no harm: a frame that need not be handed out, a leg that is closed anyway. So many of
/// [`STRIKES`] must be caught.
fn must_be_caught_in(least: usize, spoil: Spoil, rules: &[&str]) {
    let (mut strikes, mut caught) = (0, 0);
    for seed in 0..4_000 {
        let script = Script::generate(seed);
        if run(&script, Duration::ZERO, &mut Honest).is_err() {
            continue;
        }
        let mut tamper = Once { spoil, patience: 150, struck: false };
        let result = run(&script, Duration::ZERO, &mut tamper);
        if !tamper.struck {
            continue;
        }
        if let Err(failure) = result {
            assert!(rules.contains(&failure.violation.rule), "seed {seed}: {failure:?}");
            caught += 1;
        }
        strikes += 1;
        if strikes == STRIKES {
            assert!(caught >= least, "the oracle let {} broken relays pass", strikes - caught);
            return;
        }
    }
    panic!("the mutation struck only {strikes} worlds");
}

/// The last packet for a listener that is no witness, if it passes: those come after the witnesses'.
fn find(outputs: &[Seen], wanted: impl Fn(&Handed) -> bool) -> Option<usize> {
    outputs
        .iter()
        .rposition(|seen| matches!(seen, Seen::Packet(packet) if is_heard(packet) && wanted(packet)))
}

/// Not a witness's: they come first, and have the lowest slots.
fn is_heard(packet: &Handed) -> bool {
    packet.listener.slot() >= 2
}

fn alter(outputs: &mut [Seen], wanted: impl Fn(&Handed) -> bool, change: impl FnOnce(&mut Handed)) -> bool {
    let Some(place) = find(outputs, wanted) else { return false };
    if let Seen::Packet(packet) = &mut outputs[place] {
        change(packet);
    }
    true
}

fn drop_event(outputs: &mut Vec<Seen>, wanted: impl Fn(&Event) -> bool) -> bool {
    let place = outputs.iter().position(|seen| matches!(seen, Seen::Event(event) if wanted(event)));
    place.map(|place| outputs.remove(place)).is_some()
}

#[test]
fn a_relay_that_drops_a_frame_is_caught() {
    must_be_caught_in(
        15,
        |outputs| find(outputs, |packet| !packet.replay).map(|place| outputs.remove(place)).is_some(),
        &["L3", "L4", "L1", "I2", "I1 order", "L5", "I1"],
    );
}

#[test]
fn a_relay_that_hands_a_frame_out_twice_and_does_not_say_so_is_caught() {
    must_be_caught(
        |outputs| {
            let place = find(outputs, |packet| !packet.replay);
            place.map(|place| outputs.push(outputs[place])).is_some()
        },
        &["I1"],
    );
}

#[test]
fn a_relay_that_hides_that_a_frame_is_a_replay_is_caught() {
    must_be_caught(
        |outputs| alter(outputs, |packet| packet.replay, |packet| packet.replay = false),
        &["I1", "I1 order", "L5"],
    );
}

#[test]
fn a_relay_that_seals_two_plaintexts_under_one_index_is_caught() {
    must_be_caught_in(
        8,
        |outputs| alter(outputs, |packet| packet.replay, |packet| packet.plaintext ^= 1),
        &["no index with two plaintexts", "L1", "L3"],
    );
}

#[test]
fn a_relay_that_changes_its_ssrc_is_caught() {
    must_be_caught(|outputs| alter(outputs, |_| true, |packet| packet.ssrc ^= 1), &["one SSRC"]);
}

#[test]
fn a_relay_that_renumbers_is_caught() {
    must_be_caught(
        |outputs| alter(outputs, |_| true, |packet| packet.index += 1),
        &["affine seq", "first seq < 2^15", "no index with two plaintexts"],
    );
}

#[test]
fn a_relay_that_bends_a_timestamp_is_caught() {
    must_be_caught(
        |outputs| alter(outputs, |_| true, |packet| packet.timestamp ^= 1 << 8),
        &["affine timestamp"],
    );
}

#[test]
fn a_relay_that_bends_media_time_is_caught() {
    must_be_caught(
        |outputs| {
            outputs.iter_mut().fold(false, |struck, seen| match seen {
                Seen::Packet(packet) => {
                    packet.media_time += 7;
                    packet.timestamp = packet.timestamp.wrapping_add(7);
                    true
                }
                _ => struck,
            })
        },
        &["affine media time", "frame", "no repeat in media time", "no gap in media time"],
    );
}

#[test]
fn a_relay_that_sends_on_another_leg_is_caught() {
    must_be_caught(
        |outputs| {
            let mut legs = outputs.iter().filter_map(|seen| match seen {
                Seen::Packet(packet) if is_heard(packet) => Some((packet.listener, packet.leg)),
                _ => None,
            });
            let Some((listener, leg)) = legs.next() else { return false };
            let Some((_, other)) = legs.find(|(other, _)| *other != listener) else { return false };
            alter(outputs, |packet| packet.leg == leg, |packet| packet.leg = other)
        },
        &["I6"],
    );
}

#[test]
fn a_relay_that_never_says_that_a_leg_is_spent_is_caught() {
    must_be_caught_in(
        12,
        |outputs| drop_event(outputs, |event| matches!(event, Event::LegSpent { .. })),
        &["LegSpent", "I6", "L3", "L4", "I2", "L1", "L5", "verdict", "switch", "I3"],
    );
}

#[test]
fn a_relay_that_says_twice_that_a_leg_is_spent_is_caught() {
    must_be_caught(
        |outputs| {
            let place = outputs.iter().position(|seen| matches!(seen, Seen::Event(Event::LegSpent { .. })));
            place.map(|place| outputs.insert(place, outputs[place])).is_some()
        },
        &["LegSpent", "I6"],
    );
}

#[test]
fn a_relay_that_hides_what_a_listener_missed_is_caught() {
    must_be_caught_in(
        12,
        |outputs| drop_event(outputs, |event| matches!(event, Event::FramesSkipped { .. })),
        &["L5"],
    );
}

#[test]
fn a_relay_that_miscounts_what_a_listener_missed_is_caught() {
    must_be_caught(
        |outputs| {
            let skipped = outputs.iter_mut().find_map(|seen| match seen {
                Seen::Event(Event::FramesSkipped { count, .. }) => Some(count),
                _ => None,
            });
            skipped.map(|count| *count += 10_000).is_some()
        },
        &["L5"],
    );
}

#[test]
fn a_relay_that_hides_or_shifts_what_is_lost_is_caught() {
    must_be_caught(|outputs| drop_event(outputs, |event| matches!(event, Event::FramesLost { .. })), &["L5"]);
    must_be_caught(
        |outputs| {
            let lost = outputs.iter_mut().find_map(|seen| match seen {
                Seen::Event(Event::FramesLost { from, .. }) => Some(from),
                _ => None,
            });
            lost.map(|from| *from += 1).is_some()
        },
        &["L5"],
    );
}

/// A relay that hands out a late frame once after it told that it would not.
#[derive(Default)]
struct Repents {
    /// The last packet for each listener.
    last: BTreeMap<ListenerId, Handed>,
    /// What the witnesses were handed, by track and position.
    held: BTreeMap<(u16, u64), Handed>,
    struck: bool,
}

impl Tamper for Repents {
    fn tamper(&mut self, outputs: &mut Vec<Seen>) {
        let mut repented = None;
        for seen in outputs.iter() {
            match seen {
                Seen::Packet(packet) if is_heard(packet) => {
                    self.last.insert(packet.listener, *packet);
                }
                Seen::Packet(packet) => {
                    let track = packet.id.map_or(u16::MAX, |id| u16::from(id.track));
                    self.held.insert((track, packet.position), *packet);
                }
                Seen::Event(Event::FramesSkipped { listener, from, count: 1 }) => {
                    repented = repented.or_else(|| self.belated(*listener, *from));
                }
                _ => {}
            }
        }
        if let Some(packet) = repented.filter(|_| !self.struck) {
            outputs.push(Seen::Packet(packet));
            self.struck = true;
        }
    }
}

impl Repents {
    /// A frame that a listener was just told of, as its leg would be handed it.
    fn belated(&self, listener: ListenerId, position: u64) -> Option<Handed> {
        let last = self.last.get(&listener).filter(|last| last.position > position)?;
        let held = self.held.get(&(u16::from(last.id?.track), position))?;
        let ticks = last.media_time.wrapping_sub(held.media_time) as u32;
        Some(Handed {
            position,
            index: last.index.checked_sub(last.position - position)?,
            timestamp: last.timestamp.wrapping_sub(ticks),
            replay: true,
            media_time: held.media_time,
            arrived: held.arrived,
            id: held.id,
            ..*last
        })
    }
}

/// Where more were forgiven, it is no harm.
#[test]
fn a_relay_that_hands_out_what_it_told_as_skipped_is_caught() {
    must_notice(Repents::default, |tamper| tamper.struck, (18, STRIKES), &["L5"]);
}

/// A relay that never sends a packet again right after itself: nothing later shows that one was lost.
#[derive(Default)]
struct NoTail {
    /// The last position on each leg.
    last: BTreeMap<LegId, u64>,
    struck: bool,
}

impl Tamper for NoTail {
    fn tamper(&mut self, outputs: &mut Vec<Seen>) {
        outputs.retain(|seen| {
            let Seen::Packet(packet) = seen else { return true };
            let again = self.last.insert(packet.leg, packet.position) == Some(packet.position);
            self.struck |= again;
            !again
        });
    }
}

/// Mostly the packet was there, and sent again for nothing.
#[test]
fn a_relay_that_never_sends_the_last_packet_again_is_caught() {
    must_notice(NoTail::default, |tamper| tamper.struck, (1, 100), &["L1", "LegSpent"]);
    let failure = run(&Script::generate(5712), Duration::ZERO, &mut NoTail::default());
    assert_eq!(failure.map_err(|failure| failure.violation.rule).err(), Some("L1"));
}

/// A relay that stops for good in the middle of a catch-up.
#[derive(Default)]
struct Stops {
    patience: usize,
    stopped: Option<ListenerId>,
    /// Packets that it should have sent since.
    kept: usize,
}

impl Tamper for Stops {
    fn tamper(&mut self, outputs: &mut Vec<Seen>) {
        self.patience += outputs.len();
        let replay = find(outputs, |packet| packet.replay).filter(|_| self.patience > 150);
        if let (None, Some(Seen::Packet(packet))) = (self.stopped, replay.map(|place| outputs[place])) {
            self.stopped = Some(packet.listener);
            return;
        }
        let all = outputs.len();
        outputs.retain(|seen| !matches!(seen, Seen::Packet(packet) if Some(packet.listener) == self.stopped));
        self.kept += all - outputs.len();
    }
}

/// What it keeps is sometimes only an answer to a NACK, which is owed to nobody who does not acknowledge in order.
#[test]
fn a_relay_that_stops_in_the_middle_of_a_catch_up_is_caught() {
    let rules = ["L4", "L3", "L1", "L5", "LegSpent", "I2"];
    must_notice(Stops::default, |tamper| tamper.kept > 0, (18, STRIKES), &rules);
}

/// Runs worlds with broken relays that keep count of what they did; of so many that did harm, so many must be caught.
fn must_notice<T: Tamper>(
    broken: fn() -> T,
    struck: fn(&T) -> bool,
    (least, of): (usize, usize),
    rules: &[&str],
) {
    let (mut strikes, mut caught) = (0, 0);
    for seed in 0..4_000 {
        let script = Script::generate(seed);
        let mut tamper = broken();
        let result = run(&script, Duration::ZERO, &mut tamper);
        if !struck(&tamper) || run(&script, Duration::ZERO, &mut Honest).is_err() {
            continue;
        }
        strikes += 1;
        if let Err(failure) = result {
            assert!(rules.contains(&failure.violation.rule), "seed {seed}: {failure:?}");
            caught += 1;
        }
        if strikes == of {
            break;
        }
    }
    assert!(strikes == of && caught >= least, "{caught} of {strikes} broken relays were caught");
}

/// A relay that asks to be woken at once, for ever.
struct BusyLoop;

impl Tamper for BusyLoop {
    fn tamper(&mut self, _outputs: &mut Vec<Seen>) {}

    fn deadline(&mut self, deadline: Option<Duration>, now: Duration) -> Option<Duration> {
        deadline.and(Some(now))
    }
}

#[test]
fn a_relay_that_wakes_for_ever_is_caught() {
    let failure = run(&Script::generate(1), Duration::ZERO, &mut BusyLoop).expect_err("it never sleeps");
    assert_eq!(failure.violation.rule, "I4");
}
