//! Routes and who may use them: no route without a [`Policy`], by type.
//!
//! [`Routes`] is the one list that the router, the OpenAPI document and the tests are made of. What a policy
//! demands is checked by one layer (`gate`) that [`Routes::into_router`] puts on every route; what may go wrong
//! is declared beside the route and written into the document.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, options};
use utoipa::openapi::path::{HttpMethod, Operation, PathItem, Paths};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{Components, OpenApi, RefOr};
use utoipa_axum::router::UtoipaMethodRouter;

use super::Api;
use super::document;
use super::gate::{self, Gate};
use super::problem::Code;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Everybody.
    Public,
    /// Whoever may create sessions.
    Create,
    /// Whoever may look at the session of the path.
    Read,
    /// Whoever may pause, resume, change and end the session of the path.
    Manage,
    /// Whoever may speak in the session of the path, in the language of the path.
    Publish,
    /// Whoever may listen to the session of the path, in the language of the path.
    Listen,
    /// Everybody may open it; what is said first inside authenticates.
    Events,
    /// Whoever knows the leg's unguessable name; and, if it was opened with a token, has one for its session.
    Leg,
}

/// Routes with their policies, operations and refusals.
#[derive(Default)]
pub(crate) struct Routes {
    entries: Vec<Entry>,
}

struct Entry {
    policy: Policy,
    schemas: Vec<(String, RefOr<Schema>)>,
    paths: Paths,
    methods: MethodRouter<Arc<Api>>,
    refusals: Vec<Code>,
}

/// One method on one path, for those who check.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declared {
    /// The method, as in a request.
    pub method: Method,
    /// The path with its parameters in braces.
    pub path: String,
    /// Who may use it.
    pub policy: Policy,
}

impl Routes {
    /// No routes.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds what `utoipa_axum::routes!` made of handlers that share a policy.
    pub(crate) fn add(
        mut self,
        policy: Policy,
        (schemas, paths, methods): UtoipaMethodRouter<Arc<Api>>,
    ) -> Self {
        self.entries.push(Entry { policy, schemas, paths, methods, refusals: Vec::new() });
        self
    }

    /// What else the route added last may answer, besides what its policy and every route may.
    pub(crate) fn refuses(mut self, codes: &[Code]) -> Self {
        let last = self.entries.last_mut().expect("a route has been added");
        last.refusals.extend_from_slice(codes);
        self
    }

    /// These routes and those.
    pub(crate) fn merge(mut self, others: Self) -> Self {
        self.entries.extend(others.entries);
        self
    }

    /// Every method of every path, in the order in which they were added.
    #[cfg(test)]
    pub(crate) fn declared(&self) -> Vec<Declared> {
        let mut declared = Vec::new();
        for entry in &self.entries {
            for (path, item) in &entry.paths.paths {
                for method in operations(item).into_iter().map(|(method, _)| method) {
                    declared.push(Declared { method, path: path.clone(), policy: entry.policy });
                }
            }
        }
        declared
    }

    /// The OpenAPI document: each operation with what its policy and its refusals add.
    pub(crate) fn document(&self) -> OpenApi {
        let mut openapi = document::skeleton();
        for entry in &self.entries {
            for (path, item) in &entry.paths.paths {
                let mut item = item.clone();
                for operation in operations_mut(&mut item) {
                    document::complete(operation, path, entry.policy, &entry.refusals);
                }
                match openapi.paths.paths.get_mut(path) {
                    Some(known) => known.merge_operations(item),
                    None => drop(openapi.paths.paths.insert(path.clone(), item)),
                }
            }
            let components = openapi.components.get_or_insert_with(Components::new);
            components.schemas.extend(entry.schemas.iter().cloned());
        }
        for (path, allowed) in self.with_options() {
            let item = openapi.paths.paths.get_mut(&path).expect("a path that has been added");
            item.options = Some(document::options(&path, allowed.takes_offers(), allowed.takes_fragments()));
        }
        openapi
    }

    /// The router, each route behind its policy.
    pub(crate) fn into_router(self, api: &Arc<Api>) -> Router<Arc<Api>> {
        let answers = self.with_options();
        let mut router = Router::new();
        for entry in self.entries {
            let gate = from_fn_with_state(Gate::new(api.clone(), entry.policy), gate::pass);
            let methods = entry.methods.route_layer(gate);
            for path in entry.paths.paths.keys() {
                router = router.route(path, methods.clone());
            }
        }
        for (path, allowed) in answers {
            let headers = allowed.headers();
            router = router
                .route(&path, options(move || std::future::ready((StatusCode::NO_CONTENT, headers.clone()))));
        }
        router
    }

    /// Every path that takes more than GET says what it takes.
    fn with_options(&self) -> BTreeMap<String, Allowed> {
        let mut paths: BTreeMap<String, Allowed> = BTreeMap::new();
        for entry in &self.entries {
            for (path, item) in &entry.paths.paths {
                let allowed = paths.entry(path.clone()).or_default();
                for (method, operation) in operations(item) {
                    allowed.take(method, operation);
                }
            }
        }
        paths.retain(|_, allowed| allowed.methods.iter().any(|method| *method != Method::GET));
        paths
    }
}

/// What a path takes, as OPTIONS tells.
#[derive(Debug, Default, Clone)]
struct Allowed {
    methods: Vec<Method>,
    bodies: BTreeMap<&'static str, String>,
}

impl Allowed {
    fn take(&mut self, method: Method, operation: &Operation) {
        let content = operation.request_body.as_ref().and_then(|body| match body {
            RefOr::T(body) => body.content.keys().next().cloned(),
            RefOr::Ref(_) => None,
        });
        let header = match method {
            Method::POST => "accept-post",
            Method::PATCH => "accept-patch",
            _ => "",
        };
        if let Some(content) = content.filter(|_| !header.is_empty()) {
            self.bodies.insert(header, content);
        }
        self.methods.push(method);
    }

    fn takes_offers(&self) -> bool {
        self.bodies.contains_key("accept-post")
    }

    fn takes_fragments(&self) -> bool {
        self.bodies.contains_key("accept-patch")
    }

    fn headers(&self) -> axum::http::HeaderMap {
        let has = |method: &Method| self.methods.contains(method);
        let mut names = vec!["OPTIONS"];
        if has(&Method::GET) {
            names.extend(["GET", "HEAD"]);
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            if let Some(known) = self.methods.iter().find(|known| **known == method) {
                names.push(known.as_str());
            }
        }
        let value = |text: &str| HeaderValue::from_str(text).expect("methods and types are visible ASCII");
        let mut headers = axum::http::HeaderMap::new();
        headers.insert(header::ALLOW, value(&names.join(", ")));
        for (name, content) in &self.bodies {
            headers.insert(HeaderName::from_static(name), value(content));
        }
        headers
    }
}

/// An operation and its handler as `utoipa_axum::routes!` would make them of a declared one.
pub(super) fn described(
    path: &str,
    method: HttpMethod,
    operation: Operation,
    methods: MethodRouter<Arc<Api>>,
) -> UtoipaMethodRouter<Arc<Api>> {
    let mut paths = Paths::new();
    paths.paths.insert(path.to_owned(), PathItem::new(method, operation));
    (Vec::new(), paths, methods)
}

fn operations(item: &PathItem) -> Vec<(Method, &Operation)> {
    let all = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::DELETE, &item.delete),
        (Method::OPTIONS, &item.options),
        (Method::HEAD, &item.head),
        (Method::PATCH, &item.patch),
        (Method::TRACE, &item.trace),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?))).collect()
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.options,
        &mut item.head,
        &mut item.patch,
        &mut item.trace,
    ]
    .into_iter()
    .flatten()
}
