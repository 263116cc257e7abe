//! A WebRTC peer on a real loopback socket, and a relay to join.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay_engine::TrackId;
use relayd::shard::{ShardConfig, Shards, ShardsConfig};
use relayd::webrtc::{
    Attach, CloseReason, Connections, ConnectionsTask, Join, JoinError, Joined, LeftAt, Record, Role,
    WebRtcConfig,
};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use super::tap::{self, Keys};

/// How long anything may take; nothing waits for it unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The connection plane and its shard, with one track.
pub(crate) struct Relay {
    pub(crate) connections: Connections,
    pub(crate) shard: Shards,
    pub(crate) track: TrackId,
    pub(crate) ledger: Ledger,
    task: ConnectionsTask,
}

impl Relay {
    pub(crate) async fn start(change: impl FnOnce(&mut WebRtcConfig)) -> Self {
        Self::start_with(change, ShardConfig::default()).await
    }

    pub(crate) async fn start_with(
        change: impl FnOnce(&mut WebRtcConfig),
        shard: impl Into<ShardsConfig>,
    ) -> Self {
        let mut config = WebRtcConfig { bind: "127.0.0.1:0".parse().unwrap(), ..WebRtcConfig::default() };
        change(&mut config);
        let mut shard = shard.into();
        // The machine may have much else to do.
        shard.shard.opened_within = Duration::from_secs(20);
        let (connections, shard, task) = Connections::bind(config, shard).await.unwrap();
        let track = shard.open_track("en").await.unwrap();
        Self { connections, shard, track, ledger: Ledger::default(), task }
    }

    pub(crate) async fn join(&self, role: Role, offer: String) -> Result<Joined, JoinError> {
        self.join_as(role, offer, Attach::default(), None).await
    }

    pub(crate) async fn join_as(
        &self,
        role: Role,
        offer: String,
        attach: Attach,
        left_at: Option<u64>,
    ) -> Result<Joined, JoinError> {
        let left_at = left_at.map(|position| -> LeftAt { Box::pin(async move { Some(position) }) });
        let (track, record) = (self.track, self.ledger.open());
        let join = Join { offer, track, attach, left_at, epoch: 0, record };
        match role {
            Role::Publisher => self.connections.publish(join).await,
            Role::Listener => self.connections.listen(join).await,
        }
    }

    /// A peer that has its answer and has not sent a packet yet.
    pub(crate) async fn answered(&self, role: Role) -> Peer {
        let mut peer = Peer::new(role);
        let offer = peer.offer();
        let joined = self.join(role, offer).await.unwrap();
        peer.take_answer(joined);
        peer
    }

    /// A peer that is connected, on both sides.
    pub(crate) async fn connected(&self, role: Role) -> Peer {
        let mut peer = self.answered(role).await;
        self.connect(&mut peer).await;
        peer
    }

    pub(crate) async fn connect(&self, peer: &mut Peer) {
        until(&mut [peer], "peer connects", |peers| peers[0].connected);
        let connected = peer.joined().resource;
        // The relay is connected before the peer or at the same time: its flight comes last.
        assert!(self.connections.snapshot().await.counters.connected > 0, "{connected}");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.connections.local_addr()
    }

    /// Stops it, and holds that nothing is left over.
    pub(crate) async fn stop(self) {
        self.connections.shutdown().await;
        self.task.join().await;
        let snapshot = self.connections.snapshot().await;
        assert_eq!((snapshot.publishers.total(), snapshot.listeners.total(), snapshot.addresses), (0, 0, 0));
        let entries = self.ledger.entries();
        assert!(entries.iter().all(|entry| entry.drops == 1), "{entries:?}");
    }
}

/// What became of every record.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) connected: u32,
    pub(crate) reasons: Vec<CloseReason>,
    pub(crate) drops: u32,
}

impl Ledger {
    pub(crate) fn open(&self) -> Box<dyn Record> {
        let mut entries = self.0.lock().unwrap();
        entries.push(Entry::default());
        Box::new(Line { ledger: self.clone(), index: entries.len() - 1 })
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Entry {
        self.entries().pop().unwrap()
    }
}

struct Line {
    ledger: Ledger,
    index: usize,
}

impl Line {
    fn with(&self, change: impl FnOnce(&mut Entry)) {
        change(&mut self.ledger.0.lock().unwrap()[self.index]);
    }
}

impl Record for Line {
    fn connected(&mut self) {
        self.with(|entry| entry.connected += 1);
    }

    fn disconnected(&mut self, reason: CloseReason) {
        self.with(|entry| entry.reasons.push(reason));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.with(|entry| entry.drops += 1);
    }
}

/// A packet that a listener heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) ssrc: u32,
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) payload: Vec<u8>,
}

/// A WebRTC client.
pub(crate) struct Peer {
    pub(crate) rtc: Rtc,
    pub(crate) keys: Keys,
    pub(crate) socket: UdpSocket,
    /// Where the peer thinks that it is.
    local: SocketAddr,
    pub(crate) connected: bool,
    pub(crate) closed: bool,
    pub(crate) heard: Vec<Heard>,
    /// Every DTLS datagram that it has sent.
    pub(crate) handshake: Vec<Vec<u8>>,
    /// Sent from the peer's own socket right before its first DTLS datagram.
    pub(crate) before_hello: Option<Vec<u8>>,
    /// Does not hear DTLS, as a client that has not started its own yet.
    pub(crate) deaf_to_dtls: bool,
    /// Does not hear the end of the relay's handshake, its ChangeCipherSpec and Finished.
    pub(crate) deaf_to_finished: bool,
    /// Sends nothing but STUN.
    pub(crate) withholds_dtls: bool,
    /// Nothing reaches it, and nothing that it sends reaches anybody.
    pub(crate) cut_off: bool,
    /// Media packets that have come to where it was meanwhile.
    pub(crate) swallowed: usize,
    /// So many of its next media packets are lost on the way out; here they are.
    pub(crate) loses: usize,
    pub(crate) lost: Vec<(Vec<u8>, SocketAddr)>,
    /// Every SRTCP datagram that it was sent.
    pub(crate) reports: Vec<Vec<u8>>,
    /// Where anything came from.
    pub(crate) sources: BTreeSet<SocketAddr>,
    pub(crate) mid: Mid,
    pub(crate) sequence: u64,
    pub(crate) offer: String,
    joined: Option<Joined>,
    pending: Option<SdpPendingOffer>,
    deadline: Instant,
}

impl Peer {
    pub(crate) fn new(role: Role) -> Self {
        Self::bound_to("127.0.0.1:0", role)
    }

    pub(crate) fn bound_to(address: &str, role: Role) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let local = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let config = RtcConfig::new().clear_codecs().enable_opus(true, false).set_rtp_mode(true);
        let (mut rtc, keys) = tap::build(config);
        rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
        let direction = match role {
            Role::Publisher => Direction::SendOnly,
            Role::Listener => Direction::RecvOnly,
        };
        let mut api = rtc.sdp_api();
        let mid = api.add_media(MediaKind::Audio, direction, None, None, None);
        let (offer, pending) = api.apply().unwrap();
        Self {
            rtc,
            keys,
            socket,
            local,
            connected: false,
            closed: false,
            heard: Vec::new(),
            handshake: Vec::new(),
            before_hello: None,
            deaf_to_dtls: false,
            deaf_to_finished: false,
            withholds_dtls: false,
            cut_off: false,
            swallowed: 0,
            loses: 0,
            lost: Vec::new(),
            reports: Vec::new(),
            sources: BTreeSet::new(),
            mid,
            sequence: 60_000,
            offer: offer.to_sdp_string(),
            joined: None,
            pending: Some(pending),
            deadline: Instant::now(),
        }
    }

    /// Moves to another port without a word; returns the old socket.
    pub(crate) fn rebind(&mut self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        std::mem::replace(&mut self.socket, socket)
    }

    pub(crate) fn offer(&self) -> String {
        self.offer.clone()
    }

    pub(crate) fn take_answer(&mut self, joined: Joined) {
        self.take_sdp(&joined.answer);
        self.joined = Some(joined);
    }

    /// Takes an answer that came by HTTP.
    pub(crate) fn take_sdp(&mut self, answer: &str) {
        let answer = SdpAnswer::from_sdp_string(answer).unwrap();
        self.rtc.sdp_api().accept_answer(self.pending.take().unwrap(), answer).unwrap();
    }

    pub(crate) fn joined(&self) -> &Joined {
        self.joined.as_ref().unwrap()
    }

    /// Where the answer has it send to.
    pub(crate) fn candidate(&self) -> SocketAddr {
        let line = self.joined().answer.lines().find_map(|line| line.strip_prefix("a=candidate:")).unwrap();
        let mut words = line.split(' ').skip(4);
        let mut word = || words.next().unwrap();
        SocketAddr::new(word().parse().unwrap(), word().parse().unwrap())
    }

    /// The SSRC that the answer announces.
    pub(crate) fn announced_ssrc(&self) -> u32 {
        let line = self.joined().answer.lines().find_map(|line| line.strip_prefix("a=ssrc:")).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    }

    /// Sends one 20 ms frame whose payload holds `number`.
    pub(crate) fn speak(&mut self, number: u32) {
        let mut payload = vec![0xFC];
        payload.extend(number.to_be_bytes());
        let pt = self.rtc.codec_config().iter().next().unwrap().pt();
        let timestamp = (self.sequence as u32).wrapping_mul(960);
        let write = RtpWrite::new(pt, self.sequence.into(), timestamp, Instant::now(), payload);
        self.sequence += 1;
        self.rtc.direct_api().stream_tx_by_mid(self.mid, None).unwrap().write_rtp(write);
        self.flush();
        self.tick();
    }

    /// The numbers heard so far.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let number = |heard: &Heard| u32::from_be_bytes(heard.payload[1..5].try_into().unwrap());
        self.heard.iter().map(number).collect()
    }

    /// One turn: what is due, what has come (waiting a millisecond at most).
    pub(crate) fn turn(&mut self) {
        self.flush();
        if Instant::now() >= self.deadline {
            self.tick();
        }
        let mut buffer = [0; 2048];
        while let Ok((length, source)) = self.socket.recv_from(&mut buffer) {
            self.sources.insert(source);
            let deaf = self.deaf_to_dtls && matches!(buffer[0], 20..=63);
            self.swallowed += usize::from(self.cut_off && is_media(&buffer));
            if self.cut_off || deaf || self.deaf_to_finished && buffer[0] == 20 {
                continue;
            }
            if matches!((buffer[0], buffer[1]), (128..=191, 192..=223)) {
                self.reports.push(buffer[..length].to_vec());
            }
            let Ok(contents) = buffer[..length].try_into() else { continue };
            let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
            // A client in the field survives what it can not read; so does this one.
            let _ignored = self.rtc.handle_input(Input::Receive(Instant::now(), receive)).is_err();
            self.flush();
        }
    }

    fn tick(&mut self) {
        let _ignored = self.rtc.handle_input(Input::Timeout(Instant::now())).is_err();
        self.flush();
    }

    pub(crate) fn flush(&mut self) {
        loop {
            match self.rtc.poll_output() {
                Err(_) => return,
                Ok(Output::Timeout(at)) => {
                    self.deadline = at;
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    let datagram: Vec<u8> = transmit.contents.into();
                    if self.cut_off {
                        continue;
                    }
                    if self.loses > 0 && is_media(&datagram) {
                        self.loses -= 1;
                        self.lost.push((datagram, transmit.destination));
                        continue;
                    }
                    if matches!(datagram[0], 20..=63) {
                        if self.withholds_dtls {
                            continue;
                        }
                        if let Some(first) = self.before_hello.take() {
                            self.socket.send_to(&first, transmit.destination).unwrap();
                        }
                        self.handshake.push(datagram.clone());
                    }
                    self.socket.send_to(&datagram, transmit.destination).unwrap();
                }
                Ok(Output::Event(Event::Connected)) => self.connected = true,
                Ok(Output::Event(Event::Closed)) => self.closed = true,
                Ok(Output::Event(Event::RtpPacket(packet))) => self.heard.push(Heard {
                    ssrc: *packet.header.ssrc,
                    sequence: *packet.seq_no,
                    timestamp: packet.header.timestamp,
                    payload: packet.payload.to_vec(),
                }),
                Ok(Output::Event(_)) => {}
            }
        }
    }
}

/// Whether a datagram is RTP, of a dynamic payload type.
fn is_media(datagram: &[u8]) -> bool {
    matches!((datagram[0], datagram[1] & 0x7f), (128..=191, 96..=127))
}

/// Turns the peers until `done`, or fails.
pub(crate) fn until(peers: &mut [&mut Peer], what: &str, mut done: impl FnMut(&mut [&mut Peer]) -> bool) {
    tokio::task::block_in_place(|| {
        let start = Instant::now();
        while !done(peers) {
            assert!(start.elapsed() < PATIENCE, "timed out: {what}");
            peers.iter_mut().for_each(|peer| peer.turn());
        }
    });
}

/// Turns the peers until the relay's snapshot is as wanted, or fails.
pub(crate) async fn until_snapshot(
    relay: &Relay,
    peers: &mut [&mut Peer],
    what: &str,
    done: impl Fn(&relayd::webrtc::Snapshot) -> bool,
) -> relayd::webrtc::Snapshot {
    let start = Instant::now();
    loop {
        let snapshot = relay.connections.snapshot().await;
        if done(&snapshot) {
            return snapshot;
        }
        assert!(start.elapsed() < PATIENCE, "timed out: {what}: {snapshot:?}");
        tokio::task::block_in_place(|| peers.iter_mut().for_each(|peer| peer.turn()));
        tokio::task::yield_now().await;
    }
}

/// Has the publisher speak the numbers while the listeners listen, until each has heard the last one.
pub(crate) fn converse(publisher: &mut Peer, listeners: &mut [&mut Peer], numbers: std::ops::Range<u32>) {
    for number in numbers.clone() {
        publisher.speak(number);
        publisher.turn();
        listeners.iter_mut().for_each(|listener| listener.turn());
    }
    let last = numbers.end - 1;
    until(listeners, "the last number is heard", |listeners| {
        publisher.turn();
        listeners.iter().all(|listener| listener.numbers().last() == Some(&last))
    });
}
