//! One connection's own state: how far it has come, where its peer is, and when to give up.
//!
//! Pure but for the [`Stack`] it owns: the plane tells it what happened and does what it says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_engine::{LegId, ListenerId, TrackId};
use tokio::sync::oneshot;

use super::handshakes::Owner;
use super::offer::{IceCredentials, Offer, Remote};
use super::routes::Route;
use super::stack::Stack;
use super::untold::Untold;
use super::{CloseReason, JoinError, Joined, Record, ResourceId, Role, WebRtcConfig};
use crate::shard::{Allowance, Shards};

pub(super) struct Connection {
    pub(super) resource: ResourceId,
    /// Tells this connection from others that had or will have its slot.
    pub(super) generation: u64,
    pub(super) role: Role,
    pub(super) track: TrackId,
    /// What is left of the offer.
    pub(super) remote: Remote,
    /// Ours; the peer's are in `remote`.
    pub(super) ice: IceCredentials,
    /// `None` until the connection is up: then it is where the handshakes are.
    pub(super) stack: Option<Stack>,
    /// What keeps the stack there.
    pub(super) owner: Arc<Owner>,
    pub(super) record: Box<dyn Record>,
    /// Where the answer goes once the shard has opened the leg.
    pub(super) reply: Option<(oneshot::Sender<Result<Joined, JoinError>>, Asked)>,
    /// What the shard knows it by.
    pub(super) leg: Option<LegId>,
    /// Whose leg that is, unless it is a publisher's.
    pub(super) listener: Option<ListenerId>,
    /// What receivers know of it.
    pub(super) route: Arc<Route>,
    pub(super) peer: PeerAddresses,
    pub(super) untold: Untold,
    pub(super) stage: Stage,
    pub(super) accepted: Instant,
    /// Last datagram from an address of the peer's that came by the plane.
    pub(super) heard: Instant,
    /// Last authenticated STUN binding (RFC 7675: what consent to send rests on).
    pub(super) consent: Instant,
}

/// What the answer to a join is made of once its leg is open: the leg's shard may have a port of its own.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) offer: Offer,
    /// Ours, of a listener's leg.
    pub(super) ssrc: u32,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Answered; no authenticated STUN binding yet.
    Checking,
    /// ICE works; the DTLS handshake is on.
    Handshaking { since: Instant, restarted: bool },
    /// Media may flow.
    Up { disconnected: bool },
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    RestartDtls,
    Disconnected,
    Close(CloseReason),
}

/// The content type of handshake records (RFC 5246 §6.2.1).
const DTLS_HANDSHAKE: u8 = 22;

impl Connection {
    /// The number of the shard whose port the peer sends to.
    pub(super) fn port(&self) -> u8 {
        self.leg.map_or_else(|| self.track.relay(), |leg| leg.relay())
    }

    /// A listener sends its last flight again although our handshake is done: it has not had our Finished (RFC 6347
    /// §4.2.4), and could read nothing that was sent since. Anybody may forge one: it counts while a join may last.
    pub(super) fn is_unfinished(&self, now: Instant, config: &WebRtcConfig, datagram: &[u8]) -> bool {
        let handshake = datagram.first() == Some(&DTLS_HANDSHAKE);
        handshake
            && self.role == Role::Listener
            && !self.is_pending()
            && now < self.accepted + config.join_timeout
    }

    /// What the clock says.
    pub(super) fn due(&self, now: Instant, config: &WebRtcConfig) -> Due {
        let join_end = self.accepted + config.join_timeout;
        match self.stage {
            Stage::Checking if now >= self.accepted + config.ice_timeout => {
                Due::Close(CloseReason::IceTimeout)
            }
            // After the restart the peer's own retransmission may take seconds: the join's end is the limit.
            Stage::Handshaking { restarted: true, .. } if now >= join_end => {
                Due::Close(CloseReason::DtlsTimeout)
            }
            Stage::Checking | Stage::Handshaking { .. } if now >= join_end => {
                Due::Close(CloseReason::JoinTimeout)
            }
            Stage::Handshaking { since, restarted: false } if now >= since + config.dtls_timeout => {
                Due::RestartDtls
            }
            Stage::Up { .. } if now >= self.consent + config.closed_after => {
                Due::Close(CloseReason::ConsentLost)
            }
            Stage::Up { disconnected: false } if now >= self.last_heard() + config.disconnected_after => {
                Due::Disconnected
            }
            _ => Due::Nothing,
        }
    }

    /// When to ask again.
    pub(super) fn deadline(&self, config: &WebRtcConfig) -> Instant {
        let own = match self.stage {
            Stage::Checking => self.accepted + config.ice_timeout.min(config.join_timeout),
            Stage::Handshaking { restarted: true, .. } => self.accepted + config.join_timeout,
            Stage::Handshaking { since, restarted: false } => {
                (since + config.dtls_timeout).min(self.accepted + config.join_timeout)
            }
            Stage::Up { disconnected: false } => {
                (self.last_heard() + config.disconnected_after).min(self.consent + config.closed_after)
            }
            Stage::Up { disconnected: true } => self.consent + config.closed_after,
        };
        let stack = self.stack.as_ref().map(Stack::deadline);
        self.untold.deadline().into_iter().chain(stack).fold(own, Instant::min)
    }

    fn last_heard(&self) -> Instant {
        self.heard.max(self.route.heard())
    }

    /// The peer was heard: whether it had been missed until now.
    pub(super) fn hear(&mut self, now: Instant) -> bool {
        self.heard = now;
        self.route.miss(false);
        match &mut self.stage {
            Stage::Up { disconnected } => std::mem::take(disconnected),
            _ => false,
        }
    }

    /// Whether the other one is of the same listener, or publishes the same track: a ticket or a claim has shown it.
    pub(super) fn is_same_peer(&self, other: &Self) -> bool {
        match self.role {
            Role::Listener => self.listener.is_some() && self.listener == other.listener,
            Role::Publisher => other.role == Role::Publisher && self.track == other.track,
        }
    }

    /// The address is another connection's from now on: what would be sent to a listener there is held.
    pub(super) fn lose(&mut self, now: Instant, address: SocketAddr, shard: &Shards) {
        self.peer.forget(address);
        if self.role == Role::Listener && !self.is_pending() && !self.peer.has_path() {
            self.stage = Stage::Up { disconnected: true };
            self.route.miss(true);
            self.untold.lost();
            self.tell(now, shard);
        }
    }

    /// Tells the media plane what there is to tell of a listener's path.
    pub(super) fn tell(&mut self, now: Instant, shard: &Shards) {
        if let (Role::Listener, Some(leg)) = (self.role, self.leg) {
            self.untold.tell(now, shard, leg);
        }
    }

    /// It was up and has not been heard of for a while.
    pub(super) fn is_missed(&self) -> bool {
        self.stage == Stage::Up { disconnected: true }
    }

    pub(super) fn is_pending(&self) -> bool {
        !matches!(self.stage, Stage::Up { .. })
    }
}

/// Where a peer is: the addresses that its authenticated checks came from, and the one that media goes to.
#[derive(Debug)]
pub(super) struct PeerAddresses {
    known: Vec<Address>,
    path: Option<SocketAddr>,
    limit: usize,
    /// ICE has started over, and no address is nominated since.
    renewed: bool,
    /// Every address ever learnt: str0m forgets none of them.
    seen: Vec<SocketAddr>,
    /// How often the path may still change.
    moves: Allowance,
}

#[derive(Debug, Clone, Copy)]
struct Address {
    address: SocketAddr,
    heard: Instant,
    priority: u32,
    nominating: bool,
}

/// What an authenticated STUN binding changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Learnt {
    /// The address is new; this one had to go for it.
    pub(super) evicted: Option<SocketAddr>,
    /// Media goes to the new address from now on, or to the old one that an ICE restart has proved to work.
    pub(super) path_changed: bool,
    /// The table has seen too many addresses: the binding is to be ignored.
    pub(super) refused: bool,
}

/// An authenticated STUN binding, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding {
    pub(super) source: SocketAddr,
    pub(super) priority: u32,
    pub(super) use_candidate: bool,
}

/// The most different addresses that one peer may come from in its life. A phone that moves all day stays below
/// it; a peer that does not is closed for want of consent, and may join again.
const MAX_LEARNT: usize = 256;
/// For how long after a check an address stays its connection's, whoever else claims it. Less than a join waits
/// for ICE, so that the next one behind a NAT's reused port is let in; more than the 6 s between two checks of a
/// connected peer (RFC 7675 §5.1).
const ADDRESS_HOLD: Duration = Duration::from_secs(8);
/// How often a peer's path may change. What it may have missed is looked up and sent again each time.
const MOVES_PER_SECOND: u32 = 8;
/// A path that has been silent for this long gives way to any nominated one.
const PATH_PATIENCE: Duration = Duration::from_secs(3);

impl PeerAddresses {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            known: Vec::new(),
            path: None,
            limit: limit.max(1),
            renewed: false,
            seen: Vec::new(),
            moves: Allowance::default(),
        }
    }

    /// The address that media goes to: the newest nominated one.
    #[cfg(test)]
    pub(super) fn path(&self) -> Option<SocketAddr> {
        self.path
    }

    pub(super) fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// Where DTLS goes. A peer that finishes it before it nominates is where its authenticated checks came from.
    pub(super) fn whereabouts(&self) -> Option<SocketAddr> {
        self.path.or_else(|| self.known.first().map(|known| known.address))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SocketAddr> {
        self.known.iter().map(|known| known.address)
    }

    /// Takes in an authenticated STUN binding.
    pub(super) fn learn(&mut self, now: Instant, binding: Binding) -> Learnt {
        let mut learnt = Learnt::default();
        let Binding { source, priority, use_candidate } = binding;
        let entry = Address { address: source, heard: now, priority, nominating: use_candidate };
        match self.known.iter_mut().find(|known| known.address == source) {
            Some(known) => *known = entry,
            None => {
                if !self.seen.contains(&source) {
                    if self.seen.len() == MAX_LEARNT {
                        return Learnt { refused: true, ..learnt };
                    }
                    self.seen.push(source);
                }
                if self.known.len() == self.limit {
                    learnt.evicted = self.evict();
                }
                self.known.push(entry);
            }
        }
        let renewed = use_candidate && std::mem::take(&mut self.renewed);
        if use_candidate
            && self.path != Some(source)
            && self.is_better(now, &entry)
            // A refused one has its turn with a later check of the peer's.
            && self.moves.take(now, MOVES_PER_SECOND)
        {
            self.path = Some(source);
            learnt.path_changed = true;
        }
        learnt.path_changed |= renewed && self.path == Some(source);
        learnt
    }

    /// Whether the peer was heard from this address so lately that nobody else may claim it.
    pub(super) fn holds(&self, now: Instant, address: SocketAddr) -> bool {
        let known = self.known.iter().find(|known| known.address == address);
        known.is_some_and(|known| now.saturating_duration_since(known.heard) < ADDRESS_HOLD)
    }

    /// ICE starts over: what was nominated before holds until the first new nomination, whatever its priority.
    pub(super) fn renew(&mut self) {
        self.known.iter_mut().for_each(|known| known.nominating = false);
        self.renewed = true;
    }

    /// The address belongs to another connection now.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.known.retain(|known| known.address != address);
        if self.path == Some(address) {
            self.path = None;
        }
    }

    /// A new nominated address takes over unless the old one is still nominated, alive and preferred: an
    /// aggressive controller nominates all its pairs (RFC 5245 §8.1.1.2), which must not make the path flap.
    /// The same priority from another address is the same candidate behind a NAT that has forgotten it.
    fn is_better(&self, now: Instant, entry: &Address) -> bool {
        let current = self.known.iter().find(|known| Some(known.address) == self.path);
        current.is_none_or(|current| {
            !current.nominating
                || now.saturating_duration_since(current.heard) >= PATH_PATIENCE
                || entry.priority >= current.priority
        })
    }

    fn evict(&mut self) -> Option<SocketAddr> {
        let oldest = (0..self.known.len())
            .filter(|index| Some(self.known[*index].address) != self.path)
            .min_by_key(|index| self.known[*index].heard)
            // With room for one address only, the path itself gives way.
            .unwrap_or(0);
        Some(self.known.remove(oldest).address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(port: u16, priority: u32, use_candidate: bool) -> Binding {
        Binding { source: SocketAddr::from(([192, 0, 2, 1], port)), priority, use_candidate }
    }

    #[test]
    fn only_a_nominated_address_becomes_the_path() {
        let now = Instant::now();
        let mut peer = PeerAddresses::new(8);
        assert_eq!(peer.learn(now, binding(1, 9, false)), Learnt::default());
        assert_eq!(peer.path(), None);
        assert!(peer.learn(now, binding(2, 1, true)).path_changed);
        assert!(!peer.learn(now, binding(1, 9, false)).path_changed);
        assert_eq!(peer.path(), Some(SocketAddr::from(([192, 0, 2, 1], 2))));
    }

    #[test]
    fn a_path_gives_way_to_a_preferred_a_successor_and_a_survivor() {
        let now = Instant::now();
        let mut peer = PeerAddresses::new(8);
        peer.learn(now, binding(1, 5, true));
        assert!(!peer.learn(now, binding(2, 4, true)).path_changed, "both nominated: no flapping");
        assert!(peer.learn(now, binding(3, 6, true)).path_changed, "preferred");
        assert!(peer.learn(now, binding(4, 6, true)).path_changed, "rebound");
        peer.learn(now, binding(4, 6, false));
        assert!(peer.learn(now, binding(1, 5, true)).path_changed, "the old one is no longer nominated");
        assert!(peer.learn(now + Duration::from_secs(3), binding(2, 1, true)).path_changed, "silent");
    }

    #[test]
    fn a_peer_that_flaps_between_addresses_moves_its_path_a_few_times_a_second() {
        let start = Instant::now();
        let mut peer = PeerAddresses::new(8);
        let flap = |peer: &mut PeerAddresses, ms: u64| {
            let now = start + Duration::from_millis(ms);
            (0..100).filter(|turn| peer.learn(now, binding(1 + turn % 2, 5, true)).path_changed).count()
        };
        let moves: usize = (0..10_000).step_by(10).map(|ms| flap(&mut peer, ms)).sum();
        assert!((80..=88).contains(&moves), "{moves} in 10 s");
        let settled = binding(3, 5, true);
        assert!(!peer.learn(start + Duration::from_millis(9_991), settled).path_changed);
        assert!(peer.learn(start + Duration::from_millis(10_500), settled).path_changed, "its next check");
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_path() {
        let now = Instant::now();
        let mut peer = PeerAddresses::new(2);
        peer.learn(now, binding(1, 5, true));
        for port in 2..50 {
            let learnt = peer.learn(now + Duration::from_millis(u64::from(port)), binding(port, 5, false));
            assert_eq!(learnt.evicted.is_some(), port > 2);
            assert_eq!(peer.iter().count(), 2);
            assert_eq!(peer.path().unwrap().port(), 1);
        }
        let refused = (50..1000).filter(|port| peer.learn(now, binding(*port, 5, false)).refused).count();
        assert_eq!(refused, 950 - (MAX_LEARNT - 49));
    }

    #[test]
    fn more_interfaces_than_the_table_has_room_for_use_nothing_up() {
        let now = Instant::now();
        let mut peer = PeerAddresses::new(2);
        for round in 0..1000 {
            let now = now + Duration::from_secs(round);
            assert!((1..=5).all(|port| !peer.learn(now, binding(port, 5, false)).refused), "{round}");
        }
        assert!(!peer.learn(now, binding(6, 5, false)).refused, "there is still room for a new one");
    }

    #[test]
    fn the_first_nomination_after_an_ice_restart_takes_the_path_at_once() {
        let now = Instant::now();
        let mut peer = PeerAddresses::new(8);
        peer.learn(now, binding(1, 9, true));
        peer.renew();
        assert_eq!(peer.path().map(|path| path.port()), Some(1), "media goes on where it went");
        assert!(!peer.learn(now, binding(2, 1, false)).path_changed);
        assert!(
            peer.learn(now, binding(2, 1, true)).path_changed,
            "of a lower priority, from another network"
        );
    }

    #[test]
    fn an_ice_restart_proves_the_path_anew_and_once_even_if_it_is_the_same() {
        let now = Instant::now();
        let mut peer = PeerAddresses::new(8);
        peer.learn(now, binding(1, 9, true));
        peer.renew();
        assert!(!peer.learn(now, binding(1, 9, false)).path_changed, "not nominated");
        assert!(peer.learn(now, binding(1, 9, true)).path_changed);
        assert!(!peer.learn(now, binding(1, 9, true)).path_changed);
    }

    #[test]
    fn an_address_is_held_while_its_peer_checks_it() {
        let now = Instant::now();
        let mut peer = PeerAddresses::new(8);
        let address = binding(1, 9, true).source;
        assert!(!peer.holds(now, address));
        peer.learn(now, binding(1, 9, true));
        assert!(peer.holds(now + Duration::from_secs(7), address));
        assert!(!peer.holds(now + Duration::from_secs(8), address));
    }

    #[test]
    fn a_forgotten_address_is_no_path() {
        let now = Instant::now();
        let mut peer = PeerAddresses::new(2);
        peer.learn(now, binding(1, 5, true));
        peer.forget(SocketAddr::from(([192, 0, 2, 1], 1)));
        assert_eq!((peer.path(), peer.iter().count()), (None, 0));
    }
}
