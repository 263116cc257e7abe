//! The UDP ports that peers send to: one for all, or one for each shard.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::routes::Pair;
use super::{BindError, WebRtcConfig};

/// How often a row of ports is looked for when any will do.
const ATTEMPTS: usize = 64;

/// One port, as the plane has it.
pub(super) struct Port {
    /// To send on; it does not block.
    socket: UdpSocket,
    /// Host candidates, resolved; never empty.
    candidates: Vec<SocketAddr>,
    /// The socket is IPv6: IPv4 peers are written as mapped addresses.
    mapped: bool,
}

impl Port {
    pub(super) fn new(socket: UdpSocket, candidates: Vec<SocketAddr>) -> io::Result<Self> {
        let mapped = socket.local_addr()?.is_ipv6();
        Ok(Self { socket, candidates, mapped })
    }

    /// Where its peers are told to send to.
    pub(super) fn candidates(&self) -> &[SocketAddr] {
        &self.candidates
    }

    pub(super) fn send(&self, destination: SocketAddr, datagram: &[u8]) -> io::Result<usize> {
        self.socket.send_to(datagram, self.on_the_wire(destination))
    }

    /// The address as the socket writes it.
    pub(super) fn on_the_wire(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.mapped => SocketAddr::from((ip.to_ipv6_mapped(), address.port())),
            _ => address,
        }
    }

    /// The address that a peer of this IP version sends to, as far as it was told.
    pub(super) fn facing(&self, peer: SocketAddr) -> SocketAddr {
        facing(&self.candidates, peer)
    }
}

/// The candidate, of at least one, that a peer of this IP version sends to.
pub(super) fn facing(candidates: &[SocketAddr], peer: SocketAddr) -> SocketAddr {
    let same = candidates.iter().find(|candidate| candidate.is_ipv4() == peer.is_ipv4());
    *same.unwrap_or(&candidates[0])
}

/// All of them; never none.
pub(super) struct Ports(Vec<Port>);

impl Ports {
    /// At least one.
    pub(super) fn new(ports: Vec<Port>) -> Self {
        assert!(!ports.is_empty(), "peers send somewhere");
        Self(ports)
    }

    /// Opens the ports, and the sockets on them that are to be read: several on the one port, or one on each shard's.
    pub(super) fn open(config: &WebRtcConfig, shards: usize) -> Result<(Vec<UdpSocket>, Self), BindError> {
        let failed = |error| BindError::Socket { address: config.bind, error };
        let sockets = match config.port_per_shard {
            true => open_row(config, shards.max(1)),
            false => open_group(config),
        };
        let sockets = sockets.map_err(failed)?;
        let ports = if config.port_per_shard { sockets.len() } else { 1 };
        let ports = sockets.iter().zip(0..).take(ports).map(|(socket, above)| {
            let candidates = candidates(config, above, socket.local_addr().map_err(failed)?)?;
            Port::new(socket.try_clone().map_err(failed)?, candidates).map_err(failed)
        });
        let ports = ports.collect::<Result<_, BindError>>()?;
        Ok((sockets, Self::new(ports)))
    }

    /// The port that a shard's peers send to.
    pub(super) fn of(&self, shard: u8) -> &Port {
        &self.0[usize::from(self.number(shard))]
    }

    /// What a peer of a shard is known by that comes from `source`.
    pub(super) fn pair(&self, shard: u8, source: SocketAddr) -> Pair {
        Pair { port: self.number(shard), source }
    }

    /// The number of the port that a shard's peers send to; 0 where there is one for all.
    pub(super) fn number(&self, shard: u8) -> u8 {
        // No more than the shard's.
        (usize::from(shard) % self.0.len()) as u8
    }
}

/// A socket for each shard, on the port and those that follow it. Any row of free ports will do where the port is 0.
fn open_row(config: &WebRtcConfig, shards: usize) -> io::Result<Vec<UdpSocket>> {
    let mut attempts = if config.bind.port() == 0 { ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        match try_row(config, shards) {
            Err(error) if attempts > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            opened => return opened,
        }
    }
}

fn try_row(config: &WebRtcConfig, shards: usize) -> io::Result<Vec<UdpSocket>> {
    let mut address = config.bind;
    let mut sockets = Vec::with_capacity(shards);
    for above in 0..shards {
        let socket = open_socket(config)?;
        socket.bind(&address.into()).map_err(|error| {
            io::Error::new(error.kind(), format!("port {} of shard {above}: {error}", address.port()))
        })?;
        let socket = UdpSocket::from(socket);
        if above + 1 < shards {
            let next = socket.local_addr()?.port().checked_add(1);
            // A row that would end above the last port is looked for elsewhere.
            let kind =
                if config.bind.port() == 0 { io::ErrorKind::AddrInUse } else { io::ErrorKind::InvalidInput };
            let beyond = || io::Error::new(kind, format!("{shards} shards need as many ports up to 65535"));
            address.set_port(next.ok_or_else(beyond)?);
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// As many sockets on the one port as the system lets us have, of those that are wanted; at least one.
fn open_group(config: &WebRtcConfig) -> io::Result<Vec<UdpSocket>> {
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

/// The host candidates of the answers on the port which is so many above the first.
fn candidates(config: &WebRtcConfig, above: u16, local: SocketAddr) -> Result<Vec<SocketAddr>, BindError> {
    if config.advertise.is_empty() {
        if local.ip().is_unspecified() {
            return Err(BindError::NothingToAdvertise);
        }
        return Ok(vec![local]);
    }
    let mut candidates = Vec::new();
    for advertised in &config.advertise {
        let port = match advertised.port() {
            0 => local.port(),
            first => first.checked_add(above).ok_or(BindError::Advertise(*advertised))?,
        };
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
        candidates(&config, 0, config.bind)
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
        let sockets = open_group(&config).unwrap();
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

    #[test]
    fn each_shard_has_a_port_of_its_own_in_a_row() {
        let config = WebRtcConfig {
            port_per_shard: true,
            ..config("127.0.0.1:0", &["192.0.2.1:7000", "192.0.2.2:0"])
        };
        let (sockets, ports) = Ports::open(&config, 3).unwrap();
        let first = sockets[0].local_addr().unwrap().port();
        assert_eq!(sockets.len(), 3);
        for (shard, socket) in sockets.iter().enumerate() {
            let (shard, port) = (shard as u8, first + shard as u16);
            assert_eq!(socket.local_addr().unwrap().port(), port);
            let told = [format!("192.0.2.1:{}", 7000 + u16::from(shard)), format!("192.0.2.2:{port}")];
            assert_eq!(
                ports.of(shard).candidates().iter().map(ToString::to_string).collect::<Vec<_>>(),
                told
            );
            let ear = UdpSocket::bind("127.0.0.1:0").unwrap();
            ear.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            ports.of(shard).send(ear.local_addr().unwrap(), b"x").unwrap();
            assert_eq!(ear.recv_from(&mut [0; 8]).unwrap().1.port(), port);
        }
    }

    #[test]
    fn a_row_without_room_is_refused_by_name() {
        let row = |port: u16, shards, advertise: &[&str]| {
            let config =
                WebRtcConfig { port_per_shard: true, ..config(&format!("127.0.0.1:{port}"), advertise) };
            Ports::open(&config, shards).map(|_| ()).unwrap_err().to_string()
        };
        // One that is taken, above one that nobody takes before we do.
        let second = std::iter::repeat_with(|| {
            let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
            let above = taken.local_addr().unwrap().port();
            let first = row(above, 2, &[]);
            assert!(first.contains(&format!("port {above} of shard 0")), "{first}");
            (above, row(above - 1, 2, &[]))
        });
        let (above, second) = second.take(64).find(|(_, said)| !said.contains("of shard 0")).unwrap();
        assert!(second.contains(&format!("port {above} of shard 1")), "{second}");
        let beyond = row(65_535, 2, &[]);
        assert!(beyond.contains("as many ports"), "{beyond}");
        assert!(row(0, 2, &["192.0.2.1:65535"]).contains("cannot advertise"));
    }
}
