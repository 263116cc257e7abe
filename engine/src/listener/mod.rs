//! A listener: a cursor over its track's arrivals, and the leg that it is sent on.
//!
//! The cursor is the next arrival not yet handed out, the floor the first one that may be: they differ while the leg is
//! down and after it comes back, and the difference is what was skipped. Everything that a packet touches is here, in
//! one struct, and nothing of it grows with the history.
//!
//! Invariants: I1, arrivals handed out strictly increase; I6, a leg that is not up has no floor to reach.

mod rewrite;

use std::time::{Duration, Instant};

use self::rewrite::Rewrite;
use crate::id::{LegId, ListenerId, TrackId};
use crate::io::{Event, Feedback, Frame, LegSpec, LegState, OutboundPacket, Verdict};
use crate::rtp::{NtpTime, rtcp};
use crate::stats::{ListenerReport, ListenerStats};
use crate::time::{MediaTime, from_short, ticks_to_duration};

/// One listener and its leg.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The next arrival that was not handed out.
    cursor: u64,
    /// The first arrival that may be handed out.
    floor: u64,
    rewrite: Rewrite,
    packets_out: u64,
    payload_bytes_out: u64,
    id: ListenerId,
    leg: LegId,
    track: TrackId,
    /// Its place among its track's members.
    pub(crate) member: usize,
    ssrc: u32,
    payload_type: u8,
    reports: bool,
    report_scheduled: bool,
    state: LegState,
    extensions: crate::rtp::ExtensionIds,
    /// The position expected first, from when the leg first came up.
    joined: Option<u64>,
    frames_skipped: u64,
    before_first: u64,
    report: Option<ListenerReport>,
    nacks: u64,
    nacked_packets: u64,
}

/// What a listener says to an arrival.
#[derive(Debug)]
pub(crate) enum Offer {
    /// Not for it.
    Pass,
    /// It misses something from before, which comes first; offer again.
    Skipped(Event),
    /// It takes it.
    Take { index: u64, schedule_report: bool },
}

impl Listener {
    pub(crate) fn new(
        (id, leg, track): (ListenerId, LegId, TrackId),
        member: usize,
        spec: LegSpec,
        random: &mut fastrand::Rng,
    ) -> Self {
        // Drawn in any case, so that a given SSRC does not change what others draw.
        let drawn = random.u32(..);
        Self {
            cursor: 0,
            floor: NEVER,
            rewrite: Rewrite::new(random),
            packets_out: 0,
            payload_bytes_out: 0,
            id,
            leg,
            track,
            member,
            ssrc: spec.ssrc.unwrap_or(drawn),
            payload_type: spec.payload_type,
            reports: spec.reports,
            report_scheduled: false,
            state: LegState::Connecting,
            extensions: spec.extensions,
            joined: None,
            frames_skipped: 0,
            before_first: 0,
            report: None,
            nacks: 0,
            nacked_packets: 0,
        }
    }

    /// Offers a frame, the `arrival`-th of its track.
    #[inline]
    pub(crate) fn offer(&mut self, arrival: u64, position: u64, payload_bytes: usize) -> Offer {
        if arrival < self.floor {
            return Offer::Pass;
        }
        assert!(self.cursor <= arrival, "I1: arrivals handed out strictly increase");
        if self.cursor < arrival {
            return Offer::Skipped(self.skip(arrival));
        }
        self.cursor = arrival + 1;
        self.floor = arrival + 1;
        let Some(index) = self.rewrite.index(position) else {
            self.before_first += 1;
            return Offer::Pass;
        };
        self.packets_out += 1;
        self.payload_bytes_out += payload_bytes as u64;
        let schedule_report = self.reports && !self.report_scheduled;
        self.report_scheduled |= schedule_report;
        Offer::Take { index, schedule_report }
    }

    /// Moves the cursor over arrivals that are not to be had.
    fn skip(&mut self, to: u64) -> Event {
        let count = to - self.cursor;
        self.cursor = to;
        self.frames_skipped += count;
        let from = self.rewrite.next_position().or(self.joined).unwrap_or(0);
        Event::FramesSkipped { listener: self.id, from, count }
    }

    /// Takes the new state of the leg. A leg that comes up starts at the live edge: its arrival and position.
    pub(crate) fn set_state(&mut self, state: LegState, live_edge: (u64, u64)) {
        let was_up = self.state == LegState::Up;
        self.state = state;
        match (was_up, state == LegState::Up) {
            (false, true) => {
                let (arrival, position) = live_edge;
                if self.joined.is_none() {
                    self.joined = Some(position);
                    self.cursor = arrival;
                }
                self.floor = arrival;
            }
            (true, false) => self.floor = NEVER,
            (true, true) | (false, false) => {}
        }
    }

    /// The packet of a frame that it took.
    #[inline]
    pub(crate) const fn packet<'a>(&'a self, index: u64, frame: Frame<'a>) -> OutboundPacket<'a> {
        OutboundPacket {
            listener: self.id,
            leg: self.leg,
            ssrc: self.ssrc,
            payload_type: self.payload_type,
            index,
            line: 0,
            timestamp: self.rewrite.timestamp(frame.media_time.ticks()),
            frame,
            replay: false,
            extensions: &self.extensions,
        }
    }

    /// The sender report that is due, unless the leg is not up (I6): then none is, until it is sent something again.
    ///
    /// `newest` is the media time of the track's newest frame and when it arrived.
    pub(crate) fn sender_report(
        &mut self,
        now: Instant,
        ntp: NtpTime,
        newest: (MediaTime, Instant),
    ) -> Option<rtcp::SenderReport> {
        if self.state != LegState::Up {
            self.report_scheduled = false;
            return None;
        }
        let (media_time, arrived) = newest;
        let media_now = media_time.plus(MediaTime::ticks_in(now.saturating_duration_since(arrived)));
        Some(rtcp::SenderReport {
            ssrc: self.ssrc,
            ntp,
            rtp_timestamp: self.rewrite.timestamp(media_now.ticks()),
            // RFC 3550 §6.4.1: both counts wrap at 32 bits.
            packet_count: self.packets_out as u32,
            octet_count: self.payload_bytes_out as u32,
        })
    }

    pub(crate) fn feedback(&mut self, ntp_now: NtpTime, feedback: Feedback) -> Verdict {
        match feedback {
            Feedback::ReceiverReport(block) if block.ssrc == self.ssrc => {
                self.report = Some(ListenerReport {
                    fraction_lost: block.fraction_lost,
                    cumulative_lost: block.cumulative_lost,
                    jitter: ticks_to_duration(block.jitter),
                    round_trip: round_trip(ntp_now, &block),
                });
                Verdict::Accepted
            }
            Feedback::Nack(nack) if nack.media_ssrc == self.ssrc => {
                self.nacks += 1;
                self.nacked_packets += nack.sequences().count() as u64;
                Verdict::Accepted
            }
            Feedback::ReceiverReport(_) | Feedback::Nack(_) => Verdict::WrongSsrc,
            Feedback::Bye | Feedback::Delivered(_) => Verdict::Accepted,
            Feedback::SenderReport(_) => Verdict::WrongDirection,
        }
    }

    pub(crate) const fn id(&self) -> ListenerId {
        self.id
    }

    pub(crate) const fn leg(&self) -> LegId {
        self.leg
    }

    pub(crate) const fn track(&self) -> TrackId {
        self.track
    }

    pub(crate) fn stats(&self) -> ListenerStats {
        ListenerStats {
            track: self.track,
            leg: self.leg,
            state: self.state,
            ssrc: self.ssrc,
            packets_out: self.packets_out,
            payload_bytes_out: self.payload_bytes_out,
            next_position: self.rewrite.next_position(),
            frames_skipped: self.frames_skipped,
            before_first: self.before_first,
            report: self.report,
            nacks: self.nacks,
            nacked_packets: self.nacked_packets,
            second: None,
            acked: None,
            replayed: 0,
            paused: false,
        }
    }
}

/// RFC 3550 §6.4.1: now − LSR − DLSR, in 1/65536 s; `None` if there was no report to answer, or the sum cannot be.
fn round_trip(ntp_now: NtpTime, block: &rtcp::ReportBlock) -> Option<Duration> {
    if block.last_sender_report == 0 {
        return None;
    }
    let since = ntp_now.middle().wrapping_sub(block.last_sender_report);
    let trip = since.checked_sub(block.delay_since_last_sender_report)?;
    (since <= LONGEST_AGE).then(|| from_short(trip))
}

/// No arrival reaches it.
const NEVER: u64 = u64::MAX;
/// A report about a sender report older than this, 5 minutes, is not believed. In 1/65536 s.
const LONGEST_AGE: u32 = 300 << 16;
