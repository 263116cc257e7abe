//! When what is to be sent: a 20 ms grid that does not move, however late somebody is.
//!
//! Pure. The time that goes into a packet is the grid's, so that a tester that falls behind shows as latency, not as a pause
//! that nobody sees (coordinated omission). What is overdue is sent at once, in order.

/// One frame.
pub(crate) const FRAME_NS: u64 = 20_000_000;

/// The frames of all publishers, each on its own phase of the grid.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    start_ns: u64,
    publishers: u64,
    /// Sends handed out so far, over all publishers.
    next: u64,
}

/// One send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) publisher: usize,
    pub(crate) number: u64,
    pub(crate) at_ns: u64,
}

impl Grid {
    /// Publishers begin one after another within the first frame.
    pub(crate) fn new(start_ns: u64, publishers: usize) -> Self {
        Self { start_ns, publishers: publishers.max(1) as u64, next: 0 }
    }

    /// The next send, whether it is time or not.
    pub(crate) fn peek(&self) -> Due {
        let (number, publisher) = (self.next / self.publishers, self.next % self.publishers);
        let phase = FRAME_NS * publisher / self.publishers;
        Due { publisher: publisher as usize, number, at_ns: self.start_ns + number * FRAME_NS + phase }
    }

    /// The next send if it is due.
    pub(crate) fn pop(&mut self, now_ns: u64) -> Option<Due> {
        let due = self.peek();
        if due.at_ns > now_ns {
            return None;
        }
        self.next += 1;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn each_publisher_has_a_frame_every_20_ms_and_none_at_the_same_time() {
        let mut grid = Grid::new(1_000 * MS, 4);
        assert_eq!(grid.pop(1_000 * MS - 1), None);
        let sent: Vec<Due> = std::iter::from_fn(|| grid.pop(1_039 * MS)).collect();
        let at: Vec<_> = sent.iter().map(|due| (due.publisher, due.number, due.at_ns / MS)).collect();
        let first = (0..4).map(|n| (n as usize, 0, 1_000 + 5 * n));
        let second = (0..4).map(|n| (n as usize, 1, 1_020 + 5 * n));
        assert_eq!(at, first.chain(second).collect::<Vec<_>>());
        assert_eq!(grid.peek().at_ns, 1_040 * MS);
    }

    #[test]
    fn being_late_moves_nothing() {
        let mut grid = Grid::new(0, 1);
        assert_eq!(grid.pop(0).unwrap().number, 0);
        let late: Vec<u64> = std::iter::from_fn(|| grid.pop(105 * MS)).map(|due| due.at_ns / MS).collect();
        assert_eq!(late, [20, 40, 60, 80, 100], "all that is overdue, with the times it was due");
        assert_eq!(grid.peek().at_ns, 120 * MS);
    }

    #[test]
    fn without_publishers_it_still_has_a_time() {
        assert_eq!(Grid::new(5, 0).peek(), Due { publisher: 0, number: 0, at_ns: 5 });
    }
}
