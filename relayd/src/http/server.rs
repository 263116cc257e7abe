//! Our own accept loop: `axum::serve` has no timeouts, no cap and no patience with `EMFILE`.
//!
//! Invariant: a connection is counted from accept until its socket is gone, by one guard, which an upgraded socket
//! takes along ([`Upgraded`]); a stop waits for both.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::problem::{Code, Problem};
use super::stall::Stall;
use crate::config;
use crate::records::{Kind, Records};

/// One HTTP listener with its limits.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    write_timeout: Duration,
    max_header: usize,
    admission: Arc<Admission>,
    records: Records,
}

impl Server {
    /// A server on a bound listener.
    pub(crate) fn new(
        listener: TcpListener,
        router: Router,
        settings: &config::Http,
        records: Records,
    ) -> Self {
        let total = file_limit()
            .map_or(settings.max_connections, |files| settings.max_connections.min((files * 6 / 10).max(1)));
        let admission = Admission::new(total, settings.max_connections_per_address);
        Self {
            listener,
            router,
            header_timeout: settings.header_timeout,
            write_timeout: settings.write_timeout,
            max_header: settings.max_header.bytes(),
            admission: Arc::new(admission),
            records,
        }
    }

    /// Serves until `stop` is true (or its sender gone), then lets requests in flight and upgraded sockets finish.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, &stop, &mut connections),
                    Err(error) => pause_after(&error).await,
                },
                Some(_ended) = connections.join_next() => {}
                () = stopped(&mut stop) => break,
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
        self.admission.emptied().await;
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        stop: &watch::Receiver<bool>,
        connections: &mut JoinSet<()>,
    ) {
        let Some(admitted) = Admitted::take(&self.admission, peer.ip()) else {
            // One attempt that does not wait: whoever floods us is owed no more.
            let full = Problem::new(Code::Capacity, "as many connections are open as there may be").unread();
            let _sent = stream.try_write(full.as_bytes());
            return;
        };
        prompt(&stream);
        let upgraded = Upgraded { _admitted: Arc::new(admitted) };
        let guard = upgraded.clone();
        let record = self.records.open(Kind::Http, peer.ip(), None, String::new());
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (router, upgraded) = (router.clone(), upgraded.clone());
            async move {
                let mut request: Request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                request.extensions_mut().insert(upgraded);
                let mut response = match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                if response.status() == StatusCode::NO_CONTENT {
                    // The router writes one for HEAD; RFC 9110 §8.6 forbids it.
                    response.headers_mut().remove(header::CONTENT_LENGTH);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(self.max_header);
        let stream = TokioIo::new(Stall::new(stream, self.write_timeout));
        let connection = builder.serve_connection(stream, service).with_upgrades();
        let mut stop = stop.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "http connection ended");
            }
            drop((guard, record));
        });
    }
}

/// What is small is sent at once, and the kernel keeps little that is not sent yet: what a slow reader is owed waits
/// where it can be counted. A system that knows no such option serves as well, less promptly.
fn prompt(stream: &TcpStream) {
    let _set = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _set = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: nobody could stop us any more.
    let _seen = stop.wait_for(|stop| *stop).await;
}

/// Connections by address, and how many there may be.
#[derive(Debug)]
struct Admission {
    total: usize,
    per_address: usize,
    open: Mutex<Open>,
    empty: Notify,
}

impl Admission {
    fn new(total: usize, per_address: usize) -> Self {
        Self { total, per_address, open: Mutex::default(), empty: Notify::new() }
    }

    /// Waits until nobody is connected.
    async fn emptied(&self) {
        loop {
            let emptied = self.empty.notified();
            if self.open.lock().unwrap_or_else(PoisonError::into_inner).total == 0 {
                return;
            }
            emptied.await;
        }
    }
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// An extension of every request: whoever upgrades its connection holds a clone for as long as the socket is there.
#[derive(Debug, Clone)]
pub(super) struct Upgraded {
    _admitted: Arc<Admitted>,
}

/// One counted connection.
#[derive(Debug)]
struct Admitted {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admitted {
    fn take(admission: &Arc<Admission>, address: IpAddr) -> Option<Self> {
        let address = client_of(address);
        let mut open = admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        let same = open.by_address.get(&address).copied().unwrap_or(0);
        if open.total >= admission.total || same >= admission.per_address {
            return None;
        }
        open.total += 1;
        open.by_address.insert(address, same + 1);
        Some(Self { admission: admission.clone(), address })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        let left = open.by_address.get(&self.address).map_or(0, |count| count - 1);
        if left == 0 {
            open.by_address.remove(&self.address);
        } else {
            open.by_address.insert(self.address, left);
        }
        if open.total == 0 {
            // A permit is kept for a waiter that has looked and not yet waited.
            self.admission.empty.notify_one();
        }
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 /64, in which addresses cost nothing.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// Out of files or memory: others' connections will end; a peer that hung up while queued is nothing at all.
async fn pause_after(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "cannot accept connections; pausing");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The process's soft limit of open files, where the system tells.
fn file_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Unsent bytes that the kernel takes of one connection: a second or two of speech, and enough to keep a page flowing.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let admission = Arc::new(Admission::new(3, 2));
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = Admitted::take(&admission, a).unwrap();
        let _second = Admitted::take(&admission, a).unwrap();
        assert!(Admitted::take(&admission, a).is_none());
        let _third = Admitted::take(&admission, b).unwrap();
        let clients =
            ["2001:db8::1", "2001:db8::2:1", "2001:db8:0:1::1"].map(|text| client_of(text.parse().unwrap()));
        assert!(clients[0] == clients[1] && clients[0] != clients[2]);
        assert!(Admitted::take(&admission, b).is_none());
        drop(first);
        drop(Admitted::take(&admission, a).unwrap());
        assert_eq!(admission.open.lock().unwrap().total, 2);
        assert_eq!(admission.open.lock().unwrap().by_address.len(), 2);
    }

    #[test]
    fn this_process_has_a_file_limit() {
        assert!(file_limit().is_none_or(|files| files > 16));
    }
}
