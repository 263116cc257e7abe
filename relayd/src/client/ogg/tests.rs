use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const EN: &[u8] = include_bytes!("../../../assets/en.ogg");
const ES: &[u8] = include_bytes!("../../../assets/es.ogg");

fn packets(file: &[u8]) -> Vec<Packet> {
    Reader::new(file).and_then(Reader::read_all).unwrap()
}

fn written(input: &[(Bytes, u32)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), 7, Head::new(1)).unwrap();
    for (data, timestamp) in input {
        writer.write(data, *timestamp).unwrap();
    }
    writer.finish().unwrap()
}

/// Granule position and flags of each page.
fn pages(file: &[u8]) -> Vec<(u64, u8)> {
    let mut pages = Vec::new();
    let mut at = 0;
    while at < file.len() {
        assert_eq!(&file[at..at + 4], b"OggS");
        let granule = u64::from_le_bytes(file[at + 6..at + 14].try_into().unwrap());
        let segments = usize::from(file[at + 26]);
        let body: usize = file[at + 27..at + 27 + segments].iter().map(|&length| usize::from(length)).sum();
        pages.push((granule, file[at + 5]));
        at += 27 + segments + body;
    }
    pages
}

fn frame(tag: u8) -> Bytes {
    // Configuration 31 (CELT fullband, 20 ms), one frame.
    Bytes::from(vec![31 << 3, tag, tag, tag])
}

#[test]
fn the_bundled_speech_reads_as_mono_20_ms_frames() {
    for file in [EN, ES] {
        let reader = Reader::new(file).unwrap();
        assert_eq!(
            reader.head(),
            Head { channels: 1, pre_skip: 312, input_sample_rate: 48_000, output_gain: 0 }
        );
        let packets = reader.read_all().unwrap();
        assert!(packets.iter().all(|packet| packet.samples == 960 && !packet.is_empty()));
        assert!((750..=1050).contains(&packets.len()), "15 to 21 s, got {} frames", packets.len());
        assert!(file.len() < 120_000);
    }
}

#[test]
fn what_was_written_reads_back_byte_for_byte() {
    let original = packets(EN);
    let mut timestamp = u32::MAX - 5000;
    let mut input = Vec::new();
    for packet in &original {
        input.push((packet.data.clone(), timestamp));
        timestamp = timestamp.wrapping_add(packet.samples);
    }
    let file = written(&input);
    assert_eq!(packets(&file), original);
    let pages = pages(&file);
    assert_eq!(
        pages.last().unwrap(),
        &(original.len() as u64 * 960, 0x04),
        "end of stream at the last sample"
    );
    assert!(pages.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 48_000), "no page is longer than a second");
}

#[test]
fn a_hole_is_filled_with_empty_frames_and_advances_the_granule_position() {
    let file = written(&[(frame(1), 1000), (frame(2), 1000 + 5 * 960)]);
    let read = packets(&file);
    assert_eq!(read.len(), 6);
    assert_eq!(
        read.iter().map(|packet| packet.is_empty()).collect::<Vec<_>>(),
        [false, true, true, true, true, false]
    );
    assert_eq!(pages(&file).last().unwrap().0, 6 * 960);
}

#[test]
fn a_gap_too_long_to_fill_moves_the_granule_position_alone() {
    let gap = 48_000 * 3600;
    let file = written(&[(frame(1), 0), (frame(2), 960 + gap)]);
    assert_eq!(packets(&file).len(), 2);
    let granules: Vec<u64> = pages(&file).iter().map(|page| page.0).collect();
    assert_eq!(granules, [0, 0, 960, 960 + u64::from(gap) + 960]);
}

#[test]
fn a_gap_that_is_no_whole_number_of_frames_keeps_its_length() {
    let file = written(&[(frame(1), 0), (frame(2), 960 + 1000)]);
    assert_eq!(packets(&file).len(), 3);
    assert_eq!(pages(&file).last().unwrap().0, 960 + 1000 + 960);
}

#[test]
fn a_late_packet_is_refused_and_leaves_no_trace() {
    let mut writer = Writer::new(Vec::new(), 7, Head::new(2)).unwrap();
    writer.write(&frame(1), 960).unwrap();
    assert_eq!(writer.write(&frame(0), 0), Err(WriteError::Late));
    assert_eq!(writer.write(&frame(1), 960), Err(WriteError::Late));
    assert_eq!(writer.write(&Bytes::new(), 1920), Err(WriteError::BadPacket));
    writer.write(&frame(2), 1920).unwrap();
    assert_eq!(writer.samples(), 1920);
    assert_eq!(packets(&writer.finish().unwrap()).len(), 2);
}

#[test]
fn a_flushed_file_that_never_ended_is_playable() {
    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Shared {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let file = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut writer = Writer::new(Shared(file.clone()), 7, Head::new(1)).unwrap();
    for index in 0..120u8 {
        writer.write(&frame(index), u32::from(index) * 960).unwrap();
    }
    assert_eq!(packets(&file.lock().unwrap().clone()).len(), 100, "two whole pages are in the file");
    writer.flush().unwrap();
    assert_eq!(packets(&file.lock().unwrap().clone()).len(), 120);
    writer.finish().unwrap();
    let file = file.lock().unwrap().clone();
    assert_eq!(
        pages(&file).last().unwrap(),
        &(120 * 960, 0x04),
        "the packet that carries the flag is trimmed away"
    );
}

#[test]
fn a_stream_without_audio_ends_properly() {
    let writer = Writer::new(Vec::new(), 7, Head::new(1)).unwrap();
    assert_eq!(pages(&writer.finish().unwrap()).last().unwrap(), &(0, 0x04));
}

#[test]
fn each_wrong_file_has_its_error() {
    let error = |file: &[u8]| Reader::new(file).and_then(Reader::read_all).unwrap_err();
    assert_eq!(error(b""), ReadError::NotOgg);
    assert_eq!(
        error(b"RIFF\x24\x00\x00\x00WAVEfmt and so on, for longer than one page header"),
        ReadError::NotOgg
    );
    assert_eq!(error(b"Og"), ReadError::Truncated);
    assert_eq!(error(&EN[..20]), ReadError::Truncated);
    assert_eq!(error(&EN[..EN.len() - 1]), ReadError::Truncated);

    let mut damaged = EN.to_vec();
    damaged[5000] ^= 1;
    assert_eq!(error(&damaged), ReadError::Corrupt("a page has a wrong checksum"));

    let mut version = EN.to_vec();
    version[4] = 1;
    assert_eq!(error(&version), ReadError::Corrupt("unknown version of the Ogg page format"));

    assert_eq!(error(&[EN, ES].concat()), ReadError::Chained);
    let head_only: Vec<u8> = EN[..47].to_vec();
    assert_eq!(error(&head_only), ReadError::Truncated, "a file of one page has no tags");
    let mut garbage = EN.to_vec();
    garbage.extend_from_slice(b"trailing bytes that are no page");
    assert_eq!(error(&garbage), ReadError::NotOgg);
}

fn stream(packets: &[&[u8]]) -> Vec<u8> {
    let mut writer = ogg::PacketWriter::new(Vec::new());
    for (index, packet) in packets.iter().enumerate() {
        let end = match index {
            0 | 1 => ogg::PacketWriteEndInfo::EndPage,
            _ if index + 1 == packets.len() => ogg::PacketWriteEndInfo::EndStream,
            _ => ogg::PacketWriteEndInfo::NormalPacket,
        };
        writer.write_packet(packet.to_vec(), 1, end, 0).unwrap();
    }
    writer.into_inner()
}

#[test]
fn each_wrong_header_has_its_error() {
    let error = |packets: &[&[u8]]| Reader::new(&stream(packets)[..]).and_then(Reader::read_all).unwrap_err();
    let head = Head::new(1).to_packet();
    let with = |index: usize, value: u8| {
        let mut head = head.clone();
        head[index] = value;
        head
    };
    assert_eq!(error(&[b"\x01vorbis and more"]), ReadError::NotOpus);
    assert_eq!(error(&[b""]), ReadError::NotOpus);
    assert_eq!(error(&[&head[..12]]), ReadError::BadHeader("identification header is too short"));
    assert_eq!(
        error(&[&with(8, 0x10)]),
        ReadError::BadHeader("unknown version of the identification header")
    );
    assert_eq!(error(&[&with(9, 0)]), ReadError::BadHeader("no channels"));
    assert_eq!(error(&[&with(9, 6)]), ReadError::Multistream { channels: 6, family: 0 });
    assert_eq!(error(&[&with(18, 1)]), ReadError::Multistream { channels: 1, family: 1 });
    assert_eq!(error(&[&head]), ReadError::Truncated);
    assert_eq!(error(&[&head, b"OpusTag"]), ReadError::BadHeader("the second packet is not OpusTags"));
    assert_eq!(error(&[&head, b"OpusTags"]), ReadError::NoAudio);
    assert_eq!(error(&[&head, b"OpusTags", b""]), ReadError::BadPacket);
    assert_eq!(error(&[&head, b"OpusTags", &[0xff, 0]]), ReadError::BadPacket);
}

#[test]
fn packet_durations_follow_the_toc() {
    let of = |config: u8, rest: &[u8]| packet_samples(&[&[config << 3], rest].concat());
    assert_eq!([0, 1, 2, 3].map(|config| of(config, &[]).unwrap()), [480, 960, 1920, 2880]);
    assert_eq!([12, 13, 14, 15].map(|config| of(config, &[]).unwrap()), [480, 960, 480, 960]);
    assert_eq!([16, 17, 18, 19, 31].map(|config| of(config, &[]).unwrap()), [120, 240, 480, 960, 960]);
    assert_eq!(packet_samples(&[(31 << 3) | 1, 0]), Some(1920));
    assert_eq!(packet_samples(&[(31 << 3) | 3, 6]), Some(5760));
    assert_eq!(packet_samples(&[(31 << 3) | 3, 7]), None, "140 ms");
    assert_eq!(packet_samples(&[(31 << 3) | 3, 0]), None, "no frame");
    assert_eq!(packet_samples(&[(31 << 3) | 3]), None);
    assert_eq!(packet_samples(&[]), None);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        drop(Reader::new(&bytes[..]).and_then(Reader::read_all));
    }

    #[test]
    fn a_changed_or_cut_file_is_read_or_refused(at in 0..2000usize, value: u8, cut in 0..2000usize) {
        let mut file = EN[..2000].to_vec();
        file[at] = value;
        drop(Reader::new(&file[..cut]).and_then(Reader::read_all));
    }

    #[test]
    fn gaps_add_up(gaps in proptest::collection::vec(0..200_000u32, 1..40), start: u32) {
        let mut timestamp = start;
        let mut input = Vec::new();
        let mut total = 0u64;
        for (index, gap) in gaps.iter().enumerate() {
            let gap = if index == 0 { 0 } else { *gap };
            timestamp = timestamp.wrapping_add(gap);
            input.push((frame(index as u8), timestamp));
            timestamp = timestamp.wrapping_add(960);
            total += u64::from(gap) + 960;
        }
        let file = written(&input);
        let heard: Vec<Bytes> = packets(&file).into_iter().filter(|packet| !packet.is_empty()).map(|packet| packet.data).collect();
        prop_assert_eq!(heard, input.into_iter().map(|(data, _)| data).collect::<Vec<_>>());
        prop_assert_eq!(pages(&file).last().unwrap().0, total);
        prop_assert!(pages(&file).iter().all(|page| page.0 != u64::MAX));
    }
}

#[test]
fn a_file_that_is_not_there_is_told_as_any_program_tells_it() {
    let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
    assert_eq!(ReadError::Io(missing.kind()).to_string(), "cannot read the file: No such file or directory");
    assert_eq!(WriteError::from(missing).to_string(), "cannot write the file: No such file or directory");
}
