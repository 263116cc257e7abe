//! `relayd print-config`.

use std::io::Write;

use super::Exit;
use super::sources::ConfigArgs;

/// Print the effective configuration as a TOML file that can be read back.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Exit {
    match args.config.load(None) {
        // Written, not printed: a reader that has seen enough (`| head`) is no reason to panic.
        Ok(config) => match std::io::stdout().write_all(config.to_toml().as_bytes()) {
            Ok(()) => Exit::Ok,
            Err(_) => Exit::Failed,
        },
        Err(error) => {
            eprintln!("relayd: {error}");
            Exit::Usage
        }
    }
}
