//! Tokens as an issuer makes them, and as a forger does.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};
use relayd::config::{AuthMode, Config, Secret};
use serde_json::{Value, json};

const SECRET: &str = "kX3vQm8sYw1zR5tB7nJ0pL4cH6gD2fAe";

/// An issuer of tokens by a secret and by an RSA key that the relay knows from a file.
pub(crate) struct Issuer {
    rsa: KeyPair,
    keys: PathBuf,
}

impl Issuer {
    /// `name` tells the files of tests that run at once apart.
    pub(crate) fn new(name: &str) -> Self {
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("an RSA key");
        // RFC 8017 §A.1.1: SEQUENCE { INTEGER n (257 bytes, the first 0), INTEGER e (65537) }.
        let der = rsa.der_bytes();
        assert_eq!(&der[..9], [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00]);
        let modulus = encode(&der[9..265]);
        let set =
            json!({ "keys": [{ "kty": "RSA", "kid": "rsa", "use": "sig", "n": modulus, "e": "AQAB" }] });
        let keys = std::env::temp_dir().join(format!("relayd-it-{name}-{}.json", std::process::id()));
        std::fs::write(&keys, set.to_string()).expect("a temporary file");
        Self { rsa, keys }
    }

    /// Makes a relay take this issuer's tokens.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.auth.mode = AuthMode::Token;
        config.auth.secret = Secret::new(SECRET);
        config.auth.jwks_file = self.keys.to_str().expect("a path of ASCII").to_owned();
    }

    /// A good token of the subject; `relay` are the grants.
    pub(crate) fn token(&self, subject: &str, relay: Value) -> String {
        self.with(subject, relay, |_| {})
    }

    /// The same with other claims.
    pub(crate) fn with(&self, subject: &str, relay: Value, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims(subject, relay);
        change(&mut claims);
        hs256(&claims.to_string(), SECRET.as_bytes())
    }

    /// The same by the RSA key, which proves that the relay knows it.
    pub(crate) fn by_rsa(&self, subject: &str, relay: Value) -> String {
        let key = EncodingKey::from_rsa_pem(self.rsa.serialize_pem().as_bytes()).expect("our own key");
        let message = message(&json!({ "alg": "RS256", "kid": "rsa" }), &claims(subject, relay).to_string());
        signed(message, &key, Algorithm::RS256)
    }

    /// Each way in which a token for this subject and these grants is no good.
    pub(crate) fn forgeries(&self, subject: &str, relay: &Value) -> Vec<(&'static str, String)> {
        let with = |change: fn(&mut Value)| self.with(subject, relay.clone(), change);
        let plain = claims(subject, relay.clone());
        // What JSON can say and serde_json's numbers cannot.
        let far = plain.to_string().replace(&plain["exp"].to_string(), "18446744073709551616");
        let public = self.rsa.public_key_pem();
        let none = message(&json!({ "alg": "none" }), &plain.to_string());
        vec![
            ("expired", with(|claims| claims["exp"] = (now() - 60).into())),
            ("wrong audience", with(|claims| claims["aud"] = "relay:other".into())),
            ("alg none", format!("{none}.")),
            ("HS256 by the RSA public key", hs256(&plain.to_string(), public.as_bytes())),
            ("exp as a string", with(|claims| claims["exp"] = claims["exp"].to_string().into())),
            ("exp as a float", with(|claims| claims["exp"] = json!(now() as f64 + 600.5))),
            ("exp of 2^64", hs256(&far, SECRET.as_bytes())),
        ]
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(Path::new(&self.keys)).is_ok();
    }
}

fn claims(subject: &str, relay: Value) -> Value {
    json!({
        "iss": "https://issuer.example", "sub": subject, "aud": "relay:default", "exp": now() + 600, "relay": relay,
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn hs256(claims: &str, secret: &[u8]) -> String {
    let message = message(&json!({ "alg": "HS256" }), claims);
    signed(message, &EncodingKey::from_secret(secret), Algorithm::HS256)
}

fn message(header: &Value, claims: &str) -> String {
    format!("{}.{}", encode(header.to_string()), encode(claims))
}

fn signed(message: String, key: &EncodingKey, algorithm: Algorithm) -> String {
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).expect("a signature");
    format!("{message}.{signature}")
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
