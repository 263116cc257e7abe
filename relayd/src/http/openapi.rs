//! `GET /v1/openapi.json`: the API, told by the routes themselves; the same as `relayd openapi` prints.

use std::sync::OnceLock;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa_axum::routes;

use super::route::{Policy, Routes};

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    Routes::new().add(Policy::Public, routes!(openapi))
}

/// This document
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "pages",
    operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1.", content_type = "application/json", body = serde_json::Value))
)]
async fn openapi() -> impl IntoResponse {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(text).as_str();
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], text)
}

/// The document as text that ends with a line feed.
pub(crate) fn text() -> String {
    let document = serde_json::to_value(super::routes().document()).expect("the document is JSON");
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn document() -> Value {
        serde_json::from_str(&text()).unwrap()
    }

    /// Method and path of every operation.
    fn operations() -> Vec<(String, String, Value)> {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let each = |(path, item): (&String, &Value)| -> Vec<(String, String, Value)> {
            let operations = item.as_object().unwrap().iter();
            operations.map(|(method, it)| (method.to_uppercase(), path.clone(), it.clone())).collect()
        };
        paths.iter().flat_map(each).collect()
    }

    #[test]
    fn every_route_is_documented_and_every_documented_one_is_a_route() {
        let documented: BTreeSet<(String, String)> =
            operations().into_iter().map(|(method, path, _)| (method, path)).collect();
        let declared: BTreeSet<(String, String)> = super::super::routes()
            .declared()
            .into_iter()
            .map(|route| (route.method.to_string(), route.path))
            .collect();
        assert!(declared.is_subset(&documented), "{:?}", declared.difference(&documented));
        for (method, path) in documented.difference(&declared) {
            assert_eq!(method, "OPTIONS", "{path}");
            let others = declared.iter().filter(|(other, known)| known == path && other != "GET");
            assert_ne!(others.count(), 0, "{path} takes nothing but GET");
        }
    }

    #[test]
    fn nothing_is_routed_past_the_policies() {
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/http")).unwrap() {
            let path = entry.unwrap().path();
            let own = ["route.rs", "ops.rs", "openapi.rs"].iter().any(|name| path.ends_with(name));
            if own || path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for call in [".route(", ".route_service(", ".nest(", "Router::new()"] {
                assert!(!text.contains(call), "{}: {call} has no policy; use Routes::add", path.display());
            }
        }
    }

    #[test]
    fn every_operation_is_named_once_and_told_in_full() {
        let mut names = BTreeSet::new();
        for (method, path, operation) in operations() {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            assert!(names.insert(name.clone()), "{name} names two operations");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.keys().any(|status| status < &"400".to_owned()),
                "{method} {path} never succeeds"
            );
            for (status, response) in responses {
                assert_ne!(response["description"], "", "{method} {path} {status}");
                if status.as_str() >= "400" {
                    let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}");
                }
            }
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(parameters.iter().any(|known| known["name"] == part), "{method} {path}: {part}");
            }
        }
    }

    #[test]
    fn whoever_needs_a_token_is_told_so() {
        for route in super::super::routes().declared() {
            let document = document();
            let item = &document["paths"][&route.path][route.method.as_str().to_lowercase()];
            let needs = !matches!(route.policy, Policy::Public | Policy::Events);
            assert_eq!(item["security"].is_array(), needs, "{} {}", route.method, route.path);
            assert_eq!(item["responses"]["401"].is_object(), needs, "{} {}", route.method, route.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|field| references(field, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    #[test]
    fn the_committed_document_is_this_one() {
        let committed = include_str!("../../../docs/openapi.json");
        assert!(committed == text(), "docs/openapi.json is stale: relayd openapi > docs/openapi.json");
    }
}
