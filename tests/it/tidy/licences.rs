//! The licence of every crate in the graph is one that `deny.toml` allows.
//!
//! `cargo deny` says the same where it is installed; this needs only cargo.

use std::process::Command;

use super::{Complaints, root, text};

/// The strings of `allow = […]` under `[licenses]`.
fn allowed(deny: &str) -> Vec<String> {
    let section = deny.split("\n[licenses]").nth(1).expect("deny.toml has [licenses]");
    let list =
        section.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).expect("an allow list");
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether a licence expression can be met with allowed licences only. `/` is the old way to write `OR`.
fn permitted(expression: &str, allow: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&tokens, &mut at, allow);
    met && at == tokens.len()
}

fn any_of(tokens: &[&str], at: &mut usize, allow: &[String]) -> bool {
    let mut met = all_of(tokens, at, allow);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(tokens, at, allow);
    }
    met
}

fn all_of(tokens: &[&str], at: &mut usize, allow: &[String]) -> bool {
    let mut met = one(tokens, at, allow);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at, allow);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize, allow: &[String]) -> bool {
    let Some(first) = tokens.get(*at) else { return false };
    *at += 1;
    if *first == "(" {
        let met = any_of(tokens, at, allow);
        *at += 1; // the closing bracket
        return met;
    }
    let mut name = (*first).to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", tokens.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allow.contains(&name)
}

/// The crates that this host builds, with dev- and build-dependencies.
fn graph() -> Vec<serde_json::Value> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version=1", "--filter-platform"])
        .arg(host())
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(metadata.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&metadata.stderr));
    let parsed: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("metadata is JSON");
    parsed["packages"].as_array().expect("metadata lists packages").clone()
}

fn host() -> String {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let printed = String::from_utf8(version.stdout).expect("rustc prints UTF-8");
    printed.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host").to_owned()
}

fn refused(packages: &[serde_json::Value], allow: &[String]) -> Complaints {
    let mut complaints = Vec::new();
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none stated");
        if !permitted(licence, allow) {
            complaints.push(format!("{}: licence {licence} is not on deny.toml's list", package["name"]));
        }
    }
    complaints
}

#[test]
fn every_licence_in_the_graph_is_allowed() {
    let allow = allowed(&text("deny.toml"));
    let packages = graph();
    assert!(packages.len() > 50, "only {} packages found", packages.len());
    assert_eq!(refused(&packages, &allow), Complaints::new());
    assert!(!refused(&packages, &allow[1..]).is_empty(), "without {} something must be refused", allow[0]);
}

#[test]
fn licence_expressions_mean_what_they_say() {
    let allow = ["MIT".to_owned(), "ISC".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "Unlicense/MIT",
        "ISC AND (MIT OR GPL-2.0)",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(permitted(good, &allow), "{good}");
    }
    for bad in
        ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "", "ISC AND (GPL-2.0 OR LGPL-2.1)", "none stated"]
    {
        assert!(!permitted(bad, &allow), "{bad}");
    }
}
