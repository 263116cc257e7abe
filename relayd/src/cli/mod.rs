//! The command line: one file per subcommand, one enum of exit codes.
//!
//! Standard output carries what the user asked for (addresses, configuration, progress); logs and errors go to
//! standard error. Every way to fail has an exit code that a script can tell apart.

mod check_config;
mod client;
mod listen;
#[cfg(target_os = "linux")]
mod load;
mod openapi;
#[cfg(target_os = "linux")]
mod outfile;
mod print_config;
mod publish;
mod refresh;
mod serve;
mod sources;
mod token;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What the process ends with, documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked to do.
    Ok,
    /// It failed while running: the far end went away, a file could not be written.
    Failed,
    /// The command line or the configuration is wrong; nothing was started.
    Usage,
    /// An address could not be bound.
    CannotBind,
    /// The load tester itself could not keep up.
    CannotKeepUp,
    /// The relay could not be reached.
    CannotConnect,
    /// The relay answered, and refused: no such session, a second speaker, no capacity.
    Refused,
    /// Connected, but no audio came within the time.
    NoAudio,
}

impl Exit {
    /// The number that the shell sees. No subcommand can end with two meanings of one.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::CannotBind | Self::CannotKeepUp => 3,
            Self::CannotConnect => 4,
            Self::Refused => 5,
            Self::NoAudio => 6,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Live audio relay: one speaker, many listeners, over WebRTC or WebSocket.
///
/// Without arguments it serves on loopback with a `demo` session whose tracks play recorded speech, and prints
/// the address to open.
#[derive(Debug, Parser)]
#[command(name = "relayd", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until SIGTERM or SIGINT.
    Serve(serve::Args),
    /// Publish an Ogg Opus file in real time, to a WHIP address or over a WebSocket.
    Publish(publish::Args),
    /// Listen to a WHEP address or over a WebSocket; write an Ogg Opus file or only count.
    Listen(listen::Args),
    /// Load a WHIP and WHEP server with publishers and many listeners, and measure what they hear.
    #[cfg(target_os = "linux")]
    Load(Box<load::Args>),
    /// Have connections of a session replaced by new ones, without a gap.
    Refresh(refresh::Args),
    /// Check a configuration file (and the environment, and the files of keys) without starting anything.
    CheckConfig(check_config::Args),
    /// Print the effective configuration as a TOML file that can be read back.
    PrintConfig(print_config::Args),
    /// Issue tokens, look into them, make a secret.
    Token(token::Args),
    /// Print the HTTP API as an OpenAPI document.
    Openapi,
}

const AFTER_HELP: &str = "\
Examples:
  relayd                                             the demo on http://127.0.0.1:8080/
  relayd serve --config relay.toml                   a relay with its own configuration
  relayd serve --set http.listen=127.0.0.1:8081      one setting, by its key in the file
  relayd publish http://127.0.0.1:8080/whip/golden-eagle-427 talk.ogg --loop
  relayd listen http://127.0.0.1:8080/whep/demo/en --seconds 10 --out heard.ogg
  relayd load --listeners 1000 --seconds 60          how many listeners this machine can serve
  relayd refresh http://127.0.0.1:8080/v1/sessions/golden-eagle-427
  relayd token issue --config relay.toml --subject ann --role speak
  relayd print-config > relay.toml                   every key with its meaning, to start from

Environment:
  RELAYD_CONFIG              the configuration file, as --config
  RELAYD_LOG                 log filter, as log.filter: info, debug, relayd=debug,str0m=warn
  RELAYD_<SECTION>_<KEY>     any key of the file, e.g. RELAYD_HTTP_LISTEN=127.0.0.1:8081
  Defaults give way to the file, the file to the environment, the environment to flags.

Exit codes:
  0  done, or stopped as asked
  1  failed while running
  2  wrong usage or configuration; nothing was started
  3  an address could not be bound; the tester itself could not keep up (load)
  4  the relay could not be reached (publish, listen, refresh, load)
  5  the relay refused (publish, listen, refresh, load), or would refuse (token inspect)
  6  connected, but no audio came (listen)";

/// Runs the command line and answers with the process's exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return if error.print().is_ok() { exit } else { Exit::Failed };
        }
    };
    match cli.command {
        None => serve::run(&serve::Args::default()),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Publish(args)) => publish::run(&args),
        Some(Command::Listen(args)) => listen::run(&args),
        #[cfg(target_os = "linux")]
        Some(Command::Load(args)) => load::run(&args),
        Some(Command::Refresh(args)) => refresh::run(&args),
        Some(Command::CheckConfig(args)) => check_config::run(&args),
        Some(Command::PrintConfig(args)) => print_config::run(&args),
        Some(Command::Token(args)) => token::run(&args),
        Some(Command::Openapi) => openapi::run(),
    }
}
