//! Checks of the sections that say who is trusted: `auth` and `outbound`.

use std::time::Duration;

use axum::http::Uri;
use ipnet::IpNet;

use super::limit::{meaningless, no_longer};
use super::{AuthMode, Config, ConfigError};

/// What RFC 7518 §3.2 asks of an HS256 key: as long as the hash.
pub(crate) const MIN_SECRET_BYTES: usize = 32;
/// Clocks that are further apart are broken ones.
const MAX_LEEWAY: (Duration, &str) = (Duration::from_secs(60), "1m");

impl Config {
    pub(super) fn check_auth(&self) -> Result<(), ConfigError> {
        let auth = &self.auth;
        let keys = !auth.secret.is_empty()
            || [&auth.secret_file, &auth.jwks_file, &auth.jwks_url].iter().any(|place| !place.is_empty());
        match auth.mode {
            AuthMode::Open if keys => return Err(ConfigError::Conflict(KEYS_WITHOUT_TOKENS)),
            AuthMode::Token if !keys => return Err(ConfigError::Conflict(TOKENS_WITHOUT_KEYS)),
            AuthMode::Open | AuthMode::Token => {}
        }
        if !auth.secret.is_empty() && !auth.secret_file.is_empty() {
            return Err(ConfigError::Conflict("set either `auth.secret` or `auth.secret_file`, not both"));
        }
        let secret = auth.secret.reveal().len();
        if secret > 0 && secret < MIN_SECRET_BYTES {
            return Err(ConfigError::TooSmall {
                key: "auth.secret",
                value: format!("{secret} bytes long"),
                least: format!("{MIN_SECRET_BYTES} bytes; `relayd token secret` makes one"),
            });
        }
        no_longer("auth.leeway", auth.leeway, MAX_LEEWAY)?;
        self.check_trust_texts()
    }

    fn check_trust_texts(&self) -> Result<(), ConfigError> {
        let auth = &self.auth;
        if auth.audience.is_empty() {
            return meaningless(
                "auth.audience",
                "",
                "tokens are issued for somebody: the claim `aud` is required",
            );
        }
        if auth.issuers.iter().any(String::is_empty) {
            return meaningless("auth.issuers", "", "the claim `iss` of a token is never empty");
        }
        if !auth.jwks_url.is_empty() && !is_https(&auth.jwks_url) {
            return meaningless(
                "auth.jwks_url",
                &auth.jwks_url,
                "must be like https://issuer.example/jwks.json: whoever changes keys on the way could issue tokens",
            );
        }
        match self.outbound.allow.iter().find(|range| range.parse::<IpNet>().is_err()) {
            Some(range) => {
                meaningless("outbound.allow", range, "must be an address range such as 10.1.2.0/24")
            }
            None => Ok(()),
        }
    }
}

/// Whether this is an address that one can ask securely.
fn is_https(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    uri.scheme_str() == Some("https")
        && uri
            .authority()
            .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'))
}

const KEYS_WITHOUT_TOKENS: &str = "keys are set (`auth.secret`, `auth.secret_file`, `auth.jwks_file` or \
    `auth.jwks_url`), but `auth.mode` is \"open\": nobody would be asked for a token. Set `auth.mode` to \"token\", or \
    remove the keys";
const TOKENS_WITHOUT_KEYS: &str = "`auth.mode` is \"token\", but there is no key to verify tokens with: set \
    `auth.secret` (`relayd token secret` makes one), `auth.secret_file`, `auth.jwks_file` or `auth.jwks_url`";

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
