//! Listeners that come and go: who leaves when and how, who comes again, and whether the server grows by it.
//!
//! Pure but for the lock between threads of listeners, who see them leave, and those that bring them back. Stays and absences
//! are exponential, as those of people who come and go independently of each other; half of them say goodbye, the others are
//! gone without a word, and half of those come back with their ticket, as a telephone does whose network has changed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How listeners come and go. Times are the listeners'; the run goes through them `speed` times as fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churn {
    /// How long a listener stays, on average.
    pub stay: Duration,
    /// How long until it comes again, on average.
    pub away: Duration,
    /// How much faster than time.
    pub speed: f64,
    /// After each of these, the server's memory is noted.
    pub tick: Duration,
    /// How many of them.
    pub ticks: u32,
}

impl Churn {
    /// A tick of the run.
    pub(crate) fn tick_time(&self) -> Duration {
        self.tick.div_f64(self.speed)
    }

    /// The whole run, its ramp apart.
    pub(crate) fn time(&self) -> Duration {
        self.tick_time() * self.ticks
    }

    /// Listeners that come back in a second of the run.
    pub(crate) fn rate(&self, listeners: usize) -> f64 {
        listeners as f64 * self.speed / (self.stay + self.away).as_secs_f64()
    }

    /// Files of listeners that are gone; see [`Turnstile::linger`].
    pub(crate) fn files(&self, listeners: usize) -> u64 {
        (self.rate(listeners) * LINGER.as_secs_f64() * 1.5) as u64
    }

    /// A stay, by a random share of one.
    fn stay(&self, share: f64) -> Duration {
        exponential(self.stay.div_f64(self.speed), share)
    }

    fn away(&self, share: f64) -> Duration {
        exponential(self.away.div_f64(self.speed), share)
    }
}

/// One in 22 000 would be longer than ten times the mean: those are not waited for.
fn exponential(mean: Duration, share: f64) -> Duration {
    mean.mul_f64((-(1.0 - share).ln()).clamp(0.0, 10.0))
}

/// How a listener leaves and comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It deletes its connection and comes as somebody new.
    Goodbye,
    /// It is gone without a word, and comes as somebody new.
    Vanish,
    /// It is gone without a word, and comes back with its ticket.
    Rejoin,
}

impl Way {
    fn of(share: f64) -> Self {
        match share {
            ..0.5 => Self::Goodbye,
            ..0.75 => Self::Vanish,
            _ => Self::Rejoin,
        }
    }
}

/// What is to be done for a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Errand {
    pub(crate) due: Instant,
    pub(crate) listener: usize,
    pub(crate) what: What,
}

/// See [`Errand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// Delete its connection; it comes again after this time.
    Delete(Duration),
    /// Bring it back, with its ticket or without.
    Join { ticket: bool },
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(crate) deleted: u64,
    pub(crate) vanished: u64,
    pub(crate) joined: u64,
    pub(crate) with_ticket: u64,
    pub(crate) tickets_refused: u64,
}

impl Moves {
    pub(crate) fn left(&self) -> u64 {
        self.deleted + self.vanished
    }
}

/// Where listeners leave and come in. Bounds: an errand for each listener, and a port for each that left in the last 30 s.
#[derive(Debug)]
pub(crate) struct Turnstile {
    churn: Churn,
    open: AtomicBool,
    inner: Mutex<(BinaryHeap<Reverse<Errand>>, Moves)>,
    ports: Mutex<VecDeque<(Instant, UdpSocket)>>,
}

/// For so long the port of one who is gone is nobody else's.
const LINGER: Duration = Duration::from_secs(30);

impl Turnstile {
    /// Closed: nobody leaves yet.
    pub(crate) fn new(churn: Churn) -> Self {
        Self { churn, open: AtomicBool::new(false), inner: Mutex::default(), ports: Mutex::default() }
    }

    pub(crate) fn churn(&self) -> &Churn {
        &self.churn
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// When somebody leaves that is here now. An exponential stay does not know how long it has been.
    pub(crate) fn leaves_at(&self, now: Instant, share: f64) -> Instant {
        now + self.churn.stay(share)
    }

    /// A listener has left; `shares` are two random ones.
    pub(crate) fn leave(&self, now: Instant, listener: usize, shares: [f64; 2]) {
        let (way, away) = (Way::of(shares[0]), self.churn.away(shares[1]));
        let (due, what) = match way {
            Way::Goodbye => (now, What::Delete(away)),
            Way::Vanish => (now + away, What::Join { ticket: false }),
            Way::Rejoin => (now + away, What::Join { ticket: true }),
        };
        let mut inner = self.inner();
        match way {
            Way::Goodbye => inner.1.deleted += 1,
            Way::Vanish | Way::Rejoin => inner.1.vanished += 1,
        }
        inner.0.push(Reverse(Errand { due, listener, what }));
    }

    /// Keeps the port of a listener that has left: the kernel would give it to the next one, whom servers would take for the
    /// one that was there before, and translators of addresses do not do that either. What comes there is refused.
    pub(crate) fn linger(&self, now: Instant, socket: UdpSocket) {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        while ports.front().is_some_and(|(since, _)| now >= *since + LINGER) {
            ports.pop_front();
        }
        // Nobody sends from port 9. Where this fails, the port is kept and what comes there is kept, too.
        let address = socket.local_addr().map_or(IpAddr::V6(Ipv6Addr::LOCALHOST), |local| local.ip());
        let _kept = socket.connect((address, 9)).is_err();
        ports.push_back((now, socket));
    }

    /// A listener comes, as somebody new, after this time.
    pub(crate) fn comes(&self, due: Instant, listener: usize) {
        self.inner().0.push(Reverse(Errand { due, listener, what: What::Join { ticket: false } }));
    }

    /// The same, when whoever refused it may have changed their mind.
    pub(crate) fn comes_later(&self, now: Instant, listener: usize, share: f64) {
        self.comes(now + self.churn.away(share), listener);
    }

    /// What is to be done now.
    pub(crate) fn next(&self, now: Instant) -> Option<Errand> {
        let errands = &mut self.inner().0;
        errands
            .peek()
            .is_some_and(|first| first.0.due <= now)
            .then(|| errands.pop())
            .flatten()
            .map(|first| first.0)
    }

    pub(crate) fn count(&self, what: impl FnOnce(&mut Moves)) {
        what(&mut self.inner().1);
    }

    pub(crate) fn moves(&self) -> Moves {
        self.inner().1
    }

    fn inner(&self) -> MutexGuard<'_, (BinaryHeap<Reverse<Errand>>, Moves)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A straight line through values, one each tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trend {
    /// Ticks at the beginning that were left out.
    pub(crate) warm_up: usize,
    /// Per tick.
    pub(crate) slope: f64,
    /// The true slope is within this of `slope` 95 times in 100, if ticks err independently.
    pub(crate) noise: f64,
}

impl Trend {
    /// Least squares; the first half is left out, in which caches, the allocator and what is kept for minutes fill.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let warm_up = values.len().div_ceil(2).min(values.len().saturating_sub(LEAST_TICKS));
        let values = &values[warm_up..];
        if values.len() < LEAST_TICKS {
            return None;
        }
        let count = values.len() as f64;
        let (middle, mean) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
        let off = |at: usize| at as f64 - middle;
        let spread: f64 = (0..values.len()).map(|at| off(at) * off(at)).sum();
        let slope =
            values.iter().enumerate().map(|(at, value)| off(at) * (value - mean)).sum::<f64>() / spread;
        let residue = |(at, value): (usize, &f64)| (value - mean - slope * off(at)).powi(2);
        let variance = values.iter().enumerate().map(residue).sum::<f64>() / (count - 2.0);
        Some(Self { warm_up, slope, noise: student(values.len() - 2) * (variance / spread).sqrt() })
    }
}

/// A line through two points says nothing of noise.
const LEAST_TICKS: usize = 3;

/// The 97.5th percentile of Student's distribution.
fn student(freedom: usize) -> f64 {
    const FEW: [f64; 20] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    ];
    // Too wide by 6 % at most.
    freedom.checked_sub(1).and_then(|at| FEW.get(at)).copied().unwrap_or(2.086)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHURN: Churn = Churn {
        stay: Duration::from_secs(1_200),
        away: Duration::from_secs(300),
        speed: 100.0,
        tick: Duration::from_secs(7_200),
        ticks: 24,
    };

    #[test]
    fn two_hours_at_a_hundredfold_speed_are_72_seconds() {
        assert_eq!(CHURN.tick_time(), Duration::from_secs(72));
        assert_eq!(CHURN.time(), Duration::from_secs(24 * 72));
        assert!((CHURN.rate(1_500) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn stays_have_their_mean_and_an_end() {
        let shares = (0..10_000).map(|at| (f64::from(at) + 0.5) / 10_000.0);
        let mean = shares.map(|share| CHURN.stay(share).as_secs_f64()).sum::<f64>() / 10_000.0;
        assert!((mean - 12.0).abs() < 0.01, "{mean}");
        assert_eq!((CHURN.stay(0.0), CHURN.away(1.0)), (Duration::ZERO, Duration::from_secs(30)));
    }

    #[test]
    fn whoever_leaves_comes_again_in_its_way() {
        let (now, turnstile) = (Instant::now(), Turnstile::new(CHURN));
        let later = now + Duration::from_secs(60);
        for (listener, share) in [(1, 0.1), (2, 0.6), (3, 0.9)] {
            turnstile.leave(now, listener, [share, 0.5]);
        }
        let goodbye = turnstile.next(now).unwrap();
        let What::Delete(away) = goodbye.what else { panic!("{goodbye:?}") };
        assert_eq!((goodbye.listener, turnstile.next(now)), (1, None), "the others are away yet");
        turnstile.comes(now + away, goodbye.listener);
        let mut back: Vec<_> =
            std::iter::from_fn(|| turnstile.next(later)).map(|e| (e.listener, e.what)).collect();
        back.sort();
        let join = |ticket| What::Join { ticket };
        assert_eq!(back, [(1, join(false)), (2, join(false)), (3, join(true))]);
        let moves = turnstile.moves();
        assert_eq!((moves.deleted, moves.vanished, moves.left()), (1, 2, 3));
    }

    #[test]
    fn the_port_of_one_who_is_gone_is_kept_for_a_time_and_closed_to_others() {
        let (now, turnstile) = (Instant::now(), Turnstile::new(CHURN));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap();
        turnstile.linger(now, socket);
        assert!(UdpSocket::bind(port).is_err());
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.connect(port).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        server.send(b"late").unwrap();
        assert_eq!(server.recv(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        turnstile.linger(now + LINGER, UdpSocket::bind("127.0.0.1:0").unwrap());
        assert_eq!(turnstile.ports.lock().unwrap().len(), 1, "the first is let go");
    }

    #[test]
    fn errands_come_in_the_order_of_their_times() {
        let (now, turnstile) = (Instant::now(), Turnstile::new(CHURN));
        for ms in [30, 10, 20] {
            turnstile.comes(now + Duration::from_millis(ms), ms as usize);
        }
        let at = |ms| turnstile.next(now + Duration::from_millis(ms)).map(|errand| errand.listener);
        assert_eq!(
            [at(9), at(10), at(10), at(40), at(40), at(40)],
            [None, Some(10), None, Some(20), Some(30), None]
        );
    }

    #[test]
    fn a_line_is_found_again_and_noise_is_bounded() {
        let line: Vec<f64> = (0..24).map(|tick| 1e8 + 4_096.0 * f64::from(tick)).collect();
        let trend = Trend::of(&line).unwrap();
        assert_eq!(trend.warm_up, 12);
        assert!((trend.slope - 4_096.0).abs() < 1e-3 && trend.noise < 1e-3, "{trend:?}");
        let flat: Vec<f64> = (0..24).map(|tick| 1e8 + if tick % 2 == 0 { 1e5 } else { -1e5 }).collect();
        let trend = Trend::of(&flat).unwrap();
        assert!(trend.slope.abs() < trend.noise, "nothing but noise: {trend:?}");
        let grows: Vec<f64> = flat.iter().enumerate().map(|(at, value)| value + 4e4 * at as f64).collect();
        let trend = Trend::of(&grows).unwrap();
        assert!(trend.slope > trend.noise, "above the noise: {trend:?}");
    }

    #[test]
    fn by_the_book() {
        // x = 0, 1, 2, 3; y = 1, 3, 2, 5: slope 1.1, residual variance 1.35, spread 5, t(2) = 4.303. Four are left out before.
        let trend = Trend::of(&[90.0, -7.0, 40.0, 8.0, 1.0, 3.0, 2.0, 5.0]).unwrap();
        assert!((trend.slope - 1.1).abs() < 1e-9, "{trend:?}");
        assert!((trend.noise - 4.303 * (1.35_f64 / 5.0).sqrt()).abs() < 1e-9, "{trend:?}");
    }

    #[test]
    fn few_ticks_make_no_line_and_what_warms_up_is_left_out() {
        assert_eq!(Trend::of(&[]), None);
        assert_eq!(Trend::of(&[1.0, 2.0]), None);
        assert_eq!(Trend::of(&[5.0, 5.0, 5.0]).unwrap(), Trend { warm_up: 0, slope: 0.0, noise: 0.0 });
        let filling = [0.0, 9.0, 9.5, 10.0, 10.0, 10.0];
        assert_eq!(Trend::of(&filling).unwrap(), Trend { warm_up: 3, slope: 0.0, noise: 0.0 });
    }
}
