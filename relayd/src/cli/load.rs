//! `relayd load`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::Exit;
use super::client::stop_on_signals;
use super::outfile::OutFile;
use crate::client::{AddressError, HttpError, Stop};
use crate::load::{
    Cause, Churn, Limits, LoadError, LoadOptions, Report, Target, load, plot, summary, table_head, table_line,
};

/// `{N}`, since clap takes `{n}` for the end of a line; both are understood.
const AFTER_HELP: &str = "\
Publishers send a frame every 20 ms with a number and the time it was due; listeners check each.
Listeners join at an even rate; once all have, the run goes on for --seconds. Latency is counted
from when a packet was due, so that a stall shows as what it is. docs/load.md tells how to read
the report.

Examples:
  relayd load --listeners 1000 --server-pid $(pgrep -x relayd | head -1)
                                 a session of its own at http://127.0.0.1:8080, deleted at the end
  relayd load --session demo/en --publishers 0 --listeners 200
  relayd load --whip https://sfu.example/whip/1 --whep https://sfu.example/whep/1 --listeners 50
  relayd load --whip http://sfu/s{N}/whip --whep http://sfu/s{N}/whep --publishers 20
  relayd load --listeners 2000 --max-loss 0 --max-p99 10 --json load.json --plot load.svg
  relayd load --listeners 500 --churn --server-pid PID
                                 24 ticks of 2 hours of churn, a hundred times as fast: does the server grow?

Ctrl-C or SIGTERM ends the run early; the report says so. A second one ends it at once.

Exit codes:
  0  done, and nothing to complain of
  1  something failed: joins, connections, listeners that heard nothing or fell silent, more loss
     than --max-loss, --max-p99, --max-growth
  2  wrong usage
  3  the tester itself could not keep up: its figures say nothing about the server
  4  the server could not be reached, no session or no publisher came up
  5  the server refused the session, a publisher, or every listener";

/// Load a WHIP and WHEP server with publishers and many listeners, and measure what they hear.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The WHIP address of any server; {N} in it, or a small n in these braces, is the number of a session.
    #[arg(long, value_name = "URL", requires = "whep")]
    whip: Option<String>,
    /// The WHEP address of any server; {N} in it, or a small n in these braces, is the number of a session.
    #[arg(long, value_name = "URL")]
    whep: Option<String>,
    /// A session of a relay, instead of addresses.
    #[arg(long, value_name = "SESSION[/LANGUAGE]", conflicts_with = "whep")]
    session: Option<String>,
    /// The relay of --session; without --session and --whep sessions are created there.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", conflicts_with = "whep")]
    relay: String,
    /// Listeners.
    #[arg(long, short, value_name = "N", default_value_t = 100, value_parser = |text: &str| whole(text, 1, 200_000))]
    listeners: u32,
    /// Joins per second.
    #[arg(long, value_name = "R", default_value = "200", value_parser = rate)]
    ramp: f64,
    /// How long to go on once all have joined.
    #[arg(long, short, value_name = "S", default_value = "30", value_parser = seconds)]
    seconds: Duration,
    /// Listeners leave after so many seconds on average, and come again: half say goodbye, half just vanish, a quarter come with their ticket.
    #[arg(long, value_name = "S", num_args = 0..=1, default_missing_value = "1200", value_parser = seconds, conflicts_with = "seconds")]
    churn: Option<Duration>,
    /// How many seconds until they come again on average; a quarter of --churn, if it is not said.
    #[arg(long, value_name = "S", value_parser = seconds, requires = "churn")]
    away: Option<Duration>,
    /// So many times faster than --churn, --away and --tick say.
    #[arg(long, value_name = "FACTOR", default_value = "100", value_parser = speed, requires = "churn")]
    speed: f64,
    /// After every tick of so many seconds the server's memory is noted.
    #[arg(long, value_name = "S", default_value = "7200", value_parser = seconds, requires = "churn")]
    tick: Duration,
    /// Ticks of the whole run.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = |text: &str| whole(text, 1, 10_000), requires = "churn")]
    ticks: u32,
    /// Publishers; 0 if somebody else speaks.
    #[arg(long, short, value_name = "P", default_value_t = 1, value_parser = |text: &str| whole(text, 0, 10_000))]
    publishers: u32,
    /// How many sessions {N} counts through; as many as publishers, if it is not said.
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 1, 10_000))]
    sessions: Option<u32>,
    /// Threads that read; one for each core, if it is not said.
    #[arg(long, value_name = "N", value_parser = |text: &str| whole(text, 1, 256))]
    threads: Option<u32>,
    /// Bearer token for the server of these addresses; better given by the environment.
    #[arg(long, env = "RELAYD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// PEM file of certificate authorities to trust besides the public ones.
    #[arg(long, value_name = "FILE.pem")]
    ca_file: Option<PathBuf>,
    /// A process of the server, on this machine, whose CPU and memory to report; may be given several times.
    #[arg(long, value_name = "PID")]
    server_pid: Vec<u32>,
    /// Fail if more than this share of the packets is lost, in percent; 1, if it is not said.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_loss: Option<f64>,
    /// Fail if the 99th percentile of the latency is above this, in milliseconds.
    #[arg(long, value_name = "MS", value_parser = millis)]
    max_p99: Option<Duration>,
    /// Fail if the server's memory grows by more than this from tick to tick, in KiB, noise taken off.
    #[arg(long, value_name = "KIB", value_parser = kib, requires = "churn")]
    max_growth: Option<f64>,
    /// The report as JSON, to a file or to standard output (then without the summary).
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
    /// The report as a picture.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// No table while it runs.
    #[arg(long, short)]
    quiet: bool,
}

fn number(text: &str, most: f64, zero: bool) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let fits = (0.0..=most).contains(&number) && (zero || number > 0.0);
    fits.then_some(number)
        .ok_or_else(|| format!("must be {} 0 and at most {most}", if zero { "at least" } else { "above" }))
}

fn whole(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let fits = (f64::from(least)..=f64::from(most)).contains(&number) && number.fract() == 0.0;
    fits.then_some(number as u32).ok_or_else(|| format!("must be a whole number from {least} to {most}"))
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 1e6, false)
}

fn speed(text: &str) -> Result<f64, String> {
    number(text, 10_000.0, false)
}

fn kib(text: &str) -> Result<f64, String> {
    number(text, 1e9, true)
}

fn seconds(text: &str) -> Result<Duration, String> {
    number(text, 31_536_000.0, false).map(Duration::from_secs_f64)
}

fn percent(text: &str) -> Result<f64, String> {
    number(text, 100.0, true)
}

fn millis(text: &str) -> Result<Duration, String> {
    number(text, 60_000.0, false).map(|ms| Duration::from_secs_f64(ms / 1_000.0))
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Exit {
    let files = match Files::open(args) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("relayd: {error}");
            return Exit::Usage;
        }
    };
    let stop = Stop::new();
    if let Err(error) = stop_on_signals(&stop) {
        eprintln!("relayd: cannot handle signals: {error}");
        return Exit::Failed;
    }
    let options = options(args, stop);
    let mut lines = 0_u64;
    let result = load(&options, |second| {
        if !args.quiet {
            if lines.is_multiple_of(20) {
                eprintln!("{}", table_head());
            }
            eprintln!("{}", table_line(second));
            lines += 1;
        }
    });
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            eprintln!("relayd: {error}{}", advice(&error));
            return exit_of(&error);
        }
    };
    tell(&report, matches!(args.json, Some(None)), files)
}

/// Tells people and files how it went; the summary also if a file cannot be written.
fn tell(report: &Report, as_json: bool, files: Files) -> Exit {
    let json = json(report);
    let text = if as_json { json.clone() } else { summary(report) };
    // Nobody may be reading any more: the exit code still tells.
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
    let written = files.write(report, &json);
    for error in &written {
        eprintln!("relayd: {error}");
    }
    for reason in &report.outcome.could_not_keep_up {
        eprintln!("relayd: the tester could not keep up: {reason}");
    }
    for reason in &report.outcome.failed {
        eprintln!("relayd: {reason}");
    }
    match (&report.outcome.could_not_keep_up[..], &report.outcome.failed[..]) {
        ([], []) if written.is_empty() => Exit::Ok,
        ([], _) => Exit::Failed,
        _ => Exit::CannotKeepUp,
    }
}

fn options(args: &Args, stop: Stop) -> LoadOptions {
    let target = match (&args.whep, &args.session) {
        (Some(whep), _) => Target::Addresses { whip: args.whip.clone(), whep: whep.clone() },
        (None, Some(session)) => {
            let (session, language) = match session.split_once('/') {
                Some((session, language)) => (session, Some(language.to_owned())),
                None => (session.as_str(), None),
            };
            Target::Session { relay: args.relay.clone(), session: session.to_owned(), language }
        }
        (None, None) => Target::Relay { relay: args.relay.clone() },
    };
    LoadOptions {
        target,
        sessions: args.sessions.unwrap_or_else(|| args.publishers.max(1)) as usize,
        listeners: args.listeners as usize,
        ramp: args.ramp,
        time: args.seconds,
        publishers: args.publishers as usize,
        threads: args.threads.map(|threads| threads as usize),
        token: args.token.clone(),
        ca_file: args.ca_file.clone(),
        server_pids: args.server_pid.clone(),
        churn: args.churn.map(|stay| Churn {
            stay,
            away: args.away.unwrap_or(stay / 4),
            speed: args.speed,
            tick: args.tick,
            ticks: args.ticks,
        }),
        limits: Limits {
            max_loss_percent: args.max_loss,
            max_p99: args.max_p99,
            max_growth: args.max_growth.map(|kib| kib * 1_024.0),
        },
        stop,
    }
}

fn exit_of(error: &LoadError) -> Exit {
    match error {
        LoadError::Address(AddressError::Unreachable(_)) => Exit::CannotConnect,
        LoadError::Address(_) | LoadError::Usage(_) => Exit::Usage,
        LoadError::Session(HttpError::Refused { .. }) => Exit::Refused,
        LoadError::Publishers { cause: Cause::Refused { .. }, .. }
        | LoadError::Listeners { cause: Cause::Refused { .. }, .. } => Exit::Refused,
        LoadError::Session(_) | LoadError::Publishers { .. } | LoadError::Listeners { .. } => {
            Exit::CannotConnect
        }
        LoadError::Files { .. } => Exit::CannotKeepUp,
        _ => Exit::Failed,
    }
}

/// What may help, behind the error.
fn advice(error: &LoadError) -> &'static str {
    match error {
        LoadError::Session(HttpError::Refused { status: 401, .. })
        | LoadError::Publishers { cause: Cause::Refused { status: 401 }, .. }
        | LoadError::Listeners { cause: Cause::Refused { status: 401 }, .. } => {
            "; RELAYD_TOKEN or --token gives a token"
        }
        LoadError::Publishers { cause: Cause::Refused { status: 409 }, .. } => {
            "; if somebody else speaks there, ask for none (--publishers 0)"
        }
        _ => "",
    }
}

/// The files that were asked for.
#[derive(Debug)]
struct Files {
    json: Option<OutFile>,
    plot: Option<OutFile>,
}

impl Files {
    fn open(args: &Args) -> Result<Self, String> {
        let open = |path: Option<&PathBuf>| path.map(|path| OutFile::open(path)).transpose();
        Ok(Self { json: open(args.json.as_ref().and_then(Option::as_ref))?, plot: open(args.plot.as_ref())? })
    }

    /// Writes them all, and says of which ones it could not.
    fn write(self, report: &Report, json: &str) -> Vec<String> {
        let json = self.json.map(|file| file.write(json));
        let plot = self.plot.map(|file| file.write(&plot(report)));
        [json, plot].into_iter().flatten().filter_map(Result::err).collect()
    }
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("names and numbers are JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Problem;

    #[test]
    fn numbers_have_their_bounds() {
        assert_eq!((rate("0.5"), percent("0"), percent("100")), (Ok(0.5), Ok(0.0), Ok(100.0)));
        for wrong in ["", "x", "0", "-1", "nan", "inf", "1e99"] {
            assert!(rate(wrong).is_err() && seconds(wrong).is_err() && millis(wrong).is_err(), "{wrong}");
        }
        assert_eq!((whole("1", 1, 9), whole("9", 1, 9), whole("0", 0, 9)), (Ok(1), Ok(9), Ok(0)));
        assert_eq!(whole("abc", 1, 9), Err("not a number".to_owned()));
        for wrong in ["0", "10", "-1", "1.5", "nan", "inf"] {
            assert_eq!(whole(wrong, 1, 9), Err("must be a whole number from 1 to 9".to_owned()), "{wrong}");
        }
        assert!(percent("100.1").is_err() && speed("0").is_err() && kib("-1").is_err());
        assert_eq!(millis("2.5"), Ok(Duration::from_micros(2_500)));
    }

    fn publishers(cause: Cause) -> LoadError {
        LoadError::Publishers { why: "x".into(), cause }
    }

    fn listeners(cause: Cause) -> LoadError {
        LoadError::Listeners { why: "x".into(), cause }
    }

    #[test]
    fn advice_is_given_where_it_helps() {
        let refused = |status| Cause::Refused { status };
        let session = HttpError::Refused { status: 401, problem: Problem::default() };
        for error in [LoadError::Session(session), publishers(refused(401)), listeners(refused(401))] {
            assert!(advice(&error).contains("--token"), "{error}");
        }
        assert!(advice(&publishers(refused(409))).contains("--publishers 0"));
        for error in [
            publishers(refused(404)),
            publishers(Cause::Other),
            listeners(refused(409)),
            listeners(refused(404)),
        ] {
            assert_eq!(advice(&error), "", "{error}");
        }
    }

    #[test]
    fn what_kept_a_run_from_beginning_has_its_exit_code() {
        let refused = HttpError::Refused { status: 403, problem: Problem::default() };
        for (error, exit) in [
            (LoadError::Address(AddressError::Whip), Exit::Usage),
            (LoadError::Address(AddressError::Unreachable("x".into())), Exit::CannotConnect),
            (LoadError::Usage("x".into()), Exit::Usage),
            (LoadError::Session(refused), Exit::Refused),
            (LoadError::Session(HttpError::NoLocation), Exit::CannotConnect),
            (publishers(Cause::Other), Exit::CannotConnect),
            (publishers(Cause::Unreachable), Exit::CannotConnect),
            (publishers(Cause::Refused { status: 404 }), Exit::Refused),
            (listeners(Cause::Unreachable), Exit::CannotConnect),
            (listeners(Cause::Refused { status: 404 }), Exit::Refused),
            (LoadError::Files { have: 1, need: 2 }, Exit::CannotKeepUp),
            (LoadError::Start("x".into()), Exit::Failed),
        ] {
            assert_eq!(exit_of(&error), exit, "{error}");
        }
    }
}
