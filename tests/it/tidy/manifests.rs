//! Every dependency has its reason beside it, and the purity bans of the engine stand.

use super::{Complaints, hold, text};

/// The bans that keep the engine a function of its inputs.
const ENGINE_BANS: [&str; 8] = [
    "std::time::Instant::now",
    "std::time::Instant::elapsed",
    "std::time::SystemTime::now",
    "std::thread::sleep",
    "std::thread::spawn",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::net::UdpSocket",
];

/// A line that names a dependency has a comment on the line directly above.
fn reasons(path: &str, text: &str) -> Complaints {
    let mut complaints = Vec::new();
    let (mut inside, mut depth, mut above) = (false, 0_usize, "");
    for (i, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        let opens_table = depth == 0 && trimmed.starts_with('[');
        if opens_table {
            inside = is_dependency_table(trimmed);
        }
        let one_table = opens_table && is_single_dependency(trimmed);
        let entry = inside && depth == 0 && !opens_table && !trimmed.is_empty() && !trimmed.starts_with('#');
        if (entry || one_table) && above.trim_start_matches('#').trim().len() < 5 {
            complaints.push(format!("{path}:{}: no reason above `{trimmed}`", i + 1));
        }
        if !trimmed.starts_with('#') && !opens_table {
            depth += trimmed.matches(['[', '{']).count();
            depth = depth.saturating_sub(trimmed.matches([']', '}']).count());
        }
        above = if trimmed.starts_with('#') { trimmed } else { "" };
    }
    complaints
}

/// `[dependencies]`, `[dev-dependencies]`, `[workspace.dependencies]`, `[target.'…'.dependencies]`.
fn is_dependency_table(header: &str) -> bool {
    header.trim_matches(['[', ']']).rsplit('.').next().is_some_and(|last| last.ends_with("dependencies"))
}

/// `[dependencies.serde]`.
fn is_single_dependency(header: &str) -> bool {
    header
        .trim_matches(['[', ']'])
        .split('.')
        .rev()
        .nth(1)
        .is_some_and(|table| table.ends_with("dependencies"))
}

fn missing_bans(clippy: &str) -> Complaints {
    ENGINE_BANS
        .iter()
        .filter(|path| !clippy.contains(&format!("path = \"{path}\"")))
        .map(|path| format!("engine/clippy.toml does not ban {path}"))
        .collect()
}

/// The lints that the conventions name are on, and every member takes them.
fn missing_lints(manifest: &str) -> Complaints {
    let lints =
        ["unsafe_code", "missing_docs", "unreachable_pub", "too_many_lines", "unwrap_used", "print_stdout"];
    lints
        .iter()
        .filter(|lint| !manifest.lines().any(|line| line.starts_with(&format!("{lint} = "))))
        .map(|lint| format!("Cargo.toml does not set {lint}"))
        .collect()
}

#[test]
fn every_dependency_has_its_reason() {
    hold(&["Cargo.toml"], reasons);
    for bad in [
        "[dependencies]\nserde = \"1\"\n",
        "[dependencies]\n# It serialises.\nserde = \"1\"\ntoml = \"1\"\n",
        "[target.'cfg(unix)'.dependencies]\n\nlibc = \"1\"\n",
        "[workspace.dependencies]\n# It serialises.\n\nserde = \"1\"\n",
        "[dependencies.serde]\nversion = \"1\"\n",
    ] {
        assert_eq!(reasons("bad.toml", bad).len(), 1, "{bad}");
    }
    let good = "[package]\nname = \"a\"\n[dependencies]\n# It serialises.\nserde = { version = \"1\", features = [\n  \"derive\",\n] }\n";
    assert!(reasons("good.toml", good).is_empty());
}

#[test]
fn the_engine_stays_pure() {
    let clippy = text("engine/clippy.toml");
    assert_eq!(missing_bans(&clippy), Complaints::new());
    assert_eq!(missing_bans(&clippy.replace("std::time::Instant::now", "std::time::Instant::new")).len(), 1);
}

#[test]
fn the_lints_stand() {
    let manifest = text("Cargo.toml");
    assert_eq!(missing_lints(&manifest), Complaints::new());
    assert_eq!(missing_lints(&manifest.replace("unwrap_used = ", "unwrap_used_not = ")).len(), 1);
    hold(&["/Cargo.toml"], |path, text| {
        let takes = text.contains("[lints]\nworkspace = true") || path.starts_with("fuzz/");
        if takes { Vec::new() } else { vec![format!("{path}: no [lints] workspace = true")] }
    });
}
