//! Random sequences of everything that can happen to a session, beside a model that is told the rules another way.
//!
//! The model keeps who is there and since when, finds out all else by looking at everybody, and folds the events
//! that were put out into the state that a follower would believe in. After every step both must agree.

use std::collections::BTreeMap;

use super::tests::{ids, language, resource, rules, term};
use super::*;
use crate::auth::Role;

const SEEDS: u64 = 1000;
const STEPS: usize = 120;
const TAGS: [&str; 4] = ["en", "es", "de", "fr"];

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// Somebody, as the model knows them.
#[derive(Debug, Clone)]
struct Person {
    publisher: bool,
    tag: &'static str,
    connected: bool,
    /// Has the place still.
    seated: bool,
    claimed: bool,
    resource: Option<ResourceId>,
    key: Option<(String, Role)>,
}

/// What a follower believes who has read all events.
#[derive(Debug, Default, PartialEq, Eq)]
struct Believed {
    tags: Vec<String>,
    ready: Vec<String>,
    listeners: BTreeMap<String, usize>,
    paused: bool,
    over: bool,
}

struct Model {
    now: Instant,
    status: Status,
    since: Instant,
    tags: Vec<&'static str>,
    people: BTreeMap<HolderId, Person>,
    followers: BTreeMap<HolderId, (String, Role)>,
    terms: BTreeMap<(String, Role), Instant>,
    empty_since: Option<Instant>,
    away_since: Option<Instant>,
    must_close: Vec<ResourceId>,
}

impl Model {
    fn seated(&self) -> impl Iterator<Item = &Person> {
        self.people.values().filter(|person| person.seated)
    }

    fn publisher(&self, tag: &str) -> Option<HolderId> {
        let here = |person: &Person| person.seated && person.publisher && person.tag == tag;
        self.people.iter().find(|(_, person)| here(person)).map(|(holder, _)| *holder)
    }

    /// Looks around: since when is nobody here, since when is the speaker away, which tokens have holders.
    fn look(&mut self) {
        let (empty, away) = (self.seated().next().is_none(), self.publisher("en").is_none());
        self.empty_since = empty.then(|| self.empty_since.unwrap_or(self.now));
        self.away_since = away.then(|| self.away_since.unwrap_or(self.now));
        let mut held: Vec<(String, Role)> = self.followers.values().cloned().collect();
        held.extend(self.seated().filter_map(|person| person.key.clone()));
        self.terms.retain(|key, _| held.contains(key));
    }

    fn unseat(&mut self, holder: HolderId) {
        let person = self.people.get_mut(&holder).unwrap();
        person.seated = false;
        self.must_close.extend(person.resource);
    }

    fn learn(&mut self, key: &Option<(String, Role)>, expires: Instant) {
        if let Some(key) = key {
            let term = self.terms.entry(key.clone()).or_insert(expires);
            *term = (*term).max(expires);
        }
    }

    /// Time has come to `now`: tokens first, then the session's own end.
    fn pass(&mut self, rules: &Rules) {
        let over: Vec<(String, Role)> = self
            .terms
            .iter()
            .filter(|(_, expires)| **expires + rules.grace <= self.now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.followers.retain(|_, held| *held != key);
            let holds = |person: &Person| person.seated && person.key.as_ref() == Some(&key);
            let holders: Vec<HolderId> =
                self.people.iter().filter(|(_, person)| holds(person)).map(|(holder, _)| *holder).collect();
            holders.into_iter().for_each(|holder| self.unseat(holder));
        }
        self.look();
        let passed = |since: Option<Instant>, wait| since.is_some_and(|since| since + wait <= self.now);
        let away = self.away_since.map(|since| since.max(self.since));
        let ends = match self.status {
            Status::Active => passed(away, rules.linger),
            Status::Paused => passed(away, rules.idle_timeout),
            Status::Created | Status::Ended => false,
        };
        if ends || passed(self.empty_since, rules.idle_timeout) {
            self.step(Status::Ended);
        }
    }

    fn step(&mut self, status: Status) {
        (self.status, self.since) = (status, self.now);
    }
}

struct Run {
    random: Random,
    rules: Rules,
    machine: Machine,
    model: Model,
    ids: BTreeMap<&'static str, (TrackId, LegId)>,
    believed: Believed,
    closed: Vec<ResourceId>,
    resources: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let ids: BTreeMap<_, _> = TAGS.into_iter().zip(ids(TAGS.len())).collect();
        let tracks = TAGS[..2].iter().map(|tag| (language(tag), ids[tag].0)).collect();
        let machine = Machine::new(now, SessionId::demo(), rules(), tracks);
        let model = Model {
            now,
            status: Status::Created,
            since: now,
            tags: TAGS[..2].to_vec(),
            people: BTreeMap::new(),
            followers: BTreeMap::new(),
            terms: BTreeMap::new(),
            empty_since: Some(now),
            away_since: Some(now),
            must_close: Vec::new(),
        };
        let random = Random(seed);
        let (believed, closed) = (Believed::default(), Vec::new());
        Self { random, rules: rules(), machine, model, ids, believed, closed, resources: 0 }
    }

    fn live(&self) -> bool {
        self.model.status != Status::Ended
    }

    fn token(&mut self) -> (Option<(String, Role)>, Instant) {
        let minutes = u32::try_from(self.random.below(20)).unwrap();
        let expires = self.model.now + minutes * Duration::from_secs(60);
        let role = if self.random.below(2) == 0 { Role::Listen } else { Role::Speak };
        let who = ["ann", "bob"][self.random.below(2)].to_owned();
        ((self.random.below(3) > 0).then_some((who, role)), expires)
    }

    fn somebody(&mut self) -> Option<HolderId> {
        let all: Vec<HolderId> = self.model.people.keys().copied().collect();
        (!all.is_empty()).then(|| all[self.random.below(all.len())])
    }

    fn join(&mut self, publisher: bool) {
        let tag = TAGS[self.random.below(TAGS.len())];
        let ((key, expires), claim) = (self.token(), self.random.below(3) == 0);
        let shown = key.as_ref().map(|(who, role)| term(who, *role, expires));
        let known = self.live() && self.model.tags.contains(&tag);
        let before = self.model.publisher(tag).map(|holder| (holder, self.model.people[&holder].clone()));
        let seat = if publisher {
            self.machine.take_publisher(self.model.now, Some(tag), shown, claim)
        } else {
            self.machine.take_listener(self.model.now, Some(tag), shown)
        };
        let free = match &before {
            _ if !publisher => self.model.seated().filter(|person| !person.publisher).count() < 3,
            Some((_, person)) => claim && (person.connected || !person.claimed),
            None => true,
        };
        assert_eq!(seat.is_ok(), known && free, "{seat:?}");
        let Ok(seat) = seat else { return };
        if publisher && let Some((holder, person)) = before {
            assert_eq!(seat.displaced, person.resource);
            self.model.unseat(holder);
            self.model.look();
        }
        self.model.learn(&key, expires);
        let claimed = publisher && claim;
        let person = Person { publisher, tag, connected: false, seated: true, claimed, resource: None, key };
        assert!(self.model.people.insert(seat.holder, person).is_none(), "a holder's name was given again");
    }

    fn follow(&mut self) {
        let (Some(key), expires) = self.token() else { return };
        let followed = self.machine.follow(self.model.now, term(&key.0, key.1, expires));
        assert_eq!(followed.is_ok(), self.live() && self.model.followers.len() < 6);
        if let Ok(holder) = followed {
            self.model.learn(&Some(key.clone()), expires);
            self.model.followers.insert(holder, key);
        }
    }

    fn accepted(&mut self, holder: HolderId) {
        if self.model.people[&holder].resource.is_some() {
            return;
        }
        self.resources += 1;
        let name = resource(self.resources);
        let accepted = self.machine.handle_accepted(holder, name);
        let live = self.live();
        let person = self.model.people.get_mut(&holder).unwrap();
        assert_eq!(accepted.is_ok(), person.seated && live, "who has no place is refused");
        person.resource = Some(name);
        if !person.seated && live {
            self.model.must_close.push(name);
        }
    }

    fn connected(&mut self, holder: HolderId) {
        self.machine.handle_connected(self.model.now, holder);
        let live = self.live();
        let person = self.model.people.get_mut(&holder).unwrap();
        if live && person.seated {
            person.connected = true;
            if person.publisher && person.tag == "en" && self.model.status == Status::Created {
                self.model.step(Status::Active);
            }
        }
    }

    fn gone(&mut self) {
        let followers: Vec<HolderId> = self.model.followers.keys().copied().collect();
        if !followers.is_empty() && self.random.below(4) == 0 {
            let holder = followers[self.random.below(followers.len())];
            self.machine.handle_gone(self.model.now, holder);
            self.model.followers.remove(&holder);
        } else if let Some(holder) = self.somebody() {
            self.machine.handle_gone(self.model.now, holder);
            self.model.people.remove(&holder);
        }
    }

    fn first_packet(&mut self, holder: HolderId) {
        let Some((track, leg)) = self.ids.get(self.model.people[&holder].tag).copied() else { return };
        if self.model.people[&holder].publisher {
            self.machine.handle_leg(holder, leg, None);
            self.machine.handle_first_packet(track, leg);
        }
    }

    fn turn(&mut self, command: usize) {
        let now = self.model.now;
        let (done, from, to) = if command == 0 {
            (self.machine.pause(now), Status::Active, Status::Paused)
        } else {
            (self.machine.resume(now), Status::Paused, Status::Active)
        };
        assert_eq!(done.is_ok(), self.model.status == from, "{done:?} in {}", self.model.status);
        if done.is_ok() {
            self.model.step(to);
        }
    }

    fn add_or_remove(&mut self) {
        let tag = TAGS[self.random.below(TAGS.len())];
        let there = self.model.tags.contains(&tag);
        if there {
            let removed = self.machine.remove_track(self.model.now, tag);
            assert_eq!(removed.is_ok(), self.live() && tag != "en");
            if removed.is_ok() {
                self.model.tags.retain(|known| *known != tag);
                let on_it = |person: &Person| person.seated && person.tag == tag;
                let holders: Vec<HolderId> =
                    self.model.people.iter().filter(|(_, p)| on_it(p)).map(|(holder, _)| *holder).collect();
                holders.into_iter().for_each(|holder| self.model.unseat(holder));
            }
        } else {
            let added = self.machine.add_track(language(tag), self.ids[tag].0);
            assert_eq!(added.is_ok(), self.live() && self.model.tags.len() < 3);
            if added.is_ok() {
                self.model.tags.push(tag);
            }
        }
    }

    /// Time goes on: to the next deadline, to just before it, or by some minutes.
    fn pass(&mut self) {
        let next = self.machine.poll_timeout().map_or(self.model.now, |at| at.max(self.model.now));
        self.model.now = match self.random.below(3) {
            0 => next,
            1 => self.model.now.max(next - Duration::from_millis(1)),
            _ => self.model.now + Duration::from_millis(self.random.next() % 200_000),
        };
        self.machine.handle_timeout(self.model.now);
        if self.live() {
            self.model.pass(&self.rules);
        }
        assert!(self.machine.poll_timeout().is_none_or(|at| at > self.model.now), "I4");
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=2 => self.join(true),
            3..=5 => self.join(false),
            6 => self.follow(),
            7 | 8 => self.somebody().into_iter().for_each(|holder| self.accepted(holder)),
            9..=11 => self.somebody().into_iter().for_each(|holder| self.connected(holder)),
            12 => self.somebody().into_iter().for_each(|holder| self.first_packet(holder)),
            13 | 14 => self.gone(),
            command @ (15 | 16) => self.turn(command - 15),
            17 => self.add_or_remove(),
            18 if self.random.below(20) == 0 => {
                let ended = self.machine.end(self.model.now, EndReason::Deleted);
                assert_eq!(ended, self.live());
                if ended {
                    self.model.step(Status::Ended);
                }
            }
            18 => {
                let (track, _) = self.ids[TAGS[self.random.below(TAGS.len())]];
                self.machine.handle_frames_lost(self.model.now, track, 1, 2);
            }
            _ => self.pass(),
        }
        if self.live() {
            self.model.look();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            assert!(!self.believed.over, "{output:?} after the end");
            match output {
                Output::Publish(_, event) => self.believe(event),
                Output::CloseLeg { resource, .. } => self.closed.push(resource),
                _ => {}
            }
        }
    }

    fn believe(&mut self, event: Event) {
        let believed = &mut self.believed;
        match event {
            Event::SessionCreated { languages, .. } => {
                believed.tags = languages.iter().map(Language::to_string).collect();
            }
            Event::SpeakerReady { language } => believed.ready.push(language.to_string()),
            Event::SpeakerLeft { language, .. } => believed.ready.retain(|tag| tag != language.as_str()),
            Event::SessionPaused {} => believed.paused = true,
            Event::SessionResumed {} => believed.paused = false,
            Event::SessionEnded { .. } => believed.over = true,
            Event::ListenerJoined { language, listeners } | Event::ListenerLeft { language, listeners } => {
                believed.listeners.insert(language.to_string(), listeners);
            }
            Event::TrackAdded { language } => believed.tags.push(language.to_string()),
            Event::TrackRemoved { language } => {
                believed.tags.retain(|tag| tag != language.as_str());
                believed.ready.retain(|tag| tag != language.as_str());
                believed.listeners.remove(language.as_str());
            }
            Event::FramesLost { .. }
            | Event::ListenersShed { .. }
            | Event::ConnectionWarning { .. }
            | Event::ConnectionRefreshRequired { .. }
            | Event::ConnectionRefreshComplete { .. } => {}
        }
    }

    /// The machine, the model and whoever has followed the events agree.
    fn check(&self) {
        let (machine, model, believed) = (&self.machine, &self.model, &self.believed);
        assert_eq!(machine.status(), model.status);
        assert_eq!(believed.over, !self.live());
        if !self.live() {
            return;
        }
        assert_eq!(believed.paused, model.status == Status::Paused);
        let publishers = model.seated().filter(|person| person.publisher).count();
        let listeners = model.seated().filter(|person| !person.publisher).count();
        assert_eq!(machine.occupancy(), (publishers, listeners, model.terms.len()));
        assert_eq!(machine.members.len(), model.people.len());
        assert_eq!(machine.followers.len(), model.followers.len());
        let access = SessionAccess { id: SessionId::demo(), owner: None, anonymous_listeners: true };
        let view = machine.view(&access, 0);
        let tags: Vec<&str> = view.tracks.iter().map(|track| track.language.as_str()).collect();
        assert_eq!(tags, model.tags);
        assert_eq!(tags, believed.tags);
        for track in view.tracks {
            let tag = track.language.as_str();
            let here = |person: &&Person| person.tag == tag && person.connected;
            let connected = model.seated().filter(here).filter(|person| !person.publisher).count();
            assert_eq!(track.listeners, connected);
            assert_eq!(believed.listeners.get(tag).copied().unwrap_or(0), connected);
            assert_eq!(track.speaker_connected, model.seated().filter(here).any(|person| person.publisher));
            assert_eq!(believed.ready.iter().any(|ready| ready == tag), track.speaker_ready, "{tag}");
        }
        for resource in &model.must_close {
            assert!(self.closed.contains(resource), "{resource:?} was not closed");
        }
        assert_eq!(self.closed.len(), model.must_close.len(), "each is closed once");
    }

    /// Everybody goes: no place is left taken.
    fn finish(mut self) {
        let mut holders: Vec<HolderId> = self.model.people.keys().copied().collect();
        holders.extend(self.model.followers.keys());
        for holder in holders {
            self.machine.handle_gone(self.model.now, holder);
        }
        self.drain();
        if self.live() {
            assert_eq!(self.machine.occupancy(), (0, 0, 0));
            assert_eq!(self.machine.leases.deadline(), None);
            let end = self.machine.poll_timeout().expect("an empty session ends");
            self.machine.handle_timeout(end + self.rules.idle_timeout);
            self.drain();
            assert!(self.believed.over);
        }
        assert!(self.machine.members.is_empty() && self.machine.followers.is_empty());
    }
}

#[test]
fn in_a_thousand_random_sequences_the_machine_does_as_the_model_says() {
    let one = std::env::var("SESSION_SEED").ok().map(|seed| seed.parse().expect("SESSION_SEED is a number"));
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut ends = BTreeMap::new();
    for seed in seeds {
        let replay = format!("replay: SESSION_SEED={seed} cargo test -p relayd --lib a_thousand_random");
        let ran = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            run.drain();
            for _ in 0..STEPS {
                run.step();
                run.drain();
                run.check();
            }
            let status = run.machine.status();
            run.finish();
            status
        });
        let status = ran.unwrap_or_else(|_| panic!("{replay}"));
        *ends.entry(status.to_string()).or_insert(0) += 1;
    }
    if one.is_none() {
        assert_eq!(ends.len(), 4, "the sequences come to every status: {ends:?}");
    }
}
