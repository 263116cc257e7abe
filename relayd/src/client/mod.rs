//! client.

pub mod ogg;
