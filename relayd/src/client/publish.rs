//! `publish`: sends a recorded stream to a relay as if somebody were speaking.
//!
//! One packet per frame of the file, unchanged, each at its time. Sequence numbers and timestamps go on over the loops of a
//! looped file. Every packet carries abs-capture-time if the server negotiated it. What the relay has not acknowledged
//! is kept, and goes out again on the next connection: see [`ring`](super::ring).

mod speaker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::speaker::Speaker;
use super::address::{self, Role};
use super::leg::Common;
use super::{ClientError, Stop, ogg, runtime};

/// How long a publisher that is stopped waits for the relay to have everything.
const STOPPING: Duration = Duration::from_secs(2);

/// What to publish and where.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// The WHIP address, or a WebSocket media address (`ws://`, `wss://`).
    pub url: String,
    /// Bearer token.
    pub token: Option<String>,
    /// The session's resume secret: takes the place of whoever speaks now.
    pub resume_secret: Option<String>,
    /// The audio, from [`read_file`](super::read_file); without a packet there is nothing to say.
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
    /// SSRC of the stream on the newest WebRTC connection.
    pub ssrc: u32,
    /// When the first packet was sent.
    pub first_packet: Option<Instant>,
    /// Packets sent, repetitions not counted.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Duration of the audio sent.
    pub audio: Duration,
    /// Times the file was begun.
    pub rounds: u64,
    /// What the server reports about it (RTCP), once it does.
    pub remote: Option<RemoteReport>,
    /// Packets that the relay has acknowledged; `None` where it does not say.
    pub acknowledged: Option<u64>,
    /// Packets sent again because they were asked for or not acknowledged.
    pub resent: u64,
    /// Packets that were given up, because the relay was away for longer than they are kept.
    pub dropped: u64,
    /// Connections replaced because the relay asked for it.
    pub refreshes: u64,
    /// Connections replaced because they were lost or silent.
    pub resumes: u64,
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
    if options.packets.is_empty() {
        return Err(ClientError::File(ogg::ReadError::NoAudio));
    }
    let common = Common::new(options.ca_file.as_deref(), options.media_proxy)?;
    runtime()?.block_on(async {
        let mut speaker = Speaker::new(options, uri, common);
        let stopped = tokio::select! {
            result = speaker.run(&mut progress) => Some(result),
            () = options.stop.stopped() => None,
        };
        let result = match stopped {
            Some(result) => result,
            // What was said is heard to its end, if the relay answers soon.
            None if speaker.fall_silent() => {
                tokio::time::timeout(STOPPING, speaker.run(&mut |_| {})).await.unwrap_or(Ok(()))
            }
            None => Ok(()),
        };
        let closed = speaker.close().await;
        result?;
        closed?;
        Ok(speaker.report())
    })
}
