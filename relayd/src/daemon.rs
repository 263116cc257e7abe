//! The daemon as a type: what is started in which order, and stopped in which.
//!
//! Start: keys → WebRTC port with its shards → directory → demo → HTTP → ops. Whatever fails undoes what came before by
//! being dropped. Stop: readiness and new work first, then connections with the media plane, then HTTP and last
//! the operator's listener, so that a stop can be watched. Requests in flight have half of the time there is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::auth::{AuthSetupError, Authority, Caller};
use crate::config::{Config, ConfigError};
use crate::demo;
use crate::http::server::Server;
use crate::http::{self, Api, ops};
use crate::metrics::Metrics;
use crate::outbound::{Outbound, OutboundSetupError};
use crate::overload::{Overload, Rules};
use crate::records::Records;
use crate::session::{
    Claim, Counts, Directory, Feed, Language, Limits, PublisherSlot, Service, ServiceError, SessionId,
    SessionSpec,
};
use crate::shard::{ShardConfig, ShardsConfig};
use crate::webhook::Webhooks;
use crate::webrtc::{BindError, Connections, ConnectionsTask, Record, WebRtcConfig};

/// A running relay. Stop it with [`Daemon::shutdown`]; dropping it stops serving without ceremony.
#[derive(Debug)]
pub struct Daemon {
    http_addr: SocketAddr,
    ops_addr: SocketAddr,
    webrtc_ports: String,
    service: Service,
    api: Arc<Api>,
    connections_task: ConnectionsTask,
    http: Listening,
    ops: Listening,
    sessions: AbortOnDrop,
    _background: [AbortOnDrop; 4],
    webhooks: Option<Sending>,
    demo: Option<DemoSpeakers>,
    shutdown_timeout: Duration,
}

impl Daemon {
    /// Binds every listener and starts everything. Ports may be 0; the bound addresses are then asked for.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let outbound = Outbound::new(&config.outbound)?;
        let authority = Authority::new(&config.auth, outbound.clone())?;
        let webhooks = Webhooks::new(&config.webhooks, outbound);
        let http_listener = bind("http.listen", config.http.listen).await?;
        let ops_listener = bind("ops.listen", config.ops.listen).await?;
        let http_addr = local(&http_listener)?;
        let ops_addr = local(&ops_listener)?;

        let (connections, shard, connections_task) =
            Connections::bind(webrtc(&config), shards(&config)).await?;
        let service = Service::new(Directory::new(Limits::from(&config)), shard, connections);
        let sessions = AbortOnDrop(tokio::spawn(service.clone().run()));

        let overload = Overload::new(Rules::from(&config.overload));
        let directory = service.directory().clone();
        overload.shed_by(move |now, shedding| directory.shed(now, shedding));
        let sampling = AbortOnDrop(tokio::spawn(overload.clone().watch(service.shard().clone())));
        let metrics = Arc::new(Metrics::new(overload));
        let counting = metrics.clone();
        service.directory().observe(move |report| counting.replaced(report));
        let following = AbortOnDrop(tokio::spawn(metrics.clone().follow(service.shard().events())));
        let upkeep = AbortOnDrop(tokio::spawn(metrics.clone().upkeep()));
        let sender = webhooks.clone();
        let webhooks = webhooks.map(|webhooks| Sending::start(webhooks, service.directory().feed()));
        let keys = AbortOnDrop(tokio::spawn({
            let authority = authority.clone();
            async move { authority.prepare(Instant::now()).await }
        }));
        let records = metrics.records().clone();
        let api = Api::new(service.clone(), &config, http_addr, metrics, authority, sender);
        // Whoever comes back to a relay that was restarted finds it there.
        let demo = if config.demo.enabled { Some(start_demo(&service).await?) } else { None };
        let http = Listening::start(Server::new(
            http_listener,
            http::router(api.clone()),
            &config.http,
            records.clone(),
        ));
        let ops =
            Listening::start(Server::new(ops_listener, ops::router(api.clone()), &config.http, records));
        let shutdown_timeout = config.daemon.shutdown_timeout;
        let webrtc_ports = row(service.connections().local_addr(), ports(&config));
        warn_of_strangers(&config);
        tracing::info!(http = %http_addr, ops = %ops_addr, webrtc = %webrtc_ports, "relay started");
        Ok(Self {
            http_addr,
            ops_addr,
            webrtc_ports,
            service,
            api,
            connections_task,
            http,
            ops,
            sessions,
            _background: [upkeep, keys, sampling, following],
            webhooks,
            demo,
            shutdown_timeout,
        })
    }

    /// Where the API and the pages are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where the operator's listener is.
    pub fn ops_addr(&self) -> SocketAddr {
        self.ops_addr
    }

    /// The UDP address and ports of all WebRTC peers: `127.0.0.1:8080`, or `127.0.0.1:8080-8083` with one for each shard.
    pub fn webrtc_ports(&self) -> &str {
        &self.webrtc_ports
    }

    /// The UDP address of all WebRTC peers, of the first shard's if each has one.
    pub fn webrtc_addr(&self) -> SocketAddr {
        self.service.connections().local_addr()
    }

    /// The connection plane, for tests and tools that look at its counts.
    pub fn connections(&self) -> &Connections {
        self.service.connections()
    }

    /// The records of open connections, for tests and tools that count them.
    pub fn records(&self) -> Records {
        self.api.records()
    }

    /// Totals of the sessions, for tests and tools that count them.
    pub fn session_counts(&self) -> Counts {
        self.service.directory().counts()
    }

    /// How far the relay lags, for tests and tools that say so themselves.
    pub fn overload(&self) -> &Overload {
        self.api.overload()
    }

    /// Stops in order, within `daemon.shutdown_timeout`; `false` when that was not enough.
    pub async fn shutdown(self) -> bool {
        let limit = self.shutdown_timeout;
        let stopped = tokio::time::timeout(limit, self.stop()).await.is_ok();
        if stopped {
            tracing::info!("relay stopped");
        } else {
            tracing::warn!(?limit, "not everything stopped in time");
        }
        stopped
    }

    async fn stop(self) {
        tracing::info!("stopping: no new sessions, speakers or listeners");
        self.api.drain();
        drop(self.sessions);
        drop(self.demo);
        let http = self.http.stop(self.shutdown_timeout / 2);
        self.service.shutdown().await;
        self.connections_task.join().await;
        http.await;
        if let Some(webhooks) = self.webhooks {
            webhooks.stop(self.shutdown_timeout / 4).await;
        }
        self.ops.stop(self.shutdown_timeout / 4).await;
    }
}

/// Why the daemon did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keys that verify tokens cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthSetupError),
    /// The settings of requests to others cannot be used.
    #[error(transparent)]
    Outbound(#[from] OutboundSetupError),
    /// A TCP address could not be bound.
    #[error("cannot listen on {address} (tcp, `{key}`): {error}{}", hint(error))]
    Bind {
        /// The key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The UDP port could not be opened.
    #[error("{} (`webrtc.listen`){}", .0, udp_hint(.0))]
    WebRtc(#[from] BindError),
    /// The demo session could not be created.
    #[error("cannot create the demo session: {0}")]
    Demo(#[from] ServiceError),
    /// The system did not tell a bound address.
    #[error("cannot query a bound address: {0}")]
    Address(io::Error),
}

impl StartError {
    /// Whether an address was the reason, as scripts want to know.
    pub fn is_bind(&self) -> bool {
        matches!(self, Self::Bind { .. } | Self::WebRtc(_))
    }
}

/// One server task and its stop signal.
#[derive(Debug)]
struct Listening {
    stop: watch::Sender<bool>,
    task: AbortOnDrop,
}

impl Listening {
    fn start(server: Server) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: AbortOnDrop(tokio::spawn(server.serve(stopped))) }
    }

    /// Stops accepting at once; what comes back waits for the requests in flight, for so long.
    fn stop(self, grace: Duration) -> impl Future<Output = ()> {
        self.stop.send_replace(true);
        let mut task = self.task;
        async move {
            match tokio::time::timeout(grace, &mut task.0).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "http server failed"),
                Err(_) => tracing::warn!(?grace, "requests in flight were cut off"),
            }
        }
    }
}

/// The task that sends webhooks.
#[derive(Debug)]
struct Sending {
    webhooks: Webhooks,
    task: AbortOnDrop,
}

impl Sending {
    fn start(webhooks: Webhooks, feed: Feed) -> Self {
        Self { task: AbortOnDrop(tokio::spawn(webhooks.clone().run(feed))), webhooks }
    }

    /// Sends what can be sent at once, for so long.
    async fn stop(mut self, grace: Duration) {
        self.webhooks.stop();
        if tokio::time::timeout(grace, &mut self.task.0).await.is_err() {
            tracing::warn!(unsent = self.webhooks.counts().queued, "webhooks were cut off");
        }
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an operator should know of addresses that others can reach.
fn warn_of_strangers(config: &Config) {
    let reachable = |address: SocketAddr| !address.ip().to_canonical().is_loopback();
    if reachable(config.http.listen) {
        tracing::warn!(
            address = %config.http.listen,
            "others can reach http, which is not encrypted here: put a reverse proxy with TLS in front, or tokens can be read \
             on the way and browsers give pages no microphone"
        );
    }
    if reachable(config.ops.listen) {
        tracing::warn!(address = %config.ops.listen, "others can reach the operator's listener, which asks nobody for a token");
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    listen(address).map_err(|error| StartError::Bind { key, address, error })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As TcpListener::bind does: connections of the process before must not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(StartError::Address)
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has it: stop that one or set another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address",
        _ => "",
    }
}

fn udp_hint(error: &BindError) -> &'static str {
    match error {
        BindError::Socket { error, .. } => hint(error),
        _ => "",
    }
}

fn webrtc(config: &Config) -> WebRtcConfig {
    let usual = WebRtcConfig::default();
    let or_usual = |wanted: usize, usual: usize| if wanted == 0 { usual } else { wanted };
    WebRtcConfig {
        bind: config.webrtc.listen,
        max_pending: config.webrtc.max_pending,
        max_connections: config.webrtc.max_connections,
        ice_timeout: config.webrtc.ice_timeout,
        dtls_timeout: config.webrtc.dtls_timeout,
        join_timeout: config.webrtc.join_timeout,
        closed_after: config.webrtc.consent_timeout,
        receivers: or_usual(config.webrtc.receivers, usual.receivers),
        port_per_shard: config.webrtc.port_per_shard,
        handshake_threads: or_usual(config.webrtc.handshake_threads, usual.handshake_threads),
        ..usual
    }
}

/// How many UDP ports there are.
fn ports(config: &Config) -> usize {
    if config.webrtc.port_per_shard { shards(config).resolved() } else { 1 }
}

/// So many ports in a row, for a person or a firewall.
fn row(first: SocketAddr, ports: usize) -> String {
    match ports {
        0 | 1 => first.to_string(),
        _ => format!("{first}-{}", usize::from(first.port()) + ports - 1),
    }
}

fn shards(config: &Config) -> ShardsConfig {
    // 10 ms is the shortest frame that speakers send for long, and 512 kb/s the most that the engine takes of one.
    let millis = usize::try_from(config.media.history.as_millis()).unwrap_or(usize::MAX);
    // And a listener for each track that is fed to another shard.
    let feeds = config.media.max_tracks.saturating_mul(ShardsConfig::MOST);
    let connections = config.webrtc.max_connections.max(ENGINE_LISTENERS).saturating_add(feeds);
    let relay = relay_engine::Config::new()
        .history_duration(config.media.history)
        .history_frames((millis / 10).max(1))
        .history_payload_bytes(millis.saturating_mul(64))
        .max_listeners(connections)
        .max_listeners_per_track(connections)
        .max_legs(connections.saturating_mul(2))
        .max_tracks(config.media.max_tracks);
    let shard = ShardConfig { relay, ..ShardConfig::default() };
    let media = &config.media;
    ShardsConfig { count: media.shards, pin: media.pin, spill: media.spill, shard }
}

/// Connections that wait to be accepted; one more has to knock again a second later. The system may grant less.
const BACKLOG: u32 = 4096;

/// The engine's own limit of listeners; `webrtc.max_connections` is the one that is meant to be met.
const ENGINE_LISTENERS: usize = 65_536;

/// The demo's speakers, and their places in the session: nobody else can speak in it.
#[derive(Debug)]
struct DemoSpeakers {
    _task: AbortOnDrop,
    _slots: Vec<PublisherSlot>,
}

async fn start_demo(service: &Service) -> Result<DemoSpeakers, ServiceError> {
    let language = |tag: &str| tag.parse::<Language>().expect("the demo's languages are valid tags");
    let languages: Vec<Language> = demo::languages().map(language).collect();
    let names: Vec<String> = languages.iter().map(Language::to_string).collect();
    let source = languages[0].clone();
    let spec = SessionSpec { source, languages, owner: None, anonymous_listeners: true };
    let tracks = service.create_permanent(SessionId::demo(), spec).await?;
    let mut slots = Vec::with_capacity(names.len());
    for name in &names {
        let directory = service.directory();
        let taken =
            directory.publisher_slot(Instant::now(), "demo", Some(name), &Caller::Open, &Claim::None)?;
        let mut slot = taken.slot;
        slot.connected();
        slot.ready();
        slots.push(slot);
    }
    let task = demo::run(service.shard().clone(), names.into_iter().zip(tracks));
    Ok(DemoSpeakers { _task: AbortOnDrop(task), _slots: slots })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_ports_is_told_from_the_first_to_the_last() {
        let row = |first: &str, ports| row(first.parse().unwrap(), ports);
        assert_eq!(row("127.0.0.1:8080", 1), "127.0.0.1:8080");
        assert_eq!(row("[::1]:65532", 4), "[::1]:65532-65535");
        let mut config = Config::default();
        config.media.shards = 3;
        assert_eq!(ports(&config), 1);
        config.webrtc.port_per_shard = true;
        assert_eq!(ports(&config), 3);
    }
}
