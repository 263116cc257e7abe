//! What a shard tells of itself: plain numbers in base units, copied out.

use std::time::Duration;

use relay_engine::Stats;

use super::{EgressCounters, Histogram};

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
    /// Tracks that are fed to the shard by others.
    pub replicas: usize,
}

impl ShardStats {
    /// Adds what another shard tells of itself: counts are added, of maxima the highest stands.
    pub fn merge(&mut self, other: &Self) {
        let Self { relay, egress, plane, queue, replicas } = other;
        self.relay.merge(relay);
        self.egress.merge(egress);
        self.plane.merge(plane);
        self.queue.merge(queue);
        self.replicas += replicas;
    }
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
    /// How often a listener's ring was full, and its leg was held.
    pub ring_stalls: u64,
    /// How often another shard's queue was full, and its feed was held.
    pub feed_stalls: u64,
}

impl PlaneCounters {
    fn merge(&mut self, other: &Self) {
        self.seal_reused += other.seal_reused;
        self.seal_refused += other.seal_refused;
        self.no_keys += other.no_keys;
        self.too_long += other.too_long;
        self.reports_out += other.reports_out;
        self.rtcp_in += other.rtcp_in;
        self.rtcp_limited += other.rtcp_limited;
        self.rtcp_unknown += other.rtcp_unknown;
        self.rtcp_forged += other.rtcp_forged;
        self.rtcp_replayed += other.rtcp_replayed;
        self.rtcp_malformed += other.rtcp_malformed;
        self.byes += other.byes;
        self.events_dropped += other.events_dropped;
        self.feed_stalls += other.feed_stalls;
        self.ring_stalls += other.ring_stalls;
    }
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
    /// Ends, pauses and rings that are drained, which wait to be obeyed.
    pub orders_depth: usize,
    /// The most that ever waited.
    pub orders_depth_max: usize,
    /// Commands that wait.
    pub commands_depth: usize,
    /// Commands that found no room, not within a second either if they may wait.
    pub commands_refused: u64,
    /// The most events that wait for one reader.
    pub events_depth: usize,
    /// Frames that wait in rings for their listeners.
    pub rings_depth: usize,
    /// Those in the fullest ring.
    pub rings_depth_max: usize,
    /// From the arrival of each publisher's packet until all of it was handed to the kernel, for all listeners.
    pub tick_lag: Histogram,
    /// How late timers were served.
    pub timer_lag: Histogram,
    /// Frames taken that other shards fed.
    pub fed: u64,
    /// How many of them wait now.
    pub fed_depth: usize,
    /// The most that ever waited.
    pub fed_depth_max: usize,
}

impl QueueStats {
    fn merge(&mut self, other: &Self) {
        self.dropped += other.dropped;
        self.taken += other.taken;
        self.depth += other.depth;
        self.depth_max = self.depth_max.max(other.depth_max);
        self.delay_total += other.delay_total;
        self.delay_max = self.delay_max.max(other.delay_max);
        self.timer_lag_max = self.timer_lag_max.max(other.timer_lag_max);
        self.orders_depth += other.orders_depth;
        self.orders_depth_max = self.orders_depth_max.max(other.orders_depth_max);
        self.commands_depth += other.commands_depth;
        self.commands_refused += other.commands_refused;
        self.events_depth = self.events_depth.max(other.events_depth);
        self.rings_depth += other.rings_depth;
        self.rings_depth_max = self.rings_depth_max.max(other.rings_depth_max);
        self.tick_lag.merge(&other.tick_lag);
        self.timer_lag.merge(&other.timer_lag);
        self.fed += other.fed;
        self.fed_depth += other.fed_depth;
        self.fed_depth_max = self.fed_depth_max.max(other.fed_depth_max);
    }
}
