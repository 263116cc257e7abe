//! webrtc.
