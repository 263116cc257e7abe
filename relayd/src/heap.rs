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

/// What [`keep_one_pool`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub enum Pools {
    /// There is one.
    One,
    /// As whoever started the process has said in its environment.
    AsAsked,
    /// The C library is not glibc, and does as it likes.
    Unknown,
    /// As glibc likes: there are other threads already, or nobody knows whether there are.
    TooLate,
    /// As glibc likes: it does not take one of the options.
    Refused,
}

impl Pools {
    /// Whether it could not be done, though nobody wanted it otherwise.
    pub fn has_failed(self) -> bool {
        matches!(self, Self::TooLate | Self::Refused)
    }
}

/// Has the allocator keep one pool, unless the environment says what it is to do. To be called first of all: where there are
/// other threads already it does nothing, nor with another C library than glibc.
pub fn keep_one_pool() -> Pools {
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    return Pools::Unknown;
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        if std::env::vars_os().any(|(name, _)| is_for_the_allocator(&name)) {
            return Pools::AsAsked;
        }
        if !is_only_thread() {
            return Pools::TooLate;
        }
        let options =
            [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)];
        for (option, value) in options {
            // SAFETY: it takes two numbers, and may be called while there is one thread: glibc calls it MT-Unsafe, as it sets up
            // the allocator. This is the only thread, and so nobody can start another meanwhile.
            let taken = unsafe { libc::mallopt(option, value) };
            if taken != 1 {
                return Pools::Refused;
            }
        }
        Pools::One
    }
}

/// Whether a variable of the environment says what glibc's allocator is to do.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn is_for_the_allocator(name: &std::ffi::OsStr) -> bool {
    name == "GLIBC_TUNABLES" || name.as_encoded_bytes().starts_with(b"MALLOC_")
}

/// Not known without `/proc`, and then it is not said.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn is_only_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn whoever_says_anything_to_the_allocator_says_it_all() {
        for name in ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"] {
            assert!(is_for_the_allocator(name.as_ref()), "{name}");
        }
        for name in ["MALLOC", "MY_MALLOC_ARENA_MAX", "GLIBC_TUNABLES_", "PATH"] {
            assert!(!is_for_the_allocator(name.as_ref()), "{name}");
        }
    }

    #[test]
    fn a_thread_beside_another_is_not_the_only_one() {
        std::thread::spawn(|| assert!(!is_only_thread())).join().unwrap();
    }

    #[test]
    fn whoever_comes_too_late_is_told() {
        let asked = std::env::vars_os().any(|(name, _)| is_for_the_allocator(&name));
        let expected = if asked { Pools::AsAsked } else { Pools::TooLate };
        std::thread::spawn(move || assert_eq!(keep_one_pool(), expected)).join().unwrap();
        assert_eq!(expected.has_failed(), !asked);
    }
}
