//! Shards that stall or fail: what the others and their listeners see of it.

use std::collections::BTreeMap;

use tokio::time::timeout;

use super::shards::{Guest, Speaker, by_shard, config, end, runtime, spawn, spec, told, until};
use super::switch::numbered;
use super::*;

#[test]
fn a_stalled_shard_holds_up_nobody_and_has_lost_nothing_when_it_goes_on() {
    for count in [2, 3] {
        stall_one_of(count);
    }
}

fn stall_one_of(count: usize) {
    let shard = ShardConfig { feed_queue: 8, ..ShardConfig::patient() };
    let (shards, threads) = spawn(&ShardsConfig { count, spill: 0, ..shard.into() });
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        let mut guests = Guest::many(&shards, speaker.track, 3 * count).await;
        assert!((0..count).all(|shard| by_shard(&guests)[&(shard as u8)] == 3));
        shards.ping().await.unwrap();
        let stalled = shards.each()[1].stall();
        let (late, mut others): (Vec<_>, Vec<_>) =
            guests.iter_mut().partition(|guest| guest.leg.relay() == 1);
        // No more at once than the queues hold: of those who hear, none is ever full.
        for next in (0..200).step_by(8) {
            speaker.speak(8);
            others.iter_mut().for_each(|guest| guest.hears(next..next + 8));
        }
        assert!(late.iter().all(|guest| guest.ear.hears_nothing()));
        let home = shards.each()[0].stats().await.unwrap();
        assert_eq!(home.plane.feed_stalls, 1, "held, and not tried again for each frame");
        drop(stalled);
        late.into_iter().for_each(|guest| guest.hears(0..200));
        speaker.speak(50);
        guests.iter_mut().for_each(|guest| guest.hears(200..250));
        let stats = shards.stats().await.unwrap();
        assert_eq!(stats.relay.frames_skipped, 0);
        assert!(stats.queue.fed_depth_max <= 8, "{}", stats.queue.fed_depth_max);
    });
    end(&shards, threads);
}

#[test]
fn what_a_stalled_shard_alone_has_missed_is_not_lost_to_the_track() {
    let relay = Config::default().history_frames(20);
    let shard = ShardConfig { relay, feed_queue: 8, ..ShardConfig::patient() };
    let (shards, threads) = spawn(&ShardsConfig { count: 2, spill: 0, ..shard.into() });
    runtime().block_on(async {
        let mut events = shards.events();
        let mut speaker = Speaker::on(&shards, "en").await;
        let mut guests = Guest::many(&shards, speaker.track, 2).await;
        assert_eq!(by_shard(&guests).len(), 2);
        shards.ping().await.unwrap();
        let stalled = shards.each()[1].stall();
        for _ in 0..20 {
            speaker.say_all(5).await;
        }
        drop(stalled);
        let lost = |event: &ShardEvent| {
            matches!(event, ShardEvent::FramesLost { .. } | ShardEvent::FramesSkipped { .. })
        };
        let told = told(&mut events, lost).await;
        let Some(ShardEvent::FramesSkipped { track, from, count, .. }) = told.last() else {
            panic!("{:?}", told.last());
        };
        assert_eq!((*track, from + count), (speaker.track, 80));
        let (late, here) = guests.iter_mut().partition::<Vec<_>, _>(|guest| guest.leg.relay() == 1);
        here.into_iter().for_each(|guest| guest.hears(0..100));
        for guest in late {
            // What waited there is pushed out of a history so short if all that follows comes before it is sent.
            guest.skips(8, 80);
            guest.hears(81..100);
        }
    });
    end(&shards, threads);
}

#[test]
fn nobody_is_sent_to_a_shard_that_does_not_answer_until_it_does() {
    let (config, socket) = (config(3, 0), UdpSocket::bind("127.0.0.1:0").unwrap());
    let of = |number| {
        let opened_within = Duration::from_millis(if number == 1 { 50 } else { 20_000 });
        ShardConfig { opened_within, ..config.of(number) }
    };
    let (shards, threads) = Shards::spawn_each(&[socket], &config, of).unwrap();
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        let mut there = speaker.track;
        assert_eq!(there.relay(), 0);
        until("it has answered in time", async || {
            there = shards.open_track("es").await.unwrap_or(there);
            there.relay() == 1
        })
        .await;
        let stalled = shards.each()[1].stall();
        let mut guests = Vec::new();
        // The first to be sent there finds out, and is taken elsewhere; its replica is not waited for by anybody else.
        let found_out = async {
            while !guests.iter().any(|guest: &Guest| guest.leg.relay() == 2) {
                guests.push(Guest::join(&shards, speaker.track, spec()).await);
            }
        };
        timeout(Duration::from_secs(20), found_out).await.expect("nobody waits for it for ever");
        guests.extend(Guest::many(&shards, speaker.track, 9).await);
        assert!(!by_shard(&guests).contains_key(&1));
        for _ in 0..4 {
            assert_ne!(shards.open_track("de").await.unwrap().relay(), 1);
        }
        // What can be nowhere else ends too.
        let publisher = shards.open_publisher(there, LegSpec::new(PUBLISHER_TYPE)).await;
        assert_eq!(publisher, Err(ShardError::Overloaded));
        assert_eq!(shards.open_listener(there, spec()).await, Err(ShardError::Overloaded));
        let stalls = shards.each().iter().map(Shard::is_stalled);
        assert_eq!(stalls.collect::<Vec<_>>(), [false, true, false]);

        drop(stalled);
        until("it is asked again", async || shards.open_listener(there, spec()).await.is_ok()).await;
        // As soon as it has answered in time: it is the impatient one still.
        until("somebody is sent there", async || {
            guests.push(Guest::join(&shards, speaker.track, spec()).await);
            by_shard(&guests).contains_key(&1)
        })
        .await;
        speaker.speak(10);
        guests.iter_mut().for_each(|guest| guest.hears(0..10));
    });
    end(&shards, threads);
}

#[test]
fn a_shard_is_not_avoided_for_ever_because_the_runtime_of_who_found_out_is_gone() {
    let (shards, threads) = spawn(&config(1, 0));
    let shard = &shards.each()[0];
    let stalled = shard.stall();
    runtime().block_on(async { shard.avoid() });
    assert!(!shard.is_stalled());
    runtime().block_on(async {
        shard.avoid();
        assert!(shard.is_stalled());
        drop(stalled);
        until("it answers", async || !shard.is_stalled()).await;
    });
    end(&shards, threads);
}

/// Two shards, of which the second one is impatient.
fn spawn_impatient() -> (Shards, ShardThreads) {
    let (config, socket) = (config(2, 256), UdpSocket::bind("127.0.0.1:0").unwrap());
    let of = |number| {
        let opened_within = Duration::from_millis(if number == 1 { 50 } else { 600_000 });
        ShardConfig { opened_within, ..config.of(number) }
    };
    Shards::spawn_each(&[socket], &config, of).unwrap()
}

/// A listener on that one, of the track that is there; not of this one.
async fn listen_impatiently(shards: &Shards, track: TrackId) -> (ListenerId, TrackId) {
    let (mut other, mut listener) = (track, None);
    until("it has answered in time", async || {
        other = shards.open_track("es").await.unwrap_or(other);
        let opened = shards.open_listener(other, spec()).await.ok();
        listener = opened.map(|(listener, _)| listener).filter(|listener| listener.relay() == 1);
        listener.is_some()
    })
    .await;
    (listener.unwrap(), other)
}

#[test]
fn who_selects_while_their_own_shard_stalls_does_not_wait_for_ever_and_stays() {
    let (shards, threads) = spawn_impatient();
    runtime().block_on(async {
        let track = shards.open_track("en").await.unwrap();
        let (listener, other) = listen_impatiently(&shards, track).await;
        until("it hears the track of the first", async || shards.select(listener, track).await.is_ok()).await;
        let stalled = shards.each()[1].stall();
        let selected = timeout(Duration::from_secs(20), shards.select(listener, other)).await;
        assert_eq!(selected, Ok(Err(ShardError::Overloaded)));
        assert!(shards.each()[1].is_stalled(), "nobody else finds out by waiting");
        drop(stalled);
        shards.ping().await.unwrap();
        let stats = shards.listener_stats(listener).await.unwrap().unwrap();
        assert_eq!(stats.track, track, "what was given up is not done");
        until("it is done in the end", async || shards.select(listener, other).await.is_ok()).await;
    });
    end(&shards, threads);
}

#[test]
fn who_selects_a_track_whose_home_stalls_does_not_wait_for_ever() {
    let (shards, threads) = spawn_impatient();
    runtime().block_on(async {
        let track = shards.open_track("en").await.unwrap();
        let (listener, _) = listen_impatiently(&shards, track).await;
        let stalled = shards.each()[0].stall();
        let selected = timeout(Duration::from_secs(20), shards.select(listener, track)).await;
        assert_eq!(selected, Ok(Err(ShardError::Overloaded)));
        drop(stalled);
        until("it is done in the end", async || shards.select(listener, track).await.is_ok()).await;
    });
    end(&shards, threads);
}

#[test]
fn nobody_is_sent_to_a_shard_that_has_ended() {
    let (shards, threads) = spawn(&config(3, 0));
    runtime().block_on(async {
        let mut speaker = Speaker::on(&shards, "en").await;
        let before = Guest::many(&shards, speaker.track, 3).await;
        assert_eq!(by_shard(&before).len(), 3);
        shards.each()[1].shutdown();
        until("it has ended", async || shards.ping().await == Err(ShardError::Closed)).await;
        let mut after = Guest::many(&shards, speaker.track, 9).await;
        assert!(!by_shard(&after).contains_key(&1));
        for shard in [0, 2] {
            shards.each()[shard].ping().await.unwrap();
        }
        speaker.speak(10);
        after.iter_mut().for_each(|guest| guest.hears(0..10));
        for _ in 0..4 {
            assert_ne!(shards.open_track("de").await.unwrap().relay(), 1);
        }
    });
    end(&shards, threads);
}

#[test]
fn a_shard_that_fails_is_told_and_hangs_nobody() {
    for failing in [0, 1] {
        let (shards, threads) = spawn(&config(3, 0));
        runtime().block_on(async {
            let mut speaker = Speaker::on(&shards, "en").await;
            let mut guests = Guest::many(&shards, speaker.track, 9).await;
            assert_eq!(by_shard(&guests), BTreeMap::from([(0, 3), (1, 3), (2, 3)]));
            speaker.speak(10);
            guests.iter_mut().for_each(|guest| guest.hears(0..10));
            let failing_shard = &shards.each()[failing];
            // What is asked behind the failure is answered too.
            failing_shard.fail();
            assert_eq!(failing_shard.stats().await, Err(ShardError::Closed));
            assert_eq!(shards.ping().await, Err(ShardError::Closed));
            assert_eq!(shards.failed().collect::<Vec<_>>(), [failing as u8]);
            let lost = guests.iter().find(|guest| usize::from(guest.leg.relay()) == failing).unwrap();
            assert_eq!(shards.switch(lost.leg).await, Err(ShardError::Closed));
            assert_eq!(shards.leg_stats(lost.leg).await, Err(ShardError::Closed));
            until("it takes nothing", async || !shards.feedback(lost.leg, Feedback::Delivered(3))).await;
            if failing == 0 {
                // The track's home: it is over for everybody.
                for shard in [1, 2] {
                    until("the replica is gone", async || {
                        let stats = shards.each()[shard].stats().await.unwrap();
                        (stats.replicas, stats.relay.listeners) == (0, 0)
                    })
                    .await;
                }
                assert_eq!(shards.open_listener(speaker.track, spec()).await, Err(ShardError::Closed));
                assert_eq!(shards.track_stats(speaker.track).await, Err(ShardError::Closed));
                assert!(!shards.packet(speaker.leg, spoken(110, &numbered(10))));
            } else {
                speaker.speak(10);
                guests.retain(|guest| guest.leg.relay() != 1);
                guests.push(Guest::join(&shards, speaker.track, spec().resume_from(10)).await);
                guests.iter_mut().for_each(|guest| guest.hears(10..20));
            }
            let next = Speaker::on(&shards, "de").await;
            assert_ne!(usize::from(next.track.relay()), failing);
        });
        shards.shutdown();
        assert!(threads.join().is_err(), "it did panic");
    }
}
