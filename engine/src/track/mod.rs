//! A track: its publisher's leg, its timeline, its history, and the walk that hands frames to its listeners.
//!
//! What a listener must be sent is derived, not queued: the walk goes over the arrivals not yet handed out and, for
//! each, over the members. A listener's own cursor says whether it takes an arrival, so opening, closing or bringing up
//! a listener in the middle of a drain neither skips nor repeats anyone.

mod arrived;
mod feed;
mod follow;
mod held;
mod lane;
mod limit;
mod merge;
mod publisher;
mod reception;
mod source;
mod timeline;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

pub(crate) use self::arrived::Arrived;
use self::merge::Merge;
pub(crate) use self::merge::{Refused, Taken};
pub(crate) use self::publisher::{PublisherLeg, Wire};
use self::timeline::{Newest, Timeline};
use crate::config::{Config, HistoryLimits};
use crate::frame::Frame;
use crate::id::{ListenerId, Slots, TrackId};
use crate::io::{Event, OutboundPacket};
use crate::listener::{Listener, Offer, Take, View};

/// One audio channel: one timeline, whoever feeds it.
#[derive(Debug)]
pub(crate) struct Track {
    id: TrackId,
    name: String,
    merge: Merge,
    timeline: Timeline,
    /// Slots of the listeners, dense: first those that feed other relays, then the others, in order when a walk begins.
    members: Vec<u32>,
    /// How many of them feed others. Small, since it is in every track.
    feeds: u32,
    walk: Walk,
    /// The track is in the relay's queue of tracks with something to hand out.
    pub(crate) queued: bool,
    active: bool,
    /// A listener has come or gone since the members were put in order.
    moved: bool,
}

/// How far the handing out has come: which arrival, and which members had it.
#[derive(Debug, Default)]
struct Walk {
    arrival: u64,
    /// Members before this one have been offered the arrival.
    member: usize,
}

/// What the walk found to hand out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hand {
    /// A frame, to a listener.
    Packet { track: TrackId, position: u64, listener: ListenerId, take: Take },
    /// Nothing, but something of a listener has another due time now.
    Wake(ListenerId),
    /// An event before it.
    Event(Event),
}

impl Track {
    pub(crate) fn new(id: TrackId, name: String, limits: HistoryLimits, path_skew: Duration) -> Self {
        Self {
            id,
            name,
            merge: Merge::new(path_skew),
            timeline: Timeline::new(limits),
            members: Vec::new(),
            feeds: 0,
            walk: Walk::default(),
            queued: false,
            active: false,
            moved: false,
        }
    }

    /// Adds a listener and returns its place among the members.
    pub(crate) fn join(&mut self, listener: ListenerId) -> usize {
        self.moved = true;
        self.members.push(listener.slot() as u32);
        self.members.len() - 1
    }

    /// The last member that joined is a feed: it is offered frames first. Whoever moves is told so by `moved(slot, place)`.
    ///
    /// Who makes room for it goes to the end, and is offered no less for that.
    pub(crate) fn lead(&mut self, mut moved: impl FnMut(u32, usize)) {
        let Some(last) = self.members.len().checked_sub(1) else { return };
        let first = self.feeds as usize;
        self.members.swap(first, last);
        for place in [first, last] {
            moved(self.members[place], place);
        }
        self.feeds += 1;
    }

    /// Removes the member at `place`. Whoever moves into another place is told so by `moved(slot, place)`.
    ///
    /// Of those left, no member before the walk's place has still to be offered the current arrival.
    pub(crate) fn leave(&mut self, place: usize, mut moved: impl FnMut(u32, usize)) {
        let mut hole = place;
        if hole < self.feeds as usize {
            // The feeds behind it move up.
            self.feeds -= 1;
            let last = self.feeds as usize;
            self.members[hole..=last].rotate_left(1);
            (hole..last).for_each(|place| moved(self.members[place], place));
            if (hole + 1..=last).contains(&self.walk.member) {
                self.walk.member -= 1;
            }
            hole = last;
        }
        if hole < self.walk.member {
            // The last of those already offered moves into the hole, and the hole to the border.
            self.walk.member -= 1;
            self.members.swap(hole, self.walk.member);
            if hole != self.walk.member {
                moved(self.members[hole], hole);
            }
            hole = self.walk.member;
        }
        self.moved = true;
        self.members.swap_remove(hole);
        if let Some(&slot) = self.members.get(hole) {
            moved(slot, hole);
        }
    }

    /// The next thing to hand out, if there is any.
    pub(crate) fn next_hand(&mut self, listeners: &mut Slots<ListenerId, Listener>) -> Option<Hand> {
        if let Some((from, count)) = self.timeline.history.lost.take() {
            return Some(Hand::Event(Event::FramesLost { track: self.id, from, count }));
        }
        if !self.active && self.walk.arrival < self.timeline.history.next_arrival() {
            self.active = true;
            return Some(Hand::Event(Event::TrackActive { track: self.id }));
        }
        loop {
            let frame = self.frame_to_offer()?;
            self.put_in_order(listeners);
            while let Some(&slot) = self.members.get(self.walk.member) {
                let listener = listeners.at_mut(slot).expect("a closed listener leaves its track");
                match listener.offer(self.walk.arrival, frame.0, frame.1, &self.timeline.history) {
                    Offer::Pass => self.walk.member += 1,
                    Offer::Wake => {
                        self.walk.member += 1;
                        return Some(Hand::Wake(listener.id()));
                    }
                    Offer::Skipped(event) => return Some(Hand::Event(event)),
                    Offer::Take(take) => {
                        self.walk.member += usize::from(!take.again);
                        let (track, position, listener) = (self.id, frame.0, listener.id());
                        return Some(Hand::Packet { track, position, listener, take });
                    }
                }
            }
            self.walk = Walk { arrival: self.walk.arrival + 1, member: 0 };
        }
    }

    /// Hands the frame that the walk is at to members for as long as it just passes through, and `each` goes on; how
    /// many packets that were, and their payload bytes. [`next_hand`](Self::next_hand) goes on from there.
    pub(crate) fn fan_out(
        &mut self,
        listeners: &mut Slots<ListenerId, Listener>,
        mut each: impl FnMut(&OutboundPacket<'_>) -> ControlFlow<()>,
    ) -> (u64, u64) {
        if !self.active || !self.timeline.history.lost.is_empty() {
            return (0, 0);
        }
        let Some((position, _)) = self.frame_to_offer() else { return (0, 0) };
        self.put_in_order(listeners);
        let Some(frame) = self.timeline.history.get(position) else { return (0, 0) };
        let begun = self.walk.member;
        for &slot in &self.members[begun..] {
            let listener = listeners.at_mut(slot).expect("a closed listener leaves its track");
            let Some(packet) = listener.pass(self.walk.arrival, frame) else { break };
            self.walk.member += 1;
            if each(&packet).is_break() {
                break;
            }
        }
        let packets = (self.walk.member - begun) as u64;
        (packets, packets * frame.payload.len() as u64)
    }

    /// Puts the members in the order of their slots before an arrival is offered to the first: memory is then walked from
    /// one end to the other, however listeners came and went.
    fn put_in_order(&mut self, listeners: &mut Slots<ListenerId, Listener>) {
        if !self.moved || self.walk.member > 0 {
            return;
        }
        self.moved = false;
        let feeds = self.feeds as usize;
        if self.members[feeds..].is_sorted() {
            return;
        }
        self.members[feeds..].sort_unstable();
        for (place, &slot) in self.members.iter().enumerate().skip(feeds) {
            listeners.at_mut(slot).expect("a closed listener leaves its track").member = place;
        }
    }

    /// The position of the arrival that the walk is at, having passed over those that nobody can be handed, and its
    /// payload's length.
    fn frame_to_offer(&mut self) -> Option<(u64, usize)> {
        let end = self.timeline.history.next_arrival();
        if self.members.is_empty() {
            self.walk = Walk { arrival: end, member: 0 };
        }
        if self.walk.arrival < self.timeline.history.first_arrival() {
            self.walk = Walk { arrival: self.timeline.history.first_arrival(), member: 0 };
        }
        while self.walk.arrival < end {
            let held = self.timeline.history.arrival(self.walk.arrival);
            if let Some(frame) = held.and_then(|position| self.timeline.history.get(position)) {
                return Some((frame.position, frame.payload.len()));
            }
            // Evicted before it was handed out: each listener finds the gap at its own cursor.
            self.walk = Walk { arrival: self.walk.arrival + 1, member: 0 };
        }
        None
    }

    /// What its listeners may look at.
    pub(crate) fn view(&self, now: Instant, config: &Config) -> View<'_> {
        View {
            now,
            history: &self.timeline.history,
            next_position: self.timeline.next_position(),
            newest: self.timeline.newest().map(|newest| (newest.media_time, newest.arrived)),
            pacing: config.pacing,
            patience: config.hole_patience,
        }
    }

    /// The frame at a position that was just handed out.
    pub(crate) fn frame(&self, position: u64) -> Option<Frame<'_>> {
        self.timeline.history.get(position)
    }

    /// The newest frame's times.
    pub(crate) const fn newest(&self) -> Option<Newest> {
        self.timeline.newest()
    }

    /// When the last frame arrived.
    pub(crate) const fn last_arrival(&self) -> Option<Instant> {
        self.timeline.last_stored()
    }

    /// No frame has come for the silence limit.
    pub(crate) const fn fall_silent(&mut self) {
        self.active = false;
    }

    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }
}
