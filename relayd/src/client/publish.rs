//! `publish`: sends a recorded stream to a WHIP endpoint as if somebody were speaking.
//!
//! One packet per frame of the file, unchanged, each at its time. Sequence numbers and timestamps go on over the loops of a
//! looped file. Every packet carries abs-capture-time if the server negotiated it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use str0m::stats::MediaEgressStats;

use super::address::{self, Role};
use super::http::{Credentials, Endpoint};
use super::pace::{Pacer, duration};
use super::peer::{Outgoing, Peer, PeerEvent};
use super::{ClientError, PROGRESS_INTERVAL, Stop, far_future, ogg, runtime};

/// Between the last packet and goodbye, so that the goodbye does not overtake it.
const LINGER: Duration = Duration::from_millis(100);

/// What to publish and where.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// The WHIP address, or a WebSocket media address (`ws://`, `wss://`).
    pub url: String,
    /// Bearer token.
    pub token: Option<String>,
    /// The session's resume secret: takes the place of whoever speaks now.
    pub resume_secret: Option<String>,
    /// The audio, from [`read_file`](super::read_file); at least one packet.
    pub packets: Arc<[ogg::Packet]>,
    /// Begin again at the end, until stopped.
    pub looped: bool,
    /// Ends it early.
    pub stop: Stop,
    /// PEM file of certificate authorities to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Send media datagrams here instead of to the relay, for a path emulator that passes them on.
    pub media_proxy: Option<SocketAddr>,
}

/// How far publishing is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PublishReport {
    /// The media connection is up.
    pub connected: bool,
    /// SSRC of the stream.
    pub ssrc: u32,
    /// When the first packet was sent.
    pub first_packet: Option<Instant>,
    /// Packets sent.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Duration of the audio sent.
    pub audio: Duration,
    /// Times the file was begun.
    pub rounds: u64,
    /// What the server reports about it (RTCP), once it does.
    pub remote: Option<RemoteReport>,
}

/// The server's view of our stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RemoteReport {
    /// Share of packets lost since the last report, 0 to 1.
    pub loss: f32,
    /// Packets lost in all.
    pub lost: u64,
    /// Interarrival jitter.
    pub jitter: Duration,
    /// Round-trip time.
    pub round_trip: Option<Duration>,
}

/// Publishes until the file ends or it is stopped. Blocks; `progress` is called when connected and each second after.
///
/// # Errors
///
/// [`ClientError`], after which nothing of it is left on the server that can be removed.
pub fn publish(
    options: &PublishOptions,
    mut progress: impl FnMut(&PublishReport),
) -> Result<PublishReport, ClientError> {
    let uri = address::parse(&options.url, Role::Publisher)?;
    let socket = address::bind_towards(&uri)?;
    let credentials = Credentials { token: options.token.clone(), resume: options.resume_secret.clone() };
    let endpoint = Endpoint::new(uri, credentials);
    let runtime = runtime()?;
    let _context = runtime.enter();
    let (mut peer, offer) = Peer::offer(socket, Role::Publisher)?;
    let resource = endpoint.offer(&offer)?;
    let mut speaker = Speaker { options, report: PublishReport::default(), first_sequence: first_sequence() };
    let result = peer.answer(resource.answer()).map_err(ClientError::from).and_then(|()| {
        runtime.block_on(async {
            tokio::select! {
                result = speaker.run(&mut peer, &mut progress) => result,
                () = options.stop.stopped() => Ok(()),
            }
        })
    });
    peer.close();
    // A connection that the server has closed is gone with it: only a good end can go wrong here.
    let closed = resource.delete();
    result?;
    closed?;
    Ok(speaker.report)
}

struct Speaker<'a> {
    options: &'a PublishOptions,
    report: PublishReport,
    first_sequence: u64,
}

impl Speaker<'_> {
    async fn run(
        &mut self,
        peer: &mut Peer,
        progress: &mut impl FnMut(&PublishReport),
    ) -> Result<(), ClientError> {
        while !matches!(peer.next(far_future()).await?, Some(PeerEvent::Connected)) {}
        self.report.connected = true;
        self.report.ssrc = peer.ssrc().map(|ssrc| *ssrc).unwrap_or_default();
        progress(&self.report);

        let mut pacer = Pacer::new(Instant::now(), SystemTime::now(), rand::random());
        let mut tell_at = Instant::now() + PROGRESS_INTERVAL;
        let packets = self.options.packets.clone();
        loop {
            self.report.rounds += 1;
            for packet in packets.iter() {
                self.wait(peer, pacer.due(), &mut tell_at, progress).await?;
                self.send(peer, &mut pacer, packet)?;
            }
            if !self.options.looped {
                break;
            }
        }
        self.wait(peer, pacer.due() + LINGER, &mut tell_at, progress).await
    }

    fn send(&mut self, peer: &mut Peer, pacer: &mut Pacer, packet: &ogg::Packet) -> Result<(), ClientError> {
        let stamp = pacer.take(Instant::now(), packet.samples);
        self.report.first_packet.get_or_insert_with(Instant::now);
        let sequence = self.first_sequence + self.report.packets;
        peer.send(Outgoing { sequence, stamp, payload: packet.data.clone() })?;
        self.report.packets += 1;
        self.report.bytes += packet.data.len() as u64;
        self.report.audio += duration(packet.samples.into());
        Ok(())
    }

    /// Serves the connection until `until`.
    async fn wait(
        &mut self,
        peer: &mut Peer,
        until: Instant,
        tell_at: &mut Instant,
        progress: &mut impl FnMut(&PublishReport),
    ) -> Result<(), ClientError> {
        while let Some(event) = peer.next(until).await? {
            if let PeerEvent::Report(stats) = event {
                self.report.remote = remote_report(&stats).or(self.report.remote);
            }
        }
        let now = Instant::now();
        if now >= *tell_at {
            progress(&self.report);
            *tell_at = now + PROGRESS_INTERVAL;
        }
        Ok(())
    }
}

fn remote_report(stats: &MediaEgressStats) -> Option<RemoteReport> {
    let remote = stats.remote.as_ref()?;
    Some(RemoteReport {
        loss: stats.loss.unwrap_or_default(),
        lost: remote.packets_lost,
        jitter: duration(remote.jitter.into()),
        round_trip: stats.rtt,
    })
}

/// Below 2^15 (RFC 3711 §3.3.1 would else allow an early wrap before the far end has seen a packet).
fn first_sequence() -> u64 {
    u64::from(rand::random::<u16>() >> 1)
}
