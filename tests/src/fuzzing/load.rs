//! What a server may send to the load tester in the place of its payloads.

use relayd::load::payload::{NUMBER_LIMIT, PAYLOAD_BYTES, Payload, Stamp, read, write};

/// What is taken for a payload of the tester's is one, to the last bit that it says; what differs by a bit is not.
pub(super) fn load_payload(data: &[u8]) {
    if let Payload::Ours(stamp) = read(data) {
        assert_eq!(data.len(), PAYLOAD_BYTES);
        assert!(stamp.number < NUMBER_LIMIT);
        assert_eq!(read(&write(&stamp)), Payload::Ours(stamp));
        let mut changed = data.to_vec();
        changed[PAYLOAD_BYTES - 1] ^= 1;
        assert_eq!(read(&changed), Payload::Damaged);
    }
    let Some((head, bytes)) = data.split_first_chunk::<32>() else { return };
    let long = |at: usize| head[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let (clock, publisher) = (long(0) as u32, bytes.len() as u32);
    let (number, due_ns, sent_ns) = (long(16) % NUMBER_LIMIT, long(24), long(24).reverse_bits());
    let stamp = Stamp { clock, publisher, run: long(8), number, due_ns, sent_ns };
    assert_eq!(read(&write(&stamp)), Payload::Ours(stamp));
}
