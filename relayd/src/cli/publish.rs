//! `relayd publish`.

use std::path::PathBuf;

use super::Exit;
use super::client::{ProgressLine, clock, fail, millis, stop_on_signals};
use crate::client::{PublishOptions, PublishReport, Stop, publish, read_file};

const AFTER_HELP: &str = "\
The file is Ogg Opus, mono or stereo; its frames are sent as they are, in real time. To make one:
  opusenc --bitrate 32 talk.wav talk.ogg
  ffmpeg -i talk.mp3 -c:a libopus -ac 1 talk.ogg

Examples:
  relayd publish http://127.0.0.1:8080/whip/golden-eagle-427 talk.ogg
  relayd publish http://127.0.0.1:8080/whip/golden-eagle-427/es translation.ogg --loop
  RELAYD_TOKEN=eyJ... relayd publish https://relay.example/whip/keynote talk.ogg --quiet
  relayd publish wss://relay.example/v1/sessions/keynote/publish/en talk.ogg

What the relay has not acknowledged is kept for 30 s: a path that is gone for less costs no audio.
With the session's resume secret the place is taken back even after the relay has forgotten this
client. A connection that the relay wants to replace is replaced, without a gap.

Ctrl-C or SIGTERM ends it properly: the relay is told, listeners stay and wait for the next speaker.

Exit codes:
  0  the file was published to its end, or stopped as asked
  1  the connection was lost or closed by the relay
  2  wrong usage, or the file is not Ogg Opus
  4  the relay could not be reached
  5  the relay refused: no such session, somebody speaks already, no valid token, too many tries";

/// Publish an Ogg Opus file in real time, to a WHIP address or over a WebSocket.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The WHIP address: http://HOST:PORT/whip/SESSION[/LANGUAGE], or that of any other WHIP server. Where UDP does not
    /// get through: ws://HOST:PORT/v1/sessions/SESSION/publish/LANGUAGE.
    #[arg(value_name = "URL")]
    url: String,
    /// The Ogg Opus file.
    #[arg(value_name = "FILE.ogg")]
    file: PathBuf,
    /// Begin again at the end of the file, until stopped.
    #[arg(long = "loop")]
    looped: bool,
    /// Bearer token for the server of this address, and for no other that it points to; better given by the
    /// environment, where no other user sees it.
    #[arg(long, env = "RELAYD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// The `resumeSecret` that creating the session was answered with: takes the place of whoever speaks there now.
    #[arg(long, env = "RELAYD_RESUME_SECRET", hide_env_values = true, value_name = "SECRET")]
    resume_secret: Option<String>,
    /// PEM file of certificate authorities to trust besides the public ones.
    #[arg(long, value_name = "FILE.pem")]
    ca_file: Option<PathBuf>,
    /// No progress and no summary.
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Exit {
    let packets = match read_file(&args.file) {
        Ok(packets) => packets,
        Err(error) => {
            eprintln!("relayd: {}: {error}", args.file.display());
            return Exit::Usage;
        }
    };
    let stop = Stop::new();
    if let Err(error) = stop_on_signals(&stop) {
        eprintln!("relayd: cannot handle signals: {error}");
        return Exit::Failed;
    }
    let options = PublishOptions {
        url: args.url.clone(),
        token: args.token.clone(),
        resume_secret: args.resume_secret.clone(),
        packets,
        looped: args.looped,
        stop,
        ca_file: args.ca_file.clone(),
        ..PublishOptions::default()
    };
    let mut line = ProgressLine::new(args.quiet);
    let result = publish(&options, |report| line.show(&progress(report, args.looped)));
    match result {
        Ok(report) => {
            let summary = format!("published {}", progress(&report, args.looped));
            line.finish(Some(&summary).filter(|_| !args.quiet).map(String::as_str));
            Exit::Ok
        }
        Err(error) => {
            line.finish(None);
            fail(&error)
        }
    }
}

fn progress(report: &PublishReport, looped: bool) -> String {
    if report.packets == 0 {
        return "0:00  connected".to_owned();
    }
    let mut line = format!("{}  {} packets", clock(report.audio), report.packets);
    if looped {
        line.push_str(&format!("  round {}", report.rounds));
    }
    for (count, what) in [
        (report.refreshes, "refreshed"),
        (report.resumes, "resumed"),
        (report.resent, "sent again"),
        (report.dropped, "given up"),
    ] {
        if count > 0 {
            line.push_str(&format!("  {count} {what}"));
        }
    }
    if let Some(remote) = report.remote {
        line.push_str(&format!(
            "  relay reports {} lost ({:.1} %), jitter {:.1} ms",
            remote.lost,
            f64::from(remote.loss) * 100.0,
            millis(remote.jitter)
        ));
        if let Some(round_trip) = remote.round_trip {
            line.push_str(&format!(", round trip {:.1} ms", millis(round_trip)));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::RemoteReport;

    #[test]
    fn the_progress_line_says_time_packets_loss_and_jitter() {
        assert_eq!(progress(&PublishReport::default(), true), "0:00  connected");
        let mut report = PublishReport {
            connected: true,
            packets: 600,
            audio: Duration::from_secs(12),
            rounds: 2,
            ..PublishReport::default()
        };
        assert_eq!(progress(&report, false), "0:12  600 packets");
        assert_eq!(
            progress(&PublishReport { resumes: 1, dropped: 2, ..report }, false),
            "0:12  600 packets  1 resumed  2 given up"
        );
        report.remote = Some(RemoteReport {
            loss: 0.015,
            lost: 9,
            jitter: Duration::from_micros(420),
            round_trip: Some(Duration::from_millis(31)),
        });
        assert_eq!(
            progress(&report, true),
            "0:12  600 packets  round 2  relay reports 9 lost (1.5 %), jitter 0.4 ms, round trip 31.0 ms"
        );
    }
}
