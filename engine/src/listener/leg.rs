//! One leg of a listener: its own numbers, what went out on it, and what came back.

use std::time::{Duration, Instant};

use super::pace::Pace;
use super::repair::Repair;
use super::rewrite::Rewrite;
use super::tail::Tail;
use crate::frame::Frame;
use crate::history::History;
use crate::id::{LegId, ListenerId};
use crate::io::{LegSpec, LegState, OnReturn, Order, OutboundPacket};
use crate::rtp::{ExtensionIds, NtpTime, rtcp};
use crate::stats::ListenerReport;
use crate::time::{MediaTime, from_short, ticks_to_duration};

/// One transport connection of a listener.
#[derive(Debug)]
pub(crate) struct ListenerLeg {
    pub(super) rewrite: Rewrite,
    pub(super) packets_out: u64,
    pub(super) payload_bytes_out: u64,
    pub(super) id: LegId,
    pub(super) ssrc: u32,
    payload_type: u8,
    reports: Reports,
    pub(super) state: LegState,
    pub(super) order: Order,
    pub(super) on_return: OnReturn,
    /// It is handed what it missed as fast as it can be.
    pub(super) unpaced: bool,
    extensions: ExtensionIds,
    /// Where its listener wants to go on when it comes up.
    pub(super) resume_from: Option<u64>,
    pub(super) pace: Pace,
    pub(super) repair: Option<Box<Repair>>,
    pub(super) tail: Option<Box<Tail>>,
    pub(super) report: Option<ListenerReport>,
    pub(super) nacks: u64,
    pub(super) nacked_packets: u64,
}

/// Its sender reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reports {
    /// Are not made.
    Never,
    /// Begin with the next packet.
    Idle,
    /// The next one is due.
    Scheduled,
}

impl ListenerLeg {
    pub(crate) fn new(id: LegId, spec: LegSpec, random: &mut fastrand::Rng) -> Self {
        // Drawn in any case, so that a given SSRC does not change what others draw.
        let drawn = random.u32(..);
        Self {
            rewrite: Rewrite::new(random),
            packets_out: 0,
            payload_bytes_out: 0,
            id,
            ssrc: spec.ssrc.unwrap_or(drawn),
            payload_type: spec.payload_type,
            reports: if spec.reports { Reports::Idle } else { Reports::Never },
            state: LegState::Connecting,
            order: spec.order,
            on_return: spec.on_return,
            unpaced: spec.feed,
            extensions: spec.extensions,
            resume_from: spec.resume_from,
            pace: Pace::default(),
            repair: None,
            tail: None,
            report: None,
            nacks: 0,
            nacked_packets: 0,
        }
    }

    /// Begins the leg's line at a position, if it has not begun. Below its first line there is room for what comes late;
    /// any other has to begin at the first hole that a late frame may fill, from `base` on.
    pub(super) fn begin_line(&mut self, position: u64, base: u64, history: &History) {
        let from = history.oldest().unwrap_or(position).max(base);
        let hole = || (from..position).find(|&at| !history.holds(at));
        let hole = self.rewrite.is_used().then(hole).flatten();
        self.rewrite.begin(hole.unwrap_or(position));
    }

    /// Counts a frame that goes out; says whether reports are to begin.
    #[inline]
    pub(super) const fn count(&mut self, payload_bytes: usize) -> bool {
        self.packets_out += 1;
        self.payload_bytes_out += payload_bytes as u64;
        let schedule_report = self.begins_reports();
        if schedule_report {
            self.reports = Reports::Scheduled;
        }
        schedule_report
    }

    /// The next frame that goes out is the first that reports are to tell of.
    pub(super) const fn begins_reports(&self) -> bool {
        matches!(self.reports, Reports::Idle)
    }

    /// The packet of a frame that goes out.
    #[inline]
    pub(super) const fn packet<'a>(
        &'a self,
        listener: ListenerId,
        index: u64,
        replay: bool,
        frame: Frame<'a>,
    ) -> OutboundPacket<'a> {
        OutboundPacket {
            listener,
            leg: self.id,
            ssrc: self.ssrc,
            payload_type: self.payload_type,
            index,
            line: self.rewrite.line(),
            timestamp: self.rewrite.timestamp(frame.media_time.ticks()),
            frame,
            replay,
            extensions: &self.extensions,
        }
    }

    /// The sender report that is due, unless the leg is not up (I6): then none is, until it is sent something again.
    ///
    /// `newest` is the media time of the track's newest frame and when it arrived; `None` while what was sent and what
    /// will be are not yet on one line.
    pub(super) fn sender_report(
        &mut self,
        now: Instant,
        ntp: NtpTime,
        newest: Option<(MediaTime, Instant)>,
    ) -> Option<rtcp::SenderReport> {
        let Some((media_time, arrived)) = newest.filter(|_| self.state == LegState::Up) else {
            if self.reports == Reports::Scheduled {
                self.reports = Reports::Idle;
            }
            return None;
        };
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

    /// Takes a receiver report about this leg; returns the position that it says was received.
    pub(super) fn reported(&mut self, ntp_now: NtpTime, block: &rtcp::ReportBlock) -> Option<u64> {
        self.report = Some(ListenerReport {
            fraction_lost: block.fraction_lost,
            cumulative_lost: block.cumulative_lost,
            jitter: ticks_to_duration(block.jitter),
            round_trip: round_trip(ntp_now, block),
        });
        // The far end counts cycles from its first packet, so only the lower half is an RTP sequence number.
        self.rewrite.position(block.highest_sequence as u16)
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == LegState::Up
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

/// A report about a sender report older than this, 5 minutes, is not believed. In 1/65536 s.
const LONGEST_AGE: u32 = 300 << 16;
