//! Byte streams through an [`Impairer`]: a proxy whose connections stall, and break when told.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Carries, Control, Impairer};
use crate::link::LinkSpec;

/// A piece of a stream, about what a segment carries.
const PIECE_BYTES: usize = 1400;

/// A proxy in front of one server. Ends when dropped.
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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (control, watched) = watch::channel(Control::default());
        let start = Instant::now();
        tokio::spawn(serve(listener, server, up, down, seed, start, watched));
        Ok(Self { address, start, control })
    }

    /// Where clients connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes for so long; then everything does.
    pub fn black_out(&self, time: Duration) {
        let until = self.start.elapsed() + time;
        self.control.send_modify(|control| control.dark_until = until);
    }

    /// Every connection there is breaks.
    pub fn cut(&self) {
        self.control.send_modify(|control| control.generation += 1);
    }
}

async fn serve(
    listener: TcpListener,
    server: SocketAddr,
    up: LinkSpec,
    down: LinkSpec,
    seed: u64,
    start: Instant,
    mut control: watch::Receiver<Control>,
) {
    for number in 0.. {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                gone = control.changed() => if gone.is_err() { return },
            }
        };
        let Ok((client, _)) = accepted else { continue };
        let Ok(relay) = TcpStream::connect(server).await else { continue };
        // Small pieces of audio must not wait for each other.
        let _small = (client.set_nodelay(true), relay.set_nodelay(true));
        let (client_read, client_write) = client.into_split();
        let (relay_read, relay_write) = relay.into_split();
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(number * 2);
        let one_way = |spec: &LinkSpec, seed| Impairer::new(Carries::Stream, spec, seed);
        tokio::spawn(pump(client_read, relay_write, one_way(&up, seed), start, control.clone()));
        tokio::spawn(pump(relay_read, client_write, one_way(&down, seed + 1), start, control.clone()));
    }
}

/// Carries one way of a connection until it ends or is cut.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut path: Impairer,
    start: Instant,
    mut control: watch::Receiver<Control>,
) {
    let generation = control.borrow_and_update().generation;
    path.black_out(control.borrow().dark_until);
    let mut buffer = [0; PIECE_BYTES];
    let mut ended = false;
    while !(ended && path.poll_timeout().is_none()) {
        let wake = path.poll_timeout().unwrap_or(Duration::from_secs(86_400));
        tokio::select! {
            read = from.read(&mut buffer), if !ended && path.has_room() => match read {
                Ok(0) => ended = true,
                Ok(length) => path.handle_input(start.elapsed(), &buffer[..length]),
                Err(_) => return,
            },
            changed = control.changed() => {
                let asked = *control.borrow();
                // Dropping the halves breaks the connection.
                if changed.is_err() || asked.generation != generation {
                    return;
                }
                path.black_out(asked.dark_until);
            }
            () = tokio::time::sleep_until((start + wake).into()) => {}
        }
        while let Some(piece) = path.poll_output(start.elapsed()) {
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
    let _closed = to.shutdown().await.is_ok();
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::link::GilbertElliott;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server that says everything back.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _gone = tokio::io::copy(&mut read, &mut write).await.is_err();
                    let _gone = write.shutdown().await.is_err();
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn bytes_come_back_whole_over_a_lossy_path_and_an_outage() {
        let spec = LinkSpec::perfect().loss(GilbertElliott::independent(0.05));
        let proxy = Proxy::start(echo().await, spec.clone(), spec, 3).await.unwrap();
        let said: Vec<u8> = (0..40_000_u32).flat_map(u32::to_be_bytes).collect();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.black_out(Duration::from_millis(100));
        let (mut read, mut write) = stream.split();
        let mut heard = Vec::new();
        let both = async {
            let send = async {
                write.write_all(&said).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let receive = async { read.read_to_end(&mut heard).await.unwrap() };
            tokio::join!(send, receive)
        };
        timeout(PATIENCE, both).await.unwrap();
        assert!(heard == said);
    }

    #[tokio::test]
    async fn a_cut_breaks_what_is_there_and_not_what_comes() {
        let proxy = Proxy::start(echo().await, LinkSpec::perfect(), LinkSpec::perfect(), 3).await.unwrap();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
            assert_eq!(&heard, b"hello");
            proxy.cut();
            let broken = timeout(PATIENCE, stream.read(&mut heard)).await.unwrap();
            assert!(matches!(broken, Ok(0) | Err(_)), "{broken:?}");
        }
    }
}
