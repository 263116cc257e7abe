//! A bad network path in user space: what it does to datagrams and to byte streams is drawn from its seed.
//!
//! An [`Impairer`] is pure: what goes in comes out later, altered as its [`LinkSpec`]s and outages say, by a clock of the
//! owner's. A [`Proxy`] puts one for each way between real sockets: as a NAT for datagrams, which may change its ports at
//! any time, and as a proxy for streams, where loss is a retransmission and an outage a stall.
//!
//! Invariants: nothing comes out before it went in, or during an outage; a stream's bytes come out whole and in order;
//! what is in flight is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::link::{Link, LinkSpec};

mod proxy;
mod tcp;
mod udp;

pub use self::proxy::Proxy;

/// Datagrams or pieces that may be in flight; beyond, datagrams are lost and streams are not read.
pub const MAX_IN_FLIGHT: usize = 4096;

/// How long TCP takes to find a loss and send again (RFC 6298 §2: the least that systems use). Each further wait is twice
/// as long (§5.5).
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// A piece of a stream is lost so often at most: what is lost for ever would be another thing, a cut.
const MAX_LOSSES: u32 = 6;

/// What the path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Datagrams: each may be lost, late, early or twice.
    Datagrams,
    /// Pieces of a byte stream: a lost one is late, and so is everything behind it.
    Stream,
}

/// One way of a path, in virtual time.
#[derive(Debug)]
pub struct Impairer {
    carries: Carries,
    link: Link,
    /// Until then nothing passes.
    dark_until: Duration,
    /// Streams: when the last piece comes out.
    last: Duration,
    in_flight: BTreeMap<(Duration, u64), Vec<u8>>,
    count: u64,
    lost: u64,
}

impl Impairer {
    /// A path in its initial state.
    #[must_use]
    pub fn new(carries: Carries, spec: &LinkSpec, seed: u64) -> Self {
        Self {
            carries,
            link: Link::new(spec, seed),
            dark_until: Duration::ZERO,
            last: Duration::ZERO,
            in_flight: BTreeMap::new(),
            count: 0,
            lost: 0,
        }
    }

    /// Something enters. The end of a stream is a piece without bytes: it takes its time like any other.
    pub fn handle_input(&mut self, now: Duration, bytes: &[u8]) {
        match self.carries {
            Carries::Datagrams => self.take_datagram(now, bytes),
            Carries::Stream => {
                let arrival = self.arrival_of_piece(now, bytes.len());
                self.last = self.last.max(arrival).max(self.dark_until);
                self.insert(self.last, bytes);
            }
        }
    }

    /// Nothing passes until then. Datagrams that would have come out are lost; a stream comes out afterwards.
    pub fn black_out(&mut self, until: Duration) {
        if until <= self.dark_until {
            return;
        }
        self.dark_until = until;
        let late: Vec<_> = self.in_flight.range(..(until, 0)).map(|(key, _)| *key).collect();
        for key in late {
            let Some(bytes) = self.in_flight.remove(&key) else { continue };
            match self.carries {
                Carries::Datagrams => self.lost += 1,
                Carries::Stream => {
                    self.in_flight.insert((until, key.1), bytes);
                }
            }
        }
        self.last = self.last.max(until);
    }

    /// What comes out by now.
    pub fn poll_output(&mut self, now: Duration) -> Option<Vec<u8>> {
        let next = self.in_flight.first_entry()?;
        (next.key().0 <= now).then(|| next.remove())
    }

    /// When something comes out next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether more may enter without loss.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
    }

    /// Datagrams that never came out, and further copies of some that did not either.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn take_datagram(&mut self, now: Duration, bytes: &[u8]) {
        let mut arrivals = self.link.carry(now, bytes.len());
        if now < self.dark_until {
            arrivals.clear();
        }
        self.lost += u64::from(arrivals.is_empty());
        for at in arrivals {
            if self.has_room() {
                self.insert(at, bytes);
            } else {
                self.lost += 1;
            }
        }
    }

    /// When a piece that enters now is there whole, sent again as often as it is lost.
    fn arrival_of_piece(&mut self, now: Duration, bytes: usize) -> Duration {
        let mut waited = Duration::ZERO;
        for losses in 0..MAX_LOSSES {
            // What enters a link enters in order of time, so the wait comes after it.
            if let Some(arrival) = self.link.carry(now, bytes).into_iter().min() {
                return arrival + waited;
            }
            waited += RETRANSMISSION * (1 << losses);
        }
        now + waited
    }

    fn insert(&mut self, at: Duration, bytes: &[u8]) {
        self.count += 1;
        self.in_flight.insert((at, self.count), bytes.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::GilbertElliott;

    const FRAME: Duration = Duration::from_millis(20);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Sends `count` numbered pieces, one each 20 ms, and returns what came out and when.
    fn carry(path: &mut Impairer, count: u32) -> Vec<(Duration, u32)> {
        let mut out = Vec::new();
        let mut drain = |path: &mut Impairer, now| {
            while let Some(at) = path.poll_timeout().filter(|at| *at <= now) {
                let bytes = path.poll_output(at).unwrap();
                out.push((at, u32::from_be_bytes(bytes.try_into().unwrap())));
            }
        };
        for number in 0..count {
            let now = FRAME * number;
            drain(path, now);
            path.handle_input(now, &number.to_be_bytes());
        }
        drain(path, Duration::MAX);
        out
    }

    fn rough() -> LinkSpec {
        LinkSpec::perfect()
            .loss(GilbertElliott::bursts(0.05, 3.0))
            .delay(ms(30))
            .reorder(0.1, ms(60))
            .duplicate(0.05, ms(40))
    }

    #[test]
    fn datagrams_are_lost_late_and_twice_as_the_link_says() {
        let mut path = Impairer::new(Carries::Datagrams, &rough(), 7);
        let out = carry(&mut path, 2_000);
        let mut numbers: Vec<u32> = out.iter().map(|(_, number)| *number).collect();
        assert!(numbers.windows(2).any(|pair| pair[0] > pair[1]), "some overtake");
        assert!(out.iter().all(|(at, number)| *at >= FRAME * *number + ms(30)));
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        assert!(all > numbers.len(), "some come twice");
        assert_eq!(path.lost(), 2_000 - numbers.len() as u64);
        assert!((50..150).contains(&path.lost()), "{}", path.lost());
    }

    #[test]
    fn a_stream_comes_out_whole_and_in_order_and_waits_behind_a_loss() {
        let mut path = Impairer::new(Carries::Stream, &rough(), 7);
        let out = carry(&mut path, 2_000);
        assert!(out.iter().map(|(_, number)| *number).eq(0..2_000));
        assert!(out.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let late = out.iter().filter(|(at, number)| *at >= FRAME * *number + RETRANSMISSION).count();
        assert!(late >= 50, "{late}");
        assert_eq!(path.lost(), 0);
    }

    #[test]
    fn a_piece_that_is_sent_again_has_the_whole_way_before_it_and_each_wait_is_longer() {
        let spec = |loss| LinkSpec::perfect().loss(GilbertElliott::independent(loss)).delay(ms(300));
        let mut arrivals = BTreeMap::new();
        for seed in 0..1_000 {
            let mut path = Impairer::new(Carries::Stream, &spec(0.5), seed);
            path.handle_input(ms(10), &[0]);
            *arrivals.entry(path.poll_timeout().unwrap()).or_insert(0) += 1;
        }
        let expected = [0, 200, 600, 1_400, 3_000, 6_200].map(|waited| ms(10 + 300 + waited));
        assert!(arrivals.keys().take(6).eq(&expected), "{arrivals:?}");
        assert!((450..550).contains(&arrivals[&ms(310)]), "{arrivals:?}");
        let mut hopeless = Impairer::new(Carries::Stream, &spec(1.0), 1);
        hopeless.handle_input(ms(0), &[0]);
        assert_eq!(hopeless.poll_timeout(), Some(ms(200 * 63)));
    }

    #[test]
    fn an_outage_loses_datagrams_and_stalls_a_stream() {
        for carries in [Carries::Datagrams, Carries::Stream] {
            let mut path = Impairer::new(carries, &LinkSpec::perfect().delay(ms(50)), 1);
            path.handle_input(ms(0), &[0]);
            path.black_out(ms(1_000));
            path.handle_input(ms(999), &[1]);
            path.handle_input(ms(1_000), &[2]);
            assert_eq!(path.poll_output(ms(999)), None);
            let out: Vec<u8> = std::iter::from_fn(|| path.poll_output(ms(1_050))).flatten().collect();
            let expected: &[u8] = if carries == Carries::Datagrams { &[2] } else { &[0, 1, 2] };
            assert_eq!(out, expected, "{carries:?}");
            path.black_out(ms(500));
            assert_eq!(path.dark_until, ms(1_000), "an outage does not end early");
        }
    }

    #[test]
    fn equal_seeds_give_equal_paths_and_others_do_not() {
        let run = |seed| carry(&mut Impairer::new(Carries::Datagrams, &rough(), seed), 200);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn what_is_in_flight_is_bounded() {
        let mut path = Impairer::new(Carries::Datagrams, &LinkSpec::perfect().delay(ms(10)), 1);
        for _ in 0..MAX_IN_FLIGHT + 5 {
            path.handle_input(ms(0), &[0]);
        }
        assert_eq!((path.in_flight.len(), path.lost(), path.has_room()), (MAX_IN_FLIGHT, 5, false));
    }
}
