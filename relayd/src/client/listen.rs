//! `listen`: receives a track, counts what comes, and writes it to a file if asked.
//!
//! The file has every frame once, in order, at its time: see [`ogg::Writer`](super::ogg::Writer). Audio need not have begun: a listener
//! may be there before the speaker. Connections are replaced as the relay asks and when they are lost; what two of them
//! bring is put together by position.

mod ear;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::ear::Ear;
use super::address::{self, Role};
use super::leg::Common;
use super::reception::ReceptionStats;
use super::recording::open_file;
use super::{ClientError, Stop, runtime};

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
    /// SSRC of the newest connection's stream, once audio has come; none on a WebSocket.
    pub ssrc: Option<u32>,
    /// When the first packet came.
    pub first_packet: Option<Instant>,
    /// What came.
    pub reception: ReceptionStats,
    /// Connections that were replaced.
    pub switches: Switches,
}

/// What replacing connections did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    /// Connections replaced because the relay asked for it.
    pub refreshes: u64,
    /// Connections replaced because they were lost, where the relay knew the listener still.
    pub resumes: u64,
    /// Connections to a relay that had forgotten the listener and its track, as after a restart: another stream followed,
    /// and what was lost between the two is not known.
    pub restarts: u64,
    /// Frames that the relay could not have for the newer connections, added up.
    pub gap_frames: u64,
    /// The same for the worst of them.
    pub most_gap_frames: u64,
    /// Frames that the relay sent again on newer connections.
    pub replayed: u64,
    /// Frames that came by a further connection, because the one there was had lost them for good.
    pub repaired: u64,
    /// Frames that were waited for and did not come.
    pub missing: u64,
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
    // Before the offer: a path that cannot be written should not reach the server. What is there is kept until it
    // has answered: a mistyped address must not cost an older recording.
    let file = options.out.as_deref().map(open_file).transpose()?;
    let common = Common::new(options.ca_file.as_deref(), options.media_proxy)?;
    runtime()?.block_on(async {
        let mut ear = Ear::new(options, uri, common, file);
        let result = tokio::select! {
            result = ear.run(&mut progress) => result,
            () = options.stop.stopped() => Ok(()),
        };
        let closed = ear.close().await;
        let finished = ear.finish();
        let report = ear.report();
        progress(&report);
        result?;
        finished?;
        closed?;
        if report.reception.packets == 0 { Err(ClientError::NoAudio) } else { Ok(report) }
    })
}
