//! The public HTTP surfaces: one file each; the operator's are in `ops`, on their own listener.
//!
//! A request passes the accept loop's limits (`server`), then [`guard`](self) (Host, Origin, CORS, metrics),
//! then its route. Whatever goes wrong is a problem document of `problem`.

mod body;
mod caller;
mod connecting;
mod document;
mod endpoint;
mod events;
mod gate;
mod guard;
mod idempotency;
mod json_body;
mod legs;
mod limit;
mod link;
mod media;
mod openapi;
mod openers;
pub(crate) mod ops;
mod pages;
pub(crate) mod peer;
mod problem;
mod qr;
mod refresh;
mod request_id;
pub(crate) mod route;
pub(crate) mod server;
mod session_body;
mod sessions;
mod socket;
mod sse;
mod stall;
mod whep;
mod whip;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use tracing::Instrument;

use crate::auth::Authority;
use crate::config;
use crate::events::Followers;
use crate::metrics::Metrics;
use crate::records::Records;
use crate::session::Service;
use crate::webhook::{WebhookCounts, Webhooks};
use guard::Guard;
use idempotency::Idempotency;
pub use json_body::JsonBody;
use limit::{Crowded, Limited, Limits};
use openers::Openers;
use peer::Proxies;
use problem::{Code, Problem};
use request_id::RequestId;
use route::Routes;

/// What every surface works with.
#[derive(Debug)]
pub(crate) struct Api {
    service: Service,
    settings: config::Http,
    max_languages: usize,
    metrics: Arc<Metrics>,
    authority: Authority,
    webhooks: Option<Webhooks>,
    anonymous_listeners: bool,
    limits: Limits,
    openers: Openers,
    idempotency: Idempotency,
    ice_servers: Vec<HeaderValue>,
    guard: Guard,
    proxies: Proxies,
    followers: Followers,
    draining: AtomicBool,
}

impl Api {
    /// For a listener bound to `own`.
    pub(crate) fn new(
        service: Service,
        config: &config::Config,
        own: SocketAddr,
        metrics: Arc<Metrics>,
        authority: Authority,
        webhooks: Option<Webhooks>,
    ) -> Arc<Self> {
        Arc::new(Self {
            service,
            settings: config.http.clone(),
            max_languages: config.sessions.max_languages,
            metrics,
            authority,
            webhooks,
            anonymous_listeners: config.auth.anonymous_listeners,
            limits: Limits::new(&config.limits),
            openers: Openers::default(),
            idempotency: Idempotency::default(),
            ice_servers: config.webrtc.ice_servers.iter().filter_map(|text| link::ice_server(text)).collect(),
            guard: Guard::new(own, &config.http),
            proxies: Proxies::new(ranges(&config.http.trusted_proxies), config.http.forwarded_header),
            followers: Followers::new(config),
            draining: AtomicBool::new(false),
        })
    }

    /// Who says who calls.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What the sender of webhooks counted; zeros where none are sent.
    pub(crate) fn webhook_counts(&self) -> WebhookCounts {
        self.webhooks.as_ref().map(Webhooks::counts).unwrap_or_default()
    }

    /// From now on nothing new is taken and `/readyz` says so.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.followers.drain();
    }

    /// The records of open connections.
    pub(crate) fn records(&self) -> Records {
        self.metrics.records().clone()
    }

    /// How far the relay lags.
    pub(crate) fn overload(&self) -> &crate::overload::Overload {
        self.metrics.overload()
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn check_open(&self) -> Result<(), Problem> {
        if self.is_draining() {
            return Err(Problem::new(Code::Draining, "the relay is stopping; come again, or to another one"));
        }
        Ok(())
    }

    /// Whether there is time for more; who is in a session already is not asked.
    fn check_load(&self) -> Result<(), Problem> {
        if self.metrics.overload().is_overloaded() {
            return Err(Problem::new(Code::Capacity, "the relay has more to do than it can; come again"));
        }
        Ok(())
    }

    /// Whether this address has to wait because of tokens that did not hold. Whoever takes a token asks first.
    fn check_patience(&self, now: Instant, peer: IpAddr) -> Result<(), Problem> {
        self.limits.check_banned(now, peer).map_err(|limited| self.limited(limited))
    }

    /// A client has gone beyond a rate.
    fn limited(&self, limited: Limited) -> Problem {
        self.metrics.rate_limited(limited.limit);
        limited.into()
    }

    /// A client has too many connections that are being set up.
    fn crowded(&self, crowded: Crowded) -> Problem {
        self.metrics.rate_limited(crowded.limit());
        crowded.into()
    }

    /// The base of absolute addresses in an answer to a request with these headers.
    fn base_url(&self, headers: &HeaderMap) -> String {
        if !self.settings.public_url.is_empty() {
            return self.settings.public_url.trim_end_matches('/').to_owned();
        }
        // The guard has checked the host of every request that gets here, and left none but that.
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        format!("http://{host}")
    }
}

/// Every public route.
pub(crate) fn routes() -> Routes {
    sessions::routes()
        .merge(refresh::routes())
        .merge(whip::routes())
        .merge(whep::routes())
        .merge(legs::routes())
        .merge(events::routes())
        .merge(media::routes())
        .merge(sse::routes())
        .merge(pages::routes())
        .merge(qr::routes())
        .merge(openapi::routes())
}

/// The OpenAPI document of the public routes, as text.
pub fn openapi() -> String {
    openapi::text()
}

/// The public router.
pub(crate) fn router(api: Arc<Api>) -> Router {
    finish(routes().into_router(&api), api)
}

/// What the public and the operator's router have in common.
fn finish(routes: Router<Arc<Api>>, api: Arc<Api>) -> Router {
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(api.clone(), pass))
        .with_state(api)
}

/// Every request passes here: named and checked before, measured after.
async fn pass(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::random();
    let instance: String = request.uri().path().chars().take(MAX_INSTANCE).collect();
    let peer = api.proxies.client(&request);
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(id);
    let span = tracing::info_span!("request", %id);
    async {
        let mut response = answer(&api, request, next).await;
        problem::identify(&mut response, &instance, id);
        response
    }
    .instrument(span)
    .await
}

async fn answer(api: &Api, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let response = match api.guard.check(&mut request) {
        Err(problem) => problem.into_response(),
        Ok(origin) => {
            let preflight = origin.is_some() && guard::is_preflight(&request);
            let mut response = if preflight { guard::preflight() } else { next.run(request).await };
            if let Some(origin) = origin {
                guard::allow(response.headers_mut(), origin, preflight);
            }
            response
        }
    };
    api.metrics.request(&route, &method, response.status(), started.elapsed());
    tracing::debug!(%method, route, status = response.status().as_u16(), "http request");
    response
}

/// Address ranges as the configuration has checked them.
fn ranges(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| config::range(text)).collect()
}

async fn not_found(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(80).collect();
    Problem::new(Code::RouteNotFound, format!("nothing is served at {path:?}"))
}

async fn method_not_allowed(method: axum::http::Method) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{method} is not allowed here; see the Allow header"))
}

/// Parameters of the path; what does not decode names nothing.
#[derive(Debug)]
struct Segments<T>(T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Api>> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, api).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(_) => Err(Problem::new(Code::RouteNotFound, "the path does not decode to text")),
        }
    }
}

/// How much of a path a problem document repeats.
const MAX_INSTANCE: usize = 200;
