//! The RTCP packets that the relay sends, written into the caller's buffer.
//!
//! Each function writes one packet at the start of `out` and returns its length, so a compound is made by writing
//! one behind the other. Nothing allocates; whatever does not fit is a [`WriteError`].

use super::{
    BYE, DESCRIPTION, GENERIC_NACK, RECEIVER_REPORT, ReceiverReport, ReportBlock, SENDER_REPORT,
    SenderReport, TRANSPORT_FEEDBACK,
};
use crate::rtp::seq::distance16;
use crate::rtp::{VERSION, WriteError, append};

/// The SDES item that names a source (RFC 3550 §6.5.1).
const CNAME: u8 = 1;

/// Most that the 5-bit count of an RTCP packet can say.
const MAX_COUNT: usize = 31;

impl SenderReport {
    /// Writes the report with up to 31 report blocks; returns its length.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if it does not fit, there are too many blocks, or a loss does not fit 24 bits.
    pub fn write(&self, blocks: &[ReportBlock], out: &mut [u8]) -> Result<usize, WriteError> {
        let mut info = [0; 24];
        info[..4].copy_from_slice(&self.ssrc.to_be_bytes());
        info[4..12].copy_from_slice(&self.ntp.0.to_be_bytes());
        info[12..16].copy_from_slice(&self.rtp_timestamp.to_be_bytes());
        info[16..20].copy_from_slice(&self.packet_count.to_be_bytes());
        info[20..].copy_from_slice(&self.octet_count.to_be_bytes());
        let at = append(out, 4, &info)?;
        let end = write_blocks(blocks, out, at)?;
        finish(SENDER_REPORT, blocks.len(), out, end)
    }
}

impl ReceiverReport<'_> {
    /// Writes a report by `ssrc` with up to 31 report blocks; returns its length.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if it does not fit, there are too many blocks, or a loss does not fit 24 bits.
    pub fn write(ssrc: u32, blocks: &[ReportBlock], out: &mut [u8]) -> Result<usize, WriteError> {
        let at = append(out, 4, &ssrc.to_be_bytes())?;
        let end = write_blocks(blocks, out, at)?;
        finish(RECEIVER_REPORT, blocks.len(), out, end)
    }
}

/// Writes a source description: one source and its canonical name (RFC 3550 §6.5); returns its length.
///
/// # Errors
///
/// [`WriteError`] if it does not fit or the name is longer than 255 bytes.
pub fn write_description(ssrc: u32, cname: &str, out: &mut [u8]) -> Result<usize, WriteError> {
    let length = u8::try_from(cname.len()).map_err(|_| WriteError::OutOfRange { field: "cname" })?;
    let at = append(out, 4, &ssrc.to_be_bytes())?;
    let at = append(out, at, &[CNAME, length])?;
    let at = append(out, at, cname.as_bytes())?;
    // One to four zeros: the end of the items, and the rest of the word.
    let end = append(out, at, &[0; 4][..4 - at % 4])?;
    finish(DESCRIPTION, 1, out, end)
}

/// Writes that `sources` leave, and why if there is a `reason` to give; returns its length.
///
/// # Errors
///
/// [`WriteError`] if it does not fit, there are more than 31 sources or the reason is longer than 255 bytes.
pub fn write_bye(sources: &[u32], reason: &str, out: &mut [u8]) -> Result<usize, WriteError> {
    let mut end = 4;
    for source in sources {
        end = append(out, end, &source.to_be_bytes())?;
    }
    if !reason.is_empty() {
        let length = u8::try_from(reason.len()).map_err(|_| WriteError::OutOfRange { field: "reason" })?;
        end = append(out, end, &[length])?;
        end = append(out, end, reason.as_bytes())?;
        end = append(out, end, &[0; 3][..end.next_multiple_of(4) - end])?;
    }
    finish(BYE, sources.len(), out, end)
}

/// Writes a generic NACK for `missing`, which must be in order and may wrap; returns its length.
///
/// Sequence numbers within 16 of each other share an entry. Nothing missing writes nothing.
///
/// # Errors
///
/// [`WriteError`] if it does not fit.
pub fn write_nack(
    sender_ssrc: u32,
    media_ssrc: u32,
    missing: impl IntoIterator<Item = u16>,
    out: &mut [u8],
) -> Result<usize, WriteError> {
    let mut missing = missing.into_iter();
    let Some(mut first) = missing.next() else { return Ok(0) };
    let mut following = 0_u16;
    let at = append(out, 4, &sender_ssrc.to_be_bytes())?;
    let mut end = append(out, at, &media_ssrc.to_be_bytes())?;
    for sequence in missing {
        match distance16(first, sequence) {
            0 => {}
            ahead @ 1..=16 => following |= 1 << (ahead - 1),
            _ => {
                end = write_entry(first, following, out, end)?;
                (first, following) = (sequence, 0);
            }
        }
    }
    end = write_entry(first, following, out, end)?;
    finish(TRANSPORT_FEEDBACK, usize::from(GENERIC_NACK), out, end)
}

fn write_entry(first: u16, following: u16, out: &mut [u8], at: usize) -> Result<usize, WriteError> {
    let at = append(out, at, &first.to_be_bytes())?;
    append(out, at, &following.to_be_bytes())
}

fn write_blocks(blocks: &[ReportBlock], out: &mut [u8], mut at: usize) -> Result<usize, WriteError> {
    for block in blocks {
        if !(-0x80_0000..=0x7f_ffff).contains(&block.cumulative_lost) {
            return Err(WriteError::OutOfRange { field: "cumulative loss" });
        }
        let loss =
            (u32::from(block.fraction_lost) << 24) | (block.cumulative_lost.cast_unsigned() & 0xff_ffff);
        let words = [
            block.ssrc,
            loss,
            block.highest_sequence,
            block.jitter,
            block.last_sender_report,
            block.delay_since_last_sender_report,
        ];
        for word in words {
            at = append(out, at, &word.to_be_bytes())?;
        }
    }
    Ok(at)
}

/// Writes the first word of the packet that ends at `end`, a multiple of 4.
fn finish(packet_type: u8, count: usize, out: &mut [u8], end: usize) -> Result<usize, WriteError> {
    if count > MAX_COUNT {
        return Err(WriteError::OutOfRange { field: "count" });
    }
    let count = count as u8;
    let words = u16::try_from(end / 4 - 1).map_err(|_| WriteError::OutOfRange { field: "length" })?;
    let [l0, l1] = words.to_be_bytes();
    append(out, 0, &[(VERSION << 6) | count, packet_type, l0, l1])?;
    Ok(end)
}
