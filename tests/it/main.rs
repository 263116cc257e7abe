//! Behaviour, one topic per file.

mod tidy;
