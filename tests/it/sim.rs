//! The engine in a simulated world.
