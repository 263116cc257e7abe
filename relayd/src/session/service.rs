//! Sessions across the planes: the directory, the tracks on the shard, the connections.

use std::time::{Duration, Instant};

use relay_engine::{Peer, TrackId};
use thiserror::Error;

use super::directory::{Directory, SessionError, SessionSpec, SessionView};
use super::id::SessionId;
use crate::shard::{Shard, ShardError};
use crate::webrtc::{Connections, Join, JoinError, Joined, Record, Role};

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

    /// Creates a session and its tracks.
    pub async fn create(&self, spec: SessionSpec) -> Result<SessionView, ServiceError> {
        self.directory.has_room()?;
        let tracks = self.open_tracks(&spec).await?;
        let created = self.directory.create(Instant::now(), spec, &tracks);
        if created.is_err() {
            self.close_tracks(&tracks).await;
        }
        Ok(created?)
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

    /// Ends a session, its connections and its tracks.
    pub async fn end(&self, id: &str) -> Result<(), SessionError> {
        let tracks = self.directory.end(Instant::now(), id)?;
        self.close_tracks(&tracks).await;
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
            Role::Publisher => self.connections.publish(join).await?,
            Role::Listener => self.connections.listen(join).await?,
        };
        // The session may have ended while the offer was being answered, after its connections were closed.
        if let Err(gone) = self.directory.track(session, language) {
            let _closed_already = self.connections.close(&joined.resource).await;
            return Err(gone.into());
        }
        Ok(joined)
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
            self.connections.close_track(*track).await;
            self.shard.close(Peer::Track(*track));
        }
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
