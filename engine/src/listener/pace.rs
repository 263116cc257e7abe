//! How fast frames are handed out again: a multiple of real time, with a burst.
//!
//! One account for each leg, for replays of every kind, so that they together stay below the rate. Invariant (I4):
//! whenever a frame may not go now, the time at which it may is in the future.

use std::time::{Duration, Instant};

use crate::config::Pacing;
use crate::time::ticks_to_duration;

/// One leg's account.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// When all that went would have gone without a burst.
    paid: Option<Instant>,
}

impl Pace {
    /// When the next frame may go; `None` for at once.
    pub(crate) fn due(&self, now: Instant, pacing: Pacing) -> Option<Instant> {
        let ahead = step(SPARE_TICKS, pacing) * (pacing.burst - 1);
        self.paid.and_then(|paid| paid.checked_sub(ahead)).filter(|&due| due > now)
    }

    /// Takes note of a frame that goes now and plays for `ticks`.
    pub(crate) fn spend(&mut self, now: Instant, ticks: u64, pacing: Pacing) {
        let paid = self.paid.map_or(now, |paid| paid.max(now));
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).clamp(SHORTEST_TICKS, LONGEST_TICKS);
        self.paid = Some(paid + step(ticks, pacing));
    }
}

/// The time that a frame of `ticks` is given.
fn step(ticks: u32, pacing: Pacing) -> Duration {
    // In quarters. What only keeps pace never arrives, so the least is 1.25.
    let rate = (pacing.rate * 4).max(5);
    ticks_to_duration(ticks) * 4 / rate
}

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
    fn frames(pacing: Pacing, ms: u64) -> usize {
        let start = origin();
        let end = start + Duration::from_millis(ms);
        let (mut pace, mut now, mut frames) = (Pace::default(), start, 0);
        while now < end {
            match pace.due(now, pacing) {
                Some(due) => {
                    assert!(due > now, "I4");
                    now = due;
                }
                None => {
                    pace.spend(now, 960, pacing);
                    frames += 1;
                }
            }
        }
        frames
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let pacing = Pacing { rate: 4, burst: 10 };
        assert_eq!(frames(pacing, 1), 10);
        assert_eq!(frames(pacing, 1_000), 10 + 199);
    }

    #[test]
    fn without_a_burst_frames_are_evenly_spaced() {
        assert_eq!(frames(Pacing { rate: 4, burst: 1 }, 1_000), 200);
        assert_eq!(frames(Pacing { rate: 100, burst: 1 }, 1_000), 5_000);
    }

    #[test]
    fn the_lowest_rate_still_gains() {
        assert_eq!(frames(Pacing { rate: 1, burst: 1 }, 16_000), 1_000, "800 in real time");
    }

    #[test]
    fn a_long_silence_is_not_waited_for() {
        let (start, pacing) = (origin(), Pacing { rate: 4, burst: 1 });
        let mut pace = Pace::default();
        pace.spend(start, u64::MAX, pacing);
        assert_eq!(pace.due(start, pacing), Some(start + Duration::from_millis(30)));
    }

    #[test]
    fn a_rest_earns_a_burst_and_no_more() {
        let (start, pacing) = (origin(), Pacing { rate: 4, burst: 3 });
        let mut pace = Pace::default();
        pace.spend(start, 960, pacing);
        let later = start + Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(pace.due(later, pacing), None);
            pace.spend(later, 960, pacing);
        }
        assert!(pace.due(later, pacing).is_some());
    }
}
