//! The operator's listener, and that the dashboard and the alerts ask for nothing that is not there.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::LISTENER;
use super::client::{JSON, Relay, until};

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ops").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every name of a metric of ours in a text.
fn named(text: &str) -> BTreeSet<String> {
    let part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !part(letter));
    words.filter(|word| word.starts_with("relayd_")).map(str::to_owned).collect()
}

/// The names of the samples of a scrape.
fn sampled(scrape: &str) -> BTreeSet<String> {
    let samples = scrape.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

/// A scrape after a session, a listener and some errors.
async fn scrape() -> String {
    let relay = Relay::start().await;
    let id = relay.session().await;
    assert_eq!(relay.join(&format!("/whep/{id}"), LISTENER).await.status, 201);
    assert_eq!(relay.send("GET", "/v1/sessions/silent-owl-123", &[], b"").await.status, 404);
    let scrape = relay.ops("/metrics").await;
    assert_eq!(scrape.status, 200);
    scrape.body
}

/// Everything that the panels of the dashboard ask for.
fn queries(dashboard: &Value) -> Vec<&str> {
    let panels = dashboard["panels"].as_array().expect("a dashboard has panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("a target has a query")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_dashboard_and_alerts_is_in_a_scrape() {
    let samples = sampled(&scrape().await);
    let dashboard: Value = serde_json::from_str(&document("grafana.json")).expect("the dashboard is JSON");
    let asked: BTreeSet<String> = queries(&dashboard).into_iter().flat_map(named).collect();
    let alerted = named(&document("alerts.yml"));
    assert!(asked.len() > 30 && alerted.len() > 10, "{} and {}", asked.len(), alerted.len());
    for shown in ["relayd_refreshes_total", "relayd_resumes_total", "relayd_listener_path_changes_total"] {
        assert!(asked.contains(shown), "{shown} is on no panel");
    }
    let absent: Vec<_> = asked.union(&alerted).filter(|name| !samples.contains(*name)).collect();
    assert!(absent.is_empty(), "not in a scrape: {absent:?}");
    let variables = dashboard["templating"]["list"].to_string();
    assert!(named(&variables).iter().all(|name| samples.contains(name)), "{variables}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_told_of_and_none_that_is_not_there() {
    let scrape = scrape().await;
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let metrics: BTreeSet<String> =
        types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(named(&document("README.md")), metrics);
    for metric in &metrics {
        assert!(scrape.contains(&format!("# HELP {metric} ")), "{metric} has no meaning");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_queue_has_a_depth_and_a_count_of_what_found_no_room() {
    let samples = sampled(&scrape().await);
    let document = document("README.md");
    let table = document.split("| what waits |").nth(1).expect("there is a table of queues");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 12, "{rows:?}");
    let there = |name: &String| samples.contains(name) || samples.contains(&format!("{name}_bucket"));
    for row in &rows {
        let [_, _, bound, depth, refused, _] = row[..] else { panic!("not four cells: {row:?}") };
        assert!(!bound.is_empty(), "{row:?}");
        let (depths, counts) = (named(depth), named(refused));
        assert!(depths.iter().chain(&counts).all(there), "{row:?}");
        assert!(depths.len() == 1 || depth.starts_with("none: "), "no depth: {row:?}");
        // What is not counted is waited for, kept, or never happens, and the row says so.
        let kept = ["never", "waited for", "instead"].iter().any(|word| refused.contains(word));
        assert!(!counts.is_empty() || kept, "no count: {row:?}");
    }
    // Whatever else tells how much waits belongs to one of them.
    let told = named(table.split("## Metrics").next().expect("a part before"));
    let waiting = samples.iter().filter(|name| name.ends_with("_depth"));
    let untold: Vec<_> = waiting.filter(|name| !told.contains(*name)).collect();
    assert!(untold.is_empty(), "in no row: {untold:?}");
}

#[test]
fn every_alert_says_what_it_is_and_what_to_do() {
    let alerts = document("alerts.yml");
    let rules: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() >= 10);
    for rule in rules {
        for part in ["expr: ", "severity: ", "summary: ", "description: "] {
            assert_eq!(rule.matches(part).count(), 1, "{part:?} in {rule}");
        }
        let advice = rule.split("description: ").nth(1).unwrap_or_default();
        assert!(advice.split_whitespace().count() > 15, "{advice}");
    }
}

#[test]
fn every_panel_of_the_dashboard_asks_for_something_under_a_number_of_its_own() {
    let dashboard: Value = serde_json::from_str(&document("grafana.json")).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{}", panel["title"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_who_is_connected_and_nothing_that_opens_a_connection() {
    let relay = Relay::start().await;
    let id = relay.session().await;
    let joined = relay.join(&format!("/whep/{id}"), LISTENER).await;
    let resource = joined.header("location").strip_prefix("/v1/legs/").unwrap().to_owned();
    let shown = relay.ops("/connections").await;
    let document = shown.json();
    let connections = document["connections"].as_array().unwrap();
    let listener = connections.iter().find(|connection| connection["kind"] == "listener").unwrap();
    assert_eq!((listener["peer"].as_str(), listener["sessionId"].as_str()), (Some("127.0.0.1"), Some(&*id)));
    assert_eq!(document["counts"]["listener"], serde_json::json!({ "live": 1, "opened": 1, "closed": 0 }));
    assert!(!shown.body.contains(&resource[8..]));
    assert_eq!(relay.send("DELETE", joined.header("location"), &[], b"").await.status, 200);
    let counts = relay.ops("/connections").await.json()["counts"]["listener"].clone();
    assert_eq!(counts, serde_json::json!({ "live": 0, "opened": 1, "closed": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_lags_refuses_new_work_and_nothing_else() {
    // Nobody is this punctual, so this relay is overloaded once it has been watched for long enough.
    let relay = Relay::with(|config| config.overload.join_lag = Duration::from_nanos(1)).await;
    let id = relay.session().await;
    let joined = relay.join(&format!("/whep/{id}"), LISTENER).await;
    assert_eq!(joined.status, 201);
    let lags = async || relay.ops("/metrics").await.body.contains("\nrelayd_overloaded 1\n");
    until("it notices", lags).await;
    for refused in [
        relay.send("POST", "/v1/sessions", &[JSON], br#"{"sourceLanguage":"en"}"#).await,
        relay.join(&format!("/whep/{id}"), LISTENER).await,
    ] {
        refused.problem(503, "CAPACITY");
        assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
    }
    assert_eq!(relay.send("GET", &format!("/v1/sessions/{id}"), &[], b"").await.status, 200);
    assert_eq!(relay.send("GET", joined.header("location"), &[], b"").await.status, 204);
    assert_eq!(relay.ops("/readyz").await.status, 200);
    assert_eq!(relay.send("DELETE", &format!("/v1/sessions/{id}"), &[], b"").await.status, 204);
}
