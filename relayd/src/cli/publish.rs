//! `relayd publish`.

use super::Exit;

/// Publish an Ogg Opus file.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {}

/// Runs the subcommand.
pub(super) fn run(_args: &Args) -> Exit {
    Exit::Failed
}
