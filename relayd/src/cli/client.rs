//! What `publish` and `listen` share: ending by signal, progress lines, exit codes.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use crate::client::{ClientError, HttpError, PeerError, Stop};

/// Between progress lines that scroll, where there is no terminal to rewrite.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// What shells make of SIGINT: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

/// Stops the client on SIGINT or SIGTERM; a second signal ends the process at once.
pub(super) fn stop_on_signals(stop: &Stop) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let stop = stop.clone();
    let run = move || {
        runtime.block_on(async {
            let mut any = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            any().await;
            stop.stop();
            any().await;
            std::process::exit(INTERRUPTED);
        });
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(run)?;
    Ok(())
}

/// The exit code for an error.
pub(super) fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::Address(crate::client::AddressError::Unreachable(_)) => Exit::CannotConnect,
        ClientError::Address(_) | ClientError::Authorities(_) => Exit::Usage,
        ClientError::File(_) | ClientError::FileTooLarge { .. } => Exit::Usage,
        ClientError::Http(HttpError::Refused { .. }) => Exit::Refused,
        ClientError::Http(_) | ClientError::Peer(PeerError::ConnectTimeout) => Exit::CannotConnect,
        ClientError::NoAudio => Exit::NoAudio,
        _ => Exit::Failed,
    }
}

/// Tells an error to the user.
pub(super) fn fail(error: &ClientError) -> Exit {
    match error {
        ClientError::Http(HttpError::Refused { status: 401, .. }) => {
            eprintln!("relayd: {error}; RELAYD_TOKEN or --token gives a token");
        }
        _ => eprintln!("relayd: {error}"),
    }
    exit_of(error)
}

/// One line that is rewritten on a terminal, and written anew each five seconds elsewhere.
pub(super) struct ProgressLine {
    mode: Mode,
    last: Option<Instant>,
}

enum Mode {
    Silent,
    Rewrite,
    Scroll,
}

impl ProgressLine {
    /// Progress on standard output; none at all if `silent`.
    pub(super) fn new(silent: bool) -> Self {
        let mode = match (silent, std::io::stdout().is_terminal()) {
            (true, _) => Mode::Silent,
            (false, true) => Mode::Rewrite,
            (false, false) => Mode::Scroll,
        };
        Self { mode, last: None }
    }

    /// Shows the line, if one is due.
    pub(super) fn show(&mut self, line: &str) {
        let mut out = std::io::stdout().lock();
        // A closed pipe must not end a recording.
        match self.mode {
            Mode::Silent => {}
            Mode::Rewrite => drop(write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush())),
            Mode::Scroll if self.last.is_some_and(|last| last.elapsed() < PLAIN_INTERVAL) => {}
            Mode::Scroll => {
                self.last = Some(Instant::now());
                drop(writeln!(out, "{line}"));
            }
        }
    }

    /// Ends the line that is being rewritten, then writes the last one.
    pub(super) fn finish(&self, summary: Option<&str>) {
        let mut out = std::io::stdout().lock();
        if matches!(self.mode, Mode::Rewrite) {
            drop(write!(out, "\r\x1b[2K"));
        }
        if let Some(summary) = summary {
            drop(writeln!(out, "{summary}"));
        }
        drop(out.flush());
    }
}

/// `1:02:03`, `2:03`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Milliseconds with one decimal.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{AddressError, Problem, ogg};

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        let refused = HttpError::Refused { status: 404, problem: Problem::default() };
        let failed = HttpError::Failed { status: 503, problem: Problem::default() };
        for (error, exit) in [
            (ClientError::Address(AddressError::Whip), Exit::Usage),
            (ClientError::Address(AddressError::Unreachable("x".into())), Exit::CannotConnect),
            (ClientError::File(ogg::ReadError::NotOgg), Exit::Usage),
            (ClientError::Http(refused), Exit::Refused),
            (ClientError::Http(failed), Exit::CannotConnect),
            (ClientError::Http(HttpError::TooManyRedirects), Exit::CannotConnect),
            (ClientError::Peer(PeerError::ConnectTimeout), Exit::CannotConnect),
            (ClientError::Peer(PeerError::Lost), Exit::Failed),
            (ClientError::Peer(PeerError::Closed), Exit::Failed),
            (ClientError::Authorities("none".into()), Exit::Usage),
            (ClientError::Bye(crate::media::ByeReason::Displaced), Exit::Failed),
            (ClientError::NoAudio, Exit::NoAudio),
        ] {
            assert_eq!(exit_of(&error), exit, "{error}");
        }
    }

    #[test]
    fn times_are_written_as_on_a_clock() {
        assert_eq!(clock(Duration::from_secs(0)), "0:00");
        assert_eq!(clock(Duration::from_secs(125)), "2:05");
        assert_eq!(clock(Duration::from_secs(3 * 3600 + 62)), "3:01:02");
        assert_eq!(millis(Duration::from_micros(1_260)), 1.3);
    }
}
