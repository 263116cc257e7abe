//! Sans-IO engine that relays live Opus audio from one speaker to many listeners.

mod config;
mod history;
mod id;
mod io;
mod listener;
mod relay;
pub mod rtp;
mod schedule;
mod stats;
mod time;
mod track;

pub use self::config::Config;
pub use self::id::{LegId, ListenerId, Peer, TrackId};
pub use self::io::{
    Deadline, Event, Feedback, Frame, LegSpec, LegState, Limit, MAX_TRACK_NAME_BYTES, OpenError,
    OutboundPacket, Output, Reason, TrackSpec, Verdict,
};
pub use self::relay::Relay;
pub use self::rtp::{AudioLevel, CaptureTime, ExtensionIds, Mid};
pub use self::stats::{
    LegStats, ListenerReport, ListenerStats, PublisherLegStats, Reception, Stats, TrackStats, Verdicts,
};
pub use self::time::{Epoch, MediaTime, NtpTime};
