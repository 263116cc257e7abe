//! The committed fuzz corpora, replayed on stable: every property on every input, without a fuzzer.

use std::path::{Path, PathBuf};

use relay_tests::fuzzing;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus().join(target);
    let listed = std::fs::read_dir(&folder).unwrap_or_else(|_| panic!("{} has no seeds", folder.display()));
    listed
        .map(|entry| entry.expect("the folder can be listed").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("a seed can be read")))
        .collect()
}

#[test]
fn every_seed_holds_its_targets_property() {
    for (target, body) in fuzzing::TARGETS {
        let inputs = inputs(target);
        assert!(inputs.len() >= 3, "{target} has only {} seeds", inputs.len());
        for (path, data) in inputs {
            assert!(std::panic::catch_unwind(|| body(&data)).is_ok(), "{target} fails on {}", path.display());
        }
    }
}

#[test]
fn every_truncation_of_a_seed_holds_it_too() {
    for (target, body) in fuzzing::TARGETS {
        for (_, data) in inputs(target) {
            let data = &data[..data.len().min(1_500)];
            (0..data.len()).for_each(|length| body(&data[..length]));
        }
    }
}

#[test]
fn every_target_has_its_corpus_and_its_file() {
    let mut folders: Vec<String> = std::fs::read_dir(corpus())
        .expect("fuzz/corpus is committed")
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.is_dir())
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    folders.sort();
    let mut targets: Vec<&str> = fuzzing::TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(folders, targets);
    for target in targets {
        let file = corpus().join(format!("../fuzz_targets/{target}.rs"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("{} is missing", file.display()));
        assert!(text.contains(&format!("run(\"{target}\", data)")), "{} runs another body", file.display());
    }
}
