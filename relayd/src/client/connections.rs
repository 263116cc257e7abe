//! A client's connections at work: opened and closed as [`Legs`] says, with the rights that the client has.
//!
//! It is what a publisher and a listener do alike: they take its news, and tell it of those that concern connections.
//! What either keeps with a connection is a `T`.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};
use ureq::http::Uri;

use super::ClientError;
use super::address::{self, Role};
use super::http::{Credentials, HttpError};
use super::leg::{self, Command, Common, Ending, GOODBYE, Handle, News, Spec};
use super::legs::{Completions, Key, Legs, Order, Step, Why};
use super::peer::PeerError;
use crate::media::ByeReason;

/// The connections of one client.
pub(super) struct Connections<T> {
    common: Common,
    role: Role,
    uri: Uri,
    /// The ticket is that of the newest connection.
    credentials: Credentials,
    legs: Legs,
    all: BTreeMap<Key, Connection<T>>,
    teller: leg::Teller,
    news: mpsc::Receiver<(Key, News)>,
    /// The relay does not take the ticket any more: it knows nothing of what was heard or said.
    forgotten: bool,
    /// Why the stream has no connection.
    error: Option<ClientError>,
    completed: Completions,
}

/// One of them.
pub(super) struct Connection<T> {
    pub handle: Handle,
    /// Its owner's.
    pub own: T,
    why: Why,
    /// It was opened as somebody new's, after the relay had refused the ticket.
    anew: bool,
}

/// Connections that say goodbye.
pub(super) struct Goodbyes {
    live: Option<Key>,
    until: Instant,
    /// How the live one ended.
    result: Result<(), ClientError>,
}

impl<T: Default> Connections<T> {
    /// The first connection, which [`advance`](Self::advance) opens.
    pub(super) fn new(common: Common, role: Role, uri: Uri, credentials: Credentials) -> Self {
        let (teller, news) = leg::news();
        Self {
            common,
            role,
            uri,
            credentials,
            legs: Legs::new(Instant::now(), rand::random()),
            all: BTreeMap::new(),
            teller,
            news,
            forgotten: false,
            error: None,
            completed: Completions::default(),
        }
    }

    /// Opens and closes what is due. A listener's further connections begin at `from`, where they can be told; `bare`:
    /// frames without a position are of use on them.
    pub(super) fn advance(&mut self, now: Instant, from: Option<u64>, bare: bool) -> Result<(), ClientError> {
        self.legs.handle_timeout(now);
        while let Some(step) = self.legs.poll_step() {
            match step {
                Step::Open(key, why) => self.open(key, why, from, bare),
                Step::Close(key) => {
                    if let Some(connection) = self.all.get(&key) {
                        connection.handle.tell(Command::Close);
                    }
                }
                Step::GiveUp => return Err(self.error.take().unwrap_or_else(|| PeerError::Lost.into())),
            }
        }
        Ok(())
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.legs.poll_timeout()
    }

    /// A connection of a listener's beside these, whose news have this key; it shows the token only.
    pub(super) fn open_beside(&self, key: Key, uri: Uri, from: u64) -> Handle {
        let credentials = Credentials { token: self.credentials.token.clone(), ..Credentials::default() };
        let spec = Spec { key, role: self.role, uri, credentials, from: Some(from), bare: false };
        leg::open(&self.common, spec, &self.teller)
    }

    /// The next news, or none until then.
    pub(super) async fn next_news(&mut self, until: Instant) -> Option<(Key, News)> {
        timeout_at(until.into(), self.news.recv()).await.ok()?
    }

    /// News that are there already.
    pub(super) fn more_news(&mut self) -> Option<(Key, News)> {
        self.news.try_recv().ok()
    }

    /// A connection is up; whether it goes on in the place of one that was lost.
    pub(super) fn attach(&mut self, now: Instant, key: Key, ticket: Option<String>) -> bool {
        self.credentials.ticket = ticket.or_else(|| self.credentials.ticket.take());
        self.error = None;
        self.forgotten = false;
        self.legs.handle_up(now, key);
        self.all.get(&key).is_some_and(|connection| connection.why == Why::Resume && !connection.anew)
    }

    /// Whether this one was opened as somebody new's: the positions of those before mean nothing on it.
    pub(super) fn is_anew(&self, key: Key) -> bool {
        self.all.get(&key).is_some_and(|connection| connection.anew)
    }

    /// The stream is another one from here on, with positions and events that are counted from the start.
    pub(super) fn restart(&mut self) {
        self.completed = Completions::default();
    }

    /// The relay asks for a refresh.
    pub(super) fn order(&mut self, now: Instant, order: Order) {
        self.legs.order(now, order);
    }

    /// A connection tells that the relay has moved the stream, as event number `seq`; whether it is news.
    pub(super) fn complete(&mut self, now: Instant, seq: u64, position: u64) -> bool {
        let news = self.completed.hear(seq, position);
        if news {
            self.legs.complete(now);
        }
        news
    }

    /// What is live does not answer.
    pub(super) fn handle_silence(&mut self, now: Instant) {
        self.legs.handle_silence(now);
    }

    /// A connection is gone; gives what its owner kept with it. `returns`: it may come back without a ticket.
    pub(super) fn detach(&mut self, now: Instant, key: Key, ending: Ending, returns: bool) -> Option<T> {
        let Ending { result, for_good, ticket_refused } = ending;
        let connection = self.all.remove(&key);
        let ordered = connection.as_ref().is_some_and(|connection| matches!(connection.why, Why::Refresh(_)));
        let hopeless = self.credentials.ticket.is_none() && !returns && !self.forgotten;
        if ticket_refused && !ordered {
            self.credentials.ticket = None;
            // Whoever is sent away with a reason is known still, and goes on by position.
            self.forgotten = !matches!(result, Err(ClientError::Bye(_)));
        }
        // The ticket of an order that is over: what is live goes on.
        let over = ticket_refused && ordered && self.legs.live().is_some();
        let closed = matches!(self.error, Some(ClientError::Peer(PeerError::Closed)));
        // A speaker's place may be another's by now; a listener whom the relay has forgotten may join anew.
        let refused = ticket_refused && closed && !ordered && self.role == Role::Publisher;
        let error = result.err().unwrap_or_else(|| PeerError::Closed.into());
        let matters = self.legs.live().is_none_or(|live| live == key);
        if closed && is_over(&error) {
            self.error = Some(ClientError::Bye(ByeReason::Ended));
        }
        // That the relay closed it says more than that it is not let in again.
        if matters && !closed && (self.error.is_none() || !matches!(error, ClientError::Peer(_))) {
            self.error = Some(error);
        }
        self.legs.handle_ended(now, key, for_good || hopeless || over || refused);
        connection.map(|connection| connection.own)
    }

    /// Tells all of them to end: [`last_news`](Self::last_news) until there are none, then [`ended`](Self::ended).
    pub(super) fn close(&self) -> Goodbyes {
        self.all.values().for_each(|connection| connection.handle.tell(Command::Close));
        Goodbyes { live: self.legs.live(), until: Instant::now() + GOODBYE, result: Ok(()) }
    }

    /// What they still say; none when all are gone, or their time is over.
    pub(super) async fn last_news(&mut self, goodbyes: &mut Goodbyes) -> Option<(Key, News)> {
        while !self.all.is_empty() {
            match self.next_news(goodbyes.until).await? {
                (key, News::Ended(ending)) => {
                    self.all.remove(&key);
                    if Some(key) == goodbyes.live {
                        goodbyes.result = ending.result;
                    }
                }
                news => return Some(news),
            }
        }
        None
    }

    /// How the live one ended, once all have.
    pub(super) async fn ended(&mut self, goodbyes: Goodbyes) -> Result<(), ClientError> {
        for (_, mut connection) in std::mem::take(&mut self.all) {
            // Its queue may have been full.
            connection.handle.tell(Command::Close);
            let _late = timeout(GOODBYE / 4, connection.handle.ended()).await.is_err();
        }
        goodbyes.result
    }

    /// The one that carries the stream.
    pub(super) fn live(&self) -> Option<Key> {
        self.legs.live()
    }

    /// The one that was opened first of those that are there.
    pub(super) fn oldest(&self) -> Option<Key> {
        self.all.first_key_value().map(|(key, _)| *key)
    }

    /// One of them.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Connection<T>> {
        self.all.get_mut(&key)
    }

    /// All of them, the oldest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut Connection<T>)> {
        self.all.iter_mut().map(|(key, connection)| (*key, connection))
    }

    /// What the owner keeps with each.
    pub(super) fn owned(&self) -> impl Iterator<Item = &T> {
        self.all.values().map(|connection| &connection.own)
    }

    /// Where the first one goes.
    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }

    /// There is a ticket to come back with.
    pub(super) const fn has_ticket(&self) -> bool {
        self.credentials.ticket.is_some()
    }

    fn open(&mut self, key: Key, why: Why, from: Option<u64>, bare: bool) {
        let (mut uri, mut credentials) = (self.uri.clone(), self.credentials.clone());
        if let Why::Refresh(order) = &why {
            uri = address::resolve_order(&uri, &order.url).unwrap_or(uri);
            credentials.ticket = Some(order.ticket.clone());
        }
        if credentials.ticket.is_some() {
            credentials.resume = None;
        }
        // A relay that knows the ticket knows what was delivered; any relay knows positions.
        let anew = self.forgotten && why == Why::Resume;
        let from = from.filter(|_| address::is_websocket(&uri) && why != Why::First && !anew);
        let bare = bare || why == Why::First || anew;
        let spec = Spec { key, role: self.role, uri, credentials, from, bare };
        let handle = leg::open(&self.common, spec, &self.teller);
        self.all.insert(key, Connection { handle, own: T::default(), why, anew });
    }
}

/// Whether whoever comes back is told that there is nothing to come back to.
fn is_over(error: &ClientError) -> bool {
    let ClientError::Http(HttpError::Refused { problem, .. }) = error else { return false };
    matches!(problem.code.as_deref(), Some("SESSION_ENDED" | "SESSION_NOT_FOUND" | "LANGUAGE_NOT_FOUND"))
}
