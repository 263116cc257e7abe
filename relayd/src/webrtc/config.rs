//! Settings of the connection plane, each with its default.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Settings of the connection plane; `WebRtcConfig::default()` suits one machine on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebRtcConfig {
    /// The UDP address for all WebRTC peers. Default `127.0.0.1:8080`.
    pub bind: SocketAddr,
    /// The addresses that answers name as host candidates. Port 0 stands for the bound port. Default: none,
    /// which stands for the bound address; required when `bind` is unspecified.
    pub advertise: Vec<SocketAddr>,
    /// The most joins that wait for their peer at one time. Default 1 000; ≈ 64 KiB each.
    pub max_pending: usize,
    /// The most connections at one time. Default 20 000; ≈ 64 KiB each.
    pub max_connections: usize,
    /// The most addresses that one connection may be known by. Default 8; ≈ 64 bytes each.
    pub max_addresses: usize,
    /// How long until the first authenticated STUN binding. Default 10 s.
    pub ice_timeout: Duration,
    /// How long the DTLS handshake may take after that; then it starts over, once, and has what is left of
    /// `join_timeout`: a forged ClientHello may have spoiled it. Default 5 s.
    pub dtls_timeout: Duration,
    /// How long a join may take in all. Default 15 s.
    pub join_timeout: Duration,
    /// How long a connected peer may be silent before it counts as disconnected. Default 5 s.
    pub disconnected_after: Duration,
    /// How long a connected peer may be silent before its connection is closed. Default 15 s.
    pub closed_after: Duration,
    /// STUN packets per second taken from one unknown source. Default 20.
    pub stun_rate: u32,
    /// How many of them may come at once. Default 50.
    pub stun_burst: u32,
    /// How many unknown sources are remembered for that. Default 65 536; 16 bytes each.
    pub stun_sources: usize,
    /// RTCP datagrams per second taken from one peer; as many may come at once. Default 50.
    pub feedback_rate: u32,
    /// Commands that may wait for the actor. Default 256.
    pub command_queue: usize,
    /// Threads that handshakes run on. Default: one for each two cores, at least one.
    pub handshake_threads: usize,
    /// Datagrams and joins that may wait for each of them; a join that finds no room is refused. Default 1 024;
    /// up to 2 KiB each.
    pub handshake_queue: usize,
    /// Sockets on the port, each with a thread that reads it. Default: one for each core, at most 4.
    pub receivers: usize,
    /// Whether each shard has a port of its own: shard n the one that is n above `bind` and each of `advertise`, with one
    /// socket. Then `receivers` says nothing. Default: no.
    pub port_per_shard: bool,
    /// Datagrams that may wait for the plane: so many of publishers, and so many others. Default 4 096; up to
    /// 2 KiB each.
    pub receive_queue: usize,
    /// Receive buffer asked of the system for each socket, in bytes. Default 4 MiB.
    pub receive_buffer_bytes: usize,
}

impl Default for WebRtcConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            advertise: Vec::new(),
            max_pending: 1_000,
            max_connections: 20_000,
            max_addresses: 8,
            ice_timeout: Duration::from_secs(10),
            dtls_timeout: Duration::from_secs(5),
            join_timeout: Duration::from_secs(15),
            disconnected_after: Duration::from_secs(5),
            closed_after: Duration::from_secs(15),
            stun_rate: 20,
            stun_burst: 50,
            stun_sources: 65_536,
            feedback_rate: 50,
            command_queue: 256,
            handshake_threads: cores().div_ceil(2),
            handshake_queue: 1024,
            receivers: cores().min(4),
            port_per_shard: false,
            receive_queue: 4096,
            receive_buffer_bytes: 4 << 20,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
