//! The speaker's half of a world: encoders, legs and their paths, drops, and what is sent again.

use std::time::Duration;

use relay_engine::rtp::rtcp;
use relay_engine::{ExtensionIds, Feedback, LegId, LegSpec, LegState, OpenError, Peer, SwitchError};

use super::Count;
use super::frames::{Encoder, FrameId, Numbering, Said, ntp};
use super::script::{Clock, Kind, Slot, Speak, TrackPlan};
use super::truth::Standing;
use super::world::{Happening, PAYLOAD_TYPE, World};
use crate::link::{Link, LinkSpec};
use crate::oracle::{Check, broken, ensure};
use crate::stream::CAPTURE_ID;

/// The NTP time at which every speaker's clock starts: 1 January 2024, and some.
const CLOCK: u64 = 3_913_056_123 << 32;
/// How often a speaker reports its clocks.
const REPORT_FRAMES: u32 = 16;
/// Sends again so many times as fast as it speaks.
const RESEND_RATE: u32 = 4;

/// A speaker of a track.
#[derive(Debug)]
pub(super) struct Speaker {
    plan: TrackPlan,
    encoders: Vec<Voice>,
    legs: Vec<SpeakerLeg>,
    /// Legs that were closed, and how.
    gone: Vec<(LegId, Standing)>,
    epoch: u64,
    /// The leg that the relay was told to move to, and since when it could.
    target: Option<(LegId, Duration)>,
    pub(super) stopped: bool,
}

/// An encoder, and what its frames count from.
#[derive(Debug)]
struct Voice {
    encoder: Encoder,
    began: Duration,
    /// Frames of silence to come.
    rests: u32,
    ticks: Vec<u64>,
    numbering: Numbering,
    /// Position and media time of its first frame, if they are carried.
    base: (u64, u64),
}

/// A leg of a speaker.
#[derive(Debug)]
struct SpeakerLeg {
    id: LegId,
    voice: usize,
    numbering: Numbering,
    link: Link,
    epoch: u64,
    state: LegState,
    black_until: Duration,
    spent: Option<u64>,
    /// The next number to send again.
    again: Option<u32>,
    /// The first number that it sent when it was said.
    live_from: u32,
}

impl Speaker {
    pub(super) fn new(plan: TrackPlan) -> Self {
        let (encoders, legs, gone) = (Vec::new(), Vec::new(), Vec::new());
        Self { plan, encoders, legs, gone, epoch: 0, target: None, stopped: false }
    }

    pub(super) fn has(&self, leg: LegId) -> bool {
        self.legs.iter().any(|known| known.id == leg)
    }

    /// How a packet that comes on a leg must be met; `None` if more than one way is right.
    pub(super) fn standing(&self, leg: LegId) -> Option<Standing> {
        let Some(leg) = self.legs.iter().find(|known| known.id == leg) else {
            return self.gone.iter().find(|(known, _)| *known == leg).map(|(_, standing)| *standing);
        };
        match (leg.epoch < self.epoch, leg.state == LegState::Down) {
            (true, true) => None,
            (true, false) => Some(Standing::Fenced),
            (false, true) => Some(Standing::Down),
            (false, false) if leg.spent.is_some() => None,
            (false, false) => Some(Standing::Good),
        }
    }

    pub(super) fn ticks_of(&self, id: FrameId) -> u64 {
        let voice = self.encoders.get(usize::from(id.encoder));
        voice.and_then(|voice| voice.ticks.get(id.number as usize)).copied().unwrap_or(0)
    }

    /// When a frame was said.
    pub(super) fn said_at(&self, id: FrameId) -> Duration {
        let voice = self.encoders.get(usize::from(id.encoder));
        let began = voice.map_or(Duration::ZERO, |voice| voice.began);
        began + crate::stream::ticks(self.ticks_of(id))
    }

    pub(super) fn close_spent(&mut self, leg: LegId) {
        let cut = self.legs.iter().find(|known| known.id == leg).and_then(|leg| leg.spent);
        self.forget(leg, cut.map_or(Standing::Closed, Standing::Spent));
    }

    /// The world is over: a switch that could be done was done.
    pub(super) fn end(&self, now: Duration) -> Check {
        let Some((target, since)) = self.target else { return Ok(()) };
        let legs = self.legs.iter().filter(|leg| leg.epoch == self.epoch);
        let could = legs.clone().count() == 2
            && legs.clone().any(|leg| leg.id == target && leg.state == LegState::Up);
        ensure(!could, "LegSpent", || {
            format!("{target} was switched to at {since:?}, not done at {now:?}: {self:?}")
        })
    }

    fn forget(&mut self, leg: LegId, standing: Standing) {
        self.legs.retain(|known| known.id != leg);
        self.gone.push((leg, standing));
        if self.target.is_some_and(|(target, _)| target == leg) || self.alive().count() < 2 {
            self.target = None;
        }
    }

    /// Legs of the epoch.
    fn alive(&self) -> impl Iterator<Item = &SpeakerLeg> {
        self.legs.iter().filter(|leg| leg.epoch == self.epoch)
    }

    fn slot(&self, slot: Slot) -> Option<LegId> {
        let mut alive = self.alive();
        match slot {
            Slot::Old => alive.next().map(|leg| leg.id),
            Slot::New => alive.nth(1).map(|leg| leg.id),
        }
    }

    fn leg(&mut self, id: LegId) -> Option<&mut SpeakerLeg> {
        self.legs.iter_mut().find(|leg| leg.id == id)
    }

    /// Whether a leg but this one brings frames.
    fn another_is_good(&self, id: LegId) -> bool {
        self.alive().any(|leg| leg.id != id && leg.state == LegState::Up)
    }
}

impl World<'_> {
    pub(super) fn speak(&mut self, track: usize, what: &Speak) -> Check {
        let slot = |world: &Self, slot| world.speakers[track].slot(slot);
        match what {
            Speak::Open(link, takeover) => self.open_leg(track, link, *takeover)?,
            Speak::Up(of) => {
                if let Some(leg) = slot(self, *of) {
                    self.leg_up(track, leg);
                }
            }
            Speak::Down(of) => {
                if let Some(leg) = slot(self, *of) {
                    self.truths[track].roughened(self.clock);
                    self.truths[track].leg_lost(leg);
                    self.speaker_state(track, leg, LegState::Down);
                }
            }
            Speak::Black(of, dark) => {
                let until = self.clock + *dark;
                if let Some(leg) = slot(self, *of) {
                    self.truths[track].roughened_until(until);
                    self.speakers[track].leg(leg).into_iter().for_each(|leg| leg.black_until = until);
                }
            }
            Speak::Close(of) => {
                if let Some(leg) = slot(self, *of) {
                    self.truths[track].roughened(self.clock);
                    self.truths[track].leg_lost(leg);
                    self.speakers[track].forget(leg, Standing::Closed);
                    let now = self.now();
                    self.relay.close(now, Peer::Leg(leg));
                }
            }
            Speak::Resend(of, before) => {
                let newest = slot(self, *of);
                if let Some(leg) = newest {
                    self.resend(track, leg, *before);
                }
            }
            Speak::Switch => self.switch_speaker(track)?,
            Speak::Rest(frames) => {
                let voices = &mut self.speakers[track].encoders;
                voices.iter_mut().for_each(|voice| voice.rests += *frames);
                let rests = voices.iter().map(|voice| voice.encoder.frame() * (voice.rests + 1)).max();
                self.truths[track].roughened_until(self.clock + rests.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn open_leg(&mut self, track: usize, link: &LinkSpec, takeover: bool) -> Check {
        let takeover = takeover && !self.speakers[track].encoders.is_empty();
        let epoch = self.speakers[track].epoch + u64::from(takeover);
        let ids = ExtensionIds { capture_time: Some(CAPTURE_ID), ..ExtensionIds::default() };
        let spec = LegSpec::new(PAYLOAD_TYPE).extensions(ids).epoch(epoch).reports(false);
        let (now, id) = (self.now(), self.tracks[track]);
        if self.speakers[track].epoch > 0 {
            let stale = self.relay.open_publisher_leg(now, id, spec.epoch(0));
            let fenced = matches!(stale, Err(OpenError::Fenced { .. }));
            ensure(fenced, "I8", || format!("a leg of an epoch that is over: {stale:?}"))?;
        }
        let opened = self.relay.open_publisher_leg(now, id, spec);
        let full = !takeover && self.speakers[track].alive().count() >= 2;
        ensure(opened.is_ok() != full, "I3", || format!("two legs: {full}, and {opened:?}"))?;
        let Ok(leg) = opened else { return Ok(()) };
        if takeover {
            self.report.count(Count::Takeover);
            self.truths[track].begins_anew(self.clock);
            self.speakers[track].epoch = epoch;
            self.speakers[track].target = None;
        }
        let voice = self.voice_of(track, takeover);
        let numbering = self.numbering_of(track, voice);
        let link = Link::new(link, self.random.u64(..));
        let live_from = self.speakers[track].encoders[voice].encoder.next();
        self.speakers[track].legs.push(SpeakerLeg {
            id: leg,
            voice,
            numbering,
            link,
            epoch,
            state: LegState::Connecting,
            black_until: Duration::ZERO,
            spent: None,
            again: None,
            live_from,
        });
        Ok(())
    }

    /// The encoder of a new leg: the one there is, unless it must have its own.
    fn voice_of(&mut self, track: usize, takeover: bool) -> usize {
        let plan = self.speakers[track].plan;
        let count = self.speakers[track].encoders.len();
        if count > 0 && !takeover && plan.kind != Kind::Separate {
            return count - 1;
        }
        // What another owner's legs held has just gone before it.
        let stats = self.relay.track_stats(self.tracks[track]);
        let base = stats.map_or((0, 0), |stats| match stats.next_position {
            0 => (0, 0),
            next => (next, stats.next_media_time.ticks() + 2_880),
        });
        let capture = (plan.clock == Clock::Capture && plan.kind != Kind::Carried).then_some(CLOCK);
        let numbering = self.random_numbering(capture);
        let encoder = Encoder::new(track as u8, count as u16, plan.frame_ticks);
        let began = self.clock;
        self.speakers[track].encoders.push(Voice {
            encoder,
            began,
            rests: 0,
            ticks: Vec::new(),
            numbering,
            base,
        });
        self.schedule(began, Happening::Say(track, count));
        count
    }

    /// Numbers that often wrap soon.
    fn random_numbering(&mut self, capture: Option<u64>) -> Numbering {
        let near = |random: &mut fastrand::Rng| match random.bool() {
            true => random.u64(..),
            false => u64::MAX - random.u64(0..120_000),
        };
        Numbering {
            payload_type: PAYLOAD_TYPE,
            ssrc: self.random.u32(..),
            sequence: (near(&mut self.random) >> 3) as u16,
            timestamp: near(&mut self.random) as u32,
            capture,
        }
    }

    fn numbering_of(&mut self, track: usize, voice: usize) -> Numbering {
        let numbering = self.speakers[track].encoders[voice].numbering;
        match self.speakers[track].plan.kind {
            Kind::SameSource | Kind::Carried => numbering,
            Kind::Twin | Kind::Separate => self.random_numbering(numbering.capture),
        }
    }

    fn leg_up(&mut self, track: usize, leg: LegId) {
        let speaker = &mut self.speakers[track];
        let anew = !speaker.another_is_good(leg);
        let Some(found) = speaker.leg(leg) else { return };
        if found.state == LegState::Up {
            return;
        }
        let voice = found.voice;
        let next = speaker.encoders[voice].encoder.next();
        if let Some(found) = speaker.leg(leg) {
            found.live_from = next;
        }
        if anew {
            self.truths[track].begins_anew(self.clock);
        }
        self.speaker_state(track, leg, LegState::Up);
    }

    fn speaker_state(&mut self, track: usize, leg: LegId, state: LegState) {
        self.speakers[track].leg(leg).into_iter().for_each(|leg| {
            leg.state = state;
            leg.again = None;
        });
        let now = self.now();
        self.relay.handle_leg(now, leg, state);
    }

    fn switch_speaker(&mut self, track: usize) -> Check {
        self.report.count(Count::SpeakerSwitch);
        let speaker = &self.speakers[track];
        let Some(to) = speaker.slot(Slot::New).or_else(|| speaker.slot(Slot::Old)) else { return Ok(()) };
        // Only a call tells the relay the time.
        let now = self.now();
        let speaker = &self.speakers[track];
        let expected = match speaker.alive().find(|leg| leg.id == to) {
            _ if speaker.alive().count() < 2 => Err(SwitchError::OnlyLeg(to)),
            Some(leg) if leg.state != LegState::Up => Err(SwitchError::NotUp(to)),
            _ => Ok(()),
        };
        let spent = speaker.alive().any(|leg| leg.spent.is_some());
        let result = self.relay.switch(now, to);
        ensure(spent || result == expected, "switch", || {
            format!("{result:?}, not {expected:?}: {speaker:?}")
        })?;
        if result.is_ok() && !spent {
            self.speakers[track].target = Some((to, self.clock));
        }
        Ok(())
    }

    /// The relay says that a leg of a speaker is spent.
    pub(super) fn speaker_spent(&mut self, track: usize, (leg, to): (LegId, LegId), cut: u64) -> Check {
        let speaker = &mut self.speakers[track];
        let ordered = speaker.target.is_some_and(|(target, _)| target == to);
        ensure(ordered && speaker.has(to), "LegSpent", || format!("{leg} is spent for {to}: {speaker:?}"))?;
        let found =
            speaker.leg(leg).ok_or_else(|| broken("LegSpent", format!("{leg} is not a speaker's")))?;
        ensure(found.spent.is_none(), "LegSpent", || format!("{leg} is spent for the second time"))?;
        found.spent = Some(cut);
        speaker.target = None;
        let linger = Duration::from_micros(self.random.u64(0..80_000));
        self.schedule(self.clock + linger, Happening::CloseSpent(leg));
        Ok(())
    }

    /// A leg sends again what the relay has not acknowledged.
    fn resend(&mut self, track: usize, leg: LegId, before: u32) {
        let stats = self.relay.track_stats(self.tracks[track]);
        let contiguous = stats.and_then(|stats| stats.contiguous);
        let speaker = &mut self.speakers[track];
        let Some(found) = speaker.leg(leg) else { return };
        let voice = found.voice;
        if found.state != LegState::Up || speaker.plan.kind == Kind::Separate {
            return;
        }
        let encoder = &speaker.encoders[voice].encoder;
        let acked = contiguous.and_then(|position| self.truths[track].number_at(position, encoder.index()));
        let from = acked.map_or(0, |acked| acked.saturating_sub(before));
        let anchored = encoder.kept(from).map(|said| said.id);
        let found = speaker.leg(leg).expect("it was just found");
        found.again = Some(from);
        self.report.count(Count::Resent);
        if let Some(from) = anchored {
            self.truths[track].resumes(from, acked.is_some() && before >= 5);
        }
        self.schedule(self.clock, Happening::Again(track, leg));
    }

    pub(super) fn again(&mut self, track: usize, leg: LegId) {
        let now = self.clock;
        let speaker = &mut self.speakers[track];
        let Some(found) = speaker.leg(leg).filter(|leg| leg.state == LegState::Up) else { return };
        let (voice, live_from) = (found.voice, found.live_from);
        let Some(mut number) = found.again else { return };
        let voice = &speaker.encoders[voice];
        while voice.encoder.kept(number).is_none() && number < live_from {
            number += 1;
        }
        let pause = voice.encoder.frame() / RESEND_RATE;
        let said = voice.encoder.kept(number).filter(|_| number < live_from).cloned();
        let found = speaker.leg(leg).expect("it was just found");
        found.again = said.as_ref().map(|_| number + 1);
        let Some(said) = said else { return };
        self.carry(track, leg, &said);
        self.schedule(now + pause, Happening::Again(track, leg));
    }

    /// An encoder has its next frame: every leg of it that is up sends it.
    pub(super) fn say(&mut self, track: usize, voice: usize) {
        let now = self.clock;
        let speaker = &mut self.speakers[track];
        let wanted = voice + 1 == speaker.encoders.len() || speaker.legs.iter().any(|leg| leg.voice == voice);
        if speaker.stopped || !wanted {
            return;
        }
        let rests = speaker.plan.rest > 0.0 && self.random.f64() < speaker.plan.rest;
        let of = &mut speaker.encoders[voice];
        if of.rests > 0 {
            let over = now + of.encoder.rest(std::mem::take(&mut of.rests));
            return self.schedule(over, Happening::Say(track, voice));
        }
        let said = of.encoder.say(now).clone();
        of.ticks.push(said.ticks);
        let mut next = now + of.encoder.frame();
        if rests {
            next += of.encoder.rest(self.random.u32(1..30));
        }
        let legs = speaker.legs.iter().filter(|leg| leg.voice == voice && leg.state == LegState::Up);
        let legs: Vec<LegId> = legs.map(|leg| leg.id).collect();
        for leg in legs {
            self.carry(track, leg, &said);
        }
        self.schedule(next, Happening::Say(track, voice));
    }

    /// A frame enters a leg's path.
    fn carry(&mut self, track: usize, leg: LegId, said: &Said) {
        let (now, calm) = (self.clock, self.is_calm);
        let speaker = &mut self.speakers[track];
        let (kind, clock) = (speaker.plan.kind, speaker.plan.clock);
        let Some(found) = speaker.leg(leg) else { return };
        let mut arrivals = found.link.carry(now, 60);
        if now < found.black_until && !calm {
            return;
        }
        if calm && arrivals.is_empty() {
            arrivals.push(now + Duration::from_millis(20));
        }
        let (numbering, voice) = (found.numbering, found.voice);
        let voice = &speaker.encoders[voice];
        let (first, media) = voice.base;
        let position = first + u64::from(said.id.number);
        let report =
            (clock == Clock::Report && kind != Kind::Carried && said.id.number.is_multiple_of(REPORT_FRAMES))
                .then(|| {
                    let (ntp, rtp_timestamp) = (ntp(CLOCK, now), numbering.timestamp_at(voice.began, now));
                    let report = rtcp::SenderReport {
                        ssrc: numbering.ssrc,
                        ntp: relay_engine::NtpTime(ntp),
                        rtp_timestamp,
                        ..Default::default()
                    };
                    Feedback::SenderReport(report)
                });
        let datagram = numbering.packet(said);
        for at in arrivals {
            if let Some(report) = report {
                self.schedule(at, Happening::Feedback(leg, report));
            }
            let happening = match kind {
                Kind::Carried => {
                    let frame = Self::carried(position, media + said.ticks, &said.payload);
                    Happening::Carried(track, leg, said.id, frame)
                }
                _ => Happening::In(track, leg, said.id, datagram.clone()),
            };
            self.schedule(at, happening);
        }
    }

    /// All troubles end: one leg at least is up and its path is whole.
    pub(super) fn calm_speaker(&mut self, track: usize) -> Check {
        if self.speakers[track].slot(Slot::Old).is_none() {
            self.truths[track].roughened(self.clock);
            self.open_leg(track, &LinkSpec::perfect(), false)?;
        }
        for slot in [Slot::Old, Slot::New] {
            if let Some(leg) = self.speakers[track].slot(slot) {
                self.leg_up(track, leg);
            }
        }
        Ok(())
    }
}
