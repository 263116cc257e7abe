#![no_main]
//! Calls the body that `tests/it/corpus.rs` replays on stable.

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_tests::fuzzing::run("load_payload", data));
