//! `relayd openapi`.

use std::io::Write;

use super::Exit;
use crate::http;

/// Runs the subcommand.
pub(super) fn run() -> Exit {
    match std::io::stdout().write_all(http::openapi().as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failed,
    }
}
