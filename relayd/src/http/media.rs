//! Media over a WebSocket: the socket around [`media::Protocol`](Protocol).
//!
//! Anybody may open one; the first message says who is there. The seat, the record and the place among the
//! connections live as long as the socket, in [`Talk`]: however it ends, dropping that gives back everything.
//!
//! Nothing is lost between the socket and the media plane: a publisher is read no faster than its frames are taken,
//! and a listener's frames wait in the history for as long as its socket takes none.

mod join;
mod pace;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use relay_engine::{CarriedFrame, Feedback, LegStats, MediaTime};
use utoipa_axum::routes;

use super::events::{ABNORMAL, Broken, DRAIN_GOODBYE, NO_CODE, NotRenewed, broken, nobody, renewed, until};
use super::peer::Peer;
use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::server::Upgraded;
use super::wire::{Turn, Wire};
use super::{Api, Segments};
use crate::auth::{Caller, Grant};
use crate::events::frame::Hidden;
use crate::events::{Close, CloseCode, Tally, Timing};
use crate::media::{
    MediaFrame, MediaHello, MediaRole, Output, Protocol, Refusal, SUBPROTOCOL, ServerMessage,
};
use crate::records::{Kind, RecordGuard};
use crate::session::{Event, Lease, LossScope, Next, Status, Subscription};
use crate::shard::{RingFrame, RingReceiver};
use crate::webrtc::CloseReason;
pub(super) use join::first_missing;
use join::{Seated, Target, join};
use pace::Pace;

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    let refusals = &[Code::UpgradeRequired, Code::Draining];
    Routes::new()
        .add(Policy::Events, routes!(publish))
        .refuses(refusals)
        .add(Policy::Events, routes!(listen))
        .refuses(refusals)
}

/// Speak over a WebSocket
///
/// For networks without UDP: a WebSocket with the subprotocol `relay.media.v1`, described by `/v1/asyncapi.json`. Anybody
/// may open it; its first message says who is there.
#[utoipa::path(
    get,
    path = "/v1/sessions/{session}/publish/{language}",
    tag = "media",
    operation_id = "publishSocket",
    responses((status = 101, description = "The WebSocket is open."))
)]
async fn publish(
    State(api): State<Arc<Api>>,
    Segments(place): Segments<(String, String)>,
    Extension(peer): Extension<Peer>,
    upgraded: Option<Extension<Upgraded>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    open(api, MediaRole::Publisher, place, peer, upgraded, upgrade)
}

/// Listen over a WebSocket
///
/// For networks without UDP: a WebSocket with the subprotocol `relay.media.v1`, described by `/v1/asyncapi.json`. Anybody
/// may open it; its first message says who is there.
#[utoipa::path(
    get,
    path = "/v1/sessions/{session}/listen/{language}",
    tag = "media",
    operation_id = "listenSocket",
    responses((status = 101, description = "The WebSocket is open."))
)]
async fn listen(
    State(api): State<Arc<Api>>,
    Segments(place): Segments<(String, String)>,
    Extension(peer): Extension<Peer>,
    upgraded: Option<Extension<Upgraded>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    open(api, MediaRole::Listener, place, peer, upgraded, upgrade)
}

fn open(
    api: Arc<Api>,
    role: MediaRole,
    (session, language): (String, String),
    Peer(peer): Peer,
    upgraded: Option<Extension<Upgraded>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    api.check_open()?;
    let upgrade = upgrade.map_err(|rejection| Problem::new(Code::UpgradeRequired, rejection.body_text()))?;
    let kind = match role {
        MediaRole::Publisher => Kind::Publisher,
        MediaRole::Listener => Kind::Listener,
    };
    let record = api.metrics.records().open(kind, peer, None, String::new());
    let offered = upgrade.requested_protocols().next().is_some();
    let settings = &api.followers.settings;
    let message = settings.max_message.bytes();
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(message)
        .max_frame_size(message)
        .write_buffer_size(0)
        .max_write_buffer_size(settings.write_buffer.bytes());
    let spoken = upgrade.selected_protocol().is_some();
    let target = Target { role, session, language, peer };
    Ok(upgrade.on_upgrade(async move |socket: WebSocket| {
        let _held = upgraded;
        let limit = api.followers.settings.write_buffer.bytes();
        let wire = Wire::new(socket, limit, Tally::default().open());
        let mut talk = Talk::new(api, target, record, wire);
        if offered && !spoken {
            talk.protocol.handle_version();
        }
        talk.run().await;
    }))
}

/// One socket's conversation, and everything that it holds.
struct Talk {
    api: Arc<Api>,
    target: Target,
    record: RecordGuard,
    wire: Wire<WebSocket>,
    protocol: Protocol,
    joining: Option<Asking<Result<Seated, Refusal>>>,
    renewing: Option<Asking<Result<Arc<Grant>, NotRenewed>>>,
    asking: Option<Asking<Option<Progress>>>,
    seated: Option<Box<Seated>>,
    lease: Option<Lease>,
    /// How fast frames are read.
    pace: Pace,
    /// A frame that the media plane has not taken yet.
    waiting: Option<CarriedFrame>,
}

type Asking<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How far a track is.
struct Progress {
    missing: u64,
    next: u64,
    media_time: u64,
    /// Asked at the end of a break.
    resumed: bool,
}

/// What a socket waits for.
enum Happening {
    Drained,
    Time,
    Retry,
    Joined(Box<Result<Seated, Refusal>>),
    Renewed(Result<Arc<Grant>, NotRenewed>),
    Progress(Option<Progress>),
    News(Next),
    Closed(CloseReason),
    Wire(Turn<axum::Error>),
    Frame(Option<RingFrame>),
}

impl Talk {
    fn new(api: Arc<Api>, target: Target, record: RecordGuard, wire: Wire<WebSocket>) -> Self {
        let timing = Timing::from(&api.followers.settings);
        let protocol = Protocol::new(Instant::now(), target.role, timing);
        Self {
            api,
            target,
            record,
            wire,
            protocol,
            joining: None,
            renewing: None,
            asking: None,
            seated: None,
            lease: None,
            pace: Pace::default(),
            waiting: None,
        }
    }

    async fn run(mut self) {
        loop {
            while let Some(output) = self.protocol.poll_output() {
                match output {
                    Output::Send(text) => {
                        if !self.wire.push(text) {
                            self.protocol.handle_slow();
                        }
                    }
                    Output::SendFrame(bytes) => self.wire.push_frame(bytes),
                    Output::Join(hello) => self.join(hello),
                    Output::Take(frame) => self.waiting = Some(carried(frame)),
                    Output::Delivered(position) => self.delivered(position),
                    Output::Ask => self.ask(false),
                    Output::Renew(token) => self.renew(token),
                    Output::Close(close) => return self.close(close).await,
                }
            }
            self.hand_in();
            let happening = self.next().await;
            if !self.handle(happening) {
                // The client has closed: its place is free before the answer to that has gone.
                let limit = self.api.followers.settings.close_timeout;
                self.gone().await;
                let _answered = tokio::time::timeout(limit, self.wire.linger()).await.is_ok();
                return;
            }
        }
    }

    /// Waits for one thing. What is owed for long comes before what others may send without end.
    async fn next(&mut self) -> Happening {
        let at = self.protocol.poll_timeout();
        let (reads, roomy) = (self.waiting.is_none(), self.wire.has_room());
        let over = self.seated.as_ref().map(|seated| seated.seat.closed());
        let (news, frames) = match self.seated.as_deref_mut() {
            Some(Seated { news, frames, .. }) => (Some(news), frames.as_mut()),
            None => (None, None),
        };
        tokio::select! {
            biased;
            () = self.api.followers.drained() => Happening::Drained,
            () = until(at) => Happening::Time,
            joined = answer(&mut self.joining) => Happening::Joined(Box::new(joined)),
            renewed = answer(&mut self.renewing) => Happening::Renewed(renewed),
            progress = answer(&mut self.asking) => Happening::Progress(progress),
            // The end of a refresh is told before the close that it brings.
            next = told(news) => Happening::News(next),
            reason = closed(over) => Happening::Closed(reason),
            () = expired(self.lease.as_ref()) => Happening::Closed(CloseReason::TokenExpired),
            turn = self.wire.turn(reads) => Happening::Wire(turn),
            () = tokio::time::sleep(RETRY), if !reads => Happening::Retry,
            frame = received(frames), if roomy => Happening::Frame(frame),
        }
    }

    /// Takes it in; `false` when the client is gone.
    fn handle(&mut self, happening: Happening) -> bool {
        let now = Instant::now();
        match happening {
            Happening::Drained => self.protocol.handle_drain(&self.api.followers.settings.drain_url),
            Happening::Time => self.protocol.handle_timeout(now),
            Happening::Joined(joined) => self.handle_joined(now, *joined),
            Happening::Renewed(renewed) => self.handle_renewed(now, renewed),
            Happening::Progress(progress) => self.handle_progress(now, progress),
            Happening::News(next) => self.handle_news(next),
            Happening::Closed(reason) => {
                // What was on its way is still owed.
                let frames = self.seated.as_deref_mut().and_then(|seated| seated.frames.as_mut());
                let left: Vec<RingFrame> =
                    frames.map_or_else(Vec::new, |frames| std::iter::from_fn(|| frames.try_recv()).collect());
                left.into_iter().for_each(|frame| self.protocol.handle_frame(&media(frame)));
                self.protocol.handle_ended(reason);
            }
            Happening::Wire(Turn::Read(read)) => return self.handle_read(now, read),
            Happening::Frame(Some(frame)) => self.protocol.handle_frame(&media(frame)),
            // The leg is closed; what closed it says why.
            Happening::Frame(None) => self.forget_frames(),
            Happening::Wire(Turn::Room) | Happening::Retry => {}
        }
        true
    }

    fn handle_read(&mut self, now: Instant, read: Option<Result<Message, axum::Error>>) -> bool {
        if let (Some(Ok(Message::Text(_) | Message::Binary(_))), Some(seated)) = (&read, &mut self.seated) {
            seated.seat.heard();
        }
        match read {
            Some(Ok(Message::Text(text))) => self.protocol.handle_text(now, &text),
            Some(Ok(Message::Binary(bytes))) => self.protocol.handle_binary(now, &bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => self.protocol.handle_control(now),
            Some(Ok(Message::Close(frame))) => {
                self.api.metrics.websocket_closed(frame.map_or(NO_CODE, |frame| frame.code));
                return false;
            }
            None => return false,
            Some(Err(error)) => match broken(error) {
                Broken::TooLong => self.protocol.handle_too_long(),
                Broken::Unreadable => self.protocol.handle_unreadable(),
                Broken::Gone => {
                    self.api.metrics.websocket_closed(ABNORMAL);
                    return false;
                }
            },
        }
        true
    }

    fn handle_joined(&mut self, now: Instant, joined: Result<Seated, Refusal>) {
        self.joining = None;
        match joined {
            Ok(seated) => {
                self.record.identify(Some(seated.seat.session.clone()), seated.caller.to_string());
                self.protocol.handle_joined(now, seated.welcome.clone(), seated.named);
                if seated.paused {
                    self.protocol.handle_paused();
                }
                self.seated = Some(Box::new(seated));
            }
            Err(refusal) => {
                tracing::debug!(peer = %self.target.peer, session = self.target.session, ?refusal, "hello refused");
                self.protocol.handle_refused(refusal);
            }
        }
    }

    fn handle_news(&mut self, next: Next) {
        let Some(seated) = &self.seated else { return };
        let event = match next {
            Next::Event(event) => event,
            Next::Lost => return self.catch_up(),
            Next::Over => return self.protocol.handle_ended(CloseReason::SessionEnded),
        };
        let access = self.api.service.directory().access(&self.target.session);
        let visible = access
            .is_some_and(|access| event.audience.includes(&seated.caller, &access, Some(&seated.holder)));
        match event.event.clone() {
            _ if !visible => {}
            Event::SessionPaused {} => {
                // An end of the break before this one is not told any more.
                self.asking = None;
                self.protocol.handle_paused();
            }
            Event::SessionResumed {} if self.target.role == MediaRole::Publisher => self.ask(true),
            Event::ConnectionRefreshRequired { url, ticket, deadline, reason } => {
                let message = ServerMessage::RefreshRequired { url, ticket, deadline, reason };
                self.protocol.handle_news(&message);
            }
            Event::ConnectionRefreshComplete { position, replayed, gap_frames, attempts } => {
                let message = ServerMessage::RefreshComplete { position, replayed, gap_frames, attempts };
                self.protocol.handle_news(&message);
            }
            // A listener is told by what it does not get.
            Event::FramesLost { language, count, from, to, scope: LossScope::Track }
                if self.target.role == MediaRole::Publisher && language == seated.welcome.language =>
            {
                self.protocol.handle_news(&ServerMessage::FramesLost { count, from, to });
            }
            _ => {}
        }
    }

    /// Events were missed: what there is now stands for them.
    fn catch_up(&mut self) {
        match self.api.service.directory().view(&self.target.session) {
            Ok(view) if view.status == Status::Paused => self.protocol.handle_paused(),
            Ok(_) => self.ask(true),
            Err(_) => self.protocol.handle_ended(CloseReason::SessionEnded),
        }
    }

    fn handle_progress(&mut self, now: Instant, progress: Option<Progress>) {
        self.asking = None;
        // Of a track that is gone nothing more is said: whoever closed it closes this.
        if let Some(Progress { missing, next, media_time, resumed }) = progress {
            if resumed {
                self.protocol.handle_resumed(next, media_time);
            }
            self.protocol.handle_progress(now, missing);
        }
    }

    fn handle_renewed(&mut self, now: Instant, renewed: Result<Arc<Grant>, NotRenewed>) {
        self.renewing = None;
        let directory = self.api.service.directory();
        let session = &self.target.session;
        let renewed = renewed.and_then(|grant| {
            let seated = self.seated.as_deref_mut().ok_or_else(nobody)?;
            let caller = Caller::Token(grant.clone());
            // The older share goes only when the newer one is there.
            self.lease = directory
                .lease(now, session, &caller)
                .map_err(|error| ("SESSION_ENDED", error.to_string()))?;
            seated.caller = caller;
            Ok(directory.unix_ms(grant.expires))
        });
        self.protocol.handle_renewed(renewed);
    }

    fn join(&mut self, hello: MediaHello) {
        let (api, target) = (self.api.clone(), self.target.clone());
        self.joining = Some(Box::pin(async move { join(&api, &target, hello).await }));
    }

    fn renew(&mut self, token: Hidden) {
        let (api, peer, session) = (self.api.clone(), self.target.peer, self.target.session.clone());
        let caller = self.seated.as_ref().map(|seated| seated.caller.clone());
        self.renewing = Some(Box::pin(async move {
            let access = api.service.directory().access(&session).ok_or_else(nobody)?;
            renewed(&api, peer, &caller.ok_or_else(nobody)?, &access, &token).await
        }));
    }

    /// Finds out how far the track is; at the end of a break, once frames are let through again.
    fn ask(&mut self, resumed: bool) {
        let Some(seated) = &self.seated else { return };
        let (service, track, leg) = (self.api.service.clone(), seated.seat.track, seated.seat.leg);
        self.asking = Some(Box::pin(async move {
            if resumed {
                service.settled().await;
            }
            let stats = service.shard().track_stats(track).await.ok().flatten()?;
            let leg = match service.shard().leg_stats(leg).await.ok().flatten() {
                Some(LegStats::Publisher(leg)) => Some(leg),
                _ => None,
            };
            Some(Progress {
                missing: first_missing(&stats, leg.as_ref()),
                next: stats.next_position,
                media_time: stats.next_media_time.ticks(),
                resumed,
            })
        }));
    }

    fn delivered(&self, position: u64) {
        if let Some(seated) = &self.seated {
            // Lost in a crowd it is made good by the next one.
            let _taken = self.api.service.shard().feedback(seated.seat.leg, Feedback::Delivered(position));
        }
    }

    /// Hands in the frame that waits, if it is time and the media plane takes it.
    fn hand_in(&mut self) {
        let (Some(seated), Some(frame)) = (&self.seated, &self.waiting) else { return };
        if self.pace.admits(Instant::now(), frame.payload.len())
            && self.api.service.shard().frame(seated.seat.leg, frame.clone())
        {
            self.waiting = None;
        }
    }

    fn forget_frames(&mut self) {
        if let Some(seated) = self.seated.as_deref_mut() {
            seated.frames = None;
        }
    }

    /// The client has gone: the media plane hears what it acknowledged last before its leg is closed, since an end
    /// overtakes that.
    async fn gone(&mut self) {
        if self.target.role == MediaRole::Listener && self.seated.is_some() {
            let shard = self.api.service.shard();
            // The first is answered before what was said ahead of it is heard, the second after.
            let heard = async { shard.ping().await.is_ok() && shard.ping().await.is_ok() };
            let _in_time = tokio::time::timeout(LAST_WORD, heard).await.is_ok();
        }
        self.leave(CloseReason::PeerClosed);
    }

    /// Gives back the seat.
    fn leave(&mut self, reason: CloseReason) {
        if let Some(seated) = self.seated.take() {
            seated.attempt.ended(reason);
        }
    }

    async fn close(mut self, close: Close) {
        // Its place is free before the goodbye, which may take long.
        self.leave(reason(close.code));
        let Self { api, record, wire, .. } = self;
        api.metrics.websocket_closed(close.code.number());
        let limit = api.followers.settings.close_timeout;
        let limit = if close.code == CloseCode::Draining { limit.min(DRAIN_GOODBYE) } else { limit };
        wire.close(close, limit).await;
        drop(record);
    }
}

fn carried(frame: MediaFrame) -> CarriedFrame {
    let MediaFrame { position, media_time, marker, capture_time, audio_level, replay: _, payload } = frame;
    CarriedFrame { position, media_time, marker, capture_time, audio_level, payload }
}

fn media(frame: RingFrame) -> MediaFrame {
    let RingFrame { position, media_time, marker, capture_time, audio_level, replay, payload } = frame;
    let media_time = MediaTime::from_ticks(media_time);
    MediaFrame { position, media_time, marker, capture_time, audio_level, replay, payload }
}

/// How a media connection ended, as it is counted.
fn reason(code: CloseCode) -> CloseReason {
    match code {
        CloseCode::Normal => CloseReason::Deleted,
        CloseCode::TakenOver => CloseReason::TakenOver,
        CloseCode::AuthenticationFailed => CloseReason::TokenExpired,
        CloseCode::SessionGone => CloseReason::SessionEnded,
        CloseCode::HeartbeatTimeout => CloseReason::ConsentLost,
        CloseCode::Draining => CloseReason::Shutdown,
        _ => CloseReason::Failed,
    }
}

async fn answer<T>(asking: &mut Option<Asking<T>>) -> T {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

async fn told(news: Option<&mut Subscription>) -> Next {
    match news {
        Some(news) => news.next().await,
        None => std::future::pending().await,
    }
}

async fn received(frames: Option<&mut RingReceiver>) -> Option<RingFrame> {
    match frames {
        Some(frames) => frames.recv().await,
        None => std::future::pending().await,
    }
}

async fn closed(over: Option<impl Future<Output = CloseReason>>) -> CloseReason {
    match over {
        Some(over) => over.await,
        None => std::future::pending().await,
    }
}

async fn expired(lease: Option<&Lease>) {
    match lease {
        Some(lease) => lease.expired().await,
        None => std::future::pending().await,
    }
}

/// For how long a leg waits for its client's last acknowledgement.
const LAST_WORD: Duration = Duration::from_millis(200);
/// When a frame that was not taken is tried again.
const RETRY: Duration = Duration::from_millis(5);
