//! The pools of the C library's allocator, kept few: what listeners leave behind who come and go.
//!
//! glibc gives each thread a pool of its own, up to eight for each core. What one thread takes and another gives back, as
//! of every join, leaves holes in all of them, which fill for hours. It also learns to keep what is large, and each table
//! that has grown leaves the place of the smaller one behind. With one pool, and all that is large by itself, memory is
//! level after minutes (`benches/RESULTS.md`). Threads still have a small cache each, and the media plane allocates
//! nothing for a packet: one pool makes nobody wait.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "the C library's allocator has no safe interface")
)]

/// Bytes from which on memory is had from the system, and given back to it, by itself.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 64 * 1024;

/// Has the allocator keep one pool, unless the environment says what it is to do; to be called before there are threads.
/// With another C library than glibc it does nothing.
pub fn keep_one_pool() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let wanted = ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"];
        if wanted.iter().any(|name| std::env::var_os(name).is_some()) {
            return;
        }
        let options =
            [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)];
        for (option, value) in options {
            // SAFETY: it takes two numbers, and may be called at any time by any thread.
            let taken = unsafe { libc::mallopt(option, value) };
            debug_assert_eq!(taken, 1, "glibc knows these options");
        }
    }
}
