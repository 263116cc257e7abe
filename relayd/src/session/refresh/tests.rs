use super::*;

pub(in crate::session) fn rules() -> RefreshRules {
    RefreshRules {
        max_age: Duration::ZERO,
        refresh_before: Duration::from_secs(20),
        warn_before: Duration::from_secs(30),
        deadline: Duration::from_secs(60),
        retry_min: Duration::from_secs(1),
        retry_max: Duration::from_secs(8),
    }
}
