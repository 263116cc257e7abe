//! Keys that verify tokens, each pinned to one algorithm.
//!
//! The token's header only chooses among our keys; it never says how a key is used. So an RSA public key cannot
//! become an HMAC secret, and `none` is no algorithm.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, crypto};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::TokenError;

/// Key sets hold a handful; the size of a set's text bounds it further.
const MAX_KEYS: usize = 64;
/// RFC 7518 §3.3; the library refuses larger ones than the second.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// How a token may be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256: a shared secret.
    Hs256,
    /// RSA, PKCS#1 v1.5, SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// The algorithm of this name in a header or a key.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa].into_iter().find(|known| known.as_str() == name)
    }

    /// Its name (RFC 7518 §3.1, RFC 8037 §3.1).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(super) const fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key and the one algorithm that it is for. `Debug` shows no key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    algorithm: Algorithm,
    kid: Option<String>,
    key: DecodingKey,
}

impl Key {
    /// The shared secret of HS256.
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::Hs256, kid: None, key: DecodingKey::from_secret(secret) }
    }

    /// Whether this key made the signature (base64url) of the message, by its own algorithm.
    pub(super) fn verify(&self, message: &str, signature: &str) -> Result<(), TokenError> {
        match crypto::verify(signature, message.as_bytes(), &self.key, self.algorithm.library()) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }
}

/// The public keys of an issuer (RFC 7517 §5).
#[derive(Debug, Clone, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// What of the set is not used, and why: for the operator.
    pub(super) skipped: Vec<String>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys that cannot be used are skipped; a set without any other is an error.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        let document: Document =
            serde_json::from_slice(text).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        if document.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys, more than {MAX_KEYS}", document.keys.len()));
        }
        let mut set = Self::default();
        for (i, value) in document.keys.into_iter().enumerate() {
            let name = match value.get("kid").and_then(serde_json::Value::as_str) {
                Some(kid) => format!("key {kid:?}"),
                None => format!("key {}", i + 1),
            };
            let key = serde_json::from_value::<Jwk>(value).map_err(|error| error.to_string());
            match key.and_then(|jwk| jwk.key().map_err(str::to_owned)) {
                Ok(key)
                    if set
                        .keys
                        .iter()
                        .any(|known| known.kid == key.kid && known.algorithm == key.algorithm) =>
                {
                    set.skipped.push(format!("{name}: there is another of this name"));
                }
                Ok(key) => set.keys.push(key),
                Err(why) => set.skipped.push(format!("{name}: {why}")),
            }
        }
        if set.keys.is_empty() {
            return Err(format!("no key in it can be used ({})", set.skipped.join("; ")));
        }
        Ok(set)
    }

    /// The key that a header means. Without `kid`, the only key of that algorithm.
    pub(super) fn find(&self, algorithm: Algorithm, kid: Option<&str>) -> Result<&Key, TokenError> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match kid {
            Some(kid) => match fitting.find(|key| key.kid.as_deref() == Some(kid)) {
                Some(key) => Ok(key),
                None if self.keys.iter().any(|key| key.kid.as_deref() == Some(kid)) => {
                    Err(TokenError::Algorithm)
                }
                None => Err(TokenError::UnknownKey),
            },
            None => match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                _ => Err(TokenError::UnknownKey),
            },
        }
    }

    /// How many keys can be used.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

/// One key as written.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

impl Jwk {
    fn key(self) -> Result<Key, &'static str> {
        if self.d.is_some() {
            return Err("it holds the private part, which belongs with the issuer alone");
        }
        if self.purpose.as_deref().is_some_and(|purpose| purpose != "sig")
            || self.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|one| one == "verify"))
        {
            return Err("it is not for signatures");
        }
        let (algorithm, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => (Algorithm::Rs256, self.rsa()?),
            ("EC", Some("P-256")) => (Algorithm::Es256, self.ec()?),
            ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, self.ed()?),
            ("oct", _) => return Err("a shared secret belongs in `auth.secret_file`"),
            _ => return Err("only RSA, EC P-256 and Ed25519 keys are taken"),
        };
        match self.alg {
            Some(named) if named != algorithm.as_str() => Err("only RS256, ES256 and EdDSA are taken"),
            _ => Ok(Key { algorithm, kid: self.kid, key }),
        }
    }

    fn rsa(&self) -> Result<DecodingKey, &'static str> {
        let (n, e) = (bytes(self.n.as_deref())?, bytes(self.e.as_deref())?);
        let significant: Vec<u8> = n.iter().copied().skip_while(|byte| *byte == 0).collect();
        let bits =
            significant.len() * 8 - significant.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err("an RSA key must have 2048 to 8192 bits");
        }
        Ok(DecodingKey::from_rsa_raw_components(&significant, &e))
    }

    fn ec(&self) -> Result<DecodingKey, &'static str> {
        let (x, y) = (bytes(self.x.as_deref())?, bytes(self.y.as_deref())?);
        if x.len() != 32 || y.len() != 32 {
            return Err("a coordinate of P-256 has 32 bytes");
        }
        // SEC 1 §2.3.3, uncompressed.
        Ok(DecodingKey::from_ec_der(&[&[0x04][..], &x, &y].concat()))
    }

    fn ed(&self) -> Result<DecodingKey, &'static str> {
        let x = bytes(self.x.as_deref())?;
        if x.len() != 32 {
            return Err("an Ed25519 key has 32 bytes");
        }
        Ok(DecodingKey::from_ed_der(&x))
    }
}

fn bytes(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a part of the key is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of the key is not base64url")
}
