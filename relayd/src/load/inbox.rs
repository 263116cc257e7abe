//! Reads what waits at a socket, and when the kernel took each datagram in.
//!
//! Whoever reads now and then, not when a datagram comes, still knows when it came: the kernel stamps each on its arrival, by
//! the wall clock (`Stamps` makes this run's clock of it).

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use rustix::time::{ClockId, clock_gettime};

use super::clock::Clock;
use super::ears::DATAGRAM_BYTES;

/// Between sweeps. No part of a frame's time: sweeps that always came while the server sends, or never, would change what they
/// measure from run to run.
pub const SWEEP: Duration = Duration::from_micros(4_700);
/// Each socket has its turn in one sweep out of so many: about once a frame.
pub const TURNS: usize = 4;
/// Datagrams of one system call.
pub const AT_ONCE: usize = 8;

/// From now on the socket's datagrams are stamped.
///
/// # Errors
/// When the system has no such stamps.
pub fn stamp(socket: &UdpSocket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::ReceiveTimestampns, &true)?)
}

/// Room for what one system call reads; made on the thread that reads.
pub struct Inbox {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Box<[[u8; DATAGRAM_BYTES]; AT_ONCE]>,
    told: [Told; AT_ONCE],
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

/// What the kernel says of a datagram.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    length: usize,
    source: Option<SocketAddr>,
    stamp_ns: Option<u64>,
}

/// A datagram that was read.
#[derive(Debug)]
pub(crate) struct Datagram<'a> {
    pub(crate) source: SocketAddr,
    /// When it came, by the wall clock.
    pub(crate) stamp_ns: Option<u64>,
    pub(crate) bytes: &'a mut [u8],
}

impl Inbox {
    /// For datagrams of an Ethernet frame.
    #[must_use]
    pub fn new() -> Self {
        let headers = MultiHeaders::preallocate(AT_ONCE, Some(nix::cmsg_space!(TimeSpec)));
        Self { headers, buffers: Box::new([[0; DATAGRAM_BYTES]; AT_ONCE]), told: [Told::default(); AT_ONCE] }
    }

    /// Reads without waiting; how many datagrams there were. As many as [`AT_ONCE`] means that there may be more.
    pub fn read(&mut self, socket: &UdpSocket) -> usize {
        let Self { headers, buffers, told } = self;
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let read = recvmmsg(socket.as_raw_fd(), headers, &mut slices, MsgFlags::MSG_DONTWAIT, None);
        // Nothing there, or an error that the far end will show.
        let Ok(read) = read else { return 0 };
        let mut count = 0;
        for (message, told) in read.zip(told) {
            *told = Told::of(&message);
            count += 1;
        }
        count
    }

    /// One of the datagrams that were read last; `None` if it has no address to answer to.
    pub(crate) fn datagram(&mut self, at: usize) -> Option<Datagram<'_>> {
        let Told { length, source, stamp_ns } = self.told[at];
        Some(Datagram { source: source?, stamp_ns, bytes: &mut self.buffers[at][..length] })
    }
}

impl Told {
    fn of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Self {
        let source = message.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
        });
        let stamp = |message| match message {
            ControlMessageOwned::ScmTimestampns(at) => {
                Some(at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64)
            }
            _ => None,
        };
        let stamp_ns = message.cmsgs().ok().and_then(|mut messages| messages.find_map(stamp));
        Self { length: message.bytes, source, stamp_ns }
    }
}

/// Both clocks at one moment. The wall clock may be set: a look is good for the sweep in which it was taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamps {
    now_ns: u64,
    wall_ns: u64,
}

impl Stamps {
    pub(crate) fn look(clock: &Clock) -> Self {
        let now_ns = clock.ns(Instant::now());
        let wall = clock_gettime(ClockId::Realtime);
        Self { now_ns, wall_ns: wall.tv_sec as u64 * 1_000_000_000 + wall.tv_nsec as u64 }
    }

    /// When a datagram came that was read, by the clock of the run. One that came before the wall clock was set is off by as
    /// much as that: nobody can tell, unless the far end says when it was due.
    pub(crate) fn arrival_ns(&self, stamp_ns: u64, read_ns: u64) -> u64 {
        let ahead = stamp_ns.wrapping_sub(self.wall_ns) as i64;
        self.now_ns.saturating_add_signed(ahead).min(read_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_read_with_the_time_at_which_it_came() {
        let (near, far) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        stamp(&near).unwrap();
        let (mut inbox, clock) = (Inbox::new(), Clock::new());
        assert_eq!(inbox.read(&near), 0, "and it does not wait");
        // The kernel begins to stamp a little after the first socket has asked for it.
        let begun = Instant::now();
        let arrival = loop {
            let before = clock.ns(Instant::now());
            far.send_to(b"first", near.local_addr().unwrap()).unwrap();
            let sent = clock.ns(Instant::now());
            while clock.ns(Instant::now()) < sent + 2_000_000 {}
            assert_eq!(inbox.read(&near), 1);
            let read_ns = clock.ns(Instant::now());
            let stamp_ns = inbox.datagram(0).unwrap().stamp_ns;
            let arrival = stamp_ns.map(|stamp_ns| Stamps::look(&clock).arrival_ns(stamp_ns, read_ns));
            // The wall clock may be slewed meanwhile.
            if let Some(arrival) = arrival.filter(|at| (before - 100_000..sent + 1_000_000).contains(at)) {
                break arrival;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no stamp of the arrival");
        };
        for text in ["a", "", "third"] {
            far.send_to(text.as_bytes(), near.local_addr().unwrap()).unwrap();
        }
        assert_eq!(inbox.read(&near), 3);
        let stamps = Stamps::look(&clock);
        let mut last = arrival;
        for (at, text) in ["a", "", "third"].iter().enumerate() {
            let datagram = inbox.datagram(at).unwrap();
            assert_eq!((datagram.source, &*datagram.bytes), (far.local_addr().unwrap(), text.as_bytes()));
            let arrival = stamps.arrival_ns(datagram.stamp_ns.unwrap(), u64::MAX);
            assert!(arrival > last - 100_000, "one after the other");
            last = arrival;
        }
    }

    #[test]
    fn more_than_one_call_reads_is_left_for_the_next() {
        let bind = || UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).unwrap();
        let (near, far) = (bind(), bind());
        stamp(&near).unwrap();
        for number in 0..AT_ONCE + 1 {
            far.send_to(&[number as u8], near.local_addr().unwrap()).unwrap();
        }
        let mut inbox = Inbox::new();
        assert_eq!([inbox.read(&near), inbox.read(&near), inbox.read(&near)], [AT_ONCE, 1, 0]);
        let datagram = inbox.datagram(0).unwrap();
        assert_eq!((datagram.source, &*datagram.bytes), (far.local_addr().unwrap(), &[AT_ONCE as u8][..]));
        assert!(datagram.stamp_ns.is_some());
    }

    #[test]
    fn a_stamp_is_moved_to_the_other_clock_and_never_into_the_future() {
        let stamps = Stamps { now_ns: 5_000, wall_ns: 1_000_000 };
        assert_eq!(stamps.arrival_ns(999_000, 6_000), 4_000);
        assert_eq!(stamps.arrival_ns(1_000_400, 6_000), 5_400, "it came during the sweep");
        assert_eq!(stamps.arrival_ns(1_009_000, 6_000), 6_000, "the wall clock was set back");
        assert_eq!(stamps.arrival_ns(0, 6_000), 0);
    }
}
