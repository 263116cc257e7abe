//! RTCP of listeners: our sender reports out, their reports in.

use std::time::Instant;

use relay_engine::rtp::WriteError;
use relay_engine::rtp::rtcp::{self, Compound, write_description};
use relay_engine::{Feedback, LegId, Relay};

use super::legs::Legs;
use super::stats::PlaneCounters;
use crate::webrtc::egress::{Batch, MAX_DATAGRAM};
use crate::webrtc::srtp::{MAX_SRTCP_OVERHEAD, OpenError};

/// Room for a sender report, a description with the longest name, and what SRTCP adds.
const MAX_REPORT: usize = 28 + 272 + MAX_SRTCP_OVERHEAD;

/// Seals a compound of sender report and description (RFC 3550 §6.1) into the batch.
pub(super) fn send_report(
    legs: &mut Legs,
    batch: &mut Batch,
    counters: &mut PlaneCounters,
    leg: LegId,
    report: &rtcp::SenderReport,
    cname: &str,
) {
    let Some((reports, destination)) = legs.reports(leg) else {
        counters.no_keys += 1;
        return;
    };
    let mut plain = [0; MAX_REPORT];
    let sealed = compound(report, cname, &mut plain).ok().and_then(|length| {
        let out = batch.slot(length + MAX_SRTCP_OVERHEAD)?;
        reports.sender.seal(&plain[..length], out).ok()
    });
    match sealed {
        Some(length) => {
            batch.commit(length, destination);
            counters.reports_out += 1;
        }
        None => counters.seal_refused += 1,
    }
}

fn compound(report: &rtcp::SenderReport, cname: &str, out: &mut [u8]) -> Result<usize, WriteError> {
    let at = report.write(&[], out)?;
    Ok(at + write_description(report.ssrc, cname, &mut out[at..])?)
}

/// Opens an RTCP datagram of a listener and tells the engine what it says; whether it is authentic, and no goodbye.
pub(super) fn receive(
    legs: &mut Legs,
    relay: &mut Relay,
    counters: &mut PlaneCounters,
    rate: u32,
    now: Instant,
    leg: LegId,
    datagram: &[u8],
) -> bool {
    let Some((reports, _)) = legs.reports(leg) else {
        counters.rtcp_unknown += 1;
        return false;
    };
    if !reports.allowance.take(now, rate) {
        counters.rtcp_limited += 1;
        return false;
    }
    let mut plain = [0; MAX_DATAGRAM];
    match reports.receiver.open(datagram, &mut plain) {
        Ok(length) => {
            counters.rtcp_in += 1;
            let byes = counters.byes;
            for packet in Compound::parse(&plain[..length]) {
                match packet {
                    Ok(packet) => read(relay, counters, now, leg, packet),
                    Err(_) => counters.rtcp_malformed += 1,
                }
            }
            return counters.byes == byes;
        }
        Err(OpenError::Replayed | OpenError::TooOld) => counters.rtcp_replayed += 1,
        Err(_) => counters.rtcp_forged += 1,
    }
    false
}

/// The engine counts what it makes of each: a verdict is not an error.
fn read(relay: &mut Relay, counters: &mut PlaneCounters, now: Instant, leg: LegId, packet: rtcp::Packet<'_>) {
    let mut tell = |feedback| {
        relay.handle_feedback(now, leg, feedback);
    };
    match packet {
        rtcp::Packet::ReceiverReport(report) => {
            report.blocks.for_each(|block| tell(Feedback::ReceiverReport(block)));
        }
        // A listener that also sends, as some stacks pretend to, puts its blocks into a sender report.
        rtcp::Packet::SenderReport(_, blocks) => {
            blocks.for_each(|block| tell(Feedback::ReceiverReport(block)));
        }
        rtcp::Packet::Nack(nacks) => nacks.for_each(|nack| tell(Feedback::Nack(nack))),
        rtcp::Packet::Bye(_) => {
            counters.byes += 1;
            tell(Feedback::Bye);
        }
        _ => {}
    }
}
