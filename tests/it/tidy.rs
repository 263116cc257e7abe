//! Rules about the repository itself, held by tests: sizes, names, reasons, licences, words.
//!
//! Each rule is a pure function from text to complaints. It runs twice: over the tracked files, where
//! it must find nothing, and over a bad sample, where it must find the fault it is there for.

mod licences;
mod manifests;
mod repository;
mod scan;
mod source;
mod words;

use std::path::{Path, PathBuf};
use std::process::Command;

/// One broken rule: where, and what to do about it.
pub(crate) type Complaints = Vec<String>;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("tests/ lies in the repository")
}

/// Every file that git tracks or would track, relative to the root.
pub(crate) fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let found: Vec<String> =
        names.split_terminator('\0').filter(|path| root().join(path).is_file()).map(str::to_owned).collect();
    assert!(found.len() > 20, "only {} files found: the rules would pass on an empty list", found.len());
    found
}

/// The text of a file that [`files`] named; what is not UTF-8 is no source.
pub(crate) fn text(path: &str) -> String {
    String::from_utf8(std::fs::read(root().join(path)).expect("a listed file can be read"))
        .unwrap_or_default()
}

/// Runs a rule over every file whose name ends so, and fails with all complaints at once.
pub(crate) fn hold(endings: &[&str], rule: impl Fn(&str, &str) -> Complaints) {
    let chosen: Vec<String> =
        files().into_iter().filter(|path| endings.iter().any(|ending| path.ends_with(ending))).collect();
    assert!(!chosen.is_empty(), "no file ends with any of {endings:?}");
    let complaints: Complaints = chosen.iter().flat_map(|path| rule(path, &text(path))).collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}
