//! `relayd check-config`.

use std::io::Write;
use std::path::PathBuf;

use super::Exit;
use super::sources::ConfigArgs;
use crate::auth::Authority;
use crate::config::Config;
use crate::outbound::Outbound;

/// Check a configuration file (and the environment, and the files of keys) without starting anything.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file; default: that of --config or RELAYD_CONFIG.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand: says "ok", or what is wrong and where.
pub(super) fn run(args: &Args) -> Exit {
    let file = args.file.clone().or_else(|| args.config.file());
    match args.config.load(file.as_ref()).map_err(|error| error.to_string()).and_then(|config| keys(&config))
    {
        Ok(()) => {
            let said = match file {
                Some(file) => writeln!(std::io::stdout(), "{}: ok", file.display()),
                None => writeln!(std::io::stdout(), "ok (no file: defaults and environment)"),
            };
            if said.is_ok() { Exit::Ok } else { Exit::Failed }
        }
        Err(error) => {
            eprintln!("relayd: {error}");
            Exit::Usage
        }
    }
}

/// Reads what the configuration names and `serve` would read before it starts: secrets, key sets, authorities.
fn keys(config: &Config) -> Result<(), String> {
    let outbound = Outbound::new(&config.outbound).map_err(|error| error.to_string())?;
    Authority::new(&config.auth, outbound).map(|_| ()).map_err(|error| error.to_string())
}
