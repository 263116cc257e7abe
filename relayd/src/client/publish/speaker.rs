//! The publisher at work: the file into the ring, the ring onto the connections, the relay's answers back into the ring.

use std::time::{Duration, Instant, SystemTime};

use ureq::http::Uri;

use super::{PublishOptions, PublishReport};
use crate::client::address::{self, Role};
use crate::client::connections::Connections;
use crate::client::http::Credentials;
use crate::client::leg::{Acked, Attached, Command, Common, Line, News, Sent};
use crate::client::legs::Key;
use crate::client::pace::{Pacer, duration};
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
    /// Each with its place in the ring, once it is up.
    connections: Connections<Option<Cursor>>,
    report: PublishReport,
    ring: Ring,
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
}

/// Where the frame with number 0 is on the track, by position and media time; both may be before its start.
#[derive(Debug, Clone, Copy)]
struct PlaceInTrack {
    position: u64,
    media_time: u64,
}

impl<'a> Speaker<'a> {
    pub(super) fn new(options: &'a PublishOptions, uri: Uri, common: Common) -> Self {
        let (token, resume) = (options.token.clone(), options.resume_secret.clone());
        let credentials = Credentials { token, resume, ticket: None };
        Self {
            options,
            connections: Connections::new(common, Role::Publisher, uri, credentials),
            report: PublishReport::default(),
            ring: Ring::default(),
            pacer: None,
            next: 0,
            over: None,
            acks: false,
            paused: false,
            place: None,
        }
    }

    /// Publishes to the end of the file.
    pub(super) async fn run(&mut self, progress: &mut impl FnMut(&PublishReport)) -> Result<(), ClientError> {
        let mut tell_at = None;
        loop {
            let now = Instant::now();
            self.connections.advance(now, None, true)?;
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
            let mut news = self.connections.next_news(wake).await;
            // What has come is taken at once: it may be much after a stall.
            while let Some((key, item)) = news {
                self.take(key, item)?;
                news = self.connections.more_news();
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
        let mut goodbyes = self.connections.close();
        while self.connections.last_news(&mut goodbyes).await.is_some() {}
        self.connections.ended(goodbyes).await
    }

    /// How far it is.
    pub(super) fn report(&self) -> PublishReport {
        let resent: u64 = self.connections.owned().flatten().map(Cursor::resent).sum();
        PublishReport {
            acknowledged: self.acks.then(|| self.ring.safe().map_or(0, |safe| safe + 1)),
            resent: self.report.resent + resent,
            dropped: self.ring.dropped(),
            ..self.report
        }
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
        let (live, mut silent) = (self.connections.live(), false);
        for (key, connection) in self.connections.iter_mut() {
            let Some(cursor) = &mut connection.own else { continue };
            cursor.repair(now, &self.ring);
            silent |= live == Some(key) && cursor.silent(now, &self.ring) >= SILENCE;
        }
        if silent {
            self.connections.handle_silence(now);
        }
    }

    /// Frames that may go out, onto each connection.
    fn send(&mut self, now: Instant) {
        let websocket = address::is_websocket(self.connections.uri());
        let mut last = None;
        for (_, connection) in self.connections.iter_mut() {
            let Some(cursor) = &mut connection.own else { continue };
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
        self.acks || self.connections.has_ticket()
    }

    fn is_done(&self, now: Instant) -> bool {
        let Some(over) = self.over else { return false };
        let all = if self.acks { self.ring.waiting() == 0 } else { self.connections.live().is_some() };
        now >= over + LINGER && all || now >= over + KEPT
    }

    fn wake(&self, now: Instant) -> Instant {
        let pacer = self.pacer.as_ref().filter(|_| self.over.is_none()).map(Pacer::due);
        let cursors = self.connections.owned().flatten().filter_map(|cursor| cursor.wake(&self.ring));
        cursors.chain(pacer).chain(self.connections.poll_timeout()).chain([now + TICK]).min().unwrap_or(now)
    }

    fn take(&mut self, key: Key, news: News) -> Result<(), ClientError> {
        let now = Instant::now();
        match news {
            News::Up(attached) => self.attach(now, key, attached),
            News::Acked(acked) => self.acknowledge(now, key, acked),
            News::Again(numbers) => {
                if let Some(cursor) = self.cursor(key) {
                    numbers.into_iter().for_each(|number| cursor.ask_again(number));
                }
            }
            News::Report(report) => self.report.remote = Some(report),
            News::Order(order) => self.connections.order(now, order),
            News::Complete { seq, position, .. } => {
                self.report.refreshes += u64::from(self.connections.complete(now, seq, position));
            }
            News::Paused => self.pause(),
            News::Resumed(line) => self.resume(key, line),
            News::Ended(ending) => {
                let returns = self.acks || self.options.resume_secret.is_some();
                let cursor = self.connections.detach(now, key, ending, returns).flatten();
                self.report.resent += cursor.map_or(0, |cursor| cursor.resent());
            }
            News::Heard(_) | News::Begin(_) | News::Source(_) => {}
        }
        self.connections.advance(now, None, true)
    }

    fn attach(&mut self, now: Instant, key: Key, attached: Attached) {
        let Attached { ticket, ssrc, line } = attached;
        self.report.ssrc = ssrc;
        self.report.connected = true;
        self.pacer.get_or_insert_with(|| Pacer::new(now, SystemTime::now(), rand::random()));
        if let Some(line) = line {
            self.acks = true;
            self.find_place(line);
        }
        if let Some(connection) = self.connections.get_mut(key) {
            connection.own = Some(Cursor::new(now, &self.ring));
        }
        self.report.resumes += u64::from(self.connections.attach(now, key, ticket));
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
        if let (Some(cursor), Some(here)) = (self.cursor(key), here) {
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
            if let Some(connection) = self.connections.get_mut(key) {
                connection.handle.tell(Command::Continue);
            }
        }
    }

    fn cursor(&mut self, key: Key) -> Option<&mut Cursor> {
        self.connections.get_mut(key)?.own.as_mut()
    }
}
