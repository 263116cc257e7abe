//! A one-way network path in virtual time: what it does to each datagram is drawn from its seed.
//!
//! A [`LinkSpec`] says which faults there are, in the order in which a datagram meets them; each is small and they
//! compose. A [`Link`] is a spec and its state: [`Link::carry`] takes the moment a datagram enters and gives the
//! moments it comes out, none if it is lost, several if it is duplicated.
//!
//! Invariant: nothing comes out before it went in, and equal seeds and inputs give equal arrivals.

use std::time::Duration;

/// The faults of a path, in the order in which they are met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkSpec {
    faults: Vec<Fault>,
}

impl LinkSpec {
    /// A path that delivers everything at once.
    #[must_use]
    pub const fn perfect() -> Self {
        Self { faults: Vec::new() }
    }

    /// Then: the same delay for everything.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.then(Fault::Delay(delay))
    }

    /// Then: a further delay, exponential with this mean; order is kept, as in a queue.
    #[must_use]
    pub fn jitter(self, mean: Duration) -> Self {
        self.then(Fault::Jitter { mean })
    }

    /// Then: losses in bursts.
    #[must_use]
    pub fn loss(self, loss: GilbertElliott) -> Self {
        self.then(Fault::Loss(loss))
    }

    /// Then: with this probability a datagram is held back for up to `late`, and others overtake it.
    #[must_use]
    pub fn reorder(self, probability: f64, late: Duration) -> Self {
        self.then(Fault::Reorder { probability, late })
    }

    /// Then: with this probability a datagram comes twice, the second up to `after` later.
    #[must_use]
    pub fn duplicate(self, probability: f64, after: Duration) -> Self {
        self.then(Fault::Duplicate { probability, after })
    }

    /// Then: a bottleneck with a queue that drops what does not fit.
    #[must_use]
    pub fn rate(self, bits_per_second: u64, queue_bytes: usize) -> Self {
        self.then(Fault::Rate { bits_per_second, queue_bytes })
    }

    fn then(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }
}

/// Two-state loss (Gilbert 1960, Elliott 1963): a good and a bad state, each with its own loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// Probability per datagram of going from good to bad.
    pub worsen: f64,
    /// Probability per datagram of going from bad to good.
    pub recover: f64,
    /// Loss in the good state.
    pub good_loss: f64,
    /// Loss in the bad state.
    pub bad_loss: f64,
}

impl GilbertElliott {
    /// Losses that do not depend on each other.
    #[must_use]
    pub const fn independent(loss: f64) -> Self {
        Self { worsen: 0.0, recover: 1.0, good_loss: loss, bad_loss: loss }
    }

    /// Everything is lost in bursts of this mean length, and nothing between them; `loss` overall.
    #[must_use]
    pub fn bursts(loss: f64, mean_length: f64) -> Self {
        let recover = 1.0 / mean_length;
        Self { worsen: recover * loss / (1.0 - loss), recover, good_loss: 0.0, bad_loss: 1.0 }
    }

    /// The share of datagrams that are lost in the long run.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        let bad = self.worsen / (self.worsen + self.recover);
        bad * self.bad_loss + (1.0 - bad) * self.good_loss
    }
}

/// A path with its state.
#[derive(Clone, Debug)]
pub struct Link {
    stages: Vec<Stage>,
    random: fastrand::Rng,
    stats: LinkStats,
}

impl Link {
    /// A path in its initial state.
    #[must_use]
    pub fn new(spec: &LinkSpec, seed: u64) -> Self {
        let stages = spec.faults.iter().map(|fault| Stage::new(*fault)).collect();
        Self { stages, random: fastrand::Rng::with_seed(seed), stats: LinkStats::default() }
    }

    /// Carries a datagram of `bytes` that enters at `now`; returns when it comes out, in no particular order.
    ///
    /// Datagrams must enter in order of time.
    pub fn carry(&mut self, now: Duration, bytes: usize) -> Vec<Duration> {
        let mut copies = vec![now];
        for stage in &mut self.stages {
            stage.apply(&mut copies, bytes, &mut self.random);
        }
        self.stats.carried += 1;
        self.stats.lost += u64::from(copies.is_empty());
        self.stats.duplicated += copies.len().saturating_sub(1) as u64;
        copies
    }

    /// What became of the datagrams so far.
    #[must_use]
    pub const fn stats(&self) -> LinkStats {
        self.stats
    }
}

/// What became of a link's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Datagrams that entered.
    pub carried: u64,
    /// Datagrams that never came out.
    pub lost: u64,
    /// Copies beyond the first.
    pub duplicated: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Delay(Duration),
    Jitter { mean: Duration },
    Loss(GilbertElliott),
    Reorder { probability: f64, late: Duration },
    Duplicate { probability: f64, after: Duration },
    Rate { bits_per_second: u64, queue_bytes: usize },
}

/// A fault and its state.
#[derive(Clone, Copy, Debug)]
struct Stage {
    fault: Fault,
    /// Gilbert–Elliott: in the bad state.
    bad: bool,
    /// Jitter: the last arrival. Rate: when the bottleneck is free.
    until: Duration,
}

impl Stage {
    const fn new(fault: Fault) -> Self {
        Self { fault, bad: false, until: Duration::ZERO }
    }

    fn apply(&mut self, copies: &mut Vec<Duration>, bytes: usize, random: &mut fastrand::Rng) {
        match self.fault {
            Fault::Delay(delay) => copies.iter_mut().for_each(|at| *at += delay),
            Fault::Jitter { mean } => {
                for at in copies {
                    *at = self.until.max(*at + exponential(mean, random));
                    self.until = *at;
                }
            }
            Fault::Loss(loss) => copies.retain(|_| !self.loses(&loss, random)),
            Fault::Reorder { probability, late } => {
                for at in copies {
                    if random.f64() < probability {
                        *at += late.mul_f64(random.f64());
                    }
                }
            }
            Fault::Duplicate { probability, after } => {
                for copy in 0..copies.len() {
                    if random.f64() < probability {
                        copies.push(copies[copy] + after.mul_f64(random.f64()));
                    }
                }
            }
            Fault::Rate { bits_per_second, queue_bytes } => {
                copies.retain_mut(|at| self.queue(at, bytes, bits_per_second, queue_bytes));
            }
        }
    }

    fn loses(&mut self, loss: &GilbertElliott, random: &mut fastrand::Rng) -> bool {
        let change = if self.bad { loss.recover } else { loss.worsen };
        self.bad ^= random.f64() < change;
        random.f64() < if self.bad { loss.bad_loss } else { loss.good_loss }
    }

    /// Whether the datagram finds room in the queue; then `at` becomes the moment it has left the bottleneck.
    fn queue(&mut self, at: &mut Duration, bytes: usize, bits_per_second: u64, queue_bytes: usize) -> bool {
        let waiting = self.until.saturating_sub(*at);
        let queued_bytes = waiting.as_secs_f64() * bits_per_second as f64 / 8.0;
        if queued_bytes + bytes as f64 > queue_bytes as f64 {
            return false;
        }
        let sending = Duration::from_secs_f64(bytes as f64 * 8.0 / bits_per_second as f64);
        *at = self.until.max(*at) + sending;
        self.until = *at;
        true
    }
}

fn exponential(mean: Duration, random: &mut fastrand::Rng) -> Duration {
    // 1 − f64() is in (0, 1]: its logarithm is finite.
    mean.mul_f64(-(1.0 - random.f64()).ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAMS: u32 = 100_000;
    const PERIOD: Duration = Duration::from_millis(20);

    /// When each datagram of a steady stream comes out.
    fn stream(spec: &LinkSpec) -> (Vec<(Duration, Vec<Duration>)>, LinkStats) {
        let mut link = Link::new(spec, 7);
        let carried = (0..DATAGRAMS).map(|n| (PERIOD * n, link.carry(PERIOD * n, 100))).collect();
        (carried, link.stats())
    }

    fn share(part: u64) -> f64 {
        part as f64 / f64::from(DATAGRAMS)
    }

    fn close_to(measured: f64, expected: f64, tolerance: f64) {
        assert!((measured - expected).abs() <= tolerance, "{measured} is not {expected} ± {tolerance}");
    }

    #[test]
    fn a_perfect_link_delivers_everything_at_once() {
        let (carried, stats) = stream(&LinkSpec::perfect());
        assert!(carried.iter().all(|(sent, arrived)| arrived == &[*sent]));
        assert_eq!(stats, LinkStats { carried: u64::from(DATAGRAMS), lost: 0, duplicated: 0 });
    }

    #[test]
    fn delays_add_up() {
        let spec = LinkSpec::perfect().delay(PERIOD).delay(PERIOD);
        assert!(stream(&spec).0.iter().all(|(sent, arrived)| arrived == &[*sent + PERIOD * 2]));
    }

    #[test]
    fn jitter_has_its_mean_and_keeps_the_order() {
        let mean = Duration::from_millis(3);
        let (carried, _) = stream(&LinkSpec::perfect().jitter(mean));
        let delays: f64 = carried.iter().map(|(sent, arrived)| (arrived[0] - *sent).as_secs_f64()).sum();
        close_to(delays / f64::from(DATAGRAMS), mean.as_secs_f64(), 0.0001);
        assert!(carried.is_sorted_by_key(|(_, arrived)| arrived[0]));
    }

    #[test]
    fn independent_losses_have_their_mean() {
        let (_, stats) = stream(&LinkSpec::perfect().loss(GilbertElliott::independent(0.02)));
        close_to(share(stats.lost), 0.02, 0.002);
    }

    #[test]
    fn bursts_have_their_mean_loss_and_their_mean_length() {
        let loss = GilbertElliott::bursts(0.1, 5.0);
        close_to(loss.mean_loss(), 0.1, 1e-9);
        let (carried, stats) = stream(&LinkSpec::perfect().loss(loss));
        close_to(share(stats.lost), 0.1, 0.01);
        let lost: Vec<bool> = carried.iter().map(|(_, arrived)| arrived.is_empty()).collect();
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        close_to(stats.lost as f64 / bursts as f64, 5.0, 0.5);
    }

    #[test]
    fn both_states_may_lose_with_their_own_probability() {
        let loss = GilbertElliott { worsen: 0.05, recover: 0.2, good_loss: 0.01, bad_loss: 0.5 };
        close_to(loss.mean_loss(), 0.2 * 0.5 + 0.8 * 0.01, 1e-9);
        let (_, stats) = stream(&LinkSpec::perfect().loss(loss));
        close_to(share(stats.lost), loss.mean_loss(), 0.01);
    }

    #[test]
    fn reordered_datagrams_are_overtaken_as_often_as_asked() {
        let (carried, stats) = stream(&LinkSpec::perfect().reorder(0.1, PERIOD * 4));
        assert_eq!((stats.lost, stats.duplicated), (0, 0));
        let overtaken = carried.windows(2).filter(|pair| pair[0].1[0] > pair[1].1[0]).count();
        // Held back for more than one period, three times of four, and the next one on time or less late.
        assert!((0.06..0.08).contains(&share(overtaken as u64)), "{overtaken}");
        assert!(carried.iter().all(|(sent, arrived)| arrived[0] - *sent <= PERIOD * 4));
    }

    #[test]
    fn duplicates_come_as_often_as_asked_and_later_than_the_first() {
        let (carried, stats) = stream(&LinkSpec::perfect().duplicate(0.05, PERIOD));
        close_to(share(stats.duplicated), 0.05, 0.005);
        assert!(
            carried.iter().all(|(sent, arrived)| arrived[0] == *sent && arrived.iter().all(|at| at >= sent))
        );
    }

    #[test]
    fn a_bottleneck_spaces_datagrams_by_their_size() {
        let mut link = Link::new(&LinkSpec::perfect().rate(80_000, 1_000), 1);
        let arrivals: Vec<Duration> = (0..3).flat_map(|_| link.carry(Duration::ZERO, 100)).collect();
        assert_eq!(arrivals, [10, 20, 30].map(Duration::from_millis));
    }

    #[test]
    fn a_full_queue_drops_and_an_empty_one_takes_again() {
        let mut link = Link::new(&LinkSpec::perfect().rate(80_000, 300), 1);
        let taken: Vec<bool> = (0..5).map(|_| !link.carry(Duration::ZERO, 100).is_empty()).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(!link.carry(Duration::from_millis(10), 100).is_empty(), "one has left by then");
        assert!(link.carry(Duration::from_millis(10), 100).is_empty());
        assert_eq!(link.stats().lost, 3);
    }

    #[test]
    fn faults_compose_in_their_order() {
        let twice_then_lost =
            LinkSpec::perfect().duplicate(1.0, PERIOD).loss(GilbertElliott::independent(0.5)).delay(PERIOD);
        let (carried, stats) = stream(&twice_then_lost);
        close_to(share(stats.lost), 0.25, 0.01);
        assert!(carried.iter().all(|(sent, arrived)| arrived.iter().all(|at| *at >= *sent + PERIOD)));
    }

    #[test]
    fn equal_seeds_give_equal_arrivals_and_others_do_not() {
        let spec =
            LinkSpec::perfect().jitter(PERIOD).loss(GilbertElliott::bursts(0.1, 3.0)).reorder(0.1, PERIOD);
        let arrivals = |seed| {
            let mut link = Link::new(&spec, seed);
            (0..100).map(|n| link.carry(PERIOD * n, 100)).collect::<Vec<_>>()
        };
        assert_eq!(arrivals(1), arrivals(1));
        assert_ne!(arrivals(1), arrivals(2));
    }
}
