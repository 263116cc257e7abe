//! One world with many listeners: what a million small ones cannot show.

use std::time::Duration;

use super::script::{Acks, Action, Clock, Hear, Kind, ListenerPlan, Script, Slot, Speak, Terms, TrackPlan};
use crate::link::{GilbertElliott, LinkSpec};

impl Script {
    /// One speaker and so many listeners, on paths that lose 2 %, reorder and duplicate: so many switches of the speaker,
    /// and as many of the listeners in turn, one every 60 ms each.
    #[must_use]
    pub fn thousand_switches(seed: u64, listeners: usize, switches: u32) -> Self {
        const EVERY: Duration = Duration::from_millis(60);
        let bad = |delay| {
            let link = LinkSpec::perfect().delay(Duration::from_millis(delay));
            let link = link.loss(GilbertElliott::independent(0.02));
            link.reorder(0.05, Duration::from_millis(30)).duplicate(0.02, Duration::from_millis(30))
        };
        // The speaker's own paths lose nothing that the other leg does not bring: what is lost there is lost.
        let whole = |delay| {
            let link = LinkSpec::perfect().delay(Duration::from_millis(delay));
            link.reorder(0.05, Duration::from_millis(30)).duplicate(0.02, Duration::from_millis(30))
        };
        let mut actions = vec![
            (Duration::ZERO, Action::Speak(0, Speak::Open(whole(20), false))),
            (Duration::ZERO, Action::Speak(0, Speak::Up(Slot::Old))),
        ];
        for listener in 0..listeners {
            actions.push((Duration::ZERO, Action::Hear(listener, Hear::Join(false))));
            actions.push((Duration::ZERO, Action::Hear(listener, Hear::Up(Slot::Old))));
        }
        for n in 0..switches {
            let at = Duration::from_secs(1) + EVERY * n * 4;
            let delay = 10 + u64::from(n % 5) * 10;
            actions.push((at, Action::Speak(0, Speak::Open(whole(delay), false))));
            actions.push((at, Action::Speak(0, Speak::Up(Slot::New))));
            actions.push((at + EVERY, Action::Speak(0, Speak::Switch)));
            let listener = n as usize % listeners;
            actions.push((at, Action::Hear(listener, Hear::Add)));
            actions.push((at + EVERY / 2, Action::Hear(listener, Hear::Up(Slot::New))));
            actions.push((at + EVERY, Action::Hear(listener, Hear::Switch)));
        }
        actions.sort_by_key(|(at, _)| *at);
        let calm = Duration::from_secs(2) + EVERY * switches * 4;
        let plan =
            ListenerPlan { ordered: false, live: false, acks: Acks::Contiguous, link: bad(20), track: 0 };
        let terms = Terms {
            history_frames: 3_000,
            history: Duration::from_secs(30),
            replay_rate: 4,
            resend_rate: 32,
            replay_burst: 10,
            hole_patience: Duration::from_millis(450),
            path_skew: Duration::from_millis(450),
        };
        let track =
            TrackPlan { kind: Kind::Twin, clock: Clock::Capture, frame_ticks: 960, clean: false, rest: 0.0 };
        let end = calm + Duration::from_secs(8);
        Self {
            seed,
            terms,
            tracks: vec![track],
            listeners: vec![plan; listeners],
            actions,
            calm,
            end,
            fed: false,
        }
    }
}
