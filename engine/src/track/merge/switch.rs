//! Which leg leads, and when the other one is spent.

use std::time::Instant;

use super::super::lane::Bond;
use super::super::timeline::Timeline;
use super::{LEAD, Merge, SECOND, Wait};
use crate::id::LegId;
use crate::io::{Event, LegState, SwitchError};

/// A switch that the owner asked for and that is not over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) from: LegId,
    pub(super) to: LegId,
    /// The first position that is the new leg's; `None` until that one has brought anything.
    position: Option<u64>,
    since: Instant,
    /// When the new leg had brought everything up to the cut.
    reached: Option<Instant>,
}

impl Merge {
    /// Moves to a leg. The other one is spent when this one has brought all from here on.
    pub(crate) fn switch(
        &mut self,
        now: Instant,
        to: LegId,
        timeline: &mut Timeline,
    ) -> Result<(), SwitchError> {
        let slot = self.slot(to).ok_or(SwitchError::UnknownLeg(to))?;
        let other = self.lanes[1 - slot].as_ref().map(|lane| lane.leg);
        let from = other.ok_or(SwitchError::OnlyLeg(to))?;
        if self.lane(slot).state != LegState::Up {
            return Err(SwitchError::NotUp(to));
        }
        if self.cut.is_none_or(|cut| cut.to != to) && !(slot == LEAD && self.spent == Some(from)) {
            self.cut = Some(Cut { from, to, position: None, since: now, reached: None });
            // It may have led again since it was told of, and is spent still.
            self.spent = self.spent.filter(|&spent| spent == from);
        }
        self.progress(now, timeline);
        Ok(())
    }

    /// What follows from something having changed.
    pub(super) fn progress(&mut self, now: Instant, timeline: &mut Timeline) {
        // The other leg may have filled a hole, or gone on, with what the leading one holds.
        self.recognise(now, LEAD, timeline);
        self.advance_second(now, timeline);
        if let Some(cut) = self.cut {
            self.advance_cut(now, cut, timeline);
        }
    }

    /// Places what the second leg held and that waits for nothing any more; drops what the leading leg has covered.
    fn advance_second(&mut self, now: Instant, timeline: &mut Timeline) {
        let Some(second) = self.lanes[SECOND].as_ref() else { return };
        let leg = second.leg;
        if let Bond::Apart(_) = second.bond {
            self.recognise(now, SECOND, timeline);
            self.forget_covered(SECOND, Some(now), timeline);
        }
        while let Some(lane) = self.lanes[SECOND].as_mut().filter(|lane| lane.leg == leg && lane.is_aligned())
        {
            if lane.held.front().is_none_or(|(position, _)| position > timeline.next_position()) {
                return;
            }
            if let Some(frame) = lane.held.pop() {
                self.place(now, SECOND, frame, timeline, false);
            }
        }
    }

    /// What the second leg has held for the path skew is placed, or spliced to.
    pub(super) fn give_up(&mut self, now: Instant, timeline: &mut Timeline) {
        while let Some(second) = self.lanes[SECOND].as_ref() {
            let over = second.held.since().filter(|&since| now.saturating_duration_since(since) >= self.skew);
            let Some(since) = over else { return };
            if let Bond::Apart(_) = second.bond {
                self.forget_covered(SECOND, Some(now), timeline);
                if self.lane(SECOND).held.since() == Some(since) {
                    self.lead_second(now, timeline);
                }
            } else if self.lanes[LEAD].as_ref().is_none_or(|lead| lead.heard < Some(since)) {
                self.lead_second(now, timeline);
            } else if let Some(frame) = self.lane_mut(SECOND).held.pop() {
                self.place(now, SECOND, frame, timeline, false);
            }
        }
    }

    /// The second leg leads from now on.
    pub(super) fn lead_second(&mut self, now: Instant, timeline: &mut Timeline) {
        if self.lanes[SECOND].is_none() {
            return;
        }
        if let Bond::Apart(_) = self.lane(SECOND).bond {
            // A splice: what the other one sends from here on is not on the timeline.
            let end = timeline.next_position();
            if let Some(source) = self.lanes[LEAD].as_mut().and_then(|lead| lead.source.as_mut()) {
                source.end_at(end);
            }
        }
        self.lanes.swap(LEAD, SECOND);
        self.leads_now(now, timeline);
    }

    /// Lane 0 has come to lead.
    pub(super) fn leads_now(&mut self, now: Instant, timeline: &mut Timeline) {
        self.wait = None;
        let Some(lead) = self.lanes[LEAD].as_mut() else { return };
        match lead.bond {
            Bond::Aligned => {
                // The other one led meanwhile, and brought nothing that was placed.
                let (line, _) = timeline.line(timeline.next_position().saturating_sub(1));
                lead.source.as_mut().into_iter().for_each(|source| source.reopen(line));
                self.release(now, LEAD, timeline);
            }
            Bond::Apart(_) => {
                self.wait = Some(Wait { until: now + self.skew, probe: false, longer: false });
                self.splice(now, timeline);
            }
            Bond::Fresh => {}
        }
    }

    fn advance_cut(&mut self, now: Instant, cut: Cut, timeline: &mut Timeline) {
        let silent = self.silent_from(cut).is_some_and(|silent| now >= silent);
        let brought = self.slot(cut.to).is_some_and(|slot| !matches!(self.lane(slot).bond, Bond::Fresh));
        if !(brought || silent) {
            return;
        }
        if self.slot(cut.to) == Some(SECOND) {
            if cut.position.is_some() {
                // The new leg fell silent, and the old one leads again: the switch begins anew.
                self.cut = Some(Cut { position: None, reached: None, since: now, ..cut });
                return;
            }
            // The frame that is missing where the cut would be may be on its way, or proof that both legs bring the
            // same: the old leg goes on meanwhile.
            // Time is over when the new leg brings something, and that is late; while it brings nothing, it rests.
            let second = self.lane(SECOND);
            let apart = matches!(second.bond, Bond::Apart(_));
            let over = self.is_over(now) && second.heard == Some(now);
            if over && second.is_apart_by_arrival() && second.held.len() > 0 {
                // What it holds is as good as any, and follows at the end.
                self.lanes.swap(LEAD, SECOND);
                self.wait = Some(Wait { until: now, probe: false, longer: false });
                self.start(now, timeline);
            } else {
                // What it holds from beyond the end is reached by then.
                let over = over && !self.goes_beyond_the_end(SECOND, timeline);
                let patient = self.lead_is_live(now) && !over;
                if patient && apart && !self.reaches_the_end(timeline) {
                    return;
                }
                self.lead_second(now, timeline);
            }
        }
        let Some(cut) = &mut self.cut else { return };
        let position = *cut.position.get_or_insert_with(|| timeline.next_position());
        let (to, reached_at) = (cut.to, cut.reached);
        let Some(lead) = self.lanes[LEAD].as_ref().filter(|lead| lead.leg == to) else {
            self.cut = None;
            return;
        };
        let reached = lead.is_aligned() && lead.reached >= position;
        if reached && reached_at.is_none() {
            self.cut = self.cut.map(|cut| Cut { reached: Some(now), ..cut });
        }
        let since = self.cut.and_then(|cut| cut.reached);
        let waited = since.is_some_and(|since| now.saturating_duration_since(since) >= self.skew);
        let whole = reached && timeline.edge() >= position;
        // What the new leg has brought may be on its way on the old one for the path skew: a rest is no silence.
        if whole || waited || silent && !reached {
            self.end_cut(position, timeline);
        }
    }

    /// Whether a switch has waited for the path skew for where it would not be heard.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.cut.is_some_and(|cut| now.saturating_duration_since(cut.since) >= self.skew)
    }

    fn end_cut(&mut self, position: u64, timeline: &Timeline) {
        let Some(cut) = self.cut.take() else { return };
        let gap_frames = timeline.holes(timeline.edge(), position);
        if self.spent.replace(cut.from) == Some(cut.from) {
            return;
        }
        self.event = Some(Event::LegSpent { leg: cut.from, to: cut.to, position, replayed: 0, gap_frames });
    }

    /// When the leg that is left has been silent for the path skew: nothing of it is on its way.
    fn silent_from(&self, cut: Cut) -> Option<Instant> {
        let from = self.lanes.iter().flatten().find(|lane| lane.leg == cut.from)?;
        Some(from.heard.map_or(cut.since, |heard| heard.max(cut.since)) + self.skew)
    }

    /// When the cut has to be looked at again.
    pub(super) fn cut_due(&self) -> Option<Instant> {
        let cut = self.cut?;
        cut.reached.map(|reached| reached + self.skew).or_else(|| self.silent_from(cut))
    }
}
