//! `relayd serve`.

use super::Exit;

/// Run the relay.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {}

/// Runs the subcommand.
pub(super) fn run(_args: &Args) -> Exit {
    Exit::Failed
}
