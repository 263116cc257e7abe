//! `relayd serve`: logs, runtime, the daemon, and the signals that stop it.

use std::io::{self, IsTerminal, Write};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Exit;
use super::sources::ConfigArgs;
use crate::config::{Config, Log, LogFormat};
use crate::daemon::Daemon;
use crate::heap;

const AFTER_HELP: &str = "\
Examples:
  relayd serve                                    the demo on http://127.0.0.1:8080/
  relayd serve --config relay.toml --demo         your configuration, and the demo session too
  relayd serve --http-listen 127.0.0.1:0 --webrtc-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0
                                                  any free ports; the addresses are printed

Without keys for tokens (auth.mode = open, the default) every address must be a loopback one.
SIGTERM or SIGINT stops in order: /readyz answers 503, connections are closed, the process ends.
A second signal ends it at once.

Exit codes:
  0  stopped as asked
  1  failed while running, or could not stop within daemon.shutdown_timeout
  2  wrong usage or configuration; nothing was started
  3  an address could not be bound";

/// Run the relay until SIGTERM or SIGINT.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Exit {
    let pools = heap::keep_one_pool();
    let config = match args.config.load_to_serve() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("relayd: {error}");
            return Exit::Usage;
        }
    };
    if let Err(error) = start_logs(&config.log) {
        eprintln!("relayd: {error}");
        return Exit::Usage;
    }
    if pools.has_failed() {
        tracing::warn!(
            ?pools,
            "the allocator keeps as many pools as it likes: memory grows as listeners come and go"
        );
    } else {
        tracing::debug!(?pools, "pools of the allocator");
    }
    raise_file_limit();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(error) => {
            eprintln!("relayd: cannot start the runtime: {error}");
            Exit::Failed
        }
    }
}

/// A connection is a file: as many as the system lets this process have.
fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => tracing::debug!(files, "limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

async fn serve(config: Config) -> Exit {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        eprintln!("relayd: cannot handle signals");
        return Exit::Failed;
    };
    let demo = config.demo.enabled;
    let public_url = config.http.public_url.clone();
    let daemon = match Daemon::start(config).await {
        Ok(daemon) => daemon,
        Err(error) => {
            eprintln!("relayd: {error}");
            return if error.is_bind() { Exit::CannotBind } else { Exit::Failed };
        }
    };
    if io::stdout()
        .write_all(welcome(&daemon, demo, &public_url).as_bytes())
        .and_then(|()| io::stdout().flush())
        .is_err()
    {
        tracing::debug!("nobody reads standard output");
    }
    either(&mut terminate, &mut interrupt).await;
    tokio::select! {
        in_time = daemon.shutdown() => if in_time { Exit::Ok } else { Exit::Failed },
        () = either(&mut terminate, &mut interrupt) => {
            tracing::warn!("second signal: ending at once");
            Exit::Failed
        }
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _signal = terminate.recv() => {}
        _signal = interrupt.recv() => {}
    }
}

/// What a person sees after the start.
fn welcome(daemon: &Daemon, demo: bool, public_url: &str) -> String {
    let http = match public_url.trim_end_matches('/') {
        "" => format!("http://{}", daemon.http_addr()),
        url => url.to_owned(),
    };
    let ops = format!("http://{}", daemon.ops_addr());
    let listen = if demo { format!("{http}/listen/demo") } else { format!("{http}/") };
    let mut text = String::from("relayd is running\n\n");
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<9} {value}\n"));
    line("listen", &listen);
    line("speak", &format!("{http}/speak"));
    line("API", &format!("{http}/docs"));
    line("operator", &format!("{ops}/metrics  {ops}/healthz  {ops}/readyz"));
    line("media", &format!("udp {}", daemon.webrtc_ports()));
    text.push_str("\nCtrl-C or SIGTERM stops it.\n");
    text
}

fn start_logs(log: &Log) -> Result<(), String> {
    let filter = log.to_filter().map_err(|error| format!("`log.filter` is {:?}: {error}", log.filter))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match log.format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|error| format!("cannot start the logs: {error}"))
}
