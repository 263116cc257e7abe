//! Which core a thread runs on. What sends and what reads share caches on one core and not on two, which makes the same work
//! half as expensive or not, so that it must not be left to chance what of a ratio runs where.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this program was given.
#[derive(Debug, Clone)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// Those of the thread that asks.
    ///
    /// # Panics
    /// When the system does not say.
    #[must_use]
    pub fn given() -> Self {
        let allowed = sched_getaffinity(None).expect("a thread knows where it may run");
        Self((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect())
    }

    /// Keeps this thread, and those that it starts from now on, to the one that sends is kept to.
    pub fn send(&self) {
        self.keep_to(0);
    }

    /// Keeps this thread, and those that it starts from now on, to another one, if there is one.
    pub fn receive(&self) {
        self.keep_to(1);
    }

    fn keep_to(&self, number: usize) {
        let mut own = CpuSet::new();
        own.set(self.0[number % self.0.len()]);
        sched_setaffinity(None, &own).expect("it is one of those that were given");
    }
}
