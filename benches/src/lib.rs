//! Shared set-up of the benches.

pub mod allocations;
pub mod audience;
pub mod caches;
pub mod cores;
pub mod crowd;
pub mod guest;
pub mod paced;
pub mod process;
pub mod ready;
pub mod relay;
