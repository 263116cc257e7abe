//! Tokens: as text that a stranger sends, and as claims that a careless issuer signs.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, encode};
use relayd::auth::{Authority, Caller, Grant, TokenError, peek};
use relayd::config::{Auth, AuthMode, Outbound as OutboundSettings, Secret};
use relayd::outbound::Outbound;
use serde_json::Value;

const SECRET: &str = "a secret of the fuzzer, 32 bytes or more";
const AUDIENCE: &str = "relay:default";
/// A day in 2027, and the leeway of the default configuration.
const WALL: u64 = 1_800_000_000;
const LEEWAY: u64 = 5;

/// Nobody gets in without the key; what a signed token grants is what an independent reading of its claims says.
pub(super) fn jwt(data: &[u8]) {
    if let Ok(token) = str::from_utf8(data) {
        // Taken is only what the key has signed, and there is one spelling of that.
        if let Some(grant) = ask(token) {
            let (_, claims) = peek(token).expect("what is taken can be read");
            granted(&grant, &claims);
            assert!(!data.ends_with(b"=") && token.matches('.').count() == 2);
        }
        drop(peek(token));
    }
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signed = sign(data, &key);
    if let Some(grant) = ask(&signed) {
        let claims: Value = serde_json::from_slice(data).expect("what is taken is JSON");
        granted(&grant, &claims);
        // Cut or changed by one character it is not taken.
        assert!(ask(&signed[..signed.len() - 1]).is_none());
        assert!(ask(&signed.replacen('.', "..", 1)).is_none());
    }
    // The same claims under no algorithm.
    let (_, rest) = signed.split_once('.').expect("three parts");
    let none = "eyJhbGciOiJub25lIn0";
    assert!(ask(&format!("{none}.{rest}")).is_none());
}

fn ask(token: &str) -> Option<Grant> {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| {
        let config = Auth { mode: AuthMode::Token, secret: Secret::new(SECRET), ..Auth::default() };
        let outbound = Outbound::new(&OutboundSettings::default()).expect("the default can be used");
        Authority::new(&config, outbound).expect("the secret is long enough")
    });
    let asked = authority.authenticate_at(Instant::now(), Duration::from_secs(WALL), Some(token));
    match asked.now_or_never().expect("nothing is waited for without an address of keys") {
        Ok(Caller::Token(grant)) => Some(Grant::clone(&grant)),
        Ok(other) => panic!("a token makes no {other}"),
        Err(error) => {
            assert!(TokenError::REASONS.contains(&error.reason()));
            let text = error.to_string();
            assert!(text.len() < 1_000 && !text.contains(char::is_control), "{text}");
            None
        }
    }
}

/// What the claims say, read without types.
fn granted(grant: &Grant, claims: &Value) {
    let exp = claims["exp"].as_u64().expect("exp is a whole number");
    assert!(exp.saturating_add(LEEWAY) > WALL, "expired");
    if let Some(nbf) = claims.get("nbf") {
        assert!(nbf.as_u64().expect("nbf is a whole number") <= WALL + LEEWAY, "not yet valid");
    }
    let audience = &claims["aud"];
    let named = audience.as_array().is_some_and(|list| list.iter().any(|one| one == AUDIENCE));
    assert!(audience == AUDIENCE || named, "for somebody else");
    assert_eq!(claims["iss"], grant.subject.issuer.as_str());
    assert_eq!(claims["sub"], grant.subject.subject.as_str());
    assert_eq!(claims["relay"]["role"], grant.role.as_str());
    assert_eq!(claims["relay"].get("takeover").is_some_and(|value| value == true), grant.takeover);
    assert_eq!(claims["relay"].get("languages").is_some(), grant.languages.is_some());
}

fn sign(claims: &[u8], key: &EncodingKey) -> String {
    let header = encode(&Header::new(Algorithm::HS256), &(), key).expect("a header can be written");
    let header = header.split('.').next().expect("there is a first part");
    let message = format!("{header}.{}", base64url(claims));
    let signature = crypto::sign(message.as_bytes(), key, Algorithm::HS256).expect("HMAC signs anything");
    format!("{message}.{signature}")
}

/// RFC 4648 §5 without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * i)) as usize & 63]));
        }
    }
    text
}
