//! What the kernel says of processes and sockets, under /proc.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

/// What processes have used up to now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) rss_bytes: u64,
}

/// The sum over these processes; `None` if one of them cannot be seen.
pub(crate) fn usage(pids: &[u32]) -> Option<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let statm = std::fs::read_to_string(folder.join("statm")).ok()?;
        sum.cpu += cpu_of(&stat, rustix::param::clock_ticks_per_second())?;
        sum.rss_bytes += rss_pages_of(&statm)? * rustix::param::page_size() as u64;
    }
    (!pids.is_empty()).then_some(sum)
}

/// Datagrams that the kernel dropped at the UDP sockets on these ports since they were opened.
pub(crate) fn dropped(ports: &HashSet<u16>) -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    dropped_in(&read("/proc/net/udp"), ports) + dropped_in(&read("/proc/net/udp6"), ports)
}

/// User and system time of `/proc/PID/stat`: the 14th and 15th field, counted from behind the name.
fn cpu_of(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    // The name may hold anything, brackets and spaces too.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map_while(|field| field.parse::<u64>().ok());
    let ticks = times.next()? + times.next()?;
    Some(Duration::from_nanos(ticks.checked_mul(1_000_000_000)?.checked_div(ticks_per_second)?))
}

/// Resident pages of `/proc/PID/statm`.
fn rss_pages_of(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

/// The last column of `/proc/net/udp`, for lines whose local port is one of these.
fn dropped_in(table: &str, ports: &HashSet<u16>) -> u64 {
    let drops = |line: &str| {
        let mut columns = line.split_whitespace();
        let port = columns.nth(1)?.rsplit_once(':')?.1;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports.contains(&port).then(|| columns.last()?.parse::<u64>().ok()).flatten()
    };
    table.lines().skip(1).filter_map(drops).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_whatever_name() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 4 0 77 1000 200 18446";
        assert_eq!(cpu_of(stat, 100), Some(Duration::from_secs(4)));
        assert_eq!(cpu_of("12 (a) S 1", 100), None);
        assert_eq!(cpu_of("", 100), None);
        assert_eq!(rss_pages_of("5000 321 1 1 0 1 0"), Some(321));
    }

    #[test]
    fn drops_are_those_of_our_ports() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            1: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 5\n\
            2: 00000000000000000000000001000000:1F91 0:0 07 0:0 00:0 0     0        0 1 2 0 7\n\
            3: 0100007F:2000 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 11\n\
            broken line\n";
        assert_eq!(dropped_in(table, &HashSet::from([8_080, 8_081])), 12);
        assert_eq!(dropped_in("", &HashSet::from([8_080])), 0);
    }

    #[test]
    fn this_process_is_seen_and_one_that_is_not_there_is_not() {
        let usage = usage(&[std::process::id()]).unwrap();
        assert!(usage.rss_bytes > 1 << 20);
        assert_eq!(super::usage(&[u32::MAX]), None);
        assert_eq!(super::usage(&[]), None);
    }
}
