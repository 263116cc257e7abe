//! The OpenAPI document around the operations: what it is of, and what all operations have in common.
//!
//! What is the same for many (path parameters, refusals, the security of a policy) is written here once and added
//! to each operation, so that a handler declares what is its own.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::response::Response;
use utoipa::openapi::{OpenApi, RefOr};

use super::problem::Code;
use super::route::Policy;

/// The document without its paths.
pub(super) fn skeleton() -> OpenApi {
    declared(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "relayd",
            "version": "1.0.0",
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "tags": [
            { "name": "sessions", "description": "Create sessions, look at them, pause, resume, change and end them." },
            { "name": "media", "description": "Speak (WHIP, RFC 9725) and listen (WHEP): an SDP offer in, an answer out." },
            { "name": "legs", "description": "One connection of a speaker or listener: trickle ICE, ICE restart, end." },
            { "name": "events", "description": "What happens in a session, as it happens." },
            { "name": "pages", "description": "Pages for people, and what they load." },
        ],
        "paths": {},
        "components": {
            "schemas": { "Problem": problem() },
            "headers": {
                "X-Request-Id": {
                    "description": "Names this request in the logs of the relay and in problem documents.",
                    "schema": { "type": "string" },
                },
                "Retry-After": {
                    "description": "Seconds until it is worth to try again; different for each client, so that not all come at once.",
                    "schema": { "type": "integer", "minimum": 1 },
                },
                "WWW-Authenticate": {
                    "description": "What was wrong with the token, as RFC 6750 has it.",
                    "schema": { "type": "string" },
                    "example": "Bearer realm=\"relay\", error=\"invalid_token\"",
                },
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A JSON Web Token whose `relay` claim grants a role. A relay in open mode asks nobody for one.",
                },
            },
        },
    }))
}

/// Adds to an operation what its path, its policy and its refusals say.
pub(super) fn complete(operation: &mut Operation, path: &str, policy: Policy, refusals: &[Code]) {
    let known = operation.parameters.get_or_insert_default();
    let listed = |known: &[RefOr<Parameter>], name: &str| {
        known.iter().any(|known| matches!(known, RefOr::T(known) if known.name == name))
    };
    for name in parameters(path) {
        if !listed(known, name) {
            known.push(RefOr::T(parameter(name)));
        }
    }
    if known.is_empty() {
        operation.parameters = None;
    }
    operation.security = security(policy).map(declared);
    let codes = refusals.iter().chain(of_policy(policy)).chain(EVERYWHERE);
    let of_path: &[Code] = if path.contains('{') { &[Code::RouteNotFound] } else { &[] };
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes.chain(of_path) {
        let same = by_status.entry(code.status().as_u16()).or_default();
        if !same.contains(code) {
            same.push(*code);
        }
    }
    let responses = &mut operation.responses.responses;
    for (status, codes) in by_status {
        responses.entry(status.to_string()).or_insert_with(|| RefOr::T(refusal(status, &codes)));
    }
    let id = || RefOr::Ref(declared(json!({ "$ref": "#/components/headers/X-Request-Id" })));
    for response in responses.values_mut() {
        if let RefOr::T(response) = response {
            response.headers.entry("X-Request-Id".to_owned()).or_insert_with(id);
        }
    }
}

/// The OPTIONS operation that every path has which takes more than GET.
pub(super) fn options(path: &str, takes_posts: bool, takes_patches: bool) -> Operation {
    let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let mut headers = json!({
        "Allow": text("The methods of this path."),
        "X-Request-Id": { "$ref": "#/components/headers/X-Request-Id" },
    });
    if takes_posts {
        headers["Accept-Post"] = text("The content type that POST takes.");
    }
    if takes_patches {
        headers["Accept-Patch"] = text("The content type that PATCH takes.");
    }
    let mut operation: Operation = declared(json!({
        "operationId": format!("options{}", path.replace(['/', '{', '}'], "_").replace("__", "_").trim_end_matches('_')),
        "summary": "What this path takes",
        "responses": { "204": { "description": "In the headers.", "headers": headers } },
    }));
    complete(&mut operation, path, Policy::Public, &[Code::OriginNotAllowed]);
    operation
}

/// Something of the document, from its JSON.
pub(super) fn declared<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("this part of the document is well-formed")
}

fn parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn parameter(name: &str) -> Parameter {
    let (description, example) = match name {
        "session" => ("The session's id.", "golden-eagle-427"),
        "language" => ("A language of the session, as a BCP 47 tag, in any case.", "en"),
        "leg" => ("The connection's name: the last part of the `Location` that opened it.", EXAMPLE_LEG),
        _ => ("A file of the pages.", "style.css"),
    };
    declared(json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": description,
        "schema": { "type": "string" },
        "example": example,
    }))
}

fn security(policy: Policy) -> Option<Value> {
    match policy {
        Policy::Public | Policy::Events => None,
        Policy::Create | Policy::Manage | Policy::Publish => Some(json!([{ "token": [] }])),
        // Without a token where the session, or whoever opened the leg, had none.
        Policy::Read | Policy::Listen | Policy::Leg => Some(json!([{ "token": [] }, {}])),
    }
}

fn of_policy(policy: Policy) -> &'static [Code] {
    match policy {
        Policy::Public => &[],
        Policy::Events => &[Code::RateLimited, Code::SessionNotFound],
        Policy::Create => &[Code::Unauthorized, Code::Forbidden, Code::RateLimited, Code::OriginNotAllowed],
        Policy::Read => &[Code::Unauthorized, Code::Forbidden, Code::RateLimited, Code::SessionNotFound],
        Policy::Manage | Policy::Publish | Policy::Listen => &[
            Code::Unauthorized,
            Code::Forbidden,
            Code::OriginNotAllowed,
            Code::SessionNotFound,
            Code::SessionEnded,
            Code::RateLimited,
        ],
        Policy::Leg => &[
            Code::Unauthorized,
            Code::Forbidden,
            Code::OriginNotAllowed,
            Code::LegNotFound,
            Code::RateLimited,
        ],
    }
}

fn refusal(status: u16, codes: &[Code]) -> Response {
    let lines: Vec<String> =
        codes.iter().map(|code| format!("`{}`: {}.", code.code(), code.title())).collect();
    let mut headers = json!({});
    let mut add = |name: &str| headers[name] = json!({ "$ref": format!("#/components/headers/{name}") });
    if status == StatusCode::UNAUTHORIZED.as_u16() {
        add("WWW-Authenticate");
    }
    if codes.iter().any(|code| code.may_come_again()) {
        add("Retry-After");
    }
    let first = codes.first().expect("a status has a code");
    declared(json!({
        "description": lines.join(" "),
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": { "$ref": "#/components/schemas/Problem" },
                "example": {
                    "type": first.urn(),
                    "title": first.title(),
                    "status": status,
                    "detail": "what exactly, for people",
                    "code": first.code(),
                    "instance": "/v1/sessions/golden-eagle-427",
                    "requestId": "9f86d081884c7d65",
                },
            },
        },
    }))
}

fn problem() -> Value {
    let mut codes: Vec<&str> = Code::ALL.iter().map(|code| code.code()).collect();
    let mut types: Vec<String> = Code::ALL.iter().map(|code| code.urn()).collect();
    codes.sort_unstable();
    codes.dedup();
    types.sort_unstable();
    json!({
        "type": "object",
        "description": "What went wrong (RFC 9457). `code` and `type` are stable; `title` and `detail` are for people.",
        "required": ["type", "title", "status", "detail", "code", "requestId"],
        "properties": {
            "type": { "type": "string", "enum": types },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string" },
            "code": { "type": "string", "enum": codes },
            "instance": { "type": "string", "description": "The path of the request; absent where the relay was too full to read it." },
            "requestId": { "type": "string", "description": "As in the header `X-Request-Id`." },
            "field": { "type": "string", "description": "The field of the body or query that is meant." },
            "retryAfterMs": { "type": "integer", "minimum": 0, "description": "As `Retry-After`, in milliseconds." },
        },
    })
}

/// What every route may answer: a request without one good Host, one for another host, a relay that is full.
const EVERYWHERE: &[Code] = &[Code::InvalidMessage, Code::HostNotAllowed, Code::Capacity];

const EXAMPLE_LEG: &str = "0123456789abcdef0123456789abcdef";

const DESCRIPTION: &str = "\
One speaker, many listeners, live audio. HTTP for state, a WebSocket for events, WebRTC for media.\n\n\
Errors are problem documents (RFC 9457) with a stable `code`. Wherever waiting helps, an error has `Retry-After`. \
Every answer has an `X-Request-Id`. A header longer than the relay takes (`http.max_header`, 16 KiB) is answered \
431 and what is not HTTP 400, both without a body, before any of this applies.";
