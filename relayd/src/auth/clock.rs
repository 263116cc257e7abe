//! The one place where the control plane reads the time of day; everybody else is told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970, UTC. A clock before that reads as 1970, where no token is valid that has a `nbf`.
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
