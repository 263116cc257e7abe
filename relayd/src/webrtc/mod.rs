//! webrtc.

pub mod srtp;
