//! An allocator that counts, per thread: what says zero here allocates nothing at all in Rust. It also counts the bytes
//! that are held, of what one thread both takes and gives back.
//!
//! A test or bench makes it its own: `#[global_allocator] static COUNTING: Counting = Counting;`
#![expect(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Of all threads.
static EVERYWHERE: AtomicU64 = AtomicU64::new(0);
/// Bytes, of all threads.
static LIVE: AtomicI64 = AtomicI64::new(0);

thread_local! {
    // Without initialiser and destructor, so that counting itself never allocates.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

// SAFETY: every call is passed on to `System` unchanged, which keeps the contract; the counter is a plain
// thread-local number.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the caller's promises are passed on.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the caller's promises are passed on.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: the caller's promises are passed on.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        give_back(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    // SAFETY: the caller's promises are passed on.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count(bytes: usize) {
    COUNT.set(COUNT.get() + 1);
    EVERYWHERE.fetch_add(1, Ordering::Relaxed);
    LIVE.fetch_add(bytes as i64, Ordering::Relaxed);
    HELD.set(HELD.get() + bytes as i64);
}

fn give_back(bytes: usize) {
    LIVE.fetch_sub(bytes as i64, Ordering::Relaxed);
    HELD.set(HELD.get() - bytes as i64);
}

/// Bytes that this thread holds more after `work` than before it; for certain only under [`Counting`].
pub fn held_by(work: impl FnOnce()) -> i64 {
    let before = HELD.get();
    work();
    HELD.get() - before
}

/// How often this thread allocated or grew memory while `work` ran; zero for certain only under [`Counting`].
pub fn during(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

/// How often the process has allocated or grown memory so far, on any thread; right only under [`Counting`].
pub fn everywhere() -> u64 {
    EVERYWHERE.load(Ordering::Relaxed)
}

/// Bytes that the process holds, whichever thread took them; right only under [`Counting`].
pub fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}
