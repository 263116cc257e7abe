//! A WebRTC connection with its signalling, and the events socket beside it where the server has one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::rtp::RtpPacket;
use str0m::stats::MediaEgressStats;
use tokio::sync::mpsc;
use ureq::http::Uri;

use super::follow::{Following, Word, follow};
use super::lines::Lines;
use super::{Acked, Attached, Command, Common, Heard, News, Place, Sent, Spec, Told, instant_of, lost};
use crate::client::ClientError;
use crate::client::address::{self, Role};
use crate::client::http::{Endpoint, HttpError, Resource};
use crate::client::legs::Order;
use crate::client::pace::duration;
use crate::client::peer::{Outgoing, Peer, PeerError, PeerEvent};
use crate::client::publish::RemoteReport;

/// Packets that wait for their position to be announced.
const MAX_UNPLACED: usize = 4096;
/// How long they do: it is announced when the first packet is sent.
const PLACING: Duration = Duration::from_secs(10);
/// How long after a break the line before it is gone on with.
const NEW_LINE: Duration = Duration::from_secs(2);
/// How long a connection that the relay has closed waits to hear that another one has taken over.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a wait lasts at most, so that time is looked at.
const TICK: Duration = Duration::from_millis(500);

/// Runs the connection to its end.
pub(super) async fn run(
    common: Common,
    spec: Spec,
    told: &Told,
    mut commands: mpsc::Receiver<Command>,
) -> Result<(), ClientError> {
    let (role, uri) = (spec.role, spec.uri.clone());
    // A name server may take its time.
    let bound = blocking(move || address::bind_towards(&uri)).await?.map_err(ClientError::from)?;
    let (mut peer, offer) = Peer::offer(bound, role, common.media_proxy)?;
    let endpoint = Endpoint::new(&common.agent, spec.uri.clone(), spec.credentials.clone());
    let resource = blocking(move || endpoint.offer(&offer)).await??;
    let answered = peer.answer(resource.answer()).map_err(ClientError::from);
    let (words, mut heard) = mpsc::channel(256);
    let following = following(&spec, &resource);
    let placing = match (role, &following) {
        (Role::Listener, None) => Placing::Bare,
        _ => {
            Placing::Lines { lines: Lines::default(), unplaced: VecDeque::new(), since: None, resumed: None }
        }
    };
    let follower = following.map(|following| Abort(tokio::spawn(follow(common, following, words))));
    let mut leg = Leg {
        told,
        peer,
        placing,
        bare: spec.bare,
        ticket: resource.ticket().map(str::to_owned),
        ordered: false,
        sent: None,
    };
    let result = match answered {
        Ok(()) => leg.serve(&mut commands, &mut heard).await,
        Err(error) => Err(error),
    };
    if leg.ordered && matches!(result, Err(ClientError::Peer(PeerError::Closed))) {
        let _late = tokio::time::timeout(LAST_WORDS, leg.hear_out(&mut heard)).await.is_err();
    }
    leg.peer.close();
    drop(follower);
    // A connection that the server has closed is gone with it: only a good end can go wrong here.
    let deleted = blocking(move || resource.delete()).await?;
    result?;
    Ok(deleted?)
}

/// Whom to follow: a server that gives a ticket is one of ours.
fn following(spec: &Spec, resource: &Resource) -> Option<Following> {
    resource.ticket()?;
    let (session, _) = address::place(&spec.uri)?;
    let server: Uri = spec.uri.clone();
    Some(Following {
        server,
        session,
        token: spec.credentials.token.clone(),
        leg: resource.name().to_owned(),
    })
}

/// Runs what blocks beside the runtime.
async fn blocking<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> Result<R, ClientError> {
    let failed = |error: tokio::task::JoinError| HttpError::Broken(error.to_string()).into();
    tokio::task::spawn_blocking(run).await.map_err(failed)
}

/// A task that ends with its owner.
struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Leg<'a> {
    told: &'a Told,
    peer: Peer,
    placing: Placing,
    bare: bool,
    ticket: Option<String>,
    /// The relay has asked for another one in its place.
    ordered: bool,
    /// Of a publisher: the first frame sent and its sequence number, and the last frame sent.
    sent: Option<Numbers>,
}

#[derive(Debug, Clone, Copy)]
struct Numbers {
    first: u64,
    sequence: u64,
    last: u64,
}

/// Where packets are in the track.
enum Placing {
    /// Nobody says.
    Bare,
    Lines {
        lines: Lines,
        /// Packets whose line is not announced yet, and since when.
        unplaced: VecDeque<Box<RtpPacket>>,
        since: Option<Instant>,
        /// When a break was over.
        resumed: Option<Instant>,
    },
}

impl Leg<'_> {
    /// Serves the connection until it is told to end, or is gone.
    async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        words: &mut mpsc::Receiver<Word>,
    ) -> Result<(), ClientError> {
        loop {
            self.look(Instant::now()).await?;
            tokio::select! {
                event = self.peer.next(Instant::now() + TICK) => match event? {
                    Some(PeerEvent::Connected) => self.attach().await,
                    Some(PeerEvent::Packet(packet)) => self.hear(packet).await,
                    Some(PeerEvent::Report(stats)) => self.report(&stats).await,
                    Some(PeerEvent::Again(sequences)) => self.again(&sequences).await,
                    None => {}
                },
                command = commands.recv() => match command {
                    Some(Command::Send(sent)) => self.send(*sent)?,
                    Some(Command::Delivered(_) | Command::Continue) => {}
                    Some(Command::Close) | None => return Ok(()),
                },
                Some(word) = words.recv() => self.take(word).await?,
            }
        }
    }

    /// The relay says that it has replaced the connection and closes it: the close may be here first.
    async fn hear_out(&mut self, words: &mut mpsc::Receiver<Word>) {
        while let Some(word) = words.recv().await {
            let last = matches!(word, Word::Complete { .. });
            if self.take(word).await.is_err() || last {
                return;
            }
        }
    }

    async fn attach(&mut self) {
        let ssrc = self.peer.ssrc().map(|ssrc| *ssrc).unwrap_or_default();
        let ticket = self.ticket.take();
        self.told.tell(News::Up(Attached { ticket, ssrc, line: None })).await;
    }

    fn send(&mut self, sent: Sent) -> Result<(), PeerError> {
        let Sent { number, stamp, payload, .. } = sent;
        let numbers = self.sent.get_or_insert_with(|| Numbers {
            first: number,
            sequence: first_sequence(),
            last: number,
        });
        numbers.last = numbers.last.max(number);
        let Some(ahead) = number.checked_sub(numbers.first) else { return Ok(()) };
        let sequence = numbers.sequence + ahead;
        self.peer.send(Outgoing { sequence, stamp, payload })
    }

    async fn again(&self, sequences: &[u16]) {
        let numbers: Vec<u64> = sequences.iter().filter_map(|sequence| self.number_of(*sequence)).collect();
        self.told.tell(News::Again(numbers)).await;
    }

    /// The frame that went out with this sequence number last.
    fn number_of(&self, sequence: u16) -> Option<u64> {
        let Numbers { first, sequence: start, last } = self.sent?;
        // RFC 1982: the nearest number at or behind the last one with these sixteen bits.
        let newest = start + (last - first);
        let behind = (newest as u16).wrapping_sub(sequence);
        last.checked_sub(u64::from(behind)).filter(|number| *number >= first)
    }

    async fn report(&self, stats: &MediaEgressStats) {
        let Some(remote) = &stats.remote else { return };
        let report = RemoteReport {
            loss: stats.loss.unwrap_or_default(),
            lost: remote.packets_lost,
            jitter: duration(remote.jitter.into()),
            round_trip: stats.rtt,
        };
        self.told.tell(News::Report(report)).await;
    }

    async fn hear(&mut self, packet: Box<RtpPacket>) {
        match &mut self.placing {
            Placing::Bare => {
                let heard = heard(&packet, Place::Sequence(*packet.seq_no), packet.header.timestamp);
                self.told.tell(News::Heard(heard)).await;
            }
            Placing::Lines { lines, unplaced, since, .. } => {
                let ssrc = *packet.header.ssrc;
                match lines.place(ssrc, *packet.seq_no, packet.header.timestamp) {
                    Some((position, time)) => {
                        let heard = heard(&packet, Place::Position(position), time as u32);
                        self.told.tell(News::Heard(heard)).await;
                    }
                    None => {
                        since.get_or_insert_with(Instant::now);
                        // The oldest may be from before any line, and wait for ever.
                        if unplaced.len() >= MAX_UNPLACED {
                            unplaced.pop_front();
                        }
                        unplaced.push_back(packet);
                    }
                }
            }
        }
    }

    async fn take(&mut self, word: Word) -> Result<(), ClientError> {
        match word {
            Word::Anchor(anchor) => {
                let Placing::Lines { lines, .. } = &mut self.placing else { return Ok(()) };
                let first = !lines.is_known();
                if let Some(position) = lines.add(anchor).filter(|_| first) {
                    self.told.tell(News::Begin(position)).await;
                }
                self.place_again().await;
            }
            Word::Ack { ssrc, sequence } => {
                let ours = self.peer.ssrc().map(|ssrc| u64::from(*ssrc));
                if (ssrc.is_none() || ssrc == ours)
                    && let Some(number) = self.number_of(sequence)
                {
                    self.told.tell(News::Acked(Acked::Number(number))).await;
                }
            }
            Word::Order { url, ticket, deadline } => {
                self.ordered = true;
                let order = Order { url, ticket, deadline: instant_of(deadline) };
                self.told.tell(News::Order(order)).await;
            }
            Word::Complete { seq, position, replayed, gap_frames } => {
                self.told.tell(News::Complete { seq, position, replayed, gap_frames }).await;
            }
            Word::Source(language) => self.told.tell(News::Source(language)).await,
            Word::Paused => {
                if let Placing::Lines { lines, resumed, .. } = &mut self.placing {
                    lines.handle_pause();
                    *resumed = None;
                }
                self.told.tell(News::Paused).await;
            }
            Word::Resumed => {
                if let Placing::Lines { resumed, .. } = &mut self.placing {
                    *resumed = Some(Instant::now());
                }
                self.told.tell(News::Resumed(None)).await;
            }
            Word::Unavailable => self.without_lines().await?,
        }
        Ok(())
    }

    /// Looks whether a wait has been too long.
    async fn look(&mut self, now: Instant) -> Result<(), ClientError> {
        let Placing::Lines { lines, since, resumed, .. } = &mut self.placing else { return Ok(()) };
        if resumed.is_some_and(|at| now >= at + NEW_LINE) {
            *resumed = None;
            lines.go_on();
            self.place_again().await;
        } else if !lines.is_known() && since.is_some_and(|since| now >= since + PLACING) {
            self.without_lines().await?;
        }
        Ok(())
    }

    /// Places what waited for a line.
    async fn place_again(&mut self) {
        let Placing::Lines { unplaced, since, .. } = &mut self.placing else { return };
        *since = None;
        for packet in std::mem::take(unplaced) {
            self.hear(packet).await;
        }
    }

    /// Nobody will say where packets are.
    async fn without_lines(&mut self) -> Result<(), ClientError> {
        let Placing::Lines { lines, unplaced, .. } = &mut self.placing else { return Ok(()) };
        if lines.is_known() {
            return Ok(());
        }
        if !self.bare {
            return Err(lost());
        }
        let packets = std::mem::take(unplaced);
        self.placing = Placing::Bare;
        for packet in packets {
            self.hear(packet).await;
        }
        Ok(())
    }
}

fn heard(packet: &RtpPacket, place: Place, timestamp: u32) -> Box<Heard> {
    let payload = Bytes::copy_from_slice(&packet.payload);
    let (ssrc, arrived) = (Some(*packet.header.ssrc), packet.timestamp);
    Box::new(Heard { place, timestamp, ssrc, arrived, payload })
}

/// Below 2^15 (RFC 3711 §3.3.1 would else allow an early wrap before the far end has seen a packet).
fn first_sequence() -> u64 {
    u64::from(rand::random::<u16>() >> 1)
}
