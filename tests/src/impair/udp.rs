//! Datagrams through an [`Impairer`]: a NAT with a port for each of its clients' addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::{Carries, Control, Impairer};
use crate::link::LinkSpec;

/// Client addresses at one time; beyond, the one that was first is forgotten.
const MAX_CLIENTS: usize = 16;
/// Datagrams that wait for a client's path.
const QUEUE: usize = 1024;
const DATAGRAM_BYTES: usize = 2048;

/// A NAT in front of one server, with a bad path behind it. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    start: Instant,
    control: watch::Sender<Control>,
}

impl Proxy {
    /// Starts on a loopback port of its own, on the caller's tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start(server: SocketAddr, up: LinkSpec, down: LinkSpec, seed: u64) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let (control, watched) = watch::channel(Control::default());
        let start = Instant::now();
        let path = Path { server, up, down, seed, start, control: watched };
        tokio::spawn(serve(std::sync::Arc::new(socket), path));
        Ok(Self { address, start, control })
    }

    /// Where clients send to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes for so long.
    pub fn black_out(&self, time: Duration) {
        let until = self.start.elapsed() + time;
        self.control.send_modify(|control| control.dark_until = until);
    }

    /// The server sees each client come from another port from now on.
    pub fn rebind(&self) {
        self.control.send_modify(|control| control.generation += 1);
    }
}

#[derive(Clone)]
struct Path {
    server: SocketAddr,
    up: LinkSpec,
    down: LinkSpec,
    seed: u64,
    start: Instant,
    control: watch::Receiver<Control>,
}

async fn serve(socket: std::sync::Arc<UdpSocket>, path: Path) {
    let mut clients: BTreeMap<SocketAddr, (u64, mpsc::Sender<Vec<u8>>)> = BTreeMap::new();
    let mut made = 0;
    let mut buffer = [0; DATAGRAM_BYTES];
    let mut owner = path.control.clone();
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            gone = owner.changed() => match gone {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        // An error tells of an earlier datagram that nobody took.
        let Ok((length, source)) = received else { continue };
        if clients.get(&source).is_none_or(|(_, path)| path.is_closed()) {
            if clients.len() >= MAX_CLIENTS {
                let oldest = clients.iter().min_by_key(|(_, (number, _))| *number).map(|(key, _)| *key);
                oldest.map(|key| clients.remove(&key));
            }
            made += 1;
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(carry(path.clone(), made, socket.clone(), source, receiver));
            clients.insert(source, (made, sender));
        }
        if let Some((_, path)) = clients.get(&source) {
            // A full queue is loss, as in any router.
            let _lost = path.try_send(buffer[..length].to_vec()).is_err();
        }
    }
}

/// Carries one client's datagrams both ways.
async fn carry(
    path: Path,
    number: u64,
    front: std::sync::Arc<UdpSocket>,
    client: SocketAddr,
    mut from_client: mpsc::Receiver<Vec<u8>>,
) {
    let seed = path.seed.wrapping_mul(1_000_003).wrapping_add(number * 2);
    let mut up = Impairer::new(Carries::Datagrams, &path.up, seed);
    let mut down = Impairer::new(Carries::Datagrams, &path.down, seed + 1);
    let mut control = path.control.clone();
    let mut generation = control.borrow().generation;
    let Ok(mut back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { return };
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let wake = up.poll_timeout().into_iter().chain(down.poll_timeout()).min();
        let wake = path.start + wake.unwrap_or(Duration::from_secs(86_400));
        let entered = tokio::select! {
            datagram = from_client.recv() => match datagram {
                Some(datagram) => Some((true, datagram)),
                None => return,
            },
            received = back.recv_from(&mut buffer) => match received {
                Ok((length, source)) if source == path.server => Some((false, buffer[..length].to_vec())),
                _ => None,
            },
            changed = control.changed() => if changed.is_ok() { None } else { return },
            () = tokio::time::sleep_until(wake.into()) => None,
        };
        // What was asked before a datagram came holds for it.
        let asked = *control.borrow();
        up.black_out(asked.dark_until);
        down.black_out(asked.dark_until);
        if asked.generation != generation {
            generation = asked.generation;
            let Ok(other) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { return };
            back = other;
        }
        if let Some((upwards, datagram)) = entered {
            let way = if upwards { &mut up } else { &mut down };
            way.handle_input(path.start.elapsed(), &datagram);
        }
        let now = path.start.elapsed();
        while let Some(datagram) = up.poll_output(now) {
            let _lost = back.send_to(&datagram, path.server).await.is_err();
        }
        while let Some(datagram) = down.poll_output(now) {
            let _lost = front.send_to(&datagram, client).await.is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 64];
        let (length, source) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        (buffer[..length].to_vec(), source)
    }

    #[tokio::test]
    async fn each_client_has_a_port_that_changes_when_told() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let perfect = LinkSpec::perfect;
        let proxy = Proxy::start(server.local_addr().unwrap(), perfect(), perfect(), 1).await.unwrap();
        let (one, two) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        one.send_to(b"one", proxy.address()).await.unwrap();
        let (said, first) = heard(&server).await;
        assert_eq!(said, b"one");
        two.send_to(b"two", proxy.address()).await.unwrap();
        let (_, second) = heard(&server).await;
        assert_ne!(first, second);
        server.send_to(b"to one", first).await.unwrap();
        assert_eq!(heard(&one).await, (b"to one".to_vec(), proxy.address()));
        proxy.rebind();
        one.send_to(b"again", proxy.address()).await.unwrap();
        let (_, moved) = heard(&server).await;
        assert_ne!(moved, first);
        server.send_to(b"found", moved).await.unwrap();
        assert_eq!(heard(&one).await.0, b"found");
    }

    #[tokio::test]
    async fn nothing_passes_in_an_outage_and_all_does_after_it() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let perfect = LinkSpec::perfect;
        let proxy = Proxy::start(server.local_addr().unwrap(), perfect(), perfect(), 1).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let outage = Duration::from_millis(200);
        proxy.black_out(outage);
        let start = Instant::now();
        client.send_to(b"0", proxy.address()).await.unwrap();
        let mut sent = 0;
        let (_, _) = loop {
            client.send_to(b"1", proxy.address()).await.unwrap();
            sent += 1;
            if let Ok(heard) = timeout(Duration::from_millis(10), heard(&server)).await {
                break heard;
            }
        };
        assert!(start.elapsed() >= outage && sent > 1);
    }
}
