//! Waits for many sockets, level-triggered: one read for each readiness is enough, the next wait tells of what is left.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Readinesses told at once.
const EVENTS: usize = 512;
/// The key that no socket has.
const WAKER: u64 = u64::MAX;

/// An epoll set.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    waker: Waker,
}

/// What a wait has told; made on the thread that waits.
pub(crate) struct Ready(Vec<epoll::Event>);

impl Ready {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(EVENTS))
    }

    /// The keys of sockets that can be read, at most 512 of them.
    pub(crate) fn keys(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|event| event.data.u64()).filter(|key| *key != WAKER).map(|key| key as usize)
    }
}

/// Ends a wait from another thread.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &event, epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        Ok(Self { epoll, waker: Waker(Arc::new(event)) })
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// From now on the socket's readiness is told by this key.
    pub(crate) fn add(&self, socket: &UdpSocket, key: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(key as u64), epoll::EventFlags::IN)?)
    }

    pub(crate) fn remove(&self, socket: &UdpSocket) {
        if let Err(error) = epoll::delete(&self.epoll, socket) {
            tracing::debug!(%error, "a socket that was not in the set");
        }
    }

    /// Waits until a socket can be read, somebody wakes it, or the time is over.
    pub(crate) fn wait(&self, timeout: Duration, ready: &mut Ready) -> io::Result<()> {
        ready.0.clear();
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match epoll::wait(&self.epoll, spare_capacity(&mut ready.0), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if ready.0.iter().any(|event| event.data.u64() == WAKER) {
            self.waker.rest();
        }
        Ok(())
    }
}

impl Waker {
    pub(crate) fn wake(&self) {
        // Full means that the other end is about to wake anyway.
        let _full = rustix::io::write(&*self.0, &1_u64.to_ne_bytes()).is_err();
    }

    fn rest(&self) {
        let _empty = rustix::io::read(&*self.0, &mut [0; 8]).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_told_until_it_is_read_and_a_waker_once() {
        let (poller, mut ready) = (Poller::new().unwrap(), Ready::new());
        let mut told = |timeout| {
            poller.wait(timeout, &mut ready).unwrap();
            ready.keys().collect::<Vec<_>>()
        };
        let soon = Duration::from_secs(20);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        poller.add(&socket, 7).unwrap();
        assert!(told(Duration::ZERO).is_empty());
        far.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        for _ in 0..2 {
            assert_eq!(told(soon), [7]);
        }
        socket.recv(&mut [0; 8]).unwrap();
        poller.waker().wake();
        assert!(told(soon).is_empty(), "woken, and by no socket");
        poller.remove(&socket);
        far.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert!(told(Duration::ZERO).is_empty());
    }
}
