//! What one track must hold: which frames came in, where they belong, and what may be missing.
//!
//! A witness is a listener that is up from the start and misses nothing: what it is handed is what the track holds.
//! Within a stretch, position and media time are affine in what an encoder numbers, whichever leg brought a frame and
//! however often; a new stretch begins only where the speaker really began anew, at the next position.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use relay_engine::{LegId, TrackStats, Verdict};

use super::frames::FrameId;
use super::script::{Kind, Terms, TrackPlan};
use super::seen::Handed;
use crate::oracle::{Check, broken, ensure};
use crate::stream::ticks;

/// A frame that the track holds or held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) id: FrameId,
    pub(super) media_time: u64,
    pub(super) arrived: Duration,
    /// Counts the frames in the order in which they were handed out.
    pub(super) arrival: u64,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    stored: Option<u64>,
    /// When the relay first had it, on a leg that was good.
    came: Option<Duration>,
    /// It came where no relay could place it.
    excused: bool,
    /// The leg on which the relay first had it.
    leg: Option<LegId>,
}

/// Where an encoder's frames belong from one of them on.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    encoder: u16,
    first: u32,
    /// Position minus number.
    positions: i64,
    /// Media time minus the encoder's ticks.
    media: i64,
}

/// What the world knows of the leg on which a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Open, and not down.
    Good,
    /// Down.
    Down,
    /// Of an epoch that is over.
    Fenced,
    /// Closed by its speaker, or gone with its track.
    Closed,
    /// Closed because the relay said that it is spent, with this cut.
    Spent(u64),
}

/// What a held frame may wait beyond the path skew: first of all its leg is lined up.
const GRACE: Duration = Duration::from_millis(150);

/// The model of one track.
#[derive(Debug)]
pub(super) struct Truth {
    plan: TrackPlan,
    terms: Terms,
    stored: Vec<Option<Stored>>,
    arrivals: u64,
    fates: Vec<Vec<Fate>>,
    stretches: Vec<Stretch>,
    /// How often the speaker began anew and no stretch did.
    anew: u32,
    /// Something befell the speaker that a splice may show.
    rough: bool,
    /// When it did: a splice to a frame from before that may be another one than that which shows it.
    rough_at: Duration,
    /// It still shows in what arrives until then: a rest or a loss has an end, and paths have delays.
    rough_until: Duration,
    held: VecDeque<(Duration, FrameId)>,
    /// Taken in this step, to be handed out in it.
    due: Option<FrameId>,
    /// Came on a leg that was spent: its frame, and the cut.
    strays: Vec<(FrameId, u64)>,
    declared: Vec<(u64, u64)>,
    /// Frames that the witness was told that it missed: a short history had no room for them as they came.
    unseen: u64,
    oldest: u64,
    /// The oldest after the drain that is being checked: what waited was placed in it.
    drained_to: u64,
    /// Legs that brought a frame of the newest stretch which another leg brought too and the track has: nothing else tells twins from
    /// separate encodings, and where their frames belong.
    /// When that was first, and the lowest number.
    proved: BTreeMap<LegId, (Duration, u32)>,
    /// The leg of the packet that is being judged.
    on: Option<LegId>,
}

impl Truth {
    pub(super) const fn new(plan: TrackPlan, terms: Terms) -> Self {
        Self {
            plan,
            terms,
            stored: Vec::new(),
            arrivals: 0,
            fates: Vec::new(),
            stretches: Vec::new(),
            anew: 1,
            rough: true,
            rough_at: Duration::ZERO,
            rough_until: Duration::ZERO,
            held: VecDeque::new(),
            due: None,
            strays: Vec::new(),
            declared: Vec::new(),
            unseen: 0,
            oldest: 0,
            drained_to: 0,
            proved: BTreeMap::new(),
            on: None,
        }
    }

    /// The relay had a frame on a leg.
    pub(super) fn brought(&mut self, leg: LegId, id: FrameId, verdict: Verdict, now: Duration) {
        self.on = Some(leg);
        if !matches!(verdict, Verdict::Accepted | Verdict::Held | Verdict::Duplicate) {
            return;
        }
        let first = *self.fate(id).leg.get_or_insert(leg);
        let newest = self.stretches.last();
        let newest = newest.is_none_or(|newest| (newest.encoder, newest.first) <= (id.encoder, id.number));
        let there = verdict == Verdict::Accepted || self.fate(id).stored.is_some();
        if first != leg && newest && there {
            for leg in [first, leg] {
                let (_, lowest) = self.proved.entry(leg).or_insert((now, id.number));
                *lowest = id.number.min(*lowest);
            }
        }
    }

    /// A leg is lost: what it brought and nothing proved to be the track's goes with it.
    pub(super) fn leg_lost(&mut self, leg: LegId) {
        if self.plan.kind != Kind::Twin || self.proved.contains_key(&leg) {
            return;
        }
        let lost: Vec<FrameId> = self.held.iter().map(|(_, id)| *id).collect();
        for id in lost {
            let fate = self.fate(id);
            fate.excused |= fate.leg == Some(leg) && fate.stored.is_none();
        }
    }

    /// Whether a relay cannot know that a frame is of an encoder that it has heard.
    fn is_unproved(&mut self, id: FrameId) -> bool {
        let leg = self.fate(id).leg;
        leg.is_none_or(|leg| self.is_unproved_leg(leg)) && self.plan.kind == Kind::Twin
    }

    fn is_unproved_leg(&self, leg: LegId) -> bool {
        self.plan.kind == Kind::Twin && !self.proved.contains_key(&leg)
    }

    /// Whether nothing says where a frame of a leg belongs: it is from before all that this leg and another one brought.
    fn is_before_proof(&self, leg: LegId, id: FrameId) -> bool {
        let lowest = self.proved.get(&leg).map(|(_, lowest)| *lowest);
        self.plan.kind == Kind::Twin && lowest.is_none_or(|lowest| id.number < lowest)
    }

    /// Whether a frame has no place: from before the speaker began anew, or another one has its place.
    fn is_placeless(&self, id: FrameId) -> bool {
        let place = self.place(id);
        let gone = place.is_some_and(|position| position < self.oldest);
        let early = !self.stretches.iter().any(|of| of.encoder == id.encoder && of.first <= id.number)
            || self.stretches.last().is_some_and(|of| of.encoder == id.encoder && id.number < of.first);
        let taken = place.and_then(|position| self.get(position)).is_some_and(|stored| stored.id != id);
        gone || early || taken
    }

    /// The speaker begins anew: the next stretch need not follow from what came before.
    pub(super) fn begins_anew(&mut self, now: Duration) {
        self.anew += 1;
        self.roughened(now);
    }

    /// Something that a splice may show.
    pub(super) const fn roughened(&mut self, now: Duration) {
        self.rough = true;
        self.rough_at = now;
    }

    /// Something that lasts until then.
    pub(super) fn roughened_until(&mut self, over: Duration) {
        self.rough = true;
        self.rough_until = self.rough_until.max(over + self.terms.path_skew);
    }

    pub(super) fn next(&self) -> u64 {
        self.stored.len() as u64
    }

    pub(super) const fn oldest(&self) -> u64 {
        self.oldest
    }

    pub(super) fn get(&self, position: u64) -> Option<&Stored> {
        self.stored.get(position as usize)?.as_ref()
    }

    /// Whether a position was declared lost.
    pub(super) fn is_declared(&self, position: u64) -> bool {
        self.declared.iter().any(|(from, count)| (*from..from + count).contains(&position))
    }

    fn is_matched(&self) -> bool {
        self.plan.kind != Kind::Separate
    }

    fn fate(&mut self, id: FrameId) -> &mut Fate {
        let (encoder, number) = (usize::from(id.encoder), id.number as usize);
        if self.fates.len() <= encoder {
            self.fates.resize_with(encoder + 1, Vec::new);
        }
        let fates = &mut self.fates[encoder];
        if fates.len() <= number {
            fates.resize(number + 1, Fate::default());
        }
        &mut fates[number]
    }

    /// Where a frame belongs, by the stretch that it is of.
    fn place(&self, id: FrameId) -> Option<u64> {
        let mut stretches = self.stretches.iter().rev();
        let stretch = stretches.find(|of| of.encoder == id.encoder && of.first <= id.number)?;
        (i64::from(id.number) + stretch.positions).try_into().ok()
    }

    /// The highest number of an encoder's that the track holds at or below a position.
    pub(super) fn number_at(&self, position: u64, encoder: u16) -> Option<u32> {
        let below = self.stored.get(..=position as usize)?;
        let mut below = below.iter().rev().flatten();
        below.find(|stored| stored.id.encoder == encoder).map(|stored| stored.id.number)
    }

    /// A packet was handed in, and this was the verdict.
    pub(super) fn judge(
        &mut self,
        id: FrameId,
        verdict: Verdict,
        standing: Standing,
        now: Duration,
    ) -> Check {
        let must = match standing {
            Standing::Good => return self.judge_good(id, verdict, now),
            Standing::Down => Verdict::LegDown,
            Standing::Fenced => Verdict::Fenced,
            Standing::Closed => Verdict::UnknownLeg,
            Standing::Spent(cut) => {
                self.strays.push((id, cut));
                Verdict::UnknownLeg
            }
        };
        let rule = if must == Verdict::Fenced { "I8" } else { "verdict" };
        ensure(verdict == must, rule, || format!("{id:?} was {verdict:?} on a leg that is {standing:?}"))
    }

    /// A packet came on a leg that may be met in more than one way.
    pub(super) fn meet(&mut self, id: FrameId, verdict: Verdict, now: Duration) {
        if matches!(verdict, Verdict::Accepted | Verdict::Held) {
            let forgiven = self.is_unproved(id) || self.is_placeless(id);
            let fate = self.fate(id);
            fate.came.get_or_insert(now);
            // The leg may be closed before anything says where it belongs.
            fate.excused |= verdict == Verdict::Held && forgiven;
        }
    }

    fn judge_good(&mut self, id: FrameId, verdict: Verdict, now: Duration) -> Check {
        use Verdict::{Accepted, Ahead, BeforeStart, Duplicate, Held, Suspicious, TooLate};
        let before = *self.fate(id);
        let place = self.place(id);
        let placeless = self.is_placeless(id);
        let allowed = match verdict {
            Accepted => before.stored.is_none(),
            Held | Duplicate | Suspicious => true,
            TooLate | BeforeStart if self.on.is_some_and(|leg| self.is_before_proof(leg, id)) => true,
            TooLate | BeforeStart => !self.is_matched() || placeless || before.stored.is_some(),
            Ahead => place.is_none_or(|position| position >= self.next() + self.terms.history_frames as u64),
            _ => false,
        };
        ensure(allowed, "verdict", || {
            let oldest = self.oldest;
            format!("{id:?} was {verdict:?} ({before:?}, belongs to {place:?}, oldest {oldest})")
        })?;
        match verdict {
            Accepted => self.due = Some(id),
            // Live frames are there already, and what came before no proof is given up.
            TooLate | BeforeStart => self.on.into_iter().for_each(|leg| self.leg_lost(leg)),
            Held if self.is_matched() && before.stored.is_none() => self.held.push_back((now, id)),
            _ => {}
        }
        let refused = matches!(verdict, TooLate | BeforeStart | Ahead)
            || matches!(verdict, Suspicious | Duplicate) && placeless;
        let fate = self.fate(id);
        if refused {
            fate.excused = true;
        } else {
            // Whatever it is called: it came, and must be held in the end.
            fate.came.get_or_insert(now);
        }
        Ok(())
    }

    /// The witness was handed a packet: the track holds a frame.
    pub(super) fn hold(&mut self, packet: &Handed, now: Duration) -> Check<u64> {
        let id = packet.id.ok_or_else(|| broken("payload", format!("nobody said this: {packet:?}")))?;
        let fate = *self.fate(id);
        let came = fate.came.is_some();
        ensure(came, "payload", || format!("{packet:?} was never taken in"))?;
        ensure(fate.stored.is_none(), "I1", || format!("{packet:?} is held at {:?} too", fate.stored))?;
        let position = packet.position;
        ensure(!self.is_declared(position), "L5", || format!("{packet:?} was declared lost before"))?;
        let taken = self.get(position).copied();
        ensure(taken.is_none(), "I1", || format!("{packet:?} is where {taken:?} is"))?;
        ensure(packet.arrived <= now, "frame", || format!("{packet:?} arrives in the future"))?;
        if self.is_spliced(position, id) {
            self.spliced(id);
        }
        self.check_place(packet, id)?;
        if self.stored.len() <= position as usize {
            self.stored.resize(position as usize + 1, None);
        }
        let stored = Stored { id, media_time: packet.media_time, arrived: now, arrival: self.arrivals };
        self.arrivals += 1;
        self.stored[position as usize] = Some(stored);
        self.fate(id).stored = Some(position);
        if self.due == Some(id) {
            self.due = None;
        }
        Ok(position)
    }

    /// Whether the next frame is of another leg than the one before it, and nothing proves that the two are twins.
    fn is_spliced(&mut self, position: u64, id: FrameId) -> bool {
        let last = self.stored.iter().rev().flatten().next().map(|last| last.id);
        let (last, leg) = (last.and_then(|last| self.fate(last).leg), self.fate(id).leg);
        position == self.next() && last != leg && self.is_unproved(id)
    }

    /// A leg that nothing proves to be a twin has brought the next frame: what it held from before that is given up, as at
    /// a splice of separate encodings.
    fn spliced(&mut self, next: FrameId) {
        let leg = self.fate(next).leg;
        let held: Vec<FrameId> = self.held.iter().map(|(_, id)| *id).collect();
        for id in held {
            let fate = self.fate(id);
            let before = id.encoder == next.encoder && id.number < next.number;
            fate.excused |= before && fate.leg == leg && fate.stored.is_none();
        }
    }

    /// A frame is affine to a stretch, or begins one.
    fn check_place(&mut self, packet: &Handed, id: FrameId) -> Check {
        let positions = packet.position.cast_signed() - i64::from(id.number);
        let media = packet.media_time.cast_signed() - packet.ticks_said.cast_signed();
        // An encoder that another one stood in for begins anew, and may do so at the number that it had reached.
        let returns = !self.is_matched()
            && packet.position == self.next()
            && self.stretches.last().is_some_and(|last| last.encoder != id.encoder);
        // A leg that nothing proves to be a twin is spliced to, and moved by up to a frame.
        let spliced = self.is_spliced(packet.position, id);
        let same = |of: &&Stretch| {
            let same = of.encoder == id.encoder && of.positions == positions;
            same && !returns && !(spliced && of.media != media)
        };
        if let Some(stretch) = self.stretches.iter().rev().find(same) {
            ensure(stretch.media == media, "affine media time", || {
                format!("{packet:?} bends {stretch:?} by {} ticks", media - stretch.media)
            })?;
            if spliced {
                // That it fits is luck: the relay begins a source here, and what is from before says nothing of it.
                self.stretches.push(Stretch { encoder: id.encoder, first: id.number, positions, media });
                self.proved.clear();
            }
            return Ok(());
        }
        let next = self.next();
        let carried = self.plan.kind == Kind::Carried;
        // What came with it and a short history had no room for is nobody's.
        let follows = packet.position == next.max(self.drained_to) || carried && packet.position >= next;
        ensure(follows, "I1 order", || format!("{packet:?} begins a stretch, and {next} is next"))?;
        let anew = !self.is_matched() || self.anew > 0 || self.is_unproved(id);
        ensure(anew, "affine position", || {
            format!("{packet:?} begins a stretch; there are {:?}", self.stretches)
        })?;
        self.check_splice(packet, id)?;
        self.anew = self.anew.saturating_sub(1);
        self.rough &= self.fate(id).came.is_none_or(|came| came <= self.rough_at);
        self.stretches.push(Stretch { encoder: id.encoder, first: id.number, positions, media });
        // What two legs had in common before says nothing of where frames belong since.
        self.proved.clear();
        Ok(())
    }

    /// Between encoders: no gap and no repeat in media time, and a shift of no more than a frame.
    fn check_splice(&self, packet: &Handed, id: FrameId) -> Check {
        let Some(last) = self.stored.iter().rev().flatten().next() else { return Ok(()) };
        let frame = u64::from(self.plan.frame_ticks);
        let end = last.media_time + frame;
        ensure(packet.media_time >= end, "no repeat in media time", || {
            format!("{packet:?} begins before the end of {last:?}")
        })?;
        // Encoders rest each in its own time.
        let rough = self.rough || packet.arrived <= self.rough_until;
        let smooth = self.plan.clean && !rough && !self.is_matched() && self.plan.rest == 0.0;
        let shift = packet.media_time - end;
        ensure(!smooth || shift <= frame, "no gap in media time", || {
            format!("{packet:?} begins {shift} ticks after the end of {last:?}")
        })?;
        let newer = last.id.encoder != id.encoder || last.id.number < id.number;
        let reaches = self.terms.history >= Duration::from_secs(30) && self.terms.history_frames >= 500;
        ensure(newer || !reaches, "no repeat in media time", || format!("{packet:?} follows {last:?}"))
    }

    /// The relay declares positions lost.
    pub(super) fn lost(&mut self, from: u64, count: u64) -> Check {
        let range = from..from + count;
        let stored = range.clone().find_map(|position| self.get(position));
        ensure(count > 0 && stored.is_none(), "L5", || {
            format!("{range:?} is declared lost, and {stored:?} is held there")
        })?;
        let again = range.clone().any(|position| self.is_declared(position));
        ensure(!again, "L5", || format!("{range:?} is declared lost for the second time"))?;
        self.declared.push((from, count));
        Ok(())
    }

    /// The relay was drained: what was taken in must have come out, and what is held in time.
    pub(super) fn drained(&mut self, now: Duration) -> Check {
        if let Some(id) = self.due.take() {
            return Err(broken("I1", format!("{id:?} was accepted and nobody was handed it")));
        }
        while let Some((since, id)) = self.held.front().copied() {
            if now.saturating_sub(since) <= self.terms.path_skew + GRACE {
                return Ok(());
            }
            let fate = *self.fate(id);
            // What comes later to prove where it belongs comes too late.
            let proved = fate.leg.and_then(|leg| self.proved.get(&leg).copied());
            // So does what is sent again from long before: numbers are followed back to where a source began.
            let reach = (self.terms.path_skew.as_nanos() / self.frame().as_nanos()) as u32 + 2;
            let unproved = proved.is_none_or(|(proved, lowest)| {
                proved > since + self.terms.path_skew || id.number + reach < lowest
            });
            let forgiven = self.is_placeless(id) || unproved && self.plan.kind == Kind::Twin;
            let settled = fate.stored.is_some() || fate.excused || forgiven;
            ensure(settled, "L1", || format!("{id:?} is held since {since:?}, and it is {now:?}"))?;
            // It stays so, wherever later stretches begin.
            self.fate(id).excused |= forgiven;
            self.held.pop_front();
        }
        Ok(())
    }

    /// The relay's own figures, against the model and the limits (I3).
    pub(super) fn figures(&mut self, stats: &TrackStats) -> Check {
        let next = self.next();
        ensure(stats.next_position == next, "I2", || format!("{stats:?}, and {next} is next"))?;
        let oldest = stats.oldest_position.unwrap_or(0);
        ensure(oldest >= self.oldest, "I3", || format!("{stats:?}: {} was left before", self.oldest))?;
        self.oldest = oldest;
        let spans = next.saturating_sub(oldest) <= self.terms.history_frames as u64;
        ensure(spans, "I3", || format!("the history is too long: {stats:?}"))?;
        let bound = 2 * (self.terms.path_skew.as_millis() as usize / 20 + 2) + 256;
        ensure(stats.held <= bound, "I3", || format!("more than {bound} are held: {stats:?}"))?;
        let contiguous = stats.contiguous.map_or(0, |position| position + 1);
        let hole = (oldest..contiguous).find(|position| self.get(*position).is_none());
        ensure(hole.is_none(), "acknowledged", || format!("{hole:?} is a hole: {stats:?}"))
    }

    /// The world is over: what came and is not held must be excused, and what is missing declared.
    pub(super) fn end(&self) -> Check {
        for (encoder, fates) in self.fates.iter().enumerate() {
            for (number, fate) in fates.iter().enumerate() {
                let id = FrameId { track: 0, encoder: encoder as u16, number: number as u32 };
                let excused = fate.excused || self.is_placeless(id);
                let lost = self.is_matched() && fate.came.is_some() && fate.stored.is_none() && !excused;
                ensure(!lost, "L1", || {
                    format!("frame {number} of encoder {encoder} came and is lost: {fate:?}")
                })?;
            }
        }
        for (id, cut) in &self.strays {
            let fate = self.fates.get(usize::from(id.encoder)).and_then(|of| of.get(id.number as usize));
            let before = self.place(*id).is_some_and(|position| position < *cut && position >= self.oldest);
            let taken = self.place(*id).and_then(|position| self.get(position)).is_some();
            let missing = !taken && fate.is_none_or(|fate| fate.stored.is_none() && !fate.excused);
            ensure(!(self.is_matched() && before && missing), "I2", || {
                format!("{id:?} was on its way on a leg that was called spent at {cut}")
            })?;
        }
        // What was lost before the first frame is no hole of the track.
        let first = self.stored.iter().position(Option::is_some).unwrap_or(0) as u64;
        let holes = (first..self.oldest).filter(|position| self.get(*position).is_none());
        let untold: Vec<u64> = holes.filter(|position| !self.is_declared(*position)).collect();
        ensure(untold.len() as u64 <= self.unseen, "L5", || {
            format!("{untold:?} are lost and nobody was told")
        })?;
        Ok(())
    }

    /// The witness is told that it missed frames: no more than have left the history.
    pub(super) fn missed(&mut self, count: u64) -> Check {
        self.unseen += count;
        ensure(self.unseen <= self.drained_to, "I2", || {
            format!("{} missed of {}", self.unseen, self.drained_to)
        })
    }

    /// The history begins at a position after the drain that is being checked.
    pub(super) fn begins_at(&mut self, oldest: u64) {
        self.drained_to = oldest;
    }

    /// Frames below a position left the history.
    pub(super) fn left(&mut self, oldest: u64) {
        self.oldest = self.oldest.max(oldest);
    }

    /// The speaker that began anew sends again from frame `from`, not acknowledged or `before` of those that are: no loss
    /// can spoil that. What is from before the newest stretch does not say where its frames belong.
    pub(super) fn resumes(&mut self, from: FrameId, surely: bool) {
        let newest = self.stretches.last();
        let newest = newest.is_some_and(|of| of.encoder == from.encoder && of.first <= from.number);
        self.anew -= u32::from(surely && newest && self.plan.clean && self.anew > 0);
    }

    /// Duration of a frame.
    pub(super) fn frame(&self) -> Duration {
        ticks(u64::from(self.plan.frame_ticks))
    }
}
