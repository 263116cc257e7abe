//! Keeps a media thread on one core.

/// Keeps this thread on one of the cores that it may run on: the `number`-th of them, counted round.
///
/// It goes on where it is if the system refuses, and says so.
#[cfg(target_os = "linux")]
pub(super) fn pin(number: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let pinned = sched_getaffinity(None).and_then(|allowed| {
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
        let mut own = CpuSet::new();
        // A thread that runs may run somewhere.
        let core = cores.get(number % cores.len().max(1)).copied().unwrap_or_default();
        own.set(core);
        sched_setaffinity(None, &own).map(|()| core)
    });
    match pinned {
        Ok(core) => tracing::debug!(shard = number, core, "the media thread stays on its core"),
        Err(error) => tracing::warn!(shard = number, %error, "the media thread is not kept on a core"),
    }
}

/// Not every system can.
#[cfg(not(target_os = "linux"))]
pub(super) fn pin(number: usize) {
    tracing::warn!(shard = number, "media threads are not kept on cores on this system");
}
