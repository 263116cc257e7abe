//! An issuer with a key of each kind, and a relay that knows them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use super::*;

pub(crate) const SECRET: &str = "kX3vQm8sYw1zR5tB7nJ0pL4cH6gD2fAe";
/// A day in 2027.
pub(crate) const WALL: Duration = Duration::from_secs(1_800_000_000);

/// The claims of a good token that is valid for ten minutes from [`WALL`].
pub(crate) fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "sub": "ann", "aud": "relay:default", "exp": WALL.as_secs() + 600,
        "relay": { "role": "speak" },
    })
}

pub(crate) struct Issuer {
    pub(crate) authority: Authority,
    pub(crate) rsa: KeyPair,
    pub(crate) ec: KeyPair,
    pub(crate) ed: KeyPair,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With settings besides the secret and the key file.
    pub(crate) fn with(change: impl FnOnce(&mut config::Auth)) -> Self {
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let set = json!({ "keys": [rsa_jwk(&rsa, "rsa"), ec_jwk(&ec, "ec"), ed_jwk(&ed, "ed")] });
        let mut config = config::Auth {
            mode: AuthMode::Token,
            secret: config::Secret::new(SECRET),
            ..config::Auth::default()
        };
        change(&mut config);
        let mut keys = Keys::of(&config, Outbound::new(&config::Outbound::default()).unwrap()).unwrap();
        keys.file = KeySet::parse(set.to_string().as_bytes()).unwrap();
        Self { authority: Authority::with(Some(keys), &config), rsa, ec, ed }
    }

    pub(crate) fn signing(&self, algorithm: Algorithm) -> SigningKey {
        let pem = |key: &KeyPair, kid: &str| {
            SigningKey::pem(key.serialize_pem().as_bytes(), Some(kid.into())).unwrap()
        };
        let key = match algorithm {
            Algorithm::Hs256 => SigningKey::secret(SECRET.as_bytes()).unwrap(),
            Algorithm::Rs256 => pem(&self.rsa, "rsa"),
            Algorithm::Es256 => pem(&self.ec, "ec"),
            Algorithm::EdDsa => pem(&self.ed, "ed"),
        };
        assert_eq!(key.algorithm(), algorithm);
        key
    }

    /// A token as our own tools issue it.
    pub(crate) fn sign(&self, algorithm: Algorithm, claims: &Value) -> String {
        self.signing(algorithm).issue(&serde_json::from_value(claims.clone()).unwrap()).unwrap()
    }

    /// A token of HS256 with any claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        hs256(&json!({ "alg": "HS256" }), &claims.to_string(), SECRET.as_bytes())
    }

    pub(crate) fn grant(&self, token: &str) -> Result<Grant, TokenError> {
        self.grant_at(Instant::now(), WALL, token)
    }

    pub(crate) fn grant_at(&self, now: Instant, wall: Duration, token: &str) -> Result<Grant, TokenError> {
        match block_on(self.authority.authenticate_at(now, wall, Some(token)))? {
            Caller::Token(grant) => Ok(Grant::clone(&grant)),
            other => panic!("a token makes no {other}"),
        }
    }

    /// "ok", or why not.
    pub(crate) fn reason(&self, token: &str) -> &'static str {
        self.reason_at(WALL, token)
    }

    pub(crate) fn reason_at(&self, wall: Duration, token: &str) -> &'static str {
        match self.grant_at(Instant::now(), wall, token) {
            Ok(_) => "ok",
            Err(error) => {
                assert!((10..300).contains(&error.to_string().len()), "{error}");
                error.reason()
            }
        }
    }
}

/// A token of HS256 with any header and any claims, as text.
pub(crate) fn hs256(header: &Value, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn rsa_jwk(key: &KeyPair, kid: &str) -> Value {
    // RFC 8017 §A.1.1: SEQUENCE { INTEGER n (257 bytes, the first 0), INTEGER e (65537) }.
    let der = key.public_key_raw();
    assert_eq!(&der[..9], [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00]);
    json!({ "kty": "RSA", "kid": kid, "use": "sig", "n": encode(&der[9..265]), "e": "AQAB" })
}

pub(crate) fn ec_jwk(key: &KeyPair, kid: &str) -> Value {
    let point = key.public_key_raw();
    json!({ "kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
}

pub(crate) fn ed_jwk(key: &KeyPair, kid: &str) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "key_ops": ["verify"], "x": encode(key.public_key_raw()) })
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
