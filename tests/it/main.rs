//! Behaviour, one topic per file.

mod corpus;
mod tidy;
