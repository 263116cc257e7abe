//! Sans-IO engine that relays live Opus audio from one speaker to many listeners.

pub mod rtp;
