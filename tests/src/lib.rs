//! Deterministic simulation of the engine, and integration tests of the daemon.

pub mod fuzzing;
pub mod link;
