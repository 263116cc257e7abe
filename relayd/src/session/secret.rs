//! Secrets that clients come back with: a speaker's, and tickets. Kept as hashes; compared in constant time, or looked
//! up by a hash that nobody can choose.

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// SHA-256 of a resume secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SecretHash([u8; 32]);

impl SecretHash {
    /// A random secret of 32 bytes as base64url text, and what is kept of it.
    pub(super) fn generate() -> (String, Self) {
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let hash = Self::of(&secret);
        (secret, hash)
    }

    /// Whether this is the secret.
    pub(super) fn verify(&self, secret: &str) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &Self::of(secret).0).is_ok()
    }

    pub(super) fn of(secret: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, secret.as_bytes());
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_43_characters_and_opens_its_own_hash_only() {
        let (first, hash) = SecretHash::generate();
        let (second, other) = SecretHash::generate();
        assert_eq!(first.len(), 43);
        assert!(first.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{first}");
        assert!(hash.verify(&first) && other.verify(&second));
        for wrong in [second.as_str(), "", &first[1..], &format!("{first} ")] {
            assert!(!hash.verify(wrong), "{wrong:?}");
        }
        assert!(!format!("{hash:?}").contains(&first));
    }
}
