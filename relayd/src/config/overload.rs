//! Checks of the section `overload`.

use std::time::Duration;

use super::limit::{at_most, meaningless, no_longer, some_time};
use super::{Config, ConfigError};

impl Config {
    pub(super) fn check_overload(&self) -> Result<(), ConfigError> {
        let overload = &self.overload;
        some_time("overload.join_lag", overload.join_lag)?;
        no_longer("overload.shed_lag", overload.shed_lag, A_MINUTE)?;
        if overload.shed_lag < overload.join_lag {
            let reason =
                "must not be shorter than `overload.join_lag`: nobody is let in while others are let go";
            return meaningless("overload.shed_lag", format!("{:?}", overload.shed_lag), reason);
        }
        at_most("overload.shed_percent", overload.shed_percent, 50)
    }
}

/// For longer than twice this nobody waits for a media thread's answer.
const A_MINUTE: (Duration, &str) = (Duration::from_secs(60), "60s");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::refuse;

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        refuse("overload.join_lag", |config| config.overload.join_lag = Duration::ZERO);
        refuse("overload.shed_lag", |config| config.overload.shed_lag = config.overload.join_lag / 2);
        refuse("overload.shed_lag", |config| config.overload.shed_lag = Duration::from_secs(61));
        refuse("overload.shed_percent", |config| config.overload.shed_percent = 51);
        let mut config = Config::default();
        (config.overload.shed_lag, config.overload.shed_percent) = (config.overload.join_lag, 0);
        config.check().unwrap();
    }
}
