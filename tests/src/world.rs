//! A world of publishers, one relay and listeners, joined by links, in virtual time.
//!
//! The world owns the only clock: events in order of time, ties in order of their making. Each step hands the relay
//! one input, drains it (unless the scenario is lazy on purpose), and lets the oracle check all that came out. Nothing
//! sleeps and nothing reads a real clock; the one real instant is the point that virtual time is counted from, and two
//! runs of a scenario count from different ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use relay_engine::rtp::{self, rtcp};
use relay_engine::{
    Epoch, ExtensionIds, Feedback, LegId, LegSpec, LegState, ListenerId, Mid, OnReturn, Peer, Relay, TrackId,
    TrackSpec, Verdict,
};

use crate::coverage::Coverage;
use crate::far::FarEnd;
use crate::link::Link;
use crate::oracle::{LegTerms, Oracle, Packet, Violation, ensure};
use crate::scenario::{Action, Scenario, Spoiled};
use crate::seen::{Digest, Seen, SeenPacket, drain};
use crate::stream::{CAPTURE_ID, LEVEL_ID, Sent, Stream, StreamSpec};

/// Wall time of the world's start: 2023-11-14T22:13:20Z.
const WALL_SECONDS: u64 = 1_700_000_000;
/// From 1900 to 1970.
const NTP_OFFSET_SECONDS: u64 = 2_208_988_800;
/// How long a publisher is quiet after its skip: by then nothing from before is on the way any more.
const SKIP: Duration = Duration::from_secs(1);
/// How often a far end reports.
const FAR_REPORT: Duration = Duration::from_millis(700);

/// Changes what comes out of the relay before the oracle sees it: a relay that is broken on purpose.
pub trait Tamper {
    /// Gets the outputs of a drain to the end; `oracle` tells which legs there are.
    ///
    /// Not those that are taken one by one: what is missing among them may be owed still, and be forgiven when the leg
    /// leaves before the drain ends.
    fn tamper(&mut self, outputs: &mut Vec<Seen>, oracle: &Oracle);

    /// Gets the deadline after the drain.
    fn deadline(&mut self, deadline: Option<Duration>, _now: Duration) -> Option<Duration> {
        deadline
    }
}

/// The relay as it is.
#[derive(Clone, Copy, Debug)]
pub struct Honest;

impl Tamper for Honest {
    fn tamper(&mut self, _outputs: &mut Vec<Seen>, _oracle: &Oracle) {}
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of everything that came out, verdicts and deadlines included.
    pub digest: Digest,
    /// Inputs handed to the relay.
    pub steps: u64,
    /// Packets that came out and were checked.
    pub packets: u64,
    /// How often each verdict was given, by its place in [`Verdict::ALL`].
    pub verdicts: [u64; Verdict::ALL.len()],
    /// Frames that listeners were told they missed.
    pub skipped: u64,
    /// What happened in it.
    pub coverage: Coverage,
}

/// A violation, and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Virtual time.
    pub at: Duration,
    /// Inputs handed to the relay before.
    pub step: u64,
    /// What was being done.
    pub doing: String,
    /// What is wrong.
    pub violation: Violation,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, step, doing, violation } = self;
        write!(f, "{} at {at:?}, step {step} {doing}: {}", violation.rule, violation.detail)
    }
}

/// Runs a scenario; `shift` moves the instant that virtual time is counted from, which must change nothing, and neither
/// must that outputs are then taken by [`Relay::fan_out`] too.
///
/// # Errors
///
/// The first [`Violation`].
pub fn run(scenario: &Scenario, shift: Duration, tamper: &mut dyn Tamper) -> Result<Report, Failure> {
    let mut world = World::new(scenario, shift, tamper);
    world.run().map_err(|violation| Failure {
        at: world.clock,
        step: world.report.steps,
        doing: world.doing.clone(),
        violation,
    })?;
    world.report.coverage = world.oracle.coverage();
    Ok(world.report)
}

struct World<'a> {
    scenario: &'a Scenario,
    tamper: &'a mut dyn Tamper,
    base: Instant,
    /// Takes outputs by [`Relay::fan_out`] too.
    fans_out: bool,
    clock: Duration,
    queue: BTreeMap<(Duration, u64), Happening>,
    serial: u64,
    relay: Relay,
    oracle: Oracle,
    tracks: Vec<Option<TrackId>>,
    publishers: BTreeMap<usize, Publisher>,
    listeners: BTreeMap<usize, Listener>,
    random: fastrand::Rng,
    /// Calls that are still told an older time, and by how much.
    lag: (u8, Duration),
    /// Steps that are still not drained to the end, and how many outputs are taken after each.
    lazy: (u8, u8),
    doing: String,
    report: Report,
}

#[derive(Clone, Debug)]
enum Happening {
    Action(usize),
    Produce(usize),
    Arrive(LegId, Packet, Bytes),
    Heard(usize, Vec<u8>),
    FarReport(usize),
    Feedback(LegId, Feedback),
}

struct Publisher {
    leg: Option<LegId>,
    sending: bool,
    /// Sends nothing until then.
    muted: Duration,
    /// Its capture times are not negotiated.
    mute_clock: bool,
    track: usize,
    stream: Stream,
    link: Link,
    spec: StreamSpec,
}

struct Listener {
    ids: Option<(ListenerId, LegId)>,
    down: Link,
    up: Link,
    far: FarEnd,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, shift: Duration, tamper: &'a mut dyn Tamper) -> Self {
        let base = Instant::now() + shift;
        let epoch = Epoch { instant: base, wall: UNIX_EPOCH + Duration::from_secs(WALL_SECONDS) };
        let actions = scenario.actions.iter().enumerate();
        let queue = actions.map(|(n, (at, _))| ((*at, n as u64), Happening::Action(n))).collect();
        Self {
            scenario,
            tamper,
            base,
            fans_out: !shift.is_zero(),
            clock: Duration::ZERO,
            queue,
            serial: scenario.actions.len() as u64,
            relay: Relay::new(scenario.config(), epoch, scenario.seed),
            oracle: Oracle::new(scenario.limits, (WALL_SECONDS + NTP_OFFSET_SECONDS) << 32),
            tracks: Vec::new(),
            publishers: BTreeMap::new(),
            listeners: BTreeMap::new(),
            random: fastrand::Rng::with_seed(scenario.seed ^ 0x5eed),
            lag: (0, Duration::ZERO),
            lazy: (0, 0),
            doing: String::new(),
            report: Report::default(),
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        loop {
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.deadline().map(|at| at + self.oversleep());
            match (next, deadline) {
                (None, None) => return Ok(()),
                (next, Some(at)) if next.is_none_or(|next| at < next) => {
                    if at > self.scenario.end {
                        return Ok(());
                    }
                    self.clock = self.clock.max(at);
                    self.wake()?;
                }
                _ => {
                    let Some(((at, _), happening)) = self.queue.pop_first() else { return Ok(()) };
                    if at > self.scenario.end {
                        return Ok(());
                    }
                    self.clock = self.clock.max(at);
                    self.happen(happening)?;
                }
            }
        }
    }

    /// A driver is woken a little late.
    fn oversleep(&self) -> Duration {
        self.scenario.oversleep
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Action(n) => {
                let action = &self.scenario.actions[n].1;
                self.doing = format!("{action:?}");
                self.act(action)
            }
            Happening::Produce(publisher) => {
                self.produce(publisher);
                Ok(())
            }
            Happening::Arrive(leg, packet, datagram) => self.arrive(leg, &packet, datagram),
            Happening::Heard(n, wire) => {
                self.listeners.get_mut(&n).map_or(Ok(()), |listener| listener.far.hear(&wire))
            }
            Happening::FarReport(listener) => {
                self.far_report(listener);
                Ok(())
            }
            Happening::Feedback(leg, feedback) => self.feedback(leg, feedback),
        }
    }

    fn act(&mut self, action: &Action) -> Result<(), Violation> {
        match action {
            Action::OpenTrack => {
                let now = self.now();
                let spec = TrackSpec { name: format!("t{}", self.tracks.len()) };
                let result = self.relay.open_track(now, spec);
                self.oracle.track_opened(&result)?;
                self.tracks.push(result.ok());
            }
            Action::CloseTrack(track) => self.close(self.tracks[*track].map(Peer::Track)),
            Action::Publish { publisher, track, stream, link, reports } => {
                let link = Link::new(link, self.random.u64(..));
                return self.publish(*publisher, *track, (*stream, link, *reports));
            }
            Action::Unpublish(publisher) => {
                let leg = self.publisher(*publisher, |publisher| publisher.sending = false);
                self.close(leg.map(Peer::Leg));
            }
            Action::PublisherState(publisher, state) => {
                let leg = self.publisher(*publisher, |_| {});
                self.leg_state(leg, *state);
            }
            Action::ChangeSource(publisher, ssrc, sequence, timestamp) => {
                self.publisher(*publisher, |of| of.stream.restart(*ssrc, *sequence, *timestamp));
            }
            Action::Jump(publisher, by) => {
                self.publisher(*publisher, |publisher| publisher.stream.jump(*by));
            }
            Action::Skip(publisher, frames) => {
                let muted = self.clock + SKIP;
                self.publisher(*publisher, |publisher| {
                    publisher.stream.skip(*frames);
                    publisher.muted = muted;
                });
            }
            Action::Join { listener, track, terms, link } => {
                let links = [Link::new(link, self.random.u64(..)), Link::new(link, self.random.u64(..))];
                return self.join(*listener, *track, *terms, links);
            }
            Action::ListenerState(listener, state) => {
                self.leg_state(self.ids(*listener).map(|(_, leg)| leg), *state);
            }
            Action::Leave(listener, by_leg) => {
                let ids = self.ids(*listener);
                self.close(ids.map(|(id, leg)| if *by_leg { Peer::Leg(leg) } else { Peer::Listener(id) }));
            }
            Action::Spoil(publisher, spoiled) => return self.spoil(*publisher, *spoiled),
            Action::Misdirect(publisher, listener) => return self.misdirect(*publisher, *listener),
            Action::Wake => return self.wake(),
            Action::Lag(calls, by) => self.lag = (*calls, *by),
            Action::Lazy(steps, outputs) => self.lazy = (*steps, *outputs),
        }
        self.step()
    }

    fn publish(
        &mut self,
        number: usize,
        track: usize,
        (spec, link, reports): (StreamSpec, Link, bool),
    ) -> Result<(), Violation> {
        let stream = Stream::new(spec, number, self.random.u64(..));
        let mute_clock = self.publishers.values().any(|other| other.track == track);
        let muted = Duration::ZERO;
        let mut publisher =
            Publisher { leg: None, sending: false, muted, mute_clock, track, stream, link, spec };
        if let Some(track) = self.tracks[track] {
            let now = self.now();
            // A second publisher that tells capture times is compared with the first: that is for the worlds of switches.
            let capture_time = (!publisher.mute_clock).then_some(CAPTURE_ID);
            let ids = ExtensionIds { audio_level: Some(LEVEL_ID), capture_time, mid: None };
            let leg = LegSpec::new(spec.payload_type).extensions(ids).reports(reports);
            let result = self.relay.open_publisher_leg(now, track, leg);
            self.oracle.publisher_opened(track, reports, &result)?;
            publisher.leg = result.ok();
            publisher.sending = publisher.leg.is_some();
        }
        self.schedule(self.clock, Happening::Produce(number));
        self.publishers.insert(number, publisher);
        self.step()
    }

    fn join(
        &mut self,
        n: usize,
        track: usize,
        terms: LegTerms,
        [down, up]: [Link; 2],
    ) -> Result<(), Violation> {
        let mut ids = None;
        if let Some(track) = self.tracks[track] {
            let now = self.now();
            let mid = terms.mid.and_then(|(id, mid)| Some((id, Mid::new(mid).ok()?)));
            let extensions =
                ExtensionIds { audio_level: terms.level_id, capture_time: terms.capture_id, mid };
            let mut spec = LegSpec::new(terms.payload_type)
                .extensions(extensions)
                .reports(terms.reports)
                .on_return(OnReturn::Live);
            if let Some(ssrc) = terms.ssrc {
                spec = spec.ssrc(ssrc);
            }
            let result = self.relay.open_listener(now, track, spec);
            self.oracle.listener_opened(track, terms, &result)?;
            ids = result.ok();
        }
        self.schedule(self.clock + FAR_REPORT, Happening::FarReport(n));
        self.listeners.insert(n, Listener { ids, down, up, far: FarEnd::default() });
        self.step()
    }

    /// Does something to a publisher, if it has come; returns its leg.
    fn publisher(&mut self, number: usize, mut act: impl FnMut(&mut Publisher)) -> Option<LegId> {
        let publisher = self.publishers.get_mut(&number)?;
        act(publisher);
        publisher.leg
    }

    fn ids(&self, listener: usize) -> Option<(ListenerId, LegId)> {
        self.listeners.get(&listener)?.ids
    }

    fn leg_state(&mut self, leg: Option<LegId>, state: LegState) {
        let Some(leg) = leg else { return };
        let now = self.now();
        self.relay.handle_leg(now, leg, state);
        self.oracle.leg_changed(leg, state);
    }

    fn close(&mut self, peer: Option<Peer>) {
        let Some(peer) = peer else { return };
        let now = self.now();
        self.relay.close(now, peer);
        self.oracle.closed(peer);
    }

    /// A publisher sends a frame into its link.
    fn produce(&mut self, n: usize) {
        let now = self.clock;
        let Some(publisher) = self.publishers.get_mut(&n) else { return };
        let (Some(leg), true) = (publisher.leg, publisher.sending) else { return };
        if now < publisher.muted {
            let later = publisher.muted;
            return self.schedule(later, Happening::Produce(n));
        }
        let mut sent = publisher.stream.send(now);
        sent.capture = sent.capture.filter(|_| !publisher.mute_clock);
        let next = now + publisher.stream.pause();
        let datagram = sent.datagram.clone();
        let arrivals = publisher.link.carry(now, datagram.len());
        let report = (self.scenario.publishers_report && sent.id.number % 64 == 40).then(|| {
            let ntp = rtp::NtpTime(u64::from(sent.ssrc) << 32 | u64::from(sent.id.number) << 16);
            Feedback::SenderReport(rtcp::SenderReport { ssrc: sent.ssrc, ntp, ..Default::default() })
        });
        for at in arrivals {
            report.iter().for_each(|report| self.schedule(at, Happening::Feedback(leg, *report)));
            let packet = Packet::Frame(sent.clone());
            self.schedule(at, Happening::Arrive(leg, packet, datagram.clone()));
        }
        self.schedule(next, Happening::Produce(n));
    }

    /// A datagram comes out of a publisher's link.
    fn arrive(&mut self, leg: LegId, packet: &Packet, datagram: Bytes) -> Result<(), Violation> {
        self.doing.clear();
        // A packet that does not parse never reaches the relay.
        let Ok(parsed) = rtp::Packet::parse(datagram) else { return Ok(()) };
        let now = self.now();
        let verdict = self.relay.handle_packet(now, leg, parsed);
        self.report.digest.number(verdict as u64);
        self.report.verdicts[verdict as usize] += 1;
        self.oracle.packet(leg, packet, verdict)?;
        self.step()
    }

    /// A packet that is wrong in one way comes on a publisher's leg.
    fn spoil(&mut self, n: usize, spoiled: Spoiled) -> Result<(), Violation> {
        let Some((leg, sent)) = self.sample(n) else { return Ok(()) };
        let mut datagram = sent.datagram.to_vec();
        let header = datagram.len() - sent.payload.len();
        let verdict = match spoiled {
            Spoiled::PayloadType => {
                datagram[1] = (datagram[1] & 0x80) | 13;
                Verdict::WrongPayloadType
            }
            Spoiled::Empty => {
                datagram.truncate(header);
                Verdict::Empty
            }
            Spoiled::TooLarge => {
                datagram.resize(header + self.scenario.limits.payload_bytes + 1, 0);
                Verdict::TooLarge
            }
            Spoiled::Truncated(to) => {
                datagram.truncate(usize::from(to).min(11));
                Verdict::Empty
            }
            Spoiled::Noise(seed) => {
                let mut random = fastrand::Rng::with_seed(seed);
                datagram.fill_with(|| random.u8(..));
                // Whatever it parses as, it is not of the leg's payload type.
                datagram[1] = (datagram[1] & 0x80) | 13;
                Verdict::WrongPayloadType
            }
        };
        // Noise may parse as an empty packet of the wrong type: the type is looked at first.
        self.arrive(leg, &Packet::Refused(verdict), datagram.into())
    }

    /// A healthy packet comes on a listener's leg, and the wrong kind of feedback on both.
    fn misdirect(&mut self, publisher: usize, listener: usize) -> Result<(), Violation> {
        let Some((_, leg)) = self.ids(listener) else { return Ok(()) };
        let Some((publisher, sent)) = self.sample(publisher) else { return Ok(()) };
        self.arrive(leg, &Packet::Refused(Verdict::WrongDirection), sent.datagram)?;
        self.feedback(leg, Feedback::SenderReport(rtcp::SenderReport::default()))?;
        self.feedback(publisher, Feedback::ReceiverReport(rtcp::ReportBlock::default()))
    }

    /// A frame like those that a publisher sends, from a stream of its own.
    fn sample(&self, publisher: usize) -> Option<(LegId, Sent)> {
        let Publisher { spec, stream, leg, .. } = self.publishers.get(&publisher)?;
        let sent = Stream::new(StreamSpec { ssrc: stream.ssrc(), ..*spec }, usize::MAX, 0).send(self.clock);
        Some(((*leg)?, sent))
    }

    fn far_report(&mut self, n: usize) {
        let Some(Listener { ids: Some((_, leg)), up, far, .. }) = self.listeners.get_mut(&n) else { return };
        let leg = *leg;
        let feedback = far.report();
        let arrivals = up.carry(self.clock, 40);
        for at in arrivals {
            for feedback in &feedback {
                self.schedule(at, Happening::Feedback(leg, *feedback));
            }
        }
        self.schedule(self.clock + FAR_REPORT, Happening::FarReport(n));
    }

    fn feedback(&mut self, leg: LegId, feedback: Feedback) -> Result<(), Violation> {
        let now = self.now();
        let verdict = self.relay.handle_feedback(now, leg, feedback);
        self.report.digest.number(verdict as u64);
        self.oracle.feedback(leg, &feedback, verdict)?;
        self.step()
    }

    fn wake(&mut self) -> Result<(), Violation> {
        let now = self.now();
        self.relay.handle_timeout(now);
        self.step()
    }

    /// The `now` of the next call: sometimes an older one, on purpose.
    fn now(&mut self) -> Instant {
        let (calls, by) = self.lag;
        let told = if calls > 0 { self.clock.saturating_sub(by) } else { self.clock };
        self.lag.0 = calls.saturating_sub(1);
        self.oracle.told(told);
        self.base + told
    }

    /// After each input: drain, check, and send what came out.
    fn step(&mut self) -> Result<(), Violation> {
        self.report.steps += 1;
        if let (steps @ 1.., outputs) = self.lazy {
            self.lazy.0 = steps - 1;
            return self.drain(usize::from(outputs));
        }
        self.drain(usize::MAX)?;
        self.check_drained()
    }

    /// Takes up to `most` outputs, checks them and sends the packets.
    fn drain(&mut self, most: usize) -> Result<(), Violation> {
        let mut outputs = Vec::new();
        let base = self.base;
        drain(&mut self.relay, self.fans_out, most, &mut outputs, |output| Seen::take_down(output, base))?;
        if most == usize::MAX {
            self.tamper.tamper(&mut outputs, &self.oracle);
        }
        for seen in outputs {
            self.report.digest.output(&seen);
            self.oracle.output(&seen)?;
            self.report.packets = self.oracle.checked();
            match seen {
                Seen::Packet(packet) => self.send(packet),
                Seen::Event(relay_engine::Event::FramesSkipped { count, .. }) => self.report.skipped += count,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_drained(&mut self) -> Result<(), Violation> {
        let deadline = self.deadline();
        self.report.digest.number(deadline.map_or(0, |at| at.as_nanos() as u64));
        let deadline = self.tamper.deadline(deadline, self.clock);
        self.oracle.drained(deadline)?;
        ensure(self.relay.is_drained(), "I4", || "drained, and says that it is not".to_owned())?;
        let stats = self.relay.stats();
        self.oracle.counts(stats.tracks, stats.listeners, stats.legs)?;
        for track in self.tracks.iter().flatten() {
            self.oracle.track_stats(*track, self.relay.track_stats(*track).as_ref())?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        self.relay.poll_timeout().map(|deadline| deadline.at.saturating_duration_since(self.base))
    }

    /// Sends a packet towards its listener.
    fn send(&mut self, packet: SeenPacket) {
        let mut far = self.listeners.iter_mut();
        let far = far.find(|(_, far)| far.ids.is_some_and(|(_, leg)| leg == packet.leg));
        let Some((&n, far)) = far else { return };
        let arrivals = far.down.carry(self.clock, packet.wire.len());
        for at in arrivals {
            self.schedule(at, Happening::Heard(n, packet.wire.clone()));
        }
    }

    fn schedule(&mut self, at: Duration, happening: Happening) {
        self.serial += 1;
        self.queue.insert((at, self.serial), happening);
    }
}
