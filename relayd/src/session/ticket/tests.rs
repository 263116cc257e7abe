use super::*;
use crate::session::machine::tests::{ids, resource};

const SECOND: Duration = Duration::from_secs(1);

fn right() -> Right {
    let (track, _) = ids(1)[0];
    Right { role: Role::Listener, track, caller: Caller::Open, name: resource(1), socket: false }
}

fn legs() -> Vec<LegId> {
    ids(4).into_iter().map(|(_, leg)| leg).collect()
}

/// Two connections, the second opened with the first one's ticket.
fn pair(now: Instant, tickets: &mut Tickets, right: Right) -> (HolderId, HolderId, String) {
    let (first, second) = (HolderId::test(1), HolderId::test(2));
    let text = tickets.issue(first, legs()[0], right.clone());
    come(now, tickets, &text, (second, 1), right);
    (first, second, text)
}

/// Somebody comes with a ticket and gets in; whom it had let in before.
fn come(
    now: Instant,
    tickets: &mut Tickets,
    text: &str,
    (opened, leg): (HolderId, usize),
    right: Right,
) -> Option<HolderId> {
    let found = tickets.look(now, text).unwrap();
    let (holder, before) = (found.holder, found.opened);
    if let Some(before) = before {
        tickets.remove(before);
    }
    tickets.hold(holder, text);
    tickets.issue(opened, legs()[leg], right);
    tickets.spend(now, holder, opened);
    before
}

#[test]
fn a_ticket_is_good_until_the_client_knows_what_it_has_opened() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(4));
    let holder = HolderId::test(1);
    let text = tickets.issue(holder, legs()[0], right());
    assert_eq!(text.len(), 43);
    assert_eq!(tickets.look(now, &text).unwrap().holder, holder);
    tickets.hold(holder, &text);
    assert!(tickets.look(now, &text).is_none(), "somebody is coming with it");
    tickets.give_back(holder);
    assert!(tickets.look(now, &text).is_some(), "they did not get in");
    let (second, third) = (HolderId::test(2), HolderId::test(3));
    assert_eq!(come(now, &mut tickets, &text, (second, 1), right()), None);
    assert_eq!(come(now, &mut tickets, &text, (third, 2), right()), Some(second), "its answer was lost");
    tickets.handle_connected(second);
    assert!(tickets.look(now, &text).is_some(), "that one is no more");
    tickets.handle_connected(third);
    assert!(tickets.look(now, &text).is_none());
    assert!(tickets.look(now, "").is_none() && tickets.look(now, &"a".repeat(60_000)).is_none());
    assert_eq!(tickets.hashes.len(), 1, "that of the third");
}

#[test]
fn a_used_ticket_is_good_for_a_minute_whatever_becomes_of_it() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(4));
    let (first, second, text) = pair(now, &mut tickets, right());
    let later = now + WINDOW - SECOND;
    assert_eq!(come(later, &mut tickets, &text, (second, 1), right()), Some(second));
    assert!(tickets.look(now + WINDOW, &text).is_none(), "since the first use");
    // Of a connection that is gone it is forgotten, too.
    tickets.handle_left(now, first);
    tickets.handle_left(now, second);
    assert!(tickets.look(now + WINDOW, "").is_none());
    assert!(tickets.passes.is_empty() && tickets.hashes.is_empty() && tickets.left.is_empty());
}

#[test]
fn the_next_ticket_or_a_word_over_the_socket_shows_that_the_answer_was_had() {
    let now = Instant::now();
    let mut tickets = Tickets::new(4);
    let (_, second, text) = pair(now, &mut tickets, right());
    let (next, _) = tickets.order(second).unwrap();
    tickets.hold(second, &next);
    assert!(tickets.look(now, &text).is_none(), "whoever has the next one has no need of it");
    let (mut tickets, socket) = (Tickets::new(4), Right { socket: true, ..right() });
    let (first, second, text) = pair(now, &mut tickets, socket);
    tickets.handle_connected(second);
    assert!(tickets.look(now, &text).is_some(), "a socket that is open may have swallowed the welcome");
    // The relay has moved the stream to it meanwhile.
    let (order, _) = tickets.order(first).unwrap();
    tickets.retire(first);
    tickets.handle_left(now, first);
    assert!(tickets.look(now, &order).is_none() && tickets.look(now, &text).is_some());
    tickets.handle_known(second);
    assert!(tickets.look(now, &text).is_none());
    assert_eq!((tickets.passes.len(), tickets.hashes.len(), tickets.left.len()), (1, 1, 0));
}

#[test]
fn a_ticket_outlives_its_connection_by_a_minute() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(4));
    let holder = HolderId::test(1);
    let text = tickets.issue(holder, legs()[0], right());
    tickets.handle_closed(legs()[0], Some(7));
    tickets.handle_left(now, holder);
    assert_eq!(tickets.closed(holder), Some(Some(7)));
    assert!(tickets.look(now + WINDOW - SECOND, &text).is_some());
    assert!(tickets.look(now + WINDOW, &text).is_none());
    assert!(tickets.passes.is_empty() && tickets.legs.is_empty() && tickets.left.is_empty());
}

#[test]
fn of_a_connection_that_is_gone_one_of_its_tickets_is_good() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(4));
    let holder = HolderId::test(1);
    let resume = tickets.issue(holder, legs()[0], right());
    let (first, _) = tickets.order(holder).unwrap();
    let (second, _) = tickets.order(holder).unwrap();
    assert!(!tickets.take_order(&resume) && !tickets.take_order(&first));
    assert!(tickets.take_order(&second) && !tickets.take_order(&second), "once");
    assert!(tickets.look(now, &first).is_none(), "there is a newer one");
    assert!(tickets.look(now, &second).is_some() && tickets.look(now, &resume).is_some());
    tickets.handle_left(now, holder);
    let next = HolderId::test(2);
    come(now + SECOND, &mut tickets, &second, (next, 1), right());
    assert!(tickets.look(now, &resume).is_none() && tickets.look(now, &second).is_some());
    assert!(tickets.look(now + WINDOW, &second).is_some(), "a minute from its use");
    tickets.handle_connected(next);
    assert!(tickets.look(now, &second).is_none());
    assert_eq!((tickets.passes.len(), tickets.hashes.len(), tickets.left.len()), (1, 1, 0), "the next one's");
}

#[test]
fn a_connection_that_was_sent_nothing_is_where_the_one_before_it_was() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(4));
    let (first, second) = (HolderId::test(1), HolderId::test(2));
    let text = tickets.issue(first, legs()[0], right());
    tickets.handle_closed(legs()[0], Some(7));
    tickets.handle_left(now, first);
    come(now, &mut tickets, &text, (second, 1), right());
    tickets.handle_connected(second);
    tickets.handle_closed(legs()[1], None);
    assert_eq!(tickets.closed(second), Some(Some(7)));
    tickets.handle_closed(legs()[1], Some(9));
    assert_eq!(tickets.closed(second), Some(Some(9)));
}

#[test]
fn only_so_many_are_kept_of_those_who_left() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(2));
    let all: Vec<String> = (0..4)
        .map(|number| {
            let holder = HolderId::test(number as u64);
            let text = tickets.issue(holder, legs()[number], right());
            tickets.handle_left(now + u32::try_from(number).unwrap() * SECOND, holder);
            text
        })
        .collect();
    let good: Vec<bool> = all.iter().map(|text| tickets.look(now, text).is_some()).collect();
    assert_eq!(good, [false, false, true, true]);
    assert_eq!((tickets.hashes.len(), tickets.legs.len()), (2, 2));
}

#[test]
fn a_second_connection_that_fails_leaves_its_ticket_to_the_first() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(4));
    let (first, second, used) = pair(now, &mut tickets, right());
    tickets.handle_connected(second);
    let text = tickets.issue(second, legs()[1], right());
    tickets.handle_second_left(now, second, first);
    let late = now + 100 * WINDOW;
    let found = tickets.look(late, &text).expect("for as long as the first is there");
    assert_eq!((found.holder, found.opened), (first, None));
    assert!(tickets.look(late, &used).is_none());
    // Another one that fails, too; its client has not heard of it, or has.
    let third = HolderId::test(3);
    come(late, &mut tickets, &text, (third, 2), right());
    let next = tickets.issue(third, legs()[2], right());
    tickets.handle_second_left(late, third, first);
    assert_eq!(tickets.look(late, &text).unwrap().opened, Some(third));
    assert_eq!(tickets.look(late, &next).unwrap().holder, first);
    // With the first one it goes.
    tickets.handle_left(late, first);
    assert!(tickets.look(late + WINDOW - SECOND, &next).is_some());
    assert!(tickets.look(late + WINDOW, &next).is_none());
    assert!(tickets.passes.is_empty() && tickets.hashes.is_empty() && tickets.legs.is_empty());
}

#[test]
fn a_ticket_that_somebody_comes_with_stays_where_it_is() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(4));
    let (first, second, _) = pair(now, &mut tickets, right());
    let text = tickets.issue(second, legs()[1], right());
    tickets.hold(second, &text);
    tickets.handle_second_left(now, second, first);
    tickets.give_back(second);
    assert_eq!(tickets.look(now, &text).unwrap().holder, second);
    assert!(tickets.look(now + WINDOW, &text).is_none());
}

#[test]
fn a_name_is_gone_with_the_last_ticket_of_whoever_had_it() {
    let (now, mut tickets) = (Instant::now(), Tickets::new(4));
    let (first, second, _) = pair(now, &mut tickets, right());
    tickets.issue(second, legs()[1], right());
    tickets.handle_connected(second);
    tickets.handle_left(now, first);
    tickets.look(now + WINDOW, "");
    assert_eq!((tickets.passes.len(), tickets.take_gone()), (1, vec![]), "the second has it");
    tickets.handle_left(now + WINDOW, second);
    assert_eq!(tickets.take_gone(), []);
    tickets.look(now + 2 * WINDOW, "");
    assert_eq!(tickets.take_gone(), [right().name]);
    assert_eq!(tickets.take_gone(), []);
    assert!(tickets.names.is_empty());
}
