//! `relayd listen`.

use super::Exit;

/// Listen to a track.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {}

/// Runs the subcommand.
pub(super) fn run(_args: &Args) -> Exit {
    Exit::Failed
}
