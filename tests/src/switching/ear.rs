//! What one listener is owed: every frame of its track since it began, once, in time, whatever befalls its legs.
//!
//! While a leg is up and the listener has caught up, a frame that arrives is handed out in the same drain, also in a
//! switch: a gap of 0. It may be behind only after its leg was down, if it came with something to make good, or while the
//! relay replays; then it is handed at least the configured pace, the first of it at once.

mod pace;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use relay_engine::{LegId, LegState, ListenerId};

use super::leg::EarLeg;
use super::script::Terms;
use super::seen::Handed;
use super::truth::Truth;
use crate::oracle::{Check, broken, ensure};

/// One listener.
pub(super) struct Ear {
    pub(super) id: ListenerId,
    pub(super) track: usize,
    pub(super) legs: Vec<EarLeg>,
    /// The leg that it is sent on, and the one that it moves to.
    pub(super) current: LegId,
    pub(super) target: Option<LegId>,
    ordered: bool,
    live: bool,
    paused: bool,
    terms: Terms,
    frame: Duration,
    /// It is owed what arrives.
    began: bool,
    /// Below it nothing is owed.
    floor: u64,
    /// Where an ordered leg went on at the live edge.
    edge: u64,
    /// The first position handed out since it began.
    first: Option<u64>,
    /// One after the highest position handed out since it began.
    top: u64,
    handed: Vec<bool>,
    last_arrival: Option<u64>,
    owed: BTreeSet<u64>,
    /// The most that was owed since nothing was.
    backlog: usize,
    /// It waited for a hole when the relay was last drained.
    waited: bool,
    /// When it last had waited for one.
    freed: Duration,
    /// When it was last handed something higher than all before, as of the last drain, and how high.
    moved: (Duration, u64),
    /// Frames that it will never have, and was not told of.
    missed: u64,
    /// Frames that it may be told of as missed: late ones on an ordered leg.
    late: BTreeSet<u64>,
    /// As many more may be told of, and need not.
    forgiven: u64,
    /// How many of those two it was told of: they are not handed out any more.
    told: u64,
    acked: Option<u64>,
    /// Late frames that it was handed on an ordered leg and that nothing acknowledges before this position: another leg
    /// brings them again.
    unsure: (u64, u64),
    /// When it last asked for packets again.
    asks: VecDeque<Duration>,
    /// A leg was lost that had acknowledged nothing for a long time: what was on the way is not known.
    unknown: bool,
    lag: Option<Lag>,
    /// Since when the switch could have been done.
    switching: Option<Duration>,
    /// Where the new leg began then: after what was acknowledged.
    set_out: u64,
    /// It was told of missed frames since a switch was ordered.
    gap: bool,
    /// A leg that was closed while it was switched from, and the other: that may still be told.
    closed: Option<(LegId, LegId)>,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, current, target, ordered, live, paused, floor, first, top, .. } = self;
        let Self { missed, forgiven, told, acked, lag, legs, .. } = self;
        let owed: Vec<_> = self.owed.iter().take(8).collect();
        let late: Vec<_> = self.late.iter().take(8).collect();
        write!(
            f,
            "{id}: current {current}, target {target:?}, ordered {ordered}, live {live}, paused {paused}, "
        )?;
        write!(
            f,
            "floor {floor}, first {first:?}, top {top}, owed {} {owed:?}, missed {missed}, ",
            self.owed.len()
        )?;
        write!(f, "late {late:?}, forgiven {forgiven}, told {told}, acked {acked:?}, {lag:?}, legs {legs:?}")
    }
}

/// It is behind.
#[derive(Clone, Copy, Debug)]
struct Lag {
    since: Duration,
    /// Packets handed out since, on the leg that it is sent on.
    done: u64,
    /// Of them, those that were handed out before on the leg that it is sent on: they go much faster.
    again: u64,
    /// When nothing was owed for the last time since, and what was handed out by then.
    even: (Duration, u64),
    /// Packets that will at least be handed out, repeats included.
    work: u64,
    /// Frames that arrived since.
    arrived: u64,
}

/// How long it may take until what was asked for is sent.
const ANSWERED: Duration = Duration::from_secs(1);
/// How late the first packet of a replay may be.
const PROMPT: Duration = Duration::from_millis(60);

impl Ear {
    pub(super) fn new(
        (id, leg, track): (ListenerId, LegId, usize),
        (ordered, live): (bool, bool),
        resume_from: Option<u64>,
        (terms, frame): (Terms, Duration),
    ) -> Self {
        Self {
            id,
            track,
            legs: vec![EarLeg::new(leg, resume_from)],
            current: leg,
            target: None,
            ordered,
            live,
            paused: false,
            terms,
            frame,
            began: false,
            floor: 0,
            edge: 0,
            first: None,
            top: 0,
            handed: Vec::new(),
            last_arrival: None,
            owed: BTreeSet::new(),
            backlog: 0,
            waited: false,
            freed: Duration::ZERO,
            moved: (Duration::ZERO, 0),
            missed: 0,
            late: BTreeSet::new(),
            forgiven: 0,
            told: 0,
            acked: None,
            unsure: (0, 0),
            asks: VecDeque::new(),
            unknown: false,
            lag: None,
            switching: None,
            set_out: 0,
            gap: false,
            closed: None,
        }
    }

    pub(super) fn leg(&mut self, id: LegId) -> Option<&mut EarLeg> {
        self.legs.iter_mut().find(|leg| leg.id == id)
    }

    fn is_up(&self, id: LegId) -> bool {
        self.legs.iter().any(|leg| leg.id == id && leg.is_up())
    }

    fn was_handed(&self, position: u64) -> bool {
        self.handed.get(position as usize).copied().unwrap_or(false)
    }

    /// A leg's transport changed.
    pub(super) fn leg_changed(&mut self, id: LegId, state: LegState, truth: &Truth, now: Duration) {
        let Some(leg) = self.leg(id) else { return };
        let before = std::mem::replace(&mut leg.state, state);
        if before == state {
            return;
        }
        if state == LegState::Down && id == self.current {
            self.unknown |= self.is_unheard();
        }
        let Some(leg) = self.leg(id) else { return };
        if state == LegState::Up {
            leg.restarts = true;
            let resume_from = leg.resume_from;
            if id == self.current {
                self.comes_up(resume_from, truth, now);
            }
        }
        self.settle_legs(now);
    }

    fn comes_up(&mut self, resume_from: Option<u64>, truth: &Truth, now: Duration) {
        if self.began {
            self.goes_on(truth, now);
        } else if !self.paused {
            self.begin(resume_from, truth);
            self.lags(now);
        }
    }

    /// After a time with no leg up: what it missed is made good, or given up.
    fn goes_on(&mut self, truth: &Truth, now: Duration) {
        if self.live {
            // Given up and told, or made good after all.
            self.late.append(&mut self.owed);
            self.edge = truth.next();
        }
        self.lags(now);
    }

    /// It is owed what arrives from now on, and what it asks for of what there is.
    fn begin(&mut self, resume_from: Option<u64>, truth: &Truth) {
        self.began = true;
        let Some(from) = resume_from.filter(|from| *from < truth.next()) else {
            self.floor = truth.next();
            return;
        };
        self.floor = from;
        for position in from..truth.next() {
            match truth.get(position) {
                Some(_) if position >= truth.oldest() => {
                    self.owed.insert(position);
                }
                Some(_) => self.missed += 1,
                None => self.forgiven += 1,
            }
        }
    }

    /// It may be behind from now on, and what it has not acknowledged may be handed out again.
    fn lags(&mut self, now: Duration) {
        let acked = self.acked.map_or(0, |acked| acked + 1);
        let unsure = self.top.max(self.edge).saturating_sub(acked);
        let work = unsure + self.owed.len() as u64 + self.forgiven.saturating_sub(self.told);
        // What it asked for goes before.
        let work = work + self.asks.iter().filter(|at| **at + ANSWERED >= now).count() as u64;
        self.lag = Some(Lag { since: now, done: 0, again: 0, even: (now, 0), work, arrived: 0 });
    }

    /// After a change of legs: whom it is sent on, and since when a switch could be done.
    fn settle_legs(&mut self, now: Duration) {
        let ready = self.target.is_some_and(|target| self.is_up(target));
        match (ready, self.switching) {
            (true, None) => {
                self.switching = Some(now);
                self.set_out = self.acked.map_or(0, |acked| acked + 1);
            }
            (false, _) => self.switching = None,
            _ => {}
        }
        if !self.is_up(self.current) && !ready {
            self.lag = None;
        }
    }

    /// A leg was added.
    pub(super) fn added(&mut self, id: LegId, resume_from: Option<u64>) {
        self.legs.push(EarLeg::new(id, resume_from));
    }

    /// The owner moves it; says whether the relay must take that.
    pub(super) fn switched(&mut self, to: LegId, now: Duration) -> bool {
        let taken = self.legs.len() == 2 && self.is_up(to);
        if taken && to != self.current {
            self.gap &= self.target == Some(to);
            self.target = Some(to);
            self.settle_legs(now);
        }
        taken
    }

    /// A leg was closed; `false` if it was the only one.
    pub(super) fn leg_closed(&mut self, id: LegId, truth: &Truth, now: Duration) -> bool {
        self.unknown |= id == self.current && self.is_unheard();
        let wish = self.leg(id).and_then(|leg| leg.resume_from);
        self.legs.retain(|leg| leg.id != id);
        self.target = self.target.filter(|target| *target != id);
        let Some(other) = self.legs.first().map(|leg| leg.id) else { return false };
        if self.current == id {
            self.closed = Some((id, other));
            self.current = other;
            self.target = None;
            let resume_from = self.legs[0].resume_from.or(wish);
            self.legs[0].resume_from = resume_from;
            if self.is_up(other) {
                self.legs[0].restarts = true;
                self.comes_up(resume_from, truth, now);
            }
        }
        self.settle_legs(now);
        true
    }

    /// It chose another track, or the same again.
    pub(super) fn selected(&mut self, track: usize, truth: &Truth, frame: Duration) {
        if track == self.track {
            return;
        }
        self.track = track;
        self.frame = frame;
        self.forget(truth);
        self.legs.iter_mut().for_each(|leg| leg.resume_from = None);
        self.handed.clear();
        (self.top, self.edge, self.acked) = (0, 0, None);
    }

    /// It wants nothing, or wants to hear again; says whether that is new.
    pub(super) fn paused(&mut self, paused: bool, truth: &Truth, now: Duration) -> bool {
        let changed = self.paused != paused;
        self.paused = paused;
        if changed {
            self.forget(truth);
        }
        let current = self.current;
        let waits = changed && !paused && !self.began && self.is_up(current);
        if waits {
            // It came while it was paused: now it begins.
            let resume_from = self.leg(current).and_then(|leg| leg.resume_from);
            self.comes_up(resume_from, truth, now);
        }
        changed && !waits
    }

    /// It asked for a packet again.
    pub(super) fn asked(&mut self, now: Duration) {
        while self.asks.front().is_some_and(|at| *at + ANSWERED < now) {
            self.asks.pop_front();
        }
        self.asks.push_back(now);
        if let Some(lag) = &mut self.lag {
            lag.arrived += 1;
            lag.work += 1;
        }
    }

    /// It begins again at the live edge.
    fn forget(&mut self, truth: &Truth) {
        self.forgiven += self.missed + self.owed.len() as u64 + self.late.len() as u64;
        self.missed = 0;
        self.owed.clear();
        self.late.clear();
        self.floor = truth.next();
        (self.first, self.last_arrival, self.lag, self.unknown) = (None, None, None, false);
        self.unsure = (0, 0);
        self.legs.iter_mut().for_each(|leg| leg.restarts = true);
    }

    /// The owner asked for what was not acknowledged, or the listener for what it misses.
    pub(super) fn replays(&mut self, now: Duration) {
        let current = self.current;
        if let Some(leg) = self.leg(current).filter(|leg| leg.is_up()) {
            leg.restarts = true;
            self.lags(now);
        }
    }

    /// It told what it has.
    pub(super) fn acknowledged(&mut self, position: u64) {
        // What was on its way when another track was chosen means nothing.
        if position < self.top {
            self.acked = self.acked.max(Some(position));
            if position >= self.unsure.1 {
                self.unsure.0 = 0;
            }
        }
    }

    /// It has said nothing for so long that the relay need not think that it will.
    fn is_unheard(&self) -> bool {
        self.acked < self.first && self.top.saturating_sub(self.floor) > 50
    }

    pub(super) const fn is_unknown(&self) -> bool {
        self.unknown
    }

    pub(super) const fn first(&self) -> Option<u64> {
        self.first
    }

    /// Frames came on its track that a short history had no room for, and nobody saw them.
    pub(super) const fn forgive(&mut self, count: u64) {
        self.forgiven += count;
    }

    /// A frame arrived on its track.
    pub(super) fn arrived(&mut self, position: u64) {
        let reached = self.ordered || self.first.is_none_or(|first| position >= first);
        if !self.began || self.paused || position < self.floor {
            return;
        }
        if !reached {
            // From before the first that it was handed, and still for it: it may be told of it.
            self.forgiven += 1;
            // While it catches up, it goes its way in between.
            if let Some(lag) = &mut self.lag {
                lag.work += 1;
                lag.arrived += 1;
            }
            return;
        }
        if let Some(lag) = &mut self.lag {
            lag.arrived += 1;
        }
        if self.ordered && position < self.top.max(self.edge) {
            self.late.insert(position);
        } else {
            self.owed.insert(position);
        }
    }

    /// It is handed a packet.
    pub(super) fn packet(&mut self, packet: &Handed, truth: &Truth) -> Check {
        let on_its_way = packet.leg == self.current || Some(packet.leg) == self.target;
        ensure(on_its_way, "I6", || format!("{packet:?} on a leg that is not the one; {self:?}"))?;
        ensure(!self.paused && self.began, "paused", || format!("{packet:?}: {self:?}"))?;
        let stored = truth.get(packet.position);
        let stored = stored.ok_or_else(|| broken("frame", format!("{packet:?} is not held")))?;
        let same = (packet.id, packet.media_time) == (Some(stored.id), stored.media_time);
        ensure(same, "frame", || format!("{packet:?}, and {stored:?} is held there"))?;
        let before = self.was_handed(packet.position);
        ensure(packet.replay || !before, "I1", || format!("{packet:?} for the second time, and not said"))?;
        let fresh = packet.position >= self.top;
        let told = self.missed > 0 || packet.position < self.edge || self.lag.is_some();
        ensure(!fresh || !packet.replay || told, "I1", || format!("{packet:?} was not handed out before"))?;
        if !packet.replay {
            ensure(self.missed == 0, "L5", || format!("{packet:?} comes before it is told: {self:?}"))?;
            self.check_order(packet, stored.arrival)?;
            if self.ordered && !fresh {
                self.unsure = (self.unsure.0 + 1, self.top);
            }
        }
        // Each leg has a pace of its own.
        if let Some(lag) = self.lag.as_mut().filter(|_| packet.leg == self.current) {
            lag.done += 1;
            lag.again += u64::from(packet.replay);
        }
        let (ordered, floor) = (self.ordered, self.floor);
        let leg = self.leg(packet.leg).expect("it is the current leg or the target");
        leg.replayed += u64::from(packet.replay);
        leg.packet(packet, ordered, floor)?;
        self.note(packet.position);
        ensure(self.told <= self.late.len() as u64 + self.forgiven, "L5", || {
            format!("{packet:?} is handed out, and it was told that it misses it: {self:?}")
        })
    }

    /// Pass-through is in order of arrival.
    fn check_order(&mut self, packet: &Handed, arrival: u64) -> Check {
        let (lags, last) = (self.lag.is_some() || self.ordered, self.last_arrival);
        ensure(lags || last < Some(arrival), "I1 order", || {
            format!("{packet:?} is arrival {arrival}, after {last:?}: {self:?}")
        })?;
        self.last_arrival = self.last_arrival.max(Some(arrival));
        Ok(())
    }

    fn note(&mut self, position: u64) {
        if self.handed.len() <= position as usize {
            self.handed.resize(position as usize + 1, false);
        }
        self.handed[position as usize] = true;
        self.owed.remove(&position);
        self.late.remove(&position);
        self.top = self.top.max(position + 1);
        if self.first.is_none() {
            self.first = Some(position);
            // What arrived before it and belongs before it, its numbers do not reach; an ordered leg is told.
            let reached = self.owed.split_off(&position);
            let before = std::mem::replace(&mut self.owed, reached);
            if self.ordered {
                self.late.extend(before);
            }
        }
    }

    /// It is told that it missed frames.
    pub(super) fn skipped(&mut self, from: u64, count: u64, truth: &Truth) -> Check {
        self.lose_evicted(truth);
        let most = self.missed + self.untold();
        ensure(count > 0 && count <= most, "L5", || {
            format!("told of {count} from {from}, missed are {} of {most}: {self:?}", self.missed)
        })?;
        self.gap = true;
        let certain = count.min(self.missed);
        self.missed -= certain;
        self.told += count - certain;
        Ok(())
    }

    /// How many more it may be told of beside what is missed.
    fn untold(&self) -> u64 {
        (self.late.len() as u64 + self.forgiven).saturating_sub(self.told)
    }

    /// The relay says that a leg is spent.
    pub(super) fn spent(&mut self, (leg, to): (LegId, LegId), cut: u64, replayed: u64, gap: u64) -> Check {
        if self.closed.take() == Some((leg, to)) {
            return Ok(());
        }
        let ordered = leg == self.current && Some(to) == self.target && self.is_up(to);
        ensure(ordered, "LegSpent", || {
            format!("{leg} is spent, {to} took over, and nobody said so: {self:?}")
        })?;
        // After a leg that was down, the new one begins with what is to be made good.
        let was_up = self.is_up(leg);
        let owed = self.owed.range(..cut).next();
        ensure(!was_up || owed.is_none(), "I2", || format!("cut at {cut}, and {owed:?} is owed: {self:?}"))?;
        let old = self.leg(leg).expect("it is the current leg");
        old.spent = true;
        // Where a leg that never came up was to begin, the other does.
        let wish = old.resume_from;
        let new = self.leg(to).expect("it is up");
        new.resume_from = new.resume_from.or(wish);
        let seen = new.replayed;
        ensure(!was_up || replayed == seen, "LegSpent", || {
            format!("{replayed} replayed on {to}, seen were {seen}")
        })?;
        ensure(gap == 0 || !was_up || self.gap || self.has_holes(cut), "LegSpent", || {
            format!("a gap of {gap} before {cut}")
        })?;
        (self.current, self.target, self.switching) = (to, None, None);
        Ok(())
    }

    /// Whether a leg is its own, or was and may still be told of.
    pub(super) fn knows(&self, leg: LegId) -> bool {
        self.legs.iter().any(|known| known.id == leg) || self.closed.is_some_and(|(closed, _)| closed == leg)
    }

    /// Whether something below the cut was not handed out since it began.
    fn has_holes(&self, cut: u64) -> bool {
        let first = self.first.unwrap_or(cut).min(self.floor);
        (first..cut).any(|position| !self.was_handed(position))
    }

    /// A cut from a leg that was down: the new one has to make good what the old one has not.
    pub(super) fn cut_short(&mut self, truth: &Truth, now: Duration) {
        let current = self.current;
        let wish = self.leg(current).and_then(|leg| leg.resume_from);
        self.comes_up(wish, truth, now);
    }

    /// The relay was drained: nothing may be owed that could have been paid.
    pub(super) fn drained(&mut self, truth: &Truth, now: Duration) -> Check {
        self.lose_evicted(truth);
        self.backlog = if self.owed.is_empty() { 0 } else { self.backlog.max(self.owed.len()) };
        self.check_switch(now)?;
        if !self.is_up(self.current) || self.paused {
            return Ok(());
        }
        self.note_wait(now);
        match &self.lag {
            Some(_) if self.owed.is_empty() && self.live && self.late.len() as u64 > self.told => Ok(()),
            Some(lag) if self.owed.is_empty() => {
                let over = lag.done >= lag.work || now > lag.since + self.time_for(lag.work) + PROMPT;
                self.lag = self.lag.filter(|_| !over).map(|lag| Lag { even: (now, lag.done), ..lag });
                Ok(())
            }
            Some(lag) => self.check_pace(*lag, now),
            None => self.check_prompt(truth, now),
        }
    }

    /// What left the history before it was handed out is missed.
    fn lose_evicted(&mut self, truth: &Truth) {
        while let Some(position) = self.owed.first().copied().filter(|position| *position < truth.oldest()) {
            self.owed.remove(&position);
            self.missed += 1;
        }
    }

    /// The world is over: everything is handed out or told, but for what still comes at the pace (L4).
    pub(super) fn end(&self) -> Check {
        if !self.is_up(self.current) || self.paused {
            return Ok(());
        }
        let done = self.owed.is_empty() || self.lag.is_some();
        ensure(done, "L1", || format!("never handed out: {self:?}"))?;
        ensure(self.missed == 0 && self.late.len() as u64 <= self.told, "L5", || {
            format!("nobody was told: {self:?}")
        })
    }
}
