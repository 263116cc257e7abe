//! The table of `legs.rs`, line by line, in virtual time.

use proptest::prelude::*;

use super::*;

struct Run {
    legs: Legs,
    now: Instant,
}

impl Run {
    fn new() -> Self {
        let now = Instant::now();
        Self { legs: Legs::new(now, 1), now }
    }

    /// With a first connection that is up.
    fn live() -> Self {
        let mut run = Self::new();
        assert_eq!(run.steps(), [Step::Open(1, Why::First)]);
        run.legs.handle_up(run.now, 1);
        assert_eq!((run.steps(), run.legs.live()), (vec![], Some(1)));
        run
    }

    fn steps(&mut self) -> Vec<Step> {
        std::iter::from_fn(|| self.legs.poll_step()).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<Step> {
        let end = self.now + time;
        while let Some(at) = self.legs.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.legs.handle_timeout(self.now);
            if !self.legs.steps.is_empty() {
                return self.steps();
            }
        }
        self.now = end;
        vec![]
    }

    fn order(&mut self, ticket: &str) -> Order {
        let deadline = self.now + Duration::from_secs(30);
        let order = Order { url: String::new(), ticket: ticket.to_owned(), deadline };
        self.legs.order(self.now, order.clone());
        order
    }
}

const LONG: Duration = Duration::from_secs(100);

#[test]
fn a_first_connection_that_fails_is_the_end() {
    let mut run = Run::new();
    run.steps();
    run.legs.handle_ended(run.now, 1, false);
    assert_eq!(run.steps(), [Step::GiveUp]);
    assert_eq!(run.legs.poll_timeout(), None);
}

#[test]
fn a_refresh_is_made_before_the_old_one_is_broken() {
    let mut run = Run::live();
    let order = run.order("a");
    assert_eq!(run.steps(), [Step::Open(2, Why::Refresh(order))]);
    run.legs.handle_up(run.now, 2);
    assert_eq!((run.pass(LONG), run.legs.live()), (vec![], Some(1)), "the relay says when");
    run.legs.complete(run.now);
    assert_eq!(run.legs.live(), Some(2));
    assert_eq!(run.pass(OVERLAP), [Step::Close(1)]);
}

#[test]
fn the_relay_may_be_done_before_we_know_that_it_is_up() {
    let mut run = Run::live();
    run.order("a");
    run.legs.complete(run.now);
    assert_eq!(run.legs.live(), Some(1));
    run.legs.handle_up(run.now, 2);
    assert_eq!(run.legs.live(), Some(2));
    run.legs.complete(run.now);
    assert_eq!(run.legs.live(), Some(2), "it is told on both connections");
}

#[test]
fn an_order_that_comes_before_we_know_that_the_last_one_is_done_is_the_next() {
    let mut run = Run::live();
    run.order("a");
    run.legs.complete(run.now);
    run.steps();
    let next = run.order("b");
    assert_eq!(run.steps(), []);
    run.legs.handle_up(run.now, 2);
    assert_eq!((run.steps(), run.legs.live()), (vec![Step::Open(3, Why::Refresh(next))], Some(2)));
}

#[test]
fn the_relay_may_close_the_old_one_itself() {
    let mut run = Run::live();
    run.order("a");
    run.legs.handle_up(run.now, 2);
    run.legs.complete(run.now);
    run.steps();
    run.legs.handle_ended(run.now, 1, false);
    assert_eq!((run.pass(LONG), run.legs.live()), (vec![], Some(2)));
}

#[test]
fn a_refresh_that_fails_is_tried_again_until_its_deadline_and_keeps_the_old_one() {
    let mut run = Run::live();
    let order = run.order("a");
    let mut tries = 0;
    let mut steps = run.steps();
    while let [Step::Open(key, Why::Refresh(again))] = &steps[..] {
        assert_eq!(*again, order);
        tries += 1;
        run.legs.handle_ended(run.now, *key, false);
        steps = run.steps();
        if steps.is_empty() {
            steps = run.pass(Duration::from_secs(5));
        }
    }
    assert!((6..60).contains(&tries), "{tries}");
    assert_eq!((steps, run.legs.live()), (vec![], Some(1)));
    assert!(run.now >= order.deadline - Duration::from_secs(5));
}

#[test]
fn a_refresh_that_is_refused_is_given_up() {
    let mut run = Run::live();
    run.order("a");
    run.steps();
    run.legs.handle_ended(run.now, 2, true);
    assert_eq!((run.pass(LONG), run.legs.live()), (vec![], Some(1)));
}

#[test]
fn orders_during_a_try_collapse_into_one() {
    let mut run = Run::live();
    run.order("a");
    run.steps();
    let newer = run.order("b");
    assert_eq!(run.steps(), []);
    run.legs.handle_ended(run.now, 2, false);
    assert_eq!(run.steps(), [Step::Open(3, Why::Refresh(newer))], "with the newer ticket");
    run.legs.handle_up(run.now, 3);
    run.order("c");
    assert_eq!(run.steps(), [], "one is up already");
    let late = Order { url: String::new(), ticket: "d".into(), deadline: run.now };
    run.legs.order(run.now, late);
    assert_eq!(run.steps(), []);
}

#[test]
fn a_lost_connection_is_replaced_at_once_and_then_more_slowly() {
    let mut run = Run::live();
    run.legs.handle_ended(run.now, 1, false);
    assert_eq!((run.steps(), run.legs.live()), (vec![Step::Open(2, Why::Resume)], None));
    let (lost, mut key, mut waited) = (run.now, 2, Vec::new());
    loop {
        let before = run.now;
        run.legs.handle_ended(run.now, key, false);
        match &run.pass(LONG)[..] {
            [Step::Open(next, Why::Resume)] => key = *next,
            [Step::GiveUp] => break,
            other => panic!("{other:?}"),
        }
        waited.push(run.now - before);
    }
    assert_eq!(run.now - lost, WINDOW);
    assert!(waited.iter().all(|wait| *wait <= Duration::from_secs(5)));
    assert!(waited.len() > 12, "{waited:?}");
}

#[test]
fn a_drop_in_the_middle_of_a_refresh_is_carried_by_the_second() {
    let mut run = Run::live();
    run.order("a");
    run.steps();
    run.legs.handle_ended(run.now, 1, false);
    assert_eq!((run.steps(), run.legs.live()), (vec![], None), "the second is on its way");
    run.legs.handle_up(run.now, 2);
    assert_eq!((run.pass(LONG), run.legs.live()), (vec![], Some(2)));
}

#[test]
fn a_drop_of_both_falls_back_to_resume() {
    let mut run = Run::live();
    run.order("a");
    run.steps();
    run.legs.handle_ended(run.now, 1, false);
    run.legs.handle_ended(run.now, 2, false);
    assert_eq!(run.steps(), [Step::Open(3, Why::Resume)]);
}

#[test]
fn a_silent_one_is_replaced_beside_it() {
    let mut run = Run::live();
    run.legs.handle_silence(run.now);
    assert_eq!(run.steps(), [Step::Open(2, Why::Resume)]);
    run.legs.handle_silence(run.now);
    assert_eq!(run.steps(), [], "one is on its way");
    run.legs.handle_up(run.now, 2);
    assert_eq!(run.legs.live(), Some(2));
    assert_eq!(run.pass(OVERLAP), [Step::Close(1)]);
}

#[test]
fn a_refusal_for_good_ends_it_when_nothing_is_left() {
    let mut run = Run::live();
    run.legs.handle_ended(run.now, 1, true);
    assert_eq!(run.steps(), [Step::GiveUp]);
    let mut run = Run::live();
    run.legs.handle_ended(run.now, 1, false);
    run.steps();
    run.legs.handle_ended(run.now, 2, true);
    assert_eq!(run.steps(), [Step::GiveUp]);
    run.order("a");
    run.legs.handle_timeout(run.now);
    assert_eq!(run.steps(), [], "over is over");
}

proptest! {
    #[test]
    fn whatever_happens_there_are_at_most_two_and_every_one_is_accounted_for(
        events in proptest::collection::vec((0..7_u8, 0..3_000_u64), 0..200),
    ) {
        let mut run = Run::new();
        let mut open: Vec<Key> = Vec::new();
        for (event, pause) in events {
            let steps = run.steps().into_iter().chain(run.pass(Duration::from_millis(pause)));
            for step in steps.collect::<Vec<_>>() {
                match step {
                    Step::Open(key, _) => open.push(key),
                    Step::Close(key) => open.retain(|other| *other != key),
                    Step::GiveUp => return Ok(()),
                }
            }
            prop_assert!(open.len() <= 2 + run.legs.closing.len(), "{:?}", open);
            prop_assert!(run.legs.live().is_none_or(|key| open.contains(&key)));
            let now = run.now;
            match (event, open.first().copied(), open.last().copied()) {
                (0, Some(first), _) => {
                    open.retain(|other| *other != first);
                    run.legs.handle_ended(now, first, false);
                }
                (1, _, Some(last)) => {
                    open.retain(|other| *other != last);
                    run.legs.handle_ended(now, last, false);
                }
                (2 | 3, _, Some(last)) => run.legs.handle_up(now, last),
                (4, ..) => drop(run.order("x")),
                (5, ..) => run.legs.handle_silence(now),
                _ => run.legs.complete(now),
            }
        }
    }
}

#[test]
fn a_completion_that_both_connections_tell_is_one_and_another_at_its_position_is_another() {
    let mut completions = Completions::default();
    assert!(completions.hear(1, 0));
    assert!(!completions.hear(1, 0), "the other connection tells the same");
    assert!(
        completions.hear(2, 0),
        "nobody spoke between these two, and the first was told by one connection alone"
    );
    assert!(!completions.hear(1, 0) && !completions.hear(2, 0), "late");
    assert!(completions.hear(3, 7) && !completions.hear(3, 7));
    assert!(completions.hear(3, 9), "of another relay");
    (5..500).for_each(|seq| {
        assert!(completions.hear(seq, 7));
        assert!(completions.heard.len() <= MAX_HEARD);
    });
}
