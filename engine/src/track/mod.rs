//! A track: its publisher's leg, its timeline, its history, and the walk that hands frames to its listeners.
//!
//! What a listener must be sent is derived, not queued: the walk goes over the arrivals not yet handed out and, for
//! each, over the members. A listener's own cursor says whether it takes an arrival, so opening, closing or bringing up
//! a listener in the middle of a drain neither skips nor repeats anyone.

mod limit;
mod publisher;
mod reception;
mod timeline;

use std::time::Instant;

pub(crate) use self::publisher::{PublisherLeg, Wire};
use self::timeline::{Newest, Timeline};
use crate::config::{Config, HistoryLimits};
use crate::history::History;
use crate::id::{Id, LegId, ListenerId, Slots, TrackId};
use crate::io::{CarriedFrame, Event, Frame, Verdict};
use crate::listener::{Listener, Offer, Take, View};
use crate::rtp::opus::Toc;
use crate::rtp::{ExtensionIds, Packet};
use crate::stats::TrackStats;

/// One audio channel: one timeline, whoever feeds it.
#[derive(Debug)]
pub(crate) struct Track {
    id: TrackId,
    name: String,
    pub(crate) publisher: Option<LegId>,
    timeline: Timeline,
    history: History,
    /// Slots of the listeners, dense, in no particular order.
    members: Vec<u32>,
    walk: Walk,
    /// The track is in the relay's queue of tracks with something to hand out.
    pub(crate) queued: bool,
    active: bool,
    last_arrival: Option<Instant>,
    frames: u64,
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

/// A packet that the track took in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) starts_source: bool,
}

impl Track {
    pub(crate) fn new(id: TrackId, name: String, limits: HistoryLimits) -> Self {
        Self {
            id,
            name,
            publisher: None,
            timeline: Timeline::default(),
            history: History::new(limits),
            members: Vec::new(),
            walk: Walk::default(),
            queued: false,
            active: false,
            last_arrival: None,
            frames: 0,
        }
    }

    /// Places and stores a packet of the publisher.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        ids: &ExtensionIds,
        packet: Packet,
    ) -> Result<Taken, Verdict> {
        let Packet { header, payload } = packet;
        let wire = timeline::Wire {
            ssrc: header.ssrc,
            sequence: header.sequence,
            timestamp: header.timestamp,
            duration: Toc::parse(&payload).map_or(0, Toc::duration),
        };
        let placed = self.timeline.place(now, wire, &self.history)?;
        self.history.push(Frame {
            position: placed.position,
            media_time: placed.media_time,
            arrived: now,
            marker: header.marker,
            capture_time: ids.capture_time.and_then(|id| header.extensions.capture_time(id)),
            audio_level: ids.audio_level.and_then(|id| header.extensions.audio_level(id)),
            payload: &payload,
        });
        self.last_arrival = Some(now);
        self.frames += 1;
        Ok(Taken { starts_source: placed.starts_source })
    }

    /// Stores a frame at the position that it carries.
    pub(crate) fn take_carried(&mut self, now: Instant, frame: CarriedFrame) -> Result<(), Verdict> {
        self.timeline.place_carried(now, &frame, &self.history)?;
        let CarriedFrame { position, media_time, marker, capture_time, audio_level, payload } = frame;
        let arrived = now;
        self.history.push(Frame {
            position,
            media_time,
            arrived,
            marker,
            capture_time,
            audio_level,
            payload: &payload,
        });
        self.last_arrival = Some(now);
        self.frames += 1;
        Ok(())
    }

    /// The publisher's leg is gone; listeners stay, positions go on with the next one.
    pub(crate) fn detach_publisher(&mut self) {
        self.publisher = None;
        self.timeline.detach();
    }

    /// The publisher's leg was down: what it sends from now on begins a source.
    pub(crate) fn restart_source(&mut self) {
        self.timeline.restart();
    }

    /// Adds a listener and returns its place among the members.
    pub(crate) fn join(&mut self, listener: ListenerId) -> usize {
        self.members.push(listener.parts().0);
        self.members.len() - 1
    }

    /// Removes the member at `place`. Whoever moves into another place is told so by `moved(slot, place)`.
    ///
    /// Members before the walk's place have been offered the current arrival, and only they, before and after.
    pub(crate) fn leave(&mut self, place: usize, mut moved: impl FnMut(u32, usize)) {
        let mut hole = place;
        if hole < self.walk.member {
            // The last of those already offered moves into the hole, and the hole to the border.
            self.walk.member -= 1;
            self.members.swap(hole, self.walk.member);
            hole = self.walk.member;
            if place != hole {
                moved(self.members[place], place);
            }
        }
        self.members.swap_remove(hole);
        if let Some(&slot) = self.members.get(hole) {
            moved(slot, hole);
        }
    }

    /// The next thing to hand out, if there is any.
    pub(crate) fn next_hand(&mut self, listeners: &mut Slots<ListenerId, Listener>) -> Option<Hand> {
        if !self.active && self.walk.arrival < self.history.next_arrival() {
            self.active = true;
            return Some(Hand::Event(Event::TrackActive { track: self.id }));
        }
        loop {
            let frame = self.frame_to_offer()?;
            while let Some(&slot) = self.members.get(self.walk.member) {
                let listener = listeners.at_mut(slot).expect("a closed listener leaves its track");
                match listener.offer(self.walk.arrival, frame.0, frame.1, &self.history) {
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

    /// The position of the arrival that the walk is at, having passed over those that nobody can be handed, and its
    /// payload's length.
    fn frame_to_offer(&mut self) -> Option<(u64, usize)> {
        let end = self.history.next_arrival();
        if self.members.is_empty() {
            self.walk = Walk { arrival: end, member: 0 };
        }
        if self.walk.arrival < self.history.first_arrival() {
            self.walk = Walk { arrival: self.history.first_arrival(), member: 0 };
        }
        while self.walk.arrival < end {
            let held = self.history.arrival(self.walk.arrival);
            if let Some(frame) = held.and_then(|position| self.history.get(position)) {
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
            history: &self.history,
            next_position: self.timeline.next_position(),
            newest: self.timeline.newest().map(|newest| (newest.media_time, newest.arrived)),
            pacing: config.pacing,
            patience: config.hole_patience,
        }
    }

    /// The frame at a position that was just handed out.
    pub(crate) fn frame(&self, position: u64) -> Option<Frame<'_>> {
        self.history.get(position)
    }

    /// The newest frame's times.
    pub(crate) const fn newest(&self) -> Option<Newest> {
        self.timeline.newest()
    }

    /// When the last frame arrived.
    pub(crate) const fn last_arrival(&self) -> Option<Instant> {
        self.last_arrival
    }

    /// No frame has come for the silence limit.
    pub(crate) const fn fall_silent(&mut self) {
        self.active = false;
    }

    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }

    pub(crate) fn stats(&self, now: Instant) -> TrackStats {
        TrackStats {
            name: self.name.clone(),
            publisher: self.publisher,
            second_publisher: None,
            listeners: self.members.len(),
            active: self.active,
            frames: self.frames,
            next_position: self.timeline.next_position(),
            next_media_time: self.timeline.media_time_now(now),
            contiguous: self.timeline.next_position().checked_sub(1),
            frames_lost: 0,
            held: 0,
            oldest_position: self.history.oldest(),
            history_frames: self.history.frames(),
            history_payload_bytes: self.history.payload_bytes(),
            sources: self.timeline.sources(),
            timestamp_resets: self.timeline.resets(),
        }
    }
}
