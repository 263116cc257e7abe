//! How fast frames are handed out of the history: multiples of real time, each with a burst.
//!
//! What was never handed out is audio that the far end has not: it goes at a rate that leaves a path room for what else
//! is on it. What was handed out before is mostly there already, and what is new waits behind it: it goes much faster,
//! as long as a far end does not live on it. What went so fast within [`RESERVE_TICKS`] of frames is on credit: it is paid back
//! at the lower rate, so that whatever a far end does, it is sent each kind at the lower rate in the long run.
//!
//! One set of accounts for each leg. Invariant (I4): whenever a frame may not go now, the time at which it may is in
//! the future.

use std::time::{Duration, Instant};

use crate::config::Pacing;
use crate::time::ticks_to_duration;

/// What is to be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What was not handed out before, or is asked for.
    Held,
    /// What was handed out before and may be there.
    Again,
}

/// One leg's accounts: when all that went would have gone without a burst.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    held: Option<Instant>,
    again: Option<Instant>,
    /// The same as `again`, at the rate of what is held.
    credit: Option<Instant>,
}

impl Pace {
    /// When the next frame may go; `None` for at once.
    pub(crate) fn due(&self, kind: Kind, now: Instant, pacing: Pacing) -> Option<Instant> {
        let burst = |rate| step(SPARE_TICKS, rate) * (pacing.burst - 1);
        let due = match kind {
            Kind::Held => before(self.held, burst(pacing.rate)),
            Kind::Again => before(self.again, burst(pacing.again()))
                .max(before(self.credit, step(RESERVE_TICKS, pacing.rate).max(burst(pacing.rate)))),
        };
        due.filter(|&due| due > now)
    }

    /// Takes note of a frame that goes now and plays for `ticks`.
    pub(crate) fn spend(&mut self, kind: Kind, now: Instant, ticks: u64, pacing: Pacing) {
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).clamp(SHORTEST_TICKS, LONGEST_TICKS);
        let pay = |paid: &mut Option<Instant>, rate| {
            *paid = Some(paid.map_or(now, |paid| paid.max(now)) + step(ticks, rate));
        };
        match kind {
            Kind::Held => pay(&mut self.held, pacing.rate),
            Kind::Again => {
                pay(&mut self.again, pacing.again());
                pay(&mut self.credit, pacing.rate);
            }
        }
    }
}

fn before(paid: Option<Instant>, ahead: Duration) -> Option<Instant> {
    paid.and_then(|paid| paid.checked_sub(ahead))
}

/// The time that `ticks` of audio are given.
fn step(ticks: u32, rate: u32) -> Duration {
    // In quarters. What only keeps pace never arrives, so the least is 1.25.
    let rate = (rate * 4).max(5);
    ticks_to_duration(ticks) * 4 / rate
}

/// How much audio goes again at the higher rate before the lower one holds: 10 s, twice what a far end that reports
/// every 5 s (RFC 3550 §6.2) has not acknowledged.
const RESERVE_TICKS: u32 = 480_000;
/// What a burst is counted in: 20 ms.
const SPARE_TICKS: u32 = 960;
/// RFC 6716 §2: Opus frames play for 2.5 ms at least,
const SHORTEST_TICKS: u32 = 120;
/// and packets for 120 ms at most; a longer gap is silence, which need not be waited for.
const LONGEST_TICKS: u32 = 5_760;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::tests::origin;

    /// How many frames of 20 ms go within `ms`, if as many as may go do.
    fn frames(kind: Kind, pacing: Pacing, ms: u64) -> usize {
        let start = origin();
        let end = start + Duration::from_millis(ms);
        let (mut pace, mut now, mut frames) = (Pace::default(), start, 0);
        while now < end {
            match pace.due(kind, now, pacing) {
                Some(due) => {
                    assert!(due > now, "I4");
                    now = due;
                }
                None => {
                    pace.spend(kind, now, 960, pacing);
                    frames += 1;
                }
            }
        }
        frames
    }

    const fn pacing(rate: u32, burst: u32) -> Pacing {
        Pacing { rate, resend_rate: 32, burst }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        assert_eq!(frames(Kind::Held, pacing(4, 10), 1), 10);
        assert_eq!(frames(Kind::Held, pacing(4, 10), 1_000), 10 + 199);
    }

    #[test]
    fn without_a_burst_frames_are_evenly_spaced() {
        assert_eq!(frames(Kind::Held, pacing(4, 1), 1_000), 200);
        assert_eq!(frames(Kind::Held, pacing(100, 1), 1_000), 5_000);
    }

    #[test]
    fn the_lowest_rate_still_gains() {
        assert_eq!(frames(Kind::Held, pacing(1, 1), 16_000), 1_000, "800 in real time");
    }

    #[test]
    fn what_went_before_goes_again_much_faster() {
        assert_eq!(frames(Kind::Again, pacing(4, 1), 100), 160, "32 times 5");
        assert_eq!(frames(Kind::Again, pacing(40, 1), 100), 200, "never slower than what is held");
    }

    #[test]
    fn what_goes_again_and_again_goes_at_the_lower_rate() {
        // 10 s of frames on credit, in 360 ms: those that the lower rate brings meanwhile are paid for.
        let (on_credit, all) =
            (frames(Kind::Again, pacing(4, 10), 400), frames(Kind::Again, pacing(4, 10), 10_400));
        assert!((500..=600).contains(&on_credit), "{on_credit}");
        assert_eq!(all - on_credit, 2_000, "4 times 50 a second");
    }

    #[test]
    fn both_kinds_together_leave_twice_the_burst_at_once() {
        let (start, pacing, mut pace, mut frames) = (origin(), pacing(4, 10), Pace::default(), 0);
        for kind in [Kind::Held, Kind::Again] {
            while pace.due(kind, start, pacing).is_none() {
                pace.spend(kind, start, 960, pacing);
                frames += 1;
            }
        }
        assert_eq!(frames, 20);
    }

    #[test]
    fn a_long_silence_is_not_waited_for() {
        let (start, pacing) = (origin(), pacing(4, 1));
        let mut pace = Pace::default();
        pace.spend(Kind::Held, start, u64::MAX, pacing);
        assert_eq!(pace.due(Kind::Held, start, pacing), Some(start + Duration::from_millis(30)));
    }

    #[test]
    fn a_rest_earns_a_burst_and_no_more() {
        let (start, pacing) = (origin(), pacing(4, 3));
        let later = start + Duration::from_secs(60);
        for kind in [Kind::Held, Kind::Again] {
            let mut pace = Pace::default();
            pace.spend(kind, start, 960, pacing);
            for _ in 0..3 {
                assert_eq!(pace.due(kind, later, pacing), None);
                pace.spend(kind, later, 960, pacing);
            }
            assert!(pace.due(kind, later, pacing).is_some());
        }
    }
}
