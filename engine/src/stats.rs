//! Snapshots of counters: plain numbers, copied out; reading them changes nothing.

use std::ops::Index;
use std::time::Duration;

use crate::id::{LegId, TrackId};
use crate::io::{LegState, Verdict};
use crate::time::MediaTime;

/// How many packets or feedbacks met each [`Verdict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    counts: [u64; Verdict::ALL.len()],
}

impl Verdicts {
    /// Each verdict and its count, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Verdict, u64)> {
        Verdict::ALL.into_iter().zip(self.counts)
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, other)| *count += other);
    }

    pub(crate) fn count(&mut self, verdict: Verdict) {
        self.counts[verdict as usize] += 1;
    }
}

impl Index<Verdict> for Verdicts {
    type Output = u64;

    fn index(&self, verdict: Verdict) -> &u64 {
        &self.counts[verdict as usize]
    }
}

/// The relay as a whole, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open tracks.
    pub tracks: usize,
    /// Open listeners.
    pub listeners: usize,
    /// Open legs, of publishers and listeners.
    pub legs: usize,
    /// Packets that came in, by verdict.
    pub packets_in: Verdicts,
    /// Feedback that came in, by verdict.
    pub feedback_in: Verdicts,
    /// Packets handed out, over all listeners.
    pub packets_out: u64,
    /// Payload bytes handed out, over all listeners.
    pub payload_bytes_out: u64,
    /// Sender and receiver reports handed out.
    pub reports_out: u64,
    /// Frames that a listener's leg should have had and did not, over all listeners.
    pub frames_skipped: u64,
}

impl Stats {
    /// Adds those of another relay.
    pub fn merge(&mut self, other: &Self) {
        self.tracks += other.tracks;
        self.listeners += other.listeners;
        self.legs += other.legs;
        self.packets_in.merge(&other.packets_in);
        self.feedback_in.merge(&other.feedback_in);
        self.packets_out += other.packets_out;
        self.payload_bytes_out += other.payload_bytes_out;
        self.reports_out += other.reports_out;
        self.frames_skipped += other.frames_skipped;
    }
}

/// One track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackStats {
    /// Its name.
    pub name: String,
    /// Its publisher's leg, if there is one; of two, the one that leads.
    pub publisher: Option<LegId>,
    /// Its publisher's other leg, while there are two.
    pub second_publisher: Option<LegId>,
    /// Its listeners.
    pub listeners: usize,
    /// Frames have arrived within the silence limit.
    pub active: bool,
    /// Frames taken in since the start.
    pub frames: u64,
    /// The next position: one after the highest so far.
    pub next_position: u64,
    /// The media time of a frame that would come at [`next_position`](Self::next_position) now.
    pub next_media_time: MediaTime,
    /// The highest position without a hole before it that may still be filled; `None` before the first frame.
    ///
    /// What a publisher re-sends begins after it.
    pub contiguous: Option<u64>,
    /// Positions that left the history as holes: see [`Event::FramesLost`](crate::Event::FramesLost).
    pub frames_lost: u64,
    /// Frames of the second leg that are held.
    pub held: usize,
    /// The oldest position that the history holds.
    pub oldest_position: Option<u64>,
    /// Frames that the history holds.
    pub history_frames: usize,
    /// Payload bytes that the history holds.
    pub history_payload_bytes: usize,
    /// How often the timeline began anew: first packet, new publisher leg, new SSRC, jump in sequence.
    pub sources: u64,
    /// How often the media time was anchored anew because timestamps ran backwards.
    pub timestamp_resets: u64,
}

/// One leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LegStats {
    /// A publisher's.
    Publisher(PublisherLegStats),
    /// A listener's.
    Listener(ListenerStats),
}

/// One publisher's leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublisherLegStats {
    /// The track it feeds.
    pub track: TrackId,
    /// State of its transport.
    pub state: LegState,
    /// Its packets, by verdict.
    pub packets_in: Verdicts,
    /// Its feedback, by verdict.
    pub feedback_in: Verdicts,
    /// Payload bytes taken in.
    pub payload_bytes: u64,
    /// What was received of its current SSRC.
    pub reception: Option<Reception>,
    /// The ownership it belongs to.
    pub epoch: u64,
    /// A leg of a higher epoch has the track: nothing of this one is taken any more.
    pub fenced: bool,
    /// How it was lined up with the track's other frames; `None` before its first one, and when there was nothing
    /// to line it up with.
    pub alignment: Option<Alignment>,
    /// The highest position without a hole before it that this leg may still fill: [`TrackStats::contiguous`], or more on
    /// a leg that began after a hole, since it no longer has what belongs there.
    pub contiguous: Option<u64>,
    /// Its RTP sequence number on this leg, if that position lies on the leg's current source.
    pub contiguous_sequence: Option<u16>,
}

/// How a publisher leg's frames were lined up with the frames that the track had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alignment {
    /// What it rests on.
    pub rule: Rule,
    /// The leg brings the same encoded frames as the one before or beside it, so that each fills the other's holes.
    pub twin: bool,
}

/// What an alignment rests on, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The transport carries positions.
    Carried,
    /// The same RTP stream over two paths (SMPTE ST 2022-7): SSRC, sequence and timestamp agree.
    SameSource,
    /// Capture times agree (abs-capture-time).
    CaptureTime,
    /// Both legs' sender reports name the same clock (RFC 3550 §6.4.1).
    SenderReport,
    /// Nothing better than when the frames arrived.
    Arrival,
}

/// What was received of one SSRC (RFC 3550 §6.4.1, §A.3, §A.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reception {
    /// The SSRC.
    pub ssrc: u32,
    /// Packets received, duplicates and late ones included.
    pub received: u64,
    /// Packets expected minus packets received; duplicates can make it negative.
    pub lost: i64,
    /// Interarrival jitter.
    pub jitter: Duration,
}

/// One listener and its leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerStats {
    /// Its track.
    pub track: TrackId,
    /// Its leg.
    pub leg: LegId,
    /// State of the leg's transport.
    pub state: LegState,
    /// The leg's SSRC.
    pub ssrc: u32,
    /// Packets handed out: on this leg, or as a listener on all its legs so far.
    pub packets_out: u64,
    /// Payload bytes handed out, counted the same.
    pub payload_bytes_out: u64,
    /// One after the highest position handed out, if there was any.
    pub next_position: Option<u64>,
    /// Frames that it should have had and did not: gone from the history before its leg was up or the relay drained.
    pub frames_skipped: u64,
    /// Late frames from before it joined, was last resumed, or got its track: it does not want them.
    pub before_first: u64,
    /// What its last receiver report said.
    pub report: Option<ListenerReport>,
    /// NACK entries received: each asks for a packet and any of the 16 behind it (RFC 4585 §6.2.1).
    pub nacks: u64,
    /// Packets that they asked for, those asked for twice counted twice.
    pub nacked_packets: u64,
    /// Its other leg, while there is one.
    pub second: Option<LegId>,
    /// The highest position that the far end is known to have received.
    pub acked: Option<u64>,
    /// The first position that it is not known to have: after `acked`, or, if it never said anything on a leg in order
    /// of position, the first that it wanted.
    pub unconfirmed: Option<u64>,
    /// Packets handed out that were marked as replays.
    pub replayed: u64,
    /// The owner paused it.
    pub paused: bool,
}

/// What a listener last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerReport {
    /// Part lost since its report before, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since its start.
    pub cumulative_lost: i32,
    /// Interarrival jitter at its side.
    pub jitter: Duration,
    /// Round trip, if the report answers one of ours.
    pub round_trip: Option<Duration>,
}
