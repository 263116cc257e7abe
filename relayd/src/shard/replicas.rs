//! How a track comes to another shard than its home: a replica there, a listener at home that feeds it.

use std::sync::Arc;

use relay_engine::{LegId, ListenerId, OpenError, TrackId};

use super::command::Command;
use super::feed::{FeedLink, FeedSender};
use super::seat::Replica;
use super::{Shard, ShardError};

/// Makes a replica that has what home has.
///
/// Wherever this is given up, what is open until then is closed: by the shard, for want of somebody who takes it; with the
/// feed's sender; or with the replica. Each opening has its time; the history has as long as the track is there.
pub(super) async fn make(
    track: TrackId,
    name: Arc<str>,
    home: Shard,
    there: Shard,
) -> Result<Replica, ShardError> {
    let (link, name) = (FeedLink::new(home.orders.clone()), name.as_ref().to_owned());
    let feed = Arc::clone(&link);
    let open = |reply| Command::OpenReplica { name, of: track, link, reply };
    let opened: (TrackId, LegId) = there.open(open).await?;
    let sender = Box::new(FeedSender::new(feed, opened, there.inlet.clone(), there.orders.clone()));
    let open = |reply| Command::OpenFeed { track, sender, reply };
    let (feed, newest): (ListenerId, Option<u64>) = home.open(open).await?;
    let replica = Replica { track: opened.0, feed, orders: home.orders.clone() };
    await_fed(track, &there, replica.track, newest).await?;
    Ok(replica)
}

/// Waits until a track's replica has been fed up to this position.
pub(super) async fn await_fed(
    track: TrackId,
    there: &Shard,
    replica: TrackId,
    position: Option<u64>,
) -> Result<(), ShardError> {
    let Some(position) = position else { return Ok(()) };
    there.ask(|reply| Command::AwaitFed { track: replica, position, reply }).await.map_err(
        |error| match error {
            // It is gone with the track, or with its shard.
            ShardError::Closed => OpenError::UnknownTrack(track).into(),
            error => error,
        },
    )
}
