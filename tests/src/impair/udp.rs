//! Datagrams through an [`Impairer`](super::Impairer): a NAT with a port for each of its clients' addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::proxy::{ANY_PORT, Plan};

/// Client addresses at one time; beyond, the one that was first is forgotten.
const MAX_CLIENTS: usize = 16;
/// Datagrams that wait for a client's path.
const QUEUE: usize = 1024;
const DATAGRAM_BYTES: usize = 2048;

pub(super) async fn serve(socket: Arc<UdpSocket>, mut plan: Plan) {
    let mut clients: BTreeMap<SocketAddr, (u64, mpsc::Sender<Vec<u8>>)> = BTreeMap::new();
    let mut made = 0;
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            gone = plan.control.changed() => match gone {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        // An error tells of an earlier datagram that nobody took.
        let Ok((length, source)) = received else { continue };
        if clients.get(&source).is_none_or(|(_, path)| path.is_closed()) {
            clients.remove(&source);
            if clients.len() >= MAX_CLIENTS {
                let oldest = clients.iter().min_by_key(|(_, (number, _))| *number).map(|(key, _)| *key);
                oldest.map(|key| clients.remove(&key));
            }
            made += 1;
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(carry(plan.clone(), made, socket.clone(), source, receiver));
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
    mut plan: Plan,
    number: u64,
    front: Arc<UdpSocket>,
    client: SocketAddr,
    mut from_client: mpsc::Receiver<Vec<u8>>,
) {
    let (mut up, mut down) = plan.path(number);
    let mut moves = plan.control.borrow().moves;
    let Ok(mut back) = UdpSocket::bind(ANY_PORT).await else { return };
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let wake = up.poll_timeout().into_iter().chain(down.poll_timeout()).min();
        let wake = plan.start + wake.unwrap_or(Duration::from_secs(86_400));
        let entered = tokio::select! {
            datagram = from_client.recv() => match datagram {
                Some(datagram) => Some((true, datagram)),
                None => return,
            },
            received = back.recv_from(&mut buffer) => match received {
                Ok((length, source)) if source == plan.server => Some((false, buffer[..length].to_vec())),
                _ => None,
            },
            changed = plan.control.changed() => if changed.is_ok() { None } else { return },
            () = tokio::time::sleep_until(wake.into()) => None,
        };
        // What was asked before a datagram came holds for it.
        let asked = *plan.control.borrow();
        up.black_out(asked.dark_until);
        down.black_out(asked.dark_until);
        if asked.moves != moves {
            moves = asked.moves;
            let Ok(other) = UdpSocket::bind(ANY_PORT).await else { return };
            back = other;
        }
        if let Some((upwards, datagram)) = entered {
            let way = if upwards { &mut up } else { &mut down };
            way.handle_input(plan.start.elapsed(), &datagram);
        }
        let now = plan.start.elapsed();
        while let Some(datagram) = up.poll_output(now) {
            let _lost = back.send_to(&datagram, plan.server).await.is_err();
        }
        while let Some(datagram) = down.poll_output(now) {
            let _lost = front.send_to(&datagram, client).await.is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;
    use crate::impair::{Carries, Proxy};
    use crate::link::LinkSpec;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 64];
        let (length, source) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        (buffer[..length].to_vec(), source)
    }

    async fn proxy(server: &UdpSocket) -> Proxy {
        let server = server.local_addr().unwrap();
        Proxy::start(Carries::Datagrams, server, LinkSpec::perfect(), 1).await.unwrap()
    }

    #[tokio::test]
    async fn each_client_has_a_port_that_changes_when_told() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let proxy = proxy(&server).await;
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
        proxy.move_clients();
        one.send_to(b"again", proxy.address()).await.unwrap();
        let (_, moved) = heard(&server).await;
        assert_ne!(moved, first);
        server.send_to(b"found", moved).await.unwrap();
        assert_eq!(heard(&one).await.0, b"found");
    }

    #[tokio::test]
    async fn nothing_passes_in_an_outage_and_all_does_after_it() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let proxy = proxy(&server).await;
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
