//! What the connection plane tells of itself.

/// Connections by role and state, and what happened since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Publisher connections.
    pub publishers: StateCounts,
    /// Listener connections.
    pub listeners: StateCounts,
    /// Addresses that are bound to a connection.
    pub addresses: usize,
    /// What waits for the handshake threads.
    pub handshakes_waiting: usize,
    /// DTLS of publishers, and what else they said leads to, that wait for the plane.
    pub media_waiting: usize,
    /// Other datagrams that wait for it.
    pub control_waiting: usize,
    /// Everything that is only ever counted up.
    pub counters: Counters,
}

/// Connections of one role by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateCounts {
    /// Answered, not yet connected.
    pub pending: usize,
    /// Media may flow.
    pub connected: usize,
    /// Connected before, not heard of for a while.
    pub disconnected: usize,
}

impl StateCounts {
    /// All of them.
    pub fn total(&self) -> usize {
        self.pending + self.connected + self.disconnected
    }
}

/// What the actor did and dropped since the start; every reason has its own counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams received.
    pub received: u64,
    /// Joins answered.
    pub accepted: u64,
    /// Joins refused, for any reason.
    pub refused: u64,
    /// Connections that came up.
    pub connected: u64,
    /// Connections that ended.
    pub closed: u64,
    /// DTLS handshakes that were started over by the watchdog.
    pub rebuilt: u64,
    /// ICE restarts answered.
    pub restarted: u64,
    /// Listeners that are reached at another address, or by a new ICE session, and are sent again what they may miss.
    pub path_changes: u64,
    /// Listeners that were not heard of and are again, and are sent again what they may miss.
    pub returns: u64,
    /// Panics caught in the stack below.
    pub panics: u64,
    /// Errors of the stack below that did not end the connection.
    pub stack_errors: u64,
    /// Dropped: empty, or a first byte of no class (RFC 7983).
    pub dropped_class: u64,
    /// Dropped: not STUN, from an address that no connection has validated.
    pub dropped_unknown: u64,
    /// Dropped: STUN from an unknown source above its rate.
    pub dropped_rate: u64,
    /// Dropped: STUN that does not parse, or is no binding request.
    pub dropped_stun: u64,
    /// Dropped: STUN for a ufrag that is not ours.
    pub dropped_ufrag: u64,
    /// Dropped: STUN with a wrong MESSAGE-INTEGRITY.
    pub dropped_integrity: u64,
    /// Dropped: STUN from an address that another connection holds, or of a peer that has had too many.
    pub dropped_addresses: u64,
    /// Dropped: RTCP of a peer above its rate.
    pub dropped_feedback: u64,
    /// Dropped: RTP from a listener, RTP or RTCP before the connection is up, or unreadable.
    pub dropped_media: u64,
    /// Dropped: RTP of a publisher, or in its name, above its rate.
    pub dropped_media_rate: u64,
    /// Dropped: the shard's queue was full.
    pub dropped_shard: u64,
    /// Dropped: the queue to the plane was full.
    pub dropped_queue: u64,
    /// Not told to the plane, as that queue was full: what the stack wants done after a publisher's packet, which itself has
    /// come to its shard.
    pub dropped_notices: u64,
    /// Dropped: the queue of a handshake thread was full; what is lost comes again.
    pub dropped_handshakes: u64,
    /// Dropped: a reply that the socket did not take.
    pub dropped_send: u64,
    /// Receive errors of the socket.
    pub receive_errors: u64,
}
