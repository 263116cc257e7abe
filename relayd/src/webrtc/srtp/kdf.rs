//! Key derivation (RFC 3711 §4.3, RFC 7714 §11): session keys are AES counter-mode keystream under the master key.
//!
//! The key derivation rate is zero, as everywhere in WebRTC: keys are derived once per leg.

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};

use super::Master;

/// What a derived key is for; the values are RFC 3711 §4.3.2's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Label {
    RtpKey = 0,
    RtpAuth = 1,
    RtpSalt = 2,
    RtcpKey = 3,
    RtcpAuth = 4,
    RtcpSalt = 5,
}

/// Fills `out` with the session key for `label`.
pub(super) fn derive(master: &Master, label: Label, out: &mut [u8]) {
    // RFC 3711 §4.3.1: x = (label ‖ 0) xor salt, and the counter starts at x · 2^16.
    let mut iv = [0u8; 16];
    iv[..14].copy_from_slice(&master.salt);
    iv[7] ^= label as u8;
    out.fill(0);
    let key = counter_mode(master.key());
    key.less_safe_encrypt(out, EncryptionContext::Iv128(iv.into())).expect("counter mode takes any length");
}

/// An AES counter-mode key of 16 or 32 bytes.
pub(super) fn counter_mode(key: &[u8]) -> EncryptingKey {
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    let key = UnboundCipherKey::new(algorithm, key).expect("profiles have 16- and 32-byte keys");
    EncryptingKey::ctr(key).expect("every AES key works in counter mode")
}
