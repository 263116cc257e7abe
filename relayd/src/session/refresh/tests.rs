use super::*;

const SECOND: Duration = Duration::from_secs(1);

pub(in crate::session) fn rules() -> RefreshRules {
    RefreshRules {
        max_age: Duration::ZERO,
        refresh_before: Duration::from_secs(20),
        warn_before: Duration::from_secs(30),
        deadline: Duration::from_secs(60),
        retry_min: Duration::from_secs(1),
        retry_max: Duration::from_secs(8),
    }
}

fn drain(refresh: &mut Refresh) -> Vec<Output> {
    std::iter::from_fn(|| refresh.poll_output()).collect()
}

/// What was put out, in a word each.
fn heard(refresh: &mut Refresh) -> Vec<&'static str> {
    let word = |output: &Output| match output {
        Output::Warn { .. } => "warn",
        Output::Require { .. } => "require",
        Output::Switch => "switch",
        Output::Complete { .. } => "complete",
        Output::CloseOld => "close old",
        Output::CloseNew => "close new",
        Output::TooOld => "too old",
        Output::Over { outcome, .. } => outcome.name(),
    };
    drain(refresh).iter().map(word).collect()
}

fn ordered(now: Instant) -> Refresh {
    let mut refresh = Refresh::new(rules(), 7);
    refresh.handle_up(now);
    refresh.order(now, Cause::Operator, now, now + rules().deadline);
    assert_eq!(heard(&mut refresh), ["warn", "require"]);
    refresh
}

#[test]
fn the_old_connection_goes_when_the_new_one_has_taken_over() {
    let now = Instant::now();
    let mut refresh = ordered(now);
    refresh.handle_joined(now + SECOND);
    assert!(heard(&mut refresh).is_empty());
    refresh.handle_connected(now);
    assert_eq!(heard(&mut refresh), ["switch"]);
    refresh.handle_not_switched(now + SECOND);
    refresh.handle_timeout(refresh.poll_timeout().unwrap());
    assert_eq!(heard(&mut refresh), ["switch"], "once more");
    let spent = Spent { position: 9, replayed: 3, gap_frames: 0 };
    refresh.handle_spent(now + 2 * SECOND, spent, true);
    let took = 2 * SECOND;
    let over = Output::Over { cause: Some(Cause::Operator), outcome: Outcome::Completed, took };
    assert_eq!(drain(&mut refresh), [Output::Complete { spent, attempts: 1 }, Output::CloseOld, over]);
    refresh.handle_old_gone(now + 3 * SECOND);
    assert!(heard(&mut refresh).is_empty() && refresh.poll_timeout().is_none());
}

#[test]
fn what_fails_is_asked_for_again_until_the_deadline() {
    let now = Instant::now();
    let mut refresh = ordered(now);
    let (mut at, mut pauses) = (now, Vec::new());
    loop {
        refresh.handle_joined(at);
        refresh.handle_failed(at);
        assert!(heard(&mut refresh).is_empty());
        let next = refresh.poll_timeout().expect("it goes on");
        pauses.push(next - at);
        at = next;
        refresh.handle_timeout(at);
        match heard(&mut refresh)[..] {
            ["require"] => assert!(at < now + rules().deadline),
            ["gave_up"] => break,
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!(at, now + rules().deadline);
    let most = |index: usize| Duration::from_secs(1 << index.min(3));
    for (index, pause) in pauses.iter().enumerate() {
        assert!(*pause <= most(index), "{index}: {pause:?}");
    }
    assert!(pauses.len() > 8, "{pauses:?}");
    assert!(refresh.poll_timeout().is_none());
}

#[test]
fn who_does_not_come_is_asked_again() {
    let now = Instant::now();
    let mut refresh = ordered(now);
    refresh.handle_timeout(now + ANSWER_AFTER);
    let again = refresh.poll_timeout().unwrap();
    assert!(again <= now + ANSWER_AFTER + rules().retry_min);
    refresh.handle_timeout(again);
    assert_eq!(heard(&mut refresh), ["require"]);
}

#[test]
fn orders_that_come_together_are_one() {
    let now = Instant::now();
    let mut refresh = ordered(now);
    for cause in [Cause::Drain, Cause::Age, Cause::Operator] {
        refresh.order(now + SECOND, cause, now + SECOND, now + 30 * SECOND);
    }
    assert!(heard(&mut refresh).is_empty());
    refresh.handle_joined(now + SECOND);
    refresh.handle_failed(now + SECOND);
    // One more while it pauses has it try at once.
    refresh.order(now + SECOND, Cause::Operator, now + SECOND, now + 90 * SECOND);
    assert_eq!(heard(&mut refresh), ["require"]);
    refresh.handle_timeout(now + 90 * SECOND);
    assert_eq!(heard(&mut refresh), ["gave_up"], "at the last of their deadlines");
}

#[test]
fn a_drop_ends_what_was_asked_for_and_leaves_what_has_come() {
    let now = Instant::now();
    let mut refresh = ordered(now);
    refresh.handle_old_gone(now);
    assert_eq!(heard(&mut refresh), ["dropped"]);
    let mut refresh = ordered(now);
    refresh.handle_joined(now);
    refresh.handle_old_gone(now);
    assert!(heard(&mut refresh).is_empty(), "the media plane may say what was cut");
    let mut said = ordered(now);
    said.handle_joined(now);
    said.handle_old_gone(now);
    said.handle_spent(now, Spent::default(), false);
    assert_eq!(heard(&mut said), ["complete", "completed"], "nothing is left to close");
    refresh.handle_timeout(now + SPENT_AFTER);
    assert_eq!(heard(&mut refresh), ["dropped"]);
    refresh.order(now + 9 * SECOND, Cause::Operator, now + 9 * SECOND, now + 20 * SECOND);
    assert_eq!(heard(&mut refresh), ["warn", "require"], "the new one is as any other");
}

#[test]
fn age_warns_then_asks_and_then_the_connection_is_too_old() {
    let now = Instant::now();
    let aging = RefreshRules { max_age: 100 * SECOND, ..rules() };
    let mut refresh = Refresh::new(aging, 7);
    assert_eq!(refresh.poll_timeout(), None, "not up yet");
    refresh.handle_up(now);
    assert_eq!(refresh.poll_timeout(), Some(now + 70 * SECOND));
    refresh.handle_timeout(now + 70 * SECOND);
    let at = now + 100 * SECOND;
    assert_eq!(drain(&mut refresh), [Output::Warn { cause: Cause::Age, at }]);
    refresh.handle_timeout(now + 80 * SECOND);
    assert_eq!(drain(&mut refresh), [], "not all of the same age at once");
    let asked = refresh.poll_timeout().unwrap();
    assert!(asked > now + 80 * SECOND && asked <= now + 82 * SECOND);
    refresh.handle_timeout(asked);
    assert_eq!(drain(&mut refresh), [Output::Require { cause: Cause::Age, deadline: at }], "warned before");
    refresh.handle_timeout(now + 99 * SECOND);
    assert!(heard(&mut refresh).is_empty());
    refresh.handle_timeout(at);
    assert_eq!(heard(&mut refresh), ["gave_up", "too old"]);
    assert!(refresh.poll_timeout().is_none());
}

/// A connection that is `max_age` old at 100 s, asked for since 80 s.
fn aging(now: Instant) -> Refresh {
    let mut refresh = Refresh::new(RefreshRules { max_age: 100 * SECOND, ..rules() }, 7);
    refresh.handle_up(now);
    for at in [70, 80, 82] {
        refresh.handle_timeout(now + at * SECOND);
    }
    assert_eq!(heard(&mut refresh), ["warn", "require"]);
    refresh
}

#[test]
fn a_second_connection_ages_from_when_it_came_up() {
    let now = Instant::now();
    let mut refresh = aging(now);
    refresh.handle_joined(now + 85 * SECOND);
    refresh.handle_connected(now + 90 * SECOND);
    assert_eq!(heard(&mut refresh), ["switch"]);
    refresh.handle_spent(now + 120 * SECOND, Spent::default(), true);
    assert_eq!(heard(&mut refresh), ["complete", "close old", "completed"]);
    assert_eq!(refresh.poll_timeout(), Some(now + (90 + 70) * SECOND));
    // One that lost its first one, too; one that is not up yet is of no age.
    for (up, next) in [(Some(90), Some(160)), (None, None)] {
        let mut refresh = aging(now);
        refresh.handle_joined(now + 85 * SECOND);
        up.iter().for_each(|up| refresh.handle_connected(now + *up * SECOND));
        refresh.handle_old_gone(now + 95 * SECOND);
        refresh.handle_timeout(now + 95 * SECOND + SPENT_AFTER);
        assert_eq!(refresh.poll_timeout(), next.map(|next| now + next * SECOND));
    }
}

#[test]
fn a_refresh_that_never_ends_does_not_keep_the_old_connection_beyond_its_age_and_the_deadline() {
    let now = Instant::now();
    let limit = now + 100 * SECOND + rules().deadline;
    for up in [false, true] {
        let mut refresh = aging(now);
        for at in (85..160).step_by(5) {
            // Whoever comes again and again; the media plane never says that it has moved.
            refresh.handle_joined(now + at * SECOND);
            if up {
                refresh.handle_connected(now + at * SECOND);
                assert_eq!(heard(&mut refresh), ["switch"]);
                refresh.handle_not_switched(now + at * SECOND);
            }
            refresh.handle_timeout(now + (at + 4) * SECOND);
            refresh.handle_not_switched(now + (at + 4) * SECOND);
            assert!(!heard(&mut refresh).contains(&"too old"), "{at}");
        }
        refresh.handle_timeout(limit);
        assert!(heard(&mut refresh).contains(&"too old"), "{up}");
    }
}

#[test]
fn a_second_connection_that_fails_when_the_first_is_too_old_is_not_waited_for_again() {
    let now = Instant::now();
    let mut refresh = aging(now);
    refresh.handle_joined(now + 85 * SECOND);
    // An operator's order stands for longer than the connection may.
    refresh.order(now + 95 * SECOND, Cause::Operator, now + 95 * SECOND, now + 300 * SECOND);
    refresh.handle_timeout(now + 105 * SECOND);
    assert!(heard(&mut refresh).is_empty(), "it is on its way");
    refresh.handle_failed(now + 110 * SECOND);
    assert_eq!(heard(&mut refresh), ["gave_up", "too old"]);
    let mut asked = aging(now);
    asked.order(now + 95 * SECOND, Cause::Operator, now + 95 * SECOND, now + 300 * SECOND);
    asked.handle_timeout(now + 100 * SECOND);
    assert_eq!(heard(&mut asked), ["gave_up", "too old"], "nor is anybody waited for who was asked");
}

#[test]
fn who_is_asked_is_told_no_later_deadline_than_the_end_of_the_connection() {
    let now = Instant::now();
    let mut refresh = Refresh::new(RefreshRules { max_age: 100 * SECOND, ..rules() }, 7);
    refresh.handle_up(now);
    refresh.order(now + 60 * SECOND, Cause::Operator, now + 60 * SECOND, now + 300 * SECOND);
    let told = drain(&mut refresh).into_iter().find_map(|output| match output {
        Output::Require { deadline, .. } => Some(deadline),
        _ => None,
    });
    assert_eq!(told, Some(now + 100 * SECOND));
}

/// All that comes of time alone, and when the last of it came.
fn wait(refresh: &mut Refresh, up: bool, mut now: Instant) -> (Vec<&'static str>, Instant) {
    let mut all = Vec::new();
    while let Some(next) = refresh.poll_timeout() {
        assert!(next > now, "I4");
        now = next;
        refresh.handle_timeout(now);
        let told = heard(refresh);
        if up && told.contains(&"switch") {
            refresh.handle_not_switched(now);
        }
        all.extend(told.into_iter().filter(|word| *word != "switch"));
    }
    (all, now)
}

#[test]
fn a_second_connection_that_neither_takes_over_nor_goes_is_closed_at_its_deadline() {
    let now = Instant::now();
    for up in [false, true] {
        // The client's own wish.
        let mut own = Refresh::new(rules(), 7);
        own.handle_up(now);
        own.handle_joined(now);
        // Ordered, with one who comes in time, and with one who comes at the last moment.
        let (mut early, mut late) = (ordered(now), ordered(now));
        let last = now + rules().deadline - SECOND;
        early.handle_joined(now + SECOND);
        late.handle_joined(last);
        for (refresh, came) in [(&mut own, now), (&mut early, now + SECOND), (&mut late, last)] {
            if up {
                refresh.handle_connected(came);
                assert_eq!(heard(refresh), ["switch"]);
                refresh.handle_not_switched(came);
            }
            let over = came + rules().deadline;
            assert_eq!(wait(refresh, up, came), (vec!["close new", "gave_up"], over));
            refresh.handle_failed(over);
            assert!(heard(refresh).is_empty(), "it is over");
        }
    }
    // While the order stands, whoever was asked is asked again.
    let mut refresh = Refresh::new(rules(), 7);
    refresh.handle_up(now);
    refresh.order(now, Cause::Operator, now, now + 3 * rules().deadline);
    refresh.handle_joined(now);
    refresh.handle_connected(now);
    heard(&mut refresh);
    refresh.handle_timeout(now + rules().deadline);
    assert_eq!(heard(&mut refresh), ["close new"]);
    refresh.handle_timeout(refresh.poll_timeout().unwrap());
    assert_eq!(heard(&mut refresh), ["require"]);
}

#[test]
fn who_comes_again_and_again_does_not_put_off_the_end_of_a_refresh() {
    let now = Instant::now();
    let mut refresh = ordered(now);
    let mut at = now;
    while at < now + 2 * rules().deadline {
        refresh.handle_timeout(at);
        refresh.handle_joined(at);
        assert!(heard(&mut refresh).is_empty());
        at += 5 * SECOND;
    }
    refresh.handle_timeout(at);
    assert_eq!(heard(&mut refresh), ["close new", "gave_up"]);
}

#[test]
fn whatever_happens_no_connection_gets_older_than_it_may() {
    const MAX: Duration = Duration::from_secs(100);
    let mut closed = 0;
    for seed in 0..2000 {
        let start = Instant::now();
        let mut random = Random(seed * 2 + 1);
        let mut refresh = Refresh::new(RefreshRules { max_age: MAX, ..rules() }, seed);
        let (mut now, mut first, mut second) = (start, Some(start), None::<Option<Instant>>);
        refresh.handle_up(now);
        for _ in 0..120 {
            match random.below(8) {
                0 if first.is_some() => {
                    let until = now + Duration::from_millis(1 + random.below(200_000));
                    refresh.order(now, Cause::Operator, now, until);
                }
                1 | 2 if first.is_some() => {
                    second = Some(None);
                    refresh.handle_joined(now);
                }
                3 if second == Some(None) => {
                    second = Some(Some(now));
                    refresh.handle_connected(now);
                }
                4 if second.is_some_and(|up| up.is_some()) && random.below(4) == 0 => {
                    first = second.take().flatten();
                    refresh.handle_spent(now, Spent::default(), true);
                }
                5 if second.is_some() => {
                    second = None;
                    refresh.handle_failed(now);
                }
                6 if first.is_none() && second.is_none() => {
                    first = Some(now);
                    refresh.handle_up(now);
                }
                _ => {
                    let at = refresh.poll_timeout().unwrap_or(now + SECOND);
                    now = at.min(now + Duration::from_millis(random.below(20_000))).max(now);
                    refresh.handle_timeout(now);
                }
            }
            while let Some(output) = refresh.poll_output() {
                if output == Output::CloseNew {
                    second = None;
                }
                if output == Output::TooOld {
                    closed += 1;
                    assert!(first.is_some_and(|up| now >= up + MAX), "seed {seed}");
                    first = second.take().flatten();
                    refresh.handle_old_gone(now);
                }
            }
            let most = if second.is_some() { MAX + rules().deadline } else { MAX };
            assert!(first.is_none_or(|up| now < up + most), "seed {seed}");
            assert!(refresh.poll_timeout().is_none_or(|at| at > now), "I4: seed {seed}");
        }
    }
    assert!(closed > 2000, "only {closed}");
}

#[test]
fn those_whom_time_brings_to_be_replaced_are_not_asked_all_at_once() {
    let now = Instant::now();
    for cause in [Cause::Age, Cause::TokenExpiry] {
        let mut asked: Vec<Instant> = (0..1000)
            .map(|seed| {
                let mut refresh = Refresh::new(rules(), seed);
                refresh.handle_up(now);
                refresh.order(now, cause, now, now + 1200 * SECOND);
                refresh.poll_timeout().unwrap()
            })
            .collect();
        asked.sort_unstable();
        assert!(asked[999] <= now + 60 * SECOND);
        assert!(asked.windows(50).all(|some| some[49] - some[0] > SECOND), "50 of 1000 within a second");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // Numerical Recipes' 64-bit congruential generator; the high bits are good.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a holder's connections are, by what was done to them alone.
#[derive(Debug, Default)]
struct Model {
    first: bool,
    /// The second connection: whether it is up.
    second: Option<bool>,
    /// Orders that were given and did not end, joined into one.
    ordered: bool,
    /// The client's own second connection, which ends in a word, too.
    own: bool,
    /// A second connection that lost its first.
    orphaned: bool,
    deadline: Option<Instant>,
    /// When the client came by itself.
    came: Option<Instant>,
    completes: u32,
}

impl Model {
    fn over(&mut self) {
        (self.ordered, self.own, self.orphaned) = (false, false, false);
        (self.deadline, self.came) = (None, None);
    }
}

struct Run {
    random: Random,
    now: Instant,
    refresh: Refresh,
    model: Model,
}

impl Run {
    fn step(&mut self) {
        let now = self.now;
        match self.random.below(10) {
            0 | 1 if self.model.first => {
                let deadline = now + Duration::from_millis(1 + self.random.below(90_000));
                self.refresh.order(
                    now,
                    Cause::Operator,
                    now + self.random.below(3) as u32 * SECOND,
                    deadline,
                );
                if self.model.orphaned {
                    self.ends(Outcome::Dropped);
                }
                self.model.ordered = true;
                self.model.own = false;
                self.model.deadline = self.model.deadline.max(Some(deadline));
            }
            2 if self.model.first => {
                self.refresh.handle_joined(now);
                if self.model.orphaned {
                    self.ends(Outcome::Dropped);
                }
                self.model.own = !self.model.ordered;
                if self.model.own {
                    self.model.came.get_or_insert(now);
                }
                self.model.second = Some(false);
            }
            3 if self.model.second == Some(false) => {
                self.refresh.handle_connected(now);
                self.model.second = Some(true);
                self.expect(Output::Switch);
            }
            4 if self.model.second.is_some() => self.spent(),
            5 if self.model.second.is_some() => {
                self.refresh.handle_failed(now);
                self.model.second = None;
                if self.model.own || self.model.deadline.is_some_and(|deadline| deadline <= now) {
                    self.ends(Outcome::GaveUp);
                }
            }
            6 if self.model.first && self.random.below(3) == 0 => self.drop_first(),
            7 if self.model.second == Some(true) => self.refresh.handle_not_switched(now),
            8 if !self.model.first => {
                self.refresh.handle_up(now);
                self.model.first = true;
            }
            _ => self.pass(),
        }
        self.look();
    }

    fn spent(&mut self) {
        self.refresh.handle_spent(self.now, Spent::default(), true);
        self.model.second = None;
        self.model.completes += 1;
        let Some(Output::Complete { .. }) = self.refresh.poll_output() else { panic!("it is told") };
        self.expect(Output::CloseOld);
        self.ends(Outcome::Completed);
    }

    fn drop_first(&mut self) {
        self.refresh.handle_old_gone(self.now);
        if self.model.second.take().is_some() {
            // The second one is the first one now.
            self.model.orphaned = true;
        } else {
            self.model.first = false;
            if self.model.ordered || self.model.orphaned {
                self.ends(Outcome::Dropped);
            }
        }
    }

    fn pass(&mut self) {
        let next = self.refresh.poll_timeout().map_or(self.now, |at| at.max(self.now));
        self.now = match self.random.below(3) {
            0 => next,
            1 => self.now + Duration::from_millis(self.random.below(3000)),
            _ => self.now + Duration::from_millis(self.random.below(40_000)),
        };
        self.refresh.handle_timeout(self.now);
    }

    fn expect(&mut self, output: Output) {
        assert_eq!(self.refresh.poll_output(), Some(output), "{:?}", self.model);
    }

    fn ends(&mut self, wanted: Outcome) {
        let over = std::iter::from_fn(|| self.refresh.poll_output()).find_map(|output| match output {
            Output::Over { outcome, .. } => Some(outcome),
            _ => None,
        });
        assert_eq!(over, Some(wanted), "{:?}", self.model);
        self.model.over();
    }

    /// What comes of itself.
    fn look(&mut self) {
        while let Some(output) = self.refresh.poll_output() {
            let model = &self.model;
            match output {
                Output::Warn { .. } => assert!(model.first, "{model:?}"),
                Output::Require { deadline, .. } => {
                    assert!(model.first && model.ordered && model.second.is_none(), "{model:?}");
                    assert!(self.now < deadline && Some(deadline) == model.deadline, "{model:?}");
                }
                Output::Switch => assert_eq!(model.second, Some(true)),
                Output::Over { outcome: Outcome::GaveUp, .. } => {
                    assert!((model.ordered || model.own) && model.second.is_none(), "{model:?}");
                    assert!(model.own || model.deadline.is_some_and(|at| at <= self.now), "{model:?}");
                    self.model.over();
                }
                Output::Over { outcome: Outcome::Dropped, .. } => {
                    assert!(model.orphaned, "{model:?}");
                    self.model.over();
                }
                Output::CloseNew => {
                    assert!(self.model.second.take().is_some(), "there is one");
                }
                other => panic!("{other:?} by itself: {model:?}"),
            }
        }
        assert!(self.refresh.poll_timeout().is_none_or(|at| at > self.now), "I4: {:?}", self.model);
        let latest = self.model.deadline.max(self.model.came).map(|at| at + rules().deadline + SPENT_AFTER);
        assert!(latest.is_none_or(|latest| self.now < latest), "it does not end: {:?}", self.model);
    }
}

#[test]
fn in_thousands_of_random_sequences_it_does_as_the_model_says() {
    let one = std::env::var("REFRESH_SEED").ok().map(|seed| seed.parse().expect("REFRESH_SEED is a number"));
    let seeds = one.map_or(0..3000, |seed: u64| seed..seed + 1);
    let mut completes = 0;
    for seed in seeds {
        let replay = format!("replay: REFRESH_SEED={seed} cargo test -p relayd --lib thousands_of_random");
        let ran = std::panic::catch_unwind(|| {
            let now = Instant::now();
            let mut refresh = Refresh::new(rules(), seed);
            refresh.handle_up(now);
            let model = Model { first: true, ..Model::default() };
            let mut run = Run { random: Random(seed.wrapping_mul(2) + 1), now, refresh, model };
            (0..200).for_each(|_| run.step());
            run.model.completes
        });
        completes += ran.unwrap_or_else(|_| panic!("{replay}"));
    }
    assert!(one.is_some() || completes > 3000, "only {completes} were completed");
}
