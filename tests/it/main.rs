//! Behaviour, one topic per file.

mod corpus;
mod sim;
mod tidy;
