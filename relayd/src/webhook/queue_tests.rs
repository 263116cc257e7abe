use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn delivery(session: &str, number: usize) -> Delivery {
    Delivery { session: session.into(), id: format!("{session}-{number}"), body: Vec::new() }
}

fn filled(limit: usize, sessions: &[&str]) -> Queue {
    let mut queue = Queue::new(limit);
    for (i, session) in sessions.iter().enumerate() {
        queue.push(delivery(session, i));
    }
    queue
}

fn started(queue: &mut Queue, now: Instant) -> Option<(Ticket, String)> {
    queue.start(now).map(|(ticket, delivery)| (ticket, delivery.id))
}

#[test]
fn one_of_each_session_is_under_way() {
    let now = Instant::now();
    let mut queue = filled(10, &["a", "a", "b", "a", "b"]);
    let (first, id) = started(&mut queue, now).unwrap();
    assert_eq!(id, "a-0");
    let (second, id) = started(&mut queue, now).unwrap();
    assert_eq!(id, "b-2");
    assert_eq!(started(&mut queue, now), None);
    queue.succeed(second);
    assert_eq!(started(&mut queue, now).unwrap().1, "b-4");
    queue.succeed(first);
    assert_eq!(started(&mut queue, now).unwrap().1, "a-1");
    assert_eq!(queue.len(), 3);
}

#[test]
fn a_failure_is_tried_again_with_growing_pauses_and_then_given_up() {
    let mut now = Instant::now();
    let mut queue = filled(10, &["a", "a"]);
    for pause in [1, 4, 16, 60] {
        let (ticket, id) = started(&mut queue, now).unwrap();
        assert_eq!(id, "a-0");
        assert_eq!(queue.fail(now, ticket, 1.0), Failed::Later);
        // The next event of the session waits for this one.
        assert_eq!(started(&mut queue, now), None);
        assert_eq!(queue.poll_timeout(), Some(now + pause * SECOND));
        assert_eq!(started(&mut queue, now + pause * SECOND - Duration::from_millis(1)), None);
        now += pause * SECOND;
    }
    let (ticket, id) = started(&mut queue, now).unwrap();
    assert_eq!(id, "a-0");
    assert_eq!(queue.fail(now, ticket, 1.0), Failed::GivenUp);
    assert_eq!(started(&mut queue, now).unwrap().1, "a-1");
}

#[test]
fn jitter_halves_a_pause_at_most() {
    let now = Instant::now();
    for (jitter, millis) in [(0.0, 500), (0.5, 750), (1.0, 1000), (7.0, 1000), (-7.0, 500)] {
        let mut queue = filled(1, &["a"]);
        let (ticket, _) = started(&mut queue, now).unwrap();
        queue.fail(now, ticket, jitter);
        assert_eq!(queue.poll_timeout(), Some(now + Duration::from_millis(millis)));
    }
}

#[test]
fn a_full_queue_drops_the_oldest_that_is_not_under_way() {
    let now = Instant::now();
    let mut queue = filled(3, &["a", "b", "c"]);
    let (first, _) = started(&mut queue, now).unwrap();
    assert!(queue.push(delivery("d", 3)));
    assert_eq!(started(&mut queue, now).unwrap().1, "c-2");
    assert_eq!(started(&mut queue, now).unwrap().1, "d-3");
    // All are under way: the new one has no place.
    assert!(queue.push(delivery("e", 4)));
    assert_eq!(queue.len(), 3);
    queue.succeed(first);
    assert!(!queue.push(delivery("e", 5)));
}

#[test]
fn what_only_pauses_is_idle() {
    let now = Instant::now();
    let mut queue = filled(5, &["a", "a"]);
    assert!(!queue.is_idle());
    let (ticket, _) = started(&mut queue, now).unwrap();
    assert!(!queue.is_idle());
    queue.fail(now, ticket, 0.0);
    assert!(queue.is_idle());
    queue.push(delivery("b", 0));
    assert!(!queue.is_idle());
    assert!(Queue::new(1).is_idle());
}

proptest! {
    /// Whatever fails and whenever: never over the limit, one under way per session, and in order.
    #[test]
    fn order_and_bounds_hold(steps in prop::collection::vec((0..4_usize, 0..3_usize, any::<bool>()), 1..300)) {
        let names = ["a", "b", "c"];
        let mut now = Instant::now();
        let mut queue = Queue::new(8);
        let mut under_way: Vec<(Ticket, String, usize)> = Vec::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (number, (step, name, good)) in steps.into_iter().enumerate() {
            match step {
                0 | 1 => drop(queue.push(delivery(names[name], number))),
                2 => if let Some((ticket, delivery)) = queue.start(now) {
                    let number = delivery.id.split_once('-').unwrap().1.parse().unwrap();
                    prop_assert!(under_way.iter().all(|(_, session, _)| *session != delivery.session));
                    prop_assert!(seen.get(&delivery.session).is_none_or(|last| *last <= number));
                    seen.insert(delivery.session.clone(), number);
                    under_way.push((ticket, delivery.session, number));
                },
                _ => if !under_way.is_empty() {
                    let (ticket, ..) = under_way.remove(name % under_way.len());
                    if good { queue.succeed(ticket) } else { queue.fail(now, ticket, 0.5); }
                },
            }
            now += SECOND;
            prop_assert!(queue.len() <= 8);
        }
    }
}
