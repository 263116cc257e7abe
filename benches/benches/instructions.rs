//! Instructions per packet per listener, counted by valgrind: a figure without noise, held to what is committed.
//!
//! Each figure is a difference of differences, of two numbers of listeners and two of packets, so that neither
//! set-up nor what a packet costs once is in it. It fails when one has grown by more than a tenth over
//! `benches/instructions.txt`, in the short form that `ci.sh` runs too. System calls count nothing, and valgrind hides AVX-512.
//! `cargo bench -p relay-benches --bench instructions` measures; with `-- --write` it writes that file anew.
#![expect(clippy::print_stdout, reason = "the figures are the product of this program")]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use relay_benches::audience::Audience;
use relay_benches::crowd::Crowd;
use relayd::webrtc::srtp::SrtpProfile;

/// What is measured: from a publisher's packet to the last listener's.
const WAYS: [&str; 3] = ["engine", "plane-aead-aes-256-gcm", "plane-aes128-cm-sha1-80"];
const LISTENERS: [usize; 2] = [100, 300];
const PACKETS: [usize; 2] = [40, 400];
/// The argument that makes this program the one that is counted.
const ROLE: &str = "--be-counted";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == ROLE) {
        let number = |at: usize| arguments[at].parse().expect("this program was started by itself");
        work(&arguments[at + 1], number(at + 2), number(at + 3));
        return ExitCode::SUCCESS;
    }
    let figures = WAYS.map(|way| (way, per_packet_and_listener(way)));
    if arguments.iter().any(|argument| argument == "--write") {
        let lines: String = figures.iter().map(|(way, figure)| format!("{way} {figure}\n")).collect();
        std::fs::write(baseline_path(), lines).expect("the sources can be written to");
    }
    let baseline = std::fs::read_to_string(baseline_path()).expect("the baseline is committed");
    let mut grown = false;
    for (way, figure) in figures {
        let known = baseline.lines().find_map(|line| line.strip_prefix(way)?.trim().parse::<u64>().ok());
        let known = known.expect("the baseline has a line for each way");
        let verdict = if figure * 10 > known * 11 { "MORE THAN A TENTH MORE" } else { "holds" };
        grown |= figure * 10 > known * 11;
        println!(
            "{way:<26} {figure:>6} instructions per packet per listener, {known:>6} committed: {verdict}"
        );
    }
    if grown { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn baseline_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// The cost of one more packet to one more listener.
fn per_packet_and_listener(way: &str) -> u64 {
    let [few, many] = LISTENERS.map(|listeners| {
        let [short, long] = PACKETS.map(|packets| counted(way, listeners, packets));
        long - short
    });
    (many - few) / ((LISTENERS[1] - LISTENERS[0]) * (PACKETS[1] - PACKETS[0])) as u64
}

/// Instructions of this program with that to do.
fn counted(way: &str, listeners: usize, packets: usize) -> u64 {
    let program = std::env::current_exe().expect("a program knows where it is");
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args([ROLE, way, &listeners.to_string(), &packets.to_string()])
        .output()
        .expect("valgrind is installed: ci.sh does it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let count = said.lines().find_map(|line| line.split_once("refs:").filter(|(head, _)| head.contains('I')));
    let digits: String =
        count.expect("cachegrind says how many").1.chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

/// What is counted; small enough for any receive buffer, so that nothing is thrown away.
fn work(way: &str, listeners: usize, packets: usize) {
    match way {
        "engine" => {
            let mut crowd = Crowd::new(listeners);
            let mut buffer = [0; 1_500];
            for _ in 0..packets {
                crowd.publish();
                let written = crowd.fan_out(|packet| {
                    assert!(packet.write(&mut buffer).is_ok());
                    ControlFlow::Continue(())
                });
                assert_eq!(written, listeners);
            }
        }
        way => {
            let sha1 = way.ends_with("sha1-80");
            let profile = if sha1 { SrtpProfile::Aes128CmSha1_80 } else { SrtpProfile::AeadAes256Gcm };
            let mut audience = Audience::new(listeners, &[profile]);
            for _ in 0..packets {
                audience.publish();
                audience.plane.drain();
            }
            let sent = audience.plane.stats().egress.packets;
            assert!(sent >= (listeners * packets) as u64, "{sent} of {listeners} times {packets} went out");
        }
    }
}
