//! `listen`: receives a track from a WHEP endpoint, counts what comes, and writes it to a file if asked.
//!
//! The file has every packet that came, in order, at its time: see [`ogg::Writer`]. Audio need not have begun: a listener
//! may be there before the speaker.

use std::fs::File;
use std::io::BufWriter;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::rtp::RtpPacket;

use super::address::{self, Role};
use super::http::{Credentials, Endpoint};
use super::peer::{Peer, PeerEvent};
use super::reception::{Reception, ReceptionStats};
use super::reorder::Reorder;
use super::{ClientError, PROGRESS_INTERVAL, Stop, far_future, ogg, runtime};

/// What to listen to and for how long.
#[derive(Debug, Clone, Default)]
pub struct ListenOptions {
    /// The WHEP address, or a WebSocket media address (`ws://`, `wss://`).
    pub url: String,
    /// Bearer token.
    pub token: Option<String>,
    /// The Ogg Opus file to write.
    pub out: Option<PathBuf>,
    /// Ends after this time, counted from the connection; without it when stopped.
    pub time: Option<Duration>,
    /// Ends it early.
    pub stop: Stop,
    /// PEM file of certificate authorities to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Send media datagrams here instead of to the relay, for a path emulator that passes them on.
    pub media_proxy: Option<SocketAddr>,
}

/// How far listening is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenReport {
    /// The media connection is up.
    pub connected: bool,
    /// Time since it came up.
    pub elapsed: Duration,
    /// SSRC of the stream, once audio has come.
    pub ssrc: Option<u32>,
    /// When the first packet came.
    pub first_packet: Option<Instant>,
    /// What came.
    pub reception: ReceptionStats,
}

/// Listens until the time is over or it is stopped. Blocks; `progress` is called when connected, each second after, and at
/// the end, however it ends.
///
/// # Errors
///
/// [`ClientError`]; the file holds what was heard until then. [`ClientError::NoAudio`] if that is nothing.
pub fn listen(
    options: &ListenOptions,
    mut progress: impl FnMut(&ListenReport),
) -> Result<ListenReport, ClientError> {
    let uri = address::parse(&options.url, Role::Listener)?;
    let socket = address::bind_towards(&uri)?;
    // Before the offer: a path that cannot be written should not reach the server. What is there is kept until it
    // has answered: a mistyped address must not cost an older recording.
    let file = options.out.as_ref().map(open_file).transpose()?;
    let endpoint = Endpoint::new(uri, Credentials { token: options.token.clone(), resume: None });
    let runtime = runtime()?;
    let _context = runtime.enter();
    let (mut peer, offer) = Peer::offer(socket, Role::Listener)?;
    let resource = endpoint.offer(&offer)?;
    let mut ear = Ear::new(options.time);
    let result = peer.answer(resource.answer()).map_err(ClientError::from).and_then(|()| {
        ear.recording = file.map(Recording::begin).transpose()?;
        runtime.block_on(async {
            tokio::select! {
                result = ear.run(&mut peer, &mut progress) => result,
                () = options.stop.stopped() => Ok(()),
            }
        })
    });
    peer.close();
    let closed = resource.delete();
    let finished = ear.recording.take().map_or(Ok(()), Recording::finish);
    ear.update();
    progress(&ear.report);
    result?;
    finished?;
    closed?;
    if ear.report.reception.packets == 0 { Err(ClientError::NoAudio) } else { Ok(ear.report) }
}

struct Ear {
    time: Option<Duration>,
    connected_at: Option<Instant>,
    report: ListenReport,
    reception: Reception,
    recording: Option<Recording>,
}

impl Ear {
    fn new(time: Option<Duration>) -> Self {
        Self {
            time,
            connected_at: None,
            report: ListenReport::default(),
            reception: Reception::default(),
            recording: None,
        }
    }

    async fn run(
        &mut self,
        peer: &mut Peer,
        progress: &mut impl FnMut(&ListenReport),
    ) -> Result<(), ClientError> {
        // Packets may come before both ends agree that they are connected.
        while !self.report.connected {
            match peer.next(far_future()).await? {
                Some(PeerEvent::Connected) => self.report.connected = true,
                Some(PeerEvent::Packet(packet)) => self.take(&packet)?,
                _ => {}
            }
        }
        let start = Instant::now();
        self.connected_at = Some(start);
        let end = self.time.map_or_else(far_future, |time| start + time);
        let mut tell_at = start;
        loop {
            let now = Instant::now();
            if now >= tell_at || now >= end {
                self.update();
                progress(&self.report);
                tell_at += PROGRESS_INTERVAL;
                // A speaker who stops leaves a page half full: it goes to the file now.
                if let Some(recording) = &mut self.recording {
                    recording.flush()?;
                }
            }
            if now >= end {
                return Ok(());
            }
            if let Some(PeerEvent::Packet(packet)) = peer.next(tell_at.min(end)).await? {
                self.take(&packet)?;
            }
        }
    }

    fn take(&mut self, packet: &RtpPacket) -> Result<(), ClientError> {
        let ssrc = *packet.header.ssrc;
        let (sequence, timestamp) = (*packet.seq_no, packet.header.timestamp);
        if !self.reception.count(packet.timestamp, ssrc, sequence, timestamp, packet.payload.len()) {
            return Ok(());
        }
        self.report.first_packet.get_or_insert_with(Instant::now);
        let changed = self.report.ssrc.is_some_and(|before| before != ssrc);
        self.report.ssrc = Some(ssrc);
        match &mut self.recording {
            Some(recording) if changed => recording.restart().and_then(|()| recording.take(packet)),
            Some(recording) => recording.take(packet),
            None => Ok(()),
        }
    }

    fn update(&mut self) {
        self.report.elapsed = self.connected_at.map_or(Duration::ZERO, |at| at.elapsed());
        self.report.reception = self.reception.stats();
    }
}

/// Opens the file to record to, and leaves it as it is.
fn open_file(path: &PathBuf) -> Result<File, ClientError> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    Ok(file.map_err(ogg::WriteError::from)?)
}

/// The file that is being written.
struct Recording {
    writer: ogg::Writer<BufWriter<File>>,
    reorder: Reorder<(u32, Bytes)>,
    /// Added to the stream's timestamps, so that a new stream goes on where the last one ended.
    shift: Option<u32>,
    end: u32,
    /// Something was written since the last flush.
    dirty: bool,
}

impl Recording {
    fn begin(file: File) -> Result<Self, ClientError> {
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            file.set_len(0).map_err(ogg::WriteError::from)?;
        }
        // Stereo, because Opus decodes mono packets into it, and packets of both kinds may come (RFC 7587 §4.4).
        let writer = ogg::Writer::new(BufWriter::new(file), rand::random(), ogg::Head::new(2))?;
        Ok(Self { writer, reorder: Reorder::new(), shift: None, end: 0, dirty: false })
    }

    fn take(&mut self, packet: &RtpPacket) -> Result<(), ClientError> {
        self.reorder.push(*packet.seq_no, (packet.header.timestamp, Bytes::copy_from_slice(&packet.payload)));
        while let Some((timestamp, payload)) = self.reorder.pop() {
            self.write(timestamp, &payload)?;
        }
        Ok(())
    }

    fn write(&mut self, timestamp: u32, payload: &Bytes) -> Result<(), ClientError> {
        let shift = *self.shift.get_or_insert_with(|| self.end.wrapping_sub(timestamp));
        let timestamp = timestamp.wrapping_add(shift);
        match self.writer.write(payload, timestamp) {
            Ok(()) => self.dirty = true,
            // What a peer sends is not our failure: it was counted, and it cannot be played.
            Err(ogg::WriteError::BadPacket | ogg::WriteError::Late) => {}
            Err(error) => return Err(error.into()),
        }
        self.end = self.writer.samples() as u32;
        Ok(())
    }

    /// Another stream follows.
    fn restart(&mut self) -> Result<(), ClientError> {
        self.drain()?;
        self.reorder.restart();
        self.shift = None;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ClientError> {
        if !std::mem::take(&mut self.dirty) {
            self.writer.flush()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ClientError> {
        while let Some((timestamp, payload)) = self.reorder.pop_any() {
            self.write(timestamp, &payload)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), ClientError> {
        self.drain()?;
        self.writer.finish()?;
        Ok(())
    }
}
