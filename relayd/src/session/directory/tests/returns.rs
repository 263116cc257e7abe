//! What connections are told alone, and what they come back with.

use super::*;
use crate::session::ticket::WINDOW;

#[test]
fn what_is_told_to_one_connection_alone_is_in_no_feed() {
    let directory = Directory::new(limits());
    let now = Instant::now();
    let id = directory.create(now, spec(), &tracks(2)).unwrap().view.id.to_string();
    let (mut slot, track) = listen(&directory, &id, None).unwrap();
    let name: ResourceId = "0123456789abcdef0123456789abcdef".parse().unwrap();
    slot.accepted(name).unwrap();
    let right =
        |name| Right { role: crate::webrtc::Role::Listener, track, caller: Caller::Open, name, socket: true };
    let leg = crate::session::machine::tests::ids(1)[0].1;
    let text = slot.place().answered((leg, None), right).unwrap();
    slot.connected();
    let (mut feed, mut hub) = (directory.feed(), directory.hub(&id).unwrap().subscribe(None));
    hub.follow(name);
    assert_eq!(directory.refresh(now, &id, Cause::Operator, &RefreshTarget::default()), Ok(1));
    let Some(Next::Event(warning)) = hub.take() else { panic!("a warning") };
    assert_eq!(warning.audience, Audience::Leg(name));
    let Some(Next::Event(required)) = hub.take() else { panic!("an order") };
    let Event::ConnectionRefreshRequired { url, ticket, .. } = &required.event else {
        panic!("{required:?}")
    };
    assert_eq!(*url, format!("/v1/sessions/{id}/listen/en"));
    assert!(directory.take_order(&id, ticket) && !directory.take_order(&id, &text));
    directory.pause(now, &id).unwrap_err();
    directory.end(now, &id, EndReason::Deleted).unwrap();
    let next = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(feed.next());
    assert!(matches!(next.unwrap().1.event, Event::SessionEnded { .. }), "nothing was before it");
}

#[test]
fn what_was_told_to_those_who_are_gone_goes_with_their_tickets() {
    let directory = Directory::new(limits());
    let id = directory.create(Instant::now(), spec(), &tracks(2)).unwrap().view.id.to_string();
    let tickets = limits().max_listeners + limits().max_languages;
    for (number, (_, leg)) in (1..).zip(crate::session::machine::tests::ids(4 * tickets)) {
        let (mut slot, track) = listen(&directory, &id, None).unwrap();
        slot.accepted(format!("{number:032x}").parse().unwrap()).unwrap();
        let role = crate::webrtc::Role::Listener;
        let right = |name| Right { role, track, caller: Caller::Open, name, socket: false };
        slot.place().answered((leg, None), right).unwrap();
        slot.connected();
        let everybody = RefreshTarget::default();
        assert_eq!(directory.refresh(Instant::now(), &id, Cause::Operator, &everybody), Ok(1));
        assert_eq!(directory.hub(&id).unwrap().lanes(), number.min(tickets + 1));
    }
}

#[test]
fn tickets_of_those_who_are_gone_go_in_a_session_in_which_nothing_else_happens() {
    let idle_timeout = Duration::from_secs(86_400);
    let directory = Directory::new(Limits { idle_timeout, ..limits() });
    let now = Instant::now();
    let id = directory.create(now, spec(), &tracks(2)).unwrap().view.id.to_string();
    let (mut slot, track) = listen(&directory, &id, None).unwrap();
    slot.accepted(format!("{:032x}", 7).parse().unwrap()).unwrap();
    let role = crate::webrtc::Role::Listener;
    let right = |name| Right { role, track, caller: Caller::Open, name, socket: false };
    slot.place().answered((crate::session::machine::tests::ids(1)[0].1, None), right).unwrap();
    slot.connected();
    assert_eq!(directory.refresh(now, &id, Cause::Operator, &RefreshTarget::default()), Ok(1));
    let hub = directory.hub(&id).unwrap();
    directory.handle_timeout(now + 2 * WINDOW);
    assert_eq!(hub.lanes(), 1, "it is there still");
    drop(slot);
    directory.handle_timeout(Instant::now() + WINDOW / 2);
    assert_eq!(hub.lanes(), 1);
    directory.handle_timeout(Instant::now() + WINDOW);
    assert_eq!(hub.lanes(), 0);
    assert!(directory.view(&id).is_ok());
}

#[test]
fn an_order_to_hundreds_reaches_each_of_them_and_disturbs_nobody_else() {
    const MANY: u128 = 700;
    let directory = Directory::new(Limits { max_listeners: 1000, ..limits() });
    let now = Instant::now();
    let id = directory.create(now, spec(), &tracks(2)).unwrap().view.id.to_string();
    let legs = crate::session::machine::tests::ids(MANY as usize);
    let mut listeners: Vec<(ListenerSlot, Subscription)> = (1..=MANY)
        .zip(legs)
        .map(|(number, (_, leg))| {
            let (mut slot, track) = listen(&directory, &id, None).unwrap();
            let name: ResourceId = format!("{number:032x}").parse().unwrap();
            slot.accepted(name).unwrap();
            let role = crate::webrtc::Role::Listener;
            let right = |name| Right { role, track, caller: Caller::Open, name, socket: false };
            slot.place().answered((leg, None), right).unwrap();
            slot.connected();
            let mut follower = directory.hub(&id).unwrap().subscribe(None);
            follower.follow(name);
            (slot, follower)
        })
        .collect();
    let mut bystander = directory.hub(&id).unwrap().subscribe(None);
    listeners.iter_mut().for_each(|(_, follower)| while follower.take().is_some() {});
    let everybody = RefreshTarget::default();
    assert_eq!(directory.refresh(now, &id, Cause::Operator, &everybody), Ok(MANY as usize));
    directory.handle_timeout(now + Duration::from_millis(100));
    let asked = |follower: &mut Subscription| read(follower).contains(&"connectionRefreshRequired");
    let first = listeners.iter_mut().filter_map(|(_, follower)| asked(follower).then_some(())).count();
    assert!((100..=110).contains(&first), "{first} of {MANY} in a tenth of a second");
    directory.handle_timeout(now + Duration::from_secs(1));
    for (_, follower) in listeners.iter_mut().skip(first) {
        assert_eq!(read(follower), ["connectionRefreshRequired"]);
    }
    assert!(read(&mut bystander).is_empty());
}

#[test]
fn a_connection_that_is_gone_before_its_answer_leaves_no_ticket_and_no_leg() {
    let directory = Directory::new(limits());
    let id = directory.create(Instant::now(), spec(), &tracks(2)).unwrap().view.id.to_string();
    let legs: Vec<LegId> = crate::session::machine::tests::ids(2).into_iter().map(|(_, leg)| leg).collect();
    let (mut slot, track) = listen(&directory, &id, None).unwrap();
    let role = crate::webrtc::Role::Listener;
    let right = |name| Right { role, track, caller: Caller::Open, name, socket: false };
    slot.accepted("0123456789abcdef0123456789abcdef".parse().unwrap()).unwrap();
    let text = slot.place().answered((legs[0], None), right).unwrap();
    let coming = Return { role, language: None, caller: &Caller::Open, ticket: &text };
    let returned = directory.return_slot(Instant::now(), &id, coming).unwrap();
    assert!(returned.seat.second);
    let (place, second) = (returned.place.clone(), ListenerSlot::new(returned.place));
    drop(second);
    assert_eq!(place.answered((legs[1], None), right), None);
    assert_eq!(directory.shared.state().session_of_leg(legs[1]), None);
    assert!(directory.shared.state().session_of_leg(legs[0]).is_some());
    drop(slot);
    assert_eq!(directory.shared.state().session_of_leg(legs[0]), None);
}

#[test]
fn a_ticket_is_as_good_as_the_token_that_it_was_given_for() {
    let directory = Directory::new(limits());
    let now = Instant::now();
    let id = directory.create(now, spec(), &tracks(2)).unwrap().view.id.to_string();
    let role = crate::webrtc::Role::Listener;
    let token = |who: &str, expires| {
        Caller::Token(Arc::new(Grant {
            subject: Subject { issuer: "issuer".to_owned(), subject: who.to_owned() },
            token_id: None,
            role: Role::Listen,
            scope: Scope::Session(id.clone()),
            languages: None,
            takeover: false,
            expires,
        }))
    };
    let minute = Duration::from_secs(60);
    let bob = token("bob", now + minute);
    let (mut slot, track) = directory.listener_slot(now, &id, None, &bob).unwrap();
    slot.accepted("0123456789abcdef0123456789abcdef".parse().unwrap()).unwrap();
    let leg = crate::session::machine::tests::ids(1)[0].1;
    let right = |name| Right { role, track, caller: bob.clone(), name, socket: false };
    let text = slot.place().answered((leg, None), right).unwrap();
    let who = |now, shown: &Caller| directory.ticket_caller(now, &id, (role, None), &text, shown);
    assert_eq!(who(now, &Caller::Anonymous).unwrap().subject(), bob.subject());
    let refused = |known: Result<Caller, SessionError>| matches!(known, Err(SessionError::Ticket { .. }));
    assert!(refused(who(now, &token("eve", now + minute))));
    let late = now + 2 * minute;
    assert!(refused(who(late, &Caller::Anonymous)), "the grace is over");
    assert!(who(late, &token("bob", late + minute)).is_ok(), "with a newer token");
    drop(slot);
    assert!(who(Instant::now(), &Caller::Anonymous).is_ok(), "it outlives its connection");
    assert!(refused(who(Instant::now() + minute, &token("bob", late + minute))), "by a minute");
    assert!(refused(directory.ticket_caller(now, &id, (role, Some("es")), &text, &Caller::Anonymous)));
}

#[test]
fn a_second_connection_that_fails_does_not_leave_its_client_without_a_ticket() {
    let directory = Directory::new(limits());
    let now = Instant::now();
    let id = directory.create(now, spec(), &tracks(2)).unwrap().view.id.to_string();
    let legs: Vec<LegId> = crate::session::machine::tests::ids(2).into_iter().map(|(_, leg)| leg).collect();
    let (mut slot, track) = listen(&directory, &id, None).unwrap();
    let role = crate::webrtc::Role::Listener;
    let right = |name| Right { role, track, caller: Caller::Open, name, socket: false };
    slot.accepted("0123456789abcdef0123456789abcdef".parse().unwrap()).unwrap();
    let used = slot.place().answered((legs[0], None), right).unwrap();
    slot.connected();
    let come = |now, ticket: &str| {
        let coming = Return { role, language: None, caller: &Caller::Open, ticket };
        let returned = directory.return_slot(now, &id, coming)?;
        Ok::<_, SessionError>((ListenerSlot::new(returned.place), returned.seat.second, returned.held))
    };
    let (mut second, _, held) = come(now, &used).unwrap();
    second.accepted("fedcba9876543210fedcba9876543210".parse().unwrap()).unwrap();
    let text = second.place().answered((legs[1], None), right).unwrap();
    held.spend(second.place());
    second.connected();
    assert!(come(now, &used).is_err(), "its client knows of it");
    drop(second);
    let later = now + Duration::from_secs(600);
    assert!(come(later, &text).unwrap().1, "the first one is there");
    drop(slot);
    assert!(!come(Instant::now(), &text).unwrap().1, "and then is not");
    assert!(come(later, &text).is_err(), "for a minute");
}
