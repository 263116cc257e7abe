use relay_engine::{Config as EngineConfig, Epoch, Relay, TrackSpec};

use super::*;
use crate::webrtc::Record;

fn limits() -> Limits {
    Limits {
        max_sessions: 2,
        max_per_issuer: 2,
        max_languages: 3,
        max_listeners: 3,
        linger: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(60),
        ended_memory: Duration::from_secs(10),
        warn_before: Duration::from_secs(300),
        grace: Duration::from_secs(60),
    }
}

/// Track ids come from an engine only.
fn tracks(count: usize) -> Vec<TrackId> {
    let now = Instant::now();
    let epoch = Epoch { instant: now, wall: SystemTime::now() };
    let mut relay = Relay::new(EngineConfig::default(), epoch, 1);
    (0..count).map(|n| relay.open_track(now, TrackSpec { name: format!("t{n}") }).unwrap()).collect()
}

fn spec() -> SessionSpec {
    let languages: Vec<Language> = vec!["en".parse().unwrap(), "es".parse().unwrap()];
    SessionSpec { source: languages[0].clone(), languages, owner: None, anonymous_listeners: true }
}

fn with_session(now: Instant) -> (Directory, String) {
    let directory = Directory::new(limits());
    let view = directory.create(now, spec(), &tracks(2)).unwrap().view;
    (directory, view.id.to_string())
}

fn publish(directory: &Directory, id: &str, language: Option<&str>) -> Result<Taken, SessionError> {
    directory.publisher_slot(Instant::now(), id, language, &Caller::Open, &Claim::None)
}

fn listen(
    directory: &Directory,
    id: &str,
    language: Option<&str>,
) -> Result<(ListenerSlot, TrackId), SessionError> {
    directory.listener_slot(Instant::now(), id, language, &Caller::Open)
}

#[test]
fn a_new_session_is_created_and_empty() {
    let (directory, id) = with_session(Instant::now());
    let view = directory.view(&id).unwrap();
    assert_eq!((view.status, view.speaker_connected, view.listeners), (Status::Created, false, 0));
    assert_eq!(view.tracks.iter().map(|track| track.language.as_str()).collect::<Vec<_>>(), ["en", "es"]);
}

#[test]
fn the_speaker_makes_it_active_and_it_stays_so_while_they_are_away() {
    let (directory, id) = with_session(Instant::now());
    let mut slot = publish(&directory, &id, None).unwrap().slot;
    assert_eq!(directory.view(&id).unwrap().status, Status::Created, "accepted is not yet connected");
    slot.connected();
    let view = directory.view(&id).unwrap();
    assert_eq!((view.status, view.speaker_connected), (Status::Active, true));
    drop(slot);
    let view = directory.view(&id).unwrap();
    assert_eq!((view.status, view.speaker_connected), (Status::Active, false));
}

#[test]
fn a_translator_does_not_make_it_active() {
    let (directory, id) = with_session(Instant::now());
    let mut slot = publish(&directory, &id, Some("ES")).unwrap().slot;
    slot.connected();
    let view = directory.view(&id).unwrap();
    assert_eq!((view.status, view.speaker_connected), (Status::Created, false));
    assert!(view.tracks[1].speaker_connected);
}

#[test]
fn a_track_has_one_publisher_until_its_slot_is_dropped() {
    let (directory, id) = with_session(Instant::now());
    let slot = publish(&directory, &id, Some("en")).unwrap().slot;
    let error = publish(&directory, &id, None).unwrap_err();
    assert!(matches!(error, SessionError::SpeakerExists { status: Status::Created, .. }));
    assert!(error.to_string().contains("status created"), "{error}");
    let _other_track = publish(&directory, &id, Some("es")).unwrap().slot;
    drop(slot);
    publish(&directory, &id, None).unwrap();
}

#[test]
fn listeners_are_counted_when_connected_and_limited_when_accepted() {
    let (directory, id) = with_session(Instant::now());
    let mut slots: Vec<ListenerSlot> =
        (0..3).map(|_| listen(&directory, &id, Some("es")).unwrap().0).collect();
    assert!(matches!(listen(&directory, &id, None), Err(SessionError::ListenersFull { max: 3, .. })));
    assert_eq!(directory.view(&id).unwrap().listeners, 0);
    slots[0].connected();
    slots[0].connected();
    slots[1].connected();
    assert_eq!(directory.view(&id).unwrap().tracks[1].listeners, 2);
    slots.clear();
    assert_eq!(directory.view(&id).unwrap().listeners, 0);
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
    directory.end(now, &id, EndReason::Deleted).unwrap();
    assert_eq!(directory.take_work().tracks.len(), 2);
    for error in [directory.view(&id).unwrap_err(), directory.end(now, &id, EndReason::Deleted).unwrap_err()]
    {
        assert!(matches!(error, SessionError::Ended { .. }), "{error}");
    }
    directory.handle_timeout(now + Duration::from_secs(10));
    assert!(matches!(directory.view(&id), Err(SessionError::NotFound { .. })));
}

#[test]
fn a_slot_of_an_ended_session_harms_nobody() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let mut speaker = publish(&directory, &id, None).unwrap().slot;
    let (mut listener, _) = listen(&directory, &id, None).unwrap();
    directory.end(now, &id, EndReason::Deleted).unwrap();
    speaker.connected();
    listener.connected();
    drop((speaker, listener));
    assert_eq!(directory.counts(), Counts { ended_remembered: 1, ..Counts::default() });
}

#[test]
fn idle_sessions_expire_and_occupied_ones_do_not() {
    let now = Instant::now();
    let (directory, idle) = with_session(now);
    let occupied = directory.create(now, spec(), &tracks(2)).unwrap().view.id;
    let (slot, _) = listen(&directory, occupied.as_str(), None).unwrap();
    directory.handle_timeout(now + Duration::from_secs(59));
    assert!(directory.take_work().is_empty());
    directory.handle_timeout(now + Duration::from_secs(61));
    assert_eq!(directory.take_work().tracks.len(), 2);
    assert!(matches!(directory.view(&idle), Err(SessionError::Ended { .. })));
    directory.view(occupied.as_str()).unwrap();
    drop(slot);
    directory.handle_timeout(Instant::now() + Duration::from_secs(61));
    assert_eq!(directory.take_work().tracks.len(), 2);
}

#[test]
fn a_permanent_session_never_expires() {
    let now = Instant::now();
    let directory = Directory::new(limits());
    directory.create_permanent(now, SessionId::demo(), spec(), &tracks(2)).unwrap();
    directory.handle_timeout(now + Duration::from_secs(1_000_000));
    assert!(directory.take_work().is_empty());
    directory.view("demo").unwrap();
}

#[test]
fn live_and_remembered_sessions_are_bounded() {
    let now = Instant::now();
    let (directory, _) = with_session(now);
    let mut last = directory.create(now, spec(), &tracks(2)).unwrap().view.id;
    let full = directory.create(now, spec(), &tracks(2)).unwrap_err();
    assert_eq!(full, SessionError::SessionsFull { max: 2 });
    for second in 0..20 {
        let now = now + Duration::from_millis(second);
        directory.end(now, last.as_str(), EndReason::Deleted).unwrap();
        last = directory.create(now, spec(), &tracks(2)).unwrap().view.id;
    }
    assert_eq!(directory.counts().ended_remembered, 2);
}
