//! Deterministic simulation of the engine, and integration tests of the daemon.
//!
//! A [`world`] runs a [`scenario`] on a virtual clock: publishers send [`stream`]s over [`link`]s to one relay, what
//! comes out is [`seen`], held against an [`oracle`], and carried on to listeners.

pub mod campaign;
pub mod coverage;
mod far;
pub mod fuzzing;
pub mod impair;
pub mod link;
pub mod oracle;
pub mod scenario;
pub mod seen;
pub mod stream;
pub mod switching;
pub mod world;
