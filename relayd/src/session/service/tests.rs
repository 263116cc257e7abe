use std::task::Poll;

use relay_engine::{LegSpec, rtp};

use super::*;
use crate::auth::{self, Grant, Scope, Subject};
use crate::session::media::{MediaJoin, MediaSeat};
use crate::session::{Event, Limits, Next, Status, Taken};
use crate::shard::{ShardConfig, ShardsConfig};
use crate::webrtc::{IfMatch, WebRtcConfig};

async fn service() -> Service {
    service_on(ShardConfig::patient().into()).await
}

async fn service_on(shards: ShardsConfig) -> Service {
    let config = WebRtcConfig { bind: ([127, 0, 0, 1], 0).into(), ..WebRtcConfig::default() };
    let (connections, shard, _task) = Connections::bind(config, shards).await.unwrap();
    Service::new(Directory::new(Limits { max_sessions: 9, ..Limits::default() }), shard, connections)
}

/// Begins something and drops it.
async fn poll_once<T>(begun: impl Future<Output = T>) {
    let mut begun = std::pin::pin!(begun);
    std::future::poll_fn(|context| Poll::Ready(begun.as_mut().poll(context).is_ready())).await;
}

async fn until_tracks(service: &Service, tracks: usize) {
    let counted = async {
        while service.shard.stats().await.unwrap().relay.tracks != tracks
            || service.directory.counts().tracks != tracks
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), counted).await.is_ok(), "never {tracks} tracks");
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_session_half_made_or_half_ended() {
    let service = service().await;
    let languages = ["en", "es", "de"].map(|tag| tag.parse().unwrap()).to_vec();
    let source = "en".parse().unwrap();
    let spec = SessionSpec { source, languages, owner: None, anonymous_listeners: true };
    poll_once(service.create(spec.clone())).await;
    until_tracks(&service, 3).await;

    let id = service.create(spec).await.unwrap().view.id;
    until_tracks(&service, 6).await;
    poll_once(service.end(id.as_str(), EndReason::Deleted)).await;
    until_tracks(&service, 3).await;
}

/// An offer of a peer that sends or receives.
fn offer(direction: &str) -> String {
    format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
         a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=setup:actpass\r\n\
         a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na={direction}\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n"
    )
}

async fn join(
    service: &Service,
    role: Role,
    session: &str,
    claim: Claim,
    offer: String,
) -> Result<Joined, ServiceError> {
    let caller = &Caller::Open;
    let request = JoinRequest { role, session, language: None, caller, claim, offer };
    service.join(request, |record| record).await.map(|admitted| admitted.joined)
}

async fn session(service: &Service) -> Created {
    let languages = vec!["en".parse().unwrap(), "es".parse().unwrap()];
    let source = "en".parse().unwrap();
    service.create(SessionSpec { source, languages, owner: None, anonymous_listeners: true }).await.unwrap()
}

async fn connections(service: &Service) -> (usize, usize) {
    let snapshot = service.connections.snapshot().await;
    (snapshot.publishers.pending, snapshot.listeners.pending)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let holding = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), holding).await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn who_takes_over_gets_the_track_of_the_one_who_is_closed_first() {
    let service = service().await;
    let created = session(&service).await;
    let id = created.view.id.as_str();
    let publisher = |claim, offer| join(&service, Role::Publisher, id, claim, offer);
    let old = publisher(Claim::None, offer("sendonly")).await.unwrap();
    let refused = publisher(Claim::None, offer("sendonly")).await.unwrap_err();
    assert!(matches!(refused, ServiceError::Session(SessionError::SpeakerExists { .. })), "{refused}");
    let broken = publisher(Claim::TakeoverGrant, "v=0".to_owned()).await.unwrap_err();
    assert!(matches!(broken, ServiceError::Join(JoinError::Malformed(_))), "{broken}");
    assert!(service.connections.patch(&old.resource, IfMatch::Missing, String::new()).await.is_err());
    assert_eq!(connections(&service).await, (1, 0), "nobody lost their place to a broken offer");

    let secret = Claim::ResumeSecret(created.resume_secret.clone());
    let new = publisher(secret, offer("sendonly")).await.unwrap();
    assert_eq!(connections(&service).await, (1, 0));
    assert_eq!(
        service.connections.close(&old.resource, CloseReason::Deleted).await,
        Err(PatchError::NotFound)
    );
    let counts = service.directory.counts();
    assert_eq!(counts.publishers, 1, "the old one's end took nothing along");
    service.connections.close(&new.resource, CloseReason::Deleted).await.unwrap();
    assert_eq!(service.directory.counts().publishers, 0);
}

#[tokio::test]
async fn of_two_who_take_over_at_once_one_is_answered() {
    let service = service().await;
    let created = session(&service).await;
    let id = created.view.id.as_str();
    join(&service, Role::Publisher, id, Claim::None, offer("sendonly")).await.unwrap();
    let claim = || join(&service, Role::Publisher, id, Claim::TakeoverGrant, offer("sendonly"));
    let (one, two) = tokio::join!(claim(), claim());
    let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
    let lost = lost.unwrap_err();
    assert!(matches!(lost, ServiceError::Session(SessionError::SpeakerExists { .. })), "{lost}");
    won.unwrap();
    assert_eq!((connections(&service).await, service.directory.counts().publishers), ((1, 0), 1));
}

#[tokio::test]
async fn languages_come_and_go_with_their_tracks_and_connections() {
    let service = service().await;
    let created = session(&service).await;
    let id = created.view.id.as_str();
    until_tracks(&service, 2).await;
    service.add_language(id, "de".parse().unwrap()).await.unwrap();
    until_tracks(&service, 3).await;
    let again = service.add_language(id, "de".parse().unwrap()).await.unwrap_err();
    assert!(matches!(again, ServiceError::Session(SessionError::LanguageExists { .. })), "{again}");
    let (caller, claim, offer) = (&Caller::Open, Claim::None, offer("recvonly"));
    let request =
        JoinRequest { role: Role::Listener, session: id, language: Some("de"), caller, claim, offer };
    service.join(request, |record| record).await.unwrap();
    service.remove_language(id, "de").await.unwrap();
    assert_eq!(connections(&service).await, (0, 0));
    until_tracks(&service, 2).await;
    assert_eq!(service.directory.counts().listeners, 0);
}

#[tokio::test]
async fn the_run_loop_ends_what_time_ends_and_closes_its_connections() {
    let config = WebRtcConfig { bind: ([127, 0, 0, 1], 0).into(), ..WebRtcConfig::default() };
    let (connections_plane, shard, _task) = Connections::bind(config, ShardConfig::patient()).await.unwrap();
    let limits = Limits { grace: Duration::ZERO, linger: Duration::from_millis(1), ..Limits::default() };
    let service = Service::new(Directory::new(limits), shard, connections_plane);
    let running = tokio::spawn(service.clone().run());
    let created = session(&service).await;
    let id = created.view.id.as_str();
    let caller = Caller::Token(Arc::new(Grant {
        subject: Subject { issuer: "issuer".to_owned(), subject: "me".to_owned() },
        token_id: None,
        role: auth::Role::Listen,
        scope: Scope::Session(id.to_owned()),
        languages: None,
        takeover: false,
        expires: Instant::now() + Duration::from_millis(300),
    }));
    let (claim, offer) = (Claim::None, offer("recvonly"));
    let request =
        JoinRequest { role: Role::Listener, session: id, language: None, caller: &caller, claim, offer };
    service.join(request, |record| record).await.unwrap();
    assert_eq!(service.directory.counts().leases, 1, "it is the token that ends it, not a timeout");
    until("the token is over", async || connections(&service).await == (0, 0)).await;
    assert_eq!(service.directory.counts().listeners, 0);

    let taken = service.directory.publisher_slot(Instant::now(), id, None, &Caller::Open, &Claim::None);
    let mut slot = taken.unwrap().slot;
    slot.connected();
    drop(slot);
    until_tracks(&service, 0).await;
    let over = service.directory.view(id).unwrap_err();
    assert!(matches!(over, SessionError::Ended { .. }), "{over}");
    running.abort();
}

#[tokio::test]
async fn who_asks_while_the_relay_stops_is_not_told_that_the_session_ended() {
    let service = service().await;
    let created = session(&service).await;
    let mut follower = service.directory.hub(created.view.id.as_str()).unwrap().subscribe(None);
    service.shutdown().await;
    let refused = join(&service, Role::Listener, created.view.id.as_str(), Claim::None, offer("recvonly"));
    assert_eq!(refused.await.unwrap_err(), ServiceError::Join(JoinError::Closed));
    let Next::Event(event) = follower.next().await else { panic!("no event") };
    assert_eq!(event.event, Event::SessionEnded { reason: EndReason::Shutdown });
}

/// The packet of this number in a stream of 20 ms frames.
fn packet(sequence: u16) -> rtp::Packet {
    let mut bytes = vec![0x80, 111];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((u32::from(sequence) * 960).to_be_bytes());
    bytes.extend([0, 0, 0, 7, 0xFC, 1, 2, 3]);
    rtp::Packet::parse(bytes.into()).unwrap()
}

async fn frames(service: &Service, track: TrackId) -> u64 {
    service.shard.ping().await.unwrap();
    service.shard.track_stats(track).await.unwrap().unwrap().frames
}

#[tokio::test]
async fn who_waits_hears_of_the_first_packet_and_nobody_hears_what_is_spoken_in_a_break() {
    let service = service().await;
    let running = tokio::spawn(service.clone().run());
    let created = session(&service).await;
    let id = created.view.id.as_str();
    let mut follower = service.directory.hub(id).unwrap().subscribe(None);
    let taken = service.directory.publisher_slot(Instant::now(), id, None, &Caller::Open, &Claim::None);
    let Taken { mut slot, track, .. } = taken.unwrap();
    let leg = service.shard.open_publisher(track, LegSpec::new(111)).await.unwrap();
    let right = |name| Right { role: Role::Publisher, track, caller: Caller::Open, name, socket: false };
    drop(slot.place().answered((leg, None), right));
    slot.connected();
    service.shard.publisher_up(leg);
    assert!(service.shard.packet(leg, packet(1)));
    let heard = tokio::time::timeout(Duration::from_secs(20), follower.next()).await.expect("an event");
    let Next::Event(event) = heard else { panic!("{heard:?}") };
    assert_eq!(event.event, Event::SpeakerReady { language: "en".parse().unwrap() });
    assert!(service.directory.view(id).unwrap().tracks[0].speaker_ready);

    assert_eq!(service.pause(id).await.unwrap().status, Status::Paused);
    let before = frames(&service, track).await;
    for sequence in 2..12 {
        assert!(service.shard.packet(leg, packet(sequence)));
    }
    until("all are taken", async || service.shard.stats().await.unwrap().queue.taken == 11).await;
    assert_eq!(frames(&service, track).await, before);
    assert_eq!(service.resume(id).await.unwrap().status, Status::Active);
    assert!(service.shard.packet(leg, packet(12)));
    until("the break is over", async || frames(&service, track).await > before).await;
    running.abort();
}

#[tokio::test]
async fn who_takes_over_wins_against_one_whose_join_is_on_its_way_however_far() {
    let service = service().await;
    let created = session(&service).await;
    let id = created.view.id.to_string();
    for progress in 0..60 {
        let (joining, session) = (service.clone(), id.clone());
        let slow = tokio::spawn(async move {
            join(&joining, Role::Publisher, &session, Claim::None, offer("sendonly")).await
        });
        // No sleep: a join that has had its time is not in anybody's way.
        for _ in 0..=progress {
            tokio::task::yield_now().await;
        }
        let won = join(&service, Role::Publisher, &id, Claim::TakeoverGrant, offer("sendonly")).await;
        let won = won.unwrap_or_else(|error| panic!("after {progress} steps: {error}"));
        if let Ok(lost) = slow.await.unwrap() {
            let closed = service.connections.close(&lost.resource, CloseReason::Deleted).await;
            assert_eq!(closed, Err(PatchError::NotFound), "after {progress} steps");
        }
        assert_eq!((connections(&service).await, service.directory.counts().publishers), ((1, 0), 1));
        service.connections.close(&won.resource, CloseReason::Deleted).await.unwrap();
    }
}

#[tokio::test]
async fn a_join_whose_place_is_gone_when_it_is_accepted_opens_no_leg() {
    struct Gone;
    impl Record for Gone {
        fn accepted(&mut self, _: ResourceId) -> Result<(), CloseReason> {
            Err(CloseReason::TakenOver)
        }
    }
    let service = service().await;
    let track = service.shard.open_track("en").await.unwrap();
    let (attach, left_at, epoch) = (Attach::default(), None, 0);
    let join = Join { offer: offer("sendonly"), track, attach, left_at, epoch, record: Box::new(Gone) };
    assert_eq!(service.connections.publish(join).await.unwrap_err(), JoinError::PublisherExists);
    assert_eq!(connections(&service).await, (0, 0));
    service.shard.open_publisher(track, LegSpec::new(111)).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_is_gone_while_its_second_leg_is_opened_comes_back_in_the_same_request() {
    let service = service().await;
    let hearing = tokio::spawn(service.clone().run());
    let created = session(&service).await;
    let request = |claim| JoinRequest {
        role: Role::Listener,
        session: created.view.id.as_str(),
        language: None,
        caller: &Caller::Open,
        claim,
        offer: offer("recvonly"),
    };
    let first = service.join(request(Claim::None), |record| record).await.unwrap();
    let second = service.join(request(Claim::Ticket(first.ticket)), |record| {
        // The place beside the first one is taken, the leg is not open yet.
        service.shard.close(Peer::Leg(first.joined.leg));
        record
    });
    let second = second.await.unwrap();
    assert!(second.joined.listener.is_some() && second.joined.listener != first.joined.listener);
    let view = service.directory.leg(created.view.id.as_str(), &second.joined.resource).unwrap();
    assert_eq!((view.holder, view.listener), (first.joined.resource, second.joined.listener));
    hearing.abort();
}

#[tokio::test]
async fn who_is_on_a_media_thread_that_fails_is_told_so_and_the_others_stay() {
    let shards = ShardsConfig { count: 2, spill: 0, ..ShardConfig::patient().into() };
    let service = service_on(shards).await;
    let running = tokio::spawn(service.clone().run());
    let created = session(&service).await;
    let id = created.view.id.as_str();
    let mut seats: Vec<MediaSeat> = Vec::new();
    let listen = || join(&service, Role::Listener, id, Claim::None, offer("recvonly"));
    for _ in 0..4 {
        let (role, language, caller) = (Role::Listener, None, &Caller::Open);
        let join = MediaJoin { role, session: id, language, caller, claim: Claim::None, from: None };
        seats.push(service.join_media(join).await.unwrap());
    }
    for _ in 0..4 {
        listen().await.unwrap();
    }
    let home = seats[0].track.relay();
    let (at_home, away): (Vec<_>, Vec<_>) = seats.iter().partition(|seat| seat.leg.relay() == home);
    assert_eq!((at_home.len(), away.len()), (2, 2));
    let patience = Duration::from_secs(20);

    service.shard.each()[usize::from(1 - home)].fail();
    for seat in &away {
        let reason = tokio::time::timeout(patience, seat.closed()).await;
        assert_eq!(reason, Ok(CloseReason::MediaFailed));
    }
    until("those at home are left", async || connections(&service).await == (0, 2)).await;
    assert!(at_home.iter().all(|seat| futures_util::FutureExt::now_or_never(seat.closed()).is_none()));
    let back = listen().await.unwrap();
    assert_eq!(back.leg.relay(), home);

    service.shard.each()[usize::from(home)].fail();
    for seat in &at_home {
        let reason = tokio::time::timeout(patience, seat.closed()).await;
        assert_eq!(reason, Ok(CloseReason::MediaFailed));
    }
    until("nobody is left", async || connections(&service).await == (0, 0)).await;
    let refused = tokio::time::timeout(patience, listen()).await;
    assert!(refused.expect("nobody hangs").is_err());
    running.abort();
}

#[tokio::test]
async fn a_track_whose_media_thread_fails_is_made_anew_on_another() {
    // No more tracks than there are: those that have died take nobody's place.
    let relay = relay_engine::Config::default().max_tracks(2);
    let shard = ShardConfig { relay, ..ShardConfig::patient() };
    let shards = ShardsConfig { count: 2, spill: 0, ..shard.into() };
    let service = service_on(shards).await;
    let running = tokio::spawn(service.clone().run());
    let created = session(&service).await;
    let id = created.view.id.as_str();
    let enter = async |role, claim| {
        let (language, caller) = (None, &Caller::Open);
        service.join_media(MediaJoin { role, session: id, language, caller, claim, from: None }).await
    };
    let speaker = enter(Role::Publisher, Claim::None).await.unwrap();
    let listeners = [
        enter(Role::Listener, Claim::None).await.unwrap(),
        enter(Role::Listener, Claim::None).await.unwrap(),
    ];
    let home = speaker.track.relay();
    assert_ne!(listeners[0].leg.relay(), listeners[1].leg.relay());

    service.shard.each()[usize::from(home)].fail();
    let patience = Duration::from_secs(20);
    for seat in listeners.iter().chain([&speaker]) {
        assert_eq!(tokio::time::timeout(patience, seat.closed()).await, Ok(CloseReason::MediaFailed));
    }
    until("it is made anew", async || service.directory.tracks_on(home).is_empty()).await;
    // Positions begin again: a ticket goes on nowhere.
    let ticket = Claim::Ticket(listeners[0].ticket.clone());
    let refused = enter(Role::Listener, ticket).await.map(|seat| seat.leg);
    assert!(matches!(refused, Err(ServiceError::Session(SessionError::Ticket { .. }))), "{refused:?}");
    let listener = enter(Role::Listener, Claim::None).await.unwrap();
    let speaker = enter(Role::Publisher, Claim::None).await.unwrap();
    assert_eq!((speaker.track, speaker.track.relay()), (listener.track, 1 - home));
    assert!(service.shard.publisher_up(speaker.leg) && service.shard.packet(speaker.leg, packet(7)));
    let stats = async || service.shard.track_stats(speaker.track).await.unwrap().unwrap();
    until("it is heard of", async || stats().await.frames == 1).await;
    drop((listeners, speaker, listener));
    service.end(id, EndReason::Deleted).await.unwrap();
    let all = service.shard.each()[usize::from(1 - home)].stats();
    assert_eq!(all.await.unwrap().relay.tracks, 0);
    running.abort();
}

#[tokio::test]
async fn time_passes_for_the_sessions_while_tracks_are_made_anew() {
    // None is made while this test runs.
    let shard = ShardConfig { opened_within: Duration::from_secs(600), ..ShardConfig::default() };
    let config = WebRtcConfig { bind: ([127, 0, 0, 1], 0).into(), ..WebRtcConfig::default() };
    let shards = ShardsConfig { count: 2, ..shard.into() };
    let (connections, shard, _task) = Connections::bind(config, shards).await.unwrap();
    let limits = Limits { linger: Duration::from_millis(1), ..Limits::default() };
    let service = Service::new(Directory::new(limits), shard, connections);
    let (failing, ending) = (session(&service).await, session(&service).await);
    let running = tokio::spawn(service.clone().run());
    let [fails, stalls] = service.shard.each() else { panic!("there are two") };
    let stalled = stalls.stall();
    until("it has stalled", async || stalls.waiting() == 0).await;
    fails.fail();
    until("tracks are asked for", async || stalls.waiting() > 0).await;

    let id = ending.view.id.as_str();
    let taken = service.directory.publisher_slot(Instant::now(), id, None, &Caller::Open, &Claim::None);
    let mut slot = taken.unwrap().slot;
    slot.connected();
    drop(slot);
    until("its time is over", async || service.directory.view(id).is_err()).await;
    assert!(service.directory.view(failing.view.id.as_str()).is_ok());
    drop(stalled);
    until("they are made anew", async || service.directory.tracks_on(0).is_empty()).await;
    running.abort();
}

#[tokio::test]
async fn a_media_thread_that_stalls_holds_up_nobody_on_the_others() {
    let shards = ShardsConfig { count: 2, spill: 0, ..ShardConfig::patient().into() };
    let service = service_on(shards).await;
    let (shard, patience) = (&service.shard, Duration::from_secs(20));
    let mut tracks = Vec::new();
    for name in ["en", "es", "de"] {
        tracks.push(shard.open_track(name).await.unwrap());
    }
    assert_eq!(tracks.iter().map(|track| track.relay()).collect::<Vec<_>>(), [0, 1, 0]);
    let (here, _) = shard.open_listener(tracks[0], LegSpec::new(111)).await.unwrap();
    let (there, leg) = shard.open_listener(tracks[0], LegSpec::new(111)).await.unwrap();
    assert_eq!((here.relay(), there.relay()), (0, 1));

    let stalled = shard.each()[1].stall();
    poll_once(service.connections.select(there, tracks[1])).await;
    let selected = tokio::time::timeout(patience, service.connections.select(here, tracks[2])).await;
    assert_eq!(selected, Ok(Ok(())));
    let switched = tokio::time::timeout(patience, service.switch(leg, HolderId::NOBODY)).await;
    assert!(switched.is_ok(), "it is asked again later");
    drop(stalled);
    until("it is done in the end", async || {
        let stats = shard.listener_stats(there).await.unwrap().unwrap();
        stats.track == tracks[1]
    })
    .await;
}
