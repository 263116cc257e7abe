//! What one listener has heard: every packet once, in order, and no gap.
//!
//! Pure: times are numbers of nanoseconds that the caller brings. Packets are known by the number that their publisher gave
//! them, or, where somebody else speaks, by their RTP index. Counts go into a [`Counts`] that all listeners of a thread
//! share, as they happen: nobody walks the listeners to know the loss.

use std::time::Duration;

use crate::webrtc::srtp::window::{Refused, Window};

/// Longer than this without a packet is a gap.
pub(crate) const GAP_NS: u64 = 60_000_000;
/// A number that is further ahead belongs to another stream: five hours of frames.
const MAX_AHEAD: u64 = 1 << 20;

/// Sums over listeners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Packets received, each once.
    pub(crate) packets: u64,
    /// Numbers passed over and not received since. Below zero in an interval that receives what an earlier one missed.
    pub(crate) missing: i64,
    /// Packets received again.
    pub(crate) duplicates: u64,
    /// Packets received after a later one.
    pub(crate) reordered: u64,
    /// Packets so old that nobody remembers whether they were received.
    pub(crate) stale: u64,
    /// Times without a packet.
    pub(crate) gaps: u64,
    /// The longest of them.
    pub(crate) longest_gap_ns: u64,
    /// Packets of somebody else, among `packets`.
    pub(crate) foreign: u64,
    /// Packets sent again to listeners that came back, among `packets`.
    pub(crate) history: u64,
    /// Payloads of ours that were changed.
    pub(crate) damaged: u64,
    /// Datagrams that looked like SRTP and could not be opened.
    pub(crate) unopened: u64,
    /// Packets that the kernel has not stamped, among `packets`: nobody knows when they came.
    pub(crate) unstamped: u64,
    /// Packets that came before they were due to be sent, among `packets`: a clock was set.
    pub(crate) early: u64,
}

impl Counts {
    /// Adds what another thread, or another interval, counted.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.packets += other.packets;
        self.missing += other.missing;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.stale += other.stale;
        self.gaps += other.gaps;
        self.longest_gap_ns = self.longest_gap_ns.max(other.longest_gap_ns);
        self.foreign += other.foreign;
        self.history += other.history;
        self.damaged += other.damaged;
        self.unopened += other.unopened;
        self.unstamped += other.unstamped;
        self.early += other.early;
    }

    fn gap(&mut self, length_ns: u64) {
        self.gaps += 1;
        self.longest_gap_ns = self.longest_gap_ns.max(length_ns);
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A publisher of a load tester's.
    Ours {
        /// Its run.
        run: u64,
        /// Its number in that run.
        publisher: u32,
    },
    /// Somebody else, by the SSRC of the stream.
    Foreign(u32),
}

/// What a packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not received before.
    Fresh,
    /// Received before.
    Duplicate,
    /// Too old to know.
    Stale,
}

/// One listener's part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hearing {
    stream: Option<Stream>,
    /// When the last fresh packet came.
    last_ns: u64,
}

#[derive(Debug, Clone)]
struct Stream {
    source: Source,
    first: u64,
    highest: u64,
    window: Window<8>,
}

impl Hearing {
    /// Counts a packet.
    pub(crate) fn count(&mut self, now_ns: u64, source: Source, number: u64, counts: &mut Counts) -> Verdict {
        let follows = |stream: &&mut Stream| {
            stream.source == source && number.saturating_sub(stream.highest) <= MAX_AHEAD
        };
        let verdict = match self.stream.as_mut().filter(follows) {
            Some(stream) => stream.take(number, counts),
            None => {
                self.stream = Some(Stream::new(source, number));
                Verdict::Fresh
            }
        };
        match verdict {
            Verdict::Fresh => {
                counts.packets += 1;
                self.end_gap(now_ns, counts);
                self.last_ns = now_ns;
            }
            Verdict::Duplicate => counts.duplicates += 1,
            Verdict::Stale => counts.stale += 1,
        }
        verdict
    }

    /// Whether anything was heard.
    pub(crate) fn has_heard(&self) -> bool {
        self.stream.is_some()
    }

    /// Who was heard last.
    pub(crate) fn source(&self) -> Option<Source> {
        self.stream.as_ref().map(|stream| stream.source)
    }

    /// How long it has heard nothing at `now_ns`, if it had heard something before, and missed something since: all that its
    /// publisher sent is up to `last`. Of somebody else's nobody knows that: such a one is taken to speak on.
    pub(crate) fn silence(&self, now_ns: u64, last: Option<u64>) -> Option<Duration> {
        let stream = self.stream.as_ref()?;
        let missed = last.is_none_or(|last| last > stream.highest);
        missed.then(|| Duration::from_nanos(now_ns.saturating_sub(self.last_ns)))
    }

    /// The end: what was sent up to `last` and did not come is missing, and silence until `now_ns` is a gap.
    pub(crate) fn finish(&mut self, now_ns: u64, last: Option<u64>, counts: &mut Counts) {
        let Some(stream) = self.stream.take() else { return };
        self.end_gap(now_ns, counts);
        let tail = last.map_or(0, |last| last.saturating_sub(stream.highest).min(MAX_AHEAD));
        counts.missing += tail as i64;
    }

    fn end_gap(&self, now_ns: u64, counts: &mut Counts) {
        let silent = now_ns.saturating_sub(self.last_ns);
        if self.last_ns != 0 && silent > GAP_NS {
            counts.gap(silent);
        }
    }
}

impl Stream {
    fn new(source: Source, number: u64) -> Self {
        let mut window = Window::new();
        window.take(number);
        Self { source, first: number, highest: number, window }
    }

    fn take(&mut self, number: u64, counts: &mut Counts) -> Verdict {
        match self.window.check(number) {
            Err(Refused::Taken) => return Verdict::Duplicate,
            Err(Refused::TooOld) => return Verdict::Stale,
            Ok(()) => self.window.take(number),
        }
        if number > self.highest {
            counts.missing += (number - self.highest - 1) as i64;
            self.highest = number;
        } else {
            counts.reordered += 1;
            // What was sent before the first one heard was never expected.
            counts.missing -= i64::from(number > self.first);
        }
        Verdict::Fresh
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const SPEAKER: Source = Source::Ours { run: 1, publisher: 0 };

    #[derive(Default)]
    struct Ear {
        hearing: Hearing,
        counts: Counts,
    }

    impl Ear {
        fn at(&mut self, ms: u64, number: u64) -> Verdict {
            self.hearing.count((1_000 + ms) * MS, SPEAKER, number, &mut self.counts)
        }

        fn finish(&mut self, ms: u64, last: u64) {
            self.hearing.finish((1_000 + ms) * MS, Some(last), &mut self.counts);
        }
    }

    #[test]
    fn a_clean_stream_is_nothing_but_packets() {
        let mut ear = Ear::default();
        (0..5_000).for_each(|n| assert_eq!(ear.at(n * 20, 70 + n), Verdict::Fresh));
        ear.finish(5_000 * 20, 70 + 4_999);
        assert_eq!(ear.counts, Counts { packets: 5_000, ..Counts::default() });
    }

    #[test]
    fn what_comes_late_is_no_longer_missing() {
        let mut ear = Ear::default();
        for number in [10, 11, 15] {
            ear.at(0, number);
        }
        assert_eq!(ear.counts.missing, 3);
        assert_eq!(ear.at(1, 13), Verdict::Fresh);
        assert_eq!(ear.at(2, 13), Verdict::Duplicate);
        assert_eq!(ear.at(3, 9), Verdict::Fresh);
        ear.finish(4, 16);
        let counts = ear.counts;
        assert_eq!((counts.packets, counts.missing), (5, 3), "12, 14 and 16; 9 was not expected");
        assert_eq!((counts.reordered, counts.duplicates, counts.stale), (2, 1, 0));
    }

    #[test]
    fn older_than_the_window_is_neither_received_nor_a_duplicate() {
        let mut ear = Ear::default();
        ear.at(0, 10);
        ear.at(0, 1_000);
        assert_eq!(ear.at(0, 480), Verdict::Stale);
        assert_eq!(ear.at(0, 500), Verdict::Fresh);
        assert_eq!((ear.counts.stale, ear.counts.missing), (1, 988));
    }

    #[test]
    fn silence_is_one_gap_however_it_ends() {
        let mut ear = Ear::default();
        for (ms, number) in [(0, 0), (60, 1), (121, 2), (321, 3)] {
            ear.at(ms, number);
        }
        assert_eq!((ear.counts.gaps, ear.counts.longest_gap_ns), (2, 200 * MS), "60 ms is none yet");
        ear.at(322, 3);
        ear.at(500, 3);
        assert_eq!(ear.counts.gaps, 2, "a duplicate ends nothing");
        ear.finish(1_321, 3);
        assert_eq!((ear.counts.gaps, ear.counts.longest_gap_ns), (3, 1_000 * MS));
        ear.finish(9_999, 3);
        assert_eq!(ear.counts.gaps, 3, "the end is once");
    }

    #[test]
    fn silence_counts_from_what_was_heard_last_while_somebody_speaks() {
        let silence = |ear: &Ear, ms: u64, last| ear.hearing.silence((1_000 + ms) * MS, last);
        let after = |ms| Some(Duration::from_millis(ms));
        let mut ear = Ear::default();
        assert_eq!(silence(&ear, 9_000, Some(450)), None, "it never heard anything: that is told apart");
        ear.at(100, 5);
        assert_eq!(silence(&ear, 3_100, Some(155)), after(3_000));
        ear.at(3_000, 5);
        assert_eq!(silence(&ear, 3_100, Some(155)), after(3_000), "a duplicate is nothing new");
        assert_eq!(silence(&ear, 3_100, Some(5)), None, "its publisher said no more");
        assert_eq!(silence(&ear, 3_100, None), after(3_000), "somebody else's: nobody knows");
        ear.at(3_120, 6);
        assert_eq!(silence(&ear, 3_100, Some(155)), after(0), "what was on its way came after the end");
    }

    #[test]
    fn another_speaker_starts_another_line() {
        let mut ear = Ear::default();
        ear.at(0, 500);
        let other = Source::Ours { run: 2, publisher: 0 };
        assert_eq!(ear.hearing.count(1_020 * MS, other, 3, &mut ear.counts), Verdict::Fresh);
        assert_eq!(ear.hearing.count(1_040 * MS, Source::Foreign(9), 77, &mut ear.counts), Verdict::Fresh);
        assert_eq!((ear.counts.packets, ear.counts.missing), (3, 0));
        assert_eq!(ear.hearing.source(), Some(Source::Foreign(9)));
    }

    #[test]
    fn a_number_from_nowhere_overflows_nothing() {
        let mut ear = Ear::default();
        for number in [(1 << 48) - 1, 0, 1 << 20, (1 << 20) + 1, 1 << 47] {
            ear.at(0, number);
        }
        ear.finish(0, u64::MAX);
        assert!(ear.counts.missing <= 3 << 20, "{:?}", ear.counts);
    }

    #[test]
    fn who_heard_nothing_misses_nothing() {
        let mut ear = Ear::default();
        ear.finish(10_000, 500);
        assert_eq!(ear.counts, Counts::default());
    }

    proptest! {
        /// Against a set that forgets nothing, for disorder that the window holds.
        #[test]
        fn loss_is_what_was_sent_and_never_came(
            first in 0_u64..1_000,
            offsets in prop::collection::vec(0_u64..400, 1..600),
        ) {
            let (mut ear, mut received, mut again) = (Ear::default(), BTreeSet::new(), 0);
            for offset in offsets {
                let number = first + offset;
                match ear.at(0, number) {
                    Verdict::Fresh => prop_assert!(received.insert(number)),
                    Verdict::Duplicate => { again += 1; prop_assert!(received.contains(&number)); }
                    Verdict::Stale => prop_assert!(false, "the window holds them"),
                }
            }
            let expected = received.last().unwrap() - ear.hearing.stream.as_ref().unwrap().first + 1;
            let begun = ear.hearing.stream.as_ref().unwrap().first;
            let counted = received.iter().filter(|number| **number >= begun).count() as u64;
            prop_assert_eq!(ear.counts.missing, (expected - counted) as i64);
            prop_assert_eq!((ear.counts.packets, ear.counts.duplicates), (received.len() as u64, again));
        }
    }
}
