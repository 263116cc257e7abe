//! One connection of a client, as a task of its own: WebRTC with its events socket, or a media WebSocket.
//!
//! Both kinds say the same news and take the same commands, so that who holds them need not know which they are.
//! Invariant: [`News::Ended`] is the last news, and comes however the connection ends.

mod follow;
mod lines;
mod rtc;
mod socket;
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use ureq::Agent;
use ureq::http::Uri;

use super::address::{self, Role};
use super::http::{Credentials, HttpError, Problem};
use super::legs::{Key, Order};
use super::pace::Stamp;
use super::peer::PeerError;
use super::publish::RemoteReport;
use super::{ClientError, http};
use crate::media::ByeReason;
use crate::outbound::tls::client_config;

/// News and commands that may wait.
const QUEUE: usize = 4096;
/// How long an order stands at least, since our clock may be ahead of the relay's, and at most.
const SHORTEST_ORDER: Duration = Duration::from_secs(10);
const LONGEST_ORDER: Duration = Duration::from_secs(86_400);
/// For a connection to say goodbye.
pub(super) const GOODBYE: Duration = Duration::from_secs(4);

/// What all connections of a client share.
#[derive(Clone)]
pub(super) struct Common {
    pub agent: Agent,
    pub tls: Arc<rustls::ClientConfig>,
    pub media_proxy: Option<SocketAddr>,
}

impl Common {
    /// With these certificate authorities besides the public ones.
    pub(super) fn new(ca_file: Option<&Path>, media_proxy: Option<SocketAddr>) -> Result<Self, ClientError> {
        let wrong = |why: String| ClientError::Authorities(why);
        let pem = ca_file.map_or(Ok(Vec::new()), std::fs::read).map_err(|error| wrong(error.to_string()))?;
        let agent = http::agent(&pem).map_err(wrong)?;
        let tls = Arc::new(client_config(&pem).map_err(wrong)?);
        Ok(Self { agent, tls, media_proxy })
    }
}

/// What to open.
pub(super) struct Spec {
    pub key: Key,
    pub role: Role,
    pub uri: Uri,
    pub credentials: Credentials,
    /// A listener over a WebSocket: the first position wanted.
    pub from: Option<u64>,
    /// Whether frames without a position are of use: on a first connection they are.
    pub bare: bool,
}

/// What a connection tells.
#[derive(Debug)]
pub(super) enum News {
    /// It is up.
    Up(Attached),
    /// A frame came, for a listener.
    Heard(Box<Heard>),
    /// The first position that this connection was sent, whether or not it comes.
    Begin(u64),
    /// What the relay has of a publisher.
    Acked(Acked),
    /// The relay asks for these frames again.
    Again(Vec<u64>),
    /// How packets arrive there.
    Report(RemoteReport),
    /// The relay wants another connection beside this one.
    Order(Order),
    /// The relay has moved the stream to the newer connection.
    Complete { seq: u64, position: u64, replayed: u64, gap_frames: u64 },
    /// What the source language of the session is.
    Source(String),
    /// A break has begun.
    Paused,
    /// It is over; on a WebSocket with the place where a publisher goes on.
    Resumed(Option<Line>),
    /// It is over.
    Ended(Ending),
}

/// How a connection came up.
#[derive(Debug)]
pub(super) struct Attached {
    /// To come back with; none from other servers than ours.
    pub ticket: Option<String>,
    /// The stream's, on WebRTC.
    pub ssrc: u32,
    /// Where a publisher is, on a WebSocket.
    pub line: Option<Line>,
}

/// Where a publisher on a WebSocket is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// The first position that the relay has not.
    pub missing: u64,
    /// The position after the newest.
    pub next: u64,
    /// The media time of a frame there that is captured now.
    pub media_time: u64,
}

/// What the relay has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Acked {
    /// Everything up to and with this frame.
    Number(u64),
    /// All positions below.
    Below { recv: u64, safe: u64 },
}

/// A frame that came.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub place: Place,
    /// On the clock of its place: media time, or RTP timestamp.
    pub timestamp: u32,
    pub ssrc: Option<u32>,
    pub arrived: Instant,
    pub payload: Bytes,
}

/// Where a frame is in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the track.
    Position(u64),
    /// In the packets of this SSRC.
    Sequence(u64),
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub result: Result<(), ClientError>,
    /// Trying again is of no use.
    pub for_good: bool,
    /// The ticket is not taken any more.
    pub ticket_refused: bool,
}

impl Ending {
    fn new(result: Result<(), ClientError>) -> Self {
        let (for_good, ticket_refused) = match &result {
            Err(ClientError::Http(HttpError::Refused { status, problem })) => {
                let ticket_refused = problem.code.as_deref() == Some("TICKET_INVALID");
                // 408, 409, 425, 429: another time it may go well.
                (!ticket_refused && !matches!(status, 408 | 409 | 425 | 429), ticket_refused)
            }
            Err(ClientError::Http(HttpError::Failed { .. } | HttpError::Unreachable { .. })) => {
                (false, false)
            }
            Err(ClientError::Http(_) | ClientError::Address(_)) => (true, false),
            Err(ClientError::Bye(reason)) => {
                use ByeReason::{Drain, Failed, MaxAge, Overloaded, Refreshed};
                (!matches!(reason, Drain | Failed | MaxAge | Overloaded | Refreshed), *reason == Overloaded)
            }
            _ => (false, false),
        };
        Self { result, for_good, ticket_refused }
    }
}

/// What a connection is told to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Send this frame.
    Send(Box<Sent>),
    /// A listener has everything up to and with this position.
    Delivered(u64),
    /// A publisher numbers its frames as was said.
    Continue,
    /// End it, and tell the relay.
    Close,
}

/// A frame to send.
#[derive(Debug)]
pub(super) struct Sent {
    /// Counts from the start of publishing.
    pub number: u64,
    pub stamp: Stamp,
    pub payload: Bytes,
    /// Position and media time, on a WebSocket.
    pub line: Option<(u64, u64)>,
}

/// A connection that runs. Dropping it ends it without a goodbye.
#[derive(Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Handle {
    /// Tells it; what does not fit its queue is lost, as on the way.
    pub(super) fn tell(&self, command: Command) {
        let _lost = self.commands.try_send(command).is_err();
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) {
        let _aborted = (&mut self.task).await.is_err();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where all connections of a client tell their news.
pub(super) type Teller = mpsc::Sender<(Key, News)>;

/// A place for news.
pub(super) fn news() -> (Teller, mpsc::Receiver<(Key, News)>) {
    mpsc::channel(QUEUE)
}

/// Opens a connection on the caller's runtime.
pub(super) fn open(common: &Common, spec: Spec, teller: &Teller) -> Handle {
    let (commands, receiver) = mpsc::channel(QUEUE);
    let (common, teller, key) = (common.clone(), teller.clone(), spec.key);
    let task = tokio::spawn(async move {
        let told = Told { key, teller };
        let result = if address::is_websocket(&spec.uri) {
            socket::run(&common, spec, &told, receiver).await
        } else {
            rtc::run(common, spec, &told, receiver).await
        };
        told.tell(News::Ended(Ending::new(result))).await;
    });
    Handle { commands, task }
}

/// One connection's way to tell.
struct Told {
    key: Key,
    teller: Teller,
}

impl Told {
    async fn tell(&self, news: News) {
        // Whoever is not there any more wants no news.
        let _gone = self.teller.send((self.key, news)).await.is_err();
    }
}

/// An instant for the deadline of an order, which is a time of the relay's wall clock.
fn instant_of(unix_ms: u64) -> Instant {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms.min(1 << 50));
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now() + left.clamp(SHORTEST_ORDER, LONGEST_ORDER)
}

/// A refusal that was said on a WebSocket, as one by HTTP.
fn refused(status: u16, code: &str, detail: String) -> ClientError {
    let problem = Problem { code: Some(code.to_owned()), detail: Some(detail), ..Problem::default() };
    HttpError::Refused { status, problem }.into()
}

/// The connection broke.
fn lost() -> ClientError {
    PeerError::Lost.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_stands_for_a_while_whatever_the_clocks_say() {
        for unix_ms in [0, 1, u64::MAX] {
            let left = instant_of(unix_ms).saturating_duration_since(Instant::now());
            assert!(left > SHORTEST_ORDER / 2 && left <= LONGEST_ORDER, "{left:?}");
        }
    }
}
