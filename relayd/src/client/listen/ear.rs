//! The listener at work: connections into one stream, the stream into the file.

use std::fs::File;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ureq::http::Uri;

use super::{ListenOptions, ListenReport, Switches};
use crate::client::address::{self, Role};
use crate::client::backoff::Backoff;
use crate::client::connections::Connections;
use crate::client::http::Credentials;
use crate::client::leg::{Attached, Command, Common, Handle, Heard, News, Place};
use crate::client::legs::Key;
use crate::client::merge::{self, MAX_HELD, Merge};
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
    connections: Connections<()>,
    connected_at: Option<Instant>,
    report: ListenReport,
    reception: Reception,
    merge: Merge<(u32, Bytes)>,
    /// The connection that the stream began on: what older ones bring is of the stream before.
    stream: Key,
    /// Frames that were given up in the streams before.
    missing: u64,
    /// The stream has no positions, and is that of this SSRC.
    bare: Option<u32>,
    /// Added to the sequence numbers of such a stream, for one order over all of them.
    shift: u64,
    file: Option<File>,
    recording: Option<Recording>,
    language: Option<String>,
    repair: Option<Repair>,
    repair_at: Option<Instant>,
    repair_backoff: Backoff,
}

/// A further connection that brings what is missing.
struct Repair {
    handle: Handle,
    /// The hole that it was made for.
    hole: Range<u64>,
    give_up_at: Instant,
}

/// The key of such connections.
const REPAIR: Key = Key::MAX;

impl<'a> Ear<'a> {
    pub(super) fn new(options: &'a ListenOptions, uri: Uri, common: Common, file: Option<File>) -> Self {
        let language = address::place(&uri).and_then(|(_, language)| language);
        let credentials = Credentials { token: options.token.clone(), ..Credentials::default() };
        Self {
            options,
            connections: Connections::new(common, Role::Listener, uri, credentials),
            connected_at: None,
            report: ListenReport::default(),
            reception: Reception::default(),
            merge: Merge::new(PATIENCE, MAX_HELD),
            stream: 0,
            missing: 0,
            bare: None,
            shift: 0,
            file,
            recording: None,
            language,
            repair: None,
            repair_at: None,
            repair_backoff: Backoff::new(rand::random()),
        }
    }

    /// Listens until the time is over.
    pub(super) async fn run(&mut self, progress: &mut impl FnMut(&ListenReport)) -> Result<(), ClientError> {
        let mut tell_at = None;
        loop {
            let now = Instant::now();
            self.advance(now)?;
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
            let ticks = [Some(now + TICK), end, tell_at, self.connections.poll_timeout()];
            let wake = ticks.into_iter().flatten().min().unwrap_or(now);
            let mut news = self.connections.next_news(wake).await;
            // What has come is taken at once: it may be much after a stall.
            while let Some((key, item)) = news {
                self.take(key, item)?;
                news = self.connections.more_news();
            }
        }
    }

    /// Ends the connections; what still comes is heard.
    pub(super) async fn close(&mut self) -> Result<(), ClientError> {
        self.repair = None;
        let mut goodbyes = self.connections.close();
        while let Some((key, news)) = self.connections.last_news(&mut goodbyes).await {
            if let News::Heard(heard) = news
                && self.is_of_stream(key)
            {
                self.hear(key, *heard);
            }
        }
        self.connections.ended(goodbyes).await
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
            switches: Switches { missing: self.missing + self.merge.given_up(), ..self.report.switches },
            ..self.report
        }
    }

    fn advance(&mut self, now: Instant) -> Result<(), ClientError> {
        self.connections.advance(now, self.merge.next(), self.bare.is_some())
    }

    fn take(&mut self, key: Key, news: News) -> Result<(), ClientError> {
        let now = Instant::now();
        match news {
            News::Ended(_) if key == REPAIR => self.end_repair(now),
            News::Ended(ending) => drop(self.connections.detach(now, key, ending, false)),
            _ if !self.is_of_stream(key) => {}
            News::Heard(heard) => self.hear(key, *heard),
            News::Up(attached) if key == REPAIR => self.begin_repair(now, &attached),
            _ if key == REPAIR => {}
            News::Up(attached) => {
                self.report.connected = true;
                self.connected_at.get_or_insert(now);
                let resumed = self.connections.attach(now, key, attached.ticket);
                self.report.switches.resumes += u64::from(resumed);
            }
            News::Begin(position) => {
                self.merge.expect(position);
                self.begin(now, key);
            }
            News::Order(order) => self.connections.order(now, order),
            News::Complete { seq, position, replayed, gap_frames } => {
                self.complete(now, (seq, position), (replayed, gap_frames));
            }
            News::Source(language) => drop(self.language.get_or_insert(language)),
            News::Acked(_) | News::Again(_) | News::Report(_) | News::Paused | News::Resumed(_) => {}
        }
        self.begin_file()?;
        self.write(now)?;
        self.advance(now)
    }

    /// Whether what this connection tells is of the stream that is heard. One that joined anew begins another one.
    fn is_of_stream(&mut self, key: Key) -> bool {
        if key == REPAIR {
            return self.repair.is_some();
        }
        if key > self.stream && self.connections.is_anew(key) {
            self.restart(key);
        }
        key >= self.stream
    }

    /// Another stream begins on this connection, with positions of its own; it is recorded behind the one before.
    fn restart(&mut self, key: Key) {
        // What cannot be written is told when the file is written next.
        let _told_later = self.drain().is_err();
        self.missing += self.merge.given_up();
        (self.merge, self.stream, self.bare) = (Merge::new(PATIENCE, MAX_HELD), key, None);
        (self.repair, self.repair_at) = (None, None);
        self.connections.restart();
        self.reception.restart();
        if let Some(recording) = &mut self.recording {
            recording.restart();
        }
        self.report.switches.restarts += 1;
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

    fn complete(&mut self, now: Instant, (seq, position): (u64, u64), (replayed, gap_frames): (u64, u64)) {
        if self.connections.complete(now, seq, position) {
            let switches = &mut self.report.switches;
            switches.refreshes += 1;
            switches.replayed += replayed;
            switches.gap_frames += gap_frames;
            switches.most_gap_frames = switches.most_gap_frames.max(gap_frames);
        }
    }

    fn hear(&mut self, key: Key, heard: Heard) {
        let Heard { place, timestamp, ssrc, arrived, payload } = heard;
        self.report.first_packet.get_or_insert(arrived);
        self.report.ssrc = ssrc.or(self.report.ssrc);
        let bytes = payload.len();
        match place {
            Place::Position(position) => {
                let news = self.merge.push(arrived, position, (timestamp, payload));
                self.begin(arrived, key);
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
                    self.merge.begin(arrived);
                }
            }
        }
    }

    /// The oldest connection was sent the beginning; a newer one, heard before it, may not have been.
    fn begin(&mut self, now: Instant, key: Key) {
        if self.connections.oldest() == Some(key) {
            self.merge.begin(now);
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
            && let Some(live) = self.connections.live().and_then(|key| self.connections.get_mut(key))
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
            let filled = hole.as_ref().is_none_or(|(hole, _)| hole.start >= repair.hole.end);
            if filled || now >= repair.give_up_at {
                repair.handle.tell(Command::Close);
            }
            return;
        }
        let placed = self.bare.is_none() && self.connections.live().is_some();
        let Some((hole, since)) = hole.filter(|_| placed) else {
            self.repair_backoff.reset();
            return;
        };
        if now < since + REPAIR_AFTER || self.repair_at.is_some_and(|at| now < at) {
            return;
        }
        let session = address::place(self.connections.uri()).map(|(session, _)| session);
        let (Some(session), Some(language)) = (session, &self.language) else { return };
        let path = format!("/v1/sessions/{session}/listen/{language}");
        let Some(uri) = address::socket_at(self.connections.uri(), &path) else { return };
        let handle = self.connections.open_beside(REPAIR, uri, hole.start);
        self.repair = Some(Repair { handle, hole, give_up_at: now + REPAIR_TIME });
    }

    /// A relay that does not begin where it was asked to has not come so far: that is another stream.
    fn begin_repair(&mut self, now: Instant, attached: &Attached) {
        let from = attached.line.map(|line| line.missing);
        if self.repair.as_ref().is_some_and(|repair| from != Some(repair.hole.start)) {
            self.end_repair(now);
        }
    }

    fn end_repair(&mut self, now: Instant) {
        self.repair = None;
        self.repair_at = Some(now + self.repair_backoff.next());
    }
}
