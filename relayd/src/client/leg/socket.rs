//! A media WebSocket, `relay.media.v1`: frames with their positions, both ways.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::wire::{Said, Wire};
use super::{Acked, Attached, Command, Common, GOODBYE, Heard, Line, News, Place, Sent, Spec, Told};
use super::{instant_of, lost, refused};
use crate::client::ClientError;
use crate::client::legs::Order;
use crate::conversation::Hidden;
use crate::media::message::{Empty, ListenerAck};
use crate::media::{ClientMessage, MediaFrame, MediaHello, MediaWelcome, SUBPROTOCOL, ServerMessage};
use crate::session::WarningReason;
use relay_engine::rtp::NtpTime;
use relay_engine::{CaptureTime, MediaTime};

/// For the welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a listener says what it has.
const ACK_EVERY: Duration = Duration::from_millis(200);
/// How often we say that we are there, and are answered.
const LONGEST_BEAT: Duration = Duration::from_secs(2);
const SHORTEST_BEAT: Duration = Duration::from_millis(100);
/// How long a connection may take nothing.
const LONGEST_WRITE: Duration = Duration::from_secs(8);
/// Answers that may be missing before the relay counts as gone.
const MISSED_BEATS: u32 = 4;

/// Runs the connection to its end.
pub(super) async fn run(
    common: &Common,
    spec: Spec,
    told: &Told,
    mut commands: mpsc::Receiver<Command>,
) -> Result<(), ClientError> {
    let mut wire = Wire::connect(&common.tls, &spec.uri, SUBPROTOCOL).await?;
    let secret = |text: &Option<String>| text.clone().map(Hidden);
    let ticket = secret(&spec.credentials.ticket);
    let hello = MediaHello {
        token: secret(&spec.credentials.token),
        resume_secret: secret(&spec.credentials.resume).filter(|_| ticket.is_none()),
        ticket,
        from: spec.from,
    };
    if !wire.text(ClientMessage::Hello(hello).write()).await {
        return Err(lost());
    }
    let welcome = timeout(WELCOME_TIMEOUT, welcome(&mut wire)).await.map_err(|_| lost())??;
    let beat = Duration::from_millis(welcome.heartbeat_ms / 4).clamp(SHORTEST_BEAT, LONGEST_BEAT);
    let now = Instant::now();
    let mut leg = Leg { wire, told, heard: now, beat_at: now + beat, ack_at: now, beat };
    let MediaWelcome { position, next, media_time, ticket, .. } = welcome;
    let line = Some(Line { missing: position, next, media_time });
    told.tell(News::Up(Attached { ticket: Some(ticket), ssrc: 0, line })).await;
    leg.serve(&mut commands).await?;
    // Whoever does not answer a goodbye is hung up on.
    let _late = timeout(GOODBYE, leg.wire.close()).await.is_err();
    Ok(())
}

/// Waits for the welcome.
async fn welcome(wire: &mut Wire) -> Result<MediaWelcome, ClientError> {
    let mut problem = None;
    loop {
        match wire.next().await {
            Said::Text(text) => match ServerMessage::read(&text) {
                Ok(ServerMessage::Welcome(welcome)) => return Ok(welcome),
                Ok(ServerMessage::Error { code, detail }) => problem = Some((code, detail)),
                _ => {}
            },
            Said::Frame(_) => {}
            Said::Closed(code, reason) => {
                let (name, detail) = problem.unwrap_or((String::new(), reason));
                return Err(match code {
                    4004 if matches!(&name[..], "FORBIDDEN" | "TICKET_INVALID") => {
                        refused(403, &name, detail)
                    }
                    4004 => refused(401, &name, detail),
                    4006 if name.ends_with("NOT_FOUND") => refused(404, &name, detail),
                    4006 => refused(410, &name, detail),
                    4008 => refused(429, &name, detail),
                    _ if !name.is_empty() => refused(409, &name, detail),
                    _ => lost(),
                });
            }
        }
    }
}

struct Leg<'a> {
    wire: Wire,
    told: &'a Told,
    heard: Instant,
    beat: Duration,
    beat_at: Instant,
    ack_at: Instant,
}

impl Leg<'_> {
    /// Serves the connection until it is told to end, or is gone.
    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), ClientError> {
        let mut delivered = None;
        loop {
            let now = Instant::now();
            if now >= self.heard + self.beat * MISSED_BEATS {
                return Err(lost());
            }
            if now >= self.beat_at {
                self.beat_at = now + self.beat;
                self.say(ClientMessage::Heartbeat(Empty {})).await?;
            }
            if now >= self.ack_at
                && let Some(position) = delivered.take()
            {
                self.ack_at = now + ACK_EVERY;
                self.say(ClientMessage::Ack(ListenerAck { position })).await?;
            }
            let wake = if delivered.is_some() { self.ack_at.min(self.beat_at) } else { self.beat_at };
            tokio::select! {
                said = self.wire.next() => match said {
                    Said::Text(text) => self.take(&text).await?,
                    Said::Frame(frame) => self.hear(&frame).await,
                    Said::Closed(code, reason) => return Err(closed(code, reason)),
                },
                command = commands.recv() => match command {
                    Some(Command::Send(sent)) => self.send(*sent).await?,
                    Some(Command::Delivered(position)) => delivered = Some(position),
                    Some(Command::Continue) => self.say(ClientMessage::Continue(Empty {})).await?,
                    Some(Command::Close) | None => return Ok(()),
                },
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    async fn say(&mut self, message: ClientMessage) -> Result<(), ClientError> {
        in_time(self.wire.text(message.write())).await
    }

    async fn send(&mut self, sent: Sent) -> Result<(), ClientError> {
        let Some((position, ticks)) = sent.line else { return Ok(()) };
        let frame = MediaFrame {
            position,
            media_time: MediaTime::from_ticks(ticks),
            marker: sent.stamp.marker,
            capture_time: ntp(sent.stamp.captured).map(|time| CaptureTime { time, offset: None }),
            audio_level: None,
            replay: false,
            payload: sent.payload,
        };
        in_time(self.wire.frame(frame.write())).await
    }

    async fn hear(&mut self, message: &bytes::Bytes) {
        self.heard = Instant::now();
        // What a peer sends is not our failure: it cannot be played.
        let Ok(frame) = MediaFrame::read(message) else { return };
        let heard = Heard {
            place: Place::Position(frame.position),
            timestamp: frame.media_time.ticks() as u32,
            ssrc: None,
            arrived: self.heard,
            payload: frame.payload,
        };
        self.told.tell(News::Heard(Box::new(heard))).await;
    }

    async fn take(&mut self, text: &str) -> Result<(), ClientError> {
        self.heard = Instant::now();
        let Ok(message) = ServerMessage::read(text) else { return Ok(()) };
        let news = match message {
            ServerMessage::Ack { recv, safe } => News::Acked(Acked::Below { recv, safe }),
            ServerMessage::Paused {} => News::Paused,
            ServerMessage::Resumed { position, media_time } => {
                News::Resumed(Some(Line { missing: position, next: position, media_time }))
            }
            ServerMessage::RefreshRequired { url, ticket, deadline, reason } => {
                let _cause: WarningReason = reason;
                News::Order(Order { url, ticket, deadline: instant_of(deadline) })
            }
            ServerMessage::RefreshComplete { seq, position, replayed, gap_frames, .. } => {
                News::Complete { seq, position, replayed, gap_frames }
            }
            ServerMessage::Bye { reason } => return Err(ClientError::Bye(reason)),
            _ => return Ok(()),
        };
        self.told.tell(news).await;
        Ok(())
    }
}

/// Waits until something is written; a connection that takes nothing for long is gone.
async fn in_time(writing: impl Future<Output = bool>) -> Result<(), ClientError> {
    if timeout(LONGEST_WRITE, writing).await == Ok(true) { Ok(()) } else { Err(lost()) }
}

fn closed(code: u16, reason: String) -> ClientError {
    match code {
        4004 => refused(401, "", reason),
        4006 => refused(410, "", reason),
        _ => lost(),
    }
}

/// Seconds since 1900 in 32.32 (RFC 5905 §6).
fn ntp(time: std::time::SystemTime) -> Option<NtpTime> {
    let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
    let seconds = since.as_secs().checked_add(2_208_988_800)?;
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    Some(NtpTime(seconds << 32 | fraction))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_epoch_of_unix_is_seventy_years_after_that_of_ntp() {
        assert_eq!(ntp(SystemTime::UNIX_EPOCH), Some(NtpTime(2_208_988_800 << 32)));
        let half = ntp(SystemTime::UNIX_EPOCH + Duration::from_millis(500)).unwrap();
        assert_eq!(half.0 & 0xffff_ffff, 1 << 31);
    }
}
