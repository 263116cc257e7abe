//! One datagram at a time, where there is no `recvmmsg`.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::MAX_DATAGRAM_BYTES;

/// What one system call has brought.
pub(super) struct Inbox {
    buffer: Box<[u8]>,
    length: usize,
    source: SocketAddr,
}

impl Inbox {
    pub(super) fn new() -> Self {
        let buffer = vec![0; MAX_DATAGRAM_BYTES + 1].into();
        Self { buffer, length: 0, source: SocketAddr::from(([0, 0, 0, 0], 0)) }
    }

    /// Takes what is there without waiting; the socket does not block.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        (self.length, self.source) = socket.recv_from(&mut self.buffer)?;
        Ok(1)
    }

    /// The one that the last call has brought.
    pub(super) fn datagram(&self, _at: usize) -> (SocketAddr, &[u8]) {
        (self.source, &self.buffer[..self.length])
    }
}

/// Waits a little.
pub(super) fn wait(_socket: &UdpSocket, patience: Duration) {
    std::thread::sleep(patience.min(Duration::from_millis(1)));
}
