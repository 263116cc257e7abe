//! Checks of the section `refresh`.

use std::time::Duration;

use super::limit::{A_YEAR, meaningless, no_longer, some_time};
use super::{Config, ConfigError};
use crate::session::RefreshRules;

impl Config {
    pub(super) fn check_refresh(&self) -> Result<(), ConfigError> {
        let refresh = &self.refresh;
        let durations = [
            ("refresh.deadline", refresh.deadline),
            ("refresh.retry_min", refresh.retry_min),
            ("refresh.retry_max", refresh.retry_max),
        ];
        let all = [
            ("refresh.max_age", refresh.max_age),
            ("refresh.refresh_before", refresh.refresh_before),
            ("refresh.warn_before", refresh.warn_before),
        ];
        durations.into_iter().try_for_each(|(key, value)| some_time(key, value))?;
        all.into_iter().chain(durations).try_for_each(|(key, value)| no_longer(key, value, A_YEAR))?;
        if refresh.retry_min > refresh.retry_max {
            let value = format!("{:?}", refresh.retry_min);
            return meaningless("refresh.retry_min", value, "must not be longer than `refresh.retry_max`");
        }
        if !refresh.max_age.is_zero() && refresh.max_age < refresh.refresh_before + LEAST_AGE {
            let reason = "must be at least 1s longer than `refresh.refresh_before`, or connections are replaced without end";
            return meaningless("refresh.max_age", format!("{:?}", refresh.max_age), reason);
        }
        Ok(())
    }
}

impl From<&super::Refresh> for RefreshRules {
    fn from(settings: &super::Refresh) -> Self {
        Self {
            max_age: settings.max_age,
            refresh_before: settings.refresh_before,
            warn_before: settings.warn_before,
            deadline: settings.deadline,
            retry_min: settings.retry_min,
            retry_max: settings.retry_max,
        }
    }
}

/// How long a connection is left alone.
const LEAST_AGE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::refuse;

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        refuse("refresh.max_age", |config| config.refresh.max_age = config.refresh.refresh_before);
        refuse("refresh.max_age", |config| {
            config.refresh.max_age = config.refresh.refresh_before + Duration::from_millis(999);
        });
        refuse("refresh.retry_min", |config| config.refresh.retry_min = Duration::from_secs(31));
        refuse("refresh.deadline", |config| config.refresh.deadline = Duration::ZERO);
        refuse("refresh.warn_before", |config| config.refresh.warn_before = Duration::MAX);
        let mut config = Config::default();
        for age in [Duration::from_secs(7200), config.refresh.refresh_before + LEAST_AGE] {
            config.refresh.max_age = age;
            assert!(config.check().is_ok());
        }
    }
}
