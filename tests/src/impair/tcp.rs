//! Byte streams through an [`Impairer`]: connections that stall, and break when told.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::Impairer;
use super::proxy::{Control, Plan};

/// A piece of a stream, about what a segment carries.
const PIECE_BYTES: usize = 1400;

pub(super) async fn serve(listener: TcpListener, mut plan: Plan) {
    for number in 0.. {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                gone = plan.control.changed() => if gone.is_err() { return },
            }
        };
        if let Ok((client, _)) = accepted {
            // Moves from here on are this connection's too.
            let made = *plan.control.borrow();
            tokio::spawn(connect(client, number, made, plan.clone()));
        }
    }
}

/// Connects a client with the server, when there is no outage.
async fn connect(client: TcpStream, number: u64, made: Control, plan: Plan) {
    let mut control = plan.control.clone();
    loop {
        let Control { dark_until, moves } = *control.borrow_and_update();
        if moves != made.moves {
            return;
        }
        if plan.start.elapsed() >= dark_until {
            break;
        }
        tokio::select! {
            changed = control.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until((plan.start + dark_until).into()) => {}
        }
    }
    let Ok(server) = TcpStream::connect(plan.server).await else { return };
    // Small pieces of audio must not wait for each other.
    let _small = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = plan.path(number);
    tokio::spawn(carry(from_client, to_server, up, made, plan.clone()));
    tokio::spawn(carry(from_server, to_client, down, made, plan));
}

/// Carries one way of a connection until it ends or breaks. Whatever waits, a break does not.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut path: Impairer,
    made: Control,
    mut plan: Plan,
) {
    let mut buffer = [0; PIECE_BYTES];
    let mut ended = false;
    // What has come out and is not written yet.
    let mut out = std::collections::VecDeque::new();
    loop {
        let asked = *plan.control.borrow_and_update();
        if asked.moves != made.moves {
            // Dropping the halves breaks the connection.
            return;
        }
        path.black_out(asked.dark_until);
        while out.is_empty()
            && let Some(piece) = path.poll_output(plan.start.elapsed())
        {
            if piece.is_empty() {
                let _closed = to.shutdown().await.is_ok();
                return;
            }
            out.extend(piece);
        }
        let wake = path.poll_timeout().unwrap_or(Duration::from_secs(86_400));
        tokio::select! {
            read = from.read(&mut buffer), if !ended && path.has_room() => {
                // A connection that broke there has ended there; here it is known when that has come through.
                let length = read.unwrap_or(0);
                ended = length == 0;
                path.handle_input(plan.start.elapsed(), &buffer[..length]);
            }
            written = to.write_buf(&mut out), if !out.is_empty() => if written.is_err() { return },
            changed = plan.control.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until((plan.start + wake).into()), if out.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;
    use crate::impair::{Carries, Proxy};
    use crate::link::{GilbertElliott, LinkSpec};

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

    async fn proxy(server: SocketAddr) -> Proxy {
        Proxy::start(Carries::Stream, server, LinkSpec::perfect(), 3).await.unwrap()
    }

    #[tokio::test]
    async fn bytes_come_back_whole_over_a_lossy_path_and_an_outage() {
        let spec = LinkSpec::perfect().loss(GilbertElliott::independent(0.05));
        let proxy = Proxy::start(Carries::Stream, echo().await, spec, 3).await.unwrap();
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
    async fn a_move_breaks_what_is_there_and_not_what_comes() {
        let proxy = proxy(echo().await).await;
        for _ in 0..2 {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
            assert_eq!(&heard, b"hello");
            proxy.move_clients();
            let broken = timeout(PATIENCE, stream.read(&mut heard)).await.unwrap();
            assert!(matches!(broken, Ok(0) | Err(_)), "{broken:?}");
        }
    }
    #[tokio::test]
    async fn neither_a_connection_nor_its_end_comes_through_an_outage() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = proxy(server.local_addr().unwrap()).await;
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut there, _) = timeout(PATIENCE, server.accept()).await.unwrap().unwrap();
        let (outage, start) = (Duration::from_millis(300), Instant::now());
        proxy.black_out(outage);
        // A shorter one does not end it.
        proxy.black_out(Duration::ZERO);
        drop(client);
        let _late = TcpStream::connect(proxy.address()).await.unwrap();
        let end = async { assert_eq!(there.read(&mut [0]).await.unwrap(), 0) };
        timeout(PATIENCE, end).await.unwrap();
        assert!(start.elapsed() >= outage);
        timeout(PATIENCE, server.accept()).await.unwrap().unwrap();
        assert!(start.elapsed() >= outage);
    }

    #[tokio::test]
    async fn a_connection_breaks_though_its_far_end_takes_nothing() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = proxy(server.local_addr().unwrap()).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (_deaf, _) = timeout(PATIENCE, server.accept()).await.unwrap().unwrap();
        let piece = vec![0; 1 << 16];
        // All buffers on the way are full when nothing can be written for a while.
        while let Ok(written) = timeout(Duration::from_millis(300), client.write(&piece)).await {
            written.unwrap();
        }
        proxy.move_clients();
        let broken = async { while client.write(&piece).await.is_ok() {} };
        timeout(PATIENCE, broken).await.unwrap();
    }
}
