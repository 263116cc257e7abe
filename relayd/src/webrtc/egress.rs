//! The way out: packets are built in an arena and handed to the kernel 64 at a time, on one unconnected socket.
//!
//! A [`Batch`] belongs to one media thread. [`Batch::slot`] lends room for a packet, [`Batch::commit`] says how long
//! it became and where it goes, [`Batch::flush`] sends what was committed. The slots of common audio packets lie
//! together in 12 KiB, which stay in the first-level cache; longer packets get slots of a second arena.
//!
//! Invariant: what cannot be sent is counted and skipped. No error of one destination, and no full socket buffer,
//! holds up or loses another packet of the batch. Nothing here allocates after [`Batch::new`].

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod portable;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

#[cfg(target_os = "linux")]
use linux::{RawAddress, send};
#[cfg(not(target_os = "linux"))]
use portable::{RawAddress, send};

/// Packets per system call.
pub const BATCH: usize = 64;

/// The longest datagram that is sent: an Ethernet MTU.
pub const MAX_DATAGRAM: usize = 1500;

/// Slot size of common audio packets: up to 140 bytes of Opus with header, extensions and tag.
const SHORT: usize = 192;

/// Up to 64 packets on their way to the kernel.
#[derive(Debug)]
pub struct Batch {
    socket: UdpSocket,
    family: Family,
    short: Box<[u8]>,
    long: Box<[u8]>,
    slots: Box<[Slot; BATCH]>,
    filled: usize,
    counters: EgressCounters,
}

impl Batch {
    /// A batch on `socket`, which should be non-blocking: a full send buffer then drops instead of waiting.
    ///
    /// Memory: 12 KiB and 94 KiB of arenas, 4 KiB of addresses.
    ///
    /// # Errors
    /// When the socket has no local address.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let family = if socket.local_addr()?.is_ipv4() { Family::V4 } else { Family::V6 };
        Ok(Batch {
            socket,
            family,
            short: vec![0; BATCH * SHORT].into_boxed_slice(),
            long: vec![0; BATCH * MAX_DATAGRAM].into_boxed_slice(),
            slots: Box::new([Slot::default(); BATCH]),
            filled: 0,
            counters: EgressCounters::default(),
        })
    }

    /// Where packets to `address` go, in the form that this socket's kernel takes.
    ///
    /// On an IPv6 socket an IPv4 address becomes a mapped one (RFC 4291 §2.5.5.2), and the other way round.
    pub fn destination(&self, address: SocketAddr) -> Destination {
        Destination { raw: RawAddress::new(self.family.fit(address)) }
    }

    /// Room for a packet of up to `length` bytes, or `None` if that is more than [`MAX_DATAGRAM`].
    ///
    /// Valid until [`Batch::commit`]; a packet that is not committed leaves no trace.
    pub fn slot(&mut self, length: usize) -> Option<&mut [u8]> {
        if self.filled == BATCH {
            self.flush();
        }
        let at = self.filled;
        let long = length > SHORT;
        self.slots[at].long = long;
        match (long, length <= MAX_DATAGRAM) {
            (false, _) => Some(&mut self.short[at * SHORT..(at + 1) * SHORT]),
            (true, true) => Some(&mut self.long[at * MAX_DATAGRAM..(at + 1) * MAX_DATAGRAM]),
            (true, false) => None,
        }
    }

    /// Puts the first `length` bytes of the slot last lent on their way to `destination`.
    ///
    /// # Panics
    /// If the slot is shorter than `length`.
    pub fn commit(&mut self, length: usize, destination: &Destination) {
        let slot = &mut self.slots[self.filled];
        assert!(length <= if slot.long { MAX_DATAGRAM } else { SHORT }, "a packet fits its slot");
        slot.length = length;
        slot.destination = *destination;
        self.filled += 1;
    }

    /// Sends everything committed. Never waits.
    pub fn flush(&mut self) {
        let filled = std::mem::take(&mut self.filled);
        if filled == 0 {
            return;
        }
        let packets = Packets { short: &self.short, long: &self.long, slots: &self.slots[..filled] };
        send(&self.socket, &packets, &mut self.counters);
    }

    /// What was sent and what was not.
    pub fn counters(&self) -> EgressCounters {
        self.counters
    }
}

/// A peer's address, ready for the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Destination {
    raw: RawAddress,
}

/// What the media plane has handed to the kernel, and what the kernel refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EgressCounters {
    /// Datagrams sent.
    pub packets: u64,
    /// Bytes of UDP payload sent.
    pub bytes: u64,
    /// System calls made.
    pub calls: u64,
    /// Datagrams dropped because the socket buffer or the device queue was full.
    pub full: u64,
    /// Datagrams that their destination refused or that no route leads to.
    pub unreachable: u64,
    /// Datagrams longer than the path takes.
    pub too_long: u64,
    /// Datagrams refused for any other reason.
    pub failed: u64,
}

impl EgressCounters {
    /// Adds what another socket's are.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.calls += other.calls;
        self.full += other.full;
        self.unreachable += other.unreachable;
        self.too_long += other.too_long;
        self.failed += other.failed;
    }

    /// Datagrams that were not sent, for whatever reason.
    pub fn errors(&self) -> u64 {
        self.full + self.unreachable + self.too_long + self.failed
    }

    fn sent(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// Counts the one datagram that `error` is about.
    #[cfg(unix)]
    fn refused(&mut self, error: &io::Error) {
        let counter = match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => &mut self.full,
            Some(
                libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EPERM
                | libc::EACCES
                | libc::EAFNOSUPPORT
                | libc::EADDRNOTAVAIL
                | libc::EINVAL,
            ) => &mut self.unreachable,
            Some(libc::EMSGSIZE) => &mut self.too_long,
            _ => &mut self.failed,
        };
        *counter += 1;
    }
}

/// The address family of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn fit(self, address: SocketAddr) -> SocketAddr {
        match (self, address) {
            (Family::V4, SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
                Some(ip) => SocketAddr::new(IpAddr::V4(ip), v6.port()),
                None => address,
            },
            (Family::V6, SocketAddr::V4(v4)) => {
                let mapped: Ipv6Addr = v4.ip().to_ipv6_mapped();
                SocketAddr::V6(SocketAddrV6::new(mapped, v4.port(), 0, 0))
            }
            _ => address,
        }
    }
}

/// One committed packet.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    length: usize,
    long: bool,
    destination: Destination,
}

/// The committed packets, as the kernel side sees them.
struct Packets<'a> {
    short: &'a [u8],
    long: &'a [u8],
    slots: &'a [Slot],
}

impl Packets<'_> {
    fn len(&self) -> usize {
        self.slots.len()
    }

    fn bytes(&self, at: usize) -> &[u8] {
        let slot = &self.slots[at];
        let (arena, stride) = if slot.long { (self.long, MAX_DATAGRAM) } else { (self.short, SHORT) };
        &arena[at * stride..at * stride + slot.length]
    }

    fn address(&self, at: usize) -> &RawAddress {
        &self.slots[at].destination.raw
    }
}

#[cfg(test)]
mod tests;
