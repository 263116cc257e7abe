//! SDP offers, trickle fragments and the first look at a datagram.

use relayd::webrtc::demux::{Class, Ufrag, classify, local_ufrag};
use relayd::webrtc::{JoinError, Role, dry_run};

/// An answer has the offer's sections in number, is CRLF lines of printable text, and accepts one audio section.
pub(super) fn sdp_offer(data: &[u8]) {
    let Ok(offer) = str::from_utf8(data) else { return };
    for role in [Role::Publisher, Role::Listener] {
        match dry_run::answer(offer, role) {
            Ok(answer) => answered(offer, &answer, role),
            Err(JoinError::Malformed(why) | JoinError::Unsupported(why)) => {
                assert!(!why.is_empty() && why.len() < 1_000, "a refusal says why, briefly");
            }
            Err(error) => panic!("an offer alone cannot meet {error:?}"),
        }
    }
}

fn answered(offer: &str, answer: &str, role: Role) {
    let sections = |text: &str| text.lines().filter(|line| line.starts_with("m=")).count();
    assert_eq!(sections(answer), sections(offer), "a section of the offer is not answered:\n{answer}");
    assert!(answer.ends_with("\r\n"), "the last line is open");
    let lines: Vec<&str> = answer.split_terminator("\r\n").collect();
    for line in &lines {
        assert!(!line.contains(['\r', '\n', '\0']), "the peer wrote a line of ours: {line:?}");
        assert!(line.as_bytes().get(1) == Some(&b'='), "{line:?} is no line of SDP");
    }
    let count = |wanted: &str| lines.iter().filter(|line| **line == wanted).count();
    assert_eq!(count("a=ice-lite"), 1);
    let direction = if role == Role::Publisher { "a=recvonly" } else { "a=sendonly" };
    assert_eq!(count(direction), 1, "one section is accepted:\n{answer}");
    let open =
        lines.iter().filter(|line| line.starts_with("m=audio ") && !line.starts_with("m=audio 0 ")).count();
    assert_eq!(open, 1, "one audio section is open:\n{answer}");
    assert!(answer.len() <= 2_048 + 2 * offer.len(), "{} bytes for {}", answer.len(), offer.len());
}

/// What is accepted says something, and no more candidates than it has lines.
pub(super) fn trickle_fragment(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match dry_run::fragment(text) {
        Ok((candidates, _)) => assert!(candidates <= text.lines().count()),
        Err(why) => assert!(!why.is_empty() && why.len() < 1_000),
    }
    // Line endings do not matter.
    if !text.contains('\r') {
        assert_eq!(dry_run::fragment(&text.replace('\n', "\r\n")).is_ok(), dry_run::fragment(text).is_ok());
    }
}

/// A ufrag is inside the datagram, only STUN has one, and one of ours leads to a slot that exists.
pub(super) fn demux(data: &[u8]) {
    let class = classify(data);
    assert_eq!(class, classify(&data[..data.len().min(2)]), "two bytes decide");
    if let Some(ufrag) = local_ufrag(data) {
        assert_eq!(class, Class::Stun);
        let (datagram, name) = (data.as_ptr_range(), ufrag.as_bytes().as_ptr_range());
        assert!(datagram.start <= name.start && name.end <= datagram.end, "a ufrag outside the datagram");
        if let Some((_, slot)) = Ufrag::decode(ufrag) {
            assert!(slot < Ufrag::MAX_SLOTS);
        }
    }
    if let Some((numbers, rest)) = data.split_first_chunk::<5>() {
        let slot =
            u32::from_be_bytes([numbers[1], numbers[2], numbers[3], numbers[4]]) as usize % Ufrag::MAX_SLOTS;
        let random = rest.iter().fold(0_u128, |sum, byte| sum.rotate_left(8) ^ u128::from(*byte));
        let shard = numbers[0] % 32;
        let ufrag = Ufrag::new(shard, slot, random);
        assert_eq!(Ufrag::decode(ufrag.as_str()), Some((shard, slot)), "{}", ufrag.as_str());
    }
}
