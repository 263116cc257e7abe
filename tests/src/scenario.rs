//! What happens in a world, generated from a seed.
//!
//! A scenario is a list of actions with their times, made before the world starts, so that it can be printed, and cut
//! down by hand. Each seed has its own mood: some worlds are calm, some tiny, some hit every limit, and some run through
//! positions so fast that the numbers of listeners' legs wrap. [`coverage`](crate::coverage) counts what came of it.
//!
//! Some things are kept from happening, because no relay could tell what they mean: two changes of source within the
//! time that a link may hold a packet back, a jump in sequence that lands where the history still has frames, and
//! packets that are late by more than the 100 that RFC 3550 §A.1 takes for disorder.

use std::time::Duration;

use relay_engine::{Config, LegState};

use crate::link::{GilbertElliott, LinkSpec};
use crate::oracle::{LegTerms, Limits};
use crate::stream::{FRAME_TICKS, StreamSpec, ticks};

/// One world's script.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Where it comes from.
    pub seed: u64,
    /// What the relay is configured with.
    pub limits: Limits,
    /// Mean time between reports.
    pub report_interval: Duration,
    /// How late the driver is woken.
    pub oversleep: Duration,
    /// Publishers send sender reports.
    pub publishers_report: bool,
    /// What happens when, in order of time.
    pub actions: Vec<(Duration, Action)>,
    /// When the world ends.
    pub end: Duration,
}

/// One thing that happens. Publishers and listeners go by the numbers that they come with; what happens to one that
/// has not come is nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A track is opened.
    OpenTrack,
    /// A track is closed, with all that is on it.
    CloseTrack(usize),
    /// A publisher opens a leg to a track and begins to send.
    Publish {
        /// Its number.
        publisher: usize,
        /// The track.
        track: usize,
        /// What it sends.
        stream: StreamSpec,
        /// Its way to the relay.
        link: LinkSpec,
        /// Wants receiver reports.
        reports: bool,
    },
    /// A publisher stops, and its leg is closed; packets on the way come too late.
    Unpublish(usize),
    /// The transport of a publisher's leg changes.
    PublisherState(usize, LegState),
    /// A publisher's encoder restarts: SSRC, sequence number, timestamp.
    ChangeSource(usize, u32, u16, u32),
    /// A publisher's sequence number jumps, under the same SSRC.
    Jump(usize, u16),
    /// A publisher's frames are lost before its link.
    Skip(usize, u16),
    /// A listener opens.
    Join {
        /// Its number.
        listener: usize,
        /// The track.
        track: usize,
        /// What its leg has negotiated.
        terms: LegTerms,
        /// Its way from the relay, and back.
        link: LinkSpec,
    },
    /// The transport of a listener's leg changes.
    ListenerState(usize, LegState),
    /// A listener is closed, by its id or (`true`) by its leg's. A second time, its ids are stale.
    Leave(usize, bool),
    /// A bad packet comes on a publisher's leg.
    Spoil(usize, Spoiled),
    /// A publisher's packet comes on a listener's leg, and feedback on the wrong ones.
    Misdirect(usize, usize),
    /// The relay is woken for nothing.
    Wake,
    /// The next calls are told an older time.
    Lag(u8, Duration),
    /// After each of so many steps no more than so many outputs are taken.
    Lazy(u8, u8),
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoiled {
    /// Another payload type than negotiated.
    PayloadType,
    /// No payload.
    Empty,
    /// A payload over the limit.
    TooLarge,
    /// Cut off in the header.
    Truncated(u8),
    /// Random bytes.
    Noise(u64),
}

impl Scenario {
    /// The world of a seed.
    #[must_use]
    pub fn generate(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let end = Duration::from_millis(random.u64(2_000..16_000));
        let tight = random.u8(0..10) == 0;
        let limits = limits(&mut random, tight);
        let report_interval = Duration::from_millis(*one_of(&[100, 400, 1_000, 5_000], &mut random));
        let oversleep = Duration::from_micros(*one_of(&[0, 0, 1, 900, 20_000], &mut random));
        // By the seed itself, so that such worlds came without changing the others.
        let (far, publishers_report) = (seed % 8 == 7, seed % 4 == 3);
        let end = if far { Duration::from_secs(48) } else { end };
        let mut script = Script { random, end, far, actions: Vec::new(), publishers: 0, listeners: 0 };
        let tracks = script.random.usize(1..=3);
        for track in 0..tracks {
            script.add(Duration::ZERO, Action::OpenTrack);
            script.publishers_of(track);
            script.listeners_of(track, if tight { 8 } else { 6 });
        }
        script.nuisances();
        if script.random.u8(0..8) == 0 {
            let (at, track) = (script.moment(), script.random.usize(0..tracks));
            script.add(at, Action::CloseTrack(track));
        }
        script.actions.sort_by_key(|(at, _)| *at);
        let actions = script.actions;
        Self { seed, limits, report_interval, oversleep, publishers_report, actions, end }
    }

    /// A world with default limits in which just this happens; it ends a second after the last action.
    #[must_use]
    pub fn scripted(actions: Vec<(Duration, Action)>) -> Self {
        let limits = Limits {
            tracks: 64,
            listeners: 64,
            listeners_per_track: 64,
            legs: 128,
            history_frames: 3_000,
            history_duration: Duration::from_secs(30),
            history_bytes: 1 << 21,
            payload_bytes: 1_400,
            silence_after: Duration::from_secs(2),
            rate_limited: false,
        };
        let end = actions.last().map_or(Duration::ZERO, |(at, _)| *at) + Duration::from_secs(1);
        Self {
            seed: 0,
            limits,
            report_interval: Duration::from_secs(1),
            oversleep: Duration::ZERO,
            publishers_report: true,
            actions,
            end,
        }
    }

    /// The relay's configuration.
    pub(crate) fn config(&self) -> Config {
        let limits = self.limits;
        let config = Config::new()
            .max_tracks(limits.tracks)
            .max_listeners(limits.listeners)
            .max_listeners_per_track(limits.listeners_per_track)
            .max_legs(limits.legs)
            .history_frames(limits.history_frames)
            .history_duration(limits.history_duration)
            .history_payload_bytes(limits.history_bytes)
            .max_payload_bytes(limits.payload_bytes)
            .silence_after(limits.silence_after)
            .report_interval(self.report_interval);
        match limits.rate_limited {
            true => config.max_packet_rate(30).max_bit_rate(24_000).burst(Duration::from_millis(500)),
            false => config.max_packet_rate(10_000).max_bit_rate(100_000_000),
        }
    }
}

fn limits(random: &mut fastrand::Rng, tight: bool) -> Limits {
    let few = |random: &mut fastrand::Rng, many| if tight { random.usize(1..=5) } else { many };
    Limits {
        tracks: few(random, 64),
        listeners: few(random, 64),
        listeners_per_track: few(random, 64),
        legs: few(random, 128),
        history_frames: *one_of(&[1, 16, 64, 500, 3_000, 3_000], random),
        history_duration: Duration::from_millis(*one_of(&[200, 1_000, 30_000, 30_000], random)),
        history_bytes: *one_of(&[1, 2_000, 1 << 21, 1 << 21, 1 << 21], random),
        payload_bytes: *one_of(&[400, 1_400], random),
        silence_after: Duration::from_millis(*one_of(&[50, 500, 2_000], random)),
        rate_limited: tight && random.bool(),
    }
}

fn one_of<'a, T>(choices: &'a [T], random: &mut fastrand::Rng) -> &'a T {
    &choices[random.usize(0..choices.len())]
}

/// A scenario in the making.
struct Script {
    random: fastrand::Rng,
    end: Duration,
    /// Holes follow each other so fast that the numbers of listeners' legs wrap.
    far: bool,
    actions: Vec<(Duration, Action)>,
    publishers: usize,
    listeners: usize,
}

impl Script {
    fn add(&mut self, at: Duration, action: Action) {
        self.actions.push((at, action));
    }

    fn moment(&mut self) -> Duration {
        self.end.mul_f64(self.random.f64())
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.random.u64(from * 1_000..to * 1_000))
    }

    /// A track's publishers, one after the other: each comes, goes on for a while and leaves.
    fn publishers_of(&mut self, track: usize) {
        let mut at = match self.random.u8(0..3) {
            0 => Duration::ZERO,
            _ => self.moment() / 3,
        };
        let mut ssrc = self.random.u32(..);
        while at < self.end {
            let publisher = self.publishers;
            self.publishers += 1;
            // Returns under the same SSRC are for the worlds of switches.
            ssrc = ssrc.wrapping_add(self.random.u32(1..));
            let mut stream = self.stream(ssrc);
            let mut link = self.link(ticks(u64::from(stream.frame_ticks)));
            if self.far {
                // A frame between any two of the holes comes through, or they would be a jump.
                stream = StreamSpec { frame_ticks: 960, dtx: 0.0, ..stream };
                link = LinkSpec::perfect().reorder(0.1, Duration::from_millis(60));
            }
            let reports = self.random.u8(0..4) > 0;
            self.add(at, Action::Publish { publisher, track, stream, link, reports });
            let up = at + self.millis(0, 60);
            self.add(up, Action::PublisherState(publisher, LegState::Up));
            let leaves = at + self.millis(200, 10_000);
            self.troubles(publisher, at, leaves);
            self.add(leaves, Action::Unpublish(publisher));
            if self.random.u8(0..6) == 0 {
                let again = leaves + self.millis(0, 100);
                self.add(again, Action::Unpublish(publisher));
            }
            at = leaves + self.millis(0, 1_500) * u32::from(self.random.bool());
        }
    }

    /// What befalls a publisher between its coming and its leaving.
    fn troubles(&mut self, publisher: usize, from: Duration, to: Duration) {
        let mut at = from + self.millis(600, 1_500);
        // The publisher is quiet for a second after each, and then there must be a frame before the next.
        while self.far && at < to {
            self.add(at, Action::Skip(publisher, 2_800));
            at += self.millis(1_100, 1_200);
        }
        // All ahead or all back, so that a jump never lands where the one before came from.
        let jumps = one_of(&[5_000..15_000, 50_000..60_000], &mut self.random).clone();
        while at < to {
            let action = match self.random.u8(0..8) {
                0 | 1 => {
                    let (sequence, timestamp) = (self.near_wrap() as u16, self.near_wrap() as u32);
                    Action::ChangeSource(publisher, self.random.u32(..), sequence, timestamp)
                }
                2 => Action::Jump(publisher, self.random.u16(jumps.clone())),
                // Three of them in a row are still below the 3000 that RFC 3550 §A.1 takes for loss.
                3 => Action::Skip(publisher, *one_of(&[1, 3, 40, 300, 900], &mut self.random)),
                4 => {
                    let back = at + self.millis(10, 400);
                    self.add(back, Action::PublisherState(publisher, LegState::Up));
                    Action::PublisherState(publisher, LegState::Down)
                }
                _ => Action::Wake,
            };
            self.add(at, action);
            at += self.millis(600, 2_000);
        }
    }

    /// Two listeners that are there from beginning to end, one of them with its leg down for most of it.
    fn steadfast(&mut self, track: usize) {
        for down in [false, true] {
            let (listener, terms) = (self.listeners, self.terms());
            self.listeners += 1;
            let link = LinkSpec::perfect();
            self.add(Duration::ZERO, Action::Join { listener, track, terms, link });
            self.add(Duration::ZERO, Action::ListenerState(listener, LegState::Up));
            if down {
                self.add(self.end / 8, Action::ListenerState(listener, LegState::Down));
                self.add(self.end / 8 * 7, Action::ListenerState(listener, LegState::Up));
            }
        }
    }

    fn listeners_of(&mut self, track: usize, most: usize) {
        if self.far {
            self.steadfast(track);
        }
        for _ in 0..self.random.usize(0..=most) {
            let mut at = if self.random.bool() { self.moment() } else { Duration::ZERO };
            // It may come back as another listener: a rejoin.
            for _ in 0..self.random.usize(1..=3) {
                at = self.listener(track, at);
            }
        }
    }

    /// One listener's life; returns when it is over.
    fn listener(&mut self, track: usize, from: Duration) -> Duration {
        let listener = self.listeners;
        self.listeners += 1;
        let (terms, link) = (self.terms(), self.link(Duration::from_millis(20)));
        self.add(from, Action::Join { listener, track, terms, link });
        let mut at = from + self.millis(0, 200);
        let mut state = LegState::Up;
        for _ in 0..self.random.usize(1..6) {
            self.add(at, Action::ListenerState(listener, state));
            let back = if self.random.u8(0..6) == 0 { LegState::Connecting } else { LegState::Down };
            state = if state == LegState::Up && self.random.u8(0..8) > 0 { back } else { LegState::Up };
            at += self.millis(0, 3_000);
        }
        let by_leg = self.random.bool();
        self.add(at, Action::Leave(listener, by_leg));
        if self.random.u8(0..6) == 0 {
            let stale = at + self.millis(0, 500);
            self.add(stale, Action::ListenerState(listener, LegState::Up));
            self.add(stale, Action::Leave(listener, !by_leg));
        }
        at + self.millis(0, 800)
    }

    fn terms(&mut self) -> LegTerms {
        let random = &mut self.random;
        LegTerms {
            payload_type: random.u8(96..127),
            ssrc: random.bool().then(|| random.u32(..)),
            reports: random.u8(0..4) > 0,
            level_id: random.bool().then_some(1),
            capture_id: random.bool().then_some(14),
            mid: random.bool().then_some((7, *one_of(&["0", "audio", "sixteen-letters!"], random))),
        }
    }

    fn stream(&mut self, ssrc: u32) -> StreamSpec {
        let usual = self.random.bool();
        StreamSpec {
            frame_ticks: if usual { 960 } else { *one_of(&FRAME_TICKS, &mut self.random) },
            first_sequence: self.near_wrap() as u16,
            first_timestamp: self.near_wrap() as u32,
            ssrc,
            dtx: *one_of(&[0.0, 0.0, 0.02, 0.2], &mut self.random),
            longest_payload: *one_of(&[16, 60, 120, 390], &mut self.random),
            extensions: self.random.bool(),
            payload_type: self.random.u8(96..127),
        }
    }

    /// A number of any width, often just before its wrap.
    fn near_wrap(&mut self) -> u64 {
        match self.random.u8(0..3) {
            0 => self.random.u64(..),
            _ => u64::MAX - self.random.u64(0..200),
        }
    }

    /// A path whose disorder stays within some dozens of frames: more of it is no longer disorder but another source.
    fn link(&mut self, frame: Duration) -> LinkSpec {
        let delay = self.millis(0, 80);
        let disorder = (frame * self.random.u32(1..40)).min(Duration::from_millis(120));
        let mut link = LinkSpec::perfect();
        if self.random.u8(0..4) == 0 {
            link = link.rate(*one_of(&[40_000, 200_000, 1_000_000], &mut self.random), 3_000);
        }
        if self.random.bool() {
            let loss = *one_of(&[0.01, 0.05, 0.2], &mut self.random);
            link = link.loss(match self.random.bool() {
                true => GilbertElliott::independent(loss),
                false => GilbertElliott::bursts(loss, 5.0),
            });
        }
        link = link.delay(delay);
        if self.random.bool() {
            let mean = self.millis(0, 15);
            link = link.jitter(mean);
        }
        if self.random.bool() {
            link = link.reorder(*one_of(&[0.01, 0.1, 0.5], &mut self.random), disorder);
        }
        if self.random.u8(0..3) == 0 {
            link = link.duplicate(*one_of(&[0.01, 0.2], &mut self.random), disorder);
        }
        link
    }

    /// What may happen at any time.
    fn nuisances(&mut self) {
        for _ in 0..self.random.usize(0..20) {
            let at = self.moment();
            let publisher = self.random.usize(0..self.publishers.max(1));
            let listener = self.random.usize(0..self.listeners.max(1));
            let action = match self.random.u8(0..6) {
                0 => Action::Wake,
                1 => Action::Lag(self.random.u8(1..30), self.millis(0, 400)),
                2 | 3 => Action::Lazy(self.random.u8(1..60), *one_of(&[0, 0, 1, 2, 5], &mut self.random)),
                4 if self.publishers > 0 => Action::Spoil(publisher, self.spoiled()),
                5 if self.publishers > 0 && self.listeners > 0 => Action::Misdirect(publisher, listener),
                _ => continue,
            };
            self.add(at, action);
        }
    }

    fn spoiled(&mut self) -> Spoiled {
        match self.random.u8(0..5) {
            0 => Spoiled::PayloadType,
            1 => Spoiled::Empty,
            2 => Spoiled::TooLarge,
            3 => Spoiled::Truncated(self.random.u8(..)),
            _ => Spoiled::Noise(self.random.u64(..)),
        }
    }
}
