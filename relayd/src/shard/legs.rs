//! What is kept per leg, in parallel arrays indexed by the leg's slot.
//!
//! Apart lie what every packet touches (keys, address, group) and what a report touches every few seconds.

use std::time::{Duration, Instant};

use relay_engine::{ExtensionIds, LegId};

use super::feed::FeedSender;
use super::header::{GroupId, Groups};
use super::ring::RingSender;
use crate::webrtc::egress::Destination;
use crate::webrtc::srtp::{KeyingMaterial, SrtcpReceiver, SrtcpSender, SrtpSender};

/// The listeners' legs of a shard.
#[derive(Debug)]
pub(super) struct Legs {
    /// Which leg has the slot, if it is a listener's.
    ids: Vec<Option<LegId>>,
    groups: Vec<GroupId>,
    senders: Vec<Option<Sender>>,
    destinations: Vec<Destination>,
    reports: Vec<Option<Box<Reports>>>,
    templates: Groups,
    /// How long a packet may be wanted again.
    history: Duration,
}

impl Legs {
    /// None yet, of a relay whose tracks keep their frames for so long.
    pub(super) fn new(history: Duration) -> Self {
        Legs {
            ids: Vec::new(),
            groups: Vec::new(),
            senders: Vec::new(),
            destinations: Vec::new(),
            reports: Vec::new(),
            templates: Groups::default(),
            history,
        }
    }

    /// A listener's leg was opened.
    pub(super) fn open(&mut self, leg: LegId, payload_type: u8, ids: &ExtensionIds) {
        let slot = leg.slot();
        if slot >= self.ids.len() {
            self.grow(slot + 1);
        }
        if let Some(before) = self.ids[slot] {
            self.close(before);
        }
        self.ids[slot] = Some(leg);
        self.groups[slot] = self.templates.join(payload_type, ids);
    }

    /// The leg is gone; its keys with it.
    pub(super) fn close(&mut self, leg: LegId) {
        let Some(slot) = self.slot(leg) else { return };
        self.ids[slot] = None;
        self.senders[slot] = None;
        self.reports[slot] = None;
        self.templates.leave(self.groups[slot]);
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
        let Some(slot) = self.slot(leg) else { return false };
        self.destinations[slot] = destination;
        let known = self.reports[slot].as_ref().is_some_and(|reports| reports.keys == *keys);
        if !known {
            self.senders[slot] = Some(Sender::Srtp(keys.srtp_sender(ssrc).keeping(self.history)));
            self.reports[slot] = Some(Box::new(Reports::new(keys.clone())));
        }
        true
    }

    /// The leg has a ring. False if it is no listener's leg, or no longer.
    pub(super) fn attach(&mut self, leg: LegId, ring: RingSender) -> bool {
        let Some(slot) = self.slot(leg) else { return false };
        self.senders[slot] = Some(Sender::Ring(Box::new(ring)));
        true
    }

    /// The leg, which is just open, feeds another shard.
    pub(super) fn attach_feed(&mut self, leg: LegId, feed: FeedSender) {
        if let Some(slot) = self.slot(leg) {
            self.senders[slot] = Some(Sender::Feed(Box::new(feed)));
        }
    }

    /// Whether the leg has keys or a ring.
    pub(super) fn is_connected(&self, leg: LegId) -> bool {
        self.slot(leg).is_some_and(|slot| self.senders[slot].is_some())
    }

    /// The stall of a leg's ring or feed has ended: the position that found no room. `None` if the leg has neither.
    pub(super) fn take_refused(&mut self, leg: LegId) -> Option<Option<u64>> {
        let slot = self.slot(leg)?;
        match self.senders[slot].as_mut()? {
            Sender::Ring(ring) => Some(ring.take_refused()),
            Sender::Feed(feed) => Some(feed.take_refused()),
            Sender::Srtp(_) => None,
        }
    }

    /// The leg's peer is somewhere else now.
    pub(super) fn redirect(&mut self, leg: LegId, destination: Destination) {
        if let Some(slot) = self.slot(leg) {
            self.destinations[slot] = destination;
        }
    }

    /// What a packet to this leg needs; `None` if it has neither keys nor a ring.
    pub(super) fn hot(&mut self, leg: LegId) -> Option<Hot<'_>> {
        let slot = self.slot(leg)?;
        Some(match self.senders[slot].as_mut()? {
            Sender::Srtp(sender) => Hot::Srtp(HotSrtp {
                sender,
                destination: &self.destinations[slot],
                group: self.groups[slot],
                templates: &self.templates,
            }),
            Sender::Ring(ring) => Hot::Ring(ring),
            Sender::Feed(feed) => Hot::Feed(feed),
        })
    }

    /// What RTCP of this leg needs; `None` if it has no keys.
    pub(super) fn reports(&mut self, leg: LegId) -> Option<(&mut Reports, &Destination)> {
        let slot = self.slot(leg)?;
        Some((self.reports[slot].as_mut()?, &self.destinations[slot]))
    }

    /// Frames that wait in rings: in all of them, and in the fullest.
    pub(super) fn rings_depth(&self) -> (usize, usize) {
        let rings = self.senders.iter().filter_map(|sender| match sender {
            Some(Sender::Ring(ring)) => Some(ring.len()),
            _ => None,
        });
        rings.fold((0, 0), |(all, most), one| (all + one, most.max(one)))
    }

    fn slot(&self, leg: LegId) -> Option<usize> {
        let slot = leg.slot();
        (*self.ids.get(slot)? == Some(leg)).then_some(slot)
    }

    fn grow(&mut self, slots: usize) {
        self.ids.resize(slots, None);
        self.groups.resize(slots, GroupId::default());
        self.senders.resize_with(slots, || None);
        self.destinations.resize(slots, Destination::default());
        self.reports.resize_with(slots, || None);
    }
}

/// How a leg is sent to.
#[derive(Debug)]
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
