//! The far end of a listener's link: hears packets, and reports and asks for what it misses.
//!
//! It knows nothing of positions. What it checks is what a player would trip over: another SSRC in mid-stream, or the
//! same sequence number with another payload. What it says back exercises the relay's feedback handlers.

use std::collections::BTreeMap;

use relay_engine::Feedback;
use relay_engine::rtp::rtcp;

use crate::oracle::{Check, broken, ensure};
use crate::seen::Fields;
use crate::stream::fnv;

/// How many sequence numbers behind the highest one it remembers.
const MEMORY: u64 = 512;

/// A listener's player.
#[derive(Clone, Debug, Default)]
pub(crate) struct FarEnd {
    ssrc: Option<u32>,
    highest: u64,
    /// Payload hashes by extended sequence number.
    heard: BTreeMap<u64, u64>,
    received: u64,
}

impl FarEnd {
    /// A packet came.
    pub(crate) fn hear(&mut self, wire: &[u8]) -> Check {
        let fields =
            Fields::read(wire).ok_or_else(|| broken("wire", format!("{wire:?} reached a player")))?;
        let ssrc = *self.ssrc.get_or_insert_with(|| {
            self.highest = u64::from(fields.sequence);
            fields.ssrc
        });
        ensure(ssrc == fields.ssrc, "one SSRC", || format!("{} after {ssrc}", fields.ssrc))?;
        let ahead = i64::from(fields.sequence.wrapping_sub(self.highest as u16).cast_signed());
        let Some(sequence) = self.highest.checked_add_signed(ahead) else { return Ok(()) };
        let hash = fnv(&wire[2..]);
        let before = *self.heard.entry(sequence).or_insert(hash);
        ensure(before == hash, "no reuse of a sequence number", || format!("{sequence}: {fields:?}"))?;
        self.highest = self.highest.max(sequence);
        self.received += 1;
        let forgotten = self.highest.saturating_sub(MEMORY);
        while self.heard.first_key_value().is_some_and(|(oldest, _)| *oldest < forgotten) {
            self.heard.pop_first();
        }
        Ok(())
    }

    /// A receiver report, and a NACK if something is missing.
    pub(crate) fn report(&self) -> Vec<Feedback> {
        let Some(ssrc) = self.ssrc else { return Vec::new() };
        let block = rtcp::ReportBlock { ssrc, highest_sequence: self.highest as u32, ..Default::default() };
        let oldest = self.heard.keys().next().copied().unwrap_or(self.highest);
        let missing = (oldest..self.highest).find(|sequence| !self.heard.contains_key(sequence));
        let nack = missing.map(|sequence| {
            let first = sequence as u16;
            Feedback::Nack(rtcp::Nack { sender_ssrc: 1, media_ssrc: ssrc, first, following: 0 })
        });
        std::iter::once(Feedback::ReceiverReport(block)).chain(nack).collect()
    }
}
