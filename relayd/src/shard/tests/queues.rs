//! What waits for a thread that takes nothing: as much as there are things to wait, and no more.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::runtime::Builder;

use super::shards::until;
use super::*;

#[test]
fn what_waits_for_a_stalled_thread_is_bounded_by_what_is_open_and_all_of_it_is_done() {
    let config = ShardsConfig::from(ShardConfig::patient());
    let (shards, threads) = Shards::spawn(&[UdpSocket::bind("127.0.0.1:0").unwrap()], &config).unwrap();
    Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
        let (mut tracks, mut listeners) = (Vec::new(), Vec::new());
        for name in ["en", "de", "fr"] {
            let track = shards.open_track(name).await.unwrap();
            let publisher = shards.open_publisher(track, LegSpec::new(PUBLISHER_TYPE)).await.unwrap();
            assert!(shards.publisher_up(publisher));
            listeners.push(shards.open_listener(track, LegSpec::new(LISTENER_TYPE)).await.unwrap().0);
            tracks.push((track, publisher));
        }
        let shard = &shards.each()[0];
        let stalled = shard.stall();
        // However often somebody changes their mind, each track is paused once, or goes on.
        for round in 0..1_000 {
            tracks.iter().for_each(|(track, _)| shards.pause_track(*track, round % 2 == 0));
        }
        shards.pause_track(tracks[1].0, true);
        // Fewer, should the thread have taken some just before it stalled.
        assert!(shard.orders.len() <= 3, "{}", shard.orders.len());
        listeners.iter().for_each(|listener| shards.close(Peer::Listener(*listener)));
        shards.close(Peer::Track(tracks[2].0));
        assert!((1..=7).contains(&shard.orders.len()), "{}", shard.orders.len());
        // Without an answer: what does not fit is refused and counted.
        let offered = (0..2_000).filter(|_| shards.leg_down(tracks[0].1)).count();
        assert!((1_022..=1_024).contains(&offered), "{offered}");
        drop(stalled);
        let stats = shards.stats().await.unwrap();
        assert_eq!((stats.relay.tracks, stats.relay.listeners, stats.queue.orders_depth), (2, 0, 0));
        assert!(stats.queue.orders_depth_max <= 7, "{}", stats.queue.orders_depth_max);
        assert_eq!(stats.queue.commands_refused, 2_000 - offered as u64);
        assert!(shards.publisher_up(tracks[0].1));
        // The wish that was said last holds: the first goes on, the second is paused.
        for (_, publisher) in tracks[..2].iter().rev() {
            assert!(shards.packet(*publisher, spoken(7, &opus(50, 1))));
        }
        let frames = async |track| shards.track_stats(track).await.unwrap().unwrap().frames;
        until("the later one is taken", async || frames(tracks[0].0).await == 1).await;
        assert_eq!(frames(tracks[1].0).await, 0);
        // And it can be told again.
        shards.pause_track(tracks[1].0, false);
        shards.ping().await.unwrap();
        assert!(shards.packet(tracks[1].1, spoken(8, &opus(50, 1))));
        until("it is let through", async || frames(tracks[1].0).await == 1).await;
    });
    shards.shutdown();
    threads.join().unwrap();
}

#[test]
fn what_was_handed_in_before_a_mark_is_taken_when_that_is_answered() {
    let config = ShardsConfig::from(ShardConfig::patient());
    let (shards, threads) = Shards::spawn(&[UdpSocket::bind("127.0.0.1:0").unwrap()], &config).unwrap();
    Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
        let track = shards.open_track("en").await.unwrap();
        let leg = shards.open_publisher(track, LegSpec::new(PUBLISHER_TYPE)).await.unwrap();
        assert!(shards.publisher_up(leg));
        let shard = &shards.each()[0];
        for round in 1..=50 {
            // The thread is in the midst of its commands: what comes now, commands do overtake.
            let stalled = shard.stall();
            assert!(shards.packet(leg, spoken(round, &opus(50, 1))));
            let mut heard = pin!(shard.heard(leg));
            assert!(poll_fn(|context| Poll::Ready(heard.as_mut().poll(context).is_pending())).await);
            drop(stalled);
            heard.await.unwrap();
            let stats = shards.track_stats(track).await.unwrap().unwrap();
            assert_eq!(stats.frames, u64::from(round));
        }
    });
    shards.shutdown();
    threads.join().unwrap();
}

#[test]
fn a_mark_waits_for_room() {
    let config = ShardConfig { media_queue: 2, ..ShardConfig::patient() };
    let (shard, thread) = Shard::spawn(UdpSocket::bind("127.0.0.1:0").unwrap(), config).unwrap();
    Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
        let track = shard.open_track("en").await.unwrap();
        let leg = shard.open_publisher(track, LegSpec::new(PUBLISHER_TYPE)).await.unwrap();
        assert!(shard.publisher_up(leg));
        let stalled = shard.stall();
        until("it has stalled", async || shard.waiting() == 0).await;
        let taken = (1..=9).filter(|number| shard.packet(leg, spoken(*number, &opus(50, 1)))).count();
        assert_eq!(taken, 2);
        let mut heard = pin!(shard.heard(leg));
        assert!(poll_fn(|context| Poll::Ready(heard.as_mut().poll(context).is_pending())).await);
        drop(stalled);
        heard.await.unwrap();
        let stats = shard.track_stats(track).await.unwrap().unwrap();
        assert_eq!(stats.frames, 2);
    });
    shard.shutdown();
    thread.join().unwrap();
}
