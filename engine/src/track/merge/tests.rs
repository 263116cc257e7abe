//! Two legs of one publisher.

mod holds;
mod hostile;
mod proofs;
mod returns;
mod rules;
mod stage;
mod switches;
