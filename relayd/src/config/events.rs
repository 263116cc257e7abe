//! Checks of the section `events`.

use std::time::Duration;

use super::{Config, ConfigError};

impl Config {
    pub(super) fn check_events(&self) -> Result<(), ConfigError> {
        let events = &self.events;
        let sizes = [
            ("events.max_message", events.max_message.bytes(), 8 * 1024, 1024 * 1024),
            ("events.write_buffer", events.write_buffer.bytes(), 64 * 1024, 16 * 1024 * 1024),
            ("events.rate", events.rate, 1, 10_000),
            ("events.burst", events.burst, 1, 100_000),
            ("events.max_tickets", events.max_tickets, 1, 1_000_000),
            ("events.max_streams", events.max_streams, 1, 1_000_000),
            ("events.max_streams_per_leg", events.max_streams_per_leg, 1, 100),
        ];
        for (key, value, least, most) in sizes {
            if value < least {
                return Err(ConfigError::TooSmall {
                    key,
                    value: value.to_string(),
                    least: least.to_string(),
                });
            }
            if value > most {
                return Err(ConfigError::TooLarge { key, value: value.to_string(), most: most.to_string() });
            }
        }
        let durations = [
            ("events.hello_timeout", events.hello_timeout),
            ("events.heartbeat", events.heartbeat),
            ("events.close_timeout", events.close_timeout),
            ("events.resume_window", events.resume_window),
            ("events.keep_alive", events.keep_alive),
            ("events.dead_after", events.dead_after),
        ];
        for (key, value) in durations {
            if value.is_zero() {
                return Err(ConfigError::TooSmall { key, value: "0s".into(), least: "1ms".into() });
            }
            if value > MAX_DURATION {
                let value = format!("{}s", value.as_secs());
                return Err(ConfigError::TooLarge { key, value, most: "1h".into() });
            }
        }
        if events.dead_after <= events.heartbeat {
            let reason = "must be longer than `events.heartbeat`, or whoever answers in time is dead".into();
            let value = format!("{:?}", events.dead_after);
            return Err(ConfigError::Meaningless { key: "events.dead_after", value, reason });
        }
        let url = &events.drain_url;
        if !url.is_empty() && (url.len() > MAX_DRAIN_URL || !is_address(url)) {
            let reason = format!("must be a ws, wss, http or https address of at most {MAX_DRAIN_URL} bytes");
            return Err(ConfigError::Meaningless { key: "events.drain_url", value: url.clone(), reason });
        }
        Ok(())
    }
}

fn is_address(url: &str) -> bool {
    let schemes = ["wss://", "ws://", "https://", "http://"];
    let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// The reason of a close has 123 bytes (RFC 6455 §5.5).
const MAX_DRAIN_URL: usize = 100;
const MAX_DURATION: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let refuse = |key: &str, change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            let error = config.check().expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        };
        refuse("events.max_message", |config| config.events.max_message = ByteSize::kib(2048));
        refuse("events.write_buffer", |config| config.events.write_buffer = ByteSize::kib(1));
        refuse("events.rate", |config| config.events.rate = 0);
        refuse("events.dead_after", |config| config.events.dead_after = config.events.heartbeat);
        refuse("events.hello_timeout", |config| config.events.hello_timeout = Duration::ZERO);
        refuse("events.keep_alive", |config| config.events.keep_alive = Duration::from_secs(7200));
        refuse("events.drain_url", |config| config.events.drain_url = "other.example".into());
        refuse("events.drain_url", |config| config.events.drain_url = format!("wss://{}", "a".repeat(100)));
    }

    #[test]
    fn the_defaults_hold() {
        assert!(Config::default().check().is_ok());
    }
}
