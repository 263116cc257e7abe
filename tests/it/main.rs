//! Behaviour, one topic per file.

mod corpus;
mod offers;
mod sim;
mod tidy;
