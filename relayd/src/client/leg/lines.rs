//! From packets to positions: the lines that the relay announces for a connection.
//!
//! A line says which position and media time a sequence number and timestamp stand for; from there on they go on
//! together. After a break another line begins, on the same stream. Invariant: at most [`MAX_LINES`] are kept.

/// A line, as announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    pub ssrc: u32,
    pub sequence: u16,
    pub position: u64,
    pub timestamp: u32,
    pub media_time: u64,
}

/// Lines kept: packets of older ones are minutes old.
const MAX_LINES: usize = 8;

/// The lines of one connection.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Vec<Line>,
    /// A break has begun: packets after this one may be of a line that is not announced yet.
    over: Option<u64>,
    /// The newest packet placed.
    newest: u64,
}

#[derive(Debug)]
struct Line {
    anchor: Anchor,
    /// Its sequence number as the receiver extends it; found with the first packet.
    first: Option<u64>,
}

impl Lines {
    /// A line begins. Returns its position if it is news.
    pub(super) fn add(&mut self, anchor: Anchor) -> Option<u64> {
        self.over = None;
        if self.lines.iter().any(|line| line.anchor == anchor) {
            return None;
        }
        self.lines.push(Line { anchor, first: None });
        if self.lines.len() > MAX_LINES {
            self.lines.remove(0);
        }
        Some(anchor.position)
    }

    /// A break begins: what comes next may be on another line.
    pub(super) fn handle_pause(&mut self) {
        self.over = Some(self.newest);
    }

    /// The break is over, and no other line was announced for long: it is the same one.
    pub(super) fn go_on(&mut self) {
        self.over = None;
    }

    /// Whether any line is known.
    pub(super) fn is_known(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Position and media time of a packet, if its line is known.
    pub(super) fn place(&mut self, ssrc: u32, sequence: u64, timestamp: u32) -> Option<(u64, u64)> {
        let place = self.find(ssrc, sequence, timestamp)?;
        self.newest = self.newest.max(sequence);
        Some(place)
    }

    fn find(&mut self, ssrc: u32, sequence: u64, timestamp: u32) -> Option<(u64, u64)> {
        if self.over.is_some_and(|last| sequence > last) {
            return None;
        }
        for line in self.lines.iter_mut().rev().filter(|line| line.anchor.ssrc == ssrc) {
            let Anchor { sequence: start, position, timestamp: from, media_time, .. } = line.anchor;
            // RFC 1982: the nearest number with these sixteen bits.
            let distance = i64::from((sequence as u16).wrapping_sub(start) as i16);
            let first = match line.first {
                Some(first) => first,
                None => *line.first.insert(sequence.checked_add_signed(-distance)?),
            };
            if sequence >= first {
                let passed = i64::from(timestamp.wrapping_sub(from) as i32);
                return Some((
                    position.checked_add(sequence - first)?,
                    media_time.checked_add_signed(passed)?,
                ));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(sequence: u16, position: u64) -> Anchor {
        Anchor { ssrc: 1, sequence, position, timestamp: u32::MAX - 959, media_time: position * 960 }
    }

    #[test]
    fn packets_have_the_position_of_their_line_over_wraps() {
        let mut lines = Lines::default();
        assert_eq!(lines.place(1, 65_534, 5), None);
        assert_eq!(lines.add(anchor(65_534, 100)), Some(100));
        assert_eq!(lines.add(anchor(65_534, 100)), None);
        for step in 0..200_000_u64 {
            let timestamp = (u32::MAX - 959).wrapping_add(960_u32.wrapping_mul(step as u32));
            let media_time = (100 + step) * 960;
            if step < 2_000_000 / 960 {
                assert_eq!(lines.place(1, 65_534 + step, timestamp), Some((100 + step, media_time)));
            } else {
                assert_eq!(lines.place(1, 65_534 + step, timestamp).unwrap().0, 100 + step);
            }
        }
        assert_eq!(lines.place(2, 65_540, 0), None, "another stream");
    }

    #[test]
    fn a_line_at_the_end_of_all_numbers_places_nothing_beyond_it() {
        let mut lines = Lines::default();
        lines.add(Anchor { media_time: u64::MAX, position: u64::MAX, ..anchor(10, 0) });
        assert_eq!(lines.place(1, 11, 0), None);
        assert_eq!(lines.place(1, 10, u32::MAX - 959), Some((u64::MAX, u64::MAX)));
    }

    #[test]
    fn a_line_may_be_announced_after_packets_of_it() {
        let mut lines = Lines::default();
        lines.add(anchor(10, 100));
        assert_eq!(lines.place(1, 12, 0).unwrap().0, 102);
        assert_eq!(lines.place(1, 9, 0), None, "before the line");
        assert_eq!(lines.place(1, 10, 0).unwrap().0, 100);
    }

    #[test]
    fn after_a_break_packets_wait_for_their_line() {
        let mut lines = Lines::default();
        lines.add(anchor(10, 100));
        lines.place(1, 20, 0);
        lines.handle_pause();
        assert_eq!(lines.place(1, 19, 0).unwrap().0, 109, "sent before the break");
        assert_eq!(lines.place(1, 21, 0), None);
        lines.add(anchor(21, 500));
        assert_eq!(lines.place(1, 21, 0).unwrap().0, 500);
        assert_eq!(lines.place(1, 18, 0).unwrap().0, 108);
        lines.handle_pause();
        assert_eq!(lines.place(1, 22, 0), None);
        lines.go_on();
        assert_eq!(lines.place(1, 22, 0).unwrap().0, 501);
    }
}
