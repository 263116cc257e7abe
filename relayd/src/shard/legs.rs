//! What is kept per leg, by the leg's slot.
//!
//! Apart lie what every packet touches (keys, address, group), leg beside leg as the engine hands packets out, and what a
//! report touches every few seconds.

use std::time::{Duration, Instant};

use relay_engine::{ExtensionIds, LegId};

use super::feed::FeedSender;
use super::header::{GroupId, Groups};
use super::ring::RingSender;
use crate::webrtc::egress::Destination;
use crate::webrtc::srtp::{KeyingMaterial, SrtcpReceiver, SrtcpSender, SrtpSender, prefetch};

/// The listeners' legs of a shard.
#[derive(Debug)]
pub(super) struct Legs {
    /// In blocks that stay where they are: another listener moves nobody's keys, which would be left where they were.
    blocks: Vec<Box<[Entry]>>,
    reports: Vec<Option<Box<Reports>>>,
    templates: Groups,
    /// How long a packet may be wanted again.
    history: Duration,
}

/// What a packet to a leg touches: whole cache lines in a row.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Entry {
    /// Which leg has the slot, if it is a listener's.
    id: Option<LegId>,
    group: GroupId,
    destination: Destination,
    sender: Option<Sender>,
}

/// Of how many legs later memory is asked while one packet is sealed.
const AHEAD: usize = 2;
/// Entries that are made together.
const BLOCK: usize = 64;

impl Legs {
    /// None yet, of a relay whose tracks keep their frames for so long.
    pub(super) fn new(history: Duration) -> Self {
        Legs { blocks: Vec::new(), reports: Vec::new(), templates: Groups::default(), history }
    }

    /// A listener's leg was opened.
    pub(super) fn open(&mut self, leg: LegId, payload_type: u8, ids: &ExtensionIds) {
        let slot = leg.slot();
        while slot >= self.reports.len() {
            self.blocks.push(std::iter::repeat_with(Entry::default).take(BLOCK).collect());
            self.reports.resize_with(self.reports.len() + BLOCK, || None);
        }
        if let Some(before) = self.blocks[slot / BLOCK][slot % BLOCK].id {
            self.close(before);
        }
        let group = self.templates.join(payload_type, ids);
        let entry = &mut self.blocks[slot / BLOCK][slot % BLOCK];
        (entry.id, entry.group) = (Some(leg), group);
    }

    /// The leg is gone; its keys with it.
    pub(super) fn close(&mut self, leg: LegId) {
        let Some(entry) = self.entry_mut(leg) else { return };
        (entry.id, entry.sender) = (None, None);
        let group = entry.group;
        self.reports[leg.slot()] = None;
        self.templates.leave(group);
    }

    /// The leg has keys and an address. False if it is no listener's leg, or no longer.
    ///
    /// The same keys again only move the address: new senders would start to use indices a second time.
    pub(super) fn connect(
        &mut self,
        leg: LegId,
        ssrc: u32,
        keys: &KeyingMaterial,
        destination: Destination,
    ) -> bool {
        let history = self.history;
        let known = self.reports(leg).is_some_and(|(reports, _)| reports.keys == *keys);
        let Some(entry) = self.entry_mut(leg) else { return false };
        entry.destination = destination;
        if !known {
            let sender = keys.narrow_srtp_sender(ssrc).keeping(history);
            // The keys that lie in the entry are made there, and wiped there.
            if let Sender::Srtp(sender) = entry.sender.insert(Sender::Srtp(sender)) {
                keys.widen(sender);
            }
            self.reports[leg.slot()] = Some(Box::new(Reports::new(keys.clone())));
        }
        true
    }

    /// The leg has a ring. False if it is no listener's leg, or no longer.
    pub(super) fn attach(&mut self, leg: LegId, ring: RingSender) -> bool {
        let Some(entry) = self.entry_mut(leg) else { return false };
        entry.sender = Some(Sender::Ring(Box::new(ring)));
        true
    }

    /// The leg, which is just open, feeds another shard.
    pub(super) fn attach_feed(&mut self, leg: LegId, feed: FeedSender) {
        if let Some(entry) = self.entry_mut(leg) {
            entry.sender = Some(Sender::Feed(Box::new(feed)));
        }
    }

    /// Whether the leg has keys or a ring.
    pub(super) fn is_connected(&self, leg: LegId) -> bool {
        self.entry(leg).is_some_and(|entry| entry.sender.is_some())
    }

    /// The stall of a leg's ring or feed has ended: the position that found no room. `None` if the leg has neither.
    pub(super) fn take_refused(&mut self, leg: LegId) -> Option<Option<u64>> {
        match self.entry_mut(leg)?.sender.as_mut()? {
            Sender::Ring(ring) => Some(ring.take_refused()),
            Sender::Feed(feed) => Some(feed.take_refused()),
            Sender::Srtp(_) => None,
        }
    }

    /// The leg's peer is somewhere else now.
    pub(super) fn redirect(&mut self, leg: LegId, destination: Destination) {
        if let Some(entry) = self.entry_mut(leg) {
            entry.destination = destination;
        }
    }

    /// What a packet to this leg needs; `None` if it has neither keys nor a ring.
    pub(super) fn hot(&mut self, leg: LegId) -> Option<Hot<'_>> {
        // Listeners come in the order of their slots, but for those who left and came.
        let soon = leg.slot() + AHEAD;
        if let Some(entry) = self.blocks.get(soon / BLOCK).and_then(|block| block.get(soon % BLOCK)) {
            prefetch(entry);
        }
        let entry = Self::entry_in(&mut self.blocks, leg)?;
        Some(match entry.sender.as_mut()? {
            Sender::Srtp(sender) => Hot::Srtp(HotSrtp {
                sender,
                destination: &entry.destination,
                group: entry.group,
                templates: &self.templates,
            }),
            Sender::Ring(ring) => Hot::Ring(ring),
            Sender::Feed(feed) => Hot::Feed(feed),
        })
    }

    /// What RTCP of this leg needs; `None` if it has no keys.
    pub(super) fn reports(&mut self, leg: LegId) -> Option<(&mut Reports, &Destination)> {
        let entry = Self::entry_in(&mut self.blocks, leg)?;
        Some((self.reports[leg.slot()].as_mut()?, &entry.destination))
    }

    /// Frames that wait in rings: in all of them, and in the fullest.
    pub(super) fn rings_depth(&self) -> (usize, usize) {
        let rings = self.blocks.iter().flatten().filter_map(|entry| match &entry.sender {
            Some(Sender::Ring(ring)) => Some(ring.len()),
            _ => None,
        });
        rings.fold((0, 0), |(all, most), one| (all + one, most.max(one)))
    }

    fn entry(&self, leg: LegId) -> Option<&Entry> {
        let slot = leg.slot();
        self.blocks.get(slot / BLOCK)?.get(slot % BLOCK).filter(|entry| entry.id == Some(leg))
    }

    fn entry_mut(&mut self, leg: LegId) -> Option<&mut Entry> {
        Self::entry_in(&mut self.blocks, leg)
    }

    fn entry_in(blocks: &mut [Box<[Entry]>], leg: LegId) -> Option<&mut Entry> {
        let slot = leg.slot();
        blocks.get_mut(slot / BLOCK)?.get_mut(slot % BLOCK).filter(|entry| entry.id == Some(leg))
    }
}

/// How a leg is sent to.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most legs are sent SRTP, and their keys are to lie in the row"
)]
enum Sender {
    Srtp(SrtpSender),
    Ring(Box<RingSender>),
    Feed(Box<FeedSender>),
}

/// What a packet to a leg needs.
pub(super) enum Hot<'a> {
    Srtp(HotSrtp<'a>),
    Ring(&'a mut RingSender),
    Feed(&'a mut FeedSender),
}

/// What a packet to an SRTP leg needs.
pub(super) struct HotSrtp<'a> {
    pub(super) sender: &'a mut SrtpSender,
    pub(super) destination: &'a Destination,
    pub(super) group: GroupId,
    pub(super) templates: &'a Groups,
}

/// What RTCP of a leg needs.
#[derive(Debug)]
pub(super) struct Reports {
    keys: KeyingMaterial,
    pub(super) sender: SrtcpSender,
    pub(super) receiver: SrtcpReceiver,
    pub(super) allowance: Allowance,
}

impl Reports {
    fn new(keys: KeyingMaterial) -> Self {
        Reports {
            sender: keys.srtcp_sender(),
            receiver: keys.srtcp_receiver(),
            allowance: Allowance::default(),
            keys,
        }
    }
}

/// A token bucket that holds one second's worth.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// When the bucket will be full again; `None` until the first use.
    full_at: Option<Instant>,
}

impl Allowance {
    /// Takes one token of `rate` per second, if there is one.
    pub(crate) fn take(&mut self, now: Instant, rate: u32) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + Duration::from_secs(1) / rate.max(1);
        let granted = full_at - now <= Duration::from_secs(1);
        if granted {
            self.full_at = Some(full_at);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_packet_touches_of_a_leg_is_a_dozen_cache_lines_in_a_row() {
        assert!(size_of::<Entry>() <= 768, "{}", size_of::<Entry>());
    }
}
