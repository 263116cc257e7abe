//! A token taken apart, and what its claims must be. Pure: the time is passed in, the signature is checked elsewhere.
//!
//! Claims have types, and a claim of the wrong type refuses the token: one that cannot be read is not one that is
//! absent (CVE-2026-25537).

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Algorithm, Grant, Role, Scope, Subject, TokenError};
use crate::session::Language;

/// Longer tokens are not looked at.
pub const MAX_TOKEN_BYTES: usize = 4096;
/// Issuers, subjects and ids are kept in maps and written to logs.
const MAX_NAME_BYTES: usize = 255;
/// As many as a session may have by a generous configuration; the token's length bounds it further.
const MAX_LANGUAGES: usize = 64;
/// A token that lives longer is treated as one that lives this long: the clock cannot count to any number.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The three parts of a token, with what its header says about the key. Nothing here is verified.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    /// What is signed: header and claims as they came.
    pub(super) message: &'a str,
    pub(super) signature: &'a str,
    payload: &'a str,
}

impl<'a> Parts<'a> {
    /// Takes a token apart and reads its header.
    pub(super) fn of(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let malformed = TokenError::Malformed("it must be three parts with dots between");
        let (message, signature) = token.rsplit_once('.').ok_or_else(|| malformed.clone())?;
        let (header, payload) = message.split_once('.').ok_or_else(|| malformed.clone())?;
        if payload.contains('.') {
            return Err(malformed);
        }
        let header: Header = json(header)
            .map_err(|_| TokenError::Malformed("its header must be JSON in base64url with a string `alg`"))?;
        // RFC 7515 §4.1.11: what is critical must be understood, and we understand no extension.
        if header.crit.is_some() {
            return Err(TokenError::Malformed(
                "its header asks for extensions (`crit`), of which there are none",
            ));
        }
        let algorithm = Algorithm::named(&header.alg).ok_or(TokenError::Algorithm)?;
        Ok(Self { algorithm, kid: header.kid, message, signature, payload })
    }

    /// The claims; to be asked for after the signature is verified.
    pub(super) fn claims(&self) -> Result<Claims, TokenError> {
        json(self.payload).map_err(TokenError::claims)
    }
}

/// What of a header is looked at. `jku`, `jwk`, `x5u` and `x5c` say where to find a key: a forger says so, too.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, deserialize_with = "present")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
}

/// The claims of a token, as issued and as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// Whom it speaks of.
    pub sub: String,
    /// For which relays it is.
    pub aud: AudienceClaim,
    /// Until when, in seconds since 1970.
    pub exp: u64,
    /// From when on, in seconds since 1970.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// When it was issued, in seconds since 1970.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// Its id.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// What it grants.
    pub relay: RelayClaim,
}

impl Claims {
    /// Whether every claim has a form that relays take; times and names are for the relay to judge.
    pub fn check(&self) -> Result<(), TokenError> {
        self.clone().grant(Instant::now()).map(drop)
    }

    /// What the claims grant, until `expires`.
    fn grant(self, expires: Instant) -> Result<Grant, TokenError> {
        for (name, value) in [("iss", Some(&self.iss)), ("sub", Some(&self.sub)), ("jti", self.jti.as_ref())]
        {
            if value.is_some_and(|value| !is_name(value)) {
                return Err(TokenError::Claims(format!(
                    "`{name}` must be 1 to {MAX_NAME_BYTES} bytes without control characters"
                )));
            }
        }
        let RelayClaim { v, session, role, languages, takeover } = self.relay;
        if v.is_some_and(|version| version != 1) {
            return Err(TokenError::Claims("`relay.v` must be 1".into()));
        }
        Ok(Grant {
            subject: Subject { issuer: self.iss, subject: self.sub },
            token_id: self.jti,
            role,
            scope: scope(session)?,
            languages: languages.map(tags).transpose()?,
            takeover: takeover.unwrap_or(false),
            expires,
        })
    }
}

/// Claim `aud`: one name or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`aud` must be a string or a list of strings")]
pub enum AudienceClaim {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl AudienceClaim {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::One(audience) => audience == name,
            Self::Several(audiences) => audiences.iter().any(|audience| audience == name),
        }
    }
}

/// Claim `relay`. A member that this version does not know might be a limit: the token is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayClaim {
    /// Version of this claim: 1.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub v: Option<u64>,
    /// The session: absent (those of the subject), `*` (those of the issuer) or an id.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What its holder may be.
    pub role: Role,
    /// The only languages to publish in or listen to.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub languages: Option<Vec<String>>,
    /// Whether its holder may take a speaker's place.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub takeover: Option<bool>,
}

/// What claims are checked against.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) audience: String,
    pub(super) issuers: Vec<String>,
    pub(super) leeway: Duration,
}

impl Policy {
    /// What verified claims grant at this time; `wall` is the time of day that `now` stands for.
    pub(super) fn judge(&self, now: Instant, wall: Duration, claims: Claims) -> Result<Grant, TokenError> {
        let expires = Duration::from_secs(claims.exp);
        if wall >= expires.saturating_add(self.leeway) {
            return Err(TokenError::Expired { seconds: (wall - expires).as_secs() });
        }
        if claims.nbf.is_some_and(|nbf| wall.saturating_add(self.leeway) < Duration::from_secs(nbf)) {
            return Err(TokenError::NotYetValid);
        }
        if !claims.aud.contains(&self.audience) {
            return Err(TokenError::Audience);
        }
        if !self.issuers.is_empty() && !self.issuers.contains(&claims.iss) {
            return Err(TokenError::Issuer);
        }
        claims.grant(now + expires.saturating_sub(wall).min(FOREVER))
    }
}

fn scope(session: Option<String>) -> Result<Scope, TokenError> {
    let is_id = |id: &str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    match session {
        None => Ok(Scope::Own),
        Some(any) if any == "*" => Ok(Scope::Issuer),
        Some(id) if is_id(&id) => Ok(Scope::Session(id)),
        Some(_) => Err(TokenError::Claims("`relay.session` must be the id of a session or \"*\"".into())),
    }
}

fn tags(languages: Vec<String>) -> Result<Vec<Language>, TokenError> {
    if languages.is_empty() || languages.len() > MAX_LANGUAGES {
        return Err(TokenError::Claims(format!(
            "`relay.languages` must name 1 to {MAX_LANGUAGES} languages; without it all are meant"
        )));
    }
    let parse = |tag: String| {
        tag.parse::<Language>().map_err(|error| TokenError::claims(format!("{tag:?} is {error}")))
    };
    languages.into_iter().map(parse).collect()
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Header and claims as they stand in a token, unverified: to show them, never to act on them.
pub fn peek(token: &str) -> Option<(Value, Value)> {
    let mut parts = token.get(..token.len().min(MAX_TOKEN_BYTES))?.split('.');
    Some((json(parts.next()?).ok()?, json(parts.next()?).ok()?))
}

/// One part of a token. base64 without padding and without stray bits: a token has one spelling.
fn json<T: DeserializeOwned>(part: &str) -> Result<T, String> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| "not base64url".to_owned())?;
    // Whole first: what no type asks for is skipped unread, and need not be text.
    let whole: Result<Value, _> = serde_json::from_slice(&bytes);
    whole.and_then(|_| serde_json::from_slice(&bytes)).map_err(|error| error.to_string())
}

/// A member that is there has its type: `null` is not "absent".
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}
