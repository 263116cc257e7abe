//! The ciphers of the three profiles, with keys scheduled once and kept.
//!
//! A [`Cipher`] seals and opens byte ranges; where header, tag and index lie is the business of `rtp` and `rtcp`.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{EncryptingKey, EncryptionContext};
use aws_lc_rs::{constant_time, hmac};

use zeroize::Zeroizing;

use super::kdf::{Label, counter_mode, derive};
use super::{Master, SrtpProfile, wide};

/// Session keys of one direction of SRTP or SRTCP.
#[derive(Debug)]
pub(super) enum Cipher {
    Gcm(Gcm),
    /// Boxed: its key schedules are ten times the size of the other's.
    CounterMode(Box<CounterMode>),
}

impl Cipher {
    pub(super) fn rtp(profile: SrtpProfile, master: &Master) -> Self {
        Cipher::derived(profile, master, [Label::RtpKey, Label::RtpAuth, Label::RtpSalt])
    }

    pub(super) fn rtcp(profile: SrtpProfile, master: &Master) -> Self {
        Cipher::derived(profile, master, [Label::RtcpKey, Label::RtcpAuth, Label::RtcpSalt])
    }

    /// Puts the faster way for short packets in its place, if there is one; this is the cipher of RTP under the same keys.
    pub(super) fn widen(&self, profile: SrtpProfile, master: &Master, place: &mut Option<wide::Key>) {
        if let Cipher::Gcm(gcm) = self {
            let mut key = Zeroizing::new([0; 32]);
            let key = &mut key[..profile.key_len()];
            derive(master, Label::RtpKey, key);
            gcm.widen(key, place);
        }
    }

    fn derived(profile: SrtpProfile, master: &Master, [key, auth, salt]: [Label; 3]) -> Self {
        let (mut key_bytes, mut auth_bytes) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 20]));
        let mut salt_bytes = Zeroizing::new([0; 14]);
        let key_bytes = &mut key_bytes[..profile.key_len()];
        let salt_bytes = &mut salt_bytes[..profile.salt_len()];
        derive(master, key, key_bytes);
        derive(master, salt, salt_bytes);
        derive(master, auth, &mut *auth_bytes);
        Cipher::from_session_keys(profile, key_bytes, salt_bytes, &auth_bytes)
    }

    /// From keys that are derived already; `key` and `salt` have the profile's lengths.
    pub(super) fn from_session_keys(profile: SrtpProfile, key: &[u8], salt: &[u8], auth: &[u8; 20]) -> Self {
        match profile {
            SrtpProfile::AeadAes256Gcm | SrtpProfile::AeadAes128Gcm => Cipher::Gcm(Gcm::new(key, salt)),
            SrtpProfile::Aes128CmSha1_80 => Cipher::CounterMode(Box::new(CounterMode::new(key, salt, auth))),
        }
    }

    pub(super) fn tag_len(&self) -> usize {
        match self {
            Cipher::Gcm(_) => Gcm::TAG_LEN,
            Cipher::CounterMode(_) => CounterMode::TAG_LEN,
        }
    }
}

/// AES in Galois counter mode (RFC 7714).
#[derive(Debug)]
pub(super) struct Gcm {
    key: LessSafeKey,
    salt: [u8; 12],
}

impl Gcm {
    pub(super) const TAG_LEN: usize = 16;

    fn new(key: &[u8], salt: &[u8]) -> Self {
        let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
        let key = UnboundKey::new(algorithm, key).expect("profiles have 16- and 32-byte keys");
        let salt = salt.try_into().expect("GCM profiles have 12-byte salts");
        Gcm { key: LessSafeKey::new(key), salt }
    }

    /// Puts the faster way for short packets in its place, if there is one; `key` is this key. One that does not give what
    /// `aws-lc` gives is not taken.
    fn widen(&self, key: &[u8], place: &mut Option<wide::Key>) {
        let Some(wide) = wide::Key::expand(place, key) else { return };
        // As long as packets of voice are. Nothing of it is sent, so the nonce is not used up.
        let (aad, payload, mut ours, mut theirs) = ([0x5a; 24], [0xa5; 120], [0; 136], [0; 136]);
        self.seal(u32::MAX, 0, &aad, &payload, &mut theirs);
        self.seal_with(Some(wide), u32::MAX, 0, &aad, &payload, &mut ours);
        if ours != theirs {
            *place = None;
            tracing::error!(
                "this processor's wide AES does not give what it should: the slower way is taken"
            );
        }
    }

    /// Encrypts `plain` into `out`, which has room for the ciphertext and then the tag, exactly.
    ///
    /// `index` is 48 bits for SRTP, 31 for SRTCP.
    pub(super) fn seal(&self, ssrc: u32, index: u64, aad: &[u8], plain: &[u8], out: &mut [u8]) {
        self.seal_with(None, ssrc, index, aad, plain, out);
    }

    /// The same by the faster way, if the packet is short enough.
    #[inline]
    pub(super) fn seal_with(
        &self,
        wide: Option<&wide::Key>,
        ssrc: u32,
        index: u64,
        aad: &[u8],
        plain: &[u8],
        out: &mut [u8],
    ) {
        let (cipher, tag) = out.split_at_mut(plain.len());
        let iv = self.iv(ssrc, index);
        if let Some(wide) = wide
            && let Some(sealed) = wide.seal(&iv, aad, plain, cipher)
        {
            tag.copy_from_slice(&sealed);
            return;
        }
        let nonce = Nonce::assume_unique_for_key(iv);
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(aad), plain, cipher, &[], tag)
            .expect("the lengths match and are far below GCM's limit");
    }

    /// Decrypts ciphertext and tag in place; the plaintext is the front. False if it is not authentic.
    pub(super) fn open(&self, ssrc: u32, index: u64, aad: &[u8], in_out: &mut [u8]) -> bool {
        self.key.open_in_place(self.nonce(ssrc, index), Aad::from(aad), in_out).is_ok()
    }

    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        Nonce::assume_unique_for_key(self.iv(ssrc, index))
    }

    /// RFC 7714 §8.1 and §9.1: salt xor (0‖SSRC‖index), the index right-aligned in six bytes.
    fn iv(&self, ssrc: u32, index: u64) -> [u8; 12] {
        let mut iv = self.salt;
        xor(&mut iv[2..6], &ssrc.to_be_bytes());
        xor(&mut iv[6..12], &index.to_be_bytes()[2..]);
        iv
    }
}

/// AES in counter mode and HMAC-SHA1 cut to 80 bits (RFC 3711).
#[derive(Debug)]
pub(super) struct CounterMode {
    key: EncryptingKey,
    auth: hmac::Key,
    salt: [u8; 14],
}

impl CounterMode {
    pub(super) const TAG_LEN: usize = 10;

    fn new(key: &[u8], salt: &[u8], auth: &[u8; 20]) -> Self {
        CounterMode {
            key: counter_mode(key),
            auth: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, auth),
            salt: salt.try_into().expect("counter-mode profiles have 14-byte salts"),
        }
    }

    /// Encrypts or decrypts in place: counter mode is its own inverse.
    pub(super) fn apply(&self, ssrc: u32, index: u64, in_out: &mut [u8]) {
        // RFC 3711 §4.1.1: salt · 2^16 xor SSRC · 2^64 xor index · 2^16.
        let mut iv = [0u8; 16];
        iv[..14].copy_from_slice(&self.salt);
        xor(&mut iv[4..8], &ssrc.to_be_bytes());
        xor(&mut iv[8..14], &index.to_be_bytes()[2..]);
        self.key
            .less_safe_encrypt(in_out, EncryptionContext::Iv128(iv.into()))
            .expect("counter mode takes any length");
    }

    /// The tag over `data`.
    pub(super) fn tag(&self, data: &[u8]) -> [u8; Self::TAG_LEN] {
        let tag = hmac::sign(&self.auth, data);
        tag.as_ref()[..Self::TAG_LEN].try_into().expect("SHA-1 gives 20 bytes")
    }

    /// Whether `tag` is the tag over `data`, in constant time.
    pub(super) fn verify(&self, data: &[u8], tag: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.tag(data), tag).is_ok()
    }
}

fn xor(bytes: &mut [u8], with: &[u8]) {
    for (byte, with) in bytes.iter_mut().zip(with) {
        *byte ^= with;
    }
}

#[cfg(all(test, feature = "wide-gcm", target_arch = "x86_64"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of any lengths, also those that the wide way leaves to the other.
        #[test]
        fn both_ways_give_the_same(
            (key, salt) in (prop::collection::vec(any::<u8>(), 32), prop::collection::vec(any::<u8>(), 12)),
            short in any::<bool>(),
            (ssrc, index) in (any::<u32>(), 0_u64..1 << 48),
            aad in prop::collection::vec(any::<u8>(), 0..80),
            plain in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let key = &key[..if short { 16 } else { 32 }];
            let gcm = Gcm::new(key, &salt);
            let mut wide = None;
            gcm.widen(key, &mut wide);
            let able = wide::Key::expand(&mut None, key).is_some();
            prop_assert_eq!(wide.is_some(), able, "it gives what it should");
            prop_assert!(able || !is_x86_feature_detected!("avx512bw") || !is_x86_feature_detected!("vaes"));
            let (mut ours, mut theirs) = (vec![0; plain.len() + 16], vec![0; plain.len() + 16]);
            gcm.seal_with(wide.as_ref(), ssrc, index, &aad, &plain, &mut ours);
            gcm.seal(ssrc, index, &aad, &plain, &mut theirs);
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn every_length_is_sealed_alike() {
        let (key, salt) = ([7; 32], [9; 12]);
        let gcm = Gcm::new(&key, &salt);
        let mut wide = None;
        gcm.widen(&key, &mut wide);
        let bytes: Vec<u8> = (0..=255).collect();
        for (aad, length) in (0..=66).flat_map(|aad| (0..=170).map(move |length| (aad, length))) {
            let (mut ours, mut theirs) = (vec![0; length + 16], vec![0; length + 16]);
            gcm.seal_with(wide.as_ref(), 5, 6, &bytes[..aad], &bytes[..length], &mut ours);
            gcm.seal(5, 6, &bytes[..aad], &bytes[..length], &mut theirs);
            assert_eq!(ours, theirs, "{aad} {length}");
        }
    }
}
