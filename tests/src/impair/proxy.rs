//! A proxy in front of one server, with a bad path behind it: what both kinds of it share.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use super::{Carries, Impairer, tcp, udp};
use crate::link::LinkSpec;

/// Any loopback port.
pub(super) const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A proxy on a loopback port of its own. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    start: Instant,
    control: watch::Sender<Control>,
}

/// What the owner asks of the paths while they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Until then, since the proxy's start, nothing passes.
    pub dark_until: Duration,
    /// How often the clients have moved.
    pub moves: u64,
}

/// What the paths of a proxy are made by.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub server: SocketAddr,
    pub start: Instant,
    pub control: watch::Receiver<Control>,
    carries: Carries,
    each_way: LinkSpec,
    seed: u64,
}

impl Proxy {
    /// Starts on the caller's tokio runtime. Each way of each client's path is drawn from the seed.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start(
        carries: Carries,
        server: SocketAddr,
        each_way: LinkSpec,
        seed: u64,
    ) -> io::Result<Self> {
        let (start, (control, watched)) = (Instant::now(), watch::channel(Control::default()));
        let plan = Plan { server, start, control: watched, carries, each_way, seed };
        let address = match carries {
            Carries::Datagrams => {
                let socket = UdpSocket::bind(ANY_PORT).await?;
                let address = socket.local_addr()?;
                tokio::spawn(udp::serve(socket.into(), plan));
                address
            }
            Carries::Stream => {
                let listener = TcpListener::bind(ANY_PORT).await?;
                let address = listener.local_addr()?;
                tokio::spawn(tcp::serve(listener, plan));
                address
            }
        };
        Ok(Self { address, start, control })
    }

    /// Where clients connect and send to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes for so long; an outage that there is does not end sooner for it.
    pub fn black_out(&self, time: Duration) {
        let until = self.start.elapsed() + time;
        self.control.send_modify(|control| control.dark_until = control.dark_until.max(until));
    }

    /// The clients are elsewhere: the server sees their datagrams come from other ports from now on, and every
    /// connection that carries a stream breaks.
    pub fn move_clients(&self) {
        self.control.send_modify(|control| control.moves += 1);
    }
}

impl Plan {
    /// Both ways of the `number`-th path, up and down.
    pub(super) fn path(&self, number: u64) -> (Impairer, Impairer) {
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(number * 2);
        let way = |seed| Impairer::new(self.carries, &self.each_way, seed);
        (way(seed), way(seed.wrapping_add(1)))
    }
}
