//! RTCP of a listener: its receiver reports, and what servers say in theirs.
//!
//! Servers that hear nothing from a listener may think it gone, and have nothing to measure by. Every report says what
//! RFC 3550 §6.4.2 asks for; loss is counted by RTP sequence numbers here, whatever the payloads say.

use std::time::{Duration, Instant};

use crate::webrtc::srtp::{KeyingMaterial, Opened, SrtcpReceiver, SrtcpSender};

/// Between reports of one listener.
const INTERVAL: Duration = Duration::from_secs(5);
/// Ticks of an Opus stream in a second.
const TICKS: u64 = 48_000;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
/// One report block, and a canonical name.
const REPORT_BYTES: usize = 32 + 16;

/// The RTCP of one connection.
#[derive(Debug)]
pub(crate) struct Reports {
    inbound: SrtcpReceiver,
    outbound: SrtcpSender,
    ssrc: u32,
    stream: Option<Stream>,
    /// The middle of the last sender report's time, and when it came (RFC 3550 §6.4.1).
    last_sender_report: Option<(u32, Instant)>,
    next_at: Instant,
}

#[derive(Debug)]
struct Stream {
    ssrc: u32,
    first: u64,
    highest: u64,
    received: u64,
    /// Expected and received when the last report was made.
    reported: (u64, u64),
    transit: i64,
    /// In sixteenths of a tick.
    jitter: i64,
}

/// What a server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing that matters.
    Nothing,
    /// A stream has ended.
    Goodbye,
}

impl Reports {
    /// The first report is sent at some time within the interval, so that not all listeners report at once.
    pub(crate) fn new(now: Instant, keys: &KeyingMaterial, ssrc: u32) -> Self {
        let first = INTERVAL.mul_f64(f64::from(ssrc) / f64::from(u32::MAX));
        Self {
            inbound: keys.srtcp_receiver(),
            outbound: keys.srtcp_sender(),
            ssrc,
            stream: None,
            last_sender_report: None,
            next_at: now + first,
        }
    }

    /// Counts a packet that was opened.
    pub(crate) fn received(&mut self, now_ns: u64, packet: &Opened<'_>) {
        let arrival = (u128::from(now_ns) * u128::from(TICKS) / 1_000_000_000) as i64;
        let transit = arrival - i64::from(packet.timestamp);
        let index = packet.index;
        match &mut self.stream {
            Some(stream) if stream.ssrc == packet.ssrc => {
                stream.received += 1;
                stream.highest = stream.highest.max(index);
                // Both sides of the difference are 32-bit times.
                let difference = i64::from((transit - stream.transit) as i32).abs();
                stream.jitter += difference - ((stream.jitter + 8) >> 4);
                stream.transit = transit;
            }
            other => {
                *other = Some(Stream {
                    ssrc: packet.ssrc,
                    first: index,
                    highest: index,
                    received: 1,
                    reported: (0, 0),
                    transit,
                    jitter: 0,
                });
            }
        }
    }

    /// Takes an SRTCP datagram; what is not authentic says nothing.
    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Said {
        let mut plain = [0; 1_500];
        let Ok(length) = self.inbound.open(datagram, &mut plain) else { return Said::Nothing };
        let mut rest = &plain[..length];
        let mut said = Said::Nothing;
        while let Some(packet) = first_packet(rest) {
            match (packet[1], packet.get(10..14)) {
                (SENDER_REPORT, Some(&[a, b, c, d])) => {
                    self.last_sender_report = Some((u32::from_be_bytes([a, b, c, d]), now));
                }
                (GOODBYE, _) => said = Said::Goodbye,
                _ => {}
            }
            rest = &rest[packet.len()..];
        }
        said
    }

    /// Writes a sealed report to `out` if one is due.
    pub(crate) fn poll(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if now < self.next_at {
            return None;
        }
        // Late by a whole interval: the reports in between are not made up for.
        self.next_at = (self.next_at + INTERVAL).max(now);
        let stream = self.stream.as_mut()?;
        let mut plain = [0; REPORT_BYTES];
        plain[..4].copy_from_slice(&[0x81, RECEIVER_REPORT, 0, 7]);
        plain[4..8].copy_from_slice(&self.ssrc.to_be_bytes());
        plain[8..24].copy_from_slice(&stream.block());
        if let Some((middle, at)) = self.last_sender_report {
            let delay = (now - at).as_nanos() * 65_536 / 1_000_000_000;
            plain[24..28].copy_from_slice(&middle.to_be_bytes());
            plain[28..32].copy_from_slice(&u32::try_from(delay).unwrap_or(u32::MAX).to_be_bytes());
        }
        plain[32..36].copy_from_slice(&[0x81, SOURCE_DESCRIPTION, 0, 3]);
        plain[36..40].copy_from_slice(&self.ssrc.to_be_bytes());
        plain[40..46].copy_from_slice(b"\x01\x04load");
        self.outbound.seal(&plain, out).ok()
    }
}

impl Stream {
    /// RFC 3550 §6.4.1, up to the jitter.
    fn block(&mut self) -> [u8; 16] {
        let expected = self.highest - self.first + 1;
        let (then_expected, then_received) = std::mem::replace(&mut self.reported, (expected, self.received));
        let (expected_now, received_now) = (expected - then_expected, self.received - then_received);
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction = lost_now * 256 / expected_now.max(1);
        let lost = expected.saturating_sub(self.received).min(0x7F_FFFF) as u32;
        let mut block = [0; 16];
        block[..4].copy_from_slice(&self.ssrc.to_be_bytes());
        block[4..8].copy_from_slice(&lost.to_be_bytes());
        block[4] = fraction.min(255) as u8;
        block[8..12].copy_from_slice(&(self.highest as u32).to_be_bytes());
        block[12..].copy_from_slice(&((self.jitter >> 4) as u32).to_be_bytes());
        block
    }
}

/// The first packet of a compound, if it has a header and is whole.
fn first_packet(compound: &[u8]) -> Option<&[u8]> {
    let header = compound.get(..4)?;
    let length = 4 + 4 * usize::from(u16::from_be_bytes([header[2], header[3]]));
    compound.get(..length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webrtc::srtp::{Role, SrtpProfile};

    struct Pair {
        reports: Reports,
        server: KeyingMaterial,
        start: Instant,
    }

    impl Pair {
        fn new() -> Self {
            let profile = SrtpProfile::AeadAes128Gcm;
            let exported = vec![7; profile.exported_len()];
            let of = |role| KeyingMaterial::from_dtls(profile, &exported, role).unwrap();
            let start = Instant::now();
            Self { reports: Reports::new(start, &of(Role::Client), 0), server: of(Role::Server), start }
        }

        fn packet(&mut self, ms: u64, index: u64) {
            let timestamp = (index * 960) as u32;
            self.reports.received(ms * 1_000_000, &Opened { ssrc: 9, index, timestamp, payload: b"voice" });
        }

        fn report(&mut self, second: u64) -> Option<Vec<u8>> {
            let mut sealed = [0; 128];
            let length = self.reports.poll(self.start + Duration::from_secs(second), &mut sealed)?;
            let mut plain = vec![0; 128];
            let length = self.server.srtcp_receiver().open(&sealed[..length], &mut plain).unwrap();
            plain.truncate(length);
            Some(plain)
        }
    }

    fn word(report: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(report[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn a_report_says_what_came_and_what_did_not() {
        let mut pair = Pair::new();
        assert_eq!(pair.report(0), None, "nothing was heard");
        for index in (65_530..65_630).filter(|index| index % 4 != 0) {
            pair.packet(index * 20, index);
        }
        assert_eq!(pair.report(4), None, "not due");
        let report = pair.report(5).unwrap();
        assert_eq!((report.len(), report[0], report[1]), (48, 0x81, RECEIVER_REPORT));
        assert_eq!((word(&report, 8), word(&report, 16)), (9, 65_629), "the number goes on over the wrap");
        assert_eq!((report[12], word(&report, 12) & 0xFF_FFFF), (64, 25), "a quarter is lost");
        assert!(word(&report, 20) <= 1, "and there is no jitter");
        assert_eq!(&report[32..36], &[0x81, SOURCE_DESCRIPTION, 0, 3]);
        for index in 65_630..65_640 {
            pair.packet(index * 20, index);
        }
        let report = pair.report(11).unwrap();
        assert_eq!((report[12], word(&report, 12) & 0xFF_FFFF), (0, 25), "nothing was lost since");
    }

    #[test]
    fn a_sender_report_comes_back_with_its_age() {
        let mut pair = Pair::new();
        let mut sender_report = vec![0x80, SENDER_REPORT, 0, 6, 0, 0, 0, 9];
        sender_report.extend([1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let goodbye = [0x81, GOODBYE, 0, 1, 0, 0, 0, 9];
        let mut server = pair.server.srtcp_sender();
        let mut sealed = [0; 128];
        let length = server.seal(&sender_report, &mut sealed).unwrap();
        let at = pair.start + Duration::from_secs(3);
        assert_eq!(pair.reports.handle_datagram(at, &sealed[..length]), Said::Nothing);
        pair.packet(0, 1);
        let report = pair.report(5).unwrap();
        assert_eq!((word(&report, 24), word(&report, 28)), (0x0304_0506, 2 * 65_536));
        let length = server.seal(&goodbye, &mut sealed).unwrap();
        assert_eq!(pair.reports.handle_datagram(at, &sealed[..length]), Said::Goodbye);
        sealed[9] ^= 1;
        assert_eq!(pair.reports.handle_datagram(at, &sealed[..length]), Said::Nothing, "a forgery");
    }
}
