//! Real-time pacing of recorded audio: when the next packet is due, and what its timestamps are.
//!
//! Deadlines are absolute, counted in samples from one origin, so that no rounding adds up: after a day the media clock
//! is where the wall clock is. After a stall (a suspended laptop, a starved thread) a bounded burst is sent at once; what
//! is missing beyond that becomes a pause, a jump of the timestamp, as if the speaker had been silent.

use std::time::{Duration, Instant, SystemTime};

use super::ogg::CLOCK_HZ;

/// How far behind a pacer catches up by sending without waiting.
pub const MAX_BURST: Duration = Duration::from_millis(500);

/// Paces one stream.
#[derive(Debug, Clone)]
pub struct Pacer {
    origin: Instant,
    wall: SystemTime,
    /// Samples from the origin to the next packet.
    samples: u64,
    first_timestamp: u32,
}

/// What the next packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// RTP timestamp.
    pub timestamp: u32,
    /// Wall time at which the packet's first sample was "captured".
    pub captured: SystemTime,
    /// A pause comes before it: the RTP marker bit (RFC 3551 §4.1).
    pub marker: bool,
}

impl Pacer {
    /// The first packet is due at `now`.
    pub fn new(now: Instant, wall: SystemTime, first_timestamp: u32) -> Self {
        Self { origin: now, wall, samples: 0, first_timestamp }
    }

    /// When the next packet is due.
    pub fn due(&self) -> Instant {
        self.origin + duration(self.samples)
    }

    /// Takes the stamp of the packet that is due now, `samples` long, and moves on to the next.
    pub fn take(&mut self, now: Instant, samples: u32) -> Stamp {
        let behind = now.saturating_duration_since(self.due());
        let pause = behind > MAX_BURST;
        if pause {
            self.samples += samples_in(behind);
        }
        let stamp = Stamp {
            // The timestamp wraps every 24.8 hours (RFC 3550 §5.1).
            timestamp: self.first_timestamp.wrapping_add(self.samples as u32),
            captured: self.wall + duration(self.samples),
            marker: pause || self.samples == 0,
        };
        self.samples += u64::from(samples);
        stamp
    }

    /// Samples from the start to the next packet.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}

/// Time of a number of samples, rounded down to the nanosecond; exact to the nanosecond for any length of stream.
pub fn duration(samples: u64) -> Duration {
    let hz = u64::from(CLOCK_HZ);
    Duration::new(samples / hz, (samples % hz * 1_000_000_000 / hz) as u32)
}

fn samples_in(time: Duration) -> u64 {
    time.as_secs() * u64::from(CLOCK_HZ)
        + u64::from(time.subsec_nanos()) * u64::from(CLOCK_HZ) / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pacer(now: Instant) -> Pacer {
        Pacer::new(now, SystemTime::UNIX_EPOCH, u32::MAX - 959)
    }

    #[test]
    fn a_day_of_frames_does_not_drift() {
        let start = Instant::now();
        let mut pacer = pacer(start);
        // 7.5 ms is a whole number of samples but 20.83 µs of rounding each.
        for _ in 0..86_400 * 400 / 3 {
            let due = pacer.due();
            pacer.take(due, 360);
        }
        assert_eq!(pacer.due() - start, Duration::from_secs(86_400));
    }

    #[test]
    fn timestamps_and_capture_times_move_with_the_media_and_wrap() {
        let now = Instant::now();
        let mut pacer = pacer(now);
        let first = pacer.take(now, 960);
        assert_eq!(
            first,
            Stamp { timestamp: u32::MAX - 959, captured: SystemTime::UNIX_EPOCH, marker: true }
        );
        let second = pacer.take(now, 960);
        assert_eq!(second.timestamp, 0);
        assert_eq!(second.captured, SystemTime::UNIX_EPOCH + Duration::from_millis(20));
        assert!(!second.marker);
    }

    #[test]
    fn a_short_stall_is_caught_up_and_a_long_one_becomes_a_pause() {
        let start = Instant::now();
        let mut pacer = pacer(start);
        pacer.take(start, 960);

        let late = start + Duration::from_millis(20) + MAX_BURST;
        assert_eq!(pacer.take(late, 960).timestamp, 0, "still in time: sent at once, no sample skipped");
        assert_eq!(pacer.due(), start + Duration::from_millis(40));

        let later = pacer.due() + Duration::from_secs(3);
        let stamp = pacer.take(later, 960);
        assert_eq!(stamp.timestamp, 960 + 3 * CLOCK_HZ);
        assert!(stamp.marker);
        assert_eq!(pacer.due(), later + Duration::from_millis(20), "no burst is left");
    }

    proptest! {
        #[test]
        fn durations_are_exact_to_the_nanosecond(samples in 0..u64::from(u32::MAX) * 1000) {
            let exact = u128::from(samples) * 1_000_000_000 / u128::from(CLOCK_HZ);
            prop_assert_eq!(duration(samples).as_nanos(), exact);
            prop_assert!(samples - samples_in(duration(samples)) <= 1);
        }

        #[test]
        fn a_stamp_is_never_earlier_than_the_burst_allows(stalls in proptest::collection::vec(0..2_000u64, 1..200)) {
            let start = Instant::now();
            let mut pacer = pacer(start);
            let mut now = start;
            let mut last = None;
            for stall in stalls {
                now = now.max(pacer.due()) + Duration::from_millis(stall);
                let stamp = pacer.take(now, 960);
                let age = (now - start).saturating_sub(stamp.captured.duration_since(SystemTime::UNIX_EPOCH).unwrap());
                prop_assert!(age <= MAX_BURST + Duration::from_micros(21), "{age:?}");
                prop_assert!(Some(stamp.captured) > last);
                last = Some(stamp.captured);
            }
        }
    }
}
