//! The thread and its queues.

use std::task::Poll;

use relay_engine::Verdict;
use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn spawn() -> (Shard, ShardThread) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    Shard::spawn(socket, ShardConfig::patient()).unwrap()
}

async fn stage(shard: &Shard) -> (TrackId, LegId) {
    let track = shard.open_track("en").await.unwrap();
    let publisher = shard.open_publisher(track, LegSpec::new(PUBLISHER_TYPE)).await.unwrap();
    shard.publisher_up(publisher);
    (track, publisher)
}

#[test]
fn a_listener_hears_through_the_thread_whatever_was_handed_in_after_it_came_up() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let (shard, thread) = spawn();
    runtime().block_on(async {
        let (track, publisher) = stage(&shard).await;
        let (listener, leg) = shard.open_listener(track, LegSpec::new(LISTENER_TYPE)).await.unwrap();
        // No answer is awaited from here on: the queues keep the order between them.
        shard.leg_up(leg, ear.egress());
        for number in 0..50 {
            assert!(shard.packet(publisher, spoken(100 + number, &opus(50, number as u8))));
        }
        for number in 0..50 {
            assert_eq!(ear.hear().payload, opus(50, number));
        }
        let stats = shard.stats().await.unwrap();
        assert_eq!((stats.egress.packets, stats.queue.taken, stats.queue.dropped), (50, 50, 0));
        assert!(stats.queue.delay_total > Duration::ZERO);
        let lag = stats.queue.tick_lag;
        assert_eq!(lag.count(), 50, "one for each packet of the publisher");
        assert!(lag.sum() >= stats.queue.delay_total, "waiting is part of it");
        assert_eq!(shard.track_stats(track).await.unwrap().unwrap().frames, 50);
        assert_eq!(shard.listener_stats(listener).await.unwrap().unwrap().packets_out, 50);
        assert!(shard.leg_stats(leg).await.unwrap().is_some());
        shard.close(Peer::Track(track));
        assert_eq!(shard.track_stats(track).await.unwrap(), None);
        assert_eq!(shard.listener_stats(listener).await.unwrap(), None);
    });
    shard.shutdown();
    thread.join().unwrap();
}

#[test]
fn deadlines_are_served_without_any_input() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let relay = Config::default().report_interval(Duration::from_millis(100));
    let config = ShardConfig { relay, ..ShardConfig::patient() };
    let (shard, thread) = Shard::spawn(UdpSocket::bind("127.0.0.1:0").unwrap(), config).unwrap();
    runtime().block_on(async {
        let (track, publisher) = stage(&shard).await;
        let (_, leg) = shard.open_listener(track, LegSpec::new(LISTENER_TYPE)).await.unwrap();
        shard.leg_up(leg, ear.egress());
        assert!(shard.packet(publisher, spoken(100, &opus(50, 1))));
    });
    assert_eq!(ear.hear().payload, opus(50, 1));
    for _ in 0..2 {
        assert_eq!(ear.datagram()[1], 200, "a sender report, after nothing but time");
    }
    shard.shutdown();
    thread.join().unwrap();
}

#[test]
fn media_that_does_not_fit_its_queue_is_dropped_and_counted() {
    let (shard, thread) = spawn();
    let (_, publisher) = runtime().block_on(stage(&shard));
    let (commands, _command_queue) = bounded(1);
    let (media, media_queue) = bounded(2);
    let orders = unbounded().0;
    let inlet = shard.inlet.clone();
    let (load, dropped) = (Arc::default(), Arc::default());
    let opened_within = Duration::from_secs(2);
    let stuck = Shard { orders, commands, media, inlet, load, dropped, opened_within };
    let taken: Vec<bool> = (0..5).map(|number| stuck.packet(publisher, spoken(number, &[0xf8]))).collect();
    assert_eq!(taken, [true, true, false, false, false]);
    assert!(!stuck.srtcp(publisher, Bytes::from_static(b"rtcp")));
    assert_eq!(stuck.dropped.load(Ordering::Relaxed), 4);
    assert_eq!(media_queue.len(), 2);
    shard.dropped.store(4, Ordering::Relaxed);
    assert_eq!(runtime().block_on(shard.stats()).unwrap().queue.dropped, 4, "stats tell of it");
    shard.shutdown();
    thread.join().unwrap();
}

#[test]
fn what_the_engine_refuses_is_an_error_of_the_caller() {
    let (shard, thread) = spawn();
    runtime().block_on(async {
        assert!(matches!(shard.open_track("").await, Err(ShardError::Open(OpenError::TrackName(0)))));
        let (track, _) = stage(&shard).await;
        let second = shard.open_publisher(track, LegSpec::new(PUBLISHER_TYPE)).await.unwrap();
        let third = shard.open_publisher(track, LegSpec::new(PUBLISHER_TYPE)).await;
        assert_eq!(third, Err(ShardError::Open(OpenError::PublisherExists(track))));
        let (listener, leg) = shard.open_listener(track, LegSpec::new(LISTENER_TYPE)).await.unwrap();
        assert_eq!(shard.switch(leg).await, Err(ShardError::Switch(SwitchError::OnlyLeg(leg))));
        let other = shard.add_leg(listener, LegSpec::new(LISTENER_TYPE)).await.unwrap();
        assert_eq!(shard.switch(other).await, Err(ShardError::Switch(SwitchError::NotUp(other))));
        let replayed = shard.replay(second, None).await;
        assert_eq!(replayed, Err(ShardError::Replay(ReplayError::WrongDirection(second))));
        shard.close(Peer::Listener(listener));
        assert_eq!(
            shard.pause_listener(listener).await,
            Err(ShardError::Listener(UnknownListener(listener)))
        );
        assert_eq!(
            shard.resume_listener(listener).await,
            Err(ShardError::Listener(UnknownListener(listener)))
        );
        let selected =
            shard.select(listener, track, None, tokio::time::Instant::now() + Duration::from_secs(20)).await;
        assert_eq!(selected, Err(ShardError::Select(SelectError::UnknownListener(listener))));
        shard.close(Peer::Track(track));
        let gone = shard.open_listener(track, LegSpec::new(LISTENER_TYPE)).await;
        assert_eq!(gone, Err(ShardError::Open(OpenError::UnknownTrack(track))));
    });
    shard.shutdown();
    thread.join().unwrap();
}

#[test]
fn what_was_handed_in_before_the_shutdown_is_sent() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    for _ in 0..20 {
        let (shard, thread) = spawn();
        runtime().block_on(async {
            let (track, publisher) = stage(&shard).await;
            let (_, leg) = shard.open_listener(track, LegSpec::new(LISTENER_TYPE)).await.unwrap();
            shard.leg_up(leg, ear.egress());
            assert!(shard.packet(publisher, spoken(100, &opus(50, 1))));
            shard.shutdown();
        });
        thread.join().unwrap();
        assert_eq!(ear.hear().payload, opus(50, 1));
    }
}

#[test]
fn after_shutdown_nothing_is_taken_and_nothing_panics() {
    let ear = Ear::new("127.0.0.1:0", SrtpProfile::AeadAes256Gcm, 1);
    let (shard, thread) = spawn();
    let (track, publisher) = runtime().block_on(stage(&shard));
    shard.shutdown();
    thread.join().unwrap();
    assert!(!shard.packet(publisher, spoken(1, &[0xf8])));
    shard.leg_up(publisher, ear.egress());
    shard.close(Peer::Track(track));
    shard.shutdown();
    assert_eq!(runtime().block_on(shard.open_track("es")), Err(ShardError::Closed));
    assert_eq!(runtime().block_on(shard.stats()), Err(ShardError::Closed));
}

#[test]
fn the_thread_ends_with_its_last_handle() {
    let (shard, thread) = spawn();
    drop(shard.clone());
    drop(shard);
    thread.join().unwrap();
}

#[test]
fn feedback_of_a_publisher_reaches_the_engine() {
    let (shard, thread) = spawn();
    runtime().block_on(async {
        let (_, publisher) = stage(&shard).await;
        assert!(shard.feedback(publisher, Feedback::Bye));
        // Commands and media have queues of their own: ask until the other one was taken.
        let stats = loop {
            let stats = shard.stats().await.unwrap();
            if stats.queue.taken == 1 {
                break stats;
            }
            std::thread::yield_now();
        };
        assert_eq!(stats.relay.feedback_in[Verdict::Accepted], 1);
    });
    shard.shutdown();
    thread.join().unwrap();
}

#[test]
fn what_is_opened_for_nobody_is_closed_again() {
    let (shard, thread) = spawn();
    runtime().block_on(async {
        let (track, _) = stage(&shard).await;
        for round in 0..200 {
            let mut asking = Box::pin(shard.open_listener(track, LegSpec::new(LISTENER_TYPE)));
            let asked = std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context))).await;
            if let Poll::Ready(opened) = asked {
                shard.close(Peer::Listener(opened.unwrap().0));
            } else if round % 2 == 0 {
                // The thread has answered before the question is dropped, every other time.
                shard.stats().await.unwrap();
            }
            drop(asking);
        }
        assert_eq!(shard.stats().await.unwrap().relay.listeners, 0);
    });
    shard.shutdown();
    thread.join().unwrap();
}

#[test]
fn a_close_is_taken_however_full_the_commands_are_and_before_what_is_given_after_it() {
    let (shard, thread) = spawn();
    runtime().block_on(async {
        let track = shard.open_track("en").await.unwrap();
        for _ in 0..200 {
            let leg = shard.open_publisher(track, LegSpec::new(PUBLISHER_TYPE)).await.unwrap();
            shard.close(Peer::Leg(leg));
            // The place is free for whoever asks after the close.
        }
        assert_eq!(shard.stats().await.unwrap().relay.legs, 0);
    });
    let (commands, _full) = bounded(1);
    commands.send(Command::Shutdown).unwrap();
    let (orders, order_queue) = unbounded();
    let (media, inlet) = (shard.media.clone(), shard.inlet.clone());
    let (load, dropped) = (Arc::default(), Arc::default());
    let opened_within = Duration::from_secs(2);
    let stuck = Shard { orders, commands, media, inlet, load, dropped, opened_within };
    let track = runtime().block_on(shard.open_track("es")).unwrap();
    (0..5_000).for_each(|_| stuck.close(Peer::Track(track)));
    assert_eq!(order_queue.len(), 5_000, "nothing is lost, and nothing is waited for");
    shard.shutdown();
    thread.join().unwrap();
}

#[test]
fn events_reach_every_reader_through_the_thread() {
    let (shard, thread) = spawn();
    runtime().block_on(async {
        let (mut first, mut second) = (shard.events(), shard.events());
        let (track, publisher) = stage(&shard).await;
        assert!(shard.packet(publisher, spoken(100, &opus(50, 1))));
        for events in [&mut first, &mut second] {
            let event = events.recv().await.unwrap();
            assert!(
                matches!(event, ShardEvent::FirstPacketIn { track: fed, .. } if fed == track),
                "{event:?}"
            );
        }
    });
    shard.shutdown();
    thread.join().unwrap();
}
