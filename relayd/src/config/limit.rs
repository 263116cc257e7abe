//! What numbers and times of a configuration are held to, and how it is told that they are not.

use std::time::Duration;

use super::ConfigError;

/// A number or a size of at least `least`.
pub(super) fn at_least(key: &'static str, value: usize, least: usize) -> Result<(), ConfigError> {
    if value >= least {
        return Ok(());
    }
    Err(ConfigError::TooSmall { key, value: value.to_string(), least: least.to_string() })
}

/// A number or a size of at most `most`.
pub(super) fn at_most(key: &'static str, value: usize, most: usize) -> Result<(), ConfigError> {
    if value <= most {
        return Ok(());
    }
    Err(ConfigError::TooLarge { key, value: value.to_string(), most: most.to_string() })
}

/// A time that is not none at all.
pub(super) fn some_time(key: &'static str, value: Duration) -> Result<(), ConfigError> {
    if !value.is_zero() {
        return Ok(());
    }
    Err(ConfigError::TooSmall { key, value: "0s".into(), least: "1ms".into() })
}

/// A time of at most `most`, as it is `told`.
pub(super) fn no_longer(
    key: &'static str,
    value: Duration,
    (most, told): (Duration, &str),
) -> Result<(), ConfigError> {
    if value <= most {
        return Ok(());
    }
    Err(ConfigError::TooLarge { key, value: format!("{}s", value.as_secs()), most: told.into() })
}

/// A value of the right type that means nothing.
pub(super) fn meaningless(
    key: &'static str,
    value: impl Into<String>,
    reason: impl Into<String>,
) -> Result<(), ConfigError> {
    Err(ConfigError::Meaningless { key, value: value.into(), reason: reason.into() })
}

/// Added to the time of day it must still be a time.
pub(super) const A_YEAR: (Duration, &str) = (Duration::from_secs(8760 * 3600), "8760h");
/// What is waited for by somebody.
pub(super) const AN_HOUR: (Duration, &str) = (Duration::from_secs(3600), "1h");
