use std::time::SystemTime;

use relay_engine::{Config, Epoch, LegSpec, Relay, TrackSpec};

use super::*;
use crate::auth::Role;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn rules() -> Rules {
    Rules {
        permanent: false,
        max_listeners: 3,
        max_languages: 3,
        linger: MINUTE,
        idle_timeout: 10 * MINUTE,
        warn_before: 5 * MINUTE,
        grace: MINUTE,
        refresh: crate::session::refresh::tests::rules(),
        seed: 1,
    }
}

pub(super) fn language(tag: &str) -> Language {
    tag.parse().unwrap()
}

/// Ids come from an engine only: tracks, and the leg of a publisher on each.
pub(in crate::session) fn ids(count: usize) -> Vec<(TrackId, LegId)> {
    let now = Instant::now();
    let mut relay = Relay::new(Config::default(), Epoch { instant: now, wall: SystemTime::now() }, 1);
    let mut open = |n| {
        let track = relay.open_track(now, TrackSpec { name: format!("t{n}") }).unwrap();
        (track, relay.open_publisher_leg(now, track, LegSpec::new(111)).unwrap())
    };
    (0..count).map(&mut open).collect()
}

pub(in crate::session) fn resource(number: u64) -> ResourceId {
    format!("{number:032x}").parse().unwrap()
}

pub(super) fn term(who: &str, role: Role, expires: Instant) -> Term {
    Term { subject: Subject { issuer: "issuer".into(), subject: who.into() }, role, expires }
}

/// A session of `en` and `es` in virtual time, with what it has put out.
struct World {
    start: Instant,
    now: Instant,
    machine: Machine,
    ids: Vec<(TrackId, LegId)>,
}

impl World {
    fn new() -> Self {
        Self::with(rules())
    }

    fn with(rules: Rules) -> Self {
        let (now, ids) = (Instant::now(), ids(4));
        let tracks = vec![(language("en"), ids[0].0), (language("es"), ids[1].0)];
        let mut machine = Machine::new(now, SessionId::demo(), rules, tracks);
        assert!(matches!(
            machine.poll_output(),
            Some(Output::Publish(Audience::Everyone, Event::SessionCreated { .. }))
        ));
        Self { start: now, now, machine, ids }
    }

    fn at(&mut self, after: Duration) {
        self.now = self.start + after;
        self.machine.handle_timeout(self.now);
        assert!(self.machine.poll_timeout().is_none_or(|at| at > self.now), "I4");
    }

    fn publish(&mut self, language: &str) -> HolderId {
        self.machine.take_publisher(self.now, Some(language), None, false).unwrap().holder
    }

    fn speak(&mut self, language: &str) -> HolderId {
        let holder = self.publish(language);
        self.machine.handle_connected(self.now, holder);
        holder
    }

    fn listen(&mut self, language: &str) -> HolderId {
        let holder = self.machine.take_listener(self.now, Some(language), None).unwrap().holder;
        self.machine.handle_connected(self.now, holder);
        holder
    }

    fn leave(&mut self, holder: HolderId) {
        self.machine.handle_gone(self.now, holder);
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    /// The names of the events put out; of the rest, what it is.
    fn heard(&mut self) -> Vec<String> {
        let word = |output| match output {
            Output::Publish(Audience::Everyone, event) => event.name().to_owned(),
            Output::Publish(_, event) => format!("staff {}", event.name()),
            Output::Warn { remaining, .. } => format!("warn {}", remaining.as_secs()),
            Output::CloseLeg { reason, .. } => format!("close {reason:?}"),
            Output::Lapsed(_) => "lapsed".to_owned(),
            Output::PauseTrack { paused, .. } => format!("track paused {paused}"),
            Output::CloseTrack(_) => "close track".to_owned(),
            Output::WarnLeg { cause, .. } => format!("warn leg {}", cause.name()),
            Output::Require { cause, .. } => format!("require {}", cause.name()),
            Output::Withdraw(_) => "withdraw".to_owned(),
            Output::Revoke(_) => "revoke".to_owned(),
            Output::Retire(_) => "retire".to_owned(),
            Output::Switch { .. } => "switch".to_owned(),
            Output::Report(_) => "report".to_owned(),
        };
        let told = self
            .drain()
            .into_iter()
            .filter(|output| !matches!(output, Output::Revoke(_) | Output::Retire(_)));
        told.map(word).collect()
    }
}

fn lingering(outputs: &[Output]) -> Vec<u64> {
    let seconds = |output: &Output| match output {
        Output::Publish(_, Event::SpeakerLeft { linger_seconds, .. }) => Some(*linger_seconds),
        _ => None,
    };
    outputs.iter().filter_map(seconds).collect()
}

#[test]
fn a_break_takes_an_active_session_and_a_resume_a_paused_one() {
    let mut world = World::new();
    let wrong = |error: SessionError, seen: Status, takes: Status| {
        assert!(
            matches!(error, SessionError::WrongStatus { status, wanted, .. } if status == seen && wanted == takes),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("has status {seen}")), "{error}");
    };
    wrong(world.machine.pause(world.now).unwrap_err(), Status::Created, Status::Active);
    wrong(world.machine.resume(world.now).unwrap_err(), Status::Created, Status::Paused);
    world.speak("en");
    wrong(world.machine.resume(world.now).unwrap_err(), Status::Active, Status::Paused);
    world.machine.pause(world.now).unwrap();
    assert_eq!(world.heard(), ["track paused true", "track paused true", "sessionPaused"]);
    wrong(world.machine.pause(world.now).unwrap_err(), Status::Paused, Status::Active);
    world.machine.resume(world.now).unwrap();
    assert_eq!(world.heard(), ["track paused false", "track paused false", "sessionResumed"]);
    assert_eq!(world.status(), Status::Active);
    world.machine.end(world.now, EndReason::Deleted);
    wrong(world.machine.pause(world.now).unwrap_err(), Status::Ended, Status::Active);
    wrong(world.machine.resume(world.now).unwrap_err(), Status::Ended, Status::Paused);
}

#[test]
fn the_speaker_is_ready_when_the_first_packet_of_their_own_leg_is_in() {
    let mut world = World::new();
    let (track, leg) = world.ids[0];
    let holder = world.speak("en");
    assert_eq!((world.status(), world.heard().len()), (Status::Active, 0));
    world.machine.handle_first_packet(track, leg);
    assert!(world.heard().is_empty(), "not known to be theirs");
    world.machine.handle_leg(holder, leg, None);
    world.machine.handle_first_packet(track, world.ids[1].1);
    assert!(world.heard().is_empty(), "another's leg");
    world.machine.handle_first_packet(track, leg);
    world.machine.handle_first_packet(track, leg);
    assert_eq!(world.heard(), ["speakerReady"]);
}

#[test]
fn an_active_session_waits_for_its_speaker_exactly_as_long_as_it_says() {
    let mut world = World::new();
    let _listener = world.listen("es");
    let speaker = world.speak("en");
    world.at(MINUTE);
    world.leave(speaker);
    assert_eq!(lingering(&world.drain()), [60]);
    assert_eq!(world.machine.poll_timeout(), Some(world.now + MINUTE));
    world.at(2 * MINUTE - Duration::from_nanos(1));
    assert_eq!(world.status(), Status::Active);
    world.at(2 * MINUTE);
    assert_eq!(world.status(), Status::Ended);
    let outputs = world.drain();
    let ended = Output::Publish(Audience::Everyone, Event::SessionEnded { reason: EndReason::LingerExpired });
    assert_eq!(outputs.last(), Some(&ended));
    assert_eq!(outputs.len(), 3, "both tracks are closed");
}

#[test]
fn a_speaker_who_comes_back_or_tries_to_keeps_the_session() {
    let mut world = World::new();
    let speaker = world.speak("en");
    world.leave(speaker);
    world.at(59 * SECOND);
    let attempt = world.publish("en");
    world.at(3 * MINUTE);
    assert_eq!(world.status(), Status::Active, "somebody has the place");
    world.leave(attempt);
    world.at(4 * MINUTE - SECOND);
    assert_eq!(world.status(), Status::Active, "an attempt that failed starts the wait anew");
    let speaker = world.speak("en");
    world.at(30 * MINUTE);
    assert_eq!((world.status(), world.machine.poll_timeout()), (Status::Active, None));
    world.leave(speaker);
    world.at(31 * MINUTE);
    assert_eq!(world.status(), Status::Ended);
}

#[test]
fn a_break_is_longer_than_the_linger_and_ends_without_a_speaker() {
    let mut world = World::new();
    let _listener = world.listen("en");
    let speaker = world.speak("en");
    world.machine.pause(world.now).unwrap();
    world.drain();
    world.leave(speaker);
    assert_eq!(lingering(&world.drain()), [600]);
    world.at(9 * MINUTE);
    world.machine.resume(world.now).unwrap();
    world.at(10 * MINUTE - SECOND);
    assert_eq!(world.status(), Status::Active, "the wait begins with the resume");
    world.machine.pause(world.now).unwrap();
    world.at(20 * MINUTE - 2 * SECOND);
    assert_eq!(world.status(), Status::Paused);
    world.drain();
    world.at(20 * MINUTE - SECOND);
    let ended = Output::Publish(Audience::Everyone, Event::SessionEnded { reason: EndReason::Idle });
    assert_eq!(world.drain().last(), Some(&ended), "although a listener is there");
}

#[test]
fn a_session_that_nobody_is_in_ends_and_one_that_waits_with_listeners_does_not() {
    let mut world = World::new();
    world.at(10 * MINUTE - SECOND);
    let listener = world.listen("en");
    world.at(100 * MINUTE);
    assert_eq!((world.status(), world.machine.poll_timeout()), (Status::Created, None));
    world.leave(listener);
    world.at(110 * MINUTE - SECOND);
    assert_eq!(world.status(), Status::Created);
    world.at(110 * MINUTE);
    assert_eq!(world.status(), Status::Ended);
}

#[test]
fn a_translator_neither_starts_nor_ends_it() {
    let mut world = World::new();
    let translator = world.speak("es");
    assert_eq!(world.status(), Status::Created);
    world.leave(translator);
    assert_eq!(lingering(&world.drain()), [0]);
    assert_eq!(world.machine.poll_timeout(), Some(world.start + 10 * MINUTE));
}

#[test]
fn a_permanent_session_stays_and_nobody_takes_over_in_it() {
    let mut world = World::with(Rules { permanent: true, ..rules() });
    let speaker = world.speak("en");
    let refused = world.machine.take_publisher(world.now, None, None, true).unwrap_err();
    assert!(matches!(refused, SessionError::SpeakerExists { status: Status::Active, .. }));
    world.leave(speaker);
    assert_eq!(lingering(&world.drain()), [0]);
    world.at(1_000_000 * MINUTE);
    assert_eq!((world.status(), world.machine.poll_timeout()), (Status::Active, None));
}

#[test]
fn who_takes_over_has_the_place_and_the_old_one_changes_nothing_any_more() {
    let mut world = World::new();
    let old = world.speak("en");
    world.machine.handle_accepted(old, resource(1)).unwrap();
    world.machine.handle_leg(old, world.ids[0].1, None);
    let refused = world.machine.take_publisher(world.now, None, None, false).unwrap_err();
    assert!(matches!(refused, SessionError::SpeakerExists { .. }));
    let seat = world.machine.take_publisher(world.now, Some("EN"), None, true).unwrap();
    assert_eq!(seat.displaced, Some(resource(1)));
    assert_eq!(world.heard(), ["speakerLeft", "close TakenOver"]);
    world.machine.handle_connected(world.now, seat.holder);
    world.machine.handle_connected(world.now, old);
    world.machine.handle_first_packet(world.ids[0].0, world.ids[0].1);
    assert!(world.machine.check_not_taken_over(old, None).is_err());
    world.leave(old);
    world.leave(old);
    assert!(world.heard().is_empty());
    assert!(world.machine.check_not_taken_over(seat.holder, None).is_ok());
    assert_eq!((world.machine.occupancy(), world.machine.tracks[0].connected), ((1, 0, 0), true));
    assert_eq!(world.machine.poll_timeout(), None, "the speaker is here");
}

#[test]
fn of_two_who_claim_at_once_one_wins_and_may_be_taken_over_later() {
    for occupied in [true, false] {
        let mut world = World::new();
        if occupied {
            world.speak("en");
        }
        let winner = world.machine.take_publisher(world.now, None, None, true).unwrap().holder;
        let loser = world.machine.take_publisher(world.now, None, None, true).unwrap_err();
        assert!(matches!(loser, SessionError::SpeakerExists { .. }), "{loser}");
        world.machine.handle_connected(world.now, winner);
        world.machine.take_publisher(world.now, None, None, true).unwrap();
    }
}

#[test]
fn who_lost_their_place_before_they_were_accepted_is_closed_as_soon_as_they_have_a_name() {
    let mut world = World::new();
    let old = world.publish("en");
    assert_eq!(world.machine.take_publisher(world.now, None, None, true).unwrap().displaced, None);
    assert!(world.heard().is_empty());
    assert_eq!(world.machine.handle_accepted(old, resource(1)), Err(CloseReason::TakenOver));
    assert_eq!(world.heard(), ["close TakenOver"]);
}

#[test]
fn listeners_are_told_of_to_the_staff_when_they_connect_and_limited_when_they_ask() {
    let mut world = World::new();
    let first = world.machine.take_listener(world.now, None, None).unwrap().holder;
    let second = world.listen("es");
    let third = world.listen("es");
    assert_eq!(world.heard(), ["staff listenerJoined", "staff listenerJoined"]);
    let full = world.machine.take_listener(world.now, None, None).unwrap_err();
    assert!(matches!(full, SessionError::ListenersFull { max: 3, .. }));
    world.leave(first);
    assert!(world.heard().is_empty(), "it never came up");
    world.leave(second);
    let left = Event::ListenerLeft { language: language("es"), listeners: 1 };
    assert_eq!(world.drain(), [Output::Publish(Audience::Staff, left)]);
    world.leave(third);
    assert_eq!(world.machine.occupancy(), (0, 0, 0));
}

#[test]
fn languages_are_added_up_to_the_limit_and_once() {
    let mut world = World::new();
    let refused = world.machine.check_new(&language("es")).unwrap_err();
    assert!(matches!(refused, SessionError::LanguageExists { status: Status::Created, .. }));
    world.speak("en");
    world.machine.pause(world.now).unwrap();
    world.drain();
    world.machine.add_track(language("de"), world.ids[2].0).unwrap();
    assert_eq!(world.heard(), ["track paused true", "trackAdded"]);
    let full = world.machine.add_track(language("fr"), world.ids[3].0).unwrap_err();
    assert!(matches!(full, SessionError::LanguagesFull { max: 3, .. }));
    world.listen("de");
}

#[test]
fn a_language_that_is_removed_takes_everybody_on_it_along() {
    let mut world = World::new();
    let (translator, listener) = (world.speak("es"), world.listen("es"));
    let early = world.machine.take_listener(world.now, Some("es"), None).unwrap().holder;
    world.machine.handle_accepted(translator, resource(1)).unwrap();
    let elsewhere = world.listen("en");
    world.drain();
    world.machine.remove_track(world.now, "ES").unwrap();
    assert_eq!(world.heard(), ["close SessionEnded", "close track", "trackRemoved"]);
    assert_eq!(world.machine.occupancy(), (0, 1, 0));
    world.machine.handle_accepted(early, resource(2)).unwrap_err();
    assert_eq!(world.heard(), ["close SessionEnded"]);
    for holder in [translator, listener, early] {
        world.machine.handle_connected(world.now, holder);
        world.leave(holder);
    }
    assert!(world.heard().is_empty());
    let unknown = world.machine.remove_track(world.now, "es").unwrap_err();
    assert!(matches!(&unknown, SessionError::LanguageNotFound { known, .. } if known == "en"), "{unknown}");
    let source = world.machine.remove_track(world.now, "en").unwrap_err();
    assert!(source.to_string().contains("status created"), "{source}");
    world.leave(elsewhere);
    assert!(world.machine.members.is_empty());
}

#[test]
fn a_token_is_warned_of_once_and_closes_what_lives_on_it_after_its_grace() {
    let mut world = World::new();
    let expires = world.start + 10 * MINUTE;
    let mine = || Some(term("me", Role::Listen, expires));
    let leg = world.machine.take_listener(world.now, None, mine()).unwrap().holder;
    world.machine.handle_connected(world.now, leg);
    world.machine.handle_accepted(leg, resource(1)).unwrap();
    world.machine.follow(world.now, mine().unwrap()).unwrap();
    let other = world.listen("en");
    world.drain();
    assert_eq!(world.machine.occupancy(), (0, 2, 1));
    world.at(5 * MINUTE - SECOND);
    assert!(world.heard().is_empty());
    world.at(5 * MINUTE);
    assert_eq!(world.heard(), ["warn 300"]);
    world.at(11 * MINUTE - SECOND);
    assert!(world.heard().is_empty(), "the grace");
    world.at(11 * MINUTE);
    assert_eq!(world.heard(), ["staff listenerLeft", "close TokenExpired", "lapsed"]);
    assert_eq!(world.machine.occupancy(), (0, 1, 0));
    world.leave(leg);
    world.leave(other);
    assert_eq!(world.machine.occupancy(), (0, 0, 0));
}

#[test]
fn a_token_that_lasts_longer_renews_all_of_the_same_subject_and_role() {
    let mut world = World::new();
    let start = world.start;
    let term_of = |role, minutes| term("me", role, start + minutes * MINUTE);
    world.machine.take_listener(world.now, None, Some(term_of(Role::Listen, 6))).unwrap();
    world.machine.take_listener(world.now, None, Some(term_of(Role::Admin, 6))).unwrap();
    world.at(2 * MINUTE);
    assert_eq!(world.heard(), ["warn 240", "warn 240"]);
    let shorter = world.machine.follow(world.now, term_of(Role::Listen, 3)).unwrap();
    world.leave(shorter);
    let longer = world.machine.follow(world.now, term_of(Role::Listen, 20)).unwrap();
    world.leave(longer);
    world.at(7 * MINUTE);
    assert_eq!(world.machine.occupancy(), (0, 1, 1), "the other role was not renewed");
    world.at(15 * MINUTE);
    assert_eq!(world.heard(), ["warn 300"], "a new term, a new warning");
    world.at(21 * MINUTE);
    assert_eq!(world.machine.occupancy(), (0, 0, 0));
}

#[test]
fn the_end_of_one_lease_leaves_the_connection_that_lives_on_another() {
    for first_ends in [true, false] {
        let mut world = World::new();
        let (short, long) = (world.now + Duration::from_secs(100), world.now + Duration::from_secs(9999));
        let mut terms = [term("ann", Role::Speak, short), term("ann", Role::Moderate, long)];
        if !first_ends {
            terms.reverse();
        }
        let [first, second] = terms.map(Some);
        let old = world.machine.take_publisher(world.now, None, first, false).unwrap().holder;
        world.machine.handle_accepted(old, resource(1)).unwrap();
        world.machine.handle_connected(world.now, old);
        let new = world.machine.take_second(world.now, old.member, second.clone()).unwrap().holder;
        world.machine.handle_accepted(new, resource(2)).unwrap();
        world.machine.handle_connected(world.now, new);
        world.drain();
        world.at(Duration::from_secs(161));
        let (gone, left) = if first_ends { (1, 2) } else { (2, 1) };
        let closed: Vec<Output> =
            world.drain().into_iter().filter(|output| matches!(output, Output::CloseLeg { .. })).collect();
        let reason = CloseReason::TokenExpired;
        assert_eq!(closed, [Output::CloseLeg { resource: resource(gone), reason }]);
        let legs = world.machine.leg(&resource(left)).unwrap().legs;
        assert_eq!(legs, [(resource(left), None)]);
        assert!(world.machine.has(old.member) && world.machine.occupancy().0 == 1);
        // On one lease both go.
        world.at(Duration::from_secs(9000));
        let only = if first_ends { new } else { old };
        let term = term("ann", if first_ends { Role::Moderate } else { Role::Speak }, long);
        let also = world.machine.take_second(world.now, only.member, Some(term)).unwrap().holder;
        world.machine.handle_accepted(also, resource(3)).unwrap();
        world.at(Duration::from_secs(9999 + 61));
        assert!(!world.machine.has(only.member));
    }
}

#[test]
fn a_lease_that_is_over_does_not_count_for_the_next_one() {
    let mut world = World::new();
    let old = world
        .machine
        .take_listener(world.now, None, Some(term("me", Role::Listen, world.start)))
        .unwrap()
        .holder;
    world.at(MINUTE);
    let next = term("me", Role::Listen, world.now + 60 * MINUTE);
    let new = world.machine.take_listener(world.now, None, Some(next)).unwrap().holder;
    world.leave(old);
    assert_eq!(world.machine.occupancy(), (0, 1, 1));
    world.leave(new);
    assert_eq!(world.machine.occupancy(), (0, 0, 0));
    assert_eq!(world.machine.leases.deadline(), None);
}

#[test]
fn losses_are_told_at_once_then_merged_for_a_second_and_not_kept_back_at_the_end() {
    let mut world = World::new();
    let track = world.ids[0].0;
    world.machine.handle_frames_lost(world.now, track, 10, 2);
    world.machine.handle_frames_lost(world.now, track, 11, 5);
    world.machine.handle_frames_lost(world.now, track, 4, 1);
    world.machine.handle_frames_lost(world.now, track, 4, 0);
    let lost = |count, from, to| {
        Output::Publish(
            Audience::Everyone,
            Event::FramesLost { language: language("en"), count, from, to, scope: LossScope::Listeners },
        )
    };
    assert_eq!(world.drain(), [lost(2, 10, 11)]);
    assert_eq!(world.machine.poll_timeout(), Some(world.now + SECOND));
    world.at(SECOND);
    assert_eq!(world.drain(), [lost(6, 4, 15)]);
    world.machine.handle_frames_lost(world.now, track, u64::MAX, 2);
    assert!(world.drain().is_empty());
    world.machine.end(world.now, EndReason::Deleted);
    assert_eq!(world.drain()[0], lost(2, u64::MAX, u64::MAX));
}

#[test]
fn nothing_comes_after_the_end_and_nobody_gets_in() {
    let mut world = World::new();
    let (speaker, early) = (world.speak("en"), world.publish("es"));
    let follower = world.machine.follow(world.now, term("me", Role::Listen, world.start)).unwrap();
    assert!(world.machine.end(world.now, EndReason::Deleted));
    assert_eq!(world.heard(), ["close track", "close track", "sessionEnded"]);
    assert!(!world.machine.end(world.now, EndReason::Shutdown));
    let over = |error: SessionError| assert!(matches!(error, SessionError::Ended { .. }), "{error}");
    over(world.machine.take_publisher(world.now, None, None, true).unwrap_err());
    over(world.machine.take_listener(world.now, None, None).unwrap_err());
    over(world.machine.follow(world.now, term("me", Role::Listen, world.start)).unwrap_err());
    over(world.machine.add_track(language("de"), world.ids[2].0).unwrap_err());
    over(world.machine.remove_track(world.now, "es").unwrap_err());
    world.machine.handle_connected(world.now, early);
    world.machine.handle_ready(speaker.member);
    world.machine.handle_frames_lost(world.now, world.ids[0].0, 1, 1);
    for holder in [speaker, early, follower] {
        world.leave(holder);
    }
    world.at(1000 * MINUTE);
    assert!(world.heard().is_empty());
    assert_eq!(world.machine.poll_timeout(), None);
}

#[test]
fn followers_are_bounded_and_keep_no_session_alive() {
    let mut world = World::new();
    for n in 0..6 {
        let who = format!("follower {n}");
        world.machine.follow(world.now, term(&who, Role::Listen, world.start + 100 * MINUTE)).unwrap();
    }
    let full = world.machine.follow(world.now, term("one more", Role::Listen, world.start)).unwrap_err();
    assert!(matches!(full, SessionError::FollowersFull { max: 6, .. }));
    world.at(10 * MINUTE);
    assert_eq!(world.status(), Status::Ended);
}

#[test]
fn a_track_that_is_made_anew_has_the_place_of_the_old_one_and_nobody_in_it() {
    let mut world = World::new();
    let (now, old, new) = (world.now, world.ids[1].0, world.ids[2].0);
    assert_eq!((world.machine.tracks_on(0).count(), world.machine.tracks_on(1).count()), (2, 0));
    let (speaker, listener) = (world.speak("es"), world.listen("es"));
    let other = world.listen("en");
    world.drain();
    assert!(world.machine.remake_track(now, old, new));
    assert!(!world.machine.remake_track(now, old, new), "it is there no more");
    let told = world.drain();
    assert!(told.contains(&Output::CloseTrack(old)), "{told:?}");
    for gone in [speaker, listener] {
        assert!(told.contains(&Output::Revoke(gone)), "{told:?}");
    }
    assert!(!told.contains(&Output::Revoke(other)));
    let seat = world.machine.take_publisher(now, Some("es"), None, false).unwrap();
    assert_eq!((seat.track, seat.displaced), (new, None));
    // The old connections end after that.
    world.leave(speaker);
    world.leave(listener);
    assert_eq!(world.machine.take_listener(now, Some("es"), None).unwrap().track, new);
    assert_eq!(world.machine.listeners, 2);
    world.machine.end(now, EndReason::Deleted);
    assert!(!world.machine.remake_track(now, new, old));
    let permanent = World::with(Rules { permanent: true, ..rules() });
    assert_eq!(permanent.machine.tracks_on(0).count(), 0);
}
