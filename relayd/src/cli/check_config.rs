//! `relayd check-config`.

use std::path::PathBuf;

use super::Exit;
use super::sources::ConfigArgs;

/// Check a configuration file (and the environment) without starting anything.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file; default: that of --config or RELAYD_CONFIG.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand: says "ok", or what is wrong and where.
#[expect(clippy::print_stdout, reason = "the answer is what the user asked for")]
pub(super) fn run(args: &Args) -> Exit {
    let file = args.file.as_ref().or(args.config.config.as_ref());
    match args.config.load(file) {
        Ok(_) => {
            match file {
                Some(file) => println!("{}: ok", file.display()),
                None => println!("ok (no file: defaults and environment)"),
            }
            Exit::Ok
        }
        Err(error) => {
            eprintln!("relayd: {error}");
            Exit::Usage
        }
    }
}
