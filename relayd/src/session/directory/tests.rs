use relay_engine::{Config as EngineConfig, Epoch, Relay, TrackSpec};

use super::*;
use crate::webrtc::Record;

const LIMITS: Limits = Limits {
    max_sessions: 2,
    max_listeners: 3,
    idle_timeout: Duration::from_secs(60),
    ended_memory: Duration::from_secs(10),
};

/// Track ids come from an engine only.
fn tracks(count: usize) -> Vec<TrackId> {
    let now = Instant::now();
    let epoch = Epoch { instant: now, wall: std::time::SystemTime::now() };
    let mut relay = Relay::new(EngineConfig::default(), epoch, 1);
    (0..count).map(|n| relay.open_track(now, TrackSpec { name: format!("t{n}") }).unwrap()).collect()
}

fn spec() -> SessionSpec {
    let languages: Vec<Language> = vec!["en".parse().unwrap(), "es".parse().unwrap()];
    SessionSpec { source: languages[0].clone(), languages }
}

fn with_session(now: Instant) -> (Directory, String) {
    let directory = Directory::new(LIMITS);
    let view = directory.create(now, spec(), &tracks(2)).unwrap();
    (directory, view.id.to_string())
}

#[test]
fn a_new_session_is_created_and_empty() {
    let (directory, id) = with_session(Instant::now());
    let view = directory.get(&id).unwrap();
    assert_eq!((view.status, view.speaker_connected, view.listeners), (Status::Created, false, 0));
    assert_eq!(view.tracks.iter().map(|track| track.language.as_str()).collect::<Vec<_>>(), ["en", "es"]);
}

#[test]
fn the_speaker_makes_it_active_and_it_stays_so_while_they_are_away() {
    let (directory, id) = with_session(Instant::now());
    let (mut slot, _) = directory.publisher_slot(&id, None).unwrap();
    assert_eq!(directory.get(&id).unwrap().status, Status::Created, "accepted is not yet connected");
    slot.connected();
    let view = directory.get(&id).unwrap();
    assert_eq!((view.status, view.speaker_connected), (Status::Active, true));
    drop(slot);
    let view = directory.get(&id).unwrap();
    assert_eq!((view.status, view.speaker_connected), (Status::Active, false));
}

#[test]
fn a_translator_does_not_make_it_active() {
    let (directory, id) = with_session(Instant::now());
    let (mut slot, _) = directory.publisher_slot(&id, Some("ES")).unwrap();
    slot.connected();
    let view = directory.get(&id).unwrap();
    assert_eq!((view.status, view.speaker_connected), (Status::Created, false));
    assert!(view.tracks[1].speaker_connected);
}

#[test]
fn a_track_has_one_publisher_until_its_slot_is_dropped() {
    let (directory, id) = with_session(Instant::now());
    let (slot, _) = directory.publisher_slot(&id, Some("en")).unwrap();
    let error = directory.publisher_slot(&id, None).unwrap_err();
    assert!(matches!(error, SessionError::SpeakerExists { status: Status::Created, .. }));
    assert!(error.to_string().contains("status created"), "{error}");
    let (_other_track, _) = directory.publisher_slot(&id, Some("es")).unwrap();
    drop(slot);
    directory.publisher_slot(&id, None).unwrap();
}

#[test]
fn listeners_are_counted_when_connected_and_limited_when_accepted() {
    let (directory, id) = with_session(Instant::now());
    let mut slots: Vec<ListenerSlot> =
        (0..3).map(|_| directory.listener_slot(&id, Some("es")).unwrap().0).collect();
    assert!(matches!(directory.listener_slot(&id, None), Err(SessionError::ListenersFull { max: 3, .. })));
    assert_eq!(directory.get(&id).unwrap().listeners, 0);
    slots[0].connected();
    slots[0].connected();
    slots[1].connected();
    assert_eq!(directory.get(&id).unwrap().tracks[1].listeners, 2);
    slots.clear();
    assert_eq!(directory.get(&id).unwrap().listeners, 0);
    assert_eq!(directory.counts().listeners, 0);
}

#[test]
fn unknown_languages_name_the_known_ones() {
    let (directory, id) = with_session(Instant::now());
    for language in ["fr", "not a tag", ""] {
        let error = directory.track(&id, Some(language)).unwrap_err();
        assert!(
            matches!(&error, SessionError::LanguageNotFound { known, .. } if known == "en, es"),
            "{error}"
        );
    }
}

#[test]
fn an_ended_session_is_remembered_then_forgotten() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    assert_eq!(directory.end(now, &id).unwrap().len(), 2);
    for error in [directory.get(&id).unwrap_err(), directory.end(now, &id).unwrap_err()] {
        assert!(matches!(error, SessionError::Ended { .. }), "{error}");
    }
    assert!(directory.expire(now + Duration::from_secs(10)).is_empty());
    assert!(matches!(directory.get(&id), Err(SessionError::NotFound { .. })));
}

#[test]
fn a_slot_of_an_ended_session_harms_nobody() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let (mut speaker, _) = directory.publisher_slot(&id, None).unwrap();
    let (mut listener, _) = directory.listener_slot(&id, None).unwrap();
    directory.end(now, &id).unwrap();
    speaker.connected();
    listener.connected();
    drop((speaker, listener));
    assert_eq!(directory.counts(), Counts { ended_remembered: 1, ..Counts::default() });
}

#[test]
fn idle_sessions_expire_and_occupied_ones_do_not() {
    let now = Instant::now();
    let (directory, idle) = with_session(now);
    let occupied = directory.create(now, spec(), &tracks(2)).unwrap().id;
    let (slot, _) = directory.listener_slot(occupied.as_str(), None).unwrap();
    assert!(directory.expire(now + Duration::from_secs(59)).is_empty());
    assert_eq!(directory.expire(now + Duration::from_secs(61)).len(), 2);
    assert!(matches!(directory.get(&idle), Err(SessionError::Ended { .. })));
    directory.get(occupied.as_str()).unwrap();
    drop(slot);
    assert_eq!(directory.expire(Instant::now() + Duration::from_secs(61)).len(), 2);
}

#[test]
fn a_permanent_session_never_expires() {
    let now = Instant::now();
    let directory = Directory::new(LIMITS);
    directory.create_permanent(now, SessionId::demo(), spec(), &tracks(2)).unwrap();
    assert!(directory.expire(now + Duration::from_secs(1_000_000)).is_empty());
    directory.get("demo").unwrap();
}

#[test]
fn live_and_remembered_sessions_are_bounded() {
    let now = Instant::now();
    let (directory, _) = with_session(now);
    let mut last = directory.create(now, spec(), &tracks(2)).unwrap().id;
    let full = directory.create(now, spec(), &tracks(2)).unwrap_err();
    assert_eq!(full, SessionError::SessionsFull { max: 2 });
    for second in 0..20 {
        let now = now + Duration::from_millis(second);
        directory.end(now, last.as_str()).unwrap();
        last = directory.create(now, spec(), &tracks(2)).unwrap().id;
    }
    assert_eq!(directory.counts().ended_remembered, 2);
}
