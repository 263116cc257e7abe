//! One `sendto` per packet, for systems without `sendmmsg`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use super::{EgressCounters, Packets};

/// Sends all `packets`; what the kernel refuses is counted and skipped.
pub(super) fn send(socket: &UdpSocket, packets: &Packets<'_>, counters: &mut EgressCounters) {
    for at in 0..packets.len() {
        let bytes = packets.bytes(at);
        loop {
            counters.calls += 1;
            match socket.send_to(bytes, packets.address(at).0) {
                Ok(_) => counters.sent(bytes.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => counters.refused(&error),
            }
            break;
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RawAddress(SocketAddr);

impl RawAddress {
    pub(super) fn new(address: SocketAddr) -> Self {
        RawAddress(address)
    }
}

impl Default for RawAddress {
    fn default() -> Self {
        RawAddress(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }
}
