//! A publisher's leg: what is checked before a packet may touch the timeline, and what is counted of it.

use std::time::{Duration, Instant};

use super::limit::RateLimit;
use super::reception::{LastSenderReport, Reception};
use crate::config::Config;
use crate::id::TrackId;
use crate::io::{Feedback, LegSpec, LegState, Verdict};
use crate::rtp::{ExtensionIds, Header, Packet, rtcp};
use crate::stats::{PublisherLegStats, Verdicts};

/// One transport connection of a publisher.
#[derive(Debug)]
pub(crate) struct PublisherLeg {
    track: TrackId,
    spec: LegSpec,
    pub(crate) state: LegState,
    /// A leg of a higher epoch has the track (I8).
    pub(crate) fenced: bool,
    rate: RateLimit,
    reception: Option<Reception>,
    sender_report: Option<LastSenderReport>,
    pub(crate) packets_in: Verdicts,
    pub(crate) feedback_in: Verdicts,
    payload_bytes: u64,
}

impl PublisherLeg {
    pub(crate) fn new(now: Instant, track: TrackId, spec: LegSpec, config: &Config) -> Self {
        Self {
            track,
            spec,
            state: LegState::Connecting,
            fenced: false,
            rate: RateLimit::new(now, config.rate, config.max_payload_bytes),
            reception: None,
            sender_report: None,
            packets_in: Verdicts::default(),
            feedback_in: Verdicts::default(),
            payload_bytes: 0,
        }
    }

    /// Whether a packet may go on to the timeline.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        payload_type: Option<u8>,
        bytes: usize,
        max_payload_bytes: usize,
    ) -> Result<(), Verdict> {
        self.check(payload_type, bytes, max_payload_bytes)?;
        if self.rate.admit(now, bytes) { Ok(()) } else { Err(Verdict::RateLimited) }
    }

    /// The same, of a packet that whoever sends it has not to be limited in.
    pub(crate) fn check(
        &self,
        payload_type: Option<u8>,
        bytes: usize,
        max_payload_bytes: usize,
    ) -> Result<(), Verdict> {
        if self.fenced {
            Err(Verdict::Fenced)
        } else if self.state == LegState::Down {
            Err(Verdict::LegDown)
        } else if payload_type.is_some_and(|payload_type| payload_type != self.spec.payload_type) {
            Err(Verdict::WrongPayloadType)
        } else if bytes == 0 {
            Err(Verdict::Empty)
        } else if bytes > max_payload_bytes {
            Err(Verdict::TooLarge)
        } else {
            Ok(())
        }
    }

    /// The publisher may send again what it kept while nothing came for `absent`, at up to four times real time.
    pub(crate) fn credit(&mut self, absent: Duration) {
        self.rate.credit(absent);
    }

    /// Counts a frame of a transport that carries positions, once its verdict is known.
    pub(crate) fn carried(&mut self, payload_bytes: usize, verdict: Verdict) {
        if matches!(verdict, Verdict::Accepted | Verdict::Held) {
            self.payload_bytes += payload_bytes as u64;
        }
        self.packets_in.count(verdict);
    }

    /// Counts what the wire brought, once its verdict is known.
    pub(crate) fn received(&mut self, now: Instant, header: &Wire, verdict: Verdict, starts_source: bool) {
        if matches!(verdict, Verdict::Accepted | Verdict::Held) {
            self.payload_bytes += header.payload_bytes as u64;
        }
        if starts_source {
            self.reception = Some(Reception::new(now, header.ssrc, header.sequence, header.timestamp));
            return;
        }
        let counts =
            matches!(verdict, Verdict::Accepted | Verdict::Held | Verdict::Duplicate | Verdict::TooLate);
        if let Some(reception) = self.reception.as_mut().filter(|of| counts && of.ssrc() == header.ssrc) {
            reception.packet(now, header.sequence, header.timestamp);
        }
    }

    pub(crate) fn feedback(&mut self, now: Instant, feedback: Feedback) -> Verdict {
        match feedback {
            Feedback::SenderReport(report) => {
                let middle = report.ntp.middle();
                self.sender_report = Some(LastSenderReport { ssrc: report.ssrc, middle, arrived: now });
                Verdict::Accepted
            }
            Feedback::Bye => Verdict::Accepted,
            Feedback::ReceiverReport(_) | Feedback::Nack(_) | Feedback::Delivered(_) => {
                Verdict::WrongDirection
            }
        }
    }

    /// The report block that is due, if there is anything to report and a leg to send it on (I6).
    pub(crate) fn report(&mut self, now: Instant) -> Option<rtcp::ReportBlock> {
        if self.state != LegState::Up {
            return None;
        }
        let sender_report = self.sender_report;
        self.reception.as_mut().map(|reception| reception.report(now, sender_report))
    }

    pub(crate) const fn wants_reports(&self) -> bool {
        self.spec.reports
    }

    pub(crate) const fn track(&self) -> TrackId {
        self.track
    }

    pub(crate) const fn extensions(&self) -> &ExtensionIds {
        &self.spec.extensions
    }

    pub(crate) fn stats(&self) -> PublisherLegStats {
        PublisherLegStats {
            track: self.track,
            state: self.state,
            packets_in: self.packets_in,
            feedback_in: self.feedback_in,
            payload_bytes: self.payload_bytes,
            reception: self.reception.as_ref().map(Reception::stats),
            epoch: self.spec.epoch,
            fenced: self.fenced,
            alignment: None,
            contiguous: None,
            contiguous_sequence: None,
        }
    }
}

/// What is counted of a packet after it has gone into the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    payload_bytes: usize,
}

impl Wire {
    pub(crate) fn of(packet: &Packet) -> Self {
        let Header { ssrc, sequence, timestamp, .. } = packet.header;
        Self { ssrc, sequence, timestamp, payload_bytes: packet.payload.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::follow::Follow;
    use super::super::lane::Lane;
    use super::PublisherLeg;

    #[test]
    fn a_publishers_leg_costs_what_the_config_says() {
        let bytes = [size_of::<PublisherLeg>(), size_of::<Lane>(), size_of::<Follow>()];
        assert!(bytes.iter().sum::<usize>() < 1_280, "{bytes:?}");
    }
}
