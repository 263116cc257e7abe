//! The monotonic clock as a number, and a name for the machine that it is of.
//!
//! A publisher writes its clock's time into each payload; a listener in another process of the same machine can subtract it
//! from its own. On another machine the name differs, and no latency is measured rather than a wrong one.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Turns instants into nanoseconds that other processes of this machine count, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    anchor: Instant,
    anchor_ns: u64,
    id: u32,
}

impl Clock {
    /// This machine's clock.
    pub(crate) fn new() -> Self {
        // An `Instant` is this clock's time on Linux, without a way to ask for the number.
        let (time, anchor) = (clock_gettime(ClockId::Monotonic), Instant::now());
        let anchor_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { anchor, anchor_ns, id: id_of(boot.trim()) }
    }

    /// Nanoseconds of an instant.
    pub(crate) fn ns(&self, at: Instant) -> u64 {
        match at.checked_duration_since(self.anchor) {
            Some(after) => self.anchor_ns.saturating_add(nanos(after)),
            None => self.anchor_ns.saturating_sub(nanos(self.anchor - at)),
        }
    }

    /// Which machine, and which boot of it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// FNV-1a.
fn id_of(boot: &str) -> u32 {
    boot.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_both_ways_from_the_anchor() {
        let clock = Clock::new();
        let now = clock.anchor;
        let second = Duration::from_secs(1);
        assert_eq!(clock.ns(now + second) - clock.ns(now), 1_000_000_000);
        assert_eq!(clock.ns(now) - clock.ns(now - second), 1_000_000_000);
    }

    #[test]
    fn two_clocks_of_a_machine_agree() {
        let (one, other) = (Clock::new(), Clock::new());
        let now = Instant::now();
        assert_eq!(one.id(), other.id());
        assert!(one.ns(now).abs_diff(other.ns(now)) < 1_000_000_000, "read one after the other");
        assert_ne!(id_of("a"), id_of("b"));
    }
}
