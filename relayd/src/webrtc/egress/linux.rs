//! `sendmmsg` (Linux): the only unsafe code of the workspace.
#![expect(unsafe_code, reason = "the standard library has no call that sends several datagrams at once")]

use std::fmt;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

use super::{BATCH, EgressCounters, Packets};

/// The message headers of one call; filled anew for each, so that no pointer outlives what it points to.
pub(super) struct Kernel {
    headers: Box<[libc::mmsghdr; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
}

impl Kernel {
    pub(super) fn new() -> Self {
        // SAFETY: both are plain C structs for which all zeroes (null pointers, zero lengths) are valid values.
        let (header, vector): (libc::mmsghdr, libc::iovec) = unsafe { (zeroed(), zeroed()) };
        Kernel { headers: Box::new([header; BATCH]), vectors: Box::new([vector; BATCH]) }
    }

    /// Sends all `packets`; what the kernel refuses is counted and skipped.
    pub(super) fn send(&mut self, socket: &UdpSocket, packets: &Packets<'_>, counters: &mut EgressCounters) {
        self.point_at(packets);
        let mut at = 0;
        while at < packets.len() {
            counters.calls += 1;
            match self.send_range(socket, at, packets.len()) {
                Ok(sent) => {
                    for index in at..at + sent {
                        counters.sent(packets.bytes(index).len());
                    }
                    at += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The error is about the first packet of the range: skip it, try the rest.
                Err(error) => {
                    counters.refused(&error);
                    at += 1;
                }
            }
        }
        self.forget(packets.len());
    }

    fn point_at(&mut self, packets: &Packets<'_>) {
        assert!(packets.len() <= BATCH, "a batch has at most 64 packets");
        for at in 0..packets.len() {
            let bytes = packets.bytes(at);
            let address = packets.address(at);
            let vector = &mut self.vectors[at];
            // The kernel only reads through these two; the C structs have no const pointers.
            vector.iov_base = bytes.as_ptr().cast_mut().cast();
            vector.iov_len = bytes.len();
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = ptr::from_ref(&address.storage).cast_mut().cast();
            header.msg_namelen = address.length;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
        }
    }

    /// One system call for the packets `from..to`; returns how many of them were sent, at least one.
    fn send_range(&mut self, socket: &UdpSocket, from: usize, to: usize) -> io::Result<usize> {
        let headers = &mut self.headers[from..to];
        // SAFETY: `headers` is a valid array of the length given. `point_at` has pointed each of its entries at
        // an address and an iovec that live until `send` returns, and each iovec at initialised bytes that do
        // too: `packets` borrows all of them, and `send` keeps that borrow. The kernel writes `msg_len` only.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        match usize::try_from(sent) {
            // Cannot be for a range that is not empty; taken as an error so that the loop ends.
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => Ok(sent),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Drops the pointers, which dangle once the batch is refilled.
    fn forget(&mut self, count: usize) {
        for header in &mut self.headers[..count] {
            header.msg_hdr.msg_name = ptr::null_mut();
            header.msg_hdr.msg_iov = ptr::null_mut();
            header.msg_hdr.msg_iovlen = 0;
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

/// A socket address as the kernel reads it: 28 bytes, enough for both families.
#[derive(Clone, Copy)]
pub(super) struct RawAddress {
    storage: libc::sockaddr_in6,
    length: libc::socklen_t,
}

impl RawAddress {
    pub(super) fn new(address: SocketAddr) -> Self {
        let mut raw = RawAddress::default();
        match address {
            SocketAddr::V6(v6) => {
                raw.storage.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.storage.sin6_port = v6.port().to_be();
                raw.storage.sin6_flowinfo = v6.flowinfo();
                raw.storage.sin6_addr.s6_addr = v6.ip().octets();
                raw.storage.sin6_scope_id = v6.scope_id();
                raw.length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
            SocketAddr::V4(v4) => {
                // `sockaddr_in` begins like `sockaddr_in6`: family, port; then the address stands where the other
                // has its flow information.
                raw.storage.sin6_family = libc::AF_INET as libc::sa_family_t;
                raw.storage.sin6_port = v4.port().to_be();
                raw.storage.sin6_flowinfo = u32::from_ne_bytes(v4.ip().octets());
                raw.length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
        }
        raw
    }
}

impl Default for RawAddress {
    fn default() -> Self {
        // SAFETY: a plain C struct of integers, for which all zeroes are a valid value.
        RawAddress { storage: unsafe { zeroed() }, length: 0 }
    }
}

impl fmt::Debug for RawAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawAddress").field("length", &self.length).finish_non_exhaustive()
    }
}
