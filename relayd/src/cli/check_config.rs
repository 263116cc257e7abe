//! `relayd check-config`.

use super::Exit;

/// Check a configuration.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {}

/// Runs the subcommand.
pub(super) fn run(_args: &Args) -> Exit {
    Exit::Failed
}
