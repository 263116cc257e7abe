use std::task::Poll;
use std::time::SystemTime;

use relay_engine::{Config as EngineConfig, Epoch, LegSpec, Relay, TrackSpec};

use super::*;
use crate::auth::{Grant, Role, Scope};
use crate::session::ticket::Right;
use crate::session::{Audience, Event, Next, Subscription};
use crate::webrtc::{CloseReason, Record};

mod returns;
mod shed;

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
        refresh: crate::session::refresh::tests::rules(),
        public_url: String::new(),
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
    SessionSpec { source: languages[0].clone(), languages, owner: Some(me()), anonymous_listeners: true }
}

fn me() -> Subject {
    Subject { issuer: "issuer".to_owned(), subject: "me".to_owned() }
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

fn owned(issuer: &str) -> SessionSpec {
    let owner = Subject { issuer: issuer.to_owned(), subject: "me".to_owned() };
    SessionSpec { owner: Some(owner), anonymous_listeners: false, ..spec() }
}

fn holder(role: Role, takeover: bool, expires: Instant) -> Caller {
    Caller::Token(Arc::new(Grant {
        subject: me(),
        token_id: None,
        role,
        scope: Scope::Own,
        languages: None,
        takeover,
        expires,
    }))
}

/// What a follower can read now.
fn read(follower: &mut Subscription) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Some(next) = follower.take() {
        match next {
            Next::Event(event) => names.push(event.event.name()),
            Next::Lost => names.push("lost"),
            Next::Over => {
                names.push("over");
                break;
            }
        }
    }
    names
}

#[test]
fn followers_and_the_feed_hear_every_change_in_order_and_the_view_says_up_to_where() {
    let now = Instant::now();
    let directory = Directory::new(limits());
    let mut feed = directory.feed();
    let id = directory.create(now, spec(), &tracks(2)).unwrap().view.id.to_string();
    let mut follower = directory.hub(&id).unwrap().subscribe(Some(0));
    let mut slot = publish(&directory, &id, None).unwrap().slot;
    slot.connected();
    slot.ready();
    assert_eq!(directory.pause(now, &id).unwrap().seq, 3);
    assert_eq!(directory.resume(now, &id).unwrap().status, Status::Active);
    let added = directory.add_language(now, &id, "de".parse().unwrap(), tracks(3)[2]).unwrap();
    assert_eq!((added.seq, added.tracks.len()), (5, 3));
    directory.remove_language(now, &id, "de").unwrap();
    directory.end(now, &id, EndReason::Deleted).unwrap();
    drop(slot);
    let names = [
        "sessionCreated",
        "speakerReady",
        "sessionPaused",
        "sessionResumed",
        "trackAdded",
        "trackRemoved",
        "sessionEnded",
    ];
    assert_eq!(read(&mut follower), [&names[..], &["over"]].concat());
    assert!(matches!(directory.hub(&id), Err(SessionError::Ended { .. })));
    drop(directory);
    let fed = block_on(async move {
        let mut fed = Vec::new();
        while let Some((session, event)) = feed.next().await {
            assert_eq!(session.as_str(), id);
            fed.push((event.seq, event.event.name()));
        }
        fed
    });
    assert_eq!(fed, (1..).zip(names).collect::<Vec<_>>());
}

/// Runs what never waits for anything outside.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

#[test]
fn a_feed_that_nobody_reads_in_time_loses_the_oldest_and_counts_them() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let mut feed = directory.feed();
    let mut slot = publish(&directory, &id, None).unwrap().slot;
    slot.connected();
    for step in 0..FEED + 20 {
        let turned = if step % 2 == 0 { directory.pause(now, &id) } else { directory.resume(now, &id) };
        turned.unwrap();
    }
    let (_, first) = block_on(feed.next()).unwrap();
    assert!(first.seq > 10, "{}", first.seq);
    assert!(directory.counts().feed_lost >= 10, "{:?}", directory.counts());
    assert_eq!(directory.take_work().pauses.len(), 2, "the last word per track");
}

#[test]
fn events_are_dated_by_the_wall_clock_that_was_set() {
    let now = Instant::now();
    let directory = Directory::new(limits());
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    directory.set_epoch(Epoch { instant: now, wall });
    assert_eq!(directory.unix_ms(now + Duration::from_secs(1)), 1_001_000);
    assert_eq!(directory.unix_ms(now.checked_sub(Duration::from_millis(1)).unwrap()), 999_999);
    let later = now + Duration::from_millis(500);
    let id = directory.create(later, spec(), &tracks(2)).unwrap().view.id;
    let Some(Next::Event(event)) = directory.hub(id.as_str()).unwrap().subscribe(Some(0)).take() else {
        panic!("no event");
    };
    assert_eq!(event.ts, 1_000_500);
}

#[test]
fn the_right_secret_or_grant_takes_over_and_nothing_else_does() {
    let now = Instant::now();
    let directory = Directory::new(limits());
    let later = now + Duration::from_secs(3600);
    let created = directory.create(now, owned("issuer"), &tracks(2)).unwrap();
    assert!(!format!("{created:?}").contains(&created.resume_secret));
    let id = created.view.id.to_string();
    let mut old = publish(&directory, &id, None).unwrap().slot;
    old.connected();
    old.accepted("0123456789abcdef0123456789abcdef".parse().unwrap()).unwrap();
    let (plain, grant) = (holder(Role::Speak, false, later), holder(Role::Speak, true, later));
    let wrong = Claim::ResumeSecret("A".repeat(43));
    let secret = || Claim::ResumeSecret(created.resume_secret.clone());
    for (caller, claim) in [
        (&plain, &Claim::None),
        (&grant, &Claim::None),
        (&plain, &Claim::TakeoverGrant),
        (&Caller::Anonymous, &Claim::TakeoverGrant),
    ] {
        let refused = directory.publisher_slot(now, &id, None, caller, claim).unwrap_err();
        assert!(matches!(refused, SessionError::SpeakerExists { .. }), "{caller} {claim:?}: {refused}");
    }
    let free = |claim| directory.publisher_slot(now, &id, Some("es"), &plain, claim);
    for refused in [directory.publisher_slot(now, &id, None, &plain, &wrong), free(&wrong)] {
        assert!(matches!(refused, Err(SessionError::Secret { .. })), "{refused:?}");
    }
    drop(free(&secret()).unwrap());
    for (caller, claim) in
        [(&plain, secret()), (&grant, Claim::TakeoverGrant), (&Caller::Open, Claim::TakeoverGrant)]
    {
        let mut taken = directory.publisher_slot(now, &id, None, caller, &claim).unwrap();
        let displaced = taken.displaced.expect("the old connection");
        assert_eq!(directory.take_work().legs[&displaced], CloseReason::TakenOver);
        taken.slot.accepted(displaced).unwrap();
        taken.slot.connected();
        drop(std::mem::replace(&mut old, taken.slot));
        assert!(directory.view(&id).unwrap().speaker_connected, "the old slot changes nothing");
    }
}

#[test]
fn whoever_lost_their_place_while_they_were_answered_is_told_so_and_harms_nobody() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let legs = crate::session::machine::tests::ids(2);
    let right = |track| {
        let role = crate::webrtc::Role::Publisher;
        move |name| Right { role, track, caller: Caller::Open, name, socket: false }
    };
    let mut old = publish(&directory, &id, None).unwrap();
    let (place, name) = (old.slot.place().clone(), |n: u128| format!("{n:032x}").parse().unwrap());
    old.slot.accepted(name(1)).unwrap();
    old.slot.connected();
    let claim = || directory.publisher_slot(now, &id, None, &Caller::Open, &Claim::TakeoverGrant);
    let mut new = claim().unwrap();
    assert!(new.epoch > old.epoch, "its packets are fenced before it is closed");
    // Closed, and gone, before whoever opened it got as far as its answer.
    drop(old.slot);
    assert_eq!(place.answered((legs[0].1, None), right(old.track)), None);
    assert!(matches!(place.check(None, true), Err(SessionError::SpeakerExists { .. })));
    new.slot.accepted(name(2)).unwrap();
    let text = new.slot.place().answered((legs[1].1, None), right(new.track)).unwrap();
    new.slot.connected();
    // What the media plane says of the old leg is of no interest any more.
    let ready = || directory.view(&id).unwrap().tracks[0].speaker_ready;
    let first = |leg| ShardEvent::FirstPacketIn { track: new.track, leg, at: now };
    directory.handle_shard_event(now, &first(legs[0].1));
    let closed = ShardEvent::LegClosed { leg: legs[0].1, track: new.track, next: None };
    directory.handle_shard_event(now, &closed);
    assert!(!ready() && directory.view(&id).unwrap().speaker_connected);
    directory.handle_shard_event(now, &first(legs[1].1));
    assert!(ready());
    place.leave();
    assert!(ready() && new.slot.place().check(None, true).is_ok(), "an end that is told twice");
    let role = crate::webrtc::Role::Publisher;
    let whose = directory.ticket_caller(now, &id, (role, None), &text, &Caller::Open);
    assert!(whose.is_ok(), "the new one's ticket is good");
    let taken = claim().unwrap();
    assert!(taken.epoch > new.epoch);
    let whose = directory.ticket_caller(now, &id, (role, None), &text, &Caller::Open);
    assert!(matches!(whose, Err(SessionError::Ticket { .. })), "with the place its tickets are gone");
}

#[test]
fn of_many_who_claim_at_once_exactly_one_wins() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let mut old = publish(&directory, &id, None).unwrap().slot;
    old.connected();
    let results: Vec<_> = std::thread::scope(|scope| {
        let claim = || directory.publisher_slot(now, &id, None, &Caller::Open, &Claim::TakeoverGrant);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    for error in lost {
        assert!(matches!(error.unwrap_err(), SessionError::SpeakerExists { .. }));
    }
}

#[test]
fn a_connection_that_is_accepted_after_the_end_is_closed() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let (mut slot, _) = listen(&directory, &id, None).unwrap();
    directory.end(now, &id, EndReason::Deleted).unwrap();
    assert!(matches!(slot.place().check(None, true), Err(SessionError::Ended { .. })));
    directory.take_work();
    let name = "0123456789abcdef0123456789abcdef".parse().unwrap();
    assert_eq!(slot.accepted(name), Err(CloseReason::SessionEnded));
    assert_eq!(directory.take_work().legs[&name], CloseReason::SessionEnded);
}

#[test]
fn sessions_of_an_issuer_are_limited_and_freed_by_their_end() {
    let now = Instant::now();
    let directory = Directory::new(Limits { max_sessions: 9, max_per_issuer: 2, ..limits() });
    let mut last = None;
    for _ in 0..2 {
        last = Some(directory.create(now, owned("one"), &tracks(2)).unwrap().view.id);
    }
    let full = directory.create(now, owned("one"), &tracks(2)).unwrap_err();
    assert_eq!(full, SessionError::IssuerFull { max: 2 });
    assert_eq!(directory.has_room(owned("one").owner.as_ref()), Err(full));
    directory.create(now, owned("two"), &tracks(2)).unwrap();
    directory.create(now, spec(), &tracks(2)).unwrap();
    directory.end(now, last.unwrap().as_str(), EndReason::Deleted).unwrap();
    directory.create(now, owned("one"), &tracks(2)).unwrap();
}

#[test]
fn who_may_do_what_is_remembered_with_the_id() {
    let now = Instant::now();
    let directory = Directory::new(limits());
    let id = directory.create(now, owned("issuer"), &tracks(2)).unwrap().view.id;
    let access = directory.access(id.as_str()).unwrap();
    assert_eq!((access.owner.unwrap().issuer.as_str(), access.anonymous_listeners), ("issuer", false));
    directory.end(now, id.as_str(), EndReason::Deleted).unwrap();
    assert!(directory.access(id.as_str()).unwrap().owner.is_some());
    directory.handle_timeout(now + Duration::from_secs(10));
    assert_eq!(directory.access(id.as_str()), None);
    assert_eq!(directory.access("never-was-100"), None);
}

#[test]
fn a_lease_resolves_when_its_token_is_over_and_not_by_the_end_of_its_session() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let caller = holder(Role::Listen, false, now + Duration::from_secs(100));
    assert!(directory.lease(now, &id, &Caller::Anonymous).unwrap().is_none());
    let lease = directory.lease(now, &id, &caller).unwrap().unwrap();
    let other = directory.create(now, spec(), &tracks(2)).unwrap().view.id;
    let ending = directory.lease(now, other.as_str(), &caller).unwrap().unwrap();
    let (_slot, _) = directory.listener_slot(now, &id, None, &caller).unwrap();
    assert_eq!(directory.counts().leases, 2);
    let mut follower = directory.hub(&id).unwrap().subscribe(None);
    directory.handle_timeout(now);
    let Some(Next::Event(warning)) = follower.take() else { panic!("no warning") };
    assert!(matches!(warning.event, Event::ConnectionWarning { remaining_minutes: 2, .. }), "{warning:?}");
    assert_eq!(warning.audience, Audience::Subject(caller.subject().unwrap().clone()));
    directory.end(now, other.as_str(), EndReason::Deleted).unwrap();
    directory.handle_timeout(now + Duration::from_secs(159));
    let pending = |lease: &Lease| {
        block_on(async {
            let mut expired = std::pin::pin!(lease.expired());
            std::future::poll_fn(|context| Poll::Ready(expired.as_mut().poll(context).is_pending())).await
        })
    };
    assert!(pending(&lease) && pending(&ending));
    directory.handle_timeout(now + Duration::from_secs(160));
    assert!(!pending(&lease) && !pending(&lease) && pending(&ending));
    drop((lease, ending));
    assert_eq!(directory.counts().leases, 0);
    assert!(directory.lease(now, other.as_str(), &Caller::Open).is_err(), "the session is over");
}

#[test]
fn a_token_for_another_session_renews_nothing_where_anybody_may_listen() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    let short = holder(Role::Speak, false, now + Duration::from_secs(100));
    let Caller::Token(grant) = &short else { panic!("a token") };
    let scope = Scope::Session("other".to_owned());
    let expires = now + Duration::from_secs(9999);
    let elsewhere = Caller::Token(Arc::new(Grant { scope, expires, ..(**grant).clone() }));
    let lease = directory.lease(now, &id, &short).unwrap().unwrap();
    let (_slot, _) = directory.listener_slot(now, &id, None, &elsewhere).unwrap();
    assert!(directory.lease(now, &id, &elsewhere).unwrap().is_none(), "as good as no token");
    directory.handle_timeout(now + Duration::from_secs(100));
    directory.handle_timeout(now + Duration::from_secs(160));
    block_on(lease.expired());
    drop(lease);
}

#[test]
fn all_sessions_end_when_the_relay_stops() {
    let now = Instant::now();
    let (directory, id) = with_session(now);
    directory.create_permanent(now, SessionId::demo(), spec(), &tracks(2)).unwrap();
    let mut follower = directory.hub(&id).unwrap().subscribe(None);
    directory.end_all(now, EndReason::Shutdown);
    assert_eq!(read(&mut follower), ["sessionEnded", "over"]);
    assert_eq!(directory.counts().ended_remembered, 2);
}

#[test]
fn the_media_plane_is_heard_by_the_session_whose_track_it_is() {
    let now = Instant::now();
    let directory = Directory::new(limits());
    let ids = tracks(2);
    let id = directory.create(now, spec(), &ids).unwrap().view.id;
    let mut follower = directory.hub(id.as_str()).unwrap().subscribe(None);
    let listener = {
        let epoch = Epoch { instant: now, wall: SystemTime::now() };
        let mut relay = Relay::new(EngineConfig::default(), epoch, 1);
        let track = relay.open_track(now, TrackSpec { name: "t0".into() }).unwrap();
        relay.open_listener(now, track, LegSpec::new(111)).unwrap().0
    };
    let skipped = |track| ShardEvent::FramesSkipped { track, listener, from: 7, count: 3 };
    directory.handle_shard_event(now, &skipped(ids[1]));
    assert_eq!(read(&mut follower), ["framesLost"]);
    directory.end(now, id.as_str(), EndReason::Deleted).unwrap();
    directory.handle_shard_event(now, &skipped(ids[1]));
}
