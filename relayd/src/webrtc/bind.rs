//! Opens the UDP ports and starts what lives on them: receivers, the actor, the shards.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{Mutex, mpsc};

use super::keys::Identity;
use super::plane::{Parts, Plane};
use super::ports::Ports;
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
    /// Binds the UDP port, or one for each shard, spawns the shards on clones of the sockets and the actor on the current
    /// runtime.
    ///
    /// # Errors
    /// When an address can not be bound, or when it is unspecified and nothing is configured to advertise.
    pub async fn bind(
        config: WebRtcConfig,
        shards: impl Into<ShardsConfig>,
    ) -> Result<(Connections, Shards, ConnectionsTask), BindError> {
        let shards_config = shards.into();
        let address = config.bind;
        let failed = |error| BindError::Socket { address, error };
        let (sockets, ports) = Ports::open(&config, shards_config.resolved())?;
        let local = sockets[0].local_addr().map_err(failed)?;
        let for_shards = sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<Vec<_>>>();
        let for_shards = for_shards.map_err(failed)?;
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
            ports,
            shared: shared.clone(),
            inbounds,
            identity,
            shard: shard_handle,
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
    let receivers = sockets.into_iter().enumerate().map(|(number, socket)| {
        // Those of one port are a group on it; a shard's number fits.
        let port = if config.port_per_shard { number as u8 } else { 0 };
        Receiver::new(config, port, shared.clone(), shard.clone()).spawn(number, socket)
    });
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::shard::ShardConfig;

    fn config(bind: &str) -> WebRtcConfig {
        WebRtcConfig { bind: bind.parse().unwrap(), ..WebRtcConfig::default() }
    }

    #[tokio::test]
    async fn an_actor_that_fails_leaves_no_thread_behind() {
        let config = config("127.0.0.1:0");
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
        let config = config(&taken.local_addr().unwrap().to_string());
        let error = Connections::bind(config, ShardConfig::default()).await.unwrap_err();
        assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
        // Of another relay, whose sockets share it among themselves.
        let group = WebRtcConfig { receivers: 2, ..WebRtcConfig::default() };
        let group = WebRtcConfig { bind: SocketAddr::from(([127, 0, 0, 1], 0)), ..group };
        let (others, _ports) = Ports::open(&group, 1).unwrap();
        let bind = others[0].local_addr().unwrap();
        let second = Connections::bind(WebRtcConfig { bind, ..group }, ShardConfig::default()).await;
        assert!(matches!(second, Err(BindError::Socket { .. })));
    }
}
