//! Several shards: listeners of one track on all of them hear what those of one shard would.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::Poll;

use relay_engine::Order;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::switch::{number_of, numbered};
use super::*;

pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

pub(super) fn config(count: usize, spill: usize) -> ShardsConfig {
    ShardsConfig { count, spill, ..ShardConfig::patient().into() }
}

pub(super) fn spawn(config: &ShardsConfig) -> (Shards, ShardThreads) {
    Shards::spawn(&[UdpSocket::bind("127.0.0.1:0").unwrap()], config).unwrap()
}

pub(super) fn end(shards: &Shards, threads: ShardThreads) {
    shards.shutdown();
    threads.join().unwrap();
}

/// Waits for what other threads bring about.
pub(super) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..4_000 {
        if done().await {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 20 s: {what}");
}

pub(super) fn spec() -> LegSpec {
    LegSpec::new(LISTENER_TYPE).reports(false)
}

/// A track and who speaks there.
pub(super) struct Speaker {
    pub(super) shards: Shards,
    pub(super) track: TrackId,
    pub(super) leg: LegId,
    pub(super) next: u16,
}

impl Speaker {
    pub(super) async fn on(shards: &Shards, name: &str) -> Self {
        let track = shards.open_track(name).await.unwrap();
        let leg = Self::leg(shards, track).await;
        Self { shards: shards.clone(), track, leg, next: 0 }
    }

    pub(super) async fn leg(shards: &Shards, track: TrackId) -> LegId {
        let leg = shards.open_publisher(track, LegSpec::new(PUBLISHER_TYPE)).await.unwrap();
        assert!(shards.publisher_up(leg));
        leg
    }

    /// Frames whose numbers are their positions.
    pub(super) fn speak(&mut self, frames: u16) {
        for number in self.next..self.next + frames {
            self.say(self.leg, number);
        }
        self.next += frames;
    }

    /// The same, and waits until they are taken.
    pub(super) async fn say_all(&mut self, frames: u16) {
        self.speak(frames);
        until("it is taken", async || {
            let stats = self.shards.track_stats(self.track).await.unwrap().unwrap();
            stats.next_position == u64::from(self.next)
        })
        .await;
    }

    pub(super) fn say(&self, leg: LegId, number: u16) {
        assert!(self.shards.packet(leg, spoken(100 + number, &numbered(u32::from(number)))));
    }
}

/// A listener with a socket of its own, and the numbers that it heard.
pub(super) struct Guest {
    pub(super) ear: Ear,
    pub(super) listener: ListenerId,
    pub(super) leg: LegId,
    pub(super) heard: Vec<u32>,
}

/// Of its own: a port that was another test's a moment ago, and is sent to still, is not this one's.
const EARS: &str = if cfg!(target_os = "linux") { "127.0.77.1:0" } else { "127.0.0.1:0" };

impl Guest {
    pub(super) async fn join(shards: &Shards, track: TrackId, spec: LegSpec) -> Self {
        let (listener, leg) = shards.open_listener(track, spec).await.unwrap();
        let ear = Ear::new(EARS, SrtpProfile::AeadAes256Gcm, 1);
        assert!(shards.leg_up(leg, ear.egress()));
        Self { ear, listener, leg, heard: Vec::new() }
    }

    pub(super) async fn many(shards: &Shards, track: TrackId, count: usize) -> Vec<Self> {
        let mut guests = Vec::new();
        for _ in 0..count {
            guests.push(Self::join(shards, track, spec()).await);
        }
        guests
    }

    /// Waits for the numbers that are to come next, and for no other.
    pub(super) fn hears(&mut self, numbers: std::ops::Range<u16>) {
        for number in numbers {
            let heard = number_of(&self.ear.hear().payload);
            assert_eq!(heard, u32::from(number), "{} after {:?}", self.leg, self.heard);
            self.heard.push(heard);
        }
    }
}

impl Guest {
    /// Hears the first so many numbers, or fewer of them, then goes on at another one.
    pub(super) fn skips(&mut self, first: u32, to: u32) {
        loop {
            let heard = number_of(&self.ear.hear().payload);
            self.heard.push(heard);
            if heard == to {
                return;
            }
            let next = self.heard.len() as u32 - 1;
            assert_eq!((heard, heard < first), (next, true), "{} after {:?}", self.leg, self.heard);
        }
    }
}

pub(super) fn by_shard(guests: &[Guest]) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    guests.iter().for_each(|guest| *counts.entry(guest.listener.relay()).or_default() += 1);
    counts
}

async fn all_gone(shards: &Shards) {
    until("everything is closed", async || {
        let stats = shards.stats().await.unwrap();
        (stats.replicas, stats.relay.listeners, stats.relay.legs) == (0, 0, 0)
    })
    .await;
}

#[test]
fn seven_hundred_listeners_on_three_shards_hear_every_frame_once_in_order() {
    let (shards, threads) = spawn(&config(3, 256));
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        let mut other = Speaker::on(&shards, "de").await;
        let track = speaker.track;
        assert_ne!(track.relay(), other.track.relay(), "tracks are spread");
        speaker.say_all(5).await;
        let mut guests = Guest::many(&shards, track, 700).await;
        assert_eq!(by_shard(&guests), BTreeMap::from([(0, 256), (1, 222), (2, 222)]));
        assert_eq!(shards.track_stats(track).await.unwrap().unwrap().listeners, 700);
        // They join at the live edge: what was spoken before is there, whichever shard they are on.
        shards.ping().await.unwrap();
        speaker.speak(15);
        guests.iter_mut().for_each(|guest| guest.hears(5..20));

        refresh_speaker(&shards, &mut speaker).await;
        guests.iter_mut().for_each(|guest| guest.hears(20..40));

        refresh_listeners(&shards, &mut speaker, &mut guests).await;
        visit(&shards, &mut speaker, &mut other, &mut guests).await;
        return_elsewhere(&shards, &mut speaker, &mut guests).await;

        assert!(guests.iter().all(|guest| guest.ear.hears_nothing()), "nothing came twice");
        let stats = shards.stats().await.unwrap();
        assert_eq!((stats.relay.tracks, stats.relay.listeners), (2, 700));
        assert_eq!((stats.egress.errors(), stats.relay.frames_skipped), (0, 0));
        shards.close(Peer::Track(track));
        shards.close(Peer::Track(other.track));
        all_gone(&shards).await;
    });
    end(&shards, threads);
}

/// Another leg of the speaker brings the same, and takes over.
async fn refresh_speaker(shards: &Shards, speaker: &mut Speaker) {
    let newer = Speaker::leg(shards, speaker.track).await;
    for number in 20..30 {
        speaker.say(speaker.leg, number);
        speaker.say(newer, number);
    }
    shards.switch(newer).await.unwrap();
    shards.close(Peer::Leg(speaker.leg));
    (speaker.leg, speaker.next) = (newer, 30);
    speaker.speak(10);
}

/// Some get another leg. What the old one is not known to have delivered comes again on the new one, and nothing else.
async fn refresh_listeners(shards: &Shards, speaker: &mut Speaker, guests: &mut [Guest]) {
    for guest in guests.iter_mut().step_by(7) {
        let leg = shards.add_leg(guest.listener, spec().resume_from(40)).await.unwrap();
        assert_eq!(leg.relay(), guest.leg.relay(), "on the same shard");
        let ear = Ear::new(EARS, SrtpProfile::AeadAes256Gcm, 2);
        assert!(shards.leg_up(leg, ear.egress()));
        shards.switch(leg).await.unwrap();
        shards.close(Peer::Leg(guest.leg));
        (guest.leg, guest.ear) = (leg, ear);
    }
    shards.ping().await.unwrap();
    speaker.speak(10);
    guests.iter_mut().for_each(|guest| guest.hears(40..50));
}

/// Some hear another track for a while, from its live edge on, and then this one again.
async fn visit(shards: &Shards, speaker: &mut Speaker, other: &mut Speaker, guests: &mut [Guest]) {
    other.say_all(3).await;
    for guest in guests.iter().step_by(11) {
        shards.select(guest.listener, other.track).await.unwrap();
        let stats = shards.listener_stats(guest.listener).await.unwrap().unwrap();
        assert_eq!(stats.track, other.track, "the track as everybody knows it");
    }
    shards.ping().await.unwrap();
    other.speak(5);
    guests.iter_mut().step_by(11).for_each(|guest| guest.hears(3..8));
    for guest in guests.iter().step_by(11) {
        shards.select(guest.listener, speaker.track).await.unwrap();
    }
    shards.ping().await.unwrap();
    speaker.speak(10);
    guests.iter_mut().for_each(|guest| guest.hears(50..60));
}

/// Some leave, others take their places, and they come back to where they were: on another shard.
async fn return_elsewhere(shards: &Shards, speaker: &mut Speaker, guests: &mut [Guest]) {
    let (home, mut events) = (speaker.track.relay(), shards.events());
    // An end overtakes what was asked before it.
    shards.ping().await.unwrap();
    let mut at_home = guests.iter().enumerate().filter(|(_, guest)| guest.listener.relay() == home);
    let places: Vec<usize> = at_home.by_ref().step_by(25).map(|(at, _)| at).collect();
    places.iter().for_each(|&at| shards.close(Peer::Leg(guests[at].leg)));
    let mut told = BTreeMap::new();
    while told.len() < places.len() {
        if let Some(ShardEvent::LegClosed { leg, track, next }) = events.recv().await {
            assert_eq!(track, speaker.track);
            told.insert(leg, next);
        }
    }
    assert!(places.iter().all(|&at| told[&guests[at].leg] == Some(60)), "{told:?}");
    until("their places are free", async || {
        shards.track_stats(speaker.track).await.unwrap().unwrap().listeners == guests.len() - places.len()
    })
    .await;
    speaker.say_all(10).await;
    let mut newcomers = Guest::many(shards, speaker.track, places.len()).await;
    for (&at, newcomer) in places.iter().zip(&newcomers) {
        assert_eq!(newcomer.listener.relay(), home);
        let resumed = Guest::join(shards, speaker.track, spec().resume_from(60)).await;
        assert_ne!(resumed.listener.relay(), home);
        guests[at] = Guest { heard: std::mem::take(&mut guests[at].heard), ..resumed };
    }
    guests.iter_mut().for_each(|guest| guest.hears(60..70));
    shards.ping().await.unwrap();
    speaker.speak(10);
    newcomers.iter_mut().chain(guests.iter_mut()).for_each(|guest| guest.hears(70..80));
    for guest in newcomers {
        shards.close(Peer::Listener(guest.listener));
    }
    until("the newcomers are gone", async || shards.stats().await.unwrap().relay.listeners == 700).await;
}

#[test]
fn a_replica_has_homes_whole_history_and_goes_with_its_last_listener() {
    let shard = ShardConfig { feed_queue: 16, ..ShardConfig::patient() };
    let (shards, threads) = spawn(&ShardsConfig { count: 2, spill: 0, ..shard.into() });
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        speaker.say_all(300).await;
        let replicas = async || shards.stats().await.unwrap().replicas;
        for round in 0..5 {
            // The first is at home, the second is not.
            let first = Guest::join(&shards, speaker.track, spec()).await;
            let spec = LegSpec::new(LISTENER_TYPE).order(Order::Position).resume_from(100);
            let (listener, leg) = shards.open_listener(speaker.track, spec).await.unwrap();
            assert_eq!((first.leg.relay(), leg.relay(), replicas().await), (0, 1, 1), "round {round}");
            let (sender, mut receiver) = ring(64);
            assert!(shards.leg_up(leg, Egress::Ring(sender)));
            for position in 100..300 {
                let frame = receiver.recv().await.unwrap();
                assert_eq!((frame.position, number_of(&frame.payload)), (position, position as u32));
                assert_eq!(frame.media_time, position * 960);
            }
            shards.close(Peer::Listener(if round % 2 == 0 { first.listener } else { listener }));
            shards.close(Peer::Leg(if round % 2 == 0 { leg } else { first.leg }));
            until("the replica is gone", async || replicas().await == 0).await;
            assert!(receiver.recv().await.is_none());
        }
        shards.close(Peer::Track(speaker.track));
        all_gone(&shards).await;
    });
    end(&shards, threads);
}

#[test]
fn a_history_that_is_handed_over_is_no_lag() {
    let (shards, threads) = spawn(&config(2, 0));
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        speaker.say_all(100).await;
        let mut guests = Guest::many(&shards, speaker.track, 2).await;
        let there = &shards.each()[1];
        let queue = there.stats().await.unwrap().queue;
        assert_eq!((queue.fed, queue.tick_lag.count()), (100, 0));
        shards.ping().await.unwrap();
        speaker.speak(5);
        guests.iter_mut().for_each(|guest| guest.hears(100..105));
        assert_eq!(there.stats().await.unwrap().queue.tick_lag.count(), 5);
    });
    end(&shards, threads);
}

#[test]
fn whoever_resumes_where_the_feed_is_behind_hears_nothing_twice() {
    let shard = ShardConfig { feed_queue: 2, ..ShardConfig::patient() };
    let (shards, threads) = spawn(&ShardsConfig { count: 2, spill: 0, ..shard.into() });
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        let _before = Guest::many(&shards, speaker.track, 3).await;
        let stalled = shards.each()[1].stall();
        speaker.say_all(300).await;
        let mut resuming = pin!(Guest::join(&shards, speaker.track, spec().resume_from(300)));
        // What it asks of the other shard waits there, ahead of nearly all frames.
        for _ in 0..3 {
            let polled = std::future::poll_fn(|context| Poll::Ready(resuming.as_mut().poll(context))).await;
            assert!(polled.is_pending());
            shards.each()[0].ping().await.unwrap();
        }
        drop(stalled);
        let mut guest = resuming.await;
        assert_eq!(guest.leg.relay(), 1);
        shards.ping().await.unwrap();
        speaker.speak(5);
        guest.hears(300..305);
    });
    end(&shards, threads);
}

#[test]
fn a_replica_that_somebody_has_stopped_waiting_for_is_made_for_the_next() {
    let (shards, threads) = spawn(&config(2, 0));
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        speaker.say_all(50).await;
        let keeper = Guest::join(&shards, speaker.track, spec()).await;
        let [home, there] = shards.each() else { panic!("there are two") };
        let stalled = home.stall();
        until("it has stalled", async || home.waiting() == 0).await;
        // As far as it gets while home does not answer.
        #[expect(clippy::async_yields_async, reason = "it is begun here, and ends when home answers")]
        let begin = async || {
            let mut opening = Box::pin(shards.open_listener(speaker.track, spec().resume_from(40)));
            for _ in 0..4 {
                let polled = std::future::poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx))).await;
                assert!(polled.is_pending());
                there.ping().await.unwrap();
            }
            opening
        };
        drop(begin().await);
        until("what feeds the replica is asked for", async || home.waiting() == 1).await;
        let second = begin().await;
        assert_eq!(home.waiting(), 1, "it is asked for once");
        drop(stalled);
        let (listener, _) = second.await.unwrap();
        assert_eq!((keeper.listener.relay(), listener.relay()), (0, 1));
        assert_eq!(there.stats().await.unwrap().replicas, 1);
    });
    end(&shards, threads);
}

#[test]
fn a_replica_that_is_there_too_late_is_there_for_the_next() {
    let shard = ShardConfig { replica_kept: Duration::from_secs(3600), ..ShardConfig::patient() };
    let (shards, threads) = spawn(&ShardsConfig { count: 2, spill: 0, ..shard.into() });
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        speaker.say_all(50).await;
        let _keeper = Guest::join(&shards, speaker.track, spec()).await;
        let [home, there] = shards.each() else { panic!("there are two") };
        let stalled = home.stall();
        {
            let mut opening = pin!(shards.open_listener(speaker.track, spec()));
            for _ in 0..4 {
                let polled = std::future::poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx))).await;
                assert!(polled.is_pending());
                there.ping().await.unwrap();
            }
        }
        drop(stalled);
        until("it is made for nobody", async || there.stats().await.unwrap().queue.fed == 50).await;
        // Whoever made it has heard of that, and has done what follows from it.
        for _ in 0..10 {
            shards.ping().await.unwrap();
        }
        for round in 0..2 {
            let (listener, _) = shards.open_listener(speaker.track, spec()).await.unwrap();
            assert_eq!(listener.relay(), 1, "round {round}");
            shards.close(Peer::Listener(listener));
            until("its seat is free", async || {
                shards.track_stats(speaker.track).await.unwrap().unwrap().listeners == 1
            })
            .await;
        }
        let stats = there.stats().await.unwrap();
        assert_eq!((stats.queue.fed, stats.replicas), (50, 1), "it is the same one");
        shards.close(Peer::Track(speaker.track));
        all_gone(&shards).await;
    });
    end(&shards, threads);
}

#[test]
fn that_a_track_comes_too_late_is_told_once_until_it_comes_in_time() {
    let (shards, threads) = spawn(&config(3, 0));
    runtime().block_on(async {
        let track = shards.open_track("en").await.unwrap();
        let late = Err(ShardError::Overloaded);
        let gone = Err(OpenError::UnknownTrack(track).into());
        assert!(!shards.is_news(track, 1, &gone), "not the shard's doing");
        assert!(shards.is_news(track, 1, &late));
        assert!(shards.is_news(track, 2, &late), "another shard");
        assert!(!shards.is_news(track, 1, &gone));
        assert!(!shards.is_news(track, 1, &late));
        assert!(!shards.is_news(track, 1, &Ok(track)));
        assert!(shards.is_news(track, 1, &late));
        assert!(!shards.is_news(track, 2, &late));
        shards.close(Peer::Track(track));
        assert!(!shards.is_news(track, 1, &late));
    });
    end(&shards, threads);
}

#[test]
fn what_is_opened_for_nobody_leaves_no_replica_behind() {
    let (shards, threads) = spawn(&config(3, 0));
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        speaker.speak(50);
        let keeper = Guest::join(&shards, speaker.track, spec()).await;
        for round in 0..300 {
            let mut asking = pin!(shards.open_listener(speaker.track, spec()));
            // Given up after so many answers of the shards.
            for _ in 0..round % 6 {
                let polled = std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context))).await;
                if let Poll::Ready(opened) = polled {
                    shards.close(Peer::Listener(opened.unwrap().0));
                    break;
                }
                shards.ping().await.unwrap();
            }
        }
        until("only the one is left", async || {
            let stats = shards.stats().await.unwrap();
            let track = shards.track_stats(speaker.track).await.unwrap().unwrap();
            (stats.replicas, stats.relay.listeners, track.listeners) == (0, 1, 1)
        })
        .await;
        assert_eq!(keeper.listener.relay(), 0);
    });
    end(&shards, threads);
}

#[test]
fn a_track_ends_everywhere_after_what_was_spoken() {
    let (shards, threads) = spawn(&config(3, 0));
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        let mut guests = Guest::many(&shards, speaker.track, 6).await;
        shards.ping().await.unwrap();
        speaker.say_all(20).await;
        shards.close(Peer::Track(speaker.track));
        guests.iter_mut().for_each(|guest| guest.hears(0..20));
        all_gone(&shards).await;
        assert_eq!(shards.track_stats(speaker.track).await, Ok(None));
        let unknown = ShardError::Open(OpenError::UnknownTrack(speaker.track));
        assert_eq!(shards.open_listener(speaker.track, spec()).await, Err(unknown));
    });
    end(&shards, threads);
}

pub(super) async fn told(
    events: &mut mpsc::Receiver<ShardEvent>,
    last: impl Fn(&ShardEvent) -> bool,
) -> Vec<ShardEvent> {
    let mut told = Vec::new();
    while !told.last().is_some_and(&last) {
        told.push(events.recv().await.unwrap());
    }
    told
}

#[test]
fn what_happens_to_a_track_is_told_once_and_by_its_own_name() {
    let relay = Config::default().history_frames(20);
    let shard = ShardConfig { relay, ..ShardConfig::patient() };
    let (shards, threads) = spawn(&ShardsConfig { count: 3, spill: 0, ..shard.into() });
    runtime().block_on(async {
        let mut events = shards.events();
        let mut speaker = Speaker::on(&shards, "en").await;
        let guests = Guest::many(&shards, speaker.track, 6).await;
        shards.ping().await.unwrap();
        for number in 0..42 {
            match number {
                10 | 11 => speaker.next += 1,
                // The history is short.
                _ => speaker.say_all(1).await,
            }
            shards.ping().await.unwrap();
        }
        let first = |event: &ShardEvent| matches!(event, ShardEvent::FirstPacketOut { .. });
        let mut all = told(&mut events, |event| matches!(event, ShardEvent::FramesLost { .. })).await;
        while all.iter().filter(|event| first(event)).count() < guests.len() {
            all.push(events.recv().await.unwrap());
        }
        for guest in &guests {
            shards.close(Peer::Leg(guest.leg));
        }
        until("they are gone", async || shards.stats().await.unwrap().relay.listeners == 0).await;
        shards.close(Peer::Track(speaker.track));
        all_gone(&shards).await;
        all.extend(told(&mut events, |event| matches!(event, ShardEvent::TrackClosed { .. })).await);
        assert!(events.try_recv().is_err());
        let mut firsts: Vec<LegId> = Vec::new();
        let (mut closed, mut others) = (Vec::new(), Vec::new());
        for event in all {
            match event {
                ShardEvent::FirstPacketOut { leg, position, .. } => {
                    assert_eq!(position, 0);
                    firsts.push(leg);
                }
                ShardEvent::LegClosed { leg, track, next } => {
                    assert_eq!((track, next), (speaker.track, Some(42)));
                    closed.push(leg);
                }
                other => others.push(other),
            }
        }
        let mut legs: Vec<_> = guests.iter().map(|guest| guest.leg).collect();
        for legs in [&mut legs, &mut firsts, &mut closed] {
            legs.sort_unstable();
        }
        assert_eq!((&firsts, &closed), (&legs, &legs));
        let track = speaker.track;
        match others[..] {
            [
                ShardEvent::FirstPacketIn { track: spoken, .. },
                ShardEvent::TrackActive { track: active, .. },
                ShardEvent::FramesLost { track: lost, from: 10, count: 2 },
                ShardEvent::TrackClosed { track: over },
            ] => assert_eq!([spoken, active, lost, over], [track; 4]),
            ref others => panic!("{others:?}"),
        }
    });
    end(&shards, threads);
}

#[test]
fn an_id_of_a_number_that_there_is_not_is_unknown() {
    let (many, others) = spawn(&config(3, 0));
    let (one, thread) = spawn(&config(1, 0));
    runtime().block_on(async {
        many.open_track("en").await.unwrap();
        let stranger = Speaker::on(&many, "de").await;
        assert_eq!(stranger.track.relay(), 1);
        let own = Speaker::on(&one, "en").await;
        let guest = Guest::join(&one, own.track, spec()).await;
        assert_eq!(one.track_stats(stranger.track).await, Ok(None));
        assert_eq!(one.leg_stats(stranger.leg).await, Ok(None));
        let unknown = SelectError::UnknownTrack(stranger.track);
        assert_eq!(one.select(guest.listener, stranger.track).await, Err(ShardError::Select(unknown)));
        one.close(Peer::Leg(stranger.leg));
        one.close(Peer::Track(stranger.track));
        assert_eq!(one.stats().await.unwrap().relay.legs, 2);
    });
    end(&one, thread);
    end(&many, others);
}
