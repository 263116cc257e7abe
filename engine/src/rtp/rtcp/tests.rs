use proptest::prelude::*;

use super::*;
use crate::rtp::WriteError;

const REPORT: SenderReport = SenderReport {
    ssrc: 0x0102_0304,
    ntp: NtpTime(0x1112_1314_1516_1718),
    rtp_timestamp: 0x2122_2324,
    packet_count: 5,
    octet_count: 600,
};

fn block(ssrc: u32, cumulative_lost: i32) -> ReportBlock {
    ReportBlock {
        ssrc,
        fraction_lost: 200,
        cumulative_lost,
        highest_sequence: 0x0001_0007,
        jitter: 33,
        last_sender_report: 44,
        delay_since_last_sender_report: 55,
    }
}

fn only(datagram: &[u8]) -> Result<Packet<'_>, RtcpError> {
    let mut packets = Compound::parse(datagram);
    let first = packets.next().expect("one packet");
    assert_eq!(packets.next(), None);
    first
}

#[test]
fn a_sender_report_is_laid_out_as_the_rfc_draws_it() {
    let mut out = [0xee; 64];
    let length = REPORT.write(&[], &mut out).unwrap();
    let expected = [
        0x80, 200, 0, 6, 1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24,
        0, 0, 0, 5, 0, 0, 2, 0x58,
    ];
    assert_eq!(out[..length], expected);
}

#[test]
fn a_sender_report_comes_back_with_its_blocks() {
    let mut out = [0; 256];
    let blocks = [block(7, -1), block(8, 0x7f_ffff), block(9, -0x80_0000)];
    let length = REPORT.write(&blocks, &mut out).unwrap();
    let Ok(Packet::SenderReport(report, read)) = only(&out[..length]) else { panic!("not a sender report") };
    assert_eq!(report, REPORT);
    assert_eq!(read.collect::<Vec<_>>(), blocks);
}

#[test]
fn a_receiver_report_comes_back_with_its_blocks() {
    let mut out = [0; 256];
    let length = ReceiverReport::write(5, &[block(7, 3)], &mut out).unwrap();
    assert_eq!(length, 32);
    let Ok(Packet::ReceiverReport(report)) = only(&out[..length]) else { panic!("not a receiver report") };
    assert_eq!(report.ssrc, 5);
    assert_eq!(report.blocks.collect::<Vec<_>>(), [block(7, 3)]);
}

#[test]
fn a_bye_names_its_sources_and_its_reason() {
    let mut out = [0; 64];
    let length = write_bye(&[1, 2], "gone", &mut out).unwrap();
    assert_eq!(out[..length], *b"\x82\xcb\0\x04\0\0\0\x01\0\0\0\x02\x04gone\0\0\0");
    let Ok(Packet::Bye(bye)) = only(&out[..length]) else { panic!("not a bye") };
    assert_eq!(bye.sources().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(bye.reason(), Some(&b"gone"[..]));
    let length = write_bye(&[], "", &mut out).unwrap();
    let Ok(Packet::Bye(bye)) = only(&out[..length]) else { panic!("not a bye") };
    assert_eq!((bye.sources().count(), bye.reason()), (0, None));
}

#[test]
fn a_description_ends_its_items_with_a_zero_and_fills_the_word() {
    let mut out = [0xee; 64];
    for (cname, length) in [("a", 12), ("ab", 16), ("abcd", 16), ("abcde", 16), ("abcdef", 20)] {
        assert_eq!(write_description(9, cname, &mut out), Ok(length), "{cname}");
        assert_eq!(only(&out[..length]), Ok(Packet::Other { packet_type: 202, format: 1 }));
        assert_eq!(&out[8..10], [1, u8::try_from(cname.len()).unwrap()]);
        assert!(out[10 + cname.len()..length].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn missing_packets_share_an_entry_when_they_are_within_16() {
    let mut out = [0; 64];
    let length = write_nack(1, 2, [65_534, 65_535, 0, 14, 15, 31], &mut out).unwrap();
    let Ok(Packet::Nack(nacks)) = only(&out[..length]) else { panic!("not a nack") };
    let nacks: Vec<Nack> = nacks.collect();
    assert_eq!(nacks.len(), 2);
    assert_eq!((nacks[0].first, nacks[0].following), (65_534, 0b1000_0000_0000_0011));
    assert_eq!((nacks[1].first, nacks[1].following), (15, 0b1000_0000_0000_0000));
    assert!(nacks.iter().all(|nack| (nack.sender_ssrc, nack.media_ssrc) == (1, 2)));
    let sequences: Vec<u16> = nacks.into_iter().flat_map(Nack::sequences).collect();
    assert_eq!(sequences, [65_534, 65_535, 0, 14, 15, 31]);
}

#[test]
fn a_nack_for_nothing_is_nothing() {
    assert_eq!(write_nack(1, 2, [], &mut []), Ok(0));
}

#[test]
fn a_compound_is_read_in_order_and_unknown_packets_are_skipped() {
    let mut out = [0; 256];
    let mut end = REPORT.write(&[], &mut out).unwrap();
    end += write_description(1, "cname", &mut out[end..]).unwrap();
    // APP, then payload-specific feedback (PLI), then a type that nobody defined.
    for packet in
        [[0x80, 204, 0, 1, 0, 0, 0, 1], [0x81, 206, 0, 1, 0, 0, 0, 1], [0x9f, 250, 0, 1, 9, 9, 9, 9]]
    {
        out[end..end + 8].copy_from_slice(&packet);
        end += 8;
    }
    end += write_bye(&[1], "", &mut out[end..]).unwrap();
    let types: Vec<Option<(u8, u8)>> = Compound::parse(&out[..end])
        .map(|packet| match packet.unwrap() {
            Packet::Other { packet_type, format } => Some((packet_type, format)),
            _ => None,
        })
        .collect();
    assert_eq!(types, [None, Some((202, 1)), Some((204, 0)), Some((206, 1)), Some((250, 31)), None]);
}

#[test]
fn reduced_size_feedback_needs_no_report_in_front() {
    let mut out = [0; 64];
    let length = write_nack(1, 2, [9], &mut out).unwrap();
    assert!(matches!(only(&out[..length]), Ok(Packet::Nack(_))));
}

#[test]
fn an_empty_datagram_has_no_packets() {
    assert_eq!(Compound::parse(&[]).next(), None);
}

#[test]
fn each_way_of_malformed_has_its_error_and_ends_the_compound() {
    let cases: [(&[u8], RtcpError); 11] = [
        (&[0x80, 201, 0], RtcpError::TooShort(3)),
        (&[0x40, 201, 0, 1, 0, 0, 0, 1], RtcpError::Version(1)),
        (&[0x80, 201, 0, 2, 0, 0, 0, 1], RtcpError::Length { length: 12, available: 8 }),
        (&[0x80, 201, 0xff, 0xff], RtcpError::Length { length: 262_144, available: 4 }),
        (&[0x80, 201, 0, 0], RtcpError::Truncated { packet_type: 201 }),
        (&[0x81, 201, 0, 1, 0, 0, 0, 1], RtcpError::Truncated { packet_type: 201 }),
        (&[0x80, 200, 0, 1, 0, 0, 0, 1], RtcpError::Truncated { packet_type: 200 }),
        (&[0x82, 203, 0, 1, 0, 0, 0, 1], RtcpError::Truncated { packet_type: 203 }),
        (&[0x80, 203, 0, 1, 4, b'b', b'y', b'e'], RtcpError::Truncated { packet_type: 203 }),
        (&[0x81, 205, 0, 1, 0, 0, 0, 1], RtcpError::Truncated { packet_type: 205 }),
        (&[0xa0, 201, 0, 1, 0, 0, 0, 3], RtcpError::Padding(3)),
    ];
    for (datagram, error) in cases {
        let mut packets = Compound::parse(datagram);
        assert_eq!(packets.next(), Some(Err(error)), "{datagram:?}");
        assert_eq!(packets.next(), None, "nothing follows an error");
    }
}

#[test]
fn padding_is_stripped_and_must_fit() {
    let padded = [0xa0, 201, 0, 2, 0, 0, 0, 9, 0, 0, 0, 4];
    let Ok(Packet::ReceiverReport(report)) = only(&padded) else { panic!("not a receiver report") };
    assert_eq!((report.ssrc, report.blocks.count()), (9, 0));
    assert_eq!(only(&[0xa0, 201, 0, 0]), Err(RtcpError::Padding(0)));
    assert_eq!(only(&[0xa0, 201, 0, 1, 0, 0, 0, 0]), Err(RtcpError::Padding(0)));
    assert_eq!(only(&[0xa0, 201, 0, 1, 0, 0, 0, 8]), Err(RtcpError::Padding(8)));
}

#[test]
fn what_does_not_fit_the_format_is_refused() {
    let mut out = [0; 2_048];
    let refused = |field| Err(WriteError::OutOfRange { field });
    assert_eq!(ReceiverReport::write(1, &[block(1, 0); 32], &mut out), refused("count"));
    assert_eq!(ReceiverReport::write(1, &[block(1, 0x80_0000)], &mut out), refused("cumulative loss"));
    assert_eq!(write_bye(&[0; 32], "", &mut out), refused("count"));
    assert_eq!(write_bye(&[0], &"x".repeat(256), &mut out), refused("reason"));
    assert_eq!(write_description(1, &"x".repeat(256), &mut out), refused("cname"));
}

#[test]
fn a_short_buffer_is_an_error_at_every_length() {
    let mut out = [0; 128];
    let blocks = [block(1, 2)];
    for short in 0..52 {
        assert!(matches!(REPORT.write(&blocks, &mut out[..short]), Err(WriteError::NoSpace { .. })));
    }
    for short in 0..16 {
        assert!(matches!(write_nack(1, 2, [3], &mut out[..short]), Err(WriteError::NoSpace { .. })));
        assert!(matches!(write_bye(&[1], "reason", &mut out[..short]), Err(WriteError::NoSpace { .. })));
        assert!(matches!(write_description(1, "name", &mut out[..short]), Err(WriteError::NoSpace { .. })));
    }
}

/// Bytes whose first word is often that of a packet that fits.
fn almost_rtcp() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..=1_500);
    (bytes, any::<bool>(), 200..207_u8, 0_u8..4).prop_map(|(mut bytes, shaped, packet_type, count)| {
        let words = u16::try_from(bytes.len() / 4).unwrap().saturating_sub(1 + u16::from(count) * 3);
        let [l0, l1] = words.to_be_bytes();
        if let (true, Some(first)) = (shaped, bytes.first_chunk_mut::<4>()) {
            *first = [0x80 | (first[0] & 0x20) | count, packet_type, l0, l1];
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(datagram in almost_rtcp()) {
        let mut packets = 0;
        for packet in Compound::parse(&datagram) {
            packets += 1;
            match packet {
                Ok(Packet::SenderReport(_, blocks)) => prop_assert!(blocks.count() <= 31),
                Ok(Packet::ReceiverReport(report)) => prop_assert!(report.blocks.count() <= 31),
                Ok(Packet::Bye(bye)) => prop_assert!(bye.sources().count() <= 31),
                Ok(Packet::Nack(nacks)) => {
                    prop_assert!(nacks.flat_map(Nack::sequences).count() <= datagram.len() / 4 * 17);
                }
                Ok(Packet::Other { .. }) | Err(_) => {}
            }
        }
        prop_assert!(packets <= datagram.len() / 4 + 1);
    }

    #[test]
    fn any_missing_packets_come_back(start in any::<u16>(), gaps in prop::collection::vec(1..200_u16, 0..40)) {
        let mut missing = vec![start];
        for gap in gaps {
            missing.push(missing.last().unwrap().wrapping_add(gap));
        }
        let mut out = [0; 512];
        let length = write_nack(1, 2, missing.iter().copied(), &mut out).unwrap();
        let Ok(Packet::Nack(nacks)) = only(&out[..length]) else { panic!("not a nack") };
        prop_assert_eq!(nacks.flat_map(Nack::sequences).collect::<Vec<_>>(), missing);
    }

    #[test]
    fn any_report_comes_back(
        words in any::<[u32; 5]>(), ntp in any::<u64>(), fraction_lost in any::<u8>(),
        lost in -0x80_0000..=0x7f_ffff_i32, count in 0..=31_usize,
    ) {
        let [ssrc, rtp_timestamp, packet_count, octet_count, jitter] = words;
        let report = SenderReport { ssrc, ntp: NtpTime(ntp), rtp_timestamp, packet_count, octet_count };
        let blocks = vec![ReportBlock { fraction_lost, jitter, ..block(ssrc, lost) }; count];
        let mut out = [0; 1_024];
        let length = report.write(&blocks, &mut out).unwrap();
        let Ok(Packet::SenderReport(read, read_blocks)) = only(&out[..length]) else { panic!("no report") };
        prop_assert_eq!(read, report);
        prop_assert_eq!(read_blocks.collect::<Vec<_>>(), blocks);
    }
}
