//! Datagrams that are ready to be sent: what the kernel alone takes.

use std::net::UdpSocket;

use relayd::webrtc::egress::{BATCH, Batch, Destination};

/// Header of 24 bytes, payload of 120, tag of 16.
pub const DATAGRAM: usize = 160;

/// A socket, and where its datagrams go.
#[derive(Debug)]
pub struct Ready {
    /// The way out.
    pub batch: Batch,
    /// One for each receiver.
    pub destinations: Vec<Destination>,
}

impl Ready {
    /// Sends to these sockets.
    ///
    /// # Panics
    /// When there is no socket to be had.
    #[must_use]
    pub fn new(ears: &[UdpSocket]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
        let batch = Batch::new(socket).expect("the socket is bound");
        let address = |ear: &UdpSocket| ear.local_addr().expect("the socket is bound");
        let destinations = ears.iter().map(|ear| batch.destination(address(ear))).collect();
        Self { batch, destinations }
    }

    /// Sends one to each; `sent` is called when a batch is with the kernel.
    ///
    /// # Panics
    /// Never: the datagrams are short.
    pub fn send(&mut self, mut sent: impl FnMut()) {
        for destinations in self.destinations.chunks(BATCH) {
            for destination in destinations {
                self.batch.slot(DATAGRAM).expect("a short datagram");
                self.batch.commit(DATAGRAM, destination);
            }
            self.batch.flush();
            sent();
        }
    }
}
