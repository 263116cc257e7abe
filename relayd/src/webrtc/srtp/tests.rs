//! Published vectors, tampering and lengths.

use super::cipher::Cipher;
use super::kdf::{Label, derive};
use super::open::test_support::SrtpOpener;
use super::*;

const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::AeadAes256Gcm, SrtpProfile::AeadAes128Gcm, SrtpProfile::Aes128CmSha1_80];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Both ends of a leg: our side, and the peer's.
fn pair(profile: SrtpProfile) -> (KeyingMaterial, KeyingMaterial) {
    let exported: Vec<u8> = (0..profile.exported_len()).map(|i| (i * 7 + 3) as u8).collect();
    let side = |role| KeyingMaterial::from_dtls(profile, &exported, role).unwrap();
    (side(Role::Server), side(Role::Client))
}

fn header(ssrc: u32, sequence: u16) -> [u8; 12] {
    let mut header = [0x80, 111, 0, 0, 0, 0, 3, 192, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&sequence.to_be_bytes());
    header[8..12].copy_from_slice(&ssrc.to_be_bytes());
    header
}

mod derivation {
    use super::*;

    fn derived(key: &str, salt: &str, label: Label, length: usize) -> Vec<u8> {
        let mut out = vec![0xee; length];
        derive(&Master::new(&hex(key), &hex(salt)), label, &mut out);
        out
    }

    #[test]
    fn rfc_3711_b3_session_keys() {
        let (key, salt) = ("E1F97A0D3E018BE0D64FA32C06DE4139", "0EC675AD498AFEEBB6960B3AABE6");
        assert_eq!(derived(key, salt, Label::RtpKey, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derived(key, salt, Label::RtpSalt, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let auth = "CEBE321F6FF7716B6FD4AB49AF256A15 6D38BAA48F0A0ACF3C34E2359E6CDBCE
                    E049646C43D9327AD175578EF7227098 6371C10C9A369AC2F94A8C5FBCDDDC25
                    6D6E919A48B610EF17C2041E47403576 6B68642C59BBFC2F34DB60DBDFB2";
        assert_eq!(derived(key, salt, Label::RtpAuth, 94), hex(auth));
    }

    #[test]
    fn rfc_6188_7_2_session_keys_of_256_bits() {
        let key = "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6";
        let salt = "3b04803de51ee7c96423ab5b78d2";
        let session = "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4";
        assert_eq!(derived(key, salt, Label::RtpKey, 32), hex(session));
        assert_eq!(derived(key, salt, Label::RtpSalt, 14), hex("fa31791685ca444a9e07c6c64e93"));
        assert_eq!(derived(key, salt, Label::RtpAuth, 20), hex("fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"));
    }

    #[test]
    fn a_twelve_byte_salt_counts_as_followed_by_zeros() {
        let key = "000102030405060708090a0b0c0d0e0f";
        let short = derived(key, "51756964 2070726f 2071756f", Label::RtcpSalt, 12);
        let padded = derived(key, "51756964 2070726f 2071756f 0000", Label::RtcpSalt, 12);
        assert_eq!(short, padded);
    }

    #[test]
    fn the_halves_go_to_who_sends_with_them() {
        for profile in PROFILES {
            let (ours, theirs) = pair(profile);
            assert!(
                ours.masters.outbound == theirs.masters.inbound
                    && ours.masters.inbound == theirs.masters.outbound
            );
            assert!(ours.masters.outbound != ours.masters.inbound);
            let exported: Vec<u8> = (0..profile.exported_len()).map(|i| (i * 7 + 3) as u8).collect();
            assert_eq!(ours.masters.outbound.key(), &exported[profile.key_len()..2 * profile.key_len()]);
        }
    }

    #[test]
    fn material_of_another_length_is_refused() {
        for profile in PROFILES {
            for length in 0..120 {
                let result = KeyingMaterial::from_dtls(profile, &vec![0; length], Role::Server);
                assert_eq!(result.is_ok(), length == profile.exported_len(), "{profile:?} {length}");
            }
        }
    }

    #[test]
    fn keys_stay_out_of_debug_output() {
        let text = format!("{:?}", pair(SrtpProfile::AeadAes128Gcm).0);
        assert_eq!(text, "KeyingMaterial { profile: AeadAes128Gcm, .. }");
    }
}

mod vectors {
    use super::*;

    const SALT: &str = "51756964 2070726f 2071756f";
    const RTP_HEADER: &str = "8040f17b 8041f8d3 5501a0b2";
    const RTP_PAYLOAD: &[u8] = b"Gallia est omnis divisa in partes tres";
    const RTCP: &str = "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61
                        deadbeef deadbeef deadbeef deadbeef deadbeef";

    fn gcm(profile: SrtpProfile) -> Cipher {
        let key: Vec<u8> = (0..profile.key_len() as u8).collect();
        Cipher::from_session_keys(profile, &key, &hex(SALT), &[0; 20])
    }

    fn seal_rfc_7714(profile: SrtpProfile) -> Vec<u8> {
        let mut sender = SrtpSender::new(gcm(profile), 0x5501_a0b2);
        let mut out = [0; 128];
        let length = sender.seal(0xf17b, &hex(RTP_HEADER), RTP_PAYLOAD, &mut out).unwrap();
        assert_eq!(SrtpOpener::from_cipher(gcm(profile)).open(0, 12, &out[..length]).unwrap(), RTP_PAYLOAD);
        out[..length].to_vec()
    }

    #[test]
    fn rfc_7714_16_1_srtp_aes_128_gcm() {
        let expected = "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5
            0d294e6f 42a5f47a 51c7d19b 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce";
        assert_eq!(seal_rfc_7714(SrtpProfile::AeadAes128Gcm), hex(expected));
    }

    #[test]
    fn rfc_7714_16_2_srtp_aes_256_gcm() {
        let expected = "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238
            9a58e2f3 b50b2a02 76ffae0f 1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13";
        assert_eq!(seal_rfc_7714(SrtpProfile::AeadAes256Gcm), hex(expected));
    }

    fn srtcp_rfc_7714(profile: SrtpProfile, expected: &str) {
        let mut out = [0; 128];
        let length = SrtcpSender::starting_at(gcm(profile), 0x5d4).seal(&hex(RTCP), &mut out).unwrap();
        assert_eq!(out[..length], hex(expected));
        let mut plain = [0; 128];
        let length = SrtcpReceiver::new(gcm(profile)).open(&hex(expected), &mut plain).unwrap();
        assert_eq!(plain[..length], hex(RTCP));
    }

    #[test]
    fn rfc_7714_17_1_srtcp_aes_128_gcm() {
        let expected = "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d
            c676a5f1 730d6fda 4ce09b46 86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4";
        srtcp_rfc_7714(SrtpProfile::AeadAes128Gcm, expected);
    }

    #[test]
    fn rfc_7714_17_2_srtcp_aes_256_gcm() {
        let expected = "81c8000d 4d617273 d50ae4d1 f5ce5d30 4ba297e4 7d470c28 2c3ece5d bffe0a50
            a2eaa5c1 110555be 8415f658 c61de047 6f1b6fad 1d1eb30c 4446839f 57ff6f6c b26ac3be 800005d4";
        srtcp_rfc_7714(SrtpProfile::AeadAes256Gcm, expected);
    }

    #[test]
    fn rfc_3711_b2_counter_mode_keystream() {
        let key = hex("2B7E151628AED2A6ABF7158809CF4F3C");
        let salt = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD");
        let cipher = Cipher::from_session_keys(SrtpProfile::Aes128CmSha1_80, &key, &salt, &[0; 20]);
        let Cipher::CounterMode(cm) = cipher else { panic!("the profile is a counter-mode one") };
        let mut stream = vec![0; 65_282 * 16];
        cm.apply(0, 0, &mut stream);
        let start = "E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB
                     41E95B3BB0A2E8DD477901E4FCA894C0";
        let end = "EC8CDF7398607CB0F2D21675EA9EA1E4 362B7C3C6773516318A077D7FC5073AE
                   6A2CC3787889374FBEB4C81B17BA6C44";
        assert_eq!(stream[..48], hex(start));
        assert_eq!(stream[stream.len() - 48..], hex(end));
    }

    /// The packets of libsrtp's own self-test, under the master key of RFC 3711 B.3.
    fn libsrtp() -> (Master, SrtpProfile) {
        let key = hex("e1f97a0d3e018be0d64fa32c06de4139");
        (Master::new(&key, &hex("0ec675ad498afeebb6960b3aabe6")), SrtpProfile::Aes128CmSha1_80)
    }

    #[test]
    fn libsrtp_srtp_aes_128_cm_sha1_80() {
        let (master, profile) = libsrtp();
        let mut sender = SrtpSender::new(Cipher::rtp(profile, &master), 0xcafe_babe);
        let mut out = [0; 64];
        let header = hex("800f1234decafbadcafebabe");
        let length = sender.seal(0x1234, &header, &[0xab; 16], &mut out).unwrap();
        let expected = "800f1234decafbadcafebabe 4e55dc4ce79978d88ca4d215949d2402 b78d6acc99ea179b8dbb";
        assert_eq!(out[..length], hex(expected));
    }

    #[test]
    fn libsrtp_srtcp_aes_128_cm_sha1_80() {
        let (master, profile) = libsrtp();
        let mut out = [0; 64];
        let mut packet = hex("81c8000bcafebabe");
        packet.extend([0xab; 16]);
        let mut sender = SrtcpSender::starting_at(Cipher::rtcp(profile, &master), 1);
        let length = sender.seal(&packet, &mut out).unwrap();
        let expected = "81c8000bcafebabe 7128035be487b9bdbef89041f977a5a8 80000001 993e08cd54d6c1230798";
        assert_eq!(out[..length], hex(expected));
    }
}

mod sealing {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_length_makes_the_trip_and_no_room_is_an_error() {
        for profile in PROFILES {
            let (ours, theirs) = pair(profile);
            let (mut sender, opener) = (ours.srtp_sender(7), SrtpOpener::new(&theirs));
            let payload: Vec<u8> = (0..1500).map(|i| i as u8).collect();
            let mut out = [0; 1600];
            for length in 0..=1500 {
                let head = header(7, length as u16);
                let sealed = 12 + length + profile.tag_len();
                assert_eq!(
                    sender.seal(length as u64, &head, &payload[..length], &mut out[..sealed - 1]),
                    Err(SealError::NoRoom)
                );
                assert_eq!(sender.seal(length as u64, &head, &payload[..length], &mut out), Ok(sealed));
                assert_eq!(opener.open(0, 12, &out[..sealed]).unwrap(), payload[..length]);
            }
        }
    }

    #[test]
    fn no_byte_of_a_packet_may_change() {
        for profile in PROFILES {
            let (ours, theirs) = pair(profile);
            let opener = SrtpOpener::new(&theirs);
            let mut out = [0; 128];
            let length = ours.srtp_sender(7).seal(0x1_0005, &header(7, 5), b"payload", &mut out).unwrap();
            assert_eq!(opener.open(1, 12, &out[..length]).unwrap(), b"payload");
            assert_eq!(opener.open(0, 12, &out[..length]), None, "the rollover counter is authenticated");
            for at in 0..length {
                for bit in 0..8 {
                    out[at] ^= 1 << bit;
                    assert_eq!(opener.open(1, 12, &out[..length]), None, "{profile:?} byte {at}");
                    out[at] ^= 1 << bit;
                }
            }
        }
    }

    #[test]
    fn an_index_is_sealed_once() {
        let (ours, _) = pair(SrtpProfile::AeadAes128Gcm);
        let mut sender = ours.srtp_sender(7);
        let mut out = [0; 64];
        let mut seal = |index: u64| sender.seal(index, &header(7, index as u16), b"x", &mut out);
        for index in [500, 498, 499, 7000] {
            assert!(seal(index).is_ok());
            assert_eq!(seal(index), Err(SealError::Reused));
        }
        assert_eq!(seal(500), Err(SealError::Reused));
        assert!(seal(7000 + 40_000).is_ok());
        assert_eq!(seal(500), Err(SealError::TooOld));
        assert!(seal((1 << 48) - 1).is_ok());
        assert_eq!(seal(1 << 48), Err(SealError::Exhausted));
    }

    fn again(sender: &mut SrtpSender, index: u64, head: &[u8], payload: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut out = [0xee; 128];
        out[..head.len()].copy_from_slice(head);
        let sealed = sender.seal_again_behind(index, head.len(), payload, &mut out);
        if sealed == Err(SealError::Changed) {
            let length = head.len() + payload.len() + sender.overhead();
            assert!(out[..length].iter().all(|byte| *byte == 0), "nothing of it is left");
        }
        sealed.map(|length| out[..length].to_vec())
    }

    #[test]
    fn a_packet_sealed_again_comes_out_byte_for_byte_the_same() {
        for profile in PROFILES {
            let (ours, theirs) = pair(profile);
            let (mut sender, opener) = (ours.srtp_sender(7), SrtpOpener::new(&theirs));
            let mut first = Vec::new();
            for index in 65_000..66_000_u64 {
                let mut out = [0; 64];
                let payload = index.to_be_bytes();
                let length = sender.seal(index, &header(7, index as u16), &payload, &mut out).unwrap();
                first.push(out[..length].to_vec());
            }
            for index in (65_000..66_000_u64).rev() {
                let payload = index.to_be_bytes();
                let sealed = again(&mut sender, index, &header(7, index as u16), &payload).unwrap();
                assert_eq!(sealed, first[(index - 65_000) as usize]);
                assert_eq!(opener.open((index >> 16) as u32, 12, &sealed).unwrap(), payload);
            }
        }
    }

    #[test]
    fn no_other_packet_is_ever_sealed_under_an_index_that_was_used() {
        for profile in PROFILES {
            let (ours, _) = pair(profile);
            let mut sender = ours.srtp_sender(7);
            let (head, payload) = (header(7, 5), *b"twenty milliseconds");
            let sealed = again(&mut sender, 5, &head, &payload).unwrap();
            // Every bit of header and payload, such as another frame's, another line's timestamp, another marker.
            for at in 0..head.len() + payload.len() {
                for bit in 0..8 {
                    let (mut head, mut payload) = (head, payload);
                    match at.checked_sub(head.len()) {
                        None => head[at] ^= 1 << bit,
                        Some(at) => payload[at] ^= 1 << bit,
                    }
                    let expected = match at {
                        // Another sequence number or SSRC does not even belong to the index.
                        2..=3 | 8..=11 => SealError::Header,
                        _ => SealError::Changed,
                    };
                    assert_eq!(
                        again(&mut sender, 5, &head, &payload),
                        Err(expected),
                        "{profile:?} byte {at}"
                    );
                }
            }
            for cut in 0..payload.len() {
                assert_eq!(again(&mut sender, 5, &head, &payload[..cut]), Err(SealError::Changed));
            }
            assert_eq!(again(&mut sender, 5, &head, b"twenty milliseconds."), Err(SealError::Changed));
            // The next rollover is another index, and the first packet is still the one that this index has.
            assert!(again(&mut sender, 0x1_0005, &head, b"another").is_ok());
            assert_eq!(again(&mut sender, 5, &head, &payload), Err(SealError::TooOld));
            assert_ne!(again(&mut sender, 0x1_0005, &head, b"another").unwrap(), sealed);
        }
    }

    #[test]
    fn what_was_never_sealed_may_be_sealed_by_a_replay_once_as_one_packet() {
        let (ours, _) = pair(SrtpProfile::AeadAes128Gcm);
        let mut sender = ours.srtp_sender(7);
        assert!(again(&mut sender, 32_768, &header(7, 32_768), b"newest").is_ok());
        assert_eq!(
            again(&mut sender, 10, &header(7, 10), b"a far end takes it for a later one"),
            Err(SealError::TooOld)
        );
        assert!(again(&mut sender, 300, &header(7, 300), b"late").is_ok());
        assert_eq!(again(&mut sender, 300, &header(7, 300), b"LATE"), Err(SealError::Changed));
        let mut out = [0; 64];
        assert_eq!(
            sender.seal(300, &header(7, 300), b"late", &mut out),
            Err(SealError::Reused),
            "not a replay"
        );
    }

    proptest! {
        #[test]
        fn under_one_index_there_is_one_packet_whatever_is_asked(
            steps in prop::collection::vec((0_u64..9_000, 0_u8..3, any::<bool>()), 1..300),
        ) {
            let (ours, _) = pair(SrtpProfile::AeadAes256Gcm);
            let mut sender = ours.srtp_sender(7);
            let mut sent = std::collections::BTreeMap::<u64, Vec<u8>>::new();
            for (index, payload, replay) in steps {
                let head = header(7, index as u16);
                let sealed = if replay {
                    again(&mut sender, index, &head, &[payload])
                } else {
                    let mut out = [0; 64];
                    sender.seal(index, &head, &[payload], &mut out).map(|length| out[..length].to_vec())
                };
                match sealed {
                    Ok(sealed) if replay => prop_assert_eq!(&sealed, sent.entry(index).or_insert_with(|| sealed.clone())),
                    Ok(sealed) => prop_assert!(sent.insert(index, sealed).is_none()),
                    Err(SealError::Reused | SealError::Changed) => prop_assert!(sent.contains_key(&index)),
                    Err(error) => prop_assert_eq!(error, SealError::TooOld),
                }
            }
        }
    }

    #[test]
    fn a_header_of_another_stream_or_sequence_is_refused() {
        let (ours, _) = pair(SrtpProfile::AeadAes256Gcm);
        let mut sender = ours.srtp_sender(7);
        let mut out = [0; 64];
        assert_eq!(sender.seal(1, &header(8, 1), b"x", &mut out), Err(SealError::Header));
        assert_eq!(sender.seal(1, &header(7, 2), b"x", &mut out), Err(SealError::Header));
        for length in 0..12 {
            assert_eq!(sender.seal(1, &header(7, 1)[..length], b"x", &mut out), Err(SealError::Header));
        }
        assert!(sender.seal(1, &header(7, 1), b"x", &mut out).is_ok(), "a refusal uses no index up");
    }
}

mod control {
    use super::*;

    const REPORT: [u8; 12] = [0x80, 201, 0, 2, 0, 0, 0, 9, 1, 2, 3, 4];

    #[test]
    fn our_indices_start_at_two_to_the_thirty() {
        let (ours, theirs) = pair(SrtpProfile::AeadAes256Gcm);
        let (mut sender, mut receiver) = (ours.srtcp_sender(), theirs.srtcp_receiver());
        let (mut out, mut plain) = ([0; 64], [0; 64]);
        for count in 0..3 {
            let length = sender.seal(&REPORT, &mut out).unwrap();
            assert_eq!(out[length - 4..length], (0xc000_0000u32 + count).to_be_bytes());
            assert_eq!(receiver.open(&out[..length], &mut plain), Ok(REPORT.len()));
            assert_eq!(plain[..REPORT.len()], REPORT);
        }
    }

    #[test]
    fn the_last_index_is_the_end() {
        let (ours, _) = pair(SrtpProfile::AeadAes256Gcm);
        let cipher = Cipher::rtcp(ours.profile, &ours.masters.outbound);
        let mut sender = SrtcpSender::starting_at(cipher, (1 << 31) - 1);
        let mut out = [0; 64];
        assert!(sender.seal(&REPORT, &mut out).is_ok());
        assert_eq!(sender.seal(&REPORT, &mut out), Err(SealError::Exhausted));
    }

    #[test]
    fn no_byte_of_a_packet_may_change_and_a_refusal_leaves_no_trace() {
        for profile in PROFILES {
            let (ours, theirs) = pair(profile);
            let mut receiver = theirs.srtcp_receiver();
            let (mut out, mut plain) = ([0; 64], [0; 64]);
            let length = ours.srtcp_sender().seal(&REPORT, &mut out).unwrap();
            for at in 0..length {
                for bit in 0..8 {
                    out[at] ^= 1 << bit;
                    let refused = receiver.open(&out[..length], &mut plain);
                    assert_eq!(refused, Err(OpenError::NotAuthentic), "{profile:?} byte {at}");
                    out[at] ^= 1 << bit;
                }
            }
            assert_eq!(receiver.open(&out[..length], &mut plain), Ok(REPORT.len()));
            assert_eq!(receiver.open(&out[..length], &mut plain), Err(OpenError::Replayed));
        }
    }

    #[test]
    fn packets_out_of_order_are_taken_within_the_window() {
        let (ours, theirs) = pair(SrtpProfile::Aes128CmSha1_80);
        let (mut sender, mut receiver) = (ours.srtcp_sender(), theirs.srtcp_receiver());
        let packets: Vec<Vec<u8>> = (0..200)
            .map(|_| {
                let mut out = vec![0; 64];
                let length = sender.seal(&REPORT, &mut out).unwrap();
                out.truncate(length);
                out
            })
            .collect();
        let mut plain = [0; 64];
        assert!(receiver.open(&packets[199], &mut plain).is_ok());
        assert!(receiver.open(&packets[72], &mut plain).is_ok());
        assert_eq!(receiver.open(&packets[71], &mut plain), Err(OpenError::TooOld));
    }

    #[test]
    fn sender_ssrcs_are_bounded() {
        let (ours, theirs) = pair(SrtpProfile::AeadAes128Gcm);
        let (mut sender, mut receiver) = (ours.srtcp_sender(), theirs.srtcp_receiver());
        let (mut out, mut plain) = ([0; 64], [0; 64]);
        for ssrc in 0..20u8 {
            let mut report = REPORT;
            report[7] = ssrc;
            let length = sender.seal(&report, &mut out).unwrap();
            let opened = receiver.open(&out[..length], &mut plain);
            let expected = if usize::from(ssrc) < SrtcpReceiver::MAX_SENDERS {
                Ok(REPORT.len())
            } else {
                Err(OpenError::TooManySenders)
            };
            assert_eq!(opened, expected);
        }
    }

    #[test]
    fn junk_of_every_length_is_refused_without_panic() {
        for profile in PROFILES {
            let (ours, theirs) = pair(profile);
            let mut receiver = theirs.srtcp_receiver();
            let mut sender = ours.srtcp_sender();
            let mut plain = [0; 1500];
            for length in 0..=1500 {
                let junk: Vec<u8> = (0..length).map(|i| (i * 31 + length) as u8 | 0x80).collect();
                assert!(receiver.open(&junk, &mut plain).is_err(), "{profile:?} {length}");
                let mut out = [0; 1600];
                let sealed = sender.seal(&junk, &mut out);
                assert_eq!(sealed.is_ok(), length >= 8);
                if let Ok(sealed) = sealed {
                    let opened = receiver.open(&out[..sealed], &mut [0; 1600]);
                    assert!(matches!(opened, Ok(_) | Err(OpenError::TooManySenders)));
                    let fresh = theirs.srtcp_receiver().open(&out[..sealed], &mut [0; 1600]);
                    assert_eq!(fresh, Ok(length));
                }
            }
        }
    }
}
