//! Server-sent events of a listener's connection (draft-ietf-wish-whep §4.9.1).
//!
//! A player asks for the topics that it wants by POST and reads them by GET; players that only read get all. What a
//! stream says is derived from the session as it is, so that a slow reader is told the newest, not everything.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event as Told, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use utoipa_axum::routes;

use super::body::{self, Kind};
use super::peer::Peer;
use super::problem::{Code, Problem};
use super::route::{Policy, Routes};
use super::{Api, Segments};
use crate::events::{Place, Reader, StreamId, Topic, Topics};
use crate::records::{Kind as RecordKind, RecordGuard};
use crate::session::{Audience, Event, Next, Numbered, Status, Subscription};
use crate::webrtc::ResourceId;

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    Routes::new()
        .add(Policy::Leg, routes!(create))
        .refuses(&[
            Code::InvalidMessage,
            Code::InvalidField,
            Code::RequestTimeout,
            Code::BodyTooLarge,
            Code::WrongContentType,
            Code::LegNotFound,
            Code::Capacity,
            Code::Draining,
        ])
        .add(Policy::Leg, routes!(read_all))
        .refuses(&[Code::LegNotFound, Code::Capacity, Code::Draining])
        .add(Policy::Leg, routes!(read))
        .refuses(&[Code::LegNotFound, Code::Draining])
        .add(Policy::Leg, routes!(remove))
        .refuses(&[Code::LegNotFound])
}

/// Ask for server-sent events
///
/// A JSON array of the topics that are wanted; without a body all: `active`, `inactive`, `reconnect`, `viewercount`.
#[utoipa::path(
    post,
    path = "/v1/legs/{leg}/sse",
    tag = "legs",
    operation_id = "createEventStream",
    request_body(content = Option<Vec<String>>, content_type = "application/json", example = json!(["active", "inactive"])),
    responses((
        status = 201,
        description = "The stream can be read.",
        headers(("Location" = String, description = "The address of the stream."))
    ))
)]
async fn create(
    State(api): State<Arc<Api>>,
    Segments(leg): Segments<String>,
    request: Request,
) -> Result<Response, Problem> {
    api.check_open()?;
    let leg = leg_id(&leg)?;
    let topics = if request.headers().contains_key(header::CONTENT_TYPE) {
        body::check_type(request.headers(), Kind::Json)?;
        topics(&body::text(request, Kind::Json, &api.settings).await?)?
    } else {
        Topics::ALL
    };
    let id = stream(&api, leg, topics)?;
    let location = [(header::LOCATION, format!("/v1/legs/{leg}/sse/{}", id.0))];
    Ok((StatusCode::CREATED, location).into_response())
}

/// Read all server-sent events
///
/// For players that do not choose.
#[utoipa::path(
    get,
    path = "/v1/legs/{leg}/sse",
    tag = "legs",
    operation_id = "readAllEvents",
    responses((status = 200, description = "The events, until the connection ends.", body = String, content_type = "text/event-stream"))
)]
async fn read_all(
    State(api): State<Arc<Api>>,
    Segments(leg): Segments<String>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Result<Response, Problem> {
    api.check_open()?;
    let leg = leg_id(&leg)?;
    let id = stream(&api, leg, Topics::ALL)?;
    // Nobody knows its name: it goes with its reader.
    let forget = Some(Forget { api: api.clone(), leg, id });
    told(&api, leg, id, peer, forget)
}

/// Read a stream of server-sent events
///
/// A newer reader takes the place of an older one.
#[utoipa::path(
    get,
    path = "/v1/legs/{leg}/sse/{stream}",
    tag = "legs",
    operation_id = "readEventStream",
    responses((status = 200, description = "The events, until the connection ends.", body = String, content_type = "text/event-stream"))
)]
async fn read(
    State(api): State<Arc<Api>>,
    Segments((leg, stream)): Segments<(String, String)>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Result<Response, Problem> {
    api.check_open()?;
    let leg = leg_id(&leg)?;
    told(&api, leg, stream_id(&stream)?, peer, None)
}

/// Give up a stream of server-sent events
#[utoipa::path(
    delete,
    path = "/v1/legs/{leg}/sse/{stream}",
    tag = "legs",
    operation_id = "deleteEventStream",
    responses((status = 200, description = "It is gone."))
)]
async fn remove(
    State(api): State<Arc<Api>>,
    Segments((leg, stream)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    let leg = leg_id(&leg)?;
    let removed = api.followers.streams.remove(leg, stream_id(&stream)?);
    removed.then_some(StatusCode::OK).ok_or_else(unknown)
}

fn leg_id(leg: &str) -> Result<ResourceId, Problem> {
    leg.parse().map_err(|_| unknown())
}

fn stream(api: &Api, leg: ResourceId, topics: Topics) -> Result<StreamId, Problem> {
    api.followers.streams.place(&leg).ok_or_else(unknown)?;
    let full = || {
        Problem::new(Code::Capacity, "there are as many streams as events.max_streams, or _per_leg, allows")
    };
    api.followers.streams.create(leg, topics).ok_or_else(full)
}

fn stream_id(text: &str) -> Result<StreamId, Problem> {
    text.parse().map(StreamId).map_err(|_| unknown())
}

fn unknown() -> Problem {
    Problem::new(Code::LegNotFound, "no listener's connection, or no stream of it, has such a name")
}

/// Reads the body of a POST.
pub(super) fn topics(text: &str) -> Result<Topics, Problem> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Problem::new(Code::InvalidMessage, format!("the body is not JSON: {error}")))?;
    let wrong = |detail: &str| Problem::field("events", format!("{detail}; there are {KNOWN}"));
    let Value::Array(names) = value else { return Err(wrong("the body must be an array of names")) };
    let topic = |name: &Value| name.as_str().and_then(Topic::of).ok_or_else(|| wrong("unknown event"));
    let topics: Vec<Topic> = names.iter().map(topic).collect::<Result<_, _>>()?;
    if topics.is_empty() { Err(wrong("the array is empty")) } else { Ok(Topics::of(&topics)) }
}

/// Answers with the stream.
fn told(
    api: &Arc<Api>,
    leg: ResourceId,
    id: StreamId,
    peer: IpAddr,
    forget: Option<Forget>,
) -> Result<Response, Problem> {
    let place = api.followers.streams.place(&leg).ok_or_else(unknown)?;
    let (topics, reader) = api.followers.streams.read(leg, id).ok_or_else(unknown)?;
    let view = api.service.directory().leg(place.session.as_str(), &leg);
    let holder = view.map_or(leg, |view| view.holder);
    let mut subscription = api.service.directory().hub(place.session.as_str())?.subscribe(None);
    subscription.follow(holder);
    let (session, who) = (Some(place.session.clone()), place.who.clone());
    let record = api.metrics.records().open(RecordKind::ServerSentEvents, peer, session, who);
    let mut tick = tokio::time::interval_at(Instant::now(), COUNT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let telling = Telling {
        api: api.clone(),
        place,
        holder,
        topics,
        reader,
        subscription,
        tick,
        active: false,
        viewers: None,
        queue: VecDeque::new(),
        over: false,
        _record: record,
        _forget: forget,
    };
    let events = stream::unfold(telling, async |mut telling| {
        let event = telling.next().await?;
        Some((Ok::<_, Infallible>(event), telling))
    });
    let keep_alive = KeepAlive::new().interval(api.followers.settings.keep_alive);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // A proxy that collects answers would keep them all.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Forgets a stream with its reader.
struct Forget {
    api: Arc<Api>,
    leg: ResourceId,
    id: StreamId,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.api.followers.streams.remove(self.leg, self.id);
    }
}

/// One reader's stream.
struct Telling {
    api: Arc<Api>,
    place: Place,
    /// What the listener is called.
    holder: ResourceId,
    topics: Topics,
    reader: Reader,
    subscription: Subscription,
    tick: tokio::time::Interval,
    /// What was told last. Nobody is told that nobody speaks before somebody did.
    active: bool,
    viewers: Option<usize>,
    /// At most one of each topic.
    queue: VecDeque<Told>,
    over: bool,
    _record: RecordGuard,
    _forget: Option<Forget>,
}

impl Telling {
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            tokio::select! {
                biased;
                () = self.api.followers.drained() => {
                    self.tell(Topic::Reconnect, &json!({}));
                    self.over = true;
                }
                () = self.reader.over() => self.over = true,
                _ = self.tick.tick() => self.look(true),
                next = self.subscription.next() => {
                    self.over = next == Next::Over;
                    if let Next::Event(event) = &next {
                        self.reconnect(event);
                    }
                    self.look(false);
                }
            }
        }
    }

    /// Tells where to connect anew, if this connection is to be replaced.
    fn reconnect(&mut self, event: &Numbered) {
        if let Event::ConnectionRefreshRequired { url, ticket, deadline, .. } = &event.event
            && event.audience == Audience::Leg(self.holder)
        {
            self.tell(Topic::Reconnect, &json!({ "url": url, "ticket": ticket, "deadline": deadline }));
        }
    }

    /// Tells what is new; of the count at most once a second.
    fn look(&mut self, count: bool) {
        let view = self.api.service.directory().view(self.place.session.as_str()).ok();
        let track = view.as_ref().and_then(|view| {
            let language = self.place.language.as_deref().unwrap_or(view.source.as_str());
            view.tracks.iter().find(|track| track.language.as_str().eq_ignore_ascii_case(language))
        });
        let paused = view.as_ref().is_some_and(|view| view.status == Status::Paused);
        let active = !paused && track.is_some_and(|track| track.speaker_ready);
        if active != self.active {
            self.active = active;
            self.tell(if active { Topic::Active } else { Topic::Inactive }, &json!({}));
        }
        let viewers = track.map(|track| track.listeners);
        if count && let Some(viewers) = viewers.filter(|_| viewers != self.viewers) {
            self.viewers = Some(viewers);
            self.tell(Topic::ViewerCount, &json!({ "viewercount": viewers }));
        }
    }

    fn tell(&mut self, topic: Topic, data: &Value) {
        if self.topics.has(topic) {
            self.queue.push_back(Told::default().event(topic.name()).data(data.to_string()));
        }
    }
}

/// How often listeners are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);
const KNOWN: &str = "active, inactive, reconnect and viewercount";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_a_list_of_known_names() {
        assert_eq!(
            topics(r#"["active","reconnect"]"#).unwrap(),
            Topics::of(&[Topic::Active, Topic::Reconnect])
        );
        for (text, status) in [
            ("", 400),
            ("[", 400),
            ("{}", 422),
            ("[]", 422),
            (r#"["layers"]"#, 422),
            (r#"[1]"#, 422),
            (r#""active""#, 422),
        ] {
            let problem = topics(text).unwrap_err();
            assert_eq!(problem.into_response().status().as_u16(), status, "{text}");
        }
    }
}
