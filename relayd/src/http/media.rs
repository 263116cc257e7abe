//! Media over a WebSocket: what is at the sockets of [`media::Media`](Media).
//!
//! Anybody may open one; the first message says who is there. The seat and the place among the connections live as
//! long as the socket, in [`End`].
//!
//! Nothing is lost between the socket and the media plane: a publisher is read no faster than its frames are taken,
//! and a listener's frames wait in the history for as long as its socket takes none.

mod join;
mod pace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::Response;
use relay_engine::{CarriedFrame, Feedback, LegStats, MediaTime};
use utoipa_axum::routes;

use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::socket::{self, Asking, Opening, Side, answer, some};
use super::wire::Turn;
use super::{Api, Segments};
use crate::auth::Caller;
use crate::conversation::{CloseCode, Timing};
use crate::events::Tally;
use crate::media::{Media, MediaFrame, MediaRole, Protocol, ServerMessage, Task};
use crate::records::Kind;
use crate::session::{Event, LossScope, Next, Status, Subscription};
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
async fn publish(opening: Opening, Segments(place): Segments<(String, String)>) -> Result<Response, Problem> {
    talk(opening, MediaRole::Publisher, place)
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
async fn listen(opening: Opening, Segments(place): Segments<(String, String)>) -> Result<Response, Problem> {
    talk(opening, MediaRole::Listener, place)
}

fn talk(
    opening: Opening,
    role: MediaRole,
    (session, language): (String, String),
) -> Result<Response, Problem> {
    let kind = match role {
        MediaRole::Publisher => Kind::Publisher,
        MediaRole::Listener => Kind::Listener,
    };
    let (api, peer) = (opening.api.clone(), opening.peer);
    let target = Target { role, session: session.clone(), language, peer };
    opening.talk(kind, session, Tally::default().open(), End::new(api, target))
}

type Line = socket::Line<Media>;

/// One socket's end of the media plane.
struct End {
    api: Arc<Api>,
    target: Target,
    joining: Option<Asking<Result<(Caller, Seated), Problem>>>,
    asking: Option<Asking<Option<Progress>>>,
    seated: Option<Box<Seated>>,
    /// How fast frames are read.
    pace: Pace,
    /// A frame that the media plane has not taken yet.
    waiting: Option<CarriedFrame>,
    /// Why the relay ended it.
    ended: Option<CloseReason>,
}

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
    Retry,
    Joined(Box<Result<(Caller, Seated), Problem>>),
    Progress(Option<Progress>),
    News(Next),
    Closed(CloseReason),
    Frame(Option<RingFrame>),
}

impl Side for End {
    type Subprotocol = Media;
    type Happening = Happening;

    fn begin(&self, now: Instant, timing: Timing) -> Protocol {
        Protocol::new(now, self.target.role, timing)
    }

    fn handle_task(&mut self, _: &mut Line, task: Task) {
        match task {
            Task::Join(hello) => {
                let (api, target) = (self.api.clone(), self.target.clone());
                self.joining = Some(Box::pin(async move { join(&api, &target, hello).await }));
            }
            Task::Take(frame) => self.waiting = Some(carried(frame)),
            Task::Delivered(position) => {
                if let Some(seated) = &self.seated {
                    // Lost in a crowd it is made good by the next one.
                    let shard = self.api.service.shard();
                    let _taken = shard.feedback(seated.seat.leg, Feedback::Delivered(position));
                }
            }
        }
    }

    fn ask(&mut self, _: &Line) {
        self.ask_progress(false);
    }

    fn reads(&mut self) -> bool {
        self.hand_in();
        self.waiting.is_none()
    }

    async fn next(
        &mut self,
        roomy: bool,
        wire: impl Future<Output = Turn<axum::Error>> + Send,
    ) -> socket::Next<Happening> {
        let waits = self.waiting.is_some();
        let over = self.seated.as_ref().map(|seated| seated.seat.closed());
        let (news, frames) = match self.seated.as_deref_mut() {
            Some(Seated { news, frames, .. }) => (Some(news), frames.as_mut()),
            None => (None, None),
        };
        socket::Next::Own(tokio::select! {
            biased;
            joined = answer(&mut self.joining) => Happening::Joined(Box::new(joined)),
            progress = answer(&mut self.asking) => Happening::Progress(progress),
            // The end of a refresh is told before the close that it brings.
            next = some(news.map(Subscription::next)) => Happening::News(next),
            reason = some(over) => Happening::Closed(reason),
            turn = wire => return socket::Next::Wire(turn),
            () = tokio::time::sleep(RETRY), if waits => Happening::Retry,
            frame = some(frames.map(RingReceiver::recv)), if roomy => Happening::Frame(frame),
        })
    }

    fn handle(&mut self, now: Instant, line: &mut Line, happening: Happening) {
        match happening {
            Happening::Joined(joined) => self.handle_joined(now, line, *joined),
            Happening::Progress(progress) => self.handle_progress(now, line, progress),
            Happening::News(next) => self.handle_news(line, next),
            Happening::Closed(reason) => self.handle_closed(line, reason),
            Happening::Frame(Some(frame)) => line.protocol.handle_frame(&media(frame)),
            // The leg is closed; what closed it says why.
            Happening::Frame(None) => {
                if let Some(seated) = self.seated.as_deref_mut() {
                    seated.frames = None;
                }
            }
            Happening::Retry => {}
        }
    }

    fn handle_heard(&mut self) {
        if let Some(seated) = &mut self.seated {
            seated.seat.heard();
        }
    }

    fn handle_expired(&mut self, line: &mut Line) {
        self.handle_closed(line, CloseReason::TokenExpired);
    }

    async fn leave(mut self, code: Option<CloseCode>) {
        // The media plane hears what the client acknowledged last before its leg is closed, since an end overtakes that.
        if code.is_none()
            && self.target.role == MediaRole::Listener
            && let Some(seated) = &self.seated
        {
            let shard = self.api.service.shard().of(seated.seat.leg);
            let _in_time = tokio::time::timeout(LAST_WORD, shard.heard(seated.seat.leg)).await.is_ok();
        }
        if let Some(seated) = self.seated.take() {
            let by_code = code.map_or(CloseReason::PeerClosed, reason);
            seated.attempt.ended(self.ended.unwrap_or(by_code));
        }
    }
}

impl End {
    fn new(api: Arc<Api>, target: Target) -> Self {
        Self {
            api,
            target,
            joining: None,
            asking: None,
            seated: None,
            pace: Pace::default(),
            waiting: None,
            ended: None,
        }
    }

    fn handle_joined(&mut self, now: Instant, line: &mut Line, joined: Result<(Caller, Seated), Problem>) {
        self.joining = None;
        match joined {
            Ok((caller, seated)) => {
                line.identify(seated.seat.session.clone(), caller);
                line.protocol.handle_joined(now, seated.welcome.clone(), seated.named);
                if seated.paused {
                    line.protocol.handle_paused();
                }
                self.seated = Some(Box::new(seated));
            }
            Err(problem) => line.refuse(&problem),
        }
    }

    fn handle_closed(&mut self, line: &mut Line, reason: CloseReason) {
        self.ended.get_or_insert(reason);
        // What was on its way is still owed.
        let frames = self.seated.as_deref_mut().and_then(|seated| seated.frames.as_mut());
        let left = frames.into_iter().flat_map(|frames| std::iter::from_fn(|| frames.try_recv()));
        left.for_each(|frame| line.protocol.handle_frame(&media(frame)));
        line.protocol.handle_ended(reason);
    }

    fn handle_news(&mut self, line: &mut Line, next: Next) {
        let (Some(seated), Some(caller)) = (&self.seated, &line.caller) else { return };
        let event = match next {
            Next::Event(event) => event,
            Next::Lost => return self.catch_up(line),
            Next::Over => return line.protocol.handle_ended(CloseReason::SessionEnded),
        };
        let access = self.api.service.directory().access(&self.target.session);
        let visible =
            access.is_some_and(|access| event.audience.includes(caller, &access, Some(&seated.holder)));
        match event.event.clone() {
            _ if !visible => {}
            Event::SessionPaused {} => {
                // An end of the break before this one is not told any more.
                self.asking = None;
                line.protocol.handle_paused();
            }
            Event::SessionResumed {} if self.target.role == MediaRole::Publisher => self.ask_progress(true),
            Event::ConnectionRefreshRequired { url, ticket, deadline, reason } => {
                let message = ServerMessage::RefreshRequired { url, ticket, deadline, reason };
                line.protocol.handle_news(&message);
            }
            Event::ConnectionRefreshComplete { position, replayed, gap_frames, attempts } => {
                let seq = event.seq;
                let message =
                    ServerMessage::RefreshComplete { seq, position, replayed, gap_frames, attempts };
                line.protocol.handle_news(&message);
            }
            // A listener is told by what it does not get.
            Event::FramesLost { language, count, from, to, scope: LossScope::Track }
                if self.target.role == MediaRole::Publisher && language == seated.welcome.language =>
            {
                line.protocol.handle_news(&ServerMessage::FramesLost { count, from, to });
            }
            _ => {}
        }
    }

    /// Events were missed: what there is now stands for them.
    fn catch_up(&mut self, line: &mut Line) {
        self.api.metrics.websocket_lost();
        match self.api.service.directory().view(&self.target.session) {
            Ok(view) if view.status == Status::Paused => line.protocol.handle_paused(),
            Ok(_) => self.ask_progress(true),
            Err(_) => line.protocol.handle_ended(CloseReason::SessionEnded),
        }
    }

    fn handle_progress(&mut self, now: Instant, line: &mut Line, progress: Option<Progress>) {
        self.asking = None;
        // Of a track that is gone nothing more is said: whoever closed it closes this.
        if let Some(Progress { missing, next, media_time, resumed }) = progress {
            if resumed {
                line.protocol.handle_resumed(next, media_time);
            }
            line.protocol.handle_progress(now, missing);
        }
    }

    /// Finds out how far the track is; at the end of a break, once frames are let through again.
    fn ask_progress(&mut self, resumed: bool) {
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

    /// Hands in the frame that waits, if it is time and the media plane takes it.
    fn hand_in(&mut self) {
        let (Some(seated), Some(frame)) = (&self.seated, &self.waiting) else { return };
        if self.pace.admits(Instant::now(), frame.payload.len())
            && self.api.service.shard().frame(seated.seat.leg, frame.clone())
        {
            self.waiting = None;
        }
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

/// For how long a leg waits for its client's last acknowledgement.
const LAST_WORD: Duration = Duration::from_millis(200);
/// When a frame that was not taken is tried again.
const RETRY: Duration = Duration::from_millis(5);
