//! The relay in a process of its own, and what the system says of that process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::relay::Relay;

/// The argument that makes a bench the relay.
const ROLE: &str = "--be-the-relay";

/// A relay in a child process, which ends when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Runs the relay, and never returns, if this process was started for that. To be called first.
    ///
    /// # Panics
    /// When the relay does not start.
    #[expect(clippy::print_stdout, reason = "the address is told to the parent")]
    pub fn serve_if_asked() {
        if !std::env::args().any(|argument| argument == ROLE) {
            return;
        }
        let relay = Relay::start();
        println!("{}", relay.address());
        // Until the parent is gone.
        let _end = std::io::stdin().read_to_end(&mut Vec::new());
        drop(relay);
        std::process::exit(0);
    }

    /// Starts the relay.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Self {
        let program = std::env::current_exe().expect("a program knows where it is");
        let mut child = Command::new(program)
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program can be started again");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the relay says where it is");
        Self { child, address: line.trim().parse().expect("an address") }
    }

    /// Where its HTTP is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }

    /// CPU time of its threads by their names, numbers cut off, longest first.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn threads(&self) -> Vec<(String, Duration)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the relay runs");
        let mut threads: Vec<(String, Duration)> = Vec::new();
        for task in tasks.flatten() {
            let path = task.path();
            let (Ok(name), Ok(spent)) =
                (std::fs::read_to_string(path.join("comm")), std::fs::read_to_string(path.join("schedstat")))
            else {
                continue;
            };
            let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
            let nanos = spent.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
            let time = Duration::from_nanos(nanos);
            match threads.iter_mut().find(|(known, _)| *known == name) {
                Some((_, total)) => *total += time,
                None => threads.push((name, time)),
            }
        }
        threads.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        threads
    }

    /// CPU time of all its threads.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.threads().iter().map(|(_, time)| *time).sum()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("the relay runs")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends with its input; if it does not, the bench has nothing to add.
        let _ended = self.child.wait();
    }
}
