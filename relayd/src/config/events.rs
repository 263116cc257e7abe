//! Checks of the section `events`.

use super::limit::{AN_HOUR, at_least, at_most, meaningless, no_longer, some_time};
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
            at_least(key, value, least)?;
            at_most(key, value, most)?;
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
            some_time(key, value)?;
            no_longer(key, value, AN_HOUR)?;
        }
        if events.dead_after <= events.heartbeat {
            let reason = "must be longer than `events.heartbeat`, or whoever answers in time is dead";
            return meaningless("events.dead_after", format!("{:?}", events.dead_after), reason);
        }
        let url = &events.drain_url;
        if !url.is_empty() && (url.len() > MAX_DRAIN_URL || !is_address(url)) {
            let reason = format!("must be a ws, wss, http or https address of at most {MAX_DRAIN_URL} bytes");
            return meaningless("events.drain_url", url, reason);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::ByteSize;
    use crate::config::tests::refuse;

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        refuse("events.max_message", |config| config.events.max_message = ByteSize::kib(2048));
        refuse("events.write_buffer", |config| config.events.write_buffer = ByteSize::kib(1));
        refuse("events.rate", |config| config.events.rate = 0);
        refuse("events.dead_after", |config| config.events.dead_after = config.events.heartbeat);
        refuse("events.hello_timeout", |config| config.events.hello_timeout = Duration::ZERO);
        refuse("events.keep_alive", |config| config.events.keep_alive = Duration::from_secs(7200));
        refuse("events.drain_url", |config| config.events.drain_url = "other.example".into());
        refuse("events.drain_url", |config| config.events.drain_url = format!("wss://{}", "a".repeat(100)));
    }
}
