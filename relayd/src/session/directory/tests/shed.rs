//! Who is let go while the relay has more to do than it can.

use super::*;
use crate::overload::{Shed, Shedding};
use crate::session::machine::tests::resource;

const ALL: Shedding = Shedding { percent: 34, shard: None };

/// A listener whose connection goes by this number.
fn listener(directory: &Directory, now: Instant, id: &str, number: u64) -> ListenerSlot {
    let (mut slot, _) = directory.listener_slot(now, id, Some("es"), &Caller::Open).unwrap();
    slot.accepted(resource(number)).unwrap();
    slot.connected();
    slot
}

/// The connections that are to be closed.
fn closed(directory: &Directory) -> Vec<ResourceId> {
    let legs = directory.take_work().legs;
    assert!(legs.values().all(|reason| *reason == CloseReason::Overloaded), "{legs:?}");
    legs.into_keys().collect()
}

#[test]
fn the_newest_listeners_of_all_sessions_go_first_and_speakers_last() {
    let now = Instant::now();
    let (directory, first) = with_session(now);
    let second = directory.create(now, spec(), &tracks(4)[2..]).unwrap().view.id.to_string();
    let mut speaker = publish(&directory, &first, None).unwrap().slot;
    speaker.accepted(resource(100)).unwrap();
    speaker.connected();
    let at = |millis| now + Duration::from_millis(millis);
    // In the order in which they came: 1 to 6.
    let slots: Vec<ListenerSlot> = (1..=6)
        .map(|number| {
            listener(&directory, at(number), if number % 2 == 0 { &second } else { &first }, number)
        })
        .collect();
    let mut told = directory.hub(&first).unwrap().subscribe(Some(0));
    // 34 percent of six, of three, of two and of one.
    for gone in [&[4, 5, 6][..], &[2, 3], &[1]] {
        let shed = directory.shed(at(1_000), ALL);
        assert_eq!(shed, Shed { listeners: gone.len(), speakers: 0 });
        assert_eq!(closed(&directory), gone.iter().copied().map(resource).collect::<Vec<_>>());
    }
    let names = read(&mut told);
    assert_eq!(names.iter().filter(|name| **name == "listenersShed").count(), 3, "{names:?}");
    // Neither a late runtime nor another media thread is late because of this speaker.
    let of = |shard| Shedding { shard: Some(shard), ..ALL };
    assert_eq!(directory.shed(at(2_000), ALL), Shed::default());
    assert_eq!(directory.shed(at(2_000), of(1)), Shed::default());
    assert_eq!(closed(&directory), []);
    assert_eq!(directory.shed(at(2_000), of(0)), Shed { listeners: 0, speakers: 1 });
    assert_eq!(closed(&directory), [resource(100)]);
    assert_eq!(directory.shed(at(3_000), of(0)), Shed::default(), "nobody is left");
    drop((slots, speaker));
    assert_eq!(directory.counts().listeners, 0);
}

#[test]
fn a_speaker_without_a_connection_is_nobody_who_could_go() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let slot = publish(&directory, &id, None).unwrap().slot;
    assert_eq!(directory.shed(now, ALL), Shed::default());
    assert_eq!(directory.counts().publishers, 1);
    drop(slot);
}

#[test]
fn the_listeners_of_the_late_media_thread_go_as_long_as_it_has_some() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let slots: Vec<ListenerSlot> = (1..=3)
        .map(|number| {
            let at = now + Duration::from_millis(number);
            let slot = listener(&directory, at, &id, number);
            let mut relay = Relay::new(
                EngineConfig::default().relay(number as u8),
                Epoch { instant: now, wall: SystemTime::now() },
                1,
            );
            let track = relay.open_track(now, TrackSpec { name: "es".to_owned() }).unwrap();
            let (heard, leg) = relay.open_listener(now, track, LegSpec::new(111)).unwrap();
            directory.shared.with_place(slot.place(), at, |machine, _| {
                assert!(machine.handle_leg(slot.place().holder, leg, Some(heard)));
            });
            slot
        })
        .collect();
    let of = |shard| Shedding { percent: 1, shard: Some(shard) };
    assert_eq!(directory.shed(now, of(1)).listeners, 1);
    assert_eq!(closed(&directory), [resource(1)], "not the newest of all");
    assert_eq!(directory.shed(now, of(1)).listeners, 1);
    assert_eq!(closed(&directory), [resource(3)], "it has none: the newest of all");
    drop(slots);
}
