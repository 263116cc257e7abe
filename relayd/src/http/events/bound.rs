//! A media connection that a client has named: what is told of it.

use relay_engine::{LegId, LegStats};
use tokio::sync::watch;

use crate::auth::Caller;
use crate::events::Anchor;
use crate::events::frame::{LineAnchor, TrackAck};
use crate::http::Api;
use crate::http::media::first_missing;
use crate::session::LegView;
use crate::webrtc::{ResourceId, Role};

/// How far the track of a publisher's connection is.
pub(super) async fn progress(api: &Api, view: LegView, leg: LegId) -> Option<TrackAck> {
    let shard = api.service.shard();
    let track = shard.track_stats(view.track).await.ok()??;
    let stats = match shard.leg_stats(leg).await.ok()? {
        Some(LegStats::Publisher(stats)) => Some(stats),
        _ => None,
    };
    let recv = first_missing(&track, stats.as_ref());
    Some(TrackAck {
        language: view.language,
        recv,
        // What is in memory here is as safe as it gets on one node.
        safe: recv,
        ssrc: stats.as_ref().and_then(|stats| stats.reception).map(|reception| reception.ssrc),
        sequence: stats.and_then(|stats| stats.contiguous_sequence),
    })
}

/// A media connection that the client has named.
pub(super) struct Bound {
    resource: ResourceId,
    pub view: LegView,
    pub leg: LegId,
    ssrc: u32,
    anchors: watch::Receiver<Option<Anchor>>,
}

impl Bound {
    /// Looks for the connection of this name in the session. One that was opened with a token is there for those of the
    /// same subject alone: who follows it is told tickets.
    pub(super) async fn find(
        api: &Api,
        session: &str,
        caller: &Caller,
        resource: ResourceId,
    ) -> Option<Self> {
        let view = api.service.directory().leg(session, &resource)?;
        if view.subject.as_ref().is_some_and(|opener| caller.subject() != Some(opener)) {
            return None;
        }
        let leg = view.legs.iter().find(|(name, _)| *name == resource)?.1?;
        let anchors = api.service.anchors().follow(leg);
        let Some(stats) = api.service.shard().leg_stats(leg).await.ok().flatten() else {
            // It was closed just now, maybe before anybody followed it: nothing comes that would say so.
            api.service.anchors().forget(leg);
            return None;
        };
        let ssrc = match stats {
            LegStats::Listener(stats) => stats.ssrc,
            _ => 0,
        };
        Some(Self { resource, view, leg, ssrc, anchors })
    }

    pub(super) fn publishes(&self) -> bool {
        self.view.role == Role::Publisher
    }

    /// An anchor of its line as it is told.
    pub(super) fn line(&self, anchor: Anchor) -> LineAnchor {
        let Anchor { index, position, timestamp, media_time } = anchor;
        // The sequence number is the index without its rollover counter.
        let sequence = (index & 0xffff) as u16;
        LineAnchor {
            leg: self.resource.to_string(),
            ssrc: self.ssrc,
            sequence,
            position,
            timestamp,
            media_time,
        }
    }
}

/// The next line of a listener's connection.
pub(super) async fn anchored(bound: Option<&mut Bound>) -> Anchor {
    if let Some(bound) = bound.filter(|bound| !bound.publishes()) {
        while bound.anchors.changed().await.is_ok() {
            if let Some(anchor) = *bound.anchors.borrow_and_update() {
                return anchor;
            }
        }
    }
    // There is none, or its leg is closed.
    std::future::pending().await
}
