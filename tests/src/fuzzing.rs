//! What the fuzz targets check: one function from bytes to nothing for each parser that meets the wire.
//!
//! The targets in `fuzz/` only call these, and `it/corpus.rs` replays the committed corpora through them on
//! stable. Each holds a property beyond "no panic": what was read is written back the same, is inside what was
//! given, or is bounded by it.

mod body;
mod configuration;
mod load;
mod media;
mod signalling;
mod socket;
mod token;
mod wire;

/// A body: takes any bytes, panics if the property does not hold.
pub type Body = fn(&[u8]);

/// Every target by the name of its file in `fuzz/fuzz_targets` and of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Body); 14] = [
    ("rtp", wire::rtp),
    ("rtcp", wire::rtcp),
    ("extensions", wire::extensions),
    ("opus_toc", wire::opus_toc),
    ("sdp_offer", signalling::sdp_offer),
    ("trickle_fragment", signalling::trickle_fragment),
    ("demux", signalling::demux),
    ("jwt", token::jwt),
    ("ws_message", socket::ws_message),
    ("media_frame", media::media_frame),
    ("media_message", media::media_message),
    ("load_payload", load::load_payload),
    ("config", configuration::config),
    ("json_bodies", body::json_bodies),
];

/// Runs the body of a target.
///
/// # Panics
///
/// If the target does not exist or its property does not hold.
pub fn run(target: &str, data: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name exists");
    body(data);
}
