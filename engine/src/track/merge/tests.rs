//! Two legs of one publisher.

mod holds;
mod returns;
mod rules;
mod stage;
mod switches;
