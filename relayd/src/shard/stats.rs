//! What a shard tells of itself: plain numbers in base units, copied out.

use std::time::Duration;

use relay_engine::Stats;

use super::EgressCounters;

/// A shard as a whole, since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// The engine.
    pub relay: Stats,
    /// What the kernel took and refused.
    pub egress: EgressCounters,
    /// What was sealed, opened and refused on the way.
    pub plane: PlaneCounters,
    /// The queues into the shard.
    pub queue: QueueStats,
}

/// What happened between the engine and the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlaneCounters {
    /// Packets whose index was sealed before for another packet, and which were therefore not sent.
    pub seal_reused: u64,
    /// Packets not sent because of any other reason that sealing has.
    pub seal_refused: u64,
    /// Packets not sent because the leg has no keys.
    pub no_keys: u64,
    /// Packets not sent because they are longer than a datagram may be.
    pub too_long: u64,
    /// Sender reports sent.
    pub reports_out: u64,
    /// RTCP datagrams of listeners that were authentic.
    pub rtcp_in: u64,
    /// RTCP datagrams dropped because their listener sent more than its rate.
    pub rtcp_limited: u64,
    /// RTCP datagrams of unknown legs or of legs without keys.
    pub rtcp_unknown: u64,
    /// RTCP datagrams that were not authentic, or too short or long to be.
    pub rtcp_forged: u64,
    /// RTCP datagrams that came before.
    pub rtcp_replayed: u64,
    /// Authentic RTCP datagrams that are malformed.
    pub rtcp_malformed: u64,
    /// Listeners that said goodbye by RTCP.
    pub byes: u64,
    /// Events that did not fit a reader's queue.
    pub events_dropped: u64,
}

/// The queues into the shard and how far it lags behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Packets, reports and RTCP datagrams dropped because the queue was full.
    pub dropped: u64,
    /// How many of them were taken.
    pub taken: u64,
    /// How many wait now.
    pub depth: usize,
    /// The most that ever waited.
    pub depth_max: usize,
    /// Time that all of those taken waited, together: divided by `taken`, the mean.
    pub delay_total: Duration,
    /// The longest that one waited since the stats were last read.
    pub delay_max: Duration,
    /// The latest that a timer was served since the stats were last read.
    pub timer_lag_max: Duration,
}
