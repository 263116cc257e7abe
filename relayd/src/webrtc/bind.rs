//! Opens the one UDP port and starts what lives on it: receivers, the actor, the shard.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Mutex, mpsc};

use super::keys::Identity;
use super::plane::{Parts, Plane};
use super::receiver::{Receiver, Shared};
use super::{BindError, Connections, WebRtcConfig};
use crate::shard::{ShardThreads, Shards, ShardsConfig};

/// What [`Connections::bind`] started; awaited by whoever started it, after [`Connections::shutdown`].
#[derive(Debug)]
pub struct ConnectionsTask {
    actor: JoinHandle<()>,
    receivers: Vec<JoinHandle<()>>,
    /// Tells the receivers to end.
    stop: Arc<AtomicBool>,
    shard: Shards,
    shards: ShardThreads,
}

impl ConnectionsTask {
    /// Waits until the actor and the shards' threads have ended.
    pub async fn join(self) {
        let Self { actor, receivers, stop, shard, shards } = self;
        let ended = tokio::task::spawn_blocking(move || {
            let actor = actor.join().is_ok();
            // One that has failed has told nobody.
            stop.store(true, Ordering::Relaxed);
            shard.shutdown();
            // None is left out when one has failed.
            let failed = receivers.into_iter().filter_map(|receiver| receiver.join().err()).count();
            (actor && failed == 0, shards.join().is_ok())
        });
        let ended = ended.await.unwrap_or((false, false));
        if !ended.0 {
            tracing::error!("the connection plane failed");
        }
        if !ended.1 {
            tracing::error!("the media plane failed");
        }
    }
}

impl Connections {
    /// Binds the one UDP port, spawns the shards on clones of its socket and the actor on the current runtime.
    ///
    /// # Errors
    /// When the address can not be bound, or when it is unspecified and nothing is configured to advertise.
    pub async fn bind(
        config: WebRtcConfig,
        shards: impl Into<ShardsConfig>,
    ) -> Result<(Connections, Shards, ConnectionsTask), BindError> {
        let shards_config = shards.into();
        let address = config.bind;
        let failed = |error| BindError::Socket { address, error };
        let sockets = open_sockets(&config).map_err(failed)?;
        let local = sockets[0].local_addr().map_err(failed)?;
        let candidates = candidates(&config, local)?;
        let for_shards = sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<Vec<_>>>();
        let for_shards = for_shards.map_err(failed)?;
        let socket = sockets[0].try_clone().map_err(failed)?;
        // Some 10 ms of key generation and self-tests, once.
        let identity = tokio::task::spawn_blocking(Identity::generate)
            .await
            .map_err(|error| BindError::Dtls(error.to_string()))?
            .map_err(BindError::Dtls)?;
        let cname = shards_config.shard.cname.clone();
        let (shard, threads) = Shards::spawn(&for_shards, &shards_config).map_err(BindError::Shard)?;
        let (commands, receiver) = mpsc::channel(config.command_queue.max(1));
        let (shared, inbounds) = Shared::new(&config);
        let shard_handle = shard.clone();
        let parts = Parts {
            config: config.clone(),
            socket,
            shared: shared.clone(),
            inbounds,
            identity,
            shard: shard_handle,
            candidates,
            cname,
            commands: receiver,
        };
        let plane = Plane::new(parts).map_err(failed)?;
        let actor = spawn(plane).map_err(failed)?;
        let receivers = receive(&config, sockets, &shared, &shard).map_err(failed)?;
        let selecting = shard.each().iter().map(|_| Mutex::default()).collect();
        let connections = Connections { commands, local, shard: shard.clone(), selecting };
        let stop = shared.stop;
        let task = ConnectionsTask { actor, receivers, stop, shard: shard.clone(), shards: threads };
        Ok((connections, shard, task))
    }
}

/// Starts a receiver for each socket; all of them or none.
fn receive(
    config: &WebRtcConfig,
    sockets: Vec<UdpSocket>,
    shared: &Shared,
    shard: &Shards,
) -> io::Result<Vec<JoinHandle<()>>> {
    let receivers = sockets
        .into_iter()
        .enumerate()
        .map(|(number, socket)| Receiver::new(config, shared.clone(), shard.clone()).spawn(number, socket));
    let receivers: io::Result<_> = receivers.collect();
    if receivers.is_err() {
        shared.stop.store(true, Ordering::Relaxed);
    }
    receivers
}

/// Runs the actor on a thread of its own: what it does for a speaker's packet waits for no other task.
fn spawn(plane: Plane) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("connections".to_owned()).spawn(move || runtime.block_on(plane.run()))
}

/// As many sockets on the one port as the system lets us have, of those that are wanted; at least one.
fn open_sockets(config: &WebRtcConfig) -> io::Result<Vec<UdpSocket>> {
    let first = open_socket(config)?;
    first.bind(&config.bind.into())?;
    let mut sockets = vec![first];
    #[cfg(target_os = "linux")]
    if config.receivers > 1
        && let Err(error) = open_others(config, &mut sockets)
    {
        tracing::warn!(%error, sockets = sockets.len(), "fewer sockets on the webrtc port than wanted");
    }
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// Opens the others of a group between which the kernel divides the peers. The first was bound alone, so that a port
/// that is taken is found out, another relay's too. The option stays on: without it the kernel does not divide.
#[cfg(target_os = "linux")]
fn open_others(config: &WebRtcConfig, sockets: &mut Vec<Socket>) -> io::Result<()> {
    let address = sockets[0].local_addr()?;
    sockets[0].set_reuse_port(true)?;
    while sockets.len() < config.receivers {
        let socket = open_socket(config)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address)?;
        sockets.push(socket);
    }
    Ok(())
}

fn open_socket(config: &WebRtcConfig) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(config.bind), Type::DGRAM, Some(Protocol::UDP))?;
    if config.bind.ip() == Ipv6Addr::UNSPECIFIED {
        // One port for both IP versions.
        socket.set_only_v6(false)?;
    }
    // The system may grant less, and that is no reason not to start.
    if let Err(error) = socket.set_recv_buffer_size(config.receive_buffer_bytes) {
        tracing::warn!(%error, "receive buffer of the webrtc port left as it is");
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The host candidates of every answer.
fn candidates(config: &WebRtcConfig, local: SocketAddr) -> Result<Vec<SocketAddr>, BindError> {
    if config.advertise.is_empty() {
        if local.ip().is_unspecified() {
            return Err(BindError::NothingToAdvertise);
        }
        return Ok(vec![local]);
    }
    let mut candidates = Vec::new();
    for advertised in &config.advertise {
        let port = if advertised.port() == 0 { local.port() } else { advertised.port() };
        let candidate = SocketAddr::new(advertised.ip().to_canonical(), port);
        let reachable = candidate.is_ipv4() == local.is_ipv4() || local.ip() == Ipv6Addr::UNSPECIFIED;
        if candidate.ip().is_unspecified() || candidate.ip().is_multicast() || !reachable {
            return Err(BindError::Advertise(candidate));
        }
        if !candidates.contains(&candidate) {
            candidates.push(candidate);
        }
    }
    Ok(candidates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ShardConfig;

    fn config(bind: &str, advertise: &[&str]) -> WebRtcConfig {
        WebRtcConfig {
            bind: bind.parse().unwrap(),
            advertise: advertise.iter().map(|a| a.parse().unwrap()).collect(),
            ..WebRtcConfig::default()
        }
    }

    fn resolve(bind: &str, advertise: &[&str]) -> Result<Vec<SocketAddr>, BindError> {
        let config = config(bind, advertise);
        candidates(&config, config.bind)
    }

    #[test]
    fn a_bound_address_is_advertised_unless_others_are_configured() {
        assert_eq!(resolve("127.0.0.1:7", &[]).unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        let advertised = resolve("0.0.0.0:7", &["192.0.2.1:0", "192.0.2.1:7", "192.0.2.2:9"]).unwrap();
        assert_eq!(advertised, ["192.0.2.1:7".parse().unwrap(), "192.0.2.2:9".parse().unwrap()]);
        let both = resolve("[::]:7", &["192.0.2.1:0", "[2001:db8::1]:0"]).unwrap();
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn nothing_to_reach_is_an_error() {
        assert!(matches!(resolve("0.0.0.0:7", &[]), Err(BindError::NothingToAdvertise)));
        assert!(matches!(resolve("[::]:7", &[]), Err(BindError::NothingToAdvertise)));
        assert!(matches!(resolve("0.0.0.0:7", &["0.0.0.0:7"]), Err(BindError::Advertise(_))));
        assert!(matches!(resolve("0.0.0.0:7", &["[2001:db8::1]:7"]), Err(BindError::Advertise(_))));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_divides_the_peers_and_keeps_each_at_its_socket() {
        let config = WebRtcConfig { receivers: 4, ..config("127.0.0.1:0", &[]) };
        let sockets = open_sockets(&config).unwrap();
        let local = sockets[0].local_addr().unwrap();
        let peers: Vec<UdpSocket> = (0..64).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for _ in 0..3 {
            peers.iter().for_each(|peer| assert_eq!(peer.send_to(b"x", local).unwrap(), 1));
        }
        let heard = sockets.iter().map(|socket| {
            let mut by = std::collections::BTreeMap::new();
            while let Ok((_, peer)) = socket.recv_from(&mut [0; 8]) {
                *by.entry(peer).or_insert(0) += 1;
            }
            by
        });
        let heard: Vec<_> = heard.collect();
        assert!(heard.iter().filter(|by| !by.is_empty()).count() > 1, "{heard:?}");
        assert!(heard.iter().flat_map(|by| by.values()).all(|count| *count == 3), "{heard:?}");
        assert!(UdpSocket::bind(local).is_err(), "the port is taken");
    }

    #[tokio::test]
    async fn an_actor_that_fails_leaves_no_thread_behind() {
        let config = config("127.0.0.1:0", &[]);
        let (connections, shard, task) = Connections::bind(config, ShardConfig::default()).await.unwrap();
        // The real one goes on, as long as there is a handle on it, and tells nobody to end.
        let actor = std::thread::spawn(|| panic!("a bug in the plane"));
        let task = ConnectionsTask { actor, ..task };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), task.join()).await;
        assert!(ended.is_ok());
        assert!(shard.ping().await.is_err());
        drop(connections);
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let config = config(&taken.local_addr().unwrap().to_string(), &[]);
        let error = Connections::bind(config, ShardConfig::default()).await.unwrap_err();
        assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
        // Of another relay, whose sockets share it among themselves.
        let group = WebRtcConfig { receivers: 2, ..WebRtcConfig::default() };
        let group = WebRtcConfig { bind: SocketAddr::from(([127, 0, 0, 1], 0)), ..group };
        let others = open_sockets(&group).unwrap();
        let bind = others[0].local_addr().unwrap();
        let second = Connections::bind(WebRtcConfig { bind, ..group }, ShardConfig::default()).await;
        assert!(matches!(second, Err(BindError::Socket { .. })));
    }
}
