//! Live audio relay daemon.

fn main() {}
