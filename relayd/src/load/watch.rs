//! Collects what the threads count, second by second and part by part, and makes the report of it.

use std::time::{Duration, Instant};

use super::churn::{Moves, Trend, Turnstile};
use super::crew::{Crew, Interval};
use super::ears::Standing;
use super::hearing::Counts;
use super::procfs::{Usage, usage};
use super::report::{
    ChurnUse, Growth, Joins, Media, OwnUse, Percentiles, Phase, Report, RunInfo, Second, ServerUse,
    SocketUse, Tick, VERSION, ms, per, rounded,
};
use super::tally::Tally;
use super::verdict::{Limits, Outcome, Own, SATURATED, Server};
use crate::client::Role;

/// Lines of the report: a day. What comes later is in the sums only.
const MAX_SECONDS: usize = 86_400;
/// What is shorter makes no line of its own.
const LEAST_SECOND: Duration = Duration::from_millis(500);

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Listeners join.
    Ramp,
    /// All have joined.
    Steady,
    /// Publishers have stopped; what is on its way arrives.
    Drain,
}

/// What processes have used: the server's, if they are known, and the tester's.
type Use = (Option<Usage>, Usage);

/// The one that looks on.
pub(crate) struct Watch<'a, F> {
    crew: &'a Crew,
    pids: &'a [u32],
    limits: Limits,
    turnstile: Option<&'a Turnstile>,
    on_second: F,
    part: Part,
    begun: Instant,
    since: Instant,
    /// The end of the last second.
    last: Instant,
    last_use: Use,
    interval: Interval,
    spare: Tally,
    ramp: Tally,
    steady: Tally,
    drain: Tally,
    speakers: Tally,
    /// At the beginning, at the end of the ramp, at the end of the steady part.
    borders: Vec<(Instant, Use)>,
    /// Listeners connected at the end of the steady part.
    connected: u64,
    seconds: Vec<Second>,
    ticks: Vec<Tick>,
    watched_seconds: usize,
    saturated_seconds: usize,
}

impl<'a, F: FnMut(&Second)> Watch<'a, F> {
    pub(crate) fn new(
        crew: &'a Crew,
        pids: &'a [u32],
        limits: Limits,
        turnstile: Option<&'a Turnstile>,
        on_second: F,
    ) -> Self {
        let now = Instant::now();
        Self {
            crew,
            pids,
            limits,
            turnstile,
            on_second,
            part: Part::Ramp,
            begun: now,
            since: now,
            last: now,
            last_use: (None, Usage::default()),
            interval: Interval::new(),
            spare: Tally::new(),
            ramp: Tally::new(),
            steady: Tally::new(),
            drain: Tally::new(),
            speakers: Tally::new(),
            borders: Vec::new(),
            connected: 0,
            seconds: Vec::new(),
            ticks: Vec::new(),
            watched_seconds: 0,
            saturated_seconds: 0,
        }
    }

    /// The first join is about to be made.
    pub(crate) fn begin(&mut self, now: Instant) {
        (self.begun, self.since, self.last) = (now, now, now);
        self.last_use = self.used();
        self.borders.push((now, self.last_use));
    }

    /// Ends a second, if it is over: each begins where a clock's would, however late the one before was noticed.
    pub(crate) fn look(&mut self, now: Instant) {
        let over = (self.last - self.begun + LEAST_SECOND).as_secs();
        if now >= self.begun + Duration::from_secs(over + 1) {
            self.second(now);
        }
    }

    /// Ends a part and begins another.
    pub(crate) fn turn(&mut self, now: Instant, next: Part) {
        if now - self.last >= LEAST_SECOND {
            self.second(now);
        } else {
            self.collect();
            self.last = now;
            self.last_use = self.used();
        }
        self.borders.push((now, self.last_use));
        self.connected = self.connected();
        (self.part, self.since) = (next, now);
    }

    /// Adds what was counted since the last time to its part.
    pub(crate) fn collect(&mut self) {
        self.crew.collect(&mut self.interval, &mut self.spare);
        let part = match self.part {
            Part::Ramp => &mut self.ramp,
            Part::Steady => &mut self.steady,
            Part::Drain => &mut self.drain,
        };
        part.add(&self.interval.listeners);
        self.speakers.add(&self.interval.speakers);
    }

    fn second(&mut self, now: Instant) {
        self.collect();
        let length = (now - self.last).as_secs_f64();
        let used = self.used();
        let cores = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / length;
        let busiest = self.interval.busiest.as_secs_f64() / length;
        let server = used.0.zip(self.last_use.0);
        let (counts, latency) = (&self.interval.listeners.counts, &self.interval.listeners.latency);
        let at = |share: f64| latency.at(share).map(ms);
        let second = Second {
            at: rounded((now - self.begun).as_secs_f64(), 3),
            steady: self.part == Part::Steady,
            connected: self.connected(),
            failed: self.crew.ledger.of(Role::Listener).failed.total(),
            ended: self.ended(),
            packets_per_second: rounded(counts.packets as f64 / length, 1),
            missing: counts.missing,
            duplicates: counts.duplicates,
            reordered: counts.reordered,
            gaps: counts.gaps,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: latency.max().map(ms),
            late_p99_ms: self.interval.speakers.late.at(0.99).map(ms),
            server_cpu_percent: server.map(|(now, then)| rounded(cores(now.cpu, then.cpu) * 100.0, 1)),
            server_rss_bytes: used.0.map(|server| server.rss_bytes),
            own_cpu_percent: rounded(cores(used.1.cpu, self.last_use.1.cpu) * 100.0, 1),
            busiest: rounded(busiest.min(1.0), 3),
        };
        self.watched_seconds += 1;
        self.saturated_seconds += usize::from(busiest >= SATURATED);
        (self.last, self.last_use) = (now, used);
        (self.on_second)(&second);
        if self.seconds.len() < MAX_SECONDS {
            self.seconds.push(second);
        }
    }

    fn used(&self) -> Use {
        (usage(self.pids), usage(&[std::process::id()]).unwrap_or_default())
    }

    fn connected(&self) -> u64 {
        let gone = self.ended() + self.moves().left();
        self.crew.ledger.of(Role::Listener).connected.count().saturating_sub(gone)
    }

    fn moves(&self) -> Moves {
        self.turnstile.map(Turnstile::moves).unwrap_or_default()
    }

    /// Ends a tick.
    pub(crate) fn tick(&mut self, now: Instant) {
        let moves = self.moves();
        let before = |sum: fn(&Tick) -> u64| self.ticks.iter().map(sum).sum::<u64>();
        self.ticks.push(Tick {
            at: rounded((now - self.begun).as_secs_f64(), 3),
            connected: self.connected(),
            joined: moves.joined.saturating_sub(before(|tick| tick.joined)),
            left: moves.left().saturating_sub(before(|tick| tick.left)),
            failed: self.crew.ledger.of(Role::Listener).failed.total(),
            server_rss_bytes: usage(self.pids).map(|server| server.rss_bytes),
        });
    }

    /// Listeners whose connection has ended.
    fn ended(&self) -> u64 {
        [&self.ramp, &self.steady, &self.drain].iter().map(|part| part.ended.total()).sum()
    }

    /// The report, once everything is counted.
    pub(crate) fn report(self, run: RunInfo, asked: u64, standing: Standing, sockets: SocketUse) -> Report {
        let mut whole = self.ramp.clone();
        whole.add(&self.steady);
        whole.add(&self.drain);
        let joins = self.joins(asked, &whole);
        let media = self.media(&whole);
        let tester = self.tester(&whole, sockets);
        let outcome = self.outcome(&joins, &media, sockets, standing, &whole);
        Report {
            version: VERSION,
            run,
            ramp: self.phase(0, &self.ramp),
            steady: self.phase(1, &self.steady),
            server: self.server(),
            churn: self.turnstile.map(|turnstile| self.churn(turnstile)),
            joins,
            media,
            tester,
            outcome,
            seconds: self.seconds,
        }
    }

    fn joins(&self, asked: u64, whole: &Tally) -> Joins {
        let joins = self.crew.ledger.of(Role::Listener);
        Joins {
            asked,
            connected: joins.connected.count(),
            heard: whole.first_packet.count(),
            failed: joins.failed.map().clone(),
            answered_ms: Percentiles::of(&joins.answered),
            connected_ms: Percentiles::of(&joins.connected),
            first_packet_ms: Percentiles::of(&whole.first_packet),
            srtp: joins.profiles.map().clone(),
        }
    }

    fn media(&self, whole: &Tally) -> Media {
        let counts = &whole.counts;
        let lost = lost(counts);
        Media {
            sent: self.crew.sent.total(),
            packets: counts.packets,
            lost,
            loss_percent: rounded(loss_percent(counts), 6),
            duplicates: counts.duplicates,
            reordered: counts.reordered,
            stale: counts.stale,
            damaged: counts.damaged,
            foreign: counts.foreign,
            history: counts.history,
            unopened: counts.unopened,
            unstamped: counts.unstamped,
            early: counts.early,
            gaps: counts.gaps,
            longest_gap_ms: ms(Duration::from_nanos(counts.longest_gap_ns)),
            disconnects: whole.ended.map().clone(),
        }
    }

    fn phase(&self, at: usize, tally: &Tally) -> Phase {
        let length = self.borders[at + 1].0 - self.borders[at].0;
        Phase {
            seconds: rounded(length.as_secs_f64(), 3),
            packets: tally.counts.packets,
            missing: tally.counts.missing,
            gaps: tally.counts.gaps,
            latency_ms: Percentiles::of(&tally.latency),
            forwarding_ms: Percentiles::of(&tally.forwarding),
        }
    }

    fn churn(&self, turnstile: &Turnstile) -> ChurnUse {
        let (churn, moves) = (turnstile.churn(), turnstile.moves());
        ChurnUse {
            stay_seconds: churn.stay.as_secs_f64(),
            away_seconds: churn.away.as_secs_f64(),
            speed: churn.speed,
            tick_seconds: churn.tick.as_secs_f64(),
            deleted: moves.deleted,
            vanished: moves.vanished,
            joined: moves.joined,
            with_ticket: moves.with_ticket,
            tickets_refused: moves.tickets_refused,
            growth: growth(&self.ticks),
            ticks: self.ticks.clone(),
        }
    }

    fn server(&self) -> Option<ServerUse> {
        let [(_, (before, _)), (ramped_at, (ramped, _)), (ended_at, (ended, _))] = self.borders[..] else {
            return None;
        };
        let (before, ramped, ended) = (before?, ramped?, ended?);
        let cpu = ended.cpu.saturating_sub(ramped.cpu).as_secs_f64();
        let added = ended.rss_bytes as f64 - before.rss_bytes as f64;
        Some(ServerUse {
            pids: self.pids.to_vec(),
            cpu_seconds: rounded(cpu, 3),
            cpu_percent: rounded(cpu * 100.0 / (ended_at - ramped_at).as_secs_f64(), 2),
            cpu_us_per_packet: per(cpu * 1e6, self.steady.counts.packets).map(|us| rounded(us, 3)),
            ramp_cpu_seconds: rounded(ramped.cpu.saturating_sub(before.cpu).as_secs_f64(), 3),
            rss_bytes_before: before.rss_bytes,
            rss_bytes: ended.rss_bytes,
            rss_bytes_per_listener: per(added, self.connected).map(|bytes| rounded(bytes, 0)),
        })
    }

    fn tester(&self, whole: &Tally, sockets: SocketUse) -> OwnUse {
        let [_, (ramped_at, (_, ramped)), (ended_at, (_, ended))] = self.borders[..] else {
            return OwnUse::default();
        };
        let cpu = ended.cpu.saturating_sub(ramped.cpu).as_secs_f64();
        OwnUse {
            cpu_seconds: rounded(cpu, 3),
            cpu_percent: rounded(cpu * 100.0 / (ended_at - ramped_at).as_secs_f64(), 2),
            cpu_us_per_packet: per(cpu * 1e6, self.steady.counts.packets).map(|us| rounded(us, 3)),
            rss_bytes: ended.rss_bytes,
            saturated_seconds: self.saturated_seconds,
            late_ms: Percentiles::of(&self.speakers.late),
            own_ms: Percentiles::of(&whole.own),
            join_late_ms: Percentiles::of(&self.crew.ledger.of(Role::Listener).late),
            reports: whole.reports,
            sockets,
        }
    }

    fn outcome(
        &self,
        joins: &Joins,
        media: &Media,
        sockets: SocketUse,
        standing: Standing,
        whole: &Tally,
    ) -> Outcome {
        let own = Own {
            late_p99: self.speakers.late.at(0.99),
            own_p99: whole.own.at(0.99),
            join_late_p99: self.crew.ledger.of(Role::Listener).late.at(0.99),
            socket_drops: sockets.dropped,
            untimed: whole.counts.unstamped + whole.counts.early,
            packets: whole.counts.packets,
            saturated_seconds: self.saturated_seconds,
            seconds: self.watched_seconds,
        };
        let server = Server {
            joins_failed: self.crew.ledger.of(Role::Listener).failed.total(),
            connected: standing.connected,
            silent: standing.connected.saturating_sub(standing.heard),
            silenced: standing.silenced,
            disconnected: whole.ended.total(),
            publishers_ended: self.speakers.ended.total(),
            loss_percent: loss_percent(&whole.counts),
            p99: self.steady.latency.at(0.99),
            growth: growth(&self.ticks),
        };
        let mut outcome = Outcome::judge(&own, &server, &self.limits);
        if joins.asked > 0 && media.packets == 0 {
            outcome.failed.push("nothing was heard at all".to_owned());
        }
        outcome
    }
}

fn growth(ticks: &[Tick]) -> Option<Growth> {
    let memory: Option<Vec<f64>> = ticks.iter().map(|tick| Some(tick.server_rss_bytes? as f64)).collect();
    let Trend { warm_up, slope, noise } = Trend::of(&memory?)?;
    let joined: u64 = ticks[warm_up..].iter().map(|tick| tick.joined).sum();
    Some(Growth {
        warm_up_ticks: warm_up,
        bytes_per_tick: rounded(slope, 0),
        noise_bytes_per_tick: rounded(noise, 0),
        bytes_per_join: per(slope * (ticks.len() - warm_up) as f64, joined).map(|bytes| rounded(bytes, 2)),
        grows: slope > noise,
    })
}

fn lost(counts: &Counts) -> u64 {
    u64::try_from(counts.missing).unwrap_or(0)
}

fn loss_percent(counts: &Counts) -> f64 {
    let lost = lost(counts);
    per(lost as f64 * 100.0, counts.packets + lost).unwrap_or(0.0)
}
