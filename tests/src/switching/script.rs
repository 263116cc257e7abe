//! What happens in a world of switches, generated from a seed: small, so that a million of them can be run.
//!
//! A script is made before its world starts, so that it can be printed and cut down by hand. Legs go by their place,
//! [`Slot::Old`] or [`Slot::New`]; what happens to one that is not there is nothing. Sequences are drawn one after the
//! other for each speaker and listener, and overlap by chance: that is what two at once means.
//!
//! Kept from happening, because no relay could make it good: legs of one speaker that are further apart than the path
//! skew.

use std::time::Duration;

use relay_engine::Config;

use crate::link::{GilbertElliott, LinkSpec};

/// One world's script.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Where it comes from.
    pub seed: u64,
    /// What the relay is configured with.
    pub terms: Terms,
    /// Each track and its speaker.
    pub tracks: Vec<TrackPlan>,
    /// Each listener.
    pub listeners: Vec<ListenerPlan>,
    /// What happens when, in order of time.
    pub actions: Vec<(Duration, Action)>,
    /// When all troubles end: legs come up, paths are perfect, and half a second later speakers stop.
    pub calm: Duration,
    /// When the world ends.
    pub end: Duration,
    /// Whether listeners are at a second relay, which the speakers' one feeds.
    pub fed: bool,
}

/// The relay's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Positions that a history spans.
    pub history_frames: usize,
    /// Age of the frames that a history keeps.
    pub history: Duration,
    /// Pace of a replay, times real time.
    pub replay_rate: u32,
    /// Times real time, of frames that were handed out before on the leg.
    pub resend_rate: u32,
    /// Frames of a replay at once.
    pub replay_burst: u32,
    /// How long an ordered leg waits for a hole.
    pub hole_patience: Duration,
    /// How far one leg of a speaker may lag behind the other.
    pub path_skew: Duration,
}

/// A track and its speaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackPlan {
    /// What two legs of the speaker have in common.
    pub kind: Kind,
    /// By what legs can be aligned.
    pub clock: Clock,
    /// Duration of each frame: 960 or 2880.
    pub frame_ticks: u32,
    /// Paths have a constant delay and nothing else, so that every splice must be seamless.
    pub clean: bool,
    /// Probability per frame of a silence.
    pub rest: f64,
}

/// What two legs of a speaker have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The transport carries positions.
    Carried,
    /// The same frames under the same SSRC: one RTP stream on two paths.
    SameSource,
    /// The same frames under each leg's own SSRC.
    Twin,
    /// Each leg has an encoder of its own.
    Separate,
}

/// What legs tell of their clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Capture times in every packet.
    Capture,
    /// Sender reports.
    Report,
    /// Nothing.
    Arrival,
}

/// A listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerPlan {
    /// Its legs are ordered and reliable while they are up; else they are RTP.
    pub ordered: bool,
    /// Its legs go on at the live edge when they return.
    pub live: bool,
    /// What it acknowledges.
    pub acks: Acks,
    /// The way to an RTP listener.
    pub link: LinkSpec,
    /// The track it begins on.
    pub track: usize,
}

/// What a listener acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// What it has without a hole: clients that want everything.
    Contiguous,
    /// The highest that it has: receiver reports of a browser.
    Highest,
    /// Nothing.
    Never,
}

/// Which of two legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The one that was opened first, or the only one.
    Old,
    /// The one that was opened last, if there are two.
    New,
}

/// What a speaker does, or what is done to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Speak {
    /// Opens a leg over this path; `true`: as another owner, with a higher epoch and an encoder of its own.
    Open(LinkSpec, bool),
    /// A leg comes up, and its speaker sends on it.
    Up(Slot),
    /// A leg is lost; what is on the way is lost with it.
    Down(Slot),
    /// A leg's path loses everything for so long, and nobody is told.
    Black(Slot, Duration),
    /// A leg is closed by its speaker.
    Close(Slot),
    /// A leg sends again what the relay has not acknowledged, from so many frames before, four times as fast.
    Resend(Slot, u32),
    /// The relay is told to move to the leg that was opened last.
    Switch,
    /// Nothing is said for so many frames.
    Rest(u32),
}

/// What a listener does, or what is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hear {
    /// Comes, with one leg; `true`: from after what it has, else at the live edge.
    Join(bool),
    /// Opens a second leg.
    Add,
    /// A leg comes up.
    Up(Slot),
    /// A leg is lost; what is on the way is lost with it.
    Down(Slot),
    /// The relay is told to move to the leg that was opened last.
    Switch,
    /// A leg is closed.
    Close(Slot),
    /// Leaves.
    Leave,
    /// Chooses another track.
    Select(usize),
    /// Wants nothing for now.
    Pause,
    /// Wants to hear again.
    Resume,
    /// The relay is told that its path changed: whatever is not acknowledged is handed out again.
    Replay,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To the speaker of a track.
    Speak(usize, Speak),
    /// To a listener.
    Hear(usize, Hear),
    /// The next so many calls are told an older time.
    Lag(u8, Duration),
}

impl Script {
    /// The world of a seed.
    #[must_use]
    pub fn generate(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x0051_7c05);
        let long = random.u8(0..24) == 0;
        let calm = if long { random.u64(30_000..50_000) } else { random.u64(2_000..7_000) };
        let calm = Duration::from_millis(calm);
        let tracks = if random.u8(0..3) == 0 { 2 } else { 1 };
        let mut maker = Maker { random, calm, long, actions: Vec::new() };
        let terms = maker.terms();
        let tracks: Vec<TrackPlan> = (0..tracks).map(|track| maker.track(track)).collect();
        let listeners = maker.random.usize(1..=3);
        let listeners = (0..listeners).map(|listener| maker.listener(listener, tracks.len())).collect();
        maker.lags();
        let mut actions = maker.actions;
        actions.sort_by_key(|(at, _)| *at);
        // What a short history no longer has cannot be lined up with what is sent again.
        let reaches = terms.history_frames >= 500 && terms.history >= Duration::from_secs(30);
        let again = |action: &Action| matches!(action, Action::Speak(_, Speak::Resend(..)));
        actions.retain(|(at, action)| *at < calm && (reaches || !again(action)));
        let end = calm + Duration::from_secs(if long { 22 } else { 6 });
        Self { seed, terms, tracks, listeners, actions, calm, end, fed: false }
    }

    /// The same with the listeners at a second relay, which the speakers' one feeds.
    #[must_use]
    pub fn fed(self) -> Self {
        Self { fed: true, ..self }
    }

    /// The same without what befalls listeners (`speakers`), or without what befalls speakers, but that they begin.
    #[must_use]
    pub fn only(mut self, speakers: bool) -> Self {
        let mut begun = Vec::new();
        self.actions.retain(|(_, action)| match action {
            Action::Speak(track, what) => {
                let begins = matches!(what, Speak::Open(..) | Speak::Up(_)) && !begun.contains(track);
                if matches!(what, Speak::Up(_)) {
                    begun.push(*track);
                }
                speakers || begins
            }
            Action::Hear(..) => {
                !speakers || matches!(action, Action::Hear(_, Hear::Join(_) | Hear::Up(Slot::Old)))
            }
            Action::Lag(..) => true,
        });
        self
    }

    /// The relay's configuration.
    pub(crate) fn config(&self) -> Config {
        let terms = self.terms;
        Config::new()
            .history_frames(terms.history_frames)
            .history_duration(terms.history)
            .replay_rate(terms.replay_rate)
            .resend_rate(terms.resend_rate)
            .replay_burst(terms.replay_burst)
            .hole_patience(terms.hole_patience)
            .path_skew(terms.path_skew)
            .max_packet_rate(500)
    }
}

struct Maker {
    random: fastrand::Rng,
    calm: Duration,
    long: bool,
    actions: Vec<(Duration, Action)>,
}

impl Maker {
    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.random.u64(from * 1_000..to * 1_000))
    }

    fn chance(&mut self, one_in: u8) -> bool {
        self.random.u8(0..one_in) == 0
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.usize(0..choices.len())]
    }

    fn terms(&mut self) -> Terms {
        let wide = self.random.u8(0..4) > 0;
        let history_frames = if wide { 3_000 } else { self.one_of(&[40, 100, 500]) };
        let history = Duration::from_millis(if wide { 30_000 } else { self.one_of(&[1_000, 3_000, 30_000]) });
        let replay_rate = self.one_of(&[4, 4, 4, 2, 10]);
        let (replay_burst, resend_rate) = self.one_of(&[(10, 32), (10, 32), (1, 8), (50, 100)]);
        Terms {
            history_frames,
            history,
            replay_rate,
            resend_rate,
            replay_burst,
            hole_patience: Duration::from_millis(self.one_of(&[450, 450, 100])),
            path_skew: Duration::from_millis(450),
        }
    }

    fn track(&mut self, track: usize) -> TrackPlan {
        let kind = self.one_of(&[Kind::Carried, Kind::SameSource, Kind::Twin, Kind::Twin, Kind::Separate]);
        let clock = match kind {
            Kind::Twin => Clock::Capture,
            _ => self.one_of(&[Clock::Capture, Clock::Report, Clock::Arrival]),
        };
        let plan = TrackPlan {
            kind,
            clock,
            frame_ticks: if self.long { 2_880 } else { 960 },
            clean: self.chance(3),
            rest: if self.chance(4) { 0.02 } else { 0.0 },
        };
        let begins = if self.chance(4) { self.millis(0, 800) } else { Duration::ZERO };
        let link = self.path(plan.clean);
        self.speak(begins, track, Speak::Open(link, false));
        self.speak(begins, track, Speak::Up(Slot::Old));
        let mut at = begins + self.millis(200, 1_500);
        while at < self.calm {
            let over = self.trouble_of_speaker(track, plan, at);
            at = if self.chance(6) { at + self.millis(0, 200) } else { over + self.millis(0, 1_200) };
        }
        plan
    }

    fn speak(&mut self, at: Duration, track: usize, what: Speak) {
        self.actions.push((at, Action::Speak(track, what)));
    }

    /// One trouble; returns when it is over.
    fn trouble_of_speaker(&mut self, track: usize, plan: TrackPlan, at: Duration) -> Duration {
        let link = self.path(plan.clean);
        match self.random.u8(0..12) {
            0..4 => self.refresh_of_speaker(track, link, at),
            4 => self.failed_refresh_of_speaker(track, link, at),
            5..9 => self.drop_of_speaker(track, link, at),
            9 => {
                let dark = self.millis(40, 1_500);
                let slot = self.one_of(&[Slot::Old, Slot::New]);
                self.speak(at, track, Speak::Black(slot, dark));
                at + dark
            }
            10 => {
                self.speak(at, track, Speak::Open(link, true));
                let up = at + self.millis(0, 200);
                self.speak(up, track, Speak::Up(Slot::New));
                up
            }
            _ => {
                let frames = self.random.u32(1..40);
                self.speak(at, track, Speak::Rest(frames));
                at
            }
        }
    }

    /// Make before break.
    fn refresh_of_speaker(&mut self, track: usize, link: LinkSpec, at: Duration) -> Duration {
        self.speak(at, track, Speak::Open(link, false));
        let up = at + self.millis(10, 300);
        self.speak(up, track, Speak::Up(Slot::New));
        if self.chance(4) {
            self.speak(up, track, Speak::Resend(Slot::New, 2));
        }
        let switch = up + self.millis(0, 700);
        match self.random.u8(0..6) {
            // The old leg is lost in the middle of it.
            0 => self.speak(switch, track, Speak::Down(Slot::Old)),
            1 => self.speak(switch, track, Speak::Close(Slot::Old)),
            _ => {}
        }
        self.speak(switch, track, Speak::Switch);
        switch + Duration::from_millis(500)
    }

    /// The new leg is lost before it is of use, or never comes up.
    fn failed_refresh_of_speaker(&mut self, track: usize, link: LinkSpec, at: Duration) -> Duration {
        self.speak(at, track, Speak::Open(link, false));
        let mut over = at + self.millis(10, 300);
        if self.random.bool() {
            self.speak(over, track, Speak::Up(Slot::New));
            over += self.millis(0, 300);
            if self.random.bool() {
                self.speak(over, track, Speak::Switch);
            }
            if self.random.bool() {
                self.speak(over, track, Speak::Down(Slot::New));
                over += self.millis(0, 300);
            }
        }
        self.speak(over, track, Speak::Close(Slot::New));
        over
    }

    /// Gone for a while, and back on the same leg or another.
    fn drop_of_speaker(&mut self, track: usize, link: LinkSpec, at: Duration) -> Duration {
        let dark = self.millis(0, 400);
        self.speak(at, track, Speak::Black(Slot::Old, dark));
        self.speak(at, track, Speak::Black(Slot::New, dark));
        let gone = self.away();
        let back = at + dark + gone;
        let same = self.random.bool();
        if same {
            self.speak(at + dark, track, Speak::Down(Slot::Old));
            self.speak(back, track, Speak::Up(Slot::Old));
        } else {
            self.speak(at + dark, track, Speak::Close(Slot::Old));
            self.speak(at + dark, track, Speak::Close(Slot::Old));
            self.speak(back, track, Speak::Open(link, false));
            self.speak(back, track, Speak::Up(Slot::Old));
        }
        if self.random.u8(0..4) > 0 {
            let before = self.one_of(&[0, 0, 1, 5]);
            self.speak(back, track, Speak::Resend(Slot::Old, before));
        }
        back
    }

    /// How long somebody is away: 0.1 to 30 s where there is time for it.
    fn away(&mut self) -> Duration {
        match self.long && self.random.bool() {
            true => self.millis(1_000, 30_000),
            false => self.millis(100, 2_500),
        }
    }

    fn listener(&mut self, listener: usize, tracks: usize) -> ListenerPlan {
        let plan = ListenerPlan {
            ordered: self.chance(3),
            live: self.chance(6),
            acks: self.one_of(&[
                Acks::Contiguous,
                Acks::Contiguous,
                Acks::Contiguous,
                Acks::Highest,
                Acks::Never,
            ]),
            link: self.way_to_listener(),
            track: self.random.usize(0..tracks),
        };
        let mut at = if self.random.bool() { Duration::ZERO } else { self.millis(0, 1_500) };
        self.hear(at, listener, Hear::Join(false));
        at += self.millis(0, 200);
        self.hear(at, listener, Hear::Up(Slot::Old));
        at += self.millis(100, 1_000);
        while at < self.calm {
            let over = self.trouble_of_listener(listener, tracks, at);
            at = if self.chance(5) { at + self.millis(0, 300) } else { over + self.millis(0, 900) };
        }
        plan
    }

    fn hear(&mut self, at: Duration, listener: usize, what: Hear) {
        self.actions.push((at, Action::Hear(listener, what)));
    }

    /// One trouble; returns when it is over.
    fn trouble_of_listener(&mut self, listener: usize, tracks: usize, at: Duration) -> Duration {
        match self.random.u8(0..16) {
            0..4 => self.refresh_of_listener(listener, at),
            4 => self.failed_refresh_of_listener(listener, at),
            // Lost and back, or, if it is short, a stall.
            5..8 => {
                self.hear(at, listener, Hear::Down(Slot::Old));
                let back = at + if self.random.bool() { self.millis(1, 200) } else { self.away() };
                self.hear(back, listener, Hear::Up(Slot::Old));
                back
            }
            8 | 9 => self.comes_again(listener, at),
            10 => self.falls_back(listener, at),
            11 | 12 => {
                let track = self.random.usize(0..tracks);
                self.hear(at, listener, Hear::Select(track));
                at
            }
            13 | 14 => {
                self.hear(at, listener, Hear::Pause);
                let over = at + self.millis(0, 800);
                self.hear(over, listener, Hear::Resume);
                over
            }
            _ => {
                self.hear(at, listener, Hear::Replay);
                at
            }
        }
    }

    /// Make before break.
    fn refresh_of_listener(&mut self, listener: usize, at: Duration) -> Duration {
        self.hear(at, listener, Hear::Add);
        let up = at + self.millis(0, 300);
        self.hear(up, listener, Hear::Up(Slot::New));
        let switch = up + if self.random.bool() { Duration::ZERO } else { self.millis(0, 400) };
        match self.random.u8(0..6) {
            0 => self.hear(switch, listener, Hear::Down(Slot::Old)),
            1 => self.hear(switch + Duration::from_micros(1), listener, Hear::Down(Slot::New)),
            _ => {}
        }
        self.hear(switch, listener, Hear::Switch);
        if self.chance(5) {
            let again = switch + self.millis(0, 30);
            self.hear(again, listener, Hear::Switch);
        }
        switch + Duration::from_millis(300)
    }

    /// The new leg is lost before it is of use, or never comes up.
    fn failed_refresh_of_listener(&mut self, listener: usize, at: Duration) -> Duration {
        self.hear(at, listener, Hear::Add);
        let mut over = at + self.millis(0, 300);
        if self.random.bool() {
            self.hear(over, listener, Hear::Up(Slot::New));
            over += self.millis(0, 200);
            if self.random.bool() {
                self.hear(over, listener, Hear::Switch);
                over += Duration::from_micros(1);
            }
            if self.random.bool() {
                self.hear(over, listener, Hear::Down(Slot::New));
                over += self.millis(0, 200);
            }
        }
        self.hear(over, listener, Hear::Close(Slot::New));
        over
    }

    /// Leaves, and comes as another listener that goes on where it was.
    fn comes_again(&mut self, listener: usize, at: Duration) -> Duration {
        self.hear(at, listener, Hear::Leave);
        let back = at + self.away();
        let resumes = self.random.u8(0..4) > 0;
        self.hear(back, listener, Hear::Join(resumes));
        let up = back + self.millis(0, 200);
        self.hear(up, listener, Hear::Up(Slot::Old));
        up
    }

    /// Its leg is lost, and a second one comes up instead, told by a switch or by a close of the first.
    fn falls_back(&mut self, listener: usize, at: Duration) -> Duration {
        self.hear(at, listener, Hear::Down(Slot::Old));
        let add = at + self.millis(0, 500);
        self.hear(add, listener, Hear::Add);
        let up = add + self.millis(0, 500);
        self.hear(up, listener, Hear::Up(Slot::New));
        let done = up + self.millis(0, 100);
        let how = if self.random.bool() { Hear::Switch } else { Hear::Close(Slot::Old) };
        self.hear(done, listener, how);
        done
    }

    /// A speaker's path: never further behind another than the path skew.
    fn path(&mut self, clean: bool) -> LinkSpec {
        let delay = if self.chance(4) { self.millis(250, 380) } else { self.millis(0, 80) };
        let mut link = LinkSpec::perfect().delay(delay);
        if clean {
            return link;
        }
        if self.random.bool() {
            link = link.loss(match self.random.bool() {
                true => GilbertElliott::independent(0.02),
                false => GilbertElliott::bursts(0.03, 4.0),
            });
        }
        if self.random.bool() {
            let late = self.millis(20, 60);
            link = link.reorder(self.one_of(&[0.02, 0.2]), late);
        }
        if self.chance(3) {
            link = link.duplicate(0.05, Duration::from_millis(50));
        }
        link
    }

    fn way_to_listener(&mut self) -> LinkSpec {
        let delay = self.millis(0, 60);
        let mut link = LinkSpec::perfect().delay(delay);
        if self.random.bool() {
            link = link.loss(GilbertElliott::independent(0.02));
        }
        if self.random.bool() {
            link = link.reorder(0.05, Duration::from_millis(60)).duplicate(0.02, Duration::from_millis(40));
        }
        link
    }

    fn lags(&mut self) {
        for _ in 0..self.random.usize(0..3) {
            let at = self.calm.mul_f64(self.random.f64());
            let lag = Action::Lag(self.random.u8(1..20), self.millis(0, 60));
            self.actions.push((at, lag));
        }
    }
}
