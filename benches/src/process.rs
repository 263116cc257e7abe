//! The relay in a process of its own, and what the system says of that process.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use relayd::config::Config;

use crate::allocations;
use crate::relay::{Relay, request};

/// The argument that makes a bench the relay; after it come how many listeners a session has room for, and media threads.
const ROLE: &str = "--be-the-relay";

/// A relay in a child process, which ends when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    says: BufReader<ChildStdout>,
    address: SocketAddr,
    ops: SocketAddr,
}

impl Process {
    /// Runs the relay, and never returns, if this process was started for that. To be called first.
    ///
    /// # Panics
    /// When the relay does not start, or its allocator does not keep one pool.
    #[expect(clippy::print_stdout, reason = "the parent reads it")]
    pub fn serve_if_asked() {
        let mut arguments = std::env::args().skip_while(|argument| argument != ROLE).skip(1);
        let (Some(listeners), Some(shards)) = (arguments.next(), arguments.next()) else { return };
        let pools = relayd::heap::keep_one_pool();
        assert!(
            !pools.has_failed(),
            "{pools:?}: this process is as `relayd serve`, and is to keep what that keeps"
        );
        let mut config = Config::default();
        config.sessions.max_listeners = listeners.parse().expect("a number");
        config.media.shards = shards.parse().expect("a number");
        let relay = Relay::start_with(config);
        println!("{}\n{}", relay.address(), relay.ops_address());
        // Until the parent is gone.
        for _asked in std::io::stdin().lines() {
            println!("{}", allocations::live());
        }
        drop(relay);
        std::process::exit(0);
    }

    /// Starts the relay.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Self {
        let Config { sessions, media, .. } = Config::default();
        Self::start_for(sessions.max_listeners, media.shards)
    }

    /// Starts the relay with room for so many listeners in a session, and so many media threads (0: as there are cores).
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_for(listeners: usize, shards: usize) -> Self {
        let program = std::env::current_exe().expect("a program knows where it is");
        let mut child = Command::new(program)
            .args([ROLE, &listeners.to_string(), &shards.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program can be started again");
        let mut says = BufReader::new(child.stdout.take().expect("it is piped"));
        let [address, ops] = [(); 2].map(|()| line(&mut says).parse().expect("an address"));
        Self { child, says, address, ops }
    }

    /// Bytes that it holds by Rust's allocator, samples of its metrics counted; right only under
    /// [`Counting`](allocations::Counting).
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn live(&mut self) -> i64 {
        // What waits to be counted is counted when somebody asks.
        let _metrics = request(self.ops, "GET", "/metrics", "").expect("metrics");
        let asks = self.child.stdin.as_mut().expect("it is piped");
        asks.write_all(b"\n").expect("the relay listens to its parent");
        line(&mut self.says).parse().expect("a number")
    }

    /// Where its HTTP is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
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

fn line(says: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    says.read_line(&mut line).expect("the relay answers its parent");
    line.trim().to_owned()
}
