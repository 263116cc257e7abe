//! A listener: a cursor over its track's arrivals, and the legs that it is sent on.
//!
//! Nearly always one leg is live and arrivals pass through it: `expected` is the next one, and one comparison decides.
//! Everything else goes a slower way, which begins at [`Listener::offer_slowly`]: a leg that is down, goes through the
//! history by position (see `replay`), or hands over to another leg (see `switch`).
//!
//! Invariants: I1, an arrival is offered once, what it brings is settled once; I6, a leg that is not up is handed
//! nothing. Memory (I3): one struct below 512 bytes; a second leg, a way through the history, what was settled out of
//! its order, an answered NACK and a report that stays behind own a box each while they last.

mod ledger;
mod leg;
mod owed;
mod pace;
mod repair;
mod replay;
mod rewrite;
mod select;
mod switch;
mod tail;

use std::ops::Range;
use std::time::{Duration, Instant};

use self::ledger::Ledger;
pub(crate) use self::leg::ListenerLeg;
use self::repair::Repair;
use self::replay::Trail;
pub(crate) use self::replay::Turn;
use self::select::Crossing;
pub(crate) use self::switch::Close;
use self::switch::Second;
use crate::config::Pacing;
use crate::frame::Frame;
use crate::history::History;
use crate::id::{LegId, ListenerId, TrackId};
use crate::io::{Event, Feedback, LegState, Order, OutboundPacket, Reason, Verdict};
use crate::rtp::{NtpTime, rtcp};
use crate::stats::ListenerStats;
use crate::time::MediaTime;

/// One listener and its legs.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The arrival that goes out at once, while one leg is live and nothing else is to be done; else [`NEVER`].
    expected: u64,
    /// The first position that it wants: where it joined, or was last resumed or given another track.
    base: u64,
    /// The leg that it is sent on.
    leg: ListenerLeg,
    id: ListenerId,
    track: TrackId,
    /// Its place among its track's members.
    pub(crate) member: usize,
    /// The next arrival that was not offered to it, while nothing is `expected`.
    cursor: u64,
    /// Its way through the history, while it has one.
    trail: Option<Box<Trail>>,
    second: Option<Box<Second>>,
    /// Another track was selected, and nothing of it handed out yet.
    crossing: Option<Box<Crossing>>,
    /// Its leg has been up.
    joined: bool,
    paused: bool,
    /// The highest position that the far end is known to have.
    acked: Option<u64>,
    /// What was settled out of its order.
    ledger: Option<Box<Ledger>>,
    /// What was skipped and not told yet: the first position, and how many frames.
    untold: Option<(u64, u64)>,
    frames_skipped: u64,
    before_first: u64,
    replayed: u64,
    /// Packets and payload bytes of legs that it had.
    past: (u64, u64),
}

/// What a listener may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) now: Instant,
    /// Of its track.
    pub(crate) history: &'a History,
    /// The position after the newest.
    pub(crate) next_position: u64,
    /// The media time of the newest frame and when it arrived.
    pub(crate) newest: Option<(MediaTime, Instant)>,
    pub(crate) pacing: Pacing,
    pub(crate) patience: Duration,
}

/// What a listener says to an arrival.
#[derive(Debug)]
pub(crate) enum Offer {
    /// Not for it, or not now.
    Pass,
    /// The same, and something of it has another due time now.
    Wake,
    /// It misses something from before, which comes first; offer again.
    Skipped(Event),
    /// It takes it.
    Take(Take),
}

/// How a frame is handed out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Take {
    pub(crate) index: u64,
    /// On the leg that is being switched to.
    pub(crate) second: bool,
    /// It was settled before.
    pub(crate) replay: bool,
    pub(crate) schedule_report: bool,
    /// Offer it again: its other leg may want it too.
    pub(crate) again: bool,
}

impl Listener {
    pub(crate) const fn new(id: ListenerId, track: TrackId, member: usize, leg: ListenerLeg) -> Self {
        Self {
            expected: NEVER,
            base: 0,
            leg,
            id,
            track,
            member,
            cursor: 0,
            trail: None,
            second: None,
            crossing: None,
            joined: false,
            paused: false,
            acked: None,
            ledger: None,
            untold: None,
            frames_skipped: 0,
            before_first: 0,
            replayed: 0,
            past: (0, 0),
        }
    }

    /// Offers a frame, the `arrival`-th of its track.
    #[inline]
    pub(crate) fn offer(
        &mut self,
        arrival: u64,
        position: u64,
        payload_bytes: usize,
        history: &History,
    ) -> Offer {
        if arrival != self.expected {
            return self.offer_slowly(arrival, position, payload_bytes, history);
        }
        self.expected = arrival + 1;
        self.take_live(position, payload_bytes, history)
    }

    /// Offers a frame as [`offer`](Self::offer) does, if that is nothing but to hand it out: the packet. `None` changes
    /// nothing.
    #[inline]
    pub(crate) fn pass<'a>(&'a mut self, arrival: u64, frame: Frame<'a>) -> Option<OutboundPacket<'a>> {
        if arrival != self.expected || frame.position < self.base || self.leg.begins_reports() {
            return None;
        }
        let index = self.leg.rewrite.index_in_line(frame.position)?;
        self.expected = arrival + 1;
        self.leg.count(frame.payload.len());
        Some(self.leg.packet(self.id, index, false, frame))
    }

    #[inline]
    fn take_live(&mut self, position: u64, payload_bytes: usize, history: &History) -> Offer {
        if position < self.base {
            self.before_first += 1;
            return Offer::Pass;
        }
        let Some(index) = self.leg.rewrite.index(position) else {
            self.slow_down();
            self.give_up(position, history.oldest().unwrap_or(0));
            return Offer::Pass;
        };
        let schedule_report = self.leg.count(payload_bytes);
        Offer::Take(Take { index, schedule_report, second: false, replay: false, again: false })
    }

    #[cold]
    fn offer_slowly(
        &mut self,
        arrival: u64,
        position: u64,
        payload_bytes: usize,
        history: &History,
    ) -> Offer {
        if self.expected != NEVER {
            if arrival < self.expected {
                return Offer::Pass;
            }
            // Evicted before they were offered.
            self.skip_gone(self.expected..arrival, history);
            self.expected = arrival;
            if let Some(event) = self.tell() {
                return Offer::Skipped(event);
            }
            // All of that was from before it began: there is nothing to tell, and this one is due.
            self.expected += 1;
            return self.take_live(position, payload_bytes, history);
        }
        if !self.leg.is_up() || self.paused || !self.joined {
            self.note_early(arrival, position);
            return Offer::Pass;
        }
        self.skip_gone(self.cursor..arrival, history);
        self.cursor = self.cursor.max(arrival);
        if let Some(event) = self.tell() {
            return Offer::Skipped(event);
        }
        if arrival == self.cursor {
            self.cursor += 1;
            let offer = self.take_slowly(position, payload_bytes, history);
            if !matches!(offer, Offer::Pass) {
                return offer;
            }
        }
        self.offer_second(position, payload_bytes)
    }

    /// What the leg that is sent on does with an arrival that cannot just pass through.
    fn take_slowly(&mut self, position: u64, payload_bytes: usize, history: &History) -> Offer {
        let top = self.top();
        let Some(trail) = self.trail.as_mut().filter(|_| position >= self.base) else {
            if let Some(frame) = history.get(position).filter(|_| position >= self.base) {
                self.cross(&frame);
            }
            self.speed_up();
            return self.with_again(position, payload_bytes, history);
        };
        let ordered = self.leg.order == Order::Position;
        // The cursor may have passed what arrived with others and was not offered yet: nothing above it went out, on
        // whichever leg. What is below must not take the pace of what is new.
        if ordered && position >= top {
            trail.cursor = trail.cursor.min(position);
        }
        if ordered && position == trail.cursor && !trail.paced && trail.owed.is_empty() {
            trail.cursor += 1;
        } else if position >= trail.cursor {
            trail.owed.insert(position);
            return if ordered { Offer::Wake } else { Offer::Pass };
        } else if ordered {
            self.give_up(position, history.oldest().unwrap_or(0));
            return Offer::Wake;
        }
        if let Some(frame) = history.get(position) {
            self.cross(&frame);
        }
        self.note_late(position, history.oldest().unwrap_or(0));
        self.with_again(position, payload_bytes, history)
    }

    fn with_again(&mut self, position: u64, payload_bytes: usize, history: &History) -> Offer {
        match self.take_live(position, payload_bytes, history) {
            Offer::Take(take) => Offer::Take(Take { again: self.expected == NEVER, ..take }),
            offer => offer,
        }
    }

    /// Takes note of frames that it should have had and will not have.
    fn skip(&mut self, from: u64, count: u64) {
        if count > 0 {
            self.frames_skipped += count;
            let (first, untold) = self.untold.unwrap_or((from, 0));
            self.untold = Some((first.min(from), untold + count));
        }
    }

    /// Takes note of arrivals that the history lost before they were offered: what is from before it began is not missed.
    fn skip_gone(&mut self, arrivals: Range<u64>, history: &History) {
        let count = arrivals.end.saturating_sub(arrivals.start);
        // Who was away for days is behind by more than there is to look at.
        let logged = arrivals.start.max(history.first_arrival())..arrivals.end;
        let known = || logged.clone().filter_map(|at| history.position_of(at));
        let early = known().filter(|&position| position < self.base).count() as u64;
        let first = known().filter(|&position| position >= self.base).min();
        let first = first.filter(|_| known().count() as u64 == count);
        self.before_first += early;
        self.skip(first.unwrap_or_else(|| self.next_position()), count - early);
    }

    fn tell(&mut self) -> Option<Event> {
        let (from, count) = self.untold.take()?;
        Some(Event::FramesSkipped { listener: self.id, from, count })
    }

    /// One after the highest position handed out, or where it joined.
    fn next_position(&self) -> u64 {
        self.leg.rewrite.next_position().unwrap_or(self.base)
    }

    /// Arrivals no longer just pass through.
    fn slow_down(&mut self) {
        if self.expected != NEVER {
            self.cursor = self.expected;
            self.expected = NEVER;
        }
    }

    /// Arrivals just pass through, if there is nothing else to do.
    fn speed_up(&mut self) {
        let plain = self.leg.is_up()
            && self.joined
            && !self.paused
            && self.trail.is_none()
            && self.crossing.is_none()
            && self.untold.is_none()
            && self.second.as_ref().is_none_or(|second| second.trail.is_none());
        if plain && self.expected == NEVER {
            self.expected = self.cursor;
        }
    }

    /// Takes the new state of a leg; says which switch that ended.
    pub(crate) fn set_state(&mut self, leg: LegId, state: LegState, view: &View<'_>) -> Option<Event> {
        if leg != self.leg.id {
            return self.set_second_state(state, view);
        }
        let was_up = self.leg.is_up();
        self.leg.state = state;
        match (was_up, self.leg.is_up()) {
            (false, true) if !self.paused => {
                self.activate(view, None);
                self.go_on_switching(view)
            }
            (true, false) => {
                self.slow_down();
                self.go_on_switching(view)
            }
            _ => None,
        }
    }

    /// The packet of a frame that it took.
    #[inline]
    pub(crate) fn packet<'a>(&'a self, take: Take, frame: Frame<'a>) -> OutboundPacket<'a> {
        let second = self.second.as_ref().filter(|_| take.second);
        let leg = second.map_or(&self.leg, |second| &second.leg);
        leg.packet(self.id, take.index, take.replay, frame)
    }

    /// The sender report that is due on a leg, if any.
    pub(crate) fn sender_report(
        &mut self,
        leg: LegId,
        now: Instant,
        ntp: NtpTime,
        newest: (MediaTime, Instant),
    ) -> Option<rtcp::SenderReport> {
        let newest = Some(newest).filter(|_| self.crossing.is_none());
        let spent = self.second.as_ref().is_some_and(|second| second.spent && second.leg.id == leg);
        self.leg_mut(leg)?.sender_report(now, ntp, newest.filter(|_| !spent))
    }

    /// Takes what came back on a leg.
    pub(crate) fn feedback(
        &mut self,
        leg: LegId,
        ntp_now: NtpTime,
        feedback: Feedback,
        view: &View<'_>,
    ) -> Verdict {
        let Some(on) = self.leg_mut(leg) else { return Verdict::UnknownLeg };
        match feedback {
            Feedback::ReceiverReport(block) if block.ssrc == on.ssrc => {
                let received = on.reported(ntp_now, &block);
                self.acknowledge(received);
                if leg == self.leg.id {
                    self.note_tail(received, view);
                }
                Verdict::Accepted
            }
            Feedback::Nack(nack) if nack.media_ssrc == on.ssrc => {
                on.nacks += 1;
                on.nacked_packets += nack.sequences().count() as u64;
                self.repair(leg, nack, view);
                Verdict::Accepted
            }
            Feedback::Delivered(position) => {
                let before = self.acked;
                let received = self.delivered(position);
                self.acknowledge(received);
                received.into_iter().for_each(|received| self.note_delivered(received));
                if let Some(acked) = self.acked.filter(|_| self.acked > before) {
                    // All of it is there, so none of it need come again.
                    let second = self.second.as_mut().and_then(|second| second.trail.as_mut());
                    for trail in self.trail.as_deref_mut().into_iter().chain(second) {
                        trail.resend.start = trail.resend.start.max(acked + 1);
                    }
                }
                Verdict::Accepted
            }
            Feedback::ReceiverReport(_) | Feedback::Nack(_) => Verdict::WrongSsrc,
            Feedback::Bye => Verdict::Accepted,
            Feedback::SenderReport(_) => Verdict::WrongDirection,
        }
    }

    /// The last position that was handed out and is delivered. A far end may say more than it was handed: what it has
    /// from before it was resumed. After a new line that is of another track, or of before a pause, and says nothing.
    fn delivered(&self, position: u64) -> Option<u64> {
        let second = self.second.as_ref().and_then(|second| second.leg.rewrite.next_position());
        let last = self.leg.rewrite.next_position().max(second)?.saturating_sub(1);
        (position <= last || self.leg.rewrite.line() == 0).then(|| position.min(last))
    }

    /// The first position that the far end is not known to have, as far as `on` can tell. Who hears frames by their
    /// positions can tell a repeat and not a loss: to them all counts as missing that nothing was said of.
    fn unconfirmed(&self, on: &ListenerLeg) -> Option<u64> {
        let all = (on.order == Order::Position && self.joined).then_some(self.base);
        self.acked.map(|acked| acked + 1).or(all)
    }

    fn acknowledge(&mut self, received: Option<u64>) {
        self.acked = self.acked.max(received.filter(|&received| received >= self.base));
    }

    /// Notes what is asked for again and can be had, for the leg's turns to hand out.
    fn repair(&mut self, leg: LegId, nack: rtcp::Nack, view: &View<'_>) {
        let live = leg == self.leg.id;
        if self.paused || !live && self.second.as_ref().is_none_or(|second| second.spent) {
            return;
        }
        for sequence in nack.sequences() {
            let Some(on) = self.leg_ref(leg).filter(|on| on.is_up() && on.order == Order::Arrival) else {
                return;
            };
            let Some(position) = on.rewrite.position(sequence) else { continue };
            if !self.is_settled(position, view) || !live && !self.second_had(position) {
                continue;
            }
            let Some(on) = self.leg_mut(leg) else { return };
            let round_trip = on.report.and_then(|report| report.round_trip);
            on.repair.get_or_insert_with(|| Box::new(Repair::new())).ask(view.now, position, round_trip);
        }
    }

    fn leg_mut(&mut self, leg: LegId) -> Option<&mut ListenerLeg> {
        if leg == self.leg.id {
            return Some(&mut self.leg);
        }
        self.second.as_mut().map(|second| &mut second.leg).filter(|second| second.id == leg)
    }

    fn leg_ref(&self, leg: LegId) -> Option<&ListenerLeg> {
        let second = self.second.as_ref().map(|second| &second.leg);
        Some(&self.leg).into_iter().chain(second).find(|of| of.id == leg)
    }

    /// Does what is due on a leg.
    pub(crate) fn turn(&mut self, leg: LegId, view: &View<'_>) -> Turn {
        if leg == self.leg.id { self.turn_live(view) } else { self.turn_second(view) }
    }

    /// Its legs, and when something is to be done on each.
    pub(crate) fn wakes(&mut self, view: &View<'_>) -> [Option<(LegId, Option<Instant>)>; 2] {
        let live = (self.leg.id, self.wake_live(view));
        let wake = self.wake_second(view);
        let second = self.second.as_ref().map(|second| (second.leg.id, wake));
        [Some(live), second]
    }

    /// What a due time of a leg is for.
    pub(crate) fn reason(&self, leg: LegId) -> Reason {
        if leg == self.leg.id { self.reason_live() } else { Reason::Replay(leg) }
    }

    pub(crate) const fn id(&self) -> ListenerId {
        self.id
    }

    /// The leg that it is sent on.
    pub(crate) const fn leg(&self) -> LegId {
        self.leg.id
    }

    /// Its other leg.
    pub(crate) fn second(&self) -> Option<LegId> {
        self.second.as_ref().map(|second| second.leg.id)
    }

    pub(crate) const fn track(&self) -> TrackId {
        self.track
    }

    /// As seen from a leg; as a whole without one.
    pub(crate) fn stats(&self, of: Option<LegId>) -> Option<ListenerStats> {
        let leg = of.map_or(Some(&self.leg), |leg| self.leg_ref(leg))?;
        let other = if leg.id == self.leg.id { self.second() } else { Some(self.leg.id) };
        let second = self.second.as_ref().filter(|_| of.is_none()).map(|second| &second.leg);
        let past = if of.is_none() { self.past } else { (0, 0) };
        Some(ListenerStats {
            track: self.track,
            leg: leg.id,
            second: other,
            state: leg.state,
            ssrc: leg.ssrc,
            packets_out: leg.packets_out + second.map_or(0, |second| second.packets_out) + past.0,
            payload_bytes_out: leg.payload_bytes_out
                + second.map_or(0, |second| second.payload_bytes_out)
                + past.1,
            next_position: leg.rewrite.next_position(),
            frames_skipped: self.frames_skipped,
            before_first: self.before_first,
            report: leg.report,
            nacks: leg.nacks,
            nacked_packets: leg.nacked_packets,
            acked: self.acked,
            unconfirmed: self.unconfirmed(leg),
            replayed: self.replayed,
            paused: self.paused,
        })
    }
}

/// No arrival is this one.
const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listener_owns_for_a_while_costs_what_the_config_says() {
        assert!(size_of::<Second>() <= 512, "{}", size_of::<Second>());
        assert!(size_of::<Trail>() + size_of::<Crossing>() <= 200, "{}", size_of::<Trail>());
        assert!(size_of::<Ledger>() <= 128, "{}", size_of::<Ledger>());
        assert!(size_of::<tail::Tail>() <= 32, "{}", size_of::<tail::Tail>());
        const { assert!(repair::MEMORY <= 2_048) };
    }
}
