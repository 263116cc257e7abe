//! Opens the one UDP port and starts what lives on it.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::keys::Identity;
use super::plane::{Parts, Plane};
use super::{BindError, Connections, WebRtcConfig};
use crate::shard::{Shard, ShardConfig, ShardThread};

/// What [`Connections::bind`] started; awaited by whoever started it, after [`Connections::shutdown`].
#[derive(Debug)]
pub struct ConnectionsTask {
    actor: JoinHandle<()>,
    shard: ShardThread,
}

impl ConnectionsTask {
    /// Waits until the actor and the shard's thread have ended.
    pub async fn join(self) {
        if let Err(error) = self.actor.await {
            tracing::error!(%error, "the connection plane failed");
        }
        let shard = self.shard;
        let ended = tokio::task::spawn_blocking(move || shard.join().is_ok()).await;
        if !matches!(ended, Ok(true)) {
            tracing::error!("the media plane failed");
        }
    }
}

impl Connections {
    /// Binds the one UDP port, spawns the shard on a clone of its socket and the actor on the current runtime.
    ///
    /// # Errors
    /// When the address can not be bound, or when it is unspecified and nothing is configured to advertise.
    pub async fn bind(
        config: WebRtcConfig,
        shard_config: ShardConfig,
    ) -> Result<(Connections, Shard, ConnectionsTask), BindError> {
        let address = config.bind;
        let failed = |error| BindError::Socket { address, error };
        let socket = open_socket(&config).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        let candidates = candidates(&config, local)?;
        let for_shard = socket.try_clone().map_err(failed)?;
        let socket = UdpSocket::from_std(socket).map_err(failed)?;
        // Some 10 ms of key generation and self-tests, once.
        let identity = tokio::task::spawn_blocking(Identity::generate)
            .await
            .map_err(|error| BindError::Dtls(error.to_string()))?
            .map_err(BindError::Dtls)?;
        let cname = shard_config.cname.clone();
        let (shard, thread) = Shard::spawn(for_shard, shard_config).map_err(BindError::Shard)?;
        let (commands, receiver) = mpsc::channel(config.command_queue.max(1));
        let parts =
            Parts { config, socket, identity, shard: shard.clone(), candidates, cname, commands: receiver };
        let plane = Plane::new(Instant::now(), parts).map_err(failed)?;
        let actor = tokio::spawn(plane.run());
        let connections = Connections { commands, local, shard: shard.clone(), selecting: Arc::default() };
        Ok((connections, shard, ConnectionsTask { actor, shard: thread }))
    }
}

fn open_socket(config: &WebRtcConfig) -> io::Result<std::net::UdpSocket> {
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
    socket.bind(&config.bind.into())?;
    Ok(socket.into())
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

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let config = config(&taken.local_addr().unwrap().to_string(), &[]);
        let error = Connections::bind(config, ShardConfig::default()).await.unwrap_err();
        assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
    }
}
