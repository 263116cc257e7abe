//! A publisher that is connected in memory, and a receiver that reads what it says.

use std::time::{Duration, Instant};

use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Event, Input, Output, Rtc};

use super::*;
use crate::client::line;
use crate::webrtc::answer::Answer;
use crate::webrtc::demux::{Class, classify};
use crate::webrtc::keys::Identity;
use crate::webrtc::offer::{self, IceCredentials};
use crate::webrtc::receiver::{Inbound, Inbounds, Receiver, Shared};
use crate::webrtc::routes::Pair;
use crate::webrtc::stack::{Datagram, Publisher};
use crate::webrtc::{Counters, Role, WebRtcConfig, test_support};

/// Both ends of a publisher's connection.
struct Ends {
    now: Instant,
    client: Rtc,
    /// What the client wants sent.
    sent: Vec<Vec<u8>>,
    connected: bool,
    stack: Arc<SharedPublisher>,
    line: (str0m::media::Mid, str0m::media::Pt),
}

fn client_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 7))
}

fn our_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 2], 9))
}

impl Ends {
    fn connect() -> Self {
        let now = Instant::now();
        let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let (mut client, _tap) = theirs.build(line::config(), now);
        let (mid, sdp, pending) =
            line::offer(&mut client, client_address(), crate::client::Role::Publisher).unwrap();
        let offer = offer::inspect(&sdp.to_sdp_string(), Role::Publisher).unwrap();
        let ice = IceCredentials::new("ours", "P2uYro0UCOQ4zxjKXaWCBui1").unwrap();
        let candidates = [our_address()];
        let answer = Answer {
            offer: &offer,
            role: Role::Publisher,
            ice: &ice,
            fingerprint: ours.fingerprint(),
            candidates: &candidates,
            ssrc: 1,
            cname: "name",
            session_id: 1,
        };
        let payload_type = line::answer(&mut client, mid, pending, &answer.to_sdp()).unwrap();
        let stack = SharedPublisher::new(Publisher::new(now, &ours, &offer, &ice, &candidates).unwrap());
        let line = (mid, payload_type);
        let mut ends = Self { now, client, sent: Vec::new(), connected: false, stack, line };
        let mut up = false;
        for _ in 0..500 {
            up |= ends.exchange();
            if up && ends.connected {
                return ends;
            }
        }
        panic!("they never connect");
    }

    fn drain(&mut self) {
        loop {
            match self.client.poll_output().unwrap() {
                Output::Timeout(_) => return,
                Output::Transmit(transmit) => self.sent.push(transmit.contents.into()),
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(_) => {}
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.drain();
        self.now += time;
        self.client.handle_input(Input::Timeout(self.now)).unwrap();
        self.drain();
    }

    /// Both take what the other one has sent, and some time passes. Whether the stack says that it is connected.
    fn exchange(&mut self) -> bool {
        self.wait(Duration::from_millis(10));
        let (now, mut effects) = (self.now, Vec::new());
        for bytes in std::mem::take(&mut self.sent) {
            let datagram = Datagram { source: client_address(), destination: our_address(), bytes: &bytes };
            self.stack.with(|stack| stack.receive(now, datagram, &mut effects)).unwrap();
        }
        self.stack.with(|stack| stack.handle_timeout(now, &mut effects)).unwrap();
        let mut connected = false;
        for effect in effects {
            match effect {
                Effect::Transmit { datagram, .. } => {
                    let contents = datagram[..].try_into().unwrap();
                    let (source, destination) = (our_address(), client_address());
                    let receive = Receive { proto: Protocol::Udp, source, destination, contents };
                    self.client.handle_input(Input::Receive(now, receive)).unwrap();
                    self.drain();
                }
                Effect::Connected => connected = true,
                Effect::Closed => panic!("nobody closes it"),
            }
        }
        connected
    }

    /// The next report, as it is on the wire.
    fn report(&mut self) -> Vec<u8> {
        for _ in 0..1_000 {
            self.wait(Duration::from_millis(20));
            let mut sent = std::mem::take(&mut self.sent).into_iter();
            if let Some(report) = sent.find(|datagram| classify(datagram) == Class::Rtcp) {
                return report;
            }
        }
        panic!("it never reports");
    }

    /// A packet as it is on the wire.
    fn speak(&mut self, number: u64) -> Vec<u8> {
        let (mid, payload_type) = self.line;
        let mut direct = self.client.direct_api();
        let stream = direct.stream_tx_by_mid(mid, None).unwrap();
        let packet =
            RtpWrite::new(payload_type, number.into(), number as u32 * 960, self.now, &[0xf8, 1, 2][..]);
        stream.write_rtp(packet);
        self.wait(Duration::from_millis(20));
        let mut sent = std::mem::take(&mut self.sent).into_iter();
        sent.find(|datagram| classify(datagram) == Class::Rtp).expect("a packet")
    }
}

/// A receiver that reads what a publisher sends who is not up yet, and its route.
struct Ear {
    receiver: Receiver,
    shared: Shared,
    inbounds: Inbounds,
    route: Arc<Route>,
}

impl Ear {
    fn new(now: Instant) -> Self {
        let config = WebRtcConfig::default();
        let (shared, inbounds) = Shared::new(&config);
        // Nobody reads its queue: what it is handed counts as dropped there.
        let (shard, _take) = Shards::stalled(1);
        let receiver = Receiver::new(&config, 0, shared.clone(), shard);
        let route = Arc::new(Route::new(now, 3, Role::Publisher));
        shared.routes.insert(Pair { port: 0, source: client_address() }, route.clone());
        Self { receiver, shared, inbounds, route }
    }

    /// As the plane does when the handshake is over.
    fn open(&self, ends: &Ends) -> &Ingest {
        let keys =
            ends.stack.with(|stack| Ok(stack.take_keys())).unwrap().unwrap().keying_material().unwrap();
        let (leg, stack) = (test_support::leg().0, ends.stack.clone());
        self.route.open_ingest(Ingest::new(ends.now, leg, stack, keys.srtcp_receiver()));
        self.route.ingest().unwrap()
    }

    /// Reads a datagram; what was dropped so far as nothing of the publisher's, and what its shard was handed.
    fn hear(&mut self, now: Instant, datagram: &[u8]) -> (u64, u64) {
        self.receiver.handle_datagram(now, client_address(), datagram);
        let counters = self.counters();
        (counters.dropped_media, counters.dropped_shard)
    }

    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        self.shared.tally.add_to(&mut counters);
        counters
    }

    /// What the plane is told.
    fn told(&mut self) -> Option<Inbound> {
        self.inbounds.media.try_recv().ok()
    }
}

#[test]
fn what_a_publisher_says_goes_to_its_shard_while_the_plane_does_nothing() {
    let mut ends = Ends::connect();
    let mut ear = Ear::new(ends.now);
    let packets: Vec<Vec<u8>> = (0..3).map(|number| ends.speak(1_000 + number)).collect();
    assert_eq!(ear.hear(ends.now, &packets[0]), (0, 0));
    assert!(matches!(ear.told(), Some(Inbound::Datagram { .. })), "the plane's, until the publisher is up");

    ear.open(&ends);
    let mut forged = packets[1].clone();
    forged[20] ^= 1;
    let all = [(&packets[1], (0, 1)), (&packets[1], (1, 1)), (&forged, (2, 1)), (&packets[2], (2, 2))];
    for (datagram, expected) in all {
        assert_eq!(ear.hear(ends.now, datagram), expected);
        assert!(!matches!(ear.told(), Some(Inbound::Datagram { .. })));
    }
    let report = ends.report();
    assert_eq!(ear.hear(ends.now, &report), (2, 3), "a sender report");
    assert_eq!(ear.hear(ends.now, &report), (3, 3), "the same again");
    assert!(!matches!(ear.told(), Some(Inbound::Datagram { .. })));
}

#[test]
fn the_plane_is_told_of_what_is_left_to_do_and_of_nothing_else() {
    let mut ends = Ends::connect();
    let mut ear = Ear::new(ends.now);
    let packets: Vec<Vec<u8>> = (0..4).map(|number| ends.speak(1_000 + number)).collect();
    let route = ear.route.clone();
    ear.open(&ends);
    let ingest = route.ingest().unwrap();
    let day = Duration::from_secs(86_400);
    ingest.looks_at(ends.now);
    ear.hear(ends.now, &packets[0]);
    assert!(ear.told().is_none(), "the plane looks after it soon");
    ingest.looks_at(ends.now + day);
    ear.hear(ends.now, &packets[1]);
    let Some(Inbound::Said(said)) = ear.told() else { panic!("the stack does not wait so long") };
    assert!(Arc::ptr_eq(&said.route, &route) && said.rest.result.is_ok(), "{said:?}");
    ingest.looks_at(ends.now);
    ingest.miss();
    let mut forged = packets[2].clone();
    forged[20] ^= 1;
    ear.hear(ends.now, &forged);
    assert!(ear.told().is_none(), "anybody could say that");
    ear.hear(ends.now, &packets[2]);
    assert!(matches!(ear.told(), Some(Inbound::Said(_))), "it is back");
    ear.hear(ends.now, &packets[3]);
    assert!(ear.told().is_none(), "once");
    let mut foreign = packets[3].clone();
    foreign[1] ^= 1;
    ear.hear(ends.now, &foreign);
    assert_eq!((ear.told().is_none(), ear.counters().stack_errors), (true, 1));
}

#[test]
fn what_is_sent_in_a_publishers_name_has_a_rate() {
    let mut ends = Ends::connect();
    let mut ear = Ear::new(ends.now);
    ear.open(&ends);
    let packet = ends.speak(1_000);
    let mut forged = packet.clone();
    forged[20] ^= 1;
    let many = PACKETS_PER_SECOND + 500;
    let heard = (0..many).map(|_| ear.hear(ends.now, &forged)).max();
    assert_eq!(heard, Some((PACKETS_PER_SECOND.into(), 0)));
    assert_eq!(
        (ear.counters().dropped_media, ear.counters().dropped_media_rate),
        (PACKETS_PER_SECOND.into(), 500)
    );
    let later = ends.now + Duration::from_millis(1);
    assert_eq!(ear.hear(later, &packet).1, 1, "it goes on");
}

#[test]
fn a_stack_that_is_told_the_time_by_threads_in_any_order_does_what_is_due() {
    let mut ends = Ends::connect();
    let (packet, mut effects) = (ends.speak(1_000), Vec::new());
    let mut opened = None;
    let before = ends.now - Duration::from_secs(1);
    let datagram = (client_address(), &packet[..]);
    ends.stack.with(|stack| stack.receive_rtp(before, datagram, &mut opened, &mut effects)).unwrap();
    assert!(opened.is_some(), "its clock does not go back");
}

#[test]
fn a_stack_that_panicked_is_not_touched_again() {
    let ends = Ends::connect();
    let deadline = ends.stack.deadline();
    let panicked = Err(StackError::Panicked);
    assert_eq!(ends.stack.with(|_| Err::<(), _>(StackError::Panicked)), panicked);
    assert_eq!(ends.stack.with(|_| -> Result<(), _> { unreachable!("it is not touched") }), panicked);
    assert_eq!(ends.stack.deadline(), deadline, "whoever looks after it finds it when that has passed");

    let ends = Ends::connect();
    let stack = ends.stack.clone();
    std::thread::spawn(move || stack.with(|_| -> Result<(), _> { panic!("as it was told to") }))
        .join()
        .unwrap_err();
    assert_eq!(ends.stack.with(|_| Ok(())), panicked);
}
