//! From `hello` to a seat: who is there, what they may, where they begin.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_engine::{PublisherLegStats, TrackStats};

use crate::auth::{Action, Caller, Grant};
use crate::conversation::{ACK_EVERY, Hidden};
use crate::http::caller::{permit, with_ticket};
use crate::http::openers::{Opener, Remembered};
use crate::http::problem::{Code, Problem};
use crate::http::{Api, socket};
use crate::media::{MediaHello, MediaRole, MediaWelcome};
use crate::metrics::JoinAttempt;
use crate::session::{Claim, MediaJoin, MediaSeat, Status, Subscription};
use crate::shard::{Egress, RingReceiver, ring};
use crate::webrtc::{ResourceId, Role};

/// Which track a socket is for, and whose socket it is.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub role: MediaRole,
    pub session: String,
    pub language: String,
    pub peer: IpAddr,
}

impl Target {
    pub(super) fn role(&self) -> Role {
        match self.role {
            MediaRole::Publisher => Role::Publisher,
            MediaRole::Listener => Role::Listener,
        }
    }
}

/// Somebody who was let in.
pub(super) struct Seated {
    pub seat: MediaSeat,
    /// Of a listener.
    pub frames: Option<RingReceiver>,
    pub welcome: MediaWelcome,
    /// A listener said, or its ticket says, where it goes on.
    pub named: bool,
    /// How the session's events call whoever has the seat.
    pub holder: ResourceId,
    pub news: Subscription,
    pub paused: bool,
    pub attempt: Arc<JoinAttempt>,
    /// Whom the leg's name is for: `DELETE /v1/legs/{leg}` asks.
    _opener: Remembered,
}

/// Gives whoever says hello their place.
pub(super) async fn join(api: &Api, target: &Target, hello: MediaHello) -> Result<(Caller, Seated), Problem> {
    api.check_open()?;
    let caller = socket::hello(api, target.peer, hello.token.as_ref()).await?;
    let (language, place) = (target.language.as_str(), (target.session.as_str(), target.role()));
    let ordered = match &hello.ticket {
        Some(Hidden(ticket)) => api.service.directory().take_order(place.0, ticket),
        None => false,
    };
    if hello.ticket.is_none() {
        api.check_load()?;
    }
    let caller = match &hello.ticket {
        Some(Hidden(ticket)) => {
            let place = (place.0, place.1, Some(language));
            with_ticket(api, (Instant::now(), target.peer), place, ticket, &caller)?
        }
        None => caller,
    };
    let action = match target.role {
        MediaRole::Publisher => Action::Publish(Some(language)),
        MediaRole::Listener => Action::Listen(Some(language)),
    };
    permit(api, &target.session, &caller, action)?;
    if !ordered {
        api.limits.join(target.peer).map_err(|limited| api.limited(limited))?;
    }
    let holder = caller.grant().map_or(Err(target.peer), |grant| Ok(grant.subject.subject.clone()));
    let who = (&target.session, &target.language, holder);
    let attempt = JoinAttempt::begin(&api.metrics, Instant::now(), target.role(), who);
    let seated = sit(api, target, &caller, hello, attempt.clone()).await;
    let seated = seated.inspect_err(|refused| attempt.refused(refused.code()))?;
    Ok((caller, seated))
}

async fn sit(
    api: &Api,
    target: &Target,
    caller: &Caller,
    hello: MediaHello,
    attempt: Arc<JoinAttempt>,
) -> Result<Seated, Problem> {
    let directory = api.service.directory();
    let (session, language) = (target.session.as_str(), Some(target.language.as_str()));
    // From here on nothing that is told of the seat is missed.
    let mut news = directory.hub(session)?.subscribe(None);
    let track = directory.track(session, language)?;
    let stats = api.service.shard().track_stats(track).await.ok().flatten().ok_or_else(failed)?;
    // A position that the track has not reached is one of another track, or of one that is over.
    let from = hello.from.filter(|from| *from <= stats.next_position);
    let claim = claim(caller, &hello);
    let join = MediaJoin { role: target.role(), session, language, caller, claim, from };
    let mut seat = api.service.join_media(join).await?;
    let view = directory.leg(session, &seat.resource).ok_or_else(failed)?;
    news.follow(view.holder);
    let paused = directory.view(session).is_ok_and(|view| view.status == Status::Paused);
    let frames = bring_up(api, &seat)?;
    let stats = api.service.shard().track_stats(seat.track).await.ok().flatten().ok_or_else(failed)?;
    seat.connected();
    attempt.connected();
    let position = match target.role {
        MediaRole::Publisher => first_missing(&stats, None),
        MediaRole::Listener => seat.from.unwrap_or(stats.next_position),
    };
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let welcome = MediaWelcome {
        role: target.role,
        session_id: seat.session.to_string(),
        language: view.language,
        resource: seat.resource.to_string(),
        ticket: seat.ticket.clone(),
        position,
        next: stats.next_position,
        media_time: stats.next_media_time.ticks(),
        history_ms: HISTORY_MS,
        ack_ms: millis(ACK_EVERY),
        heartbeat_ms: millis(api.followers.settings.heartbeat),
    };
    let named = seat.from.is_some();
    let opener = Opener { session: seat.session.clone(), subject: caller.subject().cloned() };
    let _opener = api.openers.remember(seat.resource, opener);
    Ok(Seated { seat, frames, welcome, named, holder: view.holder, news, paused, attempt, _opener })
}

/// What the relay has all of, up to here, but for what the leg no longer has; what a publisher sends again begins here.
pub(in crate::http) fn first_missing(track: &TrackStats, leg: Option<&PublisherLegStats>) -> u64 {
    let contiguous = leg.and_then(|leg| leg.contiguous).max(track.contiguous);
    contiguous.map_or(track.next_position, |contiguous| contiguous + 1)
}

fn bring_up(api: &Api, seat: &MediaSeat) -> Result<Option<RingReceiver>, Problem> {
    let shard = api.service.shard();
    let (up, frames) = match seat.role {
        Role::Publisher => (shard.publisher_up(seat.leg), None),
        Role::Listener => {
            let (sender, receiver) = ring(RING_FRAMES);
            (shard.leg_up(seat.leg, Egress::Ring(sender)), Some(receiver))
        }
    };
    if up { Ok(frames) } else { Err(failed()) }
}

fn claim(caller: &Caller, hello: &MediaHello) -> Claim {
    if let Some(ticket) = &hello.ticket {
        return Claim::Ticket(ticket.0.clone());
    }
    if let Some(secret) = &hello.resume_secret {
        return Claim::ResumeSecret(secret.0.clone());
    }
    let granted = caller.grant().is_some_and(|grant: &Arc<Grant>| grant.takeover);
    if granted { Claim::TakeoverGrant } else { Claim::None }
}

fn failed() -> Problem {
    Problem::new(Code::Unavailable, "the media plane does not answer")
}

/// Frames between the media plane and a socket: 1.28 s of 20 ms frames. What does not fit waits in the history.
const RING_FRAMES: usize = 64;
/// How long the history of a track is.
const HISTORY_MS: u64 = 30_000;
