//! The model of a listener's leg: which frames it is owed, and what its numbers must be.

use std::collections::VecDeque;
use std::time::Duration;

use relay_engine::rtp::rtcp;
use relay_engine::{LegId, LegState, ListenerId, TrackId};

use super::track::{Taken, Track, ticks_in};
use super::{Check, broken, ensure};
use crate::coverage::{Coverage, Incident};
use crate::seen::{Fields, SeenPacket};
use crate::stream::identify;

/// What was agreed when the leg was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegTerms {
    /// RTP payload type.
    pub payload_type: u8,
    /// The SSRC, if it was given.
    pub ssrc: Option<u32>,
    /// Sender reports are wanted.
    pub reports: bool,
    /// Id of the audio level.
    pub level_id: Option<u8>,
    /// Id of the capture time.
    pub capture_id: Option<u8>,
    /// Id and tag of the mid.
    pub mid: Option<(u8, &'static str)>,
}

/// One listener's leg.
#[derive(Debug)]
pub(crate) struct ListenerLeg {
    pub(crate) listener: ListenerId,
    pub(crate) track: TrackId,
    terms: LegTerms,
    state: LegState,
    /// The position that was next when it first came up.
    joined: Option<u64>,
    /// Arrival numbers.
    owed: VecDeque<usize>,
    /// Frames that arrived since it first came up and will never be handed out; not yet announced.
    missed: u64,
    /// Frames that it may count as missed: from before the leg's first one, and offered to it or not in a drain that
    /// did not go to its end.
    unsure: u64,
    origin: Option<Origin>,
    /// Its numbers made a step: late frames from before that cannot be handed out, and the relay says so.
    stepped: bool,
    next_position: u64,
    handed: std::collections::BTreeSet<u64>,
    packets: u32,
    octets: u32,
}

/// The first packet: every later one is affine to it.
#[derive(Clone, Copy, Debug)]
struct Origin {
    ssrc: u32,
    position: u64,
    index: u64,
    media_time: u64,
    timestamp: u32,
}

impl ListenerLeg {
    pub(crate) const fn new(listener: ListenerId, track: TrackId, terms: LegTerms) -> Self {
        Self {
            listener,
            track,
            terms,
            state: LegState::Connecting,
            joined: None,
            owed: VecDeque::new(),
            missed: 0,
            unsure: 0,
            origin: None,
            stepped: false,
            next_position: 0,
            handed: std::collections::BTreeSet::new(),
            packets: 0,
            octets: 0,
        }
    }

    pub(crate) const fn state(&self) -> LegState {
        self.state
    }

    pub(crate) fn changed(&mut self, state: LegState, track: &Track) {
        if state == LegState::Up {
            self.joined.get_or_insert_with(|| track.next_position());
        } else {
            while let Some(due) = self.owed.pop_front() {
                self.miss(due, track);
            }
        }
        self.state = state;
    }

    /// A frame arrived.
    pub(crate) fn owe(&mut self, arrival: usize, track: &Track) {
        match self.state {
            LegState::Up => self.owed.push_back(arrival),
            _ if self.joined.is_some() => self.miss(arrival, track),
            _ => {}
        }
    }

    /// A packet came for this leg.
    pub(crate) fn packet(&mut self, packet: &SeenPacket, track: &Track, coverage: &mut Coverage) -> Check {
        let addressed = self.state == LegState::Up && packet.listener == self.listener;
        ensure(addressed, "I6", || format!("not up, or another listener's: {packet:?}; {self:?}"))?;
        if packet.replay {
            return self.again(packet, track);
        }
        let due = self.next_due(packet, track)?;
        ensure(self.missed == 0, "L5", || format!("frames were skipped and nobody was told: {self:?}"))?;
        let frame = track.frame(due);
        let fresh = self.handed.insert(frame.position);
        ensure(fresh && !packet.replay, "I1", || format!("position {} for the second time", frame.position))?;
        self.check_frame(packet, frame)?;
        let early = self.origin.is_none() && self.joined == Some(0);
        coverage.count_if(early, Incident::EarlyListener);
        self.check_numbers(packet, frame, coverage)?;
        self.unsure = 0;
        self.next_position = self.next_position.max(frame.position + 1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(frame.sent.payload.len() as u32);
        Ok(())
    }

    /// A packet that was asked for again: the same as before.
    fn again(&mut self, packet: &SeenPacket, track: &Track) -> Check {
        let frame = track.at(packet.position);
        let frame = frame.ok_or_else(|| broken("I1", format!("{packet:?} again, and not held")))?;
        self.check_frame(packet, frame)?;
        let fields = Fields::read(&packet.wire).expect("it was just read");
        let origin = self.origin.ok_or_else(|| broken("I1", format!("{packet:?} before the first")))?;
        let index = (origin.index + frame.position).checked_sub(origin.position);
        ensure(Some(packet.index) == index && fields.ssrc == origin.ssrc, "affine seq", || {
            format!("{packet:?}: {origin:?}")
        })?;
        ensure(fields.sequence == packet.index as u16, "affine seq", || format!("{packet:?}: {fields:?}"))?;
        ensure(fields.timestamp == origin.at(frame.media_time), "affine timestamp", || {
            format!("{fields:?}")
        })?;
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(frame.sent.payload.len() as u32);
        Ok(())
    }

    /// The relay tells of frames that this leg missed.
    pub(crate) fn skipped(&mut self, from: u64, count: u64, track: &Track) -> Check {
        self.pass_skipped(count, track);
        let expected = if self.origin.is_some() { Some(self.next_position) } else { self.joined };
        let missed = self.missed..=self.missed + self.unsure;
        ensure(count > 0 && Some(from) >= self.joined && missed.contains(&count), "L5", || {
            format!("told of {count} from {from}, missed were {missed:?} from {expected:?}; {self:?}")
        })?;
        (self.missed, self.unsure) = (0, 0);
        Ok(())
    }

    /// After a drain nothing may be owed.
    pub(crate) fn settle(&mut self, id: LegId, track: &Track) -> Check {
        self.pass_over(track);
        match self.owed.front() {
            None => Ok(()),
            Some(due) => {
                let frame = &track.frame(*due).sent.id;
                Err(broken("I1", format!("{id} was up and was never handed {frame:?}: {self:?}")))
            }
        }
    }

    pub(crate) fn report(
        &self,
        id: LegId,
        report: &rtcp::SenderReport,
        track: &Track,
        now: Duration,
    ) -> Check {
        ensure(self.state == LegState::Up && self.terms.reports, "I6", || {
            format!("{report:?} on {id}: {self:?}")
        })?;
        let origin =
            self.origin.ok_or_else(|| broken("reports", format!("{id} was sent nothing: {report:?}")))?;
        let counts = (report.ssrc, report.packet_count, report.octet_count);
        ensure(counts == (origin.ssrc, self.packets, self.octets), "reports", || {
            format!("{report:?}: {self:?}")
        })?;
        let newest = track.newest().expect("it was sent a frame");
        let media_now = newest.media_time + ticks_in(now.saturating_sub(newest.arrived));
        let timestamp = origin.at(media_now);
        let difference = report.rtp_timestamp.wrapping_sub(timestamp).cast_signed();
        ensure(difference.abs() <= 1, "reports", || {
            format!("{report:?}: its timestamp should be {timestamp}")
        })
    }

    /// Takes the next owed frame, passing over what the leg could not be handed.
    fn next_due(&mut self, packet: &SeenPacket, track: &Track) -> Check<usize> {
        let is_it = |due: &usize| track.frame(*due).position == packet.position;
        while let Some(due) = self.owed.front().copied() {
            if is_it(&due) {
                self.owed.pop_front();
                return Ok(due);
            }
            if !self.pass_one(due, track) {
                break;
            }
        }
        // Before its first, a leg may be handed what comes late, as far as its numbers reach back.
        let late = track.arrival_at(packet.position).filter(|late| self.is_before_first(*late, track));
        if let Some(late) = late {
            self.owed.retain(|due| *due != late);
            return Ok(late);
        }
        let rule = if self.owed.iter().any(is_it) { "I1 order" } else { "I1" };
        Err(broken(rule, format!("{packet:?} is not what is due: {self:?}")))
    }

    /// Drops what an announcement of `count` can mean: up to as many, and all that was evicted with them.
    fn pass_skipped(&mut self, count: u64, track: &Track) {
        while let Some(due) = self.owed.front().copied() {
            let enough = self.missed + self.unsure >= count;
            if (enough && track.is_held(due)) || !self.pass_one(due, track) {
                return;
            }
        }
    }

    /// Drops owed frames from the front that the leg cannot be handed.
    fn pass_over(&mut self, track: &Track) {
        while let Some(due) = self.owed.front().copied() {
            if !self.pass_one(due, track) {
                return;
            }
        }
    }

    /// Whether the frame may be passed over: it was evicted before a drain, or is from before the leg's first.
    fn pass_one(&mut self, due: usize, track: &Track) -> bool {
        let evicted = !track.is_held(due);
        let passed = evicted || self.is_before_first(due, track);
        if passed {
            self.owed.pop_front();
        }
        if evicted {
            self.miss(due, track);
        } else if passed && self.stepped {
            self.unsure += 1;
        }
        passed
    }

    fn miss(&mut self, due: usize, track: &Track) {
        match self.is_before_first(due, track) {
            true => self.unsure += 1,
            false => self.missed += 1,
        }
    }

    fn is_before_first(&self, arrival: usize, track: &Track) -> bool {
        // A late one from before the live edge at which the leg came up is not owed either.
        let begins = self.origin.map(|origin| origin.position).or(self.joined);
        begins.is_some_and(|begins| track.frame(arrival).position < begins)
    }

    fn check_frame(&self, packet: &SeenPacket, frame: &Taken) -> Check {
        let fields = Fields::read(&packet.wire);
        let fields = fields.ok_or_else(|| broken("wire", format!("not an RTP packet: {:?}", packet.wire)))?;
        ensure(fields.payload == frame.sent.payload, "payload", || {
            format!("{:?} came out as {:?}", frame.sent.id, identify(fields.payload))
        })?;
        let said = (packet.media_time, packet.arrived, fields.marker, fields.payload_type);
        let model = (frame.media_time, frame.arrived, frame.sent.marker, self.terms.payload_type);
        ensure(said == model, "frame", || {
            format!("{:?}: media time, arrival, marker, payload type {said:?}, not {model:?}", frame.sent.id)
        })?;
        let level = self.terms.level_id.zip(frame.sent.level).map(|(id, level)| (id, [to_byte(level)]));
        let capture =
            self.terms.capture_id.zip(frame.sent.capture).map(|(id, time)| (id, time.to_be_bytes()));
        let expected = [
            level.as_ref().map(|(id, byte)| (*id, &byte[..])),
            capture.as_ref().map(|(id, bytes)| (*id, &bytes[..])),
            self.terms.mid.map(|(id, mid)| (id, mid.as_bytes())),
        ];
        for (id, value) in expected.into_iter().flatten() {
            ensure(fields.extension(id) == Some(value), "extensions", || format!("{id}: {fields:?}"))?;
        }
        let any = expected.iter().any(Option::is_some);
        ensure(any != fields.extensions.is_empty(), "extensions", || format!("{fields:?}"))
    }

    fn check_numbers(&mut self, packet: &SeenPacket, frame: &Taken, coverage: &mut Coverage) -> Check {
        let fields = Fields::read(&packet.wire).expect("it was just read");
        let origin = match self.origin {
            Some(origin) => self.go_on(origin, frame.position, coverage),
            None => Origin {
                ssrc: self.terms.ssrc.unwrap_or(fields.ssrc),
                position: frame.position,
                index: packet.index,
                media_time: frame.media_time,
                timestamp: fields.timestamp,
            },
        };
        let before = self.origin.replace(origin);
        let first = before.is_none();
        self.stepped |= before.is_some_and(|before| before.position != origin.position);
        ensure(!first || origin.index < 1 << 15, "first seq < 2^15", || format!("{packet:?}"))?;
        ensure(fields.ssrc == origin.ssrc, "one SSRC", || format!("{:?}: {origin:?}", fields.ssrc))?;
        let index = (origin.index + frame.position).checked_sub(origin.position);
        ensure(Some(packet.index) == index, "affine seq", || format!("{packet:?}: {origin:?}"))?;
        ensure(fields.sequence == packet.index as u16, "affine seq", || format!("{packet:?}: {fields:?}"))?;
        let timestamp = origin.at(frame.media_time);
        ensure(fields.timestamp == timestamp, "affine timestamp", || format!("{fields:?}, not {timestamp}"))
    }

    /// What a frame's numbers are affine to, after the leg's first: a far end cannot follow a step of 2^15 positions,
    /// which counts as two and is a new start.
    fn go_on(&self, origin: Origin, position: u64, coverage: &mut Coverage) -> Origin {
        let Some(ahead) = position.checked_sub(self.next_position) else { return origin };
        let last = origin.index + (self.next_position - 1 - origin.position);
        if ahead + 1 >= 1 << 15 {
            coverage.count(Incident::LegStep);
            return Origin { position, index: last + 2, ..origin };
        }
        coverage.count_if((last + 1 + ahead) >> 16 > last >> 16, Incident::LegWrap);
        origin
    }
}

impl Origin {
    const fn at(&self, media_time: u64) -> u32 {
        self.timestamp.wrapping_add(media_time.wrapping_sub(self.media_time) as u32)
    }
}

fn to_byte((voice, level): (bool, u8)) -> u8 {
    u8::from(voice) << 7 | level
}
