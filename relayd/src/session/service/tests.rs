use std::task::Poll;

use super::*;
use crate::session::Limits;
use crate::shard::ShardConfig;
use crate::webrtc::WebRtcConfig;

async fn service() -> Service {
    let config = WebRtcConfig { bind: ([127, 0, 0, 1], 0).into(), ..WebRtcConfig::default() };
    let (connections, shard, _task) = Connections::bind(config, ShardConfig::default()).await.unwrap();
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
