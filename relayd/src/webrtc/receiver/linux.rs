//! `recvmmsg` and `poll` (Linux).
#![expect(unsafe_code, reason = "the standard library has no call that receives several datagrams at once")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::{BATCH, MAX_DATAGRAM_BYTES};

/// Room for one datagram, and for a byte that tells that it was longer.
const ROOM: usize = MAX_DATAGRAM_BYTES + 1;

/// What one system call has brought.
pub(super) struct Inbox {
    buffers: Box<[u8]>,
    names: Box<[libc::sockaddr_in6; BATCH]>,
    lengths: [usize; BATCH],
}

impl Inbox {
    pub(super) fn new() -> Self {
        // SAFETY: a plain C struct of integers, for which all zeroes are a valid value.
        let names = unsafe { zeroed() };
        Self { buffers: vec![0; BATCH * ROOM].into(), names: Box::new(names), lengths: [0; BATCH] }
    }

    /// Takes what is there, at most [`BATCH`] datagrams, without waiting.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // SAFETY: both are plain C structs for which all zeroes (null pointers, zero lengths) are valid values.
        let (mut headers, mut vectors): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) = unsafe { zeroed() };
        let rooms = self.buffers.chunks_exact_mut(ROOM).zip(self.names.iter_mut());
        for ((header, vector), (room, name)) in headers.iter_mut().zip(&mut vectors).zip(rooms) {
            vector.iov_base = room.as_mut_ptr().cast();
            vector.iov_len = ROOM;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `headers` is a valid array of BATCH entries. The loop above has pointed each of them at a name and at
        // an iovec, and each iovec at ROOM bytes of its own; `self` and `vectors` keep all of them alive until the call
        // returns, and nothing else reads or writes them. Without a timeout the kernel keeps no pointer.
        let received = unsafe {
            let (fd, length) = (socket.as_raw_fd(), BATCH as libc::c_uint);
            libc::recvmmsg(fd, headers.as_mut_ptr(), length, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers).take(received) {
            *length = (header.msg_len as usize).min(ROOM);
        }
        Ok(received)
    }

    /// One of those that the last call has brought.
    pub(super) fn datagram(&self, at: usize) -> (SocketAddr, &[u8]) {
        let name = &self.names[at];
        let port = u16::from_be(name.sin6_port);
        let source = if i32::from(name.sin6_family) == libc::AF_INET {
            // `sockaddr_in` begins like `sockaddr_in6`: family, port; then the address stands where the other has its
            // flow information.
            SocketAddr::from((Ipv4Addr::from(name.sin6_flowinfo.to_ne_bytes()), port))
        } else {
            SocketAddrV6::new(name.sin6_addr.s6_addr.into(), port, 0, name.sin6_scope_id).into()
        };
        (source, &self.buffers[at * ROOM..at * ROOM + self.lengths[at]])
    }
}

/// Waits until there is something to receive, or as long as this.
pub(super) fn wait(socket: &UdpSocket, patience: Duration) {
    let mut descriptor = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid descriptor entry, which outlives the call; the kernel writes to `revents` alone.
    let _ready = unsafe { libc::poll(&raw mut descriptor, 1, patience.as_millis() as libc::c_int) };
}
