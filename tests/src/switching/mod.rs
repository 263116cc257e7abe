//! Worlds of switches: legs of speakers and listeners are replaced, lost and brought back, and nobody may hear it.
//!
//! Small on purpose: a world is a few seconds of one or two tracks and some listeners, so that a campaign can run a
//! million of them. [`script`] makes what happens, `world` runs it, `truth` and `ear` are the oracle: what each track
//! must hold, and what each listener is owed.

mod crowd;
mod ear;
mod frames;
mod leg;
mod listen;
mod pair;
pub mod script;
pub mod seen;
mod speak;
mod truth;
mod world;

use std::time::Duration;

use relay_engine::Verdict;

pub use self::frames::FrameId;
use self::script::Script;
use self::seen::Seen;
use self::world::World;
use crate::world::{Failure, Honest};

/// Changes what comes out of the relay before the oracle sees it: a relay that is broken on purpose.
pub trait Tamper {
    /// Gets the outputs of a drain.
    fn tamper(&mut self, outputs: &mut Vec<Seen>);

    /// Gets the deadline after the drain.
    fn deadline(&mut self, deadline: Option<Duration>, _now: Duration) -> Option<Duration> {
        deadline
    }

    /// Hears what goes in.
    fn input(&mut self, _now: Duration, _what: std::fmt::Arguments<'_>) {}
}

impl Tamper for Honest {
    fn tamper(&mut self, _outputs: &mut Vec<Seen>) {}
}

/// Something that these worlds are generated for, counted where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// A leg was called spent.
    Spent,
    /// A packet was marked as a replay.
    Replayed,
    /// A listener was told that it missed frames.
    Skipped,
    /// Positions were declared lost.
    Lost,
    /// A speaker began to send again what was not acknowledged.
    Resent,
    /// A listener came back as another one, with what it has.
    Resumed,
    /// A listener asked for what it missed.
    Nack,
    /// A relay was told to move a speaker.
    SpeakerSwitch,
    /// A relay was told to move a listener.
    ListenerSwitch,
    /// A listener chose another track.
    Select,
    /// A listener paused.
    Pause,
    /// A speaker's leg was fenced.
    Takeover,
}

impl Count {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Spent,
        Self::Replayed,
        Self::Skipped,
        Self::Lost,
        Self::Resent,
        Self::Resumed,
        Self::Nack,
        Self::SpeakerSwitch,
        Self::ListenerSwitch,
        Self::Select,
        Self::Pause,
        Self::Takeover,
    ];
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of everything that came out, verdicts and deadlines included.
    pub digest: world::RunDigest,
    /// Inputs handed to the relay.
    pub steps: u64,
    /// Packets that listeners were handed.
    pub packets: u64,
    /// How often each verdict was given, by its place in [`Verdict::ALL`].
    pub verdicts: [u64; Verdict::ALL.len()],
    /// How often each thing happened, by its place in [`Count::ALL`].
    pub counts: [u64; Count::ALL.len()],
}

impl Report {
    /// Adds another run's; digests do not add up.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.packets += other.packets;
        for (total, more) in self.verdicts.iter_mut().zip(other.verdicts) {
            *total += more;
        }
        for (total, more) in self.counts.iter_mut().zip(other.counts) {
            *total += more;
        }
    }

    /// How often it happened.
    #[must_use]
    pub const fn of(&self, what: Count) -> u64 {
        self.counts[what as usize]
    }
}

/// Runs a script; `shift` moves the instant that virtual time is counted from, which must change nothing, and neither
/// must that outputs are then taken by [`relay_engine::Relay::fan_out`] too.
///
/// # Errors
///
/// The first broken promise.
pub fn run(script: &Script, shift: Duration, tamper: &mut dyn Tamper) -> Result<Report, Failure> {
    let mut world = World::new(script, shift, tamper);
    world.run().map_err(|violation| world.failure(violation))?;
    Ok(world.report)
}
