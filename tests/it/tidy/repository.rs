//! The files a visitor opens first say what they must.

use super::{Complaints, files, root, text};

/// The two commands of the first screen: start the relay, and hear it without a browser.
const COMMANDS: [&str; 2] =
    ["cargo run --release", "cargo run --release -- listen http://127.0.0.1:8080/whep/demo/en"];
const FIRST_SCREEN_LINES: usize = 45;

fn readme(text: &str) -> Complaints {
    let first_screen: Vec<&str> = text.lines().take(FIRST_SCREEN_LINES).map(str::trim).collect();
    COMMANDS
        .iter()
        .filter(|command| !first_screen.iter().any(|line| line.starts_with(**command)))
        .map(|command| format!("README.md: `{command}` is not on the first screen"))
        .collect()
}

/// Relative links and pictures of a Markdown file that lead nowhere.
fn dead_links(text: &str, exists: impl Fn(&str) -> bool) -> Complaints {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://") && !exists(target))
        .map(|target| format!("README.md: {target} does not exist"))
        .collect()
}

fn unreleased(changelog: &str) -> Complaints {
    let section =
        changelog.split("## [Unreleased]").nth(1).or_else(|| changelog.split("## Unreleased").nth(1));
    let entries = section
        .and_then(|rest| rest.split("\n## ").next())
        .map_or(0, |body| body.matches("\n* ").count() + body.matches("\n- ").count());
    if entries == 0 { vec!["CHANGELOG.md: Unreleased has no entry".to_owned()] } else { Vec::new() }
}

#[test]
fn the_first_screen_shows_the_two_commands() {
    let shown = text("README.md");
    assert_eq!(readme(&shown), Complaints::new());
    assert_eq!(readme("# relay\n\n    cargo build\n").len(), 2);
    assert_eq!(readme(&format!("{}{}", "\n".repeat(FIRST_SCREEN_LINES), shown)).len(), 2);
}

#[test]
fn the_readme_leads_somewhere() {
    assert_eq!(dead_links(&text("README.md"), |target| root().join(target).exists()), Complaints::new());
    assert_eq!(
        dead_links("[a](there.md#top) [b](gone.md) [c](https://x.y/z)", |target| target == "there.md").len(),
        1
    );
}

#[test]
fn the_changelog_tells_what_is_new() {
    assert_eq!(unreleased(&text("CHANGELOG.md")), Complaints::new());
    assert_eq!(unreleased("# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n* First.\n").len(), 1);
}

#[test]
fn the_files_of_a_project_are_there() {
    let present = files();
    for needed in
        ["LICENSE-MIT", "LICENSE-APACHE", "deny.toml", "ci.sh", ".ci/run", "rustfmt.toml", "Cargo.lock"]
    {
        assert!(present.iter().any(|path| path == needed), "{needed} is missing");
    }
}
