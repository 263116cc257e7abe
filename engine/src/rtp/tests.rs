use bytes::Bytes;
use proptest::prelude::*;

use super::extension::{Element, InvalidMid, write_elements};
use super::header::CsrcList;
use super::*;

const FIXED: [u8; 12] = [0x80, 0x6f, 0x12, 0x34, 0, 0, 0, 42, 0xde, 0xad, 0xbe, 0xef];

fn parse(parts: &[&[u8]]) -> Result<Packet, ParseError> {
    Packet::parse(Bytes::from(parts.concat()))
}

/// A packet with an extension block under `profile`.
fn extended(profile: u16, block: &[u8]) -> Packet {
    let mut fixed = FIXED;
    fixed[0] |= 0x10;
    let words = u16::try_from(block.len() / 4).unwrap().to_be_bytes();
    parse(&[&fixed, &profile.to_be_bytes(), &words, block, b"opus"]).unwrap()
}

fn elements(packet: &Packet) -> Vec<(u8, Vec<u8>)> {
    packet.header.extensions.iter().map(|element| (element.id, element.value.to_vec())).collect()
}

#[test]
fn the_fixed_fields_are_where_the_rfc_puts_them() {
    let packet = parse(&[&FIXED, b"opus"]).unwrap();
    let header = &packet.header;
    assert!(!header.marker);
    assert_eq!((header.payload_type, header.sequence, header.timestamp), (111, 0x1234, 42));
    assert_eq!(header.ssrc, 0xdead_beef);
    assert!(header.csrc.is_empty());
    assert_eq!(header.extensions.profile(), None);
    assert_eq!(packet.payload, "opus");
    let mut marked = FIXED;
    marked[1] |= 0x80;
    assert!(parse(&[&marked]).unwrap().header.marker);
}

#[test]
fn the_payload_is_a_slice_of_the_datagram() {
    let datagram = Bytes::from([&FIXED[..], b"opus"].concat());
    let packet = Packet::parse(datagram.clone()).unwrap();
    assert_eq!(packet.payload.as_ptr(), datagram[12..].as_ptr());
}

#[test]
fn every_length_below_the_header_is_too_short() {
    for length in 0..12 {
        assert_eq!(parse(&[&FIXED[..length]]), Err(ParseError::TooShort(length)));
    }
}

#[test]
fn other_versions_are_refused() {
    for version in [0, 1, 3] {
        let mut fixed = FIXED;
        fixed[0] = version << 6;
        assert_eq!(parse(&[&fixed]), Err(ParseError::Version(version)));
    }
}

#[test]
fn contributing_sources_are_listed_and_must_be_whole() {
    let mut fixed = FIXED;
    fixed[0] |= 2;
    let packet = parse(&[&fixed, &[0, 0, 0, 7, 0, 0, 0, 9], b"x"]).unwrap();
    assert_eq!(&packet.header.csrc[..], [7, 9]);
    assert_eq!(packet.payload, "x");
    assert_eq!(parse(&[&fixed, &[0, 0, 0, 7, 0, 0, 0]]), Err(ParseError::CsrcTruncated));
}

#[test]
fn padding_is_stripped() {
    let mut fixed = FIXED;
    fixed[0] |= 0x20;
    assert_eq!(parse(&[&fixed, b"opus", &[0, 0, 3]]).unwrap().payload, "opus");
    assert_eq!(parse(&[&fixed, b"opus", &[1]]).unwrap().payload, "opus");
    assert_eq!(parse(&[&fixed, &[0, 0, 0, 4]]).unwrap().payload, "", "a probe is padding only");
}

#[test]
fn padding_of_nothing_or_of_more_than_there_is_is_refused() {
    let mut fixed = FIXED;
    fixed[0] |= 0x20;
    for (tail, padding) in [(&b"opus\0"[..], 0), (b"opus\x06", 6), (b"", 0), (b"\x02", 2), (b"\xff", 255)] {
        let available = tail.len();
        assert_eq!(parse(&[&fixed, tail]), Err(ParseError::Padding { padding, available }), "{tail:?}");
    }
}

#[test]
fn padding_never_reaches_into_the_extension() {
    let mut fixed = FIXED;
    fixed[0] |= 0x30;
    let refused = parse(&[&fixed, &[0xbe, 0xde, 0, 1], &[0, 0, 0, 0], &[0, 3]]);
    assert_eq!(refused, Err(ParseError::Padding { padding: 3, available: 2 }));
}

#[test]
fn an_extension_longer_than_the_datagram_is_refused() {
    let mut fixed = FIXED;
    fixed[0] |= 0x10;
    for tail in
        [&[][..], &[0xbe], &[0xbe, 0xde, 0], &[0xbe, 0xde, 0, 1], &[0xbe, 0xde, 0, 2, 0, 0, 0, 0, 0, 0, 0]]
    {
        assert_eq!(parse(&[&fixed, tail]), Err(ParseError::ExtensionTruncated), "{tail:?}");
    }
}

#[test]
fn one_byte_elements_are_read_with_padding_between_them() {
    let packet = extended(0xbede, &[0x10, 0x85, 0, 0, 0x31, b'a', b'b', 0]);
    assert_eq!(elements(&packet), [(1, vec![0x85]), (3, b"ab".to_vec())]);
    assert_eq!(packet.payload, "opus");
}

#[test]
fn one_byte_id_15_and_a_long_id_0_end_the_block() {
    assert_eq!(elements(&extended(0xbede, &[0x10, 1, 0xf0, 2, 0x20, 3, 0, 0])), [(1, vec![1])]);
    assert_eq!(elements(&extended(0xbede, &[0x10, 1, 0x01, 2, 0x20, 3, 0, 0])), [(1, vec![1])]);
}

#[test]
fn a_one_byte_element_that_is_cut_off_ends_the_block() {
    assert_eq!(elements(&extended(0xbede, &[0x10, 1, 0x2f, 9])), [(1, vec![1])]);
    assert_eq!(elements(&extended(0xbede, &[0x1f, 1, 2, 3])), []);
    let longest = [&[0x1f][..], &[7; 16], &[0; 3]].concat();
    assert_eq!(elements(&extended(0xbede, &longest)), [(1, vec![7; 16])]);
}

#[test]
fn two_byte_elements_may_be_empty_long_and_padded() {
    let packet = extended(0x1000, &[1, 0, 0, 0, 200, 2, 8, 9]);
    assert_eq!(elements(&packet), [(1, vec![]), (200, vec![8, 9])]);
    let application_bits = extended(0x100f, &[15, 1, 4, 0]);
    assert_eq!(elements(&application_bits), [(15, vec![4])], "id 15 is an id like others in this form");
}

#[test]
fn a_two_byte_element_that_is_cut_off_ends_the_block() {
    assert_eq!(elements(&extended(0x1000, &[1, 1, 5, 2])), [(1, vec![5])]);
    assert_eq!(elements(&extended(0x1000, &[1, 1, 5, 0, 2, 3, 1, 1])), [(1, vec![5])]);
}

#[test]
fn an_unknown_profile_is_kept_and_has_no_elements() {
    let packet = extended(0xabcd, &[0x10, 1, 2, 3]);
    assert_eq!(packet.header.extensions.profile(), Some(0xabcd));
    assert_eq!(packet.header.extensions.block()[..], [0x10, 1, 2, 3]);
    assert_eq!(elements(&packet), []);
    assert_eq!(packet.payload, "opus");
}

#[test]
fn known_extensions_are_read_by_the_ids_that_were_negotiated() {
    let block =
        [&[0x10, 0xfb][..], &[0x22, b'a', b'0', b'1'], &[0x37, 1, 2, 3, 4, 5, 6, 7, 8], &[0]].concat();
    let extensions = extended(0xbede, &block).header.extensions;
    assert_eq!(extensions.audio_level(1), Some(AudioLevel { voice: true, level: 0x7b }));
    assert_eq!(extensions.mid(2), Mid::new("a01").ok());
    let time = NtpTime(0x0102_0304_0506_0708);
    assert_eq!(extensions.capture_time(3), Some(CaptureTime { time, offset: None }));
    assert_eq!(extensions.audio_level(9), None, "not sent");
    assert_eq!(extensions.audio_level(2), None, "not of that length");
    assert_eq!(extensions.capture_time(2), None, "not of that length");
}

#[test]
fn a_capture_time_may_carry_a_negative_offset() {
    let block = [&[0x1f][..], &[0; 8], &[0xff; 8], &[0; 3]].concat();
    let capture = extended(0xbede, &block).header.extensions.capture_time(1).unwrap();
    assert_eq!(capture, CaptureTime { time: NtpTime(0), offset: Some(-1) });
    let odd = [&[0x1a][..], &[0; 11]].concat();
    assert_eq!(extended(0xbede, &odd).header.extensions.capture_time(1), None);
}

#[test]
fn a_mid_is_1_to_16_printable_characters() {
    assert_eq!(Mid::new("0").unwrap().as_str(), "0");
    assert_eq!(Mid::new([b'm'; 16]).unwrap().as_bytes(), [b'm'; 16]);
    for bad in ["", "seventeen letters", "a b", "é", "a\0"] {
        assert_eq!(Mid::new(bad), Err(InvalidMid), "{bad:?}");
    }
}

#[test]
fn the_one_byte_form_is_written_when_everything_fits_it() {
    let emit = Emit {
        marker: true,
        payload_type: 111,
        sequence: 7,
        timestamp: 960,
        ssrc: 5,
        extensions: Values {
            audio_level: Some((1, AudioLevel { voice: true, level: 10 })),
            capture_time: None,
            mid: Some((14, Mid::new("0").unwrap())),
        },
    };
    let mut out = [0xaa; 64];
    let length = emit.write(b"opus", &mut out).unwrap();
    let expected = [
        &[0x90, 0xef, 0, 7, 0, 0, 3, 0xc0, 0, 0, 0, 5][..],
        &[0xbe, 0xde, 0, 1, 0x10, 0x8a, 0xe0, b'0'],
        b"opus",
    ];
    assert_eq!(out[..length], expected.concat());
}

#[test]
fn the_two_byte_form_is_written_when_an_id_or_a_length_needs_it() {
    let level = AudioLevel { voice: false, level: 1 };
    for (ids, profile) in [([1, 14], 0xbede), ([15, 1], 0x1000), ([1, 255], 0x1000)] {
        let extensions = Values {
            audio_level: Some((ids[0], level)),
            mid: Some((ids[1], Mid::new("sixteen-letters!").unwrap())),
            capture_time: None,
        };
        let mut out = [0; 64];
        let length = Emit { extensions, ..Emit::default() }.write(b"", &mut out).unwrap();
        let read = Packet::parse(Bytes::copy_from_slice(&out[..length])).unwrap().header.extensions;
        assert_eq!(read.profile(), Some(profile));
        assert_eq!(read.audio_level(ids[0]), Some(level));
        assert_eq!(read.mid(ids[1]).unwrap().as_str(), "sixteen-letters!");
    }
    let mut out = [0; 64];
    let empty = [Element { id: 1, value: &[] }];
    assert_eq!(write_elements(empty.into_iter(), &mut out, 0), Ok(8));
    assert_eq!(out[..8], [0x10, 0, 0, 1, 1, 0, 0, 0], "an empty value needs the two-byte form");
}

#[test]
fn fields_out_of_range_are_refused_by_name() {
    let mut out = [0; 600];
    let refused = |field| Err(WriteError::OutOfRange { field });
    let emit = Emit { payload_type: 128, ..Emit::default() };
    assert_eq!(emit.write(b"", &mut out), refused("payload type"));
    let loud = Values { audio_level: Some((1, AudioLevel { voice: true, level: 128 })), ..Values::default() };
    assert_eq!(Emit { extensions: loud, ..Emit::default() }.write(b"", &mut out), refused("audio level"));
    let zero = Values { mid: Some((0, Mid::new("0").unwrap())), ..Values::default() };
    assert_eq!(Emit { extensions: zero, ..Emit::default() }.write(b"", &mut out), refused("extension id"));
    let long = [Element { id: 1, value: &[0; 256] }];
    assert_eq!(write_elements(long.into_iter(), &mut out, 0), refused("length of an extension value"));
}

#[test]
fn a_buffer_that_is_any_amount_too_short_is_an_error_and_never_a_panic() {
    let extensions = Values {
        audio_level: Some((1, AudioLevel { voice: true, level: 10 })),
        capture_time: Some((3, CaptureTime { time: NtpTime(9), offset: Some(-3) })),
        mid: Some((2, Mid::new("mid").unwrap())),
    };
    let emit = Emit { extensions, ..Emit::default() };
    let mut out = [0; 128];
    let length = emit.write(b"opus", &mut out).unwrap();
    for short in 0..length {
        let result = emit.write(b"opus", &mut out[..short]);
        assert!(matches!(result, Err(WriteError::NoSpace { available, .. }) if available == short));
    }
    assert_eq!(emit.write(b"opus", &mut out[..length]), Ok(length));
}

#[test]
fn rtcp_is_told_from_rtp_by_its_type() {
    assert!(is_rtcp(&[0x80, 200]));
    assert!(is_rtcp(&[0x81, 206]));
    assert!(!is_rtcp(&FIXED));
    assert!(!is_rtcp(&[0x80, 0x80 | 111]), "a marked packet of payload type 111");
    assert!(!is_rtcp(&[0x80]));
    assert!(!is_rtcp(&[]));
}

/// Bytes that look like RTP often enough for the parser's later branches to be reached.
fn almost_rtp() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(any::<u8>(), 0..=1_500), any::<bool>(), prop::option::of(0_u8..4)).prop_map(
        |(mut bytes, versioned, profile)| {
            if let (true, Some(first)) = (versioned, bytes.first_mut()) {
                *first = 0x80 | (*first & 0x31);
            }
            let at = 12 + usize::from(bytes.first().copied().unwrap_or(0) & 0x0f) * 4;
            if let (Some(words), Some(room)) = (profile, bytes.get_mut(at..at + 4)) {
                let profile: [u8; 2] = if words % 2 == 0 { [0xbe, 0xde] } else { [0x10, 0] };
                room.copy_from_slice(&[profile[0], profile[1], 0, words]);
            }
            bytes
        },
    )
}

prop_compose! {
    fn values()(
        level in prop::option::of((1..=255_u8, any::<bool>(), 0..=127_u8)),
        capture in prop::option::of((1..=255_u8, any::<u64>(), prop::option::of(any::<i64>()))),
        mid in prop::option::of((1..=255_u8, "[!-~]{1,16}")),
    ) -> Values {
        Values {
            audio_level: level.map(|(id, voice, level)| (id, AudioLevel { voice, level })),
            capture_time: capture.map(|(id, time, offset)| (id, CaptureTime { time: NtpTime(time), offset })),
            mid: mid.map(|(id, text)| (id, Mid::new(text).unwrap())),
        }
    }
}

proptest! {
    #[test]
    fn what_is_emitted_is_what_is_parsed(
        (marker, payload_type, sequence, timestamp, ssrc) in
            (any::<bool>(), 0..128_u8, any::<u16>(), any::<u32>(), any::<u32>()),
        extensions in values(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let ids = [
            extensions.audio_level.map(|(id, _)| id),
            extensions.capture_time.map(|(id, _)| id),
            extensions.mid.map(|(id, _)| id),
        ];
        let mut sent: Vec<u8> = ids.into_iter().flatten().collect();
        sent.sort_unstable();
        let count = sent.len();
        sent.dedup();
        prop_assume!(sent.len() == count);

        let emit = Emit { marker, payload_type, sequence, timestamp, ssrc, extensions };
        let mut out = [0; 512];
        let length = emit.write(&payload, &mut out).unwrap();
        let packet = Packet::parse(Bytes::copy_from_slice(&out[..length])).unwrap();
        let header = &packet.header;
        prop_assert_eq!((header.marker, header.payload_type), (marker, payload_type));
        prop_assert_eq!((header.sequence, header.timestamp, header.ssrc), (sequence, timestamp, ssrc));
        prop_assert_eq!(&packet.payload[..], &payload[..]);
        prop_assert_eq!(header.extensions.profile().is_none(), count == 0);
        if let Some((id, level)) = extensions.audio_level {
            prop_assert_eq!(header.extensions.audio_level(id), Some(level));
        }
        if let Some((id, time)) = extensions.capture_time {
            prop_assert_eq!(header.extensions.capture_time(id), Some(time));
        }
        if let Some((id, mid)) = extensions.mid {
            prop_assert_eq!(header.extensions.mid(id), Some(mid));
        }
    }

    #[test]
    fn elements_of_any_id_and_length_come_back_in_order(
        sent in prop::collection::vec((1..=255_u8, prop::collection::vec(any::<u8>(), 0..=255)), 0..6),
        small in any::<bool>(),
    ) {
        let sent: Vec<(u8, Vec<u8>)> = sent
            .into_iter()
            .map(|(id, value)| if small { (id % 14 + 1, value[..value.len() % 17].to_vec()) } else { (id, value) })
            .collect();
        let mut out = [0; 2_048];
        let write = sent.iter().map(|(id, value)| Element { id: *id, value });
        let length = write_elements(write, &mut out, 0).unwrap();
        prop_assert_eq!(length % 4, 0);
        if length > 0 {
            let profile = u16::from_be_bytes([out[0], out[1]]);
            prop_assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])) * 4 + 4, length);
            let read = Extensions::new(profile, Bytes::copy_from_slice(&out[4..length]));
            let read: Vec<(u8, Vec<u8>)> = read.iter().map(|read| (read.id, read.value.to_vec())).collect();
            prop_assert_eq!(read, sent);
        } else {
            prop_assert!(sent.is_empty());
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused_and_written_back_as_they_came(datagram in almost_rtp()) {
        let datagram = Bytes::from(datagram);
        let Ok(packet) = Packet::parse(datagram.clone()) else { return Ok(()) };
        let mut out = [0; 1_504];
        let length = packet.write(&mut out).unwrap();
        let padded = datagram[0] & 0x20 != 0;
        prop_assert!(padded || length == datagram.len());
        prop_assert_eq!(&out[1..length], &datagram[1..length]);
        let again = Packet::parse(Bytes::copy_from_slice(&out[..length])).unwrap();
        prop_assert_eq!(&again, &packet);
        for id in 0..=255 {
            let extensions = &packet.header.extensions;
            let _known = (extensions.audio_level(id), extensions.capture_time(id), extensions.mid(id));
        }
    }

    #[test]
    fn csrc_lists_keep_up_to_15_sources(sources in prop::collection::vec(any::<u32>(), 0..20)) {
        match CsrcList::new(&sources) {
            Some(list) => prop_assert_eq!(&list[..], &sources[..]),
            None => prop_assert!(sources.len() > 15),
        }
    }
}
