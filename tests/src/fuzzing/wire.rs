//! RTP, RTCP, header extensions and the Opus table of contents.

use bytes::Bytes;
use relay_engine::rtp::extension::{Element, write_elements};
use relay_engine::rtp::rtcp::{self, Compound, ReceiverReport, ReportBlock};
use relay_engine::rtp::{AudioLevel, CaptureTime, Emit, Extensions, Mid, NtpTime, Packet, Values, opus};

/// What is parsed is written back byte for byte, but for padding, and fits no smaller buffer.
pub(super) fn rtp(data: &[u8]) {
    let Ok(packet) = Packet::parse(Bytes::copy_from_slice(data)) else { return };
    let padding = if data[0] & 0x20 == 0 { 0 } else { usize::from(data[data.len() - 1]) };
    let mut expected = data[..data.len() - padding].to_vec();
    expected[0] &= !0x20;
    let mut out = vec![0xaa; expected.len() + 16];
    let written = packet.write(&mut out).expect("a parsed packet can be written");
    assert_eq!(out[..written], expected, "the packet changed on its way");
    assert!(packet.write(&mut out[..written - 1]).is_err(), "a packet fits a buffer that is too small");
    let again =
        Packet::parse(Bytes::copy_from_slice(&out[..written])).expect("a written packet can be parsed");
    assert_eq!(again, packet);
    emitted(&packet);
    extension_elements(&packet.header.extensions);
}

/// The header that a leg would emit carries the same fields.
fn emitted(packet: &Packet) {
    let header = &packet.header;
    let emit = Emit {
        marker: header.marker,
        payload_type: header.payload_type,
        sequence: header.sequence,
        timestamp: header.timestamp,
        ssrc: header.ssrc,
        extensions: Values::default(),
    };
    let mut out = vec![0; packet.payload.len() + 12];
    let written = emit.write(&packet.payload, &mut out).expect("a header without extensions is 12 bytes");
    let again = Packet::parse(Bytes::from(out).slice(..written)).expect("an emitted packet can be parsed");
    assert_eq!(again.payload, packet.payload);
    assert_eq!(
        (again.header.marker, again.header.payload_type, again.header.sequence, again.header.timestamp),
        (header.marker, header.payload_type, header.sequence, header.timestamp),
    );
}

/// Every element lies inside the block, and survives being written and read again.
fn extension_elements(extensions: &Extensions) {
    let block = extensions.block().as_ptr_range();
    let elements: Vec<Element<'_>> = extensions.iter().collect();
    let held: usize = elements.iter().map(|element| element.value.len() + 1).sum();
    assert!(held <= extensions.block().len(), "more elements than bytes");
    for element in &elements {
        let value = element.value.as_ptr_range();
        assert!(block.start <= value.start && value.end <= block.end, "an element outside its block");
        assert_ne!(element.id, 0, "padding is no element");
        let first = elements.iter().find(|other| other.id == element.id).expect("itself at least");
        assert_eq!(extensions.get(element.id), Some(first.value));
    }
    let mut out = vec![0; held * 2 + 8];
    let end = write_elements(elements.iter().copied(), &mut out, 0).expect("what was read can be written");
    let Some((head, body)) = out[..end].split_at_checked(4) else {
        assert!(elements.is_empty(), "elements were written as nothing");
        return;
    };
    let profile = u16::from_be_bytes([head[0], head[1]]);
    assert_eq!(usize::from(u16::from_be_bytes([head[2], head[3]])) * 4, body.len(), "the length field");
    let again = Extensions::new(profile, Bytes::copy_from_slice(body));
    assert!(again.iter().eq(elements), "the elements changed on their way");
}

/// The first two bytes are the profile, the rest the block. Typed values survive a packet too.
pub(super) fn extensions(data: &[u8]) {
    let Some((profile, block)) = data.split_first_chunk::<2>() else { return };
    let parsed = Extensions::new(u16::from_be_bytes(*profile), Bytes::copy_from_slice(block));
    extension_elements(&parsed);
    for id in [1, 2, 3, 14, 15, 255] {
        let found = Values {
            audio_level: parsed.audio_level(id).map(|level| (1, level)),
            capture_time: parsed.capture_time(id).map(|time| (2, time)),
            mid: parsed.mid(id).map(|mid| (255, mid)),
        };
        typed_values(found);
    }
    if let Some((numbers, text)) = block.split_first_chunk::<18>() {
        typed_values(chosen_values(numbers, text));
    }
}

fn chosen_values(numbers: &[u8; 18], text: &[u8]) -> Values {
    let [choice, level, rest @ ..] = numbers;
    let (time, offset) = rest.split_first_chunk::<8>().expect("16 bytes are left");
    let offset = i64::from_be_bytes(*offset.first_chunk().expect("8 bytes are left"));
    let time = NtpTime(u64::from_be_bytes(*time));
    Values {
        audio_level: (choice & 1 != 0)
            .then_some((3, AudioLevel { voice: level & 128 != 0, level: level & 127 })),
        capture_time: (choice & 2 != 0)
            .then_some((4, CaptureTime { time, offset: (choice & 4 != 0).then_some(offset) })),
        mid: Mid::new(text)
            .ok()
            .filter(|_| choice & 8 != 0)
            .map(|mid| (choice >> 4 | 1, mid))
            .filter(|(id, _)| *id != 3),
    }
}

fn typed_values(values: Values) {
    let emit = Emit { payload_type: 111, extensions: values, ..Emit::default() };
    let mut out = [0; 256];
    let written = emit.write(b"opus", &mut out).expect("three values fit 256 bytes");
    let packet =
        Packet::parse(Bytes::copy_from_slice(&out[..written])).expect("an emitted packet can be parsed");
    let read = &packet.header.extensions;
    assert_eq!(
        values.audio_level.and_then(|(id, _)| read.audio_level(id)),
        values.audio_level.map(|(_, v)| v)
    );
    assert_eq!(
        values.capture_time.and_then(|(id, _)| read.capture_time(id)),
        values.capture_time.map(|(_, v)| v)
    );
    assert_eq!(values.mid.and_then(|(id, _)| read.mid(id)), values.mid.map(|(_, v)| v));
    assert_eq!(&packet.payload[..], b"opus");
}

/// At most one packet per four bytes, nothing after an error, and what the relay can write it writes the same.
pub(super) fn rtcp(data: &[u8]) {
    let mut packets = Compound::parse(data);
    let mut count = 0;
    while let Some(packet) = packets.next() {
        count += 1;
        assert!(count * 4 <= data.len() + 4, "more packets than bytes");
        match packet {
            Ok(packet) => written_again(packet),
            Err(_) => assert!(packets.next().is_none(), "a packet after an error"),
        }
    }
}

fn written_again(packet: rtcp::Packet<'_>) {
    let mut out = [0xaa; 1_024];
    match packet {
        rtcp::Packet::SenderReport(report, blocks) => {
            let blocks: Vec<ReportBlock> = blocks.collect();
            let end = report.write(&blocks, &mut out).expect("a parsed report can be written");
            let Some(Ok(rtcp::Packet::SenderReport(again, kept))) = Compound::parse(&out[..end]).next()
            else {
                panic!("a sender report is read as something else")
            };
            assert_eq!(again, report);
            assert!(kept.eq(blocks));
        }
        rtcp::Packet::ReceiverReport(report) => {
            let blocks: Vec<ReportBlock> = report.blocks.collect();
            let end = ReceiverReport::write(report.ssrc, &blocks, &mut out)
                .expect("a parsed report can be written");
            let Some(Ok(rtcp::Packet::ReceiverReport(again))) = Compound::parse(&out[..end]).next() else {
                panic!("a receiver report is read as something else")
            };
            assert_eq!(again.ssrc, report.ssrc);
            assert!(again.blocks.eq(blocks));
        }
        rtcp::Packet::Nack(nacks) => nacks.for_each(|nack| nack_written_again(nack, &mut out)),
        rtcp::Packet::Bye(bye) => bye_written_again(bye, &mut out),
        _ => {}
    }
}

fn nack_written_again(nack: rtcp::Nack, out: &mut [u8]) {
    let missing: Vec<u16> = nack.sequences().collect();
    assert_eq!(missing.len(), 1 + nack.following.count_ones() as usize);
    let end = rtcp::write_nack(nack.sender_ssrc, nack.media_ssrc, missing.iter().copied(), out)
        .expect("one entry can be written");
    let Some(Ok(rtcp::Packet::Nack(again))) = Compound::parse(&out[..end]).next() else {
        panic!("a nack is read as something else")
    };
    assert!(again.eq([nack]), "one entry stays one entry");
}

fn bye_written_again(bye: rtcp::Bye<'_>, out: &mut [u8]) {
    let sources: Vec<u32> = bye.sources().collect();
    let Ok(reason) = str::from_utf8(bye.reason().unwrap_or_default()) else { return };
    let end = rtcp::write_bye(&sources, reason, out).expect("a parsed bye can be written");
    let Some(Ok(rtcp::Packet::Bye(again))) = Compound::parse(&out[..end]).next() else {
        panic!("a bye is read as something else")
    };
    assert!(again.sources().eq(sources));
    assert_eq!(again.reason().unwrap_or_default(), reason.as_bytes());
}

/// Durations are those that the format can say, and only the first two bytes matter.
pub(super) fn opus_toc(data: &[u8]) {
    let Ok(toc) = opus::Toc::parse(data) else {
        let first = data.first().copied().unwrap_or(3);
        assert_eq!(first & 3, 3, "one or two frames of a known length are always an opus packet");
        return;
    };
    assert!((1..=48).contains(&toc.frames()));
    assert!([120, 240, 480, 960, 1_920, 2_880].contains(&toc.frame_duration()));
    assert_eq!(toc.duration(), toc.frame_duration() * u32::from(toc.frames()));
    assert!(toc.duration() <= opus::MAX_PACKET_TICKS);
    assert_eq!(opus::Toc::parse(&data[..data.len().min(2)]), Ok(toc));
    assert_eq!(toc.config(), data[0] >> 3);
    assert_eq!(opus::is_dtx(data), data.len() <= 2);
}
