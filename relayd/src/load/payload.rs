//! The payload that publishers of the load tester send, and how listeners read it back.
//!
//! It looks like one 20 ms Opus frame to every server between: a valid TOC byte, then 119 bytes. In them are who sent it,
//! its number, when it was due to be sent and when it was sent, so that the far end measures with nothing but the packet.
//!
//! ```text
//! 0    TOC        hybrid, full band, 20 ms, mono, one frame
//! 1    magic      7 bytes
//! 8    clock      4: which machine's monotonic clock the time is of
//! 12   publisher  4
//! 16   run        8
//! 24   number     8, below 2^48
//! 32   due        8: nanoseconds of that clock
//! 40   sent       8: the same
//! 48   filler     64, pseudo-random
//! 112  check      8: over all that is before it
//! ```
//!
//! A server may send anything: whatever is no such payload is told apart, and nothing in one can overflow a count.

/// Bytes of each payload: 48 kbit/s.
pub const PAYLOAD_BYTES: usize = 120;

/// Numbers stay below this.
pub const NUMBER_LIMIT: u64 = 1 << 48;

const TOC: u8 = 15 << 3;
const MAGIC: &[u8; 7] = b"rlyload";
const CHECK_AT: usize = PAYLOAD_BYTES - 8;
const FILLER_AT: usize = 48;

/// What a payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The clock that `due` and `sent` are of.
    pub clock: u32,
    /// Which publisher of its run.
    pub publisher: u32,
    /// The run of the tester that sent it.
    pub run: u64,
    /// Counts from 0.
    pub number: u64,
    /// When it was to be sent, whenever it was.
    pub due_ns: u64,
    /// When it was.
    pub sent_ns: u64,
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// One of a load tester's.
    Ours(Stamp),
    /// Somebody else's.
    Foreign,
    /// One of a load tester's that was changed on its way.
    Damaged,
}

/// Writes a payload.
pub fn write(stamp: &Stamp) -> [u8; PAYLOAD_BYTES] {
    let mut bytes = [0; PAYLOAD_BYTES];
    bytes[0] = TOC;
    bytes[1..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&stamp.clock.to_be_bytes());
    bytes[12..16].copy_from_slice(&stamp.publisher.to_be_bytes());
    bytes[16..24].copy_from_slice(&stamp.run.to_be_bytes());
    bytes[24..32].copy_from_slice(&stamp.number.to_be_bytes());
    bytes[32..40].copy_from_slice(&stamp.due_ns.to_be_bytes());
    bytes[40..48].copy_from_slice(&stamp.sent_ns.to_be_bytes());
    let mut filler = stamp.run ^ stamp.number;
    for chunk in bytes[FILLER_AT..CHECK_AT].chunks_exact_mut(8) {
        filler = mixed(filler.wrapping_add(GOLDEN));
        chunk.copy_from_slice(&filler.to_be_bytes());
    }
    let check = check(&bytes);
    bytes[CHECK_AT..].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// Reads what came.
pub fn read(payload: &[u8]) -> Payload {
    if payload.get(1..8) != Some(MAGIC) {
        return Payload::Foreign;
    }
    let Ok(bytes) = <&[u8; PAYLOAD_BYTES]>::try_from(payload) else { return Payload::Damaged };
    let number = long(bytes, 24);
    if check(bytes) != long(bytes, CHECK_AT) || number >= NUMBER_LIMIT {
        return Payload::Damaged;
    }
    Payload::Ours(Stamp {
        clock: word(bytes, 8),
        publisher: word(bytes, 12),
        run: long(bytes, 16),
        number,
        due_ns: long(bytes, 32),
        sent_ns: long(bytes, 40),
    })
}

/// Against accidents, not against forgers: SRTP is there for those.
fn check(bytes: &[u8; PAYLOAD_BYTES]) -> u64 {
    let mut sum = GOLDEN;
    for at in (0..CHECK_AT).step_by(8) {
        sum = (sum ^ long(bytes, at)).wrapping_mul(0x9FB2_1C65_1E98_DF25).rotate_left(29);
    }
    mixed(sum)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finalizer of splitmix64.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

fn long(bytes: &[u8; PAYLOAD_BYTES], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(long)
}

fn word(bytes: &[u8; PAYLOAD_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relay_engine::rtp::opus;

    use super::*;

    fn stamp() -> Stamp {
        let (run, number) = (u64::MAX, NUMBER_LIMIT - 1);
        Stamp { clock: 7, publisher: 3, run, number, due_ns: 12_345, sent_ns: 54_321 }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(read(&write(&stamp())), Payload::Ours(stamp()));
    }

    #[test]
    fn it_is_an_opus_frame_of_20_ms() {
        let toc = opus::Toc::parse(&write(&stamp())).unwrap();
        assert_eq!((toc.duration(), toc.frames()), (960, 1));
    }

    #[test]
    fn a_changed_bit_is_seen() {
        let good = write(&stamp());
        for bit in 0..PAYLOAD_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let magic = (8..64).contains(&bit);
            assert_eq!(read(&bytes), if magic { Payload::Foreign } else { Payload::Damaged }, "bit {bit}");
        }
    }

    #[test]
    fn what_is_cut_or_longer_is_damaged_and_what_is_short_is_foreign() {
        let good = write(&stamp());
        for length in 0..PAYLOAD_BYTES {
            let expected = if length < 8 { Payload::Foreign } else { Payload::Damaged };
            assert_eq!(read(&good[..length]), expected, "{length}");
        }
        let mut longer = good.to_vec();
        longer.push(0);
        assert_eq!(read(&longer), Payload::Damaged);
        assert_eq!(read(&write(&Stamp { number: NUMBER_LIMIT, ..stamp() })), Payload::Damaged);
    }

    proptest! {
        #[test]
        fn any_stamp_makes_the_trip(
            (clock, publisher, run) in any::<(u32, u32, u64)>(),
            number in 0..NUMBER_LIMIT,
            (due_ns, sent_ns) in any::<(u64, u64)>(),
        ) {
            let stamp = Stamp { clock, publisher, run, number, due_ns, sent_ns };
            prop_assert_eq!(read(&write(&stamp)), Payload::Ours(stamp));
        }
    }
}
