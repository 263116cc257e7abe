//! The pages, embedded: listen, speak, and the scripts and styles they load.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde_json::json;
use utoipa::openapi::HttpMethod;
use utoipa_axum::router::UtoipaMethodRouter;

use super::document::declared;
use super::problem::{Code, Problem};
use super::route::{Policy, Routes, described};
use super::{Api, Segments};

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    Routes::new()
        .add(Policy::Public, page("/", "pageRoot", "The listener's page", get(listen)))
        .add(Policy::Public, page("/listen", "pageListen", "The listener's page", get(listen)))
        .add(
            Policy::Public,
            page("/listen/{session}", "pageListenSession", "The listener's page", get(listen)),
        )
        .add(
            Policy::Public,
            page("/listen/{session}/{language}", "pageListenLanguage", "The listener's page", get(listen)),
        )
        .add(Policy::Public, page("/speak", "pageSpeak", "The speaker's page", get(speak)))
        .add(Policy::Public, page("/speak/{session}", "pageSpeakSession", "The speaker's page", get(speak)))
        .add(Policy::Public, page("/docs", "pageDocs", "The API, readable", get(docs)))
        .add(Policy::Public, page("/favicon.ico", "pageIcon", "The icon", get(icon)))
        .add(Policy::Public, page("/web/{file}", "pageFile", "A file of the pages", get(file)))
}

/// An embedded file with its operation.
fn page(
    path: &str,
    id: &str,
    summary: &str,
    methods: MethodRouter<Arc<Api>>,
) -> UtoipaMethodRouter<Arc<Api>> {
    let etag = json!({ "description": "For `If-None-Match`.", "schema": { "type": "string" } });
    let operation = declared(json!({
        "operationId": id,
        "tags": ["pages"],
        "summary": summary,
        "responses": {
            "200": { "description": "The file.", "headers": { "ETag": etag } },
            "304": { "description": "The browser has it." },
        },
    }));
    described(path, HttpMethod::Get, operation, methods)
}

async fn listen(headers: HeaderMap) -> Result<Response, Problem> {
    serve("listen.html", &headers)
}

async fn speak(headers: HeaderMap) -> Result<Response, Problem> {
    serve("speak.html", &headers)
}

async fn docs(headers: HeaderMap) -> Result<Response, Problem> {
    serve("docs.html", &headers)
}

async fn icon(headers: HeaderMap) -> Result<Response, Problem> {
    serve("icon.svg", &headers)
}

async fn file(Segments(name): Segments<String>, headers: HeaderMap) -> Result<Response, Problem> {
    serve(&name, &headers)
}

fn serve(name: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let found = FILES.iter().find(|(known, _)| *known == name);
    let missing = || Problem::new(Code::RouteNotFound, "there is no such file");
    let (name, content) = found.ok_or_else(missing)?;
    let etag = etag(content);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { (*content).into_response() };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    headers
        .insert(header::ETAG, HeaderValue::from_str(&etag).expect("hex digits in quotes are a header value"));
    for (header, value) in SECURITY {
        headers.insert(header, HeaderValue::from_static(value));
    }
    Ok(response)
}

fn etag(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("webmanifest" | "json") => "application/manifest+json",
        _ => "application/octet-stream",
    }
}

const SECURITY: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("permissions-policy"), "microphone=(self), camera=(), geolocation=()"),
];

macro_rules! embedded {
    ($($name:literal)*) => { &[$(($name, include_bytes!(concat!("../../web/", $name)).as_slice())),*] };
}

/// Every file of `relayd/web`.
const FILES: &[(&str, &[u8])] = embedded! {
    "api.js" "awake.js" "create.js" "docs.html" "docs.js" "events.js" "failure.js" "icon.svg" "languages.js" "link.js" "listen.html" "listen.js" "meter.js" "microphone.js" "overlap.js" "player.js" "refresh.js" "sdp.js" "session.js" "share.js" "speak.html" "speak.js" "splice-worker.js" "splice.js" "stats.js" "style.css" "token.js" "watch.js" "whip.js"
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/web")).unwrap();
        let mut there: Vec<String> =
            folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        let embedded: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(there, embedded);
    }

    #[test]
    fn every_file_has_a_content_type() {
        for (name, _) in FILES {
            assert_ne!(content_type(name), "application/octet-stream", "{name}");
        }
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = serve("listen.html", &HeaderMap::new()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(serve("listen.html", &headers).unwrap().status(), StatusCode::NOT_MODIFIED);
    }
}
