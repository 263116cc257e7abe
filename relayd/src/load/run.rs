//! A run from its first join to its report.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::Agent;

use super::cause::Cause;
use super::churn::Turnstile;
use super::crew::Crew;
use super::doors::open;
use super::joining::{Joining, MAX_THREADS, Made, Ramp};
use super::procfs::{dropped, usage};
use super::report::{self, Report, Second};
use super::returns;
use super::speakers::Call;
use super::watch::{Part, Watch};
use super::{LoadError, LoadOptions};
use crate::client::{Role, bind_towards, keeping_agent, without_userinfo};
use crate::webrtc::keys::Identity;

/// How long publishers, and the last listener, have to come up.
const SETTLE: Duration = Duration::from_secs(20);
/// How long the last listener has to hear something, and all that it missed, once it is up.
const FIRST_PACKET: Duration = Duration::from_secs(5);
/// What is on its way when publishers stop is waited for so long.
const DRAIN: Duration = Duration::from_secs(1);
/// Between looks at the time and at the stop flag.
const LOOK: Duration = Duration::from_millis(10);
/// Files of the tester besides its sockets.
const OTHER_FILES: u64 = 64;

/// Loads the server, and reports. Blocks until done or stopped; `on_second` is called each second.
///
/// # Errors
///
/// See [`LoadError`]: nothing was measured. What goes wrong later is in the report.
pub fn load(options: &LoadOptions, on_second: impl FnMut(&Second)) -> Result<Report, LoadError> {
    check(options)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = options.threads.unwrap_or(cores).max(1);
    let (agent, pids) = (agent(options.ca_file.as_deref())?, distinct(&options.server_pids));
    let opened = open(options, &agent)?;
    let identity = Identity::generate().map_err(LoadError::Start)?;
    let probe = bind_towards(&opened.doors.whep[0])?;
    let local = probe.local_addr().map_err(|error| LoadError::Start(error.to_string()))?.ip();
    let turnstile = options.churn.map(|churn| Arc::new(Turnstile::new(churn)));
    let crew = Crew::start(threads, options.publishers, turnstile.as_ref())?;
    let (connector, waker) = crew.connector();
    let joining = Arc::new(Joining {
        identity,
        agent,
        token: options.token.clone(),
        doors: opened.doors.clone(),
        local,
        connector,
        waker,
        ledger: crew.ledger.clone(),
        stop: options.stop.clone(),
        made: Mutex::new(Made::default()),
    });
    let info = report::RunInfo {
        whip: opened.doors.whip.first().map(|uri| without_userinfo(&uri.to_string())),
        whep: without_userinfo(&opened.doors.whep[0].to_string()),
        sessions: opened.doors.whep.len(),
        listeners: options.listeners,
        ramp_per_second: options.ramp,
        publishers: options.publishers,
        seconds: options.churn.map_or(options.time, |churn| churn.time()).as_secs_f64(),
        threads,
        cores,
        stopped_early: false,
    };
    let run = Run {
        options,
        crew: &crew,
        joining: &joining,
        turnstile: turnstile.as_ref(),
        watch: Watch::new(&crew, &pids, options.limits, turnstile.as_deref(), on_second),
    };
    let result = run.run(info);
    // Not to be asked again: whatever is left ends with the process, and with the server's own timeouts.
    joining.leave();
    drop(joining);
    crew.dismiss();
    drop(opened.created);
    result
}

/// What asks the server, and trusts these authorities besides the public ones.
fn agent(ca_file: Option<&Path>) -> Result<Agent, LoadError> {
    let named = |path: &Path, error: &dyn Display| {
        LoadError::Usage(format!("certificate authorities of {}: {error}", path.display()))
    };
    let Some(path) = ca_file else { return keeping_agent(&[], MAX_THREADS).map_err(LoadError::Usage) };
    let authorities = std::fs::read(path).map_err(|error| named(path, &error))?;
    keeping_agent(&authorities, MAX_THREADS).map_err(|error| named(path, &error))
}

/// Each process once: the same one twice would count twice.
fn distinct(pids: &[u32]) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    pids.iter().copied().filter(|pid| seen.insert(*pid)).collect()
}

/// What can be known before anything is started.
fn check(options: &LoadOptions) -> Result<(), LoadError> {
    if let Some(pid) = options.server_pids.iter().find(|pid| usage(&[**pid]).is_none()) {
        return Err(LoadError::Usage(format!("--server-pid: there is no process {pid} here")));
    }
    let gone = options.churn.map_or(0, |churn| churn.files(options.listeners));
    let need = options.listeners as u64 + options.publishers as u64 + MAX_THREADS as u64 + OTHER_FILES + gone;
    let have = rlimit::increase_nofile_limit(u64::MAX);
    let have = have.map_err(|error| LoadError::Start(error.to_string()))?;
    if have < need { Err(LoadError::Files { have, need }) } else { Ok(()) }
}

struct Run<'a, F> {
    options: &'a LoadOptions,
    crew: &'a Crew,
    joining: &'a Arc<Joining>,
    turnstile: Option<&'a Arc<Turnstile>>,
    watch: Watch<'a, F>,
}

impl<F: FnMut(&Second)> Run<'_, F> {
    fn run(mut self, info: report::RunInfo) -> Result<Report, LoadError> {
        self.publish()?;
        self.watch.begin(Instant::now());
        let threads = self.start(Role::Listener, self.options.listeners, self.options.ramp)?;
        self.settle(threads);
        self.somebody_is_in()?;
        self.watch.turn(Instant::now(), Part::Steady);
        match self.turnstile {
            Some(turnstile) => self.come_and_go(turnstile)?,
            None => self.wait(Instant::now() + self.options.time),
        }
        // A signal that comes while the run ends cuts nothing short.
        let stopped_early = self.options.stop.is_stopped();
        let stopped = Instant::now();
        self.watch.turn(stopped, Part::Drain);
        self.crew.call(Call::Stop);
        while stopped.elapsed() < DRAIN {
            std::thread::sleep(LOOK);
        }
        let standing = self.crew.finish(stopped);
        self.watch.collect();
        let (ports, asked) = {
            let mut made = self.joining.made();
            (std::mem::take(&mut made.ports), made.asked)
        };
        let sockets = report::SocketUse { dropped: dropped(&ports) };
        let info = report::RunInfo { stopped_early, ..info };
        Ok(self.watch.report(info, asked, standing, sockets))
    }

    fn wait(&mut self, until: Instant) {
        while Instant::now() < until && !self.options.stop.is_stopped() {
            self.look();
        }
    }

    /// Has listeners leave and come again, tick by tick; at the end, whoever is on the way comes in.
    fn come_and_go(&mut self, turnstile: &Arc<Turnstile>) -> Result<(), LoadError> {
        turnstile.set_open(true);
        let threads = returns::start(self.joining, turnstile, self.options.listeners);
        let threads = threads.map_err(|error| LoadError::Start(error.to_string()))?;
        let (begun, length) = (Instant::now(), turnstile.churn().tick_time());
        for tick in 1..=turnstile.churn().ticks {
            self.wait(begun + length * tick);
            if self.options.stop.is_stopped() {
                break;
            }
            self.watch.tick(Instant::now());
        }
        turnstile.set_open(false);
        self.settle(threads);
        Ok(())
    }

    /// Brings the publishers up, all of them, and has them speak.
    fn publish(&self) -> Result<(), LoadError> {
        let count = self.options.publishers;
        if count == 0 {
            return Ok(());
        }
        let threads = self.start(Role::Publisher, count, f64::from(u32::MAX))?;
        let deadline = Instant::now() + SETTLE;
        let settled = || self.crew.ledger.of(Role::Publisher).settled() >= count as u64;
        while !settled() && Instant::now() < deadline && !self.options.stop.is_stopped() {
            std::thread::sleep(LOOK);
        }
        join_all(threads);
        let publishers = self.crew.ledger.of(Role::Publisher);
        if publishers.connected.count() < count as u64 {
            let late = || ("no connection came up in time".to_owned(), Cause::Other);
            let (why, cause) = publishers.why().unwrap_or_else(late);
            return Err(LoadError::Publishers { why, cause });
        }
        drop(publishers);
        self.crew.call(Call::Start);
        Ok(())
    }

    fn start(
        &self,
        role: Role,
        count: usize,
        rate: f64,
    ) -> Result<Vec<std::thread::JoinHandle<()>>, LoadError> {
        let ramp = Ramp { role, count, rate, start: Instant::now() };
        self.joining.start(ramp).map_err(|error| LoadError::Start(error.to_string()))
    }

    /// Waits until all joins are up and heard, or have failed, or the time for that is over.
    fn settle(&mut self, mut threads: Vec<std::thread::JoinHandle<()>>) {
        let (mut posted, mut settled) = (None, None);
        while !self.options.stop.is_stopped() {
            self.look();
            if posted.is_none() && threads.iter().all(std::thread::JoinHandle::is_finished) {
                join_all(std::mem::take(&mut threads));
                posted = Some(Instant::now());
            }
            let Some(posted) = posted else { continue };
            let (over, connected) = {
                let joins = self.crew.ledger.of(Role::Listener);
                (joins.settled() >= self.joining.made().asked, joins.connected.count())
            };
            if over && settled.is_none() {
                settled = Some(Instant::now());
            }
            let silent = settled.is_some_and(|settled| settled.elapsed() >= FIRST_PACKET);
            let hear = || self.crew.heard() >= connected && self.crew.behind() == 0;
            if over && (silent || hear()) || posted.elapsed() >= SETTLE {
                return;
            }
        }
        // Each ends with the join it is at.
        join_all(threads);
    }

    /// A server that is not there, or lets nobody in, has nothing to be measured.
    fn somebody_is_in(&self) -> Result<(), LoadError> {
        let joins = self.crew.ledger.of(Role::Listener);
        if joins.failed.total() < self.joining.made().asked {
            return Ok(());
        }
        match joins.why() {
            Some((why, cause)) if cause != Cause::Other => Err(LoadError::Listeners { why, cause }),
            _ => Ok(()),
        }
    }

    fn look(&mut self) {
        std::thread::sleep(LOOK);
        self.watch.look(Instant::now());
    }
}

fn join_all(threads: Vec<std::thread::JoinHandle<()>>) {
    for thread in threads {
        // A thread that panicked has said so on standard error.
        let _panicked = thread.join().is_err();
    }
}
