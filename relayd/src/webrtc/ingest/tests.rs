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
use crate::webrtc::receiver::{Inbound, Receiver, Shared};
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

#[test]
fn what_a_publisher_says_goes_to_its_shard_while_the_plane_does_nothing() {
    let mut ends = Ends::connect();
    let config = WebRtcConfig::default();
    let (shared, mut inbounds) = Shared::new(&config);
    // Nobody reads its queue: what it is handed counts as dropped there.
    let (shard, _take) = Shards::stalled(1);
    let mut receiver = Receiver::new(&config, 0, shared.clone(), shard);
    let route = Arc::new(Route::new(ends.now, 3, Role::Publisher));
    shared.routes.insert(Pair { port: 0, source: client_address() }, route.clone());
    let packets: Vec<Vec<u8>> = (0..3).map(|number| ends.speak(1_000 + number)).collect();
    let mut hear = |datagram: &[u8]| {
        receiver.handle_datagram(Instant::now(), client_address(), datagram);
        let mut counters = Counters::default();
        shared.tally.add_to(&mut counters);
        let dropped = (counters.dropped_media, counters.dropped_shard);
        (dropped, inbounds.media.try_recv().expect("the plane is told"))
    };
    let (dropped, told) = hear(&packets[0]);
    assert!(matches!(told, Inbound::Datagram { .. }), "the plane's, until the publisher is up: {told:?}");
    assert_eq!(dropped, (0, 0));

    route.open_ingest(Ingest { leg: test_support::leg().0, stack: ends.stack.clone() });
    let mut forged = packets[1].clone();
    forged[20] ^= 1;
    let all = [(&packets[1], (0, 1)), (&packets[1], (1, 1)), (&forged, (2, 1)), (&packets[2], (2, 2))];
    for (datagram, expected) in all {
        let (dropped, told) = hear(datagram);
        assert_eq!(dropped, expected, "nothing of the publisher's, and what its shard was handed");
        let Inbound::Said(said) = told else { panic!("its shard has it already: {told:?}") };
        assert!(Arc::ptr_eq(&said.route, &route) && said.result.is_ok(), "{said:?}");
    }
}

#[test]
fn a_stack_that_panicked_is_not_touched_again() {
    let ends = Ends::connect();
    let deadline = ends.stack.deadline();
    assert_eq!(ends.stack.with(|_| Err::<(), _>(StackError::Panicked)), Err(StackError::Panicked));
    let dead = |result| matches!(result, Err(StackError::Dead(_)));
    assert!(dead(ends.stack.with(|_| -> Result<(), _> { unreachable!("it is not touched") })));
    assert_eq!(ends.stack.deadline(), deadline, "whoever looks after it finds it when that has passed");

    let ends = Ends::connect();
    let stack = ends.stack.clone();
    std::thread::spawn(move || stack.with(|_| -> Result<(), _> { panic!("as it was told to") }))
        .join()
        .unwrap_err();
    assert!(dead(ends.stack.with(|_| Ok(()))));
}
