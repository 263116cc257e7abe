//! Sessions across the planes: the directory, the tracks on the shard, the connections.

use std::time::{Duration, Instant};

use relay_engine::{Peer, TrackId};
use thiserror::Error;

use super::directory::{Directory, SessionError, SessionSpec, SessionView};
use super::id::SessionId;
use crate::shard::{Shard, ShardError};
use crate::webrtc::{CloseReason, Connections, Join, JoinError, Joined, Record, Role};

/// What the HTTP surfaces ask of sessions. Clones share everything.
#[derive(Debug, Clone)]
pub struct Service {
    directory: Directory,
    shard: Shard,
    connections: Connections,
}

impl Service {
    /// Ties the planes together.
    pub fn new(directory: Directory, shard: Shard, connections: Connections) -> Self {
        Self { directory, shard, connections }
    }

    /// Creates a session and its tracks, whether or not the caller waits for it.
    pub async fn create(&self, spec: SessionSpec) -> Result<SessionView, ServiceError> {
        self.directory.has_room()?;
        let service = self.clone();
        to_the_end(async move {
            let tracks = service.open_tracks(&spec).await?;
            let created = service.directory.create(Instant::now(), spec, &tracks);
            if created.is_err() {
                service.close_tracks(&tracks).await;
            }
            Ok(created?)
        })
        .await
    }

    /// Creates a session that never expires; answers with its tracks in the order of its languages.
    pub async fn create_permanent(
        &self,
        id: SessionId,
        spec: SessionSpec,
    ) -> Result<Vec<TrackId>, ServiceError> {
        let tracks = self.open_tracks(&spec).await?;
        self.directory.create_permanent(Instant::now(), id, spec, &tracks)?;
        Ok(tracks)
    }

    /// Ends a session, its connections and its tracks, whether or not the caller waits for it.
    pub async fn end(&self, id: &str) -> Result<(), SessionError> {
        let tracks = self.directory.end(Instant::now(), id)?;
        let service = self.clone();
        to_the_end(async move { service.close_tracks(&tracks).await }).await;
        Ok(())
    }

    /// Opens a connection to a track. `record` wraps the slot, for whoever measures.
    pub async fn join(
        &self,
        role: Role,
        session: &str,
        language: Option<&str>,
        offer: String,
        record: impl FnOnce(Box<dyn Record>) -> Box<dyn Record>,
    ) -> Result<Joined, ServiceError> {
        let (slot, track): (Box<dyn Record>, TrackId) = match role {
            Role::Publisher => {
                let (slot, track) = self.directory.publisher_slot(session, language)?;
                (Box::new(slot), track)
            }
            Role::Listener => {
                let (slot, track) = self.directory.listener_slot(session, language)?;
                (Box::new(slot), track)
            }
        };
        let join = Join { offer, track, record: record(slot) };
        let joined = match role {
            Role::Publisher => self.connections.publish(join).await,
            Role::Listener => self.connections.listen(join).await,
        };
        // The session may have ended while the offer was being answered, before or after its connections were
        // closed: then that is the answer, whatever became of the connection.
        if let Err(gone) = self.directory.track(session, language) {
            if let Ok(joined) = joined {
                let _closed_already =
                    self.connections.close(&joined.resource, CloseReason::SessionEnded).await;
            }
            return Err(gone.into());
        }
        Ok(joined?)
    }

    /// Ends sessions that nobody is connected to, for ever. Runs until its task is dropped.
    pub async fn expire(self, every: Duration) {
        let mut timer = tokio::time::interval(every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let tracks = self.directory.expire(Instant::now());
            self.close_tracks(&tracks).await;
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The connection plane.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The media plane.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    async fn open_tracks(&self, spec: &SessionSpec) -> Result<Vec<TrackId>, ServiceError> {
        let mut tracks = Vec::with_capacity(spec.languages.len());
        for language in &spec.languages {
            match self.shard.open_track(language.as_str()).await {
                Ok(track) => tracks.push(track),
                Err(error) => {
                    self.close_tracks(&tracks).await;
                    return Err(error.into());
                }
            }
        }
        Ok(tracks)
    }

    async fn close_tracks(&self, tracks: &[TrackId]) {
        for track in tracks {
            self.connections.close_track(*track, CloseReason::SessionEnded).await;
            self.shard.close(Peer::Track(*track));
        }
    }
}

/// Runs `work` to its end even if the caller is dropped, as a request is whose client hangs up: a session half
/// made or half ended would keep its tracks for ever.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled with its runtime, as the caller is about to be.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Why a request on sessions failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The directory refused.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The connection plane refused.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The media plane refused.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::session::Limits;
    use crate::shard::ShardConfig;
    use crate::webrtc::WebRtcConfig;

    async fn service() -> Service {
        let config = WebRtcConfig { bind: ([127, 0, 0, 1], 0).into(), ..WebRtcConfig::default() };
        let (connections, shard, _task) = Connections::bind(config, ShardConfig::default()).await.unwrap();
        let (idle_timeout, ended_memory) = (Duration::from_secs(60), Duration::from_secs(60));
        let limits = Limits { max_sessions: 9, max_listeners: 9, idle_timeout, ended_memory };
        Service::new(Directory::new(limits), shard, connections)
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
        assert!(
            tokio::time::timeout(Duration::from_secs(20), counted).await.is_ok(),
            "never {tracks} tracks"
        );
    }

    #[tokio::test]
    async fn a_caller_that_hangs_up_leaves_no_session_half_made_or_half_ended() {
        let service = service().await;
        let languages = ["en", "es", "de"].map(|tag| tag.parse().unwrap()).to_vec();
        let spec = SessionSpec { source: "en".parse().unwrap(), languages };
        poll_once(service.create(spec.clone())).await;
        until_tracks(&service, 3).await;

        let id = service.create(spec).await.unwrap().id;
        until_tracks(&service, 6).await;
        poll_once(service.end(id.as_str())).await;
        until_tracks(&service, 3).await;
    }
}
