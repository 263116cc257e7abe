//! The listener at work: connections into one stream, the stream into the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use ureq::http::Uri;

use super::{ListenOptions, ListenReport, Switches};
use crate::client::address::{self, Role};
use crate::client::backoff::Backoff;
use crate::client::http::Credentials;
use crate::client::leg::{self, Attached, Command, Common, Ending, Handle, Heard, News, Place, Spec};
use crate::client::legs::{Completions, Key, Legs, Order, Step, Why};
use crate::client::merge::{self, MAX_HELD, Merge};
use crate::client::peer::PeerError;
use crate::client::reception::Reception;
use crate::client::recording::Recording;
use crate::client::{ClientError, PROGRESS_INTERVAL};

/// How long a hole is waited for: longer than relays keep audio by default.
const PATIENCE: Duration = Duration::from_secs(35);
/// Frames that may come after a hole where nobody can be asked for it: two thirds of a second.
const BARE_HELD: usize = 32;
/// A hole that is there for so long is not filled by the connection it is on.
const REPAIR_AFTER: Duration = Duration::from_secs(2);
/// How long a further connection may take to fill it.
const REPAIR_TIME: Duration = Duration::from_secs(15);
/// How often time is looked at while nothing else happens.
const TICK: Duration = Duration::from_millis(250);

/// A listener.
pub(super) struct Ear<'a> {
    options: &'a ListenOptions,
    uri: Uri,
    common: Common,
    connected_at: Option<Instant>,
    report: ListenReport,
    reception: Reception,
    merge: Merge<(u32, Bytes)>,
    /// The stream has no positions, and is that of this SSRC.
    bare: Option<u32>,
    /// Added to the sequence numbers of such a stream, for one order over all of them.
    shift: u64,
    file: Option<File>,
    recording: Option<Recording>,
    legs: Legs,
    connections: BTreeMap<Key, Connection>,
    teller: leg::Teller,
    news: mpsc::Receiver<(Key, News)>,
    ticket: Option<String>,
    language: Option<String>,
    repair: Option<Repair>,
    repair_at: Option<Instant>,
    repair_backoff: Backoff,
    error: Option<ClientError>,
    /// The cut of the last switch.
    completed: Completions,
}

struct Connection {
    handle: Handle,
    why: Why,
}

/// A further connection that brings what is missing.
struct Repair {
    handle: Handle,
    /// The end of the hole that it was made for.
    until: u64,
    give_up_at: Instant,
}

/// The key of such connections.
const REPAIR: Key = Key::MAX;

impl<'a> Ear<'a> {
    pub(super) fn new(options: &'a ListenOptions, uri: Uri, common: Common, file: Option<File>) -> Self {
        let (teller, news) = leg::news();
        let language = address::place(&uri).and_then(|(_, language)| language);
        Self {
            options,
            uri,
            common,
            connected_at: None,
            report: ListenReport::default(),
            reception: Reception::default(),
            merge: Merge::new(PATIENCE, MAX_HELD),
            bare: None,
            shift: 0,
            file,
            recording: None,
            legs: Legs::new(Instant::now(), rand::random()),
            connections: BTreeMap::new(),
            teller,
            news,
            ticket: None,
            language,
            repair: None,
            repair_at: None,
            repair_backoff: Backoff::new(rand::random()),
            error: None,
            completed: Completions::default(),
        }
    }

    /// Listens until the time is over.
    pub(super) async fn run(&mut self, progress: &mut impl FnMut(&ListenReport)) -> Result<(), ClientError> {
        let mut tell_at = None;
        loop {
            let now = Instant::now();
            self.legs.handle_timeout(now);
            self.take_steps()?;
            self.write(now)?;
            self.look_for_holes(now);
            let end = self.connected_at.and_then(|at| Some(at + self.options.time?));
            let over = end.is_some_and(|end| now >= end);
            if self.report.connected && (over || tell_at.is_none_or(|at| now >= at)) {
                progress(&self.report());
                tell_at = Some(tell_at.unwrap_or(now) + PROGRESS_INTERVAL);
                // A speaker who stops leaves a page half full: it goes to the file now.
                self.recording.as_mut().map_or(Ok(()), Recording::flush)?;
            }
            if over {
                return Ok(());
            }
            let ticks = [Some(now + TICK), end, tell_at, self.legs.poll_timeout()];
            let wake = ticks.into_iter().flatten().min().unwrap_or(now);
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

    /// Ends the connections; what still comes is heard.
    pub(super) async fn close(&mut self) -> Result<(), ClientError> {
        let live = self.legs.live();
        self.repair = None;
        self.connections.values().for_each(|connection| connection.handle.tell(Command::Close));
        let mut result = Ok(());
        let goodbyes = async {
            while !self.connections.is_empty() {
                let Some((key, news)) = self.news.recv().await else { return };
                match news {
                    News::Ended(ending) => {
                        self.connections.remove(&key);
                        if Some(key) == live {
                            result = ending.result;
                        }
                    }
                    News::Heard(heard) => self.hear(key, *heard),
                    _ => {}
                }
            }
        };
        let _late = tokio::time::timeout(leg::GOODBYE, goodbyes).await.is_err();
        for (_, mut connection) in std::mem::take(&mut self.connections) {
            let _late = tokio::time::timeout(leg::GOODBYE / 4, connection.handle.ended()).await.is_err();
        }
        result
    }

    /// Ends the file with what is still held.
    pub(super) fn finish(&mut self) -> Result<(), ClientError> {
        self.drain()?;
        self.recording.take().map_or(Ok(()), Recording::finish)
    }

    /// How far it is.
    pub(super) fn report(&self) -> ListenReport {
        ListenReport {
            elapsed: self.connected_at.map_or(Duration::ZERO, |at| at.elapsed()),
            reception: self.reception.stats(),
            switches: Switches { missing: self.merge.given_up(), ..self.report.switches },
            ..self.report
        }
    }

    fn take_steps(&mut self) -> Result<(), ClientError> {
        while let Some(step) = self.legs.poll_step() {
            match step {
                Step::Open(key, why) => self.open(key, why),
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

    fn open(&mut self, key: Key, why: Why) {
        let (mut uri, mut ticket) = (self.uri.clone(), None);
        match &why {
            Why::First => {}
            Why::Refresh(order) => {
                uri = address::resolve_order(&uri, &order.url).unwrap_or(uri);
                ticket = Some(order.ticket.clone());
            }
            Why::Resume => ticket = self.ticket.clone(),
        }
        // A relay that knows the ticket knows what was delivered; any relay knows positions.
        let from = self.merge.next().filter(|_| address::is_websocket(&uri) && why != Why::First);
        let credentials = Credentials { token: self.options.token.clone(), resume: None, ticket };
        let bare = why == Why::First || self.bare.is_some();
        let spec = Spec { key, role: Role::Listener, uri, credentials, from, bare };
        let handle = leg::open(&self.common, spec, &self.teller);
        self.connections.insert(key, Connection { handle, why });
    }

    fn take(&mut self, key: Key, news: News) -> Result<(), ClientError> {
        let now = Instant::now();
        match news {
            News::Heard(heard) => self.hear(key, *heard),
            News::Ended(_) if key == REPAIR => self.end_repair(now),
            _ if key == REPAIR => {}
            News::Up(attached) => self.attach(now, key, attached),
            News::Begin(position) => self.merge.begin(position),
            News::Order { url, ticket, deadline } => self.legs.order(now, Order { url, ticket, deadline }),
            News::Complete { position, replayed, gap_frames } => {
                self.complete(now, key, position, (replayed, gap_frames));
            }
            News::Source(language) => drop(self.language.get_or_insert(language)),
            News::Ended(ending) => self.detach(now, key, ending),
            News::Acked(_) | News::Again(_) | News::Report(_) | News::Paused | News::Resumed(_) => {}
        }
        self.begin_file()?;
        self.write(now)?;
        self.take_steps()
    }

    /// The server has answered: the file is written from here.
    fn begin_file(&mut self) -> Result<(), ClientError> {
        if self.report.connected || self.report.first_packet.is_some() {
            self.recording = match self.file.take() {
                Some(file) => Some(Recording::begin(file)?),
                None => self.recording.take(),
            };
        }
        Ok(())
    }

    fn attach(&mut self, now: Instant, key: Key, attached: Attached) {
        self.ticket = attached.ticket.or_else(|| self.ticket.take());
        self.report.connected = true;
        self.connected_at.get_or_insert(now);
        self.error = None;
        let resumed = self.connections.get(&key).is_some_and(|of| of.why == Why::Resume);
        self.report.switches.resumes += u64::from(resumed);
        self.legs.handle_up(now, key);
    }

    fn complete(&mut self, now: Instant, key: Key, at: u64, (replayed, gap_frames): (u64, u64)) {
        if self.completed.hear(key, at) {
            self.legs.complete(now);
            let switches = &mut self.report.switches;
            switches.refreshes += 1;
            switches.replayed += replayed;
            switches.gap_frames += gap_frames;
            switches.most_gap_frames = switches.most_gap_frames.max(gap_frames);
        }
    }

    fn detach(&mut self, now: Instant, key: Key, ending: Ending) {
        let Ending { result, for_good, ticket_refused } = ending;
        let connection = self.connections.remove(&key);
        let ordered = connection.is_some_and(|connection| matches!(connection.why, Why::Refresh(_)));
        let closed = matches!(self.error, Some(ClientError::Peer(PeerError::Closed)));
        let hopeless = self.ticket.is_none();
        if ticket_refused && !ordered {
            self.ticket = None;
        }
        // The ticket of an order that is over: what is live goes on.
        let over = ticket_refused && ordered && self.legs.live().is_some();
        let error = result.err().unwrap_or_else(|| PeerError::Closed.into());
        let matters = self.legs.live().is_none_or(|live| live == key);
        // That the relay closed it says more than that it is not let in again.
        if matters && !closed && (self.error.is_none() || !matches!(error, ClientError::Peer(_))) {
            self.error = Some(error);
        }
        self.legs.handle_ended(
            now,
            key,
            for_good || hopeless || over || ticket_refused && closed && !ordered,
        );
    }

    fn hear(&mut self, key: Key, heard: Heard) {
        let Heard { place, timestamp, ssrc, arrived, payload } = heard;
        self.report.first_packet.get_or_insert(arrived);
        self.report.ssrc = ssrc.or(self.report.ssrc);
        let bytes = payload.len();
        match place {
            Place::Position(position) => {
                let news = self.merge.push(arrived, position, (timestamp, payload));
                let first = news == merge::News::First;
                self.report.switches.repaired += u64::from(first && key == REPAIR);
                self.reception.count_placed(arrived, position, timestamp, bytes, first);
            }
            Place::Sequence(sequence) => {
                let ssrc = ssrc.unwrap_or_default();
                if self.bare != Some(ssrc) {
                    self.begin_bare(ssrc, sequence);
                }
                if self.reception.count(arrived, ssrc, sequence, timestamp, bytes) {
                    self.merge.push(arrived, sequence.wrapping_add(self.shift), (timestamp, payload));
                }
            }
        }
    }

    /// A stream without positions begins, or another one follows it.
    fn begin_bare(&mut self, ssrc: u32, sequence: u64) {
        if self.bare.replace(ssrc).is_none() {
            self.merge = Merge::new(PATIENCE, BARE_HELD);
            // Room for what came before the first one.
            self.shift = 1 << 32;
            return;
        }
        // What cannot be written is told when the file is written next.
        let _told_later = self.drain().is_err();
        let next = self.merge.next().unwrap_or_default();
        self.shift = next.wrapping_sub(sequence);
        if let Some(recording) = &mut self.recording {
            recording.restart();
        }
    }

    /// What is in order, into the file.
    fn write(&mut self, now: Instant) -> Result<(), ClientError> {
        let before = self.merge.next();
        while let Some((_, (timestamp, payload))) = self.merge.pop(now) {
            if let Some(recording) = &mut self.recording {
                recording.write(timestamp, &payload)?;
            }
        }
        let next = self.merge.next().filter(|next| Some(*next) != before && *next > 0 && self.bare.is_none());
        if let Some(next) = next
            && let Some(live) = self.legs.live().and_then(|key| self.connections.get(&key))
        {
            live.handle.tell(Command::Delivered(next - 1));
        }
        Ok(())
    }

    /// Everything that is held, into the file.
    fn drain(&mut self) -> Result<(), ClientError> {
        let now = Instant::now();
        while let Some((_, (timestamp, payload))) = self.merge.pop_any(now) {
            if let Some(recording) = &mut self.recording {
                recording.write(timestamp, &payload)?;
            }
        }
        Ok(())
    }

    /// Fetches over a WebSocket what the connection there is has lost for good.
    fn look_for_holes(&mut self, now: Instant) {
        let hole = self.merge.hole();
        if let Some(repair) = &self.repair {
            let filled = hole.as_ref().is_none_or(|(hole, _)| hole.start >= repair.until);
            if filled || now >= repair.give_up_at {
                repair.handle.tell(Command::Close);
            }
            return;
        }
        let Some((hole, since)) = hole.filter(|_| self.bare.is_none()) else {
            self.repair_backoff.reset();
            return;
        };
        if now < since + REPAIR_AFTER || self.repair_at.is_some_and(|at| now < at) {
            return;
        }
        let session = address::place(&self.uri).map(|(session, _)| session);
        let (Some(session), Some(language)) = (session, &self.language) else { return };
        let path = format!("/v1/sessions/{session}/listen/{language}");
        let Some(uri) = address::socket_at(&self.uri, &path) else { return };
        let credentials = Credentials { token: self.options.token.clone(), resume: None, ticket: None };
        let from = Some(hole.start);
        let spec = Spec { key: REPAIR, role: Role::Listener, uri, credentials, from, bare: false };
        let handle = leg::open(&self.common, spec, &self.teller);
        self.repair = Some(Repair { handle, until: hole.end, give_up_at: now + REPAIR_TIME });
    }

    fn end_repair(&mut self, now: Instant) {
        self.repair = None;
        self.repair_at = Some(now + self.repair_backoff.next());
    }
}
