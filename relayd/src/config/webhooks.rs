//! Checks of the section `webhooks`.

use std::net::IpAddr;

use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;

use super::limit::{at_least, at_most, meaningless};
use super::{Config, ConfigError, MIN_SECRET_BYTES};
use crate::session::Event;

/// What the standard asks of the key behind `whsec_`.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The queue is looked through for each event.
const MAX_QUEUE: usize = 10_000;

impl Config {
    pub(super) fn check_webhooks(&self) -> Result<(), ConfigError> {
        let webhooks = &self.webhooks;
        if let Some(name) = webhooks.events.iter().find(|name| !Event::NAMES.contains(&name.as_str())) {
            return meaningless(
                "webhooks.events",
                name,
                format!("must be one of {}", Event::NAMES.join(", ")),
            );
        }
        at_least("webhooks.queue", webhooks.queue, 1)?;
        at_most("webhooks.queue", webhooks.queue, MAX_QUEUE)?;
        match (webhooks.url.is_empty(), webhooks.secret.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => {
                return Err(ConfigError::Conflict("`webhooks.secret` is set, but `webhooks.url` is not"));
            }
            (false, true) => return Err(ConfigError::Conflict(UNSIGNED)),
            (false, false) => {}
        }
        if !self.may_post_to(&webhooks.url) {
            return meaningless("webhooks.url", &webhooks.url, NOT_AN_ENDPOINT);
        }
        if is_strong(webhooks.secret.reveal()) { Ok(()) } else { Err(ConfigError::Conflict(WEAK)) }
    }

    /// https anywhere; http to an address that the operator has named as theirs.
    fn may_post_to(&self, url: &str) -> bool {
        let Ok(uri) = url.parse::<Uri>() else { return false };
        let Some(host) =
            uri.authority().filter(|authority| !authority.as_str().contains('@')).map(|a| a.host())
        else {
            return false;
        };
        match uri.scheme_str() {
            Some("https") => !host.is_empty(),
            Some("http") => host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| {
                let ranges = self.outbound.allow.iter().filter_map(|range| range.parse::<IpNet>().ok());
                ranges.into_iter().any(|range| range.contains(&ip.to_canonical()))
            }),
            _ => false,
        }
    }
}

/// The key that webhooks are signed with: the bytes behind `whsec_`, or those of the text itself.
pub(crate) fn webhook_key(secret: &str) -> Vec<u8> {
    let decoded = secret.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
    decoded.unwrap_or_else(|| secret.as_bytes().to_vec())
}

fn is_strong(secret: &str) -> bool {
    match secret.strip_prefix(PREFIX) {
        Some(text) => STANDARD.decode(text).is_ok_and(|key| KEY_BYTES.contains(&key.len())),
        None => secret.len() >= MIN_SECRET_BYTES,
    }
}

const PREFIX: &str = "whsec_";
const NOT_AN_ENDPOINT: &str = "must be like https://app.example/relay-events; http only to an address that \
    `outbound.allow` names";
const UNSIGNED: &str = "`webhooks.url` is set, but `webhooks.secret` is not: the receiver could not tell our events \
    from others'. `relayd token secret --webhook` makes one";
const WEAK: &str = "`webhooks.secret` must be \"whsec_\" and the base64 of 24 to 64 bytes, or text of at least 32 \
    bytes; `relayd token secret --webhook` makes one";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const URL: &str = "https://app.example/hook";

    fn load(set: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let flag = |(key, value): &(&str, &str)| ("--set".to_owned(), (*key).to_owned(), (*value).to_owned());
        Config::load(&Sources { flags: set.iter().map(flag).collect(), ..Sources::default() })
    }

    #[test]
    fn an_address_and_a_secret_make_webhooks() {
        load(&[("webhooks.url", URL), ("webhooks.secret", SECRET)]).unwrap();
        load(&[("webhooks.url", URL), ("webhooks.secret", &"x".repeat(32))]).unwrap();
        let allow = ("outbound.allow", "10.0.0.0/8,::1/128");
        for url in ["http://10.1.2.3:8080/hook", "http://[::1]/hook"] {
            load(&[("webhooks.url", url), ("webhooks.secret", SECRET), allow]).unwrap();
        }
    }

    #[test]
    fn anything_less_is_refused_and_no_secret_told() {
        for set in [
            &[("webhooks.url", URL)][..],
            &[("webhooks.secret", SECRET)],
            &[("webhooks.url", URL), ("webhooks.secret", "whsec_AAAA")],
            &[("webhooks.url", URL), ("webhooks.secret", "whsec_not base64 but rather long, is it not?")],
            &[("webhooks.url", URL), ("webhooks.secret", "too short")],
            &[("webhooks.url", "http://app.example/hook"), ("webhooks.secret", SECRET)],
            &[("webhooks.url", "http://10.1.2.3/hook"), ("webhooks.secret", SECRET)],
            &[("webhooks.url", "https://me:pass@app.example/"), ("webhooks.secret", SECRET)],
            &[("webhooks.url", "app.example"), ("webhooks.secret", SECRET)],
            &[("webhooks.events", "sessionCreated,sessionStarted")],
            &[("webhooks.queue", "0")],
            &[("webhooks.queue", "10001")],
        ] {
            let text = load(set).expect_err("must be refused").to_string();
            assert!(text.contains(set.last().unwrap().0) || text.contains("webhooks."), "{text}");
            for (key, value) in set {
                assert!(*key != "webhooks.secret" || !text.contains(value), "{text}");
            }
        }
    }

    #[test]
    fn a_key_is_what_stands_behind_the_prefix() {
        assert_eq!(webhook_key("whsec_AAEC"), [0, 1, 2]);
        assert_eq!(webhook_key("plain"), b"plain");
    }
}
