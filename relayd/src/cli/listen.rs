//! `relayd listen`.

use std::path::PathBuf;
use std::time::Duration;

use super::Exit;
use super::client::{ProgressLine, clock, fail, millis, stop_on_signals};
use crate::client::{ListenOptions, ListenReport, Stop, listen, without_userinfo};

const AFTER_HELP: &str = "\
A listener may be there before the speaker: it is connected, and audio begins when the speaker does.
The recording is Ogg Opus, frame for frame as received, with silence where the speaker was away; a
file cut short by a crash still plays. A connection that is lost, or that the relay wants to
replace, is replaced; the recording has every frame once. A relay that was restarted is waited for,
for a minute, and joined anew: what is heard then is recorded right behind (`begun anew`).

Examples:
  relayd listen http://127.0.0.1:8080/whep/demo/en
  relayd listen http://127.0.0.1:8080/whep/demo/es --seconds 10 --out heard.ogg
  relayd listen http://127.0.0.1:8080/whep/demo --seconds 5 --json | jq .loss
  relayd listen ws://127.0.0.1:8080/v1/sessions/demo/listen/en --out heard.ogg

Ctrl-C or SIGTERM ends it properly: the file is finished, the relay is told, the summary is written.

Exit codes:
  0  audio was received until the time was over, or stopped as asked
  1  the connection was lost or closed by the relay, or the file cannot be written
  2  wrong usage
  4  the relay could not be reached
  5  the relay refused: no such session or language, no valid token, too many tries, no capacity
  6  connected, but no audio was received";

/// Listen to a WHEP address or over a WebSocket; write an Ogg Opus file or only count.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The WHEP address: http://HOST:PORT/whep/SESSION[/LANGUAGE], or that of any other WHEP server. Where UDP does not
    /// get through: ws://HOST:PORT/v1/sessions/SESSION/listen/LANGUAGE.
    #[arg(value_name = "URL")]
    url: String,
    /// Write what is heard to this Ogg Opus file; an existing one is replaced.
    #[arg(long, short, value_name = "FILE.ogg")]
    out: Option<PathBuf>,
    /// Listen for this many seconds, counted from the connection; without it until stopped.
    #[arg(long, short, value_name = "N", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Option<Duration>,
    /// Bearer token for the server of this address, and for no other that it points to; better given by the
    /// environment, where no other user sees it.
    #[arg(long, env = "RELAYD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// PEM file of certificate authorities to trust besides the public ones.
    #[arg(long, value_name = "FILE.pem")]
    ca_file: Option<PathBuf>,
    /// No progress; the summary as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    // A year: longer is a mistake, and far from what a deadline can hold.
    if !(0.0..=31_536_000.0).contains(&seconds) || seconds == 0.0 {
        return Err("must be above 0 and at most a year".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Exit {
    let stop = Stop::new();
    if let Err(error) = stop_on_signals(&stop) {
        eprintln!("relayd: cannot handle signals: {error}");
        return Exit::Failed;
    }
    let options = ListenOptions {
        url: args.url.clone(),
        token: args.token.clone(),
        out: args.out.clone(),
        time: args.seconds,
        stop,
        ca_file: args.ca_file.clone(),
        ..ListenOptions::default()
    };
    let mut line = ProgressLine::new(args.json);
    let mut last = ListenReport::default();
    let result = listen(&options, |report| {
        last = *report;
        // Whoever never connected is told why by the error alone.
        shown(report).inspect(|text| line.show(text));
    });
    // What was heard before the connection was lost is worth telling, too.
    // A script reads the figures of a silent track, too.
    let told = result.is_ok() || last.reception.packets > 0 || (args.json && last.connected);
    let summary = if args.json { json(&args.url, &last) } else { format!("heard {}", progress(&last)) };
    line.finish(told.then_some(&*summary));
    match result {
        Ok(_) => Exit::Ok,
        Err(error) => fail(&error),
    }
}

/// The line to show, once there is a connection.
fn shown(report: &ListenReport) -> Option<String> {
    (report.connected || report.reception.packets > 0).then(|| progress(report))
}

fn progress(report: &ListenReport) -> String {
    let time = clock(report.elapsed);
    let stats = report.reception;
    if stats.packets == 0 {
        return format!("{time}  connected, no audio yet");
    }
    let mut line = format!(
        "{time}  {} packets  {} lost ({:.1} %)  jitter {:.1} ms",
        stats.packets,
        stats.lost,
        stats.loss() * 100.0,
        millis(stats.jitter)
    );
    if stats.out_of_order > 0 {
        line.push_str(&format!("  {} out of order", stats.out_of_order));
    }
    if stats.duplicates > 0 {
        line.push_str(&format!("  {} twice", stats.duplicates));
    }
    let switches = report.switches;
    for (count, what) in [
        (switches.refreshes, "refreshed"),
        (switches.resumes, "resumed"),
        (switches.restarts, "begun anew"),
        (switches.gap_frames, "lost in switches"),
        (switches.missing, "missing"),
    ] {
        if count > 0 {
            line.push_str(&format!("  {count} {what}"));
        }
    }
    line
}

fn json(url: &str, report: &ListenReport) -> String {
    let stats = report.reception;
    serde_json::json!({
        "url": without_userinfo(url),
        "seconds": report.elapsed.as_secs_f64(),
        "ssrc": report.ssrc,
        "packets": stats.packets,
        "bytes": stats.bytes,
        "lost": stats.lost,
        "loss": stats.loss(),
        "jitterMs": millis(stats.jitter),
        "outOfOrder": stats.out_of_order,
        "duplicates": stats.duplicates,
        "refreshes": report.switches.refreshes,
        "resumes": report.switches.resumes,
        "restarts": report.switches.restarts,
        "gapFrames": report.switches.gap_frames,
        "mostGapFrames": report.switches.most_gap_frames,
        "replayed": report.switches.replayed,
        "repaired": report.switches.repaired,
        "missing": report.switches.missing,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ReceptionStats;

    fn report() -> ListenReport {
        let reception = ReceptionStats {
            packets: 495,
            bytes: 40_000,
            lost: 5,
            jitter: Duration::from_micros(380),
            ..ReceptionStats::default()
        };
        ListenReport {
            connected: true,
            elapsed: Duration::from_secs(10),
            ssrc: Some(7),
            first_packet: None,
            reception,
            switches: crate::client::Switches::default(),
        }
    }

    #[test]
    fn the_progress_line_says_time_packets_loss_and_jitter() {
        assert_eq!(shown(&ListenReport::default()), None, "not before it is connected");
        let silent = ListenReport { connected: true, ..ListenReport::default() };
        assert_eq!(shown(&silent).unwrap(), "0:00  connected, no audio yet");
        assert_eq!(progress(&report()), "0:10  495 packets  5 lost (1.0 %)  jitter 0.4 ms");
        let mut report = report();
        (report.reception.out_of_order, report.reception.duplicates) = (2, 1);
        assert!(progress(&report).ends_with("jitter 0.4 ms  2 out of order  1 twice"));
        (report.switches.refreshes, report.switches.missing) = (3, 4);
        assert!(progress(&report).ends_with("1 twice  3 refreshed  4 missing"));
        report.switches = crate::client::Switches { resumes: 1, restarts: 2, ..report.switches };
        assert!(progress(&report).ends_with("3 refreshed  1 resumed  2 begun anew  4 missing"));
    }

    #[test]
    fn the_summary_is_json_for_scripts() {
        let value: serde_json::Value =
            serde_json::from_str(&json("http://ann:secret@x/whep/demo", &report())).unwrap();
        assert_eq!(value["url"], "http://x/whep/demo");
        assert_eq!(value["packets"], 495);
        assert_eq!(value["loss"], 0.01);
        assert_eq!(value["jitterMs"], 0.4);
        assert_eq!((&value["gapFrames"], &value["refreshes"]), (&0.into(), &0.into()));
        assert_eq!((&value["resumes"], &value["restarts"]), (&0.into(), &0.into()));
        assert_eq!(value["seconds"], 10.0);
    }

    #[test]
    fn the_time_is_a_positive_number_of_seconds() {
        assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "x", "0", "-1", "NaN", "inf", "1e30"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
