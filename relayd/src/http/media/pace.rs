//! How fast a publisher is read: no faster than the media plane takes frames, so that none is dropped there. One number
//! of state (GCRA); TCP holds back the rest.

use std::time::{Duration, Instant};

/// What one publisher's frames have used.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When all that was read would have come at the steady rate.
    full: Option<Instant>,
}

impl Pace {
    /// Whether a frame of so many payload bytes may be handed in now; if so, it is counted.
    pub(super) fn admits(&mut self, now: Instant, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let full = self.full.map_or(now, |full| full.max(now)) + FRAME.max(BYTE * bytes);
        let admitted = full.saturating_duration_since(now) <= BURST;
        if admitted {
            self.full = Some(full);
        }
        admitted
    }
}

/// 190 frames a second: nearly four times the usual 50, for one who sends again what was lost beside what is new. The
/// media plane takes 200.
const FRAME: Duration = Duration::from_micros(5_263);
/// 500 kbit/s of payload, as the media plane takes 512.
const BYTE: Duration = Duration::from_micros(16);
/// What may come at once, in time; the media plane lets twice as much be saved up.
const BURST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_four_times_as_fast_as_they_are_spoken_and_no_faster() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let at_once = (0..1_000).filter(|_| pace.admits(start, 80)).count();
        assert_eq!(at_once, 190);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1_000).filter(|_| pace.admits(later, 80)).count(), 190);
    }

    #[test]
    fn long_frames_come_by_their_bytes() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!((0..1_000).filter(|_| pace.admits(start, 1_250)).count(), 50);
    }

    #[test]
    fn one_that_speaks_at_the_usual_rate_never_waits() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert!((0..1_000).all(|index| pace.admits(start + Duration::from_millis(20) * index, 160)));
    }
}
