//! `sendmmsg` (Linux): the only unsafe code of the workspace.
#![expect(unsafe_code, reason = "the standard library has no call that sends several datagrams at once")]

use std::fmt;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

use super::{BATCH, EgressCounters, Packets};

/// Sends all `packets`, at most 64; what the kernel refuses is counted and skipped.
///
/// The headers live on the stack: filling 5 KiB for 64 packets costs nothing beside the system call, and no pointer
/// outlives what it points to.
pub(super) fn send(socket: &UdpSocket, packets: &Packets<'_>, counters: &mut EgressCounters) {
    // SAFETY: both are plain C structs for which all zeroes (null pointers, zero lengths) are valid values.
    let (mut headers, mut vectors): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) = unsafe { zeroed() };
    let count = packets.len();
    for (at, (header, vector)) in headers.iter_mut().zip(&mut vectors).enumerate().take(count) {
        let (bytes, address) = (packets.bytes(at), packets.address(at));
        // The kernel only reads through these; the C structs have no const pointers.
        vector.iov_base = bytes.as_ptr().cast_mut().cast();
        vector.iov_len = bytes.len();
        header.msg_hdr.msg_name = ptr::from_ref(&address.storage).cast_mut().cast();
        header.msg_hdr.msg_namelen = address.length;
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
    }
    let mut at = 0;
    while at < count {
        counters.calls += 1;
        let rest = &mut headers[at..count];
        // SAFETY: `rest` is a valid array of the length given. The loop above has pointed each of its entries at an
        // address and an iovec, and each iovec at initialised bytes; `packets` and `vectors` keep all of them alive
        // and unchanged until this function returns. The kernel writes to `msg_len` alone.
        let sent = unsafe {
            let length = rest.len() as libc::c_uint;
            libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), length, libc::MSG_DONTWAIT as _)
        };
        match usize::try_from(sent) {
            Ok(sent @ 1..) => {
                (at..at + sent).for_each(|index| counters.sent(packets.bytes(index).len()));
                at += sent;
            }
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    // The error is about the first packet of the rest: skip it, try the others.
                    counters.refused(&error);
                    at += 1;
                }
            }
        }
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
