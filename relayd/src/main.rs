//! The `relayd` program: everything it does is in the library, so that tests start the same code in-process.

use std::process::ExitCode;

fn main() -> ExitCode {
    relayd::cli::main(std::env::args_os()).into()
}
