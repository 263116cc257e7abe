//! What a listener counts (RFC 3550 §6.4.1, §A.3, §A.8): loss, jitter, order, duplicates.

use std::time::{Duration, Instant};

use super::ogg::CLOCK_HZ;

/// How far back a packet is told from its duplicate.
const WINDOW: u64 = 128;

/// Counts one track's packets, over changes of SSRC.
#[derive(Debug, Clone, Default)]
pub(super) struct Reception {
    stream: Option<Stream>,
    /// Sums of the streams before this one.
    past: ReceptionStats,
}

#[derive(Debug, Clone)]
struct Stream {
    ssrc: u32,
    first: u64,
    highest: u64,
    /// Bit n: `highest - n` was received.
    seen: u128,
    epoch: Instant,
    transit: i64,
    /// In sixteenths of a sample, as in RFC 3550 §A.8.
    jitter: i64,
    stats: ReceptionStats,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceptionStats {
    /// Packets received, duplicates not counted.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Packets that were sent and did not come.
    pub lost: u64,
    /// Packets that came after a later one.
    pub out_of_order: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Interarrival jitter, smoothed.
    pub jitter: Duration,
}

impl ReceptionStats {
    /// Share of the packets sent that did not come, 0 to 1.
    pub fn loss(&self) -> f64 {
        let expected = self.packets + self.lost;
        if expected == 0 { 0.0 } else { self.lost as f64 / expected as f64 }
    }
}

impl Reception {
    /// Counts a packet; false if it is a duplicate, which nobody wants again.
    pub(super) fn count(
        &mut self,
        now: Instant,
        ssrc: u32,
        sequence: u64,
        timestamp: u32,
        bytes: usize,
    ) -> bool {
        let stream = self.stream(now, ssrc, sequence, timestamp);
        let fresh = stream.mark(sequence);
        stream.take(now, timestamp, fresh.then_some(bytes));
        fresh
    }

    /// Counts a frame with its position and media time, of which the caller knows whether it is a duplicate.
    pub(super) fn count_placed(
        &mut self,
        now: Instant,
        position: u64,
        media_time: u32,
        bytes: usize,
        fresh: bool,
    ) {
        let stream = self.stream(now, 0, position, media_time);
        // Which of them came before is not asked: only the order is noted.
        let _seen = stream.mark(position);
        stream.take(now, media_time, fresh.then_some(bytes));
    }

    /// Another stream follows, whatever it is named.
    pub(super) fn restart(&mut self) {
        self.past = self.stats();
        self.stream = None;
    }

    /// The stream of this SSRC, a new one if it is another.
    fn stream(&mut self, now: Instant, ssrc: u32, sequence: u64, timestamp: u32) -> &mut Stream {
        let past = self.stats();
        match &mut self.stream {
            Some(stream) if stream.ssrc == ssrc => {}
            other => {
                self.past = past;
                *other = Some(Stream::new(now, ssrc, sequence, timestamp));
            }
        }
        self.stream.as_mut().expect("made above")
    }

    pub(super) fn stats(&self) -> ReceptionStats {
        let Some(stream) = &self.stream else {
            return self.past;
        };
        // RFC 3550 §A.3: expected less received.
        let expected = stream.highest - stream.first + 1;
        ReceptionStats {
            packets: self.past.packets + stream.stats.packets,
            bytes: self.past.bytes + stream.stats.bytes,
            lost: self.past.lost + expected.saturating_sub(stream.stats.packets),
            out_of_order: self.past.out_of_order + stream.stats.out_of_order,
            duplicates: self.past.duplicates + stream.stats.duplicates,
            jitter: super::pace::duration(stream.jitter as u64 / 16),
        }
    }
}

impl Stream {
    fn new(now: Instant, ssrc: u32, sequence: u64, timestamp: u32) -> Self {
        Self {
            ssrc,
            first: sequence,
            highest: sequence,
            seen: 0,
            epoch: now,
            transit: transit(Duration::ZERO, timestamp),
            jitter: 0,
            stats: ReceptionStats::default(),
        }
    }

    /// Notes a sequence number; false if it was noted before, or is too old to tell.
    fn mark(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.seen = if ahead < WINDOW { self.seen << ahead } else { 0 };
            self.highest = sequence;
        } else if sequence < self.highest {
            self.stats.out_of_order += 1;
            self.first = self.first.min(sequence);
        }
        let age = self.highest - sequence;
        if age >= WINDOW {
            return false;
        }
        let bit = 1 << age;
        let fresh = self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }

    /// Counts a packet of so many bytes, or a duplicate.
    fn take(&mut self, now: Instant, timestamp: u32, fresh: Option<usize>) {
        match fresh {
            Some(bytes) => {
                self.stats.packets += 1;
                self.stats.bytes += bytes as u64;
                self.measure_jitter(now, timestamp);
            }
            None => self.stats.duplicates += 1,
        }
    }

    /// RFC 3550 §A.8.
    fn measure_jitter(&mut self, now: Instant, timestamp: u32) {
        let transit = transit(now.saturating_duration_since(self.epoch), timestamp);
        // Both sides of the difference are 32-bit times: their difference is small, whatever wrapped.
        let difference = i64::from((transit - self.transit) as i32).abs();
        self.transit = transit;
        self.jitter += difference - ((self.jitter + 8) >> 4);
    }
}

fn transit(arrival: Duration, timestamp: u32) -> i64 {
    (arrival.as_nanos() * u128::from(CLOCK_HZ) / 1_000_000_000) as i64 - i64::from(timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Feed {
        reception: Reception,
        start: Instant,
    }

    impl Feed {
        fn new() -> Self {
            Self { reception: Reception::default(), start: Instant::now() }
        }

        fn at(&mut self, ms: u64, sequence: u64) -> bool {
            let timestamp = (sequence as u32).wrapping_mul(960).wrapping_sub(5000);
            self.reception.count(self.start + Duration::from_millis(ms), 1, sequence, timestamp, 100)
        }
    }

    #[test]
    fn a_clean_stream_has_no_loss_and_no_jitter() {
        let mut feed = Feed::new();
        for index in 0..1000 {
            assert!(feed.at(index * 20, 65_000 + index));
        }
        let stats = feed.reception.stats();
        assert_eq!(
            stats,
            ReceptionStats { packets: 1000, bytes: 100_000, ..ReceptionStats::default() },
            "over a wrap of the 16-bit number and of the timestamp"
        );
        assert_eq!(stats.loss(), 0.0);
    }

    #[test]
    fn holes_are_lost_until_they_come() {
        let mut feed = Feed::new();
        for sequence in [10, 11, 14, 15] {
            feed.at(0, sequence);
        }
        assert_eq!(feed.reception.stats().lost, 2);
        assert!((feed.reception.stats().loss() - 2.0 / 6.0).abs() < 1e-9);
        assert!(feed.at(0, 12));
        let stats = feed.reception.stats();
        assert_eq!((stats.lost, stats.out_of_order, stats.duplicates), (1, 1, 0));
        assert!(feed.at(0, 9), "before the first one: it was sent, so it counts");
        assert_eq!(feed.reception.stats().lost, 1);
    }

    #[test]
    fn duplicates_are_counted_apart() {
        let mut feed = Feed::new();
        assert!(feed.at(0, 10));
        assert!(!feed.at(0, 10));
        assert!(feed.at(0, 11));
        assert!(!feed.at(0, 10));
        assert!(feed.at(0, 500), "a jump past the window");
        assert!(!feed.at(0, 11), "too old to tell");
        let stats = feed.reception.stats();
        assert_eq!((stats.packets, stats.duplicates, stats.lost), (3, 3, 488));
    }

    #[test]
    fn jitter_settles_at_the_mean_difference() {
        let mut feed = Feed::new();
        for index in 0..1000 {
            feed.at(index * 20 + (index % 2) * 8, index);
        }
        // Every transit differs from the one before by 8 ms.
        let jitter = feed.reception.stats().jitter;
        assert!(
            (Duration::from_micros(7_900)..=Duration::from_micros(8_100)).contains(&jitter),
            "{jitter:?}"
        );
    }

    #[test]
    fn a_restart_starts_anew_and_keeps_the_sums() {
        let mut feed = Feed::new();
        feed.at(0, 5000);
        feed.at(0, 5002);
        feed.reception.restart();
        assert!(feed.at(0, 0), "far before, and the first of its stream");
        feed.at(0, 1);
        let stats = feed.reception.stats();
        assert_eq!((stats.packets, stats.lost, stats.out_of_order, stats.duplicates), (4, 1, 0, 0));
    }

    #[test]
    fn another_ssrc_starts_anew_and_keeps_the_sums() {
        let mut feed = Feed::new();
        feed.at(0, 10);
        feed.at(0, 12);
        feed.reception.count(feed.start, 2, 60_000, 7, 100);
        let stats = feed.reception.stats();
        assert_eq!((stats.packets, stats.lost, stats.jitter), (3, 1, Duration::ZERO));
    }
}
