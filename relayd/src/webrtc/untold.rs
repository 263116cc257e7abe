//! What the media plane is still to be told of the path to a listener.
//!
//! Its queue may be full while it is held up. The connection plane waits for nobody, so what was not taken is offered again
//! until it is; what comes meanwhile is joined with it. Invariant: once all is told, the media plane's idea of the
//! leg is the connection's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use relay_engine::LegId;

use crate::shard::Shards;

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// Where the listener is now, which says that it is there, too.
    path: Option<SocketAddr>,
    returned: bool,
    down: bool,
    again: Option<Instant>,
}

impl Untold {
    /// The listener is somewhere else.
    pub(super) fn moved(&mut self, path: SocketAddr) {
        (self.path, self.returned, self.down) = (Some(path), false, false);
    }

    /// The listener is there again.
    pub(super) fn returned(&mut self) {
        (self.returned, self.down) = (self.path.is_none(), false);
    }

    /// The listener is not heard of any more.
    pub(super) fn down(&mut self) {
        (self.returned, self.down) = (false, true);
    }

    /// The listener's path is another's: what was to be told of it is not true any more.
    pub(super) fn lost(&mut self) {
        self.path = None;
        self.down();
    }

    /// Tells what there is, as far as it is taken.
    pub(super) fn tell(&mut self, now: Instant, shard: &Shards, leg: LegId) {
        self.path.take_if(|path| shard.leg_path(leg, *path));
        if self.path.is_none() {
            self.returned = self.returned && !shard.leg_returned(leg);
            self.down = self.down && !shard.leg_down(leg);
        }
        let left = self.path.is_some() || self.returned || self.down;
        self.again = left.then_some(now + AGAIN);
    }

    /// When to tell it again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again
    }
}

/// How soon what was not taken is offered again.
const AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webrtc::test_support;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn what_a_stalled_shard_does_not_take_is_told_until_it_does() {
        let ((shard, take), (leg, _)) = (Shards::stalled(1), test_support::leg());
        let (now, mut untold) = (Instant::now(), Untold::default());
        untold.tell(now, &shard, leg);
        assert_eq!((untold.deadline(), take()), (None, None), "nothing to say");
        assert!(shard.publisher_up(leg), "the queue is full");
        for change in [Untold::down as fn(&mut Untold), Untold::returned, |untold| untold.moved(address(1))] {
            change(&mut untold);
            untold.tell(now, &shard, leg);
            assert_eq!(untold.deadline(), Some(now + AGAIN));
        }
        // As it is now, and not each of the steps.
        untold.moved(address(2));
        untold.down();
        let mut told = Vec::new();
        while let Some(command) = take() {
            told.push(command);
            untold.tell(now, &shard, leg);
        }
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[1].contains("LegPath") && told[1].contains("192.0.2.1:2"), "{told:?}");
        assert!(told[2].contains("LegDown"), "{told:?}");
        assert_eq!(untold.deadline(), None);
    }

    #[test]
    fn who_comes_back_before_it_was_told_that_they_had_gone_is_sent_what_they_missed() {
        let ((shard, take), (leg, _)) = (Shards::stalled(4), test_support::leg());
        let mut untold = Untold::default();
        untold.down();
        untold.returned();
        untold.tell(Instant::now(), &shard, leg);
        assert!(take().unwrap().contains("LegReturned"));
        assert_eq!((take(), untold.deadline()), (None, None));
        untold.moved(address(1));
        untold.returned();
        untold.tell(Instant::now(), &shard, leg);
        assert!(take().unwrap().contains("LegPath"));
        assert_eq!(take(), None, "which says it, too");
    }

    #[test]
    fn a_path_that_is_lost_before_it_was_told_is_told_no_more() {
        let ((shard, take), (leg, _)) = (Shards::stalled(4), test_support::leg());
        let mut untold = Untold::default();
        untold.moved(address(1));
        untold.lost();
        untold.tell(Instant::now(), &shard, leg);
        assert!(take().unwrap().contains("LegDown"));
        assert_eq!((take(), untold.deadline()), (None, None));
    }

    #[test]
    fn a_shard_that_has_ended_is_told_nothing_more() {
        let ((shard, take), (leg, _)) = (Shards::stalled(1), test_support::leg());
        drop(take);
        let mut untold = Untold::default();
        untold.moved(address(1));
        untold.tell(Instant::now(), &shard, leg);
        assert_eq!(untold.deadline(), None);
    }
}
