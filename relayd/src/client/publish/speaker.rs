//! The publisher at work: the file into the ring, the ring onto the connections, the relay's answers back into the ring.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use ureq::http::Uri;

use super::{PublishOptions, PublishReport};
use crate::client::address::{self, Role};
use crate::client::http::Credentials;
use crate::client::leg::{self, Acked, Attached, Command, Common, Ending, Handle, Line, News, Sent, Spec};
use crate::client::legs::{Completions, Key, Legs, Order, Step, Why};
use crate::client::pace::{Pacer, duration};
use crate::client::peer::PeerError;
use crate::client::ring::{Cursor, KEPT, Kept, Ring};
use crate::client::{ClientError, PROGRESS_INTERVAL, ogg};

/// Between the last packet and goodbye, so that the goodbye does not overtake it.
const LINGER: Duration = Duration::from_millis(100);
/// Without an acknowledgement for so long another connection is made.
const SILENCE: Duration = Duration::from_millis(600);
/// How often time is looked at while nothing else happens.
const TICK: Duration = Duration::from_millis(50);

/// A publisher.
pub(super) struct Speaker<'a> {
    options: &'a PublishOptions,
    uri: Uri,
    common: Common,
    report: PublishReport,
    ring: Ring,
    legs: Legs,
    connections: BTreeMap<Key, Connection>,
    teller: leg::Teller,
    news: mpsc::Receiver<(Key, News)>,
    ticket: Option<String>,
    pacer: Option<Pacer>,
    /// The next packet of the file.
    next: usize,
    /// Since when the file is over.
    over: Option<Instant>,
    /// The relay acknowledges.
    acks: bool,
    /// A break: nothing is kept.
    paused: bool,
    place: Option<PlaceInTrack>,
    /// Why the stream has no connection.
    error: Option<ClientError>,
    /// The cut of the last switch.
    completed: Completions,
}

struct Connection {
    handle: Handle,
    why: Why,
    /// Once it is up.
    cursor: Option<Cursor>,
}

/// Where the frame with number 0 is on the track, by position and media time; both may be before its start.
#[derive(Debug, Clone, Copy)]
struct PlaceInTrack {
    position: u64,
    media_time: u64,
}

impl<'a> Speaker<'a> {
    pub(super) fn new(options: &'a PublishOptions, uri: Uri, common: Common) -> Self {
        let (teller, news) = leg::news();
        Self {
            options,
            uri,
            common,
            report: PublishReport::default(),
            ring: Ring::default(),
            legs: Legs::new(Instant::now(), rand::random()),
            connections: BTreeMap::new(),
            teller,
            news,
            ticket: None,
            pacer: None,
            next: 0,
            over: None,
            acks: false,
            paused: false,
            place: None,
            error: None,
            completed: Completions::default(),
        }
    }

    /// Publishes to the end of the file.
    pub(super) async fn run(&mut self, progress: &mut impl FnMut(&PublishReport)) -> Result<(), ClientError> {
        let mut tell_at = None;
        loop {
            let now = Instant::now();
            self.legs.handle_timeout(now);
            self.take_steps(now)?;
            self.speak(now);
            self.watch(now);
            self.send(now);
            if self.report.connected && tell_at.is_none_or(|at| now >= at) {
                progress(&self.report());
                tell_at = Some(now + PROGRESS_INTERVAL);
            }
            if self.is_done(now) {
                return Ok(());
            }
            let wake = self.wake(now);
            tokio::select! {
                biased;
                news = self.news.recv() => if let Some((key, news)) = news {
                    self.take(key, news)?;
                    // What has come is taken at once: it may be much after a stall.
                    while let Ok((key, news)) = self.news.try_recv() {
                        self.take(key, news)?;
                    }
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Nothing more is said. Whether anything was.
    pub(super) fn fall_silent(&mut self) -> bool {
        self.over.get_or_insert_with(Instant::now);
        self.pacer.is_some()
    }

    /// Ends the connections.
    pub(super) async fn close(&mut self) -> Result<(), ClientError> {
        let live = self.legs.live();
        self.connections.values().for_each(|connection| connection.handle.tell(Command::Close));
        let mut result = Ok(());
        let goodbyes = async {
            while !self.connections.is_empty() {
                let Some((key, news)) = self.news.recv().await else { return };
                if let News::Ended(ending) = news {
                    self.connections.remove(&key);
                    if Some(key) == live {
                        result = ending.result;
                    }
                }
            }
        };
        let _late = tokio::time::timeout(leg::GOODBYE, goodbyes).await.is_err();
        for (_, mut connection) in std::mem::take(&mut self.connections) {
            connection.handle.tell(Command::Close);
            let _late = tokio::time::timeout(leg::GOODBYE / 4, connection.handle.ended()).await.is_err();
        }
        result
    }

    /// How far it is.
    pub(super) fn report(&self) -> PublishReport {
        let resent: u64 =
            self.connections.values().filter_map(|of| of.cursor.as_ref()).map(Cursor::resent).sum();
        PublishReport {
            acknowledged: self.acks.then(|| self.ring.safe().map_or(0, |safe| safe + 1)),
            resent: self.report.resent + resent,
            dropped: self.ring.dropped(),
            ..self.report
        }
    }

    fn take_steps(&mut self, now: Instant) -> Result<(), ClientError> {
        while let Some(step) = self.legs.poll_step() {
            match step {
                Step::Open(key, why) => self.open(now, key, why),
                Step::Close(key) => {
                    if let Some(connection) = self.connections.get(&key) {
                        connection.handle.tell(Command::Close);
                    }
                }
                Step::GiveUp => return Err(self.error.take().unwrap_or_else(|| PeerError::Lost.into())),
            }
        }
        Ok(())
    }

    fn open(&mut self, now: Instant, key: Key, why: Why) {
        let mut uri = self.uri.clone();
        let mut credentials = Credentials { token: self.options.token.clone(), resume: None, ticket: None };
        match &why {
            Why::First => credentials.resume = self.options.resume_secret.clone(),
            Why::Refresh(Order { url, ticket, .. }) => {
                credentials.ticket = Some(ticket.clone());
                uri = address::resolve_order(&self.uri, url).unwrap_or(uri);
            }
            Why::Resume if self.ticket.is_some() => credentials.ticket = self.ticket.clone(),
            Why::Resume => credentials.resume = self.options.resume_secret.clone(),
        }
        let spec = Spec { key, role: Role::Publisher, uri, credentials, from: None, bare: true };
        let handle = leg::open(&self.common, spec, &self.teller);
        self.connections.insert(key, Connection { handle, why, cursor: None });
        self.legs.handle_timeout(now);
    }

    /// Frames of the file that are due, into the ring.
    fn speak(&mut self, now: Instant) {
        let Some(pacer) = &mut self.pacer else { return };
        while self.over.is_none() && pacer.due() <= now {
            if self.next == 0 {
                self.report.rounds += 1;
            }
            let packet: &ogg::Packet = &self.options.packets[self.next];
            let stamp = pacer.take(now, packet.samples);
            let at = pacer.samples() - u64::from(packet.samples);
            let number =
                self.ring.push(Kept { stamp, at, samples: packet.samples, payload: packet.data.clone() });
            if self.paused {
                self.ring.ack(number);
            }
            self.report.first_packet.get_or_insert(now);
            self.report.packets += 1;
            self.report.bytes += packet.data.len() as u64;
            self.report.audio += duration(packet.samples.into());
            self.next = (self.next + 1) % self.options.packets.len();
            if self.next == 0 && !self.options.looped {
                self.over = Some(pacer.due());
            }
        }
    }

    /// Whether the relay answers.
    fn watch(&mut self, now: Instant) {
        if !self.acks {
            return;
        }
        for (key, connection) in &mut self.connections {
            let Some(cursor) = &mut connection.cursor else { continue };
            cursor.repair(now, &self.ring);
            if self.legs.live() == Some(*key) && cursor.silent(now, &self.ring) >= SILENCE {
                self.legs.handle_silence(now);
            }
        }
    }

    /// Frames that may go out, onto each connection.
    fn send(&mut self, now: Instant) {
        let websocket = address::is_websocket(&self.uri);
        let mut last = None;
        for connection in self.connections.values_mut() {
            let Some(cursor) = &mut connection.cursor else { continue };
            while let Some(number) = cursor.poll(now, &self.ring) {
                let Some(kept) = self.ring.get(number) else { continue };
                last = last.max(Some(number));
                let line = self.place.map(|place| {
                    (place.position.wrapping_add(number), place.media_time.wrapping_add(kept.at))
                });
                if websocket && (line.is_none() || self.paused) {
                    continue;
                }
                let sent = Sent { number, stamp: kept.stamp, payload: kept.payload.clone(), line };
                connection.handle.tell(Command::Send(Box::new(sent)));
            }
        }
        // Nobody will ask for it.
        if let Some(last) = last.filter(|_| !self.is_resumable()) {
            self.ring.ack(last);
        }
    }

    fn is_resumable(&self) -> bool {
        self.acks || self.ticket.is_some()
    }

    fn is_done(&self, now: Instant) -> bool {
        let Some(over) = self.over else { return false };
        let all = if self.acks { self.ring.waiting() == 0 } else { self.legs.live().is_some() };
        now >= over + LINGER && all || now >= over + KEPT
    }

    fn wake(&self, now: Instant) -> Instant {
        let pacer = self.pacer.as_ref().filter(|_| self.over.is_none()).map(Pacer::due);
        let cursors = self.connections.values().filter_map(|of| of.cursor.as_ref()?.wake(&self.ring));
        cursors.chain(pacer).chain(self.legs.poll_timeout()).chain([now + TICK]).min().unwrap_or(now)
    }

    fn take(&mut self, key: Key, news: News) -> Result<(), ClientError> {
        let now = Instant::now();
        match news {
            News::Up(attached) => self.attach(now, key, attached),
            News::Acked(acked) => self.acknowledge(now, key, acked),
            News::Again(numbers) => {
                if let Some(cursor) = self.connections.get_mut(&key).and_then(|of| of.cursor.as_mut()) {
                    numbers.into_iter().for_each(|number| cursor.ask_again(number));
                }
            }
            News::Report(report) => self.report.remote = Some(report),
            News::Order { url, ticket, deadline } => self.legs.order(now, Order { url, ticket, deadline }),
            News::Complete { position, .. } => {
                if self.completed.hear(key, position) {
                    self.legs.complete(now);
                    self.report.refreshes += 1;
                }
            }
            News::Paused => self.pause(),
            News::Resumed(line) => self.resume(key, line),
            News::Ended(ending) => self.detach(now, key, ending),
            News::Heard(_) | News::Begin(_) | News::Source(_) => {}
        }
        self.take_steps(now)
    }

    fn attach(&mut self, now: Instant, key: Key, attached: Attached) {
        let Attached { ticket, ssrc, line } = attached;
        self.ticket = ticket.or_else(|| self.ticket.take());
        self.report.ssrc = ssrc;
        self.report.connected = true;
        self.error = None;
        let first = self.pacer.is_none();
        self.pacer.get_or_insert_with(|| Pacer::new(now, SystemTime::now(), rand::random()));
        if let Some(line) = line {
            self.acks = true;
            self.find_place(line);
        }
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.cursor = Some(Cursor::new(now, &self.ring));
            self.report.resumes += u64::from(!first && connection.why == Why::Resume);
        }
        self.legs.handle_up(now, key);
    }

    /// Numbers the frames of the ring for a WebSocket.
    fn find_place(&mut self, line: Line) {
        let Line { missing, next, media_time } = line;
        if let Some(place) = self.place {
            // Positions that nobody else has used in between are ours still.
            if next <= place.position.wrapping_add(self.ring.end()) {
                if let Some(number) =
                    missing.checked_sub(place.position).and_then(|number| number.checked_sub(1))
                {
                    self.ring.ack(number);
                }
                return;
            }
        }
        let first = self.ring.safe().map_or_else(|| self.ring.anchor(), |safe| safe + 1);
        let at = self.ring.get(first).map_or_else(|| self.samples(), |kept| kept.at);
        let place =
            PlaceInTrack { position: next.wrapping_sub(first), media_time: media_time.wrapping_sub(at) };
        self.place = Some(place);
    }

    fn samples(&self) -> u64 {
        self.pacer.as_ref().map_or(0, Pacer::samples)
    }

    fn acknowledge(&mut self, now: Instant, key: Key, acked: Acked) {
        let (here, safe) = match (acked, self.place) {
            (Acked::Number(number), _) => (Some(number), Some(number)),
            (Acked::Below { recv, safe }, Some(place)) => {
                let number = |below: u64| below.checked_sub(place.position)?.checked_sub(1);
                (number(recv), number(safe))
            }
            (Acked::Below { .. }, None) => (None, None),
        };
        self.acks = true;
        safe.inspect(|safe| self.ring.ack(*safe));
        let cursor = self.connections.get_mut(&key).and_then(|of| of.cursor.as_mut());
        if let (Some(cursor), Some(here)) = (cursor, here) {
            cursor.ack(now, here);
        }
    }

    /// A break: what is said in it is for nobody.
    fn pause(&mut self) {
        self.paused = true;
        self.ring.ack(self.ring.end().saturating_sub(1));
    }

    fn resume(&mut self, key: Key, line: Option<Line>) {
        self.paused = false;
        if let Some(Line { next, media_time, .. }) = line {
            self.place = Some(PlaceInTrack {
                position: next.wrapping_sub(self.ring.end()),
                media_time: media_time.wrapping_sub(self.samples()),
            });
            if let Some(connection) = self.connections.get(&key) {
                connection.handle.tell(Command::Continue);
            }
        }
    }

    fn detach(&mut self, now: Instant, key: Key, ending: Ending) {
        let Ending { result, for_good, ticket_refused } = ending;
        let connection = self.connections.remove(&key);
        let ordered = connection.as_ref().is_some_and(|connection| matches!(connection.why, Why::Refresh(_)));
        self.report.resent += connection.and_then(|connection| connection.cursor).map_or(0, |of| of.resent());
        let closed = matches!(self.error, Some(ClientError::Peer(PeerError::Closed)));
        let again = ticket_refused && !closed;
        if ticket_refused && !ordered {
            self.ticket = None;
        }
        // The ticket of an order that is over: what is live goes on.
        let over = ticket_refused && ordered && self.legs.live().is_some();
        let error = result.err().unwrap_or_else(|| PeerError::Closed.into());
        // That the relay closed it says more than that it is not let in again.
        let matters = self.legs.live().is_none_or(|live| live == key);
        if matters && !closed && (self.error.is_none() || !matches!(error, ClientError::Peer(_))) {
            self.error = Some(error);
        }
        let hopeless = !self.is_resumable() && self.options.resume_secret.is_none() && !again;
        let refused = ticket_refused && closed && !ordered;
        self.legs.handle_ended(now, key, for_good || hopeless || over || refused);
    }
}
