//! Making tokens: for `relayd token issue`, and for tests.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, crypto};
use thiserror::Error;

use super::claims::{Claims, MAX_TOKEN_BYTES};
use super::key::Algorithm;
use crate::config::MIN_SECRET_BYTES;

/// A key that signs tokens. `Debug` shows no key.
#[derive(Debug, Clone)]
pub struct SigningKey {
    algorithm: Algorithm,
    kid: Option<String>,
    key: EncodingKey,
}

impl SigningKey {
    /// The shared secret of HS256.
    pub fn secret(secret: &[u8]) -> Result<Self, IssueError> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(IssueError::ShortSecret(secret.len()));
        }
        Ok(Self { algorithm: Algorithm::Hs256, kid: None, key: EncodingKey::from_secret(secret) })
    }

    /// A private key in PEM (RSA; P-256 and Ed25519 as PKCS#8), and its name in the key set.
    pub fn pem(pem: &[u8], kid: Option<String>) -> Result<Self, IssueError> {
        let read = [
            (Algorithm::Rs256, EncodingKey::from_rsa_pem(pem)),
            (Algorithm::Es256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::EdDsa, EncodingKey::from_ed_pem(pem)),
        ];
        for (algorithm, key) in read {
            let Ok(key) = key else { continue };
            let key = Self { algorithm, kid: kid.clone(), key };
            if key.sign("probe").is_ok() {
                return Ok(key);
            }
        }
        Err(IssueError::Pem)
    }

    /// What its tokens are signed with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A token with these claims.
    pub fn issue(&self, claims: &Claims) -> Result<String, IssueError> {
        let mut header = serde_json::json!({ "typ": "JWT", "alg": self.algorithm.as_str() });
        if let Some(kid) = &self.kid {
            header["kid"] = kid.as_str().into();
        }
        let claims = serde_json::to_string(claims).map_err(|_| IssueError::Sign)?;
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(&header.to_string()), part(&claims));
        let token = format!("{message}.{}", self.sign(&message)?);
        if token.len() > MAX_TOKEN_BYTES { Err(IssueError::TooLong(token.len())) } else { Ok(token) }
    }

    fn sign(&self, message: &str) -> Result<String, IssueError> {
        crypto::sign(message.as_bytes(), &self.key, self.algorithm.library()).map_err(|_| IssueError::Sign)
    }
}

/// A secret fit for HS256: 32 random bytes as text.
pub fn random_secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// A secret fit for webhooks, as their receivers' libraries want it.
pub fn random_webhook_secret() -> String {
    format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>()))
}

/// When a token that is issued now ends.
pub fn expiry(wall: Duration, lifetime: Duration) -> u64 {
    wall.saturating_add(lifetime).as_secs()
}

/// Why no token was made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IssueError {
    /// A secret that can be guessed.
    #[error(
        "the secret has {0} bytes, but must have at least {MIN_SECRET_BYTES}; `relayd token secret` makes one"
    )]
    ShortSecret(usize),
    /// No private key in the file, or none of a kind that is taken.
    #[error(
        "no usable private key: it must be PEM, RSA with at least 2048 bits, or P-256 or Ed25519 as PKCS#8 \
         (`openssl pkcs8 -topk8 -nocrypt` converts)"
    )]
    Pem,
    /// The key does not sign.
    #[error("the key does not sign")]
    Sign,
    /// More claims than fit.
    #[error("the token would have {0} bytes, more than the {MAX_TOKEN_BYTES} that relays take")]
    TooLong(usize),
}
