//! The load tester: publishers and any number of listeners against a server that speaks WHIP and WHEP.
//!
//! ```text
//! joining ──offer, answer──▶ connector ──keys──▶ ears (one thread per core)   every packet opened, checked, counted
//!  (HTTP)                    (ICE, DTLS)     └─▶ speakers (one thread)        a frame each 20 ms, by a grid
//! ```
//!
//! str0m does SDP, ICE and DTLS; media passes it by, on the SRTP of this crate, so that one core drives thousands of
//! listeners. Everything that counts and decides is pure: `payload`, `hearing`, `grid`, `reports`, `verdict`, `report`.
//!
//! Two rules make the figures worth something. Times are taken from when a packet was *due*, so a tester that falls behind
//! shows as latency and not as a pause (no coordinated omission). And what the tester itself did not manage is measured,
//! too: a run in which it could not keep up says so, and its figures are no statement on the server.

mod cause;
mod churn;
mod clock;
mod connector;
mod crew;
mod doors;
mod ears;
mod grid;
mod hearing;
pub mod inbox;
mod joining;
mod link;
pub mod payload;
mod plot;
mod poller;
mod procfs;
mod report;
mod reports;
mod returns;
mod run;
mod speakers;
mod table;
mod tally;
mod verdict;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

pub use self::cause::Cause;
pub use self::churn::Churn;
pub use self::plot::plot;
pub use self::report::{
    ChurnUse, Growth, Joins, Media, OwnUse, Percentiles, Phase, Report, RunInfo, Second, ServerUse,
    SocketUse, Tick, VERSION,
};
pub use self::run::load;
pub use self::table::{summary, table_head, table_line};
pub use self::verdict::{Limits, Outcome};
use crate::client::{AddressError, HttpError, Stop};

/// What to load, how much, and how long.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The server.
    pub target: Target,
    /// How many sessions `{n}` or `{N}` in an address counts through; at least one.
    pub sessions: usize,
    /// Listeners.
    pub listeners: usize,
    /// Joins per second.
    pub ramp: f64,
    /// How long to go on once all have joined; with churn, its ticks say that.
    pub time: Duration,
    /// Listeners leave and come again.
    pub churn: Option<Churn>,
    /// Publishers; none means that somebody else speaks.
    pub publishers: usize,
    /// Threads that read; `None` is one for each core.
    pub threads: Option<usize>,
    /// Bearer token.
    pub token: Option<String>,
    /// PEM file of certificate authorities to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Processes of the server, on this machine: their CPU time and memory are reported.
    pub server_pids: Vec<u32>,
    /// What the server has to keep.
    pub limits: Limits,
    /// Ends the run early.
    pub stop: Stop,
}

/// Where publishers and listeners go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// These addresses; `{n}` or `{N}` in them is the number of a session, from 0.
    Addresses {
        /// WHIP; needed if there are publishers.
        whip: Option<String>,
        /// WHEP.
        whep: String,
    },
    /// A session that a relay of ours has.
    Session {
        /// Its public address.
        relay: String,
        /// The session.
        session: String,
        /// Its language; without it, the one that is spoken.
        language: Option<String>,
    },
    /// Sessions that are created at a relay of ours, and deleted at the end.
    Relay {
        /// Its public address.
        relay: String,
    },
}

/// Why a run did not come to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// An address is not one to publish or listen at.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The options do not fit each other.
    #[error("{0}")]
    Usage(String),
    /// A session could not be created.
    #[error("no session was created: {0}")]
    Session(HttpError),
    /// A publisher did not get through; nobody would hear anything.
    #[error("the publishers did not get through: {why}")]
    Publishers {
        /// The first of the reasons.
        why: String,
        /// What they have in common.
        cause: Cause,
    },
    /// No listener at all was let in; nothing was measured.
    #[error("no listener was let in: {why}")]
    Listeners {
        /// The first of the reasons.
        why: String,
        /// What they have in common.
        cause: Cause,
    },
    /// This process may not open a socket for each listener.
    #[error(
        "this process may have {have} open files, and {need} are needed: raise the limit (ulimit -n, or \
         LimitNOFILE), or ask for fewer listeners"
    )]
    Files {
        /// The limit.
        have: u64,
        /// What the run needs.
        need: u64,
    },
    /// This machine did not let the tester start.
    #[error("the tester could not start: {0}")]
    Start(String),
}
